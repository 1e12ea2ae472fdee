"""What scoring leaves out, measured against computing it: one part at a time, as it is and with the work put back.

    python -m benchmarks.inference [--clips 2] [--config FILE]

Frames that a short clip repeats are left out, too: ``python -m benchmarks.score`` has that, since it needs whole clips.
The alternatives are made by replacing pieces of ``tramp_jax.models`` while they are traced.
"""

import sys
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
    """In place of a batch normalisation that is folded into the convolution before it."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return x


def _without_normalisation() -> Any:
    return mock.patch.object(former_dfer, "BatchNorm", _Identity)


def _queries_and_keys() -> Any:
    """The map of the only key is computed as if there were others to choose from."""
    return mock.patch.object(fusion.CrossAttention, "is_initializing", return_value=True)


def _nothing() -> Any:
    return mock.patch.dict({})


def take_turns(module: nn.Module, inputs: Sequence[jax.Array], ways: dict[str, Callable[[], Any]], rounds: int) -> Any:
    """Seconds of the forward pass of ``module``, by way."""
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
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    flags = timing.parser((__doc__ or "").partition("\n")[0], rounds=5)
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
