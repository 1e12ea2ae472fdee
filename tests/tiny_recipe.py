"""A recipe of ``configs/`` small enough to train in a test."""

from pathlib import Path

from ml_collections import ConfigDict

from tests import tiny


def shrink(config: ConfigDict, root: Path, streams: str = "both") -> ConfigDict:
    """The recipe with the smallest model, one epoch of one pass, and its data in ``root``.

    The data and its splits, the kind of model, its head, loss and optimiser stay.
    """
    small = tiny.get_config()
    config = ConfigDict(config.to_dict())
    config.data.root = str(root)
    config.model.update(streams=streams, trajectory=small.model.trajectory, fusion=small.model.fusion)
    config.model.rgb.update(small.model.rgb)
    config.train.update(small.train, epochs=1, passes_per_epoch=1, batch_size=8)
    config.evaluation.update(small.evaluation)
    return config
