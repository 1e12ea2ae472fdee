"""PFED5: five facial expressions of 41 people with Parkinson's disease, rated 0-4 by the MDS-UPDRS.

The layout is that of the authors' two code releases, in one folder ROOT; PATIENT and VIDEO are taken from a clip's id:

    ROOT/train_41.csv, ROOT/test_41.csv             official lists as TraMP-Former names them, or
    ROOT/PFED5_train.csv, ROOT/PFED5_test.csv       as QAFE-Net names them
    ROOT/PATIENT/VIDEO/*.jpg                        frames, 256×256, 25 per second
    ROOT/detect_73_crop/PATIENT/VIDEO-PATIENT.npy   landmarks (n, 73, 2), pixels of the frame
    ROOT/RGB_1x1_fromLK/PATIENT/VIDEO-PATIENT.npy   RGB under the landmarks (n, 71, 3), 0-255; optional

A list has the columns id, score, frames and, in column 3 or 4 counted from 0, the expression 0-4. PATIENT is what
follows the last "_" of the id, VIDEO its first 11 characters. Lists, landmarks and colours may also lie elsewhere.
"""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tramp_jax.data import landmarks
from tramp_jax.data.clips import Clip, ClipInfo, decode_frame

EXPRESSIONS = ("sit_at_rest", "smile", "frown", "squeeze_eyes", "clench_teeth")
MAX_SCORE = 4
FPS = 25.0
FRAME_SIZE = 256
LAYOUT = "insightface73"
FRAMES_ADDRESS = "https://github.com/shuchaoduan/QAFE-Net"
TRAJECTORIES_ADDRESS = "https://github.com/shuchaoduan/TraMP-Former"
LISTS = {"train": ("train_41.csv", "PFED5_train.csv"), "test": ("test_41.csv", "PFED5_test.csv")}
LANDMARKS_FOLDER, PIXELS_FOLDER = "detect_73_crop", "RGB_1x1_fromLK"

_EXPRESSION_COLUMNS = (3, 4)
_VIDEO_LENGTH = 11
# Neither a blank nor a path may hide in an id: it names folders.
_ID = re.compile(r"(?!\.)[^\s/\\]+_[^\s/\\_.][^\s/\\_]*")
_ABSENT = f"""PFED5 (clips of 41 people with Parkinson's disease) is not public. To obtain it:
  1. sign the authors' request form, for the frames and the lists: {FRAMES_ADDRESS}
  2. download their trajectory data (landmarks and colours): {TRAJECTORIES_ADDRESS}
  3. unpack both into one folder ROOT: ROOT/train_41.csv, ROOT/test_41.csv, ROOT/PATIENT/VIDEO/*.jpg,
     ROOT/{LANDMARKS_FOLDER}/PATIENT/VIDEO-PATIENT.npy, ROOT/{PIXELS_FOLDER}/PATIENT/VIDEO-PATIENT.npy
  4. python train.py --config configs/pfed5.py:smile --config.data.root=ROOT
Without it: python train.py --config configs/synthetic.py"""
_AGAIN = "restore it from the authors' download"


