"""The curves drawn through the points of a face: its outlines, and the folds of its skin."""

import functools

import numpy as np

from tramp_jax.synthetic import face


def _arch(name: str) -> list[int]:
    """The points of ``face.DRAWN_ONLY[name]`` from left to right. Both halves end in the same point on the midline."""
    left, right = face.DRAWN_ONLY[name]
    return [*left, *right[-2::-1]]


_FACE_LINE = [*face.CONTOUR_LEFT, 0, *face.CONTOUR_RIGHT[::-1]]
# Smooth curves: name -> control points, pieces between neighbours, whether it is closed.
_CURVES: dict[str, tuple[list[int], int, bool]] = {
    "face": ([*_FACE_LINE, *_arch("forehead")[::-1]], 2, True),
    "jaw": (_FACE_LINE, 1, False),
    "hair": (_arch("hair"), 4, False),
    "hairline": (_arch("hairline"), 4, False),
    "locks_left": (list(face.DRAWN_ONLY["locks"][0]), 2, False),
    "locks_right": (list(face.DRAWN_ONLY["locks"][1]), 2, False),
    "ear_left": (list(face.DRAWN_ONLY["ear"][0]), 3, True),
    "ear_right": (list(face.DRAWN_ONLY["ear"][1]), 3, True),
    "neck": (list(face.DRAWN_ONLY["neck"].ravel()), 1, False),
    "teeth": (list(face.DRAWN_ONLY["teeth"].ravel()), 1, False),
    "brow_left": ([43, 44, 45, 47, 46, 50, 51, 49, 48], 3, True),
    "brow_right": ([101, 100, 99, 98, 97, 102, 103, 104, 105], 3, True),
    "lid_left": ([35, 41, 40, 42, 39], 4, False),
    "lid_right": ([93, 96, 94, 95, 89], 4, False),
    "bag_left": ([39, 37, 33, 36, 35], 4, False),
    "bag_right": ([89, 90, 87, 91, 93], 4, False),
    "upper_outer": ([52, 64, 63, 71, 67, 68, 61], 3, False),
    "upper_inner": ([69, 70, 62, 66, 65], 4, False),
    "lower_outer": ([61, 58, 59, 53, 56, 55, 52], 3, False),
    "lower_inner": ([65, 54, 60, 57, 69], 4, False),
    "nose": ([76, 77, 78, 79, 80, 85, 84, 83, 82], 2, False),
}


DEEPEST = 110  # the largest depth of a fold


@functools.cache
def curve_weights() -> tuple[np.ndarray, dict[str, slice]]:
    """Weights (M, NUM_POINTS) from face points to the points of all curves, and the slice of each curve."""
    rows, where, start = [], {}, 0
    for name, (points, steps, closed) in _CURVES.items():
        curve = face.catmull_rom(len(points), steps, closed)
        weights = np.zeros((len(curve), face.NUM_POINTS))
        weights[:, points] = curve
        rows.append(weights)
        where[name] = slice(start, start + len(weights))
        start += len(weights)
    return np.concatenate(rows), where


def fold_depths(motion: face.Motion, age: float) -> np.ndarray:
    """Depth (n, 5, 2), 0 to DEEPEST, of nasolabial, glabella, crow's-foot, forehead and lower-lid folds by side."""
    cheek = motion.strength("corner_pull", "nose_wrinkle") + 0.6 * motion.strength("cheek", "lip_stretch")
    squeeze = motion.strength("cheek") * (0.4 + np.minimum(motion.strength("close"), 1.5))
    folds = [
        12 + 34 * cheek,
        2 + 46 * motion.strength("brow_lower"),
        2 + 26 * squeeze,
        5 + 40 * motion.strength("brow_raise"),
        12 + 26 * motion.strength("cheek"),
    ]
    return np.clip(np.stack(folds, axis=1) * (0.5 + 0.7 * age), 0, DEEPEST)


def fold_lines(points: np.ndarray, depths: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Lines of skin folds, as [(points (n, m, 2), depths (n,))], from face points (n, P, 2) and depths (n, 5, 2)."""
    lines = []
    right, down = points[:, 93] - points[:, 35], points[:, 0] - points[:, 72]
    right, down = (axis / np.linalg.norm(axis, axis=1, keepdims=True) for axis in (right, down))
    for side, landmarks in enumerate(((77, 52, 46, 39, 35, 33, 49), (83, 61, 97, 89, 93, 87, 104))):
        out = right * (2 * side - 1)
        ala, corner, brow, inner, outer, low, mid = (points[:, k] for k in landmarks)
        nasolabial, glabella, crows_foot, forehead, lid = depths[..., side].T
        fold = [ala + 3 * out - 3 * down, (ala + corner) / 2 + 8 * out, corner + 7 * out + 2 * down]
        lines.append((fold, nasolabial))
        lines.append(([brow - 5 * out - 4 * down, brow - 4.5 * out + 2 * down, brow - 4 * out + 7 * down], glabella))
        for slope in (-0.6, 0.1, 0.8):
            lines.append(([outer + reach * out + slope * (reach + 1) * down for reach in (5, 9, 13)], crows_foot))
        for lift in (13, 21):
            lines.append(([brow - lift * down, (brow + mid) / 2 - (lift + 1) * down, mid - lift * down], forehead))
        lines.append(([inner + 5 * down + 2 * out, low + 5 * down, outer + 5 * down - 2 * out], lid))
    smooth = face.catmull_rom(3, 4)
    return [(smooth @ np.stack(line, axis=1), depth.astype(int)) for line, depth in lines]
