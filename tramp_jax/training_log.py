"""What a run leaves for people: metrics.jsonl, TensorBoard events, and plots as PNG."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tramp_jax import sharding

METRICS_FILE = "metrics.jsonl"


class Reporter:
    """Appends measurements to ``workdir``/metrics.jsonl and to TensorBoard event files beside it.

    Of several processes only the first writes.

    Args:
      workdir: of the run.
      after_step: when a run continues, its checkpoint's step; later lines of the interrupted run are removed, since
        they will be written again.
    """

    def __init__(self, workdir: pathlib.Path, after_step: int | None = None):
        self._writing = sharding.is_first_process()
        if not self._writing:
            return
        import tensorboardX  # imports PyTorch where it is installed, which takes seconds that only training should pay

        self._path = workdir / METRICS_FILE
        kept = [row for row in read_metrics(workdir) if after_step is not None and row["step"] <= after_step]
        self._path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        purge = None if after_step is None else after_step + 1
        self._events = tensorboardX.SummaryWriter(str(workdir / "tensorboard"), purge_step=purge)
        self._file = self._path.open("a")

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writing:
            self._file.close()
            self._events.close()

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """One line of measurements of ``kind`` ("train", "validation", "input") at ``step``."""
        if not self._writing:
            return
        finite = {k: (v if np.isfinite(v) else None) for k, v in values.items()}
        self._file.write(json.dumps({"step": step, "kind": kind} | finite) + "\n")
        self._file.flush()
        for name, value in finite.items():
            if value is not None:
                self._events.add_scalar(f"{kind}/{name}", value, step)


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line cut short by an interruption is left out."""
    path = workdir / METRICS_FILE
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def plot_curves(workdir: pathlib.Path, selection: str, steps_per_epoch: int) -> pathlib.Path:
    """Training loss and the validation metric by which the checkpoint is chosen, over epochs -> curves.png."""
    rows = read_metrics(workdir)
    train = [(r["step"] / steps_per_epoch, r["loss"]) for r in rows if r["kind"] == "train"]
    validation = [(r["step"] / steps_per_epoch, r[selection]) for r in rows if r["kind"] == "validation"]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs, losses = np.array(train, float).T if train else (np.zeros(0), np.zeros(0))
    left.plot(epochs, losses, color="0.75", linewidth=0.8, label="every step")
    window = max(1, min(steps_per_epoch, len(losses)))
    if len(losses):
        smooth = np.convolve(losses, np.ones(window) / window, "valid")
        left.plot(epochs[window - 1 :], smooth, color="C0", label="mean of an epoch")
    left.set(xlabel="epoch", ylabel="training loss")
    left.legend(frameon=False)
    defined = [(e, v) for e, v in validation if v is not None]
    if defined:
        right.plot(*zip(*defined, strict=True), color="C1", marker=".")
        best = max(defined, key=lambda row: row[1])
        right.plot(*best, "o", color="C3", label=f"chosen: epoch {best[0]:g}, {best[1]:.3f}")
        right.legend(frameon=False)
    right.set(xlabel="epoch", ylabel=f"{selection}, validation subjects")
    return _save(figure, workdir / "curves.png")


def plot_scatter(
    path: pathlib.Path, score: np.ndarray, target: np.ndarray, groups: Sequence[str], title: str
) -> pathlib.Path:
    """Predicted against true scores, one colour per group (expression), jittered where targets are whole numbers."""
    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axes = figure.subplots()
    jitter = np.random.default_rng(0).uniform(-0.12, 0.12, len(target)) if np.all(target % 1 == 0) else 0.0
    low, high = min(np.min(score), np.min(target)), max(np.max(score), np.max(target))
    axes.plot([low, high], [low, high], color="0.8", zorder=0)
    names = sorted(set(groups))
    for name in names:
        chosen = np.array([group == name for group in groups])
        axes.scatter((target + jitter)[chosen], score[chosen], s=16, alpha=0.7, label=name)
    if len(names) > 1:
        axes.legend(frameon=False, fontsize="small")
    axes.set(xlabel="true score", ylabel="predicted score", title=title)
    return _save(figure, path)


def plot_folds(path: pathlib.Path, values: Mapping[str, Mapping[str, Sequence[float]]]) -> pathlib.Path:
    """Metrics of cross-validation, a panel each: {metric: {method: value per fold}}; the bar is the mean."""
    figure = Figure(figsize=(4.2 * len(values), 3.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(values)))
    for axes, (metric, methods) in zip(panels, values.items(), strict=True):
        for i, folds in enumerate(methods.values()):
            axes.plot([i] * len(folds), folds, "o", color="0.6", markersize=4)
            if np.any(np.isfinite(folds)):
                axes.plot([i - 0.25, i + 0.25], [np.nanmean(folds)] * 2, color="C0", linewidth=2)
        axes.set_xticks(range(len(methods)), list(methods))
        axes.set(ylabel=f"{metric}, held-out subjects", xlim=(-0.6, len(methods) - 0.4))
    return _save(figure, path)


def _save(figure: Figure, path: pathlib.Path) -> pathlib.Path:
    figure.savefig(path, dpi=130)
    return path
