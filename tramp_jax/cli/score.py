"""``tramp-jax score``: scores videos into a table with intervals, and writes a report for each."""

import argparse
import collections
import csv
import functools
import glob
import hashlib
import math
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tramp_jax import shards
from tramp_jax.cli.exit_codes import BUG
from tramp_jax.cli.preprocess import add_video_options
from tramp_jax.cli.pseudonyms import Pseudonyms, anonymous
from tramp_jax.data import tables
from tramp_jax.errors import UserError, as_user_error
from tramp_jax.files import check_mounted, check_name, expanded, shortened, write_atomically
from tramp_jax.landmark_sources import WITHOUT_FILES

if TYPE_CHECKING:
    from tramp_jax.data.clips import ClipInfo
    from tramp_jax.scoring import Scored, Scorer

WITHHELD, UNFINISHED = "withheld", "unfinished"
# fmt: off
COLUMNS = (
    "input", "status", "score", "low", "high", "level", "ratings", "raw", "expression", "frames", "frames_used", "fps",
    "missing_ratio", "outside", "jitter", "yaw", "landmarks", "model", "interval", "warnings", "reason", "report",
    "settings",
)
# fmt: on
_TEXTS = ("reason", "warnings", "interval")  # columns that may contain names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="a video, a folder of images, a clip made by preprocess, a folder of videos or of such clips, a landmark "
        "table (.csv from OpenFace or py-feat), or a pattern such as 'videos/*.mp4'",
    )
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        type=expanded,
        default=[],
        metavar="RUN",
        help="folder of a run of train.py; several make an ensemble, and so do the folds of a cross-validated run",
    )
    parser.add_argument("--which", default="best", help="checkpoint of the run: best (default), last, or a step")
    parser.add_argument(
        "--expression", default="", help="the expression that the person was asked to make; default: the model's"
    )
    parser.add_argument("--out", type=expanded, default=Path("scores.csv"), help="table of scores (default scores.csv)")
    parser.add_argument("--overwrite", action="store_true", help="replace the table, and score all inputs again")
    parser.add_argument(
        "--anonymise",
        action="store_true",
        help="replace the names of people and files in the table and reports with salted hashes; faces stay",
    )
    parser.add_argument(
        "--salt", type=expanded, metavar="FILE", help="the salt of --anonymise, created if missing (default OUT.salt)"
    )
    shards.add_arguments(parser, "its own table", jobs=True)
    parser.add_argument("--report", type=expanded, metavar="DIR", help="write a report for each input into this folder")
    parser.add_argument(
        "--no-attribution",
        action="store_true",
        help="write reports without the regions and moments that moved the score",
    )
    parser.add_argument(
        "--max-width",
        type=float,
        metavar="W",
        help="withhold a score whose interval is wider than this many points of the scale; needs a calibration",
    )
    parser.add_argument("--device", choices=("cpu", "gpu", "tpu"), help="default: the best one available")
    parser.add_argument(
        "--runtime",
        choices=("auto", "jax", "onnx"),
        default="auto",
        help="library that computes scores; auto (default): onnx on a CPU if installed, which is faster; else jax",
    )
    parser.add_argument(
        "--landmarks",
        choices=WITHOUT_FILES,
        default="mediapipe",
        help="landmark source for videos; use the one the model was trained with (see preprocess --help)",
    )
    parser.add_argument("--models-dir", type=expanded, help="folder with the landmark source's model files")
    add_video_options(
        parser,
        "frame rate of clips, and of tables without timestamps; default: the video's own, or the training clips' if "
        "they differ by more than 10 %%",
    )


def run(arguments: argparse.Namespace) -> int:
    collect = functools.partial(_collect, arguments.out, arguments.overwrite)
    if arguments.collect:
        with shards.locked(arguments.out, None):
            return collect()
    if not (arguments.inputs and arguments.checkpoint):
        raise UserError("missing_option", "name the INPUTs to score, and the model's run with --checkpoint")
    inputs = expand(arguments.inputs)
    jobs = shards.number_of_jobs(arguments, len(inputs))
    shard = shards.chosen(arguments)
    out = shard.path(arguments.out) if shard else arguments.out
    with shards.locked(arguments.out, shard):  # from the table's first read to its last write
        if jobs > 1:
            _pseudonyms(arguments)  # creates the salt, which the jobs share
            return shards.run_jobs(arguments.line, out, jobs, len(inputs), "clip", collect)
        return _score(arguments, inputs, out, shard)


