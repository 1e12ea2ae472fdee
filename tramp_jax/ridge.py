"""Fits the ridge regression of ``model.ridge``; see docs/few_people.md. The paper has none.

A score is then the mean of the network's and the regression's. The regression is linear in the clip's mean of each
channel of each landmark that the trajectory encoder reads. It is fitted once, before the network is trained, and
training does not change it.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tramp_jax import evaluation, models, sharding
from tramp_jax.batches.augment import for_evaluation
from tramp_jax.data.source import Split
from tramp_jax.metrics import weights_of_people
from tramp_jax.models import Inputs

# As a share of the total variance of what it reads. A penalty that leave-one-out errors choose is too random with few
# people (docs/few_people.md).
PENALTY = 0.3


def regression(features: np.ndarray, ratings: Sequence[float] | np.ndarray, subjects: Sequence[str]) -> Any:
    """Fits the regression to features (N, D) and ratings (N,) of clips of the (N,) subjects, who all count the same."""
    from sklearn.linear_model import Ridge  # takes seconds

    weights = weights_of_people(subjects)
    mean = np.average(features, axis=0, weights=weights)
    variance = np.average((features - mean) ** 2, axis=0, weights=weights).sum()
    if variance <= 1e-12 * np.square(features).mean(axis=0).sum():  # only rounding
        variance = 1 / PENALTY
    return Ridge(PENALTY * variance).fit(features, ratings, sample_weight=weights)


def fitted(variables: dict[str, Any], split: Split, config: ConfigDict, mesh: Mesh) -> dict[str, Any]:
    """The variables, with a regression that is fitted to the training clips. ``config`` is the whole configuration."""

    def means(inputs: Inputs) -> jax.Array:
        return models.channel_means(for_evaluation(inputs, config.model).trajectories)

    means_of = jax.jit(means, out_shardings=sharding.replicated(mesh))
    rows = np.concatenate(list(evaluation.by_batch(means_of, split, config, mesh)))
    infos = split.infos
    found = regression(rows.astype(np.float64), [info.score for info in infos], [info.subject for info in infos])
    weights = {"kernel": jnp.float32(found.coef_), "bias": jnp.float32(found.intercept_)}
    return variables | {"batch_stats": variables["batch_stats"] | {models.RIDGE: weights}}
