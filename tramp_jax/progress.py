"""Shows progress: a bar in a terminal; elsewhere, such as in a job's log, one line per minute."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

_EVERY = 60.0  # seconds between two lines

_Item = TypeVar("_Item")


class Progress:
    """The progress of ``total`` units of work, on stderr; a context manager.

    Args:
      first: number of units that were done before, by an interrupted run.
      quiet: whether to show nothing, as in all processes but the first.
      leave: whether the bar stays in the terminal.
    """

    def __init__(self, total: int, unit: str, first: int = 0, what: str = "", quiet: bool = False, leave: bool = True):
        self._total, self._unit, self._first, self._done = total, unit, first, first
        self._what = what
        self._started = self._shown = time.monotonic()
        terminal = sys.stderr.isatty()
        self._in_log = not (quiet or terminal)
        self._bar = tqdm(
            total=total,
            initial=first,
            unit=unit,
            desc=what or None,
            leave=leave,
            dynamic_ncols=True,
            disable=quiet or not terminal,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, count: int = 1, note: str = "") -> None:
        """Counts units as done, and shows ``note``, such as a loss, with them."""
        self._done += count
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
        now = time.monotonic()
        if self._in_log and now - self._shown >= _EVERY:
            self._shown = now
            sys.stderr.write(f"{self._line(now - self._started, note)}\n")

    def _line(self, seconds: float, note: str) -> str:
        done = self._done - self._first
        left = tqdm.format_interval((self._total - self._done) * seconds / done)
        parts = [f"{self._unit} {self._done} of {self._total} ({self._done / self._total:.0%})", note, f"{left} left"]
        line = ", ".join(filter(None, parts))
        return f"{self._what}: {line}" if self._what else line


def over(items: Sequence[_Item], unit: str, what: str = "", leave: bool = True) -> Iterator[_Item]:
    """Iterates over items and shows the progress; see ``Progress``."""
    with Progress(len(items), unit, what=what, leave=leave) as progress:
        for item in items:
            yield item
            progress.update()
