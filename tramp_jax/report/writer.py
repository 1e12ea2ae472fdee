"""The report on one scored clip: one HTML file that says what was scored, how, and on what evidence.

The file holds everything it shows and a policy that keeps browsers from fetching anything. It names no more of a person
than the clip's record and the provenance do.
"""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from tramp_jax.data import head_motion
from tramp_jax.report import motion, page, plots
from tramp_jax.report.attribution import Attribution
from tramp_jax.report.record import PROVENANCE, Evidence

NOTICE = "For research; not a diagnosis."


def write_report(path: pathlib.Path, evidence: Evidence) -> None:
    """Writes the report on one clip to ``path``, an .html file."""
    path.write_text(render(evidence), encoding="utf-8")


def render(evidence: Evidence) -> str:
    """The report on one clip as one HTML document."""
    info = evidence.clip.info
    expression = info.expression.replace("_", " ") or "expression not named"
    title = f"{expression[:1].upper()}{expression[1:]}: {evidence.score:.2f} on {evidence.scale.name}"
    body = [page.paragraph(NOTICE, "research"), page.heading(1, title), *_summary(evidence, expression)]
    body += _attribution(evidence) + _motion(evidence) + _trajectories(evidence) + _provenance(evidence)
    body.append(page.paragraph(NOTICE, "research"))
    return page.page(f"{title} – {info.id}", body)


def _summary(evidence: Evidence, expression: str) -> list[str]:
    scale, score, interval = evidence.scale, evidence.score, evidence.interval
    span = f"{scale.low:g} ({scale.low_means}) to {scale.high:g} ({scale.high_means})"
    inside = f"no interval: {evidence.interval_note}"
    if interval is not None:
        inside = f"interval {interval[0]:.2f} to {interval[1]:.2f} ({evidence.interval_note})"
    label = f"Score {score:.2f} on {scale.name}, {span}; {inside}"
    parts = [
        page.paragraph(
            f"Clip {evidence.clip.info.id}, subject {evidence.clip.info.subject or 'not named'}, task: {expression}.",
            "soft",
        ),
        '<div class="score"><div><div class="number">'
        + page.text(f"{score:.2f}")
        + "</div>"
        + page.paragraph(f"{scale.name}, {span}", "soft")
        + page.paragraph(inside[:1].upper() + inside[1:] + ".")
        + "</div>"
        + page.scale(scale.low, scale.high, score, interval, label)
        + "</div>",
    ]
    found = list(evidence.warnings)
    if not scale.low <= score <= scale.high:
        found.append(f"The score lies outside its scale of {scale.low:g} to {scale.high:g}.")
    if evidence.attribution is not None and not evidence.attribution.converged:
        found.append("The attribution did not reach its accuracy; see its completeness error.")
    parts.append(page.warnings(found) if found else page.paragraph("No warnings."))
    parts += [page.paragraph(sentence) for sentence in headline(evidence)]
    parts.append(
        page.figure(
            plots.contact_sheet(evidence.clip, evidence.attribution),
            f"Contact sheet: frames in order of time with the 63 landmarks over them. {_heat_words(evidence)}",
            "Frames in order of time with their landmarks. " + _heat_words(evidence),
        )
    )
    return parts


def _heat_words(evidence: Evidence) -> str:
    if evidence.attribution is None:
        return ""
    return (
        "Below each, the run of frames that it stands for: what is red raised the score by its change since the first "
        "frame, what is blue lowered it; dots are landmarks, squares are patches of the picture."
    )


def headline(evidence: Evidence) -> list[str]:
    """What the evidence says, in two or three sentences."""
    found = evidence.attribution
    if found is None:
        return [f"Which regions and moments moved the score is not known: {evidence.attribution_note}."]
    sentences = [
        f"The same face, not moving, would score {found.baseline_score:.2f}; the motion changed the score by "
        f"{found.difference:+.2f}."
    ]
    if found.relative_error is None:
        return [f"{sentences[0]} That is nothing to speak of, so no region or moment stands out."]
    ranked = sorted(found.by_region.items(), key=lambda item: -abs(item[1]))[:2]
    regions = " and ".join(f"{plots.REGION_LABELS[name]} ({value:+.2f})" for name, value in ranked)
    start, stop = strongest_moment(found, evidence.clip.fps)
    return [f"{sentences[0]} Most of it came through {regions}, and most strongly from {start:.2f} to {stop:.2f} s."]


