"""Converts PyTorch checkpoints into this project's variables, tensor by tensor, and back.

    checkpoint = convert_weights.load_checkpoint("SkateFormer_256_rgb1x1.pth")
    checkpoint.variables, checkpoint.model_config, checkpoint.report

The command is ``python -m convert_weights --help``; see docs/weights.md.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convert_weights.adapt import adapt, initialise
    from convert_weights.load import load_checkpoint
    from convert_weights.store import LoadedCheckpoint

__all__ = ["LoadedCheckpoint", "adapt", "initialise", "load_checkpoint"]

_HOMES = {"adapt": "adapt", "initialise": "adapt", "LoadedCheckpoint": "store", "load_checkpoint": "load"}


def __getattr__(name: str) -> Any:
    """Imports ``name`` on first use, so that reading a file does not load JAX."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
