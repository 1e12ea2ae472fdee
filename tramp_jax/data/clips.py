"""The clip record: one repetition of one expression by one subject, from any data set.

Points are (x, y) in pixels of the face crop, x to the right, y down. Colours are RGB, 0-255. Time is the first axis.
"""

import dataclasses

import cv2
import numpy as np

from tramp_jax.data import images
from tramp_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ClipInfo:
    """What is known about a clip without decoding it."""

    id: str  # unique within its data set
    subject: str  # the person; splits are over subjects, never over clips
    expression: str  # what the person was asked to do, such as "smile"
    score: float  # the clinician's rating, which is the regression target; a class number for classification
    num_frames: int
    group: str = ""  # the subject's group, such as a diagnosis; "" if unknown
    targets: tuple[tuple[str, float], ...] = ()  # other ratings for ``data.target``, such as (("symmetry", 3.0),)
    source: str = ""  # where the clip was read from (file, row or folder), for messages and provenance

    @property
    def place(self) -> str:
        """Where the clip comes from, for messages."""
        return f"{self.source} (clip {self.id})" if self.source else f"clip {self.id}"


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip of n frames, ready for temporal sampling."""

    info: ClipInfo  # identity and target
    landmarks: np.ndarray  # (n, P, 2) float32 points in pixels of the crop, in the order of ``layout``
    layout: str  # a key of ``landmarks.LAYOUTS``
    pixels: np.ndarray | None = None  # (n, 63, 3) uint8 RGB under the 63 selected points
    frames: tuple[bytes, ...] | np.ndarray | None = None  # n JPEG or PNG files as bytes, or (n, H, W, 3) uint8 RGB
    fps: float = 25.0  # frames per second
    # (n, P) float32, distance of each point behind the image plane in pixels; None if the detector does not estimate it
    depth: np.ndarray | None = None
    frame_size: tuple[int, int] | None = None  # (height, width) the landmarks were found in, if not that of ``frames``
    landmark_source: str = ""  # the name of what found the landmarks, such as "mediapipe"; "" if unknown


def encode_frame(frame_rgb: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB -> JPEG bytes of quality 95."""
    bgr = cv2.cvtColor(frame_rgb, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def decode_frame(frame: bytes | np.ndarray) -> np.ndarray:
    """An element of ``Clip.frames`` -> (H, W, 3) uint8 RGB. Raises UserError if the bytes are not a readable image."""
    if isinstance(frame, np.ndarray):
        return frame
    try:
        return images.decode(frame)
    except images.ImageError as fault:
        raise UserError(fault.kind, f"a frame {fault}; make its clip again") from fault
