"""Checks a whole data set: its lists, the people in its parts, and every file of every clip."""

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
from typing import TypeVar

import numpy as np
from ml_collections import ConfigDict

from tramp_jax import json_files
from tramp_jax.data import landmark_checks, names
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.datasets import open_dataset
from tramp_jax.data.problems import ERROR, WARNING, Problem, Problems, by_kind
from tramp_jax.data.source import ClipSource, Dataset, Split, Wanted
from tramp_jax.errors import UserError
from tramp_jax.progress import Progress

_MAX_LISTED = 5  # scores listed in one message
_MOVED = (
    "If the data has moved, name its folder with --data-root (calibrate), --data_root (eval.py), or the run's --config "
    "and --config.data.root (train.py --resume). A relative path counts from the folder where training was started."
)

_Content = dict[str, str]  # digests of a clip's landmarks and frames, to find the same clip under two names

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclasses.dataclass(frozen=True)
class Report:
    """The problems found in a data set."""

    dataset: Dataset  # the whole data set
    problems: tuple[Problem, ...]  # those of lists first, then of parts, then of clips
    bad: frozenset[int]  # indices of the unusable clips; a row that was not read as a clip has none

    @property
    def errors(self) -> list[Problem]:
        """The problems that are not warnings."""
        return [problem for problem in self.problems if problem.severity == ERROR]

    def counts(self) -> dict[str, int]:
        """Number of problems by kind, the most frequent first."""
        return dict(collections.Counter(problem.kind for problem in self.problems).most_common())

    def summary(self) -> str:
        """One line with the number of usable clips, and of errors by kind."""
        return f"{self._usable()}; errors: {by_kind(problem.kind for problem in self.errors) or 'none'}"

    def lines(self) -> list[str]:
        """Every problem, then a summary, for people to read."""
        lines = [f"{problem.severity}: [{problem.kind}] {problem.message}" for problem in self.problems]
        lines += [f"{count:6d}  {kind}" for kind, count in self.counts().items()]
        errors, warnings = len(self.errors), len(self.problems) - len(self.errors)
        counts = f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
        return [*lines, f"{counts}; {self._usable()}"]

    def _usable(self) -> str:
        total = len(self.dataset.source)
        return f"{total - len(self.bad)} of {total} clips are usable"

    def to_json(self) -> str:
        """The problems and their number by kind, for programs."""
        content = {
            "clips": len(self.dataset.source),
            "bad_clips": [self.dataset.source.infos[index].id for index in sorted(self.bad)],
            "counts": self.counts(),
            "problems": [dataclasses.asdict(problem) for problem in self.problems],
        }
        return json.dumps(content, indent=1) + "\n"

    def sound(self) -> tuple[Dataset, list[int]]:
        """The data set without its bad clips, and the indices of the clips that remain.

        Raises:
          UserError: bad_data with all problems, if no clip remains in the data set or in one of its published parts, or
            if a person has two names, because then no clip is to blame.
        """
        if any(problem.kind == "similar_names" for problem in self.errors):
            raise UserError("bad_data", "\n".join(self.lines()))
        source = self.dataset.source
        kept = [index for index in range(len(source)) if index not in self.bad]
        people = {source.infos[index].subject for index in kept}
        lost = [name for name, part in _parts(self.dataset).items() if not part & people]
        if lost or not kept:
            what = f"without the unusable clips, nothing is left of {', '.join(lost) or 'the data set'}"
            raise UserError("bad_data", "\n".join([*self.lines(), what]))
        return dataclasses.replace(self.dataset, source=Split(source, kept)), kept


