"""The files that clips are made of, read strictly: arrays of points and colours, folders of images.

A fault is a ``DataError`` that names the file and the clip. Nothing in a file is executed.
"""

import itertools
import re
import statistics
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tramp_jax.data import images, landmark_checks, landmarks
from tramp_jax.data.clips import ClipInfo, decode_frame
from tramp_jax.data.problems import ERROR, WARNING, DataError, Problem

FRAME_SIZE = 256  # pixels, both sides of a face crop

_MAX_GAPS = 5  # named in a message

_IMAGES = {".jpg": b"\xff\xd8", ".jpeg": b"\xff\xd8", ".png": b"\x89PNG"}  # what such a file begins with


# NumPy parses headers with ``ast``, which in some versions of Python fails when several threads are at it.
_PARSING = threading.Lock()


def fault(kind: str, message: str, clip: str) -> DataError:
    """The error that is raised for one problem of the files of ``clip``."""
    return DataError(Problem(kind, message, clip))


def natural(name: str) -> tuple[list[str | int], str]:
    """Sort key by which "2" stands before "10"."""
    parts = re.split(r"(\d+)", name, flags=re.ASCII)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def load_npy(path: Path) -> np.ndarray:
    """The array of a .npy file. A damaged file raises almost anything; nothing in it is executed."""
    with path.open("rb") as file, _PARSING:
        return np.lib.format.read_array(file, allow_pickle=False)


def read_array(path: Path, clip: str, what: str, cure: str) -> np.ndarray:
    """A numeric array (frames, points, values) from a plain .npy file, as it is stored.

    Args:
      path: of the file.
      clip: id for the message.
      what: "landmarks" or "colours"; for the message, and the kind of problem.
      cure: end of the message, e.g. "extract them again".

    Raises:
      DataError: the file is missing, damaged, or holds anything else.
    """
    if not path.is_file():
        raise fault(f"missing_{what}", f"{path}: the {what} of clip {clip} are missing; {cure}", clip)
    try:
        array = load_npy(path)
    except Exception as error:  # a damaged file raises almost anything
        raise fault(
            "unreadable_array", f"{path}: refused, it is not a plain .npy array of numbers ({error}); {cure}", clip
        ) from error
    if array.ndim != 3 or array.dtype.kind not in "fiu" or not array.size:
        message = f"{path}: holds {array.dtype} of shape {array.shape}, not (frames, points, values); {cure}"
        raise fault("wrong_shape", message, clip)
    return array


def read_points(
    path: Path, info: ClipInfo, layouts: Sequence[str], cure: str, size: int | None = FRAME_SIZE
) -> tuple[np.ndarray, str]:
    """The landmarks of a clip and their layout.

    Args:
      path: .npy file of (info.num_frames, P, 2).
      info: of the clip.
      layouts: that are possible; the number of points P decides among them.
      cure: end of a message.
      size: of the frame in pixels; None where it is not known.

    Returns:
      (info.num_frames, P, 2) float32, and the name of the layout.

    Raises:
      DataError: a missing or damaged file, another shape, or points that are no face's (``landmark_checks``).
    """
    array = read_array(path, info.id, "landmarks", cure)
    possible = {landmarks.LAYOUTS[name].num_points: name for name in layouts}
    layout = possible.get(array.shape[1])
    if layout is None or array.shape[2] != 2:
        shapes = " or ".join(f"(frames, {count}, 2)" for count in possible)
        raise fault("wrong_shape", f"{path}: has the shape {array.shape}, not {shapes}; {cure}", info.id)
    _check_length(array, path, info, "landmarks", cure)
    bad = ~np.isfinite(array).all((1, 2))
    if bad.any():
        message = (
            f"{path}: {bad.sum()} frames have landmarks that are no numbers, the first is frame {bad.argmax() + 1} of "
            f"{len(bad)}; detect them anew, or leave the clip out of its list"
        )
        raise fault("landmarks_not_finite", message, info.id)
    for kind, what in landmark_checks.faults(array, size):
        raise fault(kind, f"{path}: {what}; {cure}", info.id)
    return array.astype(np.float32), layout


def no_points(info: ClipInfo) -> tuple[np.ndarray, str]:
    """What stands for the landmarks of a clip whose landmarks are not wanted: (n, 73, 2) NaN, and a layout."""
    return np.full((info.num_frames, 73, 2), np.nan, np.float32), "insightface73"


def read_colours(path: Path, info: ClipInfo, cure: str) -> np.ndarray:
    """The colours under a clip's landmarks: .npy of (n, 71, 3) or (n, 63, 3) -> (n, 63, 3) uint8 RGB.

    Raises:
      DataError: a missing or damaged file, another shape, or a value outside 0-255.
    """
    array = read_array(path, info.id, "colours", cure)
    if array.shape[1:] not in ((71, 3), (63, 3)):
        message = f"{path}: has the shape {array.shape}, not (frames, 71, 3) or (frames, 63, 3); {cure}"
        raise fault("wrong_shape", message, info.id)
    _check_length(array, path, info, "colours", cure)
    if not ((array >= 0) & (array <= 255)).all():  # also where a colour is NaN
        raise fault("colours_out_of_range", f"{path}: has colours outside 0-255; {cure}", info.id)
    if array.shape[1] == 71:
        array = array[:, landmarks.LAYOUTS["insightface71"].slots]
    return np.rint(array).astype(np.uint8)


