"""The work of train.py and eval.py: from a configuration to a trained, tested and reported model."""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from tramp_jax import config as options
from tramp_jax import (
    evaluation,
    initial_weights,
    landmark_readout,
    losses,
    run,
    sharding,
    split_file,
    trainer,
    training_data,
    usual_motion,
)
from tramp_jax import output as outputs
from tramp_jax.batches import cache
from tramp_jax.checkpoint import BEST, LAST, Checkpoints
from tramp_jax.data.datasets import TEST, TRAIN, VALIDATION
from tramp_jax.data.source import Facts, Split
from tramp_jax.data.validation import Report, open_sound
from tramp_jax.errors import Interrupted, UserError
from tramp_jax.files import locked, write_atomically
from tramp_jax.losses import LANDMARKS
from tramp_jax.models import abstract_variables, build_model, count_parameters
from tramp_jax.output import FEW_PEOPLE, Output
from tramp_jax.training_data import TrainingData


@dataclasses.dataclass(frozen=True)
class Folds:
    """The data of a run."""

    # Training, validation and test clips of each fold; without cross-validation, the only key is None.
    splits: Mapping[int | None, dict[str, Split]]
    facts: Facts  # what holds for every clip of the data set
    report: Report | None = None  # the outcome of checking all clips, if the run skips bad ones (``data.skip_bad``)
    notes: str = ""  # one line on what the data set's reader skipped or found odd


def train(
    config: ConfigDict | None, folder: pathlib.Path | None, resume: bool = False, overwrite: bool = False
) -> None:
    """Trains every fold of a configuration, tests it, and prints the outcome.

    Args:
      config: the whole configuration; None to resume a run with its own.
      folder: the run's folder; None for a new one under runs/.

    Raises:
      UserError: a bad option, unusable data, or a folder that exists (in_use if another program is training there).
      Interrupted: the user stopped the training.
    """
    if config is None:
        if not (resume and folder):
            what = "--config is missing; name a recipe, such as configs/synthetic.py, or continue a run with --resume"
            raise UserError("missing_option", what)
        config = run.load_config(folder)
    folds = open_folds(config, folder if resume else None)
    if not resume:
        initial_weights.check(config)
    folder = run.named(config, folder, resume)
    with locked(folder) if sharding.is_first_process() else contextlib.nullcontext():
        run.prepare(config, folder, resume, overwrite)
        try:
            if sharding.is_first_process() and not (resume and run.has_begun(folder)):
                split_file.save(folder, folds.splits)
            lines = train_folds(config, folds, folder, resume)
        except (Interrupted, KeyboardInterrupt) as stopped:
            what = str(stopped) if isinstance(stopped, Interrupted) else "interrupted outside the training steps"
            raise Interrupted(f"{what}\ncontinue with: {run.resume_command(folder)}") from stopped
    run.check_complete(folder, list(folds.splits))
    _print([*lines, f"checkpoints, metrics and plots: {folder}"])


def open_folds(config: ConfigDict, resumed: pathlib.Path | None = None) -> Folds:
    """Opens the data and checks the options, before anything is written.

    A run to resume, in the folder ``resumed``, skips the clips that it skipped before and keeps its split.

    Raises:
      UserError: options that are bad, contradict each other, or do not fit the data or the devices.
    """
    options.check(config)
    build_model(config.model)
    losses.check(config)
    sharding.check_batch_size(config.train.batch_size, config.train.accumulate, sharding.data_mesh())
    dataset, report = open_sound(config, resumed and resumed / run.SKIPPED)
    splits = split_file.splits_of(dataset, config, resumed)
    if resumed is None:
        split_file.warn_of_known(config, splits)
    for parts in splits.values():
        losses.check_ratings(config, [info.score for info in parts[TRAIN].infos])
        cache.check(config, parts[TRAIN], parts[VALIDATION])
    return Folds(splits, dataset.facts, report, dataset.summary())


