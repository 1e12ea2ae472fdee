"""Landmark sources, a module each; ``make`` builds one by name. Only the module of the one in use is imported."""

import dataclasses
from pathlib import Path

from tramp_jax.preprocess.faces import LandmarkSource, SourceError

SOURCES = ("mediapipe", "insightface", "lucas-kanade", "tracks")
DETECTORS = ("mediapipe", "insightface")


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """Settings of the sources; each reads what concerns it.

    Attributes:
      models_dir: folder with the model files; None for the source's usual place.
      download: fetch missing model files (insightface).
      detector: source of the frame that lucas-kanade starts from.
      tracks: file of saved point tracks.
      tracks_size: (width, height) of the frames that the tracks were computed on; None for the video's own.
    """

    models_dir: Path | None = None
    download: bool = False
    detector: str = "mediapipe"
    tracks: Path | None = None
    tracks_size: tuple[int, int] | None = None


def make(name: str, options: SourceOptions) -> LandmarkSource:
    """The source called ``name``, one of ``SOURCES``.

    Raises:
      SourceError: an unknown name, a package or model files that are missing, tracks that cannot be read.
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
            raise SourceError(f"unknown --detector {options.detector!r}; known: {', '.join(DETECTORS)}")
        return LucasKanade(make(options.detector, options))
    if name == "tracks":
        from tramp_jax.preprocess.sources.tracks import Tracks

        if options.tracks is None:
            raise SourceError("--landmarks tracks needs --tracks FILE, the point tracks of this video (.npz or .npy)")
        return Tracks(options.tracks, options.tracks_size)
    raise SourceError(f"unknown landmark source {name!r}; known: {', '.join(SOURCES)}")
