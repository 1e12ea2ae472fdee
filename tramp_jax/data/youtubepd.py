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

import io
import pickle
import pickletools
import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.landmarks import FACEPP_106

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

    def __init__(self, root: str | Path, max_missing: float = 0.1):
        """Reads the lists, the labels and the names of the frame files, not the frames.

        Args:
          root: a clone of the public repository.
          max_missing: a video that lacks more than this share of its frame numbers is refused.

        Raises:
          FileNotFoundError: the root, the training list, a listed video's folder or its label is missing.
          ValueError: a malformed or contradictory list or label, or a video with no or too few frames.
        """
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"{self.root}: no such folder; get the data with `git clone {ADDRESS}` and pass the clone's path "
                "(--config.data.root=PATH)"
            )
        self.split: dict[str, str] = {}
        self.missing: dict[str, int] = {}
        self._frames: list[tuple[Path, ...]] = []
        self._infos: list[ClipInfo] = []
        self._decoded: dict[int, np.ndarray] = {}
        for name, file in _LISTS.items():
            path = self.root / file
            if name == "train" and not path.is_file():
                raise FileNotFoundError(f"{path}: the official training list is missing; {_AGAIN}")
            for video, score in read_list(path).items() if path.is_file() else ():
                if video in self.split:
                    raise ValueError(f"{path}: {video} is also in {self.root / _LISTS['train']}; {_AGAIN}")
                self.split[video] = name
                self._add(video, score, path, max_missing)

    def _add(self, video: str, score: int, listed_in: Path, max_missing: float) -> None:
        folder = self.root / "Landmarks" / video
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder, but {listed_in} lists {video}; {_AGAIN}")
        label = folder / "multi_label.txt"
        if not label.is_file():
            raise FileNotFoundError(f"{label}: the label of {video} is missing; {_AGAIN}")
        text = label.read_text(errors="replace").strip()
        if text != str(score):
            raise ValueError(f"{label} says {text[:20]!r} where {listed_in} says {score}; {_AGAIN}")
        numbers = sorted(int(match[1]) for file in folder.iterdir() if (match := _FRAME.fullmatch(file.name)))
        if not numbers:
            raise ValueError(f"{folder}: no frames (1.pickle, 2.pickle, ...); {_AGAIN}")
        span = numbers[-1] - numbers[0] + 1
        self.missing[video] = span - len(numbers)
        if self.missing[video] > max_missing * span:
            raise ValueError(
                f"{folder}: {self.missing[video]} of the {span} frames from {numbers[0]} to {numbers[-1]} are missing; "
                f"more than the {max_missing:.0%} that are accepted; {_AGAIN}"
            )
        self._frames.append(tuple(folder / f"{number}.pickle" for number in numbers))
        self._infos.append(ClipInfo(video, video, "in_the_wild", float(score), len(numbers)))

    @property
    def infos(self) -> Sequence[ClipInfo]:
        return self._infos

    def __len__(self) -> int:
        return len(self._infos)

    def __getitem__(self, index: int) -> Clip:
        """Clip ``index`` without frames, layout "facepp106".

        Raises:
          ValueError: a frame file that is not exactly what was published.
        """
        if index not in self._decoded:  # decoded once; the whole data set takes about 20 MB
            self._decoded[index] = np.stack([read_frame(path) for path in self._frames[index]])
        return Clip(self._infos[index], self._decoded[index].copy(), "facepp106", fps=FPS)

    def official_split(self) -> dict[str, frozenset[str]]:
        """Subjects of the official "train" and "test" lists.

        Raises:
          ValueError: there is no test list.
        """
        if "test" not in self.split.values():
            raise ValueError(
                f"{self.root / _LISTS['test']}: the official test list is missing or empty; {_AGAIN}, "
                "or cross-validate on the training list"
            )
        return {name: frozenset(i.subject for i in self._infos if self.split[i.id] == name) for name in _LISTS}


def read_list(path: Path) -> dict[str, int]:
    """An official list: video name -> severity score, in the order of the file.

    Raises:
      ValueError: a line is not "videoN_final.mp4 SCORE" with a score of 0 to 10, or a video is listed twice.
    """
    scores: dict[str, int] = {}
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        video = _VIDEO.fullmatch(fields[0])
        if len(fields) != 2 or not video or not re.fullmatch(r"\d{1,2}", fields[1]) or int(fields[1]) > MAX_SCORE:
            raise ValueError(
                f"{path}, line {number}: {line[:80]!r} is not 'videoN_final.mp4 SCORE' with a score of 0 to "
                f"{MAX_SCORE}; {_AGAIN}"
            )
        if video[1] in scores:
            raise ValueError(f"{path}, line {number}: {video[1]} is listed a second time; {_AGAIN}")
        scores[video[1]] = int(fields[1])
    return scores


def read_frame(path: Path) -> np.ndarray:
    """One frame file -> (106, 2) float32 (x, y) in pixels, in the order of ``landmarks.FACEPP_106``.

    Raises:
      ValueError: the file is too large, holds anything but dicts, strings and ints, or its landmarks are not the 106
        published ones with integer coordinates near the crop. Nothing in the file is executed.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path}: too large for one frame ({path.stat().st_size} bytes); {_AGAIN}")
    try:
        points = _load_plain(path.read_bytes())
    except Exception as error:  # a damaged pickle raises almost anything
        raise ValueError(
            f"{path}: refused, it is not a pickle of plain dicts, strings and ints ({error}); {_AGAIN}"
        ) from error
    if not isinstance(points, dict):
        raise ValueError(f"{path}: holds a {type(points).__name__}, not a dict of landmarks; {_AGAIN}")
    if points.keys() != _NAMES:
        absent = [name for name in FACEPP_106 if name not in points]
        unknown = [str(name) for name in points if name not in _NAMES]
        raise ValueError(f"{path}: missing landmarks {absent[:5]}, unknown landmarks {unknown[:5]}; {_AGAIN}")
    for name, point in points.items():
        if not isinstance(point, dict) or point.keys() != {"x", "y"} or not all(map(_is_pixel, point.values())):
            raise ValueError(
                f"{path}: landmark {name} is {reprlib.repr(point)}, not integer x and y in pixels of the crop; {_AGAIN}"
            )
    return np.array([(points[name]["x"], points[name]["y"]) for name in FACEPP_106], np.float32)


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
