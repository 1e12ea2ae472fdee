"""The 63 points from MediaPipe's face mesh, run with LiteRT.

Both models come with this package (``tramp_jax/preprocess/models``, Apache-2.0). The mesh of 468 points has no iris. A
pupil is the mean of the midpoints of its two eyelids, so it follows the lids but not sideways gaze. The mesh and
InsightFace place brows and the bridge of the nose slightly differently, so expect a loss of accuracy if you train on
one and score with the other.

The index table comes from comparing the mesh with InsightFace's mark-up drawing and with its output on photos.
"""

import dataclasses
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from scipy.special import expit

from tramp_jax.data.landmarks import SLOT_NAMES
from tramp_jax.errors import UserError
from tramp_jax.preprocess.faces import MAX_SIDE, Face, LandmarkSource, area, enclosing, overlap
from tramp_jax.preprocess.sources import blazeface

MODELS = Path(__file__).parents[1] / "models"
DETECTOR, MESH = "face_detection_short_range.tflite", "face_landmark.tflite"
NUM_VERTICES = 468
SIZE = 192  # side of the mesh network's square input, in pixels
DETECT_EVERY = 10  # frames; a new face is found after at most this many
MAX_FACES = 4
MIN_PRESENCE = 0.5
_MARGIN = 1.5  # side of the region that the mesh network reads, relative to the face's box
_SAME = 0.3  # a detection that overlaps a followed face at least this much is that face
_EYES = (33, 263)  # outer corners, image-left and image-right

# Each of the 63 points, in the order of SLOT_NAMES, is a vertex or the mean of two; the 64th is the nose tip.
_LEFT_PUPIL, _RIGHT_PUPIL = (159, 145), (386, 374)
# fmt: off
VERTICES: tuple[int | tuple[int, int], ...] = (
    145, 33, 163, 153, _LEFT_PUPIL, 133, 159, 160, 157,
    46, 53, 52, 55, 65, 63, 105, 107, 66,
    374, 362, 380, 390, _RIGHT_PUPIL, 263, 386, 384, 387,
    285, 295, 282, 283, 276, 336, 296, 334, 293,
    168, 195, 244, 198, 75, 2, 305, 420, 464,
    61, 88, 14, 318, 291, 321, 405, 181, 91,
    61, 37, 267, 291, 308, 311, 13, 81, 78,
    4,
)
# fmt: on
assert len(VERTICES) == len(SLOT_NAMES) + 1
_FIRST = np.array([v if isinstance(v, int) else v[0] for v in VERTICES])
_SECOND = np.array([v if isinstance(v, int) else v[1] for v in VERTICES])


def points63(mesh: np.ndarray) -> np.ndarray:
    """Converts vertices (468, D) to points (64, D) in the layout "points63"."""
    return (mesh[_FIRST] + mesh[_SECOND]) / 2


@dataclasses.dataclass(frozen=True)
class _Region:
    """The square of the frame that the mesh network reads: centre (2,), side in pixels, angle in radians."""

    centre: np.ndarray
    side: float
    angle: float


