"""Landmark tables written by OpenFace, or by py-feat with its 68 points (Fex).

docs/data.md lists the columns. A table has one row per frame. Commas, semicolons or tabs separate its fields; without
commas, decimals may have one. Blanks around column names are ignored, but case matters: OpenFace has x_0 in pixels and
X_0 in millimetres. Frames count from 1 in OpenFace and from 0 in py-feat, whose column ``input`` names the video, or
each frame's image.
"""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tramp_jax.data import gaps, landmark_checks, rate, tables
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.face_box import face_box
from tramp_jax.data.frame_numbers import spell
from tramp_jax.data.landmarks import NUM_IBUG, NUM_LANDMARKS, PUPILS, from_ibug68
from tramp_jax.data.problems import Problems
from tramp_jax.errors import UserError

LAYOUT = "points63"
MIN_CONFIDENCE = 0.5
MAX_REPEATED = 0.1  # share of frames that may repeat the one before; where a tracker works, the last digits differ
# OpenFace stamps a folder of images with 1000 frames a second. Milliseconds taken for seconds give less than one.
MIN_FPS, MAX_FPS = 2.0, 300.0

_POINTS = tuple(f"{axis}_{i}" for axis in "xy" for i in range(NUM_IBUG))
_FURTHER = ("frame", "timestamp", "success", "confidence", "FaceScore", "face_id", "input")
_SPOKEN = {"TRUE": "1", "FALSE": "0", "True": "1", "False": "0"}  # as spreadsheets and pandas write 1 and 0
_IRISES = (range(8), range(28, 36))  # of the eye on the left of the image, and of the other


@dataclasses.dataclass(frozen=True)
class Table:
    """The landmarks of a video of n frames."""

    points: np.ndarray  # (n, 64, 2) float64, layout "points63", pixels of the video's frame; NaN without a face
    found: np.ndarray  # (n,) bool, whether a frame has a face
    seconds: np.ndarray | None  # (n,) when each frame is shown; None if the table does not say


class Trajectory(NamedTuple):
    """The landmarks of a clip."""

    points: np.ndarray  # (m, 64, 2) float32 in the layout ``LAYOUT``, pixels of a 256×256 crop
    fps: float  # frames per second
    interpolated: np.ndarray  # (m,) bool, whether a frame had no face
    warnings: tuple[str, ...]  # what was interpolated, cut off or resampled, and whether the tracker stalled

    def clip(self, info: ClipInfo) -> Clip:
        """A clip of landmarks only. Fills in the frame count of ``info``."""
        info = dataclasses.replace(info, num_frames=len(self.points))
        return Clip(info, self.points, LAYOUT, fps=self.fps, landmark_source="table")


def read(path: Path, cut: bool = False) -> Table:
    """Reads a table. Frames without a row have no face.

    With ``cut``, the table may be a part of a longer one, so its lowest frame number is the first frame. Otherwise,
    frame numbers count from the beginning of the video.

    Raises:
      UserError: missing_file; bad_columns, bad_data or unreadable_table if it is not such a table; no_single_face if it
        shows several people or videos, or has rows for less than half of its frames.
    """
    if not path.is_file():
        raise UserError("missing_file", f"{path}: no such file; it must be a table of OpenFace or py-feat")
    header, rows = _cells(path)
    points = _numbers(path, header, rows, _POINTS).reshape(-1, 2, NUM_IBUG).swapaxes(1, 2)
    found = np.isfinite(points).all((1, 2)) & (np.ptp(points, axis=1) > 0).any(1)  # some programs write zeros
    for name, least in (("success", 1), ("confidence", MIN_CONFIDENCE), ("FaceScore", MIN_CONFIDENCE)):
        if name in header:
            values = _numbers(path, header, rows, [name])[:, 0]
            if np.nanmax(values, initial=0) > 1:
                raise UserError("bad_data", f"{path}: column {name} reaches {np.nanmax(values):g}, but must be 0 to 1")
            found &= values >= least
    frames = _frames(path, header, rows, found, cut)
    converted = from_ibug68(points[found])
    if "eye_lmk_x_0" in header:
        for pupil, iris in zip(PUPILS, _IRISES, strict=True):
            names = [f"eye_lmk_{axis}_{i}" for axis in "xy" for i in iris]
            converted[:, pupil] = _numbers(path, header, rows, names)[found].reshape(-1, 2, len(iris)).mean(axis=2)
    count = int(frames.max(initial=-1)) + 1
    everywhere = np.full((count, NUM_LANDMARKS + 1, 2), np.nan)
    everywhere[frames[found]] = converted
    seconds = None
    if "timestamp" in header:
        order = np.argsort(frames, kind="stable")
        stamps = _numbers(path, header, rows, ["timestamp"])[:, 0]
        seconds = np.interp(np.arange(count), frames[order], stamps[order]) if count else stamps
    return Table(everywhere, np.isfinite(everywhere).all((1, 2)), seconds)


