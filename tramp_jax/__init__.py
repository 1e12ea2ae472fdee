"""TraMP-Former in JAX: scores facial expressions in short videos from landmark trajectories and frames."""

import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Scorer", "__version__"]

# ONNX Runtime sends usage data to its maker unless this is set before its first import. Nothing may leave a clinic.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    from tramp_jax.scoring import Scorer


def __getattr__(name: str) -> Any:
    """``tramp_jax.Scorer``, imported on first use, because that takes seconds and not every program needs it."""
    if name == "Scorer":
        from tramp_jax.scoring import Scorer

        return Scorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
