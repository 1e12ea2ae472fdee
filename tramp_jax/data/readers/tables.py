"""Your own landmarks without video: a table from OpenFace or py-feat for each clip, and a list of them.

    ROOT/clips.csv          one row per clip: path, subject, expression, score and, optionally, more columns
    ROOT/PATH               its table: see ``tramp_jax.data.landmark_tables``

The list is as in ``readers.folder``, but its paths are tables. It needs the column fps if a table has no timestamps;
a table with timestamps is resampled to that rate. Clips have landmarks only, so a model must read the trajectory stream
only, and no colours. Opening the data set reads every table; the landmarks stay in memory, 512 bytes a frame.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from tramp_jax.data import clip_checks, landmark_tables
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.problems import WARNING, Problems
from tramp_jax.data.readers.base import check_wanted
from tramp_jax.data.readers.folder import LIST, Options, Row, read_list
from tramp_jax.data.source import Dataset, Facts, FileSource, Wanted
from tramp_jax.errors import UserError

__all__ = ["FACTS", "Options", "Tables", "open"]

FACTS = Facts(landmark_source="table", layouts=(landmark_tables.LAYOUT,))

_HOW_TO_MAKE = f"""A folder of tables needs a list, ROOT/{LIST}, with the columns path, subject, expression, score:
    path,subject,expression,score
    tables/anna_smile_1.csv,anna,smile,3
and for each path, relative to ROOT, a table from OpenFace or py-feat. Then:
    python train.py --config configs/folder.py:few --config.data.name=tables --config.data.root=ROOT"""


def open(root: str | Path, options: Options, wanted: Wanted, problems: Problems) -> Dataset:
    """Reads the list and all tables. Clips come in the order of the list."""
    check_wanted("tables", wanted)
    tables = Tables(problems)
    rows, official = read_list(root, options, tables.add, _HOW_TO_MAKE, problems)
    return Dataset(tables.source(row.info for row in rows), FACTS, official)


class Tables:
    """The clips of a data set of tables, each read once. ``problems`` takes what is wrong with them."""

    def __init__(self, problems: Problems):
        self._problems = problems
        self._clips: dict[str, Clip] = {}

    def add(self, row: Row) -> int:
        """Reads a row's table. Returns its number of frames, or 0 if it cannot be used."""
        try:
            found = landmark_tables.read_trajectory(row.path, row.fps)
        except UserError as error:
            self._problems.add(error.kind, f"{row.info.source}: {error}", row.info.id)
            return 0
        for warning in found.warnings:
            message = f"{row.info.source}: {row.path}: {warning}"
            self._problems.add("doubtful_landmarks", message, row.info.id, WARNING)
        self._clips[row.info.id] = found.clip(row.info)
        return len(found.points)

    def source(self, infos: Iterable[ClipInfo]) -> FileSource:
        """The clips that were added, in the order of ``infos``."""

        def read(info: ClipInfo, problems: Problems) -> Clip:
            clip = self._clips[info.id]
            for problem in clip_checks.clip_problems(clip):
                problems.add(problem.kind, problem.message, problem.clip)
            return dataclasses.replace(clip, landmarks=clip.landmarks.copy())

        return FileSource(list(infos), read)
