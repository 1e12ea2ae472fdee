"""The augmented Toronto NeuroFace data set: repetitions of five oro-facial tasks by 36 people, rated by two raters.

11 people have ALS (ids A...), 14 have had a stroke (S..., OP...), 11 are healthy controls (N...). The layout, in one
folder ROOT; FILE is a File Name of the split list, such as A002_02_NSM_OPEN_color, and REP a repetition, such as 1:

    ROOT/neuroface_split.csv       the published list that cuts videos into repetitions
    ROOT/ratings.csv               ratings, in a form of ours: see ``read_ratings``
    either, already cut and cropped:
    ROOT/frames/FILE_REP/*.jpg     face crops, 256×256
    ROOT/landmarks/FILE_REP.npy    landmarks (n, 73, 2) or (n, 106, 2) of InsightFace, pixels of the crop
    or, whole:
    ROOT/Videos/FILE.avi           videos (.avi, .mp4 or .mov), about 50 frames per second
    ROOT/video_landmarks/FILE_REP.npy   landmarks as above of the repetition's frames, pixels of the video frame

Where ROOT/landmarks is there, it is used, else the videos are.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from tramp_jax.data import clip_files, landmarks
from tramp_jax.data.clip_files import FRAME_SIZE
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.problems import WARNING, DataError, Problem, Problems

TASKS = ("BLOW", "KISS", "BROW", "OPEN", "SPREAD")
UNUSED_TASKS = ("BIGSMILE",)  # in the published list, but not in the published experiments
GROUPS = {"A": "ALS", "S": "stroke", "OP": "stroke", "N": "control"}  # by the letters of a subject's id
SUB_SCORES = ("symmetry", "ROM", "speed", "variability", "fatigue")
MAX_SUB_SCORE = 5
FPS = 50.0
LAYOUTS = ("insightface73", "insightface106")
CROP_FACTOR = 2.0  # side of a face crop by the larger extent of the 63 points; they take about half of a PFED5 frame

# Test subjects of the three published folds. The released code has "S007 " here, which matches nobody.
FOLDS = tuple(
    frozenset(fold.split())
    for fold in (
        "N002 OP03 A009 A016 S007 N001 S002 N008 N010 N004 N012 S005",
        "A008 N011 S013 N019 A017 A014 A011 A015 OP02 A012 S011 N003",
        "A010 S008 S001 S009 N017 N007 S012 A006 A002 OP01 S006 S003",
    )
)
SUBJECTS = frozenset().union(*FOLDS)

_VIDEO_TYPES = (".avi", ".mp4", ".mov")
_FILE = re.compile(r"(([A-Z]+)\d+)((?:_[A-Za-z0-9]+)*)")  # neither a blank nor a path: it names files
_MEASURES = ("overall", *SUB_SCORES)
VIDEOS_ADDRESS = "https://slp.utoronto.ca/faculty/yana-yunusova/speech-production-lab/datasets/"
LIST_ADDRESS = "https://github.com/shuchaoduan/TraMP-Former (data/Toronto_NeuroFace_split_.csv)"
_ABSENT = f"""The Toronto NeuroFace data set is given on request. To obtain it:
  1. ask its authors for the videos and the clinical ratings: {VIDEOS_ADDRESS}
  2. take the list that cuts them into repetitions from {LIST_ADDRESS}
  3. put them into one folder ROOT: ROOT/Videos/A002_02_NSM_OPEN_color.avi, ..., ROOT/neuroface_split.csv, and the
     ratings as ROOT/ratings.csv with the columns File Name, repID, rater, overall (docs/data.md)
  4. detect landmarks: ROOT/video_landmarks/A002_02_NSM_OPEN_color_1.npy, ... (docs/data.md)
  5. python train.py --config configs/neuroface.py:OPEN --config.data.root=ROOT"""
_LIST_CURE = f"correct the row, or restore the list from {LIST_ADDRESS}"
_FILES_CURE = "extract the repetition again"


@dataclasses.dataclass(frozen=True)
class Repetition:
    """A row of the split list.

    Attributes:
      file: File Name.
      number: repID.
      first, last: frames of the video, counted from 1; both belong to the repetition.
      source: list and row.
    """

    file: str
    number: int
    first: int
    last: int
    source: str = ""

    @property
    def id(self) -> str:
        return f"{self.file}_{self.number}"

    @property
    def num_frames(self) -> int:
        return self.last - self.first + 1


class NeuroFace:
    """The repetitions of the split list as a ``clips.ClipSource``, in the order of the list.

    ``expression`` is one of ``TASKS``, ``score`` the mean of the raters' overall scores, ``targets`` the means of their
    sub-scores, ``group`` the diagnosis. From videos, the clip is cut out frame by frame, and a square around all
    landmarks of the repetition (``crop_box``) is scaled to 256×256, landmarks with it.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split_list: str | Path = "",
        ratings: str | Path = "",
        frames_root: str | Path = "",
        landmarks_root: str | Path = "",
        videos_root: str | Path = "",
        video_landmarks_root: str | Path = "",
        with_frames: bool = True,
        with_pixels: bool = True,
        problems: Problems | None = None,
    ):
        """Reads the split list and the ratings and nothing else.

        Args:
          root: folder of everything that is not named on its own.
          split_list: "" for ``root``/neuroface_split.csv.
          ratings: "" for ``root``/ratings.csv.
          frames_root: "" for ``root``/frames.
          landmarks_root: "" for ``root``/landmarks; where neither is there, videos are read.
          videos_root: "" for ``root``/Videos.
          video_landmarks_root: "" for ``root``/video_landmarks.
          with_frames: whether clips have frames.
          with_pixels: whether clips have the colours under the landmarks. Without both, no image is read.
          problems: takes what is wrong with list and ratings; None raises the first error.

        Raises:
          FileNotFoundError: a missing folder or list, with what to obtain and where to put it.
          DataError: the first error in list or ratings, unless ``problems`` collects.
        """
        self.root = Path(root).expanduser()
        if not str(root) or not self.root.is_dir():
            raise FileNotFoundError(f"{str(root)!r} (data.root): no such folder.\n{_ABSENT}")
        problems = problems or Problems()
        self._with_frames, self._with_pixels = with_frames, with_pixels
        reads_images = with_frames or with_pixels
        self._cropped = bool(landmarks_root) or (self.root / "landmarks").is_dir()
        self._points = (
            self._folder(landmarks_root, "landmarks", "landmarks_root")
            if self._cropped
            else self._folder(video_landmarks_root, "video_landmarks", "video_landmarks_root")
        )
        self._images: Path | None = None
        if reads_images and self._cropped:
            self._images = self._folder(frames_root, "frames", "frames_root")
        elif reads_images:
            self._images = self._folder(videos_root, "Videos", "videos_root")

        split_path = self._file(split_list, "neuroface_split.csv", "split_list")
        ratings_path = self._file(ratings, "ratings.csv", "ratings")
        if ratings_path.suffix.lower() in (".xlsx", ".xls"):
            raise FileNotFoundError(f"{ratings_path}: save the ratings as a CSV file (File, Save as, CSV UTF-8)")
        repetitions = read_split_list(split_path, problems)
        if not repetitions:
            problems.add("empty_list", f"{split_path}: lists no repetition of {', '.join(TASKS)}; {_LIST_CURE}")
        rated = read_ratings(ratings_path, problems)
        self._repetitions: list[Repetition] = []
        self._infos: list[ClipInfo] = []
        for repetition in repetitions:
            means = rated.pop((repetition.file, repetition.number), None)
            if means is None:
                message = f"{ratings_path}: has no rating of {repetition.source}: {repetition.id}; add its rows"
                problems.add("missing_rating", message, repetition.id)
                continue
            self._repetitions.append(repetition)
            self._infos.append(_info(repetition, means))
        unused = [key for key in rated if _task(key[0]) not in UNUSED_TASKS]
        if unused:
            file, number = unused[0]
            problems.add(
                "unknown_repetition",
                f"{ratings_path}: rates {len(unused)} repetitions that {split_path} does not cut out, the first is "
                f"repetition {number} of {file}; they are not used",
                severity=WARNING,
            )

    def _folder(self, given: str | Path, name: str, option: str) -> Path:
        path = Path(given).expanduser() if given else self.root / name
        if not path.is_dir():
            raise FileNotFoundError(
                f"{path}: no such folder; name another with --config.data.{option}=FOLDER.\n{_ABSENT}"
            )
        return path

    def _file(self, given: str | Path, name: str, option: str) -> Path:
        path = Path(given).expanduser() if given else self.root / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; name another with --config.data.{option}=FILE.\n{_ABSENT}")
        return path

    @property
    def infos(self) -> Sequence[ClipInfo]:
        return self._infos

    def __len__(self) -> int:
        return len(self._infos)

    def __getitem__(self, index: int) -> Clip:
        """Clip ``index``; of a video, every frame up to the repetition's last is decoded.

        Raises:
          DataError: the first of ``problems(index)``, though an image that is not needed is not decoded.
        """
        info, repetition = self._infos[index], self._repetitions[index]
        points, layout, box = self._landmarks(info)
        frames: tuple[bytes, ...] | np.ndarray | None = None
        if self._images is not None:
            where = self._images / info.id
            if self._cropped:
                frames = clip_files.read_frames(where, info, _FILES_CURE)
            else:
                where = self._video(info, repetition)
                frames = np.stack([crop(image, box) for image in self._cut(info, repetition, box)])
        pixels: np.ndarray | None = None
        if self._with_pixels:
            assert frames is not None
            pixels = clip_files.colours_under(frames, points, layout, where, info.id, _FILES_CURE)
        return Clip(info, points, layout, pixels, frames if self._with_frames else None, FPS)

    def problems(self, index: int) -> Iterator[Problem]:
        """Everything that is wrong with the files of clip ``index``; every image is decoded."""
        info, repetition = self._infos[index], self._repetitions[index]
        box: Box | None = None
        try:
            box = self._landmarks(info)[2]
        except DataError as error:
            yield error.problem
        if self._images is not None and self._cropped:
            yield from clip_files.frame_problems(self._images / info.id, info, _FILES_CURE)
        elif self._images is not None:
            try:
                for _ in self._cut(info, repetition, box):
                    pass
            except DataError as error:
                yield error.problem

    def _landmarks(self, info: ClipInfo) -> tuple[np.ndarray, str, "Box"]:
        """Landmarks in pixels of the crop, their layout, and where the crop lies in the video frame."""
        path = self._points / f"{info.id}.npy"
        size = FRAME_SIZE if self._cropped else None
        points, layout = clip_files.read_points(path, info, LAYOUTS, _FILES_CURE, size)
        if self._cropped:
            return points, layout, Box(0, 0, FRAME_SIZE)
        box = crop_box(landmarks.select(points, layout))
        return box.map(points), layout, box

    def _video(self, info: ClipInfo, repetition: Repetition) -> Path:
        assert self._images is not None
        found = [x for kind in _VIDEO_TYPES if (x := self._images / f"{repetition.file}{kind}").is_file()]
        if not found:
            message = (
                f"{self._images}: the video of clip {info.id} is missing: no {repetition.file} with "
                f"{', '.join(_VIDEO_TYPES)}; put it there"
            )
            raise clip_files.fault("missing_video", message, info.id)
        return found[0]

    def _cut(self, info: ClipInfo, repetition: Repetition, box: "Box | None") -> Iterator[np.ndarray]:
        """The whole frames of a repetition, (H, W, 3) RGB, after a check that the box lies in them."""
        path = self._video(info, repetition)
        count = 0
        for image in read_video(path, repetition.first, repetition.last):
            height, width = image.shape[:2]
            if box is not None and not box.fits(width, height):
                message = (
                    f"{self._points / info.id}.npy: the landmarks lie outside the {width}×{height} frames of {path}; "
                    f"they must be pixels of the video's frame; {_FILES_CURE}"
                )
                raise clip_files.fault("landmarks_out_of_frame", message, info.id)
            yield image
            count += 1
        if count < repetition.num_frames:
            message = (
                f"{path}: ends or cannot be decoded before frame {repetition.first + count}, but {repetition.source} "
                f"needs frames {repetition.first} to {repetition.last}; restore the video"
            )
            raise clip_files.fault("short_video", message, info.id)


