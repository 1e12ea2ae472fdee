"""Finds the files of a data set, and says how to get them if they are missing."""

from pathlib import Path

from tramp_jax.data import tables
from tramp_jax.data.problems import Problems
from tramp_jax.data.source import Wanted
from tramp_jax.errors import UserError


def check_wanted(name: str, wanted: Wanted) -> None:
    """Refuses to read data set ``name``, which holds only landmarks, without them.

    Raises:
      UserError: bad_option.
    """
    if not wanted.landmarks:
        raise UserError("bad_option", f"data set {name} holds only landmarks, so it cannot be read without them")


def root_folder(root: str | Path, how_to_get: str) -> Path:
    """The folder of the data set.

    Raises:
      UserError: missing_file, with what to get and where to put it.
    """
    path = Path(root).expanduser()
    if not str(root) or not path.is_dir():
        raise UserError("missing_file", f"{str(root)!r} (data.root): no such folder.\n{how_to_get}")
    return path


def part_folder(root: Path, given: str, name: str, option: str, cure: str, problems: Problems) -> Path:
    """The folder of one part of the data set: ``given``, or else ``root``/``name``.

    Args:
      root: the data set's folder.
      given: the option's value.
      name: the folder's usual name in ``root``.
      option: the option that names another folder.
      cure: ends the message.
      problems: takes missing_folder.
    """
    path = Path(given).expanduser() if given else root / name
    if not path.is_dir():
        message = f"{path}: no such folder; name another with --config.data.{option}=FOLDER, or {cure}"
        problems.add("missing_folder", message)
    return path


def list_file(
    root: Path, given: str, names: tuple[str, ...], option: str, cure: str, problems: Problems
) -> Path | None:
    """A list of the data set: ``given``, or else the one in ``root`` with one of ``names``; see ``tables.find``.

    Args:
      root: the data set's folder.
      given: the option's value.
      names: the list's usual names in ``root``.
      option: the option that names another file.
      cure: ends the message.
      problems: takes missing_list; the result is then None.
    """
    path = Path(given).expanduser() if given else tables.find(root, names, option, problems)
    if path is not None and path.is_file():
        return path
    what = f"{given}: no such file" if given else f"{root}: has no {' or '.join(names)}"
    problems.add("missing_list", f"{what}; name another with --config.data.{option}=FILE, or {cure}")
    return None
