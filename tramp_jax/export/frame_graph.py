"""The frame stream as ONNX nodes: normalisation, S-Former, T-Former (``models.former_dfer``).

Axes: K distinct frames, S sub-clips, C channels, H attention heads, N tokens that attend to each other, D channels per
head.
"""

import jax
import numpy as np
from ml_collections import ConfigDict
from onnx import TensorProto

from tramp_jax.batches.augment import IMAGENET_MEAN, IMAGENET_STD, stored_size
from tramp_jax.batches.view import blanks_frames
from tramp_jax.export.graph import Graph, Tensor, Weights, attention, conv_with_norm, dense, layer_norm, mlp


def normalised(g: Graph, config: ConfigDict) -> Tensor:
    """The frames after ``augment.for_evaluation``, in ONNX's order: (K, 3, size, size)."""
    size, given = config.model.rgb.image_size, stored_size(config.model.rgb.image_size)
    x = g.op("Reshape", "frames", [-1, given, given, 3])
    x = g.op("Transpose", g.op("Cast", x, to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    if size != given:
        # Resizing is linear along each axis, so resizing unit vectors gives its matrix.
        matrix = np.asarray(jax.image.resize(np.eye(given, dtype=np.float32), (size, given), "linear"))
        x = g.op("MatMul", matrix, g.op("MatMul", x, matrix.T))
    mean, std = (np.array(z, np.float32).reshape(3, 1, 1) for z in (IMAGENET_MEAN, IMAGENET_STD))
    x = g.op("Sub", g.op("Mul", x, 1 / (255 * std)), mean / std)
    if blanks_frames(config):
        present = g.op("Cast", g.op("Reshape", "frames_present", [-1, 1, 1, 1]), to=TensorProto.FLOAT)
        x = g.op("Mul", x, present)
    if config.model.rgb.scrambled_frames:
        x = g.op("Reshape", g.op("Transpose", x, perm=[1, 0, 2, 3]), [config.model.rgb.num_frames, 3, size, size])
    return x


def s_former(g: Graph, config: ConfigDict, weights: Weights, statistics: Weights, x: Tensor) -> Tensor:
    """Frames (K, 3, size, size) -> features (K, C)."""

    def conv(part: Weights, moments: Weights, name: str, norm: str, x: Tensor, stride: int) -> Tensor:
        kernel = part[name]["kernel"].transpose(3, 2, 0, 1)
        pad = kernel.shape[-1] // 2
        return conv_with_norm(g, kernel, 0, part[norm], moments[norm], x, strides=[stride] * 2, pads=[pad] * 4)

    x = g.op("Relu", conv(weights, statistics, "conv1", "bn1", x, 2))
    x = g.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage in range(1, len(config.widths) + 1):
        if stage == 4:
            x = _attended(g, config, weights, x)
        for block in range(2):
            part, moments = (tree[f"layer{stage}_{block}"] for tree in (weights, statistics))
            stride = 2 if stage > 1 and block == 0 else 1
            y = g.op("Relu", conv(part, moments, "conv1", "bn1", x, stride))
            y = conv(part, moments, "conv2", "bn2", y, 1)
            if "downsample_conv" in part:
                x = conv(part, moments, "downsample_conv", "downsample_bn", x, stride)
            x = g.op("Relu", g.op("Add", y, x))
    return g.op("Flatten", g.op("GlobalAveragePool", x))


def _attended(g: Graph, config: ConfigDict, weights: Weights, x: Tensor) -> Tensor:
    """One transformer layer over the positions of the maps (K, C, h, w)."""
    position = weights["pos_embedding"]
    _, N, C = position.shape
    side = round(N**0.5)
    x = g.op("Transpose", g.op("Reshape", x, [-1, C, N]), perm=[0, 2, 1])
    x = g.op("Reshape", g.op("Add", x, position), [-1, C])
    x = _transformer_layer(g, weights["transformer"], x, N, config.spatial_heads)
    x = g.op("Transpose", g.op("Reshape", x, [-1, N, C]), perm=[0, 2, 1])
    return g.op("Reshape", x, [-1, C, side, side])


def t_former(g: Graph, config: ConfigDict, weights: Weights, x: Tensor) -> Tensor:
    """Features of distinct frames (K, C) -> features of sub-clips (S, C)."""
    S, length, C = config.num_frames // config.clip_length, config.clip_length, config.widths[-1]
    if not config.scrambled_frames:
        x = g.op("Gather", x, g.op("Reshape", "frame_index", [-1]), axis=0)
    x = g.op("Reshape", x, [S, length, C])
    x = g.op("Concat", np.repeat(weights["cls_token"], S, axis=0), x, axis=1)
    x = g.op("Reshape", g.op("Add", x, weights["pos_embedding"]), [-1, C])
    for i in range(config.temporal_depth):
        x = _transformer_layer(g, weights[f"layer_{i}"], x, length + 1, config.temporal_heads)
    return g.op("Gather", g.op("Reshape", x, [S, length + 1, C]), np.array(0), axis=1)


def _transformer_layer(g: Graph, weights: Weights, x: Tensor, tokens: int, heads: int) -> Tensor:
    """Pre-norm attention within each ``tokens`` rows, then an MLP: (B · tokens, C)."""
    maps = weights["attention"]
    C = maps["proj"]["kernel"].shape[0]
    D = C // heads
    scale = np.repeat([D**-0.5, 1, 1], C)  # of the logits, applied to q
    qkv = dense(g, maps["qkv"], layer_norm(g, weights["norm_1"], x), scale)
    qkv = g.op("Transpose", g.op("Reshape", qkv, [-1, tokens, 3, heads, D]), perm=[2, 0, 3, 1, 4])
    y = attention(g, qkv)
    y = g.op("Reshape", g.op("Transpose", y, perm=[0, 2, 1, 3]), [-1, C])
    x = g.op("Add", x, dense(g, maps["proj"], y))
    return g.op("Add", x, mlp(g, weights["mlp"], layer_norm(g, weights["norm_2"], x), "tanh"))