def train_folds(config: ConfigDict, folds: Folds, folder: pathlib.Path, resume: bool) -> list[str]:
    """Trains every fold that is not finished, tests its best and last checkpoint, and returns a report on each."""
    first = sharding.is_first_process()
    if first:
        announce(config, folds, folder)
    lines: list[str] = []
    for position, (fold, splits) in enumerate(folds.splits.items(), start=1):
        fold_folder = run.fold_folder(folder, fold)
        changed = first and _has_changed(config, splits, fold_folder)
        if changed:
            tqdm.write(
                f"warning: {fold_folder}: the clips or their ratings have changed since this training began, so its "
                "result is partly or wholly from the old ones; train again to use only the new ones"
            )
        if (run.evaluation_folder(fold_folder, TEST, LAST) / run.METRICS).exists():
            continue  # finished before the run was interrupted
        if fold is not None and first:
            tqdm.write(f"{fold_folder.name}, fold {position} of {len(folds.splits)}")
        fold_folder.mkdir(exist_ok=True)
        _announce_fold(config, splits, folds.facts, fold_folder, changed)
        output = decoding(config, splits, folds.facts) if _predicts_scores(config) else None
        trainer.fit(config, splits, fold_folder, resume, output)
        if output is not None:
            usual_motion.describe(config, splits, fold_folder)
        lines += [evaluate_split(config, splits, folds.facts, fold_folder, which, TEST) for which in (BEST, LAST)]
    compared = len(folds.splits) > 1 or config.evaluation.baselines
    if not (first and compared) or config.loss.name == LANDMARKS:
        return lines
    from tramp_jax import cross_validation  # imports scikit-learn, which takes seconds

    return lines + cross_validation.summarise(folds.splits, folder, config)


def announce(config: ConfigDict, folds: Folds, folder: pathlib.Path) -> None:
    """Prints what was left out of the data, and writes the clips that ``data.skip_bad`` skips to ``folder``."""
    if folds.report:
        write_atomically(folder / run.SKIPPED, folds.report.to_json())
        tqdm.write(f"{folds.report.summary()}; {folder / run.SKIPPED}")
    if folds.notes:
        tqdm.write(f"data: {folds.notes}; `tramp-jax validate` lists them all")
    if config.data.num_folds and None in folds.splits:
        tqdm.write(
            f"warning: data.num_folds={config.data.num_folds} has no effect, because this data has a single split with "
            f"data.protocol={config.data.protocol}; to cross-validate, set --config.data.protocol=k_fold"
        )


def _announce_fold(
    config: ConfigDict, splits: dict[str, Split], facts: Facts, folder: pathlib.Path, changed: bool
) -> None:
    """Writes a description of the training data to ``folder``, prints it, and warns of what to expect."""
    if sharding.is_first_process():
        data = training_data.describe(splits, facts, config.data.target)
        if changed:  # say so at each resume, even if the ratings change back
            data = dataclasses.replace(data, digest=training_data.CHANGED)
        data.save(folder)
        tqdm.write(f"{data}; writing to {folder}")
        if facts.scale is None and _predicts_scores(config):
            _warn_beyond(data, splits, TEST)
        if data.people[VALIDATION] < FEW_PEOPLE and config.train.evaluate_every < config.train.epochs:
            tqdm.write(
                f"warning: only {data.people[VALIDATION]} validation people choose the best checkpoint, so the choice "
                "is mostly luck; use the last one, or raise --config.data.validation_fraction"
            )
        if _predicts_scores(config) and (doubt := losses.doubt([info.score for info in splits[TRAIN].infos])):
            tqdm.write(f"warning: {doubt}")
        _note_on_size(config, sum(data.people.values()))


def _predicts_scores(config: ConfigDict) -> bool:
    return not config.model.head.num_classes and config.loss.name != LANDMARKS


def _has_changed(config: ConfigDict, splits: Mapping[str, Split], folder: pathlib.Path) -> bool:
    """Whether a run or fold began with other clips, people or ratings."""
    before = training_data.load(folder, config)
    return before is not None and before.digest not in ("", training_data.digest(splits))


