"""Augmentation and normalisation of inputs, on the device inside the jitted step.

The host sends whole uint8 frames, slightly larger than the model's. Training crops them at random; evaluation resizes
them. As published, only frames are flipped and only trajectories are reversed; ``flip_trajectory`` and
``reverse_frames`` make the other stream follow. ``warp``, ``noise`` and ``landmark_dropout`` change trajectories only.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from tramp_jax.batches.motion import for_encoder, pupil_distance
from tramp_jax.batches.trajectories import mirror
from tramp_jax.models.inputs import Inputs

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def stored_size(image_size: int) -> int:
    """Side of the frames that the host sends to a model of ``image_size``: 256 for 224, otherwise in proportion."""
    return round(image_size * 256 / 224)


def normalise(frames: jax.Array) -> jax.Array:
    """RGB in 0-255 -> float32, normalised by ImageNet's mean and standard deviation."""
    mean, std = jnp.array(IMAGENET_MEAN), jnp.array(IMAGENET_STD)
    return (frames.astype(jnp.float32) / 255.0 - mean) / std


def for_training(inputs: Inputs, config: ConfigDict, key: jax.Array) -> Inputs:
    """The model's inputs in training: augmented, normalised, and with the encoder's channels.

    Each clip, with all F frames in order, has its own random crop, flip and reversal. As published, reversal leaves
    ``index_t`` unchanged. Frames are uint8 at the stored size; ``config`` is the whole configuration, and ``key`` the
    step's.
    """
    crop_key, flip_key, reverse_key = jax.random.split(key, 3)
    # From a separate key, so these options do not change the other draws.
    warp_key, noise_key, dropout_key = jax.random.split(jax.random.fold_in(key, 3), 3)
    augment, image_size = config.augment, config.model.rgb.image_size
    frames, trajectories, seconds, points = inputs.frames, inputs.trajectories, inputs.seconds, inputs.points
    if frames is not None:
        if augment.crop:
            *_, height, side, _ = frames.shape
            room = jnp.array([height - image_size + 1, side - image_size + 1])
            corner = jax.random.randint(crop_key, (len(frames), 2), 0, room)  # top and left of each window
            frames = _crop(frames, corner, image_size)
            points = points if points is None else _crop_points(points, corner, image_size, side)
        frames = _resize(frames, image_size)
        flipped = jax.random.bernoulli(flip_key, augment.flip, (len(frames),))
        frames = _where(flipped, frames[:, :, :, ::-1], frames)
        points = points if points is None else _where(flipped, mirror(points), points)
        frames = _blanked(normalise(frames), inputs.frames_present)
        if augment.reverse_frames:
            reversed_ = jax.random.bernoulli(reverse_key, augment.reverse_time, (len(frames),))
            frames = _where(reversed_, frames[:, ::-1], frames)
            points = points if points is None else _where(reversed_, points[:, ::-1], points)
    if trajectories is not None:
        if augment.warp:  # before the reversal, which ``index_t`` does not follow
            assert inputs.index_t is not None, "trajectories come with index_t"
            trajectories = _warp(trajectories, inputs.index_t, augment.warp, warp_key)
        if augment.noise:
            trajectories = _add_noise(trajectories, augment.noise, noise_key)
        if augment.flip_trajectory:
            flipped = jax.random.bernoulli(flip_key, augment.flip, (len(trajectories),))  # the same clips as above
            trajectories = _where(flipped, mirror(trajectories), trajectories)
        reversed_ = jax.random.bernoulli(reverse_key, augment.reverse_time, (len(trajectories),))
        trajectories = _where(reversed_, trajectories[:, ::-1], trajectories)
        if seconds is not None:  # reversed, the step into a frame is the step out of it
            seconds = _where(reversed_, jnp.roll(seconds[:, ::-1], 1, axis=1), seconds)
    inputs = inputs.replace(
        frames=frames, trajectories=trajectories, seconds=seconds, points=points, frames_present=None
    )
    inputs = for_encoder(inputs, config.model.trajectory)
    if augment.landmark_dropout and inputs.trajectories is not None:
        # Whole landmarks, and after the channels are computed: a landmark that came and went would seem to move. In
        # the logarithmic channels, 0 is a typical motion.
        B, _, V, _ = inputs.trajectories.shape
        kept = jax.random.bernoulli(dropout_key, 1 - augment.landmark_dropout, (B, 1, V, 1))
        inputs = inputs.replace(trajectories=jnp.where(kept, inputs.trajectories, 0))
    return inputs


