"""Frames of a video file, of a folder of images or of one image: streamed, with the time at which each is shown.

Only one frame is held at a time. Whatever cannot be read is told as a ``VideoError`` that names the file and the cure.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import cv2
import numpy as np

from tramp_jax.data import images
from tramp_jax.data.clip_files import files_in, numbering_gaps
from tramp_jax.data.clip_folder import DESCRIPTION
from tramp_jax.errors import UserError

# FFmpeg's remarks on files that it cannot read become a VideoError. OpenCV reads this when it first uses FFmpeg.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
_PROMISED = 0.9  # share of its frames and of its time that a complete file delivers; containers round
_SLACK = 3  # frames that a whole file may promise and not hold: of what an editor cut off, the count remains
_MAX_INDEX = 64 * 1024 * 1024  # bytes of a container's index that are searched for a video stream

_MP4_STARTS = (b"ftyp", b"wide", b"mdat", b"moov", b"free")


class VideoError(UserError):
    """A video that cannot be made into a clip; the message names the file and the cure."""

    def __init__(self, message: str):
        super().__init__("unusable_video", message)


class Frames(Protocol):
    """Frames in order; iterating a second time reads them again.

    Attributes:
      path: the file or folder.
      rate: nominal frames per second; of a container that does not tell, 0.
      warnings: what is doubtful about the file; complete once all frames were read.
    """

    @property
    def path(self) -> Path: ...

    @property
    def rate(self) -> float: ...

    @property
    def warnings(self) -> tuple[str, ...]: ...

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yields (seconds, (H, W, 3) uint8 RGB)."""
        ...


def open_frames(path: str | Path, images_fps: float = 25.0) -> Frames:
    """The frames of a video file, of the images in a folder, or of one image.

    Args:
      path: names with blanks and of any script are fine.
      images_fps: frames per second of a folder of images, which cannot say.

    Raises:
      VideoError: nothing is there, or it is empty or unreadable.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise VideoError(f"{path}: no such file or folder; check the path")
    if path.is_dir():
        return ImageFrames(path, images_fps)
    if not path.is_file():
        raise VideoError(f"{path}: not a file or folder but a pipe, socket or device; name a file")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes); copy it again from its origin")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise VideoError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from error
    return ImageFrames(path, images_fps) if path.suffix.lower() in IMAGES else VideoFile(path)


def expand_input(path: str | Path) -> list[Path]:
    """The videos that a name stands for: those of a folder of videos in natural order, else itself.

    A folder of images and a clip that ``tramp-jax preprocess`` made are one input each. Whatever cannot be read is
    left to ``open_frames``.

    Raises:
      VideoError: a folder that cannot be opened, or that holds both videos and images.
    """
    path = Path(path).expanduser()
    if not path.is_dir() or (path / DESCRIPTION).is_file():
        return [path]
    videos = _files(path, VIDEOS)
    if not videos:
        return [path]
    if images := _files(path, IMAGES):
        raise VideoError(
            f"{path}: holds both videos ({videos[0].name}) and images ({min(image.name for image in images)}), so that "
            "it may be a folder of videos or one of frames; name the videos, or keep the two in folders of their own"
        )
    return videos


class VideoFile:
    """Frames of a video file, turned upright as its rotation flag says.

    Iterating raises ``VideoError`` for a file without a video stream that can be decoded, and for one that delivers
    clearly less than its index promises (a copy that was cut off). Where a little is missing, a warning tells.
    """

    def __init__(self, path: Path):
        self.path = path
        self.warnings: tuple[str, ...] = ()
        capture = self._open()
        self.rate = float(capture.get(cv2.CAP_PROP_FPS))
        capture.release()

    def _open(self) -> cv2.VideoCapture:
        with _Quiet():
            # Naming the backend keeps OpenCV from taking "img%02d.mp4" for a pattern of file names.
            capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise VideoError(f"{self.path}: {_diagnosis(self.path)}")
        return capture

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        capture = self._open()
        try:
            promised = capture.get(cv2.CAP_PROP_FRAME_COUNT)
            count, seconds = 0, 0.0
            while True:
                try:
                    ok, image = capture.read()
                except cv2.error as error:
                    raise VideoError(f"{self.path}: frame {count} cannot be decoded ({_reason(error)})") from error
                if not ok:
                    break
                seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                yield seconds, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                count += 1
        finally:
            capture.release()
        if count == 0:
            raise VideoError(
                f"{self.path}: no frame can be decoded; the file is damaged or its codec is unknown; "
                "convert it with `ffmpeg -i IN -c:v libx264 OUT.mp4`"
            )
        # Both must fall short: of some containers the count, of others the time is only an estimate.
        late = self.rate > 0 and (seconds + 1 / self.rate) < _PROMISED * promised / self.rate
        if promised > 0 and count < _PROMISED * promised and late:
            raise VideoError(
                f"{self.path}: the file promises {promised:.0f} frames, but only {count} can be read; it is cut off: "
                "copy it again, or keep what is there with `ffmpeg -i IN -c:v libx264 OUT.mp4`"
            )
        if count < promised - (0 if _is_cut_off(self.path) else _SLACK):
            self.warnings = (
                f"the file promises {promised:.0f} frames, but only {count} can be read: it is probably cut off at its "
                "end; copy it again",
            )


class ImageFrames:
    """The images of a folder in natural order (2.png before 10.png), or one image.

    Alpha channels are dropped, grey becomes RGB, 16 bits become 8, and EXIF orientation is applied. Iterating raises
    ``VideoError`` for an unreadable image and for images of different sizes. Of numbers that are missing from the
    names a warning tells: time goes on evenly from image to image.
    """

    def __init__(self, path: Path, fps: float):
        if not fps > 0:
            raise VideoError(
                f"{path}: the frame rate of a folder of images must be above 0, not {fps}; set --images-fps"
            )
        self.path, self.rate = path, float(fps)
        self.files = [path] if path.is_file() else _files(path, IMAGES)
        if not self.files:
            raise VideoError(
                f"{path}: the folder holds no images ({', '.join(IMAGES)}); name a video file or a folder of frames"
            )
        missing = numbering_gaps(self.files)
        self.warnings: tuple[str, ...] = ()
        if missing:
            self.warnings = (
                f"the numbers of the images are not consecutive: missing {missing}; these frames are taken for "
                "neighbours, so that the face jumps there",
            )

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        size: tuple[int, ...] | None = None
        for number, file in enumerate(self.files):
            image = _decode(file)
            if image is None:
                raise VideoError(f"{file}: not a readable image; remove it or export it again")
            size = size or image.shape[:2]
            if image.shape[:2] != size:
                raise VideoError(
                    f"{file}: is {image.shape[1]}×{image.shape[0]} pixels where {self.files[0].name} is {size[1]}×"
                    f"{size[0]}; the frames of one clip have one size: keep each video's frames in a folder of its own"
                )
            yield number / self.rate, image


def _decode(file: Path) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB, or None for a file that is no image."""
    try:
        if file.stat().st_size > images.MAX_BYTES:
            raise VideoError(
                f"{file}: has more than {images.MAX_BYTES >> 20} MB; remove it or export it again, smaller"
            )
        content = file.read_bytes()
        if content:
            images.check_size(content)
    except OSError as error:
        raise VideoError(f"{file}: cannot be opened ({error.strerror}); check its permissions") from error
    except images.ImageFault as error:
        raise VideoError(f"{file}: {error.args[1]}; remove it or export it again, smaller") from error
    with _Quiet():
        try:
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
        except (cv2.error, MemoryError) as error:  # a size that cannot be held, true or not
            raise VideoError(
                f"{file}: not a readable image ({_reason(error)}); remove it or export it again, smaller"
            ) from error
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _files(folder: Path, endings: Sequence[str]) -> list[Path]:
    """The files of a folder with one of the endings, see ``files_in``."""
    try:
        return files_in(folder, endings)
    except OSError as error:
        raise VideoError(f"{folder}: cannot be opened ({error.strerror}); check its permissions") from error


