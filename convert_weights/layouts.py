"""How a tensor of each layer type is stored in PyTorch and here; every transform has its inverse."""

import dataclasses
from collections.abc import Callable

import numpy as np

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Transform:
    """A change of memory layout: ``forward`` from PyTorch to flax, ``backward`` the exact inverse."""

    forward: Callable[[Array], Array]
    backward: Callable[[Array], Array]


TRANSFORMS = {
    "as is": Transform(lambda x: x, lambda x: x),
    # Linear: (out, in) <-> (in, out)
    "linear": Transform(lambda x: x.T, lambda x: x.T),
    # 1×1 Conv2d used as a linear map: (out, in, 1, 1) <-> (in, out)
    "pointwise": Transform(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None]),
    # Conv2d of kernel (k, 1): (out, in, k, 1) <-> (k, in, out)
    "temporal": Transform(lambda x: x[:, :, :, 0].transpose(2, 1, 0), lambda x: x.transpose(2, 1, 0)[..., None]),
    # Conv2d: (out, in, h, w) <-> (h, w, in, out)
    "conv": Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """One tensor: its PyTorch name, its path in our variables (collection first), and how its layout changes."""

    source: str
    target: tuple[str, ...]
    transform: str


def linear(source: str, target: tuple[str, ...], bias: bool = True, transform: str = "linear") -> list[Rule]:
    """A layer of weight and bias."""
    rules = [Rule(f"{source}.weight", ("params", *target, "kernel"), transform)]
    return rules + [Rule(f"{source}.bias", ("params", *target, "bias"), "as is")] * bias


def norm(source: str, target: tuple[str, ...]) -> list[Rule]:
    """LayerNorm."""
    return [
        Rule(f"{source}.weight", ("params", *target, "scale"), "as is"),
        Rule(f"{source}.bias", ("params", *target, "bias"), "as is"),
    ]


def batch_norm(source: str, target: tuple[str, ...]) -> list[Rule]:
    """BatchNorm with its running statistics."""
    return [
        *norm(source, target),
        Rule(f"{source}.running_mean", ("batch_stats", *target, "mean"), "as is"),
        Rule(f"{source}.running_var", ("batch_stats", *target, "var"), "as is"),
    ]
