"""The parts of the model, with the FLOPs of their products counted by hand, 2 for each multiply-add."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from tramp_jax import models
from tramp_jax.models import former_dfer, fusion, layers, skateformer

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """A layer or a few consecutive layers.

    Attributes:
      kind, stage: its name, and the stage that it is in.
      count: how many of them the model has.
      flops: FLOPs of the products in one forward pass, counted by hand.
      shapes, dtype: those of its inputs.
      arguments: its arguments after the inputs, as a function of whether it trains.
    """

    kind: str
    stage: int
    count: int
    flops: float
    module: nn.Module
    shapes: tuple[Shape, ...]
    dtype: Any
    arguments: Callable[[bool], tuple[Any, ...]] = lambda train: ()


def _with_mode(train: bool) -> tuple[Any, ...]:
    return (train,)


def _keys_in_training(keys: jax.Array | None) -> Callable[[bool], tuple[Any, ...]]:
    return lambda train: (keys if train else None,)


def trajectory_parts(config: ConfigDict, batch: int) -> Iterator[Part]:
    """The trajectory encoder's layers without the stem (4% of its FLOPs); ``config`` is the ``model`` group."""
    c, dtype = config.trajectory, jnp.dtype(config.precision)
    encoder = models.build_model(config).trajectory_encoder
    V, n = c.num_points, c.blocks_per_stage
    before = c.embed_width
    for stage, C in enumerate(c.widths):
        T = c.length // c.patch >> stage
        tokens, shape = batch * T * V, (batch, T, V, C)
        quarter = (*shape[:3], C // 4)

        def part(kind: str, count: int, flops: float, module: nn.Module, shape: Shape, **more: Any) -> Part:
            return Part(kind, stage, count, flops, module, (shape,), dtype, **more)  # noqa: B023

        if stage:
            flops = 2 * tokens * 7 * before * C
            down = skateformer.Downsample(C, dtype)
            yield part("down-sampling", 1, flops, down, (batch, 2 * T, V, before), arguments=_with_mode)
        yield part("layer norm", 2 * n, 0, layers.layer_norm("norm", dtype), shape)
        yield part("mapping", n, 2 * tokens * C * 2 * C, nn.Dense(2 * C, dtype=dtype), shape)
        yield part("G-Conv", n, 2 * tokens * V * C // 4, skateformer.JointConv(dtype), quarter)
        groups = skateformer.CONV_GROUPS
        grouped = layers.TemporalConv(C // 4, groups=groups, dtype=dtype)
        yield part("T-Conv", n, 2 * tokens * 7 * (C // 4) ** 2 // groups, grouped, quarter)
        for i, partition in enumerate(encoder.partitions, start=1):
            attention = skateformer.SkateAttention(partition, c.attention_dropout, c.bias_order)
            flops = 2 * 2 * tokens * partition.frames * partition.joints * C // 8
            keys = jax.random.split(jax.random.key(0), partition.sets(T, V)) if c.attention_dropout else None
            arguments = _keys_in_training(keys)
            yield part(f"attention {i}", n, flops, attention, (*shape[:3], 3 * C // 8), arguments=arguments)
        yield part("proj", n, 2 * tokens * C * C, nn.Dense(C, dtype=dtype), shape)
        mlp = layers.Mlp(c.mlp_ratio * C, dtype=dtype)
        yield part("MLP", n, 2 * 2 * tokens * C * c.mlp_ratio * C, mlp, shape)
        before = C


class _Stem(nn.Module):
    """The layers of ``SFormer`` before its first stage."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = layers.Conv(self.width, 7, 2, self.dtype, name="conv1")(x)
        return layers.max_pool(nn.relu(former_dfer.BatchNorm(name="bn1")(x, train)))


class _Stage(nn.Module):
    """A stage of the ResNet: two blocks."""

    width: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = former_dfer.BasicBlock(self.width, self.stride, self.dtype)(x, train)
        return former_dfer.BasicBlock(self.width, 1, self.dtype)(x, train)


class _FusionAndHead(nn.Module):
    """The layers of ``TrampFormer`` after both encoders, whose tokens are (B, S, C) and (B, K, width)."""

    fusion: fusion.Fusion | None
    head: nn.Module
    trajectory_head: nn.Module | None

    @nn.compact
    def __call__(self, subclips: jax.Array, trajectories: jax.Array) -> jax.Array:
        rgb = nn.Dense(trajectories.shape[-1])(subclips)
        if self.fusion is None or self.fusion.tokens == "mean":
            rgb = jnp.mean(rgb, axis=1, keepdims=True)
        if self.fusion is None:
            return self.head(rgb[:, 0]) + self.trajectory_head(trajectories[:, 0])
        return self.head(jnp.mean(self.fusion(rgb, trajectories), axis=1).astype(jnp.float32))


def frame_parts(config: ConfigDict, frames: int) -> Iterator[Part]:
    """The frame encoder's layers on ``frames`` frames of any clips; ``config`` is the ``model`` group."""
    c, dtype = config.rgb, jnp.dtype(config.precision)
    side, before = -(-c.image_size // 2), c.widths[0]
    flops = 2.0 * frames * side**2 * 49 * 3 * before
    images = (frames, c.image_size, c.image_size, 3)
    yield Part("stem of the frames", 0, 1, flops, _Stem(before, dtype), (images,), dtype, _with_mode)
    side = -(-side // 2)
    for stage, width in enumerate(c.widths, start=1):
        if stage == 4:
            layer = former_dfer.TransformerLayer(c.spatial_heads, c.spatial_mlp_dim, dtype)
            flops = frames * _transformer_flops(side**2, before, c.spatial_mlp_dim)
            yield Part("spatial transformer", 0, 1, flops, layer, ((frames, side**2, before),), dtype)
        shape, stride = (frames, side, side, before), 1 if stage == 1 else 2
        side = -(-side // stride)
        shortcut = before * width if stride > 1 or before != width else 0
        flops = 2 * frames * side**2 * (9 * before * width + 3 * 9 * width**2 + shortcut)
        yield Part(f"ResNet stage {stage}", 0, 1, flops, _Stage(width, stride, dtype), (shape,), dtype, _with_mode)
        before = width
    temporal = former_dfer.TFormer(c.temporal_depth, c.temporal_heads, c.temporal_mlp_dim, dtype)
    clips = frames // c.clip_length
    flops = clips * c.temporal_depth * _transformer_flops(c.clip_length + 1, before, c.temporal_mlp_dim)
    yield Part("temporal transformer", 0, 1, flops, temporal, ((clips, c.clip_length, before),), dtype)


def _transformer_flops(tokens: int, width: int, hidden: int) -> float:
    """FLOPs of one layer: maps, both products of the attention, MLP."""
    return 2 * tokens * (4 * width**2 + 2 * tokens * width + 2 * width * hidden)


def fusion_part(config: ConfigDict, batch: int) -> Part:
    """Fusion and head; ``config`` is the ``model`` group."""
    c, rgb, width = config.fusion, config.rgb, config.fusion.width
    subclips = rgb.num_frames // rgb.clip_length
    moments = config.trajectory.length // config.trajectory.patch >> len(config.trajectory.widths) - 1
    R, T = (subclips, moments) if c.tokens == "sequence" else (1, 1)  # tokens of the streams
    to_trajectory, to_rgb = (c.depth * _tramp_block_flops(*pair, width, c.mlp_ratio) for pair in ((R, T), (T, R)))
    fused = {
        "tramp": to_trajectory if c.query == "rgb" else to_rgb,
        "cross": to_trajectory + to_rgb,
        "concatenation": 4 * width**2,
        "sum": 0,
        models.LATE: 0,
    }[c.name]
    widths = [width, *config.head.hidden, config.head.num_classes or 1]
    head = sum(a * b for a, b in itertools.pairwise(widths)) * (2 if c.name == models.LATE else 1)
    flops = 2 * batch * (subclips * rgb.widths[-1] * width + head) + batch * fused
    shapes = (batch, subclips, rgb.widths[-1]), (batch, T, width)
    model = models.build_model(config)
    module = _FusionAndHead(model.fusion, model.head, model.trajectory_head)
    return Part("fusion and head", 0, 1, flops, module, shapes, jnp.dtype(config.precision))


def _tramp_block_flops(queries: int, keys: int, width: int, mlp_ratio: int) -> float:
    products = (queries + keys) * width**2 + 2 * queries * mlp_ratio * width**2
    if keys > 1:  # with a single key, queries and keys are not computed
        products += (queries + keys) * width**2 + 2 * queries * keys * width
    return 2 * products


def total_flops(parts: Iterable[Part]) -> float:
    """FLOPs of one forward pass of all parts."""
    return sum(part.count * part.flops for part in parts)
