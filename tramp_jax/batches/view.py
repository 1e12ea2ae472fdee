"""``View``: which frames of a clip the model sees, in which order. The one home of truncation, padding and windows.

A clip shorter than a stream needs is padded, both streams alike. The modes of ``data.padding`` (paper, Table VIII):

| padding | frame i of the T frames that the model sees | f in ``index_t`` = 2·f/T − 1 |
|---|---|---|
| "loop" (as published) | frame i mod n | i mod n, as published |
| "zero" | frame i; from i = n on, zeros of the model's input | i |
| "repeat" | frame i; from i = n on, the last frame | i |
| "spline" | the clip at time i·(n − 1)/(T − 1), through a cubic spline; for images, the nearest frame | i |

A new mode is one ``Padding`` in ``PADDINGS``.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from scipy.interpolate import CubicSpline

from tramp_jax.batches.draws import FRAMES, TRAJECTORY, Draw
from tramp_jax.errors import UserError

TRUNCATIONS = ("random", "last")
FRAME_CHOICES = ("random", "consecutive", "uniform")

BLANK = -1  # in place of a source frame's number: a frame of zeros


class Padding(NamedTuple):
    """How a clip of n frames fills a stream of T > n frames.

    Attributes:
      sources: (n, T) -> (T,) source frame at each place, ``BLANK`` for zeros; for images the nearest frame.
      extend: (trajectory (n, ...), T) -> (T, ...) the padded trajectory; None if ``sources`` says it all.
      numbers_sources: whether ``index_t`` counts source frames, so that it starts again with each loop; otherwise it
        counts places.
      blank: whether some frames are zeros.
      words: what happens to the clip, for the report.
    """

    sources: Callable[[int, int], np.ndarray]
    extend: Callable[[np.ndarray, int], np.ndarray] | None
    numbers_sources: bool = False
    blank: bool = False
    words: str = ""


def _zeros(whole: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([whole, np.zeros_like(whole, shape=(length - len(whole), *whole.shape[1:]))])


def _spline(whole: np.ndarray, length: int) -> np.ndarray:
    n = len(whole)
    if n == 1:
        return np.repeat(whole, length, axis=0)
    return CubicSpline(np.arange(n), whole)(np.linspace(0, n - 1, length)).astype(whole.dtype)


PADDINGS = {
    "loop": Padding(
        lambda n, length: np.arange(length) % n,
        None,
        numbers_sources=True,
        words="repeated",
    ),
    "zero": Padding(
        lambda n, length: np.where(np.arange(length) < n, np.arange(length), BLANK),
        _zeros,
        blank=True,
        words="filled up with zeros",
    ),
    "repeat": Padding(
        lambda n, length: np.minimum(np.arange(length), n - 1),
        lambda whole, length: whole[np.minimum(np.arange(length), len(whole) - 1)],
        words="the last one repeated",
    ),
    "spline": Padding(
        lambda n, length: np.rint(np.arange(length) * (n - 1) / (length - 1)).astype(int),
        _spline,
        words="stretched",
    ),
}


def padding_of(config: ConfigDict) -> Padding:
    """The padding of a whole configuration.

    Raises:
      UserError: unknown ``data.padding``.
    """
    return PADDINGS[_known("data.padding", config.data.padding, tuple(PADDINGS))]


def extended(whole: np.ndarray, length: int, padding: str, channels: str) -> np.ndarray:
    """A clip's trajectory (n, V, C), padded if it is shorter than the model's.

    Colours that a spline carries beyond 0-255 are clipped.

    Args:
      whole: every frame of the clip or of a window of it, see ``sampling.trajectory``.
      length: T.
      padding: a key of ``PADDINGS``.
      channels: names of the C channels, such as "xyrgb".

    Returns:
      (max(n, T), V, C), or ``whole`` itself if nothing is missing or frames only repeat.

    Raises:
      UserError: unknown ``padding``.
    """
    extend = PADDINGS[_known("data.padding", padding, tuple(PADDINGS))].extend
    if len(whole) >= length or extend is None:
        return whole
    padded = extend(whole, length)
    if "rgb" in channels:
        colours = padded[..., channels.index("rgb") :]
        np.clip(colours, 0, 255, out=colours)
    return padded


@dataclasses.dataclass(frozen=True)
class View:
    """Which frames of a clip of n frames each stream sees.

    Attributes:
      window: (first, end) of the frames of the clip that the trajectory is cut from; (0, n) for all.
      numbers: (T,) int, frame numbers in the padded window, see ``extended``; ``index_t`` follows from them.
      trajectory: (T,) int, the clip's frame at each place of the trajectory stream; ``BLANK`` for zeros.
      frames: (F,) int, the clip's frame at each place of the frame stream; ``BLANK`` for zeros.
    """

    window: tuple[int, int]
    numbers: np.ndarray
    trajectory: np.ndarray
    frames: np.ndarray

    @classmethod
    def of(cls, config: ConfigDict, n: int, draw: Draw | None = None, window: tuple[int, int] | None = None) -> "View":
        """The view of a clip of ``n`` frames under a whole configuration.

        A long clip shows the last T frames of its trajectory and evenly spaced frames, both ends included; training
        draws them. With ``data.still`` every place shows the clip's first frame.

        Args:
          config: the whole configuration.
          n: number of frames.
          draw: the random choices of a training sample; None for evaluation.
          window: (first, end) of a part of the clip to look at. Its frames are chosen from those that the whole clip
            shows, so that the frame encoder sees nothing new.

        Raises:
          UserError: an unknown value of ``data.padding``, ``data.truncation`` or ``data.frame_choice``.
        """
        data, model = config.data, config.model
        T, F = model.trajectory.length, model.rgb.num_frames
        if data.still:
            return cls((0, n), *(np.zeros(count, int) for count in (T, T, F)))
        start, end = window or (0, n)
        truncation = data.truncation if draw is not None else "last"
        numbers = trajectory_numbers(end - start, T, truncation, draw, data.padding)
        sources = trajectory_sources(numbers, end - start, T, data.padding)
        frames = frame_sources(n, F, draw, data.padding, data.frame_choice)
        if window is not None:
            shown = np.unique(frames[frames != BLANK])
            inside = shown[(shown >= start) & (shown < end)]
            inside = inside if len(inside) else shown
            places = frame_sources(len(inside), F, None, data.padding)
            frames = np.where(places == BLANK, BLANK, inside[places])
        return cls((start, end), numbers, np.where(sources == BLANK, BLANK, start + sources), frames)


def describe(config: ConfigDict, n: int) -> dict[str, str]:
    """Which of a clip's ``n`` frames each stream reads in evaluation, in words for the report."""
    words = padding_of(config).words

    def stream(count: int, long: str) -> str:
        if n < count:
            return f"all {n}, {words} to {count}"
        return f"all {n}" if n == count else long

    T, F = config.model.trajectory.length, config.model.rgb.num_frames
    return {
        "trajectory": stream(T, f"the last {T} of {n}"),
        "frames": stream(F, f"{F} evenly spaced of {n}"),
    }


