"""Decodes a video file frame by frame: upright, progressive, with square pixels, and with the time of each frame.

FFmpeg decodes, through PyAV, and only one frame is held at a time. A file that cannot be read raises a ``UserError``
that names the file and the cure.
"""

import collections
import os
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.filter import Graph
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream

from tramp_jax.data import images, tables
from tramp_jax.data.frame_numbers import spell
from tramp_jax.errors import UserError

MAX_PIXELS = images.MAX_PIXELS  # per frame
_PROMISED = 0.9  # share of its frames that a damaged file must deliver to be usable
_MIN_ASPECT, _MAX_ASPECT = Fraction(1, 4), Fraction(4)  # width / height of a pixel; cameras stay between 1/2 and 2.2
_SAME_SHAPE = 0.01  # relative difference between two picture shapes that rounding explains
_SKEW = 0.05  # sine of the angle by which a display matrix may miss a quarter turn
# These decoders mark each frame as interlaced or not; for others, the container's mark counts.
_MARK_FRAMES = ("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vc1")
# FFmpeg's AVFieldOrder: up to 1 is unknown or progressive; the top field is shown first in 2 and 5, not in 3 and 4.
_PROGRESSIVE, _TOP_FIRST = 1, (2, 5)
# Search every 8th frame and every 4th column for combs with steps of over 10 grey levels. Combs hold at most 1 % of the
# moving pixels in progressive videos, and 15 to 25 % in interlaced ones (measured).
_COMB_FRAMES, _COMB_COLUMNS, _COMB_STEP, _COMB_SHARE = 8, 4, 10, 0.05
# These decoders return nothing before the first picture that they can decode. Others return P- and B-frames on grey.
_WAIT = ("h264", "hevc")
# These decoders hardly notice damage. What they read seldom holds so many zeros, but a file with holes does.
_TRUSTING, _HOLE = ("hevc", "vp8", "vp9"), bytes(64)
_PREDICTED = (PictureType.P, PictureType.B, PictureType.S)
# Factors between the camera's rate and the file's. A phone in the dark slows down by less than 3, but not from over 50.
_SLOW_MOTION, _SLOW_MOTION_ABOVE_50 = 3, 1.5
# FFmpeg's AVColorSpace. Without a mark, FFmpeg takes BT.601 for every size, and players BT.709 for HD sizes.
_UNMARKED, _SD_SIZE = 2, (1279, 576)
_HDR = {16: "PQ", 18: "HLG"}  # FFmpeg's AVColorTransferCharacteristic
_MAX_INDEX = 64 * 1024 * 1024  # bytes; the search for a video stream reads no more of a container's index
_ONLY_SOUND = "holds sound but no video; name the video file"
_CONVERT = "`ffmpeg -i IN -c:v libx264 OUT.mp4`"

# Titles that are not UTF-8 must not make a video unreadable. From PyAV 19 on, they never do, and the option is gone.
_LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}

_MP4_STARTS = (b"ftyp", b"wide", b"mdat", b"moov", b"free", b"styp", b"sidx", b"moof")  # the last three: of segments
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # of Matroska and WebM
_ASF = bytes.fromhex("3026b2758e66cf11")  # the header of a WMV file, and the part of it that has the file's size
_ASF_SIZE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_READ_ONCE = (b"FLV", _ASF)  # FFmpeg reads only the first of such files that were joined
_MAX_TAIL = 1024 * 1024  # bytes between the last frame of a file and the next file that was joined to it
_TS_PACKETS = ((188, 0), (192, 4))  # size, and where b"G" stands, in a transport stream and on an AVCHD card


