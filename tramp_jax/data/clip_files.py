"""The files that clips are made of, read strictly: arrays of points and colours, folders of images.

A fault is a ``DataError`` that names the file and the clip. Nothing in a file is executed.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tramp_jax.data import images, landmarks
from tramp_jax.data.clips import ClipInfo, decode_frame
from tramp_jax.data.problems import DataError, Problem

FRAME_SIZE = 256  # pixels, both sides of a face crop

_IMAGES = {".jpg": b"\xff\xd8", ".jpeg": b"\xff\xd8", ".png": b"\x89PNG"}  # what such a file begins with


def fault(kind: str, message: str, clip: str) -> DataError:
    """The error that is raised for one problem of the files of ``clip``."""
    return DataError(Problem(kind, message, clip))


def natural(name: str) -> tuple[list[str | int], str]:
    """Sort key by which "2" stands before "10"."""
    parts = re.split(r"(\d+)", name, flags=re.ASCII)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


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
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
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
      size: of the frame in pixels, which points may leave by less than its own size; None where it is not known.

    Returns:
      (info.num_frames, P, 2) float32, and the name of the layout.

    Raises:
      DataError: a missing or damaged file, another shape, or points that are no pixels of the frame.
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
    low, high = array.min(), array.max()
    if high - low <= 2 or (size is not None and (low < -size or high > 2 * size)):
        of = "the frame" if size is None else f"the {size}×{size} frame"
        message = f"{path}: landmarks reach from {low:g} to {high:g}; they must be pixels of {of}; {cure}"
        raise fault("landmarks_out_of_crop", message, info.id)
    return array.astype(np.float32), layout


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


def read_frames(folder: Path, info: ClipInfo, cure: str) -> tuple[bytes, ...]:
    """The image files of a clip, one per frame, not decoded.

    Raises:
      DataError: no such folder, another number of images, or a file that does not begin as its kind does.
    """
    if not folder.is_dir():
        raise fault("missing_frames", f"{folder}: the frames of clip {info.id} are missing; {cure}", info.id)
    files = image_files(folder)
    if len(files) != info.num_frames:
        message = f"{folder}: has {len(files)} images where clip {info.id} has {info.num_frames} frames; {cure}"
        raise fault("missing_frames" if len(files) < info.num_frames else "extra_frames", message, info.id)
    frames = tuple(file.read_bytes() for file in files)
    for file, frame in zip(files, frames, strict=True):
        if not frame.startswith(_IMAGES[file.suffix.lower()]):
            kind = "PNG" if file.suffix.lower() == ".png" else "JPEG"
            raise fault("unreadable_image", f"{file}: is no {kind} image ({len(frame)} bytes); {cure}", info.id)
    return frames


def frame_problems(folder: Path, info: ClipInfo, cure: str, size: int = FRAME_SIZE) -> Iterator[Problem]:
    """Everything wrong with the images of a clip; every one is decoded.

    Args:
      folder: of the images.
      info: of the clip.
      cure: end of a message.
      size: that both sides of an image must have; 0 where they may have any.
    """
    files = image_files(folder) if folder.is_dir() else []
    if len(files) != info.num_frames:
        try:
            read_frames(folder, info, cure)
        except DataError as error:
            yield error.problem
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
