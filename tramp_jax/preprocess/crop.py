"""Chooses the square of the frame that becomes the face crop of a clip.

All frames of a clip share one square. The crop then does not jitter with the detector's boxes, head motion stays
visible, and a pixel has the same length in every frame, as the trajectory stream assumes. Whether the published crops
were made per frame or per clip is unknown.
"""

from collections.abc import Sequence

import numpy as np

from tramp_jax.data.face_box import Box
from tramp_jax.data.landmark_checks import CROP

# Side of the square relative to the longer side of the face's box. The frame stream crops 224 of 256 pixels; with this
# margin, it loses at most a sliver of the face. Synthetic faces have the same size in their crops.
MARGIN = 1.3


def choose(boxes: Sequence[np.ndarray], frame_size: tuple[int, int]) -> tuple[Box, tuple[str, ...]]:
    """Chooses one square for the face's boxes (4,) of all frames. Returns it with warnings.

    The square is centred on the median box, with ``MARGIN`` times its longer side. If the face leaves that square in
    any frame, the square grows until it holds every box. If it sticks out of the frame (width, height) but would fit,
    it moves inside.
    """
    edges = np.stack(boxes).astype(np.float64)
    centre = np.median((edges[:, :2] + edges[:, 2:]) / 2, axis=0)
    usual = MARGIN * float(np.median((edges[:, 2:] - edges[:, :2]).max(axis=1)))
    low = np.minimum(centre - usual / 2, edges[:, :2].min(axis=0))
    high = np.maximum(centre + usual / 2, edges[:, 2:].max(axis=0))
    side = float((high - low).max())
    # The tolerance keeps rounding errors from enlarging or moving a square that already has whole pixels.
    whole = max(int(np.ceil(side - 1e-6)), 1)
    corner = np.floor((low + high) / 2 - side / 2 + 1e-6).astype(int)
    room = np.array(frame_size) - whole  # negative along an axis where the square does not fit into the frame
    x, y = np.where(room >= 0, np.clip(corner, 0, room), corner).tolist()
    box = Box(x, y, whole)
    warnings = []
    if side > 1.5 * usual:
        warnings.append(
            f"the head moves so much that the crop is {side / usual:.1f} times as wide as usual, and the face in it "
            "that much smaller"
        )
    if box.side < CROP / 2:
        warnings.append(f"the face is small: its crop of {box.side} pixels was enlarged to {CROP}")
    return box, tuple(warnings)
