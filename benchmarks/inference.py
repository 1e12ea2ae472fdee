"""The work that scoring skips, measured by putting it back, and work that it could skip, one part at a time.

    python -m benchmarks.inference [--clips 2] [--config FILE]

Scoring also skips the frames that a short clip repeats; ``python -m benchmarks.score`` measures that, since it needs
whole clips. The alternatives replace pieces of ``tramp_jax.models`` during tracing.
"""

from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import flax.linen as nn
import jax

from benchmarks import timing
from tramp_jax import models
from tramp_jax.models import former_dfer, fusion

AS_IT_IS = "as it is"


class _Identity(nn.Module):
    """Replaces a batch normalisation, as if it were folded into the convolution before it."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return x


def _without_normalisation() -> Any:
    return mock.patch.object(former_dfer, "BatchNorm", _Identity)


def _queries_and_keys() -> Any:
    """Computes queries and keys even though there is only one key to attend to."""
    return mock.patch.object(fusion.CrossAttention, "is_initializing", return_value=True)


def _nothing() -> Any:
    return mock.patch.dict({})


def take_turns(module: nn.Module, inputs: Sequence[jax.Array], ways: dict[str, Callable[[], Any]], rounds: int) -> Any:
    """Measures the forward pass of ``module`` in each way, in seconds."""
    variables = jax.jit(module.init)(jax.random.key(0), *inputs)
    calls = {}
    for name, change in ways.items():
        forward = jax.jit(lambda variables, inputs: module.apply(variables, *inputs))
        with change():
            jax.block_until_ready(forward(variables, inputs))
        calls[name] = lambda forward=forward: jax.block_until_ready(forward(variables, inputs))
    return timing.take_turns(calls, rounds)


class _FrameEncoder(nn.Module):
    encoder: nn.Module

    def __call__(self, frames: jax.Array) -> Any:
        return self.encoder(frames, False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the arguments, measures, and writes the report."""
    flags = timing.parser(__doc__, rounds=5)
    flags.add_argument(
        "--clips", type=int, default=2, help="of the frame encoder's clip length, 16 frames as published"
    )
    options = flags.parse_args(arguments)
    config = timing.recipe(options.config).model
    report = timing.Report("inference", arguments, options.out)
    model, rgb = models.build_model(config), config.rgb
    key = jax.random.key(0)

    frames = jax.random.normal(key, (options.clips, rgb.clip_length, rgb.image_size, rgb.image_size, 3))
    ways = {AS_IT_IS: _nothing, "without batch normalisation": _without_normalisation}
    seconds = take_turns(_FrameEncoder(model.rgb_encoder), [frames], ways, options.rounds)
    report.add("frame encoder", timing.comparison(seconds, AS_IT_IS), seconds=seconds)

    query = jax.random.normal(key, (8, 1, config.fusion.width))
    ways = {"queries and keys computed": _queries_and_keys, AS_IT_IS: _nothing}
    seconds = take_turns(model.fusion, [query, query], ways, options.rounds)
    report.add("fusion", timing.comparison(seconds, "queries and keys computed"), seconds=seconds)


if __name__ == "__main__":
    main()