def read_trajectory(path: Path, fps: float = 0.0, max_gap: int = gaps.MAX_GAP) -> Trajectory:
    """Turns a table into the landmarks of a clip.

    Gaps are interpolated (``gaps``), the frame rate becomes constant (``rate``), and the points move to the face crop
    (``face_box``).

    ``fps`` is the clip's frames per second; 0 is the rate of the timestamps. A table without timestamps has this rate.
    ``max_gap`` is the longest gap that is interpolated, in frames.

    Raises:
      UserError: see ``read`` and ``gaps.bridge``; no_frame_rate; bad_data for times that are not seconds in order;
        not_upright, mirrored_landmarks, and the kinds of ``landmark_checks.faults``, for points that cannot be one
        upright face in pixels.
    """
    table = read(path, cut=True)
    _check_face(path, table)
    try:
        span, points = gaps.bridge(table.points, table.found, max_gap)
        timing = _timing(table.seconds, span, fps)
    except UserError as error:
        raise UserError(error.kind, f"{path}: {error}") from error
    count, warnings = len(table.found), []
    if len(points) < count:
        warnings.append(f"{spell(range(span.start, span.stop))} of {count} are used; the others have no face")
    if lost := int((~table.found[span]).sum()):
        warnings.append(f"{lost} of {len(points)} frames have no face, so their landmarks were interpolated")
    repeated = (np.diff(points, axis=0) == 0).all((1, 2)) & table.found[span][1:]
    if repeated.sum() > MAX_REPEATED * len(points):
        warnings.append(
            f"{repeated.sum()} of {len(points)} frames have the landmarks of the one before: the tracker or the camera "
            "stalled, so movements are lost or jerky; make the table again"
        )
    points = points[timing.chosen]
    inside = face_box(points[:, :NUM_LANDMARKS]).map(points)
    return Trajectory(inside, timing.fps, ~table.found[span][timing.chosen], (*warnings, *timing.warnings))


def _check_face(path: Path, table: Table) -> None:
    """Raises UserError if the points cannot be those of one upright face, in pixels."""
    frames, points = np.flatnonzero(table.found), table.points[table.found, :NUM_LANDMARKS]
    for kind, what in landmark_checks.faults(table.points, size=None):
        raise UserError(kind, f"{path}: {what}")
    if not len(frames):
        return
    middles, side = np.median(points, axis=1), np.median(np.ptp(points, axis=1).max(1))
    jumps = np.linalg.norm(np.diff(middles, axis=0), axis=1) > side
    if jumps.any():
        frame = spell(frames[jumps.argmax() + 1])
        message = f"{path}: the face jumps to another place at {frame}, by more than its size"
        raise UserError("no_single_face", f"{message}; keep the rows of one person, in order, or cut the clip there")
    for kind, what in landmark_checks.wrong_way(table.points, LAYOUT):
        raise UserError(kind, f"{path}: {what}; correct the points, or turn the video and make the table again")


def _timing(seconds: np.ndarray | None, span: slice, fps: float) -> rate.Timing:
    """Timing of the frames in ``span`` from the table's timestamps, resampled to ``fps`` unless it is 0.

    If the timestamps are unusable, it comes from ``fps`` alone.
    """
    unusable = "has no timestamps"
    if seconds is not None:
        seconds = seconds[span]
        unusable = "has timestamps that do not increase"
        steps = np.diff(seconds)
        if (steps < 0).any():
            message = f"has timestamps that go back after {seconds[(steps < 0).argmax()]:g} s; sort the rows by time"
            raise UserError("bad_data", f"{message}, and keep those of one recording")
        if np.isfinite(seconds).all() and (steps > 0).all():
            own = rate.constant(seconds, 0.0, first=span.start)
            if own.fps < MIN_FPS:
                message = f"has timestamps of {own.fps:.2g} frames per second, so they are not seconds (milliseconds?)"
                raise UserError("bad_data", f"{message}; convert them to seconds, or remove the column and set fps")
            if own.fps <= MAX_FPS:
                return rate.constant(seconds, 0.0, fps) if fps else own
            unusable = f"has timestamps of {own.fps:g} frames per second, as OpenFace writes for images"
    if not fps:
        raise UserError("no_frame_rate", f"{unusable}; set its frames per second (fps)")
    rate.check(fps)
    return rate.Timing(fps, np.arange(span.stop - span.start))


