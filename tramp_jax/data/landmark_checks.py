"""Checks whether landmarks can belong to a face in its crop.

The limits leave a margin around intact clips: 6,697 frames of people talking in all poses, and 12,445 drawn frames.
"""

from collections.abc import Iterator

import numpy as np

from tramp_jax.data import landmarks
from tramp_jax.data.frame_numbers import spell

CROP = 256  # pixels, both sides of a face crop
LYING = 60.0  # degrees from upright; a face that is tilted more is sideways or upside down

# Distance of a frame's farthest landmark from the median landmark, in median distances. In intact frames it is at most
# 3.4, on the contours of turned heads. A detector that loses a point can put it anywhere.
_STRAY = 6.0
_FLAT = 2.0  # pixels; landmarks in units of the crop's side span no more
# Shares of the crop's side. Intact faces are at least 0.40 wide or high, and their centres are at 0.35 to 0.64.
_SMALL = 0.2
_CENTRED = (0.25, 0.75)


def faults(points: np.ndarray, size: int | None = CROP, first: int = 0) -> Iterator[tuple[str, str]]:
    """Yields what is never true of an intact clip: the kind of a problem, and what is wrong in which frame.

    Frames of landmarks (n, P, 2) with a NaN are skipped. ``size`` is both sides of a frame in pixels; None if unknown.
    ``first`` is the index of the first frame in its clip, for messages.
    """
    numbers = np.flatnonzero(np.isfinite(points).all((1, 2)))
    points = points[numbers].astype(np.float64)
    if not points.size:
        return
    low, high = points.min(), points.max()
    flat = np.ptp(points, axis=1).max(1) <= _FLAT
    beyond = size is not None and (low < -size or high > 2 * size)
    if beyond or (flat.all() and points.any()):
        yield "landmarks_out_of_crop", f"landmarks reach from {low:g} to {high:g}; {_must_be(size)}"
        return
    if flat.any():
        where = _where(flat, first + numbers)
        yield "undetected_face", f"all landmarks coincide {where}: no face was found there"
    numbers, points = numbers[~flat], points[~flat]
    middle = np.median(points, axis=1)
    if size is not None:
        outside = ((middle < 0) | (middle > size)).any(1)
        if outside.any():
            x, y = middle[outside.argmax()]
            what = f"most landmarks lie outside the crop {_where(outside, first + numbers)}"
            yield "landmarks_out_of_crop", f"{what} (around {x:.0f}, {y:.0f}); {_must_be(size)}"
            return
    distance = np.linalg.norm(points - middle[:, None], axis=2)
    stray = distance.max(1, initial=0) > _STRAY * np.median(distance, axis=1)
    if stray.any():
        at = stray.argmax()
        point = distance[at].argmax()
        x, y = points[at, point]
        where = _where(stray, first + numbers)
        yield "stray_landmark", f"a landmark is far from all others {where}: point {point} at ({x:g}, {y:g})"


def _where(mask: np.ndarray, numbers: np.ndarray) -> str:
    count, number = mask.sum(), numbers[mask.argmax()]
    return f"in {spell(number)}" if count == 1 else f"in {count} frames, the first is {spell(number)}"


def _must_be(size: int | None) -> str:
    return "they must be pixels of the frame" if size is None else f"they must be pixels of the {size}×{size} crop"


def wrong_way(points: np.ndarray, layout: str) -> Iterator[tuple[str, str]]:
    """Yields the kind of error, and what is wrong, if landmarks (n, P, 2) are sideways, upside down or mirrored.

    Frames with a NaN are skipped.
    """
    points = points[np.isfinite(points).all((1, 2))]
    if not points.size:
        return
    degrees = landmarks.tilt(points, layout)
    if abs(degrees) > LYING:
        what = f"the face is turned by {degrees:.0f}°, sideways or upside down, though y must grow downwards"
        yield "not_upright", what
    elif landmarks.is_mirrored(points, layout):
        what = "the left eye is on the right: x must grow to the right, or the points are mirrored or in another order"
        yield "mirrored_landmarks", what


def doubt(points: np.ndarray) -> str:
    """Describes what is rare in an intact clip: a face much smaller than its crop, or far off centre; else "".

    Landmarks (n, P, 2) in pixels of a crop of another size look like this. Frames with a NaN are skipped.
    """
    points = points[np.isfinite(points).all((1, 2))]
    if not points.size:
        return ""
    low, high = points.min(1), points.max(1)
    side = np.median((high - low).max(1))
    x, y = centre = np.median((low + high) / 2, axis=0)
    if side >= _SMALL * CROP and (centre >= _CENTRED[0] * CROP).all() and (centre <= _CENTRED[1] * CROP).all():
        return ""
    return (
        f"the landmarks span {side:.0f} of the crop's {CROP} pixels, around ({x:.0f}, {y:.0f}), which is unusual for a "
        "face in its crop: are they pixels of a crop of another size?"
    )
