"""What a report is made of: a scored clip, its evidence, and where all of it comes from."""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import pathlib
import platform
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from tramp_jax import __version__
from tramp_jax.batches import view
from tramp_jax.data.clips import Clip
from tramp_jax.models import reads_frames, reads_trajectories
from tramp_jax.report.attribution import Attribution

# What must be known of a score to repeat it; the report shows every one, recorded or not.
PROVENANCE = {
    "file": "file",
    "sha256": "SHA-256 of the file",
    "frames_used": "frames used",
    "fps": "frames per second",
    "missing_ratio": "share of frames without a detected face",
    "landmark_source": "landmarks from",
    "model": "model",
    "checkpoint": "checkpoint",
    "config": "configuration",
    "versions": "versions",
    "date": "date",
}


@dataclasses.dataclass(frozen=True)
class Scale:
    """What a score means.

    Attributes:
      name: of the scale.
      low, high: its ends.
      low_means, high_means: in words.
    """

    name: str = "MDS-UPDRS"
    low: float = 0.0
    high: float = 4.0
    low_means: str = "normal"
    high_means: str = "severe"


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All that a report shows. What is None is left out of it, and its reason is given in place.

    Attributes:
      clip: that was scored; ``frames`` and ``pixels`` may be None.
      score: of the model.
      scale: that the score is on.
      interval: of the score, or None.
      interval_note: what the interval is (level and method), or why there is none.
      attribution: of the score, or None.
      attribution_note: why there is none.
      points: (n, 63, 2) points that motion is shown and measured on; None: relative to the tip of the nose, with the
        head's rotation in the plane and its changes of size taken out.
      interpolated: numbers of the frames whose landmarks were not measured but filled in.
      warnings: what a reader must know before believing the score.
      provenance: the keys of ``PROVENANCE``, see ``provenance``; others are shown after them under their own names.
    """

    clip: Clip
    score: float
    scale: Scale = Scale()
    interval: tuple[float, float] | None = None
    interval_note: str = "the model was not calibrated"
    attribution: Attribution | None = None
    attribution_note: str = "it was not asked for"
    points: np.ndarray | None = None
    interpolated: Sequence[int] = ()
    warnings: Sequence[str] = ()
    provenance: Mapping[str, object] = dataclasses.field(default_factory=dict)


def provenance(
    clip: Clip, config: ConfigDict, *, source: pathlib.Path | None = None, **known: object
) -> dict[str, object]:
    """What can be found out about where a score comes from, for ``Evidence.provenance``.

    Args:
      clip: that was scored.
      config: of the model.
      source: the file that the clip was made from; where it is one, its SHA-256 is taken.
      **known: further keys of ``PROVENANCE`` ("model", "checkpoint", "landmark_source", "missing_ratio") or others.
    """
    found: dict[str, object] = {
        "file": str(source) if source is not None else clip.info.source or clip.info.id,
        "frames_used": frames_used(config, len(clip.landmarks)),
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
    if source is not None and source.is_file():
        with source.open("rb") as file:
            found["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found | known


def frames_used(config: ConfigDict, n: int) -> str:
    """The frames of a clip of n frames that the model reads, in words."""
    words = view.describe(config, n)
    parts = []
    if reads_trajectories(config.model):
        parts.append(f"trajectory: {words['trajectory']}")
    if reads_frames(config.model):
        parts.append(f"pictures: {words['frames']}")
    return "; ".join(parts)
