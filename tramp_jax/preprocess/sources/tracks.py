"""Reads point tracks saved by TAPIR, BootsTAPIR, CoTracker, or any program with the same layouts.

| file from | arrays | order |
|---|---|---|
| TAPIR, BootsTAPIR | ``tracks`` (N, T, 2), ``visibles`` (N, T) or ``occluded``, ``occlusions`` | points first |
| CoTracker | ``tracks`` (B, T, N, 2), ``visibility`` (B, T, N); B = 1, with or without that axis | time first |

Coordinates are always (x, y). *Query* points are (t, y, x) for TAPIR and (t, x, y) for CoTracker. TAPIR works on
resized frames, usually 256×256: unless you scale the tracks back before saving, you must give that size.

N determines the layout: 64 points are the 63 slots in the order of ``landmarks.SLOT_NAMES``, then the nose tip; 106, 73
and 71 are InsightFace's.
"""

import io
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from tramp_jax.data import gaps
from tramp_jax.data.clip_files import load_npy, load_npz
from tramp_jax.data.landmarks import LAYOUTS, NUM_LANDMARKS
from tramp_jax.errors import UserError
from tramp_jax.files import write_atomically
from tramp_jax.preprocess.faces import Face, LandmarkSource, enclosing

LAYOUT_OF = {
    LAYOUTS[name].num_points: name for name in ("points63", "insightface106", "insightface73", "insightface71")
}
MIN_VISIBLE = 0.5  # a frame that shows a smaller share of the points has no face
# Margins of a face box around its 63 points (left, top, right, bottom), as shares of the sides of the points' own box:
# means over two videos with MediaPipe's mesh, whose outline matches a face box.
BOX_MARGINS = (0.15, 0.25, 0.15, 0.33)
_FARTHEST = 1e6  # pixels; a point farther away is a tracking error and counts as hidden
_TIME_FIRST = "pred_tracks"  # CoTracker's name
_TRACKS = ("tracks", _TIME_FIRST, "points", "trajectories")
_VISIBLE = ("visibles", "visible", "visibility", "pred_visibility")
_HIDDEN = ("occluded", "occlusion", "occlusions")


