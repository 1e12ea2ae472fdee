"""What the scores of a model mean: the scale of its data set, or that of the clips that it was trained on."""

import math

from ml_collections import ConfigDict

from tramp_jax.evidence.record import Scale
from tramp_jax.trained_on import TrainedOn

_KNOWN = {
    "pfed5": Scale(),
    "synthetic": Scale("drawn severity", 0.0, 4.0, "none", "most"),
    "youtubepd": Scale("severity of Parkinson's disease", 0.0, 10.0, "none", "most"),
}


def scale_of(config: ConfigDict, trained_on: TrainedOn | None, score: float) -> Scale:
    """The scale of a model's scores.

    Args:
      config: the model's.
      trained_on: its data; None where an older run does not say.
      score: one of its scores, whose own whole numbers serve for want of better.
    """
    if (known := _KNOWN.get(config.data.name)) is not None:
        return known
    name = config.data.target or "score"
    if trained_on is not None:
        return Scale(name, trained_on.low, trained_on.high, "lowest rated", "highest rated")
    return Scale(name, min(0.0, math.floor(score)), max(4.0, math.ceil(score)), "low", "high")
