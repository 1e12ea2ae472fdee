"""What a model costs: FLOPs per clip, and training steps."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict

from tramp_jax import experiment, models
from tramp_jax.data.datasets import TRAIN
from tramp_jax.errors import UserError

TRAINING = 3  # a forward and backward pass costs three times the forward pass


def flops(model: ConfigDict) -> float:
    """FLOPs of matrix products and convolutions in the forward pass of one clip whose frames all differ."""
    return _flops_of(FrozenConfigDict(model))


@functools.lru_cache
def _flops_of(model: FrozenConfigDict) -> float:
    inputs = [
        None if shape is None else jax.ShapeDtypeStruct(shape, jnp.float32)
        for shape in models.input_shapes(model, batch=1).values()
    ]
    built, variables = models.build_model(model), models.abstract_variables(model)
    return _flops(jax.make_jaxpr(lambda v, *x: built.apply(v, *x)[0])(variables, *inputs).jaxpr)


def _flops(program: Any) -> float:
    """FLOPs of a jaxpr and of those inside its equations. The body of a scan counts once for each iteration."""
    total = 0.0
    for equation in program.eqns:
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                body = getattr(inner, "jaxpr", inner)
                if hasattr(body, "eqns"):
                    total += times * _flops(body)
        out = math.prod(equation.outvars[0].aval.shape)
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            total += 2 * out * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            out_features = equation.params["dimension_numbers"].rhs_spec[0]
            total += 2 * out * math.prod(kernel) / kernel[out_features]
    return total


def steps(config: ConfigDict, column: str, expected: Mapping[str, int]) -> tuple[int, int] | None:
    """Training steps of a run over all folds, and the number of clips it trains on.

    Args:
      config: the whole configuration.
      column: the study's column.
      expected: published number of clips in each column, for when the data is missing.

    Returns:
      None if the data is missing and its size is unknown.
    """
    train = config.train
    try:
        clips = [len(splits[TRAIN]) for splits in experiment.open_folds(config).splits.values()]
    except UserError:
        if column not in expected:
            return None
        clips = [expected[column]]
    return sum(train.epochs * max(1, n * train.passes_per_epoch // train.batch_size) for n in clips), sum(clips)
