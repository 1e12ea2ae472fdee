"""Your own clips: a folder for each, and a CSV list of who shows what in them, with which score.

    ROOT/clips.csv          a row per clip: path, subject, expression, score and, if you like, more (``Folder``)
    ROOT/PATH/*.jpg         or .png: face crops of 256×256 in natural order of their names (2.jpg before 10.jpg)
    ROOT/PATH/landmarks.npy (n, P, 2), pixels of the crop
    ROOT/PATH/clip.json     {"layout": "insightface106", "fps": 25.0}; layout is a key of ``landmarks.LAYOUTS``
    ROOT/PATH/colours.npy   (n, 63, 3) uint8 RGB under the 63 points; optional, else taken from the frames
    ROOT/PATH/depth.npy     (n, P) depth of the landmarks in pixels; optional

``tramp-jax preprocess`` makes such folders of videos and photographs, by ``write_clip``.
"""

import dataclasses
import json
import math
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tramp_jax.data import clip_files, landmarks, tables
from tramp_jax.data.clips import Clip, ClipInfo, encode_frame
from tramp_jax.data.problems import DataError, Problem, Problems
from tramp_jax.errors import UserError

LIST = "clips.csv"
DESCRIPTION, LANDMARKS, COLOURS, DEPTH = "clip.json", "landmarks.npy", "colours.npy", "depth.npy"
DEFAULT_FPS = 25.0

