"""Training losses: batch Monte-Carlo balanced MSE (paper), MSE and cross-entropy.

Each takes the scores of the *global* batch, so that under ``jit`` over a mesh it is the mean over all devices.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from tramp_jax.errors import UserError

Array = jax.Array


def bmc(score: Array, target: Array, sigma: float = 1.0, swapped: bool = False) -> Array:
    """Balanced MSE, batch Monte-Carlo form, of scores (B,) and targets (B,).

    Each score must pick its own target from those of the batch, which balances rare scores. The loss is the
    cross-entropy of ``-(score_i - target_j)² / (2 sigma²)``, times ``2 sigma²``.

    Args:
      score, target: (B,).
      sigma: noise scale in units of the score.
      swapped: exchange the two, as the released code does (``loss.swapped``).
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
      UserError: bad_option, if the loss does not fit ``config.model.head``.
    """
    name, classes = config.loss.name, config.model.head.num_classes
    if (name == "cross_entropy") != bool(classes):
        raise UserError(
            "bad_option",
            f"loss.name={name} does not fit model.head.num_classes={classes}: cross_entropy needs classes, the other "
            "losses need 0 (regression)",
        )
    if name == "bmc":
        return lambda score, target: bmc(score, target, config.loss.sigma, config.loss.swapped)
    return {"mse": mse, "cross_entropy": cross_entropy}[name]
