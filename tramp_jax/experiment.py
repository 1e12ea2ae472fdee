"""A run from its configuration to its report: the work behind train.py and eval.py."""

import dataclasses
import datetime
import difflib
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from tramp_jax import config as defaults
from tramp_jax import evaluation, sharding, trainer, training_data
from tramp_jax.batches import cache
from tramp_jax.batches.pipeline import Split
from tramp_jax.checkpoint import BEST, LAST, Checkpoints
from tramp_jax.data import datasets
from tramp_jax.data.datasets import TEST, TRAIN, VALIDATION
from tramp_jax.data.validation import Report, open_sound
from tramp_jax.losses import build_loss
from tramp_jax.models import abstract_variables, build_model

CONFIG_FILE = "config.json"

SKIPPED_FILE = "skipped.json"

# Fewer validation people than this say next to nothing about which checkpoint, or how wide an interval, is right.
FEW_PEOPLE = 10


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
      folds: the splits of every fold to train; the only fold is None where there is no cross-validation.
      report: of the check of all clips, where the run leaves out the bad ones.
      notes: what the reader of the data set left out or found odd, in a line.
    """

    folds: Mapping[int | None, dict[str, Split]]
    report: Report | None = None
    notes: str = ""


class RunError(ValueError):
    """A run cannot be started, continued or read; the message says what to do."""


def load_config(workdir: pathlib.Path) -> ConfigDict:
    """The configuration that a run was started with; options that are newer than the run have their defaults."""
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise RunError(f"{path}: no such file; name the folder of a run that train.py has made")
    config = ConfigDict(json.loads(path.read_text()))
    _fill(config, defaults.base())
    return config.lock()


def _fill(config: ConfigDict, default: ConfigDict) -> None:
    for key, value in default.items():
        if key not in config:
            config[key] = value
        elif isinstance(value, ConfigDict):
            _fill(config[key], value)


def prepare_workdir(config: ConfigDict, workdir: pathlib.Path | None, resume: bool, overwrite: bool) -> pathlib.Path:
    """The folder of the run, created with its config.json.

    Raises:
      RunError: it exists and neither ``resume`` nor ``overwrite`` is given; or the run to be resumed has another
        configuration (the differences are listed).
    """
    if workdir is None:
        if resume:
            raise RunError("--resume needs --workdir, the folder of the run to continue")
        if jax.process_count() > 1:
            raise RunError("several processes need one --workdir, a folder that all of them see")
        workdir = pathlib.Path("runs") / config.name / datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    config_path = workdir / CONFIG_FILE
    if not (resume or sharding.is_first_process()):  # which has made the folder when all meet
        sharding.wait_for_all("the folder of the run")
        return workdir
    if resume:
        if not config_path.is_file():
            raise RunError(f"{workdir}: there is no run to resume; start it without --resume")
        _check_same(load_config(workdir), config, workdir)
        return workdir
    if workdir.exists() and any(workdir.iterdir()):
        if not overwrite:
            raise RunError(f"{workdir} exists; continue it with --resume, replace it with --overwrite, or name another")
        if not config_path.is_file() or not {"compat", "model", "train"} <= json.loads(config_path.read_text()).keys():
            raise RunError(f"{workdir} is not the folder of a run, so --overwrite does not delete it; name another")
        shutil.rmtree(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    config_path.write_text(config.to_json(indent=1) + "\n")
    sharding.wait_for_all("the folder of the run")
    return workdir


def _check_same(old: ConfigDict, new: ConfigDict, workdir: pathlib.Path) -> None:
    """Refuses to continue with options that would change the outcome; data may have moved, machines may differ."""
    before, after = (ConfigDict(json.loads(c.to_json())) for c in (old, new))
    for config in (before, after):
        config.data.root = config.train.reader_threads = config.train.read_ahead_mb = config.train.cache = None
    lines = [c.to_json(indent=1, sort_keys=True).splitlines() for c in (before, after)]
    changed = [line for line in difflib.ndiff(*lines) if line[0] in "+-"]
    if changed:
        raise RunError(
            f"{workdir} was started with another configuration (-), not this one (+):\n"
            + "\n".join(changed)
            + "\nto continue it as it was: --workdir and --resume alone, without --config"
        )


def plan(config: ConfigDict, resumed: pathlib.Path | None = None) -> Plan:
    """Opens the data and checks the options against it and each other, before anything is written.

    Args:
      config: the whole configuration.
      resumed: folder of the run that is to be continued, which leaves out the same clips again.
    """
    build_model(config.model)
    build_loss(config)
    for key in ("accumulate", "batch_size", "epochs", "evaluate_every", "passes_per_epoch"):
        if config.train[key] < 1:
            raise ValueError(f"train.{key} is {config.train[key]}; it must be at least 1")
    sharding.check_batch_size(config.train.batch_size, sharding.data_mesh(), "config.train.batch_size")
    if config.train.batch_size % (config.train.accumulate * sharding.data_mesh().size):
        raise ValueError(
            f"train.batch_size={config.train.batch_size} cannot be cut into train.accumulate={config.train.accumulate} "
            f"parts on {sharding.data_mesh().size} devices"
        )
    dataset, report = open_sound(config, resumed and resumed / SKIPPED_FILE)
    folds = {fold: datasets.split(dataset, config, fold) for fold in datasets.runs(dataset, config)}
    for splits in folds.values():
        cache.check(config, splits[TRAIN], splits[VALIDATION])
    return Plan(folds, report, dataset.told())


def train(config: ConfigDict, plan: Plan, workdir: pathlib.Path, resume: bool) -> list[str]:
    """Trains every fold of a plan and scores its held-out subjects.

    Returns:
      Lines that tell the user the outcome.
    """
    lines: list[str] = []
    folds = plan.folds
    first = sharding.is_first_process()
    if plan.report and first:
        (workdir / SKIPPED_FILE).write_text(plan.report.to_json())
        tqdm.write(f"{plan.report.summary()}; {workdir / SKIPPED_FILE}")
    if plan.notes and first:
        tqdm.write(f"data: {plan.notes}; `tramp-jax validate` lists all")
    for position, (fold, splits) in enumerate(folds.items(), start=1):
        folder = fold_folder(workdir, fold)
        if (evaluation.folder(folder, TEST, LAST) / evaluation.METRICS_FILE).exists():
            continue  # done before the run was interrupted
        if fold is not None and first:
            tqdm.write(f"{folder.name}, fold {position} of {len(folds)}")
        folder.mkdir(exist_ok=True)
        lines += _train_one(config, splits, folder, resume)
    if len(folds) == 1 or not first:
        return lines
    from tramp_jax import cross_validation  # its random forest takes seconds to import, and only this needs it

    folders = {fold: fold_folder(workdir, fold) for fold in folds}
    return lines + cross_validation.summarise(folders, folds, workdir, config.seed)


def fold_folder(workdir: pathlib.Path, fold: int | None) -> pathlib.Path:
    """Where a fold's checkpoints and reports are, inside the run's folder."""
    return workdir if fold is None else workdir / f"fold_{fold}"


def _train_one(config: ConfigDict, splits: dict[str, Split], workdir: pathlib.Path, resume: bool) -> list[str]:
    if sharding.is_first_process():
        data = training_data.describe(splits)
        data.save(workdir)
        tqdm.write(f"clips: {data}; writing to {workdir}")
        if data.people[VALIDATION] < FEW_PEOPLE:
            tqdm.write(
                f"warning: {data.people[VALIDATION]} people choose the best checkpoint, so few that it is mostly luck; "
                "go by the last one, or give more of the people to validation (--config.data.validation_fraction)"
            )
    trainer.fit(config, splits, workdir, resume and (workdir / "checkpoints").exists())
    return [evaluation.format_report(_evaluate(config, splits, workdir, which, TEST)) for which in (BEST, LAST)]


def evaluate(workdir: pathlib.Path, which: str, split: str, data_root: str = "") -> list[str]:
    """Scores a split by a checkpoint of a run; see ``evaluation.write_report`` for the files.

    Args:
      workdir: of the run.
      which: "last", "best" or a step number.
      split: "train", "validation" or "test".
      data_root: where the data is now, if it has moved.
    """
    config = load_config(workdir)
    if data_root:
        config.data.root = data_root
    dataset, _ = open_sound(config, workdir / SKIPPED_FILE)
    lines = []
    for fold in datasets.runs(dataset, config):
        splits = datasets.split(dataset, config, fold)
        lines.append(evaluation.format_report(_evaluate(config, splits, fold_folder(workdir, fold), which, split)))
    return lines


def _evaluate(
    config: ConfigDict, splits: Mapping[str, Split], workdir: pathlib.Path, which: str, split: str
) -> dict[str, Any]:
    if split not in splits:
        raise RunError(f"unknown split {split!r}; known: {', '.join(splits)}")
    mesh = sharding.data_mesh()
    shapes = abstract_variables(config.model)
    with Checkpoints(workdir) as checkpoints:
        step, variables = checkpoints.restore_variables(which, shapes, mesh)
    predictor = evaluation.build_predictor(config, mesh)
    predictions = evaluation.predict(predictor, variables, splits[split], config, mesh)
    chosen = {BEST: "chosen on validation subjects", LAST: "last epoch"}.get(which, "as asked")
    title = f"{split}, checkpoint of step {step} ({chosen})"
    return evaluation.write_report(predictions, evaluation.folder(workdir, split, which), config, title)
