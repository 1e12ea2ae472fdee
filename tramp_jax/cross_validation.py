"""The outcome of cross-validation, beside simple methods on the same folds."""

import json
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from tramp_jax import baselines, json_files, run, training_log
from tramp_jax.checkpoint import BEST, LAST
from tramp_jax.data import landmarks
from tramp_jax.data.datasets import TEST, TRAIN, VALIDATION
from tramp_jax.data.source import Split
from tramp_jax.errors import UserError
from tramp_jax.files import write_atomically
from tramp_jax.metrics import REGRESSION

_OF_SCORES, _OF_CLASSES = ("auroc", "spearman"), ("accuracy", "uar")


def summarise(folds: Mapping[int | None, Mapping[str, Split]], folder: pathlib.Path, seed: int) -> list[str]:
    """Compares the model with a constant and a random forest on the held-out subjects of every fold.

    The forest learns from simple motion features of the same training and validation clips. There is no such
    comparison for a classifier. Writes cross_validation.json and cross_validation.png.

    Args:
      folds: the splits of each fold.
      folder: of the run.
      seed: of the random forest.

    Returns:
      Lines for the terminal.
    """
    per_fold = [_fold_metrics(parts, run.fold_folder(folder, fold), seed) for fold, parts in folds.items()]
    methods, shown = list(per_fold[0]), list(next(iter(per_fold[0].values())))
    values = {metric: {name: [row[name][metric] for row in per_fold] for name in methods} for metric in shown}
    write_atomically(folder / run.CROSS_VALIDATION, json.dumps(_finite(values), indent=1) + "\n")
    training_log.plot_folds(folder / run.CROSS_VALIDATION_PLOT, values)
    lines = [f"{len(per_fold)}-fold cross-validation over subjects, mean ± standard deviation over folds"]
    for name in methods:
        cells = [f"{metric} {_mean_and_spread(values[metric][name])}" for metric in shown]
        lines.append(f"  {name:15s} " + "   ".join(cells))
    return lines


def _fold_metrics(parts: Mapping[str, Split], folder: pathlib.Path, seed: int) -> dict[str, dict[str, float]]:
    """{method: {metric: value}} on the test clips of a fold."""
    reports = {f"model, {which}": _read_metrics(run.evaluation_folder(folder, TEST, which)) for which in (BEST, LAST)}
    if "uar" in next(iter(reports.values())):
        return {name: {metric: report[metric] for metric in _OF_CLASSES} for name, report in reports.items()}
    target = np.array([info.score for info in parts[TEST].infos])
    rows = {
        name: {metric: REGRESSION[metric](score, target) for metric in _OF_SCORES}
        for name, score in _baselines(parts, seed).items()
    }
    return rows | {name: {metric: report[metric] for metric in _OF_SCORES} for name, report in reports.items()}


def _baselines(parts: Mapping[str, Split], seed: int) -> dict[str, np.ndarray]:
    seen = [clip for name in (TRAIN, VALIDATION) for clip in _described(parts[name])]
    unseen = list(_described(parts[TEST]))
    train_scores = np.array([score for _, score in seen])
    train_features, test_features = (np.stack([features for features, _ in part]) for part in (seen, unseen))
    return {
        "constant": baselines.constant(train_scores, len(unseen)),
        "random forest": baselines.random_forest(train_features, train_scores, test_features, seed),
    }


def _described(split: Split) -> Iterator[tuple[np.ndarray, float]]:
    """Motion features and score of each clip, of which one at a time is in memory."""
    for i in range(len(split)):
        clip = split[i]
        points = landmarks.select(clip.landmarks, clip.layout)
        centred = landmarks.centre(points, landmarks.nose_tip(clip.landmarks, clip.layout))
        yield baselines.motion_features(centred, clip.fps), clip.info.score


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
    return f"{np.mean(defined):.3f} ± {np.std(defined, ddof=1) if len(defined) > 1 else 0.0:.3f}"
