"""Data sets by name, and which of their clips train, validate and test."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from tramp_jax.data import packed_clips, splits
from tramp_jax.data.clips import Clip, ClipInfo, ClipSource, Split
from tramp_jax.data.problems import WARNING, Problem, Problems, counted
from tramp_jax.data.readers.dfew import DFEW
from tramp_jax.data.readers.folder import Folder
from tramp_jax.data.readers.neuroface import NeuroFace
from tramp_jax.data.readers.neuroface_lists import FOLDS
from tramp_jax.data.readers.pfed5 import PFED5
from tramp_jax.data.readers.youtubepd import YouTubePD
from tramp_jax.errors import UserError
from tramp_jax.models import reads_frames, reads_trajectories
from tramp_jax.synthetic.faces import EXPRESSIONS, SyntheticFaces

TRAIN, VALIDATION, TEST = "train", "validation", "test"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Clips, and the published split over subjects where the data set has one.

    Attributes:
      source: the clips.
      official: {"train": subjects, "test": subjects}, or None.
      folds: test subjects of each published fold; () where there are none.
      notes: what is worth knowing though it stops nobody: warnings of the reader, such as clips that it left out.
    """

    source: ClipSource
    official: Mapping[str, frozenset[str]] | None = None
    folds: Sequence[frozenset[str]] = ()
    notes: tuple[Problem, ...] = ()

    def told(self) -> str:
        """The notes by numbers, in a line; "" where there are none."""
        return counted(self.notes, {info.id for info in self.source.infos})


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is read of each clip.

    Attributes:
      frames: the images.
      pixels: the colours under the landmarks.
      landmarks: the landmarks; False lets a data set of frames do without them. Then there are no pixels either.
    """

    frames: bool = True
    pixels: bool = True
    landmarks: bool = True

    @classmethod
    def of(cls, config: ConfigDict) -> "Wanted":
        """What the model of a configuration looks at."""
        channels = config.model.trajectory.channels
        trajectories = reads_trajectories(config.model)
        return cls(reads_frames(config.model), trajectories and "rgb" in channels, trajectories)


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
    if not wanted.landmarks:
        raise UserError("bad_data", "data set youtubepd has landmarks alone, so there is nothing in it without them")
    source = YouTubePD(data.root, problems=problems)
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
        with_pixels=wanted.pixels,
        with_landmarks=wanted.landmarks,
        problems=problems,
    )
    return Dataset(source, source.official_split())


def _neuroface(data: ConfigDict, wanted: Wanted, problems: Problems) -> Dataset:
    source = NeuroFace(
        data.root,
        split_list=data.split_list,
        ratings=data.ratings,
        frames_root=data.frames_root,
        landmarks_root=data.landmarks_root,
        videos_root=data.videos_root,
        video_landmarks_root=data.video_landmarks_root,
        with_frames=wanted.frames,
        with_pixels=wanted.pixels,
        with_landmarks=wanted.landmarks,
        problems=problems,
    )
    return Dataset(source, folds=FOLDS)


def _dfew(data: ConfigDict, wanted: Wanted, problems: Problems) -> Dataset:
    source = DFEW(
        data.root,
        number=data.set,
        train_list=data.train_list,
        test_list=data.test_list,
        frames_root=data.frames_root,
        landmarks_root=data.landmarks_root,
        colours_root=data.colours_root,
        first_label=data.first_label,
        min_frames=data.min_frames,
        with_frames=wanted.frames,
        with_pixels=wanted.pixels,
        with_landmarks=wanted.landmarks,
        problems=problems,
    )
    return Dataset(source, source.official_split())


def _folder(data: ConfigDict, wanted: Wanted, problems: Problems) -> Dataset:
    source = Folder(
        data.root,
        clip_list=data.clip_list,
        with_frames=wanted.frames,
        with_pixels=wanted.pixels,
        with_landmarks=wanted.landmarks,
        problems=problems,
    )
    return Dataset(source, source.official_split())


def _packed(data: ConfigDict, wanted: Wanted, problems: Problems) -> Dataset:
    source = packed_clips.PackedClips(data.root, wanted.frames, wanted.pixels, wanted.landmarks)
    manifest = source.manifest
    if manifest.name != data.name:
        raise UserError(
            "bad_option",
            f"{data.root} (data.root) holds data set {manifest.name}, but data.name is {data.name}: name the folder of "
            f"that data set, or use a recipe for {manifest.name}",
        )
    return Dataset(source, manifest.official, manifest.folds, (*manifest.skipped, *manifest.warnings))


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
    "neuroface": Reader(
        _neuroface,
        {
            "split_list": "",  # "" for the usual place below data.root, here and below
            "ratings": "",
            "frames_root": "",
            "landmarks_root": "",
            "videos_root": "",
            "video_landmarks_root": "",
        },
    ),
    "dfew": Reader(
        _dfew,
        {
            "set": 1,  # of the five official splits
            "train_list": "",
            "test_list": "",
            "frames_root": "",
            "landmarks_root": "",
            "colours_root": "",
            "first_label": -1,  # 0 or 1, the label of "happy" in the lists; -1 to find it
            "min_frames": 1,  # shorter clips are left out
        },
    ),
    "folder": Reader(_folder, {"clip_list": ""}),
}


def options(name: str) -> dict[str, Any]:
    """What ``config.data`` needs for data set ``name``, with defaults: its name and the options it has alone.

    Raises:
      UserError: there is no such data set.
    """
    if name not in READERS:
        raise UserError("bad_option", f"data.name is {name!r}; known: {', '.join(READERS)}")
    return {"name": name, **READERS[name].options}


def open_dataset(config: ConfigDict, wanted: Wanted | None = None, problems: Problems | None = None) -> Dataset:
    """The data set of ``config.data``; ``config.data.root`` may be a copy of it packed by ``tramp-jax pack``.

    Args:
      config: the whole configuration.
      wanted: of each clip; None for what the model looks at.
      problems: collects what is wrong; None raises the first error.

    Raises:
      UserError: unknown name, or data that is absent or broken, with what to do.
    """
    data = ConfigDict(options(config.data.name) | config.data.to_dict())
    problems = problems or Problems()
    opened = _packed if data.root and packed_clips.is_packed(data.root) else READERS[data.name].open
    dataset = opened(data, wanted or Wanted.of(config), problems)
    warnings = [problem for problem in problems.found if problem.severity == WARNING]
    dataset = dataclasses.replace(dataset, notes=(*dataset.notes, *warnings))
    classes = config.model.head.num_classes
    if data.get("target") or classes:
        targeted = _Targeted(dataset.source, data.get("target", ""), classes, problems)
        dataset = dataclasses.replace(dataset, source=targeted)
    return dataset


class _Targeted:
    """The clips of a source that have the rating ``data.target``, with it as their score.

    For a model of classes, the score is rounded to a class number, half up: the mean of two raters may lie between.
    """

    def __init__(self, source: ClipSource, target: str, classes: int, problems: Problems):
        """
        Args:
          source: of all clips.
          target: name of a rating in ``ClipInfo.targets``; "" for the score itself.
          classes: of the model; 0 for regression.
          problems: takes the clips that lack the rating, or whose rating is no class.

        Raises:
          UserError: no clip has such a rating.
        """
        known = sorted({name for info in source.infos for name, _ in info.targets})
        if target and source.infos and target not in known:
            raise UserError(
                "bad_option", f"data.target is {target!r}; this data set has: {', '.join(known) or 'the score alone'}"
            )
        self._source = source
        self._indices: list[int] = []
        self._infos: list[ClipInfo] = []
        for index, info in enumerate(source.infos):
            score = dict(info.targets).get(target) if target else info.score
            where = info.source or f"clip {info.id}"
            if score is None:
                problems.add(
                    "missing_target", f"{where}: has no rating {target!r}; add it, or remove the clip", info.id
                )
                continue
            if classes:
                score = float(math.floor(score + 0.5))
                if not 0 <= score < classes:
                    message = (
                        f"{where}: the {target or 'score'} makes class {score:g}, but model.head.num_classes={classes} "
                        f"has the classes 0 to {classes - 1}"
                    )
                    problems.add("class_out_of_range", message, info.id)
                    continue
            self._indices.append(index)
            self._infos.append(dataclasses.replace(info, score=score))

    @property
    def infos(self) -> Sequence[ClipInfo]:
        return self._infos

    def __len__(self) -> int:
        return len(self._infos)

    def __getitem__(self, index: int) -> Clip:
        return dataclasses.replace(self._source[self._indices[index]], info=self._infos[index])

    def problems(self, index: int) -> Iterator[Problem]:
        """Of the files of clip ``index``, where the source can tell them."""
        check = getattr(self._source, "problems", None)
        if check is not None:
            yield from check(self._indices[index])

    def shard_problems(self) -> Iterator[Problem]:
        """Of the files of a packed data set."""
        check = getattr(self._source, "shard_problems", None)
        if check is not None:
            yield from check()

    def few_frames(self, index: int) -> tuple[bytes, ...]:
        """Of clip ``index``, where the source has image files."""
        few = getattr(self._source, "few_frames", None)
        return few(self._indices[index]) if few is not None else ()


def runs(dataset: Dataset, config: ConfigDict) -> Sequence[int | None]:
    """The folds to train in turn, or (None,) for a single split."""
    protocol, fold = _protocol(dataset, config), config.data.fold
    if protocol not in ("k_fold", "folds"):
        return (None,)
    count = len(dataset.folds) if protocol == "folds" else config.data.num_folds
    if count < 2:
        raise UserError("bad_option", f"data.num_folds is {count}; cross-validation needs at least 2")
    if not -1 <= fold < count:
        raise UserError("bad_option", f"data.fold is {fold}; use 0 to {count - 1}, or -1 for all {count} folds in turn")
    return range(count) if fold == -1 else (fold,)


def split(dataset: Dataset, config: ConfigDict, fold: int | None) -> dict[str, Split]:
    """Training, validation and test clips; subjects are divided before clips.

    Validation subjects, by which checkpoints are chosen, are always taken from the training ones.
    """
    data, source = config.data, dataset.source
    chosen = [i for i, info in enumerate(source.infos) if data.expression in ("", info.expression)]
    if not chosen:
        known = sorted({info.expression for info in source.infos})
        raise UserError(
            "bad_option",
            f"no clip of the data set shows data.expression={data.expression!r}; it has: {', '.join(known)}",
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
        raise UserError("bad_option", f"data.protocol is {name!r}; known: auto, {', '.join(possible)}")
    if name in ("official", "folds") and not possible[name]:
        what = "official split" if name == "official" else "published folds"
        raise UserError("bad_option", f"data.protocol is {name}, but data set {config.data.name} has no {what}")
    return name
