"""Landmark layouts, and the 63 points of the method.

The 63 points are 7 groups of 9 (paper, trajectory extraction): left eye, left brow, right eye, right brow, nose,
lower lip, upper lip. "Left" and "right" are sides of the *image*: the left eye of this table is the subject's
right eye. The two mouth corners are in both lip groups, so 61 distinct points fill 63 slots.

InsightFace numbers its 106 points in the alphabetical order of Face++'s names for them (``FACEPP_106``), so one index
table serves both detectors. The names also say what each slot is: see ``SLOT_NAMES``.

The 68 points of iBUG, which dlib, OpenFace and py-feat find, do not include all 63: see ``from_ibug68``.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from tramp_jax.errors import UserError

NUM_LANDMARKS = 63
GROUP_SIZE = 9
GROUPS = ("left_eye", "left_brow", "right_eye", "right_brow", "nose", "lower_lip", "upper_lip")
# Parts of a face that share no landmark: both lips have the corners of the mouth.
REGIONS = (*GROUPS[:5], "mouth")
REGION_OF_GROUP = (0, 1, 2, 3, 4, 5, 5)

# The released code first drops the 33 contour points of InsightFace's 106 and then the two eye centres 34 and 88.
INSIGHTFACE_71 = tuple(i for i in range(33, 106) if i not in (34, 88))

# The names of Face++ on the left half and on the midline, sides as seen in the image. Each eye's "center" and "pupil"
# coincide in published landmarks; the released code drops the two centres and keeps the pupils.
_LEFT_HALF = f"""
contour_chin {" ".join(f"contour_left{k}" for k in range(1, 17))}
left_eye_bottom left_eye_center left_eye_left_corner left_eye_lower_left_quarter left_eye_lower_right_quarter
left_eye_pupil left_eye_right_corner left_eye_top left_eye_upper_left_quarter left_eye_upper_right_quarter
left_eyebrow_left_corner left_eyebrow_lower_left_quarter left_eyebrow_lower_middle left_eyebrow_lower_right_corner
left_eyebrow_lower_right_quarter left_eyebrow_upper_left_quarter left_eyebrow_upper_middle
left_eyebrow_upper_right_corner left_eyebrow_upper_right_quarter
mouth_left_corner mouth_lower_lip_bottom mouth_lower_lip_top mouth_upper_lip_bottom mouth_upper_lip_top
mouth_lower_lip_left_contour1 mouth_lower_lip_left_contour2 mouth_lower_lip_left_contour3
mouth_upper_lip_left_contour1 mouth_upper_lip_left_contour2 mouth_upper_lip_left_contour3 mouth_upper_lip_left_contour4
nose_bridge1 nose_bridge2 nose_bridge3 nose_middle_contour nose_tip
nose_left_contour1 nose_left_contour2 nose_left_contour3 nose_left_contour4 nose_left_contour5
"""


def _other_side(name: str) -> str:
    """The name of a landmark's mirror image."""
    return re.sub("left|right", lambda side: "right" if side[0] == "left" else "left", name)


FACEPP_106 = tuple(sorted({side for name in _LEFT_HALF.split() for side in (name, _other_side(name))}))
MIRROR_106 = tuple(FACEPP_106.index(_other_side(name)) for name in FACEPP_106)

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


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which points of a landmark detector are the 63 points and the nose tip."""

    num_points: int  # points per frame in this layout
    slots: np.ndarray  # (63,) indices, group-major
    nose_tip: int  # index of the nose tip (used for centring; not one of the 63)


def _insightface(stored: Sequence[int]) -> Layout:
    """The layout of arrays that hold the points ``stored`` of InsightFace's 106."""
    where = {point: i for i, point in enumerate(stored)}
    slots = [where[INSIGHTFACE_71[i]] for group in GROUPS for i in _SLOTS_71[group]]
    return Layout(len(stored), np.array(slots), where[INSIGHTFACE_71[_NOSE_TIP_71]])


def _points63() -> Layout:
    slots = np.arange(NUM_LANDMARKS)
    lower, upper = GROUPS.index("lower_lip") * GROUP_SIZE, GROUPS.index("upper_lip") * GROUP_SIZE
    slots[[upper, upper + 3]] = slots[[lower, lower + 4]]  # both groups' mouth corners are the same two points
    return Layout(NUM_LANDMARKS + 1, slots, NUM_LANDMARKS)


LAYOUTS = {
    "insightface106": _insightface(range(106)),
    "insightface73": _insightface(range(33, 106)),  # the published .npy files
    "insightface71": _insightface(INSIGHTFACE_71),
    "facepp106": _insightface(range(106)),  # in the order of FACEPP_106
    "points63": _points63(),  # the 63 slots in order, then the nose tip: any other detector or point tracker
}

