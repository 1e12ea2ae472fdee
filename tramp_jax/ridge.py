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
from tramp_jax.models import Inputs

PENALTIES = np.logspace(-2, 4, 25)
_PARTS = 20  # people with several clips are left out in at most this many parts


def regression(features: np.ndarray, ratings: Sequence[float] | np.ndarray, subjects: Sequence[str]) -> Any:
    """Fits the regression to features (N, D) and ratings (N,) of clips of the (N,) subjects.

    The penalty is the one with the least squared error on people who are left out of the fit in turn.
    """
    from sklearn.linear_model import RidgeCV  # takes seconds
    from sklearn.model_selection import GroupKFold

    people = len(set(subjects))
    if people in (1, len(subjects)):  # with a clip each, RidgeCV has a shortcut: it leaves out clips
        return RidgeCV(PENALTIES).fit(features, ratings)
    parts = list(GroupKFold(min(people, _PARTS)).split(features, groups=subjects))
    return RidgeCV(PENALTIES, cv=parts, scoring="neg_mean_squared_error").fit(features, ratings)


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
