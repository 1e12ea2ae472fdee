"""The outcome of a study as a Markdown table, a CSV table and a figure."""

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tramp_jax import metrics, run
from tramp_jax.checkpoint import BEST
from tramp_jax.data import tables
from tramp_jax.data.datasets import TEST
from tramp_jax.evaluation import Written, read_predictions
from tramp_jax.files import write_atomically
from tramp_jax.studies import runner
from tramp_jax.studies.plan import MEAN, Row, Run, Study
from tramp_jax.training_log import new_figure, save_figure

MARKDOWN, TABLE, FIGURE = "table.md", "table.csv", "table.png"
DRAWS = 1000
# The metrics of a table; the first one is compared. Figures are × 100, as in the paper, except for the absolute error.
_OF_SCORES, _OF_CLASSES = ("spearman", "mae", "icc_a1"), ("accuracy", "precision", "recall", "specificity", "f1")
_WORDS = {"spearman": "ρ × 100", "mae": "mean absolute error", "icc_a1": "ICC(A,1) × 100"}


class Part(NamedTuple):
    """The predictions of one fold of one run."""

    column: str
    seed: int
    written: Written


class Line(NamedTuple):
    """A row of the table.

    Attributes:
      row: the study's row.
      parts: the predictions of its finished runs.
      measured: parameters, FLOPs and clips per second, where known.
      failed: why runs failed.
      missing: number of runs that have not ended.
    """

    row: Row
    parts: list[Part]
    measured: dict[str, float]
    failed: list[str]
    missing: int


class Figures(NamedTuple):
    """A metric of a row, with 95 % intervals over people. NaN stands for what is unknown.

    Attributes:
      value: its mean over columns, seeds and folds.
      spread: its standard deviation over seeds.
      difference: from the reference row, on the clips that they share.
    """

    value: float = math.nan
    spread: float = math.nan
    interval: metrics.Interval = (math.nan, math.nan)
    difference: float = math.nan
    difference_interval: metrics.Interval = (math.nan, math.nan)


def write(study: Study, runs: Sequence[Run], out: pathlib.Path, draws: int) -> str:
    """Writes the tables and the figure from the runs done so far; returns the Markdown.

    Args:
      study: the study.
      runs: all runs of the study.
      out: the folder to write into.
      draws: number of resamplings of people for intervals.
    """
    lines = [_line(row, [each for each in runs if each.row is row]) for row in study.rows]
    reference = next(line for line in lines if line.row.name == study.reference)
    names = _OF_CLASSES if runs[0].config.model.head.num_classes else _OF_SCORES
    found = {
        (line.row.name, column, metric): _figures(
            metric,
            [name for name in study.columns if column in (MEAN, name)],
            _of_column(line, column),
            [] if line is reference else _of_column(reference, column),
            draws if metric == names[0] else 0,  # only the first metric is shown with intervals
        )
        for line in lines
        for column in (*study.columns, MEAN)
        for metric in names
    }
    text = _markdown(study, lines, names, found)
    write_atomically(out / MARKDOWN, text)
    write_atomically(out / TABLE, _csv(study, lines, names, found))
    _plot(out / FIGURE, study, lines, names[0], found)
    return text


def _line(row: Row, runs: Sequence[Run]) -> Line:
    parts: list[Part] = []
    measured: dict[str, list[float]] = {}
    failed: list[str] = []
    missing = 0
    for each in runs:
        ended = runner.outcome(each)
        if runner.is_done(each):
            folders = sorted(each.folder.glob("fold_*")) or [each.folder]
            reports = [run.evaluation_folder(folder, TEST, BEST) for folder in folders]
            parts += [Part(each.column, each.seed, read_predictions(folder)) for folder in reports]
            for name in ("parameters", "flops", "clips_per_second"):
                if ended and name in ended:
                    measured.setdefault(name, []).append(ended[name])
        elif ended and ended["error"] is not None:
            failed.append(ended["error"])
        else:
            missing += 1
    return Line(row, parts, {name: float(np.median(values)) for name, values in measured.items()}, failed, missing)


def _of_column(line: Line, column: str) -> list[Part]:
    return [part for part in line.parts if column in (MEAN, part.column)]


