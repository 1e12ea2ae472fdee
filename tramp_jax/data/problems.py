"""Problems with a data set: its reader finds them, training raises the first, ``tramp-jax validate`` lists all."""

import collections
import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from tramp_jax.errors import UserError

ERROR, WARNING = "error", "warning"


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    kind: str  # short stable name, such as "missing_frames"
    message: str  # names the file, and its row or frame if there is one; says what is wrong and how to fix it
    clip: str = ""  # id of the clip that this makes unusable; "" if it does not concern a single clip
    severity: str = ERROR  # ``ERROR`` if it would spoil training or its result, else ``WARNING``


class DataError(UserError):
    """A problem that stopped a reader, with the kind and message of the problem."""

    def __init__(self, problem: Problem):
        super().__init__(problem.kind, problem.message)
        self.problem = problem

    def __reduce__(self) -> tuple[Any, ...]:
        return DataError, (self.problem,)


class Problems:
    """Takes the problems that a reader finds.

    By default, it raises the first error as ``DataError``. A collector keeps everything in ``found`` instead, and the
    reader continues without the row or clip.
    """

    def __init__(self, collect: bool = False):
        self.collect = collect
        self.found: list[Problem] = []

    def add(self, kind: str, message: str, clip: str = "", severity: str = ERROR) -> None:
        """Adds a problem; see ``Problem`` for the arguments.

        Raises:
          DataError: it is an error, and this is not a collector.
        """
        problem = Problem(kind, message, clip, severity)
        if severity == ERROR and not self.collect:
            raise DataError(problem)
        self.found.append(problem)


def counted(problems: Sequence[Problem], clips: Collection[str]) -> str:
    """One line with the number of problems by kind; "" if there are none. ``clips`` are the ids of those kept."""
    skipped: dict[str, str] = {}
    other: list[Problem] = []
    for problem in problems:
        if problem.clip and problem.clip not in clips:
            skipped.setdefault(problem.clip, problem.kind)
        else:
            other.append(problem)
    parts = []
    if skipped:
        parts.append(f"{len(skipped)} clips skipped ({by_kind(skipped.values())})")
    if other:
        what = "warnings" if all(problem.severity == WARNING for problem in other) else "other problems"
        parts.append(f"{len(other)} {what} ({by_kind(problem.kind for problem in other)})")
    return ", ".join(parts)


def by_kind(kinds: Iterable[str]) -> str:
    """The number of each kind, the most frequent first, such as "2 bad_id, 1 empty_file"; "" for no kinds."""
    return ", ".join(f"{count} {kind}" for kind, count in collections.Counter(kinds).most_common())