def _collect(out: Path, overwrite: bool) -> int:
    """Moves the rows of all shards' tables into ``out``.

    Raises:
      UserError: unfinished_shard if a shard still has work to do.
    """
    parts = shards.collected(out)
    found = [{str(row["input"]): row for row in _read(part)} for part in parts]  # the last row is the newest
    cells = collections.Counter(cell for part in found for cell in part)
    rows = shards.interleaved([list(part.values()) for part in found])
    if left := [str(row["input"]) for row in rows if row["status"] == UNFINISHED]:
        message = f"{out}: {len(left)} inputs of unfinished shards have no score yet, such as {left[0]}"
        raise UserError("unfinished_shard", f"{message}; run those shards again")
    if twice := next((cell for cell, count in cells.items() if count > 1), ""):
        message = f"{out}: {twice} is in the tables of two shards, so they had different inputs"
        raise UserError("unfinished_shard", f"{message}; run all shards again with the same ones")
    if out.exists() and not overwrite:
        rows = [*_read(out), *rows]
    _check_models(out, rows)
    # The last row of an input is the newest.
    joined = {_identity(_folder(out) / str(row["input"])): row for row in rows}
    _write(out, joined.values())
    for part in parts:
        part.unlink()
    failed = sum(row["status"] == "failed" for row in joined.values())
    sys.stdout.write(f"{out}: {len(joined)} rows, of which {failed} failed\n")
    return 0


def _score(arguments: argparse.Namespace, inputs: list[str], out: Path, shard: shards.Shard | None) -> int:
    """Scores the inputs missing from the table ``out``; returns the exit code."""
    from tqdm import tqdm

    from tramp_jax.cli.scripts import quick_start
    from tramp_jax.preprocess import PreprocessOptions, SourceOptions
    from tramp_jax.preprocess.sources import check_separate, table_beside
    from tramp_jax.scoring import Scorer

    if arguments.device:
        _choose_device(arguments.device)
    quick_start()
    _warn_of_clips(arguments, inputs)
    if arguments.landmarks == "table":
        check_separate({path: table_beside(path) for path in map(Path, inputs) if _is_video(path)})
    pseudonyms = _pseudonyms(arguments)
    table = Table(out, arguments.overwrite, pseudonyms, arguments.out)
    if shard:
        inputs = shard.take(inputs)
    options = PreprocessOptions(
        fps=arguments.fps, images_fps=arguments.images_fps, max_gap=arguments.max_gap, keep=arguments.keep
    )
    scorer = Scorer(
        *arguments.checkpoint,
        which=arguments.which,
        landmarks=arguments.landmarks,
        source_options=SourceOptions(models_dir=arguments.models_dir),
        options=options,
        max_width=arguments.max_width,
        runtime=arguments.runtime,
    )
    scorer.check_expression(arguments.expression)
    table.check_model(_model(scorer))
    reports = None
    if arguments.report:
        reports = _Reports(arguments.report, not arguments.no_attribution, pseudonyms, _model(scorer))
    settings = {path: scorer.settings(path, arguments.expression) for path in inputs}
    if pseudonyms:
        settings = {path: pseudonyms.digest(digest) for path, digest in settings.items()}
    # An input that is already in the table is scored again only if its report is missing.
    todo = [
        path
        for path in inputs
        if (there := table.find(path, settings[path])) is None or (reports and not reports.has(path, there))
    ]
    if arguments.landmarks != "table" and any(_is_video(Path(path)) for path in todo):
        scorer.open_source()  # if a model file is missing, fail before earlier rows are replaced
    counts: collections.Counter[str] = collections.Counter()
    if shard:
        table.expect(settings)
    with table:
        for path in shards.over(todo, "clip", done=len(inputs) - len(todo)):
            row: dict[str, object] = {"input": path, "settings": settings[path]}
            try:
                check_name(path)
                scored = scorer.score(path, arguments.expression)
            except Exception as error:  # still score the other inputs
                counts["failed"] += 1
                reason, message = _failure(path, error)
                table.add(row | {"status": "failed", "reason": reason})
                tqdm.write(f"error: {message}", file=sys.stderr)
                continue
            row |= _row(scorer, scored)
            outcome = WITHHELD if scored.withheld else "scored"
            if reports:
                try:
                    row["report"] = reports.write(path, scorer, scored)
                except Exception as error:  # the score stays in the table
                    outcome = "failed"
                    tqdm.write(f"error: no report: {_failure(path, error)[1]}", file=sys.stderr)
            counts[outcome] += 1
            table.add(row, scored.clip.info)
            name = f"{path} ({pseudonyms.of_input(path)})" if pseudonyms else path
            tqdm.write(_line(name, scored), file=sys.stdout)
            for warning in scored.warnings:
                tqdm.write(f"  warning: {warning}", file=sys.stdout)
    withheld = f"{counts[WITHHELD]} withheld, " if counts[WITHHELD] else ""
    skipped = f"{len(inputs) - len(todo)} already in the table {out}"
    where = f"; reports in {arguments.report}" if arguments.report else ""
    sys.stdout.write(f"inputs: {counts['scored']} scored, {withheld}{counts['failed']} failed, {skipped}{where}\n")
    return 1 if counts["failed"] else 0


