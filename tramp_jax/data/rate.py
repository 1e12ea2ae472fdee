"""Makes the frame rate constant: the trajectory model assumes that frames are equally spaced in time."""

import dataclasses

import numpy as np

from tramp_jax.data.frame_numbers import spell
from tramp_jax.errors import UserError

MAX_FPS = 1000  # no camera films faces faster; a higher rate would fill the memory with repeated frames
MAX_PAUSE = 1.0  # seconds; the longest unusual step between two frames
SLOW = 8.0  # frames per second; at a lower rate, a movement of the face can be over between two frames
VARIABLE = 0.1  # share of the median step between frames; steps that differ by more make the rate variable
_CLOCKS = (1 / 100, 1 / 600, 1 / 1000)  # clock ticks in seconds (GIF; QuickTime; Matroska, WebM, Flash, WMV)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Frames at a constant rate."""

    fps: float  # frames per second
    chosen: np.ndarray  # (m,) int, the source frame shown at times 0, 1/fps, 2/fps, ... after the first
    warnings: tuple[str, ...] = ()  # the changes that were needed


def check(fps: float, option: str = "--fps") -> None:
    """Raises UserError (bad_option) for a wanted rate that no video has."""
    if not 0 < fps <= MAX_FPS:
        raise UserError("bad_option", f"{option} is {fps:g}; it must be above 0 and at most {MAX_FPS}")


def constant(seconds: np.ndarray, nominal: float, target: float | None = None, first: int = 0) -> Timing:
    """Chooses frames that are equally spaced in time.

    The usual step between frames sets the rate. If the rate varies, or ``target`` is another rate, each chosen frame is
    the one nearest in time. Frames are repeated or dropped but never blended: each stays as the camera saw it, and its
    landmarks and colours belong to one frame.

    Args:
      seconds: (n,) when each frame is shown.
      nominal: the container's frames per second, used if the times are invalid or agree with it; 0 if unknown.
      target: wanted frames per second; None keeps the video's own rate.
      first: index in the video of the first of these frames, for messages.

    Raises:
      UserError: bad_option for a ``target`` that ``check`` refuses; bad_data if no rate is known, or nothing was
        recorded for more than ``MAX_PAUSE``.
    """
    if target is not None:
        check(target)
    count = len(seconds)
    if count == 1:
        return Timing(target or nominal or 25.0, np.zeros(1, int))
    warnings = []
    steps = np.diff(seconds)
    if not (np.isfinite(seconds).all() and (steps >= 0).all() and np.median(steps) > 0):
        if not nominal > 0:
            raise UserError(
                "bad_data",
                "the video has neither frame times nor a frame rate; convert it with `ffmpeg -i IN -r 25 OUT.mp4`",
            )
        warnings.append(f"the frame times are invalid; assuming {nominal:.4g} frames per second")
        seconds = np.arange(count) / nominal
    own, odd = _own_rate(seconds, nominal)
    steps = np.diff(seconds)
    if steps.max() > max(MAX_PAUSE, 5 / own):
        raise UserError(
            "bad_data",
            f"nothing was recorded for {steps.max():.1f} seconds after {spell(first + steps.argmax())}; cut the clip "
            "there",
        )
    if own < SLOW:
        warnings.append(f"only {own:.3g} frames per second, too few to see how a face moves; record it again with 25")
    fps = target or own
    # NTSC rates are rounded to decimals, so ignore tiny differences.
    same_rate = abs(fps / own - 1) < 1e-3
    off = (seconds - seconds[0]) * own - np.arange(count)  # in steps
    if odd == 0 and same_rate and np.ptp(off) < 1:  # every frame is already the nearest
        return Timing(fps, np.arange(count), tuple(warnings))
    late = min(max(0.1, 1.01 * _tick(seconds) * fps), 0.5)  # part of a step: the last frame's time may be rounded
    total = int((seconds[-1] - seconds[0]) * fps + late) + 1
    wanted = seconds[0] + np.arange(total) / fps
    later = np.searchsorted(seconds, wanted).clip(1, count - 1)
    earlier = later - 1
    nearest = np.where(wanted - seconds[earlier] <= seconds[later] - wanted, earlier, later)
    repeated, dropped = total - len(np.unique(nearest)), count - len(np.unique(nearest))
    if odd:
        reason = f"variable frame rate ({odd} of {count - 1} steps differ from {1000 / own:.1f} ms)"
    else:
        reason = "variable frame rate (it drifts)" if same_rate else "resampled"
    warnings.append(
        f"{reason}: {count} frames at about {own:.4g} per second became {total} at {fps:.4g}, each the nearest in "
        f"time; {repeated} repeated, {dropped} dropped"
    )
    return Timing(fps, nearest, tuple(warnings))


def _own_rate(seconds: np.ndarray, nominal: float) -> tuple[float, int]:
    """Frames per second of the usual steps between increasing times (n,), and the number of unusual steps.

    A container's clock rounds each time: at 30 frames per second, the steps are 33, 33 and 34 ms. Each step may be off
    by one tick, but their mean is much closer. If the nominal rate lies within that error, it is the exact one.
    """
    steps = np.diff(seconds)
    tick = _tick(seconds)
    median = float(np.median(steps))
    usual = np.abs(steps - median) <= max(VARIABLE * median, 1.01 * tick)
    step = float(steps[usual].mean())
    odd = int((~usual).sum())
    error = max(1e-3, (1 + odd) * tick / (usual.sum() * step))
    if nominal > 0 and abs(nominal * step - 1) <= error:
        return nominal, odd
    return round(1 / step, 3) or 1 / step, odd


def _tick(seconds: np.ndarray) -> float:
    """The coarsest known clock that ticks at each of the times (n,); 0 if none does."""
    since = seconds - seconds[0]
    return next((tick for tick in _CLOCKS if np.abs(since / tick - np.round(since / tick)).max() < 1e-3), 0.0)
