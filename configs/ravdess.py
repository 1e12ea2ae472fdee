"""RAVDESS: pre-trains the trajectory stream on the motion of 24 actors, to score how strongly they act an emotion.

    python train.py --config configs/ravdess.py --config.data.root=ROOT
    python train.py --config configs/ravdess.py:emotion --config.data.root=ROOT
    python train.py --config configs/folder.py:few --config.data.root=CLIPS --config.init.trajectory=runs/ravdess/TIME

ROOT is the public archive of landmarks (tramp_jax/data/readers/ravdess.py). The score is the intensity, 1 (normal) or 2
(strong); with "emotion", the model learns the eight emotions as classes instead. --config.data.expression=happy uses
one emotion only. A fifth of the actors are tested or, with --config.data.num_folds=6, every actor once.

The model comes from the recipe for few people (docs/few_people.md), so that recipe can start from the result, as in the
third command. Reproduces nothing of the paper. Our own results on RAVDESS are not measured yet.
"""

import ml_collections

from tramp_jax import config as defaults
from tramp_jax.data.datasets import options
from tramp_jax.data.readers.ravdess import EMOTION, EMOTIONS


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    given = defaults.recipe_arguments("configs/ravdess.py", argument, learn=["intensity", EMOTION])
    config = defaults.base()
    config.name = "ravdess"
    config.data.update(options("ravdess"), root="data/RAVDESS")
    defaults.for_few_people(config)
    if given.get("learn") == EMOTION:
        config.name += "_emotion"
        config.data.target = EMOTION
        config.loss.name = "cross_entropy"
        config.model.head.num_classes = len(EMOTIONS)
        config.model.ridge = False
        config.evaluation.baselines = False
    return config.lock()