class PFED5:
    """The clips of both official lists as a ``clips.ClipSource``: the training list, then the test list.

    ``expression`` is one of ``EXPRESSIONS``, ``subject`` is PATIENT, and landmarks have the layout "insightface73".
    Frames are the published JPEG files, in natural order of their names (2.jpg before 10.jpg).
    """

    def __init__(
        self,
        root: str | Path,
        *,
        landmarks_root: str | Path = "",
        pixels_root: str | Path = "",
        train_list: str | Path = "",
        test_list: str | Path = "",
        expression_column: int = 0,
        with_frames: bool = True,
    ):
        """Reads the lists and nothing else.

        Args:
          root: folder of the patients' folders of frames.
          landmarks_root: "" for ``root``/detect_73_crop.
          pixels_root: "" for ``root``/RGB_1x1_fromLK. Where that folder is absent, colours are taken from the frames
            under the landmarks, which costs the decoding of every frame.
          train_list: "" for ``root``/train_41.csv or ``root``/PFED5_train.csv.
          test_list: "" for ``root``/test_41.csv or ``root``/PFED5_test.csv.
          expression_column: of the lists, counted from 0; 0 to find it, see ``read_list``.
          with_frames: False reads no frames, so that the published trajectories suffice: clips have ``frames`` None
            and, without a folder of colours, ``pixels`` None.

        Raises:
          FileNotFoundError: a missing folder or list, with what to obtain and where to put it.
          ValueError: a malformed list, or a subject in both lists.
        """
        self.root = Path(root).expanduser()
        if not str(root) or not self.root.is_dir():
            raise FileNotFoundError(f"{str(root)!r} (data.root): no such folder.\n{_ABSENT}")
        self._with_frames = with_frames
        self._landmarks_root = self._folder(landmarks_root, LANDMARKS_FOLDER, "landmarks")
        self._pixels_root: Path | None = None
        if pixels_root or (self.root / PIXELS_FOLDER).is_dir():
            self._pixels_root = self._folder(pixels_root, PIXELS_FOLDER, "pixels")

        self._infos: list[ClipInfo] = []
        self._subjects: dict[str, frozenset[str]] = {}
        paths = {"train": self._list(train_list, "train"), "test": self._list(test_list, "test")}
        for name, path in paths.items():
            infos = read_list(path, expression_column)
            self._infos += infos
            self._subjects[name] = frozenset(info.subject for info in infos)
        if both := self._subjects["train"] & self._subjects["test"]:
            raise ValueError(
                f"{paths['test']}: subject {', '.join(sorted(both))} is also in {paths['train']}; a model must not be "
                "tested on people it was trained on: remove those rows from one of the lists"
            )

    def _folder(self, given: str | Path, default: str, what: str) -> Path:
        path = Path(given).expanduser() if given else self.root / default
        if not path.is_dir():
            raise FileNotFoundError(
                f"{path}: no such folder of {what}; download the trajectory data from {TRAJECTORIES_ADDRESS} and "
                f"unpack it there, or name its place with --config.data.{what}_root=FOLDER"
            )
        return path

    def _list(self, given: str | Path, name: str) -> Path:
        if given:
            found = [path for path in [Path(given).expanduser()] if path.is_file()]
        else:
            found = [path for file in LISTS[name] if (path := self.root / file).is_file()]
        if not found:
            where = f"{given}: no such file" if given else f"{self.root}: no {' or '.join(LISTS[name])}"
            raise FileNotFoundError(
                f"{where}; the official {name} list comes with PFED5 ({FRAMES_ADDRESS}): put it there as CSV, or "
                f"name its place with --config.data.{name}_list=FILE"
            )
        if len(found) > 1:
            raise ValueError(
                f"{self.root}: both {found[0].name} and {found[1].name} are there; "
                f"choose one with --config.data.{name}_list=FILE"
            )
        return found[0]

    @property
    def infos(self) -> Sequence[ClipInfo]:
        return self._infos

    def __len__(self) -> int:
        return len(self._infos)

    def official_split(self) -> dict[str, frozenset[str]]:
        """Subjects of the official "train" and "test" lists; no subject is in both."""
        return dict(self._subjects)

    def __getitem__(self, index: int) -> Clip:
        """Clip ``index``.

        Raises:
          FileNotFoundError, ValueError: the first of ``problems(index)``.
        """
        info = self._infos[index]
        points = self._landmarks(info)
        frames = self._frames(info) if self._with_frames else None
        if self._pixels_root is not None:
            pixels: np.ndarray | None = self._pixels(info)
        else:
            pixels = None if frames is None else self._computed_pixels(info, points, frames)
        return Clip(info, points, LAYOUT, pixels, frames, FPS)

    def problems(self, index: int) -> Iterator[str]:
        """What is wrong with the files of clip ``index``: at most one problem each of landmarks, frames and colours.

        Frames are looked at without decoding them.
        """
        parts: list[Callable[[ClipInfo], object]] = [self._landmarks]
        parts += [self._frames] if self._with_frames else []
        parts += [self._pixels] if self._pixels_root is not None else []
        for read in parts:
            try:
                read(self._infos[index])
            except (ValueError, FileNotFoundError) as error:
                yield str(error)

    def _landmarks(self, info: ClipInfo) -> np.ndarray:
        """(n, 73, 2) float32, pixels of the frame."""
        path = _array_path(self._landmarks_root, info)
        points = _read_array(path, info, "landmarks")
        if points.shape[1:] in ((74, 2), (74, 3)):
            points = points[:, 1:, :2]  # the released code also knows files with one more point in front, and a depth
        if points.shape != (info.num_frames, 73, 2):
            raise ValueError(f"{path}: has the shape {points.shape}, not (frames, 73, 2); {_AGAIN}")
        bad = ~np.isfinite(points).all((1, 2))
        if bad.any():
            raise ValueError(
                f"{path}: {bad.sum()} frames have landmarks that are no numbers, the first is frame {bad.argmax()}; "
                "detect them anew, or remove the clip from its list"
            )
        # A point may lie outside the face crop, but by less than the crop's own size.
        if points.min() < -FRAME_SIZE or points.max() > 2 * FRAME_SIZE or np.ptp(points) <= 2:
            raise ValueError(
                f"{path}: landmarks reach from {points.min():g} to {points.max():g}; they must be pixels of the "
                f"{FRAME_SIZE}×{FRAME_SIZE} frame"
            )
        return points.astype(np.float32)

    def _pixels(self, info: ClipInfo) -> np.ndarray:
        """(n, 63, 3) uint8 RGB from the clip's file of colours."""
        assert self._pixels_root is not None
        path = _array_path(self._pixels_root, info)
        colours = _read_array(path, info, "colours")
        if colours.shape != (info.num_frames, 71, 3):
            raise ValueError(f"{path}: has the shape {colours.shape}, not (frames, 71, 3); {_AGAIN}")
        if not ((colours >= 0) & (colours <= 255)).all():  # also where a colour is NaN
            raise ValueError(f"{path}: has colours outside 0-255; {_AGAIN}")
        return np.rint(colours[:, landmarks.LAYOUTS["insightface71"].slots]).astype(np.uint8)

    def _computed_pixels(self, info: ClipInfo, points: np.ndarray, frames: Sequence[bytes]) -> np.ndarray:
        """(n, 63, 3) uint8 RGB from the frames under the landmarks."""
        chosen = landmarks.select(points, LAYOUT)
        colours = []
        for number, frame in enumerate(frames):
            image = decode_frame(frame)
            if image.shape[:2] != (FRAME_SIZE, FRAME_SIZE):
                raise ValueError(
                    f"{self._frame_folder(info)}: frame {number} has {image.shape[1]}×{image.shape[0]} pixels, not "
                    f"the {FRAME_SIZE}×{FRAME_SIZE} that its landmarks refer to; {_AGAIN}"
                )
            colours.append(landmarks.pixel_values(image, chosen[number]))
        return np.stack(colours)

    def _frame_folder(self, info: ClipInfo) -> Path:
        return self.root / info.subject / _video(info)

    def _frames(self, info: ClipInfo) -> tuple[bytes, ...]:
        folder = self._frame_folder(info)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: the frames of clip {info.id} are missing; {_AGAIN}")
        files = sorted(
            (file for file in folder.iterdir() if file.suffix == ".jpg" and not file.name.startswith(".")),
            key=lambda file: (_natural(file.name), file.name),
        )
        if len(files) != info.num_frames:
            raise ValueError(
                f"{folder}: has {len(files)} frames (*.jpg) where the list says {info.num_frames} for clip {info.id}; "
                f"{_AGAIN}, or correct the list"
            )
        frames = tuple(file.read_bytes() for file in files)
        for file, frame in zip(files, frames, strict=True):
            if not frame.startswith(b"\xff\xd8"):  # what every JPEG file begins with
                raise ValueError(f"{file}: is no JPEG image ({len(frame)} bytes); {_AGAIN}")
        return frames


