"""The augmented Toronto NeuroFace data set: repetitions of five oro-facial tasks by 36 people, rated by two raters.

11 people have ALS (ids A...), 14 have had a stroke (S..., OP...), 11 are healthy controls (N...). The layout, in one
folder ROOT; FILE is a File Name of the split list, such as A002_02_NSM_OPEN_color, and REP a repetition, such as 1:

    ROOT/neuroface_split.csv       the published list that cuts videos into repetitions
    ROOT/ratings.csv               or .xlsx: ratings, in a form of ours: see ``neuroface_lists.read_ratings``
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
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from tramp_jax.data import clip_files, landmarks, tables
from tramp_jax.data.clip_files import FRAME_SIZE
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.problems import WARNING, DataError, Problem, Problems
from tramp_jax.data.readers.neuroface_lists import (
    LIST_ADDRESS,
    LIST_CURE,
    TASKS,
    UNUSED_TASKS,
    Repetition,
    clip_info,
    read_ratings,
    read_split_list,
    task_of,
)
from tramp_jax.errors import UserError

FPS = 50.0
LAYOUTS = ("insightface73", "insightface106")
CROP_FACTOR = 2.0  # side of a face crop by the larger extent of the 63 points; they take about half of a PFED5 frame

_VIDEO_TYPES = (".avi", ".mp4", ".mov")
VIDEOS_ADDRESS = "https://slp.utoronto.ca/faculty/yana-yunusova/speech-production-lab/datasets/"
_ABSENT = f"""The Toronto NeuroFace data set is given on request. To obtain it:
  1. ask its authors for the videos and the clinical ratings: {VIDEOS_ADDRESS}
  2. take the list that cuts them into repetitions from {LIST_ADDRESS}
  3. put them into one folder ROOT: ROOT/Videos/A002_02_NSM_OPEN_color.avi, ..., ROOT/neuroface_split.csv, and the
     ratings as ROOT/ratings.csv or .xlsx with the columns File Name, repID, rater, overall (docs/data.md)
  4. detect landmarks: ROOT/video_landmarks/A002_02_NSM_OPEN_color_1.npy, ... (docs/data.md)
  5. python train.py --config configs/neuroface.py:OPEN --config.data.root=ROOT"""
_FILES_CURE = "extract the repetition again"


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
        with_landmarks: bool = True,
        problems: Problems | None = None,
    ):
        """Reads the split list and the ratings and nothing else.

        Args:
          root: folder of everything that is not named on its own.
          split_list: "" for ``root``/neuroface_split.csv or .xlsx.
          ratings: "" for ``root``/ratings.csv or .xlsx.
          frames_root: "" for ``root``/frames.
          landmarks_root: "" for ``root``/landmarks; where neither is there, videos are read.
          videos_root: "" for ``root``/Videos.
          video_landmarks_root: "" for ``root``/video_landmarks.
          with_frames: whether clips have frames.
          with_pixels: whether clips have the colours under the landmarks. Without both, no image is read.
          with_landmarks: False for a model of frames alone: clips have landmarks that are NaN and no colours. Files of
            landmarks are not looked at then, but for cropping the frames of videos.
          problems: takes what is wrong with list and ratings; None raises the first error.

        Raises:
          UserError: a missing folder or list, with what to obtain and where to put it.
          DataError: the first error in list or ratings, unless ``problems`` collects.
        """
        self.root = Path(root).expanduser()
        if not str(root) or not self.root.is_dir():
            raise UserError("missing_file", f"{str(root)!r} (data.root): no such folder.\n{_ABSENT}")
        problems = problems or Problems()
        self._with_frames, self._with_pixels = with_frames, with_pixels and with_landmarks
        self._with_landmarks = with_landmarks
        reads_images = with_frames or self._with_pixels
        self._cropped = bool(landmarks_root) or (self.root / "landmarks").is_dir()
        if not with_landmarks:
            self._cropped = self._cropped or bool(frames_root) or (self.root / "frames").is_dir()
        self._points: Path | None = None
        if self._cropped and with_landmarks:
            self._points = self._folder(landmarks_root, "landmarks", "landmarks_root")
        elif not self._cropped:
            self._points = self._folder(video_landmarks_root, "video_landmarks", "video_landmarks_root")
        self._images: Path | None = None
        if reads_images and self._cropped:
            self._images = self._folder(frames_root, "frames", "frames_root")
        elif reads_images:
            self._images = self._folder(videos_root, "Videos", "videos_root")

        split_path = self._table(split_list, "neuroface_split.csv", "split_list", problems)
        ratings_path = self._table(ratings, "ratings.csv", "ratings", problems)
        repetitions = read_split_list(split_path, problems)
        if not repetitions:
            problems.add("empty_list", f"{split_path}: lists no repetition of {', '.join(TASKS)}; {LIST_CURE}")
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
            self._infos.append(clip_info(repetition, means))
        unused = [key for key in rated if task_of(key[0]) not in UNUSED_TASKS]
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
            raise UserError(
                "missing_file", f"{path}: no such folder; name another with --config.data.{option}=FOLDER.\n{_ABSENT}"
            )
        return path

    def _table(self, given: str | Path, name: str, option: str, problems: Problems) -> Path:
        path = Path(given).expanduser() if given else tables.find(self.root, (name,), option, problems)
        if path is None or not path.is_file():
            path = path or self.root / name
            raise UserError(
                "missing_file", f"{path}: no such file; name another with --config.data.{option}=FILE.\n{_ABSENT}"
            )
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
        if not self._with_landmarks:
            points, layout = clip_files.no_points(info)
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

    def few_frames(self, index: int) -> tuple[bytes, ...]:
        """A few images of clip ``index``, to tell whether two clips are the same; () where it is cut out of a video."""
        if self._images is None or not self._cropped:
            return ()
        return clip_files.few(clip_files.image_files(self._images / self._infos[index].id))

    def _landmarks(self, info: ClipInfo) -> tuple[np.ndarray, str, "Box"]:
        """Landmarks in pixels of the crop, their layout, and where the crop lies in the video frame."""
        if self._points is None:
            return *clip_files.no_points(info), Box(0, 0, FRAME_SIZE)
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
                    f"{self._points}/{info.id}.npy: the landmarks lie outside the {width}×{height} frames of {path}; "
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
