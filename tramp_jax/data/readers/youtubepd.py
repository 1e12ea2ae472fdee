"""YouTubePD: facial trajectories of people with and without Parkinson's disease (NeurIPS 2023 benchmark).

The layout is that of the public repository:

    Data_Extraction/train.csv        official list: "videoN_final.mp4 SCORE" on each line
    Data_Extraction/test.csv         the same for the test videos; optional
    Landmarks/videoN/K.pickle        frame K: {Face++ name: {"x": int, "y": int}} for 106 names
    Landmarks/videoN/multi_label.txt the same score again

Points are already whole pixels of a 256-pixel face crop (20 to 236 in the training list). The files do not state a
frame rate, but hold every second frame of the authors' 20 per second: their motion correlates with that of the authors'
20-per-second regions by 0.98 at 10 frames per second, and by 0.13 at 20, in 70 of 70 videos. There are no images, so
clips have landmarks only.
"""

import dataclasses
import io
import pickle
import pickletools
import re
import reprlib
from pathlib import Path
from typing import Any

import numpy as np

from tramp_jax.data import landmark_checks, tables
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.landmarks import FACEPP_106
from tramp_jax.data.problems import DataError, Problem, Problems
from tramp_jax.data.readers.base import check_wanted, root_folder
from tramp_jax.data.source import Dataset, Facts, FileSource, RatingScale, Wanted

MAX_SCORE = 10
FACTS = Facts(
    RatingScale("severity of Parkinson's disease", 0.0, float(MAX_SCORE), "none", "most"),
    layouts=("facepp106",),
    fps=10.0,
)

ADDRESS = "https://github.com/anshgs/YouTubePD_Additional_Modalities"
MAX_MISSING = 0.1  # a video that lacks a larger share of its frames is refused

_LISTS = {"train": "Data_Extraction/train.csv", "test": "Data_Extraction/test.csv"}
_MAX_BYTES = 64 * 1024  # a published frame has under 4 kB
_FARTHEST = 256  # a point may lie outside its 256-pixel crop by less than the crop's size
_VIDEO = re.compile(r"(?:.*/)?(video\d+)_final\.mp4")  # older copies of the lists have a folder in front
_FRAME = re.compile(r"([1-9]\d*)\.pickle")
_NAMES = frozenset(FACEPP_106)
_AGAIN = f"restore it from {ADDRESS}"
_HOW_TO_GET = f"Get YouTubePD with `git clone {ADDRESS}`, and name the clone with --config.data.root=PATH"


def _text(padding: bytes) -> bytes:
    """A pattern for a string of up to 63 bytes: its length, ``padding``, its bytes."""
    return b"|".join(re.escape(bytes([length])) + padding + b".{%d}" % length for length in range(64))


# A pickle is a program. This grammar allows only programs that build dicts of dicts of ints: no instruction can name,
# import, build or call an object, or reserve more memory than the file's size. Each instruction begins with a different
# byte, so matching takes linear time.
_INSTRUCTIONS = (
    rb"\x80.|\x95.{8}",  # PROTO, FRAME
    rb"[}(su\x94]",  # EMPTY_DICT, MARK, SETITEM, SETITEMS, MEMOIZE
    rb"[qh].|j.{4}",  # BINPUT, BINGET, LONG_BINGET
    rb"K.|M.{2}|J.{4}",  # BININT1, BININT2, BININT
    rb"\x8c(?:%b)|X(?:%b)" % (_text(b""), _text(rb"\x00{3}")),  # SHORT_BINUNICODE, BINUNICODE
)
_PLAIN_PICKLE = re.compile(rb"(?:%b)*+\." % b"|".join(_INSTRUCTIONS), re.DOTALL)  # ... STOP


@dataclasses.dataclass(frozen=True)
class Options:
    """YouTubePD has no options of its own."""


def open(root: str | Path, options: Options, wanted: Wanted, problems: Problems) -> Dataset:
    """Reads the lists, the labels and the names of the frame files. Clips come in the order of the lists.

    The lists do not name people, so every video is its own subject; no split can account for a person who appears in
    two videos. ``expression`` is "in_the_wild", because no one was asked for one. The score is the clinician's severity
    rating, 0 (no Parkinson's) to 10.

    A frame without a detected face has no file. A clip consists of the frames that exist, in order (the training list
    has no gaps).
    """
    check_wanted("youtubepd", wanted)
    root = root_folder(root, _HOW_TO_GET)
    infos: list[ClipInfo] = []
    frames: dict[str, tuple[Path, ...]] = {}
    official: dict[str, frozenset[str]] = dict.fromkeys(_LISTS, frozenset())
    for part, file in _LISTS.items():
        path = root / file
        if not path.is_file():
            if part == "train":
                problems.add("missing_list", f"{path}: the official training list is missing; {_AGAIN}")
            continue
        listed = len(infos)
        for video, (score, line) in read_list(path, problems).items():
            place = f"{path}, line {line}"
            if video in frames:
                message = f"{place}: {video} is also in {root / _LISTS['train']}; {_AGAIN}"
                problems.add("duplicate_clip", message, place)
            elif found := _frame_files(root / "Landmarks" / video, score, place, problems):
                frames[video] = found
                infos.append(ClipInfo(video, video, "in_the_wild", float(score), len(found), source=place))
        official[part] = frozenset(info.subject for info in infos[listed:])
    decoded: dict[str, np.ndarray] = {}

    def read(info: ClipInfo, problems: Problems) -> Clip | None:
        if info.id not in decoded:  # the whole decoded data set takes about 20 MB
            sound = []
            for path in frames[info.id]:
                try:
                    sound.append(read_frame(path))
                except DataError as error:
                    problems.add(error.problem.kind, error.problem.message, info.id)
            if len(sound) < len(frames[info.id]):
                return None
            decoded[info.id] = np.stack(sound)
        return Clip(info, decoded[info.id].copy(), FACTS.layouts[0], fps=FACTS.fps)

    return Dataset(FileSource(infos, read), FACTS, official if official["test"] else None)


