"""Carries points from frame to frame by optical flow (pyramidal Lucas-Kanade), starting from one detected frame.

This is smoother than detecting every frame independently, but small errors add up over a long clip, and points on
smooth skin slide. Use it for comparisons, or if a detector jitters.
"""

import time
from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from tramp_jax.preprocess.faces import Face, LandmarkSource, enclosing, largest

WINDOW = 1 / 8  # side of the window compared around a point, as a share of the face box's side
LEVELS = 3
# A point is lost if tracking it forward and back misses its start by more than this share of the face box's side.
MAX_ERROR = 0.01
MIN_KEPT = 0.6  # if a smaller share of the points is found, the face is detected again
_MIN_PAIRS = 3


class LucasKanade(LandmarkSource):
    """Follows the largest face that ``detector`` finds.

    A lost point (covered, or out of the picture) moves with the similarity that fits the motion of the other points.
    ``Face.score`` is the share of points that were found.
    """

    name = "lucas-kanade"

    def __init__(self, detector: LandmarkSource):
        self._detector = detector
        self.layout = detector.layout
        self.max_side = detector.max_side

    def __call__(self, frames: Iterable[np.ndarray]) -> Iterator[list[Face]]:
        """See ``LandmarkSource``."""
        self.seconds = {"detect": 0.0, "landmarks": 0.0}
        face: Face | None = None
        before: np.ndarray | None = None
        for frame in frames:
            grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
            started = time.perf_counter()
            if face is not None and before is not None:
                face = step(before, grey, face)
                self.seconds["landmarks"] += time.perf_counter() - started
            if face is None:
                started = time.perf_counter()
                found = next(iter(self._detector([frame])))
                self.seconds["detect"] += time.perf_counter() - started
                face = largest(found) if found else None
            before = grey
            yield [] if face is None else [face]


def step(before: np.ndarray, after: np.ndarray, face: Face) -> Face | None:
    """Moves a face to the next grey frame (H, W) uint8; None if too few points are found.

    ``before`` is the frame of ``face``. The face's depth is dropped, because flow in the picture does not show it.
    """
    side = float(np.max(face.box[2:] - face.box[:2]))
    window = max(int(WINDOW * side) | 1, 7)
    start = face.points.astype(np.float32)[:, None]
    moved, there = _flow(before, after, start, window)
    returned, back = _flow(after, before, moved, window)
    error = np.linalg.norm(returned - start, axis=-1).ravel()
    height, width = after.shape
    points = moved[:, 0]
    inside = ((points >= 0) & (points < (width, height))).all(axis=1)
    held = there & back & inside & np.isfinite(points).all(axis=1)
    held &= error <= max(MAX_ERROR * side, 0.5)
    if held.mean() < MIN_KEPT or held.sum() < _MIN_PAIRS:
        return None
    motion, _ = cv2.estimateAffinePartial2D(face.points[held], points[held], method=cv2.LMEDS)
    if motion is None:
        return None
    carried = face.points @ motion[:, :2].T + motion[:, 2]
    points = np.where(held[:, None], points, carried).astype(np.float32)
    return Face(_moved_box(face, points), float(held.mean()), points)


def _flow(before: np.ndarray, after: np.ndarray, points: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """The new positions of points (P, 1, 2), and whether (P,) they were found."""
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.01)
    moved, status, _ = cv2.calcOpticalFlowPyrLK(
        before, after, points, np.empty(0, np.float32), winSize=(window, window), maxLevel=LEVELS, criteria=criteria
    )
    return np.asarray(moved), np.asarray(status).ravel() == 1


def _moved_box(face: Face, points: np.ndarray) -> np.ndarray:
    """A box around the moved points, with margins in proportion to those of the face's box."""
    old, new = enclosing(face.points), enclosing(points)
    growth = np.maximum(new[2:] - new[:2], 1) / np.maximum(old[2:] - old[:2], 1)
    return np.concatenate(
        [new[:2] + (face.box[:2] - old[:2]) * growth, new[2:] + (face.box[2:] - old[2:]) * growth]
    ).astype(np.float32)
