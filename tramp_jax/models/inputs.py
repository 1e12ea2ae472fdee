"""``Inputs``: everything a model sees of a batch of clips, made by ``tramp_jax.batches`` and read by everyone else."""

from typing import Any

import flax.struct

Array = Any  # of NumPy on the host, of JAX on the device


class Inputs(flax.struct.PyTreeNode):
    """The inputs of B clips. What the model does not read is None.

    Axes: F frames of the frame stream, K ≤ F distinct ones, H and W height and width, T trajectory length, V landmarks,
    C channels. Arrays with a leading axis of 1 are shared by all clips.

    Attributes:
      frames: (B, K, H, W, 3) RGB: uint8 at the stored size on the host, float32 normalised and at the model's size
        when the model reads them.
      frame_features: (B, K, features) what the S-Former makes of the frames; replaces ``frames`` where it is known.
      frame_index: (B, F) int32, which of the K frames each of the F is; None where K = F, in order.
      frames_present: (B, K) bool, False where a frame is padding and its pixels are zeros of the model's input; None
        where all are present.
      trajectories: (B, T, V, C) float32: x, y relative to the nose tip in pixels, then r, g, b in 0-255.
      index_t: (B, T) float32 positions of the trajectory's frames in [-1, 1).
    """

    frames: Array | None = None
    frame_features: Array | None = None
    frame_index: Array | None = None
    frames_present: Array | None = None
    trajectories: Array | None = None
    index_t: Array | None = None
