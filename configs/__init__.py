"""Recipes, one per file; each derives from ``tramp_jax.config.base``."""
