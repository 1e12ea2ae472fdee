"""YouTubePD: facial trajectories of people with and without Parkinson's disease (NeurIPS 2023 benchmark).

Layout of the public repository, as read here:

    Data_Extraction/train.csv        official list: "videoN_final.mp4 SCORE" on each line
    Data_Extraction/test.csv         the same for the official test videos; optional
    Landmarks/videoN/K.pickle        frame K: {Face++ name: {"x": int, "y": int}} for 106 names
    Landmarks/videoN/multi_label.txt the same score again

Points are pixels of a 256-pixel face crop (in the training list 20 to 236), so they are taken as they are. The files
do not state a frame rate; the authors' own video model is configured for 20 frames per second, and so is ``FPS``.
There are no images: clips carry the trajectory stream only, with two channels (x, y).
"""

import dataclasses
import io
import pickle
import pickletools
import re
import reprlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tramp_jax.data import landmark_checks
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.landmarks import FACEPP_106
from tramp_jax.data.problems import DataError, Problem, Problems
from tramp_jax.errors import UserError

ADDRESS = "https://github.com/anshgs/YouTubePD_Additional_Modalities"
FPS = 20.0
MAX_SCORE = 10

_LISTS = {"train": "Data_Extraction/train.csv", "test": "Data_Extraction/test.csv"}
_MAX_BYTES = 64 * 1024  # a published frame has under 4 kB
_FARTHEST = 256  # a point may lie outside its 256-pixel crop, but by less than the crop's own size
_VIDEO = re.compile(r"(?:.*/)?(video\d+)_final\.mp4")  # older copies of the lists have a folder in front
_FRAME = re.compile(r"([1-9]\d*)\.pickle")
_AGAIN = f"restore it from {ADDRESS}"


def _text(padding: bytes) -> bytes:
    """Pattern of a string of up to 63 bytes: its length, ``padding``, its bytes."""
    return b"|".join(re.escape(bytes([length])) + padding + b".{%d}" % length for length in range(64))


# A pickle is a program. This is the grammar of one that can only build dicts of dicts of ints: none of its
# instructions can name, import, build or call an object, or reserve more memory than the file is long. Each instruction
# begins with a byte of its own, so the match takes linear time.
_INSTRUCTIONS = (
    rb"\x80.|\x95.{8}",  # PROTO, FRAME
    rb"[}(su\x94]",  # EMPTY_DICT, MARK, SETITEM, SETITEMS, MEMOIZE
    rb"[qh].|j.{4}",  # BINPUT, BINGET, LONG_BINGET
    rb"K.|M.{2}|J.{4}",  # BININT1, BININT2, BININT
    rb"\x8c(?:%b)|X(?:%b)" % (_text(b""), _text(rb"\x00{3}")),  # SHORT_BINUNICODE, BINUNICODE
)
_PLAIN_PICKLE = re.compile(rb"(?:%b)*+\." % b"|".join(_INSTRUCTIONS), re.DOTALL)  # ... STOP


