"""A person's video -> a score with its interval and evidence. See docs/scoring.md."""

from tramp_jax.scoring.scorer import Scored, Scorer

__all__ = ["Scored", "Scorer"]
