"""Loads trained models from the folders of runs for scoring."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from tramp_jax import output as outputs
from tramp_jax import run, sharding, split_file, training_data
from tramp_jax.checkpoint import BEST, Checkpoints
from tramp_jax.data import datasets
from tramp_jax.errors import UserError
from tramp_jax.losses import LANDMARKS
from tramp_jax.models import abstract_variables
from tramp_jax.output import Output
from tramp_jax.training_data import TrainingData


@dataclasses.dataclass(frozen=True)
class Member:
    """One trained model."""

    run: pathlib.Path  # folder of the run or fold, with the checkpoints
    fold: int | None  # fold of the run's data; None without folds
    config: ConfigDict
    step: int
    variables: Any  # ``{"params", "batch_stats"}``
    trained_on: TrainingData | None  # description of the training data; None for older runs, which lack it
    output: Output

    @property
    def expressions(self) -> tuple[str, ...]:
        """Expressions that the model was trained on; empty if an older run does not say."""
        if self.trained_on is not None:
            return self.trained_on.expressions
        return tuple(filter(None, [self.config.data.expression]))

    @functools.cached_property
    def id(self) -> str:
        """Short digest of the model's configuration, variables and output. Equal ids mean equal scores."""
        digest = hashlib.sha256(json.dumps(json.loads(self.config.model.to_json()), sort_keys=True).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.variables):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.asarray(leaf).tobytes())
        digest.update(json.dumps(self.output.as_dict()).encode())
        return digest.hexdigest()[:12]


def load_members(folders: Iterable[pathlib.Path], which: str = BEST) -> list[Member]:
    """Loads the models of runs. A run over several folds stands for all of them; see ``load_member``.

    Raises:
      UserError: see ``load_member``; bad_option for a model named twice, which would count twice; unfinished_run if a
        cross-validation has not ended; missing_checkpoint if one of its folds is gone.
    """
    folders = list(folders)
    run.warn_if_training(folders)
    paths = run.models_in(folders)
    known = set()
    for path in paths:
        if path.resolve() in known:
            raise UserError("bad_option", f"{path}: named twice, alone or as part of its run; name it once")
        known.add(path.resolve())
    members = [load_member(path, which) for path in paths]
    for folder in folders:
        if run.is_trained(folder) or run.load_config(folder).data.fold != -1:
            continue
        ready = " ".join(str(fold) for fold in run.trained_folds(folder))
        # A run over all folds writes the file at its end. Until then, folds are missing or still in training.
        if not (folder / run.CROSS_VALIDATION).is_file():
            raise UserError(
                "unfinished_run",
                f"{folder}: its cross-validation has not ended; wait, or continue it with "
                f"`{run.resume_command(folder)}`, or name the folds to use: {ready}",
            )
        trained_on = [run.fold_folder(folder, fold) for fold in split_file.kept_folds(folder)]
        if lost := [fold for fold in trained_on if not run.is_trained(fold)]:
            raise UserError(
                "missing_checkpoint",
                f"{lost[0]}: the checkpoints of this fold are gone; restore them, or name the folds to use: {ready}",
            )
    return members


def load_member(folder: pathlib.Path, which: str = BEST) -> Member:
    """Loads the model of a run of train.py, or of one of its folds (``RUN/fold_0``).

    Args:
      folder: the run or fold.
      which: "best", "last" or a step number.

    Raises:
      UserError: not_a_run, classifier, no_scores, or missing_checkpoint (also for a run over several folds).
    """
    config = run.load_config(folder)
    if config.model.head.num_classes:
        raise UserError("classifier", f"{folder} is a classifier; scoring needs a model that predicts scores")
    if config.loss.name == LANDMARKS:
        raise UserError(
            "no_scores",
            f"{folder} was trained on landmarks only (loss.name=landmarks) and predicts no scores; train a model that "
            f"starts from it with --config.init.rgb={folder}",
        )
    if not run.is_trained(folder):
        folds = run.trained_folds(folder)
        cure = f"name one or more of its folds: {folds[0]}" if folds else "train it first"
        raise UserError("missing_checkpoint", f"{folder} holds no checkpoints; {cure}")
    with Checkpoints(folder) as checkpoints:
        step, variables = checkpoints.restore_variables(which, abstract_variables(config.model), sharding.data_mesh())
    trained_on = training_data.load(folder, config)
    found = outputs.load(folder, step) or _decoding(config, trained_on)
    return Member(folder, run.fold_of(folder), config, step, variables, trained_on, found)


def _decoding(config: ConfigDict, data: TrainingData | None) -> Output:
    """The output for a checkpoint without a fitted one. It does not decode if the run has no record of its ratings."""
    if data is not None and data.scale is not None:
        return outputs.of_training(config, data.ratings, data.scale)
    facts = datasets.facts(config.data.name)
    return outputs.of_training(config, (), training_data.scale_of(facts, config.data.target, None))
