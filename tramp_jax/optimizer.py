"""The optimiser and the learning-rate schedule."""

from collections.abc import Collection
from typing import Any

import optax
from flax import traverse_util
from ml_collections import ConfigDict


def steps_in_epoch(train: ConfigDict, clips: int) -> int:
    """Steps in one epoch over this number of training clips; ``train`` is the group of that name."""
    return max(train.min_steps_per_epoch, clips * train.passes_per_epoch // train.batch_size)


def learning_rate(config: ConfigDict, steps_per_epoch: int, epochs: int) -> optax.Schedule:
    """The learning rate at each step: ``schedule`` over all epochs, multiplied by an optional linear warm-up.

    ``config`` is the ``optimizer`` group.
    """
    if config.schedule == "cosine":
        decay = optax.cosine_decay_schedule(config.learning_rate, epochs * steps_per_epoch)
    else:
        every = max(1, round(config.decay_every * steps_per_epoch))
        decay = optax.exponential_decay(config.learning_rate, every, config.decay_factor, staircase=True)
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if not warmup_steps:
        return decay
    return lambda step: decay(step) * optax.linear_schedule(1 / warmup_steps, 1.0, warmup_steps)(step)


def build_optimizer(
    config: ConfigDict, rate: optax.Schedule, frozen: Collection[tuple[str, ...]] = ()
) -> optax.GradientTransformation:
    """The optimiser of the ``optimizer`` group.

    SGD follows PyTorch's convention: weight decay is added to the gradient before momentum. Adam decays weights
    separately from the gradient (AdamW). Parameters at the ``frozen`` paths are never updated or decayed, and do not
    count in the clipped norm.
    """
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    if config.name == "adam":
        parts += [optax.adamw(rate, weight_decay=config.weight_decay)]
    else:
        decay = [optax.add_decayed_weights(config.weight_decay)] if config.weight_decay else []
        parts += [*decay, optax.sgd(rate, momentum=config.momentum or None)]
    trained = optax.chain(*parts)
    if not frozen:
        return trained

    def labels(params: Any) -> Any:
        return traverse_util.path_aware_map(lambda path, _: "frozen" if path in frozen else "trained", params)

    return optax.multi_transform({"trained": trained, "frozen": optax.set_to_zero()}, labels)
