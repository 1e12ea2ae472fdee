"""Whether the face at a place is still the same one: the look of a face, and how much it changes.

The look is a small grey picture of the face and its hair, placed by the eyes and the nose. From frame to frame a face
changes little, whatever it expresses; another face in its place changes everything at once. The shape that the
landmarks make tells the two apart far worse: an expression moves them as much as another person does.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from tramp_jax.data import landmarks

SIZE = 32  # pixels
# See docs/preprocess.md for what was measured.
USUAL = 0.12  # difference of two looks of a face in neighbouring frames; n frames apart, √n times as much
RATIO, MOST = 6.0, 0.3  # a restless or slow clip's is so many times its own 90th percentile, but never more than this
TURNING, MOST_TURNING = 4.0, 0.8  # the same for the steps around one step, while the head turns
_EYES = 0.3  # distance of the eyes, in sides of the picture: hair and ears are inside
_OVERSAMPLED = 4  # samples of the frame along a pixel's side, whose mean it is
_FLAT = 3.0  # grey levels; a picture that varies less shows nothing to compare

# Where the eyes and the nose come to lie.
_PLACES = SIZE * np.array([[0.5 - _EYES / 2, 0.39], [0.5 + _EYES / 2, 0.39], [0.5, 0.54]])


def look(frame: np.ndarray, points: np.ndarray, layout: str) -> np.ndarray | None:
    """(32, 32) uint8: a face of a frame (H, W, 3), its eyes level; None where the points (P, 2) have no extent."""
    groups = landmarks.select(points[None], layout)[0].reshape(len(landmarks.GROUPS), landmarks.GROUP_SIZE, 2)
    left, right, nose = (
        groups[landmarks.GROUPS.index(name)].mean(axis=0) for name in ("left_eye", "right_eye", "nose")
    )
    source = np.stack([left, right, nose]).astype(np.float64)
    # The similarity that takes eyes and nose to their places, by least squares, with points as complex numbers.
    around, target = source.mean(axis=0), _OVERSAMPLED * _PLACES
    a, b = source - around, target - target.mean(axis=0)
    a, b = a[:, 0] + 1j * a[:, 1], b[:, 0] + 1j * b[:, 1]
    extent = float((abs(a) ** 2).sum())
    if not (np.isfinite(extent) and extent > 1):
        return None
    turn = complex((a.conj() * b).sum() / extent)
    matrix = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    matrix = np.column_stack([matrix, target.mean(axis=0) - matrix @ around])
    size = (_OVERSAMPLED * SIZE, _OVERSAMPLED * SIZE)
    picture = cv2.warpAffine(frame, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def difference(before: np.ndarray | None, after: np.ndarray | None) -> float:
    """1 - the correlation of two looks, which brightness and contrast leave alone; 0 where nothing can be told."""
    if before is None or after is None:
        return 0.0
    a, b = (picture.astype(np.float64) - picture.mean() for picture in (before, after))
    if min(a.std(), b.std()) < _FLAT:
        return 0.0
    return float(1 - (a * b).mean() / (a.std() * b.std()))


def limit(frames: int, usual: float) -> float:
    """The difference up to which two looks are taken for the same face.

    Args:
      frames: from the one to the other.
      usual: what nine of ten differences of neighbouring frames of the clip stay below.
    """
    return float(min(max(USUAL, RATIO * usual) * np.sqrt(frames), MOST))


def turning(around: Sequence[float]) -> float:
    """The difference up to which a face may just be turning, from the differences of the steps before and after.

    A head that turns fast changes its look as much as another person would, but takes several steps; a switch takes
    one, or two where the pictures were blended. So two steps around it must be large as well.
    """
    return float(min(TURNING * sorted(around)[-2], MOST_TURNING)) if len(around) > 1 else 0.0
