"""Writes docs/results.md: the paper's figures of every study, the command that fills ours, and what has been measured.

    python -m benchmarks.results_page [DIR ...]    # DIR: the --out of a finished `tramp-jax study`

Measured tables are kept in benchmarks/results/studies; a DIR replaces the one of the same study.
"""

import argparse
import datetime
import pathlib
import platform
import re
import shutil

from tramp_jax.studies import plan, table

PAGE, KEPT = pathlib.Path("docs/results.md"), pathlib.Path("benchmarks/results/studies")
ORDER = (
    "main", "classification", "streams", "fusion", "blocks", "padding", "length", "landmarks", "released", "beyond",
)  # fmt: skip
_PAPER = {"pfed5": "PFED5", "neuroface": "NeuroFace"}
_INTRODUCTION = """# Results

Written by `python -m benchmarks.results_page`. [studies.md](studies.md) says what the columns mean.

The clinical data sets cannot be shared, and we do not have them. For these, you find the paper's figures and the
command that fills ours. A study on drawn faces appears here once it has been run at the recipe's own size. It shows
what the options do to a model that learns from clean faces and a known severity, not what they do on patients.
"""


def keep(folder: pathlib.Path) -> None:
    """Keeps the table and figure of a finished study, with the date and the machine."""
    text = (folder / table.MARKDOWN).read_text()
    KEPT.mkdir(parents=True, exist_ok=True)
    machine = f"{platform.machine()}, {platform.system()}"
    dated = f"{text}\nMeasured {datetime.date.today()} ({machine}).\n"
    (KEPT / f"{folder.name}.md").write_text(dated)
    shutil.copy(folder / table.FIGURE, PAGE.parent / "images" / f"study_{folder.name}.png")


def page() -> str:
    """The whole page."""
    names = [*ORDER, *sorted(path.stem for path in plan.STUDIES.glob("*.toml") if path.stem not in ORDER)]
    return "\n".join([_INTRODUCTION, *(part for name in names for part in _of_study(name))])


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
    return lines


def _paper(figures: tuple[float, ...], columns: int) -> list[str]:
    given = [f"{figure:.2f}" for figure in figures]
    return given if len(given) > 1 else ["–"] * columns + given


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=pathlib.Path, nargs="*", metavar="DIR", help="the --out of a finished study")
    for folder in parser.parse_args().folders:
        keep(folder)
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
