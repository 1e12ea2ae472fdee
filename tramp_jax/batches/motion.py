"""Computes on the device how landmarks move, as channels of the trajectory stream (``model.trajectory.channels``).

docs/few_people.md lists them. Lengths are in units of the distance between the pupils, and times in seconds, so neither
the size of a face nor the frame rate matters, except for tremor: fewer than 12 frames a second show only a part of it,
fewer than 8 none, and clips under a second are too short. Tremor is the same for all landmarks of a region, because a
region trembles as a whole and a detector's errors do not. The logarithms put faces that hardly move and faces that move
a lot on one scale.
"""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce, repeat
from ml_collections import ConfigDict

from tramp_jax import channels
from tramp_jax.data import landmarks
from tramp_jax.models.inputs import Inputs

WINDOW = 8  # frames

# FLOOR: the smallest motion that counts, about a detector's noise. UNIT: a typical motion, whose log is about 0.
SPEED_FLOOR, SPEED_UNIT = 0.04, 0.2  # pupil distances per second
RANGE_FLOOR, RANGE_UNIT = 0.008, 0.05  # pupil distances
TREMOR_FLOOR, TREMOR_UNIT = 0.002, 0.005  # pupil distances

# The middles of 16 steps from 4 to 6 Hz, the rest tremor of Parkinson's disease.
TREMOR_STEP = 2 / 16
TREMOR_HZ = 4 + TREMOR_STEP * (np.arange(16) + 0.5)

LEFT_PUPIL, RIGHT_PUPIL = landmarks.PUPILS
SMALLEST = 1e-3  # pixels; keeps the distance between the pupils above 0
SHORTEST = 1e-4  # seconds between frames; with SMALLEST_SUM, keeps the tremor of clips without motion finite
SMALLEST_SUM = 1e-6


def for_encoder(inputs: Inputs, config: ConfigDict) -> Inputs:
    """Turns trajectories of positions and colours (B, T, V, C) into the channels that the encoder reads.

    Nothing changes if the model reads positions and colours frame by frame, as published. With ``patch`` > 1, the
    encoder reads the means of runs of that many frames: (B, T / patch, V, channels). ``config`` is the
    ``model.trajectory`` group.
    """
    trajectories, index_t, patch = inputs.trajectories, inputs.index_t, config.patch
    if trajectories is None:
        return inputs
    if channels.names(config.channels) != tuple(channels.stored(config.channels)):
        trajectories = with_motion(trajectories, inputs.seconds, config.channels)
    if patch > 1:
        trajectories = reduce(trajectories, "b (t n) v c -> b t v c", "mean", n=patch)
        index_t = reduce(index_t, "b (t n) -> b t", "mean", n=patch)
    return inputs.replace(trajectories=trajectories, index_t=index_t, seconds=None)


def with_motion(trajectories: jax.Array, seconds: jax.Array | None, option: str) -> jax.Array:
    """Makes the channels that ``option`` (``model.trajectory.channels``) names, from the stored ones (B, T, V, C).

    Returns (B, T, V, channels). Positions are in pixels relative to the nose tip. ``seconds`` (B, T) is the time since
    the frame at the place before; None if no channel describes motion.
    """
    if not channels.reads_motion(option):
        return trajectories[..., ["xyrgb".index(name) for name in channels.names(option)]]
    assert seconds is not None, "channels that describe motion need the times between frames"
    positions = trajectories[..., :2]
    points = positions / pupil_distance(positions)
    speed = _speed(points, seconds)
    energy = _energies(points, speed, seconds)
    mirrored = points[..., landmarks.MIRROR, :] * jnp.array([-1.0, 1.0])
    parts = {
        "xy": positions,
        "rgb": trajectories[..., -3:],
        "xyrgb": trajectories,
        "speed": speed,
        "energy": energy,
        "range": _range(points, seconds),
        "tremor": _tremor(speed, seconds),
        "asymmetry": jnp.concatenate([points - mirrored, energy - energy[..., landmarks.MIRROR, :]], axis=-1),
    }
    return jnp.concatenate([parts[group] for group in option.split("+")], axis=-1)


def pupil_distance(points: jax.Array) -> jax.Array:
    """Mean distance (B, 1, 1, 1) between the pupils, over the frames that are not blank."""
    apart = jnp.sqrt(jnp.sum((points[..., LEFT_PUPIL, :] - points[..., RIGHT_PUPIL, :]) ** 2, axis=-1) + SMALLEST**2)
    shown = jnp.any(points != 0, axis=(-1, -2))
    return (jnp.sum(apart * shown, axis=1) / jnp.maximum(jnp.sum(shown, axis=1), 1) + SMALLEST)[:, None, None, None]


