"""Your own clips: a folder for each, and a list of their subjects, expressions and scores. docs/data.md shows both.

A column of numbers that has no meaning of its own, such as a second score, is a target for ``data.target``.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tramp_jax.data import clip_folder, names, rate, tables
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.problems import WARNING, Problems
from tramp_jax.data.readers.base import list_file, root_folder
from tramp_jax.data.source import Dataset, Facts, FileSource, Wanted

FACTS = Facts()

LIST = "clips.csv"
_REQUIRED = ("path", "subject", "expression", "score")
_OPTIONAL = ("id", "group", "fps", "split")
_SPLITS = ("train", "test")
_PARTS = {*_SPLITS, "training", "testing", "validation", "valid", "val", "dev", "holdout", "hold-out"}
_NAMES = ("id", "subject", "expression", "group", "split")
_MISSING = (*names.MISSING, "na", "#n/a", "nd", "none")  # in a column of numbers, where NA cannot be initials
# Numbers that people write for a missing rating.
_CODES = frozenset([-1, -7, -8, -9, *(sign * code for sign in (-1, 1) for code in (77, 88, 99, 777, 888, 999, 9999))])
_DOUBTFUL = frozenset([-1, 8, 9])  # numbers that mean that in some lists, and are ratings in others
_FPS = (1, rate.MAX_FPS)  # a smaller number is the time between frames, a larger one counts a clock's ticks
_HOW_TO_MAKE = f"""A folder of your clips needs a list, ROOT/{LIST}, with the columns path, subject, expression, score:
    path,subject,expression,score
    clips/anna_smile_1,anna,smile,3
and for each path, relative to ROOT, a folder of face crops with landmarks, which `tramp-jax preprocess` makes from
videos and photos. Then: python train.py --config configs/folder.py --config.data.root=ROOT"""


@dataclasses.dataclass(frozen=True)
class Options:
    """Where the list is."""

    clip_list: str = ""  # "" for clips.csv or clips.xlsx in ``config.data.root``


def open(root: str | Path, options: Options, wanted: Wanted, problems: Problems) -> Dataset:
    """Reads the list, and counts the frames of each clip. Clips come in the order of the list."""

    def count(row: Row) -> int:
        return clip_folder.count_frames(row.path, row.info.id, problems, wanted.landmarks, f"{row.info.source}: ")

    rows, official = read_list(root, options, count, _HOW_TO_MAKE, problems)
    by_id = {row.info.id: row for row in rows}

    def read(info: ClipInfo, problems: Problems) -> Clip | None:
        row = by_id[info.id]
        clip = clip_folder.read_listed(row.path, info, wanted, problems)
        return dataclasses.replace(clip, fps=row.fps) if clip and row.fps else clip

    return Dataset(FileSource([row.info for row in rows], read), FACTS, official)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the list: the clip's folder or file, its info, and its frame rate (0 if the list has none)."""

    path: Path
    info: ClipInfo
    fps: float


