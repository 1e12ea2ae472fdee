"""Reads the files of a clip strictly: arrays of points and colours, folders of images. Nothing in a file is executed.

A reader passes a ``Problems``, which raises the first problem or collects all of them. Messages count frames from 1.
"""

import dataclasses
import itertools
import math
import os
import re
import statistics
import threading
import zipfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from tramp_jax.data import images, landmark_checks, landmarks
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.frame_numbers import spell
from tramp_jax.data.landmark_checks import CROP
from tramp_jax.data.problems import ERROR, WARNING, DataError, Problem, Problems
from tramp_jax.data.source import Wanted

MAX_NUMBERS = 2**25  # in one array; the landmarks of an hour of video have 20 million
_MAX_IMAGE_BYTES = 64 << 20
_MAX_GAPS = 5  # listed in a message

_IMAGES = {".jpg": images.JPEG, ".jpeg": images.JPEG, ".png": images.PNG}  # the first bytes of each file type

# NumPy parses headers with ``ast``, which fails in several threads at once in some versions of Python.
_PARSING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class ClipFiles:
    """The files of one clip."""

    frames: Path  # the folder of its images
    landmarks: Path  # .npy file of (n, P, 2)
    layouts: tuple[str, ...]  # possible layouts of the landmarks; the number of points P decides among them
    fps: float  # frames per second
    cure: str  # how to restore the files; ends each message
    colours: Path | None = None  # .npy file of (n, 71, 3) or (n, 63, 3); None to take the colours from the frames
    depth: Path | None = None  # .npy file of (n, P)
    adapt: Callable[[np.ndarray], np.ndarray] | None = None  # changes the landmarks before their shape is checked
    gapless: bool = True  # a number missing from the images' names is an error, and not just a warning
    any_size: bool = False  # accept images of any size, unless the colours come from them


def read_clip(info: ClipInfo, files: ClipFiles, wanted: Wanted, problems: Problems) -> Clip | None:
    """Reads the wanted parts of a clip; see ``source.FileSource``.

    If ``problems`` collects, the clip keeps all frames that were read, and colours are not taken from them.
    """
    found: tuple[np.ndarray, str] | None = no_points(info)
    pixels = depth = frames = None
    colours_from_frames = wanted.colours and files.colours is None
    if wanted.landmarks:
        found = read_points(info, files, problems)
        if files.depth is not None and found is not None:
            depth = _read_depth(files.depth, info, found[0].shape[1], files.cure, problems)
        if wanted.pixels and files.colours is not None:
            pixels = _read_colours(files.colours, info, files.cure, problems)
    if wanted.frames or colours_from_frames:
        size = 0 if files.any_size and not colours_from_frames else CROP
        frames = _read_frames(info, files, size, problems)
    if found is None:
        return None
    points, layout = found
    if colours_from_frames and not problems.collect:
        assert frames is not None
        pixels = colours_under(frames, points, layout, files.frames, info.id, files.cure)
        frames = frames if wanted.frames else None
    return Clip(info, points, layout, pixels, frames, files.fps, depth)


