"""Intervals around scores by split conformal prediction on validation people.

The error of each validation clip is measured in units of the clip's own spread (see ``output``) plus the median spread.
The half width of a new interval is a fixed multiple of the same sum for the new clip (the normalised score of Lei et
al., "Distribution-Free Predictive Inference for Regression", JASA 2018). Clips of one person are alike, so each person
counts once: a clip has the weight 1 / (clips of its person), as in the hierarchical conformal prediction of Lee,
Barber and Willett (2023). The coverage then holds for a clip of a new person similar to the validation people. Where
the level falls between two errors, the multiple is interpolated (Beran and Hall, "Interpolated Nonparametric Prediction
Intervals and Confidence Intervals", JRSS B 1993): the larger error would cover more than the level. Theory ensures only
the coverage of the smaller one, which with n people, a clip each, is up to 1 / (n + 1) below the level.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

import numpy as np

from tramp_jax import json_files, run
from tramp_jax.errors import UserError
from tramp_jax.metrics import weights_of_people

_MOST_RATINGS = 15  # more are not worth listing


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The width of intervals."""

    level: float  # share of new people's clips that intervals should cover
    factor: float  # half width in units of (spread + floor)
    floor: float  # added to every spread, in units of the score: the median spread of the validation clips
    low: float  # lower end of the scale of the scores; intervals stay within the scale
    high: float  # its upper end
    ratings: tuple[float, ...]  # the ratings that exist, to list those in an interval; () if there are many
    models: tuple[str, ...]  # ids of the members that were calibrated together
    clips: int  # number of validation clips
    subjects: int  # number of validation subjects
    # Share of the held-out test clips that intervals cover, each person counting once; None before the test.
    coverage: float | None = None
    width: float | None = None  # mean width of those intervals, weighted alike
    test_clips: int = 0  # number of test clips
    test_subjects: int = 0  # number of test subjects; 0 in the file of an older version, whose coverage counts clips

    def interval(self, score: float, spread: float) -> tuple[float, float]:
        """The interval around a score with this spread, within the scale."""
        half = self.factor * (spread + self.floor)
        low, high = np.clip([score - half, score + half], self.low, self.high)
        return float(low), float(high)

    def ratings_in(self, interval: tuple[float, float]) -> tuple[float, ...]:
        """The ratings in an interval, which have its coverage; if there are none, the nearest one."""
        inside = tuple(rating for rating in self.ratings if interval[0] <= rating <= interval[1])
        if inside or not self.ratings:
            return inside
        middle = (interval[0] + interval[1]) / 2
        return (min(self.ratings, key=lambda rating: abs(rating - middle)),)

    def tested(
        self, scores: np.ndarray, spreads: np.ndarray, targets: np.ndarray, subjects: Sequence[str]
    ) -> "Calibration":
        """Adds the coverage measured on N clips of other people; all arguments are (N,)."""
        low, high = np.array([self.interval(*pair) for pair in zip(scores, spreads, strict=True)]).T
        weights = weights_of_people(subjects)
        return dataclasses.replace(
            self,
            coverage=float(np.average((low <= targets) & (targets <= high), weights=weights)),
            width=float(np.average(high - low, weights=weights)),
            test_clips=len(targets),
            test_subjects=len(set(subjects)),
        )

    @property
    def test(self) -> str:
        """The measured coverage in words, with its 95% interval over people if their number is known.

        The interval is Wilson's (JASA 1927). If all people are covered, it is not empty, as that of resampled people
        would be. If people have several clips, it is rather too wide.
        """
        assert self.coverage is not None
        words, n, z = f"{self.coverage:.0%} of {self.test_clips} test clips", self.test_subjects, 1.96
        if not n:
            return words
        middle = self.coverage + z**2 / (2 * n)
        half = z * math.sqrt(self.coverage * (1 - self.coverage) / n + (z / (2 * n)) ** 2)
        low, high = ((middle + side) / (1 + z**2 / n) for side in (-half, half))
        return f"{words} of {n} people (95%: {low:.0%} to {high:.0%})"

    def save(self, folder: pathlib.Path) -> pathlib.Path:
        """Writes the calibration of these models into a run's folder and returns its path."""
        path = run.calibration_file(folder, self.models)
        json_files.write(path, self)
        return path


def load(folder: pathlib.Path, models: Sequence[str]) -> Calibration | None:
    """The calibration in a run's folder for models with these ids; None if there is none of this version.

    The calibration of a single model may be for another checkpoint of the run.

    Raises:
      UserError: damaged_file.
    """
    path = run.calibration_file(folder, models)
    if not path.is_file():
        return None
    cure = "run tramp-jax calibrate again"
    content = json_files.read(path, cure)
    if "draws" in content:  # an earlier version, which defined the spread differently
        return None
    return json_files.checked_record(
        Calibration,
        content,
        path,
        cure,
        lambda c: 0 < c.level < 1 and c.factor >= 0 and c.floor >= 0 and c.low <= c.high,
    )


def calibrate(
    scores: np.ndarray,
    spreads: np.ndarray,
    targets: np.ndarray,
    subjects: Sequence[str],
    *,
    level: float,
    models: Sequence[str],
    scale: tuple[float, float],
    ratings: Sequence[float] = (),
) -> Calibration:
    """Calibrates on N validation clips.

    Args:
      scores, spreads, targets: (N,); scores must not depend on the targets of the same people.
      scale: lowest and highest score.

    Raises:
      UserError: too_few_people for this level.
    """
    people = len(set(subjects))
    needed = math.ceil(level / (1 - level) - 1e-9)
    if people < needed:
        raise UserError(
            "too_few_people",
            f"{people} people are too few for {100 * level:g}% intervals, which need at least {needed}; choose a "
            "smaller --level, or train with --config.data.num_folds=5 and calibrate that run, which counts all people",
        )
    floor = float(np.median(spreads)) or 1.0
    errors = np.abs(scores - targets) / (spreads + floor)
    order = np.argsort(errors, kind="stable")
    # Also count the new person, whose error may be larger than all others.
    weights = weights_of_people(subjects)[order] / (people + 1)
    return Calibration(
        level=level,
        factor=float(np.interp(level, np.cumsum(weights), errors[order])),
        floor=floor,
        low=scale[0],
        high=scale[1],
        ratings=tuple(ratings) if len(ratings) <= _MOST_RATINGS else (),
        models=tuple(models),
        clips=len(scores),
        subjects=people,
    )
