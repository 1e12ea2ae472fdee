"""Regression and classification metrics in NumPy, each with a bootstrap interval over subjects.

Conventions: ``score`` is the prediction and ``target`` the clinician's rating, both (N,); agreement treats them as two
raters of the same clips. An undefined metric (constant scores or targets, a single class) is NaN, never zero. Clips of
one subject are not independent, so the bootstrap resamples subjects, not clips.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Metric = Callable[[np.ndarray, np.ndarray], float]
Interval = tuple[float, float]
LANDMARK_ERROR = "landmark_error"  # mean distance in pixels; the only selection metric where less is better


def is_better(metric: str, value: float, best: float | None) -> bool:
    """Whether a value beats ``best``, which is None if there is none yet. NaN never does."""
    if best is None or np.isnan(value):
        return bool(np.isfinite(value))
    return value < best if metric == LANDMARK_ERROR else value > best


def spearman(score: np.ndarray, target: np.ndarray) -> float:
    """Rank correlation, ties averaged."""
    return pearson(_ranks(score), _ranks(target))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties averaged. Like ``scipy.stats.rankdata``, whose import would delay every start by a second."""
    if np.isnan(values).any():  # from a model that diverged
        return np.full(len(values), np.nan)
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def pearson(score: np.ndarray, target: np.ndarray) -> float:
    """Linear correlation."""
    x, y = score - np.mean(score), target - np.mean(target)
    norm = np.sqrt(np.sum(x * x) * np.sum(y * y))
    constant = np.ptp(score) == 0 or np.ptp(target) == 0
    return float("nan") if constant or norm == 0 else float(np.sum(x * y) / norm)


def mae(score: np.ndarray, target: np.ndarray) -> float:
    """Mean absolute error, in units of the score."""
    return float(np.mean(np.abs(score - target)))


def rmse(score: np.ndarray, target: np.ndarray) -> float:
    """Root mean squared error, in units of the score."""
    return float(np.sqrt(np.mean(np.square(score - target))))


def relative_l2(score: np.ndarray, target: np.ndarray) -> float:
    """Relative L2 distance, as in action quality assessment: 100 × mean of (error / range of the targets)²."""
    span = float(np.ptp(target))
    return float("nan") if span == 0 else float(100 * np.mean(np.square((score - target) / span)))


def auroc(score: np.ndarray, target: np.ndarray) -> float:
    """Area under the ROC curve, target > 0 against the rest: the share of pairs in the right order; ties count half."""
    positive = target > 0
    if positive.all() or not positive.any():
        return float("nan")
    count = np.sum(positive)
    in_order = np.sum(_ranks(score)[positive]) - count * (count + 1) / 2  # the statistic of Mann and Whitney
    return float(in_order / (count * np.sum(~positive)))


def icc(ratings: np.ndarray, absolute: bool) -> float:
    """Intraclass correlation of a single rater, from (N, K) ratings of N clips by K raters.

    ICC(A,1), absolute agreement, or ICC(C,1), consistency, by McGraw and Wong (Psychological Methods, 1996). These are
    ICC(2,1) and ICC(3,1) of Shrout and Fleiss (Psychological Bulletin, 1979). NaN if every rater rates all clips alike.
    """
    n, k = ratings.shape
    if n < 2 or not np.ptp(ratings, axis=0).any():
        return float("nan")
    grand, clips, raters = ratings.mean(), ratings.mean(axis=1), ratings.mean(axis=0)
    between_clips = k * np.sum(np.square(clips - grand)) / (n - 1)
    between_raters = n * np.sum(np.square(raters - grand)) / (k - 1)
    residual = np.sum(np.square(ratings - clips[:, None] - raters + grand)) / ((n - 1) * (k - 1))
    whole = between_clips + (k - 1) * residual
    if absolute:
        whole += k * (between_raters - residual) / n
    return float("nan") if whole <= 0 else float((between_clips - residual) / whole)


def icc_a1(score: np.ndarray, target: np.ndarray) -> float:
    """ICC(A,1) of scores and ratings; see ``icc``."""
    return icc(np.stack([score, target], axis=1), absolute=True)


def icc_c1(score: np.ndarray, target: np.ndarray) -> float:
    """ICC(C,1) of scores and ratings; see ``icc``. It ignores a constant difference."""
    return icc(np.stack([score, target], axis=1), absolute=False)


def rounded(score: np.ndarray) -> np.ndarray:
    """Scores as whole ratings; halves are rounded up."""
    return np.floor(score + 0.5)


def kappa(score: np.ndarray, target: np.ndarray) -> float:
    """Cohen's kappa of whole ratings with quadratic weights."""
    x, y = rounded(score), rounded(target)
    by_chance = np.var(x) + np.var(y) + (np.mean(x) - np.mean(y)) ** 2  # mean (x − y)² if the two were independent
    return float("nan") if by_chance == 0 else float(1 - np.mean(np.square(x - y)) / by_chance)


def exact(score: np.ndarray, target: np.ndarray) -> float:
    """Share of clips whose whole rating equals the clinician's."""
    return float(np.mean(rounded(score) == rounded(target)))


def within_one(score: np.ndarray, target: np.ndarray) -> float:
    """Share of clips whose whole rating is at most one off: an error below 1.5 if the ratings are whole."""
    return float(np.mean(np.abs(rounded(score) - rounded(target)) <= 1))


def within_point(score: np.ndarray, target: np.ndarray) -> float:
    """Share of clips whose score, not rounded, is at most one point off."""
    return float(np.mean(np.abs(score - target) <= 1))