def _pseudonyms(arguments: argparse.Namespace) -> Pseudonyms | None:
    out, salt = arguments.out, arguments.salt
    if not arguments.anonymise:
        if salt is not None:
            raise UserError("bad_option", f"--salt {salt}: has no effect without --anonymise")
        return None
    return Pseudonyms(salt or out.with_name(f"{out.name}.salt"), arguments.checkpoint)


def _failure(path: str, error: Exception) -> tuple[str, str]:
    """The reason for the table, and the message for the terminal, with a traceback if the error is our bug."""
    mistake = as_user_error(error)
    if mistake is not None:
        return str(mistake), str(mistake)
    reason = f"{path}: {type(error).__name__}: {error}"
    return reason, f"{reason}\n{''.join(traceback.format_exception(error))}{BUG}"


def _choose_device(name: str) -> None:
    """Raises UserError (missing_device) if there is no such device."""
    import jax

    jax.config.update("jax_platforms", {"gpu": "cuda"}.get(name, name))
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter has no message
        hint = ' or its JAX is not installed (pip install "tramp_jax[cuda12]")' if name == "gpu" else ""
        raise UserError("missing_device", f"--device {name}: this machine has none{hint}; omit the option") from error


def _is_video(path: Path) -> bool:
    return path.suffix.lower() != ".csv" and not _is_clip(path)


def _is_clip(path: Path) -> bool:
    from tramp_jax.data.clip_folder import DESCRIPTION

    return (path / DESCRIPTION).is_file()


