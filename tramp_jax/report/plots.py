"""The plots of the report. Each takes the evidence and returns HTML: the plot, or the reason why it is missing.

To add a plot, write a function like these and list it in ``writer.SECTIONS``. Plots keep a light background even in
dark mode. Sides in labels are the *person's*: the person's right eye is on the left of the picture, as in a video that
was not mirrored.
"""

import io
import itertools
import math

import cv2
import numpy as np
from einops import reduce
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure

from tramp_jax.data import landmarks
from tramp_jax.data.clips import decode_frame
from tramp_jax.data.frame_numbers import spell
from tramp_jax.report import page
from tramp_jax.report.attribution import ELSEWHERE, PICTURES, Attribution
from tramp_jax.report.motion import inter_ocular
from tramp_jax.report.record import Evidence

EFFECTS = "Effects of movement on the score"
# Labels of the regions. Group names give the side of the image, labels the side of the person.
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
# Landmarks whose pixel values are shown: slot name -> label. The colour under each changes as the face moves.
_COLOUR_POINTS = {
    "left_eye_top": "top of the right eye",
    "left_eyebrow_lower_middle": "lower edge of the right eyebrow",
    "mouth_upper_lip_bottom": "lower edge of the upper lip",
    "mouth_left_corner": "right corner of the mouth",
}
_BACKGROUND, _INK = "#fbfbf9", "#222222"
_X, _Y = "#0b62a8", "#c2571a"  # distinct in print and to colour-blind readers
_DIVERGING, _TIME = "RdBu_r", "viridis"
_DPI = 120
_TILES, _COLUMNS = 8, 4  # of the contact sheet


def contact_sheet(evidence: Evidence) -> str:
    """Frames in time order with their landmarks; below each, how the frames around it changed the score.

    Dots are the landmarks' positions and colours, squares the patches of the picture, on one colour scale.
    """
    clip, attribution = evidence.clip, evidence.attribution
    points = landmarks.select(clip.landmarks, clip.layout)
    box = _face_box(points)
    edges = np.linspace(0, len(points), min(_TILES, len(points)) + 1).astype(int)
    dots, patches, largest = _effects_of_runs(attribution, edges)
    norm = CenteredNorm(0, largest)
    height = 1 if attribution is None else 2  # panels per frame
    rows, columns = height * math.ceil((len(edges) - 1) / _COLUMNS), min(_COLUMNS, len(edges) - 1)
    figure = _figure(2.25 * columns, 2.5 * rows + (0.1 if attribution is None else 0.8))
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.ravel():
        axes.set_axis_off()
    for i, (start, stop) in enumerate(itertools.pairwise(edges)):
        row, column = height * (i // _COLUMNS), i % _COLUMNS
        t = int(start + stop) // 2
        x, y = points[t].T
        axes, fill = panels[row, column], _INK
        if clip.frames is not None:
            picture, fill = decode_frame(clip.frames[t]), "#ffe14d"
            axes.imshow(picture)
        axes.scatter(x, y, s=3.5, color=fill, edgecolors="black", linewidths=0.25)
        _frame(axes, box, f"{spell(t)}, {t / clip.fps:.2f} s")
        if attribution is None:
            continue
        axes = panels[row + 1, column]
        if clip.frames is not None:
            axes.imshow(cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))
            if patches is not None:
                alpha = np.minimum(0.85, 1.5 * np.abs(patches[i]) / largest)
                extent = (-0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5)
                axes.imshow(patches[i], _DIVERGING, norm=norm, alpha=alpha, extent=extent, interpolation="nearest")
        if dots is not None:
            axes.scatter(x, y, s=22, c=dots[i], cmap=_DIVERGING, norm=norm, edgecolors="0.3", linewidths=0.3)
        _frame(axes, box, f"frames {start + 1}–{stop}")
    words = "Frames in time order with their 63 landmarks."
    if attribution is not None:
        label = "effect on the score of each landmark (dots) and each patch of the picture (squares)"
        scale = ScalarMappable(norm, _DIVERGING)
        figure.colorbar(scale, ax=panels, label=label, location="bottom", shrink=0.7, pad=0.01, aspect=40)
        words += (
            " The tile below each frame stands for the frames around it. Red marks what raised the score by changing "
            "since the first frame, blue what lowered it. Dots are landmarks, squares are patches of the picture."
        )
    return page.figure(_encode(figure, "jpg"), f"Contact sheet. {words}", words)


