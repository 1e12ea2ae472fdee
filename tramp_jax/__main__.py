"""``python -m tramp_jax`` runs the program ``tramp-jax``."""

from tramp_jax.cli import program

if __name__ == "__main__":
    program()
