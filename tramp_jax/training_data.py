"""What a model was trained on, kept in the folder of its run: whoever scores by it later has not got the data."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

import numpy as np

from tramp_jax import run
from tramp_jax.data.clips import Split
from tramp_jax.data.datasets import TRAIN
from tramp_jax.errors import UserError
from tramp_jax.files import write_atomically

# Clips that are read to see what the lists do not tell.
_SOME = 5


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """The data of a training.

    Attributes:
      clips, people: how many there are in each split.
      expressions: of the training clips, in alphabetical order.
      low, high: smallest and largest score of all clips, which tell the scale.
      fps: frames per second of the training clips, the median of some of them.
      layouts: of the landmarks of these clips.
    """

    clips: dict[str, int]
    people: dict[str, int]
    expressions: tuple[str, ...]
    low: float
    high: float
    fps: float
    layouts: tuple[str, ...]

    def save(self, folder: pathlib.Path) -> None:
        """Writes data.json."""
        write_atomically(folder / run.DATA, json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    def __str__(self) -> str:
        return ", ".join(f"{count} of {self.people[name]} people to {name}" for name, count in self.clips.items())


def describe(splits: Mapping[str, Split]) -> TrainedOn:
    """The data of a training with these splits, of which that to train on has at least one clip.

    Some clips are read: rate and layout are not in the lists of most data sets.

    Raises:
      UserError: one of them cannot be read.
    """
    train = splits[TRAIN]
    some = [train[i] for i in sorted({round(i) for i in np.linspace(0, len(train) - 1, _SOME)})]
    infos = {name: split.infos for name, split in splits.items()}
    scores = [info.score for found in infos.values() for info in found]
    return TrainedOn(
        {name: len(found) for name, found in infos.items()},
        {name: len({info.subject for info in found}) for name, found in infos.items()},
        tuple(sorted({info.expression for info in infos[TRAIN]})),
        float(min(scores)),
        float(max(scores)),
        float(np.median([clip.fps for clip in some])),
        tuple(sorted({clip.layout for clip in some})),
    )


def load(folder: pathlib.Path) -> TrainedOn | None:
    """What a run was trained on, or None where it does not say, as older runs.

    Raises:
      UserError: damaged_file.
    """
    path = folder / run.DATA
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text())
        return TrainedOn(**values | {name: tuple(values[name]) for name in ("expressions", "layouts")})
    except (ValueError, TypeError, KeyError) as error:
        raise UserError("damaged_file", f"{path} is damaged ({error}); delete it: scoring works without") from error
