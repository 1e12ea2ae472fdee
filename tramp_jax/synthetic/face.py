"""Anatomy of a drawn face: its 106 landmarks at rest, how facial actions move them, and how the head turns.

Head coordinates: origin between the eyes, x to the right of the image, y down, z towards the camera, in pixels of
the 256-pixel crop. Points 0-105 are InsightFace's landmarks. The points after them are only drawn (hair, ears,
forehead, teeth). Tables hold the image-left half of the face, with x counted outwards from the midline; the right half
is its mirror image.
"""

import dataclasses
import functools
import itertools

import numpy as np

from tramp_jax.data.landmarks import MIRROR_106, on_curve

IMAGE_SIZE = 256
EYE_LINE = (128.0, 106.0)  # image position of the origin of an upright head at rest

# Left and right contour from temple to chin (point 0), then the other mirrored pairs.
CONTOUR_LEFT = (1, *range(9, 17), *range(2, 9))
CONTOUR_RIGHT = tuple(MIRROR_106[point] for point in CONTOUR_LEFT)
_PAIRS = {left: right for left, right in enumerate(MIRROR_106) if 33 <= left < right}
# fmt: off
# Half face at rest: landmark on the image-left or on the midline -> (outward x, y).
_HALF = {
    33: (33, 5.2), 34: (33, -.6), 35: (46.5, -1), 36: (40, 3.9), 37: (26, 4.2), 38: (33, -.6), 39: (19.5, 1.6),
    40: (33, -6.6), 41: (40.3, -5.2), 42: (25.7, -4.4),
    43: (56, -13.5), 44: (47, -18.8), 45: (36.5, -20), 47: (26, -18), 46: (16.5, -15.2), 50: (16, -21.6),
    51: (26, -24.4), 49: (36.5, -25.6), 48: (47.5, -22.8),
    52: (26, 70), 54: (11.5, 70.9), 55: (17.5, 76.2), 56: (9, 79.8), 63: (6, 62.8), 64: (16, 65.6), 65: (22.5, 70.2),
    66: (11.5, 70.2), 53: (0, 80.8), 60: (0, 71.2), 62: (0, 70.4), 71: (0, 64.6),
    75: (8.5, 4), 76: (11.5, 31), 77: (16, 40), 78: (11, 46), 79: (5, 47), 72: (0, -3), 73: (0, 12), 74: (0, 25),
    80: (0, 49), 86: (0, 38),
}
_JAW = ((72, -12), (73, 8), (71.5, 32), (66, 60), (54, 87), (33, 107), (0, 115))  # contour, temple to chin
# fmt: on

# Points that are only drawn, as (outward x, y, z). A point on the midline (x = 0) exists twice.
EXTRA = {
    "forehead": ((71, -36, 14), (60, -62, 22), (33, -77, 30), (0, -81, 33)),
    "hairline": ((75, -6, 4), (69, -36, 16), (54, -58, 25), (27, -68, 32), (0, -70, 34)),
    "hair": ((76, 0, -4), (85, -38, -8), (74, -72, -4), (42, -97, 4), (0, -105, 6)),
    "locks": ((88, 30, -25), (90, 70, -25), (80, 112, -25)),
    "ear": ((71, -8, -2), (79, -13, -8), (83, -2, -10), (80, 16, -8), (72, 27, -2)),
    "neck": ((50, 70, -20), (45, 100, -22)),
    "teeth": ((24, 58, 36), (24, 70.4, 36), (24, 84, 36), (0, 59, 44), (0, 71.2, 44), (0, 85, 44)),
}
NUM_LANDMARKS = 106
_NUM_EXTRA = sum(len(rows) for rows in EXTRA.values())
LEFT = np.array([*CONTOUR_LEFT, *_PAIRS, *range(NUM_LANDMARKS, NUM_LANDMARKS + _NUM_EXTRA)])
RIGHT = np.array([*CONTOUR_RIGHT, *_PAIRS.values(), *range(NUM_LANDMARKS + _NUM_EXTRA, NUM_LANDMARKS + 2 * _NUM_EXTRA)])
NUM_POINTS = NUM_LANDMARKS + 2 * _NUM_EXTRA
_FIRST = itertools.accumulate((len(rows) for rows in EXTRA.values()), initial=NUM_LANDMARKS)
# Name in EXTRA -> (2, rows) indices of its points on the left and on the right.
DRAWN_ONLY = {
    name: first + np.arange(len(rows)) + [[0], [_NUM_EXTRA]]
    for (name, rows), first in zip(EXTRA.items(), _FIRST, strict=False)
}

