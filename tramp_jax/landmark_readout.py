"""The linear map from a frame's features to its landmarks, trained by ``loss.landmarks``.

The paper has no such target. Only training uses the map: it is saved with a run's checkpoints, but scoring, export and
conversion ignore it. Points are in units of half the picture: the picture's edges are at -1 and 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from tramp_jax.data.landmarks import NUM_LANDMARKS
from tramp_jax.models import reads_frames

NAME = "landmark_readout"  # next to the model's modules in "params"


def added(variables: dict[str, Any], config: ConfigDict) -> dict[str, Any]:
    """Adds a randomly initialised map to a model's variables, if the model reads frames and ``loss.landmarks`` is on.

    ``variables`` may also hold only shapes. ``config`` is the whole configuration.
    """
    if not config.loss.landmarks or not reads_frames(config.model):
        return variables
    shape = config.model.rgb.widths[-1], 2 * NUM_LANDMARKS
    kernel = jax.nn.initializers.lecun_normal()(jax.random.key(config.seed), shape)
    return variables | {"params": variables["params"] | {NAME: {"kernel": kernel, "bias": jnp.zeros(shape[1:])}}}


def offsets(params: Any, features: jax.Array, points: jax.Array) -> jax.Array:
    """Predicted points minus true ones, (B, F, 63, 2); 0 where there are no true ones.

    Args:
      params: parameters of the model and the map.
      features: (B, F, C), the S-Former's output.
      points: (B, F, 63, 2), NaN where there are none.
    """
    read = features.astype(jnp.float32) @ params[NAME]["kernel"] + params[NAME]["bias"]
    return jnp.where(jnp.isnan(points), 0, read.reshape(points.shape) - points)


def squared_errors(params: Any, features: jax.Array, points: jax.Array) -> jax.Array:
    """Mean squared error of the coordinates in each frame, (B, F); NaN for frames without points. See ``offsets``."""
    errors = jnp.mean(jnp.square(offsets(params, features, points)), axis=(2, 3))
    return jnp.where(jnp.isnan(points).any((2, 3)), jnp.nan, errors)


def distances(params: Any, features: jax.Array, points: jax.Array) -> jax.Array:
    """Mean distance of the points in each frame, (B, F); NaN for frames without points. See ``offsets``."""
    lengths = jnp.linalg.norm(offsets(params, features, points), axis=-1).mean(axis=2)
    return jnp.where(jnp.isnan(points).any((2, 3)), jnp.nan, lengths)
