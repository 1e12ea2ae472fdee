"""``tramp-jax score``: videos -> a table of scores with intervals, and a report for each."""

import argparse
import csv
import glob
import hashlib
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
    "frames_used",
    "fps",
    "missing_ratio",
    "landmarks",
    "model",
    "interval",
    "warnings",
    "reason",
    "report",
    "settings",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="a video, a folder of images, a clip of preprocess, a folder of videos or of such clips, or a pattern",
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
    parser.add_argument(
        "--fps",
        type=float,
        help="rate of the clips; default: the video's own, or the training clips' if it is more than 10 %% away",
    )
    parser.add_argument("--images-fps", type=float, default=25.0, help="rate of a folder of images (default 25)")
    parser.add_argument("--max-gap", type=int, default=5, help="frames without a face that are bridged (default 5)")
    parser.add_argument(
        "--keep",
        choices=("error", "longest"),
        default="error",
        help="a face that cannot be followed throughout: refuse the video (default) or keep the longest part",
    )


def run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from tramp_jax import commands
    from tramp_jax.data.readers.folder import DESCRIPTION
    from tramp_jax.preprocess import PreprocessOptions, SourceOptions
    from tramp_jax.scoring import Scorer

    if arguments.device:
        _choose_device(arguments.device)
    commands.keep_compiled()
    inputs = expand(arguments.inputs)
    table = Table(arguments.out, arguments.overwrite)
    options = PreprocessOptions(
        fps=arguments.fps, images_fps=arguments.images_fps, max_gap=arguments.max_gap, keep=arguments.keep
    )
    scorer = Scorer(
        *arguments.checkpoint,
        which=arguments.which,
        landmarks=arguments.landmarks,
        source_options=SourceOptions(models_dir=arguments.models_dir),
        options=options,
        draws=arguments.draws,
        runtime=arguments.runtime,
    )
    scorer.check_expression(arguments.expression)
    table.check_model(_model(scorer))
    reports = _Reports(arguments.report, not arguments.no_attribution) if arguments.report else None
    settings = {path: scorer.settings(path, arguments.expression) for path in inputs}
    # What is in the table already is scored again only for a report that is not there yet.
    todo = [
        path
        for path in inputs
        if (there := table.find(path, settings[path])) is None or (reports and not reports.has(path, there))
    ]
    if not all((Path(path) / DESCRIPTION).is_file() for path in todo):
        scorer.open_source()  # a model that is missing is told before rows of an earlier call are replaced
    failed = 0
    with table:
        for path in tqdm(todo, unit="clip", disable=None):
            row: dict[str, object] = {"input": path, "settings": settings[path]}
            try:
                scored = scorer.score(path, arguments.expression)
            except Exception as error:  # whatever a file does to a library, the others are scored
                failed += 1
                table.add(row | {"status": "failed", "reason": (reason := _reason(path, error))})
                tqdm.write(f"error: {reason}", file=sys.stderr)
                continue
            row |= _row(scorer, scored)
            if reports:
                try:
                    row["report"] = reports.write(path, scorer, scored)
                except Exception as error:  # the score is there all the same
                    failed += 1
                    tqdm.write(f"error: no report: {_reason(path, error)}", file=sys.stderr)
            table.add(row)
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


def _reason(path: str, error: Exception) -> str:
    """What went wrong; errors of libraries do not name the file."""
    return str(error) if isinstance(error, ValueError | OSError) else f"{path}: {type(error).__name__}: {error}"


def _choose_device(name: str) -> None:
    """Raises ValueError where there is no such device."""
    import jax

    jax.config.update("jax_platforms", {"gpu": "cuda"}.get(name, name))
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter says nothing at all
        hint = ' or its JAX is not installed (pip install "jax[cuda13]")' if name == "gpu" else ""
        raise ValueError(f"--device {name}: there is none here{hint}; leave the option out") from error


def expand(patterns: Sequence[str]) -> list[str]:
    """The inputs that names and patterns stand for, each once; a name that exists is never a pattern.

    A folder of videos stands for them, a folder of clips of ``tramp-jax preprocess`` for these.

    Raises:
      ValueError: a pattern that nothing matches, or a folder that holds both videos and images.
    """
    from tramp_jax.data.readers.folder import DESCRIPTION
    from tramp_jax.preprocess import expand_input

    found: list[str] = []
    for pattern in patterns:
        if os.path.exists(pattern) or not glob.has_magic(pattern):
            found.append(pattern)
            continue
        matches = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
        if not matches:
            raise ValueError(f"{pattern}: nothing matches this pattern")
        found += matches
    inputs: list[str] = []
    for name in found:
        clips = sorted(str(file.parent) for file in Path(name).glob(f"*/{DESCRIPTION}"))
        if clips:
            inputs += clips
        else:
            videos = expand_input(name)
            inputs += [name] if len(videos) == 1 and videos[0] == Path(name).expanduser() else map(str, videos)
    return list(dict.fromkeys(inputs))


