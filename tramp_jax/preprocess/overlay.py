"""Draws landmarks over a clip's frames so that you can judge them, as a video or as a sheet of selected frames."""

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from tramp_jax.data import landmarks
from tramp_jax.data.clips import Clip, decode_frame
from tramp_jax.data.frame_numbers import spell
from tramp_jax.errors import UserError
from tramp_jax.files import hidden, write_atomically

SCALE = 2  # crops are enlarged to keep 63 points apart
# One colour per group, in the order of landmarks.GROUPS; the nose tip is white.
COLOURS = ((255, 196, 0), (255, 110, 0), (0, 200, 255), (0, 110, 255), (80, 230, 80), (255, 70, 160), (200, 90, 255))
_MARK = (255, 40, 40)  # border of frames with interpolated landmarks
_BLANK = 256  # side in pixels of the black picture for a clip without frames
SHEET = 12  # tiles
_COLUMNS = 4


def draw(frame: np.ndarray, points: np.ndarray, layout: str, note: str = "", marked: bool = False) -> np.ndarray:
    """Draws landmarks (P, 2), in pixels of the frame, on a frame (H, W, 3) uint8 RGB, enlarged to (2H, 2W, 3).

    ``note`` is a text in the top left corner. A red border (``marked``) marks interpolated frames.
    """
    picture = cv2.resize(frame, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC)
    chosen = landmarks.select(points[None], layout)[0]
    for slot, point in enumerate(chosen):
        _dot(picture, point, COLOURS[slot // landmarks.GROUP_SIZE])
    _dot(picture, landmarks.nose_tip(points[None], layout)[0, 0], (255, 255, 255))
    if note:
        # The outline is made of shifted copies, because a thicker stroke would also widen the letters.
        places = [(8 + x, 20 + y, (0, 0, 0)) for x in (-1, 0, 1) for y in (-1, 0, 1)] + [(8, 20, (255, 255, 255))]
        for x, y, colour in places:
            cv2.putText(picture, note, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.55, colour, 1, cv2.LINE_AA)
    if marked:
        cv2.rectangle(picture, (0, 0), (picture.shape[1] - 1, picture.shape[0] - 1), _MARK, 6)
    return picture


def _dot(picture: np.ndarray, point: np.ndarray, colour: tuple[int, int, int]) -> None:
    # Points count from the corner of a pixel, OpenCV from its centre, in 1/16 pixels (4 fractional bits).
    x, y = np.round((point * SCALE - 0.5) * 16).astype(int).tolist()
    cv2.circle(picture, (x, y), 2 * 16 + 8, (0, 0, 0), -1, cv2.LINE_AA, shift=4)
    cv2.circle(picture, (x, y), 2 * 16, colour, -1, cv2.LINE_AA, shift=4)


def picture(clip: Clip, number: int, interpolated: Sequence[bool] = ()) -> np.ndarray:
    """Draws frame ``number`` of a clip, on black if the clip has no frames."""
    frame = np.zeros((_BLANK, _BLANK, 3), np.uint8) if clip.frames is None else decode_frame(clip.frames[number])
    marked = bool(interpolated[number]) if len(interpolated) else False
    note = f"{spell(number)}  {number / clip.fps:.2f} s" + ("  interpolated" if marked else "")
    return draw(frame, clip.landmarks[number], clip.layout, note, marked)


def sheet(clip: Clip, interpolated: Sequence[bool] = ()) -> np.ndarray:
    """Draws up to ``SHEET`` evenly spaced frames, both ends included, on one sheet (H, W, 3) uint8 RGB."""
    count = min(SHEET, len(clip.landmarks))
    shown = [picture(clip, int(i), interpolated) for i in np.linspace(0, len(clip.landmarks) - 1, count)]
    columns = min(_COLUMNS, count)
    shown += [np.full_like(shown[0], 255)] * (-count % columns)
    return np.vstack([np.hstack(shown[row : row + columns]) for row in range(0, len(shown), columns)])


def write_sheet(path: Path, clip: Clip, interpolated: Sequence[bool] = ()) -> None:
    """Writes ``sheet`` as .png or .jpg."""
    _, data = cv2.imencode(path.suffix, cv2.cvtColor(sheet(clip, interpolated), cv2.COLOR_RGB2BGR))
    write_atomically(path, data.tobytes())


def write_video(path: Path, clip: Clip, interpolated: Sequence[bool] = ()) -> None:
    """Writes all frames with their landmarks as an .mp4 at the clip's frame rate."""
    first = picture(clip, 0, interpolated)
    code = cv2.VideoWriter.fourcc(*"mp4v")
    partial = hidden(path, f"{os.getpid()}.partial{path.suffix}")
    writer = cv2.VideoWriter(str(partial), cv2.CAP_FFMPEG, code, clip.fps, (first.shape[1], first.shape[0]))
    try:
        if not writer.isOpened():
            raise UserError("cannot_write", f"{path}: cannot write a video there; check the folder")
        for number in range(len(clip.landmarks)):
            writer.write(cv2.cvtColor(picture(clip, number, interpolated), cv2.COLOR_RGB2BGR))
        writer.release()
        os.replace(partial, path)
    finally:
        writer.release()
        partial.unlink(missing_ok=True)
