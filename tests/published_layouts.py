"""Synthetic faces written as the published data sets lay out their files, so that readers are tested without them."""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import openpyxl

from tramp_jax.data import landmarks, tables
from tramp_jax.data.clip_folder import write_clip
from tramp_jax.data.clips import Clip, ClipInfo, decode_frame, encode_frame
from tramp_jax.synthetic.faces import SyntheticFaces

PFED5_EXPRESSIONS = ("sit_at_rest", "smile", "frown", "squeeze_eyes", "clench_teeth")
_PFED5_HEADERS = {"qafe_net": "id,score,frames,class", "tramp_former": "id,score,frames,fps,class"}
_PFED5_LISTS = {
    "qafe_net": {"train": "PFED5_train.csv", "test": "PFED5_test.csv"},
    "tramp_former": {"train": "train_41.csv", "test": "test_41.csv"},
}
NEUROFACE_OFFSET = (70, 30)  # of the 256×256 face in a frame of the videos, x and y
NEUROFACE_FRAME = (320, 420)  # height and width
NEUROFACE_SUB_SCORES = ("symmetry", "ROM", "speed", "variability", "fatigue")
_CODE_BITS, _CODE_SIDE, _CODE_CORNER = 8, 14, (70, 214)


def write_pfed5(
    folder: Path,
    num_train_subjects: int = 2,
    num_test_subjects: int = 1,
    expressions: Sequence[str] = ("smile",),
    clips_per_subject: int = 1,
    variant: Literal["qafe_net", "tramp_former"] = "tramp_former",
    num_frames: int | None = 7,
    pixels: bool = True,
) -> list[Clip]:
    """The PFED5 tree below ``folder``.

    Args:
      folder: ROOT of ``tramp_jax.data.readers.pfed5``; created if it does not exist.
      num_train_subjects: in the training list; the subjects are P00, P01, ...
      num_test_subjects: in the test list, after the training subjects.
      expressions: some of PFED5_EXPRESSIONS.
      clips_per_subject: repetitions of each expression.
      variant: "qafe_net" has the expression in column 3 of its lists, "tramp_former" in column 4.
      num_frames: each clip's first frames that are written (7 is the shortest of PFED5); None for all.
      pixels: False leaves out the colours under the landmarks.

    Returns:
      The clips as a reader should find them, training list first.
    """
    source = SyntheticFaces(num_train_subjects + num_test_subjects, clips_per_subject, expressions, with_frames=False)
    rows: dict[str, list[str]] = {"train": [], "test": []}
    written = []
    for number in range(len(source)):
        made = source[number]
        painter = source.painter(number)  # renders only the frames that are written
        frames = tuple(encode_frame(painter.paint(t)) for t in range(made.info.num_frames)[:num_frames])
        subject = int(made.info.subject[1:])
        patient, video = f"P{subject:02d}", f"PD{number:04d}_clip"
        points = made.landmarks[: len(frames), 33:]
        points_71 = made.landmarks[: len(frames), landmarks.INSIGHTFACE_71]
        images = [decode_frame(frame) for frame in frames]
        colours_71 = _colours(images, points_71)
        colours_63 = _colours(images, landmarks.select(points, "insightface73"))
        info = ClipInfo(
            f"{video}_{made.info.expression}_{patient}", patient, made.info.expression, made.info.score, len(frames)
        )

        (folder / patient / video).mkdir(parents=True)
        for i, frame in enumerate(frames, 1):
            (folder / patient / video / f"img_{i:05d}.jpg").write_bytes(frame)
        _save(folder / "detect_73_crop" / patient / f"{video}-{patient}.npy", points)
        if pixels:
            _save(folder / "RGB_1x1_fromLK" / patient / f"{video}-{patient}.npy", colours_71)
        between = "25," if variant == "tramp_former" else ""
        rows["train" if subject < num_train_subjects else "test"].append(
            f"{info.id},{info.score:g},{len(frames)},{between}{PFED5_EXPRESSIONS.index(info.expression)}"
        )
        written.append(Clip(info, points, "insightface73", colours_63, frames, made.fps))
    for name, lines in rows.items():
        text = "\n".join([_PFED5_HEADERS[variant], *lines, ""])
        (folder / _PFED5_LISTS[variant][name]).write_text(text)
    return written


