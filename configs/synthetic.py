"""A small model on synthetic faces: runs the whole pipeline in minutes on two CPU cores, with nothing to download.

    python train.py --config configs/synthetic.py

    python train.py --config configs/synthetic.py:few    # the small model of motion for few people, without frames

Reproduces no result of the paper. It shows that the pipeline learns to score the motion of people it has not seen. In
these minutes, the model learns from trajectories. To learn from frames, it would need more clips and epochs, or
pre-trained weights (README, "Measured").
"""

import ml_collections

from tramp_jax import config as defaults
from tramp_jax.data.datasets import options


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    given = defaults.recipe_arguments("configs/synthetic.py", argument, size=defaults.SIZES)
    config = defaults.base()
    config.name = "synthetic"
    config.data.update(options("synthetic"), expressions=("smile",), num_subjects=120, clips_per_subject=2)
    config.data.expression = "smile"

    if given.get("size") == defaults.FEW:
        defaults.for_few_people(config)
        return config.lock()

    trajectory, rgb = config.model.trajectory, config.model.rgb
    trajectory.length = 64
    trajectory.widths = (32, 32, 64, 64)
    trajectory.embed_width = 32
    trajectory.input_scale = (0.03, 0.03, 0.005, 0.005, 0.005)
    trajectory.blocks_per_stage = 1
    trajectory.attention_dropout = 0.0
    trajectory.drop_path = 0.0
    rgb.num_frames = 16
    rgb.image_size = 48
    rgb.widths = (16, 32, 64, 128)
    rgb.spatial_heads = 4
    rgb.spatial_mlp_dim = 128
    rgb.temporal_depth = 2
    rgb.temporal_heads = 4
    rgb.temporal_mlp_dim = 256
    config.model.fusion.width = 64
    config.model.fusion.heads = 4
    config.model.fusion.depth = 2

    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay_every = 8
    config.optimizer.decay_factor = 0.3
    config.optimizer.clip_norm = 1.0
    config.train.batch_size = 8
    config.train.epochs = 14
    config.train.passes_per_epoch = 1
    config.evaluation.batch_size = 40
    return config.lock()
