"""A clip's trajectory as the model reads it: positions free of head motion, colours, and its mirror image."""

from typing import Any

import numpy as np

from tramp_jax.data import head_motion, landmarks
from tramp_jax.data.clips import Clip
from tramp_jax.errors import UserError

CHANNELS = ("xyrgb", "xy", "rgb")


def trajectory(
    clip: Clip,
    channels: str,
    normalise: str = head_motion.NOSE,
    frontalise: bool = False,
) -> np.ndarray:
    """Every frame of a clip's trajectory: (n, 63, C) float32, pixels free of head motion and/or RGB 0-255.

    Args:
      clip: n frames.
      channels: one of ``CHANNELS``.
      normalise, frontalise: how head motion is removed, see ``tramp_jax.data.head_motion``.

    Raises:
      UserError: unknown ``channels`` or ``normalise``, or the clip lacks the colours or the depth that they need.
    """
    if channels not in CHANNELS:
        known = ", ".join(CHANNELS)
        raise UserError("bad_option", f"model.trajectory.channels is {channels!r}; use one of: {known}")
    parts: list[np.ndarray] = []
    if "xy" in channels:
        parts.append(head_motion.positions(clip, normalise, frontalise))
    if "rgb" in channels:
        if clip.pixels is None:
            raise UserError(
                "no_colours",
                f"clip {clip.info.id} has no colours under its landmarks; set model.trajectory.channels to "
                '"xy" for data with landmarks only',
            )
        parts.append(clip.pixels.astype(np.float32))
    return np.concatenate(parts, axis=-1).astype(np.float32)


def mirror(trajectories: Any) -> Any:
    """Trajectories (..., 63, C) of the same clips seen in a mirror, in NumPy or JAX.

    Left and right points change places, and x, relative to the nose, changes its sign. Colours go with their points.
    The number of channels C tells which channels they are.

    Raises:
      ValueError: other points or channels than the method's.
    """
    *_, V, C = trajectories.shape
    widths = {len(channels): channels for channels in CHANNELS}
    if V != landmarks.NUM_LANDMARKS or C not in widths:
        raise ValueError(
            f"only trajectories (..., 63, C) of {', '.join(CHANNELS)} can be mirrored, not {trajectories.shape}"
        )
    signs = np.ones(C, np.float32)
    signs[: 1 if "xy" in widths[C] else 0] = -1
    return trajectories[..., landmarks.MIRROR, :] * signs
