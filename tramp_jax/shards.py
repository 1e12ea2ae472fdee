"""Divides work: shard i of n takes every n-th item, starting with item i.

Shards are the jobs of an array (``--shard``, then ``--collect``), or processes of this machine (``--jobs``).
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TypeVar

from tramp_jax import files
from tramp_jax.errors import UserError

_JOB = "TRAMP_JAX_JOB"  # environment variable with the shard of a process that ``run_jobs`` started
_MARK = "\x1e\n"  # a line that such a process writes before its first input and after each one

_Item = TypeVar("_Item")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of ``count`` equal parts of the work; ``number`` counts from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def take(self, items: Sequence[_Item]) -> list[_Item]:
        """The items of this shard, in their order."""
        return list(items[self.number - 1 :: self.count])

    def path(self, whole: pathlib.Path) -> pathlib.Path:
        """Where this shard writes its part of ``whole``: scores.csv becomes scores.shard-2-of-8.csv."""
        return whole.with_name(f"{whole.stem}.shard-{self.number}-of-{self.count}{whole.suffix}")


def parse(text: str) -> Shard:
    """The shard that the value of ``--shard`` names, such as "2/8".

    Raises:
      UserError: bad_option.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise UserError("bad_option", f"--shard {text}: write I/N with I from 1 to N, such as 1/8 for the first of 8")
    return Shard(number, count)


