"""Small copies of the published YouTubePD layout for tests, and where to find the real data."""

import functools
import os
import pickle
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest

from tramp_jax.data.landmarks import FACEPP_106

_ARCHIVE = Path(__file__).parents[2] / "shared" / "youtubepd" / "youtubepd_train.tar.gz"


def random_frame(rng: np.random.Generator) -> dict[str, dict[str, int]]:
    """A frame as published: 106 names to integer pixels."""
    return {name: {"x": int(rng.integers(20, 236)), "y": int(rng.integers(20, 236))} for name in FACEPP_106}


def write_video(root: Path, video: str, score: int, numbers: Iterable[int] = range(1, 6), seed: int = 0) -> Path:
    """``Landmarks/<video>`` with random frames ``numbers`` and both labels; returns the folder."""
    rng = np.random.default_rng(seed)
    folder = root / "Landmarks" / video
    folder.mkdir(parents=True)
    for number in numbers:
        (folder / f"{number}.pickle").write_bytes(pickle.dumps(random_frame(rng), protocol=4))
    (folder / "multi_label.txt").write_text(f"{score}\n")
    (folder / "bin_label.txt").write_text(f"{int(score > 0)}\n")
    return folder


def write_list(root: Path, name: str, scores: Mapping[str, int]) -> Path:
    """``Data_Extraction/<name>.csv``; returns its path."""
    path = root / "Data_Extraction" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{video}_final.mp4 {score}\n" for video, score in scores.items()))
    return path


def write_layout(root: Path, train: Mapping[str, int], test: Mapping[str, int] | None = None) -> Path:
    """A clone of the public repository with five frames a video; returns ``root``."""
    for name, scores in (("train", train), ("test", test)):
        if scores is not None:
            write_list(root, name, scores)
            for seed, (video, score) in enumerate(scores.items()):
                write_video(root, video, score, seed=seed)
    return root


def real_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real training data, or a skipped test where it is not at hand."""
    if "TRAMP_JAX_YOUTUBEPD" in os.environ:
        return Path(os.environ["TRAMP_JAX_YOUTUBEPD"])
    if not _ARCHIVE.is_file():
        pytest.skip("needs the YouTubePD landmarks: set TRAMP_JAX_YOUTUBEPD to a clone of its repository")
    return _unpacked(tmp_path_factory.getbasetemp() / "youtubepd")


@functools.cache
def _unpacked(root: Path) -> Path:
    with tarfile.open(_ARCHIVE) as archive:
        archive.extractall(root, filter="data")
    return root