def attribution_over_time(evidence: Evidence) -> str:
    """A heat map of effects, region × time, for each stream, above their sum. Frames it did not read are hatched.

    In one map, the few frames of which the model reads the picture would look like events in the face.
    """
    attribution, fps = evidence.attribution, evidence.clip.fps
    if attribution is None:
        return page.missing(EFFECTS, evidence.attribution_note)
    n = len(attribution.regions)
    starts = np.arange(0, n, max(1, math.ceil(n / 80)))  # keeps each column of a map a few pixels wide
    edges = np.append(starts, n) / fps
    maps = {stream: np.add.reduceat(effects, starts).T for stream, effects in attribution.by_stream.items()}
    # Both streams have the same scales: in one of its own, a stream that hardly counts would look important.
    norm = CenteredNorm(0, max(float(np.abs(cells).max()) for cells in maps.values()) or 1.0)
    sums = np.concatenate([[0.0], *(cells.sum(axis=0) for cells in maps.values())])
    margin = 0.05 * (np.ptp(sums) or 1.0)
    figure = _figure(9.0, 0.6 + 4 * len(maps))
    panels = figure.subplots(2 * len(maps), 1, sharex=True, height_ratios=(7, 3) * len(maps))
    for (stream, cells), top, bottom in zip(maps.items(), panels[::2], panels[1::2], strict=True):
        names = attribution.region_names if stream == PICTURES else landmarks.REGIONS
        unread = ~np.logical_or.reduceat(attribution.read[stream], starts)
        cells, total = (np.where(unread, np.nan, x) for x in (cells[: len(names)], cells.sum(axis=0)))
        top.pcolormesh(edges, np.arange(len(names) + 1), cells, cmap=_DIVERGING, norm=norm)
        top.set_yticks(np.arange(len(names)) + 0.5, [REGION_LABELS[name] for name in names])
        top.invert_yaxis()
        top.hlines(np.arange(1, len(names)), 0, edges[-1], color="white", linewidth=1.5)
        title = f"Effects of the {stream}, read in {_count(attribution.read[stream])}"
        top.set_title(title, loc="left", fontsize="medium")
        bottom.stairs(total, edges, color=_INK, linewidth=1.2)
        bottom.stairs(np.maximum(total, 0), edges, fill=True, color="#b2182b", alpha=0.6)
        bottom.stairs(np.minimum(total, 0), edges, fill=True, color="#2166ac", alpha=0.6)
        bottom.axhline(0, color="0.5", linewidth=0.8)
        bottom.set(ylabel="all regions", ylim=(sums.min() - margin, sums.max() + margin))
        for first, end in _runs(unread):
            for axes in (top, bottom):
                axes.axvspan(edges[first], edges[end], facecolor="0.93", edgecolor="0.75", hatch="///", linewidth=0)
    panels[-1].set(xlabel="time (s)", xlim=(0, edges[-1]))
    figure.colorbar(ScalarMappable(norm, _DIVERGING), ax=panels, label="effect on the score", pad=0.01, aspect=40)
    words = (
        "Effects by region and moment. Red raised the score, blue lowered it. The model did not read hatched frames."
    )
    if note := sampling_note(attribution):
        words += (
            f"{note} Their columns are samples in time, not events in the face: whatever happened between them had no "
            "effect through the pictures. To compare the streams, see the table of inputs: the effect of the pictures "
            "is concentrated in few columns."
        )
    return page.figure(
        _encode(figure),
        f"Heat map of the effects of the {' and of the '.join(maps)} on the score: a row for each region, a column for "
        "each moment; below it, the sum over regions. The table of regions and the summary give the largest effects as "
        "numbers.",
        words,
    )