def natural(name: str) -> tuple[list[str | int], str]:
    """Sort key that puts "2" before "10"."""
    parts = re.split(r"(\d+)", name, flags=re.ASCII)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def load_npy(path: Path) -> np.ndarray:
    """The array of a .npy file. A damaged file raises almost anything; nothing in it is executed."""
    with path.open("rb") as file:
        return _read_npy(file, path.stat().st_size)


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file by name. A damaged file raises almost anything; nothing in it is executed."""
    with zipfile.ZipFile(path) as archive:
        parts = [part for part in archive.infolist() if part.filename.endswith(".npy")]
        if sum(part.file_size for part in parts) > 8 * MAX_NUMBERS:
            raise ValueError(f"its arrays have more than {8 * MAX_NUMBERS >> 20} MB")
        arrays = {}
        for part in parts:
            with archive.open(part) as file:
                arrays[part.filename.removesuffix(".npy")] = _read_npy(file, part.file_size)
        return arrays


def _read_npy(file: IO[bytes], size: int) -> np.ndarray:
    _npy_shape(file, size)
    file.seek(0)
    with _PARSING:
        return np.lib.format.read_array(file, allow_pickle=False)


def _npy_shape(file: IO[bytes], size: int) -> tuple[int, ...]:
    """Shape of the array in a .npy file of ``size`` bytes, which must be able to hold it."""
    with _PARSING:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded when allow_pickle=False")  # as NumPy says
    numbers = math.prod(shape)
    if min(shape, default=1) < 0 or numbers > MAX_NUMBERS or numbers * dtype.itemsize > min(size, 8 * MAX_NUMBERS):
        raise ValueError(f"it declares {dtype} of shape {shape}, beyond the file or {MAX_NUMBERS:,} numbers")
    return shape


def npy_length(path: Path) -> int:
    """Length of the first axis of a .npy file, without reading its values."""
    with path.open("rb") as file:
        shape = _npy_shape(file, path.stat().st_size)
    if not math.prod(shape):
        raise ValueError(f"it holds nothing: its shape is {shape}")
    return shape[0]


def read_array(path: Path, clip: str, what: str, cure: str, problems: Problems, ndim: int = 3) -> np.ndarray | None:
    """Reads a numeric array of ``ndim`` axes from a plain .npy file; None if it cannot be used.

    ``problems`` takes a missing, damaged or wrong file. ``what`` is "landmarks", "colours" or "depth".
    """
    if not path.is_file():
        problems.add(f"missing_{what}", f"{path}: the {what} of clip {clip} are missing; {cure}", clip)
        return None
    try:
        array = load_npy(path)
    except Exception as error:  # a damaged file raises almost anything
        problems.add("unreadable_array", f"{path}: not a plain .npy array of numbers ({error}); {cure}", clip)
        return None
    if array.ndim != ndim or array.dtype.kind not in "fiu" or not array.size:
        message = f"{path}: holds {array.dtype} of shape {array.shape}, not numbers with {ndim} axes; {cure}"
        problems.add("wrong_shape", message, clip)
        return None
    return array


def read_points(
    info: ClipInfo, files: ClipFiles, problems: Problems, size: int | None = CROP
) -> tuple[np.ndarray, str] | None:
    """Reads the landmarks of a clip, (info.num_frames, P, 2) float32, and their layout; None if they cannot be used.

    ``problems`` takes what is wrong with the file, its shape, or its points (``landmark_checks``). ``size`` is that of
    the frames in pixels; None if unknown.
    """
    path, cure = files.landmarks, files.cure
    array = read_array(path, info.id, "landmarks", cure, problems)
    if array is None:
        return None
    array = files.adapt(array) if files.adapt else array
    possible = {landmarks.LAYOUTS[name].num_points: name for name in files.layouts}
    layout = possible.get(array.shape[1])
    if layout is None or array.shape[2] != 2:
        shapes = " or ".join(f"(frames, {count}, 2)" for count in possible)
        problems.add("wrong_shape", f"{path}: has shape {array.shape}, not {shapes}; {cure}", info.id)
        return None
    before = len(problems.found)
    _check_length(array, path, info, "landmarks", cure, problems)
    bad = ~np.isfinite(array).all((1, 2))
    if bad.any():
        message = (
            f"{path}: landmarks are NaN or infinite in {bad.sum()} of {len(bad)} frames, first in "
            f"{spell(bad.argmax())}; detect them again, or remove the clip from its list"
        )
        problems.add("landmarks_not_finite", message, info.id)
    for kind, what in landmark_checks.faults(array, size):
        problems.add(kind, f"{path}: {what}; {cure}", info.id)
    return (array.astype(np.float32), layout) if len(problems.found) == before else None


def no_points(info: ClipInfo) -> tuple[np.ndarray, str]:
    """Stands in for unwanted landmarks: (n, 73, 2) NaN, and a layout."""
    return np.full((info.num_frames, 73, 2), np.nan, np.float32), "insightface73"


def _read_depth(path: Path, info: ClipInfo, num_points: int, cure: str, problems: Problems) -> np.ndarray | None:
    """Reads the depth of a clip's landmarks, (n, P) float32; None if it cannot be used."""
    depth = read_array(path, info.id, "depth", cure, problems, ndim=2)
    if depth is None:
        return None
    if depth.shape != (info.num_frames, num_points) or not np.isfinite(depth).all():
        message = f"{path}: must hold finite numbers of shape ({info.num_frames}, {num_points}); {cure}"
        problems.add("wrong_shape", message, info.id)
        return None
    return depth.astype(np.float32)


