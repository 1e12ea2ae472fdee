"""Draws the picture of drawn faces in the documentation.

python -m benchmarks.contact_sheet docs/images/synthetic_faces.jpg
"""

import argparse
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np

from tramp_jax.synthetic.faces import EXPRESSIONS, NUM_SCORES, SyntheticFaces


def draw() -> np.ndarray:
    """(H, W, 3) uint8 with a row for each expression: five frames at severity 0 (left), five at severity 4 (right)."""
    source = SyntheticFaces(20, 1)
    rows: list[np.ndarray] = []
    shown: set[str] = set()
    for name in EXPRESSIONS:
        halves = []
        for score in (0, NUM_SCORES - 1):
            index = next(
                i
                for i, info in enumerate(source.infos)
                if (info.expression, info.score) == (name, score) and info.subject not in shown
            )
            shown.add(source.infos[index].subject)
            painter, last = source.painter(index), source.infos[index].num_frames - 1
            images = [painter.paint(t) for t in np.linspace(0, last, 5).astype(int)]
            tiles = [cv2.resize(image, (112, 112), interpolation=cv2.INTER_AREA) for image in images]
            halves.append(_titled(np.hstack(tiles), f"{name.replace('_', ' ')}, severity {score}"))
        gap = np.full((halves[0].shape[0], 8, 3), 255, np.uint8)
        rows.append(np.hstack([halves[0], gap, halves[1]]))
    return np.vstack(rows)


def _titled(tile: np.ndarray, title: str) -> np.ndarray:
    """The picture below a white strip with its title."""
    strip = np.full((18, tile.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, title, (3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
    return np.vstack([strip, tile])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=pathlib.Path, help="the .jpg file to write")
    output = parser.parse_args(arguments).output
    sheet = cv2.cvtColor(draw(), cv2.COLOR_RGB2BGR)
    output.write_bytes(cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes())


if __name__ == "__main__":
    main()