class MediaPipe(LandmarkSource):
    """Detects faces in every tenth frame and if one is lost; otherwise, looks where the last mesh was.

    Args:
      models_dir: folder with the two model files; None for those in this package.
    """

    name, layout, max_side = "mediapipe", "points63", MAX_SIDE
    finds_faces = True

    def __init__(self, models_dir: Path | None):
        folder = Path(models_dir).expanduser() if models_dir else MODELS
        for file in (DETECTOR, MESH):
            if not (folder / file).is_file():
                raise UserError("missing_file", f"{folder / file}: no such model; omit --models-dir to use our own")
        self._detector = blazeface.Detector(folder / DETECTOR)
        self._mesh = blazeface.interpreter(folder / MESH)
        self._input = self._mesh.get_input_details()[0]["index"]
        outputs = {int(np.prod(output["shape"])): output["index"] for output in self._mesh.get_output_details()}
        try:
            self._vertices, self._presence = outputs[3 * NUM_VERTICES], outputs[1]
        except KeyError:
            raise UserError("bad_model", f"{folder / MESH}: not a face mesh of {NUM_VERTICES} points") from None

    def __call__(self, frames: Iterable[np.ndarray]) -> Iterator[list[Face]]:
        """See ``LandmarkSource``."""
        self.seconds = {"detect": 0.0, "landmarks": 0.0}
        regions: list[_Region] = []
        for number, frame in enumerate(frames):
            found = self._look(frame, regions)
            if number % DETECT_EVERY == 0 or not found or len(found) < len(regions):
                unknown = [
                    detection
                    for detection in self._detect(frame)
                    if all(overlap(detection.box, face.box) < _SAME for face, _ in found)
                ]
                unknown.sort(key=lambda detection: -area(detection.box))  # the largest is most likely the right one
                new = [_region(detection.box, *detection.points[:2]) for detection in unknown]
                found += self._look(frame, new[: MAX_FACES - len(found)])
                found = _distinct(found)
            regions = [region for _, region in found]
            yield [face for face, _ in found]

    def _detect(self, frame: np.ndarray) -> list[Face]:
        started = time.perf_counter()
        detections = self._detector(frame)
        self.seconds["detect"] += time.perf_counter() - started
        return detections

    def _look(self, frame: np.ndarray, regions: list[_Region]) -> list[tuple[Face, _Region]]:
        """Finds the faces in the regions, each with the region to look at in the next frame."""
        started = time.perf_counter()
        found = []
        for region in regions:
            mesh, presence = self._run(frame, region)
            if presence >= MIN_PRESENCE:
                points = points63(mesh).astype(np.float32)
                face = Face(enclosing(mesh[:, :2]), presence, points[:, :2], points[:, 2])
                found.append((face, _region(face.box, *mesh[list(_EYES), :2])))
        self.seconds["landmarks"] += time.perf_counter() - started
        return found

    def _run(self, frame: np.ndarray, region: _Region) -> tuple[np.ndarray, float]:
        """Returns the mesh (468, 3) in pixels of the frame and the probability that the region shows a face."""
        scale = SIZE / region.side
        turn = scale * np.array(
            [[np.cos(region.angle), np.sin(region.angle)], [-np.sin(region.angle), np.cos(region.angle)]]
        )
        shift = SIZE / 2 - turn @ region.centre
        # Points count from the corner of the picture, warpAffine from the centre of its first pixel.
        matrix = np.column_stack([turn, shift + turn @ (0.5, 0.5) - 0.5])
        picture = cv2.warpAffine(frame, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        self._mesh.set_tensor(self._input, picture[None].astype(np.float32) / 255)
        self._mesh.invoke()
        vertices = self._mesh.get_tensor(self._vertices).reshape(NUM_VERTICES, 3).astype(np.float64)
        presence = float(expit(self._mesh.get_tensor(self._presence).ravel()[0]))
        vertices[:, :2] = (vertices[:, :2] - shift) @ np.linalg.inv(turn).T
        vertices[:, 2] /= scale
        return vertices, presence


def _region(box: np.ndarray, left_eye: np.ndarray, right_eye: np.ndarray) -> _Region:
    side, eye_line = _MARGIN * float(np.max(box[2:] - box[:2])), right_eye - left_eye
    return _Region((box[:2] + box[2:]) / 2.0, max(side, 1.0), float(np.arctan2(eye_line[1], eye_line[0])))


def _distinct(found: list[tuple[Face, _Region]]) -> list[tuple[Face, _Region]]:
    """Drops meshes that moved onto the same face, keeping the larger."""
    kept: list[tuple[Face, _Region]] = []
    for candidate in sorted(found, key=lambda pair: -area(pair[0].box)):
        if all(overlap(candidate[0].box, face.box) < _SAME for face, _ in kept):
            kept.append(candidate)
    return kept
