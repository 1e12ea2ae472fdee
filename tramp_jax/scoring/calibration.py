"""Intervals around scores by split conformal prediction on validation subjects.

Each validation clip's error is measured in units of the clip's own spread: that of the ensemble's members, or of
Monte-Carlo draws. The half width of a new interval is a fixed multiple of the new clip's spread, chosen to cover the
requested share of the validation clips (Romano, Patterson and Candès, "Conformalized Quantile Regression", NeurIPS
2019; the normalised score of Lei et al., "Distribution-Free Predictive Inference for Regression", JASA 2018). The
coverage holds for people like those of the validation split. It is approximate, because clips of one person are not
independent.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence

import numpy as np

from tramp_jax import json_files, run
from tramp_jax.errors import UserError
from tramp_jax.files import write_atomically


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The width of intervals.

    Attributes:
      level: share of clips that intervals should cover.
      factor: half width in units of (spread + floor).
      floor: added to every spread, in units of the score: the median spread of the validation clips, or 1 if that is 0.
      low, high: ends of the scale of the scores. Intervals stay within.
      draws: number of Monte-Carlo draws in a spread.
      models: ids of the members that were calibrated together.
      clips, subjects: numbers of validation clips and subjects.
      coverage: share of the clips of held-out test subjects that intervals cover; None before the test.
      width: mean width of those intervals.
      test_clips: number of those clips.
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

        A score outside the scale counts as the nearer end: no true score lies beyond it, so this loses no coverage, and
        no interval is empty.
        """
        half, score = self.factor * (spread + self.floor), np.clip(score, self.low, self.high)
        low, high = np.clip([score - half, score + half], self.low, self.high)
        return float(low), float(high)

    def tested(self, scores: np.ndarray, spreads: np.ndarray, targets: np.ndarray) -> "Calibration":
        """The calibration with its coverage of N other clips; all arrays are (N,)."""
        intervals = np.array([self.interval(*pair) for pair in zip(scores, spreads, strict=True)])
        covered = (intervals[:, 0] <= targets) & (targets <= intervals[:, 1])
        return dataclasses.replace(
            self,
            coverage=float(covered.mean()),
            width=float(np.mean(intervals[:, 1] - intervals[:, 0])),
            test_clips=len(targets),
        )

    def save(self, folder: pathlib.Path) -> pathlib.Path:
        """Writes the calibration of these models into a run's folder and returns its path."""
        path = run.calibration_file(folder, self.models)
        write_atomically(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        return path


def load(folder: pathlib.Path, models: Sequence[str]) -> Calibration | None:
    """The calibration in a run's folder for models with these ids; None before ``tramp-jax calibrate``.

    The calibration of a single model may belong to another checkpoint of the run.

    Raises:
      UserError: damaged_file.
    """
    path = run.calibration_file(folder, models)
    if not path.is_file():
        return None
    cure = "run tramp-jax calibrate again"
    content = json_files.read(path, cure)
    try:
        found = json_files.record(Calibration, content)
        if not (0 < found.level < 1 and found.factor >= 0 and found.floor >= 0 and found.low <= found.high):
            raise ValueError("its numbers contradict each other")
    except (TypeError, ValueError) as error:
        raise UserError("damaged_file", f"{path}: damaged ({error}); {cure}") from error
    return found


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
    """Calibrates on N validation clips.

    Args:
      scores, spreads, targets: (N,).
      subjects: the N people.
      level, draws, models: see ``Calibration``.
      scale: lowest and highest score.

    Raises:
      UserError: too_few_clips for this level.
    """
    count = len(scores)
    rank = math.ceil((count + 1) * level - 1e-9)
    if rank > count:
        raise UserError(
            "too_few_clips",
            f"{count} validation clips are too few for intervals of {level:.0%}, which need at least "
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
