"""What the scores of a model mean: the scale of its data set, or that of the clips that it was trained on."""

import math

from ml_collections import ConfigDict

from tramp_jax.report.record import Scale

_KNOWN = {
    "pfed5": Scale(),
    "synthetic": Scale("drawn severity", 0.0, 4.0, "none", "most"),
    "youtubepd": Scale("severity of Parkinson's disease", 0.0, 10.0, "none", "most"),
}


def scale_of(config: ConfigDict, ends: tuple[float, float] | None, score: float = 0.0) -> Scale:
    """The scale of a model's scores.

    Args:
      config: the model's.
      ends: lowest and highest score of its data; None where an older run does not say.
      score: one of its scores, whose own whole numbers serve for want of better.
    """
    if (known := _KNOWN.get(config.data.name)) is not None:
        return known
    name = config.data.target or "score"
    if ends is not None:
        return Scale(name, *ends, "lowest rated", "highest rated")
    return Scale(name, min(0.0, math.floor(score)), max(4.0, math.ceil(score)), "low", "high")
