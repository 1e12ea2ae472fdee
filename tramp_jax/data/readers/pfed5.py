"""PFED5: five facial expressions of 41 people with Parkinson's disease, rated 0-4 on the MDS-UPDRS.

The layout is that of the authors' two code releases, merged in one folder ROOT. PATIENT and VIDEO come from clip ids:

    ROOT/train_41.csv, ROOT/test_41.csv             official lists as TraMP-Former names them, or
    ROOT/PFED5_train.csv, ROOT/PFED5_test.csv       as QAFE-Net names them; see ``pfed5_lists``
    ROOT/PATIENT/VIDEO/*.jpg                        frames, 256×256, 25 per second
    ROOT/detect_73_crop/PATIENT/VIDEO-PATIENT.npy   landmarks (n, 73, 2), pixels of the frame
    ROOT/RGB_1x1_fromLK/PATIENT/VIDEO-PATIENT.npy   RGB under the landmarks (n, 71, 3), 0-255; optional
"""

import dataclasses
from pathlib import Path

import numpy as np

from tramp_jax.data import clip_files
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.problems import Problems
from tramp_jax.data.readers.base import list_file, part_folder, root_folder
from tramp_jax.data.readers.pfed5_lists import AGAIN, EXPRESSIONS, read_list, video
from tramp_jax.data.source import Dataset, Facts, FileSource, RatingScale, Wanted

__all__ = ["EXPRESSIONS", "FACTS", "Options", "open"]

FACTS = Facts(RatingScale(), "insightface", ("insightface73",), 25.0)

FRAMES_ADDRESS = "https://github.com/shuchaoduan/QAFE-Net"
TRAJECTORIES_ADDRESS = "https://github.com/shuchaoduan/TraMP-Former"
LISTS = {"train": ("train_41.csv", "PFED5_train.csv"), "test": ("test_41.csv", "PFED5_test.csv")}
LANDMARKS_FOLDER, PIXELS_FOLDER = "detect_73_crop", "RGB_1x1_fromLK"

_HOW_TO_GET = f"""PFED5 (clips of 41 people with Parkinson's disease) is not public. To obtain it:
  1. sign the authors' request form, for the frames and the lists: {FRAMES_ADDRESS}
  2. download their trajectory data (landmarks and colours): {TRAJECTORIES_ADDRESS}
  3. unpack both into one folder ROOT: ROOT/train_41.csv, ROOT/test_41.csv, ROOT/PATIENT/VIDEO/*.jpg,
     ROOT/{LANDMARKS_FOLDER}/PATIENT/VIDEO-PATIENT.npy, ROOT/{PIXELS_FOLDER}/PATIENT/VIDEO-PATIENT.npy
  4. python train.py --config configs/pfed5.py:smile --config.data.root=ROOT
Without it: python train.py --config configs/synthetic.py"""


@dataclasses.dataclass(frozen=True)
class Options:
    """Where the parts of PFED5 are; "" for the published place in ``config.data.root``."""

    landmarks_root: str = ""
    pixels_root: str = ""  # without this folder, colours are taken from the frames, all of which are then decoded
    train_list: str = ""
    test_list: str = ""
    expression_column: int = 0  # of the lists, counted from 0; 0 to detect it


def open(root: str | Path, options: Options, wanted: Wanted, problems: Problems) -> Dataset:
    """Reads the lists. Clips come in the order of the training list, then the test list."""
    root = root_folder(root, _HOW_TO_GET)
    unpack = f"download the trajectory data from {TRAJECTORIES_ADDRESS} and unpack it there"
    points = pixels = None
    if wanted.landmarks:
        points = part_folder(root, options, "landmarks_root", LANDMARKS_FOLDER, unpack, problems)
        if wanted.pixels and (options.pixels_root or (root / PIXELS_FOLDER).is_dir()):
            pixels = part_folder(root, options, "pixels_root", PIXELS_FOLDER, unpack, problems)
    infos, official = _read_lists(root, options, problems)

    def read(info: ClipInfo, problems: Problems) -> Clip | None:
        array = Path(info.subject, f"{video(info)}-{info.subject}.npy")
        files = clip_files.ClipFiles(
            frames=root / info.subject / video(info),
            landmarks=(points or root) / array,
            layouts=FACTS.layouts,
            fps=FACTS.fps,
            cure=f"{AGAIN}, or correct the list",
            colours=pixels and pixels / array,
            adapt=_published_points,
        )
        return clip_files.read_clip(info, files, wanted, problems)

    return Dataset(FileSource(infos, read), FACTS, official)


def _published_points(array: np.ndarray) -> np.ndarray:
    """Drops the extra first point, and the depth, of files that the released code also reads."""
    return array[:, 1:, :2] if array.shape[1:] in ((74, 2), (74, 3)) else array


def _read_lists(root: Path, options: Options, problems: Problems) -> tuple[list[ClipInfo], dict[str, frozenset[str]]]:
    """The clips of both lists, and the subjects of each; no subject is in both."""
    ask = f"get it with PFED5 from {FRAMES_ADDRESS} (CSV or Excel)"
    train = list_file(root, options, "train_list", LISTS["train"], ask, problems)
    test = list_file(root, options, "test_list", LISTS["test"], ask, problems)
    trained = read_list(train, options.expression_column, problems) if train else []
    people = frozenset(info.subject for info in trained)
    tested = []
    for info in read_list(test, options.expression_column, problems) if test else []:
        if info.subject not in people:
            tested.append(info)
            continue
        problems.add(
            "subject_in_both_lists",
            f"{info.source}: subject {info.subject} is also in {train}; never test a model on people it was trained "
            "on: remove that subject's rows from one of the lists",
            info.source,
        )
    return [*trained, *tested], {"train": people, "test": frozenset(info.subject for info in tested)}
