"""What train.py and eval.py do with their flags: messages, exit codes, errors without a traceback."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator

from absl import flags, logging
from ml_collections import ConfigDict
from tqdm import tqdm

from tramp_jax import experiment, trainer

EXIT_ERROR, EXIT_INTERRUPTED = 1, 130


def train(config: ConfigDict | None, workdir: pathlib.Path | None, resume: bool, overwrite: bool) -> None:
    """Trains ``config``; a run that is resumed knows its own configuration, so that it may be None."""
    with _told():
        if config is None:
            if not (resume and workdir):
                raise experiment.RunError("--config is missing: name a recipe, such as --config configs/synthetic.py")
            config = experiment.load_config(workdir)
        workdir = experiment.prepare_workdir(config, workdir, resume, overwrite)
        try:
            lines = experiment.train(config, workdir, resume)
        except trainer.Interrupted as stopped:
            tqdm.write(f"{stopped}\ncontinue with: python train.py --workdir {workdir} --resume", file=sys.stderr)
            sys.exit(EXIT_INTERRUPTED)
        _say([*lines, f"checkpoints, metrics and plots: {workdir}"])


def evaluate(workdir: pathlib.Path, checkpoint: str, split: str, data_root: str) -> None:
    """Scores ``split`` with a checkpoint of the run in ``workdir``."""
    with _told():
        _say(experiment.evaluate(workdir, checkpoint, split, data_root))


def _say(lines: list[str]) -> None:
    tqdm.write("\n".join(lines))


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Errors that a user can mend end the program with their message alone; libraries tell only of warnings."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    try:
        yield
    except (ValueError, FileNotFoundError, NotADirectoryError, trainer.TrainingError) as error:
        tqdm.write(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_ERROR)
