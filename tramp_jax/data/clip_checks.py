"""Checks of one clip, whatever data set it came from."""

from collections.abc import Iterator

import numpy as np

from tramp_jax.data import clip_files, images, landmark_checks, landmarks
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.problems import Problem


def clip_problems(clip: Clip, with_landmarks: bool = True) -> Iterator[Problem]:
    """What contradicts ``clips.Clip`` in a clip of any data set; decodes its images.

    Args:
      clip: to look at.
      with_landmarks: False for a clip of frames alone, whose landmarks are NaN.
    """
    place, count, name = place_of(clip.info), clip.info.num_frames, clip.info.id
    points = clip.landmarks
    try:
        landmarks.layout_of(points, clip.layout)
    except ValueError as error:
        yield Problem("wrong_shape", f"{place}: {error}", name)
        return
    if len(points) != count:
        what = f"{place}: has landmarks of {len(points)} frames where {count} are announced"
        yield Problem("wrong_number_of_landmarks", what, name)
    finite = np.isfinite(points).all((1, 2))
    if with_landmarks and not finite.all():
        what = f"{place}: landmarks are no numbers, first in frame {finite.argmin()}; detect them anew"
        yield Problem("landmarks_not_finite", what, name)
    for kind, what in landmark_checks.faults(points, first=0):
        yield Problem(kind, f"{place}: {what}", name)
    if clip.pixels is not None and (clip.pixels.shape != (count, 63, 3) or clip.pixels.dtype != np.uint8):
        what = f"{place}: colours are {clip.pixels.dtype} of shape {clip.pixels.shape}, not uint8 ({count}, 63, 3)"
        yield Problem("wrong_shape", what, name)
    if clip.frames is not None and len(clip.frames) != count:
        kind = "missing_frames" if len(clip.frames) < count else "extra_frames"
        yield Problem(kind, f"{place}: has {len(clip.frames)} frames where {count} are announced", name)
    for number, frame in enumerate(() if clip.frames is None else clip.frames):
        if isinstance(frame, bytes) and (fault := images.fault(frame)):
            yield Problem(fault[0], f"{place}, frame {number}: {fault[1]}", name)


def few_frames(clip: Clip) -> tuple[bytes, ...]:
    """The first, the middle and the last frame, to tell whether two clips are the same; () where there are none."""
    frames = () if clip.frames is None else clip.frames
    return tuple(bytes(frames[index]) for index in clip_files.few_of(len(frames)))


def place_of(info: ClipInfo) -> str:
    """Where a clip is from, for a message."""
    return f"{info.source} (clip {info.id})" if info.source else f"clip {info.id}"
