"""Follows one face through a video: interpolates or refuses gaps, and never hides a change of person."""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from tramp_jax.data import gaps
from tramp_jax.data.frame_numbers import spell
from tramp_jax.errors import UserError
from tramp_jax.preprocess import appearance
from tramp_jax.preprocess.faces import Face, area, largest, overlap

MIN_OVERLAP = 0.3  # with the followed face's last box; a face that overlaps less is someone else
KEEP = ("error", "longest")
_CUT, _CUT_RATIO = 20.0, 5.0  # a cut changes the picture by this many grey levels, and this many times the usual change
_MOMENT = 5  # frames, within which a face that does not turn hardly changes its look
_LARGER = 1.5  # another face that is this many times larger than the followed one casts doubt on the choice


@dataclasses.dataclass(frozen=True)
class Track:
    """The followed face in n consecutive frames."""

    first: int  # number of the first frame, from 0
    faces: tuple[Face, ...]  # one face per frame; in gaps, interpolated linearly with score NaN
    interpolated: np.ndarray  # (n,) bool
    warnings: tuple[str, ...]  # what was cut off, interpolated or doubtful


@dataclasses.dataclass
class _Segment:
    """A part of the video in which one face is followed."""

    found: dict[int, Face]  # the face by frame number, in order
    changed: list[int] = dataclasses.field(default_factory=list)  # frames with another face in its place
    # Frames in ``found`` that may show another face, or this one after a quick turn.
    doubtful: list[int] = dataclasses.field(default_factory=list)
    ending: str = ""  # why it cannot be followed further; "" if the video ends

    @property
    def first(self) -> int:
        return next(iter(self.found))

    @property
    def last(self) -> int:
        return next(reversed(self.found))

    def __len__(self) -> int:
        return self.last - self.first + 1


def follow(
    faces: Sequence[list[Face]],
    max_gap: int = gaps.MAX_GAP,
    keep: str = "error",
    cuts: Sequence[int] = (),
) -> Track:
    """Follows one face: first the largest one, then the one that overlaps its last box most.

    A face in that place with another ``look`` does not count as the followed one. Up to ``max_gap`` such frames are a
    gap, which is interpolated; more of them end the track. ``cuts`` are the frames that begin a new shot.

    If a video has several tracks, or its track spans less than ``gaps.MIN_SHARE`` of the frames, ``keep`` "error"
    refuses it; "longest" keeps the longest track, and cuts off the other frames with a warning.

    Raises:
      UserError: no_single_face if the video shows no face or ``keep`` refuses it; bad_option.
    """
    if keep not in KEEP:
        raise UserError("bad_option", f"unknown --keep {keep!r}; choose from {', '.join(KEEP)}")
    count = len(faces)
    segments = _segments(faces, max_gap, frozenset(cuts))
    if not segments:
        raise UserError(
            "no_single_face",
            f"no face in any of the {count} frames; check that the face is clearly visible and large, or try another "
            "--landmarks source",
        )
    longest = max(segments, key=len)
    # A short detection at either end is more likely a detector's mistake than a person.
    while len(segments[0]) <= max_gap and segments[0] is not longest:
        segments = segments[1:]
    while len(segments[-1]) <= max_gap and segments[-1] is not longest:
        segments = segments[:-1]
    warnings = []
    if len(segments) > 1:
        breaks = "; ".join(segment.ending for segment in segments[:-1])
        if keep == "error":
            raise UserError(
                "no_single_face",
                f"the face cannot be followed to the end: {breaks}; cut the video there, or take the longest part "
                f"({spell(range(longest.first, longest.last + 1))}) with --keep longest",
            )
        warnings.append(f"only the longest part was kept; the face could not be followed to the end: {breaks}")
    if len(longest) < gaps.MIN_SHARE * count and keep == "error":
        raise UserError(
            "no_single_face",
            f"only {len(longest)} of the {count} frames show the face ({spell(range(longest.first, longest.last + 1))})"
            f", less than {gaps.MIN_SHARE:.0%}; cut the video, or take that part with --keep longest",
        )
    if cut_off := [*range(longest.first), *range(longest.last + 1, count)]:
        warnings.append(f"cut off: {spell(cut_off)} of {count}, before or after the followed face")
    track, interpolated = _bridge(longest)
    if interpolated.any():
        warnings.append(f"interpolated: {spell(np.flatnonzero(interpolated) + longest.first)}, where the face was lost")
    if hidden := [number for number in longest.changed if number < longest.last]:
        warnings.append(
            f"another face replaces the followed one, or something covers it: {spell(hidden)}, interpolated; "
            "look at these frames"
        )
    if doubtful := _fast_changes(longest):
        warnings.append(
            f"the face changes fast up to {spell(doubtful)}: the head turns quickly, or one person "
            "dissolves into another; look at these frames"
        )
    warnings += _others_in_view(faces, longest)
    return Track(longest.first, track, interpolated, tuple(warnings))


def change(before: np.ndarray, after: np.ndarray) -> float:
    """Mean difference in grey levels between two small grey pictures (h, w) uint8 of neighbouring frames."""
    return float(np.abs(after.astype(np.float32) - before).mean())


def scene_cuts(changes: Sequence[float]) -> list[int]:
    """Finds the frames that begin a new shot, from the n - 1 changes between n neighbouring frames.

    A cut changes the whole picture at once, far more than the frames around it.
    """
    levels = np.asarray(changes)
    found = []
    for i in np.flatnonzero(levels > _CUT):
        around = np.concatenate([levels[max(i - 12, 0) : i], levels[i + 1 : i + 13]])
        if len(around) == 0 or levels[i] > _CUT_RATIO * np.median(around):
            found.append(int(i) + 1)
    return found


