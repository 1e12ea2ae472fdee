"""What is wrong with a data set: found by its reader, raised in training, listed by ``tramp-jax validate``."""

import collections
import dataclasses
from collections.abc import Collection, Iterable, Sequence

from tramp_jax.errors import UserError

ERROR, WARNING = "error", "warning"


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
      kind: short stable name, such as "missing_frames".
      message: the file, and its row or frame where there is one; what is wrong; the cure.
      clip: id of the clip that cannot be used because of it; "" where the data set as a whole is concerned, or a row
        that is no clip at all.
      severity: ``ERROR`` for what spoils training or its result, else ``WARNING``.
    """

    kind: str
    message: str
    clip: str = ""
    severity: str = ERROR


class DataError(UserError):
    """A problem that stopped the reading; its message is the problem's."""

    def __init__(self, problem: Problem):
        super().__init__(problem.kind, problem.message)
        self.problem = problem


def counted(problems: Sequence[Problem], clips: Collection[str]) -> str:
    """What was found in a data set, by numbers, in a line; "" where that is nothing.

    Args:
      problems: that do not stop the user: warnings, and errors of what is left out.
      clips: ids of the clips that are there in spite of them.
    """
    left_out: dict[str, str] = {}
    other: list[Problem] = []
    for problem in problems:
        if problem.clip and problem.clip not in clips:
            left_out.setdefault(problem.clip, problem.kind)
        else:
            other.append(problem)
    told = []
    if left_out:
        told.append(f"{len(left_out)} clips are left out ({_by_kind(left_out.values())})")
    if other:
        what = "warnings" if all(problem.severity == WARNING for problem in other) else "other problems"
        told.append(f"{len(other)} {what} ({_by_kind(problem.kind for problem in other)})")
    return ", ".join(told)


def _by_kind(kinds: Iterable[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in collections.Counter(kinds).most_common())


class Problems:
    """Where a reader puts what it finds.

    By default the first error is raised as ``DataError``. A collector keeps everything in ``found`` instead, so that
    the reader goes on without the row or clip in question.

    The contract of a reader: its constructor takes ``problems`` and adds to it what is wrong with its lists, leaving
    out the rows concerned; ``source[index]`` raises ``DataError``; ``source.problems(index)`` yields everything that
    is wrong with the files of one clip, every image decoded, and raises no ``DataError``. A reader of image files also
    has ``few_frames(index)``, the bytes of a few of a clip's, by which ``validation`` finds one clip under two names.
    """

    def __init__(self, collect: bool = False):
        self.collect = collect
        self.found: list[Problem] = []

    def add(self, kind: str, message: str, clip: str = "", severity: str = ERROR) -> None:
        """Notes one problem; see ``Problem`` for the arguments.

        Raises:
          DataError: an error, where nothing is collected.
        """
        problem = Problem(kind, message, clip, severity)
        if severity == ERROR and not self.collect:
            raise DataError(problem)
        self.found.append(problem)
