"""Your own clips: the published model and recipe on a folder with a list, clips.csv.

    python train.py --config configs/folder.py --config.data.root=ROOT

ROOT holds clips.csv and the clips' folders (tramp_jax/data/readers/folder.py); `tramp-jax preprocess` makes them from
videos and photographs. If the list has a column "split", it decides who is tested. Otherwise a fifth of the subjects is
tested, or every subject once with --config.data.num_folds=5. --config.data.expression=NAME takes one expression, and
--config.data.target=COLUMN learns another rating than the score.

Where clips are few, start from published weights: --config.init.all=FILE, or --config.init.rgb and .trajectory.
"""

import ml_collections

from tramp_jax import config as defaults
from tramp_jax.data.datasets import options


def get_config() -> ml_collections.ConfigDict:
    config = defaults.base()
    config.name = "folder"
    config.data.update(options("folder"), root="data/folder")
    return config.lock()
