"""Checks that a face is the right way up. A sideways or upside-down face makes a clip unlike any in training."""

from collections.abc import Sequence

import numpy as np

from tramp_jax.data import clips, landmarks
from tramp_jax.data.landmark_checks import LYING
from tramp_jax.errors import UserError
from tramp_jax.preprocess.faces import Face, LandmarkSource

TILTED = 35.0  # degrees from upright: a warning above it, an error above ``LYING``
_CROPS = 8  # crops to compare with themselves upside down
_BETTER = 0.75  # a video is upside down if the detector prefers at least this share of them turned
_CURES = {90: "transpose=1", -90: "transpose=2", 180: "hflip,vflip"}


def check_tilt(faces: Sequence[Face], layout: str) -> tuple[str, ...]:
    """Warns if the followed face is tilted on average; refuses one that is sideways or upside down (not_upright)."""
    degrees = landmarks.tilt(np.stack([face.points for face in faces]), layout)
    if abs(degrees) <= TILTED:
        return ()
    if abs(degrees) <= LYING:
        return (f"the head is tilted by {degrees:.0f}° on average",)
    if abs(degrees) > 135:
        pose, turn = "upside down", 180
    else:
        pose, turn = "sideways", 90 if degrees > 0 else -90
    raise UserError("not_upright", f"the face is {pose}, turned by {degrees:.0f}°; {_cure(turn)}")


def check_not_upside_down(images: Sequence[bytes], source: LandmarkSource) -> None:
    """Compares some of a clip's face crops (JPEG) with the same crops upside down.

    A detector often takes an upside-down face for an upright one, with noise for landmarks, but is more confident when
    the picture is turned. Only sources with ``finds_faces`` are asked; the others follow points.

    Raises:
      UserError: most crops have a more confident face upside down.
    """
    if not source.finds_faces:
        return
    better = []
    for number in np.unique(np.linspace(0, len(images) - 1, _CROPS).astype(int)):
        crop = clips.decode_frame(images[number])
        better.append(_confidence(crop[::-1, ::-1], source) > _confidence(crop, source))
    if np.mean(better) >= _BETTER:
        raise UserError(
            "not_upright",
            f"the face seems to be upside down: the detector is more confident with the picture turned; {_cure(180)}",
        )


def _confidence(image: np.ndarray, source: LandmarkSource) -> float:
    """The highest confidence of a face in a picture (H, W, 3); 0 without a face."""
    (found,) = source([np.ascontiguousarray(image)])
    return max((face.score for face in found), default=0.0)


def _cure(turn: int) -> str:
    return f"turn it upright with `ffmpeg -i IN -vf {_CURES[turn]} OUT.mp4`, or turn the images"
