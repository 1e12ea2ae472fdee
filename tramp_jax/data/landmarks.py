"""Landmark layouts, the 63 points of the method, and how they are centred.

The 63 points are 7 groups of 9 (paper, trajectory extraction): left eye, left brow, right eye, right brow, nose,
lower lip, upper lip. "Left" and "right" are sides of the *image*: the left eye of this table is the subject's
right eye. The two mouth corners stand in both lip groups, so 61 distinct points fill 63 slots.
"""

import dataclasses

import numpy as np

NUM_LANDMARKS = 63
GROUP_SIZE = 9
GROUPS = ("left_eye", "left_brow", "right_eye", "right_brow", "nose", "lower_lip", "upper_lip")

# The released code first drops the 33 contour points of InsightFace's 106 and then the two eye centres 34 and 88.
INSIGHTFACE_71 = tuple(i for i in range(33, 106) if i not in (34, 88))

# Indices into the remaining 71 points, in the order the model sees them.
_SLOTS_71 = {
    "left_eye": (0, 1, 2, 3, 4, 5, 6, 7, 8),
    "left_brow": (9, 10, 11, 12, 13, 14, 15, 16, 17),
    "right_eye": (53, 54, 55, 56, 57, 58, 59, 60, 61),
    "right_brow": (62, 63, 64, 65, 66, 67, 68, 69, 70),
    "nose": (38, 40, 41, 42, 44, 46, 50, 48, 47),
    "lower_lip": (18, 20, 26, 23, 27, 24, 25, 22, 21),
    "upper_lip": (18, 29, 33, 27, 35, 36, 28, 32, 31),
}
_NOSE_TIP_71 = 52

# Slot i of a face seen in a mirror is slot MIRROR[i] of the face itself.
# fmt: off
MIRROR = np.array([
    18, 23, 21, 20, 22, 19, 24, 26, 25,  31, 30, 29, 27, 28, 35, 34, 32, 33,
    0, 5, 3, 2, 4, 1, 6, 8, 7,  12, 13, 11, 10, 9, 16, 17, 15, 14,
    36, 37, 44, 43, 42, 41, 40, 39, 38,  49, 48, 47, 46, 45, 53, 52, 51, 50,
    57, 56, 55, 54, 62, 61, 60, 59, 58,
])
# fmt: on


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the 63 points and the nose tip stand among the points of one landmark detector.

    Attributes:
      num_points: points per frame in this layout.
      slots: (63,) indices, group-major.
      nose_tip: index of the tip of the nose (used for centring; not one of the 63).
    """

    num_points: int
    slots: np.ndarray
    nose_tip: int


def _insightface(offset_106: tuple[int, ...]) -> Layout:
    where = {point: i for i, point in enumerate(offset_106)}
    slots = [where[INSIGHTFACE_71[i]] for group in GROUPS for i in _SLOTS_71[group]]
    return Layout(len(offset_106), np.array(slots), where[INSIGHTFACE_71[_NOSE_TIP_71]])


LAYOUTS = {
    "insightface106": _insightface(tuple(range(106))),
    "insightface73": _insightface(tuple(range(33, 106))),  # the published .npy files
    "insightface71": _insightface(INSIGHTFACE_71),
}


def layout_of(points: np.ndarray, name: str) -> Layout:
    """The layout called ``name``, after checking that ``points`` (n, P, 2) has its number of points.

    Raises:
      ValueError: unknown layout, or points of another shape.
    """
    if name not in LAYOUTS:
        raise ValueError(f"unknown landmark layout {name!r}; known: {', '.join(LAYOUTS)}")
    layout = LAYOUTS[name]
    if points.ndim != 3 or points.shape[1:] != (layout.num_points, 2):
        raise ValueError(f"layout {name} has points of shape (frames, {layout.num_points}, 2), not {points.shape}")
    return layout


def select(points: np.ndarray, name: str) -> np.ndarray:
    """The 63 points of the method: (n, P, 2) in layout ``name`` -> (n, 63, 2)."""
    return points[:, layout_of(points, name).slots]


def nose_tip(points: np.ndarray, name: str) -> np.ndarray:
    """The tip of the nose in every frame: (n, P, 2) in layout ``name`` -> (n, 1, 2)."""
    return points[:, [layout_of(points, name).nose_tip]]


def pixel_values(frame_rgb: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Colour under each point: frame (H, W, 3) uint8 and points (63, 2) -> (63, 3) uint8.

    The pixel is the one that contains the point; points outside the frame take the nearest border pixel.
    """
    height, width = frame_rgb.shape[:2]
    x = np.clip(points[:, 0].astype(int), 0, width - 1)
    y = np.clip(points[:, 1].astype(int), 0, height - 1)
    return frame_rgb[y, x]
