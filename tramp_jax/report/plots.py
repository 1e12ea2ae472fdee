"""The pictures of a report, as PNG or JPEG bytes. They keep a light ground of their own, whatever surrounds them.

Sides in labels are the *person's*: the person's right eye is on the left of the picture, as in a video that was not
mirrored.
"""

import io
import itertools
import math
from collections.abc import Sequence

import cv2
import numpy as np
from einops import reduce
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure

from tramp_jax.data import landmarks
from tramp_jax.data.clips import Clip, decode_frame
from tramp_jax.report.attribution import ELSEWHERE, Attribution
from tramp_jax.report.motion import inter_ocular

# Region names as people read them; the groups' own names give the side of the image.
REGION_LABELS = {
    "left_eye": "right eye",
    "left_brow": "right eyebrow",
    "right_eye": "left eye",
    "right_brow": "left eyebrow",
    "nose": "nose",
    "lower_lip": "lower lip",
    "upper_lip": "upper lip",
    "mouth": "mouth",
    ELSEWHERE: "elsewhere in the picture",
}
# Landmarks whose colours are shown: one of each part of the face whose colour changes as it moves.
COLOUR_POINTS = ("left_eye_top", "left_eyebrow_lower_middle", "mouth_upper_lip_bottom", "mouth_left_corner")
COLOUR_LABELS = (
    "top of the right eye",
    "lower edge of the right eyebrow",
    "lower edge of the upper lip",
    "right corner of the mouth",
)
_GROUND, _INK = "#fbfbf9", "#222222"
_X, _Y = "#0b62a8", "#c2571a"  # told apart by people who see no red or no green, and in print
_DIVERGING, _TIME = "RdBu_r", "viridis"
_DPI = 120
_TILES = 8  # of a contact sheet


def landmark_paths(clip: Clip) -> bytes:
    """PNG of the paths of the 63 points, coloured by time, over the clip's first frame where there is one."""
    points = landmarks.select(clip.landmarks, clip.layout)
    figure = _figure(6.4, 5.6)
    axes = figure.subplots()
    low, high = _face_box(points)
    if clip.frames is not None:
        axes.imshow(decode_frame(clip.frames[0]), alpha=0.55)
    times = np.arange(len(points)) / clip.fps
    norm = Normalize(0, max(times[-1], 1e-9))
    for point in points.swapaxes(0, 1):
        lines = LineCollection(list(np.stack([point[:-1], point[1:]], axis=1)), cmap=_TIME, norm=norm, linewidths=1.6)
        lines.set_array(times[:-1])
        axes.add_collection(lines)
    axes.scatter(points[0, :, 0], points[0, :, 1], s=7, color="black", zorder=3, label="first frame")
    axes.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), aspect="equal")
    axes.set_xlabel("the person's right  ←  pixels of the face crop  →  the person's left")
    axes.legend(loc="lower right", frameon=True, fontsize="small")
    figure.colorbar(lines, ax=axes, label="time (s)", shrink=0.85)
    return _png(figure)


def region_courses(clip: Clip, points: np.ndarray, interpolated: Sequence[int] = ()) -> bytes:
    """PNG of x and y over time in each region: its points' mean displacement from the first frame, and each point's.

    Args:
      clip: whose frame rate is used.
      points: (n, 63, 2) centred points, in any unit.
      interpolated: frames whose landmarks were not measured; they are shaded.
    """
    moved = (points - points[0]) / inter_ocular(points)
    times = np.arange(len(points)) / clip.fps
    figure = _figure(9.0, 6.0)
    panels = figure.subplots(2, 4, sharex=True, sharey=True)
    for axes, name in zip(panels.ravel(), landmarks.GROUPS, strict=False):
        first = landmarks.GROUPS.index(name) * landmarks.GROUP_SIZE
        region = moved[:, first : first + landmarks.GROUP_SIZE]
        for axis, (colour, style, label) in enumerate(((_X, "-", "x, to the right"), (_Y, "--", "y, down"))):
            axes.plot(times, region[..., axis], color=colour, linewidth=0.5, alpha=0.3)
            axes.plot(times, region[..., axis].mean(axis=1), style, color=colour, linewidth=1.8, label=label)
        _shade(axes, interpolated, clip.fps)
        axes.set_title(REGION_LABELS[name], fontsize="medium")
        axes.grid(color="0.9")
    legend, last = panels.ravel()[-1], panels.ravel()[-2]
    legend.axis("off")
    legend.legend(*last.get_legend_handles_labels(), loc="center", frameon=False, title="mean of 9 points")
    for axes in panels[1]:
        axes.set_xlabel("time (s)")
    panels[0, 3].tick_params(labelbottom=True)
    figure.supylabel("displacement (distances between the outer eye corners)", fontsize="medium")
    return _png(figure)