def bias(score: np.ndarray, target: np.ndarray) -> float:
    """Mean of score − rating (Bland and Altman, Lancet 1986)."""
    return float(np.mean(score - target))


def limit_low(score: np.ndarray, target: np.ndarray) -> float:
    """Lower 95% limit of agreement: bias − 1.96 standard deviations of the differences."""
    return bias(score, target) - _half_width(score, target)


def limit_high(score: np.ndarray, target: np.ndarray) -> float:
    """Upper 95% limit of agreement: bias + 1.96 standard deviations of the differences."""
    return bias(score, target) + _half_width(score, target)


def _half_width(score: np.ndarray, target: np.ndarray) -> float:
    return float(1.96 * np.std(score - target, ddof=1)) if len(score) > 1 else float("nan")


def accuracy(logits: np.ndarray, target: np.ndarray) -> float:
    """Share of clips whose largest logit, of (N, classes), is the target's: weighted average recall, WAR."""
    return float(np.mean(np.argmax(logits, axis=1) == target))


def _by_class(logits: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts for each class that occurs: its clips that are recognised, all clips assigned to it, and all its clips."""
    classes = np.unique(target)[:, None]
    given, own = np.argmax(logits, axis=1) == classes, target == classes
    return (given & own).sum(axis=1), given.sum(axis=1), own.sum(axis=1)


def uar(logits: np.ndarray, target: np.ndarray) -> float:
    """Unweighted average recall: the mean recall of the classes that occur."""
    right, _, own = _by_class(logits, target)
    return float(np.mean(right / own))


def precision(logits: np.ndarray, target: np.ndarray) -> float:
    """Mean precision of the classes that occur: the share of clips assigned to a class that belong to it, or 0."""
    right, given, _ = _by_class(logits, target)
    return float(np.mean(right / np.maximum(given, 1)))


def specificity(logits: np.ndarray, target: np.ndarray) -> float:
    """Mean specificity of the classes that occur: the share of other classes' clips not assigned to the class."""
    right, given, own = _by_class(logits, target)
    others = len(target) - own
    return float("nan") if (others == 0).any() else float(np.mean((others - given + right) / others))


def f1(logits: np.ndarray, target: np.ndarray) -> float:
    """Mean F1 of the classes that occur: the harmonic mean of precision and recall."""
    right, given, own = _by_class(logits, target)
    return float(np.mean(2 * right / (given + own)))


CLASSIFICATION: dict[str, Metric] = {
    "accuracy": accuracy,
    "uar": uar,
    "precision": precision,
    "recall": uar,  # the same by another name
    "specificity": specificity,
    "f1": f1,
}

_OF_SCORES = (
    spearman, pearson, mae, rmse, relative_l2, auroc, icc_a1, icc_c1, kappa, exact, within_one, within_point, bias,
    limit_low, limit_high,
)  # fmt: skip
REGRESSION: dict[str, Metric] = {metric.__name__: metric for metric in _OF_SCORES}

# These depend only on the order of the scores, so they are computed from raw values.
OF_RANKS = ("spearman", "auroc")


def weights_of_people(subjects: Sequence[str]) -> np.ndarray:
    """Weights (N,) of clips with which each person counts once: 1 / (clips of the person in it)."""
    _, person, clips = np.unique(np.asarray(subjects), return_inverse=True, return_counts=True)
    return 1 / clips[person]


def bootstrap(value: Callable[[np.ndarray], float], subjects: Sequence[str], draws: int) -> Interval:
    """95% percentile interval of ``value`` over ``draws`` resamplings of the subjects.

    Args:
      value: computes the statistic from row numbers of clips, which may repeat.
      subjects: (N,) the subject of every row.

    Returns:
      Both ends. Resamplings in which the value is undefined do not count; if these are more than half, or if there is
      only one subject, (NaN, NaN).
    """
    rng = np.random.default_rng(0)
    _, subject = np.unique(np.asarray(subjects), return_inverse=True)
    clips_of = [np.flatnonzero(subject == s) for s in range(subject.max() + 1)]
    resampled = (rng.integers(len(clips_of), size=len(clips_of)) for _ in range(draws))
    values = [value(np.concatenate([clips_of[s] for s in chosen])) for chosen in resampled]
    defined = np.array(values)[np.isfinite(values)]
    if len(clips_of) < 2 or len(defined) * 2 < draws or not len(defined):
        return float("nan"), float("nan")
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def entry(value: float, interval: Interval) -> dict[str, Any]:
    """How a report holds a value and its interval; None stands for NaN, which is undefined."""
    ends = list(interval) if np.isfinite(interval[0]) else None
    return {"value": value if np.isfinite(value) else None, "interval": ends}


def with_interval(
    metric: Metric,
    score: np.ndarray,
    target: np.ndarray,
    subjects: Sequence[str],
    draws: int,
    groups: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The ``entry`` of a metric, with an interval over ``draws`` resamplings of the (N,) ``subjects``.

    With ``groups`` (N,), such as expressions, the metric is computed within every group and averaged over groups.
    """
    group = np.zeros(len(score), int) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]

    def mean_over_groups(rows: np.ndarray) -> float:
        within = [rows[group[rows] == g] for g in range(group.max() + 1)]
        # A resampling may miss a group; the mean over all groups is then undefined.
        return float(np.mean([metric(score[r], target[r]) if len(r) else float("nan") for r in within]))

    return entry(mean_over_groups(np.arange(len(score))), bootstrap(mean_over_groups, subjects, draws))
