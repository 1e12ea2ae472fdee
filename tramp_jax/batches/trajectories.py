"""A clip's trajectory as the model reads it (positions without head motion, and colours), and its mirror image."""

from typing import Any

import numpy as np

from tramp_jax.data import head_motion, landmarks
from tramp_jax.data.clips import Clip
from tramp_jax.errors import UserError


def trajectory(clip: Clip, channels: str, normalise: str = head_motion.NOSE, frontalise: bool = False) -> np.ndarray:
    """The whole trajectory of a clip, (n, 63, C) float32: positions in pixels without head motion, RGB 0-255, or both.

    ``channels`` is "xyrgb", "xy" or "rgb"; ``normalise`` and ``frontalise`` are those of ``data.head_motion``.
    """
    parts: list[np.ndarray] = []
    if "xy" in channels:
        parts.append(head_motion.positions(clip, normalise, frontalise))
    if "rgb" in channels:
        if clip.pixels is None:
            raise UserError(
                "no_colours",
                f"clip {clip.info.id} has no colours under its landmarks; for data with only landmarks, set "
                'model.trajectory.channels to "xy"',
            )
        parts.append(clip.pixels.astype(np.float32))
    return np.concatenate(parts, axis=-1).astype(np.float32)


def mirror(trajectories: Any) -> Any:
    """Mirrors trajectories (..., 63, C), in NumPy or JAX.

    Left and right points swap places and colours, and x, which must be relative to the mirror's axis, changes its sign.
    The channels are "xyrgb" if C is 5, "xy" if 2, "rgb" if 3.
    """
    *_, V, C = trajectories.shape
    assert (V, C) in [(landmarks.NUM_LANDMARKS, C) for C in (2, 3, 5)], f"cannot mirror {trajectories.shape}"
    signs = np.ones(C, np.float32)
    if C in (2, 5):
        signs[0] = -1
    return trajectories[..., landmarks.MIRROR, :] * signs
