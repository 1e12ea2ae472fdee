"""Measures how far the landmarks of a clip can be trusted, frame by frame.

inside      share of the 63 landmarks inside the picture. The others are guesses.
confidence  confidence of the landmark source, 0 to 1. A hand or a mask lowers it; landmarks behind one are guesses too.
jitter      standard deviation of one coordinate of the stable points (``head_motion.STABLE``) around a cubic through
            five frames, in pixels of the crop. Shifts of the whole face are removed first. Slower landmark errors look
            like movement and are not included.
yaw, pitch  rotation of the head in degrees, from the position of the nose tip between the corners of the eyes. Yaw is
            positive if the nose points to the right of the picture, pitch if it points down. The method assumes the
            proportions of an average face: a long nose looks like a lowered head.

On drawn faces of many shapes that turn by up to 40 degrees and nod by up to 20, 95% of yaw errors are at most
``YAW_ERROR`` and 95% of pitch errors at most ``PITCH_ERROR`` (tests/test_landmark_quality.py).
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from tramp_jax.data import head_motion, landmarks
from tramp_jax.data.clips import Clip
from tramp_jax.data.landmark_checks import CROP

YAW_ERROR, PITCH_ERROR = 6.5, 10.5  # degrees
FEW = 0.05  # a clip gets a warning if more than this share of its frames are beyond one of the bounds below
LEAST_CONFIDENCE = 0.75
MOST_YAW, MOST_PITCH = 35.0, 35.0  # degrees; beyond, parts of the face hide each other
MOST_JITTER = 0.02  # distances between the pupils
WHOLE_CROP = (0.0, 0.0, float(CROP), float(CROP))

# From the midpoint between the eyes to the nose tip, down and towards the camera, in units of the distance between the
# eyes' centres: halfway between MediaPipe's mesh of an average face and the drawn faces.
_NOSE_DOWN, _NOSE_FORWARD = 0.585, 0.60
_FRAMES = 5  # frames per cubic, whose residual is the fourth difference
_FOURTH_DIFFERENCE = (1, -4, 6, -4, 1)
_MEDIAN = 0.934  # median of a chi-squared variable with 10 degrees of freedom, divided by its mean
_CLEAR = 3.0  # standard deviations


@dataclasses.dataclass(frozen=True)
class Quality:
    """How far the landmarks of a clip of n frames can be trusted; see the top of this module. NaN is unknown.

    Attributes:
      inside, confidence, jitter, yaw, pitch: (n,), one value per frame.
      pupil_distance: median over the clip, in pixels of the crop.
    """

    inside: np.ndarray
    confidence: np.ndarray
    jitter: np.ndarray
    yaw: np.ndarray
    pitch: np.ndarray
    pupil_distance: float

    @property
    def usual_jitter(self) -> float:
        """Jitter of the clip in pixels of the crop. A few lost frames do not change it."""
        return math.sqrt(float(np.median(self.jitter**2)) / _MEDIAN)

    @property
    def relative_jitter(self) -> float:
        """Jitter of the clip as a share of the distance between the pupils."""
        return self.usual_jitter / self.pupil_distance if self.pupil_distance > 0 else math.nan

    @property
    def smallest_motion(self) -> float:
        """Shift of a coordinate between two frames, in pixels of the crop, that jitter exceeds once in 370 times."""
        return _CLEAR * math.sqrt(2) * self.usual_jitter

    @property
    def largest_yaw(self) -> float:
        """The largest yaw to either side, with its sign; NaN if unknown."""
        known = self.yaw[np.isfinite(self.yaw)]
        return float(known[np.abs(known).argmax()]) if len(known) else math.nan

    @property
    def share_outside(self) -> float:
        """Share of the frames with a landmark outside the picture."""
        return float(np.mean(self.inside < 1))

    def doubtful(self) -> dict[str, np.ndarray]:
        """Which frames, (n,) bool, are beyond the bound, by measure."""
        return {
            "inside": self.inside < 1,
            "confidence": self.confidence < LEAST_CONFIDENCE,
            "jitter": self.jitter > MOST_JITTER * self.pupil_distance,
            "yaw": np.abs(self.yaw) > MOST_YAW,
            "pitch": np.abs(self.pitch) > MOST_PITCH,
        }

    def warnings(self) -> tuple[str, ...]:
        """What to know before you rely on the landmarks."""
        n, doubtful = len(self.inside), self.doubtful()
        frames = {name: f"in {int(found.sum())} of {n} frames" for name, found in doubtful.items()}
        words = {
            "inside": f"landmarks lie outside the picture {frames['inside']} (up to {1 - self.inside.min():.0%} of "
            "them): their positions are guesses",
            "confidence": f"the landmark source is unsure {frames['confidence']} (confidence below "
            f"{LEAST_CONFIDENCE:g}): something may cover the face",
            "yaw": f"the head is turned by more than {MOST_YAW:.0f}° {frames['yaw']}: landmarks on the "
            "far side are guesses",
            "pitch": f"the head is raised or lowered by more than {MOST_PITCH:.0f}° {frames['pitch']}: "
            "landmarks are less accurate",
        }
        found = [text for name, text in words.items() if np.mean(doubtful[name]) > FEW]
        if self.relative_jitter > MOST_JITTER:
            found.append(
                f"the landmarks jitter by {self.usual_jitter:.1f} pixels ({self.relative_jitter:.1%} of the distance "
                "between the pupils), so small movements cannot be seen"
            )
        return tuple(found)

    def as_json(self) -> dict[str, object]:
        """Plain values for a JSON file; None for unknown."""

        def plain(values: np.ndarray, digits: int) -> list[float | None]:
            return [round(float(value), digits) if np.isfinite(value) else None for value in values]

        return {
            "inside": plain(self.inside, 4),
            "jitter": plain(self.jitter, 3),
            "yaw": plain(self.yaw, 1),
            "pitch": plain(self.pitch, 1),
            "pupil_distance": plain(np.array([self.pupil_distance]), 2)[0],
        }


def measure(
    clip: Clip, confidence: Sequence[float] = (), picture: tuple[float, float, float, float] = WHOLE_CROP
) -> Quality:
    """Measures the quality of the landmarks of a clip of n frames.

    ``confidence`` (n,) is the landmark source's; NaN for interpolated frames; () if unknown. ``picture`` is the left,
    top, right and bottom of the part of the crop that shows the video, in pixels of the crop.
    """
    points = landmarks.select(clip.landmarks, clip.layout).astype(np.float64)
    nose = landmarks.nose_tip(clip.landmarks, clip.layout)[:, 0].astype(np.float64)
    within = ((points >= picture[:2]) & (points <= picture[2:])).all(axis=2)
    yaw, pitch = _turn(points[:, [*landmarks.LEFT_EYE_CORNERS, *landmarks.RIGHT_EYE_CORNERS]], nose)
    known = np.asarray(confidence, np.float64) if len(confidence) else np.full(len(points), np.nan)
    left, right = (points[:, slot] for slot in landmarks.PUPILS)
    pupils = float(np.median(np.linalg.norm(right - left, axis=1)))
    return Quality(within.mean(axis=1), known, _jitter(points), yaw, pitch, pupils)


def _jitter(points: np.ndarray) -> np.ndarray:
    """Jitter (n,) of points (n, 63, 2). The first and last two frames repeat their neighbour's."""
    if len(points) < _FRAMES:
        return np.full(len(points), np.nan)
    stable = points[:, list(head_motion.STABLE)]
    stable = stable - stable.mean(axis=1, keepdims=True)
    windows = np.lib.stride_tricks.sliding_window_view(stable, _FRAMES, axis=0)
    difference = windows @ np.array(_FOURTH_DIFFERENCE)
    freedom = 2 * (len(head_motion.STABLE) - 1)
    variance = np.square(difference).sum(axis=(1, 2)) / freedom / np.square(_FOURTH_DIFFERENCE).sum()
    return np.pad(np.sqrt(variance), _FRAMES // 2, mode="edge")


def _turn(eyes: np.ndarray, nose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Yaw and pitch (n,) in degrees from the corners of the eyes (n, 4, 2) and the tip of the nose (n, 2).

    Let the nose be n in front of the eyes and d below them. A head that nods by p and then turns by y shows its nose at
    across = f sin y and down = d cos p + n sin p, where f = n cos p - d sin p, and brings the eyes closer by cos y. The
    distance between nose and eyes in space stays the same, which gives a quadratic equation in tan(y)**2.
    """
    centres = eyes.reshape(-1, 2, 2, 2).mean(axis=2)
    line = centres[:, 1] - centres[:, 0]
    square = np.sum(line**2, axis=1)
    offset = nose - centres.mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        across = np.sum(offset * line, axis=1) / square
        down = (line[:, 0] * offset[:, 1] - line[:, 1] * offset[:, 0]) / square
        length = _NOSE_DOWN**2 + _NOSE_FORWARD**2
        half = (length - across**2 - down**2) / 2
        tangent = np.sqrt((np.sqrt(half**2 + length * across**2) - half) / length)
        yaw = np.copysign(np.arctan(tangent), across)
        down = down * np.cos(yaw)
        forward = np.sqrt(np.maximum(length - down**2, 0))
        pitch = math.atan2(_NOSE_FORWARD, _NOSE_DOWN) - np.arctan2(forward, down)
    return np.degrees(yaw), np.degrees(pitch)