def read_list(
    root: str | Path, options: Options, count: Callable[[Row], int], how_to_make: str, problems: Problems
) -> tuple[list[Row], dict[str, frozenset[str]] | None]:
    """The rows of the list, and the subjects of each part of its split (None if it has no split).

    ``count`` returns the number of frames of a row's clip, or 0 if ``problems`` took what is wrong with it.
    """
    folder = root_folder(root, how_to_make)
    path = list_file(folder, options, "clip_list", (LIST,), f"put it there.\n{how_to_make}", problems)
    if path is None:
        return [], None
    before = len(problems.found)
    columns, table = tables.read_table(path, _REQUIRED, problems)
    given = {name: [row[name] for row in table.values()] for name in columns if table}
    targets = [name for name in given if name and name not in (*_REQUIRED, *_OPTIONAL) and _are_ratings(given[name])]
    used = {"", *_REQUIRED, *_OPTIONAL, *targets}
    _add_ignored(path, {name: cells for name, cells in given.items() if name not in used}, problems)
    if columns and not columns[-1] and _are_ratings(given.get("", [])):
        message = f"{path}: the last column holds numbers but has no name, so it is not read; name it"
        message += ", or quote decimals with a comma"
        problems.add("ignored_column", message, severity=WARNING)
    codes = {name: _missing_codes(given[name]) for name in (*targets, "score") if name in given}
    unlike = {name: _unlike_others(given[name]) - codes[name] for name in codes}
    rows: list[Row] = []
    seen: dict[str, int] = {}
    places: dict[str, tuple[int, str]] = {}  # the clip's file or folder -> row, subject
    parts: dict[str, str] = {}  # subject -> split
    for number, fields in table.items():
        where = f"{path}, row {number}"
        fields |= {name: names.clean(fields[name]) for name in _NAMES if name in fields}
        clip = fields.get("id") or names.clean(fields["path"])
        wrong = [*_wrong_cells(fields, "split" in columns)]
        wrong += ["correct the row"] * bool(wrong)
        if wrong := [*wrong, *_code_faults(fields, codes)]:
            problems.add("malformed_row", f"{where}: {'; '.join(wrong)}", clip)
            continue
        if clip in seen:
            message = f"{where}: clip {clip!r} is also in row {seen[clip]}; remove one of the two, or give each an id"
            problems.add("duplicate_clip", message, clip)
            continue
        seen[clip] = number
        subject, split = fields["subject"], fields.get("split", "").lower()
        place = tables.located(path.parent, fields["path"])
        first, person = places.setdefault(os.path.realpath(place), (number, subject))
        if first != number and (person != subject or not fields.get("id")):
            whose = f", for subject {person}" if person != subject else ""
            message = f"{where}: {place} is also in row {first}{whose}; remove one of the two rows"
            problems.add("duplicate_clip", message, clip)
            continue
        if parts.setdefault(subject, split) != split:
            problems.add(
                "subject_in_both_lists",
                f"{where}: subject {subject} is in {split} here, but in {parts[subject]} above; never test a model on "
                "people it was trained on: give all rows of a subject the same split",
                clip,
            )
            continue
        for name, values in unlike.items():
            if tables.number(fields[name]) in values:
                message = f"{where}: {name} is {fields[name]}, unlike all others; correct it if it is a slip or a code"
                problems.add("doubtful_rating", message, clip, WARNING)
        for name in targets:
            if tables.number(fields[name]) is None:
                message = f"{where}: {name} is {fields[name][:80]!r}, not a number, so the clip has no such rating"
                problems.add("missing_rating", f"{message}; correct the row if it has one", clip, WARNING)
        info = ClipInfo(
            id=clip,
            subject=subject,
            expression=fields["expression"],
            score=float(tables.with_point(fields["score"])),
            num_frames=0,
            group=fields.get("group", ""),
            targets=tuple((name, value) for name in targets if (value := tables.number(fields[name])) is not None),
            source=where,
        )
        row = Row(place, info, tables.number(fields.get("fps") or "0") or 0.0)
        if frames := count(row):
            rows.append(dataclasses.replace(row, info=dataclasses.replace(info, num_frames=frames)))
    if not table and len(problems.found) == before:
        problems.add("empty_list", f"{path}: lists no clips.\n{how_to_make}")
    listed = {row.info.subject for row in rows}
    official = {part: frozenset(s for s in listed if parts[s] == part) for part in _SPLITS}
    if any(official.values()) and not all(official.values()):
        empty = min(official, key=lambda part: len(official[part]))
        message = f"{path}: the split names no {empty} people, so it has no effect; name some, or remove the column"
        problems.add("empty_part", message, severity=WARNING)
    return rows, official if all(official.values()) else None