# Displacement of the image-left half by one unit of each facial action: landmark -> (outward, down) in pixels.
# fmt: off
_ACTIONS: dict[str, dict[int, tuple[float, float]]] = {
    "brow_raise": {43: (0, -3.5), 44: (0, -6), 45: (0, -7), 46: (0, -7), 47: (0, -7.5), 48: (0, -6), 49: (0, -7.5),
                   50: (0, -7), 51: (0, -7.5), 40: (0, -1), 41: (0, -.8), 42: (0, -.8)},
    "brow_lower": {43: (-.5, 1), 44: (-1.2, 3), 45: (-2.5, 5.5), 46: (-4.5, 6.5), 47: (-3.6, 6.5), 48: (-1.2, 2.5),
                   49: (-2.5, 4.5), 50: (-4.8, 6.5), 51: (-3.6, 6), 40: (0, 1.2), 41: (0, .8), 42: (0, 1)},
    "cheek": {33: (0, -2.8), 36: (0, -2.4), 37: (0, -2), 35: (-.8, -.4), 39: (0, -.3), 76: (.4, -.5), 77: (.6, -.6)},
    "corner_pull": {52: (9, -8), 65: (8.4, -7.4), 64: (6, -4), 63: (2, -1.2), 66: (3.6, -2.2), 54: (3.6, -1.2),
                    55: (6.5, -4.6), 56: (3.2, -1.6), 77: (1.6, -.8), 76: (.8, -.6), 78: (.8, -.4),
                    **dict.fromkeys((13, 14, 15, 16), (1.2, -.8))},
    "lips_part": {62: (0, -2.6), 66: (.2, -2.4), 63: (0, -1.8), 64: (.2, -1.4), 71: (0, -1.8),
                  60: (0, 4.4), 54: (.3, 3.8), 53: (0, 3.6), 56: (.2, 3.4), 55: (.2, 2.6)},
    "lip_stretch": {52: (8, 2), 65: (7.6, 2), 64: (5.5, .6), 63: (2, 0), 66: (3.8, .2), 54: (3.8, 1), 55: (6, 2.4),
                    56: (3, 1.4), **dict.fromkeys((15, 16, 2, 3, 4), (1.4, .4))},
    "corner_depress": {52: (1, 4), 65: (.9, 3.6), 64: (.5, 1.4), 55: (.8, 2), 54: (.2, .8), 66: (.2, .8)},
    "lip_press": {63: (-.4, 1.4), 64: (-.3, 1), 71: (0, 1.4), 56: (-.3, -1.6), 55: (-.3, -1.2), 53: (0, -1.6),
                  52: (-1.4, 0), 65: (-1.2, 0)},
    "nose_wrinkle": {76: (.3, -2.4), 77: (1, -2), 78: (.4, -1.4), 79: (0, -.8), 63: (0, -1.8), 64: (.4, -1.4),
                     71: (0, -1.2), 75: (-.4, 1)},
    "jaw": {0: (0, 10), 8: (0, 10), 7: (0, 9), 6: (0, 8), 5: (0, 6.5), 4: (0, 5), 3: (0, 3.5), 2: (0, 2), 60: (0, 8),
            54: (0, 7), 53: (0, 8.5), 56: (0, 8.5), 55: (0, 6.5), 52: (-.6, 3), 65: (-.5, 3), 62: (0, 1), 66: (0, 1)},
    "close": {},  # not linear: the upper lid moves to the lower lid, see ``express``
}
# fmt: on
ACTIONS = tuple(_ACTIONS)
_LIDS = np.array([(40, 33), (41, 36), (42, 37), (94, 87), (96, 91), (95, 90)])  # upper, lower
_LIPS = np.array([(62, 60), (66, 54), (70, 57)])  # inner upper, inner lower
_PUPILS = np.array([34, 38, 88, 92])
_NECK = np.array([0.0, 45.0, 0.0])  # the head turns about a point between the ears and the neck


@dataclasses.dataclass(frozen=True)
class Motion:
    """The motion of a face in a clip of n frames."""

    actions: np.ndarray  # (n, len(ACTIONS), 2) strength of every action on the image-left and image-right side
    gaze: np.ndarray  # (n, 2) displacement of the pupils in pixels
    pose: np.ndarray  # (n, 6) yaw, pitch, roll (radians), log scale, shift in x and y (pixels)

    def strength(self, *names: str) -> np.ndarray:
        """(n, 2) sum of the named actions on each side, at least 0."""
        return np.maximum(sum(self.actions[:, ACTIONS.index(name)] for name in names), 0)