def pixel_values(clip: Clip, interpolated: Sequence[int] = ()) -> bytes:
    """PNG of the red, green and blue under ``COLOUR_POINTS`` over time.

    Raises:
      ValueError: the clip has no colours.
    """
    if clip.pixels is None:
        raise ValueError(f"clip {clip.info.id} has no colours under its landmarks")
    times = np.arange(len(clip.pixels)) / clip.fps
    figure = _figure(9.0, 2.9)
    panels = figure.subplots(1, len(COLOUR_POINTS), sharey=True)
    kinds = (("#c0262d", "-", "red"), ("#2a7d3a", "--", "green"), ("#2a4fb0", ":", "blue"))
    for axes, name, title in zip(panels, COLOUR_POINTS, COLOUR_LABELS, strict=True):
        values = clip.pixels[:, landmarks.SLOT_NAMES.index(name)]
        for channel, (colour, style, label) in enumerate(kinds):
            axes.plot(times, values[:, channel], style, color=colour, linewidth=1.5, label=label)
        _shade(axes, interpolated, clip.fps)
        axes.set_title(title, fontsize="small")
        axes.set_xlabel("time (s)")
        axes.grid(color="0.9")
    panels[0].set(ylabel="pixel value (0–255)", ylim=(0, 255))
    panels[-1].legend(frameon=False, fontsize="small")
    return _png(figure)


