"""Describes the data a model was trained on, in its run's folder, because scoring may not have the data."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from tramp_jax import json_files, run
from tramp_jax.data import datasets
from tramp_jax.data.datasets import TRAIN
from tramp_jax.data.source import Facts, RatingScale, Split
from tramp_jax.files import write_atomically
from tramp_jax.output import Histogram, histogram

_SAMPLED = 5  # clips to read, because most lists have neither frame rates nor layouts


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The data of a training run.

    Attributes:
      clips, people: numbers in each split.
      expressions: the training clips' expressions, sorted.
      low, high: lowest and highest score of all clips.
      fps: frames per second of the training clips, as the median of some of them.
      layouts: the landmark layouts of these clips.
      scale: the scale of the scores; None in older runs, see ``scale_of``.
      landmark_source: the detector that found the landmarks; "" if unknown.
      caveat: a warning to attach to every score of the model; "" for none.
      ratings: the training clips' ratings; () in older runs.
    """

    clips: dict[str, int]
    people: dict[str, int]
    expressions: tuple[str, ...]
    low: float
    high: float
    fps: float
    layouts: tuple[str, ...]
    scale: RatingScale | None = None
    landmark_source: str = ""
    caveat: str = ""
    ratings: Histogram = ()

    def save(self, folder: pathlib.Path) -> None:
        """Writes data.json."""
        write_atomically(folder / run.DATA, json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    def __str__(self) -> str:
        return ", ".join(f"{count} of {self.people[name]} people to {name}" for name, count in self.clips.items())


def describe(splits: Mapping[str, Split], facts: Facts, target: str = "") -> TrainingData:
    """Describes the data of a training run with these splits, which must have at least one training clip.

    Args:
      splits: training, validation and test clips. Some clips are read.
      facts: the data set's facts.
      target: ``data.target``.

    Raises:
      DataError: one of the clips cannot be read.
    """
    train = splits[TRAIN]
    sampled = [train[i] for i in sorted({round(i) for i in np.linspace(0, len(train) - 1, _SAMPLED)})]
    infos = {name: split.infos for name, split in splits.items()}
    scores = [info.score for found in infos.values() for info in found]
    low, high = float(min(scores)), float(max(scores))
    return TrainingData(
        {name: len(found) for name, found in infos.items()},
        {name: len({info.subject for info in found}) for name, found in infos.items()},
        tuple(sorted({info.expression for info in infos[TRAIN]})),
        low,
        high,
        float(np.median([clip.fps for clip in sampled])),
        tuple(sorted({clip.layout for clip in sampled})),
        scale_of(facts, target, (low, high)),
        facts.landmark_source,
        facts.caveat,
        histogram([info.score for info in infos[TRAIN]]),
    )


def load(folder: pathlib.Path, config: ConfigDict) -> TrainingData | None:
    """Reads data.json; None if it does not exist, as in older runs.

    Args:
      folder: the folder of a run or fold.
      config: the run's configuration. Fields that an older run lacks come from its data set.

    Raises:
      UserError: damaged_file.
    """
    found = json_files.read_record(TrainingData, folder / run.DATA, "delete it: scoring works without it")
    if found is None or found.scale:
        return found
    facts = datasets.facts(config.data.name)
    scale = scale_of(facts, config.data.target, (found.low, found.high))
    return dataclasses.replace(found, scale=scale, landmark_source=facts.landmark_source, caveat=facts.caveat)


def scale_of(facts: Facts, target: str, ends: tuple[float, float] | None, score: float = 0.0) -> RatingScale:
    """The scale of a model's scores.

    Args:
      facts: facts about the data set it was trained on, whose scale comes first.
      target: ``data.target``, to name the scale.
      ends: lowest and highest score in its data, which come next; None if unknown.
      score: one of its scores, to guess the ends from.
    """
    if facts.scale is not None:
        return facts.scale
    name = target or "score"
    if ends is not None:
        return RatingScale(name, *ends, "lowest rated", "highest rated")
    return RatingScale(name, min(0.0, math.floor(score)), max(4.0, math.ceil(score)), "low", "high")
