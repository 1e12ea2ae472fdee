"""Where the time goes: what each part of the model costs, and how far that is from the machine's limits.

    python -m benchmarks.costs [--precision bfloat16] [--batch 8] [--frame-batch 8] [--frames 80] [--config FILE]

FLOPs are counted by hand (products alone, 2 a multiply-add) and by XLA; so are bytes: by hand what a part must read
and write at least (inputs, parameters and outputs once), by XLA what its program touches. The limits are measured: a
large matrix product, and reading and writing memory larger than the caches. The least time of a part is what its
hand-counted FLOPs or bytes take at these limits, whichever is more; *reached* is that over the time measured. A
training step counts as three forward passes, the usual estimate: each product has two in the backward pass.

Parts are measured on their own, one after the other, each called so often that a measurement lasts 20 ms or more. A
part whose arrays fit into the device's caches can reach more than 100 % of the memory's limit; a part that takes less
than starting its kernels, some 10 µs each, reaches little whatever it does.
"""

import dataclasses
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import timing
from tramp_jax import models
from tramp_jax.models import former_dfer, layers, skateformer

Shape = tuple[int, ...]
TRAINING = 3  # forward passes that a training step counts as


@dataclasses.dataclass(frozen=True)
class Part:
    """A layer, or some that follow each other.

    Attributes:
      kind, stage: what it is, and where.
      count: how many there are.
      flops: of the products of one forward pass, counted by hand.
      module: the layer.
      shapes: of its inputs.
      dtype: of its inputs.
      told: what the layer takes besides its inputs, in training (True) and else.
    """

    kind: str
    stage: int
    count: int
    flops: float
    module: nn.Module
    shapes: tuple[Shape, ...]
    dtype: Any
    told: Callable[[bool], tuple[Any, ...]] = lambda train: ()


def _with_mode(train: bool) -> tuple[Any, ...]:
    return (train,)


def _keys_in_training(keys: jax.Array | None) -> Callable[[bool], tuple[Any, ...]]:
    return lambda train: (keys if train else None,)


