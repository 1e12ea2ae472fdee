"""What a landmark source tells of one frame, and the interface of all sources.

Points and boxes are (x, y) in pixels of the frame, x to the right, y down, (0, 0) at its upper left corner, so that
the pixel that contains a point is found by rounding down.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

from tramp_jax.errors import UserError

MAX_SIDE = 1920  # pixels; finding a face needs no more, and an 8K frame would take seconds


class SourceError(UserError):
    """A landmark source cannot be used; the message says what is missing and how to get it."""

    def __init__(self, message: str):
        super().__init__("unusable_source", message)


@dataclasses.dataclass(frozen=True)
class Face:
    """One face in one frame.

    Attributes:
      box: (4,) float32, left, top, right, bottom.
      score: the source's confidence, 0 to 1.
      points: (P, 2) float32 in the source's layout.
      depth: (P,) float32, how far behind the image plane each point lies, in pixels; None where the source gives none.
      look: small picture by which a change of person is noticed (``appearance.look``); sources leave it out.
    """

    box: np.ndarray
    score: float
    points: np.ndarray
    depth: np.ndarray | None = None
    look: np.ndarray | None = None


class LandmarkSource(Protocol):
    """Finds the faces of every frame of one video.

    Called with the frames of a video in order, (H, W, 3) uint8 RGB, it yields the faces of each frame, one list a
    frame, possibly empty. It may carry what it saw from frame to frame, but nothing from one call to the next.

    Attributes:
      name: of the source, for messages and provenance.
      layout: a key of ``landmarks.LAYOUTS``.
      max_side: longest side in pixels of the frames it wants to see; larger ones are reduced. None: as they are.
      seconds: time spent in the last call by stage ("detect", "landmarks").
    """

    @property
    def name(self) -> str: ...

    @property
    def layout(self) -> str: ...

    @property
    def max_side(self) -> int | None: ...

    @property
    def seconds(self) -> dict[str, float]: ...

    def __call__(self, frames: Iterable[np.ndarray]) -> Iterator[list[Face]]: ...


def overlap(box: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (4,)."""
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    if (sides <= 0).any():
        return 0.0
    shared = float(np.prod(sides))
    return shared / (area(box) + area(other) - shared)


def area(box: np.ndarray) -> float:
    """Area of a box (4,) in pixels."""
    return float(np.prod(np.maximum(box[2:] - box[:2], 0)))


def enclosing(points: np.ndarray) -> np.ndarray:
    """The smallest box (4,) around points (P, 2)."""
    return np.concatenate([points.min(axis=0), points.max(axis=0)]).astype(np.float32)


def largest(faces: list[Face]) -> Face:
    """The face with the largest box."""
    return max(faces, key=lambda face: area(face.box))
