"""RAVDESS: landmarks of 24 actors who speak and sing with eight emotions at two intensities (public).

Tracked with OpenFace 2.1; Zenodo record 3255102, CC BY-NC-SA 4.0. The archive holds a table for each recording, flat or
in folders:

    ROOT/**/MODALITY-CHANNEL-EMOTION-INTENSITY-STATEMENT-REPETITION-ACTOR.csv

Each part of a name is a two-digit number. Modality 01 has sound, 02 has none. Channel 01 is speech, 02 song. Emotions
are numbered from 01 as in ``EMOTIONS``. Intensity 01 is normal, 02 strong (neutral is always normal).
"""

import dataclasses
import re
from pathlib import Path

from tramp_jax.data.clips import ClipInfo
from tramp_jax.data.problems import Problems
from tramp_jax.data.readers.base import check_wanted, root_folder
from tramp_jax.data.readers.folder import Row
from tramp_jax.data.readers.tables import FACTS as TABLES
from tramp_jax.data.readers.tables import Tables
from tramp_jax.data.source import Dataset, RatingScale, Wanted

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
EMOTION = "emotion"  # name of the class 0-7 among the targets
FACTS = dataclasses.replace(
    TABLES,
    scale=RatingScale("intensity of an acted emotion", 1.0, 2.0, "normal", "strong"),
    caveat="the model was trained on acted emotions, so its score is not a clinical rating",
)

ADDRESS = "https://zenodo.org/records/3255102"

_NAME = re.compile(r"0[12]-0[12]-0([1-8])-0([12])-0[12]-0[12]-(\d\d)", re.ASCII)
_HOW_TO_GET = f"""RAVDESS facial landmark tracking is public (CC BY-NC-SA 4.0). To obtain it:
  1. download FacialTracking_Actors_01-24.zip (417 MB): {ADDRESS}
  2. unpack it into a folder ROOT
  3. python train.py --config configs/ravdess.py --config.data.root=ROOT"""


@dataclasses.dataclass(frozen=True)
class Options:
    """RAVDESS has no options of its own."""


def open(root: str | Path, options: Options, wanted: Wanted, problems: Problems) -> Dataset:
    """Reads all tables below ``root``, in about a minute for the whole data set. Clips are sorted by name.

    ``expression`` is the emotion, ``score`` the intensity (1 or 2), ``subject`` the actor. The target "emotion" is the
    class 0-7.
    """
    check_wanted("ravdess", wanted)
    root = root_folder(root, _HOW_TO_GET)
    tables = Tables(problems)
    for path in sorted(root.rglob("*.csv"), key=lambda path: (path.stem, path)):
        name = _NAME.fullmatch(path.stem)
        if name is None:
            message = f"{path}: not named like a recording, such as 01-01-03-02-01-01-12.csv; remove it"
            problems.add("bad_id", message)
            continue
        emotion, intensity = int(name[1]) - 1, float(name[2])
        targets = ((EMOTION, float(emotion)),)
        info = ClipInfo(path.stem, name[3], EMOTIONS[emotion], intensity, 0, targets=targets, source=str(path))
        if tables.infos and tables.infos[-1].id == info.id:
            problems.add("duplicate_clip", f"{path}: {tables.infos[-1].source} has the same name; remove one", info.id)
        else:
            tables.add(Row(path, info, 0.0))
    if not tables.infos:
        problems.add("no_clips", f"{root}: has no table of a recording.\n{_HOW_TO_GET}")
    return Dataset(tables, FACTS)
