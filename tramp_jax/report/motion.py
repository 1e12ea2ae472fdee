"""Measures how far, how fast and how evenly the regions of a face moved in one clip.

The unit of length is the distance between the outer corners of the eyes (median over the clip). Times are in
milliseconds from the clip's first frame. A region's *excursion* is its movement along the direction in which it moved
most: the displacements of its points from rest, projected on their first principal direction and divided by the square
root of the number of points. So it is the root mean square distance that the points moved. The jitter of the landmark
detector inflates a mean of distances, but not a projection.

Definitions, on the smoothed excursion:
  rest        mean of the first 120 ms, where the excursion is 0.
  range       largest minus smallest excursion of the clip.
  peak speed  largest absolute slope.
  onset       last time below 10% of the peak before 90% of it is first reached.
  rise        from the onset to the first time at 90% of the peak. 10% and 90% are the reference levels of IEEE Std
              181-2011 for transitions. Schmidt, Cohn and Tian, Biological Psychology 65 (2003) 49, describe smiles by
              onset, its duration and its largest speed.
  hold        total time at or above 90% of the peak.
Positions are smoothed and differentiated by fitting a cubic in a running window of 280 ms (Savitzky and Golay,
Analytical Chemistry 36 (1964) 1627). Movements that jitter could have caused have no onset, rise or hold.
"""

import dataclasses
import math

import numpy as np
from scipy.signal import savgol_filter

from tramp_jax.data.landmarks import GROUP_SIZE, GROUPS, MIRROR, NUM_LANDMARKS, SLOT_NAMES
from tramp_jax.errors import UserError

FACE = "face"
WINDOW_MS, REST_MS = 280.0, 120.0
MIN_FRAMES = 5  # a cubic passes through four points exactly, so it smooths nothing
LOW, HIGH = 0.1, 0.9  # reference levels, as shares of the peak
# Largest asymmetry measured for a symmetric movement of a drawn face turned by up to 30 degrees, with the head held
# still and while it turns (tests/test_landmark_quality.py).
FALSE_ASYMMETRY_HELD, FALSE_ASYMMETRY_TURNING = 0.25, 0.45
_CUBIC = 3
# A movement stands out from the jitter if its peak exceeds this many standard deviations of a noise-only excursion.
# Still faces stay below it (tests/test_report_motion.py).
_CLEAR = 6.5
_SMALLEST = 0.005  # units of length (half a pixel of a typical crop): smaller movements get no timing

_LEFT = np.array([n.startswith("left") or ("_left_" in n and not n.startswith("right")) for n in SLOT_NAMES])
_GROUP = {name: np.arange(i * GROUP_SIZE, (i + 1) * GROUP_SIZE) for i, name in enumerate(GROUPS)}
_REGIONS = _GROUP | {FACE: np.arange(NUM_LANDMARKS)}
# The points on the left of the image, for each pair of regions and each region that crosses the midline.
_PAIRS = {
    "eyes": _GROUP["left_eye"],
    "brows": _GROUP["left_brow"],
    **{name: _GROUP[name][_LEFT[_GROUP[name]]] for name in ("nose", "lower_lip", "upper_lip")},
    FACE: np.flatnonzero(_LEFT),
}


@dataclasses.dataclass(frozen=True)
class RegionMotion:
    """Motion of one region, as defined at the top of this module."""

    region: str  # a name of ``landmarks.GROUPS``, or FACE for all 63 points
    range: float  # units of length
    peak_speed: float  # units of length per second
    onset_ms: float | None  # None if no movement stood out from the jitter
    rise_ms: float | None  # None likewise
    hold_ms: float | None  # None likewise


@dataclasses.dataclass(frozen=True)
class SideMotion:
    """Ranges of motion of the two sides of the face."""

    pair: str  # "eyes", "brows", "nose", "lower_lip", "upper_lip" or FACE
    left: float  # range of the points on that side of the *image*, in units of length
    right: float  # the same for the other side
    # (left − right) / (left + right), from −1 to 1; None if neither side stood out from the jitter
    asymmetry: float | None


@dataclasses.dataclass(frozen=True)
class MotionTable:
    """Motion of all regions and sides in one clip."""

    inter_ocular: float  # the unit of length, in the unit of the points
    window: int  # length of the smoothing window in frames
    regions: tuple[RegionMotion, ...]  # the 7 groups in order, then the whole face
    sides: tuple[SideMotion, ...]  # pairs of regions, then the whole face


def inter_ocular(points: np.ndarray) -> float:
    """Distance between the outer corners of the eyes in points (n, 63, 2), median over the frames."""
    outer = points[:, SLOT_NAMES.index("left_eye_left_corner")] - points[:, SLOT_NAMES.index("right_eye_right_corner")]
    return float(np.median(np.linalg.norm(outer, axis=-1)))


