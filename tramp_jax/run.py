"""The folder of a run: its files, its folds and its configuration. Every other module gets its paths here.

RUN/config.json                         the configuration
RUN/skipped.json                        skipped clips, with data.skip_bad
RUN/split.json                          the subjects of each part, in every fold
RUN/cross_validation.json, .png         results over all folds, next to simple methods
RUN/baselines.json, .png                the same for a run without folds, with evaluation.baselines
RUN/fold_K/                             everything below, for each fold; in RUN itself without cross-validation
    data.json                           the data the model was trained on
    usual_motion.json                   how the faces of the training clips move
    initialisation.txt                  which weights were loaded or frozen
    metrics.jsonl, tensorboard/         measurements during training
    curves.png                          a plot of the loss and of the metric that chooses the best checkpoint
    checkpoints/{last,best}/STEP/       model and optimiser
    evaluation/SPLIT-CHECKPOINT/        metrics.json, predictions.csv and plots of a split
    output-STEP.json                    how a checkpoint's raw values become scores
    calibration.json                    widths of intervals, from ``tramp-jax calibrate``
"""

import datetime
import difflib
import hashlib
import json
import pathlib
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence

import jax
from ml_collections import ConfigDict

from tramp_jax import config as options
from tramp_jax import json_files, sharding
from tramp_jax.errors import UserError
from tramp_jax.files import locked_by, write_atomically

CONFIG, SKIPPED, SPLIT = "config.json", "skipped.json", "split.json"
BASELINES, BASELINES_PLOT = "baselines.json", "baselines.png"
CROSS_VALIDATION, CROSS_VALIDATION_PLOT = "cross_validation.json", "cross_validation.png"
DATA, INITIALISATION, USUAL_MOTION = "data.json", "initialisation.txt", "usual_motion.json"
MEASUREMENTS, TENSORBOARD, CURVES = "metrics.jsonl", "tensorboard", "curves.png"
CHECKPOINTS = "checkpoints"
METRICS, PREDICTIONS, SCATTER = "metrics.json", "predictions.csv", "scatter.png"
AGREEMENT = "agreement.png"

_MAX_RUNS = 5  # listed in a message
_FOLD = re.compile(r"fold_(\d+)")

# Options that may differ when a run is resumed, because data moves and machines differ.
_MAY_CHANGE = ("data.root", "train.reader_threads", "train.read_ahead_mb", "train.cache")


def fold_folder(run: pathlib.Path, fold: int | None) -> pathlib.Path:
    """The folder of a fold; the run's own if ``fold`` is None, without cross-validation."""
    return run if fold is None else run / f"fold_{fold}"


def fold_of(folder: pathlib.Path) -> int | None:
    """The fold that a folder belongs to; None for a whole run's folder."""
    name = _FOLD.fullmatch(folder.absolute().name)
    return int(name[1]) if name and not (folder / CONFIG).is_file() else None


def home(folder: pathlib.Path) -> pathlib.Path:
    """The folder of the run that ``folder`` (of the run or of a fold) belongs to."""
    return folder if fold_of(folder) is None else folder.absolute().parent


def resume_command(folder: pathlib.Path) -> str:
    """The command that continues the run that ``folder`` (of the run or of a fold) belongs to."""
    return f"python train.py --workdir {shlex.quote(str(home(folder)))} --resume"


def is_trained(folder: pathlib.Path) -> bool:
    """Whether the folder of a run or fold holds checkpoints."""
    return (folder / CHECKPOINTS).is_dir()


def trained_folds(run: pathlib.Path) -> list[pathlib.Path]:
    """The folders of a run's folds that hold checkpoints."""
    return sorted(folder for folder in run.glob("fold_*") if is_trained(folder))


def has_begun(run: pathlib.Path) -> bool:
    """Whether a run has checkpoints, in its own folder or in that of a fold."""
    return is_trained(run) or bool(trained_folds(run))


def warn_if_training(folders: Iterable[pathlib.Path]) -> None:
    """Warns of each run that a program is still training; ``folders`` are those of runs or folds."""
    for path in dict.fromkeys(map(home, folders)):
        if holder := locked_by(path):
            sys.stderr.write(f"warning: {path} is still in training ({holder}), so its checkpoints may change\n")


