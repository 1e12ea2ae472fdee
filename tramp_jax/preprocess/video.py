"""Streams the frames of a video file, a folder of images or one image, and when each is shown.

Only one frame is held at a time. If an input cannot be read, a ``UserError`` names the file and says what to do.
"""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tramp_jax import run
from tramp_jax.data import images
from tramp_jax.data.clip_files import files_in, numbering_gaps, unclear_order
from tramp_jax.data.clip_folder import DESCRIPTION, VIDEOS, is_clip
from tramp_jax.data.containers import joined
from tramp_jax.data.video_file import VideoFile
from tramp_jax.errors import UserError

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_DARK = 1 << 6  # of 255; values of 14 bits that are read as 16 bits stay below it
# Files that usually lie beside recordings. A warning names any other file that is left out.
# fmt: off
_NO_RECORDINGS = (
    ".csv", ".db", ".doc", ".docx", ".html", ".ini", ".json", ".log", ".md", ".npy", ".npz", ".pdf", ".srt", ".tsv",
    ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml",
)
# fmt: on
_NAMED = 5  # left out files in a warning
_UNREADABLE = (".heic", ".heif")  # a decoder would return one tile of the photograph


def open_frames(path: str | Path, images_fps: float = 25.0) -> "Frames":
    """Opens a video file, a folder of images, one image, or an animated PNG or WebP image.

    ``images_fps`` is the rate of a folder of images, which does not record it.

    Returns:
      An iterable of (seconds, (H, W, 3) uint8 RGB), whose attributes are those of ``VideoFile``. Iterating again reads
      the frames again.

    Raises:
      UserError: the path does not exist, is empty or cannot be read.
      OSError: the file may not be opened.
    """
    path = Path(path).expanduser()
    if not path.exists():
        what = "a link that leads nowhere" if path.is_symlink() else "no such file or folder"
        raise UserError("missing_file", f"{path}: {what}; check the path")
    if path.is_dir():
        return ImageFrames(path, images_fps)
    if not path.is_file():
        raise UserError("bad_path", f"{path}: a pipe, socket or device, not a file or folder; name a file")
    if path.stat().st_size == 0:
        raise UserError("empty_file", f"{path}: the file is empty (0 bytes); copy it again")
    with path.open("rb"):  # raises if it cannot be opened
        pass
    if path.suffix.lower() not in (*IMAGES, *_UNREADABLE):
        return VideoFile(path)
    kind = _animation(path)
    if kind == "WebP":
        return AnimatedWebP(path)
    return VideoFile(path) if kind else ImageFrames(path, images_fps)


def short_name(path: Path) -> str:
    """The name of a folder, or of a file without its ending."""
    return path.name if path.is_dir() else path.stem


def expand_input(path: str | Path) -> list[Path]:
    """Expands a folder of videos to its videos, in natural order. Any other path stands for itself.

    A folder of images, or a clip made by ``tramp-jax preprocess``, is one input. Unreadable paths are left to
    ``open_frames``. A warning names what else is in the folder and could be a recording: files of other kinds, folders
    of images.

    Raises:
      UserError: ambiguous_folder if it holds videos or images beside folders of videos, at any depth, or videos beside
        images; bad_option for the folder of a training run.
    """
    path = Path(path).expanduser()
    if not path.is_dir() or is_clip(path):
        return [path]
    if run.has_begun(path):  # its plots are not frames
        raise UserError(
            "bad_option", f"{path}: is the folder of a training run, not an input; score takes it as --checkpoint"
        )
    videos, images = _files(path, VIDEOS), _files(path, (*IMAGES, *_UNREADABLE))
    if not (videos or images):
        return [path]
    if videos and images:
        raise UserError(
            "ambiguous_folder",
            f"{path}: holds both videos ({videos[0].name}) and images ({min(image.name for image in images)}), so it "
            "may be a folder of videos or of frames; name the videos, or put videos and images in separate folders",
        )
    below = list(_recordings_below(path))
    if left_out := next((file for file in below if file.suffix.lower() in VIDEOS), None):
        raise UserError(
            "ambiguous_folder",
            f"{path}: holds {(videos or images)[0].name} and a folder of videos ({left_out.parent.relative_to(path)}), "
            "which would be left out; name the videos, or put those of this folder into one of their own",
        )
    stems = {file.stem for file in videos}
    others = [file for file in _files(path, None) if file.stem not in stems and file not in images]
    unread = [file.name for file in others if file.suffix.lower() not in _NO_RECORDINGS]
    unread += dict.fromkeys(f"{file.parent.relative_to(path)}/" for file in below)
    if unread:
        more = f" and {len(unread) - _NAMED} more" if len(unread) > _NAMED else ""
        sys.stderr.write(f"warning: {path}: left out {', '.join(unread[:_NAMED])}{more}; name them to read them\n")
    return videos or [path]


def _recordings_below(path: Path) -> Iterator[Path]:
    """The videos and the first image in each folder below a folder, except for clips and what is hidden."""
    for top in _folders(path):
        for where, folders, names in os.walk(top):
            shown = [name for name in sorted(names) if not name.startswith(".")]
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if DESCRIPTION in names:
                folders.clear()
                continue
            images = [name for name in shown if Path(name).suffix.lower() in (*IMAGES, *_UNREADABLE)]
            videos = [name for name in shown if Path(name).suffix.lower() in VIDEOS]
            yield from (Path(where) / name for name in videos + images[:1])