class Table:
    """The CSV file of scores: rows are appended as they come, and those of other inputs stay.

    An input has one row. It is replaced when the input is scored again, because it failed, or the file, the model's
    calibration or an option is not what it was.

    Raises:
      ValueError: the file is there and is another table.
    """

    def __init__(self, path: Path, overwrite: bool):
        self.path = path
        self._rows: dict[str, dict[str, object]] = {}
        if path.exists() and not overwrite:
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                if tuple(reader.fieldnames or ()) != COLUMNS:
                    raise ValueError(f"{path} is not a table of scores of this version; name another file with --out")
                # A line that was cut short has no settings. The last row of an input is the newest.
                self._rows = {row["input"]: dict(row) for row in reader if row["settings"] is not None}

    def find(self, path: str, settings: str) -> dict[str, object] | None:
        """The row of this input, if it has a score that was made with these settings."""
        row = self._rows.get(path)
        return row if row is not None and (row["status"], row["settings"]) == ("ok", settings) else None

    def check_model(self, model: str) -> None:
        """Refuses to stand scores of two models in one table.

        Raises:
          ValueError: a row is of another model.
        """
        if others := {str(row["model"]) for row in self._rows.values() if row["status"] == "ok"} - {model}:
            raise ValueError(
                f"{self.path} has scores of another model ({sorted(others)[0]}, not {model}); name another table with "
                "--out, or replace it with --overwrite"
            )

    def __enter__(self) -> "Table":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write()
        self._file = self.path.open("a", newline="", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._write()  # without the rows that were replaced

    def _write(self) -> None:
        partial = self.path.with_name(f".{self.path.name}.partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(self._rows.values())
        os.replace(partial, self.path)

    def add(self, row: dict[str, object]) -> None:
        """Appends one row; it is on disk when this returns."""
        csv.DictWriter(self._file, COLUMNS, restval="").writerow(row)
        self._file.flush()
        self._rows[str(row["input"])] = row


class _Reports:
    """A report for each input, under a name that no other input has."""

    def __init__(self, folder: Path, attribute: bool):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._attribute = folder, attribute

    def path(self, path: str) -> Path:
        """The file for an input: its name, and a digest of where it lies, since many a video is called smile.mp4."""
        where = hashlib.sha256(str(Path(path).resolve()).encode()).hexdigest()[:6]
        return self._folder / f"{Path(path).stem or 'clip'}-{where}.html"

    def has(self, path: str, row: dict[str, object]) -> bool:
        """Whether the report of an input is there and was made with its row."""
        file = self.path(path)
        return row["report"] == file.name and file.exists()

    def write(self, path: str, scorer: "Scorer", scored: "Scored") -> str:
        """Returns the name of the file."""
        from tramp_jax.report.writer import write_report

        write_report(self.path(path), scorer.evidence(scored, self._attribute))
        return self.path(path).name


def _row(scorer: "Scorer", scored: "Scored") -> dict[str, object]:
    low, high = scored.interval or ("", "")
    return {
        "status": "ok",
        "score": f"{scored.score:.4f}",
        "low": f"{low:.4f}" if scored.interval else "",
        "high": f"{high:.4f}" if scored.interval else "",
        "level": scored.level or "",
        "expression": scored.clip.info.expression,
        "frames": len(scored.clip.landmarks),
        "frames_used": scored.frames_used,
        "fps": f"{scored.clip.fps:g}",
        "missing_ratio": "" if scored.missing_ratio != scored.missing_ratio else f"{scored.missing_ratio:.4f}",
        "landmarks": scored.landmark_source,
        "model": _model(scorer),
        "interval": scored.note,
        "warnings": "; ".join(scored.warnings),
    }


def _model(scorer: "Scorer") -> str:
    return " ".join(member.id for member in scorer.members)


def _line(path: str, scored: "Scored") -> str:
    interval = f" [{scored.interval[0]:.2f}, {scored.interval[1]:.2f}]" if scored.interval else ""
    return f"{path}: {scored.score:.2f}{interval}  ({scored.note})"
