"""TraMP-Former in JAX: score facial expressions in short videos from landmark trajectories and frames."""

__version__ = "0.1.0"