def _check_length(array: np.ndarray, path: Path, info: ClipInfo, what: str, cure: str) -> None:
    if len(array) != info.num_frames:
        message = f"{path}: has {what} of {len(array)} frames where clip {info.id} has {info.num_frames}; {cure}"
        raise fault(f"wrong_number_of_{what}", message, info.id)


def image_files(folder: Path) -> list[Path]:
    """The images (.jpg, .jpeg, .png) of a folder in natural order of their names (2.jpg before 10.jpg)."""
    files = [x for x in folder.iterdir() if x.suffix.lower() in _IMAGES and not x.name.startswith(".")]
    return sorted(files, key=lambda file: natural(file.name))


def numbering_gaps(files: Sequence[Path]) -> str:
    """The numbers that are left out in the names of a clip's images, such as "3, 7-9"; "" where none is.

    None is where images are not numbered one by one, as those of every second frame.
    """
    named = [re.fullmatch(r"(.*?)([0-9]+)", file.stem, re.ASCII) for file in files]
    if len(files) < 2 or len({match[1] if match else None for match in named}) != 1 or not all(named):
        return ""
    numbers = sorted(int(match[2]) for match in named if match)
    pairs = list(itertools.pairwise(numbers))
    if statistics.median_low(after - before for before, after in pairs) != 1:
        return ""
    gaps = [(before + 1, after - 1) for before, after in pairs if after - before > 1]
    listed = [f"{first}" if first == last else f"{first}-{last}" for first, last in gaps]
    return ", ".join([*listed[:_MAX_GAPS], *(["..."] if len(listed) > _MAX_GAPS else [])])


def few(files: Sequence[Path]) -> tuple[bytes, ...]:
    """The first, the middle and the last of the images: enough to tell one clip from another."""
    return tuple(files[index].read_bytes() for index in few_of(len(files)))


def few_of(count: int) -> list[int]:
    """Places of the first, the middle and the last of ``count``."""
    return sorted({0, count // 2, count - 1}) if count else []


def read_frames(folder: Path, info: ClipInfo, cure: str, gapless: bool = True) -> tuple[bytes, ...]:
    """The image files of a clip, one per frame, not decoded.

    Args:
      folder: of the images.
      info: of the clip.
      cure: end of a message.
      gapless: whether the numbers of the images must follow one another.

    Raises:
      DataError: no such folder, another number of images, a number left out, or a file that does not begin as its kind
        does.
    """
    if not folder.is_dir():
        raise fault("missing_frames", f"{folder}: the frames of clip {info.id} are missing; {cure}", info.id)
    files = image_files(folder)
    gaps = numbering_gaps(files)
    if len(files) != info.num_frames:
        message = f"{folder}: has {len(files)} images where clip {info.id} has {info.num_frames} frames"
        message += f" (no image has the number {gaps}); {cure}" if gaps else f"; {cure}"
        raise fault("missing_frames" if len(files) < info.num_frames else "extra_frames", message, info.id)
    if gaps and gapless:
        raise fault("gap_in_frames", gap_message(folder, info, gaps, cure), info.id)
    frames = tuple(file.read_bytes() for file in files)
    for file, frame in zip(files, frames, strict=True):
        if not frame.startswith(_IMAGES[file.suffix.lower()]):
            kind = "PNG" if file.suffix.lower() == ".png" else "JPEG"
            raise fault("unreadable_image", f"{file}: is no {kind} image ({len(frame)} bytes); {cure}", info.id)
    return frames


def gap_message(folder: Path, info: ClipInfo, gaps: str, cure: str) -> str:
    """What is wrong where ``numbering_gaps`` are found among as many images as a clip must have."""
    what = f"the images of clip {info.id} are as many as they must be, but none has the number {gaps}"
    return f"{folder}: {what}, so that the frames are not those of the landmarks; {cure}"


def frame_problems(
    folder: Path, info: ClipInfo, cure: str, size: int = FRAME_SIZE, gapless: bool = True
) -> Iterator[Problem]:
    """Everything wrong with the images of a clip; every one is decoded.

    Args:
      folder: of the images.
      info: of the clip.
      cure: end of a message.
      size: that both sides of an image must have; 0 where they may have any.
      gapless: whether a number left out in their names is an error, else a warning.
    """
    files = image_files(folder) if folder.is_dir() else []
    if len(files) != info.num_frames:
        try:
            read_frames(folder, info, cure)
        except DataError as error:
            yield error.problem
    elif gaps := numbering_gaps(files):
        severity = ERROR if gapless else WARNING
        yield Problem("gap_in_frames", gap_message(folder, info, gaps, cure), info.id, severity)
    for file in files:
        if wrong := images.fault(file.read_bytes(), size):
            yield Problem(wrong[0], f"{file}: {wrong[1]}; {cure}", info.id)


def colours_under(
    frames: Sequence[bytes] | np.ndarray, points: np.ndarray, layout: str, where: Path, clip: str, cure: str
) -> np.ndarray:
    """The colours under the 63 points: n frames of FRAME_SIZE and points (n, P, 2) -> (n, 63, 3) uint8 RGB.

    Raises:
      DataError: a frame that cannot be decoded or has another size.
    """
    chosen = landmarks.select(points, layout)
    colours = []
    for i, frame in enumerate(frames):
        wrong = images.fault(frame, FRAME_SIZE) if isinstance(frame, bytes) else None
        if wrong:
            raise fault(wrong[0], f"{where}, frame {i + 1}: {wrong[1]}; {cure}", clip)
        colours.append(landmarks.pixel_values(decode_frame(frame), chosen[i]))
    return np.stack(colours)
