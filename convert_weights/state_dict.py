"""From the tree in a checkpoint file to one state dict in the released names; what else is in the file is listed."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from convert_weights.safe_globals import FormatError, Placeholder, shown

CONTAINERS = ("state_dict", "model")  # of Former-DFER; of SkateFormer_256 and of a trained TraMP-Former
_OPTIMISER = ("optimizer", "optimizer_state_dict", "optimizers", "scheduler", "lr_scheduler", "scaler")
_GIVE_STATE_DICT = "save the model's state_dict alone with torch.save"


@dataclasses.dataclass(frozen=True)
class StateDict:
    """The tensors of a model.

    Attributes:
      tensors: by released name, PyTorch layout.
      names: what each is called in the file, by released name.
      naming: how the file's names differ from the released ones: ``container`` ("" for none), ``prefix``,
        ``encoder`` and ``head`` (the latter two of the kind "skateformer").
      dropped: records of what else the file holds: name, reason, and value or shape.
    """

    tensors: dict[str, np.ndarray]
    names: dict[str, str]
    naming: dict[str, str]
    dropped: list[dict[str, Any]]


def find_state_dict(tree: object) -> tuple[str, dict[str, np.ndarray], list[dict[str, Any]]]:
    """(container, tensors by the file's names, records of the rest).

    Raises:
      FormatError: no state dict, or several; an entry of it is not a tensor; tensors elsewhere that no rule drops.
    """
    if not isinstance(tree, dict):
        raise FormatError(f"holds a {type(tree).__name__}, not a state dict", _GIVE_STATE_DICT)
    container = _container(tree)
    entries = tree[container] if container else tree
    dropped: list[dict[str, Any]] = []
    tensors = {}
    for name, value in entries.items():
        if isinstance(value, np.ndarray) and isinstance(name, str):
            tensors[name] = value
        elif container or isinstance(value, Placeholder):
            raise FormatError(
                f"'{shown(name)}' is {_described(value)}, not a tensor that can be read", _GIVE_STATE_DICT
            )
        else:
            dropped += _dropped(str(name), value)
    if container:
        for name, value in tree.items():
            if name != container:
                dropped += _dropped(str(name), value)
    return container, tensors, dropped


def _container(tree: Mapping[Any, Any]) -> str:
    """The key whose value is the state dict; "" where the tree is one itself."""
    holders = [key for key in CONTAINERS if isinstance(tree.get(key), dict) and _arrays(tree[key])]
    if _arrays(tree):
        if holders:
            raise FormatError(f"holds tensors beside '{holders[0]}' and in it", _GIVE_STATE_DICT)
        return ""
    if len(holders) == 1:
        return holders[0]
    keys = ", ".join(shown(key, 30) for key in list(tree)[:8])
    if holders:
        raise FormatError(f"holds two state dicts ({keys})", _GIVE_STATE_DICT)
    raise FormatError(f"has no state dict, nor one under 'state_dict' or 'model' (it has: {keys})", _GIVE_STATE_DICT)


def _arrays(entries: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, np.ndarray) for value in entries.values())


def _described(value: object) -> str:
    return f"an object ({shown(value.name)})" if isinstance(value, Placeholder) else f"a {type(value).__name__}"


def _dropped(key: str, value: object) -> list[dict[str, Any]]:
    """Records of all that is under a key besides the state dict. Tensors may be there of an optimiser alone."""
    optimiser = key in _OPTIMISER
    records: list[dict[str, Any]] = []
    for place, leaf in _leaves(value, key):
        if isinstance(leaf, np.ndarray):
            if not optimiser:
                raise FormatError(f"holds tensors outside the state dict ('{shown(place)}')", _GIVE_STATE_DICT)
            records.append({"source": place, "reason": "optimiser state", "shape": list(leaf.shape)})
        elif isinstance(leaf, Placeholder):
            records.append({"source": place, "reason": f"object of a class that is not loaded ({shown(leaf.name)})"})
        elif not optimiser:
            records.append({"source": place, "reason": "training record", "value": _plain(leaf)})
    if optimiser and not records:
        records.append({"source": key, "reason": "optimiser state"})
    return records


def _leaves(value: object, place: str) -> Iterator[tuple[str, object]]:
    """Leaves of dictionaries and lists, which the reader has limited in depth and number."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{place}.{shown(key, 60)}")
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
    return shown(value, 200)


def without_module(tensors: Mapping[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray]]:
    """(prefix, tensors without it): DataParallel puts ``module.`` before every name."""
    if all(name.startswith("module.") for name in tensors):
        return "module.", {name.removeprefix("module."): x for name, x in tensors.items()}
    return "", dict(tensors)


def released_names(container: str, prefix: str, tensors: Mapping[str, np.ndarray], kind: str) -> StateDict:
    """Brings the names of a pre-trained trajectory encoder into those of the encoder's own release.

    Args:
      tensors: without ``prefix``.
      kind: see ``architecture.KINDS``; the names of the other kinds are the released ones already.
    """
    naming = {"container": container, "prefix": prefix, "encoder": "", "head": ""}
    if kind == "skateformer":
        tops = {name.split(".")[0] for name in tensors}
        naming["encoder"] = "encoder." if "encoder" in tops and "stages" not in tops else ""
        naming["head"] = "evaluator.head." if "evaluator" in tops and "head" not in tops else "head."
    renamed = {_released(name, naming): x for name, x in tensors.items()}
    if len(renamed) < len(tensors):
        raise FormatError("has two names for one tensor, with and without 'encoder.'", _GIVE_STATE_DICT)
    names = {_released(name, naming): prefix + name for name in tensors}
    return StateDict(renamed, names, naming, [])


def _released(name: str, naming: Mapping[str, str]) -> str:
    if naming["head"] and name.startswith(naming["head"]):
        return "head." + name.removeprefix(naming["head"])
    return name.removeprefix(naming["encoder"])


def file_name(name: str, naming: Mapping[str, str]) -> str:
    """The inverse of the renaming, without the prefix: what the class that wrote the file calls a tensor."""
    if naming["head"] and name.startswith("head."):
        return naming["head"] + name.removeprefix("head.")
    return naming["encoder"] + name
