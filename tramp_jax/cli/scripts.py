"""What train.py and eval.py share: parsing flags, finding the recipe, logging and the cache of compiled programs."""

import ast
import contextlib
import difflib
import itertools
import os
import pathlib
import re
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import app, flags, logging
from etils import epath

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
        keep_compiled()
        with exit_codes():
            main()

    app.run(call, flags_parser=parse)


def keep_compiled() -> None:
    """Keeps compiled programs on disk, so folds, resumed runs and later commands compile nothing twice."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))
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
        return flags.FLAGS(arguments)
    except flags.Error as error:
        raise UserError("bad_option", f"{plain_message(str(error))}\nsee {arguments[0]} --help") from error
    except (AttributeError, KeyError, TypeError) as error:
        # ml_collections raises these for an unknown option. A bug in the recipe keeps its traceback.
        frames = traceback.extract_tb(error.__traceback__)
        if recipe and any(pathlib.Path(frame.filename).resolve() == recipe.resolve() for frame in frames):
            raise
        options.check_names(match[1] for text in arguments if (match := re.match(r"--config\.([^=]+)", text)))
        raise UserError("unknown_option", f"no such option: {'; '.join(_innermost(error).splitlines())}") from error


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
