"""Turns a video into a clip of one face, with evidence of how it was made."""

import collections
import dataclasses
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from tramp_jax.data import clips, gaps, landmark_quality, landmarks, rate
from tramp_jax.data.face_box import Box
from tramp_jax.data.frame_numbers import spell
from tramp_jax.errors import UserError
from tramp_jax.preprocess import appearance, crop, tracking, upright
from tramp_jax.preprocess.faces import Face, LandmarkSource, largest
from tramp_jax.preprocess.video import Frames, open_frames, short_name

MIN_FRAMES = 7  # the shortest published clip
_THUMBNAIL = (32, 18)
_REPEATED = 0.1  # warn if a larger share of frames equals the one before; a camera's noise makes all frames differ
# A lossy encoder makes repeated frames differ a little. They are recognised by their rhythm: in each cycle of up to 6
# steps between frames, the same ones are much smaller than the largest, which must be a movement (mean change in grey
# levels) and not the encoder's own rhythm. Limits from drawn patterns of 120 videos in 4 encodings, with and without
# noise.
_CYCLES, _CYCLES_AT_ONCE, _SMALL, _MOVEMENT, _STEADY = range(2, 7), 60, 1 / 3, 0.6, 0.8


@dataclasses.dataclass(frozen=True)
class PreprocessOptions:
    """How a video becomes a clip."""

    fps: float | None = None  # frames per second of the clip; None keeps the video's own (nominal) rate
    images_fps: float = 25.0  # frames per second of a folder of images, which does not record its rate
    min_frames: int = MIN_FRAMES  # shorter clips are refused
    max_gap: int = gaps.MAX_GAP  # longest run of frames without a face to interpolate
    keep: str = "error"  # see ``tracking.follow``

    def __post_init__(self) -> None:
        """Raises UserError (bad_option) for what fits no video."""
        if self.fps is not None:
            rate.check(self.fps)
        rate.check(self.images_fps, "--images-fps")
        if self.max_gap < 0:
            raise UserError("bad_option", f"--max-gap must be at least 0, not {self.max_gap}")


@dataclasses.dataclass(frozen=True)
class Preprocessed:
    """A clip of n frames and how it was made."""

    clip: clips.Clip  # landmarks in pixels of the crop, 256×256 JPEG frames, colours under the points
    source_frames: np.ndarray  # (n,) indices of the video's frames, from 0; resampling may repeat or skip some
    scores: np.ndarray  # (n,) confidence of the landmark source; NaN for interpolated frames
    interpolated: np.ndarray  # (n,) bool
    crop: Box  # the square of the video's frame that the crop shows
    frame_size: tuple[int, int]  # (width, height) of the video
    frames_read: int  # frames in the video
    quality: landmark_quality.Quality  # how far the landmarks can be trusted
    warnings: tuple[str, ...]  # what you should know before you use the clip
    # Time by stage: "decode" (the video is read twice), "detect", "landmarks", "crop" (includes encoding).
    seconds: dict[str, float]

    def evidence(self) -> dict[str, object]:
        """Everything except the clip, as plain values for a JSON file."""
        return {
            "video": self.clip.info.source,
            "frame_size": list(self.frame_size),
            "frames_read": self.frames_read,
            "landmarks": self.clip.landmark_source,
            "layout": self.clip.layout,
            "fps": self.clip.fps,
            "crop": dataclasses.asdict(self.crop),
            "source_frames": self.source_frames.tolist(),
            "scores": [None if np.isnan(score) else round(float(score), 4) for score in self.scores],
            "interpolated": self.interpolated.tolist(),
            "quality": self.quality.as_json(),
            "warnings": list(self.warnings),
            "seconds": {stage: round(spent, 4) for stage, spent in self.seconds.items()},
        }