class YouTubePD:
    """The videos of the official lists as a ``clips.ClipSource``.

    ``infos`` has the training list first, then the test list, each in the published order. The public lists name no
    persons, so every video counts as a subject of its own; should one person appear in two videos, no split made here
    can know. Nobody was asked for an expression, so ``expression`` is "in_the_wild". The score is the clinician's
    severity, 0 (no Parkinson's) to 10.

    Frames in which no face was found have no file. A clip is made of the frames that are there, in order, without
    filling the holes (the training list has none); ``missing`` counts them.

    Attributes:
      split: official list ("train" or "test") of each clip id.
      missing: for each clip id, how many frame numbers between its first and last frame have no file.
    """

    def __init__(self, root: str | Path, max_missing: float = 0.1, problems: Problems | None = None):
        """Reads the lists, the labels and the names of the frame files, not the frames.

        Args:
          root: a clone of the public repository.
          max_missing: a video that lacks more than this share of its frame numbers is refused.
          problems: collects what is wrong with lists, labels and folders; None raises the first.

        Raises:
          UserError: there is no folder ``root``.
          DataError: a missing, malformed or contradictory list, folder or label, or a video with no or too few frames.
        """
        problems = problems or Problems()
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise UserError(
                "missing_file",
                f"{self.root}: no such folder; get the data with `git clone {ADDRESS}` and pass the clone's path "
                "(--config.data.root=PATH)",
            )
        self.split: dict[str, str] = {}
        self.missing: dict[str, int] = {}
        self._frames: list[tuple[Path, ...]] = []
        self._infos: list[ClipInfo] = []
        self._decoded: dict[int, np.ndarray] = {}
        for name, file in _LISTS.items():
            path = self.root / file
            if not path.is_file():
                if name == "train":
                    problems.add("missing_list", f"{path}: the official training list is missing; {_AGAIN}")
                continue
            for video, (score, line) in read_list(path, problems).items():
                place = f"{path}, line {line}"
                if video in self.split:
                    what = f"{place}: {video} is also in {self.root / _LISTS['train']}; {_AGAIN}"
                    problems.add("duplicate_clip", what, place)
                else:
                    self._add(video, score, place, max_missing, name, problems)

    def _add(self, video: str, score: int, listed_in: str, max_missing: float, split: str, problems: Problems) -> None:
        """Takes a video in, or says what is wrong with its folder."""
        folder = self.root / "Landmarks" / video
        if not folder.is_dir():
            what = f"{folder}: no such folder, but {listed_in} names {video}; {_AGAIN}"
            problems.add("missing_frames", what, video)
            return
        faults = len(problems.found)
        label = folder / "multi_label.txt"
        if not label.is_file():
            problems.add("missing_label", f"{label}: the label of {video} is missing; {_AGAIN}", video)
        elif (text := label.read_text(errors="replace").strip()) != str(score):
            what = f"{label} says {text[:20]!r} where {listed_in} says {score}; {_AGAIN}"
            problems.add("contradicting_label", what, video)
        numbers = sorted(int(match[1]) for file in folder.iterdir() if (match := _FRAME.fullmatch(file.name)))
        span = numbers[-1] - numbers[0] + 1 if numbers else 0
        missing = span - len(numbers)
        if not numbers:
            problems.add("missing_frames", f"{folder}: no frames (1.pickle, 2.pickle, ...); {_AGAIN}", video)
        elif missing > max_missing * span:
            what = (
                f"{folder}: {missing} of the {span} frames from {numbers[0]} to {numbers[-1]} are missing; "
                f"more than the {max_missing:.0%} that are accepted; {_AGAIN}"
            )
            problems.add("missing_frames", what, video)
        if len(problems.found) > faults:
            return
        self.split[video], self.missing[video] = split, missing
        self._frames.append(tuple(folder / f"{number}.pickle" for number in numbers))
        self._infos.append(ClipInfo(video, video, "in_the_wild", float(score), len(numbers), source=listed_in))

    @property
    def infos(self) -> Sequence[ClipInfo]:
        return self._infos

    def __len__(self) -> int:
        return len(self._infos)

    def __getitem__(self, index: int) -> Clip:
        """Clip ``index`` without frames, layout "facepp106".

        Raises:
          DataError: a frame file that is not exactly what was published.
        """
        if index not in self._decoded:  # decoded once; the whole data set takes about 20 MB
            self._decoded[index] = np.stack([read_frame(path) for path in self._frames[index]])
        return Clip(self._infos[index], self._decoded[index].copy(), "facepp106", fps=FPS)

    def problems(self, index: int) -> Iterator[Problem]:
        """Everything that is wrong with the frame files of clip ``index``."""
        for path in self._frames[index]:
            try:
                read_frame(path)
            except DataError as error:
                yield dataclasses.replace(error.problem, clip=self._infos[index].id)

    def official_split(self) -> dict[str, frozenset[str]]:
        """Subjects of the official "train" and "test" lists.

        Raises:
          UserError: there is no test list.
        """
        if "test" not in self.split.values():
            raise UserError(
                "bad_data",
                f"{self.root / _LISTS['test']}: the official test list is missing or empty; {_AGAIN}, "
                "or cross-validate on the training list",
            )
        return {name: frozenset(i.subject for i in self._infos if self.split[i.id] == name) for name in _LISTS}


