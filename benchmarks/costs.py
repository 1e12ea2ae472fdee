"""Where the time goes: what each part of the trajectory encoder costs, and how far that is from the machine's limits.

    python -m benchmarks.costs [--batch 8] [--config FILE]

FLOPs are counted by hand (products alone, 2 a multiply-add) and by XLA; so are bytes: by hand what a part must read
and write at least (inputs, parameters and outputs once), by XLA what its program touches. The limits are measured: a
large matrix product, and reading and writing memory larger than the caches. The least time of a part is what its
hand-counted FLOPs or bytes take at these limits, whichever is more; *reached* is that over the time measured. Parts are
measured on their own, one after the other, in float32.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from benchmarks import timing
from tramp_jax import models
from tramp_jax.models import layers, skateformer

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """A layer of the trajectory encoder at one stage.

    Attributes:
      kind, stage: what it is, and where.
      count: how many there are.
      flops: of the products of one forward pass, counted by hand.
      module: the layer.
      shape: of its input.
      told: what the layer takes besides its input, in training (True) and else.
    """

    kind: str
    stage: int
    count: int
    flops: float
    module: nn.Module
    shape: Shape
    told: Callable[[bool], tuple[Any, ...]] = lambda train: ()


def trajectory_parts(config: ConfigDict, batch: int) -> Iterator[Part]:
    """The layers of the stages (the stem is left out: 0.1 % of the FLOPs); ``config`` is the ``model`` group."""
    c = config.trajectory
    encoder = models.build_model(config).trajectory_encoder
    V, n = c.num_points, c.blocks_per_stage
    before = c.embed_width
    for stage, C in enumerate(c.widths):
        T = c.length >> stage
        tokens, shape = batch * T * V, (batch, T, V, C)
        if stage:
            flops = 2 * tokens * 7 * before * C
            down = skateformer.Downsample(C)
            yield Part("down-sampling", stage, 1, flops, down, (batch, 2 * T, V, before), lambda train: (train,))
        yield Part("layer norm", stage, 2 * n, 0, layers.layer_norm("norm"), shape)
        yield Part("mapping", stage, n, 2 * tokens * C * 2 * C, nn.Dense(2 * C), shape)
        yield Part("G-Conv", stage, n, 2 * tokens * V * C // 4, skateformer.JointConv(), (*shape[:3], C // 4))
        groups = skateformer.CONV_GROUPS
        grouped = layers.TemporalConv(C // 4, groups=groups)
        yield Part("T-Conv", stage, n, 2 * tokens * 7 * (C // 4) ** 2 // groups, grouped, (*shape[:3], C // 4))
        for i, partition in enumerate(encoder.partitions, start=1):
            attention = skateformer.SkateAttention(partition, c.attention_dropout, c.bias_order)
            flops = 2 * 2 * tokens * partition.frames * partition.joints * C // 8
            keys = jax.random.split(jax.random.key(0), partition.sets(T, V)) if c.attention_dropout else None
            yield Part(f"attention {i}", stage, n, flops, attention, (*shape[:3], 3 * C // 8), _keys_in_training(keys))
        yield Part("proj", stage, n, 2 * tokens * C * C, nn.Dense(C), shape)
        yield Part("MLP", stage, n, 2 * 2 * tokens * C * c.mlp_ratio * C, layers.Mlp(c.mlp_ratio * C), shape)
        before = C


def _keys_in_training(keys: jax.Array | None) -> Callable[[bool], tuple[Any, ...]]:
    return lambda train: (keys if train else None,)


def frame_encoder_flops(config: ConfigDict, frames: int) -> float:
    """Of the products of one forward pass of ``frames`` frames, counted by hand; ``config`` is the ``model`` group."""
    c = config.rgb
    side, total, before = -(-c.image_size // 2), 0.0, 3
    total += 2 * side**2 * 49 * before * c.widths[0]
    side, before = -(-side // 2), c.widths[0]
    for stage, width in enumerate(c.widths, start=1):
        if stage == 4:
            total += _transformer_flops(side**2, before, c.spatial_mlp_dim)
        side = side if stage == 1 else -(-side // 2)
        shortcut = before * width if stage > 1 or before != width else 0
        total += 2 * side**2 * (9 * before * width + 3 * 9 * width**2 + shortcut)
        before = width
    tokens = c.clip_length + 1
    temporal = c.temporal_depth * _transformer_flops(tokens, before, c.temporal_mlp_dim)
    return frames * total + frames / c.clip_length * temporal


def _transformer_flops(tokens: int, width: int, hidden: int) -> float:
    """Of one layer: maps, both products of the attention, MLP."""
    return 2 * tokens * (4 * width**2 + 2 * tokens * width + 2 * width * hidden)


def xla_cost(function: Callable[..., Any], *arguments: Any) -> dict[str, float]:
    """XLA's ``flops`` and ``bytes accessed`` of a function of arrays, or of their shapes."""
    cost: Any = jax.jit(function).lower(*arguments).compile().cost_analysis()
    return {name: float(cost.get(name, 0.0)) for name in ("flops", "bytes accessed")}


