"""Keeps the split of a run in its folder, so nobody it was trained on is ever tested, however the list changes.

Subjects are dealt to the parts by their mean scores (``data.splits``). Correcting a rating, or adding or removing a
person, would deal everyone anew.
"""

import dataclasses
import functools
import pathlib
import re
import sys
from collections.abc import Collection, Mapping

from ml_collections import ConfigDict

from tramp_jax import json_files, run, sharding
from tramp_jax.data import datasets
from tramp_jax.data.datasets import TEST, TRAIN, VALIDATION
from tramp_jax.data.source import Dataset, Split
from tramp_jax.errors import UserError
from tramp_jax.files import expanded

_CURE = "restore it, or train again"
_NAMED = 5  # subjects listed in one message


@dataclasses.dataclass(frozen=True)
class _Kept:
    """The subjects of each part of each fold; without folds, the only key is ""."""

    folds: dict[str, dict[str, frozenset[str]]]

    def is_split(self) -> bool:
        return all(re.fullmatch(r"\d{,9}", fold, re.ASCII) for fold in self.folds) and all(
            parts.keys() == {TRAIN, VALIDATION, TEST}
            and sum(map(len, parts.values())) == len(frozenset[str]().union(*parts.values()))
            for parts in self.folds.values()
        )


def save(folder: pathlib.Path, splits: Mapping[int | None, Mapping[str, Split]]) -> None:
    """Writes split.json, the subjects of each part of each fold, into the folder of a run."""
    folds = {
        _key(fold): {name: sorted({info.subject for info in part.infos}) for name, part in parts.items()}
        for fold, parts in splits.items()
    }
    json_files.write(folder / run.SPLIT, {"folds": folds})


def kept_folds(folder: pathlib.Path) -> list[int]:
    """The folds of a run over several folds; empty for runs of earlier versions, which have not kept their split."""
    kept = _read(folder / run.SPLIT)
    return sorted(int(key) for key in kept.folds if key) if kept else []


def splits_of(dataset: Dataset, config: ConfigDict, folder: pathlib.Path | None) -> dict[int | None, dict[str, Split]]:
    """Training, validation and test clips of every fold of a run, or of one fold.

    Prints a line if there are people who belong to no part, because they were added later. ``folder`` is that of a run
    or fold, which keeps its split; None for a new run. A run of an earlier version has not kept its split, so subjects
    are dealt again, with a warning.

    Raises:
      UserError: other_people if someone of the run's split has no clips now; damaged_file; see ``datasets.split``.
    """
    own = run.fold_of(folder) if folder else None
    path = (run.home(folder) if folder else pathlib.Path()) / run.SPLIT
    kept = _read(path) if folder else None
    if kept is None:
        if folder and run.has_begun(path.parent):
            _say_once(
                f"warning: {path} is missing, as in runs of earlier versions; if the list has changed since training, "
                "people that the model was trained on may be among those it is tested on"
            )
        folds = datasets.runs(dataset, config) if own is None else (own,)
        return {fold: datasets.split(dataset, config, fold) for fold in folds}
    found = {int(key) if key else None: parts for key, parts in kept.folds.items()}
    if own is not None:
        found = {fold: parts for fold, parts in found.items() if fold == own}
    if not found:
        raise UserError("damaged_file", f"{path}: does not hold the split of {folder}; {_CURE}")
    there = datasets.people(dataset, config)
    known = frozenset[str]()
    for parts in found.values():
        for name, subjects in parts.items():
            known |= subjects
            if gone := subjects - there:
                raise UserError(
                    "other_people",
                    f"{path}: {_named(gone)} belonged to the {name} people of this run, but the data has no clips of "
                    "them now; restore their rows with the same spelling, or train again",
                )
    if new := there - known:
        _say_once(f"note: {path}: {_named(new)} joined the data after training, and belong to no part of the split")
    return {fold: datasets.split(dataset, config, fold, parts) for fold, parts in found.items()}


def warn_of_known(config: ConfigDict, splits: Mapping[int | None, Mapping[str, Split]]) -> None:
    """Warns if people that the initial weights (``config.init``) were trained on are tested.

    Raises:
      UserError: damaged_file if the split of the run with the weights is damaged.
    """
    tested = {info.subject for parts in splits.values() for info in parts[TEST].infos}
    paths = datasets.path_options(config.data.name)
    same = [name for name in datasets.options(config.data.name) if name not in paths]
    for given in {config.init.all, config.init.rgb, config.init.trajectory} - {""}:
        folder = expanded(given)
        path = run.home(folder) / run.SPLIT
        kept = _read(path)
        if kept is None:
            continue
        data = run.load_config(folder).data
        if any(data.get(name) != config.data[name] for name in same):
            continue  # the same name is another person in other data
        own = run.fold_of(folder)
        folds = [parts for fold, parts in kept.folds.items() if own is None or fold == _key(own)]
        learned = frozenset[str]().union(*(parts[name] for parts in folds for name in (TRAIN, VALIDATION)))
        if known := learned & tested:
            _say_once(
                f"warning: {path}: {_named(known)} trained the initial weights and are tested. If the names mean the "
                "same people, the result will look too good; give both runs the same split (data.split_seed, "
                "data.num_folds, data.fold)"
            )


def _read(path: pathlib.Path) -> _Kept | None:
    return json_files.read_record(_Kept, path, _CURE, _Kept.is_split)


def _key(fold: int | None) -> str:
    return "" if fold is None else str(fold)


def _named(subjects: Collection[str]) -> str:
    listed = ", ".join(sorted(subjects)[:_NAMED])
    return f"{listed} and {len(subjects) - _NAMED} more subjects" if len(subjects) > _NAMED else f"subjects {listed}"


@functools.cache  # the folds of a run would repeat it
def _say_once(message: str) -> None:
    if sharding.is_first_process():
        sys.stderr.write(f"{message}\n")