def _warn_of_clips(arguments: argparse.Namespace, inputs: Sequence[str]) -> None:
    """Warns of given options that have no effect on inputs that are already clips."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    names = ("landmarks", "models_dir", "fps", "images_fps", "max_gap", "keep")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) != parser.get_default(name)]
    clips = [path for path in inputs if _is_clip(Path(path))]
    if given and clips:
        what = f"{', '.join(given)} cannot change a clip made by tramp-jax preprocess, such as {clips[0]}"
        sys.stderr.write(f"warning: {what}; to change it, preprocess its video again\n")


def expand(patterns: Sequence[str]) -> list[str]:
    """Expands names and patterns to inputs, without repeats. A name that exists is never a pattern.

    A folder of videos, or of clips made by ``tramp-jax preprocess``, expands to its contents.

    Raises:
      UserError: nothing matches a pattern, a folder holds two of videos, images and clips, or a name is an address.
    """
    from tramp_jax.data.clip_files import image_files
    from tramp_jax.data.clip_folder import DESCRIPTION
    from tramp_jax.preprocess import expand_input

    found: list[str] = []
    for pattern in patterns:
        check_mounted(pattern)
        if os.path.exists(pattern) or not glob.has_magic(pattern):
            found.append(pattern)
            continue
        matches = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
        if not matches:
            raise UserError("missing_file", f"{pattern}: no file matches this pattern; check its spelling")
        found += matches
    inputs: list[str] = []
    for name in found:
        # A clip whose name begins with a dot was interrupted while it was written.
        folders = sorted(str(file.parent) for file in Path(name).glob(f"*/{DESCRIPTION}"))
        clips = [folder for folder in folders if not os.path.basename(folder).startswith(".")]
        videos = [str(video) for video in expand_input(name)]
        if [Path(video) for video in videos] == [Path(name).expanduser()]:
            videos = [str(image) for image in image_files(Path(name).expanduser())] if clips else [name]
        if clips and videos:
            message = f"{name}: holds both clips ({clips[0]}) and videos or images ({videos[0]}); name those to score"
            raise UserError("bad_option", message)
        inputs += clips or videos
    first: dict[str, str] = {}
    for name in inputs:
        first.setdefault(_identity(name), name)
    return list(first.values())


def _identity(path: object) -> str:
    """The same string however the path is spelt: absolute, relative, or through links."""
    return os.path.realpath(str(path))


class Table:
    """The CSV file of scores. Rows are appended, and rows of other inputs stay.

    An input has one row, however its path is spelt and wherever the command runs; ``_cell`` says how it is named. The
    row is replaced if the input is scored again because it failed, or because the file, the model's calibration or an
    option has changed. The table of a shard takes no rows from ``whole``, the table that it will be joined with, but
    ``find`` finds them.

    Raises:
      UserError: not_scores if the file exists but is not a table of scores; bad_option if it has names but should not,
        or has pseudonyms of another salt.
    """

    def __init__(self, path: Path, overwrite: bool, pseudonyms: Pseudonyms | None = None, whole: Path | None = None):
        self.path, self._pseudonyms = path, pseudonyms
        self._rows = {} if overwrite else self._keyed(path)
        self._joined = {} if overwrite or whole in (None, path) else self._keyed(whole)
        cells = (str(row["input"]) for row in (*self._rows.values(), *self._joined.values()))
        if elsewhere := next((x for x in cells if os.path.exists(x) and not os.path.exists(_folder(path) / x)), ""):
            sys.stderr.write(
                f"warning: {path}: {elsewhere} is here but not in the folder of the table. If an earlier version wrote "
                "this row, delete it; the input gets a new one\n"
            )

    def _keyed(self, path: Path) -> dict[str, dict[str, object]]:
        rows = _read(path) if path.exists() else []
        return {self._key_of_cell(str(row["input"]), path): row for row in rows}  # the last one is the newest

    def _key(self, path: str) -> str:
        return self._pseudonyms.of_input(path) if self._pseudonyms else _identity(_writable(path))

    def _key_of_cell(self, cell: str, path: Path) -> str:
        if self._pseudonyms is None:
            if re.fullmatch(r"anon-\w{4}-\w{12}", cell):
                raise UserError("bad_option", f"{path} is anonymised; add --anonymise, or name another --out")
            return _identity(_folder(path) / cell)
        if not cell.startswith(self._pseudonyms.prefix):
            raise UserError(
                "bad_option",
                f"{path} has names, or pseudonyms from another salt; name another table with --out, name the "
                "right salt with --salt, or replace the table with --overwrite",
            )
        return cell

    def find(self, path: str, settings: str) -> dict[str, object] | None:
        """The input's row, if it was scored or withheld with these settings; else None."""
        key = self._key(path)
        for rows in (self._rows, self._joined):
            row = rows.get(key)
            if row and row["status"] in ("ok", WITHHELD) and row["settings"] == settings:
                return row
        return None

    def check_model(self, model: str) -> None:
        """Refuses to mix scores of two models in one table.

        Raises:
          UserError: other_model.
        """
        _check_models(self.path, [{"model": model}, *self._rows.values(), *self._joined.values()])

    def expect(self, settings: Mapping[str, str]) -> None:
        """Makes this the table of a shard with these inputs and no others; those without a score are unfinished.

        Inputs that have a score in ``whole`` are left out.
        """
        rows: dict[str, dict[str, object]] = {}
        for path, digest in settings.items():
            key, found = self._key(path), self.find(path, digest)
            if found is None:
                rows[key] = {"input": key if self._pseudonyms else _cell(path, self.path), "status": UNFINISHED}
            elif found is self._rows.get(key):
                rows[key] = found
        self._rows = rows

    def __enter__(self) -> "Table":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _write(self.path, self._rows.values())
        self._file = self.path.open("a", newline="", encoding="utf-8", errors="backslashreplace")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        _write(self.path, self._rows.values())  # without the rows that were replaced

    def add(self, row: dict[str, object], info: "ClipInfo | None" = None) -> None:
        """Appends the row of one input, whose clip is ``info``. It is on disk when this returns."""
        path = str(row["input"])
        key = self._key(path)
        if self._pseudonyms:
            texts = {column: self._pseudonyms.hide(str(row.get(column, "")), path, info) for column in _TEXTS}
            row = row | texts | {"input": key}
        else:
            row = row | {"input": _cell(path, self.path)}
        self._file.write(tables.csv_text([[row.get(column, "") for column in COLUMNS]]))
        self._file.flush()
        self._rows[key] = row


def _folder(table: Path) -> Path:
    """The folder of a table, with symbolic links resolved."""
    return Path(os.path.realpath(table)).parent


def _cell(path: str, table: Path) -> str:
    """What a table calls an input: its path relative to the table's folder if it lies below it, else its whole path."""
    full, folder = Path(os.path.abspath(path)), _folder(table)
    cell = full.relative_to(folder) if full.is_relative_to(folder) else full
    return str(cell) if _identity(folder / cell) == _identity(path) else _identity(path)


def _writable(text: str) -> str:
    """The text as written to a table: bytes of a file's name that are not UTF-8 are escaped."""
    return text.encode(errors="backslashreplace").decode()


