"""How much, how fast and how evenly the regions of a face moved in one clip, in units that can be measured again.

Lengths are in distances between the outer corners of the eyes (median over the clip), times in milliseconds from the
clip's first frame. A region's *excursion* is its movement along the direction in which it moved most: the projection
of the displacements of its points from rest on their first principal direction, divided by the root of the number of
points, so that it is the distance that the points moved (root mean square). A projection is not inflated by the jitter
of the landmark detector, as a mean of distances would be.

Definitions, on the smoothed excursion:
  rest       mean of the first 120 ms; the excursion is 0 there.
  range      largest minus smallest excursion of the clip.
  peak speed largest absolute slope.
  onset      the last time below 10 % of the peak before 90 % of it is first reached.
  rise       from the onset to the first time at 90 % of the peak. 10 % and 90 % are the reference levels of IEEE Std
             181-2011 for transitions; onset, its duration and its largest speed describe smiles in Schmidt, Cohn and
             Tian, Biological Psychology 65 (2003) 49.
  hold       total time at or above 90 % of the peak.
Positions are smoothed and differentiated by a cubic fitted to a running window of 280 ms (Savitzky and Golay,
Analytical Chemistry 36 (1964) 1627). Movements that the jitter could have made have no onset, rise or hold.
"""

import dataclasses
import math

import numpy as np
from scipy.signal import savgol_filter

from tramp_jax.data.landmarks import GROUP_SIZE, GROUPS, MIRROR, NUM_LANDMARKS, SLOT_NAMES

FACE = "face"
WINDOW_MS, REST_MS = 280.0, 120.0
MIN_FRAMES = 5  # a cubic through fewer points smooths nothing
LOW, HIGH = 0.1, 0.9  # reference levels, shares of the peak
_CUBIC = 3
# A movement is clear of the jitter if its peak is this many times what independent noise makes of an excursion; the
# excursions of still faces stay below it (tests/test_report_motion.py).
_CLEAR = 6.5
_SMALLEST = 0.005  # inter-ocular distances, half a pixel of a usual crop: below it no timing is given

_SLOT = {name: i for i, name in enumerate(SLOT_NAMES)}
_LEFT = np.array([n.startswith("left") or ("_left_" in n and not n.startswith("right")) for n in SLOT_NAMES])
_GROUP = {name: np.arange(i * GROUP_SIZE, (i + 1) * GROUP_SIZE) for i, name in enumerate(GROUPS)}
_REGIONS = _GROUP | {FACE: np.arange(NUM_LANDMARKS)}
# The points of each pair of regions, or of each region across the midline, that lie on the left of the image.
_PAIRS = {
    "eyes": _GROUP["left_eye"],
    "brows": _GROUP["left_brow"],
    "nose": _GROUP["nose"][_LEFT[_GROUP["nose"]]],
    "lower_lip": _GROUP["lower_lip"][_LEFT[_GROUP["lower_lip"]]],
    "upper_lip": _GROUP["upper_lip"][_LEFT[_GROUP["upper_lip"]]],
    FACE: np.flatnonzero(_LEFT),
}


@dataclasses.dataclass(frozen=True)
class RegionMotion:
    """Motion of one region; see the head of this module for the definitions.

    Attributes:
      region: a name of ``landmarks.GROUPS``, or FACE for all 63 points.
      range: inter-ocular distances.
      peak_speed: inter-ocular distances per second.
      onset_ms, rise_ms, hold_ms: None where the region did not move clear of the jitter.
    """

    region: str
    range: float
    peak_speed: float
    onset_ms: float | None
    rise_ms: float | None
    hold_ms: float | None


@dataclasses.dataclass(frozen=True)
class SideMotion:
    """Ranges of motion of the two sides of the face.

    Attributes:
      pair: "eyes", "brows", "nose", "lower_lip", "upper_lip" or FACE.
      left, right: range of the points on that side of the *image*, inter-ocular distances.
      asymmetry: (left − right) / (left + right), in −1 to 1; None where neither moved clear of the jitter.
    """

    pair: str
    left: float
    right: float
    asymmetry: float | None


@dataclasses.dataclass(frozen=True)
class MotionTable:
    """What moved in one clip.

    Attributes:
      inter_ocular: the unit of length, in the unit of the points.
      fps: frames per second.
      window: frames of the smoothing window.
      regions: the 7 groups in order, then the whole face.
      sides: pairs of regions, then the whole face.
    """

    inter_ocular: float
    fps: float
    window: int
    regions: tuple[RegionMotion, ...]
    sides: tuple[SideMotion, ...]


def inter_ocular(points: np.ndarray) -> float:
    """Distance between the outer corners of the eyes, median over the frames: points (n, 63, 2)."""
    outer = points[:, _SLOT["left_eye_left_corner"]] - points[:, _SLOT["right_eye_right_corner"]]
    return float(np.median(np.linalg.norm(outer, axis=-1)))


