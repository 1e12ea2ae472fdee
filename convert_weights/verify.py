"""Compares our model with its PyTorch twin on the same weights and random inputs, stage by stage."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from convert_weights.convert import Variables, flattened, nested, target_shapes
from convert_weights.export import import_torch, to_state_dict
from convert_weights.store import LoadedCheckpoint
from tramp_jax.models import build_model, input_shapes

TOLERANCE = 2e-4  # relative to a stage's largest value, as for the golden cases


class Stage(NamedTuple):
    """The largest difference between the two models' values of a stage, and PyTorch's largest value."""

    name: str
    difference: float
    largest: float

    @property
    def agrees(self) -> bool:
        return self.difference <= TOLERANCE * self.largest


def compare(checkpoint: LoadedCheckpoint) -> list[Stage]:
    """Runs both models on one random clip with a single sub-clip. Parameters missing from the checkpoint are zero.

    Raises:
      UserError: PyTorch is not installed, or the model has no counterpart in PyTorch.
    """
    torch = import_torch("--verify")
    from convert_weights import torch_twin

    config = checkpoint.model_config.copy_and_resolve_references()
    config.rgb.num_frames = config.rgb.clip_length
    zeros = {path: np.zeros(shape, np.float32) for path, shape in target_shapes(config).items()}
    variables = nested(zeros | flattened(checkpoint.variables))
    rng = np.random.default_rng(0)
    inputs = {
        name: None if shape is None else rng.standard_normal(shape, np.float32)
        for name, shape in input_shapes(config, batch=1).items()
    }
    if inputs["index_t"] is not None:
        T = inputs["index_t"].shape[1]
        inputs["index_t"] = (2 * np.arange(T, dtype=np.float32) / T - 1)[None]
    # The program runs once. On a CPU, optimising it takes longer than it saves.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    score, out = jax.jit(build_model(config).apply, compiler_options=options)(variables, *inputs.values())
    twin = torch_twin.build_twin(config).eval()
    twin.load_state_dict({n: torch.from_numpy(x) for n, x in _tensors(checkpoint, variables).items()}, strict=True)
    with torch.inference_mode():
        score_twin, out_twin = twin(
            *(None if x is None else torch.from_numpy(_in_torch_order(name, x)) for name, x in inputs.items())
        )
    theirs = {name: _in_our_order(name, x.numpy()) for name, x in (out_twin | {"score": score_twin}).items()}
    ours = {name: np.asarray(x) for name, x in (out | {"score": score}).items()}
    return [Stage(n, float(np.abs(ours[n] - x).max()), float(np.abs(x).max())) for n, x in theirs.items()]


def _tensors(checkpoint: LoadedCheckpoint, variables: Variables) -> dict[str, np.ndarray]:
    """The complete state dict under the names of the model's own release, which may differ from the source's."""
    naming = checkpoint.report["naming"] | {"prefix": "", "encoder": "", "head": ""}
    report = checkpoint.report | {"naming": naming, "tensors": [], "dropped": []}
    kind = checkpoint.model_config.name
    return to_state_dict(dataclasses.replace(checkpoint, kind=kind, variables=variables, report=report))


def _in_torch_order(name: str, x: np.ndarray) -> np.ndarray:
    """Frames (B, F, H, W, C) -> (B, F, C, H, W); trajectories (B, T, V, C) -> (B, V, T, C)."""
    axes = {"frames": (0, 1, 4, 2, 3), "trajectories": (0, 2, 1, 3), "index_t": (0, 1)}
    return np.ascontiguousarray(x.transpose(axes[name]))


def _in_our_order(name: str, x: np.ndarray) -> np.ndarray:
    """Stages of the trajectory encoder (B, C, T, V) -> (B, T, V, C)."""
    return x.transpose(0, 2, 3, 1) if name.startswith("trajectory_stage") else x


def lines(stages: list[Stage]) -> list[str]:
    """The comparison as a table, one line for each stage."""
    table = ["stage                  largest difference  of largest value"]
    return table + [
        f"{s.name:<21}  {s.difference:18.2e}  {s.largest:16.2e}{'' if s.agrees else '  beyond tolerance'}"
        for s in stages
    ]
