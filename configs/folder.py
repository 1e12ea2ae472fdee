"""Your own clips, in a folder with a list, clips.csv: small models if there are few people, else the published one.

    python train.py --config configs/folder.py --config.data.root=ROOT

ROOT holds clips.csv and the clips' folders (tramp_jax/data/readers/folder.py); `tramp-jax preprocess` makes them from
videos and photographs. The number of people in the list chooses, and the program says what it chose:

- Fewer than 100: the recipe for few people (docs/few_people.md). It needs landmarks only, tests every person once in
  5-fold cross-validation, and compares itself with simple methods.
- From 100 on: the published model of 25 M parameters, which needs frames and landmarks. A fifth of the people are
  tested. It is also chosen if you give weights to start from (--config.init.all=FILE, or .rgb and .trajectory) or
  options that need frames.

A column "split" in the list decides who is tested. To choose yourself, write configs/folder.py:few or
configs/folder.py:published; both test a fifth of the people or, with --config.data.num_folds=5, every person once.
--config.data.expression=NAME uses one expression only, and --config.data.target=COLUMN learns another rating instead of
the score.
"""

import ml_collections

from tramp_jax import config as defaults
from tramp_jax.data.datasets import options

SIZES = (defaults.FEW, defaults.PUBLISHED)  # given neither, train.py chooses: tramp_jax/cli/scripts.py


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    given = defaults.recipe_arguments("configs/folder.py", argument, size=SIZES)
    config = defaults.base()
    config.name = "folder"
    config.data.update(options("folder"), root="data/folder")
    if given.get("size") == defaults.FEW:
        defaults.for_few_people(config)
    return config.lock()
