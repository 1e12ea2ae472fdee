"""Fair timing: the alternatives take turns in one process, and the report names the machine and its other load.

A way is a function that does a piece of work and returns when the work is done. Each way first runs unmeasured. Then
every way runs once per round, in the opposite order every other round: whatever slows the machine down for a while
slows all of them. Ratios are taken within rounds. If a way fails, for instance because memory is short, the report says
so and the other ways still run. The report is rewritten after every section, so finished measurements are kept.
"""

import argparse
import dataclasses
import datetime
import functools
import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import platform
import re
import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from tramp_jax import config as defaults
from tramp_jax.shards import cores

RESULTS = pathlib.Path(__file__).parent / "results"
Way = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median and range of the rounds."""

    median: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}}–{self.high:{spec}})"


def spread(values: Sequence[float]) -> Spread:
    """Median and range of the rounds' values."""
    return Spread(statistics.median(values), min(values), max(values))


def take_turns(
    ways: Mapping[str, Way],
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    failed: dict[str, str] | None = None,
    minutes: float = math.inf,
    unmeasured: int = 0,
) -> dict[str, list[float]]:
    """Measures the seconds that each way takes in each round.

    Args:
      warm_up: how often each runs before that.
      failed: receives the reason for each way that raises RuntimeError, as JAX and PyTorch do when memory is short;
        such ways are missing from the result. None lets the error through.
      minutes: a way whose warm-up would start later than this is not run and counts as failed.
      unmeasured: how often a way runs in each round before it is measured, for work that in practice never waits.
    """
    begun, failures = clock(), {} if failed is None else failed
    seconds: dict[str, list[float]] = {}

    def run(name: str) -> None:
        try:
            ways[name]()
        except RuntimeError as error:
            if failed is None:
                raise
            lines = [line for line in str(error).splitlines() if line.strip()] or [""]
            failures[name] = f"{type(error).__name__}: {lines[0].strip()[:200]}"

    for name in ways:
        if clock() - begun > 60 * minutes:
            failures[name] = f"not started within {minutes:g} minutes"
        for _ in range(warm_up):
            if name not in failures:
                run(name)
        if failed is not None:  # warming up may take minutes of compiling
            sys.stderr.write(f"{clock() - begun:.0f} s: {name} {failures.get(name, 'is warm')}\n")
    for turn in range(rounds):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            if name not in failures:
                for _ in range(unmeasured):
                    run(name)
                start = clock()
                run(name)
                seconds.setdefault(name, []).append(clock() - start)
    return {name: seconds[name] for name in ways if name not in failures}


def repeated(
    call: Callable[[], Any], least: float = 0.02, clock: Callable[[], float] = time.perf_counter
) -> tuple[Way, int]:
    """A way that repeats ``call`` until it takes at least ``least`` seconds, and the number of repetitions.

    ``call`` returns arrays that a device may still be computing. The way waits only for the last ones, so it measures
    the device's time without the time to wake up the host. On a CPU it waits for every call, because a CPU would
    compute several calls at once.
    """
    import jax

    each = jax.default_backend() == "cpu"

    def run(count: int) -> None:
        for i in range(count):
            done = call()
            if each or i == count - 1:
                jax.block_until_ready(done)

    run(1)
    count = 1
    while True:
        start = clock()
        run(count)
        took = clock() - start
        if took >= least:
            return functools.partial(run, count), count
        count = math.ceil(count * min(10.0, max(1.2, 1.2 * least / max(took, 1e-9))))


