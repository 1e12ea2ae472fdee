"""The augmented Toronto NeuroFace data set: repetitions of five oro-facial tasks by 36 people, rated by two raters.

docs/data.md shows the files. The ratings are in a format of our own: see ``neuroface_lists.read_ratings``.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tramp_jax.data import clip_files, landmarks
from tramp_jax.data.clip_files import ClipFiles
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.face_box import Box, face_box
from tramp_jax.data.problems import WARNING, Problems
from tramp_jax.data.readers.base import list_file, part_folder, root_folder
from tramp_jax.data.readers.neuroface_lists import (
    FOLDS,
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
from tramp_jax.data.source import Dataset, Facts, FileSource, Wanted
from tramp_jax.data.video_file import VideoFile
from tramp_jax.errors import UserError

FACTS = Facts(landmark_source="insightface", layouts=("insightface73", "insightface106"), fps=50.0)

_VIDEO_TYPES = (".avi", ".mp4", ".mov")
VIDEOS_ADDRESS = "https://slp.utoronto.ca/faculty/yana-yunusova/speech-production-lab/datasets/"
_HOW_TO_GET = f"""The Toronto NeuroFace data set is available on request. To obtain it:
  1. ask its authors for the videos and the clinical ratings: {VIDEOS_ADDRESS}
  2. take the list that cuts them into repetitions from {LIST_ADDRESS}
  3. put them into one folder ROOT: ROOT/Videos/A002_02_NSM_OPEN_color.avi, ..., ROOT/neuroface_split.csv, and the
     ratings as ROOT/ratings.csv or .xlsx with the columns File Name, repID, rater, overall (docs/data.md)
  4. detect landmarks: ROOT/video_landmarks/A002_02_NSM_OPEN_color_1.npy, ... (docs/data.md)
  5. python train.py --config configs/neuroface.py:OPEN --config.data.root=ROOT"""
_PUT = f"put it there.\n{_HOW_TO_GET}"
_FILES_CURE = "extract the repetition again"

_Read = Callable[[ClipInfo, Problems], Clip | None]


@dataclasses.dataclass(frozen=True)
class Options:
    """Where the parts of NeuroFace are; "" for the usual place in ``config.data.root``."""

    split_list: str = ""
    ratings: str = ""
    frames_root: str = ""
    landmarks_root: str = ""  # without this folder, the videos are read
    videos_root: str = ""
    video_landmarks_root: str = ""


def open(root: str | Path, options: Options, wanted: Wanted, problems: Problems) -> Dataset:
    """Reads the split list and the ratings. Clips come in the order of the list.

    ``expression`` is one of ``TASKS``, ``score`` the mean of the raters' overall scores, ``targets`` the means of their
    sub-scores, ``group`` the diagnosis. From a video, the repetition is cut out frame by frame, and a square around all
    its landmarks (``face_box``) is scaled to 256×256, along with the landmarks.
    """
    root = root_folder(root, _HOW_TO_GET)
    repetitions = _read_lists(root, options, problems)
    infos = [clip_info(repetition, means) for repetition, means in repetitions]
    cropped = bool(options.landmarks_root) or (root / "landmarks").is_dir()
    if not wanted.landmarks:
        cropped = cropped or bool(options.frames_root) or (root / "frames").is_dir()
    if cropped:
        read = _crops(root, options, wanted)
    else:
        read = _videos(root, options, wanted, {repetition.id: repetition for repetition, _ in repetitions})
    return Dataset(FileSource(infos, read), FACTS, folds=FOLDS)


def _read_lists(root: Path, options: Options, problems: Problems) -> list[tuple[Repetition, dict[str, float]]]:
    """The repetitions that are in both lists, and their mean ratings."""
    split_list = list_file(root, options, "split_list", ("neuroface_split.csv",), _PUT, problems)
    ratings = list_file(root, options, "ratings", ("ratings.csv",), _PUT, problems)
    if split_list is None or ratings is None:
        return []
    repetitions = read_split_list(split_list, problems)
    if not repetitions:
        problems.add("empty_list", f"{split_list}: lists no repetition of {', '.join(TASKS)}; {LIST_CURE}")
    rated = read_ratings(ratings, problems)
    found = []
    for repetition in repetitions:
        means = rated.pop((repetition.file, repetition.number), None)
        if means is None:
            message = f"{ratings}: does not rate {repetition.id} ({repetition.source}); add its rows"
            problems.add("missing_rating", message, repetition.id)
        else:
            found.append((repetition, means))
    if unused := [key for key in rated if task_of(key[0]) not in UNUSED_TASKS]:
        file, number = unused[0]
        problems.add(
            "unknown_repetition",
            f"{ratings}: ignored ratings of {len(unused)} repetitions that are not in {split_list}, first repetition "
            f"{number} of {file}",
            severity=WARNING,
        )
    return found


def _crops(root: Path, options: Options, wanted: Wanted) -> _Read:
    """Reads repetitions that are already cut and cropped."""
    points = frames = root
    if wanted.landmarks:
        points = part_folder(root, options, "landmarks_root", "landmarks", _PUT, Problems())
    if wanted.frames or wanted.colours:
        frames = part_folder(root, options, "frames_root", "frames", _PUT, Problems())

    def read(info: ClipInfo, problems: Problems) -> Clip | None:
        path = points / f"{info.id}.npy"
        files = ClipFiles(frames / info.id, path, FACTS.layouts, FACTS.fps, _FILES_CURE)
        return clip_files.read_clip(info, files, wanted, problems)

    return read


def _videos(root: Path, options: Options, wanted: Wanted, repetitions: dict[str, Repetition]) -> _Read:
    """Cuts repetitions out of videos: every frame up to a repetition's last is decoded."""
    points_folder = part_folder(root, options, "video_landmarks_root", "video_landmarks", _PUT, Problems())
    videos = root
    if wanted.frames or wanted.colours:
        videos = part_folder(root, options, "videos_root", "Videos", _PUT, Problems())

    def read(info: ClipInfo, problems: Problems) -> Clip | None:
        path, repetition = points_folder / f"{info.id}.npy", repetitions[info.id]
        files = ClipFiles(videos, path, FACTS.layouts, FACTS.fps, _FILES_CURE)
        found = clip_files.read_points(info, files, problems, size=None)
        box = face_box(landmarks.select(*found)) if found else None
        frames = pixels = None
        if wanted.frames or wanted.colours:
            images = _cut(videos, repetition, box, path, problems)
            if problems.collect or box is None:
                for _ in images:  # decodes them, which finds what is wrong
                    pass
            else:
                frames = np.stack([box.cut(image) for image in images])
        if found is None or box is None:
            return None
        points, layout = box.map(found[0]), found[1]
        if frames is not None and wanted.colours:
            pixels = clip_files.colours_under(frames, points, layout, videos, info.id, _FILES_CURE)
        if not wanted.landmarks:
            points, layout = clip_files.no_points(info)
        return Clip(info, points, layout, pixels, frames if wanted.frames else None, FACTS.fps)

    return read


