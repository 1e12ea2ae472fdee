"""Training losses: balanced MSE in three forms, MSE and cross-entropy.

Each takes the scores of the *global* batch. Under ``jit`` over a mesh, that is the batch of all devices together.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from tramp_jax.errors import UserError
from tramp_jax.models import is_late_fusion, reads_frames, separate_losses

Array = jax.Array
LANDMARKS = "landmarks"  # ignores the ratings
BALANCED = ("bmc", "balanced_mse", "gai")
_WIDEST = 30.0  # the scales of the recipes are at most 25 wide
Loss = Callable[[Array, Array], Array]  # (the model's output for a batch, targets (B,)) -> loss


def bmc(score: Array, target: Array, sigma: float = 1.0, swapped: bool = False) -> Array:
    """Balanced MSE in its batch Monte-Carlo form.

    Each score must pick its own target among those of the batch, which gives rare ratings more weight. The loss is the
    cross-entropy of the logits ``-(score_i - target_j)² / (2 sigma²)``, times ``2 sigma²``.

    Args:
      score, target: (B,).
      sigma: noise scale in units of the score.
      swapped: exchange score and target, as the released code does (``loss.swapped``).
    """
    if swapped:
        score, target = target, score
    logits = -jnp.square(score[:, None] - target[None, :]) / (2 * sigma**2)
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits, axis=1))) * (2 * sigma**2)


def balanced_mse(
    score: Array, target: Array, ratings: np.ndarray, shares: np.ndarray, sigma: float, variances: Any = 0.0
) -> Array:
    """Balanced MSE against all training ratings, or in closed form against a mixture of Gaussians fitted to them.

    The negative log-likelihood of the model behind ``bmc``, times ``2 sigma²``: the rating follows N(score, sigma²),
    re-weighted by how often each rating occurs. Unlike ``bmc``, it does not depend on which ratings share a batch, so
    it ties the score to the scale even in small batches. The mixture is GAI of Ren et al. (CVPR 2022).

    Args:
      score, target: (B,).
      ratings: (R,) distinct ratings, or the means of the mixture.
      shares: (R,) each one's share of the training clips; the sum is 1.
      sigma: noise scale in units of the score.
      variances: (R,) variances of the mixture; 0 for the ratings themselves.
    """
    total = variances + sigma**2
    every = -jnp.square(score[:, None] - ratings) / (2 * total) - jnp.log(total / sigma**2) / 2 + jnp.log(shares)
    own = -jnp.square(score - target) / (2 * sigma**2)
    return jnp.mean(jax.nn.logsumexp(every, axis=1) - own) * (2 * sigma**2)


def mixture(ratings: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fits a mixture of Gaussians to ratings (N,). Returns its means, variances and weights.

    The mixture has at most as many components as there are distinct ratings.
    """
    from sklearn.mixture import GaussianMixture

    count = min(components, len(np.unique(ratings)))
    fitted = GaussianMixture(count, covariance_type="diag", random_state=0).fit(np.asarray(ratings)[:, None])
    return fitted.means_[:, 0], fitted.covariances_[:, 0], fitted.weights_


def mse(score: Array, target: Array) -> Array:
    """Mean squared error of scores (B,)."""
    return jnp.mean(jnp.square(score - target))


def cross_entropy(logits: Array, target: Array) -> Array:
    """Mean cross-entropy of class logits (B, classes) and class numbers (B,)."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, target.astype(int)))


def check(config: ConfigDict) -> None:
    """Refuses a loss that does not fit ``config.model``.

    Raises:
      UserError: bad_option.
    """
    name, classes = config.loss.name, config.model.head.num_classes
    if (name == "cross_entropy") != bool(classes):
        raise UserError(
            "bad_option",
            f"loss.name={name} does not fit model.head.num_classes={classes}: cross_entropy needs classes, the other "
            "losses need 0 (regression)",
        )
    weight = config.loss.landmarks
    if name == LANDMARKS and not (weight and reads_frames(config.model)):
        raise UserError(
            "bad_option",
            f"loss.name=landmarks learns nothing with loss.landmarks={weight:g} and "
            f"model.streams={config.model.streams}; set --config.loss.landmarks=30 and --config.model.streams=rgb",
        )
    if weight and reads_frames(config.model) and config.model.rgb.scrambled_frames:
        raise UserError(
            "bad_option",
            f"loss.landmarks={weight:g} needs whole frames, because it trains the frame encoder to find the landmarks "
            "in each frame; set model.rgb.scrambled_frames to False",
        )


def check_ratings(config: ConfigDict, ratings: Sequence[float]) -> None:
    """Refuses training ratings and batches from which a balanced loss learns nothing.

    Raises:
      UserError: bad_data for equal ratings; bad_option for batches of one clip.
    """
    name = config.loss.name
    if name not in BALANCED:
        return
    if len(set(ratings)) < 2:
        raise UserError(
            "bad_data",
            f"all {len(ratings)} training clips have the same score, so loss.name={name} has no gradient; add clips "
            "with other scores",
        )
    if name == "bmc" and config.train.batch_size < 2:
        raise UserError(
            "bad_option",
            "train.batch_size is 1, but loss.name=bmc compares the clips of a batch and has no gradient for one clip; "
            "use a larger batch or --config.loss.name=balanced_mse",
        )


def doubt(ratings: Sequence[float]) -> str:
    """A warning if the rating scale is far wider than those that the recipes are made for; else "".

    Raw values begin near 0, and the recipes' learning rates move them by a few points, not by fifty. The recipes also
    take one point as the noise of a rating (``loss.sigma``).
    """
    largest = max(map(abs, ratings), default=0)
    if largest <= _WIDEST:
        return ""
    return (
        f"the ratings reach {largest:g}, but learning rates and loss.sigma fit scales such as 0 to 4, so scores may be "
        "too low or too close together, and their spread too small; divide the ratings so that they reach about 4, "
        "write them into a column of the list, and learn that with --config.data.target=COLUMN"
    )


def build_loss(config: ConfigDict, ratings: Sequence[float] = ()) -> Loss:
    """The loss of ``config.loss``, as a function of the model's output and the targets.

    With ``model.members`` or late fusion, the output has an axis of members or streams after the batch axis. The loss
    is the mean of the members' losses, or the sum of the streams' losses. With a sum, ``loss.landmarks`` weighs as much
    beside the loss of the frames as it does without the trajectory stream. "balanced_mse" and "gai" need the (N,)
    ``ratings`` of the training clips.
    """
    loss = _build_loss(config, ratings)
    if not separate_losses(config.model):
        return loss
    together = jnp.sum if is_late_fusion(config.model) else jnp.mean
    return lambda outputs, target: together(jax.vmap(loss, in_axes=(1, None))(outputs, target))


def _build_loss(config: ConfigDict, ratings: Sequence[float]) -> Loss:
    name, sigma = config.loss.name, config.loss.sigma
    if name in ("balanced_mse", "gai") and not len(ratings):
        raise ValueError(f"loss {name} needs the training ratings")
    if name == "bmc":
        return lambda score, target: bmc(score, target, sigma, config.loss.swapped)
    if name == "balanced_mse":
        distinct, counts = np.unique(ratings, return_counts=True)
        return lambda score, target: balanced_mse(score, target, distinct, counts / counts.sum(), sigma)
    if name == "gai":
        means, variances, shares = mixture(np.asarray(ratings), config.loss.components)
        return lambda score, target: balanced_mse(score, target, means, shares, sigma, variances)
    if name == LANDMARKS:
        return lambda score, target: jnp.zeros(())
    return {"mse": mse, "cross_entropy": cross_entropy}[name]