def part_cost(part: Part) -> dict[str, float]:
    """FLOPs and bytes of one forward pass of a part, by hand and by XLA.

    Sets of attention are counted in one batch: XLA counts the body of a loop once.
    """
    told = part.told(False)
    x = jax.ShapeDtypeStruct(part.shape, jnp.float32)
    with mock.patch.object(jax, "default_backend", return_value="batched"):
        variables = jax.eval_shape(lambda key: part.module.init(key, jnp.zeros(part.shape), *told), jax.random.key(0))
        cost = xla_cost(lambda variables, x: part.module.apply(variables, x, *told), variables, x)
        y = jax.eval_shape(lambda variables, x: part.module.apply(variables, x, *told), variables, x)
    arrays = [x, y, *jax.tree.leaves(variables)]
    least = sum(4 * math.prod(a.shape) for a in arrays)
    return {"flops": part.flops, "XLA flops": cost["flops"], "bytes": least, "XLA bytes": cost["bytes accessed"]}


def ways_of(part: Part) -> tuple[timing.Way, timing.Way]:
    """The part's forward pass, and its forward and backward pass in training."""
    key = jax.random.key(0)
    x = jax.random.normal(key, part.shape)
    variables = jax.jit(lambda x: part.module.init(key, x, *part.told(False)))(x)

    def apply(variables: Any, x: jax.Array, train: bool) -> jax.Array:
        y, _ = part.module.apply(variables, x, *part.told(train), mutable=["batch_stats"])
        return y

    @jax.jit
    def both(variables: Any, x: jax.Array, of_y: jax.Array) -> Any:
        rest = {name: tree for name, tree in variables.items() if name != "params"}
        y, backward = jax.vjp(lambda p, x: apply({"params": p} | rest, x, True), variables["params"], x)
        return y, backward(of_y)

    forward = jax.jit(lambda variables, x: apply(variables, x, False))
    of_y = jax.random.normal(key, jax.eval_shape(forward, variables, x).shape)
    return (
        lambda: jax.block_until_ready(forward(variables, x)),
        lambda: jax.block_until_ready(both(variables, x, of_y)),
    )