def _reason(error: BaseException) -> str:
    """What OpenCV found wrong, without its version and source lines."""
    return str(getattr(error, "err", "") or error or type(error).__name__).strip()


class _Quiet:
    """Silences OpenCV's own remarks on files that it cannot read: they become a ``VideoError``."""

    def __enter__(self) -> None:
        self._level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

    def __exit__(self, *_: object) -> None:
        cv2.utils.logging.setLogLevel(self._level)


def _diagnosis(path: Path) -> str:
    """Why FFmpeg cannot open a file, and the cure."""
    with path.open("rb") as file:
        start = file.read(12)
        kinds = _mp4_index(file) if start[4:8] in _MP4_STARTS else None
    if kinds is not None:
        if not kinds:
            return (
                "its index (moov) is missing: the file is cut off, or its recording was interrupted; copy it again, or "
                "try a repair tool such as untrunc"
            )
        if b"vide" not in kinds:
            return "holds sound but no video; name the video file"
    if start.startswith((b"OggS", b"fLaC", b"ID3", b"\xff\xfb", b"\xff\xf1")) or start[8:12] == b"WAVE":
        return "looks like a sound file without video; name the video file"
    return (
        "is not a video that can be decoded; if it plays elsewhere, convert it with `ffmpeg -i IN -c:v libx264 OUT.mp4`"
    )


def _is_cut_off(path: Path) -> bool:
    """Whether a part of an MP4, MOV or AVI file reaches beyond its end."""
    with path.open("rb") as file:
        start = file.read(8)
        position, end = 0, file.seek(0, os.SEEK_END)
        if start.startswith(b"RIFF"):
            return end < 8 + int.from_bytes(start[4:], "little")
        if start[4:] not in _MP4_STARTS:
            return False
        while position + 8 <= end:
            file.seek(position)
            length = int.from_bytes(file.read(4), "big")
            if length == 1:  # it follows in 64 bits, after the kind
                length = int.from_bytes(file.read(12)[4:], "big")
            if length < 8:  # the last box, which reaches to the end, or damage
                return False
            position += length
    return position > end


def _mp4_index(file: BinaryIO) -> set[bytes]:
    """Kinds of the tracks (b"vide", b"soun") that the index of an MP4 or MOV file names; empty without an index."""
    position, end = 0, file.seek(0, os.SEEK_END)
    while position + 8 <= end:
        file.seek(position)
        length = int.from_bytes(file.read(4), "big")
        kind = file.read(4)
        header = 8
        if length == 1:  # the length follows in 64 bits
            length, header = int.from_bytes(file.read(8), "big"), 16
        if kind == b"moov":
            content = file.read(min(length or end, _MAX_INDEX))
            # A track names its kind 8 bytes after the letters of its handler box.
            return {content[match.end() + 8 : match.end() + 12] for match in re.finditer(b"hdlr", content)}
        if length < header:  # the last box, which reaches to the end, or damage
            break
        position += length
    return set()
