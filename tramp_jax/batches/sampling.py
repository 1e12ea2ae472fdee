"""Which frames a model sees: truncation of long clips, padding of short ones, with explicit random choices.

A clip shorter than a stream needs is padded, in both streams alike (``data.padding``):

| padding | frame i of the T frames that the model sees | f in ``index_t`` = 2·f/T − 1 |
|---|---|---|
| "loop" (as published) | frame i mod n | i mod n, as published |
| "zero" | frame i, from i = n on zeros of the model's input | i |
| "repeat" | frame i, from i = n on the last one | i |
| "spline" | the clip at time i·(n − 1)/(T − 1), through a cubic spline; of the images the nearest | i |

Only a loop begins anew; the other paddings make one longer clip, whose frames are numbered to its end.
"""

from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline

from tramp_jax.batches.draws import FRAMES, TRAJECTORY, Draw
from tramp_jax.data import head_motion, landmarks
from tramp_jax.data.clips import Clip

TRUNCATIONS = ("random", "last")
PADDINGS = ("loop", "zero", "repeat", "spline")
FRAME_CHOICES = ("random", "consecutive", "uniform")
CHANNELS = ("xyrgb", "xy", "rgb")

# In place of a source frame's number: a frame of zeros.
NO_FRAME = -1


def trajectory_frames(n: int, length: int, truncation: str, draw: Draw | None, padding: str = "loop") -> np.ndarray:
    """Frame numbers (length,) of a trajectory: a run of a long clip, or a short clip padded.

    Args:
      n: frames in the clip.
      length: T.
      truncation: which run of a longer clip is taken; testing uses the last one.
      draw: needed for "random"; None when testing.
      padding: of a shorter clip. The numbers refer to what ``extend`` makes of it; n and more are padding.

    Raises:
      ValueError: unknown ``truncation`` or ``padding``.
    """
    _check("data.truncation", truncation, TRUNCATIONS)
    _check("data.padding", padding, PADDINGS)
    if n < length:
        return np.arange(length) % n if padding == "loop" else np.arange(length)
    if truncation == "last" or draw is None:
        return np.arange(n - length, n)
    return draw.run(TRAJECTORY, n, length)


def position(frames: np.ndarray, length: int) -> np.ndarray:
    """``index_t`` (T,) in float32: frame numbers scaled so that 0..T-1 covers [-1, 1)."""
    return (2.0 * frames / length - 1.0).astype(np.float32)


def extend(whole: np.ndarray, length: int, padding: str, channels: str) -> np.ndarray:
    """A trajectory in which all numbers of ``trajectory_frames`` exist.

    A spline passes through the first and the last frame; colours that it carries beyond 0-255 are cut off there.

    Args:
      whole: (n, 63, C) the whole clip, see ``trajectory``.
      length: T.
      padding: of a clip with n < T; "loop" and longer clips need none.
      channels: what the C channels are.

    Returns:
      (max(n, T), 63, C), or ``whole`` itself where nothing is missing.

    Raises:
      ValueError: unknown ``padding``.
    """
    _check("data.padding", padding, PADDINGS)
    n = len(whole)
    if n >= length or padding == "loop":
        return whole
    if padding == "zero":
        return np.concatenate([whole, np.zeros_like(whole, shape=(length - n, *whole.shape[1:]))])
    if padding == "repeat" or n == 1:
        return np.concatenate([whole, np.repeat(whole[-1:], length - n, axis=0)])
    stretched = CubicSpline(np.arange(n), whole)(np.linspace(0, n - 1, length))
    if "rgb" in channels:
        colours = stretched[..., channels.index("rgb") :]
        np.clip(colours, 0, 255, out=colours)
    return stretched.astype(whole.dtype)


def sources(frames: np.ndarray, n: int, length: int, padding: str) -> np.ndarray:
    """Where in the clip of n frames the frames of the padded one come from.

    Args:
      frames: numbers in the clip padded to ``length``, as ``trajectory_frames`` gives them.
      n: frames in the clip; with ``length`` or more there is no padding.
      length: of the padded clip.
      padding: one of ``PADDINGS``.

    Returns:
      the source frame of each, ``NO_FRAME`` for zeros, and of a spline the nearest one.

    Raises:
      ValueError: unknown ``padding``.
    """
    _check("data.padding", padding, PADDINGS)
    if n >= length or padding == "loop":
        return frames
    if padding == "zero":
        return np.where(frames < n, frames, NO_FRAME)
    if padding == "repeat":
        return np.minimum(frames, n - 1)
    return np.rint(frames * (n - 1) / (length - 1)).astype(int)


