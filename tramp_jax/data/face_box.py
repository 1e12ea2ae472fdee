"""The square of a video frame that becomes the face crop, computed from landmarks alone."""

import dataclasses
import math

import numpy as np

from tramp_jax.data.clip_files import FRAME_SIZE

CROP_FACTOR = 2.0  # side of a face crop / larger extent of the 63 points, which span about half of a published crop


@dataclasses.dataclass(frozen=True)
class Box:
    """A square of whole pixels in a video frame. It may extend beyond the frame.

    Attributes:
      x, y: the pixel in its upper left corner.
      side: its length in pixels.
    """

    x: int
    y: int
    side: int

    def fits(self, width: int, height: int) -> bool:
        """Whether landmarks with this box can lie in a frame of this size."""
        x, y = self.x + self.side / 2, self.y + self.side / 2
        return 0 <= x < width and 0 <= y < height and self.side <= 2 * CROP_FACTOR * max(width, height)

    def map(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) in pixels of the frame -> float32 in pixels of the 256×256 crop."""
        return ((points - (self.x, self.y)) * (FRAME_SIZE / self.side)).astype(np.float32)


def face_box(points: np.ndarray) -> Box:
    """The square around points (n, 63, 2), in pixels of the frame, with CROP_FACTOR times their extent.

    It does not depend on the detector's layout, and it is the same for the whole clip, which preserves the motion.
    """
    low, high = points.min((0, 1)).astype(float), points.max((0, 1)).astype(float)
    side = max(1, math.ceil(CROP_FACTOR * (high - low).max()))
    x, y = np.round((low + high - side) / 2).astype(int)
    return Box(int(x), int(y), side)
