"""DFEW: film clips of faces that show one of seven emotions. The encoders are pre-trained on it.

docs/data.md shows the files. A line of a list is ``path frames label``. The path is on the author's disk, so only its
last part is used, the clip's number in DFEW, such as 00001. Labels are 1-7 in some copies of the lists and 0-6 in
others (such as Former-DFER's own); a 7 or a 0 shows which.
"""

import dataclasses
from pathlib import Path

import numpy as np

from tramp_jax.data import clip_files, tables
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.frame_numbers import spell
from tramp_jax.data.problems import WARNING, Problems
from tramp_jax.data.readers.base import list_file, part_folder, root_folder
from tramp_jax.data.source import Dataset, Facts, FileSource, Wanted
from tramp_jax.errors import UserError

FACTS = Facts(landmark_source="insightface", layouts=("insightface73",), fps=25.0)  # a typical rate; none is published

EMOTIONS = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")  # in the order of the labels
EXPRESSION = "emotion"
ADDRESS = "https://dfew-dataset.github.io"
LISTS_ADDRESS = "https://github.com/zengqunzhao/Former-DFER (folder annotation)"

_HOW_TO_GET = f"""DFEW (film clips of seven emotions) is available on request. To obtain it:
  1. ask its authors for the single-labelled clips: {ADDRESS}
  2. take the lists set_1_train.txt, set_1_test.txt, ... from {LISTS_ADDRESS}
  3. put them into one folder ROOT: ROOT/set_1_train.txt, ROOT/set_1_test.txt, ROOT/frames/00001/*.jpg, and for
     trajectories ROOT/landmarks/00001.npy (n, 73, 2) and, if you have them, ROOT/colours/00001.npy (n, 71, 3)
  4. python train.py --config configs/dfew_trajectory.py --config.data.root=ROOT"""
_FILES_CURE = "restore the frames from DFEW, or detect landmarks in them again"
_LIST_CURE = f"restore it from {LISTS_ADDRESS}"


@dataclasses.dataclass(frozen=True)
class Options:
    """Which clips of DFEW to read, and where its parts are; "" for the usual place in ``config.data.root``."""

    set: int = 1  # which of the five official splits, 1 to 5
    train_list: str = ""
    test_list: str = ""
    frames_root: str = ""
    landmarks_root: str = ""
    colours_root: str = ""  # without this folder, colours are taken from the frames, which must then be 256×256
    first_label: int = -1  # label of "happy" in the lists, 0 or 1; -1 to detect it
    min_frames: int = 1  # shorter clips are skipped; Former-DFER uses 16

    def __post_init__(self) -> None:
        if self.set not in range(1, 6):
            raise UserError("bad_option", f"data.set is {self.set}; DFEW has the sets 1 to 5")
        if self.first_label not in (-1, 0, 1):
            raise UserError("bad_option", f"data.first_label is {self.first_label}; use 0, 1, or -1 to detect it")


def open(root: str | Path, options: Options, wanted: Wanted, problems: Problems) -> Dataset:
    """Reads the lists and the landmarks of each clip, and skips clips that lack a face in some frame.

    Such a clip has no landmark file, or one with a frame whose points are all NaN or zero; it gets a warning. Clips
    come in the order of the training list, then the test list. ``score`` is the class 0-6 in the order of
    ``EMOTIONS``. DFEW does not name people, so every clip is its own subject.
    """
    root = root_folder(root, _HOW_TO_GET)
    landmarks = colours = frames = root
    colours_given = bool(options.colours_root) or (root / "colours").is_dir()
    put = f"put it there.\n{_HOW_TO_GET}"
    if wanted.landmarks:
        landmarks = part_folder(root, options, "landmarks_root", "landmarks", put, Problems())
        if wanted.pixels and colours_given:
            colours = part_folder(root, options, "colours_root", "colours", put, Problems())
    if wanted.frames or (wanted.colours and not colours_given):
        frames = part_folder(root, options, "frames_root", "frames", put, Problems())
    lists = {}
    for part in ("train", "test"):
        path = list_file(root, options, f"{part}_list", (f"set_{options.set}_{part}.txt",), _LIST_CURE, Problems())
        assert path is not None
        lists[part] = path
    infos, official = _read_lists(lists, options.first_label, problems)

    skipped = []
    for info in infos:
        kind, reason = "undetected_face", ""
        if info.num_frames < options.min_frames:
            kind, reason = "short_clip", f"it has {info.num_frames} frames, fewer than {options.min_frames}"
        elif wanted.landmarks:
            reason = _undetected(info, landmarks / f"{info.id}.npy")
        if reason:
            skipped.append(info.id)
            problems.add(kind, f"clip {info.id} is skipped: {reason}", info.id, WARNING)
    if skipped and len(skipped) == len(infos):
        raise UserError(
            "no_clips",
            f"{landmarks if wanted.landmarks else lists['train']}: none of the {len(infos)} listed clips can be used; "
            f"the first, {skipped[0]}, has too few frames or no landmarks",
        )

    def read(info: ClipInfo, problems: Problems) -> Clip | None:
        files = clip_files.ClipFiles(
            frames=frames / info.id,
            landmarks=landmarks / f"{info.id}.npy",
            layouts=FACTS.layouts,
            fps=FACTS.fps,
            cure=_FILES_CURE,
            colours=colours / f"{info.id}.npy" if colours_given else None,
            gapless=False,  # crops without a face may have been removed after numbering; the list counts the rest
            any_size=True,
        )
        return clip_files.read_clip(info, files, wanted, problems)

    gone = frozenset(skipped)
    kept = [info for info in infos if info.id not in gone]
    return Dataset(FileSource(kept, read), FACTS, {part: clips - gone for part, clips in official.items()})


