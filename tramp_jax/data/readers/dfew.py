"""DFEW: faces in films showing one of seven emotions; what the encoders are trained on before PFED5.

The layout, in one folder ROOT (CLIP is DFEW's own number of a clip, such as 00001):

    ROOT/set_K_train.txt, ROOT/set_K_test.txt   official lists of set K = 1..5, as Former-DFER releases them
    ROOT/frames/CLIP/*.jpg                      frames
    ROOT/landmarks/CLIP.npy                     landmarks (n, 73, 2), pixels of the 256×256 face crop
    ROOT/colours/CLIP.npy                       RGB under the landmarks (n, 71, 3), 0-255; optional

A line of a list is ``path frames label``. The path is that of somebody else's disk, so only its last part, CLIP,
counts. Labels count 1-7 in some copies of the lists and 0-6 in others (Former-DFER's own): a 7 or a 0 tells which.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tramp_jax.data import clip_files, tables
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.problems import WARNING, DataError, Problem, Problems
from tramp_jax.errors import UserError

EMOTIONS = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")  # in the order of the labels
EXPRESSION = "emotion"
SETS = (1, 2, 3, 4, 5)
FPS = 25.0  # of films, about; the lists do not say
LAYOUT = "insightface73"
ADDRESS = "https://dfew-dataset.github.io"
LISTS_ADDRESS = "https://github.com/zengqunzhao/Former-DFER (folder annotation)"

_PARTS = ("train", "test")
_ABSENT = f"""DFEW (film clips of seven emotions) is given on request. To obtain it:
  1. ask its authors for the clips, single-labelled: {ADDRESS}
  2. take the lists set_1_train.txt, set_1_test.txt, ... from {LISTS_ADDRESS}
  3. put them into one folder ROOT: ROOT/set_1_train.txt, ROOT/set_1_test.txt, ROOT/frames/00001/*.jpg, and for
     trajectories ROOT/landmarks/00001.npy (n, 73, 2) and, if you have them, ROOT/colours/00001.npy (n, 71, 3)
  4. python train.py --config configs/dfew_trajectory.py --config.data.root=ROOT"""
_LANDMARKS_CURE = "detect landmarks in the clip's frames again"
_FRAMES_CURE = "restore them from DFEW"
_LIST_CURE = f"restore it from {LISTS_ADDRESS}"


class DFEW:
    """The clips of one official set as a ``clips.ClipSource``: the training list, then the test list.

    ``score`` is the class 0-6 in the order of ``EMOTIONS``. DFEW names no persons, so every clip is its own subject.

    Attributes:
      left_out: ids of the clips in which a face was not found in every frame, and of those that are too short.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        number: int = 1,
        train_list: str | Path = "",
        test_list: str | Path = "",
        frames_root: str | Path = "",
        landmarks_root: str | Path = "",
        colours_root: str | Path = "",
        first_label: int = -1,
        min_frames: int = 1,
        with_frames: bool = True,
        with_pixels: bool = True,
        with_landmarks: bool = True,
        problems: Problems | None = None,
    ):
        """Reads the lists, and of each clip the landmarks, to leave out those without a face in every frame.

        A clip is left out, with a warning, where its file of landmarks is missing or has a frame whose points are
        NaN or all zero.

        Args:
          root: folder of everything that is not named on its own.
          number: 1 to 5, which set.
          train_list: "" for ``root``/set_K_train.txt.
          test_list: "" for ``root``/set_K_test.txt.
          frames_root: "" for ``root``/frames.
          landmarks_root: "" for ``root``/landmarks.
          colours_root: "" for ``root``/colours. Where that folder is absent, colours are taken from the frames under
            the landmarks, which must then be 256×256.
          first_label: the label of "happy", 0 or 1; -1 to find it.
          min_frames: shorter clips are left out; Former-DFER leaves out those of fewer than 16 frames.
          with_frames: whether clips have frames.
          with_pixels: whether clips have the colours under the landmarks.
          with_landmarks: False for a model of frames alone: files of landmarks are not looked at, no clip is left out
            for the lack of them, and clips have landmarks that are NaN and no colours.
          problems: takes what is wrong with the lists; None raises the first error.

        Raises:
          UserError: a missing folder or list, with what to obtain and where to put it.
          UserError: an option that is out of range.
          DataError: the first error in the lists, unless ``problems`` collects.
        """
        self.root = Path(root).expanduser()
        if not str(root) or not self.root.is_dir():
            raise UserError("missing_file", f"{str(root)!r} (data.root): no such folder.\n{_ABSENT}")
        if number not in SETS:
            raise UserError("bad_option", f"data.set is {number}; DFEW has the sets 1 to 5")
        if first_label not in (-1, 0, 1):
            raise UserError("bad_option", f"data.first_label is {first_label}; use 0, 1, or -1 to find it")
        problems = problems or Problems()
        self._with_frames = with_frames
        self._with_pixels = with_pixels and with_landmarks
        self._with_landmarks = with_landmarks
        self._colours_root: Path | None = Path(colours_root or self.root / "colours").expanduser()
        if not self._colours_root.is_dir() and not colours_root:
            self._colours_root = None
        if with_landmarks:
            self._landmarks_root = self._folder(landmarks_root, "landmarks")
        if with_frames or (self._with_pixels and self._colours_root is None):
            self._frames_root = self._folder(frames_root, "frames")

        paths = {"train": self._list(train_list, number, "train"), "test": self._list(test_list, number, "test")}
        self._infos, self._subjects = _read_lists(paths, first_label, problems)
        self.left_out: list[str] = []
        for info in list(self._infos):
            if reason := self._unusable(info, min_frames):
                self.left_out.append(info.id)
                problems.add(*reason, info.id, WARNING)
        gone = frozenset(self.left_out)
        self._infos = [info for info in self._infos if info.id not in gone]
        self._subjects = {name: subjects - gone for name, subjects in self._subjects.items()}
        if gone and not self._infos:
            raise UserError(
                "missing_file",
                f"{self._landmarks_root if with_landmarks else paths['train']}: none of the {len(gone)} listed clips "
                f"can be used; the first, {self.left_out[0]}, has too few frames or no landmarks",
            )

    def _folder(self, given: str | Path, name: str) -> Path:
        path = Path(given).expanduser() if given else self.root / name
        if not path.is_dir():
            raise UserError(
                "missing_file",
                f"{path}: no such folder of {name}; put them there, or name their place with "
                f"--config.data.{name}_root=FOLDER.\n{_ABSENT}",
            )
        return path

    def _list(self, given: str | Path, number: int, part: str) -> Path:
        path = Path(given).expanduser() if given else self.root / f"set_{number}_{part}.txt"
        if not path.is_file():
            raise UserError(
                "missing_file",
                f"{path}: no such list; take it from {LISTS_ADDRESS}, or name its place with "
                f"--config.data.{part}_list=FILE",
            )
        return path

    def _unusable(self, info: ClipInfo, min_frames: int) -> tuple[str, str] | None:
        """Kind and message for a clip that is left out."""
        if info.num_frames < min_frames:
            return "short_clip", f"clip {info.id} is left out: {info.num_frames} frames, fewer than {min_frames}"
        if not self._with_landmarks:
            return None
        path = self._points_file(info)
        if not path.is_file():
            return "undetected_face", f"{path}: no such file, so clip {info.id} is left out"
        try:
            points = clip_files.read_array(path, info.id, "landmarks", _LANDMARKS_CURE)
        except DataError:
            return None  # not undetected but damaged: an error when the clip is read
        undetected = ~np.isfinite(points).all((1, 2)) | (points == 0).all((1, 2))
        if not undetected.any():
            return None
        where = f"{undetected.sum()} of {len(points)} frames, the first is frame {undetected.argmax() + 1}"
        return "undetected_face", f"{path}: no face in {where}, so clip {info.id} is left out"

    @property
    def infos(self) -> Sequence[ClipInfo]:
        return self._infos

    def __len__(self) -> int:
        return len(self._infos)

    def official_split(self) -> dict[str, frozenset[str]]:
        """Subjects (clips) of the official "train" and "test" lists, without those that are left out."""
        return dict(self._subjects)

    def __getitem__(self, index: int) -> Clip:
        """Clip ``index``.

        Raises:
          DataError: the first of ``problems(index)``, though an image that is not needed is not decoded.
        """
        info = self._infos[index]
        frames: tuple[bytes, ...] | None = None
        if self._with_frames or (self._with_pixels and self._colours_root is None):
            frames = clip_files.read_frames(self._frame_folder(info), info, _FRAMES_CURE, gapless=False)
        if not self._with_landmarks:
            return Clip(info, *clip_files.no_points(info), None, frames, FPS)
        points, layout = clip_files.read_points(self._points_file(info), info, (LAYOUT,), _LANDMARKS_CURE)
        pixels: np.ndarray | None = None
        if self._with_pixels and self._colours_root is not None:
            pixels = clip_files.read_colours(self._colours_root / f"{info.id}.npy", info, _LANDMARKS_CURE)
        elif self._with_pixels:
            assert frames is not None
            folder = self._frame_folder(info)
            pixels = clip_files.colours_under(frames, points, layout, folder, info.id, _FRAMES_CURE)
        return Clip(info, points, layout, pixels, frames if self._with_frames else None, FPS)

    def problems(self, index: int) -> Iterator[Problem]:
        """Everything that is wrong with the files of clip ``index``; every image is decoded."""
        info = self._infos[index]
        computed = self._with_pixels and self._colours_root is None
        if self._with_landmarks:
            try:
                clip_files.read_points(self._points_file(info), info, (LAYOUT,), _LANDMARKS_CURE)
            except DataError as error:
                yield error.problem
        if self._with_pixels and self._colours_root is not None:
            try:
                clip_files.read_colours(self._colours_root / f"{info.id}.npy", info, _LANDMARKS_CURE)
            except DataError as error:
                yield error.problem
        if self._with_frames or computed:
            size = clip_files.FRAME_SIZE if computed else 0
            # A crop may have been left out where no face was found; the list counts those that are there.
            yield from clip_files.frame_problems(self._frame_folder(info), info, _FRAMES_CURE, size, gapless=False)

    def few_frames(self, index: int) -> tuple[bytes, ...]:
        """A few images of clip ``index``, to tell whether two clips are the same; () where frames are not wanted."""
        if not self._with_frames:
            return ()
        return clip_files.few(clip_files.image_files(self._frame_folder(self._infos[index])))

    def _points_file(self, info: ClipInfo) -> Path:
        return self._landmarks_root / f"{info.id}.npy"

    def _frame_folder(self, info: ClipInfo) -> Path:
        return self._frames_root / info.id


def _read_lists(
    paths: dict[str, Path], first_label: int, problems: Problems
) -> tuple[list[ClipInfo], dict[str, frozenset[str]]]:
    """The clips of both lists, and the ids of each; a clip that is named twice counts once, where it came first."""
    rows: list[tuple[str, str, str, int, int]] = []
    seen: dict[str, str] = {}
    for part, path in paths.items():
        for line, text in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
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
    subjects: dict[str, set[str]] = {part: set() for part in _PARTS}
    for where, part, clip, frames, label in rows:
        if not 0 <= label - first < len(EMOTIONS):
            message = f"{where}: label {label}, but labels count from {first} to {first + 6}; {_LIST_CURE}"
            problems.add("bad_label", message, clip)
            continue
        infos.append(ClipInfo(clip, clip, EXPRESSION, float(label - first), frames, source=where))
        subjects[part].add(clip)
    return infos, {part: frozenset(clips) for part, clips in subjects.items()}


def _parse(line: str) -> tuple[str, int, int] | None:
    fields = line.rsplit(None, 2)  # a path may have blanks in it
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
            f"{paths['train']}, {paths['test']}: labels are {', '.join(map(str, sorted(labels)))}, which tells not "
            "whether they count from 0 or from 1; say which with --config.data.first_label=0 or 1",
        )
    return 0 if 0 in labels else 1
