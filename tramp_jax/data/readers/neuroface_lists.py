"""The lists of Toronto NeuroFace: the published list that cuts videos into repetitions, and the raters' scores."""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tramp_jax.data import tables
from tramp_jax.data.clips import ClipInfo
from tramp_jax.data.problems import WARNING, Problems

TASKS = ("BLOW", "KISS", "BROW", "OPEN", "SPREAD")
UNUSED_TASKS = ("BIGSMILE",)  # in the published list, but not in the published experiments
GROUPS = {"A": "ALS", "S": "stroke", "OP": "stroke", "N": "control"}  # by the letters of a subject's id
SUB_SCORES = ("symmetry", "ROM", "speed", "variability", "fatigue")
MAX_SUB_SCORE = 5
MAX_OVERALL = MAX_SUB_SCORE * len(SUB_SCORES)  # an upper limit, whether it is rated like the sub-scores or is their sum
LIST_ADDRESS = "https://github.com/shuchaoduan/TraMP-Former (data/Toronto_NeuroFace_split_.csv)"
LIST_CURE = f"correct the row, or restore the list from {LIST_ADDRESS}"

# Test subjects of the three published folds. The released code has "S007 " here, which matches no one.
FOLDS = tuple(
    frozenset(fold.split())
    for fold in (
        "N002 OP03 A009 A016 S007 N001 S002 N008 N010 N004 N012 S005",
        "A008 N011 S013 N019 A017 A014 A011 A015 OP02 A012 S011 N003",
        "A010 S008 S001 S009 N017 N007 S012 A006 A002 OP01 S006 S003",
    )
)
SUBJECTS = frozenset().union(*FOLDS)

_FILE = re.compile(r"(([A-Z]+)\d+)((?:_[A-Za-z0-9]+)*)")  # no blanks or slashes, because it names files
_SPLIT_COLUMNS = ("file name", "repid", "number of frames", "start", "end")
_MEASURES = ("overall", *SUB_SCORES)


@dataclasses.dataclass(frozen=True)
class Repetition:
    """A row of the split list."""

    file: str  # File Name
    number: int  # repID
    first: int  # frame in the video, counted from 1
    last: int
    source: str = ""  # list and row

    @property
    def id(self) -> str:
        return f"{self.file}_{self.number}"

    @property
    def num_frames(self) -> int:
        return self.last - self.first + 1


def read_split_list(path: Path, problems: Problems) -> list[Repetition]:
    """Reads the repetitions of ``TASKS`` in the published split list, in the order of the file.

    The columns are File Name, repID, Number of Frames, start, end. Blanks around fields are ignored. Frames count from
    1 (no start in the published list is 0), and both ends are part of the repetition.

    In 22 published rows, start and end span more frames than Number of Frames, mostly because they overlap with the
    repetition before or after. There, Number of Frames decides: a repetition begins after the one before it, if that
    leaves enough frames up to its end, and stops after its number of frames. Every published row then gets its number
    of frames between its start and end, and only one frame (323 of A002_02_NSM_SPREAD_color) is in two repetitions.
    Each such row gets a warning.
    """
    rows: dict[str, list[tuple[int, int, int, int, int]]] = defaultdict(list)  # file -> (end, start, frames, rep, row)
    seen: dict[tuple[str, int], int] = {}
    unused = 0
    for row, fields in tables.read_table(path, _SPLIT_COLUMNS, problems)[1].items():
        file = fields["file name"]
        numbers = [tables.whole(fields[name]) or 0 for name in _SPLIT_COLUMNS[1:]]
        if wrong := "; ".join(_row_faults(fields, numbers)):
            problems.add("malformed_row", f"{path}, row {row}: {wrong}; {LIST_CURE}")
            continue
        repetition, frames, start, end = numbers
        if (file, repetition) in seen:
            message = f"{path}, row {row}: repetition {repetition} of {file} is also in row {seen[file, repetition]}"
            problems.add("duplicate_clip", f"{message}; remove one of the two", f"{file}_{repetition}")
            continue
        seen[file, repetition] = row
        if task_of(file) in UNUSED_TASKS:
            unused += 1
        else:
            rows[file].append((end, start, frames, repetition, row))
    if unused:
        message = f"{path}: skipped {unused} repetitions of {', '.join(UNUSED_TASKS)}, as in the published results"
        problems.add("unused_task", message, severity=WARNING)
    found = {}
    for file, entries in rows.items():
        previous = 0
        for end, start, frames, repetition, row in sorted(entries):
            first = min(max(start, previous + 1), end - frames + 1) if frames < end - start + 1 else start
            previous = first + frames - 1
            found[row] = Repetition(file, repetition, first, previous, f"{path}, row {row}")
            if (first, previous) != (start, end):
                problems.add(
                    "frame_count",
                    f"{path}, row {row}: {start} to {end} is {end - start + 1} frames, not {frames}; using {first} to "
                    f"{previous}",
                    f"{file}_{repetition}",
                    WARNING,
                )
    return [found[row] for row in sorted(found)]