def sampling_note(attribution: Attribution) -> str:
    """A sentence, after a space, on how few frames the model read as pictures; "" if it read all or none."""
    read = attribution.read.get(PICTURES)
    return "" if read is None or read.all() else f" The model saw the picture of only {_count(read)}."


def _count(read: np.ndarray) -> str:
    """How many frames were read, in words."""
    return f"all {len(read)} frames" if read.all() else f"{read.sum()} of {len(read)} frames"


def landmark_paths(evidence: Evidence) -> str:
    """The paths of the 63 landmarks, coloured by time, over the clip's first frame if it has frames."""
    clip = evidence.clip
    points = landmarks.select(clip.landmarks, clip.layout)
    figure = _figure(6.4, 5.6)
    axes = figure.subplots()
    if clip.frames is not None:
        axes.imshow(decode_frame(clip.frames[0]), alpha=0.55)
    times = np.arange(len(points)) / clip.fps
    norm = Normalize(0, max(times[-1], 1e-9))
    for point in points.swapaxes(0, 1):
        lines = LineCollection(list(np.stack([point[:-1], point[1:]], axis=1)), cmap=_TIME, norm=norm, linewidths=1.6)
        lines.set_array(times[:-1])
        axes.add_collection(lines)
    axes.scatter(points[0, :, 0], points[0, :, 1], s=7, color="black", zorder=3, label="first frame")
    _frame(axes, _face_box(points))
    axes.set_xlabel("the person's right  ←  pixels of the face crop  →  the person's left")
    axes.legend(loc="lower right", frameon=True, fontsize="small")
    figure.colorbar(lines, ax=axes, label="time (s)", shrink=0.85)
    where = "over the first frame" if clip.frames is not None else "(the clip has no frames)"
    words = f"Paths of the 63 landmarks {where}, coloured by time. Dots mark their start. Head movement is included."
    return page.figure(_encode(figure), words, words, narrow=True)


def region_courses(evidence: Evidence) -> str:
    """Displacement of each region over time: its nine landmarks and their mean."""
    points, fps = evidence.points, evidence.clip.fps
    moved = (points - points[0]) / inter_ocular(points)
    times = np.arange(len(points)) / fps
    figure = _figure(9.0, 6.0)
    panels = figure.subplots(2, 4, sharex=True, sharey=True)
    for group, (axes, name) in enumerate(zip(panels.ravel(), landmarks.GROUPS, strict=False)):
        region = moved[:, group * landmarks.GROUP_SIZE :][:, : landmarks.GROUP_SIZE]
        for axis, (colour, style, label) in enumerate(
            ((_X, "-", "sideways, to the person's left"), (_Y, "--", "down"))
        ):
            axes.plot(times, region[..., axis], color=colour, linewidth=0.5, alpha=0.3)
            axes.plot(times, region[..., axis].mean(axis=1), style, color=colour, linewidth=1.8, label=label)
        _shade(axes, evidence)
        axes.set_title(REGION_LABELS[name], fontsize="medium")
        axes.grid(color="0.9")
    legend, last = panels.ravel()[-1], panels.ravel()[-2]
    legend.axis("off")
    handles, labels = last.get_legend_handles_labels()
    legend.legend(handles, labels, loc="center", frameon=False, fontsize="small", title="mean of 9 landmarks")
    for axes in panels[1]:
        axes.set_xlabel("time (s)")
    panels[0, 3].tick_params(labelbottom=True)
    figure.supylabel("displacement (distances between the outer eye corners)", fontsize="medium")
    return page.figure(
        _encode(figure),
        "Sideways and vertical displacement of each of the seven regions over time. The table of movements gives their "
        "ranges, speeds and times as numbers.",
        "Displacement from the first frame; the head's shift, tilt and size are removed. Thick lines are the mean of a "
        f"region, thin lines its nine landmarks.{_shaded(evidence)}",
    )


