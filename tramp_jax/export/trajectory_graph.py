"""The trajectory stream as ONNX nodes (``models.skateformer``).

Tokens are the rows of a matrix (T · V, C), time-major. Axes: T time, V joints (landmarks), C channels, H attention
heads; n frames and l joints of a set of tokens that attend to each other; g segments in time and j groups of joints, so
g · j sets.
"""

import numpy as np

from tramp_jax.export.graph import Graph, Tensor, Weights, attention, conv_with_norm, dense, layer_norm, mlp
from tramp_jax.models.skateformer import CONV_GROUPS, HEADS_PER_PART, Partition, RelativePositionBias, SkateFormer


def skateformer(
    g: Graph, encoder: SkateFormer, weights: Weights, statistics: Weights, trajectories: Tensor, index_t: Tensor
) -> Tensor:
    """Trajectories (T, V, C) and ``index_t`` (T,) -> tokens of the last stage (T' · V, C)."""
    c, V = encoder.config, weights["joint_embedding"].shape[1]
    kernel = weights["stem_0"]["kernel"] * np.array(c.input_scale, np.float32)[:, None]
    x = g.op("Reshape", trajectories, [-1, len(kernel)])
    x = dense(g, {"kernel": kernel, "bias": weights["stem_0"]["bias"]}, x)
    for i in (1, 2):
        x = dense(g, weights[f"stem_{i}"], g.op("Gelu", x))
    place = g.op("Mul", _time_embedding(g, index_t, c.embed_width), weights["joint_embedding"].T)
    x = g.op("Reshape", g.op("Add", g.op("Reshape", x, [-1, V, c.embed_width]), place), [-1, c.embed_width])
    for stage, width in enumerate(c.widths):
        if stage:
            name = f"stage_{stage}_downsample"
            x = _downsampled(g, weights[name], statistics[name], x, V)
        for block in range(c.blocks_per_stage):
            x = _block(g, encoder, weights[f"stage_{stage}_block_{block}"], x, V, width)
    return x


def _time_embedding(g: Graph, index_t: Tensor, width: int) -> Tensor:
    """Sinusoids of ``index_t``: (T, 1, width)."""
    frequencies = np.exp(np.arange(0, width, 2) * (-np.log(10000.0) / width))
    angles = g.op("Mul", g.op("Reshape", index_t, [-1, 1, 1]), frequencies[:, None])
    pairs = g.op("Concat", g.op("Sin", angles), g.op("Cos", angles), axis=2)
    return g.op("Reshape", pairs, [-1, 1, width])


def _over_time(g: Graph, x: Tensor, joints: int, width: int) -> Tensor:
    """Tokens (T · V, C) as the map (1, C, T, V) that a convolution takes."""
    return g.op("Transpose", g.op("Reshape", x, [1, -1, joints, width]), perm=[0, 3, 1, 2])


def _as_tokens(g: Graph, x: Tensor, width: int) -> Tensor:
    """Inverse of ``_over_time``: (1, C, T, V) -> (T · V, C)."""
    return g.op("Reshape", g.op("Transpose", x, perm=[0, 2, 3, 1]), [-1, width])


def _temporal_kernel(weights: Weights) -> np.ndarray:
    """The kernel in ONNX's order: (features, channels of a group, k, 1)."""
    return weights["kernel"].transpose(2, 1, 0)[..., None]


