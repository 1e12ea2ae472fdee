"""Writes a description of the training data into a run's folder, because scoring may not have the data."""

import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from tramp_jax import json_files, run
from tramp_jax.data import datasets
from tramp_jax.data.datasets import TRAIN, VALIDATION
from tramp_jax.data.source import Facts, RatingScale, Split
from tramp_jax.output import Histogram, histogram

CHANGED = "changed"
_SAMPLED = 5  # clips to read for frame rates and layouts, which most lists lack


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The data of a training run."""

    clips: dict[str, int]  # number of clips in each split
    people: dict[str, int]  # number of people in each split
    expressions: tuple[str, ...]  # the training clips' expressions, sorted
    low: float  # lowest score of the training and validation clips; in older files, of all clips
    high: float  # highest score of the same clips
    fps: float  # frames per second, the median over a few training clips
    layouts: tuple[str, ...]  # the landmark layouts of the same few clips
    scale: RatingScale | None = None  # the scale of the scores; None in the file of an older run, see ``load``
    landmark_source: str = ""  # what found the landmarks (several of the same few clips with commas); "" if unknown
    caveat: str = ""  # a warning to attach to every score of the model; "" for none
    ratings: Histogram = ()  # the training clips' ratings; () in the file of an older run
    # Of every clip's id, subject, part and rating, see ``digest``; "" in the file of an older run, and ``CHANGED`` if
    # the clips or ratings changed before the run was resumed.
    digest: str = ""

    def save(self, folder: pathlib.Path) -> None:
        """Writes data.json."""
        json_files.write(folder / run.DATA, self)

    def __str__(self) -> str:
        return ", ".join(f"{name} {count} clips of {self.people[name]} people" for name, count in self.clips.items())


def describe(splits: Mapping[str, Split], facts: Facts, target: str = "") -> TrainingData:
    """Describes the data of a training run with these splits, which must have at least one training clip.

    Args:
      splits: training, validation and test clips. A few training clips are read.
      target: ``data.target``.

    Raises:
      DataError: one of the clips cannot be read.
    """
    train = splits[TRAIN]
    sampled = [train[i] for i in sorted({round(i) for i in np.linspace(0, len(train) - 1, _SAMPLED)})]
    infos = {name: split.infos for name, split in splits.items()}
    low, high = ends(splits)
    return TrainingData(
        clips={name: len(found) for name, found in infos.items()},
        people={name: len({info.subject for info in found}) for name, found in infos.items()},
        expressions=tuple(sorted({info.expression for info in infos[TRAIN]})),
        low=low,
        high=high,
        fps=float(np.median([clip.fps for clip in sampled])),
        layouts=tuple(sorted({clip.layout for clip in sampled})),
        scale=scale_of(facts, target, (low, high)),
        landmark_source=facts.landmark_source or ", ".join(sorted({clip.landmark_source for clip in sampled} - {""})),
        caveat=facts.caveat,
        ratings=histogram([info.score for info in infos[TRAIN]]),
        digest=digest(splits),
    )


def digest(splits: Mapping[str, Split]) -> str:
    """SHA-256 of the clips in all parts: another rating, clip or person gives another one."""
    clips = [(name, x.id, x.subject, float(x.score)) for name, split in splits.items() for x in split.infos]
    return hashlib.sha256(json.dumps(sorted(clips)).encode()).hexdigest()


def ends(splits: Mapping[str, Split]) -> tuple[float, float]:
    """The lowest and highest score of the training and validation clips. Test clips must not set the scale."""
    scores = [float(info.score) for name in (TRAIN, VALIDATION) for info in splits[name].infos]
    return min(scores), max(scores)


def load(folder: pathlib.Path, config: ConfigDict) -> TrainingData | None:
    """Reads data.json; None if it does not exist, as in older runs.

    The run's configuration names the data set, which gives the facts that an older run's file lacks.

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
    """The scale of a model's scores: that of its data set, else from its data, else a guess.

    Args:
      target: ``data.target``, to name the scale.
      ends: lowest and highest score in the data, see ``ends``; None if unknown.
      score: one of the model's scores, which a guessed scale must hold.
    """
    if facts.scale is not None:
        return facts.scale
    name = target or "score"
    if ends is not None:
        return RatingScale(name, *ends, "lowest rated", "highest rated")
    return RatingScale(name, min(0.0, math.floor(score)), max(4.0, math.ceil(score)), "low", "high")


def joint_scale(described: Sequence[TrainingData]) -> RatingScale:
    """The scale of the mean of several models' scores, which covers the scale of each; their data may have set it."""
    scales = [data.scale for data in described if data.scale is not None]
    return dataclasses.replace(
        scales[0], low=min(scale.low for scale in scales), high=max(scale.high for scale in scales)
    )
