"""Augmented Toronto NeuroFace: the published model on one of five oro-facial tasks and the three published folds.

    python train.py --config configs/neuroface.py:TASK --config.data.root=ROOT
    python train.py --config configs/neuroface.py:TASK,FOLD --config.data.root=ROOT
    python train.py --config configs/neuroface.py:TASK --config.task=classification --config.data.root=ROOT

TASK is BLOW, KISS, BROW, OPEN or SPREAD (OPEN where none is given), FOLD 1, 2 or 3 (all in turn where none is given),
ROOT the data's folder (tramp_jax/data/readers/neuroface.py). Any order and case will do. A sub-score,
--config.data.target=symmetry, ROM, speed, variability or fatigue, is regressed in place of the overall score. As
classification, the sub-score (symmetry where none is given) is one of the classes 0 to 5, the raters' mean rounded half
up, learnt by cross-entropy on one split of 80 to 20 % of the people.

Reproduces TraMP-Former of the paper's NeuroFace table: Spearman's ρ × 100 of 44.92 30.28 75.23 60.22 58.53 on five
tasks, 53.84 in the mean, over three folds of 24 people to train on and 12 to test on. Which number belongs to which
task we do not know, nor which T the paper used: T = 256 is our choice, since 256 frames at about 50 a second last as
long as PFED5's 128 at 25 (clips have 33 to 490 frames, 90 in the median). Our own results are not measured yet, nor is
the cost.
"""

import ml_collections
from absl import flags

from tramp_jax import config as defaults
from tramp_jax.data.datasets import options
from tramp_jax.data.readers.neuroface_lists import FOLDS, MAX_SUB_SCORE, SUB_SCORES, TASKS

_FOLDS = tuple(str(number) for number in range(1, len(FOLDS) + 1))


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    config = defaults.base()
    task, fold = _parse(argument)
    config.name = "_".join(["neuroface", task.lower(), *([f"fold{fold}"] if fold else [])])
    config.data.update(options("neuroface"), root="data/NeuroFace")
    config.data.expression = task
    config.data.protocol = "folds"
    config.data.num_folds = len(FOLDS)
    config.data.fold = int(fold) - 1 if fold else -1
    config.model.trajectory.length = 256
    config.task = "regression"
    config.tasks = {
        "regression": {},
        "classification": {
            "name": f"{config.name}_classes",
            "data": {"target": SUB_SCORES[0], "protocol": "holdout", "test_fraction": 0.2},
            "loss": {"name": "cross_entropy"},
            "model": {"head": {"num_classes": MAX_SUB_SCORE + 1}},
        },
    }
    return config.lock()


def _parse(argument: str) -> tuple[str, str]:
    """Task, and fold or ""."""
    known = {name.lower(): (kind, name) for kind, names in (("task", TASKS), ("fold", _FOLDS)) for name in names}
    found: dict[str, str] = {}
    for part in filter(None, (text.strip() for text in argument.split(","))):
        if part.lower() not in known:
            raise _error(argument, f"there is no {part!r}")
        kind, name = known[part.lower()]
        if kind in found:
            raise _error(argument, f"names two of a kind, {found[kind]} and {name}")
        found[kind] = name
    return found.get("task", "OPEN"), found.get("fold", "")


def _error(argument: str, message: str) -> flags.IllegalFlagValueError:
    # Of all errors, absl prints this one as it is; a ValueError would come with the traceback of the recipe.
    return flags.IllegalFlagValueError(
        f"configs/neuroface.py:{argument}: {message}; known, separated by commas: a task ({', '.join(TASKS)}) and a "
        f"fold ({', '.join(_FOLDS)}); sub-scores and classes are options: --config.data.target={SUB_SCORES[0]}, "
        "--config.task=classification"
    )
