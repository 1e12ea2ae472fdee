"""What a model costs: FLOPs per clip, training steps, and hours of a GPU."""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict, FrozenConfigDict

from tramp_jax import experiment, models
from tramp_jax.data.datasets import TRAIN
from tramp_jax.errors import UserError
from tramp_jax.optimizer import steps_in_epoch

TRAINING = 3  # a forward and backward pass costs three times the forward pass
# TFLOP/s of an NVIDIA H100 (SXM) in dense products, by ``model.precision``; float32 uses TF32. SHARE of it is what
# training is assumed to reach: nothing has been measured on a GPU.
PEAK, SHARE = {"float32": 495.0, "bfloat16": 989.0}, 135 / 989
ASSUMED = (
    f"{SHARE * PEAK['float32']:.0f} TFLOP/s in float32 and {SHARE * PEAK['bfloat16']:.0f} in bfloat16: "
    f"{100 * SHARE:.0f}% of the peaks of an H100 in TF32 ({PEAK['float32']:g}) and bfloat16 ({PEAK['bfloat16']:g}), "
    "assumed, not measured"
)


class Estimate(NamedTuple):
    """What a training costs over all folds: the clips it trains on, its steps, GFLOP of a forward pass, and hours."""

    clips: int
    steps: int
    gflop: float
    hours: float


def flops(model: ConfigDict) -> float:
    """FLOPs of matrix products and convolutions in the forward pass of one clip whose frames all differ."""
    return _flops_of(FrozenConfigDict(model))


@functools.lru_cache
def _flops_of(model: FrozenConfigDict) -> float:
    built, inputs = models.build_model(model), models.abstract_inputs(model)
    return _flops(jax.make_jaxpr(lambda *x: built.apply(*x)[0])(models.abstract_variables(model), *inputs).jaxpr)


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


def estimate(config: ConfigDict, column: str, expected: Mapping[str, int], tflops: float | None = None) -> Estimate:
    """What a training costs.

    Args:
      expected: published number of clips in each column, for when the data is missing.
      tflops: speed of the device in training, in TFLOP/s; None for ``SHARE`` of ``PEAK``.

    Returns:
      The estimate. If the data is missing and its size is unknown, clips, steps and hours are 0.
    """
    train = config.train
    try:
        clips = [len(splits[TRAIN]) for splits in experiment.open_folds(config).splits.values()]
    except UserError:
        clips = [expected[column]] if column in expected else []
    steps = sum(train.epochs * steps_in_epoch(train, n) for n in clips)
    forward = flops(config.model)
    speed = 1e12 * (tflops or SHARE * PEAK[config.model.precision])
    return Estimate(sum(clips), steps, forward / 1e9, steps * train.batch_size * TRAINING * forward / speed / 3600)
