"""Small videos for the preprocessing tests: drawn ones, and a photograph that comes with Matplotlib."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import matplotlib.cbook
import numpy as np
import pytest
from av.codec.context import Flags
from av.filter import Graph

from tramp_jax.data.landmarks import LAYOUTS
from tramp_jax.preprocess import SourceOptions, open_landmark_source
from tramp_jax.preprocess.faces import Face, LandmarkSource, enclosing

VIDEOS = Path(__file__).parents[2] / "shared" / "videos"


@pytest.fixture(scope="session")
def mediapipe() -> LandmarkSource:
    """The MediaPipe landmark source; skips tests without LiteRT."""
    pytest.importorskip("ai_edge_litert", reason='LiteRT is not installed: pip install "tramp_jax[mediapipe]"')
    return open_landmark_source("mediapipe", SourceOptions())


def real_video(name: str) -> Path:
    """A video of a real person; skips the test if it is missing."""
    if not (VIDEOS / name).is_file():
        pytest.skip(f"no real videos at {VIDEOS}")
    return VIDEOS / name


def photograph() -> np.ndarray:
    """A photograph (600, 512, 3) uint8 RGB with one face, Grace Hopper (public domain)."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        return cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR_RGB)


def moved(picture: np.ndarray, shifts: Sequence[tuple[float, float]]) -> list[np.ndarray]:
    """Shifts the picture by each (x, y), repeating its border."""
    size = (picture.shape[1], picture.shape[0])
    return [
        cv2.warpAffine(picture, np.array([[1, 0, x], [0, 1, y]], float), size, borderMode=cv2.BORDER_REPLICATE)
        for x, y in shifts
    ]


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float = 25.0) -> Path:
    """Writes RGB frames as .mp4 (MPEG-4) or .avi (Motion JPEG)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = None
    for frame in frames:
        if writer is None:
            writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, fps, (frame.shape[1], frame.shape[0]))
            assert writer.isOpened()
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    assert writer is not None
    writer.release()
    return path


def encode(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str = "libx264",
    fps: int = 25,
    *,
    pixels: str = "yuv420p",
    field: str = "",
    aspect: str = "",
    matrix: Sequence[float] = (),
    clock: int = 0,
    times: Sequence[int] = (),
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    **stream_settings: Any,
) -> Path:
    """Writes RGB frames the way cameras do.

    Args:
      field: "tff" or "bff" marks the frames as interlaced.
      aspect: width / height of a pixel.
      matrix: (a, b, c, d) of the display matrix.
      clock: ticks per second, the unit of ``times``; without times, frames are evenly spaced.
      stream_settings: attributes of the codec's context.
    """
    tick = Fraction(1, clock or fps)
    with av.open(str(path), "w", container_options=container or {}) as output:
        stream = output.add_stream(codec, rate=fps, options={"threads": "1", **(options or {})})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = tick
        if codec == "libx264":
            stream.options = {"x264-params": "log-level=none"} | stream.options
        if field:
            stream.codec_context.flags |= Flags.interlaced_dct | Flags.interlaced_me
        if aspect:
            stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        if matrix:
            a, b, c, d = (round(value * (1 << 16)) for value in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for name, value in stream_settings.items():
            setattr(stream.codec_context, name, value)
        for number, image in enumerate(frames):
            frame = _marked(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels), field)
            frame.pts, frame.time_base = times[number] if times else round(number / fps / tick), tick
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def damage(path: Path, numbers: Iterable[int]) -> Path:
    """Overwrites the content of these packets of a video with zeros."""
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for at, size in (places[number] for number in numbers):
        content[at : at + size] = bytes(size)
    path.write_bytes(content)
    return path


def _marked(frame: av.VideoFrame, field: str) -> av.VideoFrame:
    """Marks a frame as interlaced, with field order "tff" or "bff"."""
    if not field:
        return frame
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25))
    graph.link_nodes(source, graph.add("setfield", field), graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull()


def woven(frames: Sequence[np.ndarray], field: str) -> list[np.ndarray]:
    """Weaves every two pictures into one interlaced frame, the first as its upper ("tff") or lower ("bff") field."""
    first = int(field == "bff")
    pairs = []
    for before, after in zip(frames[::2], frames[1::2], strict=True):
        pair = after.copy()
        pair[first::2] = before[first::2]
        pairs.append(pair)
    return pairs


def write_images(folder: Path, frames: Sequence[np.ndarray]) -> Path:
    """Writes RGB frames as 1.png, 2.png, ..., 10.png."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, 1):
        (folder / f"{number}.png").write_bytes(
            cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1].tobytes()
        )
    return folder


def grey(count: int, size: tuple[int, int] = (96, 64)) -> list[np.ndarray]:
    """Grey frames (height, width, 3), each a little brighter than the last."""
    return [np.full((size[1], size[0], 3), 40 + 5 * number, np.uint8) for number in range(count)]


def square(left: int, top: int, side: int, size: tuple[int, int] = (320, 240)) -> np.ndarray:
    """A black frame with a bright square, a face to ``SquareSource``; side 0 draws none."""
    frame = np.zeros((size[1], size[0], 3), np.uint8)
    frame[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 220
    return frame


@dataclasses.dataclass
class SquareSource(LandmarkSource):
    """Finds bright squares. Their 64 points are an 8×8 grid, half a side behind the picture."""

    max_side: int | None = None
    name: str = "square"
    layout: str = "points63"
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    longest_seen: int = 0

    def __call__(self, frames: Iterable[np.ndarray]) -> Iterator[list[Face]]:
        for frame in frames:
            self.longest_seen = max(self.longest_seen, *frame.shape[:2])
            mask = (frame.min(axis=2) > 120).astype(np.uint8)
            count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
            yield [self._face(*stats[i, :4]) for i in range(1, count) if stats[i, 4] >= 16]

    def _face(self, left: int, top: int, width: int, height: int) -> Face:
        box = np.array([left, top, left + width, top + height], np.float32)
        return Face(box, 0.9, grid(box), np.full(64, width / 2, np.float32))


@dataclasses.dataclass
class GivenSource(LandmarkSource):
    """Returns given points, one face per frame; None for no face."""

    points: Sequence[np.ndarray | None]
    layout: str = "insightface106"
    max_side: int | None = None
    name: str = "given"
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def __call__(self, frames: Iterable[np.ndarray]) -> Iterator[list[Face]]:
        for _, points in zip(frames, self.points, strict=True):
            yield [] if points is None else [Face(enclosing(points), 0.9, points.astype(np.float32))]


def grid(box: np.ndarray) -> np.ndarray:
    """The centres (64, 2) of 8×8 cells of a box (4,), row by row."""
    at = (np.arange(8) + 0.5) / 8
    x, y = np.meshgrid(box[0] + at * (box[2] - box[0]), box[1] + at * (box[3] - box[1]))
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


SLOTS = LAYOUTS["points63"].slots
