"""The clip record: one repetition of one expression by one subject, whatever data set it came from.

Everything downstream of this record knows no data set. Conventions: points are (x, y) in pixels of the face
crop, x to the right, y down; colours are RGB, 0-255; time runs along the first axis.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np

from tramp_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ClipInfo:
    """What is known of a clip without decoding it.

    Attributes:
      id: unique within its data set.
      subject: the person; splits are made over subjects, never over clips.
      expression: the task that was asked for, e.g. "smile".
      score: the clinician's rating (the regression target; a class number for classification).
      num_frames: length of the clip in frames.
      group: of people the subject belongs to, e.g. a diagnosis; "" where unknown.
      targets: other ratings of the clip by name, e.g. (("symmetry", 3.0),), which ``data.target`` can choose.
      source: the file or folder that the clip was read from, for messages and provenance.
    """

    id: str
    subject: str
    expression: str
    score: float
    num_frames: int
    group: str = ""
    targets: tuple[tuple[str, float], ...] = ()
    source: str = ""


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip, ready for temporal sampling.

    Attributes:
      info: identity and target.
      landmarks: (n, P, 2) float32 points in pixels of the crop, in the order of ``layout``.
      layout: a key of ``landmarks.LAYOUTS``.
      pixels: (n, 63, 3) uint8 RGB under the 63 selected points, or None where there are no frames.
      frames: n image files (JPEG or PNG) as bytes, or (n, H, W, 3) uint8 RGB, or None for a trajectory-only data set.
      fps: frames per second.
      depth: (n, P) float32, how far behind the image plane each point lies, in pixels; None where the landmark
        detector gives none.
    """

    info: ClipInfo
    landmarks: np.ndarray
    layout: str
    pixels: np.ndarray | None = None
    frames: tuple[bytes, ...] | np.ndarray | None = None
    fps: float = 25.0
    depth: np.ndarray | None = None


class ClipSource(Protocol):
    """A random-access collection of clips whose metadata can be read without touching the frames."""

    @property
    def infos(self) -> Sequence[ClipInfo]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Clip: ...


@dataclasses.dataclass(frozen=True)
class Split:
    """The clips of a source that belong to one part of the data, by their ``indices``."""

    source: ClipSource
    indices: Sequence[int]

    @property
    def infos(self) -> list[ClipInfo]:
        return [self.source.infos[i] for i in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Clip:
        return self.source[self.indices[index]]


def encode_frame(frame_rgb: np.ndarray, quality: int = 95) -> bytes:
    """(H, W, 3) uint8 RGB -> JPEG bytes."""
    ok, buffer = cv2.imencode(".jpg", cv2.cvtColor(frame_rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError(f"cannot encode a frame of shape {frame_rgb.shape} and type {frame_rgb.dtype} as JPEG")
    return buffer.tobytes()


def decode_frame(frame: bytes | np.ndarray) -> np.ndarray:
    """An element of ``Clip.frames`` -> (H, W, 3) uint8 RGB.

    Raises:
      UserError: bytes that are no readable image.
    """
    if isinstance(frame, np.ndarray):
        return frame
    image = cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError("bad_data", "a frame is not a readable image; re-create the clip it belongs to")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
