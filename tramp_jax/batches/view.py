"""``View``: which frames of a clip the model sees, and in which order. All truncation and padding is here.

A clip that is too short for a stream is padded. These are the modes of ``data.padding`` and, for the frame stream, of
``data.frame_padding`` (paper, Table VIII), for a clip of n frames and a stream of T. A frame's number f gives its
``index_t`` = 2·f/T − 1.

| padding | frame at place i | its number f |
|---|---|---|
| "loop" (as published) | i mod n | i mod n, as published |
| "zero" | i; from i = n on, zeros of the model's input | i |
| "repeat" | i; from i = n on, the last frame | i |
| "spline" | a cubic spline through the clip at time i·(n − 1)/(T − 1); for images, the nearest frame | i |
| "reflect" | forwards, then backwards, and so on | the number of the clip's frame |

To add a mode, add a ``Padding`` to ``PADDINGS`` and its name to ``_PADDINGS`` in ``tramp_jax.config``.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from tramp_jax.batches.draws import FRAMES, TRAJECTORY, Draw
from tramp_jax.config import reads_frames, reads_trajectories

BLANK = -1  # a frame number that stands for zeros


class Padding(NamedTuple):
    """How a clip of n frames fills a stream of T > n frames."""

    # (n, T) -> (T,) frame at each place, or ``BLANK``; the nearest frame if places lie between frames.
    sources: Callable[[int, int], np.ndarray]
    words: str  # what happens to the clip, for the report
    # (trajectory (n, ...), T) -> (T, ...); None unless places lie between frames.
    interpolate: Callable[[np.ndarray, int], np.ndarray] | None = None
    # Whether ``index_t`` counts the clip's frames, and so repeats with them; otherwise, it counts places.
    repeats_numbers: bool = False

    @property
    def blank(self) -> bool:
        """Whether some frames are zeros."""
        return BLANK in self.sources(1, 2)


def _spline(whole: np.ndarray, length: int) -> np.ndarray:
    n = len(whole)
    if n == 1:
        return np.repeat(whole, length, axis=0)
    from scipy.interpolate import CubicSpline  # takes most of a second, and other paddings do not need it

    return CubicSpline(np.arange(n), whole)(np.linspace(0, n - 1, length)).astype(whole.dtype)


def _reflected(n: int, length: int) -> np.ndarray:
    period = max(2 * (n - 1), 1)
    place = np.arange(length) % period
    return np.minimum(place, period - place) if n > 1 else np.zeros(length, int)


PADDINGS = {
    "loop": Padding(lambda n, length: np.arange(length) % n, "repeated", repeats_numbers=True),
    "zero": Padding(
        lambda n, length: np.where(np.arange(length) < n, np.arange(length), BLANK), "filled up with zeros"
    ),
    "repeat": Padding(lambda n, length: np.minimum(np.arange(length), n - 1), "the last one repeated"),
    "spline": Padding(
        lambda n, length: np.rint(np.arange(length) * (n - 1) / (length - 1)).astype(int), "stretched", _spline
    ),
    "reflect": Padding(_reflected, "played back and forth", repeats_numbers=True),
}


def _frame_padding(config: ConfigDict) -> str:
    """The padding of the frame stream under a whole configuration, a key of ``PADDINGS``."""
    data = config.data
    return str(data.padding if data.frame_padding == "same" else data.frame_padding)


def blanks_frames(config: ConfigDict) -> bool:
    """Whether some places of the frame stream may be zeros."""
    return PADDINGS[_frame_padding(config)].blank


def extended(whole: np.ndarray, length: int, padding: str, channels: str) -> np.ndarray:
    """Pads the ``whole`` trajectory (n, V, C) of a clip, see ``trajectories.trajectory``, to (max(n, T), V, C).

    Clips of T or more frames, and those whose padding repeats frame numbers, are returned unchanged. Interpolated
    colours are clipped to 0-255. ``length`` is T, ``padding`` a key of ``PADDINGS``, and ``channels`` names the C
    channels, such as "xyrgb".
    """
    mode = PADDINGS[padding]
    if len(whole) >= length or mode.repeats_numbers:
        return whole
    if mode.interpolate is None:
        sources = mode.sources(len(whole), length)
        padded = whole[sources]
        padded[sources == BLANK] = 0
        return padded
    padded = mode.interpolate(whole, length)
    if "rgb" in channels:
        colours = padded[..., channels.index("rgb") :]
        np.clip(colours, 0, 255, out=colours)
    return padded


@dataclasses.dataclass(frozen=True)
class View:
    """The frames of a clip that each stream sees."""

    numbers: np.ndarray  # (T,) int, frame numbers in the padded clip (see ``extended``), which determine ``index_t``
    trajectory: np.ndarray  # (T,) int, the clip's frame at each place of the trajectory stream, or ``BLANK``
    frames: np.ndarray  # (F,) int, the clip's frame at each place of the frame stream, or ``BLANK``

    @classmethod
    def of(cls, config: ConfigDict, n: int, draw: Draw | None = None) -> "View":
        """The view of a clip.

        From a long clip, evaluation takes the last T frames for the trajectory stream, and evenly spaced ones, with
        both ends, for the frame stream. Training draws both, so it needs ``draw``. With ``data.still``, every place
        shows the first frame. ``config`` is the whole configuration, and ``n`` the number of frames in the clip.
        """
        T, F = config.model.trajectory.length, config.model.rgb.num_frames
        if config.data.still:
            return cls(*(np.zeros(count, int) for count in (T, T, F)))
        padding = config.data.padding
        numbers, frames = trajectory_numbers(n, T, padding), frame_sources(n, F, _frame_padding(config))
        if draw is not None:
            numbers = training_numbers(config, TRAJECTORY, draw, n, numbers, n)
            frames = training_numbers(config, FRAMES, draw, n, frames, n)
        return cls(numbers, trajectory_sources(numbers, n, T, padding), frames)


def distinct_frames(places: np.ndarray) -> np.ndarray:
    """The distinct frames of a stream (F,) in order, without blanks."""
    return np.unique(places[places != BLANK])


def describe(config: ConfigDict, n: int) -> str:
    """Describes, for the report, which of a clip's ``n`` frames each stream of the model reads in evaluation."""

    def stream(count: int, padding: str, of_long_clip: str) -> str:
        if config.data.still:
            return f"the first of {n}, held still"
        if n < count:
            return f"all {n}, {PADDINGS[padding].words} to {count}"
        return f"all {n}" if n == count else of_long_clip

    T, F = config.model.trajectory.length, config.model.rgb.num_frames
    parts = []
    if reads_trajectories(config.model):
        parts.append("trajectory: " + stream(T, config.data.padding, f"the last {T} of {n}"))
    if reads_frames(config.model):
        parts.append("pictures: " + stream(F, _frame_padding(config), f"{F} evenly spaced of {n}"))
    return "; ".join(parts)


