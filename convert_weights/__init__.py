"""PyTorch checkpoints into this project's variables, tensor by tensor, and back.

    checkpoint = convert_weights.load_checkpoint("SkateFormer_256_rgb1x1.pth")
    checkpoint.variables, checkpoint.model_config, checkpoint.report

See docs/weights.md; ``python -m convert_weights --help`` is the command.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convert_weights.adapt import adapt, initialise
    from convert_weights.convert import MismatchError
    from convert_weights.load import LoadedCheckpoint, load_checkpoint
    from convert_weights.reader import CheckpointError

__all__ = ["CheckpointError", "LoadedCheckpoint", "MismatchError", "adapt", "initialise", "load_checkpoint"]

_HOMES = {
    "adapt": "adapt",
    "initialise": "adapt",
    "MismatchError": "convert",
    "LoadedCheckpoint": "load",
    "load_checkpoint": "load",
    "CheckpointError": "reader",
}


def __getattr__(name: str) -> Any:
    """Loads what is asked for, and JAX with it, only then: reading a file needs neither."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
