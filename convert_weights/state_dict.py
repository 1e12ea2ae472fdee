"""Finds the state dict in a checkpoint file, renames its tensors as released, and lists what else the file holds."""

import dataclasses
import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from convert_weights.kinds import recognise
from convert_weights.kinds.kind import Kind
from convert_weights.safe_globals import Placeholder, bad_file, printable
from tramp_jax.errors import UserError

_OPTIMISER = re.compile("optimi[sz]er|optim(_|$)|sched|scaler", re.IGNORECASE)  # in the key of a training state
_SAVE_STATE_DICT = "save only the model's state_dict with torch.save"
_WRAPPERS = ("module", "_orig_mod")  # added to names by DataParallel, DDP, AveragedModel; torch.compile
_ATTRIBUTES = ("model", "net", "network")  # under which a LightningModule or another trainer keeps its model
OUTSIDE, ON_PURPOSE = "tensor outside the state dict", "dropped on purpose"  # reasons of records
AVERAGE = "counter of averaged models, not read by the model"
_AVERAGED = "n_averaged"  # AveragedModel's count of the models in its average

Tensors = dict[str, np.ndarray]
Records = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class StateDict:
    """The tensors of a model."""

    tensors: dict[str, np.ndarray]  # by released name, in PyTorch's layout
    names: dict[str, str]  # each tensor's name in the file, by released name
    # How the file's names differ from the released ones: ``container`` ("" for none), ``prefix``, and the prefixes of
    # ``encoder`` and ``head``.
    naming: dict[str, str]


def find_state_dict(tree: object, container: str | None) -> tuple[str, Tensors, Records]:
    """Finds the one group of tensors with names of a known kind or, if there is none, the only group of tensors.

    Args:
      tree: the contents of a file.
      container: the place to look in, keys joined by dots; "" is the top level. None searches everywhere.

    Returns:
      The container, its tensors by the file's names, and a record of everything else: name, reason, and value or shape.

    Raises:
      UserError: no state dict, or several; one of its entries is not a tensor.
    """
    if not isinstance(tree, dict):
        raise bad_file(f"holds a {type(tree).__name__}, not a state dict", _SAVE_STATE_DICT)
    container, entries = _chosen(list(_groups(tree, "")), container)
    tensors = {name: x for name, x in entries.items() if isinstance(x, np.ndarray) and isinstance(name, str)}
    for name, value in entries.items():
        # At the top level, plain values beside the tensors are records of the training.
        if name not in tensors and (container or isinstance(value, Placeholder | np.ndarray)):
            what = f"'{printable(name)}' is {_described(name, value)}, not a tensor that can be read"
            raise bad_file(what, _SAVE_STATE_DICT)
    return container, tensors, list(_others(tree, "", entries))


_Group = tuple[str, dict[Any, Any]]


def _groups(node: object, place: str) -> Iterator[_Group]:
    """Every dictionary that holds tensors itself, with its place. Skips optimisers."""
    if isinstance(node, dict) and any(isinstance(value, np.ndarray) for value in node.values()):
        yield place, node
    for key, value in _items(node):
        if not _OPTIMISER.search(key):
            yield from _groups(value, _joined(place, key))


def _items(node: object) -> Iterator[tuple[str, object]]:
    """Contents of a dictionary, list or tuple. The reader has already limited their depth and number."""
    if isinstance(node, dict):
        yield from ((printable(key, 60), value) for key, value in node.items())
    elif isinstance(node, list | tuple):
        yield from ((str(i), value) for i, value in enumerate(node))


