"""``tramp-jax preprocess``: turns videos and folders of images into clips with landmarks and a list for training."""

import argparse
import collections
import contextlib
import functools
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tramp_jax import shards
from tramp_jax.errors import UserError, as_user_error
from tramp_jax.files import check_mounted, check_name, check_new, check_place, expanded, state
from tramp_jax.landmark_sources import DETECTORS, SOURCES

if TYPE_CHECKING:
    from tramp_jax.preprocess import LandmarkSource, PreprocessOptions, SourceOptions
    from tramp_jax.preprocess.batch import Job


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="*",
        type=expanded,
        metavar="INPUT",
        help="a video, a folder of videos, a folder of images, or an image",
    )
    parser.add_argument(
        "--list",
        type=expanded,
        help="CSV or Excel file with a row for each video: path, subject, expression, score and any other columns",
    )
    parser.add_argument("--out", type=expanded, help="folder for the clips and their list, clips.csv")
    shards.add_arguments(parser, "its own list next to clips.csv", jobs=True)
    parser.add_argument("--overwrite", action="store_true", help="make existing clips (or --queries) again")
    parser.add_argument("--subject", default="", help="the person in all INPUTs; default: a different one in each")
    parser.add_argument("--expression", default="", help="the expression in all INPUTs, such as smile")
    parser.add_argument("--score", type=float, default=float("nan"), help="the rating of all INPUTs")

    landmarks = parser.add_argument_group("landmarks")
    landmarks.add_argument(
        "--landmarks",
        choices=SOURCES,
        default="mediapipe",
        help="mediapipe (default) needs no download; insightface is the paper's, with models for non-commercial "
        "research only; lucas-kanade follows the points of one detected frame; tracks reads saved point tracks; "
        "table reads NAME.csv from OpenFace or py-feat next to the video NAME.mp4",
    )
    landmarks.add_argument("--models-dir", type=expanded, help="folder with the source's model files")
    landmarks.add_argument(
        "--download", action="store_true", help="download InsightFace's models if they are missing (289 MB)"
    )
    landmarks.add_argument(
        "--detector", choices=DETECTORS, default="mediapipe", help="source that finds the face for lucas-kanade"
    )
    landmarks.add_argument(
        "--tracks", type=expanded, help="point tracks of the only INPUT, or a folder with NAME.npz for each"
    )
    landmarks.add_argument("--tracks-size", type=_size, metavar="WxH", help="size of the tracked frames")
    landmarks.add_argument(
        "--queries",
        type=expanded,
        metavar="FILE",
        help="make no clips; save the points of the first frame with a face as query points for a point tracker",
    )

    video = parser.add_argument_group("video")
    add_video_options(video, "frames per second of the clips; default: the video's own")
    video.add_argument("--min-frames", type=int, default=7, help="refuse shorter clips (default 7)")


def add_video_options(parser: Any, fps: str) -> None:
    """Adds the options of ``tramp-jax score`` and ``preprocess`` on videos; ``fps`` describes ``--fps``."""
    parser.add_argument("--fps", type=float, help=fps)
    parser.add_argument(
        "--images-fps", type=float, default=25.0, help="frames per second of a folder of images (default 25)"
    )
    parser.add_argument(
        "--max-gap", type=int, default=5, help="interpolate up to this many frames without a face (default 5)"
    )
    parser.add_argument(
        "--keep",
        choices=("error", "longest"),
        default="error",
        help="if the face cannot be followed to the end, refuse the video (default) or keep the longest part",
    )


def run(arguments: argparse.Namespace) -> int:
    from tramp_jax.preprocess import PreprocessOptions, SourceOptions, batch, expand_input

    if bool(arguments.inputs) == bool(arguments.list):
        raise UserError("bad_option", "name INPUTs or a --list of videos, one or the other")
    for path in filter(None, (*arguments.inputs, arguments.list)):
        check_mounted(path)
    if arguments.list:
        jobs = batch.read_jobs(arguments.list)
    else:
        videos = [video for path in arguments.inputs for video in expand_input(path)]
        jobs = batch.jobs_of(videos, arguments.subject, arguments.expression, arguments.score)
    options = PreprocessOptions(
        fps=arguments.fps,
        images_fps=arguments.images_fps,
        min_frames=arguments.min_frames,
        max_gap=arguments.max_gap,
        keep=arguments.keep,
    )
    source_options = SourceOptions(
        models_dir=arguments.models_dir,
        download=arguments.download,
        detector=arguments.detector,
        tracks_size=arguments.tracks_size,
    )
    out = _checked_out(arguments, jobs)
    if arguments.collect and not arguments.queries:
        with shards.locked(out, None):
            return _collect(out, jobs)
    tracks = _files_of_landmarks(arguments, jobs)
    source_of = _source_maker(arguments, source_options, tracks)
    if arguments.queries:
        return _write_queries(out, jobs[0], options, source_of)
    processes = shards.number_of_jobs(arguments, len(jobs))
    shard = shards.chosen(arguments)
    with shards.locked(out, shard):
        if processes > 1:
            collect = functools.partial(_collect, out, jobs)
            return shards.run_jobs(arguments.line, out / batch.LIST, processes, len(jobs), "video", collect)
        return _make_clips(arguments, jobs, shard, options, source_of, tracks)


