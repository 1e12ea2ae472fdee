"""Reads the packets of a video and notices what is missing or damaged."""

import collections
import zlib
from collections.abc import Iterator
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from tramp_jax.data.containers import CONVERT, is_cut_off
from tramp_jax.data.h264 import FrameNumbers
from tramp_jax.errors import UserError

_PROMISED = 0.9  # share of its frames that a damaged file must deliver to be usable
# These decoders return nothing before the first picture that they can decode. Others return P- and B-frames on grey.
_WAIT = ("h264", "hevc")
# These decoders hardly notice damage. What they read seldom holds so many zeros, but a file with holes does.
_TRUSTING, _HOLE = ("hevc", "vp8", "vp9"), bytes(64)
_MOST_GAPS = 0.2  # share of frames with a gap before them; an encoder that numbers them wrongly leaves more
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_PREDICTED = (PictureType.P, PictureType.B, PictureType.S)


class Packets:
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
        self._numbers = FrameNumbers(stream.codec_context.extradata or b"") if self._codec == "h264" else None
        self.read = self.hidden = self.damaged = self.headless = self.holes = 0
        self.end = 0  # of the last packet, in bytes from the start of the file
        self._key: int | None = None  # when the first key frame is shown
        self._leading = self._pictures = self._shown = 0
        self._checked = self._broken = False  # whether FFV1 has checksums, and one was wrong since the last key frame
        self._wrong: set[int | None] = set()  # when frames are shown whose checksums were wrong
        self.broken_end = False

    def frames(self) -> Iterator[VideoFrame]:
        """Yields the intact frames, in the order in which they are shown."""
        try:
            for packet in self._demuxed():
                for frame in self._decoded(packet):
                    self._shown += 1
                    yield frame
        except av.FFmpegError:  # the rest of the file cannot be read
            self.broken_end = True
        if self._order is not None:
            self._lose(len(self._index))
        # The decoder of HEVC leaves out without a word what builds on a missing frame.
        if self._codec == "hevc" and not self.broken_end:
            missing = max(self._pictures - self.damaged - self.headless - self._shown, 0)
            at_start = min(missing, self._leading)
            self.headless, self.damaged = self.headless + at_start, self.damaged + missing - at_start

    def _demuxed(self) -> Iterator["Packet[VideoStream]"]:
        try:
            yield from self._container.demux(self._stream)
        except IndexError:  # at the end, PyAV counts streams that were not there when it opened the file
            return

    def _decoded(self, packet: "Packet[VideoStream]") -> Iterator[VideoFrame]:
        if packet.size:
            self.read += 1
            self.hidden += packet.is_discard
            self._pictures += self._codec == "hevc" and not packet.is_discard and _holds_picture(bytes(packet))
            self.broken_end = packet.is_corrupt
            self.holes += self._codec in _TRUSTING and _HOLE in bytes(packet)
            if self._numbers:
                self._numbers.look(bytes(packet), packet.is_keyframe)
            if self._codec == "ffv1" and self._is_broken(packet):
                self._wrong.add(packet.pts)
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

    def _is_broken(self, packet: "Packet[VideoStream]") -> bool:
        """Whether a packet of FFV1 is damaged or builds on one that is. FFmpeg shows the last frame in its place."""
        right = _checksums_are_right(bytes(packet))
        self._checked |= right is True
        wrong = right is False or (self._checked and not right)
        self._broken = wrong or (self._broken and not packet.is_keyframe)
        return self._broken

    def _is_whole(self, frame: VideoFrame) -> bool:
        """Whether a frame was decoded from complete data, as far as the decoder says."""
        self._started |= self._codec in _WAIT or frame.key_frame or frame.pict_type not in _PREDICTED
        return self._started and not frame.is_corrupt and frame.pts not in self._wrong

    @property
    def gaps(self) -> int:
        """Places where frames are missing that later ones build on, as far as the codec shows."""
        return self._numbers.gaps if self._numbers else 0

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


def damage(path: Path, count: int, packets: Packets, reason: str = "") -> Iterator[str]:
    """Warns if a little of the file is missing or damaged.

    ``reason`` says what is known to be wrong with the file; an error names it in place of the usual cure.

    The container's frame count matters only if the file is damaged. Intact files with edit lists, a variable rate, or
    sound that outlasts the picture also have fewer frames than declared.

    Raises:
      UserError: much is missing or damaged.
    """
    if count == 0:
        raise UserError(
            "unreadable_video",
            f"{path}: no frame can be decoded; "
            + (reason or f"the file is damaged or its codec is unknown; convert it with {CONVERT}"),
        )
    cut_off, promised = is_cut_off(path), packets.promised()
    few = count < _PROMISED * promised
    if packets.damaged > (1 - _PROMISED) * packets.read and not (cut_off and few):
        what = f"{path}: {packets.damaged} of {packets.read} frames are damaged; {reason or 'copy it again'}"
        raise UserError("damaged_video", what)
    cut_off = cut_off or packets.broken_end
    if cut_off and few:
        raise UserError(
            "damaged_video",
            f"{path}: cut off: only {count} of {promised} frames can be read; copy it again, or keep these frames with "
            f"{CONVERT}",
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
    if 0 < packets.gaps < _MOST_GAPS * packets.read:
        places = "one place" if packets.gaps == 1 else f"{packets.gaps} places"
        yield (
            f"frames are missing in {places}, as if a network had lost them; the picture is smeared from there to the "
            "next key frame; copy the file again"
        )
    if packets.holes:
        yield (
            f"frames with blocks of zeros: {packets.holes} of {packets.read}; the picture is probably wrong there and "
            "until the next key frame; copy the file again"
        )


def _checksums_are_right(packet: bytes) -> bool | None:
    """Whether all slices of an FFV1 packet are whole. Each ends with its size and CRC-32; None if none ends so."""
    end, right = len(packet), True
    while end > 8:
        start = end - 8 - int.from_bytes(packet[end - 8 : end - 5], "big")
        # FFV1 takes the bits of each byte in the other order than zlib, and starts with 0.
        right &= zlib.crc32(packet[max(start, 0) : end].translate(_REVERSED), 0xFFFFFFFF) == 0xFFFFFFFF
        end = start
    return None if end else right


def _holds_picture(packet: bytes) -> bool:
    """Whether an HEVC packet holds part of a picture. Some network cameras also send packets of parameters alone."""
    if packet.startswith(b"\0\0\0\1"):  # in a stream without packets, FFmpeg finds the frames
        return True
    at = 0
    while at + 4 < len(packet) and packet[at + 4] >= 0x40:  # each unit follows its length in four bytes
        at += 4 + int.from_bytes(packet[at : at + 4], "big")
    return at + 4 < len(packet)
