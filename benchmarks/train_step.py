"""How long a training step takes, and how long the first one takes to start: this project against PyTorch.

    python -m benchmarks.train_step [--parts encoder step compile] [--ways jax-float32 torch-eager ...] [--config FILE]

``encoder`` measures only the trajectory encoder, forward and training step, in float32. ``step`` measures the training
step of the whole model with each of ``--ways`` (``benchmarks/ways.py``), the share of the bfloat16 product's limit that
each reaches, and how far their scores differ without dropout. ``compile`` measures the seconds to the first step of a
new process, first with nothing compiled and then again, for the JAX ways among ``--ways``; tracing counts as compiling.

On a CPU the step takes 2 clips of 16 frames by default, since the published 80 frames take minutes a step. There, each
way of ``step`` has a process of its own, and the processes take turns: in one process, the memory and threads of one
side slow the other down. In each turn, a process takes four steps, and the last is measured: training takes one step
after the other, but a process that has waited must first get its memory back from the system.

On a GPU both sides hold memory of the same card: XLA_CLIENT_MEM_FRACTION=.5 leaves half of it to PyTorch. ``compile``
starts other processes and needs XLA_PYTHON_CLIENT_PREALLOCATE=false (``benchmarks/gpu.sh`` sets both).
"""

import argparse
import contextlib
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import costs, timing, ways
from benchmarks.ways import EAGER, HIGHEST, JAX_WAYS, TORCH_WAYS, WAYS, JaxWay, Work, torch
from tramp_jax import losses, models, optimizer, sharding, training_step
from tramp_jax.studies import cost

PARTS = ("encoder", "step", "compile")
PRODUCT = "bfloat16 product"
ROOT, DONE = pathlib.Path(__file__).parents[1], b"done\n"


def encoder(report: timing.Report, config: ConfigDict, batch: int, rounds: int) -> None:
    """Measures the trajectory encoder with a linear head, forward and training step, in float32 on both sides."""
    config = ConfigDict(config.to_dict())
    config.model.update(name="skateformer", streams="trajectory")
    config.model.head.update(hidden=(), num_classes=0)
    work = ways.prepare(config, batch)
    sides = {"jax": WAYS["jax-float32"], "torch": WAYS[EAGER]}
    forward = {name: way.forward(work) for name, way in sides.items()}
    difference = float(np.max(np.abs(forward["jax"]() - forward["torch"]())))
    step = {name: way.step(work) for name, way in sides.items()}
    lines = [
        f"T = {config.model.trajectory.length}, {batch} clips; scores differ by {difference:.0e}. Both sides at their "
        "defaults for float32: on NVIDIA's GPUs since Ampere, JAX's products are TF32 and PyTorch's are not.",
        "",
    ]
    measured = {}
    for what, calls in (("forward", forward), ("training step", step)):
        measured[what] = seconds = timing.take_turns(calls, rounds)
        lines += [f"{what}:", "", *timing.comparison(seconds, "torch"), ""]
    report.add("trajectory encoder", lines[:-1], batch=batch, seconds=measured, difference=difference)


def whole_step(
    report: timing.Report,
    config: ConfigDict,
    batch: int,
    rounds: int,
    wanted: Sequence[str],
    side: int,
    minutes: float,
    arguments: Sequence[str],
) -> None:
    """Measures the training step of the whole model, each way, and its share of the machine's limit.

    ``arguments`` give the processes of the ways the same recipe and batch.
    """
    work = ways.prepare(config, batch)
    # torch.compile takes minutes. So the other ways are measured first, and their results are written, before all ways
    # take turns.
    slow = [name for name in wanted if name in TORCH_WAYS and TORCH_WAYS[name].compiled]
    quick = [name for name in wanted if name not in slow]
    for title, names, compared in (
        ("training step", quick, quick),
        ("training step, torch.compile among the ways", wanted if slow else [], slow),
    ):
        if not names:
            continue
        failed: dict[str, str] = {}
        product, products = timing.repeated(costs.product_of(side, "bfloat16"))
        with contextlib.ExitStack() as processes:
            on_cpu = jax.default_backend() == "cpu"
            if on_cpu:
                made = {name: in_own_process(name, arguments, processes) for name in names}
            else:
                made = {name: made_late(work, name) for name in names}
            steps = {PRODUCT: product} | made
            seconds = timing.take_turns(
                steps, rounds, warm_up=2, failed=failed, minutes=minutes, unmeasured=3 if on_cpu else 0
            )
        limit = products * 2 * side**3 / 1e9 / min(seconds.pop(PRODUCT))
        lines, shares = step_table(work, seconds, failed, limit)
        report.add(title, lines, batch=batch, seconds=seconds, failed=failed, shares=shares, limit=limit)
        if torch is not None:
            lines, differences = agreement(work, [name for name in seconds if name in compared])
            report.add(f"scores, {title}", lines, differences=differences)


