"""``tramp-jax score``: scores videos into a table with intervals, and writes a report for each."""

import argparse
import collections
import functools
import glob
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tramp_jax import shards
from tramp_jax.cli.exit_codes import BUG
from tramp_jax.cli.preprocess import add_video_options
from tramp_jax.cli.pseudonyms import Pseudonyms
from tramp_jax.cli.score_output import (
    FAILED,
    WITHHELD,
    Reports,
    Table,
    collect,
    identity,
    model_ids,
    row_of,
)
from tramp_jax.errors import UserError, as_user_error
from tramp_jax.files import check_mounted, check_name, check_place, expanded
from tramp_jax.landmark_sources import WITHOUT_FILES

if TYPE_CHECKING:
    from tramp_jax.scoring import Scored


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
    parser.add_argument(
        "--out",
        type=expanded,
        default=Path("scores.csv"),
        help="table of scores (default scores.csv)",
    )
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
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="bfloat16 encodes frames in OpenVINO, up to twice as fast on processors that have instructions for it; "
        "scores differ a little (docs/export.md)",
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
        "they differ by more than 10%%",
    )


def run(arguments: argparse.Namespace) -> int:
    for path in filter(None, (arguments.out, arguments.salt, arguments.report)):
        check_place(path)
    collected = functools.partial(collect, arguments.out, arguments.overwrite)
    if arguments.collect:
        with shards.locked(arguments.out, None):
            return collected()
    if not (arguments.inputs and arguments.checkpoint):
        raise UserError("missing_option", "name the INPUTs to score, and the model's run with --checkpoint")
    inputs = expand(arguments.inputs)
    jobs = shards.number_of_jobs(arguments, len(inputs))
    shard = shards.chosen(arguments)
    out = shard.path(arguments.out) if shard else arguments.out
    with shards.locked(arguments.out, shard):  # from the table's first read to its last write
        if jobs > 1:
            return shards.run_jobs(arguments.line, out, jobs, len(inputs), "clip", collected)
        if arguments.device:
            _choose_device(arguments.device)
        return _score(arguments, inputs, out, shard)


def _score(arguments: argparse.Namespace, inputs: list[str], out: Path, shard: shards.Shard | None) -> int:
    """Scores the inputs missing from the table ``out``; returns the exit code."""
    from tqdm import tqdm

    from tramp_jax.cli.scripts import quick_start
    from tramp_jax.preprocess import PreprocessOptions, SourceOptions
    from tramp_jax.preprocess.sources import check_separate, table_beside
    from tramp_jax.scoring import Scorer

    quick_start()
    _warn_of_clips(arguments, inputs)
    if arguments.landmarks == "table":
        check_separate({path: table_beside(path) for path in map(Path, inputs) if _is_video(path)})
    options = PreprocessOptions(
        fps=arguments.fps, images_fps=arguments.images_fps, max_gap=arguments.max_gap, keep=arguments.keep
    )
    pseudonyms = _pseudonyms(arguments)
    table = Table(out, arguments.overwrite, pseudonyms, arguments.out)
    if shard:
        inputs = shard.take(inputs)
    scorer = Scorer(
        *arguments.checkpoint,
        which=arguments.which,
        landmarks=arguments.landmarks,
        source_options=SourceOptions(models_dir=arguments.models_dir),
        options=options,
        max_width=arguments.max_width,
        runtime=arguments.runtime,
        precision=arguments.precision,
    )
    scorer.check_expression(arguments.expression)
    table.check_model(model_ids(scorer))
    reports = None
    if arguments.report:
        reports = Reports(arguments.report, not arguments.no_attribution, pseudonyms, model_ids(scorer))
    settings = {path: scorer.settings(path, arguments.expression) for path in inputs}
    # An input that is already in the table is scored again only if its report is missing.
    todo = [
        path
        for path in inputs
        if (there := table.find(path, settings[path])) is None or (reports and not reports.has(path, there))
    ]
    if arguments.landmarks != "table" and any(_is_video(Path(path)) for path in todo):
        scorer.open_source()  # if a model file is missing, fail before earlier rows are replaced
    counts: collections.Counter[str] = collections.Counter()
    # From here on, files are written. A command that is refused leaves everything as it was.
    if arguments.report:
        arguments.report.mkdir(parents=True, exist_ok=True)
    if pseudonyms:
        pseudonyms.create()
    if shard:
        table.expect(settings)
    with table:
        for path in shards.over(todo, "clip", done=len(inputs) - len(todo)):
            row: dict[str, object] = {"input": path, "settings": settings[path]}
            try:
                check_name(path)
                scored = scorer.score(path, arguments.expression)
            except Exception as error:  # still score the other inputs
                counts[FAILED] += 1
                reason, message = _failure(path, error)
                tqdm.write(f"error: {message}", file=sys.stderr)
                if not table.add(row | {"status": FAILED, "reason": reason}):
                    tqdm.write("  the table keeps its earlier score", file=sys.stderr)
                continue
            row |= row_of(scorer, scored)
            outcome = WITHHELD if scored.withheld else "scored"
            if reports:
                try:
                    row["report"] = reports.write(path, scorer, scored)
                except Exception as error:  # the score stays in the table
                    outcome = FAILED
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
    return 1 if counts[FAILED] else 0


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
        hint = ', or JAX for it is not installed (pip install "tramp_jax[cuda12]")' if name == "gpu" else ""
        raise UserError("missing_device", f"--device {name}: this machine has none{hint}; omit the option") from error


def _is_video(path: Path) -> bool:
    from tramp_jax.data.clip_folder import is_clip

    return path.suffix.lower() != ".csv" and not is_clip(path)


def _warn_of_clips(arguments: argparse.Namespace, inputs: Sequence[str]) -> None:
    """Warns of given options that have no effect on inputs that are already clips."""
    from tramp_jax.data.clip_folder import is_clip

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    names = ("landmarks", "models_dir", "fps", "images_fps", "max_gap", "keep")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) != parser.get_default(name)]
    clips = [path for path in inputs if is_clip(Path(path))]
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
        first.setdefault(identity(name), name)
    return list(first.values())


def _line(path: str, scored: "Scored") -> str:
    from tramp_jax.report.writer import either

    interval = f" [{scored.interval[0]:.2f}, {scored.interval[1]:.2f}]" if scored.interval else ""
    score = f"withheld, {scored.withheld}" if scored.withheld else f"{scored.score:.2f}"
    ratings = f", rating {either(scored.ratings)}" if scored.ratings else ""
    return f"{path}: {score}{interval}{ratings}  ({scored.note})"
