"""Points carried from frame to frame by optical flow (pyramidal Lucas-Kanade), started from one detected frame.

Smoother than a detector that looks at every frame for itself, but small errors add up over a long clip, and skin
without texture slides: for comparisons, and where a detector jitters.
"""

import time
from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from tramp_jax.preprocess.faces import Face, LandmarkSource, enclosing, largest

WINDOW = 1 / 8  # side of the window in which a point's surroundings are compared, in sides of the face's box
LEVELS = 3
# A point that, tracked there and back, misses its start by more than this (in sides of the face's box) is lost.
MAX_ERROR = 0.01
MIN_KEPT = 0.6  # share of the points that must hold; with fewer the face is lost and is detected anew
_MIN_PAIRS = 3


class LucasKanade:
    """Follows the largest face that ``detector`` finds.

    A point that is lost (covered, or out of the picture) is put where the motion of the others, a similarity, takes
    it. ``Face.score`` is the share of points that held.
    """

    name = "lucas-kanade"

    def __init__(self, detector: LandmarkSource):
        self._detector = detector
        self.layout = detector.layout
        self.max_side = detector.max_side
        self.seconds: dict[str, float] = {}

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
    """The face one frame on, or None where too few points hold.

    Args:
      before: (H, W) uint8 grey, in which ``face`` is known.
      after: the next frame.
      face: with points (P, 2); its depth is dropped, as flow in the picture cannot tell it.
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
    return Face(_same_frame(face, points), float(held.mean()), points)


def _flow(before: np.ndarray, after: np.ndarray, points: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Where points (P, 1, 2) went, and whether (P,) they were found."""
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.01)
    moved, status, _ = cv2.calcOpticalFlowPyrLK(
        before, after, points, np.empty(0, np.float32), winSize=(window, window), maxLevel=LEVELS, criteria=criteria
    )
    return np.asarray(moved), np.asarray(status).ravel() == 1


def _same_frame(face: Face, points: np.ndarray) -> np.ndarray:
    """The box around the moved points that stands off from them as the face's box did, in proportion."""
    old, new = enclosing(face.points), enclosing(points)
    growth = np.maximum(new[2:] - new[:2], 1) / np.maximum(old[2:] - old[:2], 1)
    return np.concatenate(
        [
            new[:2] + (face.box[:2] - old[:2]) * growth,
            new[2:] + (face.box[2:] - old[2:]) * growth,
        ]
    ).astype(np.float32)
