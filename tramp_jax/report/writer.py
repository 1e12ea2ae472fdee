"""Writes the report on one scored clip: one HTML file with the score and the evidence for it.

``SUMMARY`` and ``SECTIONS`` list the report from top to bottom. Each part is a function from the evidence to HTML.
A part that lacks its data returns the reason instead (``page.missing``); a section shows equal reasons once.
The file contains everything it shows, and its policy keeps browsers from fetching anything.
"""

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tramp_jax.data import landmark_quality
from tramp_jax.data.frame_numbers import spell
from tramp_jax.errors import UserError
from tramp_jax.files import write_atomically
from tramp_jax.report import motion, page, plots
from tramp_jax.report.attribution import Attribution
from tramp_jax.report.record import PROVENANCE, Evidence

NOTICE = "For research only; not a diagnosis."
_PAIR_LABELS = {
    "eyes": "eyes",
    "brows": "eyebrows",
    "nose": "nose",
    "lower_lip": "lower lip",
    "upper_lip": "upper lip",
    motion.FACE: "whole face",
}


def write_report(path: pathlib.Path, evidence: Evidence) -> None:
    """Writes the report on one clip to ``path``, an .html file."""
    write_atomically(path, render(evidence))


def render(evidence: Evidence) -> str:
    """The report on one clip as one HTML document."""
    expression = _expression(evidence)
    title = f"{expression[:1].upper()}{expression[1:]}: {_headline_score(evidence)}"
    notice = page.paragraph(NOTICE, "research")
    body = [notice, page.heading(1, title), *(part(evidence) for part in SUMMARY)]
    for heading, parts in SECTIONS.items():
        body += [page.heading(2, heading), *dict.fromkeys(part(evidence) for part in parts)]
    return page.page(f"{title} – {evidence.clip.info.id}", [*body, notice])


def _headline_score(evidence: Evidence) -> str:
    if evidence.withheld:
        return f"score withheld, {evidence.withheld}"
    outside = ", but outside what the model was trained on" if evidence.outside else ""
    return f"{evidence.score:.2f} on {evidence.scale.name}{outside}"


def _expression(evidence: Evidence) -> str:
    return evidence.clip.info.expression.replace("_", " ") or "expression not named"


def _identity(evidence: Evidence) -> str:
    info = evidence.clip.info
    words = f"Clip {info.id}, subject {info.subject or 'not named'}, expression: {_expression(evidence)}."
    return page.paragraph(words, "soft")


def _score(evidence: Evidence) -> str:
    scale, score, interval = evidence.scale, evidence.score, evidence.interval
    ends = f"{scale.name}, {scale.low:g} ({scale.low_means}) to {scale.high:g} ({scale.high_means})"
    if evidence.withheld:
        why = f"The score is withheld: {evidence.withheld}."
        rest = "Its interval and the effects of movement are not shown, because they would give it away."
        return page.paragraph(why, "number") + page.paragraph(ends, "soft") + page.paragraph(rest)
    note = f"No interval: {evidence.interval_note}."
    if interval is not None:
        note = f"Interval {interval[0]:.2f} to {interval[1]:.2f} ({evidence.interval_note})."
        if evidence.ratings and evidence.level:
            note = f"Rating {either(evidence.ratings)}, {100 * evidence.level:g}%. {note}"
    drawing = page.scale(scale.low, scale.high, score, interval, f"Score {score:.2f} on {ends}. {note}")
    number = f'<div class="number">{score:.2f}</div>{page.paragraph(ends, "soft")}{page.paragraph(note)}'
    return f'<div class="score"><div>{number}</div>{drawing}</div>'


def either(ratings: Sequence[float]) -> str:
    """Ratings in words: "2", "2 or 3", "1, 2 or 3"."""
    words = [f"{rating:g}" for rating in ratings]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _warnings(evidence: Evidence) -> str:
    found = list(evidence.warnings)
    if evidence.attribution is not None and not evidence.attribution.converged:
        found.append("The effects of movement did not reach the requested accuracy; their error is given below.")
    return page.warnings(found) if found else page.paragraph("No warnings.")


def _headline(evidence: Evidence) -> str:
    """The attribution in a few sentences."""
    found = evidence.attribution
    if found is None:
        return page.missing(plots.EFFECTS, evidence.attribution_note)
    still = f"If the face stayed as in the first frame, the model's score would be {found.baseline_score:.2f}. "
    if found.relative_error is None:
        return page.paragraph(f"{still}Movement hardly changed the score, so no region or moment stands out.")
    largest = ", ".join(f"{name} ({value:+.2f})" for name, value in _ranked(_by_label(found))[:2])
    start, stop = strongest_moment(found, evidence.clip.fps)
    return page.paragraph(
        f"{still}Movement changed the score by {found.difference:+.2f}. Regions with the largest effects: {largest}. "
        f"The effect was strongest from {start:.2f} to {stop:.2f} s.{plots.sampling_note(found)}"
    )


