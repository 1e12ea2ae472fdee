"""Synthetic faces: the data set that needs no download.

Drawn people of different shape, skin, hair, room and camera make the five PFED5 expressions with a severity of 0-4.
Like hypomimia, severity reduces the range, speed, promptness and symmetry of movements and the number of blinks, and
adds tremor. Each random choice has its own stream, seeded by (seed, purpose, subject, expression, clip). So a clip
depends only on its seed and its place, in whatever order you read clips.

``cues`` chooses what shows the severity, to find out what each stream of a model reads; docs/data.md has the table.
"""

import enum
import functools
from collections.abc import Sequence

import numpy as np

from tramp_jax.data import clips, landmarks
from tramp_jax.data.source import ClipSource
from tramp_jax.errors import UserError
from tramp_jax.synthetic import face, motion, render
from tramp_jax.synthetic.look import Look, draw_look
from tramp_jax.synthetic.skin import Skin, draw_skin

EXPRESSIONS = motion.EXPRESSIONS
LAYOUT = "insightface106"
NUM_SCORES = 5
MIN_FRAMES, MAX_FRAMES = 45, 80
DETECTOR_NOISE = 0.3  # pixels; the jitter of a landmark detector
DEPTH_NOISE = 1.0  # pixels; detectors estimate depth less well
_SPREAD = 0.4  # the continuous severity of a clip is within this distance of its score
CUES = ("motion", "landmarks", "appearance", "both")
# With cues other than "motion":
CUE_NOISE = 0.5  # standard deviation of the severity that one kind of cue shows around the score
_BIAS, _JITTER = 0.8, 0.5  # pixels; the detector's error of a point in all frames of a clip, and in each frame


class Stream(enum.IntEnum):
    """Purposes of random numbers. No two share a stream, so nothing but the chosen cues depends on the severity."""

    SHAPE = 0
    LOOK = 1
    HABIT = 2
    SCORE = 3
    STEP = 4
    SEVERITY = 5
    LENGTH = 6
    POSE = 7
    GAZE = 8
    TIMING = 9
    BLINK = 10
    TREMOR = 11
    CAMERA = 12
    DETECTOR = 13
    DEPTH = 14
    SKIN_SEVERITY = 15
    SKIN = 16
    FLICKER = 17


@functools.lru_cache(maxsize=32)
def _look(seed: int, subject: int) -> Look:
    """The appearance of one person, cached because neighbouring clips show the same person."""
    return draw_look(np.random.default_rng([seed, Stream.LOOK, subject]))


