"""A small model on synthetic faces: runs the whole pipeline in minutes on two CPU cores, with nothing to download.

    python train.py --config configs/synthetic.py

    python train.py --config configs/synthetic.py:few    # the small model of motion for few people, without frames

Reproduces no result of the paper. It shows that the pipeline learns to score people it has not seen, from both streams:
each shows the severity with noise of its own, the trajectories by how the landmarks move, the frames by the skin. The
frame encoder learns because it must also find the landmarks in each frame (docs/frames.md).
"""

import ml_collections

from tramp_jax import config as defaults
from tramp_jax.data.datasets import options


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    given = defaults.recipe_arguments("configs/synthetic.py", argument, size=defaults.SIZES)
    config = defaults.base()
    config.name = "synthetic"
    config.data.update(options("synthetic"), expressions=("smile",), expression="smile")

    if given.get("size") == defaults.FEW:
        config.data.update(num_subjects=120, clips_per_subject=2)
        defaults.for_few_people(config)
        return config.lock()

    config.data.update(num_subjects=300, cues="both", padding="reflect")

    trajectory, rgb = config.model.trajectory, config.model.rgb
    trajectory.channels = "energy"  # with patches of 8 frames it is cheap, which leaves most of the time to the frames
    trajectory.patch = 8
    trajectory.widths = (64,)
    trajectory.embed_width = 64
    trajectory.blocks_per_stage = 1
    trajectory.table_frames = 0
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
    config.model.fusion.name = "late"  # published TraMP shows no gain from two streams here: docs/frames.md
    config.model.fusion.update(width=64, heads=4, depth=2)  # of --config.model.fusion.name=tramp and others

    config.loss.landmarks = 30.0
    config.optimizer.update(name="adam", learning_rate=1e-3, schedule="cosine", clip_norm=1.0)
    config.train.update(batch_size=8, epochs=24, evaluate_every=2, passes_per_epoch=1, cache="host")
    config.evaluation.batch_size = 40
    return config.lock()
