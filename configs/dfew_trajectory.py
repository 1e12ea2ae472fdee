"""DFEW: pre-trains the trajectory encoder to recognise seven emotions in landmark trajectories with T = 256.

    python train.py --config configs/dfew_trajectory.py --config.data.root=ROOT
    python train.py --config configs/pfed5.py:smile --config.init.trajectory=runs/dfew_trajectory/TIME

ROOT is the DFEW folder (tramp_jax/data/readers/dfew.py); --config.data.set=K selects another of its five splits.
The second command starts PFED5 from the result.

The paper pre-trains this encoder in the same way, on the clips with a face in every frame. It publishes the weights
(SkateFormer_256_rgb1x1.pth) but neither the accuracy nor the recipe. Here, optimiser and schedule are the paper's for
PFED5, with Former-DFER's batch size of 32 and one pass per epoch. Our own results on DFEW are not measured yet.
"""

import ml_collections

from tramp_jax import config as defaults
from tramp_jax.data.datasets import options
from tramp_jax.data.readers.dfew import EMOTIONS


def get_config() -> ml_collections.ConfigDict:
    config = defaults.base()
    config.name = "dfew_trajectory"
    config.data.update(options("dfew"), root="data/DFEW")
    config.data.protocol = "official"
    config.data.validation_fraction = 0.1

    config.model.name = "skateformer"
    config.model.trajectory.length = 256
    config.model.head.hidden = ()
    config.model.head.num_classes = len(EMOTIONS)

    config.loss.name = "cross_entropy"
    config.train.batch_size = 32
    config.train.passes_per_epoch = 1
    config.evaluation.batch_size = 32
    return config.lock()
