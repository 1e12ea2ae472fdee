"""Parkinson's severity (0-10) on YouTubePD, from its public landmark trajectories.

    python train.py --config configs/youtubepd.py --config.data.root=YouTubePD_Additional_Modalities

With only the training list, it runs 5-fold cross-validation over videos. With both lists, it uses the official training
and test videos. There are only 72 videos, so this is the recipe for few people, which also compares itself with simple
methods (docs/few_people.md).
"""

import ml_collections

from tramp_jax import config as defaults
from tramp_jax.data.datasets import options


def get_config() -> ml_collections.ConfigDict:
    config = defaults.base()
    config.name = "youtubepd"
    config.data.update(options("youtubepd"), root="data/YouTubePD_Additional_Modalities")
    config.data.num_folds = 5

    defaults.for_few_people(config)
    config.model.trajectory.channels = "energy+range"  # no tremor: 10 frames a second show it only up to 5 Hz
    return config.lock()