def _row_faults(fields: Mapping[str, str], numbers: Sequence[int]) -> Iterator[str]:
    """Yields what is wrong with a row of the split list, whose whole numbers are ``numbers`` (0 for other text)."""
    file = fields["file name"]
    match = _FILE.fullmatch(file)
    if not match:
        yield f"the File Name {file[:80]!r} is not SUBJECT_..._TASK_... with letters, digits and _"
    elif not task_of(file):
        yield f"the File Name {file!r} does not name one of the tasks {', '.join(TASKS)}"
    if match and match[1] not in SUBJECTS:
        yield f"subject {match[1]} is not in the published folds"
    for name, value in zip(_SPLIT_COLUMNS[1:], numbers, strict=True):
        if value < 1:
            yield f"{name} is {fields[name][:80]!r}, not a whole number of at least 1"
    _, frames, start, end = numbers
    if min(numbers) > 0 and (end < start or frames > end - start + 1):
        yield f"frames {start} to {end} are not the {frames} of Number of Frames"


def task_of(file: str) -> str:
    """The task in a File Name; "" if there is none or more than one."""
    found = [part for part in file.split("_") if part in TASKS + UNUSED_TASKS]
    return found[0] if len(found) == 1 else ""


def read_ratings(path: Path, problems: Problems) -> dict[tuple[str, int], dict[str, float]]:
    """Reads the ratings: {(File Name, repID): {"overall": mean over raters, "symmetry": ..., ...}}.

    There is one row per repetition and rater, with the columns File Name, repID, rater (any name), overall (0 to 25,
    since it may be a sum of sub-scores), and any of symmetry, ROM, speed, variability, fatigue (0 to 5). This format is
    our own: we do not know how the ratings were published. Means ignore empty sub-scores. A repetition without exactly
    two raters gets a warning.
    """
    _, rows = tables.read_table(path, ("file name", "repid", "rater", "overall"), problems)
    given: dict[tuple[str, int], dict[str, int]] = defaultdict(dict)
    values: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row, fields in rows.items():
        repetition, rater = tables.whole(fields["repid"]), fields["rater"]
        scores = {name: fields.get(name.lower(), "") for name in _MEASURES}
        wrong = [*filter(None, (_rating_fault(name, score) for name, score in scores.items()))]
        if repetition is None or not rater or not fields["file name"]:
            wrong.append("needs a File Name, a repID (a whole number) and a rater")
        if wrong or repetition is None:
            problems.add("malformed_row", f"{path}, row {row}: {'; '.join(wrong)}; correct the row")
            continue
        key = (fields["file name"], repetition)
        if rater in given[key]:
            message = f"{path}, row {row}: rater {rater} has already rated the repetition in row {given[key][rater]}"
            problems.add("duplicate_rating", f"{message}; remove one of the two", f"{key[0]}_{key[1]}")
            continue
        given[key][rater] = row
        for name, score in scores.items():
            if score:
                values[key][name].append(float(tables.with_point(score)))
    for key, raters in given.items():
        if len(raters) != 2:
            message = f"{path}: repetition {key[1]} of {key[0]} has {len(raters)} raters, not two"
            problems.add("raters", f"{message}; its score is their mean", f"{key[0]}_{key[1]}", WARNING)
    return {key: {name: math.fsum(x) / len(x) for name, x in scores.items()} for key, scores in values.items()}


def _rating_fault(name: str, text: str) -> str:
    if not text and name != "overall":
        return ""
    value, most = tables.number(text), MAX_OVERALL if name == "overall" else MAX_SUB_SCORE
    good = value is not None and 0 <= value <= most
    return "" if good else f"{name} is {text[:80]!r}, not a number of 0 to {most}"


def clip_info(repetition: Repetition, means: Mapping[str, float]) -> ClipInfo:
    """Describes a repetition with its mean ratings as a clip."""
    match = _FILE.fullmatch(repetition.file)
    assert match is not None
    return ClipInfo(
        id=repetition.id,
        subject=match[1],
        expression=task_of(repetition.file),
        score=means["overall"],
        num_frames=repetition.num_frames,
        group=GROUPS[match[2]],
        targets=tuple((name, means[name]) for name in SUB_SCORES if name in means),
        source=repetition.source,
    )