def strongest_moment(attribution: Attribution, fps: float) -> tuple[float, float]:
    """Start and end in seconds of the half second in which the score was moved most, by size."""
    strength = np.abs(attribution.by_moment)
    width = min(len(strength), max(1, round(fps / 2)))
    start = int(np.convolve(strength, np.ones(width), "valid").argmax())
    return start / fps, (start + width) / fps


def _attribution(evidence: Evidence) -> list[str]:
    parts = [page.heading(2, "What moved the score")]
    found = evidence.attribution
    if found is None:
        return [*parts, page.paragraph(f"Not computed: {evidence.attribution_note}.")]
    if abs(found.score - evidence.score) > 0.005:
        parts.append(
            page.paragraph(
                f"What is explained is the number that the network gave, {found.score:.2f}; the score above was made "
                "from it."
            )
        )
    error = found.relative_error
    share = "the motion changed the score by next to nothing, so no share of it is given"
    if error is not None:
        share = f"{100 * error:.2f} % of it"
    parts += [
        page.paragraph(
            "Integrated gradients between the clip and its first frame held still. Numbers are in units of the score: "
            "positive raised it, negative lowered it. They tell how this model came to its number; they do not tell "
            "what is wrong with a face, and a region may matter to the model for a reason that is no sign of disease."
        ),
        page.paragraph(
            f"Completeness: attributions add up to {found.regions.sum():+.4f}, the score difference is "
            f"{found.difference:+.4f}; error {found.error:.1g} ({share}), from {found.evaluations} gradients"
            + ("." if found.converged else ", which did not suffice for the accuracy asked for.")
        ),
        page.table(
            "By region, all moments together. Sides are the person's.",
            ["region", "added to the score", "share by size"],
            _ranked({plots.REGION_LABELS[name]: value for name, value in found.by_region.items()}),
        ),
        page.table(
            "By kind of input.",
            ["input", "added to the score", "share by size"],
            _ranked(found.by_input),
        ),
        page.figure(
            plots.attribution_over_time(found, evidence.clip.fps),
            "Heat map of attribution: a row for each region, a column for each moment; below it, the sum over regions. "
            + " ".join(headline(evidence)),
            "By region and moment. Red raised the score, blue lowered it; hatched frames were not read by the model.",
        ),
    ]
    return parts


def _ranked(values: Mapping[str, float]) -> list[list[str]]:
    whole = sum(abs(value) for value in values.values()) or 1.0
    ranked = sorted(values.items(), key=lambda item: -abs(item[1]))
    return [[name, f"{value:+.4f}", f"{100 * abs(value) / whole:.0f} %"] for name, value in ranked]


def _points(evidence: Evidence) -> np.ndarray:
    if evidence.points is not None:
        return evidence.points
    return head_motion.positions(evidence.clip, head_motion.SIMILARITY)


def _motion(evidence: Evidence) -> list[str]:
    parts = [page.heading(2, "How the face moved")]
    points = _points(evidence)
    if len(points) < motion.MIN_FRAMES:
        return [
            *parts,
            page.paragraph(f"Not measured: the clip has {len(points)} frames, and {motion.MIN_FRAMES} are needed."),
        ]
    table = motion.motion_table(points, evidence.clip.fps)
    rows = [
        [
            plots.REGION_LABELS.get(region.region, "whole face"),
            f"{region.range:.3f}",
            f"{region.peak_speed:.2f}",
            *(_milliseconds(value) for value in (region.onset_ms, region.rise_ms, region.hold_ms)),
        ]
        for region in table.regions
    ]
    # The person's right is the left of the picture.
    sides = [
        [_PAIRS[side.pair], f"{side.left:.3f}", f"{side.right:.3f}", _asymmetry(side.asymmetry)] for side in table.sides
    ]
    return [
        *parts,
        page.paragraph(
            f"Measured from the landmarks, without the model. Lengths are in distances between the outer eye corners "
            f"(here {table.inter_ocular:.1f} pixels); onset and rise are between rest and 10 %, and 10 % and 90 %, of "
            f"the largest excursion; hold is the time at 90 % or more. Smoothed over {table.window} frames "
            f"({1000 * table.window / table.fps:.0f} ms). “–”: no movement clear of the jitter of the landmarks."
        ),
        page.table(
            "Motion by region. Sides are the person's.",
            ["region", "range", "peak speed (1/s)", "onset (ms)", "rise (ms)", "hold (ms)"],
            rows,
        ),
        page.table(
            "Range of motion of the two sides of the person, and which of them moves more, by (right − left) / "
            "(right + left).",
            ["", "right side", "left side", "asymmetry"],
            sides,
        ),
        page.paragraph(
            "The head's shift, its tilt in the plane of the picture and its changes of size are taken out; turning and "
            "nodding are not, and count as motion of the face. A video that was mirrored has its sides exchanged.",
            "soft",
        ),
    ]


