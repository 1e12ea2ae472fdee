"""Reads the landmarks of a video from a table that OpenFace or py-feat wrote, see ``landmark_tables``.

Its timestamps are not used, because the video has its own.
"""

from pathlib import Path

import numpy as np

from tramp_jax.data import landmark_tables
from tramp_jax.preprocess.sources.tracks import Tracks


class Table(Tracks):
    """Saved landmarks of one video; a frame without a face in the table has none here.

    Args:
      path: of the table.

    Raises:
      UserError: the file is missing, is not such a table, or has no face in any frame.
    """

    name = "table"

    @staticmethod
    def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
        table = landmark_tables.read(path)
        return table.points, np.repeat(table.found[:, None], table.points.shape[1], axis=1)
