"""Data sets by name, and which of their clips train, validate and test."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from tramp_jax.data import splits
from tramp_jax.data.clips import ClipInfo, ClipSource
from tramp_jax.data.pfed5 import PFED5
from tramp_jax.data.pipeline import Split
from tramp_jax.data.problems import Problems
from tramp_jax.data.synthetic import EXPRESSIONS, SyntheticFaces
from tramp_jax.data.youtubepd import YouTubePD
from tramp_jax.models import reads_frames, reads_trajectories

TRAIN, VALIDATION, TEST = "train", "validation", "test"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Clips, and the published split over subjects where the data set has one.

    Attributes:
      source: the clips.
      official: {"train": subjects, "test": subjects}, or None.
      folds: test subjects of each published fold; () where there are none.
    """

    source: ClipSource
    official: Mapping[str, frozenset[str]] | None = None
    folds: Sequence[frozenset[str]] = ()


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is read of each clip besides its landmarks.

    Attributes:
      frames: the images.
      pixels: the colours under the landmarks.
    """

    frames: bool = True
    pixels: bool = True

    @classmethod
    def of(cls, config: ConfigDict) -> "Wanted":
        """What the model of a configuration looks at."""
        channels = config.model.trajectory.channels
        return cls(reads_frames(config.model), reads_trajectories(config.model) and "rgb" in channels)


def _synthetic(data: ConfigDict, wanted: Wanted, problems: Problems) -> Dataset:
    return Dataset(
        SyntheticFaces(
            data.num_subjects,
            data.clips_per_subject,
            expressions=tuple(data.expressions),
            seed=data.synthetic_seed,
            # Landmarks alone take a hundredth of the time: render only for a model that looks at pixels.
            with_frames=wanted.frames or wanted.pixels,
        )
    )


def _youtubepd(data: ConfigDict, wanted: Wanted, problems: Problems) -> Dataset:
    source = YouTubePD(data.root)
    return Dataset(source, source.official_split() if TEST in source.split.values() else None)


def _pfed5(data: ConfigDict, wanted: Wanted, problems: Problems) -> Dataset:
    source = PFED5(
        data.root,
        landmarks_root=data.landmarks_root,
        pixels_root=data.pixels_root,
        train_list=data.train_list,
        test_list=data.test_list,
        expression_column=data.expression_column,
        with_frames=wanted.frames,
    )
    return Dataset(source, source.official_split())


@dataclasses.dataclass(frozen=True)
class Reader:
    """How a data set is opened.

    Attributes:
      open: called with ``config.data``, what is wanted of a clip, and where to put problems.
      options: what ``config.data`` has for this data set alone, with defaults.
    """

    open: Callable[[ConfigDict, Wanted, Problems], Dataset]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


READERS: dict[str, Reader] = {
    "synthetic": Reader(
        _synthetic,
        {"num_subjects": 40, "clips_per_subject": 1, "expressions": EXPRESSIONS, "synthetic_seed": 0},
    ),
    "youtubepd": Reader(_youtubepd),
    "pfed5": Reader(
        _pfed5,
        {
            "landmarks_root": "",  # "" for the published place below data.root
            "pixels_root": "",
            "train_list": "",
            "test_list": "",
            "expression_column": 0,  # of the lists, counted from 0; 0 to find it
        },
    ),
}


def options(name: str) -> dict[str, Any]:
    """What ``config.data`` needs for data set ``name``, with defaults: its name and the options it has alone.

    Raises:
      ValueError: there is no such data set.
    """
    if name not in READERS:
        raise ValueError(f"data.name is {name!r}; known: {', '.join(READERS)}")
    return {"name": name, **READERS[name].options}


def open_dataset(config: ConfigDict, wanted: Wanted | None = None, problems: Problems | None = None) -> Dataset:
    """The data set of ``config.data``.

    Args:
      config: the whole configuration.
      wanted: of each clip; None for what the model looks at.
      problems: collects what is wrong; None raises the first error.

    Raises:
      ValueError, FileNotFoundError: unknown name, or data that is absent or broken, with what to do.
    """
    data = ConfigDict(options(config.data.name) | config.data.to_dict())
    return READERS[data.name].open(data, wanted or Wanted.of(config), problems or Problems())


def runs(dataset: Dataset, config: ConfigDict) -> Sequence[int | None]:
    """The folds to train in turn, or (None,) for a single split."""
    protocol, fold = _protocol(dataset, config), config.data.fold
    if protocol not in ("k_fold", "folds"):
        return (None,)
    count = len(dataset.folds) if protocol == "folds" else config.data.num_folds
    if count < 2:
        raise ValueError(f"data.num_folds is {count}; cross-validation needs at least 2")
    if not -1 <= fold < count:
        raise ValueError(f"data.fold is {fold}; use 0 to {count - 1}, or -1 for all {count} folds in turn")
    return range(count) if fold == -1 else (fold,)


def split(dataset: Dataset, config: ConfigDict, fold: int | None) -> dict[str, Split]:
    """Training, validation and test clips; subjects are divided before clips.

    Validation subjects, by which checkpoints are chosen, are always taken from the training ones.
    """
    data, source = config.data, dataset.source
    chosen = [i for i, info in enumerate(source.infos) if data.expression in ("", info.expression)]
    if not chosen:
        known = sorted({info.expression for info in source.infos})
        raise ValueError(
            f"no clip of the data set shows data.expression={data.expression!r}; it has: {', '.join(known)}"
        )
    infos = [source.infos[i] for i in chosen]

    protocol = _protocol(dataset, config)
    if protocol == "holdout":
        test = splits.holdout(infos, {TRAIN: 1 - data.test_fraction, TEST: data.test_fraction}, data.split_seed)[TEST]
    elif protocol == "official":
        assert dataset.official is not None
        test = dataset.official[TEST]
    elif protocol == "folds":
        assert fold is not None
        test = dataset.folds[fold]
    else:
        if dataset.official is not None:  # cross-validation stays within the official training list
            infos = [info for info in infos if info.subject in dataset.official[TRAIN]]
        assert fold is not None
        test = splits.k_fold(infos, data.num_folds, data.split_seed)[fold][1]

    rest = [info for info in infos if info.subject not in test]
    fractions = {TRAIN: 1 - data.validation_fraction, VALIDATION: data.validation_fraction}
    subjects: dict[str, frozenset[str]] = splits.holdout(rest, fractions, data.split_seed) | {TEST: test}
    allowed: set[ClipInfo] = set(infos)

    def part(name: str) -> Split:
        return Split(
            source, [i for i in chosen if source.infos[i].subject in subjects[name] and source.infos[i] in allowed]
        )

    return {name: part(name) for name in (TRAIN, VALIDATION, TEST)}


def _protocol(dataset: Dataset, config: ConfigDict) -> str:
    name = config.data.protocol
    possible = {
        "official": dataset.official is not None,
        "folds": len(dataset.folds) > 0,
        "k_fold": config.data.num_folds > 0,
        "holdout": True,
    }
    if name == "auto":
        return next(protocol for protocol, can in possible.items() if can)
    if name not in possible:
        raise ValueError(f"data.protocol is {name!r}; known: auto, {', '.join(possible)}")
    if name in ("official", "folds") and not possible[name]:
        what = "official split" if name == "official" else "published folds"
        raise ValueError(f"data.protocol is {name}, but data set {config.data.name} has no {what}")
    return name
