"""Integrates gradients along a line, as far as a budget allows.

The line is cut into panels, each integrated by Gauss–Lobatto quadrature. Both ends of a panel are nodes, so its true
share of the score difference is known along with its gradients, and only panels that miss their share are halved.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

NODES = 6  # per panel
NOISE = 2e-5  # share of the score; smaller differences are float32 rounding

# From K points of the line, which runs from 0 to 1, and their weights to the K scores there, and to the sums of the
# weighted gradients times the change along the line, by input.
Gradients = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, Mapping[str, np.ndarray]]]


@dataclasses.dataclass(frozen=True, eq=False)
class Integral:
    """Attributions of the inputs of one sample, over the line or one of its panels."""

    score: float  # score at the end of the line
    baseline_score: float  # score at its start
    parts: dict[str, np.ndarray]  # "trajectories" (T, 63, C) and/or "frames" (F, G, G), float64
    converged: bool = False  # whether the error is below the tolerance
    evaluations: int = NODES  # number of gradients computed

    @property
    def error(self) -> float:
        """Sum of the attributions − score difference."""
        return float(sum(part.sum() for part in self.parts.values())) - (self.score - self.baseline_score)


def integrate(gradients: Gradients, at_once: int, tolerance: float, max_evaluations: int) -> Integral:
    """Integrates over the whole line.

    Args:
      at_once: nodes per call of ``gradients``, a divisor of ``NODES``.
      tolerance: largest error, as a share of the score difference.
      max_evaluations: most gradients; one panel is always computed.
    """
    whole = _panel(gradients, at_once, 0.0, 1.0)
    panels = {(0.0, 1.0): whole}
    allowed = max(tolerance * abs(whole.score - whole.baseline_score), NOISE * max(1.0, abs(whole.score)))
    while True:
        errors = np.array([panel.error for panel in panels.values()])
        # The norm, because errors that cancel would satisfy completeness but leave attributions wrong.
        error = max(abs(errors.sum()), np.linalg.norm(errors))
        evaluations = NODES * (2 * len(panels) - 1)
        if error <= allowed or evaluations + 2 * NODES > max_evaluations:
            break
        start, stop = max(panels, key=lambda ends: abs(panels[ends].error))
        del panels[start, stop]
        middle = (start + stop) / 2
        for ends in ((start, middle), (middle, stop)):
            panels[ends] = _panel(gradients, at_once, *ends)
    parts = {name: np.sum([panel.parts[name] for panel in panels.values()], axis=0) for name in whole.parts}
    return dataclasses.replace(whole, parts=parts, converged=bool(error <= allowed), evaluations=evaluations)


def _panel(gradients: Gradients, at_once: int, start: float, stop: float) -> Integral:
    """Integrates between two points of the line."""
    nodes, weights = _lobatto(NODES)
    nodes, weights = start + (stop - start) * nodes, (stop - start) * weights
    scores: list[float] = []
    parts: dict[str, np.ndarray] = {}
    for first in range(0, NODES, at_once):
        chosen = slice(first, first + at_once)
        some, found = gradients(nodes[chosen], weights[chosen])
        scores += np.asarray(some, np.float64).tolist()
        for name, gradient in found.items():
            parts[name] = parts.get(name, 0.0) + np.asarray(gradient, np.float64)
    return Integral(scores[-1], scores[0], parts)


def _lobatto(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (n,) and weights (n,) of Gauss–Lobatto quadrature on [0, 1], ends included. Exact to degree 2n − 3."""
    last = np.polynomial.Legendre.basis(n - 1)
    nodes = np.concatenate([[-1.0], np.sort(last.deriv().roots().real), [1.0]])
    weights = 2 / (n * (n - 1) * last(nodes) ** 2)
    return ((nodes + 1) / 2).astype(np.float32), (weights / 2).astype(np.float32)