def rgb_frames(n: int, count: int, draw: Draw | None, padding: str = "loop", choice: str = "random") -> np.ndarray:
    """Source frame numbers (count,) of the frame stream, in order of time; ``NO_FRAME`` where there is none.

    A clip of fewer than ``count`` frames is padded. Of a longer one, testing takes evenly spaced frames including
    both ends.

    Args:
      n: frames in the clip.
      count: frames of the stream.
      draw: None when testing.
      padding: of a shorter clip, when training and when testing.
      choice: what training takes of a longer clip: "random" frames in order, a random run of "consecutive" ones, or
        "uniform" ones as in testing.

    Raises:
      ValueError: unknown ``padding`` or ``choice``.
    """
    _check("data.padding", padding, PADDINGS)
    _check("data.frame_choice", choice, FRAME_CHOICES)
    if n < count:
        return sources(np.arange(count) % n if padding == "loop" else np.arange(count), n, count, padding)
    if draw is None or choice == "uniform":
        return np.linspace(0, n - 1, count).astype(int)
    return drawn_frames(draw, n, count, choice, n)


def drawn_frames(draw: Draw, n: Any, count: int, choice: str, limit: int) -> Any:
    """What ``rgb_frames`` draws of long clips; also for several at once, on the device.

    Args:
      draw: of (...,) samples.
      n: frames in their clips, (...,); the outcome is of no meaning where they are fewer than ``count``.
      count: frames of the stream.
      choice: "random" or "consecutive".
      limit: no n is larger.

    Returns:
      (..., count) source frames.
    """
    if choice == "consecutive":
        return draw.run(FRAMES, n, count)
    return draw.subset(FRAMES, n, count, limit)


def trajectory(
    clip: Clip,
    channels: str,
    normalise: str = head_motion.NOSE,
    frontalise: bool = False,
) -> np.ndarray:
    """All frames of a clip's trajectory: (n, 63, C) float32, pixels free of head motion and/or RGB 0-255.

    Args:
      clip: of n frames.
      channels: one of ``CHANNELS``.
      normalise, frontalise: how head motion is taken out, see ``tramp_jax.data.head_motion``.

    Raises:
      ValueError: unknown ``channels`` or ``normalise``, or colours or depth asked of a clip that has none.
    """
    _check("model.trajectory.channels", channels, CHANNELS)
    parts: list[np.ndarray] = []
    if "xy" in channels:
        parts.append(head_motion.positions(clip, normalise, frontalise))
    if "rgb" in channels:
        if clip.pixels is None:
            raise ValueError(
                f"clip {clip.info.id} has no colours under its landmarks; "
                'set model.trajectory.channels to "xy" for data of landmarks alone'
            )
        parts.append(clip.pixels.astype(np.float32))
    return np.concatenate(parts, axis=-1).astype(np.float32)


def mirror(trajectories: Any) -> Any:
    """Trajectories (..., 63, C) of the clips seen in a mirror; the channels are known by their number C.

    Left and right points change places, and x, relative to the nose, changes its sign. Colours go with their points.
    Takes and returns arrays of NumPy or of JAX.

    Raises:
      ValueError: other points or channels than the method's.
    """
    *_, V, C = trajectories.shape
    widths = {len(channels): channels for channels in CHANNELS}
    if V != landmarks.NUM_LANDMARKS or C not in widths:
        raise ValueError(
            f"only trajectories (..., 63, C) of {', '.join(CHANNELS)} can be mirrored, not {trajectories.shape}"
        )
    signs = np.ones(C, np.float32)
    signs[: 1 if "xy" in widths[C] else 0] = -1
    return trajectories[..., landmarks.MIRROR, :] * signs


def _check(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{option} is {value!r}; known: {', '.join(known)}")
