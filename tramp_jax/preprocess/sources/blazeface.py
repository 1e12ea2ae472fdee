"""MediaPipe's short-range face detector (BlazeFace), run with LiteRT; anchors, decoding and suppression in NumPy.

The constants come from MediaPipe's graph ``face_detection_short_range``.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.special import expit

from tramp_jax.errors import UserError
from tramp_jax.preprocess.faces import Face, area, overlap, shared

SIZE = 128  # side of the network's square input, in pixels
_MIN_SCORE = 0.5
_MIN_SCORE_PART = 0.8  # in a part of the frame, where folds of cloth and the like reach 0.73
_MIN_OVERLAP, _MAX_INSIDE = 0.3, 0.6  # boxes that overlap more, or lie in each other more, are one face
_GRIDS = ((16, 2), (8, 6))  # cells per side, anchors per cell


def interpreter(model: Path) -> Any:
    """Opens a model file with LiteRT, on one thread."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise UserError(
            "missing_package",
            f'--landmarks mediapipe needs the package ai-edge-litert ({error}): pip install "tramp_jax[mediapipe]"',
        ) from error
    try:
        opened = Interpreter(model_path=str(model), num_threads=1)
        opened.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise UserError("bad_model", f"{model}: not a TensorFlow Lite model that LiteRT can run ({error})") from error
    return opened


class Detector:
    """Finds faces that are large in the picture, up to about two metres from the camera."""

    def __init__(self, model: Path):
        self._interpreter = interpreter(model)
        self._input = self._interpreter.get_input_details()[0]["index"]
        outputs = {tuple(output["shape"]): output["index"] for output in self._interpreter.get_output_details()}
        try:
            self._boxes, self._scores = outputs[(1, 896, 16)], outputs[(1, 896, 1)]
        except KeyError:
            raise UserError("bad_model", f"{model}: not the short-range face detector (it has {outputs})") from None
        self._anchors = _anchors()

    def __call__(self, frame: np.ndarray) -> list[Face]:
        """Finds the faces in a frame (H, W, 3) uint8 RGB, best first. Each has six points, the two eyes first.

        The network was made for faces at least a fifth as wide as the picture. If faces are smaller, it finds boxes
        between two people, so overlapping squares of the frame are searched as well.
        """
        height, width = frame.shape[:2]
        scale = 2 * SIZE / max(height, width)
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        found = self._search(small, _MIN_SCORE)
        for left, top in _corners(*small.shape[:2]):
            shift = np.array([left, top], np.float32)
            for each in self._search(small[top : top + SIZE, left : left + SIZE], _MIN_SCORE_PART):
                found.append(Face(each.box + np.tile(shift, 2), each.score, each.points + shift))
        kept: list[Face] = []
        for each in sorted(found, key=lambda face: -face.score):
            if not any(_same_face(each.box, other.box) for other in kept):
                kept.append(each)
        per_pixel = np.array([width / size[0], height / size[1]], np.float32)
        return [Face(each.box * np.tile(per_pixel, 2), each.score, each.points * per_pixel) for each in kept]

    def _search(self, picture: np.ndarray, min_score: float) -> list[Face]:
        """Finds the faces in one picture, which is resized and padded to the network's input."""
        height, width = picture.shape[:2]
        scale = SIZE / max(height, width)
        square = np.zeros((SIZE, SIZE, 3), np.uint8)
        shown = (max(round(width * scale), 1), max(round(height * scale), 1))
        left, top = (SIZE - shown[0]) // 2, (SIZE - shown[1]) // 2
        square[top : top + shown[1], left : left + shown[0]] = cv2.resize(picture, shown, interpolation=cv2.INTER_AREA)
        self._interpreter.set_tensor(self._input, square[None].astype(np.float32) / 127.5 - 1)
        self._interpreter.invoke()
        raw = self._interpreter.get_tensor(self._boxes)[0]
        scores = expit(self._interpreter.get_tensor(self._scores)[0, :, 0])
        likely = scores >= min_score
        centres = raw[likely, :2] + self._anchors[likely]
        corners = np.stack([centres - raw[likely, 2:4] / 2, centres + raw[likely, 2:4] / 2], axis=1)
        keypoints = raw[likely, 4:].reshape(-1, 6, 2) + self._anchors[likely][:, None]
        merged = _suppress(np.concatenate([corners, keypoints], axis=1), scores[likely])
        per_pixel = np.array([shown[0] / width, shown[1] / height])
        found = []
        for points, score in merged:
            points = ((points - (left, top)) / per_pixel).astype(np.float32)
            found.append(Face(points[:2].ravel(), score, points[2:]))
        return found


def _corners(height: int, width: int) -> list[tuple[int, int]]:
    """Upper left corners (left, top) of half-overlapping squares of side SIZE in a picture of side 2·SIZE."""

    def starts(length: int) -> list[int]:
        room = max(length - SIZE, 0)
        return np.linspace(0, room, int(np.ceil(room / (SIZE / 2))) + 1).astype(int).tolist()

    return [(left, top) for top in starts(height) for left in starts(width)]


def _same_face(box: np.ndarray, other: np.ndarray) -> bool:
    """Whether two boxes overlap, or one lies mostly inside the other."""
    return overlap(box, other) > _MIN_OVERLAP or shared(box, other) > _MAX_INSIDE * min(area(box), area(other))


def _anchors() -> np.ndarray:
    """The centres (896, 2) of the anchors in pixels of the network's input."""
    rows = []
    for cells, repeats in _GRIDS:
        y, x = np.mgrid[:cells, :cells]
        centres = (np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) * (SIZE / cells)
        rows.append(np.repeat(centres, repeats, axis=0))
    return np.concatenate(rows)


def _suppress(points: np.ndarray, scores: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """Weighted non-maximum suppression: (n, 8, 2) candidates with corners first -> merged candidates, best first."""
    order = np.argsort(-scores)
    found = []
    while len(order):
        best = points[order[0], :2].ravel()
        near = np.array([overlap(best, points[i, :2].ravel()) > _MIN_OVERLAP for i in order])
        near[0] = True  # also a box without area, which does not even overlap itself
        members = order[near]
        found.append((np.average(points[members], axis=0, weights=scores[members]), float(scores[order[0]])))
        order = order[~near]
    return found