def preprocess_video(
    path: str | Path,
    source: LandmarkSource,
    options: PreprocessOptions | None = None,
    info: clips.ClipInfo | None = None,
) -> Preprocessed:
    """Reads a video twice, first for the landmarks, then for the crops. Holds one frame at a time.

    Args:
      path: a video file, a folder of images, or an image.
      source: the landmark source; see ``sources.open_landmark_source``.
      options: None for the defaults.
      info: identity and score of the clip; the number of frames and the source are filled in. None names the clip
        after the file, with score NaN.

    Raises:
      UserError: the video cannot be read (see ``video.open_frames``), or the landmark source cannot be used with it;
        no_single_face; not_upright; short_clip if too few frames remain.
    """
    path, options = Path(path), options or PreprocessOptions()
    frames = open_frames(path, options.images_fps)
    first_pass = _FirstPass()
    faces = first_pass.run(frames, source)
    doubts = frames.warnings  # complete now; the second reading may end early
    _check_length(len(faces), options, f"{path}: has {len(faces)} {'frame' if len(faces) == 1 else 'frames'}")
    try:
        cuts = tracking.scene_cuts(first_pass.changes)
        track = tracking.follow(faces, options.max_gap, options.keep, cuts)
        seconds = np.array(first_pass.times[track.first : track.first + len(track.faces)])
        timing = rate.constant(seconds, frames.rate, options.fps, track.first)
        tilt_warnings = upright.check_tilt(track.faces, source.layout)
    except UserError as error:
        raise UserError(error.kind, f"{path}: {error}") from error
    followed = f"{path}: the face can be followed for only {len(timing.chosen)} frames, from {spell(track.first)} on"
    _check_length(len(timing.chosen), options, followed)
    box, box_warnings = crop.choose([track.faces[i].box for i in timing.chosen], first_pass.size)

    points = np.stack([box.map(track.faces[i].points) for i in timing.chosen])
    selected = landmarks.select(points, source.layout)
    source_frames = track.first + timing.chosen
    images, colours, spent = _second_pass(frames, source_frames, selected, box)
    stages = {"decode": first_pass.decode + spent["decode"], **source.seconds, "crop": spent["crop"]}
    try:
        upright.check_not_upside_down(images, source)
    except UserError as error:
        raise UserError(error.kind, f"{path}: {error}") from error
    depths = [depth for i in timing.chosen if (depth := track.faces[i].depth) is not None]
    name = clip_id(short_name(path))
    info = info or clips.ClipInfo(name, name, "", float("nan"), 0)
    clip = clips.Clip(
        info=dataclasses.replace(info, num_frames=len(points), source=str(path)),
        landmarks=points,
        layout=source.layout,
        pixels=colours,
        frames=images,
        fps=timing.fps,
        landmark_source=source.name,
        depth=(np.stack(depths) * box.scale).astype(np.float32) if len(depths) == len(points) else None,
    )
    scores = np.array([track.faces[i].score for i in timing.chosen])
    quality = landmark_quality.measure(clip, scores.tolist(), box.picture(first_pass.size))
    return Preprocessed(
        clip=clip,
        source_frames=source_frames,
        scores=scores,
        interpolated=track.interpolated[timing.chosen],
        crop=box,
        frame_size=first_pass.size,
        frames_read=len(faces),
        quality=quality,
        warnings=(
            *doubts,
            *track.warnings,
            *timing.warnings,
            *first_pass.warnings(),
            *tilt_warnings,
            *box_warnings,
            *quality.warnings(),
        ),
        seconds=stages,
    )


def _check_length(count: int, options: PreprocessOptions, what: str) -> None:
    if count < options.min_frames:
        raise UserError(
            "short_clip",
            f"{what}, but a clip needs at least {options.min_frames}; use a longer video, or make a clip with "
            f"tramp-jax preprocess --min-frames {count}",
        )


def clip_id(name: str) -> str:
    """Turns a name into a clip id: spaces become "_", because ids are listed with spaces between them."""
    return "_".join(name.split()) or "clip"


def first_face(
    path: str | Path, source: LandmarkSource, options: PreprocessOptions
) -> tuple[int, Face, tuple[int, int]]:
    """Finds the first frame with a face. Returns its index, its largest face, and the video's (width, height)."""
    frames = open_frames(path, options.images_fps)
    first_pass = _FirstPass()
    for number, found in enumerate(source(first_pass.watch(frames, source.max_side))):
        if found:
            face = _scaled(largest(found), 1 / _reduction(first_pass.size, source.max_side))
            return number, face, first_pass.size
    raise UserError("no_single_face", f"{path}: no face in any frame; try another --landmarks source")