def _segments(faces: Sequence[list[Face]], max_gap: int, cuts: frozenset[int]) -> list[_Segment]:
    """Follows the largest face as far as possible, then the largest one after that, and so on."""
    segments: list[_Segment] = []
    usual = _usual_difference(faces)
    first = 0
    while first < len(faces):
        if not faces[first]:
            first += 1
            continue
        segments.append(_segment_from(first, faces, max_gap, cuts, usual))
        # The next one may begin right after the face was last seen.
        first = segments[-1].last + 1 if segments[-1].ending else len(faces)
    return segments


def _segment_from(
    first: int, faces: Sequence[list[Face]], max_gap: int, cuts: frozenset[int], usual: float
) -> _Segment:
    """Follows the largest face of frame ``first``; ``usual`` is for ``appearance.limit``."""
    segment = _Segment({first: largest(faces[first])})
    for number in range(first + 1, len(faces)):
        if number in cuts:
            segment.ending = f"the picture cuts to another shot at {spell(number)}"
            break
        last = segment.last
        if (nearest := _in_place(faces[number], segment.found[last].box)) is not None:
            # The allowed change grows only with frames that show no face. If frames with another face counted as well,
            # that face would soon pass for the followed one.
            unseen = number - last - sum(i > last for i in segment.changed)
            change = appearance.difference(segment.found[last].look, nearest.look)
            if change <= appearance.limit(unseen, usual):
                segment.found[number] = nearest
            elif change <= appearance.turning(_differences_around(faces, segment, number, nearest)):
                segment.found[number] = nearest
                segment.doubtful.append(number)
            else:
                segment.changed.append(number)
        if number - segment.last > max_gap:
            segment.ending = _why_lost(faces, segment, number, max_gap)
            break
    return segment


def _in_place(faces: list[Face], box: np.ndarray) -> Face | None:
    """The face that overlaps a box most; None if none overlaps enough."""
    nearest = max(faces, key=lambda face: overlap(face.box, box), default=None)
    return nearest if nearest is not None and overlap(nearest.box, box) >= MIN_OVERLAP else None


def _usual_difference(faces: Sequence[list[Face]]) -> float:
    """90th percentile of the differences between the looks of a face in neighbouring frames."""
    changes = []
    for before, after in pairwise(faces):
        if after and (earlier := _in_place(before, largest(after).box)) is not None:
            changes.append(appearance.difference(earlier.look, largest(after).look))
    return float(np.percentile(changes, 90)) if changes else 0.0


def _differences_around(faces: Sequence[list[Face]], segment: _Segment, number: int, face: Face) -> list[float]:
    """Differences between neighbouring looks in the last three frames of the segment and the three from ``number`` on.

    ``face`` is the one of frame ``number``.
    """
    before = [segment.found[i] for i in range(segment.last - 2, segment.last + 1) if i in segment.found]
    after = [face]
    for later in faces[number + 1 : number + 3]:
        if (nearest := _in_place(later, after[-1].box)) is None:
            break
        after.append(nearest)
    return [appearance.difference(a.look, b.look) for part in (before, after) for a, b in pairwise(part)]


def _fast_changes(segment: _Segment) -> list[int]:
    """The frames in which the look has just changed a lot, in one step or over ``_MOMENT`` frames."""
    looks = {number: face.look for number, face in segment.found.items()}
    slower = [
        number
        for number in looks
        if number - _MOMENT in looks and appearance.difference(looks[number - _MOMENT], looks[number]) > appearance.MOST
    ]
    return sorted({*segment.doubtful, *slower})


def _why_lost(faces: Sequence[list[Face]], segment: _Segment, number: int, max_gap: int) -> str:
    """Says why the face of the segment cannot be followed to frame ``number``."""
    lost = segment.last + 1
    if replaced := [i for i in segment.changed if i >= lost]:
        last = spell(segment.last)
        return f"from {spell(replaced[0])} on, another face replaces the followed one, last seen in {last}"
    if others := [i for i in range(lost, number + 1) if faces[i]]:
        return f"from {spell(others[0])} on, another face is in view, but not the followed one"
    return f"no face for more than {max_gap} frames from {spell(lost)} on"


def _bridge(segment: _Segment) -> tuple[tuple[Face, ...], np.ndarray]:
    """A face for every frame of the segment, and which of them are interpolated."""
    found = segment.found
    faces = [found[segment.first]]
    for earlier, later in pairwise(found):
        for number in range(earlier + 1, later):
            faces.append(_between(found[earlier], found[later], (number - earlier) / (later - earlier)))
        faces.append(found[later])
    return tuple(faces), np.array([number not in found for number in range(segment.first, segment.last + 1)])


def _between(a: Face, b: Face, share: float) -> Face:
    def mix(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return ((1 - share) * x + share * y).astype(np.float32)

    depth = None if a.depth is None or b.depth is None else mix(a.depth, b.depth)
    return Face(mix(a.box, b.box), float("nan"), mix(a.points, b.points), depth)


def _others_in_view(faces: Sequence[list[Face]], segment: _Segment) -> Iterator[str]:
    """Warns if other faces are in view while this one is followed."""
    crowded = [number for number in segment.found if len(faces[number]) > 1]
    if not crowded:
        return
    smaller = [i for i in crowded if area(largest(faces[i]).box) > _LARGER * area(segment.found[i].box)]
    x, y = np.mean(segment.found[crowded[0]].box.reshape(2, 2), axis=0)
    doubt = f"; another is much larger in {spell(smaller)}: check that this is the right person" if smaller else ""
    yield (
        f"several faces in {len(crowded)} of {len(segment)} frames; the followed one is around x {x:.0f}, y {y:.0f} "
        f"in {spell(crowded[0])}{doubt}"
    )