def attribution_over_time(attribution: Attribution, fps: float) -> bytes:
    """PNG of a heat map, region × time, over the curve of all regions together.

    Args:
      attribution: of the score.
      fps: frames per second. Frames that the model did not read are hatched.
    """
    n, regions = attribution.regions.shape
    step = max(1, math.ceil(n / 80))  # a column of the map is at least a few pixels wide
    columns = -(-n // step)
    padded = np.pad(attribution.regions, ((0, columns * step - n), (0, 0)))
    cells = padded.reshape(columns, step, regions).sum(axis=1).T
    stop = columns * step / fps
    figure = _figure(9.0, 4.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(regions, 3))
    largest = float(np.abs(cells).max()) or 1.0
    shown = top.imshow(
        cells, aspect="auto", cmap=_DIVERGING, norm=CenteredNorm(0, largest), extent=(0, stop, regions, 0)
    )
    top.set_yticks(np.arange(regions) + 0.5, [REGION_LABELS[name] for name in attribution.region_names])
    top.hlines(np.arange(1, regions), 0, stop, color="white", linewidth=1.5)
    figure.colorbar(shown, ax=top, label="added to the score", pad=0.01)
    edges = np.arange(columns + 1) * step / fps
    total = cells.sum(axis=0)
    bottom.stairs(total, edges, color=_INK, linewidth=1.2)
    bottom.stairs(np.maximum(total, 0), edges, fill=True, color="#b2182b", alpha=0.6)
    bottom.stairs(np.minimum(total, 0), edges, fill=True, color="#2166ac", alpha=0.6)
    bottom.axhline(0, color="0.5", linewidth=0.8)
    for axes in (top, bottom):
        for start, end in _runs(~attribution.read):
            axes.axvspan(start / fps, end / fps, facecolor="none", edgecolor="0.6", hatch="///", linewidth=0)
    bottom.set(xlabel="time (s)", ylabel="all regions", xlim=(0, n / fps))
    return _png(figure)


def contact_sheet(clip: Clip, attribution: Attribution | None) -> bytes:
    """JPEG of frames over time with their landmarks; below each, where its run of frames moved the score.

    Dots are the landmarks' positions and colours, squares the patches of the picture, all on one scale: what moved the
    score little looks pale. Without frames the landmarks are drawn on an empty ground.
    """
    points = landmarks.select(clip.landmarks, clip.layout)
    edges = np.linspace(0, len(points), min(_TILES, len(points)) + 1).astype(int)
    overlay = attribution is not None
    rows, columns = (2 if overlay else 1) * math.ceil((len(edges) - 1) / 4), min(4, len(edges) - 1)
    figure = _figure(2.25 * columns, 2.5 * rows + (0.8 if overlay else 0.1))
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.ravel():
        axes.set_axis_off()
    low, high = _face_box(points)
    dots, patches, largest = _runs_of(attribution, edges)
    for i, (start, stop) in enumerate(itertools.pairwise(edges)):
        t = int(start + stop) // 2
        row, column = divmod(i, 4)
        picture = None if clip.frames is None else decode_frame(clip.frames[t])
        axes = panels[row * (2 if overlay else 1), column]
        _tile(axes, picture, low, high)
        axes.scatter(points[t, :, 0], points[t, :, 1], s=3.5, color="#ffe14d", edgecolors="black", linewidths=0.25)
        axes.set_title(f"frame {t}, {t / clip.fps:.2f} s", fontsize="small")
        if not overlay:
            continue
        below, norm = panels[2 * row + 1, column], CenteredNorm(0, largest)
        if picture is not None:
            grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            _tile(below, grey, low, high)
            if patches is not None:
                height, width = grey.shape[:2]
                alpha = np.minimum(0.85, 1.5 * np.abs(patches[i]) / largest)
                extent = (-0.5, width - 0.5, height - 0.5, -0.5)
                below.imshow(
                    patches[i], cmap=_DIVERGING, norm=norm, alpha=alpha, extent=extent, interpolation="nearest"
                )
        if dots is not None:
            x, y = points[t].T
            below.scatter(x, y, s=22, c=dots[i], cmap=_DIVERGING, norm=norm, edgecolors="0.3", linewidths=0.3)
        _tile(below, None, low, high)
        below.set_title(f"frames {start}–{stop - 1}", fontsize="small")
    if overlay:
        scale = ScalarMappable(CenteredNorm(0, largest), _DIVERGING)
        label = "added to the score, by landmark (dots) and by patch of the picture (squares)"
        figure.colorbar(scale, ax=panels, label=label, location="bottom", shrink=0.7, pad=0.01, aspect=40)
    return _encode(figure, "jpg")


def _runs_of(attribution: Attribution | None, edges: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None, float]:
    """Attribution of landmarks (runs, 63) and patches (runs, G', G') in runs of frames, and the largest by size."""
    dots, patches = None, None
    if attribution is not None and attribution.trajectory is not None:
        dots = np.add.reduceat(attribution.trajectory.sum(axis=2), edges[:-1], axis=0)
    if attribution is not None and attribution.frames is not None:
        patches = np.add.reduceat(attribution.frames, edges[:-1], axis=0)
        if patches.shape[1] % 2 == 0 and patches.shape[1] > 16:
            patches = reduce(patches, "i (y two) (x also) -> i y x", "sum", two=2, also=2)
    largest = max((float(np.abs(x).max()) for x in (dots, patches) if x is not None), default=0.0)
    return dots, patches, largest or 1.0


def _tile(axes: Axes, picture: np.ndarray | None, low: np.ndarray, high: np.ndarray) -> None:
    """The part of a picture that shows the face."""
    if picture is not None:
        axes.imshow(picture)
    axes.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), aspect="equal")


def _face_box(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (x, y) of a square round all points of a clip (n, 63, 2), with some margin."""
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    half = 0.6 * (high - low).max()
    middle = (low + high) / 2
    return middle - half, middle + half


def _shade(axes: Axes, frames: Sequence[int], fps: float) -> None:
    """Marks frames whose landmarks were interpolated."""
    if len(frames):
        marked = np.zeros(max(frames) + 1, bool)
        marked[list(frames)] = True
        for start, stop in _runs(marked):
            axes.axvspan((start - 0.5) / fps, (stop - 0.5) / fps, color="0.85", zorder=0)


def _runs(marked: np.ndarray) -> list[tuple[int, int]]:
    """(first, one past the last) of each run of True in (n,)."""
    steps = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(int)))
    return [(int(start), int(stop)) for start, stop in steps.reshape(-1, 2)]


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", facecolor=_GROUND)


def _png(figure: Figure) -> bytes:
    return _encode(figure, "png")


def _encode(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=_DPI, pil_kwargs={"quality": 85} if kind == "jpg" else None)
    return buffer.getvalue()