def _figures(metric: str, columns: Sequence[str], parts: Sequence[Part], others: Sequence[Part], draws: int) -> Figures:
    """The figures of a row, and its difference from ``others`` on the clips they share, if there are any.

    ``draws`` is the number of resamplings of people; 0 for no intervals.
    """
    if not parts:
        return Figures()
    own, theirs = (_mean_of(metric, columns, group) for group in (parts, others))
    subjects, count = _subjects((*parts, *others)), len(_subjects(parts))
    clips = [(part.column, clip) for part in (*parts, *others) for clip in part.written.clips]
    common = set(clips[:count]) & set(clips[count:])
    paired = np.array([row for row, clip in enumerate(clips) if clip in common], int)

    def difference(rows: np.ndarray) -> float:
        rows = paired[rows]
        return own(rows[rows < count]) - theirs(rows[rows >= count] - count)

    by_seed = [value for value in _by_seed(metric, columns, parts) if np.isfinite(value)]
    figures = Figures(own(np.arange(count)), float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else math.nan)
    if draws:
        figures = figures._replace(interval=metrics.bootstrap(own, subjects[:count], draws))
    if common:
        both = [subjects[row] for row in paired]
        figures = figures._replace(difference=difference(np.arange(len(both))))
        if draws:
            figures = figures._replace(difference_interval=metrics.bootstrap(difference, both, draws))
    return figures


def _subjects(parts: Sequence[Part]) -> list[str]:
    return [subject for part in parts for subject in part.written.subjects]


def _by_seed(metric: str, columns: Sequence[str], parts: Sequence[Part]) -> list[float]:
    """The metric's mean over columns, for each seed."""
    groups = [[part for part in parts if part.seed == seed] for seed in sorted({part.seed for part in parts})]
    return [_mean_of(metric, columns, group)(np.arange(len(_subjects(group)))) for group in groups]


def _mean_of(metric: str, columns: Sequence[str], parts: Sequence[Part]) -> Callable[[np.ndarray], float]:
    """A function from row numbers in the joined clips of ``parts`` to the metric's mean over columns.

    Within a column, it is the mean over the seeds and folds in which it is defined. It is NaN if a column has none:
    columns differ so much that a mean over fewer of them cannot be compared.
    """
    sizes = [len(part.written.clips) for part in parts]
    starts = np.cumsum([0, *sizes])
    measure = (metrics.REGRESSION | metrics.CLASSIFICATION)[metric]

    def mean(rows: np.ndarray) -> float:
        found: dict[str, list[float]] = {column: [] for column in columns}
        for part, start, size in zip(parts, starts[:-1], sizes, strict=True):
            own = rows[(rows >= start) & (rows < start + size)] - start
            if len(own):
                value = measure(part.written.measured_by(metric)[own], part.written.target[own])
                if np.isfinite(value):
                    found[part.column].append(value)
        if not all(found.values()):
            return math.nan
        return float(np.mean([np.mean(values) for values in found.values()]))

    return mean


def _words(metric: str) -> str:
    return _WORDS.get(metric, f"{metric} × 100")


def _text(value: float, metric: str, sign: str = "") -> str:
    if not np.isfinite(value):
        return "–"
    return f"{value:{sign}.2f}" if metric == "mae" else f"{100 * value:{sign}.1f}"


def _between(interval: metrics.Interval, metric: str, sign: str = "") -> str:
    low, high = (_text(end, metric, sign) for end in interval)
    return f" [{low}, {high}]" if np.isfinite(interval[0]) else ""


