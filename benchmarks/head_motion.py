"""How much head motion, and how much of the expression, each option leaves in the trajectories.

    python -m benchmarks.head_motion docs/head_motion.md docs/images/head_motion.png

The command writes the tables between the markers of the first file, and the picture. Synthetic faces of severity 0 make
each expression twice, on a moving head and on a still one; any difference between the two trajectories is head motion.
The points are exact, except in the last column of the first table.
"""

import argparse
import dataclasses
import pathlib
import platform
from collections.abc import Iterator, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from tramp_jax.data import clips, head_motion, landmarks
from tramp_jax.synthetic import face, faces

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
UNTOUCHED = "no option (pixels of the crop)"
# The measured options: name -> (landmarks.normalise, landmarks.frontalise).
OPTIONS = {
    '"first_frame"': (head_motion.FIRST_FRAME, False),
    '"nose" (default)': (head_motion.NOSE, False),
    '"nose_mean"': (head_motion.NOSE_MEAN, False),
    '"similarity"': (head_motion.SIMILARITY, False),
    '"nose" + frontalise': (head_motion.NOSE, True),
    '"similarity" + frontalise': (head_motion.SIMILARITY, True),
}
SUBJECTS = 10
SHOWN = 2  # the subject in the picture
STRENGTHS = {"as drawn": 1.0, "three times": 3.0}
# One kind of head motion at a time: name -> columns of ``face.Motion.pose``.
KINDS = {"turning": [0], "nodding": [1], "tilting": [2], "approaching": [3], "shifting": [4, 5]}


@dataclasses.dataclass(frozen=True)
class Pair:
    """One expression of one person, as exact points.

    Attributes:
      moving, still: the clip with a moving head, and with the head upright and at rest.
      noise: (n, 106, 3) a detector's noise in x, y and depth, pixels.
      unit: distance between the outer eye corners of the still head, pixels.
    """

    moving: clips.Clip
    still: clips.Clip
    noise: np.ndarray
    unit: float


def pairs(strength: float, kind: Sequence[int] = range(6)) -> Iterator[Pair]:
    """All expressions of ``SUBJECTS`` people.

    Head motion is that of synthetic faces times ``strength``, only in the columns ``kind`` of their pose.
    """
    source = faces.SyntheticFaces(SUBJECTS, 1, with_frames=False)
    source.infos = tuple(dataclasses.replace(info, score=0.0) for info in source.infos)
    for index in range(len(source)):
        movement, neutral = source.motion(index), source.neutral(index)
        pose = np.zeros_like(movement.pose)
        still = _seen(source.infos[index], neutral, dataclasses.replace(movement, pose=pose))
        pose = pose.copy()
        pose[:, list(kind)] = strength * movement.pose[:, list(kind)]
        moving = _seen(source.infos[index], neutral, dataclasses.replace(movement, pose=pose))
        noise = np.random.default_rng(index).normal(size=(*still.landmarks.shape[:2], 3))
        noise *= (faces.DETECTOR_NOISE, faces.DETECTOR_NOISE, faces.DEPTH_NOISE)
        corners = still.landmarks[0, [35, 93]]
        yield Pair(moving, still, noise, float(np.linalg.norm(corners[1] - corners[0])))


def _seen(info: clips.ClipInfo, neutral: np.ndarray, movement: face.Motion) -> clips.Clip:
    """The clip as exact points, float64."""
    points, depth = (f(neutral, movement)[:, : face.NUM_LANDMARKS] for f in (face.move, face.depth))
    return clips.Clip(info, points, faces.LAYOUT, depth=depth)


def prepared(clip: clips.Clip, name: str) -> np.ndarray:
    """The clip's trajectory under an option: (n, 63, 2) float64."""
    if name == UNTOUCHED:
        return landmarks.select(clip.landmarks, clip.layout).astype(np.float64)
    return head_motion.positions(clip, *OPTIONS[name]).astype(np.float64)


def rms(vectors: np.ndarray) -> float:
    """Root mean square length of vectors (..., d)."""
    return float(np.sqrt(np.mean(np.sum(vectors**2, axis=-1))))


def about_mean(trajectory: np.ndarray) -> np.ndarray:
    return trajectory - trajectory.mean(axis=0)


