"""What train.py and eval.py share: parsing flags, finding the recipe, logging and the cache of compiled programs."""

import ast
import contextlib
import difflib
import gc
import itertools
import os
import pathlib
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import app, flags, logging
from etils import epath
from ml_collections import ConfigDict, config_flags

from tramp_jax import config as options
from tramp_jax.cli.exit_codes import exit_codes
from tramp_jax.errors import UserError

CACHE = pathlib.Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "tramp_jax" / "compiled"


def run(main: Callable[[], None]) -> None:
    """Parses the flags and calls ``main``."""

    def parse(arguments: Sequence[str]) -> Sequence[str]:
        with exit_codes():
            return parse_flags(arguments)

    def call(_: Sequence[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # only libraries log
        quick_start()
        with exit_codes():
            main()

    app.run(call, flags_parser=parse)


def quick_start() -> None:
    """Makes programs start faster: keeps what they compile on disk, and collects garbage less often."""
    gc.set_threshold(10_000)  # tracing makes millions of lasting objects, which every collection would search
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:  # the default, 1 s, would skip several
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    try:
        from jax._src import compilation_cache
    except ImportError:  # it is private and may move; without it, JAX only warns about a damaged program
        return
    read = getattr(compilation_cache, "get_executable_and_time", None)
    if read is not None and not isinstance(read, _RepairingReader):
        setattr(compilation_cache, read.__name__, _RepairingReader(read))


class _RepairingReader:
    """Reads compiled programs, and deletes any that cannot be read, so that JAX compiles and writes it again.

    A kill or a full disk can cut such a file short. By itself, JAX would warn at every start and never replace it.
    """

    def __init__(self, read: Callable[..., Any]):
        self._read = read

    def __call__(self, key: str, *arguments: Any) -> Any:
        try:
            return self._read(key, *arguments)
        except Exception:
            folder = jax.config.values["jax_compilation_cache_dir"]
            with contextlib.suppress(OSError):
                (epath.Path(folder) / f"{key}-cache").unlink(missing_ok=True)
            return None, None


def parse_flags(arguments: Sequence[str]) -> Sequence[str]:
    """Parses the command line, including the recipe of ``--config`` and its options.

    Raises:
      UserError: unknown_option, bad_option, or an error of ``check_recipe``.
    """
    recipe = check_recipe(arguments)
    try:
        rest = flags.FLAGS(arguments)
    except flags.UnrecognizedFlagError as error:
        if recipe is None and error.flagname.startswith("config."):
            raise UserError("bad_option", f"--{error.flagname} changes a recipe; name it with --config, too") from error
        raise UserError("unknown_option", f"{error}\nsee {arguments[0]} --help") from error
    except flags.Error as error:
        raise UserError("bad_option", f"{plain_message(str(error))}\nsee {arguments[0]} --help") from error
    except (AttributeError, KeyError, TypeError) as error:
        # ml_collections raises these for an unknown option. A bug in the recipe keeps its traceback.
        frames = traceback.extract_tb(error.__traceback__)
        if recipe and any(pathlib.Path(frame.filename).resolve() == recipe.resolve() for frame in frames):
            raise
        options.check_names(match[1] for text in arguments if (match := re.match(r"--config\.([^=]+)", text)))
        raise UserError("unknown_option", f"no such option: {'; '.join(_innermost(error).splitlines())}") from error
    if rest[1:]:
        raise UserError("bad_option", f"{rest[1]!r} is not an option, which begins with --; see {arguments[0]} --help")
    return rest


def _innermost(error: object) -> str:
    """The text of the innermost error; ml_collections wraps errors in others."""
    while isinstance(error, AttributeError | KeyError) and error.args:
        error = error.args[0]
    return str(error)


def plain_message(message: str) -> str:
    """Rewrites absl's message about a flag's value in plain words."""
    for words, kind in (
        (": invalid literal for int", "a whole number"),
        (": could not convert string to float", "a number"),
        (": ('Non-boolean argument", "True or False"),
        (": Failed to parse", "a group of options; each has its own flag"),
    ):
        before, found, _ = message.partition(words)
        if found:
            return f"{before.removeprefix('flag ')}: this option takes {kind}"
    before, found, _ = message.partition("=None: Flag")  # of a required option
    if found:
        return f"{before.removeprefix('flag ')} is missing"
    return message


def recipes() -> list[str]:
    """The recipes in the working directory."""
    return sorted(str(path) for path in pathlib.Path("configs").glob("[!_]*.py"))


def check_recipe(arguments: Sequence[str]) -> pathlib.Path | None:
    """Finds the file of ``--config`` before it runs; returns it, or None without ``--config``.

    Raises:
      UserError: missing_recipe, naming the closest one; or bad_option if the recipe takes no arguments.
    """
    given = [text.removeprefix("--config=") for text in arguments if text.startswith("--config=")]
    given += [text for flag, text in itertools.pairwise(arguments) if flag == "--config"]
    if not given:
        return None
    name, _, argument = given[-1].partition(":")
    path = pathlib.Path(name)
    if not path.is_file():
        known = recipes()
        close = difflib.get_close_matches(str(path), known, n=1)
        hint = (
            f"did you mean {close[0]}?" if close else f"known here: {', '.join(known) or 'none; run this in the clone'}"
        )
        raise UserError("missing_recipe", f"--config {path}: no such recipe; {hint}")
    if argument and not _takes_argument(path):
        raise UserError("bad_option", f"--config {given[-1]}: this recipe takes no arguments; use --config {path}")
    return path


def _takes_argument(recipe: pathlib.Path) -> bool:
    try:
        parts = ast.parse(recipe.read_text()).body
    except (SyntaxError, ValueError):
        return True  # running it shows the error
    return all(part.args.args for part in parts if isinstance(part, ast.FunctionDef) and part.name == "get_config")


def chosen(flag: flags.Flag, resumed: pathlib.Path | None) -> ConfigDict | None:
    """The configuration that ``--config`` names. If its recipe has two sizes, the number of people decides.

    Such a recipe declares ``SIZES`` and takes either as an argument, like configs/folder.py. Options on the command
    line override this choice. A run to resume, in the folder ``resumed``, stays what it is.

    Raises:
      UserError: no_frames, or the data cannot be opened.
    """
    from tramp_jax import run

    published = flag.value
    if published is None:
        return None
    path, _, argument = config_flags.get_config_filename(flag).partition(":")
    recipe = runpy.run_path(path)
    if "SIZES" not in recipe or not set(re.split(r"\W+", argument.lower())).isdisjoint(recipe["SIZES"]):
        return published
    argument += "," * bool(argument)

    def for_few(folds: int) -> ConfigDict:
        config = recipe["get_config"](argument + options.FEW)
        config.data.num_folds = config.data.num_folds or folds
        config.update_from_flattened_dict(config_flags.get_override_values(flag))
        return config

    few, in_folds = for_few(0), for_few(options.FEW_FOLDS)
    if resumed:  # the list may have changed since
        return min((published, few, in_folds), key=lambda config: len(run.differences(resumed, config)))
    return _by_people(published, few, in_folds, f"--config {path}:{argument}")


def _by_people(published: ConfigDict, few: ConfigDict, in_folds: ConfigDict, flag: str) -> ConfigDict:
    """Chooses by the number of people with ratings, and prints why; ``flag`` and a size force that size."""
    from tramp_jax import sharding
    from tramp_jax.data import datasets
    from tramp_jax.data.problems import Problems

    def opened(frames: bool) -> datasets.Dataset:
        return datasets.open_dataset(published, datasets.Wanted(frames, pixels=False), Problems(collect=True))

    dataset, expression = opened(frames=False), published.data.expression
    people = len({info.subject for info in dataset.source.infos if expression in ("", info.expression)})
    if not people:
        return published  # training says what is wrong with the list
    config, what = published, "the published model"
    other = f"the recipe for few people, which reads landmarks only, take {flag}{options.FEW}"
    why = f"{people} people, {'fewer than' if people < options.FEW_BELOW else 'at least'} {options.FEW_BELOW}"
    if options.has_weights(few) or options.reads_frames(few.model) or few.loss.landmarks:
        why = "the given options need weights or frames"
    elif people < options.FEW_BELOW:
        config, what, other = few, "the recipe for few people", f"the published model, take {flag}{options.PUBLISHED}"
        if datasets.runs(dataset, in_folds) != (None,):  # the list has no split of its own
            config, what = in_folds, f"{what}, with {in_folds.data.num_folds}-fold cross-validation"
    if sharding.is_first_process():
        sys.stdout.write(f"{why}: {what}; for {other}\n")
    if config is published and options.reads_frames(config.model):
        _, clip = opened(frames=True).source.check(0)
        if clip and not len(() if clip.frames is None else clip.frames):
            raise UserError("no_frames", f"clip {clip.info.id} has no frames, but {what} reads them; for {other}")
    return config