def _cut(
    folder: Path, repetition: Repetition, box: Box | None, landmarks_file: Path, problems: Problems
) -> Iterator[np.ndarray]:
    """Yields the whole frames of a repetition, (H, W, 3) RGB, after checking that the box lies within them."""
    files = [folder / f"{repetition.file}{kind}" for kind in _VIDEO_TYPES]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        message = (
            f"{folder}: the video of clip {repetition.id} is missing: no {repetition.file} with "
            f"{', '.join(_VIDEO_TYPES)}; put it there"
        )
        problems.add("missing_video", message, repetition.id)
        return
    count = 0
    try:
        for image in read_video(path, repetition.first, repetition.last):
            height, width = image.shape[:2]
            if box is not None and not box.fits(width, height):
                message = (
                    f"{landmarks_file}: the landmarks lie outside the {width}×{height} frames of {path}; they must be "
                    f"pixels of the video's frame; {_FILES_CURE}"
                )
                problems.add("landmarks_out_of_frame", message, repetition.id)
                return
            yield image
            count += 1
    except UserError as error:
        problems.add(error.kind, str(error), repetition.id)
        return
    if count < repetition.num_frames:
        message = (
            f"{path}: ends or cannot be decoded before frame {repetition.first + count}, but {repetition.source} needs "
            f"frames {repetition.first} to {repetition.last}; restore the video"
        )
        problems.add("short_video", message, repetition.id)


def read_video(path: Path, first: int, last: int) -> Iterator[np.ndarray]:
    """Yields frames ``first`` to ``last`` of a video, counted from 1, as (H, W, 3) uint8 RGB; fewer if it ends before.

    Decodes the video from its beginning: seeking is not exact in every format, and the frame count in a header is not
    always correct.

    Raises:
      UserError: the file cannot be decoded; damaged_video if a frame was skipped, as all later ones have other numbers.
    """
    video = VideoFile(path)
    for _, image in itertools.islice(video, first - 1, last):
        if video.damaged:
            message = f"{path}: {video.damaged} frames are damaged"
            raise UserError("damaged_video", f"{message}, so the numbers of frames are lost; restore the video")
        yield image
