"""PFED5: five facial expressions of 41 people with Parkinson's disease, rated 0-4 by the MDS-UPDRS.

The layout is that of the authors' two code releases, in one folder ROOT; PATIENT and VIDEO are taken from a clip's id:

    ROOT/train_41.csv, ROOT/test_41.csv             official lists as TraMP-Former names them, or
    ROOT/PFED5_train.csv, ROOT/PFED5_test.csv       as QAFE-Net names them; see ``pfed5_lists``
    ROOT/PATIENT/VIDEO/*.jpg                        frames, 256×256, 25 per second
    ROOT/detect_73_crop/PATIENT/VIDEO-PATIENT.npy   landmarks (n, 73, 2), pixels of the frame
    ROOT/RGB_1x1_fromLK/PATIENT/VIDEO-PATIENT.npy   RGB under the landmarks (n, 71, 3), 0-255; optional

Lists, landmarks and colours may also lie elsewhere.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tramp_jax.data import clip_files, images, landmark_checks, landmarks, tables
from tramp_jax.data.clips import Clip, ClipInfo, decode_frame
from tramp_jax.data.problems import DataError, Problem, Problems
from tramp_jax.data.readers.pfed5_lists import AGAIN, EXPRESSIONS, read_list, video
from tramp_jax.errors import UserError

__all__ = ["EXPRESSIONS", "PFED5"]

FPS = 25.0
FRAME_SIZE = 256
LAYOUT = "insightface73"
FRAMES_ADDRESS = "https://github.com/shuchaoduan/QAFE-Net"
TRAJECTORIES_ADDRESS = "https://github.com/shuchaoduan/TraMP-Former"
LISTS = {"train": ("train_41.csv", "PFED5_train.csv"), "test": ("test_41.csv", "PFED5_test.csv")}
LANDMARKS_FOLDER, PIXELS_FOLDER = "detect_73_crop", "RGB_1x1_fromLK"

_ABSENT = f"""PFED5 (clips of 41 people with Parkinson's disease) is not public. To obtain it:
  1. sign the authors' request form, for the frames and the lists: {FRAMES_ADDRESS}
  2. download their trajectory data (landmarks and colours): {TRAJECTORIES_ADDRESS}
  3. unpack both into one folder ROOT: ROOT/train_41.csv, ROOT/test_41.csv, ROOT/PATIENT/VIDEO/*.jpg,
     ROOT/{LANDMARKS_FOLDER}/PATIENT/VIDEO-PATIENT.npy, ROOT/{PIXELS_FOLDER}/PATIENT/VIDEO-PATIENT.npy
  4. python train.py --config configs/pfed5.py:smile --config.data.root=ROOT
Without it: python train.py --config configs/synthetic.py"""


class PFED5:
    """The clips of both official lists as a ``clips.ClipSource``: the training list, then the test list.

    ``expression`` is one of ``EXPRESSIONS``, ``subject`` is PATIENT, and landmarks have the layout "insightface73".
    Frames are the published JPEG files, in natural order of their names (2.jpg before 10.jpg).
    """

    def __init__(
        self,
        root: str | Path,
        *,
        landmarks_root: str | Path = "",
        pixels_root: str | Path = "",
        train_list: str | Path = "",
        test_list: str | Path = "",
        expression_column: int = 0,
        with_frames: bool = True,
        with_pixels: bool = True,
        with_landmarks: bool = True,
        problems: Problems | None = None,
    ):
        """Reads the lists and nothing else.

        Args:
          root: folder of the patients' folders of frames.
          landmarks_root: "" for ``root``/detect_73_crop.
          pixels_root: "" for ``root``/RGB_1x1_fromLK. Where that folder is absent, colours are taken from the frames
            under the landmarks, which costs the decoding of every frame.
          train_list: "" for ``root``/train_41.csv or ``root``/PFED5_train.csv.
          test_list: "" for ``root``/test_41.csv or ``root``/PFED5_test.csv.
          expression_column: of the lists, counted from 0; 0 to find it, see ``read_list``.
          with_frames: False leaves the frames out: clips have ``frames`` None. The published trajectories suffice
            then; only where colours must be computed are frames read for that.
          with_pixels: False leaves the colours out: clips have ``pixels`` None.
          with_landmarks: False for a model of frames alone: files of landmarks are not looked at, and clips have
            landmarks that are NaN and no colours.
          problems: collects what is wrong with lists and folders; None raises the first.

        Raises:
          UserError: there is no folder ``root``; with what to obtain and where to put it.
          DataError: a missing folder or list, a malformed list, or a subject in both lists.
        """
        problems = problems or Problems()
        self.root = Path(root).expanduser()
        if not str(root) or not self.root.is_dir():
            raise UserError("missing_file", f"{str(root)!r} (data.root): no such folder.\n{_ABSENT}")
        self._with_frames, self._with_pixels = with_frames, with_pixels and with_landmarks
        self._landmarks_root: Path | None = None
        if with_landmarks:
            self._landmarks_root = self._folder(landmarks_root, LANDMARKS_FOLDER, "landmarks", problems)
        self._pixels_root: Path | None = None
        if self._with_pixels and (pixels_root or (self.root / PIXELS_FOLDER).is_dir()):
            self._pixels_root = self._folder(pixels_root, PIXELS_FOLDER, "pixels", problems)

        self._infos: list[ClipInfo] = []
        self._subjects: dict[str, frozenset[str]] = {}
        paths = {
            "train": self._list(train_list, "train", problems),
            "test": self._list(test_list, "test", problems),
        }
        for name, path in paths.items():
            infos = read_list(path, expression_column, problems) if path else []
            if name == "test":
                infos = [info for info in infos if not self._is_trained_on(info, paths["train"], problems)]
            self._infos += infos
            self._subjects[name] = frozenset(info.subject for info in infos)

    def _folder(self, given: str | Path, default: str, what: str, problems: Problems) -> Path:
        path = Path(given).expanduser() if given else self.root / default
        if not path.is_dir():
            problems.add(
                "missing_folder",
                f"{path}: no such folder of {what}; download the trajectory data from {TRAJECTORIES_ADDRESS} and "
                f"unpack it there, or name its place with --config.data.{what}_root=FOLDER",
            )
        return path

    def _list(self, given: str | Path, name: str, problems: Problems) -> Path | None:
        path = Path(given).expanduser() if given else tables.find(self.root, LISTS[name], f"{name}_list", problems)
        if path is None or not path.is_file():
            where = f"{given}: no such file" if given else f"{self.root}: no {' or '.join(LISTS[name])}"
            problems.add(
                "missing_list",
                f"{where}; the official {name} list comes with PFED5 ({FRAMES_ADDRESS}): put it there (CSV or Excel) "
                f"or name its place with --config.data.{name}_list=FILE",
            )
            return None
        return path

    def _is_trained_on(self, info: ClipInfo, train_list: Path | None, problems: Problems) -> bool:
        if info.subject not in self._subjects["train"]:
            return False
        problems.add(
            "subject_in_both_lists",
            f"{info.source}: subject {info.subject} is also in {train_list}; a model must not be tested on people it "
            "was trained on: remove the rows of that subject from one of the lists",
            info.source,
        )
        return True

    @property
    def infos(self) -> Sequence[ClipInfo]:
        return self._infos

    def __len__(self) -> int:
        return len(self._infos)

    def official_split(self) -> dict[str, frozenset[str]]:
        """Subjects of the official "train" and "test" lists; no subject is in both."""
        return dict(self._subjects)

    def __getitem__(self, index: int) -> Clip:
        """Clip ``index``.

        Raises:
          DataError: the first of its problems that can be told without decoding frames.
        """
        info, raised = self._infos[index], Problems()
        points = self._landmarks(info, raised)
        assert points is not None
        frames = self._frames(info, raised) if self._reads_frames else None
        pixels: np.ndarray | None = None
        if self._pixels_root is not None:
            pixels = self._pixels(info, raised)
        elif self._with_pixels:
            assert frames is not None
            pixels = self._computed_pixels(info, points, frames)
        kept = None if frames is None or not self._with_frames else tuple(frames.values())
        return Clip(info, points, LAYOUT, pixels, kept, FPS)

    @property
    def _reads_frames(self) -> bool:
        return self._with_frames or (self._with_pixels and self._pixels_root is None)

    def problems(self, index: int) -> Iterator[Problem]:
        """Everything that is wrong with the files of clip ``index`` as far as they are wanted; decodes its frames."""
        info, collected = self._infos[index], Problems(collect=True)
        self._landmarks(info, collected)
        if self._reads_frames:
            self._check_images(info, self._frames(info, collected), collected)
        if self._pixels_root is not None:
            self._pixels(info, collected)
        yield from collected.found

    def few_frames(self, index: int) -> tuple[bytes, ...]:
        """A few images of clip ``index``, to tell whether two clips are the same; () where frames are not wanted."""
        info = self._infos[index]
        return clip_files.few(_images(self.root / info.subject / video(info))) if self._reads_frames else ()

    def _landmarks(self, info: ClipInfo, problems: Problems) -> np.ndarray | None:
        """(n, 73, 2) float32, pixels of the frame; None where they cannot be used and problems are collected."""
        if self._landmarks_root is None:
            return clip_files.no_points(info)[0]
        path = _array_path(self._landmarks_root, info)
        points = _read_array(path, info, "landmarks", problems)
        if points is None:
            return None
        if points.shape[1:] in ((74, 2), (74, 3)):
            points = points[:, 1:, :2]  # the released code also knows files with one more point in front, and a depth
        if points.shape[1:] != (73, 2) or not len(points):
            what = f"{path}: has the shape {points.shape}, not (frames, 73, 2); {AGAIN}"
            problems.add("wrong_shape", what, info.id)
            return None
        bad = ~np.isfinite(points).all((1, 2))
        if bad.any():
            problems.add(
                "landmarks_not_finite",
                f"{path}: {bad.sum()} frames have landmarks that are no numbers, the first is frame {bad.argmax()}; "
                "detect them anew, or remove the clip from its list",
                info.id,
            )
        for kind, what in landmark_checks.faults(points, FRAME_SIZE, first=0):
            problems.add(kind, f"{path}: {what}; {AGAIN}", info.id)
        return points[~bad].astype(np.float32)

    def _pixels(self, info: ClipInfo, problems: Problems) -> np.ndarray | None:
        """(n, 63, 3) uint8 RGB from the clip's file of colours."""
        assert self._pixels_root is not None
        path = _array_path(self._pixels_root, info)
        colours = _read_array(path, info, "colours", problems)
        if colours is None:
            return None
        if colours.shape[1:] != (71, 3):
            what = f"{path}: has the shape {colours.shape}, not (frames, 71, 3); {AGAIN}"
            problems.add("wrong_shape", what, info.id)
            return None
        wrong = ~((colours >= 0) & (colours <= 255)).all((1, 2))  # also where a colour is NaN
        if wrong.any():
            what = f"{path}: has colours outside 0-255, first in frame {wrong.argmax()}; {AGAIN}"
            problems.add("colours_out_of_range", what, info.id)
            return None
        return np.rint(colours[:, landmarks.LAYOUTS["insightface71"].slots]).astype(np.uint8)

    def _computed_pixels(self, info: ClipInfo, points: np.ndarray, frames: dict[Path, bytes]) -> np.ndarray:
        """(n, 63, 3) uint8 RGB from the frames under the landmarks."""
        chosen = landmarks.select(points, LAYOUT)
        colours = []
        for number, (file, frame) in enumerate(frames.items()):
            try:
                image = decode_frame(frame)
            except ValueError as error:
                what = f"{file} (frame {number}): cannot be decoded; {AGAIN}"
                raise DataError(Problem("unreadable_image", what, info.id)) from error
            if image.shape[:2] != (FRAME_SIZE, FRAME_SIZE):
                what = (
                    f"{file} (frame {number}): has {image.shape[1]}×{image.shape[0]} pixels, not the "
                    f"{FRAME_SIZE}×{FRAME_SIZE} that its landmarks refer to; {AGAIN}"
                )
                raise DataError(Problem("wrong_image_size", what, info.id))
            colours.append(landmarks.pixel_values(image, chosen[number]))
        return np.stack(colours)

    def _frames(self, info: ClipInfo, problems: Problems) -> dict[Path, bytes]:
        """The image files of a clip, in order of time."""
        folder = self.root / info.subject / video(info)
        if not folder.is_dir():
            problems.add("missing_frames", f"{folder}: the frames of clip {info.id} are missing; {AGAIN}", info.id)
            return {}
        files = _images(folder)
        gaps = clip_files.numbering_gaps(files)
        if len(files) != info.num_frames:
            none = f" (none has the number {gaps})" if gaps else ""
            problems.add(
                "missing_frames" if len(files) < info.num_frames else "extra_frames",
                f"{folder}: has {len(files)} frames (*.jpg){none} where {info.source} says {info.num_frames} for clip "
                f"{info.id}; {AGAIN}, or correct the list",
                info.id,
            )
        elif gaps:
            problems.add("gap_in_frames", clip_files.gap_message(folder, info, gaps, AGAIN), info.id)
        frames = {file: file.read_bytes() for file in files}
        if not problems.collect:  # else every image is decoded, which finds this and more
            for file, frame in frames.items():
                if not frame.startswith(b"\xff\xd8"):  # what every JPEG file begins with
                    what = f"{file}: is no JPEG image ({len(frame)} bytes); {AGAIN}"
                    problems.add("unreadable_image", what, info.id)
        return frames

    def _check_images(self, info: ClipInfo, frames: dict[Path, bytes], problems: Problems) -> None:
        for number, (file, frame) in enumerate(frames.items()):
            if fault := images.fault(frame, FRAME_SIZE):
                problems.add(fault[0], f"{file} (frame {number}): {fault[1]}; {AGAIN}", info.id)


def _images(folder: Path) -> list[Path]:
    """The frames of a clip in order of time; [] where there is no such folder."""
    files = folder.iterdir() if folder.is_dir() else ()
    images = [file for file in files if file.suffix == ".jpg" and not file.name.startswith(".")]
    return sorted(images, key=lambda file: clip_files.natural(file.name))


def _array_path(root: Path, info: ClipInfo) -> Path:
    return root / info.subject / f"{video(info)}-{info.subject}.npy"


def _read_array(path: Path, info: ClipInfo, what: str, problems: Problems) -> np.ndarray | None:
    """A numeric array (frames, points, values); one of another length than the list says is a problem, but read."""
    try:
        array = clip_files.read_array(path, info.id, what, AGAIN)
    except DataError as error:
        problems.add(error.problem.kind, error.problem.message, info.id)
        return None
    if len(array) != info.num_frames:
        problems.add(
            f"wrong_number_of_{what}",
            f"{path}: has {what} of {len(array)} frames where {info.source} says {info.num_frames} for clip "
            f"{info.id}; {AGAIN}, or correct the list",
            info.id,
        )
    return array
