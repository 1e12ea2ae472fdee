"""Where the time goes: the cost of each part of the model, and how close it comes to the machine's limits.

    python -m benchmarks.costs [--precision bfloat16] [--batch 8] [--frame-batch 8] [--frames 80] [--config FILE]

FLOPs are counted by hand (only products, see ``parts``) and by XLA. Bytes are counted, too: by hand, the least that a
part must read and write (inputs, parameters and outputs once); by XLA, all that its program touches. The limits are
measured: a large matrix product, and reading and writing memory larger than the caches. The least time of a part is the
time that its hand-counted FLOPs or bytes take at these limits, whichever is longer; *reached* is that divided by the
measured time. A training step counts as three forward passes, the usual estimate: each product has two more in the
backward pass.

Each part is measured on its own and called often enough that a measurement lasts at least 20 ms. A part whose arrays
fit into the device's caches can exceed 100% of the memory's limit. A part that takes less time than starting its
kernels, about 10 µs each, stays far below the limits.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import timing
from benchmarks.parts import Part, frame_parts, fusion_part, total_flops, trajectory_parts
from tramp_jax import models
from tramp_jax.studies.cost import TRAINING, flops


def xla_cost(function: Callable[..., Any], *arguments: Any) -> dict[str, float]:
    """XLA's ``flops`` and ``bytes accessed`` of a function; ``arguments`` are arrays or their shapes."""
    cost: Any = jax.jit(function).lower(*arguments).compile().cost_analysis() or {}
    return {name: float(cost.get(name, 0.0)) for name in ("flops", "bytes accessed")}


def part_cost(part: Part) -> dict[str, float]:
    """FLOPs and bytes of one forward pass of a part, by hand and by XLA.

    The sets of an attention are counted in one batch, because XLA counts the body of a loop only once.
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
    return jax.eval_shape(lambda key, *xs: part.module.init(key, *xs, *part.arguments(False)), jax.random.key(0), *xs)


def _forward_of(part: Part) -> Callable[[Any, Sequence[jax.Array]], jax.Array]:
    def forward(variables: Any, xs: Sequence[jax.Array]) -> Any:
        return part.module.apply(variables, *xs, *part.arguments(False))

    return forward


def calls_of(part: Part) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The part's forward pass, and its forward and backward pass in training. They do not wait for the device."""
    key, rng = jax.random.key(0), np.random.default_rng(0)
    xs = [jax.random.normal(key, shape, part.dtype) for shape in part.shapes]
    # Random arrays: compiling each part's initialisation would take longer than measuring the part.
    shapes = _abstract_variables(part)
    variables = jax.device_put(jax.tree.map(lambda a: rng.uniform(0.01, 0.05, a.shape).astype(a.dtype), shapes))

    @jax.jit
    def both(variables: Any, xs: Sequence[jax.Array], of_y: jax.Array) -> Any:
        rest = {name: tree for name, tree in variables.items() if name != "params"}

        def train(params: Any, xs: Sequence[jax.Array]) -> Any:
            y, _ = part.module.apply({"params": params} | rest, *xs, *part.arguments(True), mutable=["batch_stats"])
            return y

        y, backward = jax.vjp(train, variables["params"], xs)
        return y, backward(of_y)

    forward = jax.jit(_forward_of(part))
    y = jax.eval_shape(forward, variables, xs)
    of_y = jax.random.normal(key, y.shape, y.dtype)
    return lambda: forward(variables, xs), lambda: both(variables, xs, of_y)


def default_side() -> int:
    """Size of the matrices whose product sets the limit: large enough to keep the device busy."""
    return 4096 if jax.default_backend() == "cpu" else 8192


def product_of(side: int, dtype: str, precision: str | None = None) -> Callable[[], jax.Array]:
    """A call that multiplies two random matrices, at JAX's default precision or ``precision``."""
    a = jax.random.normal(jax.random.key(0), (side, side), dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=precision))
    return lambda: product(a)