def check(config: ConfigDict, wanted: Wanted | None = None, workers: int = 2) -> Report:
    """Checks the data set of ``config.data``; decodes every image.

    ``wanted`` is what to check of each clip; None is what the model reads. ``workers`` threads decode in parallel,
    since decoding releases Python's global lock.
    """
    found = Problems(collect=True)
    dataset = open_dataset(config, wanted, found)
    problems = [*found.found, *_set_problems(dataset), *dataset.source.store_problems()]
    check_clip = functools.partial(_check_clip, dataset.source)
    bad: set[int] = set()
    ids: dict[str, int] = {}
    firsts: dict[tuple[str, str], int] = {}
    infos = dataset.source.infos
    with Progress(len(infos), "clip", what="checking") as bar:
        for index, (mine, content) in enumerate(in_order(check_clip, range(len(infos)), workers)):
            info = infos[index]
            mine += _info_problems(info)
            if (first := ids.setdefault(info.id, index)) != index:
                mine.append(_repeats(info, infos[first], "duplicate_clip", "id"))
            before = {what: firsts.setdefault((what, digest), index) for what, digest in content.items()}
            if repeated := [what for what, first in before.items() if first != index]:
                mine.append(_repeats(info, infos[before[repeated[0]]], "duplicate_content", repeated[0]))
            problems += mine
            if any(problem.severity == ERROR for problem in mine):
                bad.add(index)
            bar.update()
    return Report(dataset, tuple(problems), frozenset(bad))


def open_sound(config: ConfigDict, known: pathlib.Path | None = None) -> tuple[Dataset, Report | None]:
    """Opens the data set to train on, without bad clips if ``config.data.skip_bad``.

    Args:
      config: the whole configuration.
      known: where a run keeps its report, from ``Report.to_json``; None for a new run. If the file exists, its bad
        clips are skipped and nothing is checked again, so a resumed run keeps its clips.

    Returns:
      The data set, and the report if clips were checked.

    Raises:
      UserError: see ``datasets.open_dataset`` and ``Report.sound``; damaged_file for ``known``.
    """
    try:
        return _open_sound(config, known)
    except UserError as error:
        if known is None or error.kind != "missing_file":
            raise
        raise UserError(error.kind, f"{error}\n{_MOVED}") from error


def _open_sound(config: ConfigDict, known: pathlib.Path | None) -> tuple[Dataset, Report | None]:
    if not config.data.skip_bad:
        return open_dataset(config), None
    if known is None or not known.is_file():
        report = check(config, workers=config.train.reader_threads)
        return report.sound()[0], report
    found = Problems(collect=True)
    dataset = open_dataset(config, problems=found)
    cure = "restore it, or start the run again"
    named = json_files.read(known, cure).get("bad_clips")
    if not isinstance(named, list):
        raise UserError("damaged_file", f"{known}: has no list of bad_clips; {cure}")
    bad = frozenset(index for index, info in enumerate(dataset.source.infos) if info.id in named)
    return Report(dataset, tuple(found.found), bad).sound()[0], None


def in_order(function: Callable[[_In], _Out], items: Iterable[_In], workers: int) -> Iterator[_Out]:
    """Like ``map(function, items)``, in threads that work a few items ahead."""
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


def _check_clip(source: ClipSource, index: int) -> tuple[list[Problem], _Content]:
    """Everything wrong with a clip, and its digests."""
    info = source.infos[index]
    try:
        found, clip = source.check(index)
        return (found, {}) if clip is None else ([*found, *_doubts(clip)], _content(clip))
    except (UserError, OSError) as error:  # readers turn what a damaged file raises into these; the rest is our bug
        kind = error.kind if isinstance(error, UserError) else "unreadable_clip"
        return [Problem(kind, f"{info.place}: cannot be read ({error})", info.id)], {}


def _doubts(clip: Clip) -> Iterator[Problem]:
    if what := landmark_checks.doubt(clip.landmarks):
        yield Problem("doubtful_landmarks", f"{clip.info.place}: {what}", clip.info.id, WARNING)
    for _, what in landmark_checks.wrong_way(clip.landmarks, clip.layout):
        yield Problem("doubtful_landmarks", f"{clip.info.place}: {what}", clip.info.id, WARNING)