def made_late(work: Work, name: str) -> timing.Way:
    """The training step of a way, prepared when it first runs: one that lacks memory must not affect the others."""
    step: timing.Way | None = None

    def way() -> object:
        nonlocal step
        try:
            step = step or WAYS[name].step(work)
            return step()
        except RuntimeError:
            step = None  # frees its memory
            raise

    return way


def in_own_process(name: str, arguments: Sequence[str], processes: contextlib.ExitStack) -> timing.Way:
    """The training step of a way in a process that starts with its first step and ends with ``processes``."""
    process: subprocess.Popen[bytes] | None = None

    def way() -> None:
        nonlocal process
        if process is None:
            command = [sys.executable, "-m", "benchmarks.train_step", *arguments, "--steps-of", name]
            started = subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)  # noqa: S603
            process = processes.enter_context(started)  # at its end, the input closes and the process ends, too
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"step\n")
        if process.stdout.readline() != DONE:
            raise RuntimeError(f"the process of {name} ended with exit status {process.wait()}")

    return way


def steps_on_request(config: ConfigDict, name: str, batch: int) -> None:
    """Takes a training step for each line of standard input, and answers with a line."""
    step = WAYS[name].step(ways.prepare(config, batch))
    for _ in sys.stdin:
        step()
        sys.stdout.buffer.write(DONE)
        sys.stdout.buffer.flush()


def step_table(
    work: Work, seconds: dict[str, list[float]], failed: dict[str, str], limit: float
) -> tuple[list[str], dict[str, float]]:
    """The lines of the report, and the share of ``limit`` (GFLOP/s) that each way reaches."""
    batch = len(work.batch.target)
    shapes = ", ".join(f"{name} {'×'.join(map(str, x.shape))}" for name, x in ways.named(work.batch).items())
    baseline = EAGER if EAGER in seconds else next(iter(seconds), "")
    lines = [shapes + ".", "", *timing.comparison(seconds, baseline, failed=failed), ""]
    gflop = cost.TRAINING * batch * cost.flops(work.config.model) / 1e9
    lines += ["| way | clips/s, median (range) | TFLOP/s | of the bfloat16 product |", "|---|---|---|---|"]
    shares = {}
    for name, values in seconds.items():
        rate = gflop / timing.spread(values).median
        shares[name] = rate / limit
        clips = timing.spread([batch / value for value in values])
        lines.append(f"| {name} | {clips:.2f} | {timing.digits(rate / 1e3)} | {shares[name]:.1%} |")
    sides = ([name for name in seconds if name in side] for side in (JAX_WAYS, TORCH_WAYS))
    fastest = [min(names, key=lambda name: timing.spread(seconds[name]).median) for names in sides if names]
    if len(fastest) == 2:
        ours, theirs = fastest
        times = timing.ratios(seconds, ours, theirs)
        lines += ["", f"{ours} is {times:.2f} times as fast as {theirs}: the fastest way of each side."]
    lines += [
        "",
        f"A step counts as {gflop:.0f} GFLOP, {cost.TRAINING} times a forward pass (tramp_jax/studies/cost.py). The "
        f"bfloat16 product of large matrices took turns with the ways: {timing.digits(limit / 1e3)} TFLOP/s at best.",
        "",
        *(f"- {line}" for line in ways.PRECISIONS),
    ]
    return lines, shares


def agreement(work: Work, names: Sequence[str]) -> tuple[list[str], dict[str, float]]:
    """How far the scores of each way are from those of PyTorch as released: the report's lines, and the differences."""
    reference = WAYS[EAGER].forward(work)()
    lines = ["| way | largest difference of a score |", "|---|---|"]
    differences = {}
    for name in names:
        try:
            differences[name] = float(np.max(np.abs(WAYS[name].forward(work)() - reference)))
            lines.append(f"| {name} | {differences[name]:.0e} |")
        except RuntimeError as error:
            lines.append(f"| {name} | did not run: {type(error).__name__} |")
    largest = float(np.max(np.abs(reference)))
    note = f"From {EAGER}, whose scores are up to {largest:.2g}: a forward pass without dropout, with equal weights."
    return [*lines, "", note], differences


