"""Synthetic faces written as the published data sets lay out their files, so that readers are tested without them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from tramp_jax.data import landmarks
from tramp_jax.data.clips import Clip, ClipInfo, decode_frame, encode_frame
from tramp_jax.data.synthetic import SyntheticFaces

PFED5_EXPRESSIONS = ("sit_at_rest", "smile", "frown", "squeeze_eyes", "clench_teeth")
_PFED5_HEADERS = {"qafe_net": "id,score,frames,class", "tramp_former": "id,score,frames,fps,class"}
_PFED5_LISTS = {
    "qafe_net": {"train": "PFED5_train.csv", "test": "PFED5_test.csv"},
    "tramp_former": {"train": "train_41.csv", "test": "test_41.csv"},
}


def write_pfed5(
    folder: Path,
    num_train_subjects: int = 2,
    num_test_subjects: int = 1,
    expressions: Sequence[str] = ("smile",),
    clips_per_subject: int = 1,
    variant: Literal["qafe_net", "tramp_former"] = "tramp_former",
    num_frames: int | None = 7,
    pixels: bool = True,
) -> list[Clip]:
    """The PFED5 tree below ``folder``.

    Args:
      folder: ROOT of ``tramp_jax.data.pfed5``; made where it is absent.
      num_train_subjects: in the training list; the subjects are P00, P01, ...
      num_test_subjects: in the test list, after the training subjects.
      expressions: some of PFED5_EXPRESSIONS.
      clips_per_subject: repetitions of each expression.
      variant: "qafe_net" has the expression in column 3 of its lists, "tramp_former" in column 4.
      num_frames: each clip's first frames that are written (7 is the shortest of PFED5); None for all.
      pixels: False leaves out the colours under the landmarks.

    Returns:
      The clips as a reader should find them, training list first.
    """
    source = SyntheticFaces(num_train_subjects + num_test_subjects, clips_per_subject, expressions, with_frames=False)
    rows: dict[str, list[str]] = {"train": [], "test": []}
    written = []
    for number in range(len(source)):
        made = source[number]
        painter = source.painter(number)  # renders only the frames that are written
        frames = tuple(encode_frame(painter.paint(t)) for t in range(made.info.num_frames)[:num_frames])
        subject = int(made.info.subject[1:])
        patient, video = f"P{subject:02d}", f"PD{number:04d}_clip"
        points = made.landmarks[: len(frames), 33:]
        points_71 = made.landmarks[: len(frames), landmarks.INSIGHTFACE_71]
        images = [decode_frame(frame) for frame in frames]
        colours_71 = _colours(images, points_71)
        colours_63 = _colours(images, landmarks.select(points, "insightface73"))
        info = ClipInfo(
            f"{video}_{made.info.expression}_{patient}", patient, made.info.expression, made.info.score, len(frames)
        )

        (folder / patient / video).mkdir(parents=True)
        for i, frame in enumerate(frames, 1):
            (folder / patient / video / f"img_{i:05d}.jpg").write_bytes(frame)
        _save(folder / "detect_73_crop" / patient / f"{video}-{patient}.npy", points)
        if pixels:
            _save(folder / "RGB_1x1_fromLK" / patient / f"{video}-{patient}.npy", colours_71)
        between = "25," if variant == "tramp_former" else ""
        rows["train" if subject < num_train_subjects else "test"].append(
            f"{info.id},{info.score:g},{len(frames)},{between}{PFED5_EXPRESSIONS.index(info.expression)}"
        )
        written.append(Clip(info, points, "insightface73", colours_63, frames, made.fps))
    for name, lines in rows.items():
        text = "\n".join([_PFED5_HEADERS[variant], *lines, ""])
        (folder / _PFED5_LISTS[variant][name]).write_text(text)
    return written


def _colours(images: Sequence[np.ndarray], points: np.ndarray) -> np.ndarray:
    return np.stack([landmarks.pixel_values(*pair) for pair in zip(images, points, strict=True)])


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