def _content(clip: Clip) -> _Content:
    """Digests of the landmarks, and of the first, middle and last image file, if there are any."""
    content: _Content = {}
    if not np.isnan(clip.landmarks).all():
        content["landmarks"] = hashlib.sha256(np.ascontiguousarray(clip.landmarks).tobytes()).hexdigest()
    if clip.frames is not None and len(frames := clip.frames):
        some = sorted({0, len(frames) // 2, len(frames) - 1})
        digests = [hashlib.sha256(bytes(frames[index])).hexdigest() for index in some]
        content["frames"] = " ".join([str(clip.info.num_frames), *digests])
    return content


def _repeats(info: ClipInfo, earlier: ClipInfo, kind: str, what: str) -> Problem:
    """The problem with a clip that has the id, the landmarks or the frames of an earlier one."""
    message = f"{info.place}: has the same {what} as {earlier.place}; remove one of the two from its list"
    return Problem(kind, message, info.id)


def _info_problems(info: ClipInfo) -> list[Problem]:
    problems = []
    for what, text in (("id", info.id), ("subject", info.subject)):
        if not text or re.search(r"\s", text) or not text.isprintable():
            why = "it must not be empty, nor contain blanks or invisible characters, which turn one person into two"
            better = "_".join(names.clean(text).split()) or "a name"
            message = f"{info.place}: the {what} is {text!a}; {why}: write {better} in the list"
            problems.append(Problem("blank_in_name", message, info.id))
    if not math.isfinite(info.score):
        what = f"{info.place}: the score is {info.score}; correct the list"
        problems.append(Problem("bad_score", what, info.id))
    if info.num_frames < 1:
        problems.append(Problem("bad_frame_count", f"{info.place}: has {info.num_frames} frames", info.id))
    return problems


def _parts(dataset: Dataset) -> dict[str, frozenset[str]]:
    """The subjects of each published part, by its name in messages."""
    parts = {f"the official {name} part": people for name, people in (dataset.official or {}).items()}
    everyone = frozenset(info.subject for info in dataset.source.infos)
    for fold, people in _folds(dataset):
        parts[f"the test part of {fold}"] = people
        parts[f"the training part of {fold}"] = everyone - people
    return parts


def _folds(dataset: Dataset) -> list[tuple[str, frozenset[str]]]:
    """The published folds by name, numbered as published and as in the recipes."""
    count = len(dataset.folds)
    return [(f"fold {number} of {count}", people) for number, people in enumerate(dataset.folds, 1)]


def _set_problems(dataset: Dataset) -> Iterator[Problem]:
    """Yields what is wrong with the data set as a whole."""
    infos = dataset.source.infos
    if not infos:
        yield Problem("no_clips", "the data set has no readable clips")
        return
    official = dataset.official or {}
    if both := official.get("test", frozenset()) & official.get("train", frozenset()):
        what = f"subject {', '.join(sorted(both))} is in both the official training and test part"
        yield Problem("subject_in_both_lists", f"{what}; remove the rows of one of the two")
    yield from _fold_problems(_folds(dataset), {info.subject for info in infos})
    yield from _missing_classes(infos, _parts(dataset))


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
    """Yields the expressions and scores that are absent from a part."""
    everywhere = _scores(infos)
    for name, people in parts.items():
        here = _scores(info for info in infos if info.subject in people)
        if not here:
            yield Problem("empty_part", f"{name} has no clip; check its list")
            continue
        for expression, known in sorted(everywhere.items()):
            if expression not in here:
                what = f"{name} has no clip of {expression}, so that expression cannot be trained and tested"
                yield Problem("missing_expression", f"{what}; choose others, or another split")
            elif absent := sorted(known - here[expression]):
                listed = ", ".join(f"{score:g}" for score in absent[:_MAX_LISTED])
                more = f" and {len(absent) - _MAX_LISTED} more" if len(absent) > _MAX_LISTED else ""
                what = f"{name} has no clip of {expression} with the score {listed}{more}"
                yield Problem("missing_class", what, severity=WARNING)


def _scores(infos: Iterable[ClipInfo]) -> dict[str, set[float]]:
    """The scores that occur with each expression."""
    scores: dict[str, set[float]] = collections.defaultdict(set)
    for info in infos:
        scores[info.expression].add(info.score)
    return scores