def _frame_files(folder: Path, score: int, place: str, problems: Problems) -> tuple[Path, ...]:
    """The frame files of a video in order; () if there is a problem with its folder or label."""
    video = folder.name
    if not folder.is_dir():
        message = f"{folder}: no such folder, but {place} names {video}; {_AGAIN}"
        problems.add("missing_frames", message, video)
        return ()
    before = len(problems.found)
    label = folder / "multi_label.txt"
    if not label.is_file():
        problems.add("missing_label", f"{label}: the label of {video} is missing; {_AGAIN}", video)
    elif (text := label.read_text(errors="replace").strip()) != str(score):
        message = f"{label} says {text[:20]!r}, but {place} says {score}; {_AGAIN}"
        problems.add("contradicting_label", message, video)
    numbers = sorted(int(match[1]) for file in folder.iterdir() if (match := _FRAME.fullmatch(file.name)))
    span = numbers[-1] - numbers[0] + 1 if numbers else 0
    missing = span - len(numbers)
    if not numbers:
        problems.add("missing_frames", f"{folder}: no frames (1.pickle, 2.pickle, ...); {_AGAIN}", video)
    elif missing > MAX_MISSING * span:
        message = (
            f"{folder}: {missing} of the {span} frames from {numbers[0]} to {numbers[-1]} are missing, more than "
            f"{MAX_MISSING:.0%}; {_AGAIN}"
        )
        problems.add("missing_frames", message, video)
    return () if len(problems.found) > before else tuple(folder / f"{number}.pickle" for number in numbers)


def read_list(path: Path, problems: Problems) -> dict[str, tuple[int, int]]:
    """Reads an official list: video name -> (severity score, line counted from 1), in the order of the file.

    Raises:
      DataError: a line is not "videoN_final.mp4 SCORE" with a score from 0 to 10, or a video is listed twice. If
        ``problems`` collects them instead, the line is skipped.
    """
    listed: dict[str, tuple[int, int]] = {}
    for number, line in enumerate(tables.read_lines(path, problems), 1):
        fields = line.split()
        if not fields:
            continue
        video = _VIDEO.fullmatch(fields[0])
        score = int(fields[1]) if len(fields) == 2 and re.fullmatch(r"[0-9]{1,2}", fields[1]) else -1
        if not video or not 0 <= score <= MAX_SCORE:
            problems.add(
                "bad_score" if video else "bad_id",
                f"{path}, line {number}: {line[:80]!r} is not 'videoN_final.mp4 SCORE' with a score from 0 to "
                f"{MAX_SCORE}; {_AGAIN}",
                f"{path}, line {number}",
            )
        elif video[1] in listed:
            what = f"{path}, line {number}: {video[1]} is already listed in line {listed[video[1]][1]}"
            problems.add("duplicate_clip", f"{what}; {_AGAIN}", f"{path}, line {number}")
        else:
            listed[video[1]] = score, number
    return listed


def read_frame(path: Path) -> np.ndarray:
    """Reads a frame file: (106, 2) float32 (x, y) in pixels, in the order of ``landmarks.FACEPP_106``.

    Nothing in the file is executed.

    Raises:
      DataError: the file is too large, holds anything but dicts, strings and ints, or does not have the 106 published
        landmarks with integer coordinates near the crop.
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
    first = int(path.stem) - 1 if path.stem.isdecimal() else 0  # files are numbered from 1
    for kind, what in landmark_checks.faults(frame[None], first=first):
        raise _refused(kind, f"{path}: {what}")
    return frame


def _load(path: Path) -> Any:
    if not path.is_file():
        raise _refused("missing_frames", f"{path}: the file is gone")
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


def _is_pixel(value: object) -> bool:
    return isinstance(value, int) and -_FARTHEST <= value < 2 * _FARTHEST


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that only builds built-in containers: it refuses to look up any name."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")


def _load_plain(raw: bytes) -> Any:
    """Unpickles dicts, strings and ints. Anything else raises before it is built."""
    if not _PLAIN_PICKLE.fullmatch(raw):
        names = {opcode.name for opcode, _, _ in pickletools.genops(raw)}  # only reads; raises if it makes no sense
        raise pickle.UnpicklingError(f"its instructions are {', '.join(sorted(names))}")
    return _PlainUnpickler(io.BytesIO(raw)).load()
