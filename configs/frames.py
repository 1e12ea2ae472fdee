"""Pre-training of the frame encoder: it learns to find the landmarks in each frame. Ratings are not read.

    python train.py --config configs/frames.py
    python train.py --config configs/frames.py:NAME --config.data.root=ROOT

NAME is a data set with frames and landmarks: synthetic (the default), pfed5, neuroface, dfew or folder. Give unrated
clips any number as their score. Another model starts from the encoder with --config.init.rgb=RUN. Its options in
model.rgb must be the same; only image_size may differ.

Reproduces nothing of the paper. docs/frames.md says what has been measured.
"""

import ml_collections

from configs import synthetic
from tramp_jax import config as defaults
from tramp_jax.data.datasets import options
from tramp_jax.data.readers import READERS


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    given = defaults.recipe_arguments("configs/frames.py", argument, data=READERS)
    config = defaults.base()
    name = given.get("data", "synthetic")
    config.name = f"frames_{name}"
    config.data.update(options(name), protocol="holdout")
    if name == "synthetic":
        config.data.update(num_subjects=200, cues="both", synthetic_seed=1)  # other people than configs/synthetic.py
    config.model.rgb.update(synthetic.get_config().model.rgb)
    config.model.update(streams="rgb")
    config.loss.update(name="landmarks", landmarks=30.0)
    config.optimizer.update(name="adam", learning_rate=1e-3, schedule="cosine", clip_norm=1.0)
    config.train.update(batch_size=8, epochs=10, passes_per_epoch=1, cache="host")
    config.evaluation.batch_size = 40
    return config.lock()
