"""The smallest configuration that exercises everything: both streams, seconds to compile. A recipe for train.py."""

import ml_collections

from configs import synthetic


def get_config() -> ml_collections.ConfigDict:
    config = synthetic.get_config().unlock()
    config.name = "tiny"
    config.data.update(num_subjects=15, cues="motion", padding="loop")
    config.model.trajectory.update(length=64, channels="xyrgb", patch=4, table_frames=32)
    config.model.trajectory.update(input_scale=(0.03, 0.03, 0.005, 0.005, 0.005), attention_dropout=0.5, drop_path=0.2)
    config.model.trajectory.update(widths=(32,), embed_width=32)  # one stage; two take a third longer to compile
    config.model.rgb.update(widths=(8, 8, 16, 16), image_size=32, spatial_mlp_dim=16)
    config.model.rgb.update(spatial_heads=2, temporal_heads=2, temporal_depth=1, temporal_mlp_dim=16)
    config.model.fusion.update(name="tramp", width=32, depth=1, heads=2)
    config.model.head.hidden = (16, 8)
    config.loss.landmarks = 0.0
    config.optimizer.update(learning_rate=2e-3, schedule="step", decay_every=7, decay_factor=0.3)
    config.train.update(batch_size=8, epochs=3, evaluate_every=1, passes_per_epoch=2, cache="none")
    config.evaluation.update(batch_size=8, bootstrap=50)
    return config.lock()


def sized(config: ml_collections.ConfigDict, image_size: int) -> ml_collections.ConfigDict:
    """The configuration with another side of the model's frames."""
    config = config.copy_and_resolve_references().unlock()
    config.model.rgb.image_size = image_size
    return config
