"""``Inputs``: what a model reads of a batch of clips. Made in ``tramp_jax.batches`` and used everywhere else."""

from typing import Any

import flax.struct

Array = Any  # NumPy on the host, JAX on the device


class Inputs(flax.struct.PyTreeNode):
    """The inputs of B clips. Anything that the model does not read is None.

    Axes: F frames of the frame stream, K ≤ F distinct frames, H and W height and width, T trajectory length,
    V landmarks, C channels. A leading axis of 1 is shared by all clips. Without the leading axis, one sample.

    Attributes:
      frames: (B, K, H, W, 3) RGB. On the host, uint8 at the stored size; for the model, float32, normalised and at the
        model's size.
      frame_features: (B, K, features) output of the S-Former; replaces ``frames`` if it is known.
      frame_index: (B, F) int32, which of the K distinct frames is at each place; None if K = F, in order.
      points: (B, F, 63, 2) float32, landmarks in the frames in units of half the picture, NaN for padding. A target of
        ``loss.landmarks``, None without; no model reads it.
      frames_present: (B, K) bool, False for padding, which is zero after normalisation; None if all are present.
      trajectories: (B, T, V, C) float32: x and y in pixels relative to the nose tip, then r, g, b in 0-255; for the
        model, the channels of ``model.trajectory.channels``.
      index_t: (B, T) float32 positions of the trajectory's frames in [-1, 1).
      seconds: (B, T) float32, time between each place of the trajectory and the one before; 0 if they do not show
        neighbouring frames, as at the start, where a short clip starts again, and in blanks. Only for channels that
        describe motion, and used up by ``batches.motion``.
    """

    frames: Array | None = None
    frame_features: Array | None = None
    frame_index: Array | None = None
    points: Array | None = None
    frames_present: Array | None = None
    trajectories: Array | None = None
    index_t: Array | None = None
    seconds: Array | None = None
