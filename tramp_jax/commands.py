"""What train.py and eval.py do with their flags: messages, exit codes, errors without a traceback."""

import ast
import contextlib
import difflib
import itertools
import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Sequence

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict

from tramp_jax import config as defaults
from tramp_jax import experiment, sharding, trainer

EXIT_ERROR, EXIT_INTERRUPTED = 1, 130
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "tramp_jax" / "compiled"


def run(main: Callable[[], None]) -> None:
    """Parses the flags and calls ``main``; errors that a user can mend end the program with their message alone."""

    def parse(arguments: Sequence[str]) -> Sequence[str]:
        # A misspelt key of a configuration is an AttributeError that names the closest one.
        with told(AttributeError, KeyError, TypeError):
            check_recipe(arguments)
            try:
                return flags.FLAGS(arguments)
            except flags.Error as error:
                raise ValueError(f"{_plain(str(error))}\nsee {arguments[0]} --help") from error

    def call(_: Sequence[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # libraries tell only of warnings
        keep_compiled()
        with told():
            main()

    app.run(call, flags_parser=parse)


def recipes() -> list[str]:
    """The recipes that are there to be named in ``--config``."""
    return sorted(str(path) for path in pathlib.Path("configs").glob("[!_]*.py"))


def _plain(message: str) -> str:
    """What absl says of a flag's value, without the words of the function that could not read it."""
    for words, kind in (
        (": invalid literal for int", "a whole number"),
        (": could not convert string to float", "a number"),
        (": ('Non-boolean argument", "True or False"),
    ):
        before, found, _ = message.partition(words)
        if found:
            return f"{before.removeprefix('flag ')}: this option takes {kind}"
    return message


def check_recipe(arguments: Sequence[str]) -> None:
    """Looks for the file of ``--config`` before it is run as a recipe: what absl says of a missing one helps nobody.

    Raises:
      ValueError: there is no such file, with those that are there; or the recipe takes no argument.
    """
    given = [text.removeprefix("--config=") for text in arguments if text.startswith("--config=")]
    given += [text for flag, text in itertools.pairwise(arguments) if flag == "--config"]
    for text in given:
        name, _, argument = text.partition(":")
        path = pathlib.Path(name)
        if path.is_file():
            if argument and not _takes_argument(path):
                raise ValueError(f"--config {text}: this recipe takes nothing after the colon; use --config {path}")
            continue
        there = recipes()
        close = difflib.get_close_matches(str(path), there, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(there) or 'none'}"
        raise ValueError(f"--config {path}: no such recipe; {hint}")


def _takes_argument(recipe: pathlib.Path) -> bool:
    try:
        parts = ast.parse(recipe.read_text()).body
    except (SyntaxError, ValueError):
        return True  # running it tells what is wrong
    return all(part.args.args for part in parts if isinstance(part, ast.FunctionDef) and part.name == "get_config")


def keep_compiled() -> None:
    """Keeps compiled programs on disk: folds, resumed runs, evaluations and later calls compile nothing twice."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))


def train(
    config: ConfigDict | None,
    workdir: pathlib.Path | None,
    resume: bool,
    overwrite: bool,
    given: Collection[str] = (),
) -> None:
    """Trains ``config``; a run that is resumed knows its own configuration, so that it may be None.

    ``given`` are the paths of options that the command line sets, see ``config.with_task``.
    """
    if config is None:
        if not (resume and workdir):
            raise experiment.RunError("--config is missing: name a recipe, such as --config configs/synthetic.py")
        config = experiment.load_config(workdir)
    else:
        config = defaults.with_task(config, given)
    plan = experiment.plan(config, workdir if resume else None)
    workdir = experiment.prepare_workdir(config, workdir, resume, overwrite)
    try:
        lines = experiment.train(config, plan, workdir, resume)
    except trainer.Interrupted as stopped:
        sys.stderr.write(f"{stopped}\ncontinue with: python train.py --workdir {shlex.quote(str(workdir))} --resume\n")
        sys.exit(EXIT_INTERRUPTED)
    _say([*lines, f"checkpoints, metrics and plots: {workdir}"])


def evaluate(workdir: pathlib.Path, checkpoint: str, split: str, data_root: str) -> None:
    """Scores ``split`` with a checkpoint of the run in ``workdir``."""
    _say(experiment.evaluate(workdir, checkpoint, split, data_root))


def _say(lines: list[str]) -> None:
    if sharding.is_first_process():
        sys.stdout.write("\n".join(lines) + "\n")


@contextlib.contextmanager
def told(*also: type[Exception]) -> Iterator[None]:
    """Turns errors that a user can mend (and ``also``) into a message on stderr and exit code 1."""
    mendable: tuple[type[Exception], ...] = (ValueError, OSError, trainer.TrainingError, *also)
    try:
        yield
    except mendable as error:
        cause: object = error
        while isinstance(cause, AttributeError | KeyError) and cause.args:  # ml_collections wraps its hint in both
            cause = cause.args[0]
        sys.stderr.write(f"error: {cause}\n")
        sys.exit(EXIT_ERROR)
    except KeyboardInterrupt:  # outside the steps of training, where there is nothing to save
        sys.stderr.write("interrupted\n")
        sys.exit(EXIT_INTERRUPTED)
