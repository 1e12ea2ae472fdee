"""Writes JSON files, and reads those that anyone may have edited or damaged.

Every fault becomes an error that names the file and ends with ``cure``: what the user can do about it.
"""

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tramp_jax.errors import UserError
from tramp_jax.files import write_atomically

MAX_BYTES = 64 << 20  # the manifest of 16,000 packed clips has 5 MB
_MAX_INTEGER = 2**63

_Record = TypeVar("_Record")


def write(path: Path, content: Any) -> None:
    """Writes or replaces a JSON file with a dataclass, or with what JSON can hold; see ``write_atomically``."""
    text = json.dumps(content, default=dataclasses.asdict, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode("utf-8", "backslashreplace"))  # a lone surrogate becomes its escape in JSON


def read(path: Path, cure: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      UserError: damaged_file; oversized_file.
      FileNotFoundError: there is no such file.
    """
    if path.exists() and not path.is_file():  # reading a pipe would hang
        raise UserError("damaged_file", f"{path}: not a file; {cure}")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise UserError("oversized_file", f"{path}: has {size >> 20} MB, more than {MAX_BYTES >> 20}; {cure}")
    return parse(path.read_bytes(), str(path), cure)


def parse(text: str | bytes, name: str, cure: str) -> dict[str, Any]:
    """The object in the text of a JSON file called ``name``. Integers must fit into 64 bits.

    Raises:
      UserError: damaged_file.
    """
    try:
        content = json.loads(text, parse_int=_integer)
        if not isinstance(content, dict):
            raise ValueError("not a JSON object {...}")
    except (ValueError, RecursionError) as error:
        raise UserError("damaged_file", f"{name}: damaged, not the JSON expected ({error}); {cure}") from error
    return content


def _integer(text: str) -> int:
    if len(text) > 20 or abs(int(text)) >= _MAX_INTEGER:
        raise ValueError(f"the number {text[:20]}... is too large")
    return int(text)


def record(kind: type[_Record], content: object) -> _Record:
    """Rebuilds a dataclass from what JSON makes of its ``dataclasses.asdict``.

    Fields must have their declared types, and numbers must be finite.

    Raises:
      TypeError, ValueError: a field is missing, unknown, or of the wrong type or length.
    """
    if not isinstance(content, dict):
        raise TypeError(f"{content!r:.60} is not an object with the fields of {kind.__name__}")
    types_of = _types(typing.cast(Any, kind))
    if unknown := content.keys() - types_of.keys():
        raise TypeError(f"unknown field {min(unknown)!r:.60}")
    return kind(**{name: _checked(name, value, types_of[name]) for name, value in content.items()})


def checked_record(
    kind: type[_Record], content: object, name: object, cure: str, sound: Callable[[_Record], bool] = lambda _: True
) -> _Record:
    """Like ``record``, for the content of the JSON file ``name``. ``sound`` says whether fields agree.

    Raises:
      UserError: damaged_file.
    """
    try:
        found = record(kind, content)
        if not sound(found):
            raise ValueError("its numbers contradict each other")
    except (TypeError, ValueError) as error:
        raise UserError("damaged_file", f"{name}: damaged ({error}); {cure}") from error
    return found


def read_record(
    kind: type[_Record], path: Path, cure: str, sound: Callable[[_Record], bool] = lambda _: True
) -> _Record | None:
    """The dataclass in a JSON file, see ``checked_record``; None if there is no such file."""
    return checked_record(kind, read(path, cure), path, cure, sound) if path.is_file() else None


@functools.cache
def _types(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _checked(name: str, value: Any, kind: Any) -> Any:
    """The value of field ``name`` as its declared type ``kind``. In JSON, tuples and sets are lists."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _checked(name, value, inner[0])
    if dataclasses.is_dataclass(kind):
        return record(typing.cast(type, kind), value)
    if origin in (tuple, frozenset) and isinstance(value, list):
        if origin is tuple and inner[-1] is not Ellipsis:
            return tuple(_checked(name, each, of) for each, of in zip(value, inner, strict=True))
        return origin(_checked(name, each, inner[0]) for each in value)
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {key: _checked(name, each, inner[1]) for key, each in value.items()}
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return value
    if kind is Any or (type(value) is kind and kind is not float):
        return value
    raise TypeError(f"{name} is {value!r:.60}, not {getattr(kind, '__name__', kind)}")
