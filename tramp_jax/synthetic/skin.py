"""Signs of an expression that no landmark shows: bulging cheeks, folds and lines of the skin.

They lie on a face that makes the expression without any impairment, so neither their positions nor their timing depend
on the severity. Only their strength does: like hypomimia, severity weakens them. At time 0, all are 0.
"""

import dataclasses

import numpy as np

from tramp_jax.synthetic import face
from tramp_jax.synthetic.look import NEUTRAL_LIGHT
from tramp_jax.synthetic.motion import impairment
from tramp_jax.synthetic.outlines import DEEPEST

SIGNS = ("bulge", "nasolabial", "crows_feet", "forehead")

# Light and shadow of a bulging cheek: outward x, y, width, height (head pixels) and strength.
_BULGE = ((43, 28, 17, 12, 0.26), (47, 48, 17, 8, -0.28), (25, 38, 7, 12, -0.22))


@dataclasses.dataclass(frozen=True)
class Skin:
    """The skin of a face in a clip of n frames."""

    points: np.ndarray  # (n, face.NUM_POINTS, 2) image points that folds lie on
    strengths: np.ndarray  # (n, len(SIGNS)) of each sign, 0 at rest and about 1 at the peak of a healthy expression

    def fold_depths(self, age: float) -> np.ndarray:
        """Depths (n, 5, 2) of all folds, in the order of ``outlines.fold_depths``."""
        _, nasolabial, crows_feet, forehead = self.strengths.T
        still = np.zeros(len(self.strengths))
        folds = [12 + 90 * nasolabial, 2 + still, 2 + 80 * crows_feet, 5 + 80 * forehead, 12 + still]
        depths = np.clip(np.stack(folds, axis=1) * (0.8 + 0.3 * age), 0, DEEPEST)
        return np.repeat(depths[..., None], 2, axis=2)

    def lit(self, light: np.ndarray, t: int) -> np.ndarray:
        """The light map of a ``Look`` on the bulging cheeks of frame ``t``."""
        return np.clip(light + self.strengths[t, 0] * _RELIEF, 0, 255).astype(np.uint8)


def _relief() -> np.ndarray:
    """(128, 128) light that cheeks at full strength add, in the coordinates of ``Look.light``."""
    y, x = np.mgrid[0 : face.IMAGE_SIZE : 2, 0 : face.IMAGE_SIZE : 2].astype(float)
    x, y = np.abs(x + 0.5 - face.EYE_LINE[0]), y + 0.5 - face.EYE_LINE[1]
    return NEUTRAL_LIGHT * sum(
        strength * np.exp(-(((x - at_x) / width) ** 2) - ((y - at_y) / height) ** 2)
        for at_x, at_y, width, height, strength in _BULGE
    )


_RELIEF = _relief()


def draw_skin(neutral: np.ndarray, healthy: face.Motion, severity: float, rng: np.random.Generator) -> Skin:
    """Draws the skin of one clip, whose signs show a severity (continuous, about -0.5 to 4.5).

    ``neutral`` is the resting face, see ``face.draw_neutral``, and ``healthy`` this person's motion in this clip
    without any impairment. ``rng`` draws how much this clip shows each sign, independently of the severity.
    """
    moving = np.delete(healthy.actions, face.ACTIONS.index("close"), axis=1)
    effort = np.abs(moving).sum(axis=(1, 2))
    shares = impairment(severity).amplitude * np.exp(rng.normal(0, 0.12, len(SIGNS)))
    return Skin(face.move(neutral, healthy), (effort / effort.max())[:, None] * shares)
