"""How many validation people a bent line (``output.fit=isotonic``) needs to beat a straight one, on simulated values.

    python -m benchmarks.recalibration [--draws 12]

Each person has two clips. Ratings are random, 0 to 4, and not equally frequent. What the network sees is the rating
plus normal noise of the person (0.5) and of the clip (0.7); its raw value is a known increasing function of that. If
the function is linear, a straight line is all that the output step needs. Both lines are fitted to the same validation
people and tested on 2000 others.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence

import numpy as np

from tramp_jax import config, metrics
from tramp_jax import output as outputs
from tramp_jax.data.source import RatingScale

_PEOPLE = (20, 50, 100, 200, 400)
_SHARES = (0.3, 0.2, 0.2, 0.2, 0.1)
_RELATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda seen: 2.5 * seen - 3,
    "saturating": lambda seen: 4 * np.tanh(seen / 2),
    "accelerating": lambda seen: np.exp(seen / 1.5),
    "two steps": lambda seen: np.tanh(3 * (seen - 1)) + np.tanh(3 * (seen - 3)) + 0.1 * seen,
}


def simulated(
    relation: Callable[[np.ndarray], np.ndarray], people: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Raw values and ratings (2 · people,), and the person of each."""
    ratings = rng.choice(len(_SHARES), 2 * people, p=_SHARES).astype(float)
    noise = np.repeat(rng.normal(0, 0.5, people), 2) + rng.normal(0, 0.7, 2 * people)
    return relation(ratings + noise), ratings, [f"p{i // 2}" for i in range(2 * people)]


def compare(relation: Callable[[np.ndarray], np.ndarray], people: int, draws: int) -> np.ndarray:
    """(draws, 2, 2) MAE and RMSE of the straight line and of the bent one, in this order."""
    found = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        (_, ratings, _), seen, (raw, target, _) = (simulated(relation, n, rng) for n in (1000, people, 2000))
        decoding = outputs.of_training(config.base(), outputs.histogram(ratings.tolist()), RatingScale())
        bent = decoding.fitted(*seen, "isotonic")
        lines = dataclasses.replace(bent, knots=()), bent
        found.append([[error(line.score(raw), target) for error in (metrics.mae, metrics.rmse)] for line in lines])
    return np.array(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints by how much the bent line's MAE and RMSE differ from the straight line's: mean ± its standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=12)
    options = parser.parse_args(arguments)
    sys.stdout.write(f"| people | {' | '.join(_RELATIONS)} |\n" + "|---" * (len(_RELATIONS) + 1) + "|\n")
    for people in _PEOPLE:
        cells = []
        for relation in _RELATIONS.values():
            errors = compare(relation, people, options.draws)
            change = errors[:, 1] - errors[:, 0]
            mean, error = change.mean(0), change.std(0, ddof=1) / len(change) ** 0.5
            cells.append("; ".join(f"{m:+.3f} ± {e:.3f}" for m, e in zip(mean, error, strict=True)))
        sys.stdout.write(f"| {people} | {' | '.join(cells)} |\n")


if __name__ == "__main__":
    main()