def _markdown(
    study: Study, lines: Sequence[Line], names: Sequence[str], found: Mapping[tuple[str, str, str], Figures]
) -> str:
    first, *others = names
    columns = list(study.columns) if len(study.columns) > 1 else []
    with_paper = any(line.row.paper for line in lines)
    head = ["", *columns, f"{_words(first)}, mean", *(["paper"] if with_paper else [])]
    head += [f"− {study.reference}", *(_words(metric) for metric in others)]
    head += ["M parameters", "GFLOP a clip", "clips/s"]
    rows = []
    notes = []
    for line in lines:
        name = line.row.name
        cells = [name]
        for i, column in enumerate(columns):
            paper = f" ({line.row.paper[i]:g})" if len(line.row.paper) > 1 else ""
            cells.append(_text(found[name, column, first].value, first) + paper)
        mean = found[name, MEAN, first]
        spread = f" ± {_text(mean.spread, first)}" if np.isfinite(mean.spread) else ""
        cells.append(_text(mean.value, first) + spread + _between(mean.interval, first))
        if with_paper:
            cells.append(f"{line.row.paper[-1]:g}" if line.row.paper else "–")
        cells.append(_text(mean.difference, first, "+") + _between(mean.difference_interval, first, "+"))
        cells += [_text(found[name, MEAN, metric].value, metric) for metric in others]
        units = {"parameters": 1e6, "flops": 1e9, "clips_per_second": 1}
        cells += [f"{line.measured[n] / unit:.3g}" if n in line.measured else "–" for n, unit in units.items()]
        rows.append(cells)
        notes += [f"- {name}: failed: {' '.join(reason.split())}" for reason in dict.fromkeys(line.failed)]
        if line.missing:
            notes.append(f"- {name}: runs that have not ended: {line.missing}")
        undefined = [part for part in line.parts if not np.isfinite(_by_seed(first, [part.column], [part])[0])]
        if undefined:
            what = f"{_words(first)} is undefined in {len(undefined)} of {len(line.parts)} test sets"
            notes.append(f"- {name}: {what}, because scores or ratings are equal; means ignore these")
    seeds = len({part.seed for line in lines for part in line.parts})
    people = len({subject for line in lines for part in line.parts for subject in part.written.subjects})
    legend = (
        f"On `{study.data}`: {people} test people, {seeds} seed{'s' if seeds != 1 else ''}. ± is the standard "
        "deviation over seeds; intervals are 95 % over people, and differences are on the same people. Validation "
        "people selected the checkpoint."
    )
    if with_paper and columns:
        legend += " Figures in parentheses are the paper's."
    title = f"# {study.title}{': a test run with tiny settings' if study.quick else ''}"
    warning = "The models are too small and trained too briefly: the figures mean nothing."
    escaped = ([cell.replace("|", r"\|") for cell in cells] for cells in (head, ["---"] * len(head), *rows))
    table = ["| " + " | ".join(cells) + " |" for cells in escaped]
    before, after = [warning, ""] if study.quick else [], ["", *notes] if notes else []
    return "\n".join([title, "", *before, legend, "", *table, *after]) + "\n"


def _csv(
    study: Study, lines: Sequence[Line], names: Sequence[str], found: Mapping[tuple[str, str, str], Figures]
) -> str:
    """One line per row, column and metric. Values are not × 100, except for the paper's."""
    measures = ("value", "sd_over_seeds", "low", "high", "difference", "difference_low", "difference_high")
    costs = ("parameters", "flops", "clips_per_second")
    rows = [["row", "column", "metric", *measures, "paper", *costs, "failed", "missing"]]
    for line in lines:
        for i, column in enumerate((*study.columns, MEAN)):
            for metric in names:
                f = found[line.row.name, column, metric]
                numbers = (f.value, f.spread, *f.interval, f.difference, *f.difference_interval)
                paper: Any = ""
                if metric == names[0] and line.row.paper and (column == MEAN or len(line.row.paper) > 1):
                    paper = line.row.paper[-1 if column == MEAN else i]
                rows.append(
                    [line.row.name, column, metric]
                    + [f"{x:.6f}" if np.isfinite(x) else "" for x in numbers]
                    + [paper, *(line.measured.get(name, "") for name in costs)]
                    + ["; ".join(dict.fromkeys(line.failed)), line.missing]
                )
    return tables.csv_text(rows)


def _plot(
    path: pathlib.Path, study: Study, lines: Sequence[Line], metric: str, found: Mapping[tuple[str, str, str], Figures]
) -> None:
    """Plots the compared metric of every row with its interval over people, each seed, and the paper's figure."""
    figure = new_figure(7, 1.2 + 0.42 * len(lines))
    axes = figure.subplots()
    for place, line in enumerate(lines):
        f = found[line.row.name, MEAN, metric]
        if np.isfinite(f.interval[0]):
            axes.plot([100 * end for end in f.interval], [place, place], color="C0", linewidth=2, alpha=0.5)
        if np.isfinite(f.value):
            axes.plot(100 * f.value, place, "o", color="C0", label="mean, 95 % over people" if place == 0 else None)
        for value in _by_seed(metric, list(study.columns), line.parts):
            axes.plot(100 * value, place - 0.2, ".", color="0.6", markersize=5)
        if line.row.paper:
            axes.plot(line.row.paper[-1], place, "D", color="C3", markerfacecolor="none")
    axes.set_yticks(range(len(lines)), [line.row.name for line in lines])
    axes.invert_yaxis()
    axes.set(xlabel=_words(metric))
    quick = " (tiny settings: figures mean nothing)" if study.quick else ""
    what = "circle: mean, bar: 95 % over people, dots: seeds"
    what += ", diamond: paper" if any(line.row.paper for line in lines) else ""
    axes.set_title(f"{study.title}{quick}\n{what}", fontsize="small")
    axes.grid(axis="x", color="0.9")
    save_figure(figure, path)
