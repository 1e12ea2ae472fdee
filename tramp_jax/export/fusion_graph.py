"""The fusion as ONNX nodes (``models.fusion``). Tokens are the rows of a matrix (N, C)."""

from collections.abc import Callable

from tramp_jax.export.graph import Graph, Tensor, Weights, dense, layer_norm, mlp
from tramp_jax.models.fusion import ConcatenationFusion, CrossFusion, Fusion, SumFusion, TrampFusion


def fused(g: Graph, fusion: Fusion, weights: Weights, rgb: Tensor, trajectory: Tensor) -> Tensor:
    """RGB and trajectory features (1, C) -> the fused feature (1, C)."""
    return _NODES[type(fusion)](g, fusion, weights, rgb, trajectory)


def _tramp(g: Graph, fusion: Fusion, weights: Weights, rgb: Tensor, trajectory: Tensor) -> Tensor:
    x, y = (rgb, trajectory) if fusion.query == "rgb" else (trajectory, rgb)
    for i in range(fusion.depth):
        x = _block(g, weights[f"block_{i}"], x, y)
    return x


def _cross(g: Graph, fusion: Fusion, weights: Weights, rgb: Tensor, trajectory: Tensor) -> Tensor:
    for i in range(fusion.depth):
        rgb = _block(g, weights[f"cross_block_{i}"], rgb, trajectory)
        trajectory = _block(g, weights[f"cross_block_{i}"], trajectory, rgb)
    return _mean(g, g.op("Concat", rgb, trajectory, axis=0))


def _concatenation(g: Graph, fusion: Fusion, weights: Weights, rgb: Tensor, trajectory: Tensor) -> Tensor:
    return dense(g, weights["linear"], g.op("Concat", rgb, trajectory, axis=1))


def _sum(g: Graph, fusion: Fusion, weights: Weights, rgb: Tensor, trajectory: Tensor) -> Tensor:
    return g.op("Add", rgb, trajectory)


_NODES: dict[type[Fusion], Callable[[Graph, Fusion, Weights, Tensor, Tensor], Tensor]] = {
    TrampFusion: _tramp,
    ConcatenationFusion: _concatenation,
    SumFusion: _sum,
    CrossFusion: _cross,
}


def _block(g: Graph, weights: Weights, x: Tensor, y: Tensor) -> Tensor:
    """A TraMP block. The softmax over the single key is 1."""
    maps = weights["attention"]
    value = dense(g, maps["v"], layer_norm(g, weights["norm_v"], y))
    x = g.op("Add", x, dense(g, maps["proj"], value))
    return g.op("Add", x, mlp(g, weights["mlp"], layer_norm(g, weights["norm_2"], x)))


def _mean(g: Graph, x: Tensor) -> Tensor:
    """The mean (1, C) of tokens (N, C)."""
    return g.op("ReduceMean", x, [0], keepdims=1)
