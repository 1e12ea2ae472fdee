"""Makes pictures of decoded frames: progressive, upright, with square pixels, in RGB."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import cv2
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream

from tramp_jax.data.frame_numbers import spell
from tramp_jax.data.images import MAX_PIXELS
from tramp_jax.errors import UserError

_MIN_ASPECT, _MAX_ASPECT = Fraction(1, 4), Fraction(4)  # width / height of a pixel; cameras stay between 1/2 and 2.2
_SAME_SHAPE = 0.01  # relative difference between two picture shapes that rounding explains
_SKEW = 0.05  # sine of the angle by which a display matrix may miss a quarter turn
# These decoders mark each frame as interlaced or not; for others, the container's mark counts.
_MARK_FRAMES = ("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vc1")
# FFmpeg's AVFieldOrder: up to 1 is unknown or progressive; the top field is shown first in 2 and 5, not in 3 and 4.
_PROGRESSIVE, _TOP_FIRST = 1, (2, 5)
# Search every 8th frame and every 4th column for combs with steps of over 10 grey levels. Combs hold at most 1% of the
# moving pixels in progressive videos, and 15 to 25% in interlaced ones (measured).
_COMB_FRAMES, _COMB_COLUMNS, _COMB_STEP, _COMB_SHARE = 8, 4, 10, 0.05
# FFmpeg's AVColorSpace. Without a mark, FFmpeg takes BT.601 for every size, and players BT.709 for HD sizes.
_UNMARKED, _SD_SIZE = 2, (1279, 576)


def progressive(path: Path, stream: VideoStream, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """Yields the frames, deinterlaced from the first interlaced one on."""
    graph: Graph | None = None
    shape: tuple[int, int, str] | None = None
    order = 0 if stream.codec_context.name in _MARK_FRAMES else stream.codec_context.field_order
    for frame in frames:
        if graph is None and not (frame.interlaced_frame or order > _PROGRESSIVE):
            yield frame
            continue
        if stream.codec_context.codec.name == "hevc":  # FFmpeg returns each field as a frame of half the height
            raise UserError(
                "unsupported_video",
                f"{path}: interlaced HEVC cannot be read; convert it with `ffmpeg -i IN -vf weave,bwdif OUT.mp4`",
            )
        if shape != (frame.width, frame.height, frame.format.name):
            if graph is not None:
                yield from _filtered(graph, None)
            shape = (frame.width, frame.height, frame.format.name)
            graph = _deinterlacer(frame, order)
        assert graph is not None
        yield from _filtered(graph, frame)
    if graph is not None:
        yield from _filtered(graph, None)


class Picture:
    """Converts decoded frames to upright RGB pictures with square pixels, all of one size."""

    def __init__(self, path: Path, stream: VideoStream):
        self._path = path
        self._aspect = stream.sample_aspect_ratio or Fraction(1)
        self._codec = stream.codec_context
        self._coded: tuple[int, int, Fraction | None] | None = None  # size and pixels of the frames as decoded
        self._size = (0, 0)  # with square pixels
        self._skewed = False
        self._converter = VideoReformatter()
        self.warnings: list[str] = []
        if not _MIN_ASPECT <= self._aspect <= _MAX_ASPECT:
            self.warnings.append(f"the file declares pixels {self._aspect} times as wide as high; assuming square ones")
            self._aspect = Fraction(1)

    def show(self, frame: VideoFrame, number: int) -> np.ndarray:
        """Converts a frame to (H, W, 3) uint8 RGB."""
        pixel = self._codec.sample_aspect_ratio  # with several threads, it may change a few frames too early
        coded = (frame.width, frame.height)
        if self._coded is None:
            self._size = self._square(coded)
        elif (*coded, pixel) != self._coded:
            if pixel and (before := self._coded[2]):
                self._aspect *= pixel / before
            self._check_shape(coded, number)
        self._coded = (*coded, pixel)
        width, height = self._size
        how = "BILINEAR" if coded == self._size else "BICUBIC"  # without scaling, this affects only the colours
        matrix = Colorspace.ITU709 if frame.colorspace == _UNMARKED and _is_hd(coded) else None
        # At usual frame sizes, more threads are slower.
        image = self._converter.reformat(
            frame, width, height, "rgb24", src_colorspace=matrix, interpolation=how, threads=1
        ).to_ndarray()
        return self._upright(image, frame)

    def _square(self, coded: tuple[int, int]) -> tuple[int, int]:
        """The size with square pixels. The side that is too short grows, so no detail is lost."""
        width, height = coded
        if self._aspect > 1:
            width = round(width * self._aspect)
        else:
            height = round(height / self._aspect)
        check_size(self._path, width, height)
        return width, height

    def _check_shape(self, coded: tuple[int, int], number: int) -> None:
        (width, height), (before_width, before_height) = self._square(coded), self._size
        if abs(width * before_height / (height * before_width) - 1) > _SAME_SHAPE:
            raise UserError(
                "wrong_image_size",
                f"{self._path}: the picture changes shape at {spell(number)}, from {before_width}×{before_height} "
                f"to {width}×{height} pixels; cut the video there",
            )

    def _upright(self, image: np.ndarray, frame: VideoFrame) -> np.ndarray:
        data: Mapping[str, Any] = cast(Any, frame.side_data)
        if (matrix := data.get("DISPLAYMATRIX")) is None:
            return image
        # (x, y) of the frame is shown at (a x + c y, b x + d y).
        a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(float)
        turned = abs(b) + abs(c) > abs(a) + abs(d)
        right, down = (c, b) if turned else (a, d)  # where the picture's own axes point, forwards or backwards
        if not (right and down):
            return image  # not a rotation
        off = max(abs(a), abs(d)) if turned else max(abs(b), abs(c))
        if off > _SKEW * min(abs(right), abs(down)) and not self._skewed:
            self._skewed = True
            self.warnings.append("the file's rotation flag is not a multiple of 90°; using the nearest")
        if turned:
            image = cv2.transpose(image)
        if right < 0 or down < 0:
            image = cv2.flip(image, -1 if right < 0 and down < 0 else int(right < 0))
        return image


class Combs:
    """Detects unmarked interlaced video, in which moving edges look like combs."""

    def __init__(self) -> None:
        self._before: np.ndarray | None = None
        self._seen = self._moving = self._combed = 0  # pixels

    def look(self, image: np.ndarray, number: int) -> None:
        """Compares some pairs of neighbouring frames (H, W, 3)."""
        if number % _COMB_FRAMES > 1 or len(image) < 4:
            return
        rows = image[:, ::_COMB_COLUMNS, 1].astype(np.int16)
        before, self._before = self._before, rows
        if number % _COMB_FRAMES == 0 or before is None or before.shape != rows.shape:
            return
        moving = np.abs(rows - before)[1:-2] > _COMB_STEP
        down = np.diff(rows, axis=0)
        first, second, third = down[:-2], down[1:-1], down[2:]  # between four rows: up, down, up, or the reverse
        tooth = (np.minimum(np.minimum(first, third), -second) > _COMB_STEP) | (
            np.minimum(np.minimum(-first, -third), second) > _COMB_STEP
        )
        self._seen += moving.size
        self._moving += int(moving.sum())
        self._combed += int((tooth & moving).sum())

    def warnings(self) -> Iterator[str]:
        if self._moving >= 1e-3 * self._seen and self._combed > _COMB_SHARE * self._moving:
            yield (
                "the frames look interlaced, though the file does not say so: moving edges look like combs; "
                "deinterlace them with `ffmpeg -i IN -vf setfield=tff,bwdif OUT.mp4`"
            )


def check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(
            "oversized_file",
            f"{path}: frames of {width}×{height} pixels are too large; shrink them with "
            "`ffmpeg -i IN -vf scale=1920:-2 OUT.mp4`",
        )


def _is_hd(size: tuple[int, int]) -> bool:
    """Whether (width, height) is the size of HD video, in either orientation."""
    return max(size) > _SD_SIZE[0] or min(size) > _SD_SIZE[1]


def _deinterlacer(frame: VideoFrame, order: int) -> Graph:
    """Makes one frame from two fields. ``order`` is the container's field order; up to 1, each frame's mark counts."""
    parity = "auto"
    if order > _PROGRESSIVE:
        parity = "tff" if order in _TOP_FIRST else "bff"
    graph = Graph()
    graph.link_nodes(
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base),
        graph.add("bwdif", mode="send_frame", parity=parity, deint="interlaced" if parity == "auto" else "all"),
        graph.add("buffersink"),
    ).configure()
    return graph


def _filtered(graph: Graph, frame: VideoFrame | None) -> Iterator[VideoFrame]:
    """Passes a frame (None at the end of the video) to the filter. Yields the frames that are ready."""
    graph.vpush(frame)
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