def _checked_out(arguments: argparse.Namespace, jobs: list["Job"]) -> Path:
    """The folder of the clips, or the file of ``--queries``. Refuses what cannot be written, before any download."""
    queries: Path | None = arguments.queries
    if queries:
        if len(jobs) != 1:
            raise UserError("bad_option", f"--queries takes one INPUT, not {len(jobs)}")
        file = queries if queries.suffix == ".npz" else queries.with_name(f"{queries.name}.npz")
        check_new(file, arguments.overwrite, "--queries")
        return file
    if not arguments.out:
        raise UserError("bad_option", "--out is missing; name a folder for the clips")
    check_place(arguments.out)
    return Path(arguments.out)


def _collect(out: Path, jobs: list["Job"]) -> int:
    """Moves the rows of all shards' lists into one."""
    from tramp_jax.preprocess import batch

    parts = shards.collected(out / batch.LIST)  # before the list is written
    clip_list = batch.ClipList(out, batch.further_columns(jobs))
    missing = clip_list.collect(parts, jobs)
    sys.stdout.write(f"clips: {len(jobs) - len(missing)} of {len(jobs)}; listed in {clip_list.path}\n")
    if missing:
        sys.stdout.write(f"no clips of {', '.join(str(job.video) for job in missing)}; see the errors\n")
    _note_missing_scores(sum(math.isnan(job.info.score) for job in jobs if job not in missing), clip_list.path)
    return 1 if missing else 0


def _note_missing_scores(without: int, listed: Path) -> None:
    if without:
        sys.stdout.write(
            f"{without} of them have no score yet; before training, add the score, the expression and the subject to "
            f"{listed} (give all clips of a person the same subject)\n"
        )


def _files_of_landmarks(arguments: argparse.Namespace, jobs: list["Job"]) -> dict[Path, Path]:
    """The file of saved landmarks of each video, if they come from files.

    Raises:
      UserError: two videos share a file.
    """
    from tramp_jax.preprocess.sources import check_separate, table_beside
    from tramp_jax.preprocess.video import short_name

    if arguments.landmarks == "table":
        files = {job.video: table_beside(job.video) for job in jobs}
    elif arguments.landmarks == "tracks":
        if arguments.tracks is None or (len(jobs) > 1 and not arguments.tracks.is_dir()):
            raise UserError(
                "bad_option",
                "--landmarks tracks needs --tracks FILE or, for several videos, a folder with NAME.npz for each",
            )
        counts = collections.Counter(short_name(job.video) for job in jobs)

        def tracks_of(job: "Job") -> Path:
            if not arguments.tracks.is_dir():
                return arguments.tracks
            name = short_name(job.video)
            names = [*([name] if counts[name] == 1 else []), job.name]  # a shared name could be another person's
            paths = [arguments.tracks / f"{name}.{ending}" for name in names for ending in ("npz", "npy")]
            return next(filter(Path.is_file, paths), paths[0])

        files = {job.video: tracks_of(job) for job in jobs}
    else:
        files = {}
    check_separate(files)
    return files


def _source_maker(
    arguments: argparse.Namespace, options: "SourceOptions", tracks: dict[Path, Path]
) -> Callable[["Job"], "LandmarkSource"]:
    """Returns a function job -> landmark source. Tracks and tables have a source for each job, others one for all."""
    import dataclasses

    from tramp_jax import preprocess

    name = arguments.landmarks
    if tracks:
        return lambda job: preprocess.open_landmark_source(name, dataclasses.replace(options, tracks=tracks[job.video]))
    source = preprocess.open_landmark_source(name, options)
    return lambda job: source


