"""The output step: from a model's raw value to a score on the rating scale.

Balanced MSE models the rating y of a clip as N(raw, sigma²), re-weighted by how often each rating occurs. The raw value
therefore is not yet on the rating scale. The score is the expected rating, with the share p of each training rating:

    score = Σ y·p(y)·exp(−(x − y)² / 2 sigma²) / Σ p(y)·exp(−(x − y)² / 2 sigma²),   x = bend(slope · raw + offset)

It lies within the training ratings and increases strictly with the raw value, so ranks and rank correlations do not
change. Slope and offset are fitted on validation people, if there are enough of them. If there are many, the line is
also bent: ``bend`` is piecewise linear and comes from isotonic regression. The standard deviation of the rating in the
same distribution says how certain a single score is.

Everything that reports a score uses this step: evaluation, scoring, calibration, attribution, export and the report.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from tramp_jax import json_files, run
from tramp_jax.data.source import RatingScale
from tramp_jax.metrics import weights_of_people

# Fewer people than this say next to nothing about which checkpoint, line or width of intervals is right.
FEW_PEOPLE = 10
# From this many on, bending a line that is already right raises the RMSE by less than 1%: docs/scoring.md.
MANY_PEOPLE = 200

Histogram = tuple[tuple[float, int], ...]

_STEEPEST = 3.0  # largest |log slope|
_FAR = 60  # difference of log probabilities at which one rating has all the probability
_STRAIGHT = 0.05  # share of the straight line in a bent one, so that it rises everywhere
_PARTS = 20  # ``held_out`` divides people into at most this many parts


@dataclasses.dataclass(frozen=True)
class Output:
    """Turns raw values into scores."""

    # (R,) distinct training ratings, increasing; () to limit raw values to the scale instead
    ratings: tuple[float, ...]
    shares: tuple[float, ...]  # (R,) weight of each rating; the sum is 1
    sigma: float  # noise of a rating
    low: float  # lower end of the scale
    high: float  # upper end of the scale
    slope: float = 1.0  # of the line before decoding
    offset: float = 0.0  # of the same line
    people: int = 0  # number of validation people the line was fitted on; 0 for none
    # (K, 2) the bend of the line as pairs of its input and output, both increasing; () for a straight line. Between
    # knots, it is linear; outside, its slope is 1.
    knots: tuple[tuple[float, float], ...] = ()

    def __str__(self) -> str:
        kind = "expected ratings" if self.ratings else "raw values, limited to the scale"
        if self.people:
            line = f"{self.slope:.3g} · raw {self.offset:+.3g}"
            bent = f", bent at {len(self.knots)} knots," if self.knots else ""
            return f"{kind}, after the line {line}{bent} fitted on {self.people} validation people"
        why = f"output.fit=none, fewer than {FEW_PEOPLE} validation people, or values that are all equal"
        return f"{kind}, without a fitted line ({why})"

    @property
    def fit(self) -> str:
        """What was fitted: "none", "line" or "isotonic"."""
        if not self.people:
            return "none"
        return "isotonic" if self.knots else "line"

    def score(self, raw: Any, xp: Any = np) -> Any:
        """Scores (...,) of raw values (...,). ``xp`` is the array library, NumPy or jax.numpy."""
        return self._decoded(self._before_decoding(raw, xp), xp)

    def spread(self, raw: np.ndarray) -> np.ndarray:
        """Standard deviation (...,) of the rating, given raw values (...,); 1 without decoding."""
        x = self._before_decoding(np.asarray(raw, float), np)
        if not self.ratings:
            return np.ones_like(x)
        distances = np.square(np.asarray(self.ratings) - np.asarray(self._decoded(x, np))[..., None])
        return np.sqrt((self._probabilities(x, np) * distances).sum(-1))

    def pieces(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(P,) starts, lengths and slopes of the pieces between the knots of a bent line.

        The value v of the line becomes
        ``bent[0] + min(v − line[0], 0) + Σ slope · clip(v − start, 0, length) + max(v − line[-1], 0)``, where ``line``
        and ``bent`` are the columns of the knots. Nothing large cancels, so float32 is precise.
        """
        line, bent = np.array(self.knots).T
        return line[:-1], np.diff(line), np.diff(bent) / np.diff(line)

    def _before_decoding(self, raw: Any, xp: Any) -> Any:
        line = self.slope * xp.asarray(raw) + self.offset
        if not self.knots:
            return line
        starts, lengths, slopes = (xp.asarray(each) for each in self.pieces())
        (first, lowest), (last, _) = self.knots[0], self.knots[-1]
        inside = (slopes * xp.clip(line[..., None] - starts, 0, lengths)).sum(-1)
        return lowest + xp.minimum(line - first, 0) + inside + xp.maximum(line - last, 0)

    def _decoded(self, x: Any, xp: Any) -> Any:
        if not self.ratings:
            return xp.clip(x, self.low, self.high)
        return (self._probabilities(x, xp) * xp.asarray(self.ratings)).sum(-1)

    def _probabilities(self, x: Any, xp: Any) -> Any:
        logits = xp.log(xp.asarray(self.shares)) - xp.square(x[..., None] - xp.asarray(self.ratings)) / (
            2 * self.sigma**2
        )
        weights = xp.exp(logits - logits.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)

    def fitted(
        self, raw: np.ndarray, target: np.ndarray, subjects: Sequence[str], fit: str = "auto", least: int = FEW_PEOPLE
    ) -> "Output":
        """This output with the line of least squared error from (N,) raw values to (N,) ratings of validation people.

        Each person counts once, however many clips show them. There is no line with fewer than ``least`` people, or if
        all raw values or all targets are equal. ``fit`` is a value of ``output.fit``.
        """
        people = len(set(subjects))
        straight = dataclasses.replace(self, slope=1.0, offset=0.0, people=0, knots=())
        if fit == "none" or people < least or np.ptp(raw) == 0 or np.ptp(target) == 0:
            return straight
        from scipy.optimize import minimize

        weights = weights_of_people(subjects)

        def error(line: np.ndarray) -> float:
            chosen = dataclasses.replace(straight, slope=float(np.exp(line[0])), offset=float(line[1]))
            squared = np.average(np.square(chosen.score(raw) - target), weights=weights)
            return float(squared + 1e3 * max(0.0, abs(line[0]) - _STEEPEST))

        steep = float(np.clip(np.std(target) / np.std(raw), np.exp(-_STEEPEST), np.exp(_STEEPEST)))
        starts = [(0.0, 0.0), (np.log(steep), float(np.mean(target) - steep * np.mean(raw)))]
        found = min((minimize(error, start, method="Nelder-Mead") for start in starts), key=lambda each: each.fun)
        line = dataclasses.replace(straight, slope=float(np.exp(found.x[0])), offset=float(found.x[1]), people=people)
        bent = fit == "isotonic" or (fit == "auto" and people >= MANY_PEOPLE)
        return line._bent(raw, target, weights) if bent else line

    def _bent(self, raw: np.ndarray, target: np.ndarray, weights: np.ndarray) -> "Output":
        """Bends this straight line so that it passes near the mean rating of each block of an isotonic regression."""
        from scipy.optimize import isotonic_regression

        values, which = np.unique(raw, return_inverse=True)
        weight, rated = np.bincount(which, weights), np.bincount(which, weights * target)
        starts = isotonic_regression(rated / weight, weights=weight).blocks[:-1]
        if len(starts) < 2:
            return self
        line, rating = (
            np.add.reduceat(each, starts) / np.add.reduceat(weight, starts)
            for each in (self._before_decoding(values, np) * weight, rated)
        )
        if self.ratings:
            rating = np.clip(rating, self.ratings[0], self.ratings[-1])
        bent = self._inverse_decoded(rating + _STRAIGHT * (self._decoded(line, np) - rating))
        return dataclasses.replace(self, knots=tuple(zip(line.tolist(), bent.tolist(), strict=True)))

    def _inverse_decoded(self, scores: np.ndarray) -> np.ndarray:
        """The values (K,) that decode to scores (K,), by bisection."""
        if not self.ratings:
            return scores
        # Beyond these values, the score is the first or last rating. With knots farther out, float32 lacks digits.
        margin = _FAR * self.sigma**2 / np.diff(self.ratings).min()
        low, high = (np.full_like(scores, end) for end in (self.ratings[0] - margin, self.ratings[-1] + margin))
        for _ in range(100):
            middle = (low + high) / 2
            below = self._decoded(middle, np) < scores
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return high

    def as_dict(self) -> dict[str, Any]:
        """The fields. A straight line has no "knots", so the digests of older outputs stay the same."""
        fields = dataclasses.asdict(self)
        if not self.knots:
            del fields["knots"]
        return fields

    def save(self, folder: pathlib.Path, step: int) -> None:
        """Writes this output into the folder of a run or fold, for the checkpoint of ``step``."""
        json_files.write(run.output_file(folder, step), self.as_dict())