def _add_ignored(path: Path, columns: Mapping[str, Sequence[str]], problems: Problems) -> None:
    """Adds a warning for each column that is not read, but was perhaps meant as a split or a rating."""
    for name, cells in columns.items():
        message = f"{path}: column {name!r} is not read"
        if set() < {cell.lower() for cell in cells if cell} <= _PARTS:
            message += "; if it is to decide who is tested, name it split, and write train or test in each row"
        elif (share := _share(cells)) > 1 / 3:
            message += f", because only {share:.0%} of its cells are numbers; if it is a rating, correct the others"
        else:
            continue
        problems.add("ignored_column", message, severity=WARNING)


def _are_ratings(values: Sequence[str]) -> bool:
    """Whether a column holds numbers, except for some cells."""
    return _share(values) > 1 / 2


def _share(values: Sequence[str]) -> float:
    """The share of numbers among the cells of a column that are not empty."""
    given = [value for value in values if value.lower() not in _MISSING]
    return len(_numbers(given)) / max(len(given), 1)


def _numbers(values: Sequence[str]) -> list[float]:
    return [value for text in values if (value := tables.number(text)) is not None]


def _missing_codes(values: Sequence[str]) -> frozenset[float]:
    """The numbers in a column that stand for a missing rating: far beyond all ratings, or the only negative ones."""
    numbers = set(_numbers(values))
    if not (ratings := numbers - _CODES):
        return frozenset()
    largest, negative = max(map(abs, ratings)), min(ratings) < 0
    codes = {code for code in numbers & _CODES if abs(code) > max(2 * largest, 9 if negative else 2)}
    if not negative and largest >= 2:  # -1, 0 and 1 can be ratings
        codes |= {code for code in numbers & _CODES if code < 0}
    return frozenset(codes)


def _unlike_others(values: Sequence[str]) -> frozenset[float]:
    """The few ratings that are more than twice as large as all others, or below 0 where all others are not.

    Among whole ratings, -1, 8 and 9 are doubtful however many they are, because they may stand for a missing one.
    """
    found = sorted(_numbers(values))
    if len(found) < 5:
        return frozenset()
    few = len(found) // 4
    low = [value for value in found[:few] if value < 0 <= found[few]]
    jumps = (i for i in range(len(found) - few, len(found)) if found[i] > max(2 * found[i - 1], 4))
    ratings = sorted(set(found) - _DOUBTFUL)
    codes: set[float] = set()
    if ratings and ratings[0] >= 0 and all(rating.is_integer() for rating in ratings):
        step = max((after - before for before, after in itertools.pairwise(ratings)), default=1.0)
        codes = {code for code in _DOUBTFUL & set(found) if code < 0 or code >= ratings[-1] + 3 * step}
    return frozenset([*low, *found[next(jumps, len(found)) :], *codes])


def _wrong_cells(fields: Mapping[str, str], has_split: bool) -> Iterator[str]:
    """Yields everything that is wrong with a row."""
    yield from (f"{name} is empty" for name in _REQUIRED if not fields[name])
    for name in ("subject", "expression"):
        if fields[name] and names.is_missing(fields[name]):
            yield f"{name} is {fields[name]!r}, as if it were missing"
    if not tables.is_path(fields["path"]):
        yield f"path is {fields['path'][:40]!r}... of {len(fields['path'])} characters"
    if fields["score"] and tables.number(fields["score"]) is None:
        yield f"score is {fields['score'][:80]!r}, not a number"
    fps = tables.number(fields.get("fps") or "1")
    if fps is None or not _FPS[0] <= fps <= _FPS[1]:
        yield f"fps is {fields['fps'][:80]!r}, not a number of frames per second from {_FPS[0]} to {_FPS[1]}"
    if has_split and fields["split"].lower() not in _SPLITS:
        yield f"split is {fields['split'][:80]!r}, not train or test"


def _code_faults(fields: Mapping[str, str], codes: Mapping[str, frozenset[float]]) -> Iterator[str]:
    for name, found in codes.items():
        if tables.number(fields[name]) in found:
            cure = "remove the row" if name == "score" else "leave the cell empty"
            yield f"{name} is {fields[name]}, which looks like a code for a missing rating; {cure}"
