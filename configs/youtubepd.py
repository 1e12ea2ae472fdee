"""Parkinson's severity (0-10) on YouTubePD, from its public landmark trajectories.

    python train.py --config configs/youtubepd.py --config.data.root=YouTubePD_Additional_Modalities

With only the training list, it runs 5-fold cross-validation over videos and compares with a constant and a random
forest on motion features. With both lists, it uses the official training and test videos. The encoder is narrower than
the published one, because there are only 72 videos.
"""

import ml_collections

from tramp_jax import config as defaults
from tramp_jax.data.datasets import options


def get_config() -> ml_collections.ConfigDict:
    config = defaults.base()
    config.name = "youtubepd"
    config.data.update(options("youtubepd"), root="data/YouTubePD_Additional_Modalities")
    config.data.num_folds = 5

    config.model.streams = "trajectory"
    trajectory = config.model.trajectory
    trajectory.length = 64
    trajectory.channels = "xy"
    trajectory.widths = (32, 32, 64, 64)
    trajectory.embed_width = 32
    trajectory.blocks_per_stage = 1
    trajectory.input_scale = (0.03,)

    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 1.0
    config.optimizer.decay_every = 8
    config.optimizer.decay_factor = 0.3
    config.loss.name = "mse"
    config.train.batch_size = 8
    config.train.epochs = 15
    config.train.evaluate_every = 3
    config.train.passes_per_epoch = 1
    config.evaluation.batch_size = 16
    return config.lock()
