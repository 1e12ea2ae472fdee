"""What is wrong with an image file: more than a decoder says, which fills in silently what a truncated file lacks."""

import cv2
import numpy as np

_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0-SOF15 without DHT, JPG and DAC
_SCAN, _END = 0xDA, b"\xff\xd9"


def fault(image: bytes, size: int = 0) -> tuple[str, str] | None:
    """What is wrong with a JPEG or PNG file, found by decoding it.

    Args:
      image: the bytes of the file.
      size: width and height in pixels that it must have; 0 for any.

    Returns:
      (kind of ``problems.Problem``, what is wrong), or None for a sound image.
    """
    if not image:
        return "empty_file", "is empty (0 bytes)"
    if image.startswith(_JPEG):
        shape, ends = _jpeg(image)
    elif image.startswith(_PNG):
        shape, ends = _png(image)
    else:
        return "unreadable_image", f"is no JPEG or PNG image ({len(image)} bytes)"
    if not ends:
        return "truncated_image", f"is truncated: its end is missing ({len(image)} bytes are there)"
    # The header comes first: a hostile one must not make the decoder reserve gigabytes.
    if size and shape and shape != (size, size):
        return "wrong_image_size", f"has {shape[1]}×{shape[0]} pixels, not {size}×{size}"
    decoded = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    if decoded is None:
        return "unreadable_image", f"cannot be decoded ({len(image)} bytes)"
    return None


def _jpeg(image: bytes) -> tuple[tuple[int, int] | None, bool]:
    """(height, width) as the header says, and whether the end of the image is there."""
    shape, at = None, len(_JPEG)
    while at + 4 <= len(image) and image[at] == 0xFF:
        marker, length = image[at + 1], int.from_bytes(image[at + 2 : at + 4])
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker in _FRAME_HEADERS and at + 9 <= len(image):
            shape = int.from_bytes(image[at + 5 : at + 7]), int.from_bytes(image[at + 7 : at + 9])
        at += 2 + length
        if marker == _SCAN:  # compressed data never holds the two bytes of the end marker
            return shape, image.find(_END, at) >= 0
    return shape, False


def _png(image: bytes) -> tuple[tuple[int, int] | None, bool]:
    """(height, width) as the header says, and whether the end of the image is there."""
    shape = (int.from_bytes(image[20:24]), int.from_bytes(image[16:20])) if image[12:16] == b"IHDR" else None
    return shape, image.rfind(b"IEND\xaeB`\x82") >= 0