def take_turns_repeated(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Measures the seconds of one call of each of ``calls`` in each round, see ``repeated``."""
    ways = {name: repeated(call) for name, call in calls.items()}
    seconds = take_turns({name: way for name, (way, _) in ways.items()}, rounds, warm_up=0)
    return {name: [value / ways[name][1] for value in values] for name, values in seconds.items()}


def ratios(seconds: Mapping[str, Sequence[float]], name: str, baseline: str) -> Spread:
    """How many times as fast ``name`` is as ``baseline``, round by round."""
    return spread([slow / fast for slow, fast in zip(seconds[baseline], seconds[name], strict=True)])


def digits(value: float) -> str:
    """``value`` with at least three significant digits, without an exponent."""
    decimals = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{max(0, decimals)}f}"


def comparison(
    seconds: Mapping[str, Sequence[float]], baseline: str, failed: Mapping[str, str] | None = None
) -> list[str]:
    """A Markdown table of ways: their times, and how many times as fast as ``baseline`` each is.

    Without a ``baseline`` in ``seconds`` nothing is compared. ``failed`` are the ways that did not run, and why.
    """
    lines = [f"| way | ms, median (range) | times {baseline}, median (range) |", "|---|---|---|"]
    for name, values in seconds.items():
        times = "1" if name == baseline else ""
        if not times and baseline in seconds:
            times = f"{ratios(seconds, name, baseline):.2f}"
        median, low, high = (digits(1e3 * x) for x in dataclasses.astuple(spread(values)))
        lines.append(f"| {name} | {median} ({low}–{high}) | {times} |")
    return lines + [f"| {name} | did not run: {why.replace('|', '/')} | |" for name, why in (failed or {}).items()]


class Report:
    """A command's results, in ``folder`` as ``<date>_<command>_<device>.json`` and ``.md``.

    Create it before measuring: it records the machine's load then, and the other work of the machine meanwhile. Both
    files are rewritten with every section.

    Args:
      arguments: the command line's; None for those of this process.
      parts: the measured parts of the command, if not all; they go into the name.
    """

    def __init__(
        self, command: str, arguments: Sequence[str] | None, folder: pathlib.Path, parts: Sequence[str] = ()
    ) -> None:
        arguments = sys.argv[1:] if arguments is None else arguments
        self.name = "-".join([command, *parts])
        self.machine = machine()
        self.started = datetime.datetime.now().astimezone()
        self.line = " ".join(["python -m", f"benchmarks.{command}", *arguments])
        self.sections: list[tuple[str, list[str]]] = []
        self.measured: dict[str, Any] = {}
        kind = re.sub(r"[^a-z0-9]+", "-", device_name().lower()).strip("-")
        self.path = folder / f"{self.started:%Y-%m-%d}_{self.name}_{kind}.md"
        self._clock, self._own, self._all = time.monotonic(), _own_seconds(), _all_seconds()
        sys.stdout.write(f"{self.path}\n\n")

    def add(self, title: str, lines: Sequence[str], **measured: Any) -> None:
        """Prints a section and writes the report with it; ``measured`` goes into the JSON."""
        self.sections.append((title, list(lines)))
        self.measured[title] = measured
        sys.stdout.write("\n".join([f"## {title}", "", *lines, "", ""]))
        sys.stdout.flush()
        self.machine["minutes"] = round((time.monotonic() - self._clock) / 60, 2)
        self.machine["load_after"] = round(os.getloadavg()[0], 2)
        self.machine["cores_busy_with_other_work"] = self._others()
        facts = [f"- {name.replace('_', ' ')}: {value}" for name, value in self.machine.items()]
        text = [f"# {self.name}, {self.started:%Y-%m-%d %H:%M}", "", f"`{self.line}`", "", *facts]
        for title, lines in self.sections:
            text += ["", f"## {title}", "", *lines]
        whole = {"command": self.line, "started": self.started.isoformat(timespec="seconds"), "machine": self.machine}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("\n".join(text) + "\n")
        self.path.with_suffix(".json").write_text(json.dumps(whole | {"measured": self.measured}, indent=1) + "\n")

    def _others(self) -> float | None:
        """The average number of cores that were busy with other processes; None if the system does not report it."""
        if self._all is None:
            return None
        busy = _all_seconds() - self._all - (_own_seconds() - self._own)
        return round(max(0.0, busy) / max(time.monotonic() - self._clock, 1e-9), 2)


def machine() -> dict[str, Any]:
    """The processor and devices, the versions, and the load before measuring."""
    import jax  # commands configure its devices before the first import

    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": cores(),
        "devices": f"{len(jax.devices())} × {jax.devices()[0].device_kind} ({jax.default_backend()})",
        "python": platform.python_version(),
    }
    for name in ("jax", "jaxlib", "flax", "optax", "numpy", "torch"):
        if importlib.util.find_spec(name):
            facts[name] = importlib.metadata.version(name)
    return facts | {"commit": _commit(), "load_before": round(os.getloadavg()[0], 2)}


def _commit() -> str | None:
    """The commit of this checkout. ``BENCHMARK_COMMIT`` replaces it, for copies or machines without git."""
    if given := os.environ.get("BENCHMARK_COMMIT"):
        return given
    command = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:
        return None
    return found.stdout.strip() or None


def device_name() -> str:
    """The kind of the first device, or cpu."""
    import jax

    return "cpu" if jax.default_backend() == "cpu" else jax.devices()[0].device_kind


def _processor() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", info.read_text(), re.MULTILINE) if info.is_file() else None
    return found.group(1) if found else platform.processor() or platform.machine()


def _own_seconds() -> float:
    """Processor seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _all_seconds() -> Any:
    """Processor seconds that the machine has worked; None if the system does not report it."""
    stat = pathlib.Path("/proc/stat")
    if not stat.is_file():
        return None
    user, nice, system, _, _, irq, soft_irq, *_ = map(int, stat.read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + soft_irq) / os.sysconf("SC_CLK_TCK")


def parser(documentation: str | None, rounds: int) -> argparse.ArgumentParser:
    """The flags that all commands share; the first line of ``documentation`` describes the command."""
    flags = argparse.ArgumentParser(description=(documentation or "").partition("\n")[0])
    flags.add_argument("--config", type=pathlib.Path, help="recipe (a Python file); default: the published model")
    flags.add_argument("--rounds", type=int, default=rounds, help="how often each way is measured")
    flags.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the report")
    return flags


def add_precision(flags: argparse.ArgumentParser) -> None:
    """The flag of commands that measure one precision at a time."""
    flags.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the products")


def recipe(path: pathlib.Path | None) -> ConfigDict:
    """The published configuration, or that of a recipe's file, unlocked."""
    if path is None:
        return defaults.base()
    return runpy.run_path(str(path))["get_config"]().unlock()
