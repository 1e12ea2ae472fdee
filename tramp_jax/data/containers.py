"""What the bytes of a video file say about it: whether it is cut off, and whether another was joined to it."""

import collections
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tramp_jax.data.images import PNG

CONVERT = "`ffmpeg -i IN -c:v libx264 OUT.mp4`"
ONLY_SOUND = "holds sound but no video; name the video file"
_MAX_INDEX = 64 * 1024 * 1024  # bytes; the search for a video stream reads no more of a container's index
_MP4_STARTS = (b"ftyp", b"wide", b"mdat", b"moov", b"free", b"styp", b"sidx", b"moof")  # the last three: of segments
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # of Matroska and WebM
_ASF = bytes.fromhex("3026b2758e66cf11")  # the header of a WMV file, and the part of it that has the file's size
_ASF_SIZE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_READ_ONCE = (b"FLV", _ASF)  # FFmpeg reads only the first of such files that were joined
_MAX_TAIL = 1024 * 1024  # bytes between the last frame of a file and the next file that was joined to it
_TS_PACKETS = ((188, 0), (192, 4))  # size, and where b"G" stands, in a transport stream and on an AVCHD card
# The start of a packet that lists the parts of a program, and the types of its videos.
_TS_PROGRAM = re.compile(rb"G[\x40-\x5f].[\x10-\x1f]\0\x02[\xb0-\xbf].", re.DOTALL)
_TS_VIDEOS = (0x01, 0x02, 0x10, 0x1B, 0x20, 0x24, 0x33, 0x42, 0xEA)
_SECOND_GIF = re.compile(rb"\0;GIF8[79]a(....)", re.DOTALL)  # with its size


def diagnosis(path: Path) -> str:
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
            return ONLY_SOUND
    if start.startswith((b"OggS", b"fLaC", b"ID3", b"\xff\xfb", b"\xff\xf1")) or start[8:12] == b"WAVE":
        return ONLY_SOUND
    return f"is not a video that can be decoded; if it plays elsewhere, convert it with {CONVERT}"


def is_cut_off(path: Path) -> bool:
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


def joined(path: Path, end: int) -> Iterator[str]:
    """Warns if the file is several files, joined byte by byte. The last packet ends at byte ``end``.

    Only the first of joined MP4, MOV, Flash, WMV, PNG and WebP files is read. All of joined AVI, Matroska and WebM
    files are read, but as the first one describes itself. MPEG files may be joined if the codec stays the same, and GIF
    files if the size does.
    """
    with path.open("rb") as file:
        start = file.read(10)
        what = "it is not read"
        if start[4:8] in _MP4_STARTS:
            counts: collections.Counter[bytes] = collections.Counter()
            unread = False
            for kind, position, _ in _mp4_boxes(file):
                counts[kind] += kind in (b"ftyp", b"moov")
                unread |= kind == b"mdat" and position >= end
            several = unread and max(counts[b"ftyp"], counts[b"moov"]) > 1
        elif start.startswith((b"RIFF", _EBML)):
            size = int.from_bytes(start[4:8], "little")
            first = 8 + size + size % 2 if start.startswith(b"RIFF") else _end_of_segment(file) or end
            file.seek(min(first, file.seek(0, os.SEEK_END)))
            after = file.read(12)
            several = after.startswith(_EBML) or (after.startswith(b"RIFF") and after.endswith((b"AVI ", b"WEBP")))
            if not after.endswith(b"WEBP"):
                what = "it is read with the rate, shape and rotation of the first, and without the time between them"
        elif start.startswith(_READ_ONCE):
            file.seek(end)
            several = start[:8] in file.read(_MAX_TAIL)
        else:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if start.startswith(PNG):
                    several = content.find(b"IEND\xaeB`\x82" + PNG) > 0
                elif start.startswith(b"GIF8"):
                    several = any(match[1] != start[6:] for match in _SECOND_GIF.finditer(content))
                else:
                    several = _programs_follow(content)
                    what = "it has another codec or place, so only one of them is read"
    if several:
        yield (
            f"another video follows in the same file, as if two files had been joined byte by byte; {what}; use the "
            "separate files, or join them with `ffmpeg -f concat -safe 0 -i LIST.txt -c copy OUT.mp4`"
        )


def _programs_follow(content: mmap.mmap) -> bool:
    """Whether the videos of a transport stream change, so one list of them begins after another has ended."""
    first: dict[bytes, int] = {}
    last: dict[bytes, int] = {}
    if not any(content[at : at + 2 * size : size] == b"GG" for size, at in _TS_PACKETS):
        return False
    for match in _TS_PROGRAM.finditer(content):
        section = content[match.start() + 5 : match.start() + 188]
        end, at, videos = _length(section, 1) - 1, 12 + _length(section, 10), b""
        while at + 5 <= min(end, len(section)):
            if section[at] in _TS_VIDEOS:
                videos += section[at : at + 3]  # with its place
            at += 5 + _length(section, at + 3)
        if videos:
            first.setdefault(videos, match.start())
            last[videos] = match.start()
    return bool(last) and min(last.values()) < max(first.values())


def _length(section: bytes, at: int) -> int:
    """A length in a transport stream, of 12 bits."""
    return int.from_bytes(section[at : at + 2], "big") & 0xFFF


def edited_speed(path: Path) -> Iterator[str]:
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
