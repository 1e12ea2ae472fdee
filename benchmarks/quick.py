"""The ratios that matter, in about three minutes, next to those kept last: has anything become slower?

    python -m benchmarks.quick [--keep]

Ratios, not times: they depend less on the machine and its load. ``--keep`` writes them into results/quick.json. A ratio
above 1 means that this project, or the faster of its two ways, is faster. Start-ups are CPU seconds of a new process,
as multiples of those of ``import jax, flax.linen``; lower is better. Scoring and training are compared with PyTorch,
and left out if it is not installed.
"""

import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from benchmarks import timing
from benchmarks.timing import Spread

KEPT = timing.RESULTS / "quick.json"
STARTS = {
    "start: tramp-jax score --help": "import tramp_jax.cli as c\n"
    "try: c.main(['score', '--help'])\nexcept SystemExit: 0",
    "start: from tramp_jax import Scorer": "from tramp_jax import Scorer",
    "start: initial weights, published model": "import jax, tramp_jax.models as m, tramp_jax.config as c\n"
    "jax.block_until_ready(m.init_variables(c.base().model, jax.random.key(0)))",
}
BASELINE = "import jax, flax.linen"


def starts(rounds: int) -> dict[str, Spread]:
    """CPU seconds of new processes, over those of the baseline in the same round."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "0"}

    def run(code: str) -> None:
        command = [sys.executable, "-c", code]
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)  # noqa: S603

    ways = {name: functools.partial(run, code) for name, code in {**STARTS, BASELINE: BASELINE}.items()}
    seconds = timing.take_turns(ways, rounds, clock=_children)
    return {name: timing.ratios(seconds, BASELINE, name) for name in STARTS}


def _children() -> float:
    """CPU seconds of the processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def scoring(rounds: int) -> dict[str, Spread]:
    """A clip of 40 frames with the published model in ONNX Runtime, against the other ways."""
    from benchmarks import score

    config = timing.recipe(None)
    config.model.trajectory.input_scale = (1.0,)
    clip = score.make_clip(40)
    ways = {name: functools.partial(way, clip) for name, way in score.ways(config.lock(), timing.cores()).items()}
    del ways[score.JAX_ALL]
    seconds = timing.take_turns(ways, rounds)
    others = [name for name in ways if name != score.ONNX]
    return {f"score: ONNX Runtime, times {name}": timing.ratios(seconds, score.ONNX, name) for name in others}


def training(rounds: int) -> dict[str, Spread]:
    """The training step of the synthetic recipe against eager PyTorch."""
    from benchmarks import ways

    config = timing.recipe(pathlib.Path("configs/synthetic.py"))
    config.model.fusion.name = "tramp"  # the recipe's late fusion has no PyTorch counterpart
    work = ways.prepare(config, config.train.batch_size)
    steps = {name: ways.WAYS[name].step(work) for name in ("jax-float32", ways.EAGER)}
    seconds = timing.take_turns(steps, rounds)
    return {f"train: step, times {ways.EAGER}": timing.ratios(seconds, "jax-float32", ways.EAGER)}


def caches(rounds: int) -> dict[str, Spread]:
    """Clips/s of packed clips on their way to the device, with a cache against none."""
    from benchmarks import input as inputs
    from tramp_jax.data import datasets, packing

    with tempfile.TemporaryDirectory() as folder:
        published, packed = (pathlib.Path(folder) / name for name in ("published", "packed"))
        inputs.write_layout(published, 16)
        base, threads = timing.recipe(None), timing.cores()
        packing.pack(inputs.recipe(base, published, threads), datasets.Wanted(), packed, 64 * 2**20, threads)
        _, rates = inputs.cache_rates(base, packed, 2, rounds, threads)
    seconds = {kind: [1 / clips for clips, _ in pairs] for kind, pairs in rates.items()}
    return {f"input: {kind} cache, times none": timing.ratios(seconds, kind, "none") for kind in ("host", "device")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the arguments, measures, and prints the ratios."""
    flags = timing.parser(__doc__, rounds=3)
    flags.add_argument("--keep", action="store_true", help=f"write the ratios into {KEPT.name}")
    options = flags.parse_args(arguments)
    file = options.out / KEPT.name
    whole = json.loads(file.read_text()) if file.is_file() else {}
    kept = whole.get("ratios", {})
    machine = timing.machine()
    has_torch = importlib.util.find_spec("torch") is not None
    sys.stdout.write("| what | now, median (range) | kept |\n|---|---|---|\n")
    found: dict[str, float] = {}
    for measure in (starts, caches, *([scoring, training] if has_torch else [])):
        for name, ratio in measure(options.rounds).items():
            found[name] = round(ratio.median, 3)
            sys.stdout.write(f"| {name} | {ratio:.2f} | {kept.get(name, '')} |\n")
            sys.stdout.flush()
    loads = f"load before: {machine['load_before']}"
    if whole:
        loads += f", when kept: {whole['machine']['load_before']} ({whole['machine']['processor']})"
    sys.stdout.write(f"\n{loads}; a busy machine distorts the ratios, too\n")
    if options.keep:
        file.write_text(json.dumps({"ratios": found, "machine": machine}, indent=1) + "\n")


if __name__ == "__main__":
    main()
