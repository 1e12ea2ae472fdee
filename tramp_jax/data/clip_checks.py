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

    The landmarks of a clip of frames only are NaN, and not checked if ``with_landmarks`` is False. ``with_values``
    checks where the landmarks are, and decodes the images.
    """
    for kind, what in _faults(clip, with_landmarks, with_values):
        yield Problem(kind, f"{clip.info.place}: {what}", clip.info.id)


def _faults(clip: Clip, with_landmarks: bool, with_values: bool) -> Iterator[tuple[str, str]]:
    count, points, pixels, depth, frames = clip.info.num_frames, clip.landmarks, clip.pixels, clip.depth, clip.frames
    try:
        landmarks.layout_of(points, clip.layout)
    except UserError as error:
        yield "wrong_shape", str(error)
        return
    if len(points) != count:
        yield "wrong_number_of_landmarks", f"has landmarks for {len(points)} frames, but must have {count}"
    if not len(points):
        yield "wrong_number_of_landmarks", "has no frames"
        return
    finite = np.isfinite(points).all((1, 2))
    if with_landmarks and not finite.all():
        what = f"landmarks are NaN or infinite, first in {spell(finite.argmin())}; detect them again"
        yield "landmarks_not_finite", what
    if pixels is not None and (pixels.shape != (count, 63, 3) or pixels.dtype != np.uint8):
        yield "wrong_shape", f"colours are {pixels.dtype} of shape {pixels.shape}, not uint8 ({count}, 63, 3)"
    if depth is not None and depth.shape != points.shape[:2]:
        yield "wrong_shape", f"depth has shape {depth.shape}, not {points.shape[:2]}"
    if frames is not None and len(frames) != count:
        kind = "missing_frames" if len(frames) < count else "extra_frames"
        yield kind, f"has {len(frames)} frames, but must have {count}"
    if isinstance(frames, np.ndarray) and frames.shape[1:] != (CROP, CROP, 3):
        yield "wrong_shape", f"frames have shape {frames.shape}, not (n, {CROP}, {CROP}, 3)"
    if not 0 < clip.fps < math.inf:
        yield "no_frame_rate", f"fps is {clip.fps}; it must be above 0"
    if not with_values:
        return
    yield from landmark_checks.faults(points)
    for number, frame in enumerate(() if frames is None else frames):
        if isinstance(frame, bytes) and (fault := images.fault(frame)):
            yield fault.kind, f"{spell(number)} {fault}"
