"""Augmentation and normalisation of a batch, on the device inside the jitted step.

The host ships whole uint8 frames, a little larger than the model's; training crops them at random, testing
resizes them. As published, the frame stream is flipped and the trajectory stream is reversed each on its own;
``flip_trajectory`` and ``reverse_frames`` make the other stream follow.
"""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from tramp_jax.batches import sampling

Batch = dict[str, Any]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def stored_size(image_size: int) -> int:
    """Side of the frames that the host ships for a model of ``image_size``: 256 for 224, and in proportion."""
    return round(image_size * 256 / 224)


def normalise(frames: jax.Array) -> jax.Array:
    """RGB in 0-255 -> float32 with ImageNet's mean and standard deviation."""
    mean, std = jnp.array(IMAGENET_MEAN), jnp.array(IMAGENET_STD)
    return (frames.astype(jnp.float32) / 255.0 - mean) / std


def for_training(batch: Batch, config: ConfigDict, image_size: int, key: jax.Array) -> Batch:
    """A batch as the training step takes it.

    Each clip is flipped and reversed, or not, by draws of its own. ``index_t`` stays in either case, as published.

    Args:
      batch: ``frames`` (B, F, H, W, 3) uint8 and/or ``trajectories`` (B, T, V, C), and ``frames_present`` (B, F) bool
        where some frames are padding; other entries pass through.
      config: the ``augment`` group.
      image_size: side of the model's frames.
      key: of this step.

    Raises:
      ValueError: ``flip_trajectory`` for trajectories that ``sampling.mirror`` does not know.
    """
    crop_key, flip_key, reverse_key = jax.random.split(key, 3)
    batch = dict(batch)
    frames, trajectories = batch.get("frames"), batch.get("trajectories")
    if frames is not None:
        frames = _random_crop(frames, image_size, crop_key) if config.crop else _resize(frames, image_size)
        flipped = jax.random.bernoulli(flip_key, config.flip, (len(frames),))
        frames = _where(flipped, frames[:, :, :, ::-1], frames)
        frames = _blanked(normalise(frames), batch.pop("frames_present", None))
        if config.reverse_frames:
            reversed_ = jax.random.bernoulli(reverse_key, config.reverse_time, (len(frames),))
            frames = _where(reversed_, frames[:, ::-1], frames)
        batch["frames"] = frames
    if trajectories is not None:
        if config.flip_trajectory:
            flipped = jax.random.bernoulli(flip_key, config.flip, (len(trajectories),))  # the draw of the frames
            trajectories = _where(flipped, sampling.mirror(trajectories), trajectories)
        reversed_ = jax.random.bernoulli(reverse_key, config.reverse_time, (len(trajectories),))
        batch["trajectories"] = _where(reversed_, trajectories[:, ::-1], trajectories)
    return batch


def for_evaluation(batch: Batch, image_size: int) -> Batch:
    """A batch as the evaluation step takes it: frames resized whole and normalised."""
    if batch.get("frames") is None:
        return batch
    batch = dict(batch)
    frames = normalise(_resize(batch["frames"], image_size))
    return batch | {"frames": _blanked(frames, batch.pop("frames_present", None))}


def _where(chosen: jax.Array, changed: jax.Array, kept: jax.Array) -> jax.Array:
    """``changed`` (B, ...) for the chosen (B,) clips, ``kept`` for the others."""
    return jnp.where(chosen.reshape(-1, *[1] * (kept.ndim - 1)), changed, kept)


def _blanked(frames: jax.Array, present: jax.Array | None) -> jax.Array:
    """Normalised frames (B, F, H, W, 3) with 0 in those that are not present (B, F)."""
    return frames if present is None else jnp.where(present[:, :, None, None, None], frames, 0)


def _random_crop(frames: jax.Array, size: int, key: jax.Array) -> jax.Array:
    """One window per clip, the same in all its frames: (B, F, H, W, 3) -> (B, F, size, size, 3)."""
    B, F, H, W, C = frames.shape
    corner = jax.random.randint(key, (B, 2), 0, jnp.array([H - size + 1, W - size + 1]))

    def crop(clip: jax.Array, yx: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(clip, (0, yx[0], yx[1], 0), (F, size, size, C))

    return jax.vmap(crop)(frames, corner)


def _resize(frames: jax.Array, size: int) -> jax.Array:
    B, F, H, W, C = frames.shape
    if (H, W) == (size, size):
        return frames
    return jax.image.resize(frames.astype(jnp.float32), (B, F, size, size, C), "linear")
