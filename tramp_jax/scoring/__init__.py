"""Scores videos, with intervals and the evidence for a report. See docs/scoring.md."""

from tramp_jax.scoring.scorer import Scored, Scorer

__all__ = ["Scored", "Scorer"]
