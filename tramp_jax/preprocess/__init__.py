"""A person's video -> a clip: decoding, landmarks, one face followed, face crops. See docs/preprocess.md."""

from tramp_jax.preprocess.clip import Preprocessed, PreprocessOptions, preprocess_video
from tramp_jax.preprocess.faces import Face, LandmarkSource, SourceError
from tramp_jax.preprocess.sources import SOURCES, SourceOptions, make
from tramp_jax.preprocess.video import VideoError, expand_input

__all__ = [
    "SOURCES",
    "Face",
    "LandmarkSource",
    "PreprocessOptions",
    "Preprocessed",
    "SourceError",
    "SourceOptions",
    "VideoError",
    "expand_input",
    "make",
    "preprocess_video",
]
