"""TraMP-Former in JAX: scores facial expressions in short videos from landmark trajectories and frames."""

import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Scorer", "__version__"]

# ONNX Runtime reports to its maker unless this is set before its first import. No data about a clinical video leaves.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    from tramp_jax.scoring import Scorer


def __getattr__(name: str) -> Any:
    """``tramp_jax.Scorer``, imported on first use, because it takes seconds that the rest should not wait for."""
    if name == "Scorer":
        from tramp_jax.scoring import Scorer

        return Scorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