def _read_colours(path: Path, info: ClipInfo, cure: str, problems: Problems) -> np.ndarray | None:
    """Reads the colours under a clip's landmarks, (n, 63, 3) uint8 RGB; None if they cannot be used."""
    array = read_array(path, info.id, "colours", cure, problems)
    if array is None:
        return None
    if array.shape[1:] not in ((71, 3), (63, 3)):
        message = f"{path}: has shape {array.shape}, not (frames, 71, 3) or (frames, 63, 3); {cure}"
        problems.add("wrong_shape", message, info.id)
        return None
    _check_length(array, path, info, "colours", cure, problems)
    wrong = ~((array >= 0) & (array <= 255)).all((1, 2))  # also true for NaN
    if wrong.any():
        message = f"{path}: has colours outside 0-255, first in {spell(wrong.argmax())}; {cure}"
        problems.add("colours_out_of_range", message, info.id)
        return None
    if array.shape[1] == 71:
        array = array[:, landmarks.LAYOUTS["insightface71"].slots]
    return np.rint(array).astype(np.uint8)


def _check_length(array: np.ndarray, path: Path, info: ClipInfo, what: str, cure: str, problems: Problems) -> None:
    if len(array) != info.num_frames:
        message = f"{path}: has {what} for {len(array)} frames, but {_expected(info)}; {cure}"
        problems.add(f"wrong_number_of_{what}", message, info.id)


def _expected(info: ClipInfo) -> str:
    listed = f" ({info.source})" if info.source else ""
    return f"clip {info.id} has {info.num_frames} frames{listed}"


def image_files(folder: Path) -> list[Path]:
    """The images (.jpg, .jpeg, .png) in a folder, in natural order (2.jpg before 10.jpg)."""
    return files_in(folder, _IMAGES) if folder.is_dir() else []


def files_in(folder: Path, endings: Collection[str] | None, broken: bool = False) -> list[Path]:
    """The regular files in a folder with one of these endings (None for any), in natural order. Skips hidden files.

    With ``broken``, links that lead nowhere are included, so that reading them names what is missing.
    """
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
        names = [x.name for x in shown if (broken if x.is_symlink() and not os.path.exists(x.path) else x.is_file())]
    chosen = names if endings is None else [name for name in names if Path(name).suffix.lower() in endings]
    return [folder / name for name in sorted(chosen, key=natural)]


def numbering_gaps(files: Sequence[Path]) -> str:
    """The numbers missing from the names of a clip's images, such as "3, 7-9"; "" if none are.

    If most steps are larger than 1, as for every second frame, there are no gaps.
    """
    named = [match for file in files if (match := re.fullmatch(r"(.*?)([0-9]+)", file.stem))]
    if len(files) < 2 or len(named) < len(files) or len({match[1] for match in named}) > 1:
        return ""
    numbers = sorted(int(match[2]) for match in named)
    pairs = list(itertools.pairwise(numbers))
    if statistics.median_low(after - before for before, after in pairs) != 1:
        return ""
    gaps = [(before + 1, after - 1) for before, after in pairs if after - before > 1]
    listed = [f"{first}" if first == last else f"{first}-{last}" for first, last in gaps]
    if len(listed) > _MAX_GAPS:
        listed[_MAX_GAPS:] = ["..."]
    return ", ".join(listed)