def _speed(points: jax.Array, seconds: jax.Array) -> jax.Array:
    """Velocities (B, T, V, 2) per second; 0 in frames that do not follow their predecessor."""
    moves = seconds > 0
    rate = jnp.where(moves, 1 / jnp.where(moves, seconds, 1), 0)
    return jnp.diff(points, axis=1, prepend=points[:, :1]) * rate[..., None, None]


def _energies(points: jax.Array, speed: jax.Array, seconds: jax.Array) -> jax.Array:
    """Log energies (B, T, V, 4) of each frame's window. Frames that do not follow their predecessor do not count."""

    def windows(x: jax.Array) -> jax.Array:
        return rearrange(x, "b (w n) ... -> b w n ...", n=WINDOW)

    counts = windows((seconds > 0).astype(points.dtype))[..., None, None]
    total = jnp.maximum(jnp.sum(counts, axis=2, keepdims=True), 1)

    def mean(x: jax.Array) -> jax.Array:
        return jnp.sum(x * counts, axis=2, keepdims=True) / total

    places = windows(points)
    away = places - mean(places)
    speed_energy = _log_root(mean(windows(speed) ** 2), SPEED_FLOOR, SPEED_UNIT)
    range_energy = _log_root(mean(away**2), RANGE_FLOOR, RANGE_UNIT)
    energies = jnp.concatenate([speed_energy, range_energy], axis=-1)
    return repeat(energies, "b w 1 v c -> b (w n) v c", n=WINDOW)


def _range(points: jax.Array, seconds: jax.Array) -> jax.Array:
    """Log ranges (B, T, V, 2) of the whole clip, from the same frames as energies."""
    counts = (seconds > 0).astype(points.dtype)[..., None, None]
    total = jnp.maximum(jnp.sum(counts, axis=1, keepdims=True), 1)
    away = points - jnp.sum(points * counts, axis=1, keepdims=True) / total
    found = _log_root(jnp.sum(away**2 * counts, axis=1, keepdims=True) / total, RANGE_FLOOR, RANGE_UNIT)
    return jnp.broadcast_to(found, points.shape)


def _tremor(speed: jax.Array, seconds: jax.Array) -> jax.Array:
    """Log amplitudes (B, T, V, 2) of the whole clip, from the spectrum of the speed, which has no jumps."""
    moves = seconds > 0
    total = jnp.maximum(jnp.sum(moves, axis=1, keepdims=True), 1)
    step = jnp.maximum(jnp.sum(jnp.where(moves, seconds, 0), axis=1, keepdims=True) / total, SHORTEST)  # (B, 1)
    weights = jnp.where(moves, jnp.sin(jnp.pi * (jnp.cumsum(moves, axis=1) - 0.5) / total) ** 2, 0)  # Hann's window
    angles = 2 * jnp.pi * jnp.cumsum(seconds, axis=1)[:, None] * TREMOR_HZ[:, None]
    waves = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1) * weights[:, None, None]
    spectrum = jnp.einsum("bpft,btvc->bpfvc", waves, speed)
    # The speed of a wave is its amplitude times this, as far as the frame rate shows it.
    shown = TREMOR_HZ * step < 0.5
    scale = jnp.where(shown, step / (2 * jnp.sin(jnp.pi * jnp.where(shown, TREMOR_HZ * step, 0.25))), 0)
    density = 2 * step / jnp.maximum(jnp.sum(weights**2, axis=1, keepdims=True), SMALLEST_SUM)
    square = jnp.einsum("bpfvc,bf->bvc", spectrum**2, scale**2 * density * TREMOR_STEP)
    regions = reduce(square, "b (r n) c -> b r 1 c", "mean", n=landmarks.GROUP_SIZE)
    found = repeat(_log_root(regions, TREMOR_FLOOR, TREMOR_UNIT), "b r 1 c -> b 1 (r n) c", n=landmarks.GROUP_SIZE)
    return jnp.broadcast_to(found, speed.shape)


def _log_root(square: jax.Array, floor: float, unit: float) -> jax.Array:
    """The log of a root mean square in ``unit``; ``floor`` keeps it finite where nothing moves."""
    return 0.5 * jnp.log((square + floor**2) / unit**2)