def index_t(numbers: np.ndarray, length: int) -> np.ndarray:
    """``index_t`` (T,) float32: frame numbers scaled so that 0..T-1 covers [-1, 1)."""
    return (2.0 * numbers / length - 1.0).astype(np.float32)


def trajectory_numbers(n: int, length: int, truncation: str, draw: Draw | None, padding: str = "loop") -> np.ndarray:
    """Frame numbers (T,) of a trajectory in the padded clip: a run of a long clip, or a short clip padded.

    Args:
      n: frames in the clip.
      length: T.
      truncation: which run of a longer clip is taken: a "random" one or the "last".
      draw: the random choices, needed for "random"; None for evaluation.
      padding: of a shorter clip.

    Raises:
      UserError: unknown ``truncation`` or ``padding``.
    """
    _known("data.truncation", truncation, TRUNCATIONS)
    mode = PADDINGS[_known("data.padding", padding, tuple(PADDINGS))]
    if n < length:
        return mode.sources(n, length) if mode.numbers_sources else np.arange(length)
    if truncation == "last" or draw is None:
        return np.arange(n - length, n)
    return draw.run(TRAJECTORY, n, length)


def trajectory_sources(numbers: np.ndarray, n: int, length: int, padding: str) -> np.ndarray:
    """The clip's frame (T,) behind each of ``trajectory_numbers``; ``BLANK`` for zeros, the nearest for a spline."""
    mode = PADDINGS[_known("data.padding", padding, tuple(PADDINGS))]
    return numbers if n >= length or mode.numbers_sources else mode.sources(n, length)[numbers]


def frame_sources(n: int, count: int, draw: Draw | None, padding: str = "loop", choice: str = "random") -> np.ndarray:
    """The clip's frame (F,) at each place of the frame stream, in order of time; ``BLANK`` for zeros.

    Args:
      n: frames in the clip.
      count: F. A clip with fewer frames is padded; a longer one shows evenly spaced frames, both ends included.
      draw: the random choices of a training sample; None for evaluation.
      padding: of a shorter clip.
      choice: what training shows of a longer clip: "random" frames in order, a random run of "consecutive" ones, or
        "uniform" ones as in evaluation.

    Raises:
      UserError: unknown ``padding`` or ``choice``.
    """
    mode = PADDINGS[_known("data.padding", padding, tuple(PADDINGS))]
    _known("data.frame_choice", choice, FRAME_CHOICES)
    if n < count:
        return mode.sources(n, count)
    if draw is None or choice == "uniform":
        return np.linspace(0, n - 1, count).astype(int)
    return drawn_frames(draw, n, count, choice, n)


def drawn_frames(draw: Draw, n: Any, count: int, choice: str, limit: int) -> Any:
    """The frames that training draws from long clips, for one sample or, on the device, for several.

    Args:
      draw: the choices of (...,) samples.
      n: frames in their clips, (...,); the result is undefined if n < ``count``.
      count: F.
      choice: "random" or "consecutive".
      limit: an upper bound of n.

    Returns:
      (..., F) source frames.
    """
    if choice == "consecutive":
        return draw.run(FRAMES, n, count)
    return draw.subset(FRAMES, n, count, limit)


def drawn_run(draw: Draw, n: Any, length: int) -> Any:
    """The run (..., T) that training draws from long trajectories of n (...,) frames; undefined if n < T."""
    return draw.run(TRAJECTORY, n, length)


def _known(option: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise UserError("bad_option", f"{option} is {value!r}; use one of: {', '.join(known)}")
    return value
