"""The frame numbers of H.264, in which a lost frame leaves a gap. FFmpeg says nothing and shows a smeared picture.

ITU-T H.264: section 7.3 for the syntax, 7.4.3 for ``frame_num``.
"""

from collections.abc import Iterator

_SLICE, _KEY_SLICE, _SEQUENCE, _PICTURE = 1, 5, 7, 8  # types of units
_WITH_CHROMA = (44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244)  # profiles whose parameters go further
_HEADER, _PARAMETERS = 32, 1024  # bytes that hold the frame number of a slice, and the parameters of a sequence
_LONGEST = 16  # bits of a frame number


class FrameNumbers:
    """Looks for missing frames that others build on.

    Attributes:
      gaps: places where at least one is missing; not before a key frame, which builds on none.
    """

    def __init__(self, extradata: bytes):
        self.gaps = 0
        # In MP4 and Matroska, each unit follows its length in so many bytes; elsewhere, a start code.
        self._prefix = extradata[4] % 4 + 1 if extradata.startswith(b"\1") and len(extradata) > 5 else 0
        self._sequences: dict[int, tuple[int, int, bool]] = {}  # bits before and in a number; whether it may jump
        self._pictures: dict[int, int] = {}  # the sequence of a picture's parameters
        self._last: int | None = None  # number of the last frame that others may build on
        self._read(_parameters(extradata) if self._prefix else _after_codes(extradata), False)

    def look(self, packet: bytes, key: bool) -> None:
        """Takes the next packet, with a frame or one of its fields; ``key`` if it is marked as a key frame."""
        self._read(_after_lengths(packet, self._prefix) if self._prefix else _after_codes(packet), key)

    def _read(self, units: Iterator[bytes], key: bool) -> None:
        try:
            for unit in units:
                kind = unit[0] % 32
                if kind in (_SLICE, _KEY_SLICE):
                    self._compare(unit, key or kind == _KEY_SLICE)
                    break
                if kind == _SEQUENCE:
                    self._learn_sequence(_Bits(unit[1:_PARAMETERS]))
                elif kind == _PICTURE:
                    bits = _Bits(unit[1:_HEADER])
                    name, sequence = bits.number(), bits.number()
                    self._pictures[name] = sequence
        except (ValueError, LookupError):  # damaged, or the parameters are missing
            self._last = None

    def _compare(self, unit: bytes, key: bool) -> None:
        bits = _Bits(unit[1:_HEADER])
        bits.skip(2)  # the slice's place and type
        skipped, length, may_jump = self._sequences[self._pictures[bits.number()]]
        bits.take(skipped)
        number = bits.take(length)
        if self._last is not None and not (key or may_jump) and (number - self._last) % (1 << length) > 1:
            self.gaps, self._last = self.gaps + 1, number - 1
        if unit[0] & 0x60:  # others may build on it
            self._last = number

    def _learn_sequence(self, bits: "_Bits") -> None:
        profile, planes = bits.take(24) >> 16, 0
        name = bits.number()
        if profile in _WITH_CHROMA:
            chroma = bits.number()
            planes = bits.take(1) if chroma == 3 else 0
            bits.skip(2)
            bits.take(1)
            for matrix in range((12 if chroma == 3 else 8) if bits.take(1) else 0):
                if bits.take(1):
                    bits.skip_matrix(16 if matrix < 6 else 64)
        length = bits.number() + 4
        if length > _LONGEST:
            raise ValueError
        order = bits.number()
        if order == 0:
            bits.skip(1)
        elif order == 1:
            bits.take(1)
            bits.skip(2)
            bits.skip(bits.number())
        bits.skip(1)  # how many frames others may build on
        self._sequences[name] = 2 * planes, length, bool(bits.take(1))


class _Bits:
    """Reads the bits of a unit."""

    def __init__(self, unit: bytes):
        self._bits = "".join(f"{byte:08b}" for byte in unit.replace(b"\0\0\3", b"\0\0"))
        self._at = 0

    def take(self, count: int) -> int:
        start, self._at = self._at, self._at + count
        return int(self._bits[start : self._at] or "0", 2)

    def number(self) -> int:
        """Reads an Exp-Golomb code, unsigned. Raises ValueError at the end of the unit."""
        zeros = self._bits.index("1", self._at) - self._at
        self._at += zeros
        return self.take(zeros + 1) - 1

    def skip(self, count: int) -> None:
        """Skips Exp-Golomb codes."""
        for _ in range(count):
            self.number()

    def skip_matrix(self, size: int) -> None:
        last = step = 8
        for _ in range(size):
            if step:
                code = self.number() + 1  # signed: 1, -1, 2, -2, ...
                step = (last + (code // 2 if code % 2 == 0 else -(code // 2))) % 256
            last = step or last


def _after_codes(content: bytes) -> Iterator[bytes]:
    """The units that follow start codes."""
    yield from content.split(b"\0\0\1")[1:]


def _after_lengths(content: bytes, prefix: int) -> Iterator[bytes]:
    """The units that follow their lengths in ``prefix`` bytes."""
    at = 0
    while at + prefix < len(content):
        start = at + prefix
        at = start + int.from_bytes(content[at:start], "big")
        yield content[start:at]


def _parameters(extradata: bytes) -> Iterator[bytes]:
    """The parameters in the header of an MP4 or Matroska file."""
    at = 5
    for most in (31, 255):  # of sequences, of pictures
        count, at = extradata[at] & most, at + 1
        for _ in range(count):
            start = at + 2
            at = start + int.from_bytes(extradata[at:start], "big")
            yield extradata[start:at]
