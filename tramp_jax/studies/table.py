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
from tramp_jax.evaluation import Written, measured_by, read_predictions
from tramp_jax.files import write_atomically
from tramp_jax.studies import runner
from tramp_jax.studies.plan import MEAN, Row, Run, Study
from tramp_jax.training_log import new_figure, save_figure

MARKDOWN, TABLE, FIGURE = "table.md", "table.csv", "table.png"
DRAWS = 1000
# The metrics of a table; the first one is compared. Figures are × 100, as in the paper, except for the absolute error.
_OF_SCORES, _OF_CLASSES = ("spearman", "mae", "icc_a1"), ("accuracy", "precision", "recall", "specificity", "f1")
_WORDS = {"spearman": "ρ × 100", "mae": "mean absolute error", "icc_a1": "ICC(A,1) × 100"}
_Value = Callable[[np.ndarray, np.ndarray], float]  # of row numbers and seeds


class Part(NamedTuple):
    """The predictions of one fold of one run."""

    column: str
    seed: int
    written: Written


class Line(NamedTuple):
    """A row of the table."""

    row: Row
    parts: list[Part]  # the predictions of its finished runs
    measured: dict[str, float]  # parameters, FLOPs and clips per second, where known
    failed: list[str]
    missing: int  # number of runs that have not ended


class Figures(NamedTuple):
    """A metric of a row, with 95% intervals over people and seeds. NaN stands for what is unknown."""

    value: float = math.nan  # its mean over columns, seeds and folds
    spread: float = math.nan  # its standard deviation over seeds
    interval: metrics.Interval = (math.nan, math.nan)
    difference: float = math.nan  # from the reference row, on the seeds and clips that they share
    difference_interval: metrics.Interval = (math.nan, math.nan)


