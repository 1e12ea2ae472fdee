"""Whether landmarks can be those of a face in its crop.

The limits leave room around what sound clips have: 6,697 frames of YouTubePD, films of talking people in all poses, and
12,445 synthetic ones.
"""

from collections.abc import Iterator

import numpy as np

CROP = 256  # pixels, both sides of a face crop

# A frame's farthest landmark, in median distances from their median. Sound frames have at most 3.4, with contours of
# turned heads; a detector that loses a point puts it anywhere.
_STRAY = 6.0
_FLAT = 2.0  # pixels; landmarks in units of the crop's side reach this far at most
# Of the crop's side. The clips' faces are 0.40 wide or high and more, and centred at 0.35 to 0.64.
_SMALL = 0.2
_CENTRED = (0.25, 0.75)


def faults(points: np.ndarray, size: int | None = CROP, first: int = 1) -> Iterator[tuple[str, str]]:
    """What no sound clip has: the kind of a problem, and what is wrong with which frame.

    Args:
      points: (n, P, 2) landmarks; frames with a NaN are not looked at.
      size: of the frame in pixels, both sides; None where it is not known.
      first: number of the first frame in messages.
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
        yield "undetected_face", f"all landmarks are at one place, as where no face is found, {where}"
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
    return f"in frame {number}" if count == 1 else f"in {count} frames, the first is frame {number}"


def _must_be(size: int | None) -> str:
    return "they must be pixels of the frame" if size is None else f"they must be pixels of the {size}×{size} crop"


def doubt(points: np.ndarray) -> str:
    """What hardly any sound clip has: a face far smaller than its crop, or far from its middle. "" where all is well.

    Either is what landmarks in pixels of a crop of another size look like.

    Args:
      points: (n, P, 2) landmarks in pixels of the crop; frames with a NaN are not looked at.
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
        f"the landmarks take {side:.0f} of the crop's {CROP} pixels, around ({x:.0f}, {y:.0f}), which is hardly a face "
        "in its crop: are they pixels of a crop of another size?"
    )