def strongest_moment(attribution: Attribution, fps: float) -> tuple[float, float]:
    """Start and end, in seconds, of the half second with the largest sum of absolute effects."""
    strength = np.abs(attribution.by_moment)
    width = min(len(strength), max(1, round(fps / 2)))
    start = int(np.convolve(strength, np.ones(width), "valid").argmax())
    return start / fps, (start + width) / fps


def _effects(evidence: Evidence) -> str:
    """How the attribution was computed, how accurate it is, and its sums by region and by kind of input."""
    found = evidence.attribution
    if found is None:
        return page.missing(plots.EFFECTS, evidence.attribution_note)
    share = "the change is negligible"
    if found.relative_error is not None:
        share = f"{100 * found.relative_error:.2f}% of the change"
    parts = [
        page.paragraph(
            "Effects are integrated gradients, from the clip's first frame held still to the clip itself. They are in "
            "units of the score: positive effects raised it, negative effects lowered it. They describe how this model "
            "reached its score. They do not show what is wrong with a face: a region can matter to the model for "
            "reasons that have nothing to do with disease."
        ),
        page.paragraph(
            f"Check: the effects add up to {found.regions.sum():+.4f}; the score changed by {found.difference:+.4f}. "
            f"The error is {found.error:.1g} ({share}), after {found.evaluations} gradients."
            + ("" if found.converged else " The requested accuracy was not reached.")
        ),
        _effect_table("region", "Effect of each region, summed over time. Sides are the person's.", _by_label(found)),
        _effect_table("input", "Effect of each kind of input.", found.by_input),
    ]
    if abs(found.score - evidence.score) > 0.005:
        explained = f"The effects explain the network's output, {found.score:.2f}; the score above is derived from it."
        parts.insert(0, page.paragraph(explained))
    return "\n".join(parts)


def _by_label(attribution: Attribution) -> dict[str, float]:
    return {plots.REGION_LABELS[name]: value for name, value in attribution.by_region.items()}


