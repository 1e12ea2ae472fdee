"""Tables of landmarks as OpenFace and py-feat write them, of drawn faces, and the layout of RAVDESS's landmarks."""

import csv
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tests.ibug68 import ibug68
from tramp_jax.synthetic.faces import SyntheticFaces

RAVDESS_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
Columns = dict[str, Sequence[object]]


@functools.cache
def drawn68(index: int = 0, count: int = 60) -> np.ndarray:
    """iBUG's points (count, 68, 2) of a drawn person who smiles, in pixels of a frame of 384×288."""
    source = SyntheticFaces(index + 1, 1, ("smile",), with_frames=False)
    points = source.scene(index)[1]
    there_and_back = np.arange(count) % (2 * len(points) - 2)
    points = points[np.minimum(there_and_back, 2 * len(points) - 2 - there_and_back)]
    return np.add(ibug68(points), (60, 20))


def openface(points: np.ndarray, eyes: bool = False, fps: float = 30.0) -> Columns:
    """The columns of OpenFace 2.1 for points (n, 68, 2) that reading may depend on, and some others."""
    count = len(points)
    columns: Columns = {
        "frame": range(1, count + 1),
        "timestamp": [f"{i / fps:.3f}" for i in range(count)],
        "confidence": [0.98] * count,
        "success": [1] * count,
        "gaze_0_x": [0.1] * count,
    }
    if eyes:
        for axis, name in enumerate("xy"):
            middles = points[:, [36, 39], axis].mean(1), points[:, [42, 45], axis].mean(1)
            spread = np.sin(np.arange(28) * 2 * np.pi / 8 + axis * np.pi / 2)
            for i in range(56):
                columns[f"eye_lmk_{name}_{i}"] = middles[i // 28] + 3 * spread[i % 28] + 2 + 50 * (i % 28 >= 8)
    columns |= points_of(points)
    return columns | {f"{axis}_{i}": [1000.0] * count for axis in "XYZ" for i in range(68)}


def pyfeat(points: np.ndarray) -> Columns:
    """The columns of py-feat for points (n, 68, 2)."""
    count = len(points)
    box = {f"FaceRect{name}": [100.0] * count for name in ("X", "Y", "Width", "Height")}
    return {
        **box,
        "FaceScore": [0.99] * count,
        **points_of(points),
        "AU01": [0.5] * count,
        "input": ["a, b.mp4"] * count,
        "frame": range(count),
    }


def points_of(points: np.ndarray) -> Columns:
    return {f"{name}_{i}": points[:, i, axis].round(3) for axis, name in enumerate("xy") for i in range(68)}


def write(path: Path, columns: Mapping[str, Sequence[object]], blank: str = "") -> Path:
    """Writes a table; OpenFace has a blank after each comma of the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        file.write(("," + blank).join(columns) + "\n")
        csv.writer(file).writerows(zip(*columns.values(), strict=True))
    return path


def write_ravdess(
    folder: Path, actors: Sequence[int] = (1, 2), emotions: Sequence[str] = ("neutral", "happy"), count: int = 20
) -> dict[str, tuple[str, str, float]]:
    """The unpacked archive below ``folder``: speech, both intensities (neutral has one), one statement.

    Returns:
      Actor, emotion and intensity of each clip by its name.
    """
    written = {}
    for actor in actors:
        for emotion in emotions:
            for intensity in (1, 2)[: 1 if emotion == "neutral" else 2]:
                number = RAVDESS_EMOTIONS.index(emotion) + 1
                name = f"01-01-{number:02d}-{intensity:02d}-01-01-{actor:02d}"
                points = drawn68(actor, count) + np.sin(np.arange(count))[:, None, None] * len(written) / 10
                columns = openface(points, eyes=True, fps=29.97)
                del columns["success"]
                write(folder / f"{name}.csv", columns)
                written[name] = (f"{actor:02d}", emotion, float(intensity))
    return written