def motion_table(points: np.ndarray, fps: float) -> MotionTable:
    """Measures one clip.

    Args:
      points: (n, 63, 2) points relative to the tip of the nose (``landmarks.centre``) in n ≥ 5 frames, in any unit.
        What else of the head's movement is not removed counts as motion of the face.
      fps: frames per second.

    Raises:
      ValueError: another shape, too few frames, a point or rate that is no number, or eyes in one place.
    """
    if points.ndim != 3 or points.shape[1:] != (NUM_LANDMARKS, 2) or len(points) < MIN_FRAMES:
        raise ValueError(f"motion needs points (n, 63, 2) of at least {MIN_FRAMES} frames, not {points.shape}")
    if not np.isfinite(points).all() or not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"motion needs finite points and a positive frame rate, not {fps}")
    unit = inter_ocular(points)
    if unit <= 0:
        raise ValueError("the outer corners of both eyes are in one place: these are not the 63 points of a face")
    window = _window(len(points), fps)
    course = _Course(points.astype(np.float64) / unit, fps, window)
    regions = tuple(_region(course, name, slots) for name, slots in _REGIONS.items())
    sides = tuple(_sides(course, pair, slots) for pair, slots in _PAIRS.items())
    return MotionTable(unit, fps, window, regions, sides)


def _window(n: int, fps: float) -> int:
    """Frames of the smoothing window: odd, near 280 ms, at least 5 and at most n."""
    wanted = 2 * round((WINDOW_MS / 1000 * fps - 1) / 2) + 1
    return max(MIN_FRAMES, min(wanted, n - 1 + n % 2))


@dataclasses.dataclass(frozen=True)
class _Course:
    """Points (n, 63, 2) in inter-ocular distances, with the frame rate and the smoothing window in frames."""

    points: np.ndarray
    fps: float
    window: int

    def excursion(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        """Excursion (n,) of some points and its slope (n,) per second; and whether it is clear of the jitter."""
        raw = self.points[:, slots].reshape(len(self.points), -1)
        smooth = savgol_filter(raw, self.window, _CUBIC, axis=0)
        resting = max(1, round(REST_MS / 1000 * self.fps))
        displacement = smooth - smooth[:resting].mean(axis=0)
        direction = np.linalg.svd(displacement, full_matrices=False)[2][0] / math.sqrt(len(slots))
        excursion = displacement @ direction
        if excursion[np.abs(excursion).argmax()] < 0:
            direction, excursion = -direction, -excursion
        slope = savgol_filter(raw, self.window, _CUBIC, deriv=1, delta=1 / self.fps, axis=0) @ direction
        return excursion, slope, bool(excursion.max() >= max(_SMALLEST, _CLEAR * self._noise(raw, smooth)))

    @staticmethod
    def _noise(raw: np.ndarray, smooth: np.ndarray) -> float:
        """Deviation of the excursion of points (n, coordinates) that only jitter.

        The coordinates' own deviation, of which a cubic through few frames leaves little to see, and how much of it
        the direction of most movement gathers: the largest singular value of noise grows as √n + √coordinates.
        """
        n, coordinates = raw.shape
        deviation = math.sqrt(np.mean((raw - smooth) ** 2) / (1 - (_CUBIC + 1) / n))
        return deviation * (1 + math.sqrt(coordinates / n)) / math.sqrt(coordinates / 2)


def _region(course: _Course, name: str, slots: np.ndarray) -> RegionMotion:
    excursion, slope, clear = course.excursion(slots)
    onset, rise, hold = _timing(excursion, course.fps) if clear else (None, None, None)
    return RegionMotion(name, float(np.ptp(excursion)), float(np.abs(slope).max()), onset, rise, hold)


def _timing(excursion: np.ndarray, fps: float) -> tuple[float, float, float]:
    """Onset, rise and hold in ms of an excursion (n,) that begins near 0; levels are crossed between frames."""
    times = np.arange(len(excursion)) * 1000 / fps
    low, high = LOW * excursion.max(), HIGH * excursion.max()
    reached = int(np.argmax(excursion >= high))
    below = np.flatnonzero(excursion[: reached + 1] < low)
    onset = _crossing(times, excursion, int(below[-1]), low) if len(below) else 0.0
    top = _crossing(times, excursion, reached - 1, high) if reached else 0.0
    # The share of each interval between frames in which a straight line between its ends is at or above the level.
    before, after = excursion[:-1] - high, excursion[1:] - high
    span = np.maximum(np.abs(after - before), 1e-12)
    both = (before >= 0) & (after >= 0)
    one = (before >= 0) != (after >= 0)
    share = np.where(both, 1.0, np.where(one, np.maximum(before, after) / span, 0.0))
    return onset, top - onset, float(share.sum() * 1000 / fps)


def _crossing(times: np.ndarray, values: np.ndarray, before: int, level: float) -> float:
    """When a straight line from frame ``before`` to the next one crosses the level."""
    low, high = values[before], values[before + 1]
    return float(times[before] + (times[before + 1] - times[before]) * (level - low) / (high - low))


def _sides(course: _Course, pair: str, left: np.ndarray) -> SideMotion:
    ranges, clear = [], False
    for slots in (left, MIRROR[left]):
        excursion, _, moved = course.excursion(slots)
        ranges.append(float(np.ptp(excursion)))
        clear |= moved
    one, other = ranges
    return SideMotion(pair, one, other, (one - other) / (one + other) if clear else None)
