"""Paints drawn faces from the points of ``face``, so that pixels and landmarks agree.

A frame is painted flat (filled, anti-aliased shapes), multiplied by a half-resolution map of light and folds, softened
as if by a lens, and given camera noise.
"""

import functools
from collections.abc import Callable

import cv2
import numpy as np

from tramp_jax.synthetic import face, outlines
from tramp_jax.synthetic.look import NEUTRAL_LIGHT, Colour, Look, mix
from tramp_jax.synthetic.skin import Skin

_SHIFT = 4  # OpenCV takes polygon corners in 1/16 pixel
_HALF = face.IMAGE_SIZE // 2


def _fixed(points: np.ndarray) -> np.ndarray:
    """Pixels -> OpenCV's fixed-point coordinates, where (0, 0) is the centre of the first pixel."""
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
      motion: the motion behind ``points``; it sets the depth of the folds.
      rng: draws this clip's camera: exposure, sharpness and noise.
      skin: signs on the skin instead of the folds that follow from ``motion``; None for those folds.
      flicker: (n, 3) factor for each colour in every frame; None for a steady camera.
    """

    def __init__(
        self,
        look: Look,
        points: np.ndarray,
        motion: face.Motion,
        rng: np.random.Generator,
        skin: Skin | None,
        flicker: np.ndarray | None,
    ):
        weights, self._where = outlines.curve_weights()
        self._look = look
        self._points = points
        self._curves = _fixed(weights @ points)
        self._skin = skin
        if skin is None:
            lines = outlines.fold_lines(points, outlines.fold_depths(motion, look.age))
        else:
            lines = outlines.fold_lines(skin.points, skin.fold_depths(look.age))
        self._folds = [(_fixed(line / 2), depth) for line, depth in lines]
        linear, offset = face.affine(motion.pose)
        # The light map lies on a plane 45 pixels in front of the ears.
        self._turn = linear[:, :, :2]
        self._shift = offset + 45 * linear[:, :, 2]
        gain = rng.uniform(0.92, 1.08) * rng.uniform(0.98, 1.02, 3)
        gains = [gain] if flicker is None else gain * flicker  # one for all frames, or one for each
        self._exposure = [_light_table(each) for each in gains]
        self._sharpness = float(rng.uniform(0.55, 0.9))
        self._noise = (_noise_bank() * rng.uniform(1.5, 3.0)).astype(np.int16)
        self._noise_at = rng.integers(0, 64, (len(points), 2))
        self._canvas = look.wall.copy()
        shoulders = np.array([(-10, 270), (8, 247), (60, 234), (196, 234), (248, 247), (266, 270)])
        _fill(self._canvas, _fixed(shoulders), look.shirt)

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
        image = cv2.multiply(image, self._light(t, curve), scale=1 / NEUTRAL_LIGHT)
        image = cv2.GaussianBlur(image, (3, 3), self._sharpness)
        y, x = self._noise_at[t]
        noise = self._noise[y : y + face.IMAGE_SIZE, x : x + face.IMAGE_SIZE]
        return cv2.add(image, noise, dtype=cv2.CV_8U)

    def _silhouette(self, curve: dict[str, np.ndarray]) -> np.ndarray:
        """(128, 128) uint8 mask of head, hair and neck, at half resolution."""
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
        """Outline of the hair behind the head. Long hair falls beside the neck."""
        hair = self._hair_outline(curve)
        if not self._look.long_hair:
            return hair
        return np.concatenate([curve["locks_left"][::-1], hair, curve["locks_right"]])

    def _paint_head(self, image: np.ndarray, curve: dict[str, np.ndarray]) -> None:
        """Paints the back of the hair, neck, ears and skin."""
        look = self._look
        _fill(image, self._back_of_hair(curve), mix(look.hair, (0, 0, 0), 0.25))
        _fill(image, self._neck(curve), mix(look.skin, (60, 20, 10), 0.1))
        for side in ("left", "right"):
            _fill(image, curve[f"ear_{side}"], mix(look.skin, (150, 60, 50), 0.18))
        _fill(image, curve["face"], look.skin)

    def _hair_outline(self, curve: dict[str, np.ndarray]) -> np.ndarray:
        """The outer edge of the hair: the skull's, moved outwards by ``hair_lift``."""
        edge = curve["hair"]
        centre = edge.mean(axis=0)
        return (edge + (edge - centre) * (self._look.hair_lift / 80)).astype(np.int32)

    def _paint_fringe(self, image: np.ndarray, curve: dict[str, np.ndarray]) -> None:
        """Paints the hair in front of the forehead, with its parting."""
        line = curve["hairline"].copy()
        middle = len(line) // 2
        reach = np.exp(-(((np.arange(len(line)) - middle) / 5.0) ** 2))
        line[:, 0] += (reach * self._look.part * 2**_SHIFT * 0.5).astype(np.int32)
        line[:, 1] += (reach * (4 - 0.35 * abs(self._look.part)) * 2**_SHIFT).astype(np.int32)
        _fill(image, np.concatenate([self._hair_outline(curve), line[::-1]]), self._look.hair)

    def _paint_mouth(self, image: np.ndarray, curve: dict[str, np.ndarray]) -> None:
        """Paints the cavity with its teeth if the lips are apart, then the lips around it."""
        look = self._look
        upper, lower = curve["upper_inner"], curve["lower_inner"]
        if (lower[:, 1].max() - upper[:, 1].min()) > 1.5 * 2**_SHIFT:
            _inlay(image, np.concatenate([lower, upper]), functools.partial(_teeth, curve["teeth"]))
        _fill(image, np.concatenate([curve["upper_outer"], upper]), mix(look.lip, (70, 20, 20), 0.18))
        _fill(image, np.concatenate([curve["lower_outer"], lower]), look.lip)
        dark = mix(look.lip, (30, 0, 0), 0.55)
        _line(image, np.concatenate([curve["upper_outer"][:1], upper[::-1], curve["upper_outer"][-1:]]), dark)
        shine = (lower[5:12] + curve["lower_outer"][13:6:-1]) // 2
        _line(image, shine, mix(look.lip, (255, 235, 230), 0.2))

    def _paint_eye(self, image: np.ndarray, lid: np.ndarray, bag: np.ndarray, pupil: np.ndarray) -> None:
        """Paints the eyeball inside the lids, the lash line and the crease."""
        look = self._look
        if (bag[:, 1].max() - lid[:, 1].min()) > 1.5 * 2**_SHIFT:
            _inlay(image, np.concatenate([lid, bag]), functools.partial(_eyeball, _fixed(pupil), look.iris))
        lash = mix(mix(look.hair, (30, 20, 18), 0.7), look.skin, 0.1)
        _line(image, bag, mix(look.skin, (110, 50, 45), 0.35))
        _line(image, lid, lash, 2)
        crease = lid[2:-2] - np.array([0, 4 << _SHIFT], np.int32)
        _line(image, crease, mix(look.skin, (70, 30, 20), 0.35))

    def _paint_nose(self, image: np.ndarray, nose: np.ndarray) -> None:
        """Paints the wings of the nose and the nostrils."""
        skin = self._look.skin
        _line(image, nose[1:6], mix(skin, (70, 30, 20), 0.32))
        _line(image, nose[-6:-1], mix(skin, (70, 30, 20), 0.32))
        dark = mix(skin, (40, 10, 5), 0.65)
        for wing, base in ((nose[4], nose[6]), (nose[-5], nose[-7])):
            centre = ((wing + base) // 2).tolist()
            cv2.ellipse(image, centre, (45, 20), 0, 0, 360, dark, -1, cv2.LINE_AA, _SHIFT)

    def _light(self, t: int, curve: dict[str, np.ndarray]) -> np.ndarray:
        """(256, 256, 3) light on frame ``t``: the light map in the head's pose, minus the shadows of the folds."""
        centre = np.array(face.EYE_LINE)
        matrix = np.column_stack([self._turn[t], (self._shift[t] - self._turn[t] @ centre) / 2])
        light = self._look.light if self._skin is None else self._skin.lit(self._look.light, t)
        light = cv2.warpAffine(light, matrix, (_HALF, _HALF), borderMode=cv2.BORDER_REPLICATE)
        # This map lights the person, not the wall behind.
        share = self._silhouette(curve).astype(np.uint16)
        light = ((light * share + NEUTRAL_LIGHT * (255 - share)) // 255).astype(np.uint8)
        folds = np.zeros((_HALF, _HALF), np.uint8)
        for line, depth in self._folds:
            if depth[t] > 2:
                _line(folds, line[t], int(depth[t]))
        shadow = curve["jaw"][6:-6] // 2
        _line(folds, shadow, 26, 2)
        light = cv2.subtract(light, cv2.GaussianBlur(folds, (5, 5), 0.9))
        light = cv2.LUT(cv2.merge([light, light, light]), self._exposure[t % len(self._exposure)])
        return cv2.resize(light, (face.IMAGE_SIZE, face.IMAGE_SIZE), interpolation=cv2.INTER_LINEAR)


def _light_table(gain: np.ndarray) -> np.ndarray:
    """(1, 256, 3) factor of each colour by light value. Shadows on skin are warm."""
    value = np.arange(256)[:, None] / NEUTRAL_LIGHT
    table = value ** np.array([0.85, 1.05, 1.12]) * gain * NEUTRAL_LIGHT
    return np.clip(np.rint(table), 0, 255).astype(np.uint8)[None]


@functools.cache
def _noise_bank() -> np.ndarray:
    """(320, 320, 3) sensor noise of standard deviation 1, slightly smoothed as a camera's processing does."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(320, 320, 3)), (0, 0), 0.7)
    return noise / noise.std()


def _inlay(image: np.ndarray, hole: np.ndarray, draw: Callable[[np.ndarray, np.ndarray], None]) -> None:
    """Lets ``draw(patch, corner)`` paint a copy of the surroundings of ``hole``, and shows it inside the hole only."""
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
    """Paints the dark cavity and both rows of teeth from the 12 points of the curve "teeth"."""
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
    """Paints the white, the iris, the pupil and the reflection of a window."""
    patch[:] = (228, 224, 220)
    centre = (pupil - corner).tolist()

    def disc(radius: float, colour: Colour, dx: float = 0, dy: float = 0) -> None:
        at = (int(centre[0] + 16 * dx), int(centre[1] + 16 * dy))
        cv2.circle(patch, at, int(radius * 16), colour, -1, cv2.LINE_AA, _SHIFT)

    disc(6.0, mix(iris, (10, 8, 8), 0.5))
    disc(5.2, iris)
    disc(2.5, (14, 12, 12))
    disc(0.9, (255, 255, 255), 1.8, -2)