def add_arguments(parser: argparse.ArgumentParser, part: str, jobs: bool = False) -> None:
    """Adds ``--shard`` and ``--collect`` to a command's parser, and ``--jobs``; ``part`` says what a shard writes."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--shard", metavar="I/N", help=f"do every N-th item of the work, from the I-th on (1 to N), and write {part}"
    )
    choice.add_argument("--collect", action="store_true", help="join the output of all shards, as if from a single run")
    if jobs:
        choice.add_argument(
            "--jobs", type=int, default=1, metavar="N", help="work as N processes, which share the cores (default 1)"
        )


def chosen(arguments: argparse.Namespace) -> Shard | None:
    """The shard that this process does; None for all of the work.

    Raises:
      UserError: bad_option.
    """
    text = os.environ.get(_JOB) or arguments.shard
    return parse(text) if text else None


def number_of_jobs(arguments: argparse.Namespace, inputs: int) -> int:
    """How many processes to start: as many as ``--jobs`` says, but at most one for each input.

    Raises:
      UserError: bad_option.
    """
    if arguments.jobs < 1:
        raise UserError("bad_option", f"--jobs must be at least 1, not {arguments.jobs}")
    return 1 if _JOB in os.environ else min(arguments.jobs, inputs)


def cores() -> int:
    """The number of cores for this process: all that it may use, or an equal share in a process of ``run_jobs``.

    Such processes are not bound to certain cores, because a core may be busy with other work.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    job = os.environ.get(_JOB)
    return max(1, usable // parse(job).count) if job else usable


def run_jobs(
    line: Sequence[str], whole: pathlib.Path, count: int, inputs: int, unit: str, collect: Callable[[], int]
) -> int:
    """Runs a command as several processes, a shard each, and joins their parts. They are stopped if this process is.

    Args:
      whole: the file of which each shard writes a part.
      collect: joins the parts and returns the exit code.

    Returns:
      The exit code: 1 if an input failed. If a process ended before it had a part, nothing is joined.

    Raises:
      UserError: bad_option, if there are parts of a division into another number.
    """
    from tqdm import tqdm

    from tramp_jax.progress import Progress

    if others := {shard.count for shard in _parts(whole).values()} - {count}:
        cure = f"finish it with {min(others)} jobs or shards, or delete its parts ({whole.stem}.shard-*)"
        raise UserError("bad_option", f"{whole}: an unfinished command has left parts; {cure}")
    shards = [Shard(number, count) for number in range(1, count + 1)]
    jobs: list[subprocess.Popen[str]] = []
    shown = {""}
    lock, stopping = threading.Lock(), threading.Event()

    def show(message: str, target: IO[str]) -> None:
        with lock:
            if message not in shown and not stopping.is_set():  # all processes begin with the same warnings
                shown.add(message)
                tqdm.write(message, file=target, end="")

    def relay(source: IO[str], target: IO[str], bar: Progress | None) -> None:
        """Shows what a process writes, everything about an input at once. ``bar`` counts the inputs."""
        lines: list[str] = []
        begun = False
        with source:
            for text in source:
                lines.append(text.removesuffix(_MARK))
                if not text.endswith(_MARK):
                    continue
                for message in ["".join(lines)] if begun else lines:
                    show(message, target)
                if bar and begun:
                    with lock:
                        bar.update()
                lines, begun = [], True
        if bar:  # stderr ends with the reason if the process fails, stdout with a summary of its part alone
            show("".join(lines), target)

    with Progress(inputs, unit) as bar, concurrent.futures.ThreadPoolExecutor(2 * count) as threads:
        try:
            relays = []
            for shard in shards:
                job = subprocess.Popen(  # noqa: S603
                    [sys.executable, "-P", "-m", "tramp_jax", *line],
                    # With -P and this path, it imports what we import, whatever the working folder contains.
                    env=os.environ | {_JOB: str(shard), "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                    start_new_session=True,  # so that Ctrl-C reaches us alone
                )
                jobs.append(job)
                assert job.stdout
                assert job.stderr
                relays.append(threads.submit(relay, job.stdout, sys.stdout, None))
                relays.append(threads.submit(relay, job.stderr, sys.stderr, bar))
            for done in concurrent.futures.as_completed(relays):
                done.result()
        except BaseException:
            stopping.set()
            for job in jobs:
                job.terminate()
            raise
        finally:
            codes = [job.wait() for job in jobs]
    for shard, code in zip(shards, codes, strict=True):
        if code < 0:
            sys.stderr.write(f"job {shard} was ended by {signal.Signals(-code).name}; run the command again\n")
    if not all(shard.path(whole).exists() for shard in shards):
        return 1
    return max(collect(), int(any(codes)))


def over(items: Sequence[_Item], unit: str, done: int = 0) -> Iterator[_Item]:
    """Iterates over inputs, and shows the progress or, in a process of ``run_jobs``, reports it.

    ``done`` is the number of further inputs, finished earlier, which ``run_jobs`` also counts.
    """
    from tramp_jax import progress

    if _JOB not in os.environ:
        yield from progress.over(items, unit)
        return
    for _ in range(1 + done):
        _mark()
    for item in items:
        yield item
        _mark()


def _mark() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.write(_MARK)
        stream.flush()


def _parts(whole: pathlib.Path) -> dict[pathlib.Path, Shard]:
    """The parts of ``whole`` that exist."""
    name = rf"{re.escape(whole.stem)}\.shard-(\d+)-of-(\d+){re.escape(whole.suffix)}"
    found = {path: re.fullmatch(name, path.name) for path in whole.parent.glob("*")}
    return {path: Shard(*map(int, match.groups())) for path, match in found.items() if match}


@contextlib.contextmanager
def locked(whole: pathlib.Path, shard: Shard | None) -> Iterator[None]:
    """Locks ``whole`` or, for a shard, its part. Shards may run side by side, but not with a program on the whole.

    Raises:
      UserError: in_use.
    """
    with contextlib.ExitStack() as stack:
        if _JOB not in os.environ:  # ``run_jobs`` holds the whole for its processes
            stack.enter_context(files.locked(whole, shared=shard is not None))
        if shard:
            stack.enter_context(files.locked(shard.path(whole)))
        yield


def collected(whole: pathlib.Path) -> list[pathlib.Path]:
    """The parts of ``whole`` that all shards wrote, in the order of the shards.

    Raises:
      UserError: missing_file if a part is missing; bad_option if there are parts of divisions into different numbers.
    """
    found = _parts(whole)
    counts = sorted({shard.count for shard in found.values()})
    if not counts:
        raise UserError("missing_file", f"{whole}: no shard has written a part of it; run the command with --shard I/N")
    if len(counts) > 1:
        divisions = " and ".join(map(str, counts))
        raise UserError("bad_option", f"{whole}: there are parts of {divisions} shards; delete those you do not want")
    every = [Shard(number, counts[0]) for number in range(1, counts[0] + 1)]
    if missing := [shard for shard in every if shard not in found.values()]:
        names = ", ".join(map(str, missing))
        raise UserError("missing_file", f"{whole}: shards without a part: {names}; run them before --collect")
    return [shard.path(whole) for shard in every]


def interleaved(parts: Sequence[Sequence[_Item]]) -> list[_Item]:
    """The items of all shards in their original order: undoes ``Shard.take``."""
    return [part[i] for i in range(max(map(len, parts), default=0)) for part in parts if i < len(part)]