class VideoFile:
    """Frames of a video file as a player shows them.

    Interlaced frames are deinterlaced (one frame for two fields), non-square pixels are made square, rotation and
    mirror flags are applied, and frames hidden by an edit list are skipped.

    Attributes:
      path: the file.
      rate: nominal frames per second; 0 if the container does not say.
      damaged: frames that were skipped so far because they are damaged or their key frame was cut off.
      warnings: doubts about the file; complete once all frames have been read.
    """

    def __init__(self, path: Path):
        self.path, self.damaged = path, 0
        self.warnings: tuple[str, ...] = ()
        with self._open() as container:
            stream = _stream(container, path)
            self.rate = float(stream.guessed_rate or 0)
            self._options = _options(container, stream)

    def _open(self) -> InputContainer:
        # "file:" and the whitelist keep playlists and odd names from opening a connection.
        options = {"protocol_whitelist": "file"}
        try:
            return av.open(f"file:{self.path}", container_options=options, **_LENIENT)
        except (av.FFmpegError, ValueError) as error:
            raise UserError("unreadable_video", f"{self.path}: {_diagnosis(self.path)}") from error

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yields (seconds since the first frame, (H, W, 3) uint8 RGB).

        Raises:
          UserError: no frame can be decoded, many are missing or damaged, or all are identical.
        """
        with self._open() as container:
            stream = _stream(container, self.path)
            stream.thread_type = "AUTO"
            stream.codec_context.options = self._options
            packets = _Packets(container, stream)
            picture = _Picture(self.path, stream)
            combs = _Combs()
            first: np.ndarray | None = None
            count, still = 0, True
            try:
                for frame in _progressive(self.path, stream, packets.frames()):
                    image = picture.show(frame, count)
                    if first is None:
                        first = image.copy()
                    still = still and np.array_equal(first, image)
                    if stream.codec_context.name != "gif":  # dithered colours look like combs
                        combs.look(image, count)
                    count, self.damaged = count + 1, packets.damaged + packets.headless
                    yield packets.seconds(frame), image
            except (av.FFmpegError, MemoryError) as error:
                raise UserError(
                    "unreadable_video",
                    f"{self.path}: {spell(count)} cannot be decoded ({error}); convert it with {_CONVERT}",
                ) from error
            warnings = (
                *_other_videos(container, stream),
                *_wide_colours(stream),
                *_other_speed(container, stream),
                *_edited_speed(self.path),
                *picture.warnings,
                *combs.warnings(),
                *_damage(self.path, count, packets),
                *_joined(self.path, packets.end),
            )
        if count > 1 and still:
            raise UserError(
                "still_video",
                f"{self.path}: all {count} frames are identical, so no face moves; record the person again, or export "
                "one frame as an image",
            )
        self.warnings = warnings


class _Packets:
    """Decodes the packets of a stream and counts those that are hidden, damaged or, at the start, without key frame."""

    def __init__(self, container: InputContainer, stream: VideoStream):
        self._container, self._stream = container, stream
        self._start: float | None = None
        # An AVI file numbers its frames in decoding order; frame k is shown at the k-th number.
        self._order: collections.deque[int] | None = collections.deque() if container.format.name == "avi" else None
        # FFmpeg does not count a frame whose header is damaged. The index of an AVI file does.
        entries = () if self._order is None else stream.index_entries
        self._index = collections.deque((entry.pos + 8, entry.size, entry.timestamp) for entry in entries)
        self._codec, self._started = stream.codec_context.name, False
        self.read = self.hidden = self.damaged = self.headless = self.holes = 0
        self.end = 0  # of the last packet, in bytes from the start of the file
        self._key: int | None = None  # when the first key frame is shown
        self._leading = self._pictures = self._shown = 0
        self.broken_end = False

    def frames(self) -> Iterator[VideoFrame]:
        """Yields the intact frames, in the order in which they are shown."""
        try:
            for packet in self._container.demux(self._stream):
                for frame in self._decoded(packet):
                    self._shown += 1
                    yield frame
        except av.FFmpegError:  # the rest of the file cannot be read
            self.broken_end = True
        if self._order is not None:
            self._lose(len(self._index))
        if (
            self._codec == "hevc" and not self.broken_end
        ):  # this decoder leaves out without a word what builds on a missing frame
            missing = max(self._pictures - self.damaged - self.headless - self._shown, 0)
            at_start = min(missing, self._leading)
            self.headless, self.damaged = self.headless + at_start, self.damaged + missing - at_start

    def _decoded(self, packet: "Packet[VideoStream]") -> Iterator[VideoFrame]:
        if packet.size:
            self.read += 1
            self.hidden += packet.is_discard
            self._pictures += self._codec == "hevc" and not packet.is_discard and _holds_picture(bytes(packet))
            self.broken_end = packet.is_corrupt
            self.holes += self._codec in _TRUSTING and _HOLE in bytes(packet)
            self.end = max(self.end, (packet.pos or 0) + packet.size)
            if self._key is None and packet.is_keyframe:
                self._key = packet.pts
            if self._key is not None and packet.pts is not None:
                self._leading += packet.pts < self._key
            if self._order is not None and packet.dts is not None and packet.pos is not None:
                self._order.append(self._number(packet.pos, packet.size, packet.dts))
            if self._codec in _WAIT and packet.is_keyframe and not self._started:
                for _ in range(self.read - 1 - self.damaged - self.headless):
                    self._skip()
                self._started = True
        try:
            decoded = packet.decode()
        except av.FFmpegError:
            self._skip()
            self.broken_end = True
            return
        for frame in decoded:
            if self._is_whole(frame):
                yield frame
            else:
                self._skip()

    def _number(self, position: int, size: int, counted: int) -> int:
        """The number of the frame at a position of an AVI file; ``counted`` if its index does not say."""
        if self._index and self.read == 1 and all(entry[:2] != (position, size) for entry in self._index):
            self._lose(self._index[0][1] != size)  # the first frame is not found if its header is damaged
            self._index.clear()  # its positions count from elsewhere
        while self._index and self._index[0][0] <= position:
            place, _, number = self._index.popleft()
            if place == position:
                return number
            self._lose(1)
        return counted

    def _lose(self, count: int) -> None:
        """Counts frames that the file has but FFmpeg does not find."""
        self.read, self.damaged = self.read + count, self.damaged + count

    def _skip(self) -> None:
        """Counts a lost frame. It is the next to be shown, because the decoder has returned all before it."""
        self.damaged += self._started
        self.headless += not self._started
        if self._order:
            self._order.popleft()

    def _is_whole(self, frame: VideoFrame) -> bool:
        """Whether a frame was decoded from complete data, as far as the decoder says."""
        self._started |= self._codec in _WAIT or frame.key_frame or frame.pict_type not in _PREDICTED
        return self._started and not frame.is_corrupt

    def seconds(self, frame: VideoFrame) -> float:
        """Seconds from the first frame to this one; NaN if the file does not say. Call it once per frame."""
        time = frame.time
        if self._order and self._stream.time_base:
            time = float(self._order.popleft() * self._stream.time_base)
        if time is None:
            return float("nan")
        if self._start is None:
            self._start = time
        return time - self._start

    def promised(self) -> int:
        """The container's frame count, without those hidden by its edit list; 0 if it does not say."""
        stream, counts = self._stream, []
        if self._container.format.name in ("mpegts", "gif"):  # the length is that of the frames in the file
            return 0
        if stream.frames:
            counts.append(stream.frames - self.hidden)
        if not stream.frames or "mp4" in self._container.format.name:  # an edit list shortens the time, not the count
            length = self._container.duration / av.time_base if self._container.duration else 0.0
            if stream.duration is not None and stream.time_base:
                length = float(stream.duration * stream.time_base)
            if length and stream.average_rate:
                counts.append(round(length * stream.average_rate))
        return max(min(counts, default=0), 0)