class _FirstPass:
    """Passes the video to the landmark source, and records frame times, frame size and picture changes."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.changes: list[float] = []
        self.steps: list[float] = []  # mean change of the picture, in grey levels
        self.repeated = 0
        self.size = (0, 0)
        self.decode = 0.0

    def run(self, frames: Frames, source: LandmarkSource) -> list[list[Face]]:
        """Returns the faces of every frame, in pixels of the video's own frames."""
        waiting: collections.deque[np.ndarray] = collections.deque()  # frames for which the source has yet to answer

        def show() -> Iterator[np.ndarray]:
            for image in self.watch(frames, source.max_side):
                waiting.append(image)
                yield image

        faces: list[list[Face]] = []
        for found in source(show()):
            assert waiting, f"{source.name} returned faces for more frames than it was shown"
            image = waiting.popleft()
            faces.append(
                [dataclasses.replace(face, look=appearance.look(image, face.points, source.layout)) for face in found]
            )
        count = len(self.times)
        assert len(faces) == count, f"{source.name} returned faces for {len(faces)} of {count} frames"
        factor = _reduction(self.size, source.max_side)
        return [[_scaled(face, 1 / factor) for face in each] for each in faces]

    def warnings(self) -> Iterator[str]:
        """Doubts about the frames; complete after ``run``."""
        repeated = max(self.repeated, _repeated(np.array(self.steps)))
        if repeated > _REPEATED * len(self.times):
            yield (
                f"{repeated} of {len(self.times)} frames repeat the one before, so movements are jerky: the camera "
                "took fewer than the file has, or the encoder left out small changes; record it again at the camera's "
                "own rate and a higher quality"
            )

    def watch(self, frames: Iterable[tuple[float, np.ndarray]], max_side: int | None) -> Iterator[np.ndarray]:
        """Yields each frame, shrunk to ``max_side``. Records its time, its size and how the picture changed."""
        started = time.perf_counter()
        before: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        for seconds, image in frames:
            self.times.append(seconds)
            self.size = (image.shape[1], image.shape[0])
            factor = _reduction(self.size, max_side)
            if factor < 1:
                image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
            step = max(min(image.shape[:2]) // 180, 1)  # averaging all pixels would take longer than decoding
            pixels = image[::step, ::step].copy()
            thumbnail = cv2.cvtColor(cv2.resize(pixels, _THUMBNAIL, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
            grey = cv2.blur(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (3, 3))
            if before is not None:
                if np.array_equal(before[0], pixels):
                    self.repeated += 1
                self.changes.append(tracking.change(before[1], thumbnail))
                self.steps.append(float(cv2.absdiff(before[2], grey).mean()))
            before = pixels, thumbnail, grey
            self.decode += time.perf_counter() - started
            yield image
            started = time.perf_counter()
        self.decode += time.perf_counter() - started


def _repeated(steps: np.ndarray) -> int:
    """How many steps between frames (n,) are repeats in a regular pattern, as far as the picture moves."""
    if len(steps) > 2 * _CYCLES_AT_ONCE:  # the rhythm may slip in a long video
        return sum(_repeated(part) for part in np.array_split(steps, len(steps) // _CYCLES_AT_ONCE))
    most = 0
    for length in _CYCLES:
        cycles = steps[: len(steps) // length * length].reshape(-1, length)
        moves = np.pad(cycles.max(axis=1) >= _MOVEMENT, 1)
        cycles = cycles[moves[1:-1] & moves[:-2] & moves[2:]]  # alone, one is a key frame
        if len(cycles) < 3:
            continue
        small = cycles <= _SMALL * cycles.max(axis=1, keepdims=True)
        most = max(most, int(small[:, small.mean(axis=0) >= _STEADY].sum()))
    return most


def _reduction(size: tuple[int, int], max_side: int | None) -> float:
    """The factor, at most 1, that shrinks a frame of this size to ``max_side``."""
    return 1.0 if max_side is None else min(max_side / max(*size, 1), 1.0)


def _scaled(face: Face, factor: float) -> Face:
    depth = None if face.depth is None else face.depth * factor
    return dataclasses.replace(face, box=face.box * factor, points=face.points * factor, depth=depth)


def _second_pass(
    frames: Frames, wanted: np.ndarray, selected: np.ndarray, box: Box
) -> tuple[tuple[bytes, ...], np.ndarray, dict[str, float]]:
    """Crops the ``wanted`` (n,) frames. Returns JPEGs, colours (n, 63, 3) at ``selected`` (n, 63, 2), seconds by stage.

    Colours are read before compression, as landmarks were.
    """
    spent = {"decode": 0.0, "crop": 0.0}
    images: list[bytes] = []
    colours: list[np.ndarray] = []
    started = time.perf_counter()
    for number, (_, image) in enumerate(frames):
        decoded = time.perf_counter()
        spent["decode"] += decoded - started
        if wanted[len(images)] == number:
            cut = box.cut(image)
            encoded = clips.encode_frame(cut)
            while len(images) < len(wanted) and wanted[len(images)] == number:  # a frame may be repeated
                colours.append(landmarks.pixel_values(cut, selected[len(images)]))
                images.append(encoded)
            spent["crop"] += time.perf_counter() - decoded
        if len(images) == len(wanted):
            break
        started = time.perf_counter()
    if len(images) < len(wanted):
        raise UserError("changed_file", f"{frames.path}: changed while it was being read; start again")
    return tuple(images), np.stack(colours), spent