def unclear_order(files: Sequence[Path]) -> str:
    """Why the names of images do not say in which order they were taken; "" if they do.

    Files belong to two series if they have other words or letter cases (anna_1.png and bob_2.png, IMG_1.png and
    img_2.png) or the same numbers (1.jpg and 1.png). Decimals of different length (t_0.04.png, t_0.1.png) can be read
    as decimals or as two numbers. A counter may have restarted (9999.png, 0001.png). Files without numbers are in
    alphabetical order.
    """
    words = {file.stem: re.split(r"\d+", file.stem, flags=re.ASCII) for file in files}
    if any(len(each) > 1 for each in words.values()):
        for one, other in itertools.pairwise(files):
            if words[one.stem] != words[other.stem]:
                return f"{one.name} and {other.name} differ in more than their numbers, as if there were two series"
    first: dict[tuple[int, ...], str] = {}
    for file in files:
        numbers = tuple(map(int, re.findall(r"\d+", file.stem, re.ASCII)))
        if numbers and first.setdefault(numbers, file.name) != file.name:
            return f"{first[numbers]} and {file.name} have the same number, as if there were two series"
    named = [re.split(r"(\d+(?:\.\d+)?)", file.stem, flags=re.ASCII) for file in files]  # words and decimals in turn
    for (one, before), (other, after) in itertools.pairwise(zip(files, named, strict=True)):
        if before[::2] == after[::2] and [*map(float, before[1::2])] > [*map(float, after[1::2])]:
            return f"{one.name} and {other.name} can be put in two orders; give all decimals the same length"
    counters = [re.findall(r"\d+", file.stem, re.ASCII) for file in files]
    changing = [each for each in zip(*counters, strict=True) if len(set(each)) > 1] if all(counters) else []
    if len(changing) == 1 and {len(number) for number in changing[0]} == {max(len(changing[0][0]), 3)}:
        steps = [after - before for before, after in itertools.pairwise(map(int, changing[0]))]
        if statistics.median_low(steps) == 1 and 2 * max(steps) > 10 ** len(changing[0][0]):
            at = steps.index(max(steps))
            return (
                f"{files[at + 1].name} would come after {files[at].name}, as if the counter had restarted at "
                f"{files[0].name}; rename the images in the order in which they were taken"
            )
    return ""


def _read_frames(info: ClipInfo, files: ClipFiles, size: int, problems: Problems) -> tuple[bytes, ...]:
    """Reads the image files of a clip, one per frame, without decoding them.

    ``problems`` takes a missing folder, a wrong number of images, and files that do not begin like their type. A
    collector also decodes every image, to find everything that is wrong with it, such as another width or height than
    ``size`` (0 for any).
    """
    folder, cure = files.frames, files.cure
    if not folder.is_dir():
        problems.add("missing_frames", f"{folder}: the frames of clip {info.id} are missing; {cure}", info.id)
        return ()
    paths = image_files(folder)
    gaps = numbering_gaps(paths)
    if len(paths) != info.num_frames:
        kind = "missing_frames" if len(paths) < info.num_frames else "extra_frames"
        missing = f" (number {gaps} is missing)" if gaps else ""
        if not paths:
            cure += ", or read landmarks alone (tramp-jax validate and pack: --no-frames --no-colours)"
        message = f"{folder}: has {len(paths)} images{missing}, but {_expected(info)}; {cure}"
        problems.add(kind, message, info.id)
    elif gaps:
        message = (
            f"{folder}: clip {info.id} has the right number of images, but number {gaps} is missing, so the frames do "
            f"not match the landmarks; {cure}"
        )
        problems.add("gap_in_frames", message, info.id, ERROR if files.gapless else WARNING)
    if large := next((path for path in paths if path.stat().st_size > _MAX_IMAGE_BYTES), None):
        message = f"{large}: has more than {_MAX_IMAGE_BYTES >> 20} MB, too much for a face crop; {cure}"
        problems.add("oversized_file", message, info.id)
        return ()
    frames = tuple(path.read_bytes() for path in paths)
    for path, frame in zip(paths, frames, strict=True):
        if problems.collect:
            if fault := images.fault(frame, size):
                problems.add(fault.kind, f"{path}: {fault}; {cure}", info.id)
        elif not frame.startswith(_IMAGES[path.suffix.lower()]):
            kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
            problems.add("unreadable_image", f"{path}: not a {kind} image ({len(frame)} bytes); {cure}", info.id)
    return frames


def colours_under(
    frames: Sequence[bytes] | np.ndarray, points: np.ndarray, layout: str, folder: Path, clip: str, cure: str
) -> np.ndarray:
    """The colours under the 63 points: n frames of ``CROP`` and points (n, P, 2) -> (n, 63, 3) uint8 RGB.

    Raises:
      DataError: names the image in ``folder`` that cannot be decoded or has another size.
    """
    chosen = landmarks.select(points, layout)
    colours = []
    for i, frame in enumerate(frames):
        try:
            image = images.decode_whole(frame, CROP) if isinstance(frame, bytes) else frame
        except images.ImageError as fault:
            raise DataError(Problem(fault.kind, f"{image_files(folder)[i]}: {fault}; {cure}", clip)) from fault
        colours.append(landmarks.pixel_values(image, chosen[i]))
    return np.stack(colours)
