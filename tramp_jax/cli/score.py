"""``tramp-jax score``: videos -> a table of scores with intervals, and a report for each."""

import argparse
import csv
import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tramp_jax.scoring import Scored, Scorer

COLUMNS = (
    "input",
    "status",
    "score",
    "low",
    "high",
    "level",
    "expression",
    "frames",
    "fps",
    "missing_ratio",
    "landmarks",
    "model",
    "interval",
    "warnings",
    "reason",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="a video, a folder of images, a clip of preprocess, or a pattern"
    )
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        type=Path,
        required=True,
        metavar="RUN",
        help="folder of a run of train.py (or RUN/fold_0); several make an ensemble",
    )
    parser.add_argument("--which", default="best", help="checkpoint of the run: best (default), last, or a step")
    parser.add_argument("--expression", default="", help="that the person was asked for; default: what the model knows")
    parser.add_argument("--out", type=Path, default=Path("scores.csv"), help="table of scores (default scores.csv)")
    parser.add_argument("--overwrite", action="store_true", help="score what --out has already, too")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write a report for each input into this folder")
    parser.add_argument("--no-attribution", action="store_true", help="leave out of reports what moved the score")
    parser.add_argument("--draws", type=int, default=16, help="windows scored for the interval; 0: none (default 16)")
    parser.add_argument("--device", choices=("cpu", "gpu", "tpu"), help="default: the best there is")
    parser.add_argument(
        "--runtime",
        choices=("auto", "jax", "onnx"),
        default="auto",
        help="what computes scores; auto (default): onnx on a CPU if it is installed, which is faster, else jax",
    )
    parser.add_argument(
        "--landmarks",
        choices=("mediapipe", "insightface", "lucas-kanade"),
        default="mediapipe",
        help="of videos: should be what the model was trained with (see preprocess --help)",
    )
    parser.add_argument("--models-dir", type=Path, help="folder with the model files of the landmark source")
    parser.add_argument("--max-gap", type=int, default=5, help="frames without a face that are bridged (default 5)")
    parser.add_argument(
        "--keep",
        choices=("error", "longest"),
        default="error",
        help="a face that cannot be followed throughout: refuse the video (default) or keep the longest part",
    )


def run(arguments: argparse.Namespace) -> int:
    import jax
    from tqdm import tqdm

    from tramp_jax import commands
    from tramp_jax.preprocess import PreprocessOptions, SourceOptions
    from tramp_jax.scoring import Scorer

    if arguments.device:
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(arguments.device, arguments.device))
    commands.keep_compiled()
    inputs = expand(arguments.inputs)
    table = Table(arguments.out, arguments.overwrite)
    scorer = Scorer(
        *arguments.checkpoint,
        which=arguments.which,
        landmarks=arguments.landmarks,
        source_options=SourceOptions(models_dir=arguments.models_dir),
        options=PreprocessOptions(max_gap=arguments.max_gap, keep=arguments.keep),
        draws=arguments.draws,
        runtime=arguments.runtime,
    )
    scorer.check_expression(arguments.expression)
    table.check_model(_model(scorer))
    reports = _Reports(arguments.report, inputs, not arguments.no_attribution) if arguments.report else None
    # What is in the table already is scored again only for a report that is not there yet.
    todo = [path for path in inputs if path not in table.done or (reports and reports.lacks(path))]
    failed = 0
    with table:
        for path in tqdm(todo, unit="clip", disable=None):
            try:
                scored = scorer.score(path, arguments.expression)
                if reports:
                    reports.write(path, scorer, scored)
            except (ValueError, OSError) as error:
                failed += 1
                if path not in table.done:
                    table.add({"input": path, "status": "failed", "reason": str(error)})
                tqdm.write(f"error: {error}", file=sys.stderr)
                continue
            if path not in table.done:
                table.add(_row(path, scorer, scored))
            tqdm.write(_line(path, scored), file=sys.stdout)
            for warning in scored.warnings:
                tqdm.write(f"  warning: {warning}", file=sys.stdout)
    skipped = len(inputs) - len(todo)
    sys.stdout.write(
        f"{len(todo) - failed} scored, {failed} failed, {skipped} were there already: {arguments.out}"
        + (f"; reports in {arguments.report}" if arguments.report else "")
        + "\n"
    )
    return 1 if failed else 0


