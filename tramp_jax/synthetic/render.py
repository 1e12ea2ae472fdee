"""Paints synthetic faces: everything is drawn from the points of ``synthetic_face``, so pixels and landmarks agree.

Colours are RGB 0-255. A frame is painted flat (filled, anti-aliased shapes), multiplied by a half-resolution map of
light and folds, softened as by a lens, and given the noise of a camera.
"""

import dataclasses
import functools
from collections.abc import Callable

import cv2
import numpy as np

from tramp_jax.synthetic import face

_SHIFT = 4  # OpenCV takes polygon corners in 1/16 pixel
_NEUTRAL_LIGHT = 160  # value of the light map that leaves colours as they are
_HALF = face.IMAGE_SIZE // 2

Colour = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Look:
    """The appearance of one person in one place; nothing in it depends on expression or severity.

    Attributes:
      skin, hair, brow, iris, lip, shirt: colours.
      wall: (256, 256, 3) uint8 background.
      light: (128, 128) uint8 light on the upright face, in half-resolution image coordinates.
      hair_lift: outward offset of the hair in pixels; below 0 the hair is short.
      long_hair: whether hair falls beside the neck.
      part: sideways position of the parting in pixels.
      age: 0-1, depth of lines and folds.
    """

    skin: Colour
    hair: Colour
    brow: Colour
    iris: Colour
    lip: Colour
    shirt: Colour
    wall: np.ndarray
    light: np.ndarray
    hair_lift: float
    long_hair: bool
    part: float
    age: float


def _rgb(values: np.ndarray) -> Colour:
    red, green, blue = (int(v) for v in np.clip(np.rint(values), 0, 255))
    return red, green, blue


@functools.lru_cache(maxsize=4096)
def _mix(one: Colour, other: Colour, share: float) -> Colour:
    """``one`` with a ``share`` (0-1) of ``other``."""
    return _rgb((1 - share) * np.array(one) + share * np.array(other))


def draw_look(rng: np.random.Generator) -> Look:
    """A random person's colours, hair and room."""
    tone = float(rng.uniform())
    skin = _rgb(np.array([243, 210, 188]) * (1 - tone) + np.array([128, 84, 62]) * tone + rng.normal(0, 4, 3))
    hairs = np.array([(38, 28, 24), (62, 42, 30), (96, 66, 42), (150, 112, 70), (150, 148, 146), (208, 206, 202)])
    hair = _rgb(hairs[rng.choice(6, p=(0.25, 0.2, 0.13, 0.1, 0.2, 0.12))] * np.exp(rng.normal(0, 0.12)))
    irises = np.array([(70, 46, 30), (92, 66, 40), (82, 104, 84), (88, 118, 146)])
    lip = _rgb(np.array(skin) * (0.82, 0.6, 0.6) + rng.normal(0, 5, 3))
    hue = rng.uniform(70, 200) * np.exp(rng.normal(0, 0.08, 3))  # rooms are rarely colourful
    ramp = np.linspace(1 + rng.normal(0, 0.08), 1 + rng.normal(0, 0.08), face.IMAGE_SIZE)
    wall = hue * ramp[:, None, None] * np.linspace(1, 1 + rng.normal(0, 0.12), face.IMAGE_SIZE)[:, None]
    return Look(
        skin=skin,
        hair=hair,
        brow=_mix(skin, _mix(hair, (60, 46, 40), 0.5), float(rng.uniform(0.65, 0.9))),
        iris=_rgb(irises[rng.integers(4)] + rng.normal(0, 8, 3)),
        lip=lip,
        shirt=_rgb(rng.uniform(40, 180) * np.exp(rng.normal(0, 0.25, 3))),
        wall=np.clip(wall, 0, 255).astype(np.uint8),
        light=_draw_light(rng),
        hair_lift=float(rng.uniform(-9, 6)),
        long_hair=bool(rng.uniform() < 0.45),
        part=float(rng.uniform(-30, 30)),
        age=float(rng.uniform(0.25, 1.0)),
    )