def _colours(images: Sequence[np.ndarray], points: np.ndarray) -> np.ndarray:
    return np.stack([landmarks.pixel_values(*pair) for pair in zip(images, points, strict=True)])


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


@dataclasses.dataclass(frozen=True)
class WrittenRepetition:
    """What ``write_neuroface`` wrote of one repetition.

    Attributes:
      info: as a reader should find it.
      first: its first frame in the video, counted from 1.
      points: (n, 73 or 106, 2) landmarks in pixels of the video's frame, or of the crop in the cropped form.
      frames: n JPEG files of the crops; () in the form of videos.
    """

    info: ClipInfo
    first: int
    points: np.ndarray
    frames: tuple[bytes, ...] = ()


def write_neuroface(
    folder: Path,
    subjects: Sequence[str] = ("N002",),
    tasks: Sequence[str] = ("OPEN",),
    lengths: Sequence[int] = (5, 4),
    cropped: bool = False,
    points_per_frame: Literal[73, 106] = 73,
    video_type: Literal["avi", "mp4"] = "avi",
) -> list[WrittenRepetition]:
    """The NeuroFace tree below ``folder``: split list, ratings, and videos or crops, with landmarks.

    Every frame of a video has its number, counted from 1, written into the face: see ``frame_number``. The first
    repetition begins in frame 2, as in most published videos, and two more frames follow the last.

    Args:
      folder: ROOT of ``tramp_jax.data.readers.neuroface``; created if it does not exist.
      subjects: some of the published ones.
      tasks: some of BLOW, KISS, BROW, OPEN, SPREAD, BIGSMILE.
      lengths: frames of each repetition in a video.
      cropped: crops of 256×256 and landmarks in them, without videos.
      points_per_frame: landmarks in each frame.
      video_type: avi is Motion JPEG, mp4 is MPEG-4.

    Returns:
      The repetitions of the tasks other than BIGSMILE, in the order of the list.
    """
    source = SyntheticFaces(len(subjects), len(tasks), ("smile",), with_frames=False)
    rows, ratings = [], []
    written: list[WrittenRepetition] = []
    for number in range(len(source)):
        subject, task = subjects[number // len(tasks)], tasks[number % len(tasks)]
        file = f"{subject}_02_NSM_{task}_color"
        count = 1 + sum(lengths) + 2
        images, points = _rendered(source, number, count)
        images = [_numbered(image, i) for i, image in enumerate(images, 1)]
        points = points[:, 106 - points_per_frame :]
        if not cropped:
            _write_video(folder / "Videos" / f"{file}.{video_type}", [_on_canvas(image) for image in images])
            points = points + np.array(NEUROFACE_OFFSET, np.float32)
        first = 2
        listed = []
        for repetition, length in enumerate(lengths, 1):
            name = f"{file}_{repetition}"
            span = slice(first - 1, first - 1 + length)
            _save(folder / ("landmarks" if cropped else "video_landmarks") / f"{name}.npy", points[span])
            frames = tuple(encode_frame(image) for image in images[span]) if cropped else ()
            for i, frame in enumerate(frames, 1):  # 1.jpg, ..., 10.jpg: the order of the names is not that of time
                (folder / "frames" / name).mkdir(parents=True, exist_ok=True)
                (folder / "frames" / name / f"{i}.jpg").write_bytes(frame)
            given = [[(number + repetition + rater + k) % 5 + 1 for k in range(6)] for rater in range(2)]
            ratings += [[file, repetition, f"rater{i}", *scores] for i, scores in enumerate(given, 1)]
            means = [float(np.mean(pair)) for pair in zip(*given, strict=True)]
            rows.append([file, repetition, length, first, first + length - 1])
            targets = tuple(zip(NEUROFACE_SUB_SCORES, means[1:], strict=True))
            group = {"A": "ALS", "N": "control"}.get(subject[0], "stroke")
            where = f"{folder / 'neuroface_split.csv'}, row {len(rows) + 1}"
            info = ClipInfo(name, subject, task, means[0], length, group, targets, where)
            listed.append(WrittenRepetition(info, first, points[span], frames))
            first += length
        written += [] if task == "BIGSMILE" else listed
    _write_csv(folder / "neuroface_split.csv", ["File Name", "repID", "Number of Frames", "start", "end"], rows)
    _write_csv(folder / "ratings.csv", ["File Name", "repID", "rater", "overall", *NEUROFACE_SUB_SCORES], ratings)
    return written


def frame_number(image: np.ndarray, corner: tuple[float, float] = (0.0, 0.0), scale: float = 1.0) -> int:
    """The number in a frame of ``write_neuroface``: ``image`` is (H, W, 3).

    Args:
      image: holds the 256×256 face.
      corner: x and y of the face's upper left corner in the image.
      scale: pixels of the image per pixel of the face.
    """
    bits = []
    for bit in range(_CODE_BITS):
        x = _CODE_CORNER[0] + (bit + 0.5) * _CODE_SIDE
        y = _CODE_CORNER[1] + 0.5 * _CODE_SIDE
        bits.append(int(image[int(corner[1] + scale * y), int(corner[0] + scale * x)].mean() > 127))
    return sum(value << bit for bit, value in enumerate(bits))


def _numbered(image: np.ndarray, number: int) -> np.ndarray:
    """The face with a row of black and white squares over its chin: the number in binary, the lowest bit first."""
    image = image.copy()
    x, y = _CODE_CORNER
    for bit in range(_CODE_BITS):
        colour = 255 * (number >> bit & 1)
        image[y : y + _CODE_SIDE, x + bit * _CODE_SIDE : x + (bit + 1) * _CODE_SIDE] = colour
    return image


def _on_canvas(image: np.ndarray) -> np.ndarray:
    canvas = np.full((*NEUROFACE_FRAME, 3), 90, np.uint8)
    x, y = NEUROFACE_OFFSET
    canvas[y : y + 256, x : x + 256] = image
    return canvas


def _write_video(path: Path, images: Sequence[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), codec, 50.0, (width, height))
    assert writer.isOpened(), path
    for image in images:
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()


DFEW_UNDETECTED = ("missing", "nan", "zero")


def write_dfew(
    folder: Path,
    num_train: int = 2,
    num_test: int = 1,
    number: int = 1,
    first_label: int = 1,
    num_frames: int = 5,
    colours: bool = True,
    undetected: Sequence[Literal["missing", "nan", "zero"]] = (),
) -> list[Clip]:
    """The DFEW tree below ``folder``; labels go round the seven emotions, and the lists name somebody else's folders.

    Args:
      folder: ROOT of ``tramp_jax.data.readers.dfew``; created if it does not exist.
      num_train: clips in the training list; the clips are 00001, 00002, ...
      num_test: clips in the test list, after them.
      number: number of the set.
      first_label: 1, or 0 as in the lists of the Former-DFER release.
      num_frames: of each clip.
      colours: False leaves out the colours under the landmarks.
      undetected: what is wrong with the landmarks of the last clips of the training list, one entry for each clip.

    Returns:
      The clips as a reader should find them, training list first, without those that are undetected.
    """
    source = SyntheticFaces(num_train + num_test, 1, ("smile",), with_frames=False)
    written = []
    lines: dict[str, list[str]] = {"train": [], "test": []}
    fault_of = dict(zip(range(num_train - len(undetected), num_train), undetected, strict=True))
    for index in range(len(source)):
        images, all_points = _rendered(source, index, num_frames)
        frames = tuple(encode_frame(image) for image in images)
        points = all_points[:, 33:]
        name, emotion = f"{index + 1:05d}", (index - 1) % 7  # so that the first three clips have a 7th and a 1st
        for i, frame in enumerate(frames, 1):
            path = folder / "frames" / name / f"{name}_{i:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(frame)
        decoded = [decode_frame(frame) for frame in frames]
        if colours:
            _save(folder / "colours" / f"{name}.npy", _colours(decoded, all_points[:, landmarks.INSIGHTFACE_71]))
        stored = points.copy()
        fault = fault_of.get(index)
        if fault in ("nan", "zero"):
            stored[num_frames // 2] = np.nan if fault == "nan" else 0
        if fault != "missing":
            _save(folder / "landmarks" / f"{name}.npy", stored)
        part = "train" if index < num_train else "test"
        lines[part].append(f"your_dataset_path/DFEW/train/{name} {num_frames} {emotion + first_label}")
        if fault is None:
            where = f"{folder / f'set_{number}_{part}.txt'}, line {len(lines[part])}"
            info = ClipInfo(name, name, "emotion", float(emotion), num_frames, source=where)
            pixels = _colours(decoded, landmarks.select(points, "insightface73"))
            written.append(Clip(info, points, "insightface73", pixels, frames))
    for part, rows in lines.items():
        (folder / f"set_{number}_{part}.txt").write_text("\n".join([*rows, ""]))
    return written


def write_folder(
    folder: Path,
    num_subjects: int = 3,
    num_test_subjects: int = 0,
    clips_per_subject: int = 1,
    num_frames: int = 5,
    extra: Sequence[str] = (),
) -> list[Clip]:
    """Clip folders and their list, clips.csv, below ``folder``.

    Args:
      folder: ROOT of ``tramp_jax.data.readers.folder``; created if it does not exist.
      num_subjects: s000, s001, ...
      num_test_subjects: how many of the last ones are tested; 0 leaves out the column "split".
      clips_per_subject: smiles of each person.
      num_frames: of each clip.
      extra: names of further columns, which hold the numbers 1, 2, ... down the list.

    Returns:
      The clips as a reader should find them.
    """
    source = SyntheticFaces(num_subjects, clips_per_subject, ("smile",), with_frames=False)
    rows, written = [], []
    for index, made in enumerate(source.infos):
        images, points = _rendered(source, index, num_frames)
        frames = tuple(encode_frame(image) for image in images)
        pixels = _colours([decode_frame(frame) for frame in frames], landmarks.select(points, "insightface106"))
        path = f"clips/{made.subject}/{index % clips_per_subject}"
        targets = tuple((name, float(index + 1)) for name in extra)
        where = f"{folder / 'clips.csv'}, row {index + 2}"
        info = ClipInfo(path, made.subject, made.expression, made.score, num_frames, "", targets, where)
        clip = Clip(info, points, "insightface106", pixels, frames, 30.0)
        write_clip(folder / path, dataclasses.replace(clip, pixels=None))
        split = "test" if int(made.subject[1:]) >= num_subjects - num_test_subjects else "train"
        row = [path, made.subject, made.expression, f"{made.score:g}", *(index + 1 for _ in extra)]
        rows.append([*row, split] if num_test_subjects else row)
        written.append(clip)
    header = ["path", "subject", "expression", "score", *extra]
    _write_csv(folder / "clips.csv", [*header, "split"] if num_test_subjects else header, rows)
    return written


def edit(path: Path, line: int, old: str, new: str) -> None:
    """Replaces text in one line (counted from 1) of a list."""
    lines = path.read_text().splitlines()
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new)
    path.write_text("\n".join(lines))


def _rendered(source: SyntheticFaces, index: int, num_frames: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The first frames of a synthetic clip and their 106 landmarks."""
    painter = source.painter(index)  # renders only the frames that are asked for
    return [painter.paint(t) for t in range(num_frames)], source[index].landmarks[:num_frames]


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])  # lines end as in the published list, \r\n


def write_workbook(path: Path, rows: Sequence[Sequence[object]]) -> None:
    """A workbook with ``rows`` in its first sheet."""
    book = openpyxl.Workbook()
    for row in rows:
        book.worksheets[0].append(row)
    book.create_sheet("notes").append(["not", "read"])
    book.save(path)


def as_workbook(path: Path) -> None:
    """Replaces a CSV file by a workbook in which numbers are numbers, as a spreadsheet program would save it."""
    with path.open(newline="") as file:
        rows = [[field if tables.number(field) is None else float(field) for field in row] for row in csv.reader(file)]
    write_workbook(path.with_suffix(".xlsx"), rows)
    path.unlink()
