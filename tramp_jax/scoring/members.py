"""Trained models to score with, loaded from the folder of a run."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from tramp_jax import experiment, sharding, training_data
from tramp_jax.checkpoint import BEST, Checkpoints
from tramp_jax.models import abstract_variables
from tramp_jax.training_data import TrainedOn


@dataclasses.dataclass(frozen=True)
class Member:
    """One trained model.

    Attributes:
      run: its folder, with its checkpoints.
      fold: of the run's data, None where it has no folds.
      config: it was trained with.
      step: of the checkpoint.
      variables: of the model.
      trained_on: its data; None where an older run does not say.
      id: short digest of configuration and variables: equal ids give equal scores.
    """

    run: pathlib.Path
    fold: int | None
    config: ConfigDict
    step: int
    variables: Any
    trained_on: TrainedOn | None
    id: str


def load_member(run: pathlib.Path, which: str = BEST) -> Member:
    """The model of a run of train.py, or of one fold of it (``RUN/fold_0``).

    Args:
      run: the folder.
      which: "best", "last" or a step number.

    Raises:
      ValueError, FileNotFoundError: not a run, a run of several folds, a classifier, or no such checkpoint.
    """
    fold = int(run.name[5:]) if run.name.startswith("fold_") and run.name[5:].isdigit() else None
    config = experiment.load_config(run if fold is None else run.parent)
    if config.model.head.num_classes:
        raise ValueError(f"{run} classifies; scoring needs a model that was trained on scores")
    if not (run / "checkpoints").is_dir():
        folds = sorted(path.name for path in run.glob("fold_*"))
        cure = f"name one or several of its folds: {run}/{folds[0]}" if folds else "train it first"
        raise ValueError(f"{run} holds no checkpoints; {cure}")
    with Checkpoints(run) as checkpoints:
        step, variables = checkpoints.restore_variables(which, abstract_variables(config.model), sharding.data_mesh())
    digest = hashlib.sha256(json.dumps(json.loads(config.model.to_json()), sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return Member(run, fold, config, step, variables, training_data.load(run), digest.hexdigest()[:12])
