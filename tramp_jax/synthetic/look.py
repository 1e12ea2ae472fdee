"""The appearance of drawn people and their rooms. Colours are RGB, 0-255."""

import dataclasses
import functools

import cv2
import numpy as np

from tramp_jax.synthetic import face

NEUTRAL_LIGHT = 160  # value of the light map that leaves colours unchanged

Colour = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Look:
    """The appearance of one person in one room. It depends on neither expression nor severity."""

    skin: Colour
    hair: Colour
    brow: Colour
    iris: Colour
    lip: Colour
    shirt: Colour
    wall: np.ndarray  # (256, 256, 3) uint8 background
    light: np.ndarray  # (128, 128) uint8 light on the upright face, in half-resolution image coordinates
    hair_lift: float  # outward offset of the hair in pixels; negative for short hair
    long_hair: bool  # whether hair falls beside the neck
    part: float  # sideways position of the parting in pixels
    age: float  # 0 to 1; sets the depth of lines and folds


def _rgb(values: np.ndarray) -> Colour:
    red, green, blue = (int(v) for v in np.clip(np.rint(values), 0, 255))
    return red, green, blue


@functools.lru_cache(maxsize=4096)
def mix(one: Colour, other: Colour, share: float) -> Colour:
    """``one`` with a ``share`` (0-1) of ``other``."""
    return _rgb((1 - share) * np.array(one) + share * np.array(other))


def draw_look(rng: np.random.Generator) -> Look:
    """Draws a random person's colours, hair and room."""
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
        brow=mix(skin, mix(hair, (60, 46, 40), 0.5), float(rng.uniform(0.65, 0.9))),
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


# Shadows (negative) and highlights of an evenly lit face: x, y, width, height (head pixels) and strength.
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
            lit = 0.6 * lamp[0] * side if at_x and strength < 0 else 0
            shade = strength * contrast * (1 - lit)
            factor += shade * np.exp(-(((x - side * at_x) / width) ** 2) - ((y - at_y) / height) ** 2)
    patches = cv2.GaussianBlur(rng.normal(0, 1, x.shape), (0, 0), 2.5)
    factor += 0.012 * patches / patches.std()
    streaks = np.interp(np.arctan2(x, 40 - y), np.linspace(-np.pi, np.pi, 160), rng.normal(0, 0.09, 160))
    factor += streaks * np.clip((-76 - y + 0.008 * x**2) / 8, 0, 1)
    return np.clip(factor * rng.uniform(0.92, 1.08) * NEUTRAL_LIGHT, 0, 255).astype(np.uint8)
