"""Divides work among the jobs of an array: shard i of n takes every n-th item, starting with item i."""

import argparse
import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import TypeVar

from tramp_jax import files
from tramp_jax.errors import UserError

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


def add_arguments(parser: argparse.ArgumentParser, part: str) -> None:
    """Adds ``--shard`` and ``--collect`` to a command's parser; ``part`` says what a shard writes."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--shard", metavar="I/N", help=f"do every N-th item of the work, from the I-th on (1 to N), and write {part}"
    )
    choice.add_argument("--collect", action="store_true", help="join the output of all shards, as if from a single run")


@contextlib.contextmanager
def locked(whole: pathlib.Path, shard: Shard | None) -> Iterator[None]:
    """Locks ``whole`` or, for a shard, its part of it. Shards work side by side, but not beside a program on the whole.

    Raises:
      UserError: in_use.
    """
    with files.locked(whole, shared=shard is not None), contextlib.ExitStack() as stack:
        if shard:
            stack.enter_context(files.locked(shard.path(whole)))
        yield


def collected(whole: pathlib.Path) -> list[pathlib.Path]:
    """The parts of ``whole`` that all shards wrote, in the order of the shards.

    Raises:
      UserError: missing_file if a part is missing; bad_option if there are parts of divisions into different numbers.
    """
    found = {}
    for path in whole.parent.glob("*"):
        match = re.fullmatch(rf"{re.escape(whole.stem)}\.shard-(\d+)-of-(\d+){re.escape(whole.suffix)}", path.name)
        if match:
            found[path] = Shard(*map(int, match.groups()))
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