class Tracks(LandmarkSource):
    """Saved point tracks of one video.

    The positions of hidden points are interpolated in time from the frames that show them.

    Args:
      path: .npz, or .npy with only the tracks (all visible).
      size: (width, height) of the tracked frames; None for the video's own.

    Raises:
      UserError: the file cannot be read, or its arrays have another layout.
    """

    name, max_side = "tracks", None  # frames are not reduced: coordinates refer to full-size frames

    def __init__(self, path: Path, size: tuple[int, int] | None = None):
        self.path = Path(path).expanduser()
        self._size = size
        if size is not None and min(size) < 1:
            raise UserError("bad_option", f"--tracks-size {size[0]}x{size[1]}: both numbers must be above 0")
        points, visible = self._read(self.path)
        self.layout = LAYOUT_OF[points.shape[1]]
        never = np.flatnonzero(~visible.any(axis=0))
        if len(never):
            raise UserError("bad_tracks", f"{self.path}: no frame shows points {never[:10].tolist()}; track them again")
        for point in np.flatnonzero(~visible.all(axis=0)):
            seen = np.flatnonzero(visible[:, point])
            points[:, point] = gaps.interpolated(points[:, point], seen, np.arange(len(points)))
        self._points, self._visible = points, visible

    def __call__(self, frames: Iterable[np.ndarray]) -> Iterator[list[Face]]:
        """See ``LandmarkSource``. Raises UserError if the tracks have more or fewer frames than the video."""
        self.seconds = {"landmarks": 0.0}
        count = 0
        for count, frame in enumerate(frames, start=1):
            if count > len(self._points):
                continue  # counts the rest of the video, for the message
            started = time.perf_counter()
            height, width = frame.shape[:2]
            scale = (1.0, 1.0) if self._size is None else (width / self._size[0], height / self._size[1])
            points = (self._points[count - 1] * scale).astype(np.float32)
            score = float(self._visible[count - 1].mean())
            self.seconds["landmarks"] += time.perf_counter() - started
            yield [] if score < MIN_VISIBLE else [Face(_box(points), score, points)]
        if count != len(self._points):
            raise UserError(
                "wrong_frame_count",
                f"{self.path}: has tracks for {len(self._points)} frames, but the video has {count}; track all frames "
                "of this video",
            )

    @staticmethod
    def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Reads points (T, P, 2) float64 and visibility (T, P) bool. A subclass reads another kind of file."""
        if not path.is_file():
            what = "no such file; save the tracks with numpy.savez(FILE, tracks=..., visibles=...)"
            raise UserError("missing_file", f"{path}: {what}")
        try:
            with path.open("rb") as file:
                is_npz = file.read(2) == b"PK"
            arrays = load_npz(path) if is_npz else {"tracks": load_npy(path)}
        except Exception as error:  # a damaged file raises almost anything
            what = f"not a plain .npz or .npy file ({error}); save it with numpy.savez"
            raise UserError("unreadable_array", f"{path}: {what}") from error
        name = next((name for name in _TRACKS if name in arrays), None)
        if name is None:
            raise UserError("bad_tracks", f"{path}: contains {sorted(arrays)}, but no {' or '.join(_TRACKS)}")
        points = arrays[name]
        points_first = _is_points_first(path, name, points)
        if points.ndim == 4:
            points = points[0]
        points = points.swapaxes(0, 1) if points_first else points
        points = points.astype(np.float64)
        possible = (np.abs(points) < _FARTHEST).all(axis=-1)  # False for NaN
        visible = _visibility(path, arrays, points_first, possible.shape)
        return points, visible & possible


def _box(points: np.ndarray) -> np.ndarray:
    tight = enclosing(points)
    sides = np.tile(tight[2:] - tight[:2], 2)
    return (tight + sides * BOX_MARGINS * np.array([-1, -1, 1, 1])).astype(np.float32)


def _is_points_first(path: Path, name: str, points: np.ndarray) -> bool:
    """Whether tracks are (N, T, 2), not (T, N, 2); either may have a batch axis of 1 in front.

    The number of points decides. If the number of frames could also be one, CoTracker's name decides.
    """
    shape = points.shape[1:] if points.ndim == 4 and points.shape[0] == 1 else points.shape
    if len(shape) == 3 and shape[2] == 2 and np.issubdtype(points.dtype, np.number):
        firsts, seconds = shape[0] in LAYOUT_OF, shape[1] in LAYOUT_OF
        if firsts and seconds and name != _TIME_FIRST:
            raise UserError(
                "wrong_shape",
                f"{path}: {name} of shape {points.shape} is ambiguous, because the number of frames could be a number "
                f"of points; save the tracks as (frames, points, 2) under the name {_TIME_FIRST}",
            )
        if firsts or seconds:
            return not seconds  # if both fit, the name has said that time comes first
        if NUM_LANDMARKS in shape[:2]:
            raise UserError(
                "wrong_shape",
                f"{path}: tracks of shape {points.shape} have the 63 points, but not the nose tip that centres them; "
                "add it as the 64th",
            )
    raise UserError(
        "wrong_shape",
        f"{path}: tracks of shape {points.shape} are neither (points, frames, 2), as TAPIR saves them, nor (1, frames, "
        f"points, 2), as CoTracker does, with {', '.join(map(str, LAYOUT_OF))} points",
    )


def _visibility(path: Path, arrays: dict[str, np.ndarray], points_first: bool, shape: tuple[int, ...]) -> np.ndarray:
    """Reads the visibility (T, P) bool; all True if the file has none."""
    name = next((name for name in (*_VISIBLE, *_HIDDEN) if name in arrays), None)
    if name is None:
        return np.ones(shape, bool)
    values = arrays[name]
    if values.ndim == 4 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    values = values.T if points_first else values
    if values.shape != shape:
        raise UserError("wrong_shape", f"{path}: {name} has shape {arrays[name].shape}, unlike the tracks")
    if values.dtype != bool:
        if np.isfinite(values).all() and ((values >= 0) & (values <= 1)).all():
            values = values > 0.5
        else:
            raise UserError(
                "bad_tracks",
                f"{path}: {name} has values outside 0 to 1; save TAPIR's visibles after postprocess_occlusions, not "
                "its logits",
            )
    return ~values if name in _HIDDEN else values


def write_queries(path: Path, points: np.ndarray, frame: int, size: tuple[int, int]) -> None:
    """Saves points (P, 2) of one frame as query points for a tracker.

    The file holds "tapir" (P, 3) with (t, y, x), "cotracker" (1, P, 3) with (t, x, y), both in pixels of the video, and
    "size", the video's (width, height).
    """
    time_of = np.full((len(points), 1), float(frame))
    tapir = np.concatenate([time_of, points[:, ::-1]], axis=1).astype(np.float32)
    cotracker = np.concatenate([time_of, points], axis=1).astype(np.float32)[None]
    file = io.BytesIO()
    np.savez(file, tapir=tapir, cotracker=cotracker, size=np.array(size))
    write_atomically(path, file.getvalue())
