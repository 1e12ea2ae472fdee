"""The contents of a report: a scored clip, the evidence for its score, and its provenance."""

import dataclasses
import datetime
import functools
import hashlib
import importlib.metadata
import pathlib
import platform
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from tramp_jax import __version__
from tramp_jax.batches import view
from tramp_jax.data import head_motion
from tramp_jax.data.clips import Clip
from tramp_jax.data.landmark_quality import Quality
from tramp_jax.data.source import RatingScale
from tramp_jax.report.attribution import Attribution

# What you need to repeat a score: key -> label. The report shows every one, recorded or not.
PROVENANCE = {
    "file": "file",
    "sha256": "SHA-256 of the file",
    "frames_used": "frames used",
    "fps": "frames per second",
    "missing_ratio": "frames without a detected face",
    "landmark_source": "landmark source",
    "model": "model",
    "checkpoint": "checkpoint",
    "config": "configuration",
    "versions": "versions",
    "date": "date",
}


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Everything a report shows. The report gives the reason for anything that is missing.

    For fields without a comment, see ``scoring.scorer.Scored``. If the score is withheld, nothing here gives it away.
    """

    clip: Clip  # the scored clip; ``frames`` and ``pixels`` may be None
    score: float
    scale: RatingScale = dataclasses.field(default_factory=RatingScale)  # the scale of the score
    interval: tuple[float, float] | None = None
    level: float | None = None
    ratings: tuple[float, ...] = ()
    withheld: str = ""
    outside: str = ""
    interval_note: str = "the model was not calibrated"  # level and method of the interval, or why there is none
    attribution: Attribution | None = None  # how movement changed the score, or None
    attribution_note: str = "not requested"  # why there is no attribution
    interpolated: Sequence[int] = ()
    quality: Quality | None = None
    warnings: Sequence[str] = ()
    # Values by the keys of ``PROVENANCE``; see ``provenance``. Other keys follow under their own names.
    provenance: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        shown = (self.interval, self.ratings, self.attribution)
        assert not self.withheld or not (np.isfinite(self.score) or any(shown)), "a withheld score would be given away"

    @functools.cached_property
    def points(self) -> np.ndarray:
        """(n, 63, 2) pixels from the nose tip, without the head's in-plane rotation and changes of size."""
        return head_motion.positions(self.clip, head_motion.SIMILARITY)


def provenance(clip: Clip, config: ConfigDict, **known: object) -> dict[str, object]:
    """Collects the provenance of a score for ``Evidence.provenance``.

    If the clip was made from a file, its SHA-256 is recorded. ``known`` are values that only the caller knows ("model",
    "checkpoint", "landmark_source", "missing_ratio", or others).
    """
    source = pathlib.Path(clip.info.source)
    found: dict[str, object] = {
        "file": clip.info.source or clip.info.id,
        "frames_used": view.describe(config, len(clip.landmarks)),
        "fps": f"{clip.fps:g}",
        "landmark_source": f"layout {clip.layout}",
        "config": config.name,
        "versions": ", ".join(
            [f"tramp_jax {__version__}"]
            + [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "numpy")]
            + [f"Python {platform.python_version()}"]
        ),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    if source.is_file():
        with source.open("rb") as file:
            found["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found | known
