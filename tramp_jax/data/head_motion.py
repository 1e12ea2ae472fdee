"""What is left of head motion in the trajectories: centring, a similarity fit, and turning the face to the front.

A face carries its expression through space on a head that shifts, tilts, nods and turns, and the trajectory of a
landmark is the sum of both. ``landmarks.normalise`` says what is taken out in the image plane:

- "nose" (the paper): every frame's nose tip goes to the origin. Translation is gone.
- "first_frame" (the released code): the first frame's nose tip goes to the origin. Nothing else changes.
- "similarity": every frame is shifted, rotated in the plane and scaled so that its stable points fit the clip's own
  mean of them best (least squares; Umeyama 1991), then every nose tip goes to the origin.

``landmarks.frontalise`` comes before that, for clips with depth: every frame is turned in space so that its stable
points fit the clip's mean of them, the mean is turned to face the camera, and depth is dropped. The head is taken as
rigid and the camera as orthographic.

Stable points are those that no expression moves much, the corners of the eyes and the bridge of the nose. The clip's
mean of them (generalised Procrustes; Gower 1975) keeps the clip's mean size and, without ``frontalise``, its mean
tilt: what is taken out is motion, and a clip without head motion passes unchanged but for the origin.
What each option removes and what it costs: docs/head_motion.md.
"""

import numpy as np

from tramp_jax.data import landmarks
from tramp_jax.data.clips import Clip
from tramp_jax.errors import UserError

NOSE, FIRST_FRAME, SIMILARITY = NORMALISATIONS = ("nose", "first_frame", "similarity")

_LEFT_CORNERS = tuple(landmarks.SLOT_NAMES.index(f"left_eye_{side}_corner") for side in ("left", "right"))
_RIGHT_CORNERS = tuple(landmarks.SLOT_NAMES.index(f"right_eye_{side}_corner") for side in ("left", "right"))
_MOUTH_CORNERS = tuple(landmarks.SLOT_NAMES.index(f"mouth_{side}_corner") for side in ("left", "right"))
# Among the 63 points: four corners of the eyes, two points of the bridge of the nose.
STABLE = (*_LEFT_CORNERS, *_RIGHT_CORNERS, *(landmarks.SLOT_NAMES.index(f"nose_bridge{k}") for k in (1, 3)))

_ROUNDS = 20  # of the Procrustes mean; it has converged after three or four
_SMALLEST = 1e-6  # pixels; stable points closer together than this say nothing of a pose


def positions(clip: Clip, normalise: str = NOSE, frontalise: bool = False) -> np.ndarray:
    """The 63 points of every frame relative to the nose: (n, 63, 2) float32, in pixels of the crop.

    Args:
      clip: of n frames; all of them count for its mean, whichever a model is shown.
      normalise: one of ``NORMALISATIONS``.
      frontalise: turn every frame to the front first.

    Raises:
      UserError: unknown ``normalise``; a clip without the depth that ``frontalise`` needs, or with depth of another
        shape; a frame whose stable points coincide.
    """
    if normalise not in NORMALISATIONS:
        raise UserError("bad_option", f"landmarks.normalise is {normalise!r}; use one of: {', '.join(NORMALISATIONS)}")
    points = landmarks.select(clip.landmarks, clip.layout)
    nose = landmarks.nose_tip(clip.landmarks, clip.layout)
    # The nose tip goes through every map with the 63 points, as number 64.
    if frontalise:
        both = _frontal(clip, np.concatenate([points, nose], axis=1))
        points, nose = both[:, :-1], both[:, -1:]
    if normalise == SIMILARITY:
        both = _similar(clip, np.concatenate([points, nose], axis=1))
        points, nose = both[:, :-1], both[:, -1:]
    return landmarks.centre(points, nose, first_frame=normalise == FIRST_FRAME)


