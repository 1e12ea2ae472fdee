"""iBUG's 68 points of drawn faces, from the curves they are drawn by."""

import numpy as np

from tramp_jax.synthetic import face, outlines

# iBUG's points on the left and on the midline of a drawn face: a share of the length of a curve, or a drawn point.
_EYE = {36: ("lid_left", 0), 37: ("lid_left", 1 / 3), 38: ("lid_left", 2 / 3), 39: ("lid_left", 1)}
_EYE |= {40: ("bag_left", 1 / 3), 41: ("bag_left", 2 / 3)}
_MOUTH = {48: 52, 49: 64, 50: 63, 51: 71, 57: 53, 58: 56, 59: 55, 60: 65, 61: 66, 62: 62, 66: 60, 67: 54}
_REST = {17: 43, 18: 48, 19: 49, 20: 51, 21: 50, 27: 72, 30: 86}
# fmt: off
MIRROR = [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), *range(45, 41, -1), 47, 46,
          *range(39, 35, -1), 41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65]
# fmt: on


def along(curve, share):
    """The point (n, 2) at a share of the length of a curve (n, m, 2)."""
    lengths = np.linalg.norm(np.diff(curve, axis=1), axis=2).cumsum(axis=1)
    found = []
    for line, length in zip(curve, lengths, strict=True):
        at = np.concatenate([[0], length])
        found.append([np.interp(share * at[-1], at, line[:, axis]) for axis in range(2)])
    return np.array(found)


def half68(points):
    """iBUG's points on the left of drawn faces (n, NUM_POINTS, 2) and on their midline; NaN on the right."""
    weights, where = outlines.curve_weights()
    curves = {name: weights[where[name]] @ points for name in ("lid_left", "bag_left")}
    made = np.full((len(points), 68, 2), np.nan)
    for target, (name, share) in _EYE.items():
        made[:, target] = along(curves[name], share)
    for target, own in (_MOUTH | _REST).items():
        made[:, target] = points[:, own]
    bridge = face.catmull_rom(4, 8) @ points[:, [72, 73, 74, 86]]
    made[:, 28], made[:, 29] = along(bridge, 1 / 3), along(bridge, 2 / 3)
    base = face.catmull_rom(4, 8) @ points[:, [77, 78, 79, 80]]  # from the wing of the nose to its middle
    made[:, 31], made[:, 32], made[:, 33] = along(base, 0.2), along(base, 0.65), points[:, 80]
    contour = points[:, [*face.CONTOUR_LEFT, 0]]
    for i in range(9):
        made[:, i] = along(contour, i / 8)
    return made


def ibug68(points):
    """iBUG's 68 points of drawn faces (n, NUM_POINTS, 2)."""
    flip = np.arange(face.NUM_POINTS)
    flip[face.LEFT], flip[face.RIGHT] = face.RIGHT, face.LEFT
    left, right = half68(points), half68(points[:, flip] * (-1, 1)) * (-1, 1)
    return np.where(np.isnan(left), right[:, MIRROR], left)