def _ranked(effects: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(effects.items(), key=lambda item: -abs(item[1]))


def _effect_table(what: str, caption: str, effects: Mapping[str, float]) -> str:
    whole = sum(abs(value) for value in effects.values()) or 1.0
    rows = [[name, f"{value:+.4f}", f"{100 * abs(value) / whole:.0f}%"] for name, value in _ranked(effects)]
    return page.table(f"{caption} Shares ignore the sign.", [what, "effect on the score", "share"], rows)


def _motion(evidence: Evidence) -> str:
    """How the regions and the sides of the face moved."""
    try:
        table = motion.motion_table(evidence.points, evidence.clip.fps)
    except UserError as error:
        return page.missing("Movement", str(error))
    regions = [
        [
            plots.REGION_LABELS.get(region.region, "whole face"),
            f"{region.range:.3f}",
            f"{region.peak_speed:.2f}",
            *("–" if ms is None else f"{ms:.0f}" for ms in (region.onset_ms, region.rise_ms, region.hold_ms)),
        ]
        for region in table.regions
    ]
    # The person's right is on the left of the picture.
    sides = [[_PAIR_LABELS[s.pair], f"{s.left:.3f}", f"{s.right:.3f}", _asymmetry(s.asymmetry)] for s in table.sides]
    parts = [
        page.paragraph(
            "Measured from the landmarks, without the model. The unit of length is the distance between the outer "
            f"corners of the eyes (here {table.inter_ocular:.1f} pixels). Onset is the time at which a movement passes "
            "10% of its peak, rise is the time from 10% to 90%, and hold is the total time at 90% or more. "
            f"Positions are smoothed over {table.window} frames ({1000 * table.window / evidence.clip.fps:.0f} ms). "
            "“–” means that no movement stands out from the jitter of the landmarks."
        ),
        page.table(
            "Movement of each region. Sides are the person's.",
            ["region", "range", "peak speed (per s)", "onset (ms)", "rise (ms)", "hold (ms)"],
            regions,
        ),
        page.table(
            "Range of movement on each side of the person. Asymmetry is the difference divided by the sum.",
            ["region", "right side", "left side", "asymmetry"],
            sides,
        ),
        page.paragraph(
            "Shifts of the head, its tilt in the plane of the picture and its changes of size are removed. Turning and "
            "nodding are not, and count as movement of the face. So a symmetric movement can show an asymmetry of up "
            f"to {motion.FALSE_ASYMMETRY_HELD:.0%} if a turned head is held still, and of up to "
            f"{motion.FALSE_ASYMMETRY_TURNING:.0%} while it turns{_turning(evidence)}. In a mirrored video, left and "
            "right are swapped.",
            "soft",
        ),
    ]
    return "\n".join(parts)


def _turning(evidence: Evidence) -> str:
    found = evidence.quality
    if found is None or not np.isfinite(found.yaw).any():
        return ""
    return f" (here by {np.nanmax(found.yaw) - np.nanmin(found.yaw):.0f}°)"


def _asymmetry(value: float | None) -> str:
    if value is None:
        return "–"
    percent = round(100 * abs(value))
    return "none" if percent == 0 else f"{percent}%, {'right' if value > 0 else 'left'} larger"


def _interpolated(evidence: Evidence) -> str:
    if not len(evidence.interpolated):
        return page.paragraph("No landmarks were interpolated.")
    where = f"{spell(evidence.interpolated)} of {len(evidence.clip.landmarks)}"
    return page.paragraph(f"The landmarks were interpolated, not measured, in {where}.")


def _quality(evidence: Evidence) -> str:
    """How far the landmarks can be trusted."""
    found = evidence.quality
    if found is None:
        return page.missing("Quality of the landmarks", "not measured")
    percent, degrees, pixels = "{:.0%}".format, "{:.0f}°".format, "{:.2f} pixels".format
    bound = landmark_quality
    # Where low values are bad, they are negated, so that the largest is always the worst.
    items: list[tuple[str, str, np.ndarray, Callable[[float], str], str]] = [
        ("inside", "landmarks inside the picture", -found.inside, percent, "100%"),
        (
            "confidence",
            "confidence of the landmark source",
            -found.confidence,
            percent,
            f"{bound.LEAST_CONFIDENCE:.0%}",
        ),
        ("yaw", "head turned to the side", np.abs(found.yaw), degrees, f"{bound.MOST_YAW:.0f}°"),
        ("pitch", "head raised or lowered", np.abs(found.pitch), degrees, f"{bound.MOST_PITCH:.0f}°"),
        ("jitter", "jitter of the landmarks", found.jitter, pixels, f"{bound.MOST_JITTER:.0%} of the pupils' distance"),
    ]
    doubtful = found.doubtful()
    rows = [
        [label, *(shown(abs(f(values))) for f in (np.nanmedian, np.nanmax)), limit, int(doubtful[name].sum())]
        if np.isfinite(values).any()
        else [label, "unknown", "unknown", limit, "–"]
        for name, label, values, shown, limit in items
    ]
    table = page.table(
        "Quality of the landmarks in each frame.", ["measure", "median", "worst", "limit", "frames beyond it"], rows
    )
    accuracy = (
        f"Head rotation is estimated from the picture, to within about {bound.YAW_ERROR:.0f}° sideways and "
        f"{bound.PITCH_ERROR:.0f}° up and down."
    )
    if not math.isfinite(found.usual_jitter):
        return table + page.paragraph(accuracy, "soft")
    return table + page.paragraph(
        f"A still landmark jitters by {found.usual_jitter:.2f} pixels of the face crop, "
        f"{100 * found.relative_jitter:.2f}% of the distance between the pupils. So the smallest visible movement of "
        f"one landmark in one direction (x or y) between two frames is {found.smallest_motion:.1f} pixels; the mean of "
        f"a region is more precise. {accuracy}",
        "soft",
    )


def _provenance(evidence: Evidence) -> str:
    info, known, n = evidence.clip.info, evidence.provenance, len(evidence.clip.landmarks)
    rows: list[list[object]] = [
        ["clip", info.id],
        ["subject", info.subject or "not recorded"],
        ["expression", info.expression or "not recorded"],
        ["length", f"{n} frames, {n / evidence.clip.fps:.2f} s"],
        *([label, known.get(key, "not recorded")] for key, label in PROVENANCE.items()),
        *([key, value] for key, value in known.items() if key not in PROVENANCE),
    ]
    return page.table("What you need to repeat this score.", ["item", "value"], rows, "text")


Part = Callable[[Evidence], str]
SUMMARY: tuple[Part, ...] = (_identity, _score, _warnings, _headline, plots.contact_sheet)
SECTIONS: dict[str, tuple[Part, ...]] = {
    "How movement changed the score": (_effects, plots.attribution_over_time),
    "How the face moved": (_motion,),
    "Landmarks over time": (_quality, _interpolated, plots.landmark_paths, plots.region_courses, plots.pixel_values),
    "Provenance": (_provenance,),
}