def pixel_values(evidence: Evidence) -> str:
    """Red, green and blue under four landmarks over time."""
    pixels, fps = evidence.clip.pixels, evidence.clip.fps
    if pixels is None:
        return page.missing("Pixel values", "the clip has no frames")
    times = np.arange(len(pixels)) / fps
    figure = _figure(9.0, 2.9)
    panels = figure.subplots(1, len(_COLOUR_POINTS), sharey=True)
    kinds = (("#c0262d", "-", "red"), ("#2a7d3a", "--", "green"), ("#2a4fb0", ":", "blue"))
    for axes, (name, title) in zip(panels, _COLOUR_POINTS.items(), strict=True):
        values = pixels[:, landmarks.SLOT_NAMES.index(name)]
        for channel, (colour, style, label) in enumerate(kinds):
            axes.plot(times, values[:, channel], style, color=colour, linewidth=1.5, label=label)
        _shade(axes, evidence)
        axes.set_title(title, fontsize="small")
        axes.set_xlabel("time (s)")
        axes.grid(color="0.9")
    panels[0].set(ylabel="pixel value (0–255)", ylim=(0, 255))
    panels[-1].legend(frameon=False, fontsize="small")
    return page.figure(
        _encode(figure),
        f"Red, green and blue pixel values over time under four landmarks: {', '.join(_COLOUR_POINTS.values())}.",
        f"Pixel values under four of the 63 landmarks.{_shaded(evidence)}",
    )


def _effects_of_runs(
    attribution: Attribution | None, edges: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None, float]:
    """Effects of landmarks (runs, 63) and patches (runs, G', G') in runs of frames, and the largest absolute one."""
    dots, patches = None, None
    if attribution is not None and attribution.trajectory is not None:
        dots = np.add.reduceat(attribution.trajectory.sum(axis=2), edges[:-1], axis=0)
    if attribution is not None and attribution.frames is not None:
        patches = np.add.reduceat(attribution.frames, edges[:-1], axis=0)
        if patches.shape[1] % 2 == 0 and patches.shape[1] > 16:
            patches = reduce(patches, "i (y h) (x w) -> i y x", "sum", h=2, w=2)
    largest = max((float(np.abs(x).max()) for x in (dots, patches) if x is not None), default=0.0)
    return dots, patches, largest or 1.0


def _frame(axes: Axes, box: tuple[np.ndarray, np.ndarray], title: str = "") -> None:
    """Limits a panel to the face."""
    low, high = box
    axes.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), aspect="equal")
    axes.set_title(title, fontsize="small")


def _face_box(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (x, y) of a square around all points of a clip (n, 63, 2), with a margin."""
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    half = 0.6 * (high - low).max()
    middle = (low + high) / 2
    return middle - half, middle + half


def _shade(axes: Axes, evidence: Evidence) -> None:
    """Marks frames whose landmarks were interpolated."""
    marked = np.zeros(len(evidence.clip.landmarks), bool)
    marked[list(evidence.interpolated)] = True
    for start, stop in _runs(marked):
        axes.axvspan((start - 0.5) / evidence.clip.fps, (stop - 0.5) / evidence.clip.fps, color="0.85", zorder=0)


def _shaded(evidence: Evidence) -> str:
    return " Landmarks were interpolated where the background is grey." if len(evidence.interpolated) else ""


def _runs(marked: np.ndarray) -> list[tuple[int, int]]:
    """The (start, stop) indices of each run of True in (n,)."""
    steps = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(int)))
    return [(int(start), int(stop)) for start, stop in steps.reshape(-1, 2)]


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", facecolor=_BACKGROUND)


def _encode(figure: Figure, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=_DPI, pil_kwargs={"quality": 85} if kind == "jpg" else None)
    return buffer.getvalue()
