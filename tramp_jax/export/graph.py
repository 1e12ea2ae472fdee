"""A builder of ONNX graphs: nodes, constants, and the layers that all parts of the model share.

A tensor is identified by its name, and every function returns the name of its result. Tokens are rows of a matrix
(N, C), so a linear layer is a single product that includes the bias.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tramp_jax.models.layers import NORM_EPS

OPSET = 20  # the first with Gelu
Tensor = str
Weights = Mapping[str, Any]


class Graph:
    """Collects nodes in the order of computation."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._known: dict[tuple[object, ...], Tensor] = {}

    def op(self, kind: str, *inputs: Tensor | np.ndarray | Sequence[int], **attributes: Any) -> Tensor:
        """Adds an ONNX operator and returns its result. Inputs other than names become constants."""
        return self.ops(kind, *inputs, count=1, **attributes)[0]

    def ops(
        self, kind: str, *inputs: Tensor | np.ndarray | Sequence[int], count: int, **attributes: Any
    ) -> list[Tensor]:
        """Adds an ONNX operator and returns its ``count`` results."""
        number = len(self.nodes)
        results = [f"{kind}_{number}" + (f"_{i}" if i else "") for i in range(count)]
        names = [x if isinstance(x, str) else self._constant(np.asarray(x)) for x in inputs]
        self.nodes.append(helper.make_node(kind, names, results, name=f"{kind}_{number}", **attributes))
        return results

    def output(self, x: Tensor, name: str) -> Tensor:
        """Names a tensor as an output, where the graph can be cut."""
        self.nodes.append(helper.make_node("Identity", [x], [name], name=name))
        return name

    def _constant(self, value: np.ndarray) -> Tensor:
        """Adds a constant, float32 or int64. Equal integers share one."""
        value = np.asarray(value, np.float32 if value.dtype.kind == "f" else np.int64, order="C")
        key = (value.shape, *value.ravel().tolist()) if value.dtype == np.int64 else ()
        if key and key in self._known:
            return self._known[key]
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        if key:
            self._known[key] = name
        return name


def dense(g: Graph, weights: Weights, x: Tensor, scale: np.ndarray | float = 1.0) -> Tensor:
    """A linear layer (N, C) -> (N, features), its outputs multiplied by ``scale``, a number or (features,)."""
    kernel = np.asarray(weights["kernel"]) * np.float32(scale)
    if "bias" not in weights:
        return g.op("Gemm", x, kernel)
    return g.op("Gemm", x, kernel, np.asarray(weights["bias"]) * np.float32(scale))


def layer_norm(g: Graph, weights: Weights, x: Tensor) -> Tensor:
    """Layer normalisation over the last axis."""
    return g.op(
        "LayerNormalization", x, np.asarray(weights["scale"]), np.asarray(weights["bias"]), axis=-1, epsilon=NORM_EPS
    )


def mean(g: Graph, x: Tensor) -> Tensor:
    """The mean (1, C) of tokens (N, C)."""
    return g.op("ReduceMean", x, [0], keepdims=1)


def mlp(g: Graph, weights: Weights, x: Tensor, approximate: str = "none") -> Tensor:
    """Linear, GELU ("none" for the exact one, or "tanh"), linear: (N, C) -> (N, C)."""
    return dense(g, weights["fc2"], g.op("Gelu", dense(g, weights["fc1"], x), approximate=approximate))


def conv_with_norm(
    g: Graph, kernel: np.ndarray, bias: np.ndarray | float, norm: Weights, statistics: Weights, x: Tensor, **how: Any
) -> Tensor:
    """A convolution followed by batch normalisation, as a single convolution.

    Args:
      kernel: (features, channels, height, width), ONNX's order.
      bias: (features,) bias of the convolution, or 0.
      norm: scale and bias (features,) of the normalisation.
      statistics: running mean and variance (features,).
      x: (N, channels, H, W).
      how: ``strides``, ``pads``.
    """
    factor = np.asarray(norm["scale"], np.float64) / np.sqrt(np.asarray(statistics["var"], np.float64) + NORM_EPS)
    offset = (bias - np.asarray(statistics["mean"], np.float64)) * factor + np.asarray(norm["bias"])
    return g.op("Conv", x, kernel * factor[:, None, None, None], offset, **how)


def attention(g: Graph, qkv: Tensor, bias: np.ndarray | None = None) -> Tensor:
    """Self-attention over scaled q, k and v (3, B, H, N, D), with a bias (H, N, N): (B, H, N, D)."""
    q, k, v = (g.op("Gather", qkv, np.array(i), axis=0) for i in range(3))
    return attend(g, q, k, v, bias)


def attend(g: Graph, q: Tensor, k: Tensor, v: Tensor, bias: np.ndarray | None = None) -> Tensor:
    """Attention of scaled q (B, H, Q, D) to k and v (B, H, K, D), with a bias (H, Q, K): (B, H, Q, D)."""
    logits = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
    if bias is not None:
        logits = g.op("Add", logits, bias)
    return g.op("MatMul", g.op("Softmax", logits, axis=-1), v)
