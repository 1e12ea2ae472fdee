"""Checks one clip of any data set."""

from collections.abc import Iterator

import numpy as np

from tramp_jax.data import images, landmark_checks, landmarks
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.frame_numbers import spell
from tramp_jax.data.problems import Problem
from tramp_jax.errors import UserError


def clip_problems(clip: Clip, with_landmarks: bool = True) -> Iterator[Problem]:
    """Yields every way in which a clip breaks the rules of ``Clip``; decodes the images.

    ``with_landmarks`` is False for a clip of frames only, whose landmarks are NaN.
    """
    place, count, name = place_of(clip.info), clip.info.num_frames, clip.info.id
    points = clip.landmarks
    try:
        landmarks.layout_of(points, clip.layout)
    except UserError as error:
        yield Problem("wrong_shape", f"{place}: {error}", name)
        return
    if len(points) != count:
        what = f"{place}: has landmarks for {len(points)} frames, but must have {count}"
        yield Problem("wrong_number_of_landmarks", what, name)
    finite = np.isfinite(points).all((1, 2))
    if with_landmarks and not finite.all():
        what = f"{place}: landmarks are NaN or infinite, first in {spell(finite.argmin())}; detect them again"
        yield Problem("landmarks_not_finite", what, name)
    for kind, what in landmark_checks.faults(points):
        yield Problem(kind, f"{place}: {what}", name)
    if clip.pixels is not None and (clip.pixels.shape != (count, 63, 3) or clip.pixels.dtype != np.uint8):
        what = f"{place}: colours are {clip.pixels.dtype} of shape {clip.pixels.shape}, not uint8 ({count}, 63, 3)"
        yield Problem("wrong_shape", what, name)
    if clip.frames is not None and len(clip.frames) != count:
        kind = "missing_frames" if len(clip.frames) < count else "extra_frames"
        yield Problem(kind, f"{place}: has {len(clip.frames)} frames, but must have {count}", name)
    for number, frame in enumerate(() if clip.frames is None else clip.frames):
        if isinstance(frame, bytes) and (fault := images.fault(frame)):
            yield Problem(fault[0], f"{place}, {spell(number)}: {fault[1]}", name)


def place_of(info: ClipInfo) -> str:
    """Where a clip comes from, for messages."""
    return f"{info.source} (clip {info.id})" if info.source else f"clip {info.id}"