class SyntheticFaces(ClipSource):
    """``num_subjects`` × expressions × ``clips_per_subject`` clips.

    Scores are independent of the people. In each run of five subjects, each score occurs once per expression; further
    clips of the same subject and expression differ by at most one step. ``pixels`` come from the rendered frame before
    JPEG compression, under the landmarks as detected (with their noise).

    People are named "s000" and so on. ``expressions`` are some of ``EXPRESSIONS``; the choice does not change a clip.
    Without ``with_frames``, nothing is rendered: ``frames`` and ``pixels`` are None. ``cue_noise`` is the standard
    deviation, in steps of the score, of what each kind of cue shows around the score. The two kinds err independently,
    so the larger it is, the more a model gains from reading both. Unused with ``cues`` "motion".

    Raises:
      UserError: no clips asked for, an unknown expression, unknown cues, or noise below 0.
    """

    def __init__(
        self,
        num_subjects: int,
        clips_per_subject: int,
        expressions: Sequence[str] = EXPRESSIONS,
        seed: int = 0,
        with_frames: bool = True,
        cues: str = "motion",
        cue_noise: float = CUE_NOISE,
    ):
        if cues not in CUES:
            raise UserError("bad_option", f"data.cues is {cues!r}; known: {', '.join(CUES)}")
        if not 0 <= cue_noise < np.inf:
            raise UserError("bad_option", f"data.cue_noise is {cue_noise}; it must be 0 or more")
        unknown = [name for name in expressions if name not in EXPRESSIONS]
        if unknown:
            raise UserError("bad_option", f"unknown expressions {unknown}; known: {', '.join(EXPRESSIONS)}")
        if num_subjects < 1 or clips_per_subject < 1 or not expressions:
            raise UserError(
                "bad_value", "synthetic faces need at least one subject, one clip per subject and one expression"
            )
        self._seed, self._with_frames = seed, with_frames
        self._cues, self._cue_noise = cues, cue_noise
        self._keys = [
            (subject, EXPRESSIONS.index(name), clip)
            for subject in range(num_subjects)
            for name in expressions
            for clip in range(clips_per_subject)
        ]
        self.infos = tuple(self._info(*key) for key in self._keys)
        self._cache: dict[int, clips.Clip] = {}  # about 1 MB each with frames

    def __getitem__(self, index: int) -> clips.Clip:
        index = range(len(self))[index]  # resolves a negative index, and raises IndexError
        # Two threads may draw the same clip at the same time. Both get the same result, so there is no lock.
        if index not in self._cache:
            self._cache[index] = self._make(index)
        return self._cache[index]

    def _rng(self, stream: Stream, *keys: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, stream, *keys])

    def _info(self, subject: int, expression: int, clip: int) -> clips.ClipInfo:
        block, place = divmod(subject, NUM_SCORES)
        score = self._rng(Stream.SCORE, expression, block).permutation(NUM_SCORES)[place]
        if clip > 0:
            # Clipping a step at either end keeps the scores evenly spread.
            direction = self._rng(Stream.STEP, subject, expression).choice((-1, 1))
            stepped = self._rng(Stream.STEP, subject, expression, clip).uniform() < 0.4
            score = np.clip(score + direction * stepped, 0, NUM_SCORES - 1)
        name = EXPRESSIONS[expression]
        return clips.ClipInfo(
            id=f"synthetic-s{subject:03d}-{name}-{clip}",
            subject=f"s{subject:03d}",
            expression=name,
            score=float(score),
            num_frames=int(self._rng(Stream.LENGTH, subject, expression, clip).integers(MIN_FRAMES, MAX_FRAMES + 1)),
        )

    def motion(self, index: int) -> face.Motion:
        """The motion of the face in clip ``index``."""
        return self._motion(index, self.severity(index, "landmarks"))

    def severity(self, index: int, shown_by: str) -> float:
        """The continuous severity that "landmarks" or "appearance" of clip ``index`` show."""
        key, score = self._keys[index], self.infos[index].score
        rng = self._rng(Stream.SEVERITY if shown_by == "landmarks" else Stream.SKIN_SEVERITY, *key)
        if self._cues == "motion":
            return float(score + rng.uniform(-_SPREAD, _SPREAD))
        noise, other = self._cue_noise * np.clip(rng.normal(), -2, 2), rng.integers(NUM_SCORES)
        return float(noise + (score if self._cues in (shown_by, "both") else other))

    def skin(self, index: int) -> Skin | None:
        """The skin in clip ``index``; None if it follows from the motion."""
        if self._cues == "motion":
            return None
        rng = self._rng(Stream.SKIN, *self._keys[index])
        return draw_skin(self.neutral(index), self._motion(index, 0.0), self.severity(index, "appearance"), rng)

    def _motion(self, index: int, severity: float) -> face.Motion:
        key, info = self._keys[index], self.infos[index]
        streams = {"timing": Stream.TIMING, "blink": Stream.BLINK, "tremor": Stream.TREMOR}
        actions = motion.draw_actions(
            info.num_frames,
            info.expression,
            severity,
            motion.draw_habit(self._rng(Stream.HABIT, *key[:2])),
            {name: self._rng(stream, *key) for name, stream in streams.items()},
        )
        return face.Motion(
            actions=actions,
            gaze=motion.draw_gaze(info.num_frames, self._rng(Stream.GAZE, *key)),
            pose=motion.draw_pose(info.num_frames, self._rng(Stream.POSE, *key)),
        )

    def neutral(self, index: int) -> np.ndarray:
        """The resting face (face.NUM_POINTS, 3) of the person in clip ``index``, in head coordinates."""
        return face.draw_neutral(self._rng(Stream.SHAPE, self._keys[index][0]))

    def scene(self, index: int) -> tuple[face.Motion, np.ndarray]:
        """The motion in clip ``index`` and its true image points (n, face.NUM_POINTS, 2), landmarks first."""
        movement = self.motion(index)
        return movement, face.move(self.neutral(index), movement)

    def painter(self, index: int, scene: tuple[face.Motion, np.ndarray] | None = None) -> render.Painter:
        """The painter of the frames of clip ``index``. Pass its ``scene`` if you have it, to save time."""
        movement, points = scene or self.scene(index)
        look = _look(self._seed, self._keys[index][0])
        key, flicker = self._keys[index], None
        if self._cues != "motion":
            flicker = _draw_flicker(len(points), self._rng(Stream.FLICKER, *key))
        return render.Painter(look, points, movement, self._rng(Stream.CAMERA, *key), self.skin(index), flicker)

    def _detected(self, index: int, true: np.ndarray) -> np.ndarray:
        """The landmarks (n, 106, 2) of a detector for the true ones."""
        rng = self._rng(Stream.DETECTOR, *self._keys[index])
        if self._cues == "motion":
            return true + rng.normal(0, DETECTOR_NOISE, true.shape)
        return true + rng.normal(0, _BIAS, true.shape[1:]) + rng.normal(0, _JITTER, true.shape)

    def _make(self, index: int) -> clips.Clip:
        scene = self.scene(index)
        true = scene[1][:, : face.NUM_LANDMARKS]
        points = self._detected(index, true).astype(np.float32)
        depth = face.depth(self.neutral(index), scene[0])[:, : face.NUM_LANDMARKS]
        depth += self._rng(Stream.DEPTH, *self._keys[index]).normal(0, DEPTH_NOISE, depth.shape)
        pixels, frames = None, None
        if self._with_frames:
            painter = self.painter(index, scene)
            images = [painter.paint(t) for t in range(len(points))]
            chosen = landmarks.select(points, LAYOUT)
            pixels = np.stack([landmarks.pixel_values(*pair) for pair in zip(images, chosen, strict=True)])
            frames = tuple(clips.encode_frame(image) for image in images)
        return clips.Clip(self.infos[index], points, LAYOUT, pixels, frames, motion.FPS, depth.astype(np.float32))


def _draw_flicker(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Draws the exposure and white balance of a camera that keeps adjusting them: (n, 3) factors around 1."""
    times = np.arange(num_frames)[:, None] / motion.FPS
    waves = np.sin(2 * np.pi * (rng.uniform(0.2, 2, 4) * times + rng.uniform(0, 1, 4))) * (0.03, 0.01, 0.01, 0.01)
    return np.exp(waves[:, :1] + waves[:, 1:] + rng.normal(0, 0.005, (num_frames, 1)))
