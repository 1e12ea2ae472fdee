"""Training losses: batch Monte-Carlo balanced MSE (paper), MSE and cross-entropy.

Each takes the scores of the *global* batch: under ``jit`` over a mesh they are the means over all devices.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

Array = jax.Array


def bmc(score: Array, target: Array, sigma: float = 1.0, swapped: bool = False) -> Array:
    """Balanced MSE, batch Monte-Carlo form, of scores (B,) and targets (B,).

    Each score must pick its own target out of the batch, which balances rare scores: the cross-entropy of
    ``-(score_i - target_j)² / (2 sigma²)``, times ``2 sigma²``.

    Args:
      score, target: (B,).
      sigma: noise scale in units of the score.
      swapped: exchange the two, as the released code does (``compat.swapped_bmc``).
    """
    if swapped:
        score, target = target, score
    logits = -jnp.square(score[:, None] - target[None, :]) / (2 * sigma**2)
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits, axis=1))) * (2 * sigma**2)


def mse(score: Array, target: Array) -> Array:
    """Mean squared error of scores (B,)."""
    return jnp.mean(jnp.square(score - target))


def cross_entropy(logits: Array, target: Array) -> Array:
    """Mean cross-entropy of class logits (B, classes) and class numbers (B,)."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, target.astype(int)))


def build_loss(config: ConfigDict) -> Callable[[Array, Array], Array]:
    """The loss of ``config.loss`` as a function of the model's output and the targets.

    Raises:
      ValueError: unknown loss, or one that does not fit ``config.model.head``.
    """
    name, classes = config.loss.name, config.model.head.num_classes
    if name not in ("bmc", "mse", "cross_entropy"):
        raise ValueError(f"loss.name is {name!r}; known: bmc, mse, cross_entropy")
    if (name == "cross_entropy") != bool(classes):
        raise ValueError(f"loss.name {name} does not fit a head of model.head.num_classes={classes} (0 is regression)")
    if name == "bmc":
        return lambda score, target: bmc(score, target, config.loss.sigma, config.compat.swapped_bmc)
    return mse if name == "mse" else cross_entropy
