"""Opens data sets by name, and splits their clips into training, validation and test."""

import dataclasses
import importlib
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from tramp_jax import channels
from tramp_jax.config import reads_frames, reads_trajectories
from tramp_jax.data import names, packed_clips, splits
from tramp_jax.data.clips import ClipInfo
from tramp_jax.data.problems import WARNING, Problems
from tramp_jax.data.readers import READERS
from tramp_jax.data.source import ClipSource, Dataset, Facts, RatingScale, Split, Wanted
from tramp_jax.errors import UserError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_MAX_PAIRS = 5  # of similar names, listed in one message


def _reader(name: str) -> Any:
    """The module that reads data set ``name``; see ``readers``. Raises UserError (bad_option) for an unknown name."""
    if name not in READERS:
        raise UserError("bad_option", f"data.name (--dataset) is {name!r}; known: {', '.join(READERS)}")
    return importlib.import_module(f"tramp_jax.data.readers.{name}")


def options(name: str) -> dict[str, Any]:
    """The options of data set ``name`` in ``config.data``, with their defaults, and its name."""
    return {"name": name, **dataclasses.asdict(_reader(name).Options())}


def path_options(name: str) -> list[str]:
    """The options of data set ``name`` that are paths: those declared as ``str``, see ``readers``."""
    return [field.name for field in dataclasses.fields(_reader(name).Options) if field.type is str]


def facts(name: str) -> Facts:
    """The facts about every clip of data set ``name``; empty ones for an unknown data set."""
    return _reader(name).FACTS if name in READERS else Facts()


def wanted_by(config: ConfigDict) -> Wanted:
    """The parts of a clip that the model or the loss of a whole configuration needs."""
    model = config.model
    trajectories = reads_trajectories(model)
    colours = trajectories and "rgb" in channels.stored(model.trajectory.channels)
    return Wanted(reads_frames(model), colours, landmarks=trajectories or config.loss.landmarks > 0)


def open_dataset(config: ConfigDict, wanted: Wanted | None = None, problems: Problems | None = None) -> Dataset:
    """Opens the data set of ``config.data``. ``config.data.root`` may be a copy made by ``tramp-jax pack``.

    ``config`` is the whole configuration. ``wanted`` is what to read of each clip; None for what the model reads.
    ``problems`` collects what is wrong; None raises the first error.
    """
    data, wanted, problems = config.data, wanted or wanted_by(config), problems or Problems()
    if data.root and packed_clips.is_packed(data.root):
        dataset = _open_packed(data.root, data.name, wanted)
    else:
        reader = _reader(data.name)
        given = {field.name: data[field.name] for field in dataclasses.fields(reader.Options) if field.name in data}
        dataset = reader.open(data.root, reader.Options(**given), wanted, problems)
    _check_people(dataset, problems)
    warnings = [problem for problem in problems.found if problem.severity == WARNING]
    # Packed data has kept some of them.
    dataset = dataclasses.replace(dataset, notes=tuple(dict.fromkeys((*dataset.notes, *warnings))))
    if any(data.get("scale", ())):
        scale = _declared(data.scale, data.get("target", "") or "rating")
        dataset = dataclasses.replace(dataset, facts=dataclasses.replace(dataset.facts, scale=scale))
    target, classes = data.get("target", ""), config.model.head.num_classes
    if target or classes or dataset.facts.scale:
        source = _with_target(dataset.source, target, classes, dataset.facts.scale, problems)
        dataset = dataclasses.replace(dataset, source=source)
    return dataset


def _declared(ends: Sequence[float], name: str) -> RatingScale:
    """The scale of ``data.scale``."""
    if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends) or not ends[0] < ends[1]:
        raise UserError(
            "bad_option", f"data.scale is {tuple(ends)}; give the lowest and highest rating, such as (0.0, 4.0)"
        )
    return RatingScale(name, float(ends[0]), float(ends[1]), "lowest", "highest")


