"""How long a training step takes, and how long one waits for the first: this project against PyTorch.

    python -m benchmarks.train_step [--parts encoder step compile] [--ways jax-float32 torch-eager ...] [--config FILE]

``encoder``: the trajectory encoder alone, forward and training step, in float32. ``step``: the training step of the
whole model, with each of ``--ways``; the share of the bfloat16 product's limit that each reaches; and how far their
scores differ without dropout. ``compile``: seconds to the first step in a new process, with nothing compiled before and
again (tracing counts as compiling), for the JAX ways among ``--ways``. Both sides have the same weights and the same
random inputs, dropout as published, the same loss and optimiser, and normalise uint8 frames on the device; crops and
flips are left out. The PyTorch side is ``convert_weights/torch_twin.py``.

On a CPU the step takes 2 clips of 16 frames by default: the published 80 take minutes a step. On a GPU both sides hold
memory of the same card: XLA_CLIENT_MEM_FRACTION=.5 leaves half of it to PyTorch. ``compile`` starts other processes and
wants XLA_PYTHON_CLIENT_PREALLOCATE=false (``benchmarks/gpu.sh`` sets both).
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import costs, timing
from tramp_jax import models, optimizer, sharding, trainer
from tramp_jax.batches import augment

try:
    import torch
except ModuleNotFoundError:
    torch = None  # type: ignore[assignment]

PARTS = ("encoder", "step", "compile")
HIGHEST = "jax-float32-highest"
JAX_WAYS = {"jax-float32": "float32", "jax-bfloat16": "bfloat16", HIGHEST: "float32"}
LEARNING_RATE = 1e-6  # random targets are not worth learning


@dataclasses.dataclass(frozen=True)
class TorchSetting:
    """How the twin is run: eager float32 as released, or with PyTorch's means of going faster.

    Attributes:
      tuned: cuDNN tries its algorithms and takes the fastest, and float32 products may use TF32; else PyTorch's
        defaults, as released.
      channels_last, compiled, bfloat16: memory format, ``torch.compile``, autocast.
    """

    tuned: bool = False
    channels_last: bool = False
    compiled: bool = False
    bfloat16: bool = False


EAGER = "torch-eager"
TORCH_WAYS = {
    EAGER: TorchSetting(),
    "torch-channels-last": TorchSetting(True, True),
    "torch-bfloat16": TorchSetting(True, True, bfloat16=True),
    "torch-compile": TorchSetting(True, True, compiled=True),
    "torch-compile-bfloat16": TorchSetting(True, True, compiled=True, bfloat16=True),
}
WAYS = (*JAX_WAYS, *TORCH_WAYS)
PRODUCT = "bfloat16 product"
# What float32 means on either side, for the report.
PRECISIONS = (
    "jax-float32: products and convolutions at JAX's default precision, which is TF32 on NVIDIA's GPUs from Ampere on.",
    f"{HIGHEST}: all digits of float32 (jax_default_matmul_precision=highest).",
    "jax-bfloat16: products and convolutions in bfloat16; parameters, statistics, softmax and loss in float32.",
    f"{EAGER}: as released, PyTorch's defaults: products with all digits of float32, convolutions may use TF32.",
    "Other torch ways: channels last, cudnn.benchmark, set_float32_matmul_precision('high'), which allows TF32; "
    "bfloat16 is autocast.",
)


def random_batch(config: ConfigDict, batch: int) -> dict[str, np.ndarray]:
    """What the input pipeline gives, at random; frames have the model's own size already."""
    rng = np.random.default_rng(0)
    shapes = models.input_shapes(config.model, batch)
    made: dict[str, np.ndarray] = {"target": rng.uniform(0, 4, batch).astype(np.float32)}
    if shapes["frames"] is not None:
        made["frames"] = rng.integers(0, 256, shapes["frames"], np.uint8)
    if shapes["trajectories"] is not None and shapes["index_t"] is not None:
        made["trajectories"] = rng.normal(size=shapes["trajectories"]).astype(np.float32)
        length = config.model.trajectory.length
        made["index_t"] = np.tile((2 * np.arange(length) / length - 1).astype(np.float32), (batch, 1))
    return made


def plain(config: ConfigDict) -> ConfigDict:
    """``config`` without what only one side would do, and with a step too small to change anything."""
    config = ConfigDict(config.to_dict())
    config.augment.update(crop=False, flip=0.0, reverse_time=0.0)
    config.model.trajectory.input_scale = (1.0,)
    config.optimizer.update(name="sgd", momentum=0.9, weight_decay=0.0, learning_rate=LEARNING_RATE)
    config.optimizer.update(clip_norm=0.0, warmup_epochs=0.0)
    config.train.accumulate = 1
    return config


