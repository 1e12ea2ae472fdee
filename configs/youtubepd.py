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
    config.model.members = 3
    config.model.head.hidden = ()
    config.data.padding = "reflect"
    trajectory = config.model.trajectory
    trajectory.length = 128
    trajectory.channels = "energy"
    trajectory.patch = 8
    trajectory.widths = (32,)
    trajectory.embed_width = 32
    trajectory.blocks_per_stage = 1
    trajectory.table_frames = 0
    trajectory.attention_dropout = 0.1
    trajectory.drop_path = 0.1

    config.augment.flip_trajectory = True
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.weight_decay = 0.3
    config.optimizer.clip_norm = 1.0
    config.loss.name = "mse"
    config.train.batch_size = 16
    config.train.epochs = 32
    config.train.evaluate_every = 32
    config.train.passes_per_epoch = 1
    config.evaluation.batch_size = 16
    config.evaluation.baselines = True
    return config.lock()