def read_list(path: Path, problems: Problems | None = None) -> dict[str, tuple[int, int]]:
    """An official list: video name -> (severity score, line counted from 1), in the order of the file.

    Raises:
      DataError: a line is not "videoN_final.mp4 SCORE" with a score of 0 to 10, or a video is listed twice; unless
        ``problems`` collects them, when the line is left out.
    """
    problems = problems or Problems()
    listed: dict[str, tuple[int, int]] = {}
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        video = _VIDEO.fullmatch(fields[0])
        score = int(fields[1]) if len(fields) == 2 and re.fullmatch(r"[0-9]{1,2}", fields[1]) else -1
        if not video or not 0 <= score <= MAX_SCORE:
            problems.add(
                "bad_score" if video else "bad_id",
                f"{path}, line {number}: {line[:80]!r} is not 'videoN_final.mp4 SCORE' with a score of 0 to "
                f"{MAX_SCORE}; {_AGAIN}",
                f"{path}, line {number}",
            )
        elif video[1] in listed:
            what = f"{path}, line {number}: {video[1]} is listed a second time, after line {listed[video[1]][1]}"
            problems.add("duplicate_clip", f"{what}; {_AGAIN}", f"{path}, line {number}")
        else:
            listed[video[1]] = score, number
    return listed


def read_frame(path: Path) -> np.ndarray:
    """One frame file -> (106, 2) float32 (x, y) in pixels, in the order of ``landmarks.FACEPP_106``.

    Raises:
      DataError: the file is too large, holds anything but dicts, strings and ints, or its landmarks are not the 106
        published ones of a face, with integer coordinates in the crop. Nothing in the file is executed.
    """
    points = _load(path)
    if not isinstance(points, dict):
        raise _refused("unreadable_pickle", f"{path}: holds a {type(points).__name__}, not a dict of landmarks")
    if points.keys() != _NAMES:
        absent = [name for name in FACEPP_106 if name not in points]
        unknown = [str(name) for name in points if name not in _NAMES]
        what = f"{path}: missing landmarks {absent[:5]}, unknown landmarks {unknown[:5]}"
        raise _refused("missing_landmarks", what)
    for name, point in points.items():
        if not isinstance(point, dict) or point.keys() != {"x", "y"} or not all(map(_is_pixel, point.values())):
            what = f"{path}: landmark {name} is {reprlib.repr(point)}, not integer x and y in pixels of the crop"
            raise _refused("landmarks_out_of_crop", what)
    frame = np.array([(points[name]["x"], points[name]["y"]) for name in FACEPP_106], np.float32)
    number = int(path.stem) if path.stem.isdecimal() else 1
    for kind, what in landmark_checks.faults(frame[None], first=number):
        raise _refused(kind, f"{path}: {what}")
    return frame


def _load(path: Path) -> Any:
    if not path.is_file():
        raise _refused("missing_frames", f"{path}: no such file any more")
    size = path.stat().st_size
    if not size:
        raise _refused("empty_file", f"{path}: refused, it is empty (0 bytes)")
    if size > _MAX_BYTES:
        raise _refused("oversized_file", f"{path}: too large for one frame ({size} bytes)")
    try:
        return _load_plain(path.read_bytes())
    except Exception as error:  # a damaged pickle raises almost anything
        what = f"{path}: refused, it is not a pickle of plain dicts, strings and ints ({error})"
        raise _refused("unreadable_pickle", what) from error


def _refused(kind: str, what: str) -> DataError:
    return DataError(Problem(kind, f"{what}; {_AGAIN}"))


_NAMES = frozenset(FACEPP_106)


def _is_pixel(value: object) -> bool:
    return isinstance(value, int) and -_FARTHEST <= value < 2 * _FARTHEST


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that can build built-in containers only: every name it is asked to look up is refused."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it asks for an object outside the file")


def _load_plain(raw: bytes) -> Any:
    """Unpickles dicts, strings and ints; anything else raises before it is built."""
    if not _PLAIN_PICKLE.fullmatch(raw):
        names = {opcode.name for opcode, _, _ in pickletools.genops(raw)}  # only reads; raises where it makes no sense
        raise pickle.UnpicklingError(f"its instructions are {', '.join(sorted(names))}")
    return _PlainUnpickler(io.BytesIO(raw)).load()
