"""InsightFace's 106 points, as in the paper: model package buffalo_l, detector input 640×640.

If the package's 3D model of 68 points is also present, the 106 points get depth, interpolated from the 68. The option
``landmarks.frontalise`` needs depth.

InsightFace's code has the MIT licence; its models are for non-commercial research only. They are downloaded only if you
ask for it.
"""

import hashlib
import shutil
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import tqdm
from scipy.interpolate import RBFInterpolator

from tramp_jax.errors import UserError
from tramp_jax.files import write_atomically
from tramp_jax.preprocess.faces import MAX_SIDE, Face, LandmarkSource

PACKAGE = "buffalo_l"
FOLDER = Path("~/.insightface/models") / PACKAGE  # InsightFace's own folder
ADDRESS = f"https://github.com/deepinsight/insightface/releases/download/model-zoo/{PACKAGE}.zip"
MEGABYTES = 289
TIMEOUT = 30.0  # seconds without a byte from the server
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


class InsightFace(LandmarkSource):
    """Detects faces and their 106 landmarks in every frame independently.

    Args:
      models_dir: folder with the model files, or an InsightFace root that contains models/buffalo_l; None for
        ~/.insightface/models/buffalo_l.
      fetch: download the models if they are missing.
    """

    name, layout, max_side = "insightface", "insightface106", MAX_SIDE
    finds_faces = True

    def __init__(self, models_dir: Path | None, fetch: bool):
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
            what = f"InsightFace cannot load these models ({error!r})"
            raise UserError("bad_model", f"{folder}: {what}; {_how_to_get(folder)}") from error
        if "landmark_2d_106" not in self._app.models:
            raise UserError("bad_model", f"{folder / LANDMARKS}: not a model of 106 points; {_how_to_get(folder)}")
        # Set explicitly: InsightFace changed its default size in version 2.
        self._app.prepare(ctx_id=0, det_thresh=MIN_SCORE, det_size=DETECTOR_INPUT)

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
    """Returns the folder with the model files; with ``fetch``, first downloads missing ones."""
    root = Path(models_dir if models_dir else FOLDER).expanduser()
    for folder in (root, root / PACKAGE, root / "models" / PACKAGE):
        if all((folder / file).is_file() for file in REQUIRED):
            return folder
    if not fetch:
        missing = [file for file in REQUIRED if not (root / file).is_file()]
        raise UserError("missing_file", f"{root}: lacks the models {' and '.join(missing)}. {_how_to_get(root)}")
    install(ADDRESS, root)
    return root


def install(address: str, folder: Path, checksums: Mapping[str, str] = SHA256) -> None:
    """Downloads the model package, checks the files with known ``checksums``, and puts them into ``folder``.

    Raises:
      UserError: download_failed; bad_model if a file is missing from the package or has the wrong checksum;
        cannot_write.
    """
    with tempfile.TemporaryFile() as package:
        try:
            _download(address, package)
        except (OSError, HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            what = f"the download failed ({getattr(error, 'reason', None) or error})"
            raise UserError("download_failed", f"{address}: {what}. {_how_to_get(folder)}") from error
        try:
            with zipfile.ZipFile(package) as archive:
                members = {Path(name).name: name for name in archive.namelist()}
                contents = {file: archive.read(members[file]) for file in checksums}
        except (zipfile.BadZipFile, KeyError) as error:
            what = f"not the expected model package ({error})"
            raise UserError("bad_model", f"{address}: {what}; {_how_to_get(folder)}") from error
    for file, content in contents.items():
        if hashlib.sha256(content).hexdigest() != checksums[file]:
            raise UserError("bad_model", f"{address}: its {file} has the wrong checksum. {_how_to_get(folder)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in contents.items():
            write_atomically(folder / file, content)
    except OSError as error:
        what = f"cannot be written ({error.strerror}); choose another --models-dir"
        raise UserError("cannot_write", f"{folder}: {what}") from error


def _download(address: str, file: IO[bytes]) -> None:
    """Downloads with a progress bar."""
    with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:  # noqa: S310  (our own address)
        expected = int(answer.headers.get("Content-Length") or 0)
        name = address.rpartition("/")[2]
        with tqdm.tqdm.wrapattr(answer, "read", total=expected or None, desc=name, disable=None) as shown:
            shutil.copyfileobj(shown, file, 1 << 20)
    if expected and file.tell() != expected:
        raise OSError(f"it stopped after {file.tell()} of {expected} bytes")


def _how_to_get(folder: Path) -> str:
    return (
        f"Download {ADDRESS} ({MEGABYTES} MB), unpack {DETECTOR} and {LANDMARKS} (and {SPACE} for depth) into "
        f"{folder}, or name their folder with --models-dir, or let tramp-jax preprocess --download do it. {LICENCE}"
    )