@dataclasses.dataclass(frozen=True)
class Box:
    """A square of whole pixels in a video frame, which may reach beyond it.

    Attributes:
      x, y: the pixel in its upper left corner.
      side: in pixels.
    """

    x: int
    y: int
    side: int

    def fits(self, width: int, height: int) -> bool:
        """Whether landmarks that make this box can lie in a frame of this size."""
        x, y = self.x + self.side / 2, self.y + self.side / 2
        return 0 <= x < width and 0 <= y < height and self.side <= 2 * CROP_FACTOR * max(width, height)

    def map(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) in pixels of the frame -> float32 in pixels of the 256×256 crop of ``crop``."""
        return ((points - (self.x, self.y)) * (FRAME_SIZE / self.side)).astype(np.float32)


def crop_box(points: np.ndarray) -> Box:
    """The square for a whole repetition: points (n, 63, 2) in pixels of the frame -> CROP_FACTOR times their extent.

    It does not depend on the detector's layout, and is the same in all frames, so that motion stays motion.
    """
    low, high = points.min((0, 1)).astype(float), points.max((0, 1)).astype(float)
    side = max(1, math.ceil(CROP_FACTOR * (high - low).max()))
    x, y = np.round((low + high - side) / 2).astype(int)
    return Box(int(x), int(y), side)


def crop(image: np.ndarray, box: Box) -> np.ndarray:
    """Frame (H, W, 3) -> the box as (256, 256, 3); what lies outside the frame repeats its border."""
    height, width = image.shape[:2]
    top, left = max(0, -box.y), max(0, -box.x)
    bottom, right = max(0, box.y + box.side - height), max(0, box.x + box.side - width)
    padded = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_REPLICATE)
    window = padded[box.y + top : box.y + top + box.side, box.x + left : box.x + left + box.side]
    how = cv2.INTER_AREA if box.side > FRAME_SIZE else cv2.INTER_LINEAR
    return cv2.resize(window, (FRAME_SIZE, FRAME_SIZE), interpolation=how)


def read_video(path: Path, first: int, last: int) -> Iterator[np.ndarray]:
    """Frames ``first`` to ``last`` of a video, counted from 1, as (H, W, 3) uint8 RGB; fewer where it ends before.

    The video is decoded from its beginning: seeking is not exact in every format, and the frame count of a video's
    header not always true.
    """
    capture = cv2.VideoCapture(str(path))
    try:
        for frame in range(1, last + 1):
            if not capture.grab():
                return
            if frame >= first:
                ok, image = capture.retrieve()
                if not ok:
                    return
                yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def read_split_list(path: Path, problems: Problems) -> list[Repetition]:
    """The repetitions of the published split list that show one of ``TASKS``, in the order of the file.

    The columns are File Name, repID, Number of Frames, start, end; blanks around a field do not count. Frames count
    from 1 (no start in the published list is 0), and both ends belong to the repetition.

    In 22 published rows start and end span more frames than Number of Frames, mostly because they overlap with the
    repetition before or after. There, the number of frames decides: a repetition begins where the one before has
    ended, if that leaves enough frames up to its end, and stops after its number of frames. So every published row
    gets its number of frames between its start and end, and only one frame (323 of A002_02_NSM_SPREAD_color) is in
    two repetitions. Each such row is a warning.
    """
    rows: dict[str, list[tuple[int, int, int, int, int]]] = defaultdict(list)  # file -> (end, start, frames, rep, row)
    seen: dict[tuple[str, int], int] = {}
    unused = 0
    for row, fields in clip_files.read_table(path, _SPLIT_COLUMNS, problems)[1].items():
        wrong = _row_fault(fields)
        if wrong:
            problems.add("malformed_row", f"{path}, row {row}: {wrong}; {_LIST_CURE}")
            continue
        file = fields["file name"]
        repetition, frames, start, end = (int(float(fields[name])) for name in _SPLIT_COLUMNS[1:])
        if (file, repetition) in seen:
            message = f"{path}, row {row}: repetition {repetition} of {file} is also in row {seen[file, repetition]}"
            problems.add("duplicate_clip", f"{message}; remove one of the two", f"{file}_{repetition}")
            continue
        seen[file, repetition] = row
        if _task(file) in UNUSED_TASKS:
            unused += 1
        else:
            rows[file].append((end, start, frames, repetition, row))
    if unused:
        message = f"{path}: {unused} repetitions of {', '.join(UNUSED_TASKS)} are left out, as in the published results"
        problems.add("unused_task", message, severity=WARNING)
    found = {}
    for file, entries in rows.items():
        previous = 0
        for end, start, frames, repetition, row in sorted(entries):
            first = min(max(start, previous + 1), end - frames + 1) if frames < end - start + 1 else start
            previous = first + frames - 1
            found[row] = Repetition(file, repetition, first, previous, f"{path}, row {row}")
            if (first, previous) != (start, end):
                problems.add(
                    "frame_count",
                    f"{path}, row {row}: frames {start} to {end} are {end - start + 1}, not {frames}; taken are "
                    f"{first} to {previous}",
                    f"{file}_{repetition}",
                    WARNING,
                )
    return [found[row] for row in sorted(found)]


_SPLIT_COLUMNS = ("file name", "repid", "number of frames", "start", "end")


def _row_fault(fields: Mapping[str, str]) -> str:
    """What is wrong with a row of the split list by itself, or ""."""
    file = fields["file name"]
    match = _FILE.fullmatch(file)
    if not match:
        return f"the File Name {file[:80]!r} is not SUBJECT_..._TASK_..., of letters, digits and _"
    if not _task(file):
        return f"the File Name {file!r} has none of the tasks {', '.join(TASKS)} in it"
    if match[1] not in SUBJECTS:
        return f"subject {match[1]} is in none of the published folds"
    for name in _SPLIT_COLUMNS[1:]:
        value = clip_files.whole(fields[name])
        if value is None or value < 1:
            return f"{name} is {fields[name][:80]!r}, not a whole number of at least 1"
    frames, start, end = (int(float(fields[name])) for name in _SPLIT_COLUMNS[2:])
    if end < start or frames > end - start + 1:
        return f"frames {start} to {end} are not the {frames} of Number of Frames"
    return ""


def _task(file: str) -> str:
    """The task in a File Name; "" where there is none or more than one."""
    found = [part for part in file.split("_") if part in TASKS + UNUSED_TASKS]
    return found[0] if len(found) == 1 else ""


def read_ratings(path: Path, problems: Problems) -> dict[tuple[str, int], dict[str, float]]:
    """The ratings: {(File Name, repID): {"overall": mean over raters, "symmetry": ..., ...}}.

    One row per repetition and rater, with the columns File Name, repID, rater (any name), overall (a number of at
    least 0), and any of symmetry, ROM, speed, variability, fatigue (0 to 5). This form is ours: how the ratings were
    published is not known to us. An empty sub-score is left out of its mean. A repetition with other than two raters
    is a warning.
    """
    columns, rows = clip_files.read_table(path, ("file name", "repid", "rater", "overall"), problems)
    given: dict[tuple[str, int], dict[str, int]] = defaultdict(dict)
    values: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row, fields in rows.items():
        repetition, rater = clip_files.whole(fields["repid"]), fields["rater"]
        scores = {name: fields.get(name.lower(), "") for name in _MEASURES}
        wrong = next((text for text in (_rating_fault(name, score) for name, score in scores.items()) if text), "")
        if repetition is None or not rater or not fields["file name"]:
            wrong = "needs a File Name, a repID (a whole number) and a rater"
        if wrong or repetition is None:
            problems.add("malformed_row", f"{path}, row {row}: {wrong}; correct the row")
            continue
        key = (fields["file name"], repetition)
        if rater in given[key]:
            message = f"{path}, row {row}: rater {rater} has rated the repetition in row {given[key][rater]} already"
            problems.add("duplicate_rating", f"{message}; remove one of the two", f"{key[0]}_{key[1]}")
            continue
        given[key][rater] = row
        for name, score in scores.items():
            if score:
                values[key][name].append(float(score))
    for key, raters in given.items():
        if len(raters) != 2:
            message = f"{path}: repetition {key[1]} of {key[0]} has the ratings of {len(raters)}, not of two raters"
            problems.add("raters", f"{message}; its score is their mean", f"{key[0]}_{key[1]}", WARNING)
    return {key: {name: math.fsum(x) / len(x) for name, x in scores.items()} for key, scores in values.items()}


def _rating_fault(name: str, text: str) -> str:
    if not text and name != "overall":
        return ""
    value = clip_files.number(text)
    if name == "overall":
        return "" if value is not None and value >= 0 else f"overall is {text[:80]!r}, not a number of at least 0"
    good = value is not None and 0 <= value <= MAX_SUB_SCORE
    return "" if good else f"{name} is {text[:80]!r}, not a number of 0 to {MAX_SUB_SCORE}"


def _info(repetition: Repetition, means: Mapping[str, float]) -> ClipInfo:
    match = _FILE.fullmatch(repetition.file)
    assert match is not None
    return ClipInfo(
        id=repetition.id,
        subject=match[1],
        expression=_task(repetition.file),
        score=means["overall"],
        num_frames=repetition.num_frames,
        group=GROUPS[match[2]],
        targets=tuple((name, means[name]) for name in SUB_SCORES if name in means),
        source=repetition.source,
    )