def limits(side: int, megabytes: int, rounds: int) -> dict[str, float]:
    """GFLOP/s of a large matrix product in float32 and bfloat16, GB/s of a copy; the best of the rounds."""
    key = jax.random.key(0)
    product = jax.jit(lambda a: a @ a)
    copy = jax.jit(lambda a: a + 1, donate_argnums=0)  # in place: new memory would first have to be mapped
    ways: dict[str, timing.Way] = {}
    for dtype in ("float32", "bfloat16"):
        a = jax.random.normal(key, (side, side), dtype)
        ways[f"{dtype} product"] = lambda a=a: jax.block_until_ready(product(a))
    long = [jnp.zeros((megabytes * 2**20 // 4,), jnp.float32)]

    def overwrite() -> None:
        long[0] = jax.block_until_ready(copy(long[0]))

    ways["copy"] = overwrite
    best = {name: min(values) for name, values in timing.take_turns(ways, rounds, warm_up=2).items()}
    found = {name: 2 * side**3 / 1e9 / seconds for name, seconds in best.items() if name != "copy"}
    return found | {"copy": 2 * long[0].nbytes / 1e9 / best["copy"]}


def rows(parts: Sequence[Part], rounds: int, limit: dict[str, float]) -> list[dict[str, Any]]:
    """What each part costs, takes, and must take at least; milliseconds are of all ``count`` of them."""
    ways = {
        (part, what): way for part in parts for what, way in zip(("forward", "training"), ways_of(part), strict=True)
    }
    names = {f"{part.kind} {part.stage} {what}": key for key in ways for part, what in [key]}
    seconds = timing.take_turns({name: ways[key] for name, key in names.items()}, rounds)
    found = []
    for part in parts:
        cost = part_cost(part)
        least = max(cost["flops"] / 1e9 / limit["float32 product"], cost["bytes"] / 1e9 / limit["copy"])
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
        whole = sums.setdefault(row["kind"], {"kind": row["kind"]})
        for name, value in row.items():
            if name not in ("kind", "stage"):
                whole[name] = whole.get(name, 0) + value
    return sorted(sums.values(), key=lambda row: row["least ms"] - row["forward ms"])


def table(found: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown, with a last line of sums."""
    lines = [
        "| part | GFLOP by hand | by XLA | least MB | MB by XLA | least ms | forward ms | reached | of the forward "
        "pass | training ms | of training |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    total = {name: sum(row[name] for row in found) for name in found[0] if name != "kind"}
    for row in [*found, {"kind": "all"} | total]:
        lines.append(
            f"| {row['kind']} | {row['flops'] / 1e9:.2f} | {row['XLA flops'] / 1e9:.2f} | {row['bytes'] / 1e6:.0f} "
            f"| {row['XLA bytes'] / 1e6:.0f} | {row['least ms']:.0f} | {row['forward ms']:.0f} "
            f"| {row['least ms'] / row['forward ms']:.0%} | {row['forward ms'] / total['forward ms']:.0%} "
            f"| {row['training ms']:.0f} | {row['training ms'] / total['training ms']:.0%} |"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the arguments, measures, and writes the report."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    flags = timing.parser("Where the time goes in the trajectory encoder.", rounds=5)
    flags.add_argument("--batch", type=int, default=8)
    flags.add_argument("--side", type=int, default=4096, help="of the matrices whose product is the limit")
    flags.add_argument("--megabytes", type=int, default=256, help="that are copied to find the limit")
    options = flags.parse_args(arguments)
    config = timing.recipe(options.config).model
    report = timing.Report("costs", arguments, timing.device_name())
    limit = limits(options.side, options.megabytes, options.rounds)
    lines = [f"- {name}: {value:.0f} {'GB/s' if name == 'copy' else 'GFLOP/s'}" for name, value in limit.items()]
    report.add("limits of the machine", lines, **limit)
    found = rows(list(trajectory_parts(config, options.batch)), options.rounds, limit)
    title = f"trajectory encoder, T = {config.trajectory.length}, {options.batch} clips, float32"
    report.add(title, table(by_kind(found)), parts=found)
    frames = frame_encoder_flops(config, config.rgb.num_frames)
    trajectories = sum(row["flops"] for row in found) / options.batch
    lines = [
        "| encoder | GFLOP a clip, forward | training (3 times) |",
        "|---|---|---|",
        f"| trajectories, T = {config.trajectory.length} | {trajectories / 1e9:.1f} | {3 * trajectories / 1e9:.1f} |",
        f"| {config.rgb.num_frames} frames | {frames / 1e9:.1f} | {3 * frames / 1e9:.1f} |",
    ]
    report.add("by hand, whole model", lines, trajectories=trajectories, frames=frames)
    report.write(options.out)


if __name__ == "__main__":
    main()
