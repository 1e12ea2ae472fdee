"""Optimiser and learning rate schedule from the configuration."""

from collections.abc import Collection
from typing import Any

import optax
from flax import traverse_util
from ml_collections import ConfigDict


def learning_rate(config: ConfigDict, steps_per_epoch: int) -> optax.Schedule:
    """Step decay by epochs, after an optional linear warm-up, as a function of the step number."""
    decay = optax.exponential_decay(
        config.learning_rate,
        transition_steps=max(1, round(config.decay_every * steps_per_epoch)),
        decay_rate=config.decay_factor,
        staircase=True,
    )
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if not warmup_steps:
        return decay
    return lambda step: decay(step) * optax.linear_schedule(1 / warmup_steps, 1.0, warmup_steps)(step)


def build_optimizer(
    config: ConfigDict, steps_per_epoch: int, frozen: Collection[tuple[str, ...]] = ()
) -> optax.GradientTransformation:
    """The optimiser of the ``optimizer`` group.

    Parameters whose paths are ``frozen`` are never updated, and count neither in the clipped norm nor in the decay.

    SGD follows PyTorch's convention: weight decay is added to the gradient before the momentum. Adam decays weights
    apart from the gradient (AdamW) where ``weight_decay`` is set.

    Raises:
      ValueError: unknown name.
    """
    rate = learning_rate(config, steps_per_epoch)
    if config.name == "sgd":
        parts = [optax.add_decayed_weights(config.weight_decay)] if config.weight_decay else []
        parts.append(optax.sgd(rate, momentum=config.momentum or None))
    elif config.name == "adam":
        parts = [optax.adamw(rate, weight_decay=config.weight_decay)]
    else:
        raise ValueError(f"optimizer.name is {config.name!r}; known: sgd, adam")
    if config.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if not frozen:
        return optax.chain(*parts)

    def labels(params: Any) -> Any:
        return traverse_util.path_aware_map(lambda path, _: "frozen" if path in frozen else "trained", params)

    return optax.multi_transform({"trained": optax.chain(*parts), "frozen": optax.set_to_zero()}, labels)
