"""InsightFace's 106 points, as in the paper: model package buffalo_l, detector input 640×640.

If the package's 3D model of 68 points is also present, the 106 points get depth, interpolated from the 68. The option
``landmarks.frontalise`` needs depth.

InsightFace's code has the MIT licence; its models are for non-commercial research only. They are downloaded only if you
ask for it.
"""

import hashlib
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.interpolate import RBFInterpolator

from tramp_jax.errors import UserError
from tramp_jax.files import write_atomically
from tramp_jax.preprocess import download
from tramp_jax.preprocess.faces import MAX_SIDE, Face

PACKAGE = "buffalo_l"
FOLDER = Path("~/.insightface/models") / PACKAGE  # InsightFace's own folder
ADDRESS = f"https://github.com/deepinsight/insightface/releases/download/model-zoo/{PACKAGE}.zip"
MEGABYTES = 289
LICENCE = "InsightFace's models are for non-commercial research only (https://www.insightface.ai)"
# The package's files that we use, with their checksums. The last one is only for depth.
DETECTOR, LANDMARKS, SPACE = "det_10g.onnx", "2d106det.onnx", "1k3d68.onnx"
REQUIRED = (DETECTOR, LANDMARKS)
SHA256 = {
    DETECTOR: "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
    LANDMARKS: "f001b856447c413801ef5c42091ed0cd516fcd21f2d6b79635b1e733a7109dbf",
    SPACE: "df5c06b8a0c12e422b2ed8947b8869faa4105387f199c477af038aa01f9a45cc",
}
# Among the 68 points: the nose tip, and the ends of the jaw at the ears, which lie behind it.
_NOSE, _EARS = 30, [0, 16]
DETECTOR_INPUT = (640, 640)
MIN_SCORE = 0.5


class InsightFace:
    """Detects faces and their 106 landmarks in every frame independently.

    Args:
      models_dir: folder with the model files, or an InsightFace root that contains models/buffalo_l; None for
        ~/.insightface/models/buffalo_l.
      fetch: download the models if they are missing.

    Raises:
      UserError: the package or its models are missing, or cannot be loaded.
    """

    name, layout, max_side = "insightface", "insightface106", MAX_SIDE
    finds_faces = True  # in any picture

    def __init__(self, models_dir: Path | None = None, fetch: bool = False):
        folder = find_models(models_dir, fetch)
        try:
            from insightface.app import FaceAnalysis
        except ImportError as error:
            raise UserError(
                "missing_package",
                f'--landmarks insightface needs its package ({error}): pip install "tramp_jax[insightface]"',
            ) from error
        try:
            self._app = FaceAnalysis(str(folder), allowed_modules=["detection", "landmark_2d_106", "landmark_3d_68"])
        except Exception as error:  # InsightFace asserts, ONNX Runtime has its own exceptions
            raise UserError(
                "bad_model", f"{folder}: InsightFace cannot load these models ({error!r}); {_how_to_get(folder)}"
            ) from error
        if "landmark_2d_106" not in self._app.models:
            raise UserError(
                "bad_model", f"{folder / LANDMARKS}: not InsightFace's model of 106 points; {_how_to_get(folder)}"
            )
        # Set explicitly: InsightFace changed its default size in version 2.
        self._app.prepare(ctx_id=0, det_thresh=MIN_SCORE, det_size=DETECTOR_INPUT)
        self.seconds: dict[str, float] = {}

    def __call__(self, frames: Iterable[np.ndarray]) -> Iterator[list[Face]]:
        """See ``LandmarkSource``."""
        # One call does both; the detector takes nearly all the time.
        self.seconds = {"detect": 0.0}
        for frame in frames:
            started = time.perf_counter()
            found = self._app.get(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            self.seconds["detect"] += time.perf_counter() - started
            yield [_face(each) for each in found]


def _face(found: Any) -> Face:
    points, space = np.asarray(found.landmark_2d_106, np.float32), found.landmark_3d_68  # None without that model
    depth = None if space is None else _depth(points, np.asarray(space, np.float64))
    return Face(np.asarray(found.bbox, np.float32), float(found.det_score), points, depth)


def _depth(points: np.ndarray, space: np.ndarray) -> np.ndarray:
    """Interpolates the depth of points (P, 2) from points of the same face in space (68, 3), in pixels.

    The thin-plate spline is smoothed, because nearby points are noisy.
    """
    height = RBFInterpolator(space[:, :2], space[:, 2], smoothing=1.0, kernel="thin_plate_spline")(points)
    # The nose is in front of the ears, whatever the sign of the model's depth.
    towards_camera = space[_NOSE, 2] > space[_EARS, 2].mean()
    return (-height if towards_camera else height).astype(np.float32)


def find_models(models_dir: Path | None, fetch: bool) -> Path:
    """Returns the folder with the model files; with ``fetch``, first downloads missing ones.

    Raises:
      UserError: the files are missing, or the download failed.
    """
    root = Path(models_dir if models_dir else FOLDER).expanduser()
    for folder in (root, root / PACKAGE, root / "models" / PACKAGE):
        if all((folder / file).is_file() for file in REQUIRED):
            return folder
    if not fetch:
        missing = [file for file in REQUIRED if not (root / file).is_file()]
        raise UserError(
            "missing_file", f"{root}: InsightFace's models {' and '.join(missing)} are missing. {_how_to_get(root)}"
        )
    install(ADDRESS, root)
    return root


def install(address: str, folder: Path, checksums: Mapping[str, str] = SHA256) -> None:
    """Downloads the model package, checks the files with known ``checksums``, and puts them into ``folder``.

    Raises:
      UserError: see ``download.fetch``; a file is missing from the package or has the wrong checksum; or ``folder``
        cannot be written.
    """
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / f"{PACKAGE}.zip"
        try:
            download.fetch(address, package)
        except UserError as error:
            raise UserError(error.kind, f"{address}: {_cause(error, address)}. {_how_to_get(folder)}") from error
        try:
            with zipfile.ZipFile(package) as archive:
                members = {Path(name).name: name for name in archive.namelist()}
                contents = {file: archive.read(members[file]) for file in checksums}
        except (zipfile.BadZipFile, KeyError) as error:
            raise UserError(
                "bad_model", f"{address}: not the expected model package ({error}); {_how_to_get(folder)}"
            ) from error
    for file, content in contents.items():
        if hashlib.sha256(content).hexdigest() != checksums[file]:
            raise UserError(
                "bad_model", f"{address}: its {file} has the wrong checksum, so it is not used. {_how_to_get(folder)}"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in contents.items():
            write_atomically(folder / file, content)
    except OSError as error:
        raise UserError(
            "cannot_write", f"{folder}: cannot be written ({error.strerror}); choose another --models-dir"
        ) from error


def _cause(error: UserError, address: str) -> str:
    """The reason in a ``download.fetch`` error, without its address and its advice on a temporary file."""
    return str(error).removeprefix(f"{address}: ").split(";")[0]


def _how_to_get(folder: Path) -> str:
    return (
        f"Download {ADDRESS} ({MEGABYTES} MB), unpack {DETECTOR} and {LANDMARKS} (and {SPACE} for depth) into "
        f"{folder}, or name their folder with --models-dir, or let tramp-jax preprocess --download do it. {LICENCE}"
    )
