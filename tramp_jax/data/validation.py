"""Checks of a whole data set: its lists, the people in its parts, and every file of every clip."""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from tramp_jax.data import landmark_checks
from tramp_jax.data.clip_checks import clip_problems, few_frames, place_of
from tramp_jax.data.clips import Clip, ClipInfo, ClipSource, Split
from tramp_jax.data.datasets import Dataset, Wanted, open_dataset
from tramp_jax.data.problems import ERROR, WARNING, DataError, Problem, Problems
from tramp_jax.errors import UserError

_MAX_LISTED = 5  # clips or scores named in one message

_Content = dict[str, str]  # digests of a clip's landmarks and frames, by which one clip under two names is found

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found in a data set.

    Attributes:
      dataset: all of it.
      problems: everything that is wrong, in the order of lists, parts and clips.
      bad: indices of the clips that cannot be used. Rows that were not read as clips have none.
    """

    dataset: Dataset
    problems: tuple[Problem, ...]
    bad: frozenset[int]

    @property
    def errors(self) -> list[Problem]:
        """The problems that are no mere warnings."""
        return [problem for problem in self.problems if problem.severity == ERROR]

    def counts(self) -> dict[str, int]:
        """Number of problems by kind, the most frequent first."""
        return dict(collections.Counter(problem.kind for problem in self.problems).most_common())

    def summary(self) -> str:
        """How many clips are left, and why not all."""
        total, kinds = len(self.dataset.source), collections.Counter(problem.kind for problem in self.errors)
        errors = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "none"
        return f"{total - len(self.bad)} of {total} clips are without a fault; errors: {errors}"

    def lines(self) -> list[str]:
        """For people: every problem, then a summary."""
        lines = [f"{problem.severity}: [{problem.kind}] {problem.message}" for problem in self.problems]
        total = len(self.dataset.source)
        warnings = len(self.problems) - len(self.errors)
        lines += [f"{count:6d}  {kind}" for kind, count in self.counts().items()]
        sound = f"{total - len(self.bad)} of {total} clips are without a fault"
        return [*lines, f"{len(self.errors)} errors, {warnings} warnings; {sound}"]

    def to_json(self) -> str:
        """For programs: the problems, and their number by kind."""
        content = {
            "clips": len(self.dataset.source),
            "bad_clips": [self.dataset.source.infos[index].id for index in sorted(self.bad)],
            "counts": self.counts(),
            "problems": [dataclasses.asdict(problem) for problem in self.problems],
        }
        return json.dumps(content, indent=1) + "\n"

    def sound(self) -> tuple[Dataset, list[int]]:
        """The data set without its bad clips, and their indices among all.

        Raises:
          UserError: then no clip would be left, or none in one of the published parts; with all problems.
        """
        source = self.dataset.source
        kept = [index for index in range(len(source)) if index not in self.bad]
        people = {source.infos[index].subject for index in kept}
        lost = [name for name, part in _parts(self.dataset).items() if not part & people]
        if lost or not kept:
            what = f"nothing is left of {', '.join(lost) or 'the data set'} without the clips that have a fault"
            raise UserError("bad_data", "\n".join([*self.lines(), what]))
        return dataclasses.replace(self.dataset, source=Split(source, kept)), kept


def check(config: ConfigDict, wanted: Wanted | None = None, workers: int = 2) -> Report:
    """Looks at everything of ``config.data`` that is wanted, decoding every image, and raises nothing that it finds.

    Args:
      config: the whole configuration.
      wanted: of each clip; None for what the model looks at.
      workers: threads. Decoding lets go of the interpreter, so that they run side by side.

    Raises:
      UserError: there is no such data set at all.
    """
    wanted = wanted or Wanted.of(config)
    found = Problems(collect=True)
    dataset = open_dataset(config, wanted, found)
    problems = [*found.found, *_set_problems(dataset)]
    if hasattr(dataset.source, "shard_problems"):
        problems += dataset.source.shard_problems()
    look: Callable[[int], tuple[list[Problem], _Content]] = functools.partial(_whole_clip, dataset.source)
    if hasattr(dataset.source, "problems"):
        # The reader checks the files; a look at the landmarks as a whole takes these alone.
        light = Wanted(frames=False, pixels=False, landmarks=wanted.landmarks)
        look = functools.partial(
            _files_of_clip, dataset.source, open_dataset(config, light, Problems(collect=True)).source
        )

    bad: set[int] = set()
    ids: dict[str, int] = {}
    firsts: dict[tuple[str, str], int] = {}
    infos = dataset.source.infos
    with tqdm(total=len(infos), desc="checking", unit="clip", disable=None) as bar:
        for index, (mine, content) in enumerate(in_order(look, range(len(infos)), workers)):
            mine += _info_problems(infos[index])
            mine += _again(infos, index, ids.setdefault(infos[index].id, index), "duplicate_clip", "has the id of")
            before = {what: firsts.setdefault((what, digest), index) for what, digest in content.items()}
            if repeated := [what for what, first in before.items() if first != index]:
                what = f"has exactly the {repeated[0]} of"
                mine += _again(infos, index, before[repeated[0]], "duplicate_content", what)
            problems += mine
            if any(problem.severity == ERROR for problem in mine):
                bad.add(index)
            bar.update()
    return Report(dataset, tuple(problems), frozenset(bad))


def open_sound(config: ConfigDict, known: pathlib.Path | None = None) -> tuple[Dataset, Report | None]:
    """The data set to train on, without bad clips where ``config.data.skip_bad`` asks for that.

    Args:
      config: the whole configuration.
      known: where an earlier report was written by ``Report.to_json``. If it is there, the clips that it names are left
        out and nothing is checked again, so that a run keeps its clips.

    Returns:
      The data set, and the report of the check if there was one.

    Raises:
      UserError: see ``datasets.open_dataset`` and ``Report.sound``.
    """
    if not config.data.skip_bad:
        return open_dataset(config), None
    if known is None or not known.is_file():
        report = check(config, workers=config.train.reader_threads)
        return report.sound()[0], report
    dataset = open_dataset(config, problems=Problems(collect=True))
    named = set(json.loads(known.read_text())["bad_clips"])
    bad = frozenset(index for index, info in enumerate(dataset.source.infos) if info.id in named)
    return Report(dataset, (), bad).sound()[0], None


def in_order(function: Callable[[_In], _Out], items: Iterable[_In], workers: int) -> Iterator[_Out]:
    """``map(function, items)`` by threads that run at most a few items ahead."""
    with concurrent.futures.ThreadPoolExecutor(max(1, workers)) as pool:
        waiting: collections.deque[concurrent.futures.Future[_Out]] = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _whole_clip(source: ClipSource, index: int) -> tuple[list[Problem], _Content]:
    """Problems of a clip of a source that does not look for them itself, and what it is compared by."""
    info = source.infos[index]
    try:
        clip = source[index]
        return [*clip_problems(clip), *_doubts(clip)], _content(clip, few_frames(clip))
    except DataError as error:
        return [error.problem], {}
    except Exception as error:  # a report of all problems must not end with the first odd one
        return [_unreadable(info, error)], {}


def _files_of_clip(source: Any, only_landmarks: ClipSource, index: int) -> tuple[list[Problem], _Content]:
    """Problems of a clip by its reader, and what it is compared by where that can be read."""
    info = source.infos[index]
    try:
        found = list(source.problems(index))
    except Exception as error:  # see above
        found = [_unreadable(info, error)]
    try:
        clip = only_landmarks[index]
        few = source.few_frames(index) if hasattr(source, "few_frames") else ()
        return [*found, *_doubts(clip)], _content(clip, few)
    except Exception as error:
        # Most often this has been found already.
        return found or [_unreadable(info, error)], {}


def _doubts(clip: Clip) -> Iterator[Problem]:
    if what := landmark_checks.doubt(clip.landmarks):
        yield Problem("doubtful_landmarks", f"{place_of(clip.info)}: {what}", clip.info.id, WARNING)


def _unreadable(info: ClipInfo, error: Exception) -> Problem:
    return Problem("unreadable_clip", f"{place_of(info)}: cannot be read ({type(error).__name__}: {error})", info.id)


def _content(clip: Clip, frames: Sequence[bytes]) -> _Content:
    """Of the landmarks and of a few frames, as far as there are any."""
    content: _Content = {}
    if not np.isnan(clip.landmarks).all():
        content["landmarks"] = hashlib.sha256(np.ascontiguousarray(clip.landmarks).tobytes()).hexdigest()
    if frames:
        digests = [hashlib.sha256(frame).hexdigest() for frame in frames]
        content["frames"] = " ".join([str(clip.info.num_frames), *digests])
    return content


def _again(infos: Sequence[ClipInfo], index: int, first: int, kind: str, what: str) -> list[Problem]:
    """A problem where a clip repeats an earlier one."""
    if first == index:
        return []
    cure = "remove one of the two from its list"
    return [Problem(kind, f"{place_of(infos[index])}: {what} {place_of(infos[first])}; {cure}", infos[index].id)]


def _info_problems(info: ClipInfo) -> list[Problem]:
    problems = []
    for what, text in (("id", info.id), ("subject", info.subject)):
        if not text or re.search(r"\s", text):
            cure = "names must not be empty or hold blanks, which make two people of one: correct the list"
            problems.append(Problem("blank_in_name", f"{place_of(info)}: the {what} is {text!r}; {cure}", info.id))
    if not math.isfinite(info.score):
        what = f"{place_of(info)}: the score is {info.score}; correct the list"
        problems.append(Problem("bad_score", what, info.id))
    if info.num_frames < 1:
        problems.append(Problem("bad_frame_count", f"{place_of(info)}: has {info.num_frames} frames", info.id))
    return problems


def _parts(dataset: Dataset) -> dict[str, frozenset[str]]:
    """Subjects of the published parts, by what to call them in a message."""
    parts = {f"the official {name} part": people for name, people in (dataset.official or {}).items()}
    everyone = frozenset(info.subject for info in dataset.source.infos)
    for fold, people in _folds(dataset):
        parts[f"the test part of {fold}"] = people
        parts[f"the training part of {fold}"] = everyone - people
    return parts


def _folds(dataset: Dataset) -> list[tuple[str, frozenset[str]]]:
    """The published folds, by the numbers that their publication and the recipes have."""
    count = len(dataset.folds)
    return [(f"fold {number} of {count}", people) for number, people in enumerate(dataset.folds, 1)]


def _set_problems(dataset: Dataset) -> Iterator[Problem]:
    """What is wrong with the data set as a whole."""
    infos = dataset.source.infos
    if not infos:
        yield Problem("no_clips", "the data set has no clips that can be read")
        return
    official = dataset.official or {}
    if both := official.get("test", frozenset()) & official.get("train", frozenset()):
        what = f"subject {', '.join(sorted(both))} is in the official training part and in the test part"
        yield Problem("subject_in_both_lists", f"{what}; remove the rows of one of the two")
    yield from _fold_problems(_folds(dataset), {info.subject for info in infos})
    yield from _missing_classes(infos, _parts(dataset))
    yield from _similar_names("subject", sorted({info.subject for info in infos}))
    yield from _similar_names("expression", sorted({info.expression for info in infos}))


def _similar_names(what: str, names: Sequence[str]) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(name.casefold(), name)
        if other != name:
            message = (
                f"{what}s {other!r} and {name!r} differ in upper and lower case alone, but count as two: a person of "
                "two names may be trained on and tested; if they are one, write them alike in the list"
            )
            yield Problem("similar_names", message, severity=WARNING)


def _fold_problems(folds: Sequence[tuple[str, frozenset[str]]], everyone: set[str]) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for name, people in folds:
        for subject in sorted(people):
            if subject in seen:
                what = f"subject {subject} is tested in {seen[subject]} and again in {name}; keep one of the two"
                yield Problem("subject_in_two_folds", what)
            seen[subject] = name
            if subject not in everyone:
                yield Problem("unknown_subject", f"{name} tests subject {subject!r}, who has no clip", severity=WARNING)
    if folds and (never := sorted(everyone - seen.keys())):
        yield Problem("untested_subject", f"no fold tests subject {', '.join(never)}", severity=WARNING)


def _missing_classes(infos: Sequence[ClipInfo], parts: Mapping[str, frozenset[str]]) -> Iterator[Problem]:
    """Expressions and scores that a part has no clip of."""
    scores: dict[str, set[float]] = collections.defaultdict(set)
    for info in infos:
        scores[info.expression].add(info.score)
    for name, people in parts.items():
        here: dict[str, set[float]] = collections.defaultdict(set)
        for info in infos:
            if info.subject in people:
                here[info.expression].add(info.score)
        if not here:
            yield Problem("empty_part", f"{name} has no clip; check its list")
            continue
        for expression, known in sorted(scores.items()):
            if expression not in here:
                what = f"{name} has no clip of {expression}: that expression cannot be trained and tested"
                yield Problem("missing_expression", f"{what}; choose others, or another split")
            elif absent := sorted(known - here[expression]):
                listed = ", ".join(f"{score:g}" for score in absent[:_MAX_LISTED])
                more = f" and {len(absent) - _MAX_LISTED} more" if len(absent) > _MAX_LISTED else ""
                what = f"{name} has no clip of {expression} with the score {listed}{more}"
                yield Problem("missing_class", what, severity=WARNING)
