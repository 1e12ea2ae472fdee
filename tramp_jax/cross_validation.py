"""The model beside simple methods that learn from the same people: see ``tramp_jax.baselines``."""

import json
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
from tramp_jax.files import write_atomically
from tramp_jax.metrics import REGRESSION

_OF_SCORES, _OF_CLASSES = ("auroc", "spearman"), ("accuracy", "uar")
MODEL, FOREST, SVR, RIDGE, HYBRID = f"model, {BEST}", "random forest", "SVR", "ridge", "model + SVR"
_PAIRS = ((MODEL, FOREST), (MODEL, SVR), (MODEL, RIDGE), (HYBRID, FOREST), (HYBRID, MODEL))


class _Fold(NamedTuple):
    """The N test clips of a fold, with the scores (N,) of each method."""

    target: np.ndarray
    subjects: list[str]
    scores: dict[str, np.ndarray]


def summarise(folds: Mapping[int | None, Mapping[str, Split]], folder: pathlib.Path, config: ConfigDict) -> list[str]:
    """Compares the model with simple methods on the held-out subjects of every fold.

    The random forest, the support vector regression (SVR) and the ridge regression learn from the motion in the same
    training and validation clips. "model + SVR" is the mean of both. A classifier is compared with nothing. Writes
    cross_validation.json and cross_validation.png; baselines.json and baselines.png without folds.

    Args:
      folds: the splits of each fold.
      folder: of the run.
      config: the whole configuration.

    Returns:
      Lines for the terminal.
    """
    folders = [run.fold_folder(folder, fold) for fold in folds]
    differences: dict[str, Any] = {}
    if config.model.head.num_classes:
        values = _of_classifier(folders)
    else:
        pairs = zip(folds.values(), folders, strict=True)
        values, differences = _of_scores([_fold(parts, where, config) for parts, where in pairs], folders, config)
    single = len(folders) == 1
    report, picture = (
        (run.BASELINES, run.BASELINES_PLOT) if single else (run.CROSS_VALIDATION, run.CROSS_VALIDATION_PLOT)
    )
    content = _finite(values) | ({"differences": differences} if differences else {})
    write_atomically(folder / report, json.dumps(content, indent=1) + "\n")
    training_log.plot_folds(folder / picture, values)
    title = f"{len(folders)}-fold cross-validation over subjects, mean ± standard deviation over folds"
    lines = ["the same test subjects by simple methods" if single else title]
    for name in next(iter(values.values())):
        cells = [f"{metric} {_mean_and_spread(values[metric][name])}" for metric in values]
        lines.append(f"  {name:15s} " + "   ".join(cells))
    for metric, pairs in differences.items():
        for name, found in pairs.items():
            if found["interval"] is not None:
                low, high = found["interval"]
                lines.append(f"  {name}: {metric} {found['value']:+.3f}, 95 % [{low:+.3f}, {high:+.3f}] over subjects")
    return lines


def _of_classifier(folders: Sequence[pathlib.Path]) -> dict[str, dict[str, list[float]]]:
    return {
        metric: {f"model, {which}": _measured(folders, which, metric) for which in (BEST, LAST)}
        for metric in _OF_CLASSES
    }


def _of_scores(
    folds: Sequence[_Fold], folders: Sequence[pathlib.Path], config: ConfigDict
) -> tuple[dict[str, dict[str, list[float]]], dict[str, dict]]:
    """Metrics by method and fold, and paired differences by metric, with intervals over subjects."""
    simple = ("constant", FOREST, SVR, RIDGE, HYBRID)
    values = {
        metric: {name: [REGRESSION[metric](fold.scores[name], fold.target) for fold in folds] for name in simple}
        | {f"model, {which}": _measured(folders, which, metric) for which in (BEST, LAST)}
        for metric in _OF_SCORES
    }
    draws = config.evaluation.bootstrap
    return values, {
        metric: {f"{one} − {other}": _difference(folds, metric, one, other, draws) for one, other in _PAIRS}
        for metric in _OF_SCORES
    }


def _difference(
    folds: Sequence[_Fold], metric: str, one: str, other: str, draws: int
) -> dict[str, float | list[float] | None]:
    """How much larger a metric of ``one`` is, in the mean over folds, with its interval over subjects."""
    number = np.concatenate([np.full(len(fold.target), i) for i, fold in enumerate(folds)])
    target = np.concatenate([fold.target for fold in folds])
    scores = [np.concatenate([fold.scores[name] for fold in folds]) for name in (one, other)]

    def difference(rows: np.ndarray) -> float:
        within = [part for i in range(len(folds)) if len(part := rows[number[rows] == i])]  # a draw may miss a fold
        first, second = (np.array([REGRESSION[metric](score[r], target[r]) for r in within]) for score in scores)
        defined = np.isfinite(first - second)
        return float(np.mean((first - second)[defined])) if defined.any() else float("nan")

    value = difference(np.arange(len(target)))
    low, high = metrics.bootstrap(difference, [name for fold in folds for name in fold.subjects], draws)
    interval = [low, high] if np.isfinite(low) else None
    return {"value": value if np.isfinite(value) else None, "interval": interval}


def _fold(parts: Mapping[str, Split], folder: pathlib.Path, config: ConfigDict) -> _Fold:
    seen, unseen = [parts[TRAIN], parts[VALIDATION]], [parts[TEST]]
    train_scores = np.array([info.score for part in seen for info in part.infos])
    describe = (baselines.motion_features, baselines.motion_energies)
    forest, energies = zip(*(baselines.described(part, *describe) for part in (seen, unseen)), strict=True)
    raw, score = _predicted(folder, parts[TEST])
    svr = baselines.support_vectors(energies[0], train_scores, energies[1])
    ridge = baselines.ridge(energies[0], train_scores, energies[1])
    scores = {
        "constant": baselines.constant(train_scores, len(parts[TEST])),
        FOREST: baselines.random_forest(forest[0], train_scores, forest[1], config.seed),
        SVR: svr,
        RIDGE: ridge,
        HYBRID: ((raw if config.loss.name == "mse" else score) + svr) / 2,
        MODEL: raw,  # scores have more ties, where the scale ends
    }
    infos = parts[TEST].infos
    return _Fold(np.array([info.score for info in infos]), [info.subject for info in infos], scores)


def _predicted(folder: pathlib.Path, split: Split) -> np.ndarray:
    """The model's raw values and scores (2, N) of the clips of a split, from its report.

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
    return [_read_metrics(run.evaluation_folder(folder, TEST, which))[metric] for folder in folders]


def _read_metrics(folder: pathlib.Path) -> dict[str, float]:
    """The metrics of a report over all clips; NaN if undefined.

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
    return {m: {k: [x if np.isfinite(x) else None for x in row] for k, row in v.items()} for m, v in values.items()}


def _mean_and_spread(row: list[float]) -> str:
    defined = [x for x in row if np.isfinite(x)]
    if not defined:
        return "undefined    "
    spread = f" ± {np.std(defined, ddof=1):.3f}" if len(defined) > 1 else ""
    return f"{np.mean(defined):.3f}{spread}"