def encoder_alone(config: ConfigDict) -> ConfigDict:
    """The trajectory encoder with a linear head."""
    config = ConfigDict(config.to_dict())
    config.model.update(name="skateformer", streams="trajectory")
    config.model.head.update(hidden=(), num_classes=0)
    return config


# This project


def precise(config: ConfigDict, way: str) -> ConfigDict:
    """``config`` with the precision of a JAX way."""
    config = ConfigDict(config.to_dict())
    config.model.precision = JAX_WAYS[way]
    return config


def _at_precision_of(way: str) -> Any:
    """What a JAX way must be traced and called under."""
    return jax.default_matmul_precision("highest") if way == HIGHEST else contextlib.nullcontext()


def jax_step(config: ConfigDict, variables: Any, batch: dict[str, np.ndarray], mesh: Any = None) -> timing.Way:
    """The trainer's own step on one batch, again and again."""
    mesh = mesh or sharding.data_mesh()
    sgd = optimizer.build_optimizer(config.optimizer, steps_per_epoch=1000)
    step = trainer.build_train_step(config, sgd, mesh)
    holder = [trainer.init_state(jax.tree.map(np.asarray, variables), sgd, mesh)]
    on_device = jax.device_put(batch, sharding.split_batch(mesh))

    def way() -> float:
        holder[0], measured = step(holder[0], on_device, None)
        return float(measured["loss"])

    return way


def jax_forward(config: ConfigDict, variables: Any, batch: dict[str, np.ndarray]) -> timing.Way:
    """Scores of one batch."""
    model = models.build_model(config.model)
    on_device = {name: jax.device_put(x) for name, x in batch.items()}

    @jax.jit
    def forward(variables: Any, batch: dict[str, jax.Array]) -> jax.Array:
        frames = augment.normalise(batch["frames"]) if "frames" in batch else None
        return model.apply(variables, frames, batch.get("trajectories"), batch.get("index_t"))[0]

    on_devices = jax.device_put(variables)
    return lambda: np.asarray(forward(on_devices, on_device))


# PyTorch


def build_twin(config: ConfigDict) -> tuple[Any, Any]:
    """The PyTorch model, and our variables with the same weights."""
    from convert_weights import torch_twin
    from convert_weights.convert import to_variables

    torch.manual_seed(0)
    twin = torch_twin.build_twin(config.model)
    tensors = {name: x.numpy().copy() for name, x in twin.state_dict().items()}
    return twin.to(torch_device()), to_variables(tensors, config.model)


def torch_device() -> str:
    """Where jax is, too."""
    return "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"


class _TorchRun:
    """A copy of the twin and a batch in PyTorch's order."""

    def __init__(self, twin: Any, config: ConfigDict, batch: dict[str, np.ndarray], setting: TorchSetting) -> None:
        import copy

        device = torch_device()
        self.config, self.setting = config, setting
        order = {"frames": (0, 1, 4, 2, 3), "trajectories": (0, 2, 1, 3)}
        self.batch = {
            name: torch.from_numpy(np.ascontiguousarray(x.transpose(order.get(name, range(x.ndim))))).to(device)
            for name, x in batch.items()
        }
        self.mean, self.std = (
            torch.tensor(x, device=device)[:, None, None] for x in (augment.IMAGENET_MEAN, augment.IMAGENET_STD)
        )
        self.model = copy.deepcopy(twin)
        if setting.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.called = torch.compile(self.model) if setting.compiled else self.model

    def score(self) -> Any:
        frames = self.batch.get("frames")
        if frames is not None:
            frames = (frames.float() / 255 - self.mean) / self.std
        with torch.autocast(torch_device(), torch.bfloat16, enabled=self.setting.bfloat16):
            score, _ = self.called(frames, self.batch.get("trajectories"), self.batch.get("index_t"))
        return score.float()

    def set_modes(self) -> None:
        """Of the whole process, so that every call must begin with it."""
        torch.backends.cudnn.benchmark = self.setting.tuned
        torch.set_float32_matmul_precision("high" if self.setting.tuned else "highest")