def index_t(numbers: np.ndarray, length: int) -> np.ndarray:
    """``index_t`` (T,) float32: frame numbers scaled so that 0 to T - 1 cover [-1, 1)."""
    return (2.0 * numbers / length - 1.0).astype(np.float32)


def frame_times(n: int, length: int, padding: str, fps: float) -> np.ndarray:
    """The time (max(n, T),) of each frame of a padded clip (see ``extended``), in seconds from its start.

    If the padding repeats frame numbers, the times are (n,). With "zero" and "repeat", added frames have the time of
    the last one. ``n`` is the number of frames in the clip, ``length`` T, and ``padding`` a key of ``PADDINGS``.
    """
    mode = PADDINGS[padding]
    frames: np.ndarray = np.arange(n)
    if n < length and mode.interpolate:
        frames = np.linspace(0, n - 1, length)
    elif n < length and not mode.repeats_numbers:
        frames = np.maximum.accumulate(mode.sources(n, length))  # a blank has the time of the frame before it
    return (np.maximum(frames, 0) / fps).astype(np.float32)


def step_times(times: Any, numbers: Any) -> Any:
    """``Inputs.seconds`` (..., T) of trajectories, in NumPy or JAX, from the time and the number of each place's frame.

    It is the time since the frame at the place before; 0 if the two are not neighbouring frames.
    """
    xp: Any = jnp if isinstance(numbers, jax.Array) else np
    steps = xp.where(abs(xp.diff(numbers)) == 1, abs(xp.diff(times)), 0)
    return xp.concatenate([xp.zeros_like(times[..., :1]), steps.astype(times.dtype)], axis=-1)


def trajectory_numbers(n: int, length: int, padding: str = "loop") -> np.ndarray:
    """The numbers (T,) of the frames of the padded clip that evaluation reads: the last T, or all of a short clip.

    ``n`` is the number of frames in the clip, ``length`` T, and ``padding`` a key of ``PADDINGS``.
    """
    if n >= length:
        return np.arange(n - length, n)
    mode = PADDINGS[padding]
    return mode.sources(n, length) if mode.repeats_numbers else np.arange(length)


def trajectory_sources(numbers: np.ndarray, n: int, length: int, padding: str) -> np.ndarray:
    """The clip's frame (T,) behind each number (T,) of a frame of the padded clip, or ``BLANK``."""
    mode = PADDINGS[padding]
    return numbers if n >= length or mode.repeats_numbers else mode.sources(n, length)[numbers]


def frame_sources(n: int, count: int, padding: str = "loop") -> np.ndarray:
    """The clip's frame (F,) at each place of the frame stream in evaluation, or ``BLANK``.

    A clip shorter than F, ``count``, is padded; a longer one shows evenly spaced frames, with both ends. ``n`` is the
    number of frames in the clip, and ``padding`` a key of ``PADDINGS``.
    """
    if n < count:
        return PADDINGS[padding].sources(n, count)
    return np.linspace(0, n - 1, count).astype(int)


def training_numbers(config: ConfigDict, stream: int, draw: Draw, n: Any, fixed: Any, limit: int) -> Any:
    """The frame numbers of a stream in training, for one sample or (on the device) several: drawn if the clip is long.

    Args:
      config: the whole configuration.
      stream: ``draws.TRAJECTORY`` or ``draws.FRAMES``.
      draw: the random choices of (...,) samples.
      n: (...,) frames in their clips.
      fixed: (..., T) or (..., F), the numbers in evaluation; a clip that is too short to choose from keeps them.
      limit: an upper bound on n.
    """
    data, count = config.data, fixed.shape[-1]
    how = data.truncation if stream == TRAJECTORY else data.frame_choice
    if data.still or how in ("last", "uniform"):
        return fixed
    if stream == TRAJECTORY or how == "consecutive":
        drawn = draw.run(stream, n, count)
    else:
        drawn = draw.subset(stream, n, count, max(limit, count))
    xp: Any = jnp if isinstance(drawn, jax.Array) else np
    return xp.where(xp.asarray(n)[..., None] < count, fixed, drawn)
