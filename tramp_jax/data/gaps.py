"""Frames without a face: which are interpolated, which are cut off, and when a clip is refused."""

import numpy as np

from tramp_jax.data.frame_numbers import spell
from tramp_jax.errors import UserError

MAX_GAP = 5  # frames; the longest gap that is interpolated
MIN_SHARE = 0.5  # share of the frames that the face must span


def bridge(points: np.ndarray, found: np.ndarray, max_gap: int) -> tuple[slice, np.ndarray]:
    """Interpolates short gaps linearly, and cuts off the frames before the first face and after the last.

    Args:
      points: (n, P, 2) landmarks; those of frames without a face are ignored.
      found: (n,) bool, whether a frame shows the face.
      max_gap: the longest gap that is interpolated, in frames.

    Returns:
      The frames that remain, and their points.

    Raises:
      UserError: no_single_face.
    """
    seen = np.flatnonzero(found)
    if not len(seen):
        raise UserError("no_single_face", f"has no face in any of its {len(found)} frames")
    steps = np.diff(seen)
    if steps.max(initial=1) > max_gap + 1:
        lost = spell(seen[steps.argmax()] + 1)
        message = f"has no face for {steps.max() - 1} frames from {lost} on; at most {max_gap} are interpolated"
        raise UserError("no_single_face", f"{message}: cut the clip there")
    span = slice(int(seen[0]), int(seen[-1]) + 1)
    if span.stop - span.start < MIN_SHARE * len(found):
        message = f"shows the face only in {spell(range(span.start, span.stop))} of {len(found)}; cut the clip"
        raise UserError("no_single_face", message)
    filled = interpolated(points.reshape(len(points), -1), seen, np.arange(span.start, span.stop))
    return span, filled.reshape(-1, *points.shape[1:])


def interpolated(values: np.ndarray, seen: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Values (n, D) at ``frames`` (m,), interpolated linearly from those of the frames ``seen``: (m, D)."""
    return np.stack([np.interp(frames, seen, column[seen]) for column in values.T], axis=1)
