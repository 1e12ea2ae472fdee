"""Reads the landmarks of a video from a table written by OpenFace or py-feat; see ``landmark_tables``.

The table's timestamps are ignored, because the video has its own.
"""

from pathlib import Path

import numpy as np

from tramp_jax.data import landmark_tables
from tramp_jax.preprocess.sources.tracks import Tracks


class Table(Tracks):
    """Saved landmarks of one video. Frames without a face in the table yield no face."""

    name = "table"

    @staticmethod
    def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
        table = landmark_tables.read(path)
        return table.points, np.repeat(table.found[:, None], table.points.shape[1], axis=1)
