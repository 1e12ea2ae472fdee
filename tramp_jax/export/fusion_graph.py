"""The fusion as ONNX nodes (``models.fusion``). Tokens are the rows of a matrix (N, C)."""

from tramp_jax.export.graph import Graph, Tensor, Weights, attend, dense, layer_norm, mean, mlp
from tramp_jax.models.fusion import ConcatenationFusion, CrossFusion, Fusion, SumFusion, TrampFusion


def fused(g: Graph, fusion: Fusion, weights: Weights, rgb: Tensor, trajectory: Tensor) -> Tensor:
    """RGB tokens (Q, C) and trajectory tokens (K, C) -> the fused feature (1, C)."""
    match fusion:
        case TrampFusion():
            x, y = (rgb, trajectory) if fusion.query == "rgb" else (trajectory, rgb)
            for i in range(fusion.depth):
                x = _block(g, fusion, weights[f"block_{i}"], x, y)
            return _feature(g, fusion, x)
        case CrossFusion():
            for i in range(fusion.depth):
                rgb = _block(g, fusion, weights[f"cross_block_{i}"], rgb, trajectory)
                trajectory = _block(g, fusion, weights[f"cross_block_{i}"], trajectory, rgb)
            return mean(g, g.op("Concat", _feature(g, fusion, rgb), _feature(g, fusion, trajectory), axis=0))
        case ConcatenationFusion():
            return dense(g, weights["linear"], g.op("Concat", rgb, trajectory, axis=1))
        case SumFusion():
            return g.op("Add", rgb, trajectory)
    raise NotImplementedError(f"{type(fusion).__name__} has no ONNX nodes: add a case above")


def _block(g: Graph, fusion: Fusion, weights: Weights, x: Tensor, y: Tensor) -> Tensor:
    """A TraMP block: tokens x (Q, C) and y (K, C) -> (Q, C)."""
    y = layer_norm(g, weights["norm_v"], y)
    if fusion.tokens == "mean":  # the softmax over the single key is 1
        attended = dense(g, weights["attention"]["v"], y)
    else:
        attended = _attended(g, weights["attention"], fusion.heads, layer_norm(g, weights["norm_q"], x), y)
    x = g.op("Add", x, dense(g, weights["attention"]["proj"], attended))
    return g.op("Add", x, mlp(g, weights["mlp"], layer_norm(g, weights["norm_2"], x)))


def _attended(g: Graph, maps: Weights, heads: int, x: Tensor, y: Tensor) -> Tensor:
    """Attention of x (Q, C) to y (K, C) before the last map: (Q, C)."""
    C = maps["proj"]["kernel"].shape[0]
    D = C // heads
    rows = dense(g, maps["q"], x, D**-0.5), dense(g, maps["k"], y), dense(g, maps["v"], y)
    q, k, v = (g.op("Transpose", g.op("Reshape", z, [1, -1, heads, D]), perm=[0, 2, 1, 3]) for z in rows)
    return g.op("Reshape", g.op("Transpose", attend(g, q, k, v), perm=[0, 2, 1, 3]), [-1, C])


def _feature(g: Graph, fusion: Fusion, x: Tensor) -> Tensor:
    """The feature (1, C) of a stream's tokens."""
    return x if fusion.tokens == "mean" else mean(g, x)
