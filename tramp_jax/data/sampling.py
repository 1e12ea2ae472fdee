"""Which frames a model sees of a clip: truncation, looping and uniform sampling, in NumPy with an explicit rng.

All functions take the clip's length n and return frame numbers; nothing here touches pixels.
"""

import numpy as np

from tramp_jax.data import landmarks
from tramp_jax.data.clips import Clip

TRUNCATIONS = ("random", "last")
CHANNELS = ("xyrgb", "xy", "rgb")


def trajectory_frames(n: int, length: int, truncation: str, rng: np.random.Generator | None) -> np.ndarray:
    """Frame numbers (length,) of a trajectory: a run of a long clip, or a short clip looped.

    Args:
      n: frames in the clip.
      length: T.
      truncation: which run of a longer clip is taken; testing uses the last one.
      rng: needed for "random".
    """
    if truncation not in TRUNCATIONS:
        raise ValueError(f"data.truncation is {truncation!r}; known: {', '.join(TRUNCATIONS)}")
    if n < length:
        return np.arange(length) % n
    if truncation == "last" or rng is None:
        return np.arange(n - length, n)
    start = rng.integers(n - length + 1)
    return np.arange(start, start + length)


def position(frames: np.ndarray, length: int) -> np.ndarray:
    """``index_t`` (T,) in float32: source frame numbers scaled so that 0..T-1 covers [-1, 1)."""
    return (2.0 * frames / length - 1.0).astype(np.float32)


def rgb_frames(n: int, count: int, rng: np.random.Generator | None) -> np.ndarray:
    """Frame numbers (count,) of the frame stream, in order of time.

    A clip of fewer than ``count`` frames loops. Of a longer one, testing (no rng) takes evenly spaced frames
    including both ends, and training a random subset.
    """
    if n < count:
        return np.arange(count) % n
    if rng is None:
        return np.linspace(0, n - 1, count).astype(int)
    return np.sort(rng.choice(n, count, replace=False))


def trajectory(clip: Clip, channels: str, first_frame_centring: bool) -> np.ndarray:
    """All frames of a clip's trajectory: (n, 63, C) float32, nose-centred pixels and/or RGB 0-255.

    Raises:
      ValueError: unknown ``channels``, or colours asked of a clip without frames.
    """
    if channels not in CHANNELS:
        raise ValueError(f"model.trajectory.channels is {channels!r}; known: {', '.join(CHANNELS)}")
    parts = []
    if "xy" in channels:
        points = landmarks.select(clip.landmarks, clip.layout)
        parts.append(landmarks.centre(points, landmarks.nose_tip(clip.landmarks, clip.layout), first_frame_centring))
    if "rgb" in channels:
        if clip.pixels is None:
            raise ValueError(
                f"clip {clip.info.id} has no colours under its landmarks; "
                'set model.trajectory.channels to "xy" for data of landmarks alone'
            )
        parts.append(clip.pixels.astype(np.float32))
    return np.concatenate(parts, axis=-1).astype(np.float32)