_REQUIRED = ("path", "subject", "expression", "score")
_OPTIONAL = ("id", "group", "fps", "split")
_SPLITS = ("train", "test")
_VIDEOS = (".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
_AGAIN = "make the clip again with `tramp-jax preprocess`"
_ABSENT = f"""A folder of your own clips needs a list, ROOT/{LIST}, with the columns path, subject, expression, score:
    path,subject,expression,score
    clips/anna_smile_1,anna,smile,3
and for each path, relative to ROOT, a folder of face crops with landmarks, which `tramp-jax preprocess` makes of
videos and photographs. Then: python train.py --config configs/folder.py --config.data.root=ROOT"""


@dataclasses.dataclass(frozen=True)
class _Row:
    """A row of the list: the folder of its clip, what is known of the clip, and its frame rate (0: as clip.json)."""

    folder: Path
    info: ClipInfo
    fps: float


class Folder:
    """The clips of a list as a ``clips.ClipSource``, in the order of the list.

    The list has the columns path (of a clip's folder, relative to the list), subject, expression and score; optional
    are id (else the path is the id), group, fps (else that of clip.json), and split ("train" or "test" in each row).
    Every other column that holds numbers alone, such as a second score, is a target by its name, for ``data.target``;
    other columns are not read.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        clip_list: str | Path = "",
        with_frames: bool = True,
        with_pixels: bool = True,
        with_landmarks: bool = True,
        problems: Problems | None = None,
    ):
        """Reads the list, and of each clip the number of its frames.

        Args:
          root: folder with the list.
          clip_list: "" for ``root``/clips.csv or ``root``/clips.xlsx.
          with_frames: whether clips have frames.
          with_pixels: whether clips have the colours under the landmarks. Without both, no image is needed.
          with_landmarks: False for a model of frames alone: landmarks.npy is not looked at, clip.json not needed, and
            clips have landmarks that are NaN and no colours.
          problems: takes what is wrong with the list; None raises the first error.

        Raises:
          UserError: there is no such folder or list; with what to put where.
          DataError: the first error in the list, unless ``problems`` collects.
        """
        self.root = Path(root).expanduser()
        if not str(root) or not self.root.is_dir():
            raise UserError("missing_file", f"{str(root)!r} (data.root): no such folder.\n{_ABSENT}")
        problems = problems or Problems()
        path = Path(clip_list).expanduser() if clip_list else tables.find(self.root, (LIST,), "clip_list", problems)
        if path is None or not path.is_file():
            path = path or self.root / LIST
            raise UserError(
                "missing_file", f"{path}: no such list; name another with --config.data.clip_list=FILE.\n{_ABSENT}"
            )
        self._with_frames, self._with_pixels = with_frames, with_pixels and with_landmarks
        self._with_landmarks = with_landmarks
        self._rows, self._subjects = _read_list(path, with_landmarks, problems)
        self._infos = [row.info for row in self._rows]

    @property
    def infos(self) -> Sequence[ClipInfo]:
        return self._infos

    def __len__(self) -> int:
        return len(self._infos)

    def official_split(self) -> dict[str, frozenset[str]] | None:
        """Subjects of "train" and of "test", where the list has a column "split" with both; else None."""
        return dict(self._subjects) if all(self._subjects.values()) else None

    def __getitem__(self, index: int) -> Clip:
        """Clip ``index``.

        Raises:
          DataError: the first of ``problems(index)``, though an image that is not needed is not decoded.
        """
        row = self._rows[index]
        clip = _read(row.folder, row.info, self._with_frames, self._with_pixels, self._with_landmarks)
        return dataclasses.replace(clip, fps=row.fps or clip.fps)

    def problems(self, index: int) -> Iterator[Problem]:
        """Everything that is wrong with the files of clip ``index``; every image is decoded."""
        row = self._rows[index]
        if self._with_landmarks:
            try:
                layout = _layout(_describe(row.folder, row.info.id), row.folder, row.info.id)
                _points(row.folder, row.info, layout)
            except DataError as error:
                yield error.problem
        given = (row.folder / COLOURS).is_file()
        if self._with_pixels and given:
            try:
                clip_files.read_colours(row.folder / COLOURS, row.info, _AGAIN)
            except DataError as error:
                yield error.problem
        if self._with_frames or (self._with_pixels and not given):
            yield from clip_files.frame_problems(row.folder, row.info, _AGAIN)

    def few_frames(self, index: int) -> tuple[bytes, ...]:
        """A few images of clip ``index``, to tell whether two clips are the same; () where frames are not wanted."""
        return clip_files.few(clip_files.image_files(self._rows[index].folder)) if self._with_frames else ()


def _read_list(path: Path, with_landmarks: bool, problems: Problems) -> tuple[list[_Row], dict[str, frozenset[str]]]:
    before = len(problems.found)
    columns, table = tables.read_table(path, _REQUIRED, problems)
    targets = [
        name
        for name in columns
        if name not in _REQUIRED + _OPTIONAL and name and _numeric([row[name] for row in table.values()])
    ]
    rows: list[_Row] = []
    seen: dict[str, int] = {}
    parts: dict[str, str] = {}  # subject -> split
    for number, fields in table.items():
        where = f"{path}, row {number}"
        clip = fields.get("id") or fields["path"]
        wrong = _row_fault(fields, "split" in columns)
        if wrong:
            problems.add("malformed_row", f"{where}: {wrong}; correct the row", clip)
            continue
        if clip in seen:
            message = f"{where}: clip {clip!r} is also in row {seen[clip]}; remove one of the two, or give each an id"
            problems.add("duplicate_clip", message, clip)
            continue
        seen[clip] = number
        subject, split = fields["subject"], fields.get("split", "").lower()
        if parts.setdefault(subject, split) != split:
            problems.add(
                "subject_in_both_lists",
                f"{where}: subject {subject} is in {split} here and in {parts[subject]} before; a model must not be "
                "tested on people it was trained on: move all rows of a subject to one side",
                clip,
            )
            continue
        folder = path.parent / fields["path"]
        try:
            count = _count(folder, clip, with_landmarks)
        except DataError as error:
            problems.add(error.problem.kind, f"{where}: {error.problem.message}", clip)
            continue
        info = ClipInfo(
            id=clip,
            subject=subject,
            expression=fields["expression"],
            score=float(fields["score"]),
            num_frames=count,
            group=fields.get("group", ""),
            targets=tuple((name, float(fields[name])) for name in targets if fields[name]),
            source=where,
        )
        rows.append(_Row(folder, info, float(fields.get("fps") or 0)))
    if not table and len(problems.found) == before:
        problems.add("empty_list", f"{path}: lists no clips.\n{_ABSENT}")
    listed = {row.info.subject for row in rows}
    return rows, {part: frozenset(s for s in listed if parts[s] == part) for part in _SPLITS}


def _numeric(values: Sequence[str]) -> bool:
    given = [value for value in values if value]
    return bool(given) and all(tables.number(value) is not None for value in given)


def _row_fault(fields: Mapping[str, str], has_split: bool) -> str:
    """What is wrong with a row by itself, or ""."""
    for name in _REQUIRED:
        if not fields[name]:
            return f"{name} is empty"
    if tables.number(fields["score"]) is None:
        return f"score is {fields['score'][:80]!r}, not a number (decimals have a point)"
    fps = tables.number(fields.get("fps") or "1")
    if fps is None or fps <= 0:
        return f"fps is {fields['fps'][:80]!r}, not a number above 0"
    if has_split and fields["split"].lower() not in _SPLITS:
        return f"split is {fields['split'][:80]!r}, not train or test"
    return ""


def _count(folder: Path, clip: str, with_landmarks: bool = True) -> int:
    """Frames of a clip, as its landmarks tell, without reading them; or its images, where landmarks are not wanted.

    Raises:
      DataError: it was not preprocessed, or its file of landmarks is damaged.
    """
    if folder.is_file() and folder.suffix.lower() in _VIDEOS:
        message = f"{folder} is a video; make a clip of it first with `tramp-jax preprocess`, and list that"
        raise clip_files.fault("not_preprocessed", message, clip)
    if not folder.is_dir():
        raise clip_files.fault("missing_clip", f"{folder}: no such folder of a clip; correct its path", clip)
    if not with_landmarks:
        if count := len(clip_files.image_files(folder)):
            return count
        raise clip_files.fault("missing_frames", f"{folder}: has no images; {_AGAIN}", clip)
    path = folder / LANDMARKS
    if not path.is_file():
        message = f"{folder}: has no {LANDMARKS}; find the face and its landmarks first with `tramp-jax preprocess`"
        raise clip_files.fault("not_preprocessed", message, clip)
    try:
        return len(np.lib.format.open_memmap(path, mode="r"))
    except Exception as error:  # a damaged file raises almost anything
        message = f"{path}: refused, it is not a plain .npy array of numbers ({error}); {_AGAIN}"
        raise clip_files.fault("unreadable_array", message, clip) from error


def read_clip(folder: str | Path, with_frames: bool = True, with_pixels: bool = True) -> Clip:
    """The clip of a folder, by itself: what its clip.json does not say is "" or, of the score, NaN.

    Args:
      folder: of the clip.
      with_frames: whether frames are read; a clip without images has none, whatever is asked for.
      with_pixels: whether colours under the landmarks are read, from colours.npy or else from the images.

    Raises:
      DataError: anything is wrong with it, named with its file and the cure.
    """
    folder = Path(folder)
    clip = folder.name
    count = _count(folder, clip)
    described = _describe(folder, clip)
    targets = described.get("targets", {})
    try:
        info = ClipInfo(
            id=str(described.get("id", clip)),
            subject=str(described.get("subject", "")),
            expression=str(described.get("expression", "")),
            score=float("nan" if described.get("score") is None else described["score"]),
            num_frames=count,
            group=str(described.get("group", "")),
            targets=tuple((str(name), float(value)) for name, value in targets.items()),
            source=str(folder),
        )
    except (TypeError, ValueError, AttributeError) as error:
        message = f"{folder / DESCRIPTION}: score and targets must be numbers ({error}); {_AGAIN}"
        raise clip_files.fault("bad_description", message, clip) from error
    has_images = bool(clip_files.image_files(folder))
    return _read(folder, info, with_frames and has_images, with_pixels and (has_images or (folder / COLOURS).is_file()))


def _read(folder: Path, info: ClipInfo, with_frames: bool, with_pixels: bool, with_landmarks: bool = True) -> Clip:
    # Frames by themselves need no description.
    described = _describe(folder, info.id) if with_landmarks or (folder / DESCRIPTION).is_file() else {}
    points, layout = clip_files.no_points(info)
    if with_landmarks:
        layout = _layout(described, folder, info.id)
        points = _points(folder, info, layout)
    given = (folder / COLOURS).is_file()
    frames: tuple[bytes, ...] | None = None
    if with_frames or (with_pixels and not given):
        frames = clip_files.read_frames(folder, info, _AGAIN)
    pixels: np.ndarray | None = None
    if with_pixels and given:
        pixels = clip_files.read_colours(folder / COLOURS, info, _AGAIN)
    elif with_pixels:
        assert frames is not None
        pixels = clip_files.colours_under(frames, points, layout, folder, info.id, _AGAIN)
    fps = described.get("fps", DEFAULT_FPS)
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < math.inf:
        message = f"{folder / DESCRIPTION}: fps is {fps!r}, not a number above 0; {_AGAIN}"
        raise clip_files.fault("bad_description", message, info.id)
    depth = _depth(folder, info, points.shape[1]) if with_landmarks else None
    return Clip(info, points, layout, pixels, frames if with_frames else None, float(fps), depth)


def _describe(folder: Path, clip: str) -> dict[str, Any]:
    """What clip.json says."""
    path = folder / DESCRIPTION
    if not path.is_file():
        message = f'{path}: no such file; it must say which landmarks these are: {{"layout": NAME}}; {_AGAIN}'
        raise clip_files.fault("bad_description", message, clip)
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise clip_files.fault("bad_description", f"{path}: is no JSON ({error}); {_AGAIN}", clip) from error
    if not isinstance(described, dict):
        raise clip_files.fault("bad_description", f"{path}: holds no object {{...}}; {_AGAIN}", clip)
    return described


def _layout(described: Mapping[str, Any], folder: Path, clip: str) -> str:
    layout = described.get("layout")
    if not isinstance(layout, str) or layout not in landmarks.LAYOUTS:
        known = ", ".join(landmarks.LAYOUTS)
        message = f"{folder / DESCRIPTION}: layout is {layout!r}; known: {known}"
        raise clip_files.fault("bad_description", message, clip)
    return layout


def _points(folder: Path, info: ClipInfo, layout: str) -> np.ndarray:
    return clip_files.read_points(folder / LANDMARKS, info, (layout,), _AGAIN)[0]


def _depth(folder: Path, info: ClipInfo, num_points: int) -> np.ndarray | None:
    path = folder / DEPTH
    if not path.is_file():
        return None
    try:
        depth = clip_files.load_npy(path)
    except Exception as error:  # a damaged file raises almost anything
        message = f"{path}: refused, it is not a plain .npy array of numbers ({error}); {_AGAIN}"
        raise clip_files.fault("unreadable_array", message, info.id) from error
    if depth.shape != (info.num_frames, num_points) or depth.dtype.kind not in "fiu" or not np.isfinite(depth).all():
        message = f"{path}: must hold numbers of shape ({info.num_frames}, {num_points}), one a landmark; {_AGAIN}"
        raise clip_files.fault("wrong_shape", message, info.id)
    return depth.astype(np.float32)


def write_clip(folder: str | Path, clip: Clip, overwrite: bool = False) -> None:
    """Makes the folder of a clip, whole or not at all: it is written beside its place and then renamed.

    Frames that are image files are stored as they are, arrays as JPEG of quality 95. What a killed process leaves is
    a folder whose name begins with a dot, which no reader looks at.

    Args:
      folder: to make; its parents are made, too.
      clip: of which ``read_clip(folder)`` gives the same again.
      overwrite: replace a clip that is there.

    Raises:
      FileExistsError: the folder exists and is not to be overwritten, or is not a clip's.
      UserError: parts of the clip that do not fit together.
    """
    folder = Path(folder).expanduser().absolute()
    _check(clip)
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder}: exists already")
    if folder.exists() and not (folder / DESCRIPTION).is_file():
        raise FileExistsError(f"{folder}: exists and is no clip (it has no {DESCRIPTION}), so it is not overwritten")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # In the same parent, since a folder cannot be renamed from one disk to another.
    made, old = (folder.with_name(f".{folder.name}-{secrets.token_hex(4)}.{kind}") for kind in ("tmp", "old"))
    made.mkdir()
    try:
        _write(made, clip)
        if folder.exists():
            folder.rename(old)  # a folder that is not empty cannot be renamed over
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _check(clip: Clip) -> None:
    """Refuses what ``read_clip`` would refuse."""
    landmarks.layout_of(clip.landmarks, clip.layout)
    count = len(clip.landmarks)
    if not count or not np.isfinite(clip.landmarks).all():
        raise UserError("bad_data", f"clip {clip.info.id}: needs at least one frame, and landmarks that are numbers")
    lengths = {"frames": clip.frames, "pixels": clip.pixels, "depth": clip.depth}
    for name, part in lengths.items():
        if part is not None and len(part) != count:
            raise UserError(
                "bad_data", f"clip {clip.info.id}: has landmarks of {count} frames and {name} of {len(part)}"
            )
    if clip.pixels is not None and (clip.pixels.shape[1:] != (63, 3) or clip.pixels.dtype != np.uint8):
        raise UserError("bad_data", f"clip {clip.info.id}: pixels must be (n, 63, 3) uint8, not {clip.pixels.shape}")
    if clip.depth is not None and clip.depth.shape != clip.landmarks.shape[:2]:
        raise UserError("bad_data", f"clip {clip.info.id}: depth must be (n, P), not {clip.depth.shape}")
    if isinstance(clip.frames, np.ndarray) and clip.frames.shape[1:] != (clip_files.FRAME_SIZE,) * 2 + (3,):
        raise UserError("bad_data", f"clip {clip.info.id}: frames must be (n, 256, 256, 3), not {clip.frames.shape}")
    if not 0 < clip.fps < math.inf:
        raise UserError("bad_data", f"clip {clip.info.id}: fps is {clip.fps}; it must be above 0")


def _write(folder: Path, clip: Clip) -> None:
    for number, frame in enumerate(() if clip.frames is None else clip.frames, 1):
        image = encode_frame(frame) if isinstance(frame, np.ndarray) else frame
        kind = "png" if image.startswith(b"\x89PNG") else "jpg"
        (folder / f"{number:06d}.{kind}").write_bytes(image)
    np.save(folder / LANDMARKS, clip.landmarks.astype(np.float32))
    if clip.pixels is not None:
        np.save(folder / COLOURS, clip.pixels)
    if clip.depth is not None:
        np.save(folder / DEPTH, clip.depth.astype(np.float32))
    info = clip.info
    description = {
        "layout": clip.layout,
        "fps": clip.fps,
        "id": info.id,
        "subject": info.subject,
        "expression": info.expression,
        "score": info.score if math.isfinite(info.score) else None,
        "group": info.group,
        "targets": dict(info.targets),
        "source": info.source,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, allow_nan=False) + "\n", encoding="utf-8")