def _check_people(dataset: Dataset, problems: Problems) -> None:
    """Adds an error for each pair of names that may be one person, and for each name that two people may share.

    Adds warnings for names that are less surely one person, and for two spellings of an expression.
    """
    first: dict[str, ClipInfo] = {}
    for info in dataset.source.infos:
        first.setdefault(info.subject, info)
    for name, what in names.changed_by_spreadsheets(first):
        message = (
            f"{first[name].place}: subject {name} looks like {what} by a spreadsheet; format the column as text and "
            f"enter it again, or put a letter in front if it really is the name (S{name})"
        )
        problems.add("bad_id", message, first[name].id)
    for one, other in names.alike(first):
        message = (
            f"{first[one].place} and {first[other].place}: subjects {one!a} and {other!a} look like two "
            "spellings of one person, who could then be in both training and test; spell them alike in the list, or "
            "give two people more distinct names"
        )
        problems.add("similar_names", message)
    if pairs := list(names.perhaps_alike(first)):
        listed = ", ".join(f"{one!r} and {other!r}" for one, other in pairs[:_MAX_PAIRS])  # they differ visibly
        more = f", and {len(pairs) - _MAX_PAIRS} more" if len(pairs) > _MAX_PAIRS else ""
        message = (
            f"these subjects may be one person in two spellings, or on two occasions or sides: {listed}{more}. Such a "
            "person could be in both training and test; give all clips of a person one subject, and mark visits by "
            "id or group"
        )
        problems.add("similar_names", message, severity=WARNING)
    for one, other in names.alike(info.expression for info in dataset.source.infos):
        message = f"expressions {one!a} and {other!a} count as two; if they are one, spell them alike in the list"
        problems.add("similar_names", message, severity=WARNING)


def _open_packed(root: str, name: str, wanted: Wanted) -> Dataset:
    source = packed_clips.PackedClips(root, wanted)
    manifest = source.manifest
    if manifest.name != name:
        raise UserError(
            "bad_option",
            f"{root} (data.root) holds data set {manifest.name}, but data.name is {name}: give the folder of {name}, "
            f"or use a recipe for {manifest.name}",
        )
    return Dataset(source, facts(name), manifest.official, manifest.folds, (*manifest.skipped, *manifest.warnings))


def _with_target(
    source: ClipSource, target: str, classes: int, scale: RatingScale | None, problems: Problems
) -> ClipSource:
    """The clips that have the rating ``data.target`` ("" for the score itself), with that rating as their score.

    For a classifier (``classes`` above 0), the score is rounded to a class number, half up, because the mean of two
    raters may lie between classes. ``problems`` takes clips without the rating, and ratings that are not a class or not
    on the scale.

    Raises:
      UserError: bad_option, if no clip has such a rating.
    """
    known = sorted({name for info in source.infos for name, _ in info.targets})
    if target and source.infos and target not in known:
        listed = ", ".join(known) or "only the score"
        raise UserError("bad_option", f"data.target is {target!r}; this data set has: {listed}")
    indices: list[int] = []
    infos: list[ClipInfo] = []
    for index, info in enumerate(source.infos):
        score = dict(info.targets).get(target) if target else info.score
        if score is None:
            problems.add(
                "missing_target", f"{info.place}: has no rating {target!r}; add it, or remove the clip", info.id
            )
            continue
        if classes:
            score = float(math.floor(score + 0.5))
            if not 0 <= score < classes:
                message = (
                    f"{info.place}: the {target or 'score'} gives class {score:g}, but "
                    f"model.head.num_classes={classes} allows only 0 to {classes - 1}"
                )
                problems.add("class_out_of_range", message, info.id)
                continue
        elif scale and not scale.low <= score <= scale.high:
            message = (
                f"{info.place}: the {target or 'score'} is {score:g}, but the scale is {scale.low:g} to "
                f"{scale.high:g}; correct it, or set the scale with --config.data.scale"
            )
            problems.add("bad_score", message, info.id)
            continue
        indices.append(index)
        infos.append(dataclasses.replace(info, score=score))
    return source if tuple(infos) == tuple(source.infos) else Split(source, indices, infos)


