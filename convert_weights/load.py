"""Loads weights into this project's variables from a PyTorch file, a converted folder or a training run."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from convert_weights import reader, state_dict, store
from convert_weights.convert import Conversion, Variables, convert, nested, target_shapes
from convert_weights.kinds import KINDS, recognise
from convert_weights.kinds.kind import Architecture, Kind
from convert_weights.safe_globals import bad_file, printable
from convert_weights.state_dict import StateDict
from tramp_jax import files
from tramp_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class LoadedCheckpoint:
    """Weights, and what is known about them."""

    kind: str  # a key of ``kinds.KINDS``
    # ``{"params": …, "batch_stats": …}`` of float32 NumPy arrays, without those in ``report["fresh"]``
    variables: Variables
    model_config: ConfigDict  # the ``model`` group they fit; see ``tramp_jax.config.MODEL``
    report: dict[str, Any]  # the contents of conversion.json, see docs/weights.md


def load_checkpoint(
    path: str | os.PathLike[str],
    kind: str = "auto",
    *,
    length: int | None = None,
    fresh: Sequence[str] = (),
    checkpoint: str = "",
    container: str | None = None,
    drop: Sequence[str] = (),
) -> LoadedCheckpoint:
    """Loads weights. Nothing in a file is run, and PyTorch is not needed.

    Args:
      path: a .pth, .pt or .safetensors file; a folder written by ``python -m convert_weights``; or the folder of a
        training run.
      kind: a file's kind, a key of ``kinds.KINDS``; "auto" infers it from the names.
      length: T, if a file's tables do not reveal it (TraMP-Former's are always sized for T = 256).
      fresh: patterns of parameters that a file may lack, e.g. ``params/head`` for an encoder without a head.
      checkpoint: a run's "best", "last" or a step. Default: the best, or the last if there is no best.
      container: which state dict to read if a file holds several, as keys joined by dots; "" is the top level.
      drop: patterns of names in a file, for tensors to ignore because the model has no place for them. A pattern
        that matches no tensor is an error.

    Raises:
      UserError: the file cannot be read or, of kind "mismatch", does not fit the model. The message names the file.
    """
    path = files.expanded(os.fspath(path))
    if path.is_dir():
        if drop or container is not None:
            raise UserError("bad_option", f"{path}: is a folder, but --drop and --container are for files; omit them")
        return LoadedCheckpoint(*store.load_folder(path, checkpoint))
    if kind not in ("auto", *KINDS):
        raise UserError("bad_option", f"kind is {kind!r}; known: auto, {', '.join(KINDS)}")
    content = reader.read(path)
    try:
        container, tensors, rest = state_dict.find_state_dict(content.tree, container)
        tensors, dropped, on_purpose = state_dict.drop(tensors, drop)
        prefix = state_dict.shared_prefix(list(tensors))
        tensors, counter = state_dict.without_counter(tensors, prefix)
        chosen, hint = _choose(kind, {state_dict.bare_name(name, prefix): x for name, x in tensors.items()})
        found = state_dict.released_names(container, prefix, tensors, chosen)
        # Dropped tensors count when the architecture is read: dropping layers must not make another model.
        shapes = {
            state_dict.released_name(state_dict.bare_name(n, prefix), found.naming): x.shape for n, x in dropped.items()
        }
        architecture = chosen.read(shapes | {name: x.shape for name, x in found.tensors.items()}, length)
        _check_buildable(architecture.config)
        pairs = chosen.name_map(architecture.config)
        conversion = convert(found.tensors, architecture.config, pairs, fresh, found.names)
    except UserError as error:
        if error.kind == "mismatch":
            raise UserError(error.kind, f"{path}: read as {chosen.name}, {error}{hint}") from None
        raise UserError(error.kind, f"{path}: {error}") from error
    report = _report(path, content, chosen, architecture, found, conversion, on_purpose + counter + rest)
    return LoadedCheckpoint(chosen.name, nested(conversion.flat), architecture.config, report)


def _choose(kind: str, tensors: Mapping[str, np.ndarray]) -> tuple[Kind, str]:
    """The kind to read the tensors as, and a hint for the error if they do not fit it."""
    recognised = recognise(tensors)
    if kind != "auto":
        if recognised is None or recognised.name == kind:
            return KINDS[kind], ""
        return KINDS[kind], f"\nits names look like {recognised.name}; try without --kind"
    if recognised is None:
        some = ", ".join(f"{printable(name, 60)} {x.shape}" for name, x in list(tensors.items())[:3])
        raise bad_file(
            f"its {len(tensors)} tensors ({some}, …) belong to another architecture; known: {', '.join(KINDS)}",
            "give a file of one of these, or set --kind to see what does not fit",
        )
    return recognised, ""


def _check_buildable(config: ConfigDict) -> None:
    """Raises UserError if the options read off the shapes contradict each other."""
    try:
        target_shapes(config)
    except UserError as error:
        raise UserError("unsupported_file", f"{error}; no model can be built from its shapes") from error


def _report(
    path: pathlib.Path,
    content: reader.Checkpoint,
    kind: Kind,
    architecture: Architecture,
    found: StateDict,
    conversion: Conversion,
    rest: list[dict[str, Any]],
) -> dict[str, Any]:
    """Everything known about a conversion, as plain data for JSON."""

    def record(name: str, more: dict[str, Any]) -> dict[str, Any]:
        x = found.tensors[name]
        return {"source": found.names[name]} | more | {"shape": list(x.shape), "dtype": str(x.dtype)}

    tensors = [
        record(name, {"target": "/".join(pair.target), "transform": pair.transform})
        for name, pair in conversion.used.items()
    ]
    buffers = [record(name, more) for name, more in conversion.dropped.items()]
    return {
        "format": store.FORMAT,
        "source": {"file": path.name, "sha256": content.sha256},
        "kind": kind.name,
        "naming": found.naming,
        "architecture": architecture.read,
        "assumed": architecture.assumed,
        "tensors": tensors,
        "dropped": buffers + rest,
        "fresh": ["/".join(target) for target in conversion.fresh],
        "warnings": _warnings(found, conversion, content, rest),
        "model_config": architecture.config.to_dict(),
    }


def _warnings(
    found: StateDict, conversion: Conversion, content: reader.Checkpoint, rest: list[dict[str, Any]]
) -> list[str]:
    flat = {found.names[name]: conversion.flat[pair.target] for name, pair in conversion.used.items()}
    warnings = reader.nonfinite_warnings(flat)
    if any(r["reason"] == state_dict.AVERAGE and r["value"] == 0 for r in rest):
        warnings.append("n_averaged is 0: the average holds only the weights it started with")
    warnings += [f"float64 rounded to float32 in {found.names[name]}" for name in conversion.rounded]
    return warnings + [f"not loaded: {place}" for place in content.placeholders]
