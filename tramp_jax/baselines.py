"""Baselines that a model has to beat: a constant, a random forest on motion features, an SVR and a ridge regression.

The features describe how much, how fast and how evenly the regions of a face move. Lengths are in units of the clip's
inter-ocular distance and times in seconds. So the size of the face does not matter, and the frame rate matters only for
motion that is too fast for it.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from tramp_jax import channels
from tramp_jax.batches import motion
from tramp_jax.batches.view import PADDINGS, frame_times, step_times
from tramp_jax.data import head_motion
from tramp_jax.data.landmarks import GROUP_SIZE, GROUPS, MIRROR, NUM_LANDMARKS, SLOT_NAMES
from tramp_jax.data.source import Split
from tramp_jax.errors import UserError
from tramp_jax.ridge import regression

# Peaks and ranges are percentiles, so that a single badly detected frame or a cut does not set them.
_LOW, _HIGH = 5, 95
_TREMOR_HZ = (4.0, 6.0)  # rest tremor of Parkinson's disease
_BLINK = 0.6  # eyes less open than this share of their median count as closed

_REGION_FEATURES = ("range", "spread", "speed_mean", "speed_peak", "jerkiness", "tremor")
_CLIP_FEATURES = (
    "eye_opening_mean",
    "eye_opening_spread",
    "eye_closed_share",
    "blinks_per_second",
    "mouth_opening_mean",
    "mouth_opening_range",
    "mouth_width_mean",
    "mouth_width_range",
    "brow_height_mean",
    "brow_height_range",
    "asymmetry_shape",
    "asymmetry_eye_speed",
    "asymmetry_brow_speed",
    "asymmetry_mouth_speed",
)
FEATURE_NAMES: tuple[str, ...] = tuple(f"{g}_{f}" for g in GROUPS for f in _REGION_FEATURES) + _CLIP_FEATURES

_SLOT = {name: i for i, name in enumerate(SLOT_NAMES)}
# The outline of one half of the opening between the lips: from the corner of the mouth along the upper lip to the
# middle, and back along the lower lip.
_HALF = ("{}_corner", "upper_lip_{}_contour3", "upper_lip_{}_contour4", "upper_lip_bottom", "lower_lip_top")
_LEFT_HALF, _RIGHT_HALF = (
    [_SLOT["mouth_" + name.format(side)] for name in (*_HALF, "lower_lip_{}_contour1")] for side in ("left", "right")
)
_LEFT_MOUTH = tuple(i for i, name in enumerate(SLOT_NAMES) if name.startswith("mouth") and "left" in name)


def motion_features(points: np.ndarray, fps: float) -> np.ndarray:
    """Hand-made features of one clip.

    For each of the seven regions, from its points relative to the tip of the nose:
      range: how far a point's path extends (5th to 95th percentile in x and y, combined), mean over the points;
      spread: standard deviation of the position, root mean square over the points;
      speed_mean, speed_peak: mean and 95th percentile over time of the points' mean speed, per second;
      jerkiness: mean length of the second difference, per second squared;
      tremor: root mean square amplitude of the points between 4 and 6 Hz.
    For the whole face: how far the eyes are open (over their width), the share of time in which they are closed and how
    often they close, opening and width of the mouth, height of the brows above the eyes, and differences between the
    sides (of the shape; and of mean speeds, as |left − right| / (left + right)).

    Takes (n, 63, 2) centred points of n ≥ 2 frames, in any unit of length. Returns (56,) float64, finite, in the order
    of ``FEATURE_NAMES``. A feature that needs more frames is 0.

    Raises:
      UserError: bad_landmarks: another shape, fewer than two frames, a point or rate that is not a finite number, or
        both pupils in the same place.
    """
    if points.ndim != 3 or points.shape[1:] != (NUM_LANDMARKS, 2) or len(points) < 2:
        raise _bad_landmarks(f"motion features need points (n, 63, 2) of n >= 2 frames, not {points.shape}")
    if not np.isfinite(points).all() or not (math.isfinite(fps) and fps > 0):
        raise _bad_landmarks(f"motion features need finite points and a positive frame rate, not {fps}")
    points = points.astype(np.float64)
    eye_distance = float(np.median(_distance(points, "left_eye_pupil", "right_eye_pupil")))
    if eye_distance <= 0:
        raise _bad_landmarks("both pupils are in the same place, so these are not the 63 points of a face")
    points = points / eye_distance

    velocity = np.diff(points, axis=0) * fps
    speed = np.linalg.norm(velocity, axis=-1)  # (n − 1, 63)
    features: list[float] = []
    for start in range(0, NUM_LANDMARKS, GROUP_SIZE):
        region = slice(start, start + GROUP_SIZE)
        features += _region_features(points[:, region], velocity[:, region], speed[:, region], fps)
    features += _eye_features(points, fps)

    for opening in (
        _distance(points, "mouth_upper_lip_bottom", "mouth_lower_lip_top"),
        _distance(points, "mouth_left_corner", "mouth_right_corner"),
        (_brow_height(points, "left") + _brow_height(points, "right")) / 2,
    ):
        features += [opening.mean(), _range(opening)]

    features.append(_shape_asymmetry(points))
    for left in (range(GROUP_SIZE), range(GROUP_SIZE, 2 * GROUP_SIZE), _LEFT_MOUTH):
        side, other = speed[:, list(left)].mean(), speed[:, MIRROR[list(left)]].mean()
        features.append(abs(side - other) / (side + other) if side + other > 0 else 0.0)
    return np.array(features)


def motion_energies(points: np.ndarray, fps: float) -> np.ndarray:
    """How fast and how far each landmark moves, and how much it trembles: means over a clip.

    They are logarithms, the channels ``FOR_FEW_PEOPLE``, whatever the network reads. Takes (n, 63, 2) centred points,
    in any unit of length. Returns (504,) float64.
    """
    n = -(-max(len(points), motion.WINDOW) // motion.WINDOW) * motion.WINDOW
    places = PADDINGS["reflect"].sources(len(points), n)
    seconds = step_times(frame_times(len(points), n, "reflect", fps)[places], places)
    return np.asarray(_mean_energies(points[None, places], seconds[None]), np.float64)


@jax.jit  # one program for each length of a clip; without it, each of its hundred operations would be one
def _mean_energies(points: jax.Array, seconds: jax.Array) -> jax.Array:
    return jnp.mean(motion.with_motion(points, seconds, channels.FOR_FEW_PEOPLE), axis=(0, 1)).ravel()


def geometric_features(points: np.ndarray, fps: float) -> np.ndarray:
    """Distances and areas of the mouth over a clip: how far, how fast and how evenly they change.

    Modelled on the features for oro-facial tasks in the paper's reference [20]. Lengths are in units of the clip's
    inter-ocular distance. Seven measures are followed over time: opening and width of the mouth, the area between the
    lips and its left and right half, and the distance of each corner of the mouth from the middle of the nose. The
    features are the mean, range, peak speed and mean speed of each, and, for the two halves and the two corners, the
    mean difference between the sides and their correlation. Takes (n, 63, 2) centred points of n ≥ 2 frames, in any
    unit of length. Returns (32,) float64, finite.
    """
    points = points / float(np.median(_distance(points, "left_eye_pupil", "right_eye_pupil")))
    nose = points[:, 4 * GROUP_SIZE : 5 * GROUP_SIZE].mean(axis=1)
    left, right = (
        np.linalg.norm(points[:, _SLOT[f"mouth_{side}_corner"]] - nose, axis=-1) for side in ("left", "right")
    )
    left_area, right_area = (_area(points[:, half]) for half in (_LEFT_HALF, _RIGHT_HALF))
    measures = (
        _distance(points, "mouth_upper_lip_bottom", "mouth_lower_lip_top"),
        _distance(points, "mouth_left_corner", "mouth_right_corner"),
        left_area + right_area,
        left_area,
        right_area,
        left,
        right,
    )
    features: list[float] = []
    for measure in measures:
        speed = np.abs(np.diff(measure)) * fps
        features += [measure.mean(), _range(measure), float(np.percentile(speed, _HIGH)), speed.mean()]
    for one, other in ((left_area, right_area), (left, right)):
        even = np.ptp(one) == 0 or np.ptp(other) == 0
        features += [np.abs(one - other).mean(), 1.0 if even else float(np.corrcoef(one, other)[0, 1])]
    return np.array(features)


def _area(outline: np.ndarray) -> np.ndarray:
    """The area (n,) of polygons (n, corners, 2)."""
    x, y = outline[..., 0], outline[..., 1]
    return np.abs((x * np.roll(y, -1, axis=-1) - y * np.roll(x, -1, axis=-1)).sum(axis=-1)) / 2


def described(
    splits: Sequence[Split], origin: ConfigDict, *features: Callable[[np.ndarray, float], np.ndarray]
) -> tuple[np.ndarray, ...]:
    """Applies functions such as ``motion_features`` to all N clips, one at a time: (N, d) for each function.

    ``origin`` is the ``landmarks`` group, so the functions get the positions that a network would read.
    """
    found: list[list[np.ndarray]] = [[] for _ in features]
    for split in splits:
        for i in range(len(split)):
            clip = split[i]
            points = head_motion.positions(clip, origin.normalise, origin.frontalise)
            for rows, feature in zip(found, features, strict=True):
                rows.append(feature(points, clip.fps))
    return tuple(np.stack(rows) for rows in found)


def _bad_landmarks(message: str) -> UserError:
    return UserError("bad_landmarks", f"{message}; check the clips with tramp-jax validate")


def random_forest(
    train_features: np.ndarray, train_scores: np.ndarray, test_features: np.ndarray, seed: int
) -> np.ndarray:
    """Fits a random forest to features (n, d) and scores (n,); returns its scores (m,) of test features (m, d)."""
    forest = RandomForestRegressor(500, min_samples_leaf=3, max_features=1 / 3, n_jobs=1, random_state=seed)
    return forest.fit(train_features, train_scores).predict(test_features)


def forest_of_classes(
    train_features: np.ndarray, train_classes: np.ndarray, test_features: np.ndarray, classes: int, seed: int
) -> np.ndarray:
    """Fits a random forest to features (n, d) and classes (n,); returns (m, classes) probabilities for (m, d)."""
    forest = RandomForestClassifier(500, min_samples_leaf=3, n_jobs=1, random_state=seed)
    forest.fit(train_features, train_classes.astype(int))
    found = np.zeros((len(test_features), classes))
    found[:, forest.classes_] = forest.predict_proba(test_features)
    return found


def support_vectors(train_features: np.ndarray, train_scores: np.ndarray, test_features: np.ndarray) -> np.ndarray:
    """Fits an SVR to standardised features (n, d) and scores (n,); returns its scores (m,) of test features (m, d)."""
    svr = make_pipeline(StandardScaler(), SVR(C=3.0))
    return svr.fit(train_features, train_scores).predict(test_features)


def ridge(
    train_features: np.ndarray, train_scores: np.ndarray, test_features: np.ndarray, subjects: Sequence[str]
) -> np.ndarray:
    """Fits the regression of ``model.ridge`` to features (n, d) and scores (n,) of clips of the (n,) subjects.

    The features must share a unit, because they are not standardised. Returns the scores (m,) of test features (m, d).
    """
    return regression(train_features, train_scores, subjects).predict(test_features)


def _region_features(points: np.ndarray, velocity: np.ndarray, speed: np.ndarray, fps: float) -> list[float]:
    low, high = np.percentile(points, [_LOW, _HIGH], axis=0)
    per_frame = speed.mean(axis=1)
    acceleration = np.diff(velocity, axis=0) * fps
    return [
        np.linalg.norm(high - low, axis=-1).mean(),
        math.sqrt(points.var(axis=0).sum(axis=-1).mean()),
        per_frame.mean(),
        np.percentile(per_frame, _HIGH),
        np.linalg.norm(acceleration, axis=-1).mean() if len(acceleration) else 0.0,
        _band_amplitude(points, fps),
    ]


def _band_amplitude(points: np.ndarray, fps: float) -> float:
    """Root mean square amplitude of the points in the tremor band."""
    frequency = np.fft.rfftfreq(len(points), 1 / fps)
    band = (frequency >= _TREMOR_HZ[0]) & (frequency <= _TREMOR_HZ[1])
    window = np.hanning(len(points) + 2)[1:-1, None, None]  # slow movement must not leak into the band
    spectrum = np.fft.rfft((points - points.mean(axis=0)) * window, axis=0)
    power = 2 * (np.abs(spectrum[band]) ** 2).sum(axis=0) / (len(points) * (window**2).sum())  # Parseval
    return math.sqrt(power.sum(axis=-1).mean())


def _eye_features(points: np.ndarray, fps: float) -> list[float]:
    opening = np.mean([_eye_opening(points, side) for side in ("left", "right")], axis=0)
    closed = opening < _BLINK * np.median(opening)
    closings = np.count_nonzero(closed[1:] & ~closed[:-1])
    return [opening.mean(), opening.std(), closed.mean(), closings * fps / len(points)]


def _eye_opening(points: np.ndarray, side: str) -> np.ndarray:
    """The distance between the lids over the eye's mean width, (n,)."""
    width = _distance(points, f"{side}_eye_left_corner", f"{side}_eye_right_corner").mean()
    height = _distance(points, f"{side}_eye_top", f"{side}_eye_bottom")
    return height / width if width > 0 else np.zeros(len(points))


def _brow_height(points: np.ndarray, side: str) -> np.ndarray:
    """The distance (n,) from the middle of the eye corners to the middle of the brow's lower edge."""
    corners = points[:, [_SLOT[f"{side}_eye_left_corner"], _SLOT[f"{side}_eye_right_corner"]]]
    return np.linalg.norm(points[:, _SLOT[f"{side}_eyebrow_lower_middle"]] - corners.mean(axis=1), axis=-1)


def _shape_asymmetry(points: np.ndarray) -> float:
    """Mean distance between the points and those of the mirrored face, both relative to the mean of all points."""
    face = points - points.mean(axis=1, keepdims=True)
    return float(np.linalg.norm(face - face[:, MIRROR] * (-1, 1), axis=-1).mean())


def _distance(points: np.ndarray, one: str, other: str) -> np.ndarray:
    return np.linalg.norm(points[:, _SLOT[one]] - points[:, _SLOT[other]], axis=-1)


def _range(values: np.ndarray) -> float:
    low, high = np.percentile(values, [_LOW, _HIGH])
    return float(high - low)