def runs(dataset: Dataset, config: ConfigDict) -> Sequence[int | None]:
    """The folds to train in turn, or (None,) for a single split."""
    protocol, fold = _protocol(dataset, config), config.data.fold
    if protocol not in ("k_fold", "folds"):
        if fold != -1:
            how = "leave out the fold, or cross-validate with data.protocol=k_fold and data.num_folds"
            raise UserError(
                "bad_option", f"data.fold is {fold}, but there are no folds with protocol {protocol}; {how}"
            )
        return (None,)
    count = len(dataset.folds) if protocol == "folds" else config.data.num_folds
    if count < 2:
        raise UserError("bad_option", f"data.num_folds is {count}; cross-validation needs at least 2")
    if not -1 <= fold < count:
        raise UserError("bad_option", f"data.fold is {fold}; use 0 to {count - 1}, or -1 for all {count} folds in turn")
    return range(count) if fold == -1 else (fold,)


def split(
    dataset: Dataset, config: ConfigDict, fold: int | None, kept: Mapping[str, Collection[str]] | None = None
) -> dict[str, Split]:
    """Training, validation and test clips. Subjects are split, never their clips.

    Validation subjects, which select the checkpoint, always come from the training subjects. ``fold`` is None without
    folds. ``kept`` has the subjects of each part, from an earlier split; None splits them. ``config`` is the whole
    configuration.

    Raises:
      UserError: no clip shows ``data.expression``, or too few subjects; empty_part if a part has no clips.
    """
    source, chosen = dataset.source, _divided(dataset, config)
    subjects = kept or _dealt(dataset, config, fold, [source.infos[i] for i in chosen])
    parts = {
        name: Split(source, [i for i in chosen if source.infos[i].subject in subjects[name]])
        for name in (TRAIN, VALIDATION, TEST)
    }
    if empty := [name for name, part in parts.items() if not len(part)]:
        what = f"nobody in the {' and the '.join(empty)} part of the split has a clip"
        shown = f" of {config.data.expression}" if config.data.expression else ""
        raise UserError("empty_part", f"{what}{shown}; choose another split with --config.data.protocol")
    return parts


def people(dataset: Dataset, config: ConfigDict) -> frozenset[str]:
    """The subjects that ``split`` divides; see there."""
    return frozenset(dataset.source.infos[i].subject for i in _divided(dataset, config))


def _divided(dataset: Dataset, config: ConfigDict) -> list[int]:
    """Indices of the clips that are split. Cross-validation stays within the official training list."""
    data, source = config.data, dataset.source
    chosen = [i for i, info in enumerate(source.infos) if data.expression in ("", info.expression)]
    if not chosen:
        known = sorted({info.expression for info in source.infos})
        raise UserError(
            "bad_option",
            f"no clip of the data set shows data.expression={data.expression!r}; it has: {', '.join(known)}",
        )
    if dataset.official is not None and _protocol(dataset, config) == "k_fold":
        chosen = [i for i in chosen if source.infos[i].subject in dataset.official[TRAIN]]
    return chosen


def _dealt(
    dataset: Dataset, config: ConfigDict, fold: int | None, infos: Sequence[ClipInfo]
) -> dict[str, frozenset[str]]:
    """The subjects of each part."""
    data, protocol = config.data, _protocol(dataset, config)
    if protocol == "holdout":
        test = splits.holdout(infos, {TRAIN: 1 - data.test_fraction, TEST: data.test_fraction}, data.split_seed)[TEST]
    elif protocol == "official":
        assert dataset.official is not None
        test = dataset.official[TEST]
    elif protocol == "folds":
        assert fold is not None
        test = dataset.folds[fold]
    else:
        assert fold is not None
        test = splits.k_fold(infos, data.num_folds, data.split_seed)[fold]

    rest = [info for info in infos if info.subject not in test]
    fractions = {TRAIN: 1 - data.validation_fraction, VALIDATION: data.validation_fraction}
    return splits.holdout(rest, fractions, data.split_seed) | {TEST: test}


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
    if name in ("official", "folds") and not possible[name]:
        what = "official split" if name == "official" else "published folds"
        raise UserError("bad_option", f"data.protocol is {name}, but data set {config.data.name} has no {what}")
    return name
