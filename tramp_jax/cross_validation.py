"""Compares a run's model with simple methods (``tramp_jax.baselines``) that learn from the same people."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from tramp_jax import baselines, evaluation, json_files, metrics, run, training_log
from tramp_jax.checkpoint import BEST, LAST
from tramp_jax.data.datasets import TEST, TRAIN, VALIDATION
from tramp_jax.data.source import Split
from tramp_jax.errors import UserError
from tramp_jax.metrics import REGRESSION

OF_SCORES, _OF_CLASSES = ("auroc", "spearman"), ("accuracy", "uar")
MODEL, FOREST, SVR, RIDGE, HYBRID = f"model, {BEST}", "random forest", "SVR", "ridge", "model + SVR"
SIMPLE = ("constant", FOREST, SVR, RIDGE, HYBRID)
PAIRS = ((MODEL, FOREST), (MODEL, SVR), (MODEL, RIDGE), (HYBRID, FOREST), (HYBRID, MODEL))


class Fold(NamedTuple):
    """The N test clips of a fold: ratings (N,), subjects, and the scores (N,) of each method."""

    target: np.ndarray
    subjects: list[str]
    scores: dict[str, np.ndarray]


def summarise(folds: Mapping[int | None, Mapping[str, Split]], folder: pathlib.Path, config: ConfigDict) -> list[str]:
    """Compares the model with simple methods on the held-out subjects of every fold.

    The random forest, the support vector regression (SVR) and the ridge regression learn from the motion in the same
    training and validation clips. "model + SVR" is the mean of both predictions. A classifier is not compared; its own
    metrics are summarised. Writes cross_validation.json and cross_validation.png; for a run without folds,
    baselines.json and baselines.png. ``config`` is the whole configuration. Returns lines for the terminal.
    """
    folders = [run.fold_folder(folder, fold) for fold in folds]
    classes, draws = config.model.head.num_classes, config.evaluation.bootstrap
    values = {
        metric: {f"model, {which}": _measured(folders, which, metric) for which in (BEST, LAST)}
        for metric in (_OF_CLASSES if classes else OF_SCORES)
    }
    differences = {}
    if not classes:
        found = [compared(parts, where, config) for parts, where in zip(folds.values(), folders, strict=True)]
        for metric, of_model in values.items():
            values[metric] = {
                name: [REGRESSION[metric](fold.scores[name], fold.target) for fold in found] for name in SIMPLE
            } | of_model
            differences[metric] = {
                f"{one} − {other}": difference(found, metric, one, other, draws) for one, other in PAIRS
            }
    if len(folders) == 1:
        report, picture = run.BASELINES, run.BASELINES_PLOT
        lines = ["the same test subjects by simple methods"]
    else:
        report, picture = run.CROSS_VALIDATION, run.CROSS_VALIDATION_PLOT
        lines = [f"{len(folders)}-fold cross-validation over subjects, mean ± standard deviation over folds"]
    content = _finite(values) | ({"differences": differences} if differences else {})
    json_files.write(folder / report, content)
    training_log.plot_folds(folder / picture, values)
    for name in next(iter(values.values())):
        cells = [f"{metric} {mean_and_spread(values[metric][name])}" for metric in values]
        lines.append(f"  {name:15s} " + "   ".join(cells))
    for metric, pairs in differences.items():
        for name, each in pairs.items():
            if each["interval"] is not None:
                low, high = each["interval"]
                lines.append(f"  {name}: {metric} {each['value']:+.3f}, 95% [{low:+.3f}, {high:+.3f}] over subjects")
    return lines


def difference(folds: Sequence[Fold], metric: str, one: str, other: str, draws: int) -> dict[str, Any]:
    """How much larger a metric is for method ``one`` than for ``other``: mean over folds, interval over subjects.

    The folds may be those of several divisions of the same subjects. A subject who is drawn then counts in each.
    """
    number = np.concatenate([np.full(len(fold.target), i) for i, fold in enumerate(folds)])
    target = np.concatenate([fold.target for fold in folds])
    scores = [np.concatenate([fold.scores[name] for fold in folds]) for name in (one, other)]

    def among(rows: np.ndarray) -> float:
        within = [rows[number[rows] == i] for i in np.unique(number[rows])]  # a resampling may miss a fold
        first, second = (np.array([REGRESSION[metric](score[r], target[r]) for r in within]) for score in scores)
        defined = (first - second)[np.isfinite(first - second)]
        return float(np.mean(defined)) if len(defined) else float("nan")

    subjects = [name for fold in folds for name in fold.subjects]
    return metrics.entry(among(np.arange(len(target))), metrics.bootstrap(among, subjects, draws))


def compared(parts: Mapping[str, Split], folder: pathlib.Path, config: ConfigDict) -> Fold:
    """Fits the simple methods of a fold and scores its test clips with them and, from its report, with the model."""
    seen, unseen = [parts[TRAIN], parts[VALIDATION]], [parts[TEST]]
    train_scores = np.array([info.score for part in seen for info in part.infos])
    describe = (config.landmarks, baselines.motion_features, baselines.motion_energies)
    forest, energies = zip(*(baselines.described(part, *describe) for part in (seen, unseen)), strict=True)
    raw, score = _predicted(folder, parts[TEST])
    svr = baselines.support_vectors(energies[0], train_scores, energies[1])
    subjects = [info.subject for part in seen for info in part.infos]
    ridge = baselines.ridge(energies[0], train_scores, energies[1], subjects)
    scores = {
        "constant": np.full(len(parts[TEST]), np.mean(train_scores)),
        FOREST: baselines.random_forest(forest[0], train_scores, forest[1], config.seed),
        SVR: svr,
        RIDGE: ridge,
        HYBRID: ((raw if config.loss.name == "mse" else score) + svr) / 2,
        MODEL: raw,  # the metrics are of ranks, and scores tie where the scale ends
    }
    infos = parts[TEST].infos
    return Fold(np.array([info.score for info in infos]), [info.subject for info in infos], scores)


def _predicted(folder: pathlib.Path, split: Split) -> np.ndarray:
    """The model's raw values and scores (2, N) of the clips of a split, from the report on the test split.

    Raises:
      UserError: damaged_file.
    """
    report = run.evaluation_folder(folder, TEST, BEST)
    written = evaluation.read_predictions(report)
    found = dict(zip(written.clips, zip(written.raw, written.score, strict=True), strict=True))
    missing = [info.id for info in split.infos if info.id not in found]
    if missing:
        raise UserError("damaged_file", f"{report}: clip {missing[0]} is missing; evaluate this checkpoint again")
    return np.array([found[info.id] for info in split.infos]).T


def _measured(folders: Sequence[pathlib.Path], which: str, metric: str) -> list[float]:
    """A metric on the test split of each fold, by a checkpoint."""
    return [_read_metrics(run.evaluation_folder(folder, TEST, which))[metric] for folder in folders]


def _read_metrics(folder: pathlib.Path) -> dict[str, float]:
    """The metrics over all clips in a report's folder; NaN if undefined.

    Raises:
      UserError: damaged_file.
    """
    cure = "evaluate this checkpoint again"
    table = json_files.read(folder / run.METRICS, cure)
    try:
        values = {name: entry["value"] for name, entry in table["all"].items()}
        return {name: float("nan" if value is None else value) for name, value in values.items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError("damaged_file", f"{folder / run.METRICS}: damaged ({error!r}); {cure}") from error


def _finite(values: Mapping[str, Mapping[str, list[float]]]) -> dict[str, dict[str, list[float | None]]]:
    """The values with None for NaN, which JSON does not have."""
    return {
        metric: {method: [x if np.isfinite(x) else None for x in row] for method, row in methods.items()}
        for metric, methods in values.items()
    }


def mean_and_spread(row: Sequence[float]) -> str:
    """The mean ± standard deviation of the values that are defined."""
    defined = [x for x in row if np.isfinite(x)]
    if not defined:
        return "undefined    "
    spread = f" ± {np.std(defined, ddof=1):.3f}" if len(defined) > 1 else ""
    return f"{np.mean(defined):.3f}{spread}"
