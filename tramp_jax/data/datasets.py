"""Data sets by name, and which of their clips train, validate and test."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from ml_collections import ConfigDict

from tramp_jax.data import splits
from tramp_jax.data.clips import ClipInfo, ClipSource
from tramp_jax.data.pfed5 import PFED5
from tramp_jax.data.pipeline import Split
from tramp_jax.data.synthetic import SyntheticFaces
from tramp_jax.data.youtubepd import YouTubePD
from tramp_jax.models import reads_frames

TRAIN, VALIDATION, TEST = "train", "validation", "test"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Clips, and the official split over subjects where the data set has one.

    Attributes:
      source: the clips.
      official: {"train": subjects, "test": subjects}, or None.
    """

    source: ClipSource
    official: Mapping[str, frozenset[str]] | None = None


def _synthetic(config: ConfigDict) -> Dataset:
    data = config.data
    # Landmarks alone take a hundredth of the time: render only for a model that looks at pixels.
    landmarks_alone = not reads_frames(config.model) and config.model.trajectory.channels == "xy"
    return Dataset(
        SyntheticFaces(
            data.num_subjects,
            data.clips_per_subject,
            expressions=tuple(data.expressions),
            seed=data.synthetic_seed,
            with_frames=not landmarks_alone,
        )
    )


def _youtubepd(config: ConfigDict) -> Dataset:
    source = YouTubePD(config.data.root)
    return Dataset(source, source.official_split() if TEST in source.split.values() else None)


def _pfed5(config: ConfigDict) -> Dataset:
    data = config.data
    source = PFED5(
        data.root,
        landmarks_root=data.landmarks_root,
        pixels_root=data.pixels_root,
        train_list=data.train_list,
        test_list=data.test_list,
        expression_column=data.expression_column,
        with_frames=reads_frames(config.model),
    )
    return Dataset(source, source.official_split())


READERS: dict[str, Callable[[ConfigDict], Dataset]] = {
    "synthetic": _synthetic,
    "youtubepd": _youtubepd,
    "pfed5": _pfed5,
}


def open_dataset(config: ConfigDict) -> Dataset:
    """The data set of ``config.data``.

    Raises:
      ValueError, FileNotFoundError: unknown name, or data that is absent or broken, with what to do.
    """
    if config.data.name not in READERS:
        raise ValueError(f"data.name is {config.data.name!r}; known: {', '.join(READERS)}")
    try:
        return READERS[config.data.name](config)
    except AttributeError as error:  # a recipe for another data set lacks the options of this one
        raise ValueError(
            f"this recipe has not all options of data.name={config.data.name}; start from configs/{config.data.name}.py"
        ) from error


def runs(dataset: Dataset, config: ConfigDict) -> Sequence[int | None]:
    """The folds to train in turn, or (None,) for a single split."""
    if _protocol(dataset, config) != "k_fold":
        return (None,)
    fold, count = config.data.fold, config.data.num_folds
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
    if name == "auto":
        name = "official" if dataset.official is not None else "k_fold" if config.data.num_folds else "holdout"
    if name not in ("official", "k_fold", "holdout"):
        raise ValueError(f"data.protocol is {name!r}; known: auto, official, k_fold, holdout")
    if name == "official" and dataset.official is None:
        raise ValueError(f"data.protocol is official, but data set {config.data.name} has no official split")
    return name