def for_evaluation(inputs: Inputs, config: ConfigDict) -> Inputs:
    """The model's inputs in evaluation: whole frames, resized and normalised, and the encoder's channels.

    ``config`` is the ``model`` group.
    """
    inputs = for_encoder(inputs, config.trajectory)
    if inputs.frames is None:
        return inputs
    frames = normalise(_resize(inputs.frames, config.rgb.image_size))
    return inputs.replace(frames=_blanked(frames, inputs.frames_present), frames_present=None)


def _where(chosen: jax.Array, changed: jax.Array, kept: jax.Array) -> jax.Array:
    """``changed`` (B, ...) for the chosen (B,) clips, ``kept`` for the rest."""
    return jnp.where(chosen.reshape(-1, *[1] * (kept.ndim - 1)), changed, kept)


def _warp(trajectories: jax.Array, index_t: jax.Array, most: float, key: jax.Array) -> jax.Array:
    """Plays each clip faster in some moments and slower in others, from its first frame to its last.

    The pace follows one to three waves, with a strength from 0 to ``most``. Each frame is interpolated between two of
    the clip and keeps its number and time, so landmarks move at another speed, but no farther. All repeats of a short
    clip are warped alike, so nothing is mixed where they meet. ``most`` is below 1, so that time does not run
    backwards.
    """
    B, T = index_t.shape
    strength, waves, phase = jax.random.uniform(key, (3, B, 1))
    strength, waves, phase = most * strength, jnp.floor(1 + 3 * waves), 2 * jnp.pi * phase
    number = jnp.round((index_t + 1) * T / 2)
    place = number - number[:, :1]  # where this frame is first shown
    # Padding by zeros or by the last frame is not part of the clip.
    new = jnp.any(trajectories != jnp.roll(trajectories, 1, axis=1), axis=(2, 3)) & jnp.any(trajectories, axis=(2, 3))
    last = jnp.max(jnp.where(new, place, 0), axis=1, keepdims=True)
    angle = 2 * jnp.pi * waves * place / jnp.maximum(last, 1) + phase
    shift = strength * last / (2 * jnp.pi * waves) * (jnp.cos(phase) - jnp.cos(angle))
    source = jnp.where(place > last, place, jnp.clip(place + shift, 0, last))
    before = jnp.floor(source)

    def shown(at: jax.Array) -> jax.Array:
        return jnp.take_along_axis(trajectories, at.astype(jnp.int32)[..., None, None], axis=1)

    return shown(before) + (source - before)[..., None, None] * (shown(jnp.ceil(source)) - shown(before))


def _add_noise(trajectories: jax.Array, most: float, key: jax.Array) -> jax.Array:
    """Moves each landmark (B, T, V, C) in each frame at random, like the errors of a detector; blanks stay blank.

    Each clip draws its own standard deviation, from 0 to ``most`` pupil distances, so that some clips are almost as
    clean as in evaluation. Without positions, nothing changes.
    """
    C = trajectories.shape[-1]
    if C not in (2, 5):
        return trajectories
    size_key, place_key = jax.random.split(key)
    positions = trajectories[..., :2]
    size = most * jax.random.uniform(size_key, (len(positions), 1, 1, 1)) * pupil_distance(positions)
    size = size * jnp.any(positions, axis=(2, 3), keepdims=True)
    moved = positions + size * jax.random.normal(place_key, positions.shape)
    return jnp.concatenate([moved, trajectories[..., 2:]], axis=-1)


def _blanked(frames: jax.Array, present: jax.Array | None) -> jax.Array:
    """Zeroes the normalised frames (B, F, H, W, 3) that are not ``present`` (B, F); None if all are."""
    return frames if present is None else jnp.where(present[:, :, None, None, None], frames, 0)


def _crop(frames: jax.Array, corner: jax.Array, size: int) -> jax.Array:
    """Crops one window per clip, the same in all its frames: (B, F, H, W, 3) -> (B, F, size, size, 3)."""
    _, F, _, _, C = frames.shape

    def crop(clip: jax.Array, yx: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(clip, (0, yx[0], yx[1], 0), (F, size, size, C))

    return jax.vmap(crop)(frames, corner)


def _crop_points(points: jax.Array, corner: jax.Array, size: int, side: int) -> jax.Array:
    """Converts points (B, F, 63, 2) from units of half a frame of ``side`` pixels to half the cropped window."""
    return ((points + 1) * side - 2 * corner[:, None, None, ::-1]) / size - 1


def _resize(frames: jax.Array, size: int) -> jax.Array:
    """(B, F, H, W, 3) -> (B, F, size, size, 3)."""
    B, F, H, W, C = frames.shape
    if (H, W) == (size, size):
        return frames
    return jax.image.resize(frames.astype(jnp.float32), (B, F, size, size, C), "linear")
