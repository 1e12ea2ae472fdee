"""Finds the files of a data set, and says how to get them if they are missing."""

from pathlib import Path
from typing import Any

from tramp_jax.data.problems import Problems
from tramp_jax.data.source import Wanted
from tramp_jax.errors import UserError

_RELATIVE = (
    "If a run gave this path, it is relative to where training was started: work there, or name the data with "
    "--data-root (calibrate), --data_root (eval.py), or the run's --config and --config.data.root (train.py --resume)"
)


def check_wanted(name: str, wanted: Wanted) -> None:
    """Raises UserError (bad_option) if data set ``name``, which holds only landmarks, is to be read without them."""
    if not wanted.landmarks:
        raise UserError("bad_option", f"data set {name} holds only landmarks, so it cannot be read without them")


def root_folder(root: str | Path, how_to_get: str) -> Path:
    """The folder of the data set. Without it, raises UserError (missing_file), which says what to get and where."""
    path = Path(root).expanduser()
    if not str(root) or not path.is_dir():
        where = "" if path.is_absolute() or not str(root) else f" in {Path.cwd()}. {_RELATIVE}"
        raise UserError("missing_file", f"{str(root)!r} (data.root): no such folder{where}.\n{how_to_get}")
    return path


def part_folder(root: Path, options: Any, option: str, name: str, cure: str, problems: Problems) -> Path:
    """The folder of one part of the data set: the one that ``option`` names, or else ``root``/``name``.

    ``problems`` takes missing_folder, with a message that ends with ``cure``.
    """
    given = getattr(options, option)
    path = Path(given).expanduser() if given else root / name
    if not path.is_dir():
        message = f"{path}: no such folder; name another with --config.data.{option}=FOLDER, or {cure}"
        problems.add("missing_folder", message)
    return path


def list_file(
    root: Path, options: Any, option: str, names: tuple[str, ...], cure: str, problems: Problems
) -> Path | None:
    """A list of the data set: the file that ``option`` names, or else the one in ``root`` with one of ``names``.

    For a name such as clips.csv, the workbook clips.xlsx also counts. ``problems`` takes missing_list, with a
    message that ends with ``cure``; the result is then None. It takes ambiguous_list if there are several; the result
    is then the first.
    """
    if given := getattr(options, option):
        paths = [Path(given).expanduser()]
    else:
        paths = [root / each for name in names for each in dict.fromkeys((name, name.replace(".csv", ".xlsx")))]
    found = [path for path in paths if path.is_file()]
    if len(found) > 1:
        message = f"{root}: both {found[0].name} and {found[1].name} exist; remove one, or choose with "
        problems.add("ambiguous_list", f"{message}--config.data.{option}=FILE")
    if not found:
        what = f"{given}: no such file" if given else f"{root}: has no {' or '.join(names)}"
        problems.add("missing_list", f"{what}; name another with --config.data.{option}=FILE, or {cure}")
    return found[0] if found else None