def motion_table(points: np.ndarray, fps: float) -> MotionTable:
    """Measures the motion in one clip.

    Args:
      points: (n, 63, 2) relative to the tip of the nose (``head_motion.positions``) in n ≥ 5 frames, in any unit.
        Any other head movement in them counts as motion of the face.

    Raises:
      UserError: too few frames, a point that is not finite, an impossible rate, or outer eye corners that coincide.
    """
    assert points.shape[1:] == (NUM_LANDMARKS, 2), points.shape
    if len(points) < MIN_FRAMES:
        raise UserError("bad_data", f"the clip has {len(points)} frames; at least {MIN_FRAMES} are needed")
    if not (math.isfinite(fps) and fps > 0):
        raise UserError("bad_data", f"the frame rate is {fps}; it must be a positive number")
    unit = inter_ocular(points)
    if not (np.isfinite(points).all() and unit > 0):
        raise UserError("bad_data", "landmarks are not finite, or the outer eye corners coincide; check the clip")
    window = _window(len(points), fps)
    points = points.astype(np.float64) / unit
    regions = tuple(_region(name, _excursion(points[:, slots], fps, window), fps) for name, slots in _REGIONS.items())
    sides = tuple(
        _sides(pair, *(_excursion(points[:, slots], fps, window) for slots in (left, MIRROR[left])))
        for pair, left in _PAIRS.items()
    )
    return MotionTable(unit, window, regions, sides)


def _window(n: int, fps: float) -> int:
    """Length of the smoothing window in frames: odd, near 280 ms, at least 5 and at most n."""
    wanted = 2 * round((WINDOW_MS / 1000 * fps - 1) / 2) + 1
    return max(MIN_FRAMES, min(wanted, n - 1 + n % 2))


@dataclasses.dataclass(frozen=True)
class _Excursion:
    """Excursion (n,) of some points, its slope (n,) per second, and whether it stands out from the jitter."""

    values: np.ndarray
    slope: np.ndarray
    clear: bool

    @property
    def range(self) -> float:
        return float(np.ptp(self.values))


def _excursion(points: np.ndarray, fps: float, window: int) -> _Excursion:
    """The excursion of points (n, count, 2), given in units of length."""
    raw = points.reshape(len(points), -1)
    smooth = savgol_filter(raw, window, _CUBIC, axis=0)
    resting = max(1, round(REST_MS / 1000 * fps))
    displacement = smooth - smooth[:resting].mean(axis=0)
    direction = np.linalg.svd(displacement, full_matrices=False)[2][0] / math.sqrt(points.shape[1])
    values = displacement @ direction
    if values[np.abs(values).argmax()] < 0:
        direction, values = -direction, -values
    slope = savgol_filter(raw, window, _CUBIC, deriv=1, delta=1 / fps, axis=0) @ direction
    return _Excursion(values, slope, bool(values.max() >= max(_SMALLEST, _CLEAR * _noise(raw, smooth))))


def _noise(raw: np.ndarray, smooth: np.ndarray) -> float:
    """Standard deviation of the excursion that jitter alone would give to coordinates (n, coordinates).

    The first factor is the deviation of a coordinate, corrected for what a cubic absorbs in a short clip. The second
    is how much of it the principal direction collects: the largest singular value of noise grows as
    √n + √coordinates.
    """
    n, coordinates = raw.shape
    deviation = math.sqrt(np.mean((raw - smooth) ** 2) / (1 - (_CUBIC + 1) / n))
    return deviation * (1 + math.sqrt(coordinates / n)) / math.sqrt(coordinates / 2)


def _region(name: str, found: _Excursion, fps: float) -> RegionMotion:
    onset, rise, hold = _timing(found.values, fps) if found.clear else (None, None, None)
    return RegionMotion(name, found.range, float(np.abs(found.slope).max()), onset, rise, hold)


def _sides(pair: str, left: _Excursion, right: _Excursion) -> SideMotion:
    asymmetry = None
    if left.clear or right.clear:
        asymmetry = (left.range - right.range) / (left.range + right.range)
    return SideMotion(pair, left.range, right.range, asymmetry)


def _timing(excursion: np.ndarray, fps: float) -> tuple[float, float, float]:
    """Onset, rise and hold in ms of an excursion (n,) that begins near 0, interpolated between frames."""
    times = np.arange(len(excursion)) * 1000 / fps
    low, high = LOW * excursion.max(), HIGH * excursion.max()
    reached = int(np.argmax(excursion >= high))
    below = np.flatnonzero(excursion[: reached + 1] < low)
    onset = _crossing(times, excursion, int(below[-1]), low) if len(below) else 0.0
    top = _crossing(times, excursion, reached - 1, high) if reached else 0.0
    # Share of the time between two frames that a straight line between them spends at or above the level.
    before, after = excursion[:-1] - high, excursion[1:] - high
    span = np.maximum(np.abs(after - before), 1e-12)
    both = (before >= 0) & (after >= 0)
    one = (before >= 0) != (after >= 0)
    share = np.where(both, 1.0, np.where(one, np.maximum(before, after) / span, 0.0))
    return onset, top - onset, float(share.sum() * 1000 / fps)


def _crossing(times: np.ndarray, values: np.ndarray, before: int, level: float) -> float:
    """Time at which a straight line from frame ``before`` to the next one crosses the level."""
    low, high = values[before], values[before + 1]
    return float(times[before] + (times[before + 1] - times[before]) * (level - low) / (high - low))