def torch_step(twin: Any, config: ConfigDict, batch: dict[str, np.ndarray], setting: TorchSetting) -> timing.Way:
    """One training step of the twin on one batch, again and again."""
    run = _TorchRun(twin, config, batch, setting)
    run.model.train()
    sgd = torch.optim.SGD(run.model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    loss_of = torch_loss(config)

    def way() -> float:
        run.set_modes()
        sgd.zero_grad()
        loss = loss_of(run.score(), run.batch["target"])
        loss.backward()
        sgd.step()
        return loss.item()

    return way


def torch_forward(twin: Any, config: ConfigDict, batch: dict[str, np.ndarray], setting: TorchSetting) -> timing.Way:
    """Scores of one batch."""
    run = _TorchRun(twin, config, batch, setting)
    run.model.eval()

    def way() -> np.ndarray:
        run.set_modes()
        with torch.inference_mode():
            return run.score().cpu().numpy()

    return way


def torch_loss(config: ConfigDict) -> Callable[[Any, Any], Any]:
    """The loss of ``config`` in PyTorch: balanced MSE, or MSE."""
    if config.loss.name == "mse":
        return torch.nn.functional.mse_loss
    if config.loss.name != "bmc":
        raise ValueError(f"loss.name is {config.loss.name!r}; measured are bmc and mse")
    noise = 2 * config.loss.sigma**2

    def bmc(score: Any, target: Any) -> Any:
        logits = -(score[:, None] - target[None, :]).square() / noise
        return noise * torch.nn.functional.cross_entropy(logits, torch.arange(len(score), device=score.device))

    return bmc


# What is measured


def encoder(report: timing.Report, config: ConfigDict, batch: int, rounds: int) -> None:
    """The trajectory encoder, forward and training step, in float32 on both sides."""
    config = plain(encoder_alone(config))
    inputs = random_batch(config, batch)
    twin, variables = build_twin(config)
    eager = TorchSetting()
    forward = {"jax": jax_forward(config, variables, inputs), "torch": torch_forward(twin, config, inputs, eager)}
    difference = np.max(np.abs(forward["jax"]() - forward["torch"]()))  # type: ignore[operator]
    step = {"jax": jax_step(config, variables, inputs), "torch": torch_step(twin, config, inputs, eager)}
    lines = [
        f"T = {config.model.trajectory.length}, {batch} clips; scores differ by {difference:.0e}. Both sides at their "
        "defaults for float32: on NVIDIA's GPUs from Ampere on, JAX's products are TF32 and PyTorch's are not.",
        "",
    ]
    measured = {}
    for what, ways in (("forward", forward), ("training step", step)):
        measured[what] = seconds = timing.take_turns(ways, rounds)
        table = timing.comparison(seconds, "torch")
        lines += [f"{what}:", "", *table, ""]
    report.add("trajectory encoder", lines[:-1], batch=batch, seconds=measured, difference=float(difference))


def whole_step(
    report: timing.Report,
    config: ConfigDict,
    batch: int,
    rounds: int,
    wanted: Sequence[str],
    side: int,
    minutes: float = math.inf,
) -> None:
    """The training step of the whole model, each way, and the share of the machine's limit that it reaches."""
    config = plain(config)
    inputs = random_batch(config, batch)
    if torch is None:
        variables = models.init_variables(config.model, jax.random.key(0))
    else:
        twin, variables = build_twin(config)

    def way_of(name: str) -> timing.Way:
        """Made when it first runs, so that a way for which there is no memory costs none of the others."""
        made: list[timing.Way] = []

        def way() -> object:
            try:
                with _at_precision_of(name):
                    if not made and name in TORCH_WAYS:
                        made.append(torch_step(twin, config, inputs, TORCH_WAYS[name]))
                    elif not made:
                        made.append(jax_step(precise(config, name), variables, inputs))
                    return made[0]()
            except RuntimeError:
                made.clear()  # gives back what it has
                raise

        return way

    ways = {name: way_of(name) for name in wanted}
    # What torch.compile takes minutes for comes last, beside all others: they are measured and written by then.
    quick = {name: way for name, way in ways.items() if not (name in TORCH_WAYS and TORCH_WAYS[name].compiled)}
    reference = torch_forward(twin, config, inputs, TORCH_WAYS[EAGER]) if torch is not None else None
    for title, chosen in (("training step", quick), ("training step, torch.compile among the ways", ways)):
        if not chosen or (chosen is ways and len(quick) == len(ways)):
            continue
        seconds, failed, limit = in_turns(chosen, rounds, side, minutes)
        lines, shares = step_table(config, inputs, seconds, failed, limit)
        report.add(title, lines, batch=batch, seconds=seconds, failed=failed, shares=shares, limit=limit)
        if reference is not None:
            compared = [name for name in seconds if chosen is quick or name not in quick]
            scores_of = functools.partial(forward_of, config, twin, variables, inputs)
            lines, differences = agreement(reference(), {name: functools.partial(scores_of, name) for name in compared})
            report.add(f"scores, {title}", lines, differences=differences)


def in_turns(
    ways: Mapping[str, timing.Way], rounds: int, side: int, minutes: float
) -> tuple[dict[str, list[float]], dict[str, str], float]:
    """Seconds of each way, what is wrong with those that failed, and GFLOP/s of a product that takes turns."""
    failed: dict[str, str] = {}
    product, products = timing.repeated(costs.product_of(side, "bfloat16"))
    seconds = timing.take_turns({PRODUCT: product} | dict(ways), rounds, warm_up=2, failed=failed, minutes=minutes)
    return seconds, failed, products * 2 * side**3 / 1e9 / min(seconds.pop(PRODUCT))


def step_table(
    config: ConfigDict,
    inputs: dict[str, np.ndarray],
    seconds: dict[str, list[float]],
    failed: dict[str, str],
    limit: float,
) -> tuple[list[str], dict[str, float]]:
    """The lines of the report, and the share of ``limit`` (GFLOP/s) that each way reaches."""
    batch = len(inputs["target"])
    shapes = ", ".join(f"{name} {'×'.join(map(str, x.shape))}" for name, x in inputs.items())
    baseline = EAGER if EAGER in seconds else next(iter(seconds), "")
    lines = [shapes + ".", "", *timing.comparison(seconds, baseline, failed=failed), ""]
    gflop = costs.TRAINING * costs.model_flops(config.model, batch) / 1e9
    lines += ["| way | clips/s, median (range) | TFLOP/s | of the bfloat16 product |", "|---|---|---|---|"]
    shares = {}
    for name, values in seconds.items():
        rate = gflop / timing.spread(values).median
        shares[name] = rate / limit
        clips = timing.spread([batch / value for value in values])
        lines.append(f"| {name} | {clips:.2f} | {timing.digits(rate / 1e3)} | {shares[name]:.1%} |")
    fastest = [min(of, key=lambda name: timing.spread(seconds[name]).median) for of in _sides(seconds) if of]
    if len(fastest) == 2:
        ours, theirs = fastest
        times = timing.ratios(seconds, ours, theirs)
        lines += ["", f"{ours} is {times:.2f} times as fast as {theirs}: the fastest way of either side."]
    lines += [
        "",
        f"A step counts {gflop:.0f} GFLOP, {costs.TRAINING} times a forward pass by hand (benchmarks/costs.py). The "
        f"bfloat16 product of large matrices took turns with the ways: {timing.digits(limit / 1e3)} TFLOP/s at best.",
        "",
        *(f"- {line}" for line in PRECISIONS),
    ]
    return lines, shares


def _sides(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Ways of JAX and of PyTorch."""
    return [name for name in names if name in JAX_WAYS], [name for name in names if name in TORCH_WAYS]


def forward_of(config: ConfigDict, twin: Any, variables: Any, inputs: dict[str, np.ndarray], name: str) -> Any:
    """Scores of a way without dropout, with the weights that all ways begin with."""
    with _at_precision_of(name):
        if name in TORCH_WAYS:
            return torch_forward(twin, config, inputs, TORCH_WAYS[name])()
        return jax_forward(precise(config, name), variables, inputs)()


def agreement(
    reference: np.ndarray, scores_of: Mapping[str, Callable[[], np.ndarray]]
) -> tuple[list[str], dict[str, float]]:
    """How far the scores of each way lie from those of PyTorch as released: the report's lines, and the differences."""
    lines = ["| way | largest difference of a score |", "|---|---|"]
    differences = {}
    for name, scores in scores_of.items():
        try:
            differences[name] = float(np.max(np.abs(scores() - reference)))
            lines.append(f"| {name} | {differences[name]:.0e} |")
        except RuntimeError as error:
            lines.append(f"| {name} | did not run: {type(error).__name__} |")
    largest = float(np.max(np.abs(reference)))
    told = f"From {EAGER}, whose scores are up to {largest:.2g}: a forward pass without dropout, with equal weights."
    return [*lines, "", told], differences


def first_step(config: ConfigDict, batch: int) -> dict[str, float]:
    """Seconds of this process up to the end of its first step, by what they went into."""
    config = plain(config)
    clock = time.perf_counter
    start = clock()
    inputs = random_batch(config, batch)
    sgd, mesh = optimizer.build_optimizer(config.optimizer, steps_per_epoch=1000), sharding.data_mesh()
    variables = models.init_variables(config.model, jax.random.key(0))
    state = jax.block_until_ready(trainer.init_state(variables, sgd, mesh))
    on_device = jax.device_put(inputs, sharding.split_batch(mesh))
    initialised = clock()
    step = trainer.build_train_step(config, sgd, mesh).lower(state, on_device, None).compile()  # type: ignore[attr-defined]
    compiled = clock()
    jax.block_until_ready(step(state, on_device, None))
    return {
        "initial weights": initialised - start,
        "step compiled": compiled - initialised,
        "first step": clock() - compiled,
    }


def compile_time(report: timing.Report, arguments: Sequence[str], wanted: Sequence[str]) -> None:
    """For each way two new processes, the first with an empty folder of compiled programs, the second with its."""
    root = pathlib.Path(__file__).parents[1]
    for way in wanted:
        lines = ["| start | initial weights | step compiled | first step | whole process |", "|---|---|---|---|---|"]
        measured = {}
        with tempfile.TemporaryDirectory() as cache:
            for name in ("nothing compiled", "again"):
                environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
                command = [sys.executable, "-m", "benchmarks.train_step", *arguments, "--first-step", way]
                start = time.perf_counter()
                ran = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)  # noqa: S603
                if ran.returncode:
                    told = ran.stderr.strip().splitlines()[-1:] or [f"exit status {ran.returncode}"]
                    lines.append(f"| {name} | did not run: {told[0][:200].replace('|', '/')} | | | |")
                    break
                found = json.loads(ran.stdout.splitlines()[-1]) | {"whole process": time.perf_counter() - start}
                measured[name] = found
                lines.append(f"| {name} | " + " | ".join(f"{seconds:.1f} s" for seconds in found.values()) + " |")
        report.add(f"first step of a new process, {way}", lines, seconds=measured)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the arguments, measures, and writes the report."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    flags = timing.parser((__doc__ or "").partition("\n")[0], rounds=5)
    flags.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    flags.add_argument(
        "--ways",
        nargs="+",
        choices=WAYS,
        help="of step and compile; default: all on a GPU; on a CPU for step those without a compiler but "
        f"{HIGHEST}, for compile jax-float32",
    )
    flags.add_argument("--encoder-batch", type=int, default=8)
    flags.add_argument("--batch", type=int, help="clips of a step; default 2 on a CPU, else 8")
    flags.add_argument("--frames", type=int, help="of a clip; default 16 on a CPU, else the recipe's")
    flags.add_argument("--side", type=int, default=costs.default_side(), help="of the product that is the step's limit")
    flags.add_argument("--minutes", type=float, default=math.inf, help="no way of the step begins later than this")
    flags.add_argument("--first-step", choices=JAX_WAYS, help=argparse.SUPPRESS)
    options = flags.parse_args(arguments)
    on_cpu = jax.default_backend() == "cpu"
    config = timing.recipe(options.config)
    batch = options.batch or (2 if on_cpu else 8)
    frames = options.frames or (16 if on_cpu else config.model.rgb.num_frames)
    config.model.rgb.num_frames = frames
    if options.first_step:
        with _at_precision_of(options.first_step):
            sys.stdout.write(json.dumps(first_step(precise(config, options.first_step), batch)) + "\n")
        return
    if torch is None and "encoder" in options.parts:
        flags.error("the part encoder compares with PyTorch: pip install -e .[torch], or name other --parts")
    if torch is not None:
        torch.set_num_threads(timing.cores())
    wanted = options.ways or [way for way in WAYS if not (on_cpu and ("-compile" in way or way == HIGHEST))]
    wanted = [way for way in wanted if torch is not None or way in JAX_WAYS]
    parts = [] if set(options.parts) == set(PARTS) else options.parts
    report = timing.Report("train_step", arguments, options.out, parts)
    if "step" in options.parts:
        whole_step(report, config, batch, options.rounds, wanted, options.side, options.minutes)
    if "encoder" in options.parts:
        encoder(report, config, options.encoder_batch, options.rounds)
    if "compile" in options.parts:
        timed = [way for way in options.ways or (["jax-float32"] if on_cpu else wanted) if way in JAX_WAYS]
        passed_on = ["--batch", str(batch), "--frames", str(frames)]
        recipe = ["--config", str(options.config.resolve())] if options.config else []
        compile_time(report, passed_on + recipe, timed)


if __name__ == "__main__":
    main()
