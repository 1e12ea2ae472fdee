"""Loads trained models from the folders of runs, to score with them."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from tramp_jax import run, sharding, training_data
from tramp_jax.checkpoint import BEST, Checkpoints
from tramp_jax.errors import UserError
from tramp_jax.models import abstract_variables
from tramp_jax.training_data import TrainingData


@dataclasses.dataclass(frozen=True)
class Member:
    """One trained model.

    Attributes:
      run: folder of the run or fold, with the checkpoints.
      fold: fold of the run's data; None without folds.
      config: the whole configuration of the run.
      step: step of the checkpoint.
      variables: ``{"params", "batch_stats"}``.
      trained_on: description of the training data; None for older runs, which have none.
      id: short digest of the model's configuration and variables. Equal ids give equal scores.
    """

    run: pathlib.Path
    fold: int | None
    config: ConfigDict
    step: int
    variables: Any
    trained_on: TrainingData | None
    id: str


def load_member(folder: pathlib.Path, which: str = BEST) -> Member:
    """Loads the model of a run of train.py, or of one of its folds (``RUN/fold_0``).

    Args:
      folder: the run or fold.
      which: "best", "last" or a step number.

    Raises:
      UserError: not_a_run, classifier, or missing_checkpoint, also for a run of several folds.
    """
    config = run.load_config(folder)
    if config.model.head.num_classes:
        raise UserError("classifier", f"{folder} is a classifier; scoring needs a model that predicts scores")
    if not run.is_trained(folder):
        folds = run.trained_folds(folder)
        cure = f"name one or several of its folds: {folds[0]}" if folds else "train it first"
        raise UserError("missing_checkpoint", f"{folder} holds no checkpoints; {cure}")
    with Checkpoints(folder) as checkpoints:
        step, variables = checkpoints.restore_variables(which, abstract_variables(config.model), sharding.data_mesh())
    digest = hashlib.sha256(json.dumps(json.loads(config.model.to_json()), sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    trained_on = training_data.load(folder, config)
    return Member(folder, run.fold_of(folder), config, step, variables, trained_on, digest.hexdigest()[:12])