class ImageFrames:
    """The images of a folder in natural order (2.png before 10.png), or one image, evenly spaced in time.

    Alpha channels are dropped, grey becomes RGB, 16 bits become 8, and EXIF orientation is applied. Iterating raises
    ``UserError`` for an unreadable image and for images of different sizes. Gaps in the numbering and dark images
    give a warning.
    """

    def __init__(self, path: Path, fps: float):
        self.path, self.rate = path, float(fps)
        self.files = [path] if path.is_file() else _files(path, (*IMAGES, *_UNREADABLE))
        if not self.files:
            inside = "".join(f"; its folders, such as {folder.name}, are not searched" for folder in _folders(path)[:1])
            raise UserError(
                "missing_frames",
                f"{path}: the folder holds neither videos nor images ({', '.join(IMAGES)}){inside}; name a video file, "
                "or a folder of videos or frames",
            )
        if what := unclear_order(self.files):
            raise UserError("unclear_order", f"{path}: {what}; keep the images of one video, numbered in order")
        self.warnings: tuple[str, ...] = ()
        if missing := numbering_gaps(self.files):
            self.warnings = (
                f"the images are not numbered consecutively: missing {missing}; the images around each gap count as "
                "neighbours, so the face jumps there",
            )

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        size: tuple[int, ...] | None = None
        brightest = 0
        for number, file in enumerate(self.files):
            if kind := _animation(file):
                raise UserError("unsupported_image", f"{file}: an animated {kind} image is a video; name that file")
            if _has_pages(file):
                raise UserError("unsupported_image", f"{file}: has several pages; save each as an image of its own")
            image = _decode(file)
            size = size or image.shape[:2]
            if image.shape[:2] != size:
                raise UserError(
                    "wrong_image_size",
                    f"{file}: has {image.shape[1]}×{image.shape[0]} pixels, but {self.files[0].name} has {size[1]}×"
                    f"{size[0]}; all frames of a clip need the same size: use one folder for each video's frames",
                )
            brightest = max(brightest, int(image.max()))
            yield number / self.rate, image
        if brightest < _DARK:
            doubt = (
                f"the images are dark: no value is above {brightest} of 255; if a camera wrote 10 to 14 bits into "
                "files of 16, scale the values up to 16 bits"
            )
            self.warnings = tuple(dict.fromkeys((*self.warnings, doubt)))  # they may be read twice


class AnimatedWebP:
    """The frames of an animated WebP image, which FFmpeg cannot decode. Transparency is dropped."""

    def __init__(self, path: Path):
        self.path = path
        self.warnings = tuple(joined(path, 0))
        content = path.read_bytes()
        # The header stores both sides, less 1.
        width, height = (int.from_bytes(content[at : at + 3], "little") + 1 for at in (24, 27))
        if width * height > images.MAX_PIXELS // 2:  # reading takes 21 bytes for each, not 6 as other images
            raise UserError("oversized_file", f"{path}: {width}×{height} pixels are too many; shrink it")
        self._steps = _webp_durations(content)
        self.rate = len(self._steps) / sum(self._steps) if sum(self._steps) else 0.0

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        seconds = 0.0
        try:
            with Image.open(self.path, formats=["WEBP"]) as image:
                for number, step in enumerate(self._steps):
                    image.seek(number)
                    yield seconds, np.array(image.convert("RGB"))
                    seconds += step
        except (OSError, EOFError, SyntaxError) as error:
            what = f"cannot be decoded ({error}); export it again, or as .mp4"
            raise UserError("unreadable_video", f"{self.path}: {what}") from error


def _webp_durations(content: bytes) -> list[float]:
    """How many seconds each frame of an animated WebP image is shown."""
    durations, position = [], 12
    while position + 24 <= len(content):
        length = int.from_bytes(content[position + 4 : position + 8], "little")
        if content[position : position + 4] == b"ANMF":
            durations.append(int.from_bytes(content[position + 20 : position + 23], "little") / 1000)
        position += 8 + length + length % 2
    return durations


Frames = VideoFile | ImageFrames | AnimatedWebP


def _animation(path: Path) -> str:
    """Returns "PNG" or "WebP" for an image file with several frames, else ""."""
    try:
        with path.open("rb") as file:
            start = file.read(1 << 16)
    except OSError:
        return ""  # decoding reports it
    if start.startswith(b"\x89PNG") and b"acTL" in start.partition(b"IDAT")[0]:
        return "PNG"
    return "WebP" if start[8:16] == b"WEBPVP8X" and len(start) > 30 and start[20] & 2 else ""


def _has_pages(path: Path) -> bool:
    """Whether a TIFF file holds several images, of which only the first would be read."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=["TIFF"]) as image:
            image.seek(1)
        return True
    except Exception:  # no second page, or a damaged file, which decoding reports
        return False


def _decode(file: Path) -> np.ndarray:
    """Decodes an image to (H, W, 3) uint8 RGB. OpenCV keeps silent about a file that it cannot read."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        if file.stat().st_size > images.MAX_BYTES:
            raise images.ImageError("oversized_file", f"is larger than {images.MAX_BYTES >> 20} MB")
        return images.decode(file.read_bytes())
    except images.ImageError as fault:
        raise UserError(fault.kind, f"{file}: {fault}; remove it or export it again, smaller") from fault
    finally:
        cv2.utils.logging.setLogLevel(level)


def _files(folder: Path, endings: Sequence[str] | None) -> list[Path]:
    """The files of a folder with one of the endings (None for any), and broken links; see ``files_in``."""
    return files_in(folder, endings, broken=True)


def _folders(path: Path) -> list[Path]:
    """The folders in a folder, by name, without hidden ones."""
    return sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
