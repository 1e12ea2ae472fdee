"""Checks one clip of any data set."""

import math
from collections.abc import Iterator

import numpy as np

from tramp_jax.data import images, landmark_checks, landmarks
from tramp_jax.data.clips import Clip
from tramp_jax.data.frame_numbers import spell
from tramp_jax.data.landmark_checks import CROP
from tramp_jax.data.problems import Problem
from tramp_jax.errors import UserError


def clip_problems(clip: Clip, with_landmarks: bool = True, with_values: bool = True) -> Iterator[Problem]:
    """Yields every way in which a clip breaks the rules of ``Clip``.

    Args:
      clip: the clip.
      with_landmarks: False for a clip of frames only, whose landmarks are NaN.
      with_values: whether to check where the landmarks are, and to decode the images.
    """
    place, count, name = clip.info.place, clip.info.num_frames, clip.info.id
    points, pixels, depth, frames = clip.landmarks, clip.pixels, clip.depth, clip.frames
    try:
        landmarks.layout_of(points, clip.layout)
    except UserError as error:
        yield Problem("wrong_shape", f"{place}: {error}", name)
        return
    if len(points) != count:
        what = f"{place}: has landmarks for {len(points)} frames, but must have {count}"
        yield Problem("wrong_number_of_landmarks", what, name)
    if not len(points):
        yield Problem("wrong_number_of_landmarks", f"{place}: has no frames", name)
        return
    finite = np.isfinite(points).all((1, 2))
    if with_landmarks and not finite.all():
        what = f"{place}: landmarks are NaN or infinite, first in {spell(finite.argmin())}; detect them again"
        yield Problem("landmarks_not_finite", what, name)
    if pixels is not None and (pixels.shape != (count, 63, 3) or pixels.dtype != np.uint8):
        what = f"{place}: colours are {pixels.dtype} of shape {pixels.shape}, not uint8 ({count}, 63, 3)"
        yield Problem("wrong_shape", what, name)
    if depth is not None and depth.shape != points.shape[:2]:
        yield Problem("wrong_shape", f"{place}: depth has shape {depth.shape}, not {points.shape[:2]}", name)
    if frames is not None and len(frames) != count:
        kind = "missing_frames" if len(frames) < count else "extra_frames"
        yield Problem(kind, f"{place}: has {len(frames)} frames, but must have {count}", name)
    if isinstance(frames, np.ndarray) and frames.shape[1:] != (CROP, CROP, 3):
        yield Problem("wrong_shape", f"{place}: frames have shape {frames.shape}, not (n, {CROP}, {CROP}, 3)", name)
    if not 0 < clip.fps < math.inf:
        yield Problem("no_frame_rate", f"{place}: fps is {clip.fps}; it must be above 0", name)
    if not with_values:
        return
    for kind, what in landmark_checks.faults(points):
        yield Problem(kind, f"{place}: {what}", name)
    for number, frame in enumerate(() if frames is None else frames):
        if isinstance(frame, bytes) and (fault := images.fault(frame)):
            yield Problem(fault.kind, f"{place}, {spell(number)}: {fault}", name)