def _undetected(info: ClipInfo, path: Path) -> str:
    """Why a clip lacks a face in some frame; "" if it does not, or if its file is damaged."""
    if not path.is_file():
        return f"{path}: no such file"
    points = clip_files.read_array(path, info.id, "landmarks", "", Problems(collect=True))
    if points is None:
        return ""  # not undetected but damaged: an error when the clip is read
    undetected = ~np.isfinite(points).all((1, 2)) | (points == 0).all((1, 2))
    if not undetected.any():
        return ""
    where = f"{undetected.sum()} of {len(points)} frames, first in {spell(undetected.argmax())}"
    return f"{path}: no face in {where}"


def _read_lists(
    paths: dict[str, Path], first_label: int, problems: Problems
) -> tuple[list[ClipInfo], dict[str, frozenset[str]]]:
    """The clips of both lists, and the ids in each. A repeated clip counts only where it comes first."""
    rows: list[tuple[str, str, str, int, int]] = []
    seen: dict[str, str] = {}
    for part, path in paths.items():
        for line, text in enumerate(tables.read_lines(path, problems), 1):
            where = f"{path}, line {line}"
            if not text.strip():
                continue
            parsed = _parse(text)
            if parsed is None:
                message = f"{where}: {text[:80]!r} is not 'path frames label' with a label of 0 to 7; {_LIST_CURE}"
                problems.add("malformed_row", message)
                continue
            clip, frames, label = parsed
            if clip in seen:
                message = f"{where}: clip {clip} is also in {seen[clip]}; {_LIST_CURE}"
                problems.add("duplicate_clip", message, clip)
                continue
            seen[clip] = where
            rows.append((where, part, clip, frames, label))
    if not rows:
        problems.add("empty_list", f"{paths['train']}: lists no clips; {_LIST_CURE}")
    first = first_label if first_label >= 0 else _first_label({row[-1] for row in rows}, paths, problems)
    infos: list[ClipInfo] = []
    official: dict[str, set[str]] = {part: set() for part in paths}
    for where, part, clip, frames, label in rows:
        if not 0 <= label - first < len(EMOTIONS):
            message = f"{where}: label {label}, but labels range from {first} to {first + 6}; {_LIST_CURE}"
            problems.add("bad_label", message, clip)
            continue
        infos.append(ClipInfo(clip, clip, EXPRESSION, float(label - first), frames, source=where))
        official[part].add(clip)
    return infos, {part: frozenset(clips) for part, clips in official.items()}


def _parse(line: str) -> tuple[str, int, int] | None:
    fields = line.rsplit(None, 2)  # a path may contain blanks
    if len(fields) != 3:
        return None
    clip = fields[0].strip().replace("\\", "/").rstrip("/").rpartition("/")[2]
    frames, label = tables.whole(fields[1]), tables.whole(fields[2])
    if not clip or clip.startswith(".") or frames is None or frames < 1 or label is None or not 0 <= label <= 7:
        return None
    return clip, frames, label


def _first_label(labels: set[int], paths: dict[str, Path], problems: Problems) -> int:
    if labels and not labels & {0, 7}:
        problems.add(
            "ambiguous_labels",
            f"{paths['train']}, {paths['test']}: labels are {', '.join(map(str, sorted(labels)))}, so it is unclear "
            "whether they start at 0 or 1; set --config.data.first_label=0 or 1",
        )
    return 0 if 0 in labels else 1
