"""Turns a video into a clip of one face, with crops and landmarks. See docs/preprocess.md."""

from tramp_jax.landmark_sources import SOURCES
from tramp_jax.preprocess.clip import Preprocessed, PreprocessOptions, preprocess_video
from tramp_jax.preprocess.faces import Face, LandmarkSource
from tramp_jax.preprocess.sources import SourceOptions, open_landmark_source, open_table_beside
from tramp_jax.preprocess.video import expand_input

__all__ = [
    "SOURCES",
    "Face",
    "LandmarkSource",
    "PreprocessOptions",
    "Preprocessed",
    "SourceOptions",
    "expand_input",
    "open_landmark_source",
    "open_table_beside",
    "preprocess_video",
]