_PAIRS = {
    "eyes": "eyes",
    "brows": "eyebrows",
    "nose": "nose",
    "lower_lip": "lower lip",
    "upper_lip": "upper lip",
    motion.FACE: "whole face",
}


def _milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _asymmetry(value: float | None) -> str:
    if value is None:
        return "–"
    percent = round(100 * abs(value))
    return "even" if percent == 0 else f"{'right' if value > 0 else 'left'} more, {percent} %"


def _trajectories(evidence: Evidence) -> list[str]:
    clip, points = evidence.clip, _points(evidence)
    filled = sorted({int(frame) for frame in evidence.interpolated})
    shaded = " Grey: interpolated frames." if filled else ""
    parts = [page.heading(2, "Landmarks over time")]
    if filled:
        parts.append(
            page.paragraph(
                f"In {len(filled)} of {len(points)} frames the landmarks were not measured but interpolated: "
                f"{_spans(filled)}."
            )
        )
    else:
        parts.append(page.paragraph("No frame's landmarks were interpolated."))
    ground = "over the first frame" if clip.frames is not None else "(the clip has no pictures)"
    parts += [
        page.figure(
            plots.landmark_paths(clip),
            f"The paths of the 63 landmarks through the face crop {ground}, coloured by time.",
            f"Paths of the 63 landmarks {ground}, coloured by time; dots are where they started. The head's own "
            "movement is in them.",
            narrow=True,
        ),
        page.figure(
            plots.region_courses(clip, points, filled),
            "For each of the seven regions, horizontal and vertical displacement over time; the table above has their "
            "ranges, speeds and times.",
            "Displacement from the first frame, the head's shift, tilt and size taken out. Thick: mean of the region; "
            "thin: its nine landmarks." + shaded,
        ),
    ]
    if clip.pixels is None:
        return [*parts, page.paragraph("Pixel values: the clip has none.")]
    return [
        *parts,
        page.figure(
            plots.pixel_values(clip, filled),
            "Red, green and blue pixel values over time under four landmarks: " + ", ".join(plots.COLOUR_LABELS) + ".",
            "Pixel values under four of the 63 landmarks." + shaded,
        ),
    ]


def _spans(frames: Sequence[int]) -> str:
    """1, 2, 3, 7 -> "1–3, 7"."""
    edges = [i for i, frame in enumerate(frames) if i == 0 or frame != frames[i - 1] + 1]
    runs = [frames[start:stop] for start, stop in zip(edges, [*edges[1:], len(frames)], strict=True)]
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _provenance(evidence: Evidence) -> list[str]:
    info, known = evidence.clip.info, evidence.provenance
    rows: list[list[object]] = [
        ["clip", info.id],
        ["subject", info.subject or "not recorded"],
        ["expression", info.expression or "not recorded"],
        ["length", f"{len(evidence.clip.landmarks)} frames, {len(evidence.clip.landmarks) / evidence.clip.fps:.2f} s"],
        *([label, known.get(key, "not recorded")] for key, label in PROVENANCE.items()),
        *([key, value] for key, value in known.items() if key not in PROVENANCE),
    ]
    return [page.heading(2, "Where this comes from"), page.table("Provenance", ["what", "value"], rows, "text")]
