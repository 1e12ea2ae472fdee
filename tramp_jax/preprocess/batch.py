"""Turns many videos into a folder of clips for training, with a list ``clips.csv``. Resumable."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tramp_jax import json_files, shards
from tramp_jax.data import clip_folder, names, tables
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.face_box import Box
from tramp_jax.data.landmark_quality import Quality, measure
from tramp_jax.data.problems import Problems
from tramp_jax.data.readers.folder import LIST
from tramp_jax.errors import UserError
from tramp_jax.files import shortened, write_atomically
from tramp_jax.preprocess.clip import Preprocessed, clip_id
from tramp_jax.preprocess.video import short_name

EVIDENCE = "evidence.json"
VIDEO = "video"  # column of clips.csv: the file the clip was made from
_COLUMNS = ("path", "subject", "expression", "score", VIDEO)
_TAKEN = ("id", "fps", VIDEO)  # columns with another meaning in the list of clips


@dataclasses.dataclass(frozen=True)
class Job:
    """One video to turn into a clip."""

    video: Path  # the file or folder
    name: str  # unique name of the clip and its folder
    info: ClipInfo  # identity and score
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)  # more for the list, such as a second score


def jobs_of(videos: Sequence[Path], subject: str, expression: str, score: float) -> list[Job]:
    """A job for each video, all with the same expression and score. Without a subject, each clip gets its own."""
    return [
        Job(video, name, ClipInfo(name, names.clean(subject) or name, names.clean(expression), score, 0))
        for video, name in zip(videos, _names(videos), strict=True)
    ]


def read_jobs(path: Path) -> list[Job]:
    """Reads a CSV or Excel file with the columns path (relative to the file), subject, expression and score.

    Scores may be empty. Other columns are copied to the list of clips.
    """
    if not path.is_file():
        raise UserError(
            "missing_file",
            f"{path}: no such file; name a CSV or Excel file with the columns path, subject, expression, score",
        )
    columns, table = tables.read_table(path, ("path", "subject", "expression", "score"), Problems())
    for number, row in table.items():
        if not tables.is_path(row["path"]):
            message = f"{path}, row {number}: the path is too long ({len(row['path'])} characters); correct it"
            raise UserError("bad_data", message)
    if taken := next((name for name in columns if name in _TAKEN), ""):
        message = f"{path}: column {taken} has another meaning in {LIST}, so it would be lost; rename or remove it"
        raise UserError("bad_columns", message)
    videos = [tables.located(path.parent, row["path"]) for row in table.values()]
    extra = [name for name in columns if name and name not in _COLUMNS]
    jobs = []
    for (number, row), video, name in zip(table.items(), videos, _names(videos), strict=True):
        score = tables.number(row["score"]) if row["score"] else float("nan")
        subject = names.clean(row["subject"])
        if not row["path"] or names.is_missing(subject) or score is None:
            given = f"path {row['path'][:40]!r}, subject {subject[:40]!r} and score {row['score'][:40]!r}"
            cure = "a row needs a path and a subject, and a score that is a number or empty"
            raise UserError("bad_data", f"{path}, row {number}: has {given}; {cure}")
        info = ClipInfo(name, subject, names.clean(row["expression"]), score, 0, group=row.get("group", ""))
        jobs.append(Job(video, name, info, {column: row[column] for column in extra}))
    if not jobs:
        raise UserError("bad_data", f"{path}: lists no videos")
    return jobs


def _names(videos: Sequence[Path]) -> list[str]:
    """Names each video after its file, without the ending. Equal names get the folder's name as a prefix.

    Spaces become "_", because a clip's id has none. If that makes two names equal, one gets a number. A name that no
    folder can have, because of such a prefix, is shortened.
    """
    paths = [video.resolve() for video in videos]
    short = [short_name(path) for path in paths]
    counts = Counter(short)
    full = [f"{path.parent.name}_{name}" if counts[name] > 1 else name for path, name in zip(paths, short, strict=True)]
    twice = [str(videos[i]) for i, name in enumerate(full) if full.count(name) > 1]
    if twice:
        raise UserError("bad_data", f"{' and '.join(twice)} would become clips with the same name; rename one")
    ids: dict[str, str] = {}
    for name in sorted(full, key=lambda name: (name != clip_id(name), name)):  # names without spaces choose first
        candidate, number = shortened(clip_id(name)), 2
        while candidate in ids.values():
            candidate, number = shortened(f"{clip_id(name)}-{number}"), number + 1
        ids[name] = candidate
    return [ids[name] for name in full]


def further_columns(jobs: Sequence[Job]) -> list[str]:
    """The columns that ``jobs`` add to the list of clips."""
    return sorted({name for job in jobs for name in job.columns})


class ClipList:
    """``clips.csv`` of an output folder: knows which clips are done and adds a row for each new one.

    Each shard has its own list, and knows the clips of the whole one.

    Raises:
      UserError: the list exists, but this program did not write it.
    """

    def __init__(self, root: Path, further: Sequence[str] = (), shard: shards.Shard | None = None):
        self.root = root
        self.path = shard.path(root / LIST) if shard else root / LIST
        self._rows: dict[str, Mapping[str, str]] = {}
        rows: list[list[str]] = []
        header = [*_COLUMNS]
        for path in filter(Path.is_file, (root / LIST, self.path)):
            self._rows |= _read_list(path)
        if self.path.is_file():
            header, *rows = tables.read_rows(self.path, Problems()).values()  # including columns without a name
        self.columns = [names.clean(name).lower() for name in header]
        added = [name for name in further if name not in self.columns]
        self.columns += added
        root.mkdir(parents=True, exist_ok=True)
        # Rewrite it with all columns and a complete last line, even if an earlier run was interrupted.
        filled = [row + [""] * (len(self.columns) - len(row)) for row in rows]
        write_atomically(self.path, tables.csv_text([header + added, *filled]))

    def done(self, job: Job, options: Mapping[str, object] | None = None, overwrite: bool = False) -> bool:
        """Whether the clip of this job exists, is listed, and need not be made again.

        ``options`` is what it would be made with: options by their flags, and the states of files by their names; None
        for any. What is missing from the clip's evidence, because an earlier version wrote it, is not compared. With
        ``overwrite``, it is made again in any case.

        Raises:
          UserError: a clip of that name was made from another video, with other options or from a file that has been
            replaced since; or the video is listed under another name.
        """
        description = self.root / job.name / clip_folder.DESCRIPTION
        listed, there = job.name in self._rows, description.is_file()
        video = str(job.video.resolve())
        if not (listed or there):
            other = next((name for name, row in self._rows.items() if row[VIDEO] == video), None)
            if other is not None:
                raise UserError(
                    "file_exists",
                    f"{self.path}: already lists a clip of {job.video}, as {other!r}; remove that row and its "
                    "folder, or choose another --out",
                )
            return False
        # An unlisted clip was left by an interrupted run, or someone put it there.
        made_from = self._rows[job.name][VIDEO] if listed else _video_of(description)
        if made_from != video:
            raise UserError(
                "bad_data",
                f"{self.root / job.name}: holds a clip of {made_from or 'something else'}, so {job.video} cannot use "
                "this name; rename the video, or choose another --out",
            )
        if overwrite or not (listed and there and (self.root / job.name / EVIDENCE).is_file()):
            return False
        recorded = _read_evidence(self.root / job.name).get("options")
        made_with = recorded if isinstance(recorded, dict) else {}
        differing = [
            f"{flag} {_shown(made_with[flag])}, not {_shown(value)}" if flag.startswith("--") else f"another {flag}"
            for flag, value in (options or {}).items()
            if flag in made_with and made_with[flag] != value
        ]
        if differing:
            raise UserError(
                "bad_data",
                f"{self.root / job.name}: was made with {'; '.join(differing)}; make it again with --overwrite, or "
                "choose another --out",
            )
        return True

    def add(self, job: Job, made: Preprocessed, options: Mapping[str, object] | None = None) -> None:
        """Writes the clip with its evidence and, if it has none yet, its row in the list.

        The evidence records ``options``, plain values for a JSON file; see ``done``.
        """
        target = self.root / job.name
        video = str(job.video.resolve())
        info = dataclasses.replace(made.clip.info, source=video)
        # ``done`` has checked that an existing folder is an earlier clip of the same video.
        known = {**made.evidence(), "options": dict(options or {})}
        evidence = json.dumps(known, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        clip = dataclasses.replace(made.clip, info=info)
        clip_folder.write_clip(target, clip, overwrite=True, further={EVIDENCE: evidence})
        if job.name not in self._rows:
            self._append(job.name, {**_cells(job), "path": job.name, VIDEO: video})

    def changes(self, job: Job, with_subject: bool = True) -> str:
        """How the job differs from its row in the list, such as "score 4, not 3". The job's empty cells are ignored.

        ``with_subject`` is False if nobody named the job's subject.
        """
        row = self._rows.get(job.name)
        if row is None:
            return ""
        return "; ".join(
            f"{column} {cell}, not {row.get(column) or 'empty'}"
            for column, cell in _cells(job).items()
            if cell and (with_subject or column != "subject") and not _equal(cell, row.get(column, ""))
        )

    def _append(self, name: str, row: Mapping[str, str]) -> None:
        added = tables.csv_text([[row.get(column, "") for column in self.columns]])
        write_atomically(self.path, self.path.read_bytes() + added.encode())
        self._rows[name] = row

    def collect(self, parts: Sequence[Path], jobs: Sequence[Job]) -> list[Job]:
        """Moves the rows of all shards' lists here, in the order of ``jobs``. Returns the jobs without a clip."""
        rows = {name: row for part in parts for name, row in _read_list(part).items()}
        for job in jobs:
            if job.name in rows and job.name not in self._rows:
                self._append(job.name, rows[job.name])
        for part in parts:
            part.unlink()
        return [job for job in jobs if job.name not in self._rows]


