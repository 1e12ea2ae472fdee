"""One face followed through a video: gaps are bridged or refused, a change of person is never silent."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tramp_jax.preprocess.faces import Face, area, largest, overlap

MIN_OVERLAP = 0.3  # with the followed face's last box; below it a face is somebody else
KEEP = ("error", "longest")
_CUT, _CUT_RATIO = 20.0, 5.0  # grey levels by which the whole picture changes at a cut, and times what is usual
_LARGER = 1.5  # area of another face, in areas of the followed one, from which the choice is doubted


class TrackingError(ValueError):
    """No single face can be followed; the message names the frames."""


@dataclasses.dataclass(frozen=True)
class Track:
    """The followed face in ``count`` consecutive frames from ``first`` on.

    Attributes:
      first: number of the first frame, from 0.
      faces: a face for every frame; where it was bridged, interpolated linearly and with score NaN.
      interpolated: (n,) bool.
      warnings: what was cut off, bridged, or doubtful.
    """

    first: int
    faces: tuple[Face, ...]
    interpolated: np.ndarray
    warnings: tuple[str, ...]


@dataclasses.dataclass
class _Segment:
    """Frames in which one face was followed, in order, and why it ended."""

    found: dict[int, Face]
    ending: str = ""

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
    max_gap: int = 5,
    keep: str = "error",
    cuts: Sequence[int] = (),
    min_share: float = 0.5,
) -> Track:
    """Follows one face: the largest where it begins, then the one that overlaps its last box the most.

    Args:
      faces: those of every frame.
      max_gap: frames without the face that are bridged; more end the track.
      keep: what becomes of a video in which the track ends and another begins, or of which less than ``min_share``
        shows the face: "error" refuses it, "longest" keeps the longest track.
      cuts: frames that begin a new shot.
      min_share: of the video's frames that the track must span; the rest before and after it is cut off with a warning.

    Raises:
      TrackingError: no face at all, or see ``keep``.
      ValueError: ``keep`` is unknown or ``max_gap`` negative.
    """
    if keep not in KEEP:
        raise ValueError(f"unknown --keep {keep!r}; known: {', '.join(KEEP)}")
    if max_gap < 0:
        raise ValueError(f"--max-gap must not be negative, not {max_gap}")
    count = len(faces)
    segments = _segments(faces, max_gap, frozenset(cuts))
    if not segments:
        raise TrackingError(
            f"no face in any of the {count} frames; check that a face is well visible and large, or try another "
            "--landmarks source"
        )
    longest = max(segments, key=len)
    # A detection of a few frames before or after the rest is a mistake of the detector rather than a person.
    while len(segments[0]) <= max_gap and segments[0] is not longest:
        segments = segments[1:]
    while len(segments[-1]) <= max_gap and segments[-1] is not longest:
        segments = segments[:-1]
    warnings = []
    if len(segments) > 1:
        breaks = "; ".join(segment.ending for segment in segments[:-1])
        if keep == "error":
            raise TrackingError(
                f"the face cannot be followed throughout: {breaks}; cut the video there, or take the longest part "
                f"({spell(range(longest.first, longest.last + 1))}) with --keep longest"
            )
        warnings.append(f"the longest part was taken; the face could not be followed throughout: {breaks}")
    if len(longest) < min_share * count and keep == "error":
        raise TrackingError(
            f"only {len(longest)} of the {count} frames show the face ({spell(range(longest.first, longest.last + 1))})"
            f", less than {min_share:.0%}; cut the video, or take that part with --keep longest"
        )
    cut_off = [number for number in range(count) if not longest.first <= number <= longest.last]
    if cut_off:
        warnings.append(f"cut off: {spell(cut_off)} of {count}, before and after the face that is followed")
    track, interpolated = _bridge(longest)
    if interpolated.any():
        warnings.append(f"interpolated: {spell(np.flatnonzero(interpolated) + longest.first)}, where the face was lost")
    warnings += _company(faces, longest)
    return Track(longest.first, track, interpolated, tuple(warnings))


def change(before: np.ndarray, after: np.ndarray) -> float:
    """Mean difference in grey levels of two small grey pictures (h, w) uint8 of neighbouring frames."""
    return float(np.abs(after.astype(np.float32) - before).mean())


def scene_cuts(changes: Sequence[float]) -> list[int]:
    """Numbers of the frames at which a new shot begins, from the n - 1 changes between n neighbouring frames.

    A cut changes the whole picture at once, and far more than the frames around it do.
    """
    change = np.asarray(changes)
    found = []
    for i in np.flatnonzero(change > _CUT):
        around = np.concatenate([change[max(i - 12, 0) : i], change[i + 1 : i + 13]])
        if len(around) == 0 or change[i] > _CUT_RATIO * np.median(around):
            found.append(int(i) + 1)
    return found


def spell(frames: Sequence[int] | np.ndarray | range) -> str:
    """Frame numbers for a message: "frames 3-7, 12 (6)"."""
    numbers = np.asarray(frames)
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    parts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    more = f" and {len(parts) - 10} more runs" if len(parts) > 10 else ""
    return f"frame{'s' if len(numbers) > 1 else ''} {', '.join(parts[:10])}{more} ({len(numbers)})"


def _segments(faces: Sequence[list[Face]], max_gap: int, cuts: frozenset[int]) -> list[_Segment]:
    segments: list[_Segment] = []
    current: _Segment | None = None
    number = 0
    while number < len(faces):
        if current is None:
            if faces[number]:
                current = _Segment({number: largest(faces[number])})
                segments.append(current)
            number += 1
            continue
        last = current.last
        ending = ""
        if number in cuts:
            ending = f"the picture cuts to another shot at frame {number}"
        else:
            box = current.found[last].box
            nearest = max(faces[number], key=lambda face: overlap(face.box, box), default=None)
            if nearest is not None and overlap(nearest.box, box) >= MIN_OVERLAP:
                current.found[number] = nearest
            elif number - last > max_gap:
                others = [i for i in range(last + 1, number + 1) if faces[i]]
                ending = (
                    f"from frame {others[0]} on another face is in view, but not the followed one"
                    if others
                    else f"no face from frame {last + 1} on for more than {max_gap} frames"
                )
        if ending:
            # The frames since the face was last seen may hold the beginning of the next track.
            current.ending, current, number = ending, None, last + 1
            cuts = frozenset(cut for cut in cuts if cut > number)
            continue
        number += 1
    return segments


def _bridge(segment: _Segment) -> tuple[tuple[Face, ...], np.ndarray]:
    """A face for every frame of the segment, and which of them are interpolated."""
    known = sorted(segment.found)
    faces = []
    for number in range(segment.first, segment.last + 1):
        if number in segment.found:
            faces.append(segment.found[number])
            continue
        later = next(i for i in known if i > number)
        earlier = known[known.index(later) - 1]
        a, b, part = segment.found[earlier], segment.found[later], (number - earlier) / (later - earlier)
        faces.append(
            Face(
                _between(a.box, b.box, part),
                float("nan"),
                _between(a.points, b.points, part),
                None if a.depth is None or b.depth is None else _between(a.depth, b.depth, part),
            )
        )
    return tuple(faces), np.array([number not in segment.found for number in range(segment.first, segment.last + 1)])


def _between(a: np.ndarray, b: np.ndarray, part: float) -> np.ndarray:
    return ((1 - part) * a + part * b).astype(np.float32)


def _company(faces: Sequence[list[Face]], segment: _Segment) -> list[str]:
    """A warning where others are in view while the face is followed."""
    crowded = [number for number in segment.found if len(faces[number]) > 1]
    if not crowded:
        return []
    smaller = [i for i in crowded if area(largest(faces[i]).box) > _LARGER * area(segment.found[i].box)]
    x, y = np.mean(segment.found[crowded[0]].box.reshape(2, 2), axis=0)
    doubt = f"; it is clearly the smaller one in {spell(smaller)}: check that it is the right person" if smaller else ""
    return [
        f"several faces in {len(crowded)} of {len(segment)} frames; followed is the one around x {x:.0f}, y {y:.0f} in "
        f"frame {crowded[0]}{doubt}"
    ]
