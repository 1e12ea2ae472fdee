"""Exports our variables as a state dict that the released PyTorch classes load strictly."""

import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from convert_weights import store
from convert_weights.convert import channel_scale, flattened
from convert_weights.kinds import KINDS
from convert_weights.layouts import COUNTER, TRANSFORMS, buffers, distances
from convert_weights.state_dict import bare_name, file_name
from convert_weights.store import LoadedCheckpoint
from tramp_jax.errors import UserError
from tramp_jax.models import reads_trajectories

STEM = ("params", "trajectory_encoder", "stem_0", "kernel")


def to_state_dict(checkpoint: LoadedCheckpoint) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint, buffers included, in PyTorch's layout and under the names of its PyTorch class.

    Names, shapes, types and bits are those of the source file, but names lack wrappers such as ``module.``. For a run,
    they are those of the released code. Tensors that the source lacks are left out.

    Raises:
      UserError: the model has no counterpart in the released code.
    """
    flat = flattened(checkpoint.variables)
    if STEM in flat:  # the released code has no input scale, so it becomes part of the stem
        flat[STEM] = flat[STEM] * channel_scale(checkpoint.model_config.trajectory)[:, None]
    report, naming = checkpoint.report, checkpoint.report["naming"]
    records = [r for r in report["tensors"] + report["dropped"] if "dtype" in r]
    known = {bare_name(r["source"], naming["prefix"]): r for r in records}
    pairs = [pair for pair in KINDS[checkpoint.kind].name_map(checkpoint.model_config) if pair.target in flat]
    tensors = {}
    for pair in pairs:
        name = file_name(pair.source, naming)
        x = TRANSFORMS[pair.transform].backward(flat[pair.target])
        tensors[name] = np.ascontiguousarray(x, np.dtype(known.get(name, {}).get("dtype", "float32"))).reshape(x.shape)
    for buffer in buffers(pairs):
        name = file_name(buffer, naming)
        tensors[name] = _buffer(name, known.get(name, {}), tensors, report["source"].get("step", 0))
    return tensors


def _buffer(name: str, record: dict[str, Any], tensors: dict[str, np.ndarray], step: int) -> np.ndarray:
    dtype = record.get("dtype", "int64")
    if name.endswith(COUNTER):
        return np.full(record.get("shape", ()), record.get("value", step), dtype)
    rows = len(tensors[name.replace("position_index", "position_bias_table")])
    return distances(record.get("frames", (rows + 1) // 2)).astype(dtype)


def deviations(config: ConfigDict) -> list[str]:
    """Notes for users of the exported file: options of this model that the released code lacks."""
    notes = []
    if reads_trajectories(config):
        if config.trajectory.bias_order != "tiled":
            notes.append("model.trajectory.bias_order is 'time', but the released class computes 'tiled'")
        if np.any(channel_scale(config.trajectory) != 1):
            notes.append("model.trajectory.input_scale is now part of the stem: give the class unscaled trajectories")
    return notes


def write_pth(checkpoint: LoadedCheckpoint, path: pathlib.Path, overwrite: bool) -> int:
    """Writes the state dict with ``torch.save``, under the container key of its source; returns the tensor count.

    Raises:
      UserError: PyTorch is not installed, ``path`` exists, or the model has no counterpart in PyTorch.
    """
    path = path.absolute()
    store.check_free(path, overwrite)
    torch = import_torch(f"writing {path}")
    tensors = {name: _to_torch(x, torch) for name, x in to_state_dict(checkpoint).items()}
    content: dict[str, Any] = tensors
    for key in reversed(checkpoint.report["naming"]["container"].split(".")):
        content = {key: content} if key else content
    with store.written_whole(path) as new:
        torch.save(content, new)
    return len(tensors)


def import_torch(what: str) -> Any:
    """Imports ``torch``. If it is not installed, raises a UserError that says that ``what`` needs it."""
    try:
        import torch
    except ImportError:
        raise UserError("missing_package", f"{what} needs PyTorch: pip install 'tramp_jax[torch]'") from None
    return torch


def _to_torch(x: np.ndarray, torch: Any) -> Any:
    if x.dtype.kind == "V":  # a type of ml_dtypes: the same bits under torch's name
        bits = torch.from_numpy(x.view(f"i{x.dtype.itemsize}").copy())
        return bits.view(getattr(torch, x.dtype.name))
    return torch.from_numpy(x.copy())