# Shadows (below 0) and lights of an evenly lit face: x, y, width, height (head pixels) and strength.
_RELIEF = (
    (32, -9, 15, 8, -0.16),  # eye socket
    (14, 4, 6, 10, -0.10),  # beside the bridge
    (44, 30, 17, 14, 0.10),  # cheek
    (62, 55, 14, 26, -0.12),  # hollow of the cheek
    (17, 44, 7, 6, -0.12),  # beside the nostril
    (0, 22, 4, 18, 0.10),  # ridge of the nose
    (0, 36, 7, 5, 0.10),  # tip of the nose
    (0, 52, 9, 4, -0.12),  # under the nose
    (0, 57, 3, 5, -0.06),  # philtrum
    (0, 87, 14, 5, -0.15),  # under the lower lip
    (0, 100, 14, 9, 0.07),  # chin
    (0, 128, 60, 11, -0.38),  # shadow of the chin on the neck
    (0, -45, 30, 16, 0.07),  # forehead
    (66, -30, 10, 22, -0.12),  # temple
)


def _draw_light(rng: np.random.Generator) -> np.ndarray:
    """(128, 128) uint8 light map: a lamp on an ellipsoid, the relief of a face, and uneven skin."""
    y, x = np.mgrid[0 : face.IMAGE_SIZE : 2, 0 : face.IMAGE_SIZE : 2].astype(float)
    x, y = x + 0.5 - face.EYE_LINE[0], y + 0.5 - face.EYE_LINE[1]
    across, down = x / 84, (y - 15) / 125
    facing = np.sqrt(np.maximum(1 - across**2 - down**2, 0.0))
    lamp = np.array([rng.uniform(-0.6, 0.6), rng.uniform(-0.5, -0.1)])
    factor = 1 + 0.22 * (across * lamp[0] + down * lamp[1]) - 0.22 * (1 - facing)
    contrast = rng.uniform(0.7, 1.1)
    for at_x, at_y, width, height, strength in _RELIEF:
        for side in (-1, 1) if at_x else (1,):
            # The side that faces the lamp has weaker shadows.
            shade = strength * contrast * (1 - 0.6 * lamp[0] * side * (strength < 0) * (at_x > 0))
            factor += shade * np.exp(-(((x - side * at_x) / width) ** 2) - ((y - at_y) / height) ** 2)
    patches = cv2.GaussianBlur(rng.normal(0, 1, x.shape), (0, 0), 2.5)
    factor += 0.012 * patches / patches.std()
    streaks = np.interp(np.arctan2(x, 40 - y), np.linspace(-np.pi, np.pi, 160), rng.normal(0, 0.09, 160))
    factor += streaks * np.clip((-76 - y + 0.008 * x**2) / 8, 0, 1)
    return np.clip(factor * rng.uniform(0.92, 1.08) * _NEUTRAL_LIGHT, 0, 255).astype(np.uint8)


# Smooth curves that the shapes are made of: control points, pieces between neighbours, closed.
_EXTRA = {name: face.drawn_only(name) for name in face.EXTRA}


def _arch(name: str) -> list[int]:
    """The drawn-only points of ``name`` from the left over the midline to the right."""
    left, right = _EXTRA[name]
    return [*left, *right[::-1]] if face.EXTRA[name][-1][0] else [*left, *right[-2::-1]]


