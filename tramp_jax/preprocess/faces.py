"""``Face``, one face in one frame, and ``LandmarkSource``, which finds them.

Points and boxes are (x, y) in pixels of the frame, x to the right, y down, with (0, 0) at its upper left corner. Round
down to find the pixel that contains a point.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

MAX_SIDE = 1920  # pixels; enough to find a face, while an 8K frame would take seconds


@dataclasses.dataclass(frozen=True)
class Face:
    """One face in one frame."""

    box: np.ndarray  # (4,) float32, left, top, right, bottom
    score: float  # the source's confidence, 0 to 1
    points: np.ndarray  # (P, 2) float32 in the source's layout
    depth: np.ndarray | None = None  # (P,) float32, pixels behind the image plane; None if the source has no depth
    look: np.ndarray | None = None  # reveals a change of person, see ``appearance.look``; not set by sources


class LandmarkSource:
    """Finds the faces of every frame of one video. The base class of all landmark sources.

    Attributes:
      name: name of the source, for messages and provenance.
      layout: a key of ``landmarks.LAYOUTS``.
      max_side: longest side in pixels of the frames it accepts; larger frames are shrunk first. None for any size.
      finds_faces: whether it can find a face in any single picture.
      seconds: time spent in the last call, by stage ("detect", "landmarks").
    """

    name: str
    layout: str
    max_side: int | None = None
    finds_faces = False
    seconds: dict[str, float]

    def __call__(self, frames: Iterable[np.ndarray]) -> Iterator[list[Face]]:
        """Takes the frames of a video in order, (H, W, 3) uint8 RGB. Yields a list of faces, possibly empty, for each.

        A source may keep state from frame to frame, but not from call to call.
        """
        raise NotImplementedError


def overlap(box: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (4,)."""
    both = shared(box, other)
    return both / (area(box) + area(other) - both) if both else 0.0


def shared(box: np.ndarray, other: np.ndarray) -> float:
    """Area in pixels of the intersection of two boxes (4,)."""
    return area(np.concatenate([np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])]))


def area(box: np.ndarray) -> float:
    """Area of a box (4,) in pixels."""
    return float(np.prod(np.maximum(box[2:] - box[:2], 0)))


def enclosing(points: np.ndarray) -> np.ndarray:
    """The smallest box (4,) around points (P, 2)."""
    return np.concatenate([points.min(axis=0), points.max(axis=0)]).astype(np.float32)


def largest(faces: list[Face]) -> Face:
    """The face with the largest box."""
    return max(faces, key=lambda face: area(face.box))