def _read_list(path: Path) -> dict[str, Mapping[str, str]]:
    """The rows of a list of clips by the names of the clips."""
    _, table = tables.read_table(path, _COLUMNS, Problems())
    return {row["path"]: row for row in table.values()}


def _cells(job: Job) -> dict[str, str]:
    """The cells of a job's row in the list of clips, except path and video."""
    score = "" if math.isnan(job.info.score) else f"{job.info.score:g}"
    return {**job.columns, "subject": job.info.subject, "expression": job.info.expression, "score": score}


def _equal(one: str, other: str) -> bool:
    """Whether two cells hold the same text or the same number."""
    number = tables.number(one)
    return names.clean(one) == names.clean(other) or (number is not None and number == tables.number(other))


def _video_of(description: Path) -> str:
    """The video named by a clip.json; "" if there is none."""
    try:
        return str(json_files.read(description, "").get("source", ""))
    except UserError:
        return ""


@dataclasses.dataclass(frozen=True)
class ClipOrigin:
    """What evidence.json says about the making of a clip of n frames; the defaults mean that it does not say."""

    landmarks: str = ""  # name of the landmark source
    warnings: tuple[str, ...] = ()  # the warnings of ``preprocess``
    interpolated: tuple[bool, ...] = ()  # (n,) whether a frame's landmarks are interpolated
    scores: tuple[float | None, ...] = ()  # (n,) confidence of the landmark source; None for interpolated frames
    crop: Box | None = None  # the square of the video's frame that the crop shows
    frame_size: tuple[int, int] | None = None  # (width, height) of the video

    def quality(self, clip: Clip) -> Quality:
        """Measures the clip's landmarks, using what is known about the picture and the landmark source."""
        if not self.scores or self.crop is None or self.frame_size is None:
            return measure(clip)
        scores = [math.nan if score is None else score for score in self.scores]
        return measure(clip, scores, self.crop.picture(self.frame_size))


def read_origin(clip_folder: Path, count: int) -> ClipOrigin:
    """Reads how a clip of ``count`` frames was made. Without evidence, nothing is known.

    Raises:
      UserError: the file is not the evidence of this clip.
    """
    found = _read_evidence(clip_folder)
    known = {field.name: found[field.name] for field in dataclasses.fields(ClipOrigin) if field.name in found}

    def is_sound(origin: ClipOrigin) -> bool:
        lengths = {len(getattr(origin, name)) for name in ("interpolated", "scores") if name in known}
        return lengths <= {count} and (origin.crop is None or origin.crop.side > 0)

    return json_files.checked_record(ClipOrigin, known, clip_folder / EVIDENCE, "make the clip again", is_sound)


def _read_evidence(clip_folder: Path) -> dict[str, Any]:
    """The contents of a clip's evidence.json; {} if there is none."""
    try:
        return json_files.read(clip_folder / EVIDENCE, "make the clip again")
    except FileNotFoundError:
        return {}


def _shown(value: object) -> str:
    return "unset" if value is None else str(value)
