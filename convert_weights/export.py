"""The way back: our variables as a state dict that the released PyTorch classes load strictly."""

import pathlib
from typing import Any

import ml_dtypes
import numpy as np
from ml_collections import ConfigDict

from convert_weights import store
from convert_weights.architecture import channel_scale
from convert_weights.convert import distances, flattened, nested
from convert_weights.layouts import TRANSFORMS
from convert_weights.load import LoadedCheckpoint
from convert_weights.names import COUNTER, buffers, name_map
from convert_weights.reader import CheckpointError
from convert_weights.state_dict import file_name

STEM = ("params", "trajectory_encoder", "stem_0", "kernel")


def to_state_dict(checkpoint: LoadedCheckpoint) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint in PyTorch's layout, buffers included, by the names of the class that wrote it.

    Names, shapes, types and bits are those of the source file, without ``module.``; where there is no file, those of
    the released code. What the source did not fill is not there.

    Raises:
      ValueError: the model has no counterpart in the released code.
    """
    config, report = checkpoint.model_config, checkpoint.report
    flat = flattened(_released(checkpoint))
    naming = report["naming"]
    known = {r["source"].removeprefix(naming["prefix"]): r for r in report["tensors"] + report["dropped"]}
    rules = [rule for rule in name_map(config) if rule.target in flat]
    tensors = {}
    for rule in rules:
        name = file_name(rule.source, naming)
        x = TRANSFORMS[rule.transform].backward(flat[rule.target])
        tensors[name] = np.ascontiguousarray(x, _dtype(known.get(name, {}).get("dtype", "float32"))).reshape(x.shape)
    for buffer in buffers(rules):
        name = file_name(buffer, naming)
        tensors[name] = _buffer(name, known.get(name, {}), tensors, report["source"].get("step", 0))
    return tensors


def _dtype(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def _buffer(name: str, record: dict[str, Any], tensors: dict[str, np.ndarray], step: int) -> np.ndarray:
    dtype = record.get("dtype", "int64")
    if name.endswith(COUNTER):
        return np.full(record.get("shape", ()), record.get("value", step), dtype)
    rows = len(tensors[name.replace("position_index", "position_bias_table")])
    return distances(record.get("frames", (rows + 1) // 2)).astype(dtype)


def _released(checkpoint: LoadedCheckpoint) -> Any:
    """The variables, with the input scale, which the released stem does not have, taken into its first layer."""
    flat = flattened(checkpoint.variables)
    if STEM in flat:
        scale = channel_scale(checkpoint.model_config.trajectory)
        flat[STEM] = flat[STEM] * scale[:, None]
    return nested(flat)


def deviations(config: ConfigDict) -> list[str]:
    """What a user of the exported file must know: options of this model that the released code does not have."""
    notes = []
    if config.name != "former_dfer" and config.get("streams") != "rgb":
        if config.trajectory.bias_order != "tiled":
            notes.append("model.trajectory.bias_order is 'time', but the released class computes 'tiled'")
        if np.any(channel_scale(config.trajectory) != 1):
            notes.append("model.trajectory.input_scale is now part of the stem: give the class unscaled trajectories")
    return notes


def write_pth(checkpoint: LoadedCheckpoint, path: pathlib.Path, overwrite: bool) -> int:
    """Writes the state dict with ``torch.save``, in the container of its source; returns the number of tensors.

    Raises:
      CheckpointError: PyTorch is not installed, ``path`` exists, or the model has no counterpart in PyTorch.
    """
    path = path.absolute()
    store.check_free(path, overwrite)
    try:
        import torch
    except ImportError:
        raise CheckpointError(f"{path}: writing it needs PyTorch; pip install 'tramp_jax[torch]'") from None
    try:
        tensors = {name: _to_torch(x, torch) for name, x in to_state_dict(checkpoint).items()}
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    container = checkpoint.report["naming"]["container"]
    with store.written_whole(path) as new:
        torch.save({container: tensors} if container else tensors, new)
    return len(tensors)


def _to_torch(x: np.ndarray, torch: Any) -> Any:
    if x.dtype.kind == "V":  # a type that NumPy has from ml_dtypes: the same bits under torch's name
        bits = torch.from_numpy(x.view(f"i{x.dtype.itemsize}").copy())
        return bits.view(getattr(torch, x.dtype.name))
    return torch.from_numpy(x.copy())