def of_training(config: ConfigDict, ratings: Histogram, scale: RatingScale) -> Output:
    """A model's output before its line is fitted. With fewer than two ratings, it limits raw values to the scale."""
    how = config.output.decode
    if how == "auto":
        how = "clip" if config.loss.name == "mse" else "training"
    if how == "clip" or len(ratings) < 2:
        return Output((), (), config.loss.sigma, scale.low, scale.high)
    weights = [count if how == "training" else 1 for _, count in ratings]
    shares = tuple(weight / sum(weights) for weight in weights)
    return Output(tuple(rating for rating, _ in ratings), shares, config.loss.sigma, scale.low, scale.high)


def histogram(ratings: Sequence[float]) -> Histogram:
    """The distinct ratings in increasing order, and how often each occurs."""
    return tuple(sorted(collections.Counter(map(float, ratings)).items()))


def held_out(
    output: Output, raw: np.ndarray, target: np.ndarray, subjects: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and spreads (N,) of validation clips, each from an output fitted in the same way on other people.

    The model's own ``output`` was fitted on these clips, so its scores are too close to their ratings to measure
    errors. Raw values and ratings are (N,).
    """
    people = np.asarray(subjects)
    parts = np.unique(people, return_inverse=True)[1] % _PARTS
    scores, spreads = np.zeros(len(raw)), np.zeros(len(raw))
    for number in np.unique(parts):
        held, kept = parts == number, parts != number
        others = people[kept].tolist()
        fitted = output.fitted(raw[kept], target[kept], others, output.fit, least=1) if others else output
        scores[held], spreads[held] = fitted.score(raw[held]), fitted.spread(raw[held])
    return scores, spreads


def load(folder: pathlib.Path, step: int) -> Output | None:
    """The saved output of a run's or fold's checkpoint; None if there is none.

    Raises:
      UserError: damaged_file.
    """
    return json_files.read_record(
        Output,
        run.output_file(folder, step),
        "delete it and evaluate the run again with eval.py",
        lambda found: (
            len(found.ratings) == len(found.shares)
            and min(found.sigma, found.slope, *found.shares, 1) > 0
            and (not found.knots or (len(found.knots) > 1 and _rise(found.knots)))
        ),
    )


def _rise(knots: tuple[tuple[float, float], ...]) -> bool:
    """Whether inputs increase strictly and outputs never decrease."""
    line, bent = np.diff(knots, axis=0).T
    return bool((line > 0).all() and (bent >= 0).all())