_FACE_LINE = [*face.CONTOUR_LEFT, 0, *face.CONTOUR_RIGHT[::-1]]
_CURVES: dict[str, tuple[list[int], int, bool]] = {
    "face": ([*_FACE_LINE, *_arch("forehead")[::-1]], 2, True),
    "jaw": (_FACE_LINE, 1, False),
    "hair": (_arch("hair"), 4, False),
    "hairline": (_arch("hairline"), 4, False),
    "locks_left": (list(_EXTRA["locks"][0]), 2, False),
    "locks_right": (list(_EXTRA["locks"][1]), 2, False),
    "ear_left": (list(_EXTRA["ear"][0]), 3, True),
    "ear_right": (list(_EXTRA["ear"][1]), 3, True),
    "neck": (list(_EXTRA["neck"].ravel()), 1, False),
    "teeth": (list(_EXTRA["teeth"].ravel()), 1, False),
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


@functools.cache
def _curve_weights() -> tuple[np.ndarray, dict[str, slice]]:
    """Weights (M, NUM_POINTS) that turn face points into all curve points, and where each curve is among them."""
    rows, where, start = [], {}, 0
    for name, (points, steps, closed) in _CURVES.items():
        weights = np.zeros(((len(points) * steps) if closed else (len(points) - 1) * steps + 1, face.NUM_POINTS))
        weights[:, points] = face.catmull_rom(len(points), steps, closed)
        rows.append(weights)
        where[name] = slice(start, start + len(weights))
        start += len(weights)
    return np.concatenate(rows), where


def _fixed(points: np.ndarray) -> np.ndarray:
    """Pixels -> OpenCV's fixed-point coordinates, in which (0, 0) is the centre of the first pixel."""
    return np.rint((points - 0.5) * 2**_SHIFT).astype(np.int32)


def _fill(image: np.ndarray, polygon: np.ndarray, colour: tuple[int, ...] | int) -> None:
    cv2.fillPoly(image, [polygon], colour, cv2.LINE_AA, _SHIFT)


def _line(image: np.ndarray, curve: np.ndarray, colour: tuple[int, ...] | int, width: int = 1) -> None:
    cv2.polylines(image, [curve], False, colour, width, cv2.LINE_AA, _SHIFT)


class Painter:
    """Paints the frames of one clip.

    Args:
      look: the person.
      points: (n, NUM_POINTS, 2) from ``face.move``, without detector noise.
      motion: what moved the points; it sets how deep the folds are.
      rng: camera: exposure, sharpness and noise of this clip.
    """

    def __init__(self, look: Look, points: np.ndarray, motion: face.Motion, rng: np.random.Generator):
        weights, self._where = _curve_weights()
        self._look = look
        self._points = points
        self._curves = _fixed(weights @ points)
        lines = _fold_lines(points, _fold_depths(motion, look.age))
        self._folds = [(_fixed(line / 2), depth) for line, depth in lines]
        linear, offset = face.affine(motion.pose)
        # The light map lies on a plane 45 pixels in front of the ears.
        self._turn = linear[:, :, :2]
        self._shift = offset + 45 * linear[:, :, 2]
        gain = rng.uniform(0.92, 1.08) * rng.uniform(0.98, 1.02, 3)
        self._exposure = _light_table(gain)
        self._sharpness = float(rng.uniform(0.55, 0.9))
        self._noise = (_noise_bank() * rng.uniform(1.5, 3.0)).astype(np.int16)
        self._noise_at = rng.integers(0, 64, (len(points), 2))
        self._canvas = self._still(look)

    def _still(self, look: Look) -> np.ndarray:
        """What does not move: the wall and the shoulders."""
        canvas = look.wall.copy()
        shoulders = np.array([(-10, 270), (8, 247), (60, 234), (196, 234), (248, 247), (266, 270)])
        _fill(canvas, _fixed(shoulders), look.shirt)
        return canvas

    def paint(self, t: int) -> np.ndarray:
        """Frame ``t``: (256, 256, 3) uint8."""
        image = self._canvas.copy()
        curve = {name: self._curves[t, span] for name, span in self._where.items()}
        self._paint_head(image, curve)
        self._paint_mouth(image, curve)
        for side, pupil in (("left", 38), ("right", 92)):
            self._paint_eye(image, curve[f"lid_{side}"], curve[f"bag_{side}"], self._points[t, pupil])
            _fill(image, curve[f"brow_{side}"], self._look.brow)
        self._paint_nose(image, curve["nose"])
        self._paint_fringe(image, curve)
        light = self._light(t, curve)
        image = cv2.multiply(image, light, scale=1 / _NEUTRAL_LIGHT)
        image = cv2.GaussianBlur(image, (3, 3), self._sharpness)
        y, x = self._noise_at[t]
        noise = self._noise[y : y + face.IMAGE_SIZE, x : x + face.IMAGE_SIZE]
        return cv2.add(image, noise, dtype=cv2.CV_8U)

    def _silhouette(self, curve: dict[str, np.ndarray]) -> np.ndarray:
        """(128, 128) uint8 mask of head, hair and neck at half resolution."""
        mask = np.zeros((_HALF, _HALF), np.uint8)
        head = [curve[name] for name in ("face", "ear_left", "ear_right")]
        for shape in (self._back_of_hair(curve), self._neck(curve), *head):
            _fill(mask, shape // 2, 255)
        return mask

    def _neck(self, curve: dict[str, np.ndarray]) -> np.ndarray:
        """The neck, whose lower end stays with the shoulders."""
        base = _fixed(np.array([(66, 236), (190, 236)]))
        return np.concatenate([curve["neck"][:2], base, curve["neck"][:1:-1]])

    def _back_of_hair(self, curve: dict[str, np.ndarray]) -> np.ndarray:
        """Hair behind the head; long hair falls beside the neck."""
        hair = self._hair_outline(curve)
        if not self._look.long_hair:
            return hair
        return np.concatenate([curve["locks_left"][::-1], hair, curve["locks_right"]])

    def _paint_head(self, image: np.ndarray, curve: dict[str, np.ndarray]) -> None:
        """Back of the hair, neck, ears, skin."""
        look = self._look
        _fill(image, self._back_of_hair(curve), _mix(look.hair, (0, 0, 0), 0.25))
        _fill(image, self._neck(curve), _mix(look.skin, (60, 20, 10), 0.1))
        for side in ("left", "right"):
            _fill(image, curve[f"ear_{side}"], _mix(look.skin, (150, 60, 50), 0.18))
        _fill(image, curve["face"], look.skin)

    def _hair_outline(self, curve: dict[str, np.ndarray]) -> np.ndarray:
        """The outer edge of the hair, lifted from the skull by the look's amount."""
        edge = curve["hair"]
        centre = edge.mean(axis=0)
        return (edge + (edge - centre) * (self._look.hair_lift / 80)).astype(np.int32)

    def _paint_fringe(self, image: np.ndarray, curve: dict[str, np.ndarray]) -> None:
        """Hair in front of the forehead, with its parting."""
        line = curve["hairline"].copy()
        middle = len(line) // 2
        reach = np.exp(-(((np.arange(len(line)) - middle) / 5.0) ** 2))
        line[:, 0] += (reach * self._look.part * 2**_SHIFT * 0.5).astype(np.int32)
        line[:, 1] += (reach * (4 - 0.35 * abs(self._look.part)) * 2**_SHIFT).astype(np.int32)
        _fill(image, np.concatenate([self._hair_outline(curve), line[::-1]]), self._look.hair)

    def _paint_mouth(self, image: np.ndarray, curve: dict[str, np.ndarray]) -> None:
        """Cavity with teeth where the lips are apart, then the lips round it."""
        look = self._look
        upper, lower = curve["upper_inner"], curve["lower_inner"]
        if (lower[:, 1].max() - upper[:, 1].min()) > 1.5 * 2**_SHIFT:
            _inlay(image, np.concatenate([lower, upper]), functools.partial(_teeth, curve["teeth"]))
        _fill(image, np.concatenate([curve["upper_outer"], upper]), _mix(look.lip, (70, 20, 20), 0.18))
        _fill(image, np.concatenate([curve["lower_outer"], lower]), look.lip)
        dark = _mix(look.lip, (30, 0, 0), 0.55)
        _line(image, np.concatenate([curve["upper_outer"][:1], upper[::-1], curve["upper_outer"][-1:]]), dark)
        shine = (lower[5:12] + curve["lower_outer"][13:6:-1]) // 2
        _line(image, shine, _mix(look.lip, (255, 235, 230), 0.2))

    def _paint_eye(self, image: np.ndarray, lid: np.ndarray, bag: np.ndarray, pupil: np.ndarray) -> None:
        """Eyeball inside the lids, lash line, crease."""
        look = self._look
        if (bag[:, 1].max() - lid[:, 1].min()) > 1.5 * 2**_SHIFT:
            _inlay(image, np.concatenate([lid, bag]), functools.partial(_eyeball, _fixed(pupil), look.iris))
        lash = _mix(_mix(look.hair, (30, 20, 18), 0.7), look.skin, 0.1)
        _line(image, bag, _mix(look.skin, (110, 50, 45), 0.35))
        _line(image, lid, lash, 2)
        crease = lid[2:-2] - np.array([0, 4 << _SHIFT], np.int32)
        _line(image, crease, _mix(look.skin, (70, 30, 20), 0.35))

    def _paint_nose(self, image: np.ndarray, nose: np.ndarray) -> None:
        """Wings and nostrils."""
        skin = self._look.skin
        _line(image, nose[1:6], _mix(skin, (70, 30, 20), 0.32))
        _line(image, nose[-6:-1], _mix(skin, (70, 30, 20), 0.32))
        dark = _mix(skin, (40, 10, 5), 0.65)
        for wing, base in ((nose[4], nose[6]), (nose[-5], nose[-7])):
            centre = ((wing + base) // 2).tolist()
            cv2.ellipse(image, centre, (45, 20), 0, 0, 360, dark, -1, cv2.LINE_AA, _SHIFT)

    def _light(self, t: int, curve: dict[str, np.ndarray]) -> np.ndarray:
        """(256, 256, 3) light on frame ``t``: the light map in the head's pose, less the folds."""
        centre = np.array(face.EYE_LINE)
        matrix = np.column_stack([self._turn[t], (self._shift[t] - self._turn[t] @ centre) / 2])
        light = cv2.warpAffine(self._look.light, matrix, (_HALF, _HALF), borderMode=cv2.BORDER_REPLICATE)
        # Only the person is lit by this map, not the wall behind.
        share = self._silhouette(curve).astype(np.uint16)
        light = ((light * share + _NEUTRAL_LIGHT * (255 - share)) // 255).astype(np.uint8)
        folds = np.zeros((_HALF, _HALF), np.uint8)
        for line, depth in self._folds:
            if depth[t] > 2:
                _line(folds, line[t], int(depth[t]))
        shadow = curve["jaw"][6:-6] // 2
        _line(folds, shadow, 26, 2)
        light = cv2.subtract(light, cv2.GaussianBlur(folds, (5, 5), 0.9))
        light = cv2.LUT(cv2.merge([light, light, light]), self._exposure)
        return cv2.resize(light, (face.IMAGE_SIZE, face.IMAGE_SIZE), interpolation=cv2.INTER_LINEAR)


def _light_table(gain: np.ndarray) -> np.ndarray:
    """(1, 256, 3) light value -> factor of each colour; shadows on skin are warm."""
    value = np.arange(256)[:, None] / _NEUTRAL_LIGHT
    table = value ** np.array([0.85, 1.05, 1.12]) * gain * _NEUTRAL_LIGHT
    return np.clip(np.rint(table), 0, 255).astype(np.uint8)[None]


@functools.cache
def _noise_bank() -> np.ndarray:
    """(320, 320, 3) of sensor noise with sd 1, slightly smooth, as after a camera's own processing."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(320, 320, 3)), (0, 0), 0.7)
    return noise / noise.std()


def _inlay(image: np.ndarray, hole: np.ndarray, draw: Callable[[np.ndarray, np.ndarray], None]) -> None:
    """Lets ``draw(patch, corner)`` paint a copy of the surroundings of ``hole`` and shows it inside the hole only."""
    x, y, width, height = cv2.boundingRect(hole >> _SHIFT)
    x0, y0 = max(x - 1, 0), max(y - 1, 0)
    view = image[y0 : y + height + 2, x0 : x + width + 2]
    if view.size == 0:
        return
    patch, corner = view.copy(), np.array([x0 << _SHIFT, y0 << _SHIFT], np.int32)
    draw(patch, corner)
    mask = np.zeros(view.shape[:2], np.uint8)
    _fill(mask, hole - corner, 255)
    share = mask.astype(np.uint16)[..., None]
    view[:] = (patch * share + view * (255 - share)) // 255


def _teeth(teeth: np.ndarray, patch: np.ndarray, corner: np.ndarray) -> None:
    """Paints the dark cavity and both rows of teeth; ``teeth`` are the curve's 12 points."""
    patch[:] = (62, 24, 24)
    left, right = (teeth - corner).reshape(2, 6, 2)
    for top, bottom in ((0, 1), (1, 2)):
        row = [left[top], left[top + 3], right[top], right[bottom], left[bottom + 3], left[bottom]]
        _fill(patch, np.array(row), (226, 220, 206))
    _line(patch, np.array([left[1], left[4], right[1]]), (140, 118, 106))
    share = np.linspace(0.04, 0.96, 11)[:, None, None]
    gaps = ((1 - share) * left[[0, 2]] + share * right[[0, 2]]).astype(np.int32)
    cv2.polylines(patch, list(gaps), False, (196, 186, 172), 1, cv2.LINE_AA, _SHIFT)


def _eyeball(pupil: np.ndarray, iris: Colour, patch: np.ndarray, corner: np.ndarray) -> None:
    """Paints white, iris, pupil and the reflection of a window."""
    patch[:] = (228, 224, 220)
    centre = (pupil - corner).tolist()

    def disc(radius: float, colour: Colour, dx: float = 0, dy: float = 0) -> None:
        at = (int(centre[0] + 16 * dx), int(centre[1] + 16 * dy))
        cv2.circle(patch, at, int(radius * 16), colour, -1, cv2.LINE_AA, _SHIFT)

    disc(6.0, _mix(iris, (10, 8, 8), 0.5))
    disc(5.2, iris)
    disc(2.5, (14, 12, 12))
    disc(0.9, (255, 255, 255), 1.8, -2)


def _fold_depths(motion: face.Motion, age: float) -> np.ndarray:
    """Depth (n, 5, 2) of nasolabial, glabella, crow's-foot, forehead and lower-lid folds on both sides, 0-120."""
    cheek = motion.strength("corner_pull", "nose_wrinkle") + 0.6 * motion.strength("cheek", "lip_stretch")
    squeeze = motion.strength("cheek") * (0.4 + np.minimum(motion.strength("close"), 1.5))
    folds = [
        12 + 34 * cheek,
        2 + 46 * motion.strength("brow_lower"),
        2 + 26 * squeeze,
        5 + 40 * motion.strength("brow_raise"),
        12 + 26 * motion.strength("cheek"),
    ]
    return np.clip(np.stack(folds, axis=1) * (0.5 + 0.7 * age), 0, 110)


def _fold_lines(points: np.ndarray, depths: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Lines of skin folds: [(points (n, m, 2), depths (n,))] from face points (n, P, 2) and depths (n, 5, 2)."""
    lines = []
    right, down = points[:, 93] - points[:, 35], points[:, 0] - points[:, 72]
    right, down = (axis / np.linalg.norm(axis, axis=1, keepdims=True) for axis in (right, down))
    for side, landmarks in enumerate(((77, 52, 46, 39, 35, 33, 49), (83, 61, 97, 89, 93, 87, 104))):
        out = right * (2 * side - 1)
        ala, corner, brow, inner, outer, low, mid = (points[:, k] for k in landmarks)
        depth = depths[..., side].T
        lines.append(([ala + 3 * out - 3 * down, (ala + corner) / 2 + 8 * out, corner + 7 * out + 2 * down], depth[0]))
        lines.append(([brow - 5 * out - 4 * down, brow - 4.5 * out + 2 * down, brow - 4 * out + 7 * down], depth[1]))
        for slope in (-0.6, 0.1, 0.8):
            crow = [outer + reach * out + slope * (reach + 1) * down for reach in (5, 9, 13)]
            lines.append((crow, depth[2]))
        for lift in (13, 21):
            lines.append(([brow - lift * down, (brow + mid) / 2 - (lift + 1) * down, mid - lift * down], depth[3]))
        lines.append(([inner + 5 * down + 2 * out, low + 5 * down, outer + 5 * down - 2 * out], depth[4]))
    smooth = face.catmull_rom(3, 4)
    return [(smooth @ np.stack(line, axis=1), depth.astype(int)) for line, depth in lines]