def measure(name: str, strength: float) -> dict[str, float]:
    """Root mean squares over the clips of ``pairs`` under one option, in pixels; "relative" is per ``Pair.unit``."""
    found: dict[str, list[float]] = {k: [] for k in ("motion", "relative", "pose", "true", "kept", "error", "jitter")}
    for pair in pairs(strength):
        moving, still = prepared(pair.moving, name), prepared(pair.still, name)
        true = about_mean(prepared(pair.still, UNTOUCHED))
        difference = moving - still
        found["motion"].append(rms(about_mean(difference)))
        found["relative"].append(found["motion"][-1] / pair.unit)
        found["pose"].append(rms(np.broadcast_to(difference.mean(axis=0), difference.shape)))
        expression = about_mean(still)
        found["true"].append(rms(true))
        # How much of the true motion is left along its own direction, and the length of everything else.
        found["kept"].append(float(np.sum(expression * true) / np.sum(true**2)) * rms(true))
        found["error"].append(rms(expression - true))
        noisy = dataclasses.replace(
            pair.still,
            landmarks=pair.still.landmarks + pair.noise[..., :2],
            depth=pair.still.depth + pair.noise[..., 2],
        )
        found["jitter"].append(rms(about_mean(prepared(noisy, name) - still)))
    return {k: rms(np.array(values)[:, None]) for k, values in found.items()}


def left_of_kinds(name: str) -> list[float]:
    """Pixels that an option leaves of each of ``KINDS`` of head motion, three times as strong as drawn."""
    left = []
    for kind in KINDS.values():
        differences = [prepared(pair.moving, name) - prepared(pair.still, name) for pair in pairs(3.0, kind)]
        left.append(rms(np.array([rms(about_mean(difference)) for difference in differences])[:, None]))
    return left


def table() -> str:
    """The documentation's tables."""
    versions = f"{platform.machine()}, NumPy {np.__version__}, matplotlib {matplotlib.__version__}"
    lines = [
        f"{SUBJECTS} people × {len(faces.EXPRESSIONS)} expressions, severity 0; {versions}.",
        "",
        "| head motion | option | left, px | left, % of the eyes' distance | left, % of no option | constant, px "
        "| expression kept, % | expression changed, % | jitter, px |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for how, strength in STRENGTHS.items():
        nothing = measure(UNTOUCHED, strength)
        for name in (UNTOUCHED, *OPTIONS):
            x = measure(name, strength)
            lines.append(
                f"| {how} | {name} | {x['motion']:.2f} | {100 * x['relative']:.2f} "
                f"| {100 * x['motion'] / nothing['motion']:.1f} | {x['pose']:.2f} "
                f"| {100 * x['kept'] / x['true']:.1f} | {100 * x['error'] / x['true']:.1f} | {x['jitter']:.2f} |"
            )
    lines += ["", "What is left of each kind of head motion by itself, three times as strong as drawn, px:", ""]
    lines += [f"| option | {' | '.join(KINDS)} |", "|---|" + "---|" * len(KINDS)]
    for name in (UNTOUCHED, *OPTIONS):
        lines.append(f"| {name} | {' | '.join(f'{value:.2f}' for value in left_of_kinds(name))} |")
    return "\n".join(lines)


def picture() -> Figure:
    """The corner of a smiling mouth, and a brow, over time: under each option, on a moving and on a still head."""
    smile = faces.EXPRESSIONS.index("smile")
    pair = list(pairs(3.0))[SHOWN * len(faces.EXPRESSIONS) + smile]
    figure = Figure(figsize=(12.5, 5.2), layout="constrained")
    names = list(OPTIONS)
    rows = {"mouth_left_corner": "corner of the mouth", "left_eyebrow_upper_middle": "brow"}
    axes = figure.subplots(len(rows), len(names), sharex=True, sharey="row", squeeze=False)
    for row, (point, label) in zip(axes, rows.items(), strict=True):
        slot = landmarks.SLOT_NAMES.index(point)
        for axis, name in zip(row, names, strict=True):
            for clip, width, shade, what in (
                (pair.still, 3.0, "0.75", "still head"),
                (pair.moving, 1.2, "tab:red", "moving head"),
            ):
                path = prepared(clip, name)[:, slot]
                seconds = np.arange(len(path)) / clip.fps
                axis.plot(seconds, path[:, 1] - path[0, 1], color=shade, linewidth=width, label=what)
            axis.grid(alpha=0.3)
        row[0].set_ylabel(f"{label}:\ny since frame 0, px")
    for top, bottom, name in zip(axes[0], axes[-1], names, strict=True):
        top.set_title(name.replace(" + ", "\n+ "), fontsize=10)
        bottom.set_xlabel("time, s")
    axes[0, 0].legend(loc="best", fontsize=8)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and writes both files."""
    parser = argparse.ArgumentParser(description="Measure head motion in the trajectories of synthetic faces.")
    parser.add_argument("document", type=pathlib.Path, help=f"Markdown with {BEGIN} and {END}")
    parser.add_argument("picture", type=pathlib.Path, help="picture to write")
    options = parser.parse_args(arguments)
    text = options.document.read_text()
    if not (BEGIN in text and END in text):
        parser.error(f"{options.document} has no lines {BEGIN} and {END}")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    options.document.write_text(f"{head}{BEGIN}\n{table()}\n{END}{tail}")
    picture().savefig(options.picture, dpi=90)


if __name__ == "__main__":
    main()