def _holds_picture(packet: bytes) -> bool:
    """Whether a packet of HEVC holds a part of a picture, not only parameters as from some network cameras."""
    if packet.startswith(b"\0\0\0\1"):  # in a stream without packets, FFmpeg finds the frames
        return True
    at = 0
    while at + 4 < len(packet) and packet[at + 4] >= 0x40:  # each unit follows its length in four bytes
        at += 4 + int.from_bytes(packet[at : at + 4], "big")
    return at + 4 < len(packet)


class _Combs:
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


class _Picture:
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
        _check_size(self._path, width, height)
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


def _is_hd(size: tuple[int, int]) -> bool:
    """Whether (width, height) is a size of HD video, also upright."""
    return max(size) > _SD_SIZE[0] or min(size) > _SD_SIZE[1]


def _progressive(path: Path, stream: VideoStream, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
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


def _stream(container: InputContainer, path: Path) -> VideoStream:
    """The video stream that a player shows."""
    moving = _without_stills(container)
    if not moving:
        raise UserError("unreadable_video", f"{path}: {_ONLY_SOUND if container.streams.audio else _diagnosis(path)}")
    best = container.streams.best("video")
    stream = best if best in moving else moving[0]
    if stream.codec_context is None:  # FFmpeg does not know the codec
        raise UserError("unreadable_video", f"{path}: {_diagnosis(path)}")
    _check_size(path, stream.codec_context.width, stream.codec_context.height)
    return stream


def _options(container: InputContainer, stream: VideoStream) -> dict[str, str]:
    """Options with which the Motion JPEG decoder reports damage, unless the first frame breaks the rules already."""
    if stream.codec_context.name != "mjpeg":
        return {}
    stream.codec_context.options = strict = {"err_detect": "explode"}
    try:
        next(container.demux(stream)).decode()
    except av.FFmpegError:  # some cameras never write whole frames
        return {}
    return strict


def _without_stills(container: InputContainer) -> list[VideoStream]:
    """The video streams, without cover pictures and stills."""
    streams = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    return [each for each in streams if each.frames != 1] or streams


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(
            "oversized_file",
            f"{path}: frames of {width}×{height} pixels are too large; shrink them with "
            "`ffmpeg -i IN -vf scale=1920:-2 OUT.mp4`",
        )


def _other_videos(container: InputContainer, stream: VideoStream) -> Iterator[str]:
    """Warns if the file holds several videos."""
    if (count := len(_without_stills(container))) > 1:
        yield f"the file holds {count} videos; read number {stream.index}, with {stream.width}×{stream.height} pixels"


def _wide_colours(stream: VideoStream) -> Iterator[str]:
    """Warns about high dynamic range, whose colours are not those of ordinary video."""
    if name := _HDR.get(int(stream.codec_context.color_trc or 0)):
        yield (
            f"the video is HDR ({name}), so its colours look pale and its contrast differs; switch HDR off in the "
            "camera, or convert it with `ffmpeg -i IN -vf zscale=t=linear:npl=100,tonemap=hable,zscale=t=bt709:m=bt709:"
            "p=bt709,format=yuv420p OUT.mp4`"
        )


def _other_speed(container: InputContainer, stream: VideoStream) -> Iterator[str]:
    """Warns about slow motion and time lapse, in which phones write how many frames a second the camera took."""
    taken = tables.number(container.metadata.get("com.android.capture.fps", ""))
    shown = float(stream.average_rate or 0)
    least = _SLOW_MOTION_ABOVE_50 if taken and taken > 50 else _SLOW_MOTION
    if taken and shown and not 1 / _SLOW_MOTION < taken / shown < least:
        what = "slow motion" if taken > shown else "time lapse"
        yield (
            f"{what}: the camera took {taken:.4g} frames per second and the file shows {shown:.4g}, so the face moves "
            f"at a different speed than in life; use `ffmpeg -i IN -vf setpts=PTS*{shown / taken:.4g} -r {taken:.4g} "
            "OUT.mp4`, or record it again at the usual speed"
        )


def _edited_speed(path: Path) -> Iterator[str]:
    """Warns about an MP4 or MOV file whose edit list changes the speed, which FFmpeg ignores."""
    with path.open("rb") as file:
        content = _mp4_index(file) if file.read(8)[4:] in _MP4_STARTS else b""
    speeds = set()
    for match in re.finditer(b"elst", content):
        at = match.end()
        entry = 20 if content[at : at + 1] == b"\1" else 12
        count = int.from_bytes(content[at + 4 : at + 8], "big")
        if int.from_bytes(content[at - 8 : at - 4], "big") != 16 + count * entry or at + count * entry > len(content):
            continue  # not a box
        entries = (content[at + 8 + i * entry : at + 8 + (i + 1) * entry] for i in range(count))
        speeds |= {
            int.from_bytes(each[-4:], "big", signed=True) / (1 << 16)
            for each in entries
            if each[-4 - (entry - 4) // 2 : -4].strip(b"\xff")  # else nothing is shown
        }
    if others := sorted(speeds - {1.0}):
        yield (
            f"the file's edit list shows parts at {', '.join(f'{speed:g}' for speed in others)} times the usual speed. "
            "This is ignored, so the face may move at a different speed than in life; export it at its usual speed"
        )


def _damage(path: Path, count: int, packets: _Packets) -> Iterator[str]:
    """Warns if a little of the file is missing or damaged.

    The container's frame count matters only if the file is damaged. Intact files with edit lists, a variable rate, or
    sound that outlasts the picture also have fewer frames than declared.

    Raises:
      UserError: much is missing or damaged.
    """
    if count == 0:
        raise UserError(
            "unreadable_video",
            f"{path}: no frame can be decoded; the file is damaged or its codec is unknown; convert it with {_CONVERT}",
        )
    cut_off, promised = _is_cut_off(path), packets.promised()
    few = count < _PROMISED * promised
    if packets.damaged > (1 - _PROMISED) * packets.read and not (cut_off and few):
        what = f"{path}: {packets.damaged} of {packets.read} frames are damaged; copy it again"
        raise UserError("damaged_video", what)
    cut_off = cut_off or packets.broken_end
    if cut_off and few:
        raise UserError(
            "damaged_video",
            f"{path}: cut off: only {count} of {promised} frames can be read; copy it again, or keep these frames with "
            f"{_CONVERT}",
        )
    if packets.headless:
        lost = f"{packets.headless} of {packets.read}"
        yield f"frames left out at the start, because their key frame was cut off: {lost}"
    if cut_off and count < promised:
        yield f"only {count} of {promised} frames can be read; the file is probably cut off at its end; copy it again"
    elif cut_off and not promised:
        yield f"the file is cut off after {count} frames; copy it again"
    elif packets.damaged:
        frames = "frame" if packets.damaged == 1 else "frames"
        yield f"skipped {packets.damaged} damaged {frames} of {packets.read}; copy the file again"
    if packets.holes:
        yield (
            f"frames with blocks of zeros: {packets.holes} of {packets.read}; the picture is probably wrong there and "
            "until the next key frame; copy the file again"
        )


def _joined(path: Path, end: int) -> Iterator[str]:
    """Warns if the file is several files, joined byte by byte. The last packet ends at byte ``end``.

    FFmpeg reads only the first of joined MP4, MOV, Flash and WMV files. It reads all of joined AVI, Matroska and WebM
    files, but as the first one describes itself. MPEG files may be joined.
    """
    with path.open("rb") as file:
        start = file.read(8)
        what = "FFmpeg does not read it"
        if start[4:] in _MP4_STARTS:
            counts: collections.Counter[bytes] = collections.Counter()
            unread = False
            for kind, position, _ in _mp4_boxes(file):
                counts[kind] += kind in (b"ftyp", b"moov")
                unread |= kind == b"mdat" and position >= end
            several = unread and max(counts[b"ftyp"], counts[b"moov"]) > 1
        elif start.startswith((b"RIFF", _EBML)):
            what = "it is read with the rate, shape and turn of the first, and without the time between them"
            size = int.from_bytes(start[4:], "little")
            first = 8 + size + size % 2 if start.startswith(b"RIFF") else _end_of_segment(file) or end
            file.seek(min(first, file.seek(0, os.SEEK_END)))
            after = file.read(12)
            several = after.startswith(_EBML) or (after.startswith(b"RIFF") and after.endswith(b"AVI "))
        else:
            file.seek(end)
            several = start.startswith(_READ_ONCE) and start in file.read(_MAX_TAIL)
    if several:
        yield (
            f"another video follows in the same file, as if two files had been joined byte by byte; {what}; use the "
            "separate files, or join them with `ffmpeg -f concat -safe 0 -i LIST.txt -c copy OUT.mp4`"
        )


def _diagnosis(path: Path) -> str:
    """Says why FFmpeg cannot open a file, and what to do."""
    with path.open("rb") as file:
        start = file.read(12)
        index = _mp4_index(file) if start[4:8] in _MP4_STARTS else None
    if index is not None:
        # A track's type follows 8 bytes after the letters of its handler box.
        kinds = {index[match.end() + 8 : match.end() + 12] for match in re.finditer(b"hdlr", index)}
        if not kinds:
            return (
                "the index (moov) is missing because the file is cut off, its recording was interrupted, or it is a "
                "segment of a stream; copy it again, try a repair tool such as untrunc, or put the stream's first "
                "segment before it"
            )
        if b"vide" not in kinds:
            return _ONLY_SOUND
    if start.startswith((b"OggS", b"fLaC", b"ID3", b"\xff\xfb", b"\xff\xf1")) or start[8:12] == b"WAVE":
        return _ONLY_SOUND
    return f"is not a video that can be decoded; if it plays elsewhere, convert it with {_CONVERT}"


def _is_cut_off(path: Path) -> bool:
    """Whether a file ends within a part of it: MP4, MOV, AVI, Matroska, WebM, Flash, WMV, MPEG-TS, GIF."""
    with path.open("rb") as file:
        start = file.read(8)
        end = file.seek(0, os.SEEK_END)
        if start.startswith(b"RIFF"):
            return end < 8 + int.from_bytes(start[4:], "little")
        if start.startswith(_EBML):
            return end < _end_of_segment(file)
        if start.startswith(b"FLV"):
            return not _ends_with_a_tag(file, end)
        if start == _ASF:
            return end < _asf_size(file)
        if start.startswith(b"GIF8"):
            file.seek(max(end - 1024, 0))
            return not file.read().rstrip(b"\0").endswith(b";")
        if start[4:] in _MP4_STARTS:
            return any(position + length > end for _, position, length in _mp4_boxes(file))
        file.seek(0)
        start = file.read(4 * _TS_PACKETS[-1][0])
        return any(start[at::size][:4] == b"GGGG" and end % size for size, at in _TS_PACKETS)


def _asf_size(file: BinaryIO) -> int:
    """The size of a WMV file according to its header; 0 if it does not say, as in a live recording."""
    file.seek(0)
    start = file.read(1 << 16)
    position = start.find(_ASF_SIZE)
    flags = start[position + 88 : position + 89]
    live = position < 0 or not flags or flags[0] & 1
    return 0 if live else int.from_bytes(start[position + 40 : position + 48], "little")


def _ends_with_a_tag(file: BinaryIO, end: int) -> bool:
    """Whether a Flash file ends with the length of its last tag."""
    file.seek(end - 4)
    length = int.from_bytes(file.read(4), "big")
    file.seek(max(end - 4 - length, 0))
    tag = file.read(4)
    return tag[0] in (8, 9, 18) and int.from_bytes(tag[1:], "big") == length - 11  # sound, video, data


def _end_of_segment(file: BinaryIO) -> int:
    """Where the only segment of a Matroska file ends according to its header; 0 if it does not say."""
    file.seek(0)
    start = file.read(4096)
    position = start.find(_SEGMENT) + len(_SEGMENT)
    if position < len(_SEGMENT) or position == len(start) or not start[position]:
        return 0
    # The number of leading zero bits is the number of bytes that follow; all ones mean an unknown length.
    length = 9 - start[position].bit_length()
    value = int.from_bytes(start[position : position + length], "big") - (1 << 7 * length)
    return 0 if value == (1 << 7 * length) - 1 else position + length + value


def _mp4_index(file: BinaryIO) -> bytes:
    """The index of an MP4 or MOV file; empty without one."""
    for kind, position, length in _mp4_boxes(file):
        if kind == b"moov":
            file.seek(position)
            return file.read(min(length or _MAX_INDEX, _MAX_INDEX))
    return b""


def _mp4_boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yields the kind, position and length of each outer box of an MP4 or MOV file.

    The length is 0 for a last box that reaches to the end. Whatever follows a damaged length is not searched.
    """
    position, end = 0, file.seek(0, os.SEEK_END)
    while position + 8 <= end:
        file.seek(position)
        length, kind = int.from_bytes(file.read(4), "big"), file.read(4)
        if length == 1:  # the length follows in 64 bits
            length = int.from_bytes(file.read(8), "big")
        yield kind, position, length
        if length < 8:
            return
        position += length
