"""Loads weights from any source into this project's variables: a PyTorch file, a converted folder, a training run."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from convert_weights import reader, store
from convert_weights.architecture import KINDS, Architecture, read_architecture, recognise
from convert_weights.convert import Conversion, MismatchError, Variables, convert, nested
from convert_weights.safe_globals import FormatError, shown
from convert_weights.state_dict import StateDict, find_state_dict, released_names, without_module


@dataclasses.dataclass(frozen=True)
class LoadedCheckpoint:
    """Weights and what is known of them.

    Attributes:
      kind: "former_dfer", "skateformer" or "tramp_former".
      variables: ``{"params": …, "batch_stats": …}`` of float32 NumPy arrays; what ``report["fresh"]`` lists is absent.
      model_config: the ``model`` group that they fit, see ``tramp_jax.config.model``.
      report: what conversion.json holds, see docs/weights.md.
    """

    kind: str
    variables: Variables
    model_config: ConfigDict
    report: dict[str, Any]


def load_checkpoint(
    path: str | os.PathLike[str],
    kind: str = "auto",
    *,
    length: int | None = None,
    fresh: Sequence[str] = (),
    checkpoint: str = "",
) -> LoadedCheckpoint:
    """Loads weights. Nothing in a file is run, and PyTorch is not needed.

    Args:
      path: a .pth, .pt or .safetensors file; a folder that ``python -m convert_weights`` has written; or the folder
        of a training run.
      kind: of a file: "auto" recognises it from the names (REFERENCE.md section 9).
      length: T, where the tables of a file do not tell it (all of TraMP-Former have the size for T = 256).
      fresh: patterns of parameters that a file need not have, e.g. ``params/head`` for an encoder without a head.
      checkpoint: of a run: "best", "last" or a step; by default the best, or the last where there is no best.

    Raises:
      reader.CheckpointError: one line: the file, what is wrong, what to do.
      MismatchError: tensors and parameters do not correspond; both lists.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return LoadedCheckpoint(*store.load_folder(path, checkpoint))
    if kind != "auto" and kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; known: auto, {', '.join(KINDS)}")
    content = reader.read(path)
    try:
        container, tensors, rest = find_state_dict(content.tree)
        prefix, tensors = without_module(tensors)
        recognised = recognise(tensors)
        kind = _kind(kind, recognised, tensors)
        found = released_names(container, prefix, tensors, kind)
        shapes = {name: x.shape for name, x in found.tensors.items()}
        architecture = read_architecture(kind, shapes, length)
        conversion = convert(found.tensors, architecture.config, fresh, found.names)
    except MismatchError as error:
        raise MismatchError(f"{path}: read as {kind}, {error}{_other_kind(kind, recognised)}") from None
    except ValueError as error:  # FormatError, or what the model says of options that contradict each other
        cure = "" if isinstance(error, FormatError) else "; its shapes describe no model that can be built"
        raise reader.CheckpointError(f"{path}: {error}{cure}") from error
    report = _report(path, content, architecture, found, conversion, rest)
    return LoadedCheckpoint(kind, nested(conversion.flat), architecture.config, report)


def _kind(kind: str, recognised: str | None, tensors: dict[str, np.ndarray]) -> str:
    if kind != "auto":
        return kind
    if recognised is None:
        some = ", ".join(f"{shown(name, 60)} {x.shape}" for name, x in list(tensors.items())[:3])
        raise FormatError(
            f"its {len(tensors)} tensors ({some}, …) are of another architecture; known: {', '.join(KINDS)}",
            "give a file of one of these, or name its kind with --kind to see what does not fit",
        )
    return recognised


def _other_kind(kind: str, recognised: str | None) -> str:
    return f"\nits names look like {recognised}: leave out --kind" if recognised not in (kind, None) else ""


def _report(
    path: pathlib.Path,
    content: reader.Checkpoint,
    architecture: Architecture,
    found: StateDict,
    conversion: Conversion,
    rest: list[dict[str, Any]],
) -> dict[str, Any]:
    """All that is known of a conversion, as plain data for JSON."""
    tensors = [
        {
            "source": found.names[name],
            "target": "/".join(rule.target),
            "transform": rule.transform,
            "shape": list(found.tensors[name].shape),
            "dtype": str(found.tensors[name].dtype),
        }
        for name, rule in conversion.used.items()
    ]
    buffers = [
        {"source": found.names[name], "dtype": str(found.tensors[name].dtype), "shape": list(found.tensors[name].shape)}
        | record
        for name, record in conversion.dropped.items()
    ]
    return {
        "format": store.FORMAT,
        "source": {"file": path.name, "sha256": content.sha256},
        "kind": architecture.config.name,
        "naming": found.naming,
        "architecture": architecture.read,
        "assumed": architecture.assumed,
        "tensors": tensors,
        "dropped": buffers + rest,
        "fresh": ["/".join(target) for target in conversion.fresh],
        "warnings": _warnings(found, conversion, content),
        "model_config": architecture.config.to_dict(),
    }


def _warnings(found: StateDict, conversion: Conversion, content: reader.Checkpoint) -> list[str]:
    flat = {found.names[name]: conversion.flat[rule.target] for name, rule in conversion.used.items()}
    warnings = [f"not a finite number (NaN or infinity) in {name}" for name in reader.find_nonfinite(flat)]
    warnings += [f"float64 rounded to float32 in {found.names[name]}" for name in conversion.rounded]
    return warnings + [f"not loaded: {place}" for place in content.placeholders]
