"""Whether a face is the right way up: a face on its side or its head becomes a clip unlike any that was trained on."""

from collections.abc import Sequence

import numpy as np

from tramp_jax.data import clips, landmarks
from tramp_jax.errors import UserError
from tramp_jax.preprocess.faces import Face, LandmarkSource

TILTED, LYING = 35.0, 60.0  # degrees from upright: warned of, refused
_LOOKS = 8  # frames in which a face is compared with itself upside down
_BETTER = 0.75  # share of them in which it is found with more confidence if it is turned
_CURES = {90: "transpose=1", -90: "transpose=2", 180: "hflip,vflip"}


def check_tilt(faces: Sequence[Face], layout: str) -> tuple[str, ...]:
    """A warning if the face that is followed is tilted on average.

    Raises:
      UserError: it lies on its side or its head.
    """
    degrees = tilt(np.stack([face.points for face in faces]), layout)
    if abs(degrees) <= TILTED:
        return ()
    if abs(degrees) <= LYING:
        return (f"the head is tilted by {degrees:.0f}° on average",)
    turn = 180 if abs(degrees) > 135 else 90 if degrees > 0 else -90
    raise UserError(
        "not_upright",
        f"the face lies on its {'head' if turn == 180 else 'side'}, turned by {degrees:.0f}° from its eyes to its "
        f"mouth; {_cure(turn)}",
    )


def tilt(points: np.ndarray, layout: str) -> float:
    """Degrees between the direction from the eyes to the mouth and straight down, of points (n, P, 2) of n frames.

    Positive if the mouth is to the right of the eyes in the picture; ±180 for a face on its head.
    """
    centres = landmarks.select(points, layout).reshape(-1, len(landmarks.GROUPS), landmarks.GROUP_SIZE, 2).mean(axis=2)
    left, right, lower, upper = (
        centres[:, landmarks.GROUPS.index(name)] for name in ("left_eye", "right_eye", "lower_lip", "upper_lip")
    )
    x, y = (lower + upper - left - right).sum(axis=0)
    return float(np.degrees(np.arctan2(x, y)))


def check_not_upside_down(images: Sequence[bytes], source: LandmarkSource) -> None:
    """Compares some of a clip's face crops (JPEG) with themselves upside down.

    A detector often takes a face on its head for an upright one, with landmarks of noise that point down, but is surer
    of the face if the picture is turned. Sources without ``finds_faces`` are left out: they only follow points.

    Raises:
      UserError: most faces are found with more confidence upside down.
    """
    if not getattr(source, "finds_faces", False):
        return
    better = []
    for number in np.unique(np.linspace(0, len(images) - 1, _LOOKS).astype(int)):
        crop = clips.decode_frame(images[number])
        better.append(_confidence(crop[::-1, ::-1], source) > _confidence(crop, source))
    if np.mean(better) >= _BETTER:
        raise UserError(
            "not_upright",
            "the face seems to lie on its head: it is found with more confidence if the picture is turned; "
            + _cure(180),
        )


def _confidence(image: np.ndarray, source: LandmarkSource) -> float:
    """The detector's confidence in the surest face of a picture (H, W, 3); 0 without a face."""
    (found,) = source([np.ascontiguousarray(image)])
    return max((face.score for face in found), default=0.0)


def _cure(turn: int) -> str:
    return f"turn it upright with `ffmpeg -i IN -vf {_CURES[turn]} OUT.mp4`, or turn the images"