def _joined(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _chosen(groups: list[_Group], container: str | None) -> _Group:
    if container is not None:
        asked = [group for group in groups if group[0] == container]
        if len(asked) == 1:
            return asked[0]
        raise UserError(
            "bad_option", f"--container {container!r} is not one of its groups of tensors: {_listed(groups)}"
        )
    if not groups:
        raise bad_file("has tensors only in its optimiser or in lists, not in a state dict", _SAVE_STATE_DICT)
    known = [group for group in groups if recognise(_bare_names(group[1]))]
    if len(known) == 1:
        names = _bare_names(known[0][1])
        known = [group for group in groups if not names.isdisjoint(_bare_names(group[1]))]
    candidates = sorted(known or groups, key=lambda group: -len(group[1]))
    if len(candidates) > 1:
        what = f"holds {len(candidates)} groups of tensors that may be the state dict: {_listed(candidates)}"
        raise bad_file(what, f"choose one, such as --container '{candidates[0][0]}'")
    return candidates[0]


def _bare_names(entries: Mapping[Any, Any]) -> set[str]:
    names = [name for name, x in entries.items() if isinstance(x, np.ndarray) and isinstance(name, str)]
    prefix = shared_prefix(names)
    return {bare_name(name, prefix) for name in names}


def _listed(groups: Sequence[_Group]) -> str:
    shown = []
    for place, entries in groups[:8]:
        tensors = sum(isinstance(value, np.ndarray) for value in entries.values())
        shown.append(f"'{printable(place)}'{'' if place else ' (the top level)'} with {tensors}")
    return ", ".join(shown) + (f" and {len(groups) - 8} more" if len(groups) > 8 else "")


def _described(name: object, value: object) -> str:
    if not isinstance(name, str):
        return f"under a key of type {type(name).__name__}"
    return f"an object ({printable(value.name)})" if isinstance(value, Placeholder) else f"a {type(value).__name__}"


def _others(node: object, place: str, state_dict: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
    """Records of everything in a file except the tensors of its state dict."""
    for key, value in _items(node):
        inner = _joined(place, key)
        if _OPTIMISER.search(key) and isinstance(value, dict | list | tuple):
            tensors = [(at, x) for at, x in _leaves(value, inner) if isinstance(x, np.ndarray | Placeholder)]
            yield from (_record(at, x, "optimiser state") for at, x in tensors)
            if not tensors:
                yield {"source": inner, "reason": "optimiser state"}
        elif isinstance(value, dict | list | tuple):
            yield from _others(value, inner, state_dict)
        elif not (node is state_dict and isinstance(value, np.ndarray)):
            yield _record(inner, value, OUTSIDE)


def _leaves(node: object, place: str) -> Iterator[tuple[str, object]]:
    if not isinstance(node, dict | list | tuple):
        yield place, node
    for key, value in _items(node):
        yield from _leaves(value, _joined(place, key))


def _record(place: str, value: object, tensor_reason: str) -> dict[str, Any]:
    if isinstance(value, Placeholder):
        return {"source": place, "reason": f"object of a class that is not loaded ({printable(value.name)})"}
    if not isinstance(value, np.ndarray):
        return {"source": place, "reason": "training record", "value": _plain(value)}
    record = {"source": place, "reason": tensor_reason, "shape": list(value.shape)}
    return record | ({"value": _plain(value.flat[0])} if value.size == 1 else {})


def _plain(value: object) -> object:
    """A scalar that strict JSON can hold."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and np.isfinite(value)):
        return value
    if isinstance(value, int):  # such as a random seed, which may be an unsigned number of 64 bits
        return value if abs(value) <= np.iinfo(np.int64).max else printable(hex(value), 200)
    return printable(value, 200)


def shared_prefix(names: Sequence[str]) -> str:
    """The wrappers in front of every name, such as ``model.module.``; AveragedModel's counter is ignored."""
    modules = [name.split(".")[:-1] for name in names if name.split(".")[-1] != _AVERAGED]
    prefix = ""
    for first, *others in zip(*modules, strict=False):
        if first not in (*_WRAPPERS, *_ATTRIBUTES) or any(other != first for other in others):
            break
        prefix += f"{first}."
    return prefix


def bare_name(name: str, prefix: str) -> str:
    """A tensor's name without ``prefix`` (see ``shared_prefix``) and without the wrappers of modules inside it."""
    first, dot, inner = name.removeprefix(prefix).partition(".")
    return first + dot + ".".join(_unwrapped(inner))


def drop(tensors: Tensors, patterns: Sequence[str]) -> tuple[Tensors, Tensors, Records]:
    """Drops the tensors whose names match a pattern: (those kept, those dropped, a record of each dropped one).

    Patterns are those of ``fnmatch``. They match names in the file, with or without ``shared_prefix``.

    Raises:
      UserError: a pattern matches no tensor, or all tensors are dropped.
    """
    prefix = shared_prefix(list(tensors))
    reasons: dict[str, str] = {}
    for pattern in patterns:
        fits = re.compile(fnmatch.translate(pattern)).match
        found = [name for name in tensors if fits(name) or fits(name.removeprefix(prefix))]
        if not found:
            raise UserError("bad_option", f"--drop {pattern!r} matches none of its {len(tensors)} tensors; correct it")
        reasons |= dict.fromkeys(found, f"{ON_PURPOSE} (--drop {pattern!r})")
    kept = {name: x for name, x in tensors.items() if name not in reasons}
    if not kept:
        raise UserError("bad_option", f"--drop matches all of its {len(tensors)} tensors; keep some")
    dropped = {name: tensors[name] for name in reasons}
    return kept, dropped, [_record(name, tensors[name], reason) for name, reason in reasons.items()]


def without_counter(tensors: Tensors, prefix: str) -> tuple[Tensors, Records]:
    """The tensors without AveragedModel's counter, and a record of it. The counter stands beside ``module``."""
    places = {prefix[: match.start()] + _AVERAGED for match in re.finditer(r"module\.", prefix)}
    counters = {name: x for name, x in tensors.items() if name in places and x.dtype.kind in "iu" and x.size == 1}
    records = [_record(name, x, AVERAGE) for name, x in counters.items()]
    return {name: x for name, x in tensors.items() if name not in counters}, records


def released_names(container: str, prefix: str, tensors: Tensors, kind: Kind) -> StateDict:
    """Renames tensors, given by their names in the file, to the names of the kind's own release.

    Raises:
      UserError: two tensors have the same name without their wrappers.
    """
    tops = {bare_name(name, prefix).split(".")[0] for name in tensors}
    naming = {"container": container, "prefix": prefix} | kind.naming(tops)
    seen: dict[str, str] = {}
    for name in tensors:
        other = seen.setdefault(released_name(".".join(_unwrapped(name.removeprefix(prefix))), naming), name)
        if other != name:
            what = f"has two names for one tensor, '{printable(other)}' and '{printable(name)}'"
            raise bad_file(what, "drop one of them, and others like it, with --drop 'PATTERN'")
    names = {released_name(bare_name(name, prefix), naming): name for name in tensors}
    return StateDict({released: tensors[name] for released, name in names.items()}, names, naming)


def _unwrapped(name: str) -> list[str]:
    return [part for part in name.split(".") if part not in _WRAPPERS]


def released_name(name: str, naming: Mapping[str, str]) -> str:
    """A tensor's released name, from its name in the file without the prefix."""
    if naming["head"] and name.startswith(naming["head"]):
        return "head." + name.removeprefix(naming["head"])
    return name.removeprefix(naming["encoder"])


def file_name(name: str, naming: Mapping[str, str]) -> str:
    """The inverse of ``released_name``: a tensor's name in the class that wrote the file."""
    if naming["head"] and name.startswith("head."):
        return naming["head"] + name.removeprefix("head.")
    return naming["encoder"] + name
