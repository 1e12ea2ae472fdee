"""Honest timing: alternatives take turns in one process, and what is written says on what machine and beside what.

A way is a function that does a piece of work and returns when the work is done. Every way runs unmeasured first; then
in each round every way runs once, in the opposite order every other round, so that whatever slows the machine down for
a while slows all of them. Ratios are taken within rounds.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from tramp_jax import config as defaults

RESULTS = pathlib.Path(__file__).parent / "results"
Way = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median of the rounds, and their range."""

    median: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}}–{self.high:{spec}})"


def spread(values: Sequence[float]) -> Spread:
    """Median and range of the rounds' values."""
    return Spread(statistics.median(values), min(values), max(values))


def take_turns(
    ways: Mapping[str, Way], rounds: int, warm_up: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds that each way took in each round.

    Args:
      ways: what is compared, by name.
      rounds: how often each is measured.
      warm_up: how often each runs before.
      clock: seconds.
    """
    for way in ways.values():
        for _ in range(warm_up):
            way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            start = clock()
            ways[name]()
            seconds[name].append(clock() - start)
    return seconds


def ratios(seconds: Mapping[str, Sequence[float]], name: str, baseline: str) -> Spread:
    """How many times faster ``name`` is than ``baseline``, round by round."""
    return spread([slow / fast for slow, fast in zip(seconds[baseline], seconds[name], strict=True)])


def comparison(seconds: Mapping[str, Sequence[float]], baseline: str, per: float = 1e-3, unit: str = "ms") -> list[str]:
    """A Markdown table of ways: their times, and how many times faster than ``baseline`` each is."""
    lines = [f"| way | {unit}, median (range) | times {baseline}, median (range) |", "|---|---|---|"]
    for name, values in seconds.items():
        times = "1" if name == baseline else f"{ratios(seconds, name, baseline):.2f}"
        lines.append(f"| {name} | {spread([value / per for value in values]):.1f} | {times} |")
    return lines


class Report:
    """What a command measured, written as ``<date>_<command>_<device>.json`` and ``.md``; ``parts`` go into the name.

    Create it before the measuring: it notes the machine's load then, and what else the machine did meanwhile.
    """

    def __init__(self, command: str, arguments: Sequence[str], device: str, parts: Sequence[str] = ()) -> None:
        self.name, self.device = "-".join([command, *parts]), device
        self.machine = machine()
        self.started = datetime.datetime.now().astimezone()
        self.line = " ".join(["python -m", f"benchmarks.{command}", *arguments])
        self.sections: list[tuple[str, list[str]]] = []
        self.measured: dict[str, Any] = {}
        self._clock, self._own, self._all = time.monotonic(), _own_seconds(), _all_seconds()

    def add(self, title: str, lines: Sequence[str], **measured: Any) -> None:
        """A section of the report; ``measured`` goes into the JSON. Also shown at once."""
        self.sections.append((title, list(lines)))
        self.measured[title] = measured
        sys.stdout.write("\n".join([f"## {title}", "", *lines, "", ""]))
        sys.stdout.flush()

    def write(self, folder: pathlib.Path) -> pathlib.Path:
        """Writes both files and returns the path of the Markdown one."""
        self.machine["minutes"] = round((time.monotonic() - self._clock) / 60, 2)
        self.machine["load_after"] = round(os.getloadavg()[0], 2)
        self.machine["cores_busy_with_other_work"] = self._others()
        kind = re.sub(r"[^a-z0-9]+", "-", self.device.lower()).strip("-")
        path = folder / f"{self.started:%Y-%m-%d}_{self.name}_{kind}.md"
        folder.mkdir(parents=True, exist_ok=True)
        facts = [f"- {name.replace('_', ' ')}: {value}" for name, value in self.machine.items()]
        text = [f"# {self.name}, {self.started:%Y-%m-%d %H:%M}", "", f"`{self.line}`", "", *facts]
        for title, lines in self.sections:
            text += ["", f"## {title}", "", *lines]
        path.write_text("\n".join(text) + "\n")
        whole = {"command": self.line, "started": self.started.isoformat(timespec="seconds"), "machine": self.machine}
        path.with_suffix(".json").write_text(json.dumps(whole | {"measured": self.measured}, indent=1) + "\n")
        sys.stdout.write(f"{path}\n")
        return path

    def _others(self) -> float | None:
        """How many cores were busy with other processes, on average; None where the system does not tell."""
        if self._all is None:
            return None
        busy = _all_seconds() - self._all - (_own_seconds() - self._own)
        return round(max(0.0, busy) / max(time.monotonic() - self._clock, 1e-9), 2)


def machine() -> dict[str, Any]:
    """The processor and devices, the versions, and the load before the measuring."""
    import jax  # the commands set its devices before it is imported for the first time

    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": cores(),
        "devices": f"{len(jax.devices())} × {jax.devices()[0].device_kind} ({jax.default_backend()})",
        "python": platform.python_version(),
    }
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")
    for name in packages:
        if importlib.util.find_spec(name):
            facts[name] = importlib.metadata.version(name)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607
        cwd=RESULTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return facts | {"commit": commit.stdout.strip() or None, "load_before": round(os.getloadavg()[0], 2)}


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_name() -> str:
    """Of the first device: its kind, or cpu."""
    import jax

    return "cpu" if jax.default_backend() == "cpu" else jax.devices()[0].device_kind


def _processor() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", info.read_text(), re.MULTILINE) if info.is_file() else None
    return found.group(1) if found else platform.processor() or platform.machine()


def _own_seconds() -> float:
    """Processor seconds of this process and of those that it started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _all_seconds() -> Any:
    """Processor seconds that the machine has worked; None where the system does not tell."""
    stat = pathlib.Path("/proc/stat")
    if not stat.is_file():
        return None
    user, nice, system, _, _, irq, soft_irq, *_ = map(int, stat.read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + soft_irq) / os.sysconf("SC_CLK_TCK")


def parser(description: str, rounds: int) -> argparse.ArgumentParser:
    """The flags that all commands share."""
    flags = argparse.ArgumentParser(description=description)
    flags.add_argument("--config", type=pathlib.Path, help="recipe, a Python file; default: the published model")
    flags.add_argument("--rounds", type=int, default=rounds, help="how often each way is measured")
    flags.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the report")
    return flags


def recipe(path: pathlib.Path | None) -> ConfigDict:
    """The published configuration, or that of a recipe's file; free to change."""
    if path is None:
        return defaults.base()
    spec = importlib.util.spec_from_file_location("recipe", path)
    assert spec is not None, path
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config().unlock()