def read_list(path: Path, expression_column: int = 0) -> list[ClipInfo]:
    """An official list, in the order of the file.

    A first row without a number, or of the column numbers 0, 1, 2, ..., is a header; blanks around a field do not
    count. Where ``expression_column`` is 0,
    the expression stands in that one of columns 3 and 4 (counted from 0) which holds a whole number of 0-4 in more
    than half of the rows, and if both do, in the one whose header has "expression" or "class" in it.

    Raises:
      ValueError: a row that is malformed or names the clip of an earlier row, no clips, or no telling which column
        has the expression.
    """
    rows = _rows(path)
    if not rows.keys() - {0}:
        raise ValueError(f"{path}: lists no clips; {_AGAIN}")
    column = expression_column or _expression_column(path, rows)
    infos: list[ClipInfo] = []
    seen: dict[tuple[str, str], int] = {}
    for number, fields in rows.items():
        if number == 0:
            continue
        try:
            info = _info(fields, column)
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}; correct the row, or {_AGAIN}") from None
        clip = (info.subject, _video(info))
        if clip in seen:
            raise ValueError(
                f"{path}, row {number}: {info.id!r} names the same clip as row {seen[clip]} (patient {clip[0]}, video "
                f"{clip[1]}); remove one of the two rows"
            )
        seen[clip] = number
        infos.append(info)
    return infos


