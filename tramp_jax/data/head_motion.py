"""Removes head motion from the trajectories: centres them, fits a similarity, and turns the face to the front.

docs/head_motion.md says what each value of ``landmarks.normalise`` and ``landmarks.frontalise`` removes, and compares
them. The similarity of each frame is a least-squares fit (Umeyama 1991) of its stable points to their mean over the
clip (generalised Procrustes; Gower 1975). The mean keeps the clip's mean size and, without ``frontalise``, its mean
tilt. So only motion is removed: without head motion, only the origin changes. A detector's error at the nose tip moves
all other points; with "nose_mean", nine errors partly cancel out. ``frontalise`` comes first, needs depth and drops it,
and assumes a rigid head and an orthographic camera.
"""

import numpy as np

from tramp_jax.data import landmarks
from tramp_jax.data.clips import Clip
from tramp_jax.data.frame_numbers import spell
from tramp_jax.errors import UserError

NOSE, NOSE_MEAN, FIRST_FRAME, SIMILARITY = NORMALISATIONS = ("nose", "nose_mean", "first_frame", "similarity")

_NOSE = slice(*(landmarks.GROUP_SIZE * (landmarks.GROUPS.index("nose") + i) for i in (0, 1)))
_EYES = (landmarks.LEFT_EYE_CORNERS, landmarks.RIGHT_EYE_CORNERS)
_MOUTH_CORNERS = tuple(landmarks.SLOT_NAMES.index(f"mouth_{side}_corner") for side in ("left", "right"))
# Among the 63 points: four corners of the eyes, two points of the bridge of the nose.
STABLE = (*_EYES[0], *_EYES[1], *(landmarks.SLOT_NAMES.index(f"nose_bridge{k}") for k in (1, 3)))

_ROUNDS = 20  # iterations of the Procrustes mean, which converges after three or four
_SMALLEST = 1e-6  # pixels; stable points closer together than this do not define a pose


def positions(clip: Clip, normalise: str = NOSE, frontalise: bool = False) -> np.ndarray:
    """The 63 points of every frame relative to the nose: (n, 63, 2) float32, in pixels of the crop.

    Means are over all n frames of the clip, whichever of them a model reads. ``normalise`` is one of
    ``NORMALISATIONS``. ``frontalise`` turns every frame to the front first.

    Raises:
      UserError: the depth that ``frontalise`` needs is missing, or the stable points of a frame coincide.
    """
    selected = landmarks.select(clip.landmarks, clip.layout)
    # The nose tip goes through every map along with the 63 points, as point 64.
    points = np.concatenate([selected, landmarks.nose_tip(clip.landmarks, clip.layout)], axis=1)
    if frontalise:
        points = _frontal(clip, points)
    if normalise == SIMILARITY:
        points = _similar(clip, points)
    origin = points[:, _NOSE].mean(axis=1, keepdims=True) if normalise == NOSE_MEAN else points[:, -1:]
    origin = origin[:1] if normalise == FIRST_FRAME else origin
    return (points[:, :-1] - origin).astype(np.float32)


def _similar(clip: Clip, points: np.ndarray) -> np.ndarray:
    """Fits points (n, 64, 2) to the clip's mean: shift, rotation and scale, by their stable points."""
    points = points.astype(np.float64)
    origin, stable, size = _stable(clip, points)
    rotation, mean = _fit(stable / size)
    # The unit-size mean gets the clip's mean size; least squares gives each frame its scale.
    mean *= np.exp(np.log(size).mean())
    scale = np.sum((stable @ rotation) * mean, axis=(1, 2), keepdims=True) / size**2
    return scale * (points - origin) @ rotation


def _frontal(clip: Clip, points: np.ndarray) -> np.ndarray:
    """Turns the points (n, 64, 2) of a clip to the front. The mean of the stable points keeps its position."""
    if clip.depth is None:
        raise UserError(
            "bad_data",
            f"clip {clip.info.id}: landmarks.frontalise needs landmarks with depth, but these have none; use a "
            "detector that estimates depth, or set landmarks.frontalise to False",
        )
    layout = landmarks.LAYOUTS[clip.layout]
    depth = clip.depth[:, [*layout.slots, layout.nose_tip], None]
    space = np.concatenate([points, depth], axis=-1).astype(np.float64)
    origin, stable, size = _stable(clip, space)
    rotation, _ = _fit(stable / size)
    aligned = (space - origin) @ rotation
    # The median face over time, which a brief expression does not turn.
    axes = _frontal_axes(np.median(aligned / size, axis=0), clip)
    return (aligned @ axes)[..., :2] + origin[..., :2]


def _frontal_axes(face: np.ndarray, clip: Clip) -> np.ndarray:
    """The axes of a face (64, 3), as columns (3, 3): to the right, down, and away from the camera.

    A face is frontal if the line between its eyes is level and the plane through the corners of eyes and mouth is
    parallel to the image.
    """
    left, right, mouth = (face[list(slots)].mean(axis=0) for slots in (*_EYES, _MOUTH_CORNERS))
    across = right - left
    away = np.cross(across, mouth - (left + right) / 2)
    if np.linalg.norm(away) < _SMALLEST:
        raise UserError(
            "bad_data",
            f"clip {clip.info.id}: the eyes and mouth lie on one line, so its front is undefined; check the landmarks, "
            "or set landmarks.frontalise to False",
        )
    across, away = across / np.linalg.norm(across), away / np.linalg.norm(away)
    return np.stack([across, np.cross(away, across), away], axis=1)


def _stable(clip: Clip, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picks the stable points out of (n, 64, D). Returns their mean (n, 1, D), offsets from it, and size (n, 1, 1)."""
    chosen = points[:, list(STABLE)]
    origin = chosen.mean(axis=1, keepdims=True)
    stable = chosen - origin
    size = np.linalg.norm(stable, axis=(1, 2), keepdims=True)
    broken = np.flatnonzero(~(size[:, 0, 0] > _SMALLEST))
    if len(broken):
        raise UserError(
            "bad_data",
            f"clip {clip.info.id}: in {spell(broken[0])}, the corners of the eyes and the bridge of the nose coincide "
            'or are not numbers; fix its landmarks, or use landmarks.normalise="nose" without frontalise',
        )
    return origin, stable, size


def _fit(shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Generalised Procrustes analysis of shapes (n, S, D), which are centred and have unit size.

    Returns:
      rotations (n, D, D) that bring ``shapes @ rotations`` closest to the mean, and the mean (S, D), which has unit
      size and the shapes' average orientation.
    """
    mean = shapes[0]
    for _ in range(_ROUNDS):
        before = mean
        mean = (shapes @ _rotations(shapes, mean)).mean(axis=0)
        mean = mean / np.linalg.norm(mean)
        if np.abs(mean - before).max() < 1e-12:
            break
    mean = mean @ _rotations(mean[None], shapes.mean(axis=0))[0]
    return _rotations(shapes, mean), mean


def _rotations(shapes: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The proper rotation (n, D, D) of each shape (n, S, D) that brings it closest to target (S, D) (Kabsch 1976)."""
    u, _, vt = np.linalg.svd(shapes.swapaxes(1, 2) @ target)
    u[..., -1] *= np.sign(np.linalg.det(u @ vt))[:, None]  # exclude reflections
    return u @ vt
