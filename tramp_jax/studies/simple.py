"""Rows of a study without a network: simple methods, reported on the same people and in the same files.

They have no checkpoint to select, so they learn from the validation people as well.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from tramp_jax import baselines, evaluation, experiment, run
from tramp_jax.checkpoint import BEST
from tramp_jax.data.datasets import TEST, TRAIN, VALIDATION
from tramp_jax.data.source import Split
from tramp_jax.errors import UserError

_Feature = Callable[[np.ndarray, float], np.ndarray]
_Fit = Callable[..., np.ndarray]
# The features that each method learns from, and the function that fits it and scores the test clips.
METHODS: dict[str, tuple[_Feature, _Fit]] = {
    "random forest": (baselines.motion_features, baselines.random_forest),
    "geometric forest": (baselines.geometric_features, baselines.random_forest),
    "SVR": (baselines.motion_energies, baselines.support_vectors),
    "ridge": (baselines.motion_energies, baselines.ridge),
}


def fit(config: ConfigDict, folder: pathlib.Path, method: str, test_clips: Split | None = None) -> None:
    """Fits a simple method to the training and validation people, and writes its report on the test people.

    Args:
      config: the whole configuration. Only its data, landmarks, head and seed matter.
      method: one of ``METHODS``.
      test_clips: the clips to report on. Default: those of the test people.

    Raises:
      UserError: a bad option, or unusable data.
    """
    asked, config = config, config.copy_and_resolve_references().unlock()
    # The methods read only landmarks.
    config.model.update(name="tramp_former", streams="trajectory", members=1, ridge=False)
    config.model.trajectory.update(channels="xy", input_scale=(1.0,))
    config.output.update(decode="clip", fit="none")
    classes = config.model.head.num_classes
    feature, of_scores = METHODS[method]
    is_forest = of_scores is baselines.random_forest
    if classes and not is_forest:
        raise UserError("bad_option", f"{method} gives scores, not classes; use a forest for a classifier")
    folds = experiment.open_folds(config)
    run.prepare(asked, folder, resume=(folder / run.CONFIG).is_file(), overwrite=False)
    for fold, splits in folds.splits.items():
        seen = [splits[TRAIN], splits[VALIDATION]]
        unseen = splits[TEST] if test_clips is None else test_clips
        target = np.array([info.score for split in seen for info in split.infos])
        (train,), (test,) = (baselines.described(part, config.landmarks, feature) for part in (seen, [unseen]))
        if classes:
            raw, output = baselines.forest_of_classes(train, target, test, classes, config.seed), None
        else:
            output = experiment.decoding(config, splits, folds.facts)
            extra: dict[str, Any] = {"seed": config.seed} if is_forest else {}
            if of_scores is baselines.ridge:
                extra = {"subjects": [info.subject for split in seen for info in split.infos]}
            raw = of_scores(train, target, test, **extra)
        where = run.evaluation_folder(run.fold_folder(folder, fold), TEST, BEST)
        predictions = evaluation.Predictions(unseen.infos, raw, output)
        evaluation.write_report(predictions, where, config, f"{TEST}, {method}")
