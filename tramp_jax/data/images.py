"""Decodes image files. ``decode_whole`` is strict: OpenCV silently fills in the missing part of a truncated file."""

import io
import warnings

import cv2
import numpy as np
from PIL import Image

from tramp_jax.errors import UserError

MAX_BYTES = 256 << 20
MAX_PIXELS = 2**26  # an 8K frame has half as many; decoding takes 6 bytes for each
JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_TIFF, _DEEP = (b"II*\0", b"MM\0*"), ("F", "I")  # modes of values with 32 bits, which OpenCV would truncate
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0-SOF15 without DHT, JPG and DAC
_SCAN, _END = 0xDA, b"\xff\xd9"


class ImageError(UserError):
    """What is wrong with an image. The caller adds which image it is, and the cure."""


def decode(image: bytes) -> np.ndarray:
    """Decodes an image file to (H, W, 3) uint8 RGB; one of 16 bits is scaled to 8.

    Raises:
      ImageError: it is too large, truncated, or not an image.
    """
    _check_size(image)
    try:
        decoded = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, MemoryError) as error:  # the header declares a huge size, rightly or wrongly
        # ``err`` is OpenCV's reason without its version and source lines. A MemoryError has no text at all.
        reason = str(getattr(error, "err", error)).strip() or type(error).__name__
        raise ImageError("unreadable_image", f"is not a readable image ({reason})") from error
    if decoded is None:
        raise ImageError("unreadable_image", f"cannot be decoded ({len(image)} bytes)")
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def decode_whole(image: bytes, size: int) -> np.ndarray:
    """Decodes a complete JPEG or PNG file, of ``size`` × ``size`` pixels unless that is 0, to (H, W, 3) uint8 RGB.

    Raises:
      ImageError: it is empty, truncated, of another size, or not such an image.
    """
    if not image:
        raise ImageError("empty_file", "is empty (0 bytes)")
    if image.startswith(JPEG):
        shape, ends = _jpeg(image)
    elif image.startswith(PNG):
        shape, ends = _png(image)
    else:
        raise ImageError("unreadable_image", f"is not a JPEG or PNG image ({len(image)} bytes)")
    if not ends:
        raise ImageError("truncated_image", f"is truncated: its end is missing after {len(image)} bytes")
    # The header first: a hostile one would make the decoder reserve gigabytes.
    if size and shape and shape != (size, size):
        raise ImageError("wrong_image_size", f"has {shape[1]}×{shape[0]} pixels, not {size}×{size}")
    return decode(image)


def _check_size(image: bytes) -> None:
    """Refuses an image whose header declares more than ``MAX_PIXELS``, without decoding it; see ``decode``."""
    if image.startswith(JPEG):
        shape = _jpeg(image)[0]
    elif image.startswith(PNG):
        shape = _png(image)[0]
        if not _png_chunks_fit(image):  # the decoder would reserve as much as the chunk declares
            raise ImageError("truncated_image", "is truncated: a chunk declares more bytes than the file has")
    else:
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(image)) as opened:
                shape, mode = (opened.height, opened.width), opened.mode
            if mode in _DEEP:
                raise Image.UnidentifiedImageError
        except Image.UnidentifiedImageError as error:  # its text names an object, not the file
            deep = image.startswith(_TIFF)
            what = "has values of neither 8 nor 16 bits; save it with 8 or 16" if deep else "is not a readable image"
            raise ImageError("unreadable_image", what) from error
        except Image.DecompressionBombError as error:
            raise ImageError("oversized_file", f"is too large ({error})") from error
        except Exception as error:  # a damaged file raises almost anything
            raise ImageError("unreadable_image", f"is not a readable image ({error})") from error
    if shape is None:
        raise ImageError("unreadable_image", "has no header that states its size")
    if shape[0] * shape[1] > MAX_PIXELS:
        what = f"has {shape[1]}×{shape[0]} pixels, more than {MAX_PIXELS // 10**6} million"
        raise ImageError("oversized_file", what)


def fault(image: bytes, size: int = 0) -> ImageError | None:
    """What ``decode_whole`` would raise; None for an intact image."""
    try:
        decode_whole(image, size)
    except ImageError as error:
        return error
    return None


def _jpeg(image: bytes) -> tuple[tuple[int, int] | None, bool]:
    """(height, width) according to the header, and whether the image is complete."""
    shape, at = None, len(JPEG)
    while at + 4 <= len(image) and image[at] == 0xFF:
        marker, length = image[at + 1], int.from_bytes(image[at + 2 : at + 4])
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker in _FRAME_HEADERS and at + 9 <= len(image):
            shape = int.from_bytes(image[at + 5 : at + 7]), int.from_bytes(image[at + 7 : at + 9])
        at += 2 + length
        if marker == _SCAN:  # compressed data never contains the two bytes of the end marker
            return shape, image.find(_END, at) >= 0
    return shape, False


def _png(image: bytes) -> tuple[tuple[int, int] | None, bool]:
    """(height, width) according to the header, and whether the image is complete."""
    shape = (int.from_bytes(image[20:24]), int.from_bytes(image[16:20])) if image[12:16] == b"IHDR" else None
    return shape, image.rfind(b"IEND\xaeB`\x82") >= 0


def _png_chunks_fit(image: bytes) -> bool:
    """Whether no chunk declares more bytes than the image has."""
    at = len(PNG)
    while at + 8 <= len(image) and image[at + 4 : at + 8] != b"IEND":
        at += 12 + int.from_bytes(image[at : at + 4])
    return at <= len(image)
