"""Your own clips: the published model and recipe on a folder of clips with a list, clips.csv.

    python train.py --config configs/folder.py --config.data.root=ROOT

ROOT holds clips.csv and the clips' folders (tramp_jax/data/readers/folder.py); `tramp-jax preprocess` makes them from
videos and photographs. A column "split" in the list decides who is tested. Without it, a fifth of the subjects are
tested or, with --config.data.num_folds=5, every subject once. --config.data.expression=NAME uses one expression only,
and --config.data.target=COLUMN learns another rating instead of the score.

The published model has 25 M parameters. With fewer than about 100 people, either start it from published weights
(--config.init.all=FILE, or --config.init.rgb and .trajectory), or take the recipe for few people, which needs landmarks
only and compares itself with simple methods:

    python train.py --config configs/folder.py:few --config.data.root=ROOT --config.data.num_folds=5
"""

import ml_collections

from tramp_jax import config as defaults
from tramp_jax.data.datasets import options


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    given = defaults.recipe_arguments("configs/folder.py", argument, size=defaults.SIZES)
    config = defaults.base()
    config.name = "folder"
    config.data.update(options("folder"), root="data/folder")
    if given.get("size") == defaults.FEW:
        defaults.for_few_people(config)
    return config.lock()