def _action_fields() -> np.ndarray:
    """(len(ACTIONS), 2 sides, NUM_POINTS, 2) displacement per unit. Each side moves midline points by half."""
    fields = np.zeros((len(ACTIONS), 2, NUM_POINTS, 2))
    mirror = dict(zip(LEFT.tolist(), RIGHT.tolist(), strict=True))
    for action, moves in enumerate(_ACTIONS.values()):
        for point, (outward, down) in moves.items():
            if point in mirror:
                fields[action, 0, point] = -outward, down
                fields[action, 1, mirror[point]] = outward, down
            else:
                fields[action, :, point] = 0, down / 2
    # The lower teeth move with the jaw; the upper teeth stay with the skull.
    teeth = DRAWN_ONLY["teeth"]
    fields[ACTIONS.index("jaw"), :, [*teeth[0, [2, 5]], *teeth[1, [2, 5]]], 1] = 5
    return fields


def _depth(points: np.ndarray) -> np.ndarray:
    """z of landmarks (106, 2): an ellipsoidal head, with the eyes set back and nose and lips in front."""
    x, y = points[:, 0], points[:, 1]
    z = 62 * np.sqrt(np.maximum(0.05, 1 - (x / 84) ** 2 - ((y - 15) / 135) ** 2))
    offset = np.zeros(NUM_LANDMARKS)
    offset[33:43] = offset[87:97] = -7
    offset[52:72] = 5
    offset[72:87] = np.interp(y[72:87], (-5, 38, 49), (2, 24, 8))
    offset[[75, 76, 77, 78, 81, 82, 83, 84]] = 1
    return z + offset


def _contour(jaw_width: float, chin: float) -> np.ndarray:
    """(17, 2) half contour from temple to chin: the control points, resampled at equal distances."""
    corners = np.array(_JAW, float)
    corners[3:6, 0] *= jaw_width
    corners[4:, 1] += chin * np.array([0.4, 0.8, 1.0])
    fine = catmull_rom(len(corners), 16) @ corners
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(fine, axis=0), axis=1))])
    at = np.linspace(0, length[-1], 17)
    return np.stack([np.interp(at, length, fine[:, 0]), np.interp(at, length, fine[:, 1])], axis=1)


def draw_neutral(rng: np.random.Generator) -> np.ndarray:
    """Draws the resting face of a random person: (NUM_POINTS, 3) in head coordinates."""

    def about(mean: float, sd: float) -> float:
        return mean + sd * float(np.clip(rng.normal(), -2, 2))

    half = np.zeros((NUM_POINTS, 2))
    half[list(_HALF)] = list(_HALF.values())
    half[[*CONTOUR_LEFT, 0]] = _contour(about(1, 0.05), about(0, 3))
    eye, brow, mouth, nose = (list(range(a, b)) for a, b in ((33, 43), (43, 52), (52, 72), (72, 87)))
    centre = half[38].copy()
    half[eye] = (half[eye] - centre) * (about(1, 0.07), about(1, 0.13)) + centre + (about(0, 1.6), about(0, 1))
    half[eye, 1] += about(0, 0.05) * (half[eye, 0] - centre[0])
    middle = np.interp(half[brow, 0], (16, 26, 36.5, 47, 56), (-18.4, -21.2, -22.8, -20.8, -13.5))
    half[brow, 1] = middle + (half[brow, 1] - middle) * about(1, 0.22) + about(0, 2)
    half[brow, 1] += about(0, 1.4) * np.cos((half[brow, 0] - 36) / 9) + about(0, 0.05) * (half[brow, 0] - 36)
    half[nose] = half[nose] * (about(1, 0.11), about(1, 0.05))
    lip = half[mouth, 1] - 70.5
    half[mouth, 1] = 70.5 + lip * np.where(lip < 0, about(1, 0.2), about(1, 0.2)) + about(0, 1.8)
    half[mouth, 0] *= about(1, 0.08)
    half[[52, 65], 1] += about(0, 0.8)

    drawn = np.array([row for rows in EXTRA.values() for row in rows], float)
    drawn[DRAWN_ONLY["hairline"][0] - NUM_LANDMARKS, 1] += about(0, 5) * np.array([0, 0.4, 0.8, 1, 1])
    neutral = np.zeros((NUM_POINTS, 3))
    neutral[:NUM_LANDMARKS, :2] = half[:NUM_LANDMARKS]
    neutral[LEFT[-_NUM_EXTRA:]] = drawn
    width, height = about(1, 0.035), about(1, 0.03)
    neutral[:, :2] *= width, height
    neutral[RIGHT] = neutral[LEFT]
    neutral[LEFT, 0] *= -1
    neutral[:NUM_LANDMARKS, :2] += _asymmetry(neutral[:NUM_LANDMARKS, :2], rng)
    neutral[:NUM_LANDMARKS, 2] = _depth(neutral[:NUM_LANDMARKS, :2])
    return neutral


