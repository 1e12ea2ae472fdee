"""Landmark sources, one module each. ``open_landmark_source`` imports only the module it needs."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from tramp_jax.errors import UserError
from tramp_jax.landmark_sources import DETECTORS, SOURCES
from tramp_jax.preprocess.faces import LandmarkSource
from tramp_jax.preprocess.video import short_name


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """Settings of all sources; each reads its own."""

    models_dir: Path | None = None  # folder with the model files; None for the source's usual folder
    download: bool = False  # download missing model files (insightface)
    detector: str = "mediapipe"  # source that finds the first face for lucas-kanade
    tracks: Path | None = None  # file of saved point tracks, or landmark table
    tracks_size: tuple[int, int] | None = None  # (width, height) of the tracked frames; None for the video's own


def table_beside(video: Path) -> Path:
    """The path of a video's landmark table: in the same folder, with the same name and the ending .csv."""
    return video.with_name(f"{short_name(video)}.csv")


def check_separate(files: Mapping[Path, Path]) -> None:
    """Raises UserError (bad_data) for one file of landmarks for two videos; ``files`` maps each video to its file."""
    users: dict[Path, Path] = {}
    for video, file in files.items():
        if file.is_file() and (other := users.setdefault(file.resolve(), video)) != video:
            cure = "rename one of them and its file of landmarks"
            raise UserError("bad_data", f"{file}: would be read for both {other} and {video}; {cure}")


def open_table_beside(video: Path) -> LandmarkSource:
    """Opens a video's landmark table."""
    return open_landmark_source("table", SourceOptions(tracks=table_beside(video)))


def open_landmark_source(name: str, options: SourceOptions) -> LandmarkSource:
    """Opens the source called ``name``, one of ``SOURCES``.

    Raises:
      UserError: the name is unknown, a package or model file is missing, or the tracks cannot be read.
    """
    if name == "mediapipe":
        from tramp_jax.preprocess.sources.mediapipe import MediaPipe

        return MediaPipe(options.models_dir)
    if name == "insightface":
        from tramp_jax.preprocess.sources.insightface import InsightFace

        return InsightFace(options.models_dir, options.download)
    if name == "lucas-kanade":
        from tramp_jax.preprocess.sources.lucas_kanade import LucasKanade

        if options.detector not in DETECTORS:
            raise UserError("bad_option", f"unknown --detector {options.detector!r}; known: {', '.join(DETECTORS)}")
        return LucasKanade(open_landmark_source(options.detector, options))
    if name == "tracks":
        from tramp_jax.preprocess.sources.tracks import Tracks

        if options.tracks is None:
            raise UserError("missing_option", "--landmarks tracks needs --tracks FILE, the tracks of this video")
        return Tracks(options.tracks, options.tracks_size)
    if name == "table":
        from tramp_jax.preprocess.sources.table import Table

        if options.tracks is None:
            raise UserError("missing_option", "--landmarks table reads the table next to each video; name a video")
        return Table(options.tracks)
    raise UserError("bad_option", f"unknown landmark source {name!r}; choose from {', '.join(SOURCES)}")
