"""``Inputs``: what a model reads from a batch of clips. ``tramp_jax.batches`` makes them; everything else uses them."""

from typing import Any

import flax.struct

Array = Any  # np.ndarray on the host, jax.Array on the device; a union would need a cast at every use


class Inputs(flax.struct.PyTreeNode):
    """The inputs of B clips. Anything the model does not read is None.

    Axes: F frames of the frame stream, K ≤ F distinct frames, H and W height and width, T trajectory length,
    V landmarks, C channels. All clips share an array if its leading axis is 1. A single sample has no leading axis.
    """

    # (B, K, H, W, 3) RGB. On the host, uint8 at the stored size; for the model, float32, normalised and at the model's
    # size.
    frames: Array | None = None
    frame_features: Array | None = None  # (B, K, features) output of the S-Former, if known; replaces ``frames``
    # (B, F) int32, number of the distinct frame at each place; None if ``frames`` has all F in order
    frame_index: Array | None = None
    # (B, F, 63, 2) float32, landmarks in the frames in units of half the picture, NaN for padding. The target of
    # ``loss.landmarks``, and None without it. No model reads them.
    points: Array | None = None
    # (B, K) bool, False for padding, which becomes zero after normalisation; None if no frame is padding
    frames_present: Array | None = None
    # (B, T, V, C) float32: x and y in pixels relative to the nose tip, then r, g, b in 0-255; for the model, the
    # channels of ``model.trajectory.channels``
    trajectories: Array | None = None
    index_t: Array | None = None  # (B, T) float32 positions of the trajectory's frames in [-1, 1)
    # (B, T) float32, time from the place before to each place of the trajectory. It is 0 if the two do not show
    # neighbouring frames: at the start, where a short clip starts again, and in blanks. Only for channels that describe
    # motion, which ``batches.motion`` computes from it.
    seconds: Array | None = None