def _asymmetry(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smooth displacement (P, 2) of about half a pixel that differs between the sides, as in any real face."""
    wave = rng.normal(size=(3, 2)) / 45
    phase = rng.uniform(0, 2 * np.pi, 3)
    return np.sin(points @ wave.T + phase) @ rng.normal(0, 0.35, (3, 2))


_FIELDS = _action_fields()


def express(neutral: np.ndarray, motion: Motion) -> np.ndarray:
    """The face in every frame, in head coordinates: neutral (NUM_POINTS, 3) -> (n, NUM_POINTS, 3)."""
    points = np.repeat(neutral[None], len(motion.actions), axis=0)
    points[..., :2] += np.tensordot(motion.actions, _FIELDS, axes=2)
    points[:, _PUPILS, :2] += motion.gaze[:, None]
    upper, lower = _LIDS.T
    close = np.clip(np.repeat(motion.strength("close"), 3, axis=1), 0, 1)
    # The lower lid meets the upper one a little above its resting line.
    points[:, lower, 1] -= 1.2 * close
    points[:, upper, 1] += close * (points[:, lower, 1] - points[:, upper, 1])
    points[:, upper, 1] = np.minimum(points[:, upper, 1], points[:, lower, 1])
    lid_top, lid_bottom = points[:, [40, 40, 94, 94], 1], points[:, [33, 33, 87, 87], 1]
    points[:, _PUPILS, 1] = np.clip(points[:, _PUPILS, 1], lid_top, lid_bottom)
    upper, lower = _LIPS.T
    points[:, lower, 1] = np.maximum(points[:, lower, 1], points[:, upper, 1] + 0.4)
    return points


def move(neutral: np.ndarray, motion: Motion) -> np.ndarray:
    """Image points in every frame, without perspective: neutral (NUM_POINTS, 3) -> (n, NUM_POINTS, 2) in pixels."""
    linear, offset = affine(motion.pose)
    return express(neutral, motion) @ linear.swapaxes(1, 2) + offset[:, None]


def depth(neutral: np.ndarray, motion: Motion) -> np.ndarray:
    """Distance of each point behind the centre of rotation of the head: (n, NUM_POINTS) in pixels of the crop."""
    towards = _turned(motion.pose)[:, 2]
    return -((express(neutral, motion) - _NECK) @ towards[:, :, None])[..., 0]


def affine(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Linear part (n, 2, 3) and offset (n, 2) of the map from head to image coordinates in pose (n, 6)."""
    *_, shift_x, shift_y = pose.T
    linear = _turned(pose)[:, :2]
    offset = np.stack([EYE_LINE[0] + shift_x, EYE_LINE[1] + shift_y], axis=-1) + _NECK[:2] - linear @ _NECK
    return linear, offset


def _turned(pose: np.ndarray) -> np.ndarray:
    """Rotation times scale (n, 3, 3) of head coordinates in pose (n, 6)."""
    yaw, pitch, roll, log_scale, *_ = pose.T
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)

    def matrix(*rows: np.ndarray) -> np.ndarray:
        return np.stack(rows, axis=-1).reshape(-1, 3, 3)

    turn = matrix(np.cos(yaw), zero, np.sin(yaw), zero, one, zero, -np.sin(yaw), zero, np.cos(yaw))
    nod = matrix(one, zero, zero, zero, np.cos(pitch), -np.sin(pitch), zero, np.sin(pitch), np.cos(pitch))
    tilt = matrix(np.cos(roll), -np.sin(roll), zero, np.sin(roll), np.cos(roll), zero, zero, zero, one)
    return np.exp(log_scale)[:, None, None] * (tilt @ turn @ nod)


@functools.cache
def catmull_rom(count: int, steps: int, closed: bool = False) -> np.ndarray:
    """Weights (m, count) of a smooth curve through ``count`` points, with ``steps`` pieces between neighbours."""
    points = count * steps if closed else (count - 1) * steps + 1
    return np.stack([on_curve(count, at, closed) for at in np.arange(points) / steps])
