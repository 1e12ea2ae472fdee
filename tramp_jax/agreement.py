"""Tables and plots of how well scores agree with a clinician's ratings. ``metrics`` has the single numbers."""

import pathlib
from typing import Any

import numpy as np

from tramp_jax import metrics
from tramp_jax.training_log import new_figure, save_figure

_MOST_RATINGS = 12  # more rows, labels or points would not be readable


def confusion(score: np.ndarray, target: np.ndarray) -> dict[str, list[Any]]:
    """The confusion table of whole ratings: one row per true rating, one column per predicted rating."""
    x, y = metrics.rounded(score), metrics.rounded(target)
    known = np.arange(min(x.min(), y.min()), max(x.max(), y.max()) + 1)
    clips = np.zeros((len(known), len(known)), int)
    np.add.at(clips, ((y - known[0]).astype(int), (x - known[0]).astype(int)), 1)
    return {"ratings": known.tolist(), "clips": clips.tolist()}


def risk_coverage(score: np.ndarray, target: np.ndarray, spread: np.ndarray) -> dict[str, list[float]]:
    """The mean absolute error of the clips with the smallest spreads, for growing shares of clips.

    Clips with equal spreads count with their mean error, so their order does not matter.
    """
    _, level, clips = np.unique(spread, return_inverse=True, return_counts=True)
    errors = np.repeat(np.bincount(level, np.abs(score - target)) / clips, clips)
    counts = sorted({max(1, round(share * len(errors))) for share in np.linspace(0.1, 1, 10)})
    return {
        "coverage": [count / len(errors) for count in counts],
        "mae": [float(errors[:count].mean()) for count in counts],
    }


def plot(path: pathlib.Path, score: np.ndarray, target: np.ndarray, report: dict[str, Any], title: str) -> None:
    """Plots calibration, differences (Bland–Altman), the confusion table, and error by share of clips scored.

    ``report`` is what ``evaluation.write_report`` returns on the (N,) scores and ratings.
    """
    figure = new_figure(10, 8.4)
    figure.suptitle(title)
    (calibrated, differences), (table, risk) = figure.subplots(2, 2)
    _plot_calibration(calibrated, score, target)
    _plot_differences(differences, score, target)
    _plot_confusion(table, report["confusion"])
    curve = report["risk_coverage"]
    risk.plot(curve["coverage"], curve["mae"], marker=".")
    risk.set(xlabel="share of clips scored, surest first", ylabel="mean absolute error", xlim=(0, 1.03), ylim=(0, None))
    risk.set_title("Error without the least certain clips")
    save_figure(figure, path)


def _plot_calibration(axes: Any, score: np.ndarray, target: np.ndarray) -> None:
    known = np.unique(target)
    chosen = [score[target == rating] for rating in known]
    if len(known) > _MOST_RATINGS:
        edges = np.quantile(target, np.linspace(0, 1, _MOST_RATINGS))
        part = np.clip(np.searchsorted(edges, target, side="right") - 1, 0, len(edges) - 2)
        chosen = [score[part == i] for i in np.unique(part)]
        known = np.array([target[part == i].mean() for i in np.unique(part)])
    axes.plot([known[0], known[-1]], [known[0], known[-1]], color="0.8", zorder=0)
    spread = [np.std(values) for values in chosen]
    axes.errorbar(known, [values.mean() for values in chosen], spread, fmt="o", capsize=3)
    for rating, values in zip(known, chosen, strict=True):
        axes.annotate(f"n={len(values)}", (rating, values.mean()), (5, -10), textcoords="offset points", fontsize=8)
    axes.set(xlabel="clinician's rating", ylabel="mean score (bars: standard deviation)", title="Calibration")


def _plot_differences(axes: Any, score: np.ndarray, target: np.ndarray) -> None:
    axes.scatter((score + target) / 2, score - target, s=16, alpha=0.6)
    for value, label, style in (
        (metrics.bias(score, target), "bias", "-"),
        (metrics.limit_low(score, target), "lower limit", "--"),
        (metrics.limit_high(score, target), "upper limit", "--"),
    ):
        if np.isfinite(value):
            axes.axhline(value, color="C3", linestyle=style, linewidth=1)
            axes.annotate(
                f"{label} {value:+.2f}", (1, value), (-3, 3), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="right", fontsize=8,
            )  # fmt: skip
    axes.set(xlabel="mean of score and rating", ylabel="score − rating")
    axes.set_title("Bland–Altman, 95% limits of agreement")


def _plot_confusion(axes: Any, table: dict[str, list[Any]]) -> None:
    clips, labels = np.array(table["clips"]), [f"{rating:g}" for rating in table["ratings"]]
    axes.imshow(clips, cmap="Blues")
    if len(labels) <= _MOST_RATINGS:
        for (row, column), count in np.ndenumerate(clips):
            colour = "white" if count > clips.max() / 2 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    some = range(0, len(labels), -(-len(labels) // _MOST_RATINGS))
    axes.set_xticks(some, labels[:: some.step])
    axes.set_yticks(some, labels[:: some.step])
    axes.set(xlabel="whole score", ylabel="clinician's rating", title="Clips by rating")
