"""Warnings about a clip unlike those that a model was trained on, and about an interval that says little."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from tramp_jax.batches.view import View, distinct_frames
from tramp_jax.data import datasets
from tramp_jax.data.clips import Clip
from tramp_jax.models import reads_trajectories
from tramp_jax.scoring.calibration import Calibration
from tramp_jax.scoring.members import Member

OTHER_RATE = 0.1  # a frame rate that differs by more than this share shows motion at the wrong speed
_WIDE = 0.75  # share of the scale; wider intervals get a warning


def frames_used(config: ConfigDict, n: int) -> int:
    """How many of a clip's n frames the trajectory stream, or else the frame stream, reads."""
    view = View.of(config, n)
    return len(distinct_frames(view.trajectory if reads_trajectories(config.model) else view.frames))


def about_clip(member: Member, clip: Clip, source: str) -> Iterator[str]:
    """Yields how a clip differs from what the model was trained on. ``source`` is the name of the landmark source."""
    config, data, n = member.config, member.trained_on, len(clip.landmarks)
    expression = clip.info.expression
    used = frames_used(config, n)
    if reads_trajectories(config.model) and used < n and not config.data.still:
        yield (
            f"the model reads trajectories of only the last {used} of {n} frames ({used / clip.fps:.1f} of "
            f"{n / clip.fps:.1f} s): cut the video to the expression"
        )
    if data is not None and abs(clip.fps / data.fps - 1) > OTHER_RATE:
        yield (
            f"the clip has {clip.fps:g} frames per second, but the model was trained on {data.fps:g}: it sees motion "
            "at the wrong speed"
        )
    if member.expressions and expression and expression not in member.expressions:
        yield f"the model was trained on {', '.join(member.expressions)}, not on {expression}"
    facts = data or datasets.facts(config.data.name)
    unknown = source == f"layout {clip.layout}" and data is not None and clip.layout in data.layouts
    if facts.caveat:
        yield facts.caveat
    if facts.landmark_source and not (unknown or any(name in source for name in facts.landmark_source.split(", "))):
        yield (
            f"the model was trained on landmarks from {facts.landmark_source}, but these are from {source}: they "
            "differ systematically (docs/preprocess.md)"
        )
    elif not (facts.landmark_source or facts.caveat) and data is not None and clip.layout not in data.layouts:
        yield (
            f"the model was trained on landmarks in layout {', '.join(data.layouts)}, but these are in {clip.layout}, "
            "from another source: they differ systematically (docs/preprocess.md)"
        )


def about_width(calibration: Calibration, width: float) -> Iterator[str]:
    """Yields a warning if an interval of this width covers most of the scale."""
    scale = calibration.high - calibration.low
    if width > _WIDE * scale:
        yield f"the interval covers {width / scale:.0%} of the scale, so the score says little"
