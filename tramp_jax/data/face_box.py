"""The square of a video frame that becomes the face crop. Landmarks alone determine it."""

import dataclasses
import math

import cv2
import numpy as np

from tramp_jax.data.landmark_checks import CROP

CROP_FACTOR = 2.0  # side of a face crop / larger extent of the 63 points, which span about half of a published crop


@dataclasses.dataclass(frozen=True)
class Box:
    """A square of whole pixels in a video frame. Where it extends beyond the frame, the crop is black."""

    x: int  # of the pixel in its upper left corner
    y: int
    side: int  # length in pixels

    @property
    def scale(self) -> float:
        """Pixels of the crop per pixel of the frame."""
        return CROP / self.side

    def fits(self, width: int, height: int) -> bool:
        """Whether a face in this box can be in a frame of this size: centred inside it, and not much larger."""
        x, y = self.x + self.side / 2, self.y + self.side / 2
        return 0 <= x < width and 0 <= y < height and self.side <= 2 * CROP_FACTOR * max(width, height)

    def map(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) in pixels of the frame -> float32 in pixels of the 256×256 crop."""
        return ((points - (self.x, self.y)) * self.scale).astype(np.float32)

    def picture(self, frame_size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the part of the crop that shows the frame, in pixels of the crop.

        The rest of the crop is black. ``frame_size`` is (width, height).
        """
        ends = np.array([(0, 0), frame_size])
        left, top, right, bottom = np.clip(self.map(ends), 0, CROP).ravel().tolist()
        return left, top, right, bottom

    def cut(self, frame: np.ndarray) -> np.ndarray:
        """Crops a frame (H, W, 3) uint8 and resizes it to (256, 256, 3) uint8."""
        height, width = frame.shape[:2]
        left, top = max(self.x, 0), max(self.y, 0)
        right, bottom = min(self.x + self.side, width), min(self.y + self.side, height)
        if (left, top, right, bottom) == (self.x, self.y, self.x + self.side, self.y + self.side):
            square = frame[top:bottom, left:right]
        else:
            square = np.zeros((self.side, self.side, 3), np.uint8)
            if right > left and bottom > top:
                square[top - self.y : bottom - self.y, left - self.x : right - self.x] = frame[top:bottom, left:right]
        how = cv2.INTER_AREA if self.side > CROP else cv2.INTER_LINEAR
        return cv2.resize(square, (CROP, CROP), interpolation=how)


def face_box(points: np.ndarray) -> Box:
    """The square around points (n, 63, 2), in pixels of the frame, with CROP_FACTOR times their extent.

    It does not depend on the detector's layout, and it is the same for the whole clip, which preserves the motion.
    """
    low, high = points.min((0, 1)).astype(float), points.max((0, 1)).astype(float)
    side = max(1, math.ceil(CROP_FACTOR * (high - low).max()))
    x, y = np.round((low + high - side) / 2).astype(int)
    return Box(int(x), int(y), side)