def _warn_beyond(data: TrainingData, splits: Mapping[str, Split], name: str) -> None:
    """Warns if ratings of a split lie outside the range that the scale is taken from."""
    ratings = [info.score for info in splits[name].infos]
    if beyond := sum(not data.low <= rating <= data.high for rating in ratings):
        tqdm.write(
            f"warning: {beyond} of {len(ratings)} {name} ratings lie outside {data.low:g} to {data.high:g}, the range "
            "of the ratings in training, which scores stay within; correct them, or train with --config.data.scale"
        )


def _note_on_size(config: ConfigDict, people: int) -> None:
    """Prints a note if a large model starts from random weights on few people."""
    if people >= options.FEW_BELOW or options.has_weights(config):
        return
    parameters = count_parameters(config.model)
    if parameters > 5e6:
        tqdm.write(
            f"note: {people} people for {parameters / 1e6:.0f} M parameters from random weights; start from published "
            "weights (--config.init.all=FILE), or use a recipe for few people (--config configs/folder.py:few)"
        )


def decoding(config: ConfigDict, splits: Mapping[str, Split], facts: Facts) -> Output:
    """The output step before a line is fitted, from the training and validation ratings."""
    scale = training_data.scale_of(facts, config.data.target, training_data.ends(splits))
    return outputs.of_training(config, outputs.histogram([info.score for info in splits[TRAIN].infos]), scale)


def evaluate(folder: pathlib.Path, which: str, split: str, data_root: str = "") -> None:
    """Scores a split with a checkpoint of a run, writes the report (``evaluation.write_report``) and prints it.

    Args:
      folder: the folder of the run, or of one of its folds.
      which: "last", "best" or a step number.
      data_root: where the data is now, if it has moved.

    Raises:
      UserError: not a run, an unknown split or checkpoint, or unusable data.
    """
    run.warn_if_training([folder])
    config = run.load_config(folder)
    if split not in (known := (TRAIN, VALIDATION, TEST)):
        raise UserError("bad_option", f"--split is {split!r}; known: {', '.join(known)}")
    if data_root:
        config.data.root = data_root
    home = run.home(folder)
    dataset, _ = open_sound(config, home / run.SKIPPED)
    reports = []
    for fold, splits in split_file.splits_of(dataset, config, folder).items():
        fold_folder = run.fold_folder(home, fold)
        data = training_data.load(fold_folder, config)
        if data and dataset.facts.scale is None and _predicts_scores(config):
            _warn_beyond(data, splits, split)
        reports.append(evaluate_split(config, splits, dataset.facts, fold_folder, which, split))
    _print(reports)


def evaluate_split(
    config: ConfigDict, splits: Mapping[str, Split], facts: Facts, folder: pathlib.Path, which: str, split: str
) -> str:
    """Scores a split with a checkpoint of the run or fold in ``folder``, writes the report and returns its text.

    If the checkpoint has no saved output step yet, fits it on the validation split and saves it.
    """
    mesh = sharding.data_mesh()
    with Checkpoints(folder) as checkpoints:
        wanted = landmark_readout.added(abstract_variables(config.model), config)
        step, variables = checkpoints.restore_variables(which, wanted, mesh)
    predictor = evaluation.build_predictor(config, mesh)
    output = None
    if _predicts_scores(config):
        output = outputs.load(folder, step)
        if output is None:
            output = decoding(config, splits, facts)
            if config.output.fit != "none":
                found = evaluation.predict(predictor, variables, splits[VALIDATION], config, mesh, output)
                raw = found.raw.astype(np.float64)
                output = output.fitted(raw, found.target, found.subjects, config.output.fit)
            if sharding.is_first_process():
                output.save(folder, step)
    predictions = evaluation.predict(predictor, variables, splits[split], config, mesh, output)
    chosen = {BEST: "selected on validation subjects", LAST: "last epoch"}.get(which, "as requested")
    where = split if run.fold_of(folder) is None else f"{folder.absolute().name}, {split}"
    title = f"{where}, checkpoint of step {step} ({chosen})"
    report = evaluation.write_report(predictions, run.evaluation_folder(folder, split, which), config, title)
    return evaluation.format_report(report)


def _print(lines: Sequence[str]) -> None:
    if sharding.is_first_process():
        sys.stdout.write("\n".join(lines) + "\n")
