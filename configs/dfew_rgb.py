"""DFEW: pre-trains the frame encoder, the published Former-DFER, to recognise 7 emotions in 16 frames of 112 pixels.

    python train.py --config configs/dfew_rgb.py --config.data.root=ROOT
    python train.py --config configs/pfed5.py:smile --config.init.rgb=runs/dfew_rgb/TIME

ROOT is the DFEW folder (tramp_jax/data/readers/dfew.py); only frames and lists are needed. --config.data.set=K selects
another of its five splits. The second command starts PFED5 from the result.

Model, optimiser and schedule follow the Former-DFER release: SGD, learning rate 0.01, weight decay 1e-4, batch size 32,
100 epochs, no clips with fewer than 16 frames. Three things differ. The release takes 8 pairs of neighbouring frames,
crops at random sizes, and chooses the epoch on the test list. Here, 16 frames are drawn at random and kept in order,
crops have one size, and a tenth of the training clips chooses the epoch. Our own results on DFEW are not measured yet.
"""

import ml_collections

from tramp_jax import config as defaults
from tramp_jax.data.datasets import options
from tramp_jax.data.readers.dfew import EMOTIONS


def get_config() -> ml_collections.ConfigDict:
    config = defaults.base()
    config.name = "dfew_rgb"
    config.data.update(options("dfew"), root="data/DFEW")
    config.data.min_frames = 16
    config.data.protocol = "official"
    config.data.validation_fraction = 0.1

    config.model.name = "former_dfer"
    config.model.rgb.num_frames = 16
    config.model.rgb.image_size = 112
    config.model.head.hidden = ()
    config.model.head.num_classes = len(EMOTIONS)

    config.loss.name = "cross_entropy"
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 1e-4
    config.train.batch_size = 32
    config.train.passes_per_epoch = 1
    config.evaluation.batch_size = 32
    return config.lock()