def _downsampled(g: Graph, weights: Weights, statistics: Weights, x: Tensor, joints: int) -> Tensor:
    """Tokens (T · V, C) -> (T / 2 · V, features)."""
    kernel, bias = _temporal_kernel(weights["reduction"]), weights["reduction"]["bias"]
    features, width, length, _ = kernel.shape
    how = {"strides": [2, 1], "pads": [length // 2, 0] * 2}
    x = _over_time(g, x, joints, width)
    return _as_tokens(g, conv_with_norm(g, kernel, bias, weights["bn"], statistics["bn"], x, **how), features)


def _block(g: Graph, encoder: SkateFormer, weights: Weights, x: Tensor, joints: int, width: int) -> Tensor:
    """Convolutions over joints and time in parallel with four types of attention, then an MLP: (T · V, C)."""
    # The scale of the logits, with the number of heads as published, applied to q.
    qkv_scale = np.repeat([HEADS_PER_PART**-0.5, 1, 1], width // 8)
    scale = np.concatenate([np.ones(width // 2), *[qkv_scale] * 4])
    y = dense(g, weights["mapping"], layer_norm(g, weights["norm_1"], x), scale)
    sizes = [width // 4] * 2 + [3 * width // 8] * 4
    to_joint_conv, to_temporal_conv, *to_attention = g.ops("Split", y, sizes, axis=1, count=6)
    branches = [
        _joint_conv(g, weights["g_conv"]["matrix"], to_joint_conv, joints, width // 4),
        _temporal_conv(g, weights["t_conv"], to_temporal_conv, joints),
    ]
    for i, (partition, qkv) in enumerate(zip(encoder.partitions, to_attention, strict=True), start=1):
        rule = RelativePositionBias(partition, encoder.config.bias_order)
        bias = np.asarray(rule.apply({"params": weights[f"attention_{i}"]["bias"]}))
        branches.append(_partitioned_attention(g, partition, bias, qkv, joints, width // 8))
    x = g.op("Add", x, dense(g, weights["proj"], g.op("Concat", *branches, axis=1)))
    return g.op("Add", x, mlp(g, weights["mlp"], layer_norm(g, weights["norm_2"], x)))


def _joint_conv(g: Graph, matrix: np.ndarray, x: Tensor, joints: int, width: int) -> Tensor:
    """Mixes joints by one matrix (groups, V, V) per group of channels: (T · V, C)."""
    shape = [-1, joints, CONV_GROUPS, width // CONV_GROUPS]
    x = g.op("Transpose", g.op("Reshape", x, shape), perm=[2, 1, 0, 3])
    x = g.op("MatMul", matrix, g.op("Reshape", x, [CONV_GROUPS, joints, -1]))
    x = g.op("Reshape", x, [CONV_GROUPS, joints, -1, width // CONV_GROUPS])
    return g.op("Reshape", g.op("Transpose", x, perm=[2, 1, 0, 3]), [-1, width])


def _temporal_conv(g: Graph, weights: Weights, x: Tensor, joints: int) -> Tensor:
    """Grouped convolution over time: (T · V, C) -> (T · V, C)."""
    kernel = _temporal_kernel(weights)
    width, _, length, _ = kernel.shape
    pads = [length // 2, 0] * 2
    x = g.op("Conv", _over_time(g, x, joints, width), kernel, weights["bias"], group=CONV_GROUPS, pads=pads)
    return _as_tokens(g, x, width)


def _partitioned_attention(
    g: Graph, partition: Partition, bias: np.ndarray, qkv: Tensor, joints: int, width: int
) -> Tensor:
    """Self-attention within the sets of a partition, with a bias (H, n, l, m, k): (T · V, 3C) -> (T · V, C)."""
    frames, members = partition.frames, partition.joints
    sets, size, heads = joints // members, frames * members, HEADS_PER_PART
    # Time and joints are each cut into two axes; the type decides which of them counts the sets.
    time, where_g, where_n = ([-1, frames], 0, 1) if partition.local else ([frames, -1], 1, 0)
    space, where_j, where_l = ([sets, members], 2, 3) if partition.neighbours else ([members, sets], 3, 2)
    x = g.op("Reshape", qkv, [*time, *space, 3, heads, width // heads])
    x = g.op("Transpose", x, perm=[4, where_g, where_j, 5, where_n, where_l, 6])
    x = g.op("Reshape", x, [3, -1, heads, size, width // heads])
    x = attention(g, x, bias.reshape(heads, size, size))
    x = g.op("Reshape", x, [-1, sets, heads, frames, members, width // heads])
    back = [*((0, 3) if partition.local else (3, 0)), *((1, 4) if partition.neighbours else (4, 1)), 2, 5]
    return g.op("Reshape", g.op("Transpose", x, perm=back), [-1, width])
