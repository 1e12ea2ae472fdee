"""Many videos -> a folder of clips and its list ``clips.csv``, which training reads; resumable."""

import csv
import dataclasses
import io
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tramp_jax.data import folder, tables
from tramp_jax.data.clips import ClipInfo
from tramp_jax.data.problems import Problems
from tramp_jax.preprocess.clip import Preprocessed

EVIDENCE = "evidence.json"
VIDEO = "video"  # column of clips.csv: the file that the clip was made of
_COLUMNS = ("path", "subject", "expression", "score", VIDEO)
_TAKEN = ("id", "fps")  # columns of the list of videos that mean something else in the list of clips


@dataclasses.dataclass(frozen=True)
class Job:
    """One video to be made into a clip.

    Attributes:
      video: the file or folder.
      name: of the clip and its folder, unique.
      info: identity and score.
      columns: further columns for the list, such as the subject's group or a second score.
    """

    video: Path
    name: str
    info: ClipInfo
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)


def jobs_of(videos: Sequence[Path], subject: str, expression: str, score: float) -> list[Job]:
    """A job for each video, all with the same expression and score; the subject is the clip's name where none is given.

    Raises:
      ValueError: two videos would get the same name.
    """
    return [
        Job(video, name, ClipInfo(name, subject or name, expression, score, 0))
        for video, name in zip(videos, _names(videos), strict=True)
    ]


def read_jobs(path: Path) -> list[Job]:
    """The videos of a CSV or Excel file with the columns path (relative to the file), subject, expression and score.

    A score may be missing; further columns go into the list of clips.

    Raises:
      ValueError: the file is missing or malformed, or two videos would get the same name.
    """
    if not path.is_file():
        raise ValueError(
            f"{path}: no such list; it is a CSV or Excel file with the columns path, subject, expression, score"
        )
    columns, table = tables.read_table(path, ("path", "subject", "expression", "score"), Problems())
    videos = [path.parent / Path(row["path"]).expanduser() for row in table.values()]
    further = [name for name in columns if name and name not in (*_COLUMNS, *_TAKEN)]
    jobs = []
    for (number, row), video, name in zip(table.items(), videos, _names(videos), strict=True):
        score = tables.number(row["score"]) if row["score"] else float("nan")
        if not row["path"] or not row["subject"] or score is None:
            raise ValueError(f"{path}, row {number}: needs a path, a subject, and as score a number or nothing")
        info = ClipInfo(name, row["subject"], row["expression"], score, 0, group=row.get("group", ""))
        jobs.append(Job(video, name, info, {column: row[column] for column in further}))
    if not jobs:
        raise ValueError(f"{path}: lists no videos")
    return jobs


def _names(videos: Sequence[Path]) -> list[str]:
    """A name for each video: its own without the ending, with that of its folder in front where two are the same."""
    paths = [video.resolve() for video in videos]
    short = [path.name if path.is_dir() else path.stem for path in paths]
    counts = Counter(short)
    names = [
        f"{path.parent.name}_{name}" if counts[name] > 1 else name for path, name in zip(paths, short, strict=True)
    ]
    twice = [str(videos[i]) for i, name in enumerate(names) if names.count(name) > 1]
    if twice:
        raise ValueError(f"{' and '.join(twice)} would become clips of the same name; rename one")
    return names


class ClipList:
    """``clips.csv`` of an output folder: what is done already, and a row more for every clip.

    Raises:
      ValueError: the list is there, but is not one that this program wrote.
    """

    def __init__(self, root: Path, further: Sequence[str] = ()):
        self.root = root
        self.path = root / folder.LIST
        self._videos: dict[str, str] = {}
        rows: list[dict[str, str]] = []
        columns = [*_COLUMNS]
        if self.path.is_file():
            columns, table = tables.read_table(self.path, _COLUMNS, Problems())
            rows = list(table.values())
            self._videos = {row["path"]: row[VIDEO] for row in rows}
        self.columns = [*columns, *(name for name in further if name not in columns)]
        root.mkdir(parents=True, exist_ok=True)
        # Written anew, so that it has all columns and a complete last line, whatever became of an earlier run.
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text(self._lines([dict(zip(self.columns, self.columns, strict=True)), *rows]), encoding="utf-8")
        os.replace(partial, self.path)

    def _lines(self, rows: Sequence[Mapping[str, str]]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, restval="", extrasaction="ignore", lineterminator="\n").writerows(rows)
        return text.getvalue()

    def done(self, job: Job) -> bool:
        """Whether the clip of this job is there and listed.

        Raises:
          ValueError: a clip of that name was made from another video.
        """
        description = self.root / job.name / folder.DESCRIPTION
        listed, there = job.name in self._videos, description.is_file()
        if not (listed or there):
            return False
        # A clip that is not listed was left by a run that was interrupted, or put there by somebody.
        made_of = self._videos[job.name] if listed else _made_of(description)
        if made_of != str(job.video.resolve()):
            raise ValueError(
                f"{self.root / job.name}: holds a clip of {made_of or 'another origin'}, so that {job.video} cannot "
                "have the same name; rename it, or choose another --out"
            )
        return listed and there

    def add(self, job: Job, made: Preprocessed) -> None:
        """Writes the clip, its evidence and its row."""
        target = self.root / job.name
        video = str(job.video.resolve())
        info = dataclasses.replace(made.clip.info, source=video)
        # ``done`` has made sure that a folder that is there is an earlier clip of the same video.
        folder.write_clip(target, dataclasses.replace(made.clip, info=info), overwrite=True)
        evidence = json.dumps(made.evidence(), indent=1, allow_nan=False, ensure_ascii=False)
        (target / EVIDENCE).write_text(evidence + "\n", encoding="utf-8")
        if job.name not in self._videos:
            score = "" if math.isnan(info.score) else f"{info.score:g}"
            row = {
                "path": job.name,
                "subject": info.subject,
                "expression": info.expression,
                "score": score,
                VIDEO: video,
            }
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(self._lines([{**job.columns, **row}]))
        self._videos[job.name] = video


def _made_of(description: Path) -> str:
    """The video that a clip.json names."""
    try:
        return str(json.loads(description.read_text(encoding="utf-8")).get("source", ""))
    except (ValueError, AttributeError):
        return ""


def read_interpolated(clip_folder: Path, count: int) -> list[bool]:
    """Which of a clip's ``count`` frames have interpolated landmarks, as its evidence tells; [] where there is none."""
    path = clip_folder / EVIDENCE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))["interpolated"]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is not the evidence of a clip ({error}); make the clip again") from error
    if not isinstance(told, list) or len(told) != count:
        raise ValueError(f"{path}: does not fit the clip's {count} frames; make the clip again")
    return [bool(each) for each in told]