def _similar(clip: Clip, points: np.ndarray) -> np.ndarray:
    """Points (n, 64, 2) with shift, rotation and scale of their stable ones those of the clip's mean."""
    points = points.astype(np.float64)
    origin, stable, size = _stable(clip, points)
    rotation, mean = _fit(stable / size)
    # The mean of unit size gets the clip's mean size; least squares gives each frame its scale.
    mean *= np.exp(np.log(size).mean())
    scale = np.sum((stable @ rotation) * mean, axis=(1, 2), keepdims=True) / size**2
    return scale * (points - origin) @ rotation


def _frontal(clip: Clip, points: np.ndarray) -> np.ndarray:
    """Points (n, 64, 2) of the clip's heads turned to the front; the mean of the stable points stays where it is."""
    if clip.depth is None:
        raise UserError(
            "bad_data",
            f"clip {clip.info.id} has no depth of its landmarks, which landmarks.frontalise needs; take its "
            "landmarks from a detector that gives points in space, or set landmarks.frontalise to False",
        )
    if clip.depth.shape != clip.landmarks.shape[:2]:
        raise UserError(
            "bad_data",
            f"clip {clip.info.id} has depth of shape {clip.depth.shape} for landmarks of shape "
            f"{clip.landmarks.shape}; both need a row for each frame and a column for each point",
        )
    layout = landmarks.LAYOUTS[clip.layout]
    depth = clip.depth[:, [*layout.slots, layout.nose_tip], None]
    space = np.concatenate([points, depth], axis=-1).astype(np.float64)
    origin, stable, size = _stable(clip, space)
    rotation, _ = _fit(stable / size)
    aligned = (space - origin) @ rotation
    # Of the whole face in space the median over time: an expression that passes does not turn it.
    axes = _frontal_axes(np.median(aligned / size, axis=0), clip)
    return (aligned @ axes)[..., :2] + origin[..., :2]


def _frontal_axes(face: np.ndarray, clip: Clip) -> np.ndarray:
    """Directions of a face (64, 3), as columns (3, 3): to the right, down, and away from the camera.

    A face is frontal where the line between its eyes is level and the plane through the corners of eyes and mouth
    is parallel to the image.
    """
    left, right, mouth = (face[list(slots)].mean(axis=0) for slots in (_LEFT_CORNERS, _RIGHT_CORNERS, _MOUTH_CORNERS))
    across = right - left
    away = np.cross(across, mouth - (left + right) / 2)
    if np.linalg.norm(away) < _SMALLEST:
        raise UserError(
            "bad_data",
            f"clip {clip.info.id}: its eyes and its mouth lie on one line, so that its front cannot be told; "
            "look at its landmarks, or set landmarks.frontalise to False",
        )
    across, away = across / np.linalg.norm(across), away / np.linalg.norm(away)
    return np.stack([across, np.cross(away, across), away], axis=1)


def _stable(clip: Clip, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of points (n, 64, D): the mean (n, 1, D) of the stable ones, these about it, and their size (n, 1, 1)."""
    chosen = points[:, list(STABLE)]
    origin = chosen.mean(axis=1, keepdims=True)
    stable = chosen - origin
    size = np.linalg.norm(stable, axis=(1, 2), keepdims=True)
    broken = np.flatnonzero(~(size[:, 0, 0] > _SMALLEST))
    if len(broken):
        raise UserError(
            "bad_data",
            f"clip {clip.info.id}: in frame {broken[0]} the corners of the eyes and the bridge of the nose are one "
            'point or not numbers; repair its landmarks, or use landmarks.normalise="nose" without frontalise',
        )
    return origin, stable, size


def _fit(shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Generalised Procrustes: shapes (n, S, D), centred and of unit size, to rotations onto their mean, and the mean.

    Returns:
      rotations (n, D, D), so that ``shapes @ rotations`` is closest to the mean, and the mean (S, D), of unit size and
      turned as the shapes are on average.
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
    u[..., -1] *= np.sign(np.linalg.det(u @ vt))[:, None]  # a mirror image is no rotation
    return u @ vt
