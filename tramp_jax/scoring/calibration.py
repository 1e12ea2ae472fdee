"""Intervals around scores by split conformal prediction on validation subjects.

The error of each validation clip is measured in units of its own spread (that of the ensemble's members, or of
Monte-Carlo draws), and the interval of a new clip is so many of its spreads wide that it would have covered the chosen
share of the validation clips (Romano, Patterson and Candès, "Conformalized Quantile Regression", NeurIPS 2019; the
normalised score of Lei et al., "Distribution-Free Predictive Inference for Regression", JASA 2018). The promise holds
for people like those of the validation split; clips of one person are not independent, so it is approximate.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence

import numpy as np

from tramp_jax import run
from tramp_jax.errors import UserError
from tramp_jax.files import write_atomically


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How wide intervals must be.

    Attributes:
      level: share of clips that an interval is to cover.
      factor: half width in units of (spread + floor).
      floor: added to every spread, in units of the score; the median spread of the validation clips.
      low, high: ends of the scale of the scores; intervals stay within.
      draws: Monte-Carlo draws that spreads are taken over.
      models: ids of the members that were calibrated together.
      clips, subjects: of the validation split.
      coverage: share of the clips of held-out test subjects that their intervals cover.
      width: mean width of those intervals.
      test_clips: how many there are.
    """

    level: float
    factor: float
    floor: float
    low: float
    high: float
    draws: int
    models: tuple[str, ...]
    clips: int
    subjects: int
    coverage: float | None = None
    width: float | None = None
    test_clips: int = 0

    def interval(self, score: float, spread: float) -> tuple[float, float]:
        """The interval around a score with this spread, within the scale.

        A score outside the scale is drawn to its end first: what it says beyond the end cannot be true, and no
        interval is empty. That only adds to what the interval covers.
        """
        half, score = self.factor * (spread + self.floor), np.clip(score, self.low, self.high)
        low, high = np.clip([score - half, score + half], self.low, self.high)
        return float(low), float(high)

    def tested(self, scores: np.ndarray, spreads: np.ndarray, targets: np.ndarray) -> "Calibration":
        """The calibration with its coverage of other clips: all (N,)."""
        intervals = np.array([self.interval(*pair) for pair in zip(scores, spreads, strict=True)])
        covered = (intervals[:, 0] <= targets) & (targets <= intervals[:, 1])
        return dataclasses.replace(
            self,
            coverage=float(covered.mean()),
            width=float(np.mean(intervals[:, 1] - intervals[:, 0])),
            test_clips=len(targets),
        )

    def save(self, folder: pathlib.Path) -> pathlib.Path:
        """Writes the file of these models and returns its path."""
        path = run.calibration_file(folder, self.models)
        write_atomically(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        return path


def load(folder: pathlib.Path, models: Sequence[str]) -> Calibration | None:
    """The calibration in a run's folder for models of these ids, or None where ``tramp-jax calibrate`` was not run.

    That of a single model may be of another checkpoint of the run.

    Raises:
      UserError: a damaged file.
    """
    path = run.calibration_file(folder, models)
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text())
        return Calibration(**values | {"models": tuple(values["models"])})
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            "damaged_file", f"{path} is damaged ({error}); make it again with tramp-jax calibrate"
        ) from error


def calibrate(
    scores: np.ndarray,
    spreads: np.ndarray,
    targets: np.ndarray,
    subjects: Sequence[str],
    *,
    level: float,
    draws: int,
    models: Sequence[str],
    scale: tuple[float, float],
) -> Calibration:
    """The calibration by validation clips: ``scores``, ``spreads`` and ``targets`` (N,).

    Raises:
      UserError: too few clips for this level.
    """
    count = len(scores)
    rank = math.ceil((count + 1) * level - 1e-9)
    if rank > count:
        raise UserError(
            "bad_option",
            f"{count} validation clips cannot calibrate intervals of {level:.0%}: that takes at least "
            f"{math.ceil(level / (1 - level) - 1e-9)}; choose a smaller --level",
        )
    floor = float(np.median(spreads)) or 1.0
    errors = np.sort(np.abs(scores - targets) / (spreads + floor))
    return Calibration(
        level=level,
        factor=float(errors[rank - 1]),
        floor=floor,
        low=scale[0],
        high=scale[1],
        draws=draws,
        models=tuple(models),
        clips=count,
        subjects=len(set(subjects)),
    )
