"""The smallest configuration that exercises everything: both streams, seconds to compile. A recipe for train.py."""

import ml_collections

from configs import synthetic


def get_config() -> ml_collections.ConfigDict:
    config = synthetic.get_config().unlock()
    config.name = "tiny"
    config.data.num_subjects = 15
    config.data.clips_per_subject = 1
    config.model.trajectory.update(widths=(32, 32), attention_dropout=0.5, drop_path=0.2)
    config.model.rgb.update(widths=(8, 8, 16, 16), image_size=32, spatial_mlp_dim=16)
    config.model.rgb.update(spatial_heads=2, temporal_heads=2, temporal_depth=1, temporal_mlp_dim=16)
    config.model.fusion.update(width=32, depth=1, heads=2)
    config.model.head.hidden = (16, 8)
    config.optimizer.update(learning_rate=2e-3, decay_every=7)
    config.train.update(batch_size=8, epochs=3, passes_per_epoch=2)
    config.evaluation.update(batch_size=8, bootstrap=50)
    return config.lock()


def sized(config: ml_collections.ConfigDict, image_size: int) -> ml_collections.ConfigDict:
    """The configuration with another side of the model's frames."""
    config = config.copy_and_resolve_references().unlock()
    config.model.rgb.image_size = image_size
    return config