# What each of the 63 slots is, e.g. SLOT_NAMES[7] = "left_eye_upper_left_quarter". The mouth corners occur twice.
SLOT_NAMES: tuple[str, ...] = tuple(FACEPP_106[i] for i in LAYOUTS["facepp106"].slots)
# Slot i of a face seen in a mirror is slot MIRROR[i] of the face itself, in the group of that name.
_GROUPED = [(GROUPS[slot // GROUP_SIZE], name) for slot, name in enumerate(SLOT_NAMES)]
MIRROR = np.array([_GROUPED.index((_other_side(group), _other_side(name))) for group, name in _GROUPED])
# Slots of some points, those on the left of the image first.
PUPILS = tuple(SLOT_NAMES.index(f"{side}_eye_pupil") for side in ("left", "right"))
LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS = (
    tuple(SLOT_NAMES.index(f"{side}_eye_{end}_corner") for end in ("left", "right")) for side in ("left", "right")
)

# The curves of iBUG's 68 points (counted from 0) on the left of the image and across its midline.
_LINES_68 = {
    "brow": (17, 18, 19, 20, 21),
    "upper_lid": (36, 37, 38, 39),
    "lower_lid": (36, 41, 40, 39),
    "bridge": (27, 28, 29, 30),
    "nostrils": (31, 32, 33, 34, 35),
    "upper_lip": (48, 49, 50, 51, 52, 53, 54),
    "lower_lip": (48, 59, 58, 57, 56, 55, 54),
    "upper_inner_lip": (60, 61, 62, 63, 64),
    "lower_inner_lip": (60, 67, 66, 65, 64),
}
# Where the 63 points are on these curves: 1.5 is halfway between a curve's second and third point. The right half
# follows by mirroring. A brow is one line in the 68 points, so its upper and lower edge coincide.
_ON_LINES_68 = {
    "left_eye_left_corner": ("upper_lid", 0),
    "left_eye_upper_left_quarter": ("upper_lid", 0.75),
    "left_eye_top": ("upper_lid", 1.5),
    "left_eye_upper_right_quarter": ("upper_lid", 2.25),
    "left_eye_right_corner": ("upper_lid", 3),
    "left_eye_lower_left_quarter": ("lower_lid", 0.75),
    "left_eye_bottom": ("lower_lid", 1.5),
    "left_eye_lower_right_quarter": ("lower_lid", 2.25),
    "left_eyebrow_left_corner": ("brow", 0),
    "left_eyebrow_upper_left_quarter": ("brow", 1),
    "left_eyebrow_lower_left_quarter": ("brow", 1),
    "left_eyebrow_upper_middle": ("brow", 2),
    "left_eyebrow_lower_middle": ("brow", 2),
    "left_eyebrow_upper_right_quarter": ("brow", 3),
    "left_eyebrow_lower_right_quarter": ("brow", 3),
    "left_eyebrow_upper_right_corner": ("brow", 4),
    "left_eyebrow_lower_right_corner": ("brow", 4),
    "nose_bridge1": ("bridge", 0),
    "nose_bridge3": ("bridge", 2),
    "nose_left_contour4": ("nostrils", 0.5),
    "nose_middle_contour": ("nostrils", 2),
    "mouth_left_corner": ("upper_lip", 0),
    "mouth_upper_lip_left_contour1": ("upper_lip", 2),
    "mouth_upper_lip_left_contour3": ("upper_inner_lip", 0),
    "mouth_upper_lip_left_contour4": ("upper_inner_lip", 1),
    "mouth_upper_lip_bottom": ("upper_inner_lip", 2),
    "mouth_lower_lip_left_contour1": ("lower_inner_lip", 1),
    "mouth_lower_lip_top": ("lower_inner_lip", 2),
    "mouth_lower_lip_left_contour2": ("lower_lip", 1),
    "mouth_lower_lip_left_contour3": ("lower_lip", 2),
}
NUM_IBUG = 68
_NOSE_TIP_68 = 30
# fmt: off
_MIRROR_68 = np.array([
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31,
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
])
# fmt: on


def on_curve(count: int, position: float, closed: bool = False) -> np.ndarray:
    """Weights (count,) of ``position``, from 0, on a smooth (Catmull-Rom) curve through ``count`` points."""
    start = min(int(position), count - 1 if closed else count - 2)
    t = position - start
    terms = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3)
    weights = np.zeros(count)
    for i, term in enumerate(terms, start - 1):
        weights[i % count if closed else min(max(i, 0), count - 1)] += term / 2
    return weights


def _on_line(line: str, position: float) -> np.ndarray:
    """Weights (68,) of a position on one of ``_LINES_68``."""
    points = _LINES_68[line]
    weights = np.zeros(NUM_IBUG)
    weights[list(points)] = on_curve(len(points), position)
    return weights


def _ibug_weights() -> np.ndarray:
    """Weights (64, 68) from iBUG's points to the layout "points63"."""
    weights = {name: _on_line(*place) for name, place in _ON_LINES_68.items()}
    lids = np.unique(_LINES_68["upper_lid"] + _LINES_68["lower_lid"])
    weights["left_eye_pupil"] = np.isin(np.arange(NUM_IBUG), lids) / len(lids)
    # The side of the nose: halfway from its bridge to the corner of the eye, and on towards the nostril.
    side = (weights["left_eye_right_corner"] + _on_line("bridge", 0.5)) / 2
    weights["nose_left_contour1"] = side
    weights["nose_left_contour2"] = (side + 2 * _on_line("nostrils", 0)) / 3
    rows = np.zeros((NUM_LANDMARKS + 1, NUM_IBUG))
    rows[-1, _NOSE_TIP_68] = 1
    for slot, name in enumerate(SLOT_NAMES):
        if name in weights:
            rows[slot], rows[MIRROR[slot]] = weights[name], weights[name][_MIRROR_68]
    return rows


_IBUG_WEIGHTS = _ibug_weights()


def from_ibug68(points: np.ndarray) -> np.ndarray:
    """Converts iBUG's 68 points to layout "points63": (n, 68, 2) -> (n, 64, 2) float64.

    | group | where its points are |
    |---|---|
    | eyes | on smooth curves through the points of each lid; the pupil is the mean of the eye's six points |
    | brows | the five points of a brow, each used twice: the 68 do not show how thick the brow is |
    | nose | bridge and base are points of the 68 or between two; the sides are between bridge, eye and nostril |
    | lips | the points of the outer and the inner contour |

    On drawn faces, the mean error is 0.6% of the distance between the pupils; at the brows' lower edge it is 8%.
    """
    return _IBUG_WEIGHTS @ points.astype(np.float64)


def layout_of(points: np.ndarray, name: str) -> Layout:
    """The layout called ``name``, after checking that ``points`` (n, P, 2) have its number of points."""
    if name not in LAYOUTS:
        raise UserError("bad_option", f"unknown landmark layout {name!r}; known: {', '.join(LAYOUTS)}")
    layout = LAYOUTS[name]
    if points.ndim != 3 or points.shape[1:] != (layout.num_points, 2):
        raise UserError(
            "bad_data", f"layout {name} has points of shape (frames, {layout.num_points}, 2), not {points.shape}"
        )
    return layout


def select(points: np.ndarray, name: str) -> np.ndarray:
    """The 63 points of the method: (n, P, 2) in layout ``name`` -> (n, 63, 2)."""
    return points[:, layout_of(points, name).slots]


def nose_tip(points: np.ndarray, name: str) -> np.ndarray:
    """The nose tip in every frame: (n, P, 2) in layout ``name`` -> (n, 1, 2)."""
    return points[:, [layout_of(points, name).nose_tip]]


def tilt(points: np.ndarray, name: str) -> float:
    """Angle in degrees between straight down and the direction from the eyes to the mouth, over points (n, P, 2).

    Positive if the mouth is to the right of the eyes in the picture; ±180 for an upside-down face.
    """
    x, y = _axes(points, name)[1].sum(axis=0)
    return float(np.degrees(np.arctan2(x, y)))


def is_mirrored(points: np.ndarray, name: str) -> bool:
    """Whether points (n, P, 2) are of a face whose left and right are exchanged, which no picture shows."""
    across, down = _axes(points, name)
    return bool((across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]).sum() < 0)


def _axes(points: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Directions (n, 2) from the left eye to the right one, and from the eyes to the mouth."""
    centres = select(points, name).reshape(-1, len(GROUPS), GROUP_SIZE, 2).mean(axis=2)
    left, right, lower, upper = (
        centres[:, GROUPS.index(group)] for group in ("left_eye", "right_eye", "lower_lip", "upper_lip")
    )
    return right - left, lower + upper - left - right


def pixel_values(frame_rgb: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Colour under each point: frame (H, W, 3) uint8 and points (63, 2) -> (63, 3) uint8.

    Each point takes the pixel that contains it; a point outside the frame takes the nearest border pixel.
    """
    height, width = frame_rgb.shape[:2]
    x = np.clip(points[:, 0].astype(int), 0, width - 1)
    y = np.clip(points[:, 1].astype(int), 0, height - 1)
    return frame_rgb[y, x]
