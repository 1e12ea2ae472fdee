"""Writes docs/results.md: the paper's figures of every study, the command that fills ours, and what has been measured.

    python -m benchmarks.results_page [DIR ...]    # DIR: the --out of a finished `tramp-jax study`
    python -m benchmarks.results_page --costs      # counts again what the studies cost, which takes minutes

Measured tables are kept in benchmarks/results/studies; a DIR replaces the one of the same study. Keep it on the machine
that trained it, whose name it gets. Remarks on a study belong in NAME.notes.md, which nothing overwrites.
"""

import argparse
import datetime
import pathlib
import re
import shutil

from benchmarks import timing
from tramp_jax.studies import cost, plan, table

PAGE, KEPT = pathlib.Path("docs/results.md"), pathlib.Path("benchmarks/results/studies")
COSTS = KEPT / "costs.md"
SEEDS = 3  # of ``tramp-jax study``, if none are given
CORE = 0.017  # TFLOP/s of a CPU core in training: 17.7 clips/s × 3 × 0.318 GFLOP in the kept study two_streams
ORDER = (
    "main", "classification", "streams", "fusion", "blocks", "padding", "length", "landmarks", "released", "beyond",
)  # fmt: skip
_PAPER = {"pfed5": "PFED5", "neuroface": "NeuroFace"}
_INTRODUCTION = """# Results

Written by `python -m benchmarks.results_page`. [studies.md](studies.md) says what the columns mean.

The clinical data sets cannot be shared, and we do not have them. For these, this page has the paper's figures and the
command that fills in ours. A study on drawn faces appears once it has run at the recipe's own size. It shows what the
options do to a model that learns from clean faces and a known severity, not what they do on patients.
"""


def keep(folder: pathlib.Path) -> None:
    """Keeps the table and figure of a finished study, with the day of its last run and the machine."""
    ended = max(path.stat().st_mtime for path in folder.glob("runs/**/*.json") if path.stem.isdigit())
    machine = timing.machine()
    what = ", ".join(f"{name}: {machine[name]}" for name in ("processor", "cores", "devices", "jax"))
    dated = f"{(folder / table.MARKDOWN).read_text()}\nMeasured {datetime.date.fromtimestamp(ended)} ({what}).\n"
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{folder.name}.md").write_text(dated)
    shutil.copy(folder / table.FIGURE, PAGE.parent / "images" / f"study_{folder.name}.png")


def page() -> str:
    """The whole page."""
    return "\n".join([_INTRODUCTION, *(part for name in _names() for part in _of_study(name)), COSTS.read_text()])


def costs() -> str:
    """What the studies cost, without running them."""
    clinical = [(name, data, None) for name in _names() for data in _PAPER if data in plan.load(name, data).meant_for]
    drawn = [(name, "synthetic", CORE) for name in ("padding", "length")]
    head = ["study", "data", "runs", "training steps", "hours"]
    return "\n".join([
        "## What the studies cost",
        "",
        f"By `tramp-jax study NAME --data DATA --dry-run`, with {SEEDS} seeds, on a GPU that reaches {cost.ASSUMED}. "
        "Evaluation and reading come on top. The numbers of clips are the published ones.",
        "",
        *_table(head, [_cost(*each) for each in clinical]),
        "",
        f"Not run yet on drawn faces. Hours are those of one CPU core (`--tflops {CORE}`, the speed of the study "
        "`two_streams` above):",
        "",
        *_table(head, [_cost(*each) for each in drawn]),
        "",
    ])  # fmt: skip


def _cost(name: str, data: str, tflops: float | None) -> list[str]:
    study = plan.load(name, data)
    runs = plan.runs(study, "", pathlib.Path("OUT"), SEEDS)
    found = [cost.estimate(r.config, r.column, study.expected_clips, tflops) for r in runs if not r.row.method]
    steps, hours = sum(each.steps for each in found), sum(each.hours for each in found)
    return [name, data, str(len(runs)), f"{steps:,}", f"{hours:.3g}"]


def _names() -> list[str]:
    return [*ORDER, *sorted(path.stem for path in plan.STUDIES.glob("*.toml") if path.stem not in ORDER)]


def _of_study(name: str) -> list[str]:
    studies = {data: plan.load(name, data) for data in _PAPER}
    lines = [f"## {studies['pfed5'].title}", ""]
    for data, study in studies.items():
        if any(row.paper for row in study.rows):
            columns = [column.replace("_", " ") for column in study.columns]
            rows = [[row.name, *_paper(row.paper, len(columns))] for row in study.rows if row.paper]
            lines += [f"{_PAPER[data]}, the paper's ρ × 100:", "", *_table(["", *columns, "mean"], rows), ""]
    meant_for = studies["pfed5"].meant_for
    commands = [f"tramp-jax study {name} --data {d} --root DATA --out results/{d}/{name}" for d in meant_for]
    lines += ["```", *commands, "```", ""] if commands else []
    kept = KEPT / f"{name}.md"
    if kept.is_file():
        body = kept.read_text().partition("\n")[2].strip()
        seeds = re.search(r"(\d+) seeds?\.", body)
        assert seeds, f"{kept} does not say how many seeds it has"
        command = f"`tramp-jax study {name} --seeds {seeds[1]} --out results/{name}`"
        lines += ["### On drawn faces", "", command, "", body, ""]
        lines += [f"![{name}](images/study_{name}.png)", ""]
    notes = KEPT / f"{name}.notes.md"
    return [*lines, notes.read_text()] if notes.is_file() else lines


def _paper(figures: tuple[float, ...], columns: int) -> list[str]:
    given = [f"{figure:.2f}" for figure in figures]
    return given if len(given) > 1 else ["–"] * columns + given


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=pathlib.Path, nargs="*", metavar="DIR", help="the --out of a finished study")
    parser.add_argument("--costs", action="store_true", help="count again what the studies cost")
    options = parser.parse_args()
    for folder in options.folders:
        keep(folder)
    if options.costs:
        COSTS.write_text(costs())
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
