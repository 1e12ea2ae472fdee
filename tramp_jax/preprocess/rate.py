"""A constant frame rate: the trajectory model takes neighbouring frames for equally far apart in time."""

import dataclasses

import numpy as np

from tramp_jax.errors import UserError

VARIABLE = 0.1  # of the median step between two frames; a step that differs by more makes the rate variable


@dataclasses.dataclass(frozen=True)
class Timing:
    """A constant rate.

    Attributes:
      fps: frames per second.
      chosen: (m,) int, the frame shown at times 0, 1/fps, 2/fps, ... after the first: numbers of source frames.
      warnings: what had to be done to reach it.
    """

    fps: float
    chosen: np.ndarray
    warnings: tuple[str, ...] = ()


def constant(seconds: np.ndarray, nominal: float, target: float | None = None) -> Timing:
    """Chooses frames so that they are equally far apart in time.

    The rate is one over the median step. Frames of a video of variable rate, and of any video where another rate is
    asked for, are chosen by the nearest time: repeated or left out, never mixed, so that a frame stays what the
    camera saw and landmarks and colours stay those of one frame.

    Args:
      seconds: (n,) when each frame is shown.
      nominal: the container's frames per second, used where the times make no sense.
      target: frames per second that are wanted; None keeps the video's own rate.

    Raises:
      UserError: ``target`` is not above 0, or no rate is known.
    """
    if target is not None and not target > 0:
        raise UserError("bad_option", f"--fps must be above 0, not {target}")
    count = len(seconds)
    if count == 1:
        return Timing(target or nominal or 25.0, np.zeros(1, int))
    warnings = []
    steps = np.diff(seconds)
    if not (np.isfinite(seconds).all() and (steps >= 0).all() and np.median(steps) > 0):
        if not nominal > 0:
            raise UserError(
                "bad_data",
                "the video tells neither times nor a frame rate; convert it with `ffmpeg -i IN -r 25 OUT.mp4`",
            )
        warnings.append(f"the times of the frames make no sense; taken as {nominal:.4g} frames per second")
        seconds = np.arange(count) / nominal
        steps = np.diff(seconds)
    step = float(np.median(steps))
    own = round(1 / step, 3)
    odd = int((np.abs(steps - step) > VARIABLE * step).sum())
    fps = target or own
    # Containers round times to their clock, and NTSC rates to decimals; so small a difference is none.
    same_rate = abs(fps * step - 1) < 1e-3
    if odd == 0 and same_rate:
        return Timing(fps, np.arange(count), tuple(warnings))
    total = int((seconds[-1] - seconds[0]) * fps + 0.1) + 1  # up to the last frame, whose time may be rounded
    wanted = seconds[0] + np.arange(total) / fps
    later = np.searchsorted(seconds, wanted).clip(1, count - 1)
    earlier = later - 1
    nearest = np.where(wanted - seconds[earlier] <= seconds[later] - wanted, earlier, later)
    repeated, left_out = total - len(np.unique(nearest)), count - len(np.unique(nearest))
    reason = (
        f"variable frame rate ({odd} of {len(steps)} steps differ from {1000 * step:.1f} ms)" if odd else "resampled"
    )
    warnings.append(
        f"{reason}: {count} frames at about {own:.4g} per second became {total} at {fps:.4g} by the nearest time; "
        f"{repeated} repeated, {left_out} left out"
    )
    return Timing(fps, nearest, tuple(warnings))
