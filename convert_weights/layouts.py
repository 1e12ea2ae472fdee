"""Pairs of tensors, ours and PyTorch's, and how the memory layout of each layer type differs between the two."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Transform:
    """A change of memory layout: ``forward`` from PyTorch to flax, ``backward`` the exact inverse."""

    forward: Callable[[np.ndarray], np.ndarray]
    backward: Callable[[np.ndarray], np.ndarray]


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
class TensorPair:
    """A tensor's PyTorch name, its path in our variables (collection first), and a key of ``TRANSFORMS``."""

    source: str
    target: tuple[str, ...]
    transform: str


def linear(source: str, target: tuple[str, ...], bias: bool = True, transform: str = "linear") -> list[TensorPair]:
    """A layer with a weight and usually a bias."""
    pairs = [TensorPair(f"{source}.weight", ("params", *target, "kernel"), transform)]
    if bias:
        pairs.append(TensorPair(f"{source}.bias", ("params", *target, "bias"), "as is"))
    return pairs


def norm(source: str, target: tuple[str, ...]) -> list[TensorPair]:
    """LayerNorm."""
    return [
        TensorPair(f"{source}.weight", ("params", *target, "scale"), "as is"),
        TensorPair(f"{source}.bias", ("params", *target, "bias"), "as is"),
    ]


def batch_norm(source: str, target: tuple[str, ...]) -> list[TensorPair]:
    """BatchNorm with its running statistics."""
    return [
        *norm(source, target),
        TensorPair(f"{source}.running_mean", ("batch_stats", *target, "mean"), "as is"),
        TensorPair(f"{source}.running_var", ("batch_stats", *target, "var"), "as is"),
    ]


# PyTorch also saves two kinds of buffers that our variables do not need: a counter of batches beside each running mean,
# and the table rows for all pairs of frames beside each bias table.
COUNTER, INDEX = "num_batches_tracked", "relative_position_index"
_MEAN, _TABLE = "running_mean", "relative_position_bias_table"


def distances(frames: int) -> np.ndarray:
    """The table row for each pair of frames, (frames, frames) int64: i - j + frames - 1."""
    t = np.arange(frames)
    return t[:, None] - t[None, :] + frames - 1


def buffers(pairs: Sequence[TensorPair]) -> list[str]:
    """Names of the buffers that a state dict holds besides the tensors of ``pairs``."""
    names = [pair.source for pair in pairs]
    counters = [name.removesuffix(_MEAN) + COUNTER for name in names if name.endswith("." + _MEAN)]
    return counters + [name.removesuffix(_TABLE) + INDEX for name in names if name.endswith("." + _TABLE)]