def _check_models(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Raises UserError (other_model) unless the rows of a table, except failed ones, are of one model."""
    models = [str(row["model"]) for row in rows if row.get("model")]
    if others := sorted(set(models) - set(models[:1])):
        raise UserError(
            "other_model",
            f"{path} has scores of another model ({others[0]}, not {models[0]}); name another table with --out, or "
            "replace it with --overwrite",
        )


def _write(path: Path, rows: Iterable[dict[str, object]]) -> None:
    cells = ([row.get(column, "") for column in COLUMNS] for row in rows)
    write_atomically(path, tables.csv_text([COLUMNS, *cells]).encode(errors="backslashreplace"))


def _read(path: Path) -> list[dict[str, object]]:
    """Reads the rows of a table of scores. Skips a row that was cut short, or that a crash has filled with zeros."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
    except (ValueError, csv.Error):  # another encoding, or empty
        header, rows = [], []
    if tuple(header) != COLUMNS:
        raise UserError("not_scores", f"{path} is not a table written by this version; name another file with --out")
    rows = [row for row in rows if len(row) == len(COLUMNS) and "\0" not in "".join(row)]
    whole = (map(tables.unguarded, row) for row in rows)
    return [dict(zip(COLUMNS, row, strict=True)) for row in whole]


class _Reports:
    """Writes a report for each input under a unique name."""

    def __init__(self, folder: Path, attribute: bool, pseudonyms: Pseudonyms | None, model: str):
        folder.mkdir(parents=True, exist_ok=True)
        self._model = _digest(model)
        self._folder, self._attribute, self._pseudonyms = folder, attribute, pseudonyms

    def path(self, path: str) -> Path:
        """The report's file, named after the input, its path and the model, because names such as smile.mp4 repeat."""
        name, ending = "" if self._pseudonyms else Path(path).stem or "clip", self._ending(path)
        return self._folder / f"{shortened(name, len(ending))}{ending}"

    def _ending(self, path: str) -> str:
        if self._pseudonyms:
            return f"{self._pseudonyms.of_input(path)}-{self._model}.html"
        return f"-{_digest(_identity(path))}-{self._model}.html"

    def has(self, path: str, row: dict[str, object]) -> bool:
        """Whether the report of an input exists and belongs to its row."""
        name = str(row["report"])
        return name.endswith(self._ending(path)) and (self._folder / name).exists()

    def write(self, path: str, scorer: "Scorer", scored: "Scored") -> str:
        """Writes the report and returns its file name."""
        from tramp_jax.report.writer import write_report

        evidence = scorer.evidence(scored, self._attribute)
        write_report(self.path(path), anonymous(evidence, path, self._pseudonyms) if self._pseudonyms else evidence)
        return self.path(path).name


def _digest(text: str) -> str:
    return hashlib.sha256(_writable(text).encode()).hexdigest()[:6]


def _row(scorer: "Scorer", scored: "Scored") -> dict[str, object]:
    low, high = (f"{end:.4f}" for end in scored.interval) if scored.interval else ("", "")
    return {
        "status": WITHHELD if scored.withheld else "ok",
        "reason": scored.withheld,
        "score": "" if scored.withheld else f"{scored.score:.4f}",
        "ratings": " ".join(f"{rating:g}" for rating in scored.ratings),
        "raw": "" if scored.withheld else " ".join(f"{value:.4f}" for value in scored.raw),
        "low": low,
        "high": high,
        "level": scored.level or "",
        "expression": scored.clip.info.expression,
        "frames": len(scored.clip.landmarks),
        "frames_used": scored.frames_used,
        "fps": f"{scored.clip.fps:g}",
        "missing_ratio": _number(scored.missing_ratio, 4),
        "outside": _number(scored.quality.share_outside, 4),
        "jitter": _number(scored.quality.relative_jitter, 4),
        "yaw": _number(scored.quality.largest_yaw, 1),
        "landmarks": scored.landmark_source,
        "model": _model(scorer),
        "interval": scored.note,
        "warnings": "; ".join(scored.warnings),
    }


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""


def _model(scorer: "Scorer") -> str:
    return " ".join(member.id for member in scorer.members)


def _line(path: str, scored: "Scored") -> str:
    from tramp_jax.report.writer import either

    interval = f" [{scored.interval[0]:.2f}, {scored.interval[1]:.2f}]" if scored.interval else ""
    score = f"withheld, {scored.withheld}" if scored.withheld else f"{scored.score:.2f}"
    ratings = f", rating {either(scored.ratings)}" if scored.ratings else ""
    return f"{path}: {score}{interval}{ratings}  ({scored.note})"