def write(study: Study, runs: Sequence[Run], out: pathlib.Path, draws: int) -> str:
    """Writes the tables and the figure from the runs done so far; returns the Markdown."""
    lines = [_line(row, [each for each in runs if each.row is row]) for row in study.rows]
    reference = next(line for line in lines if line.row.name == study.reference)
    names = _OF_CLASSES if runs[0].config.model.head.num_classes else _OF_SCORES
    found = {
        (line.row.name, column, metric): _figures(
            metric,
            [name for name in study.columns if column in (MEAN, name)],
            _of_column(line, column),
            [] if line is reference else _of_column(reference, column),
            draws,
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
    """The figures of a row, and its difference from ``others`` on the seeds and clips they share, if there are any.

    ``draws`` is the number of resamplings of people and seeds; 0 for no intervals.
    """
    if not parts:
        return Figures()
    value = _mean_of(metric, columns, parts)
    by_seed = [each for each in _by_seed(metric, columns, parts) if np.isfinite(each)]
    spread = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else math.nan
    seeds = _seeds(parts)
    figures = Figures(value(_all_rows(parts), seeds), spread, _interval(value, _subjects(parts), seeds, draws))

    shared = {(part.column, part.seed) for part in parts} & {(part.column, part.seed) for part in others}
    ours, theirs = ([part for part in group if (part.column, part.seed) in shared] for group in (parts, others))
    subjects, count = _subjects((*ours, *theirs)), len(_subjects(ours))
    clips = [(part.column, clip) for part in (*ours, *theirs) for clip in part.written.clips]
    common = set(clips[:count]) & set(clips[count:])
    if not common:
        return figures
    paired = np.array([row for row, clip in enumerate(clips) if clip in common])
    one, other = (_mean_of(metric, columns, group) for group in (ours, theirs))

    def difference(rows: np.ndarray, seeds: np.ndarray) -> float:
        rows = paired[rows]
        return one(rows[rows < count], seeds) - other(rows[rows >= count] - count, seeds)

    interval = _interval(difference, [subjects[row] for row in paired], _seeds(ours), draws)
    return figures._replace(difference=difference(np.arange(len(paired)), _seeds(ours)), difference_interval=interval)


def _interval(value: _Value, subjects: Sequence[str], seeds: np.ndarray, draws: int) -> metrics.Interval:
    """The 95% interval of ``value`` over ``draws`` resamplings of people and, independently, of seeds."""
    rng = np.random.default_rng(1)  # the people are drawn from 0
    return metrics.bootstrap(lambda rows: value(rows, rng.choice(seeds, len(seeds))), subjects, draws)


def _all_rows(parts: Sequence[Part]) -> np.ndarray:
    return np.arange(sum(len(part.written.clips) for part in parts))


def _seeds(parts: Sequence[Part]) -> np.ndarray:
    return np.unique([part.seed for part in parts])


def _subjects(parts: Sequence[Part]) -> list[str]:
    return [subject for part in parts for subject in part.written.subjects]


def _by_seed(metric: str, columns: Sequence[str], parts: Sequence[Part]) -> list[float]:
    """The metric's mean over columns, for each seed."""
    value, rows = _mean_of(metric, columns, parts), _all_rows(parts)
    return [value(rows, np.array([seed])) for seed in _seeds(parts)]


def _mean_of(metric: str, columns: Sequence[str], parts: Sequence[Part]) -> _Value:
    """A function from row numbers in the joined clips of ``parts``, and seeds, to the metric's mean over columns.

    Rows and seeds may repeat. Within a column, it is the mean over the seeds and folds in which it is defined. It is
    NaN if a column has none: columns differ so much that a mean over fewer of them cannot be compared.
    """
    sizes = [len(part.written.clips) for part in parts]
    starts = np.cumsum([0, *sizes])
    measure = (metrics.REGRESSION | metrics.CLASSIFICATION)[metric]

    def mean(rows: np.ndarray, seeds: np.ndarray) -> float:
        found: dict[str, list[float]] = {column: [] for column in columns}
        for part, start, size in zip(parts, starts[:-1], sizes, strict=True):
            own = rows[(rows >= start) & (rows < start + size)] - start
            times = int(np.count_nonzero(seeds == part.seed))
            if len(own) and times:
                value = measure(measured_by(metric, part.written)[own], part.written.target[own])
                if np.isfinite(value):
                    found[part.column] += [value] * times
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


def _cell(figures: Figures, metric: str) -> str:
    spread = f" ± {_text(figures.spread, metric)}" if np.isfinite(figures.spread) else ""
    return _text(figures.value, metric) + spread + _between(figures.interval, metric)


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
            cells.append(_cell(found[name, column, first], first) + paper)
        mean = found[name, MEAN, first]
        cells.append(_cell(mean, first))
        if with_paper:
            cells.append(f"{line.row.paper[-1]:g}" if line.row.paper else "–")
        cells.append(_text(mean.difference, first, "+") + _between(mean.difference_interval, first, "+"))
        cells += [_cell(found[name, MEAN, metric], metric) for metric in others]
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
    over = "people and seeds" if seeds > 1 else "people"
    legend = (
        f"On `{study.data}`: {people} test people, {seeds} seed{'s' if seeds != 1 else ''}. ± is the standard "
        f"deviation over seeds; intervals are 95% over {over}, and differences are on the same {over}. Validation "
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
    """Plots the compared metric of every row with its interval, each seed, and the paper's figure."""
    figure = new_figure(7, 1.2 + 0.42 * len(lines))
    axes = figure.subplots()
    for place, line in enumerate(lines):
        f = found[line.row.name, MEAN, metric]
        if np.isfinite(f.interval[0]):
            axes.plot([100 * end for end in f.interval], [place, place], color="C0", linewidth=2, alpha=0.5)
        if np.isfinite(f.value):
            axes.plot(100 * f.value, place, "o", color="C0")
        for value in _by_seed(metric, list(study.columns), line.parts):
            axes.plot(100 * value, place - 0.2, ".", color="0.6", markersize=5)
        if line.row.paper:
            axes.plot(line.row.paper[-1], place, "D", color="C3", markerfacecolor="none")
    axes.set_yticks(range(len(lines)), [line.row.name for line in lines])
    axes.invert_yaxis()
    axes.set(xlabel=_words(metric))
    quick = " (tiny settings: figures mean nothing)" if study.quick else ""
    what = "circle: mean, bar: 95% interval, dots: seeds"
    what += ", diamond: paper" if any(line.row.paper for line in lines) else ""
    axes.set_title(f"{study.title}{quick}\n{what}", fontsize="small")
    axes.grid(axis="x", color="0.9")
    save_figure(figure, path)