def first_step(config: ConfigDict, way: JaxWay, batch: int) -> dict[str, float]:
    """Seconds that this process spends until the end of its first step, by phase."""
    config = ways.comparable(way.configured(config))
    clock = time.perf_counter
    start = clock()
    inputs = ways.random_batch(config, batch)
    sgd = optimizer.build_optimizer(config.optimizer, lambda step: config.optimizer.learning_rate)
    loss, mesh = losses.build_loss(config), sharding.data_mesh()
    with way.context():
        variables = models.init_variables(config.model, jax.random.key(0))
        state = jax.block_until_ready(training_step.init_state(variables, sgd, mesh))
        on_device = jax.device_put(inputs, sharding.split_batch(mesh))
        initialised = clock()
        step = training_step.build_train_step(config, loss, sgd, mesh).lower(state, on_device, None).compile()  # type: ignore[attr-defined]
        compiled = clock()
        jax.block_until_ready(step(state, on_device, None))
    return {
        "initial weights": initialised - start,
        "step compiled": compiled - initialised,
        "first step": clock() - compiled,
    }


def compile_time(report: timing.Report, arguments: Sequence[str], wanted: Sequence[str]) -> None:
    """Runs two new processes for each way: the first has an empty cache of compiled programs, the second has its."""
    for way in wanted:
        lines = ["| start | initial weights | step compiled | first step | whole process |", "|---|---|---|---|---|"]
        measured = {}
        with tempfile.TemporaryDirectory() as cache:
            for name in ("nothing compiled", "again"):
                environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
                command = [sys.executable, "-m", "benchmarks.train_step", *arguments, "--first-step", way]
                start = time.perf_counter()
                ran = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
                if ran.returncode:
                    why = ran.stderr.strip().splitlines()[-1:] or [f"exit status {ran.returncode}"]
                    lines.append(f"| {name} | did not run: {why[0][:200].replace('|', '/')} | | | |")
                    break
                found = json.loads(ran.stdout.splitlines()[-1]) | {"whole process": time.perf_counter() - start}
                measured[name] = found
                lines.append(f"| {name} | " + " | ".join(f"{seconds:.1f} s" for seconds in found.values()) + " |")
        report.add(f"first step of a new process, {way}", lines, seconds=measured)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the arguments, measures, and writes the report."""
    flags = timing.parser(__doc__, rounds=5)
    flags.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    flags.add_argument(
        "--ways",
        nargs="+",
        choices=WAYS,
        help="for step and compile; default on a GPU: all; on a CPU: for step all without torch.compile and without "
        f"{HIGHEST}, for compile jax-float32",
    )
    flags.add_argument("--encoder-batch", type=int, default=8)
    flags.add_argument("--batch", type=int, help="clips in a step; default 2 on a CPU, else 8")
    flags.add_argument("--frames", type=int, help="frames of a clip; default 16 on a CPU, else the recipe's")
    flags.add_argument("--side", type=int, default=costs.default_side(), help="size of the product that sets the limit")
    flags.add_argument("--minutes", type=float, default=math.inf, help="start no further way of the step after this")
    flags.add_argument("--first-step", choices=JAX_WAYS, help=argparse.SUPPRESS)
    flags.add_argument("--steps-of", choices=WAYS, help=argparse.SUPPRESS)
    options = flags.parse_args(arguments)
    on_cpu = jax.default_backend() == "cpu"
    config = timing.recipe(options.config)
    batch = options.batch or (2 if on_cpu else 8)
    frames = options.frames or (16 if on_cpu else config.model.rgb.num_frames)
    config.model.rgb.num_frames = frames
    if options.first_step:
        sys.stdout.write(json.dumps(first_step(config, JAX_WAYS[options.first_step], batch)) + "\n")
        return
    if torch is None and "encoder" in options.parts:
        flags.error("the part encoder compares with PyTorch: pip install -e .[torch], or name other --parts")
    if torch is not None:
        torch.set_num_threads(timing.cores())
    if options.steps_of:
        steps_on_request(config, options.steps_of, batch)
        return
    passed_on = ["--batch", str(batch), "--frames", str(frames)]
    passed_on += ["--config", str(options.config.resolve())] if options.config else []
    wanted = options.ways or [way for way in WAYS if not (on_cpu and ("-compile" in way or way == HIGHEST))]
    wanted = [way for way in wanted if torch is not None or way in JAX_WAYS]
    report = timing.Report(
        "train_step", arguments, options.out, [] if set(options.parts) == set(PARTS) else options.parts
    )
    if "step" in options.parts:
        whole_step(report, config, batch, options.rounds, wanted, options.side, options.minutes, passed_on)
    if "encoder" in options.parts:
        encoder(report, config, options.encoder_batch, options.rounds)
    if "compile" in options.parts:
        timed = [way for way in options.ways or (["jax-float32"] if on_cpu else wanted) if way in JAX_WAYS]
        compile_time(report, passed_on, timed)


if __name__ == "__main__":
    main()