def expand(patterns: Sequence[str]) -> list[str]:
    """The inputs that names and patterns stand for, each once; a name that exists is never a pattern.

    Raises:
      ValueError: a pattern that nothing matches.
    """
    found: list[str] = []
    for pattern in patterns:
        if os.path.exists(pattern) or not glob.has_magic(pattern):
            found.append(pattern)
            continue
        matches = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
        if not matches:
            raise ValueError(f"{pattern}: nothing matches this pattern")
        found += matches
    return list(dict.fromkeys(found))


class Table:
    """The CSV file of scores: rows are appended as they come, and those of an earlier call stay.

    Attributes:
      done: inputs that were scored earlier; failed ones are tried again.

    Raises:
      ValueError: the file is there and is another table.
    """

    def __init__(self, path: Path, overwrite: bool):
        self.path = path
        kept: list[dict[str, str]] = []
        if path.exists() and not overwrite:
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                if tuple(reader.fieldnames or ()) != COLUMNS:
                    raise ValueError(f"{path} is not a table of scores of this version; name another file with --out")
                kept = [row for row in reader if row["status"] == "ok" and row["reason"] is not None]
        self.done = {row["input"] for row in kept}
        self._kept = kept

    def check_model(self, model: str) -> None:
        """Refuses to stand scores of two models in one table.

        Raises:
          ValueError: a row is of another model.
        """
        if others := {row["model"] for row in self._kept} - {model}:
            raise ValueError(
                f"{self.path} has scores of another model ({sorted(others)[0]}, not {model}); name another table with "
                "--out, or replace it with --overwrite"
            )

    def __enter__(self) -> "Table":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".{self.path.name}.partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self._kept)
        os.replace(partial, self.path)
        self._file = self.path.open("a", newline="", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, row: dict[str, object]) -> None:
        """Appends one row; it is on disk when this returns."""
        csv.DictWriter(self._file, COLUMNS, restval="").writerow(row)
        self._file.flush()


class _Reports:
    """A report for each input, under names that do not collide."""

    def __init__(self, folder: Path, inputs: Sequence[str], attribute: bool):
        folder.mkdir(parents=True, exist_ok=True)
        self._attribute = attribute
        self._paths: dict[str, Path] = {}
        for path in inputs:
            name, count = Path(path).stem or "clip", 2
            while folder / f"{name}.html" in self._paths.values():
                name, count = f"{Path(path).stem}-{count}", count + 1
            self._paths[path] = folder / f"{name}.html"

    def lacks(self, path: str) -> bool:
        """Whether the report of an input is not there."""
        return not self._paths[path].exists()

    def write(self, path: str, scorer: "Scorer", scored: "Scored") -> None:
        from tramp_jax.evidence.report import write_report

        write_report(self._paths[path], scorer.evidence(scored, self._attribute))


def _row(path: str, scorer: "Scorer", scored: "Scored") -> dict[str, object]:
    low, high = scored.interval or ("", "")
    return {
        "input": path,
        "status": "ok",
        "score": f"{scored.score:.4f}",
        "low": f"{low:.4f}" if scored.interval else "",
        "high": f"{high:.4f}" if scored.interval else "",
        "level": scored.level or "",
        "expression": scored.clip.info.expression,
        "frames": len(scored.clip.landmarks),
        "fps": f"{scored.clip.fps:g}",
        "missing_ratio": "" if scored.missing_ratio != scored.missing_ratio else f"{scored.missing_ratio:.4f}",
        "landmarks": scored.landmark_source,
        "model": _model(scorer),
        "interval": scored.note,
        "warnings": "; ".join(scored.warnings),
        "reason": "",
    }


def _model(scorer: "Scorer") -> str:
    return " ".join(member.id for member in scorer.members)


def _line(path: str, scored: "Scored") -> str:
    interval = f" [{scored.interval[0]:.2f}, {scored.interval[1]:.2f}]" if scored.interval else ""
    return f"{path}: {scored.score:.2f}{interval}  ({scored.note})"
