"""Writes a run's metrics for people to read: metrics.jsonl, TensorBoard events and plots."""

import io
import json
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tramp_jax import metrics, run, sharding
from tramp_jax.errors import UserError
from tramp_jax.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Reporter:
    """Appends measurements to metrics.jsonl and to TensorBoard event files. Only the first process writes.

    ``after_step`` is the checkpoint's step if a run is resumed; None for a new run. Later measurements are removed,
    because the run will write them again.
    """

    def __init__(self, folder: pathlib.Path, after_step: int | None):
        self._writing = sharding.is_first_process()
        if not self._writing:
            return
        tensorboardX = _tensorboard()
        path = folder / run.MEASUREMENTS
        kept = [] if after_step is None else [row for row in read_metrics(folder) if row["step"] <= after_step]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept))
        purge = None if after_step is None else after_step + 1
        self._events = tensorboardX.SummaryWriter(str(folder / run.TENSORBOARD), purge_step=purge)
        self._path, self._file = path, path.open("a")

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writing:
            self._file.close()
            self._events.close()

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Writes measurements of one ``kind`` ("train", "validation", "input") at ``step``.

        Raises:
          UserError: not_a_run if the folder was deleted or replaced, since anything written there would be lost.
        """
        if not self._writing:
            return
        if not self._path.exists() or not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno())):
            raise UserError(
                "not_a_run", f"{self._path.parent} was deleted or replaced while it trained; train it again"
            )
        finite = {k: (v if np.isfinite(v) else None) for k, v in values.items()}
        self._file.write(json.dumps({"step": step, "kind": kind} | finite) + "\n")
        self._file.flush()
        for name, value in finite.items():
            if value is not None:
                self._events.add_scalar(f"{kind}/{name}", value, step)


def _tensorboard() -> Any:
    """The module tensorboardX, imported without PyTorch, which takes a second to import and is not needed here."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]  # an import of it then fails, as if it were not installed
    try:
        import tensorboardX
    finally:
        if hidden:
            del sys.modules["torch"]
    return tensorboardX


def read_metrics(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Reads metrics.jsonl up to the first line that is not a measurement: an interruption can cut a line short."""
    path = folder / run.MEASUREMENTS
    text = path.read_text(errors="replace") if path.is_file() else ""
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(row, dict) or type(row.get("step")) is not int or "kind" not in row:
            break
        rows.append(row)
    return rows


def plot_curves(folder: pathlib.Path, selection: str, steps_per_epoch: int) -> None:
    """Plots the training loss and the metric ``selection``, which chooses the best checkpoint, as curves.png."""
    rows = read_metrics(folder)
    train = [(r["step"] / steps_per_epoch, r["loss"]) for r in rows if r["kind"] == "train"]
    validation = [(r["step"] / steps_per_epoch, r[selection]) for r in rows if r["kind"] == "validation"]
    figure = new_figure(9, 3.5)
    left, right = figure.subplots(1, 2)
    epochs, losses = np.array(train, float).reshape(-1, 2).T
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
        best = defined[0]
        for row in defined:
            best = row if metrics.is_better(selection, row[1], best[1]) else best
        right.plot(*best, "o", color="C3", label=f"chosen: epoch {best[0]:g}, {best[1]:.3f}")
        right.legend(frameon=False)
    right.set(xlabel="epoch", ylabel=f"{selection}, validation subjects")
    save_figure(figure, folder / run.CURVES)


def plot_scatter(path: pathlib.Path, score: np.ndarray, target: np.ndarray, groups: Sequence[str], title: str) -> None:
    """Plots predicted against true scores, one colour per group (expression). Whole targets are spread by jitter."""
    figure = new_figure(5, 4.6)
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
    save_figure(figure, path)


def plot_folds(path: pathlib.Path, values: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Plots {metric: {method: value per fold}}: a panel per metric, a point per fold and a bar at each mean."""
    figure = new_figure(4.2 * len(values), 3.4)
    panels = np.atleast_1d(figure.subplots(1, len(values)))
    for axes, (metric, methods) in zip(panels, values.items(), strict=True):
        for i, folds in enumerate(methods.values()):
            axes.plot([i] * len(folds), folds, "o", color="0.6", markersize=4)
            if np.any(np.isfinite(folds)):
                axes.plot([i - 0.25, i + 0.25], [np.nanmean(folds)] * 2, color="C0", linewidth=2)
        axes.set_xticks(range(len(methods)), list(methods))
        axes.set(ylabel=f"{metric}, held-out subjects", xlim=(-0.6, len(methods) - 0.4))
    save_figure(figure, path)


def new_figure(width: float, height: float) -> "Figure":
    """An empty picture of this size in inches."""
    from matplotlib.figure import Figure  # takes a second to import, which most starts can do without

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: "Figure", path: pathlib.Path) -> None:
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=130)
    write_atomically(path, image.getvalue())
