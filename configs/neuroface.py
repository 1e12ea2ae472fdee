"""Augmented Toronto NeuroFace: the published model on one of five oro-facial tasks and the three published folds.

    python train.py --config configs/neuroface.py:TASK --config.data.root=ROOT
    python train.py --config configs/neuroface.py:TASK,FOLD --config.data.root=ROOT
    python train.py --config configs/neuroface.py:TASK,classification --config.data.root=ROOT

TASK is BLOW, KISS, BROW, OPEN (the default) or SPREAD. FOLD is 1, 2 or 3; without it, all are run in turn. ROOT is the
folder of the data (tramp_jax/data/readers/neuroface.py). --config.data.target=symmetry, ROM, speed, variability or
fatigue learns this sub-score instead of the overall score. With "classification", the sub-score (symmetry by default)
is a class from 0 to 5, the raters' mean rounded half up. It is learned by cross-entropy on a single split: 80% of the
people train, 20% are tested.

Reproduces the row TraMP-Former of the paper's NeuroFace table (T = 128), Spearman's ρ × 100 over three folds of 24
people to train on and 12 to test on:

    BLOW   KISS   BROW   OPEN  SPREAD   mean
    44.92  30.28  75.23  60.22  58.53   53.84

Clips have 33 to 490 frames, with a median of 90, at about 50 frames per second. Our own results and the cost are not
measured yet.
"""

import ml_collections

from tramp_jax import config as defaults
from tramp_jax.data.datasets import options
from tramp_jax.data.readers.neuroface_lists import FOLDS, MAX_SUB_SCORE, SUB_SCORES, TASKS

COLUMNS = TASKS  # of a study's table; each task is trained separately
_CLIPS = {"BLOW": 126, "KISS": 190, "BROW": 77, "OPEN": 184, "SPREAD": 193}  # paper, Table I
# How many clips train, for the costs of a study. A task: two thirds of the people, less a fifth for validation, in each
# fold. A sub-score: 80% of the people, less a fifth for validation.
EXPECTED_CLIPS = {task: round(clips * 2 / 3 * 0.8) * len(FOLDS) for task, clips in _CLIPS.items()} | {
    sub_score: round(sum(_CLIPS.values()) * 0.8 * 0.8) for sub_score in SUB_SCORES
}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    given = defaults.recipe_arguments(
        "configs/neuroface.py",
        argument,
        task=TASKS,
        fold=[str(number) for number in range(1, len(FOLDS) + 1)],
        learn=["regression", "classification"],
    )
    task, fold = given.get("task", "OPEN"), given.get("fold", "")
    config = defaults.base()
    config.name = f"neuroface_{task.lower()}" + (f"_fold{fold}" if fold else "")
    config.data.update(options("neuroface"), root="data/NeuroFace")
    config.data.expression = task
    config.data.protocol = "folds"
    config.data.num_folds = len(FOLDS)
    config.data.fold = int(fold) - 1 if fold else -1
    config.model.trajectory.length = 128
    if given.get("learn") == "classification":
        config.name += "_classes"
        config.data.update(target=SUB_SCORES[0], protocol="holdout", test_fraction=0.2)
        config.loss.name = "cross_entropy"
        config.model.head.num_classes = MAX_SUB_SCORE + 1
    return config.lock()