def _rows(path: Path) -> dict[int, list[str]]:
    """Row number, counted from 1, to stripped fields, without empty rows; a header is row 0."""
    # Spreadsheet programs begin a file with a byte-order mark.
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        try:
            rows = {i: [field.strip() for field in row] for i, row in enumerate(csv.reader(file), 1)}
        except csv.Error as error:
            raise ValueError(f"{path}: is no table of comma-separated values ({error}); {_AGAIN}") from error
    rows = {i: row for i, row in rows.items() if any(row)}
    first = min(rows, default=0)
    if rows and (not any(map(_is_number, rows[first])) or rows[first] == [str(i) for i in range(len(rows[first]))]):
        rows = {0: rows.pop(first)} | rows
    return rows


def _expression_column(path: Path, rows: dict[int, list[str]]) -> int:
    header = rows.get(0, [])
    data = [fields for number, fields in rows.items() if number]
    fits = [c for c in _EXPRESSION_COLUMNS if 2 * sum(_is_expression(x[c]) for x in data if c < len(x)) > len(data)]
    if len(fits) > 1:
        named = [c for c in fits if c < len(header) and re.search("expression|class", header[c], re.IGNORECASE)]
        fits = named if len(named) == 1 else fits
    if len(fits) == 1:
        return fits[0]
    which = "both columns 3 and 4 hold" if fits else "neither column 3 nor column 4 holds"
    raise ValueError(
        f"{path}: cannot tell which column has the expression: {which} numbers of 0 to {len(EXPRESSIONS) - 1} "
        "(columns counted from 0: id, score, frames, ...); say which with --config.data.expression_column=COLUMN"
    )


def _info(fields: Sequence[str], column: int) -> ClipInfo:
    if len(fields) <= max(column, 2):
        raise ValueError(f"has {len(fields)} columns, but column {column} (counted from 0) must be the expression")
    name, score, frames, expression = fields[0], fields[1], fields[2], fields[column]
    if not _ID.fullmatch(name) or len(name) < _VIDEO_LENGTH:
        raise ValueError(
            f"the id {name[:80]!r} is not an {_VIDEO_LENGTH}-character video, and then _PATIENT at the end, without "
            "blanks or slashes"
        )
    if not _is_number(score) or not 0 <= float(score) <= MAX_SCORE:
        raise ValueError(f"the score {score[:80]!r} (column 1) is not a number of 0 to {MAX_SCORE}")
    if not _is_whole(frames) or float(frames) < 1:
        raise ValueError(f"the number of frames {frames[:80]!r} (column 2) is not a whole number of at least 1")
    if not _is_expression(expression):
        known = ", ".join(f"{i} {label}" for i, label in enumerate(EXPRESSIONS))
        raise ValueError(f"the expression {expression[:80]!r} (column {column}) is none of {known}")
    subject = name.rsplit("_")[-1]
    return ClipInfo(name, subject, EXPRESSIONS[int(float(expression))], float(score), int(float(frames)))


def _is_number(text: str) -> bool:
    # Spreadsheet programs write whole numbers as 3.0, too.
    return re.fullmatch(r"[+-]?\d+(\.\d*)?|\.\d+", text, re.ASCII) is not None


def _is_whole(text: str) -> bool:
    return _is_number(text) and float(text).is_integer()


def _is_expression(text: str) -> bool:
    return _is_whole(text) and 0 <= float(text) < len(EXPRESSIONS)


def _video(info: ClipInfo) -> str:
    return info.id[:_VIDEO_LENGTH]


def _array_path(root: Path, info: ClipInfo) -> Path:
    return root / info.subject / f"{_video(info)}-{info.subject}.npy"


def _natural(name: str) -> list[str | int]:
    """Sort key by which "2" stands before "10"."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name, flags=re.ASCII))]


def _read_array(path: Path, info: ClipInfo, what: str) -> np.ndarray:
    """A numeric array with one entry per frame of the clip; executes nothing that the file holds."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the {what} of clip {info.id} are missing; {_AGAIN}")
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # a damaged file raises almost anything
        raise ValueError(f"{path}: refused, it is not a plain .npy array of numbers ({error}); {_AGAIN}") from error
    if array.ndim != 3 or array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: holds {array.dtype} of shape {array.shape}, not (frames, points, values); {_AGAIN}")
    if len(array) != info.num_frames:
        raise ValueError(
            f"{path}: has {what} of {len(array)} frames where the list says {info.num_frames} for clip {info.id}; "
            f"{_AGAIN}, or correct the list"
        )
    return array
