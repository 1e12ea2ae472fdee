"""Augmentation and normalisation of the inputs, on the device inside the jitted step.

The host sends whole uint8 frames, a little larger than the model's; training crops them at random, evaluation
resizes them. As published, only the frame stream is flipped and only the trajectory stream is reversed;
``flip_trajectory`` and ``reverse_frames`` make the other stream follow.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from tramp_jax.batches.trajectories import mirror
from tramp_jax.models.inputs import Inputs

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def stored_size(image_size: int) -> int:
    """Side of the frames that the host sends for a model of ``image_size``: 256 for 224, others in proportion."""
    return round(image_size * 256 / 224)


def normalise(frames: jax.Array) -> jax.Array:
    """RGB in 0-255 -> float32 with ImageNet's mean and standard deviation."""
    mean, std = jnp.array(IMAGENET_MEAN), jnp.array(IMAGENET_STD)
    return (frames.astype(jnp.float32) / 255.0 - mean) / std


def for_training(inputs: Inputs, config: ConfigDict, image_size: int, key: jax.Array) -> Inputs:
    """Inputs as the training step feeds them to the model.

    Each clip is flipped and reversed, or not, by draws of its own. ``index_t`` stays in either case, as published.

    Args:
      inputs: with all F frames, uint8 and at the stored size.
      config: the ``augment`` group.
      image_size: side of the model's frames.
      key: of this step.

    Raises:
      ValueError: ``flip_trajectory`` for trajectories that ``trajectories.mirror`` does not know.
    """
    crop_key, flip_key, reverse_key = jax.random.split(key, 3)
    frames, trajectories = inputs.frames, inputs.trajectories
    if frames is not None:
        frames = _random_crop(frames, image_size, crop_key) if config.crop else _resize(frames, image_size)
        flipped = jax.random.bernoulli(flip_key, config.flip, (len(frames),))
        frames = _where(flipped, frames[:, :, :, ::-1], frames)
        frames = _blanked(normalise(frames), inputs.frames_present)
        if config.reverse_frames:
            reversed_ = jax.random.bernoulli(reverse_key, config.reverse_time, (len(frames),))
            frames = _where(reversed_, frames[:, ::-1], frames)
    if trajectories is not None:
        if config.flip_trajectory:
            flipped = jax.random.bernoulli(flip_key, config.flip, (len(trajectories),))  # the draw of the frames
            trajectories = _where(flipped, mirror(trajectories), trajectories)
        reversed_ = jax.random.bernoulli(reverse_key, config.reverse_time, (len(trajectories),))
        trajectories = _where(reversed_, trajectories[:, ::-1], trajectories)
    return inputs.replace(frames=frames, trajectories=trajectories, frames_present=None)


def for_evaluation(inputs: Inputs, image_size: int) -> Inputs:
    """Inputs as the evaluation feeds them to the model: whole frames, resized and normalised."""
    if inputs.frames is None:
        return inputs
    frames = normalise(_resize(inputs.frames, image_size))
    return inputs.replace(frames=_blanked(frames, inputs.frames_present), frames_present=None)


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