def models_in(folders: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """The folders of single models, with each run over several folds replaced by its trained folds."""
    parts = ([folder] if is_trained(folder) else trained_folds(folder) or [folder] for folder in folders)
    return [model for part in parts for model in part]


def evaluation_folder(folder: pathlib.Path, split: str, checkpoint: str) -> pathlib.Path:
    """The folder of the report on a split with a checkpoint ("best", "last" or a step)."""
    return folder / "evaluation" / f"{split}-{checkpoint}"


def output_file(folder: pathlib.Path, step: int) -> pathlib.Path:
    """The file that says how the checkpoint of ``step`` turns raw values into scores."""
    return folder / f"output-{step}.json"


def calibration_file(folder: pathlib.Path, models: Sequence[str]) -> pathlib.Path:
    """The calibration file of an ensemble, given by the ids ``models``, or of one model. ``folder`` is the first's."""
    if len(models) == 1:
        return folder / "calibration.json"
    return folder / f"calibration-{hashlib.sha256(' '.join(models).encode()).hexdigest()[:8]}.json"


def load_config(folder: pathlib.Path) -> ConfigDict:
    """The configuration of the run that ``folder`` (of the run or of a fold) belongs to.

    Options newer than the run get their defaults.

    Raises:
      UserError: not_a_run, damaged_file; bad_option for a value that this version does not know.
    """
    path = home(folder) / CONFIG
    if not path.is_file():
        inside = [str(file.parent) for file in sorted(path.parent.glob(f"*/{CONFIG}"))]
        such = f", such as {', '.join(inside[-_MAX_RUNS:])}" if inside else ""  # the latest, which are named by time
        raise UserError("not_a_run", f"{path}: no such file; name the folder of a run made by train.py{such}")
    cure = "restore it or train again"
    content = json_files.read(path, cure)
    try:
        return options.of_run(content).lock()
    except UserError as error:
        raise UserError(error.kind, f"{path}: {error}; {cure}") from error
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise UserError("damaged_file", f"{path}: damaged ({error}); {cure}") from error


def named(config: ConfigDict, folder: pathlib.Path | None, resume: bool) -> pathlib.Path:
    """The folder of a run: ``folder``, or a new one in ``runs/NAME`` if that is None.

    Raises:
      UserError: missing_option if the user must name the folder, to resume or for several processes.
    """
    if folder is not None:
        return folder
    if resume:
        raise UserError("missing_option", "--resume needs --workdir, the folder of the run to continue")
    if jax.process_count() > 1:
        raise UserError("missing_option", "several processes need one --workdir, a folder that all of them share")
    return pathlib.Path("runs") / config.name / datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")


def prepare(config: ConfigDict, folder: pathlib.Path, resume: bool, overwrite: bool) -> None:
    """Creates the folder of a run with its config.json, or checks the run to resume.

    Raises:
      UserError: file_exists if the folder has content and is neither to be resumed nor to be overwritten; not_a_run;
        changed_options, see ``check_same``.
    """
    if resume:
        check_same(folder, config)
        return
    if sharding.is_first_process():
        _create(folder, config, overwrite)
    sharding.wait_for_all("the folder of the run")


def check_complete(folder: pathlib.Path, folds: Sequence[int | None]) -> None:
    """Refuses a finished run if it was deleted, in whole or in part, while it trained.

    Raises:
      UserError: not_a_run.
    """
    parts = [fold_folder(folder, fold) for fold in folds]
    missing = [path for path in (folder / CONFIG, *(part / CHECKPOINTS for part in parts)) if not path.exists()]
    if missing:
        raise UserError("not_a_run", f"{missing[0]} was deleted while the run trained; train it again")


def _create(folder: pathlib.Path, config: ConfigDict, overwrite: bool) -> None:
    # Hidden files do not count: a killed process may have left one half-written.
    if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        if not overwrite:
            cure = "continue it with --resume, replace it with --overwrite, or name another"
            raise UserError("file_exists", f"{folder} exists; {cure}")
        if not _is_run(folder):
            cure = "so --overwrite does not delete it; name another"
            raise UserError("not_a_run", f"{folder} is not the folder of a run, {cure}")
        folder = folder.resolve()  # if it is a link, keep the link
        for path in filter(None, (config.data.root, config.init.all, config.init.rgb, config.init.trajectory)):
            if pathlib.Path(path).resolve().is_relative_to(folder):
                raise UserError(
                    "bad_option", f"{folder} holds {path}, which this run must read; name another --workdir"
                )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / CONFIG, config.to_json(indent=1) + "\n")


def _is_run(folder: pathlib.Path) -> bool:
    try:
        return {"model", "train"} <= json_files.read(folder / CONFIG, "").keys()
    except (OSError, UserError):
        return False


def check_same(
    folder: pathlib.Path,
    config: ConfigDict,
    cure: str = "to continue it as it was, give --workdir and --resume without --config",
) -> None:
    """Refuses to continue a run with options that would change its outcome. ``cure`` ends the message.

    Raises:
      UserError: not_a_run; changed_options, with the differences.
    """
    if not (folder / CONFIG).is_file():
        raise UserError("not_a_run", f"{folder}: holds no run to resume; start it without --resume")
    if changed := differences(folder, config):
        raise UserError(
            "changed_options",
            f"{folder} was started with another configuration (-), not this one (+):\n"
            + "\n".join(changed)
            + f"\n{cure}",
        )


def differences(folder: pathlib.Path, config: ConfigDict) -> list[str]:
    """Lines on how the configuration of a run (-) and another one (+) differ in what changes the outcome."""
    before, after = (_comparable(each) for each in (load_config(folder), config))
    return [line for line in difflib.ndiff(before, after) if line[0] in "+-"]


def _comparable(config: ConfigDict) -> list[str]:
    plain = ConfigDict(json.loads(config.to_json()))
    plain.update_from_flattened_dict(dict.fromkeys(_MAY_CHANGE))
    return plain.to_json(indent=1, sort_keys=True).splitlines()