def _made_from(arguments: argparse.Namespace, job: "Job", tracks: dict[Path, Path]) -> dict[str, object]:
    """What a job's clip depends on: options by their flags, and short digests of the states of files by their names."""
    options: dict[str, object] = {
        "--landmarks": arguments.landmarks,
        "--fps": arguments.fps,
        "--max-gap": arguments.max_gap,
        "--keep": arguments.keep,
    }
    if job.video.is_dir():
        options["--images-fps"] = arguments.images_fps
    if arguments.landmarks == "lucas-kanade":
        options["--detector"] = arguments.detector
    if arguments.landmarks == "tracks":
        options["--tracks"] = str(arguments.tracks.expanduser().resolve())
        options["--tracks-size"] = "{}x{}".format(*arguments.tracks_size) if arguments.tracks_size else None
    for file in filter(None, (job.video, tracks.get(job.video))):
        with contextlib.suppress(OSError):  # reading it says why
            options[file.name] = hashlib.sha256(json.dumps(state(file)).encode()).hexdigest()[:12]
    return options


def _make_clips(
    arguments: argparse.Namespace,
    jobs: list["Job"],
    shard: shards.Shard | None,
    options: "PreprocessOptions",
    source_of: Callable[["Job"], "LandmarkSource"],
    tracks: dict[Path, Path],
) -> int:
    """Makes the missing clips of all jobs, or of one shard. Reports videos that cannot be used, and continues."""
    from tqdm import tqdm

    from tramp_jax.data.clip_folder import remove_unfinished
    from tramp_jax.preprocess import batch, preprocess_video

    clip_list = batch.ClipList(arguments.out, batch.further_columns(jobs), shard)
    jobs = shard.take(jobs) if shard else jobs
    remove_unfinished(clip_list.root, (job.name for job in jobs))
    failed = skipped = without_score = 0
    for job in shards.over(jobs, "video"):
        started = time.perf_counter()
        try:
            check_name(job.video)
            recorded = _made_from(arguments, job, tracks)
            done = clip_list.done(job, recorded, arguments.overwrite)
            where = "list" if arguments.list else "command"
            if changes := clip_list.changes(job, bool(arguments.list or arguments.subject)):
                warning = f"{job.name}: the {where} has {changes} as in {clip_list.path}"
                tqdm.write(f"warning: {warning}; that row stays, so correct the {where} or the row", file=sys.stdout)
            if done:
                skipped += 1
                continue
            made = preprocess_video(job.video, source_of(job), options, job.info)
            clip_list.add(job, made, recorded)
        except (UserError, OSError) as error:
            failed += 1
            tqdm.write(f"error: {as_user_error(error) or error}", file=sys.stderr)
            continue
        without_score += math.isnan(made.clip.info.score)
        tqdm.write(
            f"{job.name}: {len(made.clip.landmarks)} frames at {made.clip.fps:g} per second, crop of {made.crop.side} "
            f"pixels, processed at {made.frames_read / (time.perf_counter() - started):.0f} frames per second",
            file=sys.stdout,
        )
        for warning in made.warnings:
            tqdm.write(f"  warning: {warning}", file=sys.stdout)
    total = len(jobs) - failed - skipped
    sys.stdout.write(f"clips: {total} made, {skipped} already there, {failed} failed; listed in {clip_list.path}\n")
    if not shard:  # else --collect says it, once the rows are where they stay
        _note_missing_scores(without_score, clip_list.path)
    return 1 if failed else 0


def _write_queries(
    file: Path, job: "Job", options: "PreprocessOptions", source_of: Callable[["Job"], "LandmarkSource"]
) -> int:
    import numpy as np

    from tramp_jax.data import landmarks
    from tramp_jax.data.frame_numbers import spell
    from tramp_jax.preprocess.clip import first_face
    from tramp_jax.preprocess.sources.tracks import write_queries

    source = source_of(job)
    number, face, size = first_face(job.video, source, options)
    points = face.points[None]
    file.parent.mkdir(parents=True, exist_ok=True)
    chosen = [landmarks.select(points, source.layout)[0], landmarks.nose_tip(points, source.layout)[0]]
    write_queries(file, np.concatenate(chosen), number, size)
    sys.stdout.write(f"{file}: 64 query points in {spell(number)} of {job.video}, {size[0]}x{size[1]} pixels\n")
    return 0


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 256x256") from None
    return width, height