def _cells(path: Path) -> tuple[dict[str, int], list[list[str]]]:
    """The index of each column, and the rows."""
    lines = tables.read_lines(path, Problems())
    separator, hint = tables.separator(lines)
    reader = csv.reader(lines, delimiter=separator)
    try:
        numbered = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise UserError("unreadable_table", f"{path}: not comma-separated values ({error})") from error
    table = dict(numbered[1:] if hint else numbered)
    header = table.pop(min(table, default=0), [])
    if separator != ",":
        table = {number: [cell.replace(",", ".") for cell in row] for number, row in table.items()}
    names = [name.strip() for name in header]
    columns = {name: i for i, name in enumerate(names)}
    if twice := next((name for name in (*_POINTS, *_FURTHER) if names.count(name) > 1), ""):
        raise UserError("bad_columns", f"{path}: has two columns {twice}; keep one of them")
    missing = [name for name in _POINTS if name not in columns]
    if missing or f"x_{NUM_IBUG}" in columns:
        found = f"lacks {missing[0]}" if missing else f"has more than {NUM_IBUG} points"
        raise UserError(
            "bad_columns",
            f"{path}: {found}; a landmark table from OpenFace (with -2Dfp) or py-feat has columns x_0 to x_67 and y_0 "
            "to y_67",
        )
    if not table:
        raise UserError("bad_data", f"{path}: has no rows")
    for number, row in table.items():
        if len(row) != len(header):
            message = f"{path}, row {number}: has {len(row)} fields, but the header names {len(header)} columns"
            raise UserError("bad_data", f"{message}; make the table again")
    return columns, list(table.values())


def _numbers(path: Path, header: dict[str, int], rows: list[list[str]], names: Sequence[str]) -> np.ndarray:
    """Columns as numbers (rows, names); an empty field is NaN, and so is the "-nan(ind)" of Windows."""
    places = [header[name] for name in names if name in header]
    if len(places) < len(names):
        missing = next(name for name in names if name not in header)
        raise UserError("bad_columns", f"{path}: lacks {missing}; make the table again")
    try:
        cells = [[_SPOKEN.get(cell := row[place].strip(), cell) for place in places] for row in rows]
        return np.array([[c if c and "nan" not in c.lower() else "nan" for c in row] for row in cells], np.float64)
    except ValueError as error:
        raise UserError("bad_data", f"{path}: {', '.join(names[:2])}: {error}; make the table again") from error


def _frames(path: Path, header: dict[str, int], rows: list[list[str]], found: np.ndarray, cut: bool) -> np.ndarray:
    """The frame of each row, (rows,) int from 0, after checking that no frame shows two people; see ``read``."""
    if "face_id" in header:
        place = header["face_id"]
        people = sorted({row[place].strip() for row, has_face in zip(rows, found, strict=True) if has_face})
        if len(people) > 1:
            message = f"{path}: has several faces, face_id {', '.join(people[:5])}; keep the rows of one person"
            raise UserError("no_single_face", message)
    if "input" in header:
        videos = list(dict.fromkeys(row[header["input"]] for row in rows))
        if 1 < len(videos) < len(rows):  # py-feat names each row's file; images have a row each
            message = f"{path}: has rows of {len(videos)} videos, {', '.join(videos[:2])}, …; make a table of each"
            raise UserError("no_single_face", message)
    if "frame" not in header:
        return np.arange(len(rows))
    numbers = _numbers(path, header, rows, ["frame"])[:, 0]
    if not (np.isfinite(numbers).all() and (numbers >= 0).all() and (numbers % 1 == 0).all()):
        raise UserError("bad_data", f"{path}: column frame must hold whole numbers from 0; make the table again")
    first = numbers.min()
    if not cut:
        first = 0 if first == 0 or "FaceScore" in header else 1
    if numbers.max() + 1 - first > len(rows) / gaps.MIN_SHARE:
        message = f"{path}: has {len(rows)} rows, but the last is frame {numbers.max():g}; it needs all frames"
        raise UserError("no_single_face", message)
    seen, times = np.unique(numbers[found], return_counts=True)
    if times.max(initial=1) > 1:
        message = f"{path}: has several faces in frame {seen[times.argmax()]:g}; keep the rows of one person"
        raise UserError("no_single_face", message)
    return (numbers - first).astype(int)