def limits(side: int, megabytes: int, rounds: int) -> dict[str, float]:
    """GFLOP/s of a large matrix product for each precision, and GB/s of a copy; the best of the rounds."""
    products = {"float32 product": product_of(side, "float32"), "bfloat16 product": product_of(side, "bfloat16")}
    if jax.default_backend() != "cpu":  # other devices drop digits in float32 products by default
        products["float32 product, highest precision"] = product_of(side, "float32", "highest")
    overwrite = jax.jit(lambda a: a + 1, donate_argnums=0)  # in place, since new memory has to be mapped first
    long = [jnp.zeros((megabytes * 2**20 // 4,), jnp.float32)]

    def copy() -> jax.Array:
        long[0] = overwrite(long[0])
        return long[0]

    calls: dict[str, Callable[[], jax.Array]] = {**products, "copy": copy}
    best = {name: min(values) for name, values in timing.take_turns_repeated(calls, rounds).items()}
    found = {name: 2 * side**3 / 1e9 / best[name] for name in products}
    return found | {"copy": 2 * long[0].nbytes / 1e9 / best["copy"]}


def rows(parts: Sequence[Part], rounds: int, limit: Mapping[str, float]) -> list[dict[str, Any]]:
    """Costs, times and least times of each part; milliseconds are for all ``count`` of them."""
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
    """The rows summed over the stages, sorted by how much time could be gained."""
    sums: dict[str, dict[str, Any]] = {}
    for row in found:
        total = sums.setdefault(row["kind"], dict.fromkeys(row, 0) | {"kind": row["kind"]})
        total |= {name: total[name] + value for name, value in row.items() if name != "kind"}
    return sorted(sums.values(), key=lambda row: row["least ms"] - row["forward ms"])


def table(found: Sequence[dict[str, Any]]) -> list[str]:
    """A Markdown table of the rows, with sums in the last line."""
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
    """Measures the whole model's forward pass on one clip, as in scoring; ``config`` is the ``model`` group."""
    model, key = models.build_model(config), jax.random.key(0)
    shapes = models.input_shapes(config, batch=1)
    inputs = [None if shape is None else jax.random.normal(key, shape) for shape in shapes.values()]
    variables = models.init_variables(config, key)
    forward = jax.jit(lambda variables, inputs: model.apply(variables, *inputs)[0])
    seconds = timing.take_turns_repeated({"forward": lambda: forward(variables, inputs)}, rounds)["forward"]
    gflop, spread = flops(config) / 1e9, timing.spread([1e3 * value for value in seconds])
    rate = gflop / (spread.median / 1e3)
    share = rate / limit[f"{config.precision} product"]
    lines = [
        f"One clip of {config.rgb.num_frames} frames and T = {config.trajectory.length}, all frames different, "
        f"{config.precision}: {gflop:.1f} GFLOP in {timing.digits(spread.median)} ms "
        f"({timing.digits(spread.low)}–{timing.digits(spread.high)}), which is {timing.digits(rate)} GFLOP/s and "
        f"{share:.0%} of the product's limit.",
    ]
    return lines, {"gflop": gflop, "seconds": seconds, "share": share}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the arguments, measures, and writes the report."""
    on_cpu = jax.default_backend() == "cpu"
    flags = timing.parser(__doc__, rounds=5)
    timing.add_precision(flags)
    flags.add_argument("--batch", type=int, default=8, help="clips for the trajectory encoder, fusion and head")
    flags.add_argument("--frame-batch", type=int, help="clips for the frame encoder; default 2 on a CPU, else 8")
    flags.add_argument("--frames", type=int, help="frames of such a clip; default 16 on a CPU, else the recipe's")
    flags.add_argument("--side", type=int, default=default_side(), help="size of the product that sets the limit")
    megabytes = 256 if on_cpu else 1024
    flags.add_argument("--megabytes", type=int, default=megabytes, help="size of the copy that sets the limit")
    options = flags.parse_args(arguments)
    config = timing.recipe(options.config).model
    config.precision = options.precision
    frames = options.frames or (16 if on_cpu else config.rgb.num_frames)
    clips = options.frame_batch or (2 if on_cpu else 8)
    report = timing.Report("costs", arguments, options.out, [options.precision])
    limit = limits(options.side, options.megabytes, options.rounds)
    lines = [f"- {name}: {value:.0f} {'GB/s' if name == 'copy' else 'GFLOP/s'}" for name, value in limit.items()]
    if not on_cpu:
        lines += ["", "float32 products have JAX's default precision: TF32 on NVIDIA's GPUs since Ampere."]
    report.add("limits of the machine", lines, **limit)

    trajectories = total_flops([*trajectory_parts(config, 1), fusion_part(config, 1)])
    encoder = total_flops(frame_parts(config, config.rgb.num_frames))
    lines = [
        f"| encoder | GFLOP a clip, forward | training ({TRAINING} times) |",
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
