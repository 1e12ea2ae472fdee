"""The outcome of cross-validation, beside what needs no deep learning on the same folds."""

import csv
import json
import pathlib
from collections.abc import Mapping

import numpy as np

from tramp_jax import baselines, evaluation, reporting
from tramp_jax.checkpoint import BEST, LAST
from tramp_jax.data import landmarks
from tramp_jax.data.clips import Clip
from tramp_jax.data.datasets import TEST, TRAIN, VALIDATION
from tramp_jax.data.pipeline import Split
from tramp_jax.metrics import auroc, spearman

METRICS = {"auroc": auroc, "spearman": spearman}
Folds = Mapping[int | None, Mapping[str, Split]]


def summarise(folders: Mapping[int | None, pathlib.Path], splits: Folds, workdir: pathlib.Path, seed: int) -> list[str]:
    """Compares the model with a constant and a random forest on the held-out subjects of every fold.

    The forest learns simple motion features of the same training and validation clips. Writes
    cross_validation.json and cross_validation.png into ``workdir``; returns lines for the terminal.
    """
    per_fold = []
    for fold, parts in splits.items():
        test = parts[TEST]
        target = np.array([info.score for info in test.infos])
        scores = _baselines(parts, seed) | {
            f"model, {which}": _read_scores(evaluation.folder(folders[fold], TEST, which)) for which in (BEST, LAST)
        }
        per_fold.append({name: {m: f(score, target) for m, f in METRICS.items()} for name, score in scores.items()})
    methods = list(per_fold[0])
    values = {metric: {name: [row[name][metric] for row in per_fold] for name in methods} for metric in METRICS}
    (workdir / "cross_validation.json").write_text(json.dumps(_finite(values), indent=1) + "\n")
    reporting.plot_folds(workdir / "cross_validation.png", values)
    lines = [f"{len(per_fold)}-fold cross-validation over subjects, mean ± standard deviation over folds"]
    for name in methods:
        cells = [f"{metric} {_mean_and_spread(values[metric][name])}" for metric in METRICS]
        lines.append(f"  {name:15s} " + "   ".join(cells))
    return lines


def _baselines(parts: Mapping[str, Split], seed: int) -> dict[str, np.ndarray]:
    seen = [parts[name][i] for name in (TRAIN, VALIDATION) for i in range(len(parts[name]))]
    unseen = [parts[TEST][i] for i in range(len(parts[TEST]))]
    train_scores = np.array([clip.info.score for clip in seen])
    train_features, test_features = (np.stack([_features(clip) for clip in clips]) for clips in (seen, unseen))
    return {
        "constant": baselines.constant(train_scores, len(unseen)),
        "random forest": baselines.random_forest(train_features, train_scores, test_features, seed),
    }


def _features(clip: Clip) -> np.ndarray:
    points = landmarks.select(clip.landmarks, clip.layout)
    centred = landmarks.centre(points, landmarks.nose_tip(clip.landmarks, clip.layout))
    return baselines.motion_features(centred, clip.fps)


def _read_scores(folder: pathlib.Path) -> np.ndarray:
    with (folder / evaluation.PREDICTIONS_FILE).open(newline="") as file:
        return np.array([float(row["score"]) for row in csv.DictReader(file)])


def _finite(values: Mapping[str, Mapping[str, list[float]]]) -> dict[str, dict[str, list[float | None]]]:
    return {m: {k: [x if np.isfinite(x) else None for x in row] for k, row in v.items()} for m, v in values.items()}


def _mean_and_spread(row: list[float]) -> str:
    defined = [x for x in row if np.isfinite(x)]
    if not defined:
        return "undefined    "
    return f"{np.mean(defined):.3f} ± {np.std(defined, ddof=1) if len(defined) > 1 else 0.0:.3f}"
