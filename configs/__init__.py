"""One recipe a file; each derives from ``tramp_jax.config.base``."""
