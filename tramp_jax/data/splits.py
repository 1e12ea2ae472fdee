"""Splits over subjects. A person's clips are never on both sides of a split.

The same clips, in any order, and the same seed give the same split.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from tramp_jax.data.clips import ClipInfo
from tramp_jax.errors import UserError


def k_fold(infos: Sequence[ClipInfo], k: int, seed: int) -> list[frozenset[str]]:
    """The test subjects of each of k folds, stratified by the subjects' mean scores.

    Every subject is tested exactly once. The sizes of folds differ by at most one subject.

    Raises:
      UserError: too_few_subjects if k < 2 or there are fewer than k subjects; bad_score.
    """
    subjects = _by_score(infos, seed)
    if not 2 <= k <= len(subjects):
        message = f"cross-validation over {k} folds needs at least 2 folds and {k} subjects; there are {len(subjects)}"
        raise UserError("too_few_subjects", f"{message}; add people, or change --config.data.num_folds")
    return _deal(subjects, np.arange(len(subjects)) % k, block=k, rng=np.random.default_rng([seed, 1]))


def holdout(infos: Sequence[ClipInfo], fractions: Mapping[str, float], seed: int) -> dict[str, frozenset[str]]:
    """The subjects of each part of a split, stratified by their mean scores. Every subject is in exactly one part.

    ``fractions`` are the parts' shares of the *subjects*; positive, with sum 1. Every part gets at least one subject.
    ``seed`` chooses among equally good splits.

    Raises:
      UserError: bad_option for impossible fractions; too_few_subjects if there are more parts than subjects; bad_score.
    """
    shares = np.array(list(fractions.values()), float)
    if not len(shares) or not (shares > 0).all() or not math.isclose(shares.sum(), 1, abs_tol=1e-6):
        message = f"the shares of a split (data.test_fraction, data.validation_fraction) are {dict(fractions)}"
        raise UserError("bad_option", f"{message}; they must be positive and sum to 1")
    subjects = _by_score(infos, seed)
    if len(subjects) < len(shares):
        message = f"too few subjects ({len(subjects)}) for {len(shares)} parts: {', '.join(fractions)}; add people"
        raise UserError("too_few_subjects", message)

    counts = np.ones(len(shares), int)
    while counts.sum() < len(subjects):
        counts[np.argmax(shares * len(subjects) - counts)] += 1
    # In ascending order of score, each subject goes to the part furthest behind its share ...
    labels = np.zeros(len(subjects), int)
    dealt = np.zeros(len(shares), int)
    for rank in range(len(subjects)):
        lag = np.where(dealt < counts, counts * (rank + 1) / len(subjects) - dealt, -np.inf)
        labels[rank] = np.argmax(lag)
        dealt[labels[rank]] += 1
    # ... and then neighbours swap at random, within about one period of the smallest part.
    block = max(2, round(len(subjects) / counts.min()))
    parts = _deal(subjects, labels, block, np.random.default_rng([seed, 1]))
    return {name: parts[i] for i, name in enumerate(fractions)}


def _by_score(infos: Sequence[ClipInfo], seed: int) -> list[str]:
    """Subjects in ascending order of mean score, ties in random order."""
    scores: dict[str, list[float]] = defaultdict(list)
    for info in infos:
        if not math.isfinite(info.score):
            raise UserError("bad_score", f"clip {info.id} has the score {info.score}; correct it or remove the clip")
        scores[info.subject].append(info.score)
    subjects = sorted(scores)
    ties = np.random.default_rng([seed, 0]).permutation(len(subjects))
    # With fsum, the mean does not depend on the order of the clips.
    mean = {subject: math.fsum(scores[subject]) / len(scores[subject]) for subject in subjects}
    order = sorted(range(len(subjects)), key=lambda i: (mean[subjects[i]], ties[i]))
    return [subjects[i] for i in order]


def _deal(subjects: Sequence[str], labels: np.ndarray, block: int, rng: np.random.Generator) -> list[frozenset[str]]:
    """Shuffles the labels within consecutive blocks, and returns the subjects of label 0, 1, ..."""
    labels = np.concatenate([rng.permutation(labels[i : i + block]) for i in range(0, len(labels), block)])
    names = np.array(subjects)
    return [frozenset(names[labels == label].tolist()) for label in range(labels.max() + 1)]