def trajectory_parts(config: ConfigDict, batch: int) -> Iterator[Part]:
    """The layers of the stages (the stem is left out: 0.1 % of the FLOPs); ``config`` is the ``model`` group."""
    c, dtype = config.trajectory, jnp.dtype(config.precision)
    encoder = models.build_model(config).trajectory_encoder
    V, n = c.num_points, c.blocks_per_stage
    before = c.embed_width
    for stage, C in enumerate(c.widths):
        T = c.length >> stage
        tokens, shape = batch * T * V, (batch, T, V, C)
        quarter = (*shape[:3], C // 4)

        def part(kind: str, count: int, flops: float, module: nn.Module, shape: Shape, **more: Any) -> Part:
            return Part(kind, stage, count, flops, module, (shape,), dtype, **more)  # noqa: B023

        if stage:
            flops = 2 * tokens * 7 * before * C
            down = skateformer.Downsample(C, dtype)
            yield part("down-sampling", 1, flops, down, (batch, 2 * T, V, before), told=_with_mode)
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
            told = _keys_in_training(keys)
            yield part(f"attention {i}", n, flops, attention, (*shape[:3], 3 * C // 8), told=told)
        yield part("proj", n, 2 * tokens * C * C, nn.Dense(C, dtype=dtype), shape)
        mlp = layers.Mlp(c.mlp_ratio * C, dtype=dtype)
        yield part("MLP", n, 2 * 2 * tokens * C * c.mlp_ratio * C, mlp, shape)
        before = C


class _Stem(nn.Module):
    """What ``SFormer`` does before its first stage."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = former_dfer._conv(self.width, 7, 2, self.dtype, "conv1")(x)
        x = nn.relu(former_dfer.BatchNorm(name="bn1")(x, train))
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


class _Stage(nn.Module):
    """The two blocks of a stage of the ResNet."""

    width: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = former_dfer.BasicBlock(self.width, self.stride, self.dtype)(x, train)
        return former_dfer.BasicBlock(self.width, 1, self.dtype)(x, train)


class _FusionAndHead(nn.Module):
    """What ``TrampFormer`` does with the features of both streams: (B, S, C) and (B, width)."""

    fusion: nn.Module
    head: nn.Module

    @nn.compact
    def __call__(self, subclips: jax.Array, trajectories: jax.Array) -> jax.Array:
        rgb = jnp.mean(nn.Dense(trajectories.shape[-1])(subclips), axis=1)
        return self.head(self.fusion(rgb[:, None], trajectories[:, None])[:, 0].astype(jnp.float32))


def frame_parts(config: ConfigDict, frames: int) -> Iterator[Part]:
    """The frame encoder on ``frames`` frames, of whatever clips; ``config`` is the ``model`` group."""
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
    """Of one layer: maps, both products of the attention, MLP."""
    return 2 * tokens * (4 * width**2 + 2 * tokens * width + 2 * width * hidden)


def fusion_part(config: ConfigDict, batch: int) -> Part:
    """Fusion and head; ``config`` is the ``model`` group."""
    c, rgb, width = config.fusion, config.rgb, config.fusion.width
    subclips = rgb.num_frames // rgb.clip_length
    block = 2 * width**2 + 2 * width * c.mlp_ratio * width  # queries and keys of a single key are not computed
    widths = [width, *config.head.hidden, config.head.num_classes or 1]
    head = sum(a * b for a, b in itertools.pairwise(widths))
    flops = 2 * batch * (subclips * rgb.widths[-1] * width + c.depth * block + head)
    shapes = (batch, subclips, rgb.widths[-1]), (batch, width)
    model = models.build_model(config)
    module = _FusionAndHead(model.fusion, model.head)
    return Part("fusion and head", 0, 1, flops, module, shapes, jnp.dtype(config.precision))


def frame_encoder_flops(config: ConfigDict, frames: int) -> float:
    """Of the products of one forward pass of ``frames`` frames, counted by hand; ``config`` is the ``model`` group."""
    return sum(part.count * part.flops for part in frame_parts(config, frames))


def model_flops(config: ConfigDict, batch: int) -> float:
    """Of the products of one forward pass of ``batch`` clips, counted by hand; ``config`` is the ``model`` group."""
    flops = 0.0
    if models.reads_trajectories(config):
        flops += sum(part.count * part.flops for part in trajectory_parts(config, batch))
    if models.reads_frames(config):
        flops += frame_encoder_flops(config, batch * config.rgb.num_frames)
    if config.name == "tramp_former" and config.streams == "both":
        flops += fusion_part(config, batch).flops
    return flops


def xla_cost(function: Callable[..., Any], *arguments: Any) -> dict[str, float]:
    """XLA's ``flops`` and ``bytes accessed`` of a function of arrays, or of their shapes."""
    cost: Any = jax.jit(function).lower(*arguments).compile().cost_analysis() or {}
    return {name: float(cost.get(name, 0.0)) for name in ("flops", "bytes accessed")}


def part_cost(part: Part) -> dict[str, float]:
    """FLOPs and bytes of one forward pass of a part, by hand and by XLA.

    Sets of attention are counted in one batch: XLA counts the body of a loop once.
    """
    xs = [jax.ShapeDtypeStruct(shape, part.dtype) for shape in part.shapes]
    with mock.patch.object(jax, "default_backend", return_value="batched"):
        variables, forward = _abstract_variables(part), _forward_of(part)
        cost = xla_cost(forward, variables, xs)
        y = jax.eval_shape(forward, variables, xs)
    least = sum(a.dtype.itemsize * math.prod(a.shape) for a in [*xs, y, *jax.tree.leaves(variables)])
    return {"flops": part.flops, "XLA flops": cost["flops"], "bytes": least, "XLA bytes": cost["bytes accessed"]}


def _abstract_variables(part: Part) -> Any:
    xs = [jax.ShapeDtypeStruct(shape, part.dtype) for shape in part.shapes]
    return jax.eval_shape(lambda key, *xs: part.module.init(key, *xs, *part.told(False)), jax.random.key(0), *xs)


def _forward_of(part: Part) -> Callable[[Any, Sequence[jax.Array]], jax.Array]:
    def forward(variables: Any, xs: Sequence[jax.Array]) -> Any:
        return part.module.apply(variables, *xs, *part.told(False))

    return forward


def calls_of(part: Part) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The part's forward pass, and its forward and backward pass in training; they do not wait for the device."""
    key, rng = jax.random.key(0), np.random.default_rng(0)
    xs = [jax.random.normal(key, shape, part.dtype) for shape in part.shapes]
    # Compiling an initialisation for each part would take longer than measuring it.
    shapes = _abstract_variables(part)
    variables = jax.device_put(jax.tree.map(lambda a: rng.uniform(0.01, 0.05, a.shape).astype(a.dtype), shapes))

    @jax.jit
    def both(variables: Any, xs: Sequence[jax.Array], of_y: jax.Array) -> Any:
        rest = {name: tree for name, tree in variables.items() if name != "params"}

        def train(params: Any, xs: Sequence[jax.Array]) -> Any:
            y, _ = part.module.apply({"params": params} | rest, *xs, *part.told(True), mutable=["batch_stats"])
            return y

        y, backward = jax.vjp(train, variables["params"], xs)
        return y, backward(of_y)

    forward = jax.jit(_forward_of(part))
    y = jax.eval_shape(forward, variables, xs)
    of_y = jax.random.normal(key, y.shape, y.dtype)
    return lambda: forward(variables, xs), lambda: both(variables, xs, of_y)


def default_side() -> int:
    """Of the matrices whose product is the limit: large enough to keep the device busy."""
    return 4096 if jax.default_backend() == "cpu" else 8192


def product_of(side: int, dtype: str, precision: str | None = None) -> Callable[[], jax.Array]:
    """A call that multiplies two random matrices, at JAX's default precision or the one named."""
    a = jax.random.normal(jax.random.key(0), (side, side), dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=precision))
    return lambda: product(a)


def limits(side: int, megabytes: int, rounds: int) -> dict[str, float]:
    """GFLOP/s of a large matrix product by its precision, GB/s of a copy; the best of the rounds."""
    products = {"float32 product": product_of(side, "float32"), "bfloat16 product": product_of(side, "bfloat16")}
    if jax.default_backend() != "cpu":  # where products of float32 take fewer digits by default
        products["float32 product, highest precision"] = product_of(side, "float32", "highest")
    overwrite = jax.jit(lambda a: a + 1, donate_argnums=0)  # in place: new memory would first have to be mapped
    long = [jnp.zeros((megabytes * 2**20 // 4,), jnp.float32)]

    def copy() -> jax.Array:
        long[0] = overwrite(long[0])
        return long[0]

    calls: dict[str, Callable[[], jax.Array]] = {**products, "copy": copy}
    best = {name: min(values) for name, values in timing.take_turns_repeated(calls, rounds).items()}
    found = {name: 2 * side**3 / 1e9 / best[name] for name in products}
    return found | {"copy": 2 * long[0].nbytes / 1e9 / best["copy"]}


def rows(parts: Sequence[Part], rounds: int, limit: Mapping[str, float]) -> list[dict[str, Any]]:
    """What each part costs, takes, and must take at least; milliseconds are of all ``count`` of them."""
    calls = {}
    for part in parts:
        for what, call in zip(("forward", "training"), calls_of(part), strict=True):
            calls[f"{part.kind} {part.stage} {what}"] = call
    seconds = timing.take_turns_repeated(calls, rounds)
    found = []
    for part in parts:
        cost = part_cost(part)
        product = limit[f"{jnp.dtype(part.dtype).name} product"]
        least = max(cost["flops"] / 1e9 / product, cost["bytes"] / 1e9 / limit["copy"])
        row: dict[str, Any] = {"kind": part.kind, "stage": part.stage, "count": part.count}
        row |= {name: part.count * value for name, value in cost.items()} | {"least ms": 1e3 * part.count * least}
        for what in ("forward", "training"):
            median = timing.spread(seconds[f"{part.kind} {part.stage} {what}"]).median
            row[f"{what} ms"] = 1e3 * part.count * median
        found.append(row)
    return found


def by_kind(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows summed over the stages, those with the most to gain first."""
    sums: dict[str, dict[str, Any]] = {}
    for row in found:
        total = sums.setdefault(row["kind"], dict.fromkeys(row, 0) | {"kind": row["kind"]})
        total |= {name: total[name] + value for name, value in row.items() if name != "kind"}
    return sorted(sums.values(), key=lambda row: row["least ms"] - row["forward ms"])


def table(found: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown, with a last line of sums."""
    lines = [
        "| part | GFLOP by hand | by XLA | least MB | MB by XLA | least ms | forward ms | reached | of the forward "
        "pass | training ms | reached | of training |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    total = {name: sum(row[name] for row in found) for name in found[0] if name != "kind"}
    for row in [*found, {"kind": "all"} | total]:
        forward, training, least = row["forward ms"], row["training ms"], row["least ms"]
        lines.append(
            f"| {row['kind']} | {timing.digits(row['flops'] / 1e9)} | {timing.digits(row['XLA flops'] / 1e9)} "
            f"| {timing.digits(row['bytes'] / 1e6)} | {timing.digits(row['XLA bytes'] / 1e6)} "
            f"| {timing.digits(least)} | {timing.digits(forward)} "
            f"| {least / forward:.0%} | {forward / total['forward ms']:.0%} "
            f"| {timing.digits(training)} | {TRAINING * least / training:.0%} | {training / total['training ms']:.0%} |"
        )
    return lines


def scoring(config: ConfigDict, rounds: int, limit: Mapping[str, float]) -> tuple[list[str], dict[str, Any]]:
    """The forward pass of the whole model on one clip, as scoring runs it; ``config`` is the ``model`` group."""
    model, key = models.build_model(config), jax.random.key(0)
    shapes = models.input_shapes(config, batch=1)
    inputs = [None if shape is None else jax.random.normal(key, shape) for shape in shapes.values()]
    variables = models.init_variables(config, key)
    forward = jax.jit(lambda variables, inputs: model.apply(variables, *inputs)[0])
    seconds = timing.take_turns_repeated({"forward": lambda: forward(variables, inputs)}, rounds)["forward"]
    gflop, spread = model_flops(config, 1) / 1e9, timing.spread([1e3 * value for value in seconds])
    rate = gflop / (spread.median / 1e3)
    share = rate / limit[f"{config.precision} product"]
    lines = [
        f"One clip of {config.rgb.num_frames} frames and T = {config.trajectory.length}, all frames different, "
        f"{config.precision}: {gflop:.1f} GFLOP by hand in {timing.digits(spread.median)} ms "
        f"({timing.digits(spread.low)}–{timing.digits(spread.high)}), which is {timing.digits(rate)} GFLOP/s and "
        f"{share:.0%} of the product's limit.",
    ]
    return lines, {"gflop": gflop, "seconds": seconds, "share": share}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the arguments, measures, and writes the report."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    on_cpu = jax.default_backend() == "cpu"
    flags = timing.parser((__doc__ or "").partition("\n")[0], rounds=5)
    timing.add_precision(flags)
    flags.add_argument("--batch", type=int, default=8, help="clips of the trajectory encoder, fusion and head")
    flags.add_argument("--frame-batch", type=int, help="clips of the frame encoder; default 2 on a CPU, else 8")
    flags.add_argument("--frames", type=int, help="of such a clip; default 16 on a CPU, else the recipe's")
    flags.add_argument("--side", type=int, default=default_side(), help="of the matrices whose product is the limit")
    megabytes = 256 if on_cpu else 1024
    flags.add_argument("--megabytes", type=int, default=megabytes, help="that are copied to find the limit")
    options = flags.parse_args(arguments)
    config = timing.recipe(options.config).model
    config.precision = options.precision
    frames = options.frames or (16 if on_cpu else config.rgb.num_frames)
    clips = options.frame_batch or (2 if on_cpu else 8)
    report = timing.Report("costs", arguments, options.out, [options.precision])
    limit = limits(options.side, options.megabytes, options.rounds)
    lines = [f"- {name}: {value:.0f} {'GB/s' if name == 'copy' else 'GFLOP/s'}" for name, value in limit.items()]
    if not on_cpu:
        lines += ["", "float32 products have JAX's default precision: TF32 on NVIDIA's GPUs from Ampere on."]
    report.add("limits of the machine", lines, **limit)

    trajectories, encoder = model_flops(config, 1), frame_encoder_flops(config, config.rgb.num_frames)
    trajectories -= encoder
    lines = [
        "| encoder | GFLOP a clip, forward | training (3 times) |",
        "|---|---|---|",
        f"| trajectories, T = {config.trajectory.length}, fusion and head | {trajectories / 1e9:.1f} "
        f"| {TRAINING * trajectories / 1e9:.1f} |",
        f"| {config.rgb.num_frames} frames | {encoder / 1e9:.1f} | {TRAINING * encoder / 1e9:.1f} |",
    ]
    report.add("by hand, whole model", lines, trajectories=trajectories, frames=encoder)

    lines, measured = scoring(config, options.rounds, limit)
    report.add("scoring", lines, **measured)

    found = rows(list(frame_parts(config, clips * frames)), options.rounds, limit)
    title = f"frame encoder, {clips} clips of {frames} frames, {options.precision}"
    report.add(title, table(by_kind(found)), parts=found)

    found = rows([*trajectory_parts(config, options.batch), fusion_part(config, options.batch)], options.rounds, limit)
    title = f"trajectory encoder, T = {config.trajectory.length}, fusion and head, {options.batch} clips"
    report.add(f"{title}, {options.precision}", table(by_kind(found)), parts=found)


if __name__ == "__main__":
    main()
