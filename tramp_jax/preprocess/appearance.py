"""Decides whether two frames show the same face by comparing its look.

The look is a small grey picture of the face and its hair, aligned by the eyes and the nose. From frame to frame it
changes little, whatever the face expresses. If another face takes its place, everything changes at once. Landmarks
alone separate the two cases much worse: an expression moves them as much as a change of person.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from tramp_jax.data import landmarks

SIZE = 32  # pixels
# See docs/preprocess.md for the measurements.
USUAL = 0.12  # allowed difference between neighbouring frames; √n times as much for frames n apart
RATIO, MOST = 6.0, 0.3  # a lively clip may differ by RATIO times its own 90th percentile, but never by more than MOST
TURNING, MOST_TURNING = 4.0, 0.8  # the same for a turning head, relative to the neighbouring steps
_EYES = 0.3  # distance between the eyes, as a share of the picture's side; leaves room for hair and ears
_OVERSAMPLED = 4  # samples per pixel along each side, averaged
_FLAT = 3.0  # grey levels; a picture with less contrast has nothing to compare

# Target positions of the eyes and the nose.
_PLACES = SIZE * np.array([[0.5 - _EYES / 2, 0.39], [0.5 + _EYES / 2, 0.39], [0.5, 0.54]])


def look(frame: np.ndarray, points: np.ndarray, layout: str) -> np.ndarray | None:
    """Returns the look (32, 32) uint8 of a face in a frame (H, W, 3); None if its points (P, 2) coincide."""
    groups = landmarks.select(points[None], layout)[0].reshape(len(landmarks.GROUPS), landmarks.GROUP_SIZE, 2)
    left, right, nose = (
        groups[landmarks.GROUPS.index(name)].mean(axis=0) for name in ("left_eye", "right_eye", "nose")
    )
    source = np.stack([left, right, nose]).astype(np.float64)
    # Least-squares similarity from the eyes and nose to their target positions, with points as complex numbers.
    around, target = source.mean(axis=0), _OVERSAMPLED * _PLACES
    a, b = source - around, target - target.mean(axis=0)
    a, b = a[:, 0] + 1j * a[:, 1], b[:, 0] + 1j * b[:, 1]
    extent = float((abs(a) ** 2).sum())
    if not (np.isfinite(extent) and extent > 1):  # square pixels
        return None
    turn = complex((a.conj() * b).sum() / extent)
    matrix = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    matrix = np.column_stack([matrix, target.mean(axis=0) - matrix @ around])
    size = (_OVERSAMPLED * SIZE, _OVERSAMPLED * SIZE)
    picture = cv2.warpAffine(frame, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def difference(before: np.ndarray | None, after: np.ndarray | None) -> float:
    """1 - correlation of two looks, independent of brightness and contrast; 0 if they cannot be compared."""
    if before is None or after is None:
        return 0.0
    a, b = (picture.astype(np.float64) - picture.mean() for picture in (before, after))
    if min(a.std(), b.std()) < _FLAT:
        return 0.0
    return float(1 - (a * b).mean() / (a.std() * b.std()))


def limit(frames: int, usual: float) -> float:
    """The largest difference at which two looks, this many frames apart, still count as the same face.

    ``usual`` is the 90th percentile of the differences between neighbouring frames of the clip.
    """
    return float(min(max(USUAL, RATIO * usual) * np.sqrt(frames), MOST))


def turning(around: Sequence[float]) -> float:
    """The largest difference that a turning head explains, given the differences of the steps around it.

    A fast turn changes the look as much as another person would, but over several steps. A switch takes one step, or
    two if the pictures were blended. So two of the steps around it must be large, too.
    """
    return float(min(TURNING * sorted(around)[-2], MOST_TURNING)) if len(around) > 1 else 0.0
