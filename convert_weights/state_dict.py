"""Finds the state dict in a checkpoint file, brings it into the released names, and lists what else the file holds."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from convert_weights.kinds import KINDS
from convert_weights.kinds.kind import Kind
from convert_weights.safe_globals import Placeholder, bad_file, printable

_OPTIMISER = ("optimizer", "optimizer_state_dict", "optimizers", "scheduler", "lr_scheduler", "scaler")
_SAVE_STATE_DICT = "save only the model's state_dict with torch.save"


@dataclasses.dataclass(frozen=True)
class StateDict:
    """The tensors of a model.

    Attributes:
      tensors: by released name, PyTorch layout.
      names: the file's name of each, by released name.
      naming: how the file's names differ from the released ones: ``container`` ("" for none), ``prefix``, and the
        prefixes of ``encoder`` and ``head``.
    """

    tensors: dict[str, np.ndarray]
    names: dict[str, str]
    naming: dict[str, str]


def find_state_dict(tree: object) -> tuple[str, dict[str, np.ndarray], list[dict[str, Any]]]:
    """(container, tensors by the file's names, records of everything else: name, reason, and value or shape).

    Raises:
      UserError: no state dict or several; one of its entries is not a tensor; tensors outside it that are not those of
        an optimiser.
    """
    if not isinstance(tree, dict):
        raise bad_file(f"holds a {type(tree).__name__}, not a state dict", _SAVE_STATE_DICT)
    container = _container(tree)
    entries = tree[container] if container else tree
    dropped: list[dict[str, Any]] = []
    tensors = {}
    for name, value in entries.items():
        if isinstance(value, np.ndarray) and isinstance(name, str):
            tensors[name] = value
        elif container or isinstance(value, Placeholder):
            what = f"'{printable(name)}' is {_described(value)}, not a tensor that can be read"
            raise bad_file(what, _SAVE_STATE_DICT)
        else:
            dropped += _dropped(str(name), value)
    if container:
        for name, value in tree.items():
            if name != container:
                dropped += _dropped(str(name), value)
    return container, tensors, dropped


def _container(tree: Mapping[Any, Any]) -> str:
    """The key whose value is the state dict; "" if the tree is one itself."""
    known = [kind.container for kind in KINDS.values() if kind.container]  # a file may have that of another kind
    holders = [key for key in known if isinstance(tree.get(key), dict) and _arrays(tree[key])]
    if _arrays(tree):
        if holders:
            raise bad_file(f"holds tensors beside '{holders[0]}' and in it", _SAVE_STATE_DICT)
        return ""
    if len(holders) == 1:
        return holders[0]
    keys = ", ".join(printable(key, 30) for key in list(tree)[:8])
    if holders:
        raise bad_file(f"holds two state dicts ({keys})", _SAVE_STATE_DICT)
    places = " or ".join(f"'{key}'" for key in known)
    raise bad_file(f"is not a state dict and has none under {places} (it has: {keys})", _SAVE_STATE_DICT)


def _arrays(entries: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, np.ndarray) for value in entries.values())


def _described(value: object) -> str:
    return f"an object ({printable(value.name)})" if isinstance(value, Placeholder) else f"a {type(value).__name__}"


def _dropped(key: str, value: object) -> list[dict[str, Any]]:
    """Records of everything under a key outside the state dict. Only an optimiser may hold tensors there."""
    optimiser = key in _OPTIMISER
    records: list[dict[str, Any]] = []
    for place, leaf in _leaves(value, key):
        if isinstance(leaf, np.ndarray):
            if not optimiser:
                raise bad_file(f"holds tensors outside the state dict ('{printable(place)}')", _SAVE_STATE_DICT)
            records.append({"source": place, "reason": "optimiser state", "shape": list(leaf.shape)})
        elif isinstance(leaf, Placeholder):
            reason = f"object of a class that is not loaded ({printable(leaf.name)})"
            records.append({"source": place, "reason": reason})
        elif not optimiser:
            records.append({"source": place, "reason": "training record", "value": _plain(leaf)})
    if optimiser and not records:
        records.append({"source": key, "reason": "optimiser state"})
    return records


def _leaves(value: object, place: str) -> Iterator[tuple[str, object]]:
    """The leaves of dictionaries and lists, whose depth and number the reader has limited."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{place}.{printable(key, 60)}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{place}.{i}")
    else:
        yield place, value


def _plain(value: object) -> object:
    """A scalar fit for strict JSON."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and np.isfinite(value)):
        return value
    return printable(value, 200)


def without_module(tensors: Mapping[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray]]:
    """(prefix, tensors without it): DataParallel puts ``module.`` before every name."""
    if all(name.startswith("module.") for name in tensors):
        return "module.", {name.removeprefix("module."): x for name, x in tensors.items()}
    return "", dict(tensors)


def released_names(container: str, prefix: str, tensors: Mapping[str, np.ndarray], kind: Kind) -> StateDict:
    """The state dict in the names of the kind's own release; ``tensors`` are without ``prefix``."""
    naming = {"container": container, "prefix": prefix} | kind.naming({name.split(".")[0] for name in tensors})
    renamed = {released_name(name, naming): x for name, x in tensors.items()}
    if len(renamed) < len(tensors):
        raise bad_file(f"has two names for one tensor, with and without '{naming['encoder']}'", _SAVE_STATE_DICT)
    return StateDict(renamed, {released_name(name, naming): prefix + name for name in tensors}, naming)


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
