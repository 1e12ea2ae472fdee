"""Synthetic faces, drawn when they are read: see ``tramp_jax.synthetic.faces``."""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

from tramp_jax.data.problems import Problems
from tramp_jax.data.source import Dataset, Facts, RatingScale, Wanted
from tramp_jax.synthetic import faces, motion

FACTS = Facts(
    RatingScale("drawn severity", 0.0, float(faces.NUM_SCORES - 1), "none", "most"),
    layouts=(faces.LAYOUT,),
    fps=motion.FPS,
    caveat="the model was trained on drawn faces: its score says nothing about a person",
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Which faces to draw."""

    num_subjects: int = 40
    clips_per_subject: int = 1  # of each expression
    expressions: tuple[str, ...] = faces.EXPRESSIONS  # all or some of these
    synthetic_seed: int = 0
    cues: Literal["motion", "landmarks", "appearance", "both"] = "motion"  # what shows the severity, see faces
    cue_noise: float = faces.CUE_NOISE  # of the severity that each kind of cue shows, in steps of the score


def open(root: str | Path, options: Options, wanted: Wanted, problems: Problems) -> Dataset:
    """Opens the faces; ``root`` is ignored."""
    # Landmarks take a hundredth of the time of frames, so frames are drawn only if their pixels are wanted.
    options = dataclasses.replace(options, expressions=tuple(options.expressions))  # a list, if read from config.json
    return Dataset(_drawn(options, wanted.frames or wanted.pixels), FACTS)


# The runs of a study read the same faces, and drawing those of configs/synthetic.py takes a minute.
@functools.lru_cache(maxsize=1)
def _drawn(options: Options, with_frames: bool) -> faces.SyntheticFaces:
    return faces.SyntheticFaces(
        options.num_subjects,
        options.clips_per_subject,
        expressions=options.expressions,
        seed=options.synthetic_seed,
        with_frames=with_frames,
        cues=options.cues,
        cue_noise=options.cue_noise,
    )
