"""``Scorer`` turns videos into scores."""

import contextlib
import dataclasses
import difflib
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from tramp_jax import training_data, usual_motion
from tramp_jax.checkpoint import BEST
from tramp_jax.data import datasets, landmark_tables
from tramp_jax.data.clip_folder import is_clip, read_clip
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.landmark_quality import Quality, measure
from tramp_jax.data.source import RatingScale
from tramp_jax.errors import UserError
from tramp_jax.files import state
from tramp_jax.preprocess import (
    LandmarkSource,
    PreprocessOptions,
    SourceOptions,
    open_landmark_source,
    open_table_beside,
    preprocess_video,
)
from tramp_jax.preprocess.batch import read_origin
from tramp_jax.preprocess.sources import table_beside
from tramp_jax.preprocess.video import open_frames
from tramp_jax.report import attribution
from tramp_jax.report.record import Evidence, provenance
from tramp_jax.scoring import calibration, doubts
from tramp_jax.scoring.judges import AUTO, make_judge
from tramp_jax.scoring.members import load_members
from tramp_jax.scoring.onnx_judge import FLOAT32

CLIPS_AT_ONCE = 4


@dataclasses.dataclass(frozen=True)
class Scored:
    """A scored clip. If the score is withheld, it is NaN, and so is every number that it could be computed from."""

    clip: Clip  # the clip, with the arrays that the model read
    score: float  # mean of the members' scores, on the rating scale
    raw: np.ndarray  # (members,) raw values, before the output step
    # Interval around the score; None if the score is withheld, or if there is none (see ``note``).
    interval: tuple[float, float] | None
    level: float | None  # share of clips that such intervals cover, or None
    # The ratings in the interval, which have its level; () if there are none or too many to list.
    ratings: tuple[float, ...]
    withheld: str  # why there is no score; "" if there is one
    outside: str  # what makes the clip unlike the training clips; "" if nothing does
    note: str  # the method of the interval, or the reason why there is none
    frames_used: int  # how many of the clip's frames the trajectory stream (or else the frame stream) reads
    # Standard deviation of the rating (see ``output``); for an ensemble, including that of its members' scores.
    spread: float
    members: np.ndarray  # (members,) scores
    interpolated: tuple[int, ...]  # indices of frames without a detected face, whose landmarks were interpolated
    missing_ratio: float  # the share of such frames in the clip; NaN if unknown
    landmark_source: str  # name of the landmark source, or of the layout
    quality: Quality  # how far the landmarks can be trusted
    warnings: tuple[str, ...]  # what a reader must know before relying on the score


class Scorer:
    """Scores videos and clips with one trained model or an ensemble.

    Args:
      checkpoints: folders of runs of train.py or of their folds.
      which: "best", "last" or a step number.
      landmarks: landmark source for videos, one of ``preprocess.SOURCES``; opened when first needed.
      options: how to turn a video into a clip. If ``fps`` is None, a video is resampled to the rate of the training
        clips if its own differs by more than 10%.
      max_width: withhold scores whose interval is wider; None to withhold none.
      runtime: "jax", "onnx", or "auto" for the faster one that is installed; see ``judges.make_judge``.
      precision: "float32", or "bfloat16" to encode frames faster; scores then differ a little (docs/export.md).

    Raises:
      UserError: see ``load_members`` and ``make_judge``; other_task if the models of an ensemble have different tasks;
        bad_option for a negative ``max_width``; not_calibrated if ``max_width`` has no intervals to apply to.
    """

    def __init__(
        self,
        *checkpoints: str | pathlib.Path,
        which: str = BEST,
        landmarks: str = "mediapipe",
        source_options: SourceOptions | None = None,
        options: PreprocessOptions | None = None,
        max_width: float | None = None,
        runtime: str = AUTO,
        precision: str = FLOAT32,
    ):
        if not checkpoints:
            raise TypeError("a scorer needs the folder of at least one trained run")
        self.members = load_members(map(pathlib.Path, checkpoints), which)
        kinds = {(m.config.data.expression, m.config.data.target, m.config.data.name) for m in self.members}
        if len(kinds) > 1:
            raise UserError(
                "other_task",
                "models of an ensemble must have the same data.expression, data.target and data.name, not "
                f"{sorted(kinds)}",
            )
        self.landmarks, self._source_options = landmarks, source_options or SourceOptions()
        self._options = options or PreprocessOptions()
        self._source: LandmarkSource | None = None
        self._precision = precision
        self._judges = [make_judge(member, runtime, precision) for member in self.members]
        self._explainers: list[attribution.Explainer] = []
        self._usual_motion = usual_motion.load(self.members[0].run)
        self.calibration, self._uncalibrated = self._load_calibration(which)
        self._max_width = max_width
        if max_width is not None and not max_width >= 0:
            raise UserError("bad_option", f"the maximum width is {max_width}; it must be at least 0")
        if max_width is not None and self.calibration is None:
            raise UserError("not_calibrated", f"a maximum width needs intervals; {self._uncalibrated}")

    @property
    def config(self) -> ConfigDict:
        """Configuration of the first model."""
        return self.members[0].config

    @property
    def expressions(self) -> tuple[str, ...]:
        """Expressions that the first model was trained on; empty if an older run does not say."""
        return self.members[0].expressions

    def open_source(self) -> LandmarkSource:
        """The landmark source of all videos, opened when this is first called.

        Raises:
          UserError: missing_package or missing_file.
        """
        if self._source is None:
            self._source = open_landmark_source(self.landmarks, self._source_options)
        return self._source

    def _options_of(self, path: pathlib.Path) -> PreprocessOptions:
        """Options for this video. A rate near that of the training clips is kept, as resampling would repeat frames."""
        data = self.members[0].trained_on
        if self._options.fps is not None or data is None:
            return self._options
        rate = open_frames(path, self._options.images_fps).rate
        near = rate > 0 and abs(rate / data.fps - 1) <= doubts.OTHER_RATE
        return self._options if near else dataclasses.replace(self._options, fps=data.fps)

    def check_expression(self, expression: str) -> None:
        """Refuses what looks like a misspelt expression. Other unknown expressions only get a warning.

        Raises:
          UserError: bad_option for a name similar to one that the model was trained on.
        """
        if not expression or expression in self.expressions:
            return
        same = [known for known in self.expressions if known.casefold() == expression.casefold()]
        if close := same or difflib.get_close_matches(expression, self.expressions, n=1, cutoff=0.75):
            raise UserError(
                "bad_option",
                f"the model was not trained on {expression!r}; did you mean {close[0]}? It was trained on: "
                + ", ".join(self.expressions),
            )

    def score(self, path: str | pathlib.Path, expression: str = "") -> Scored:
        """Scores a video, a folder of images, a folder made by ``tramp-jax preprocess``, or a landmark table.

        Args:
          expression: the expression that the person was asked to make; "" for the one that a clip made by
            ``tramp-jax preprocess`` records, and for the model's with any other input.

        Raises:
          UserError: the input cannot be used.
        """
        path = pathlib.Path(path)
        if is_clip(path):
            clip = read_clip(path)
            info = dataclasses.replace(clip.info, expression=expression or clip.info.expression)
            origin = read_origin(path, len(clip.landmarks))
            source = clip.landmark_source or origin.landmarks  # older clips have it only in their evidence
            return self.score_clip(
                dataclasses.replace(clip, info=info, landmark_source=source),
                interpolated=origin.interpolated,
                quality=origin.quality(clip),
                warnings=origin.warnings,
            )
        asked = expression or self.config.data.expression
        info = ClipInfo(path.stem, path.stem, asked, float("nan"), 0, source=str(path))
        if path.suffix.lower() == ".csv":
            read = landmark_tables.read_trajectory(path, self._options.fps or 0.0, self._options.max_gap)
            return self.score_clip(read.clip(info), interpolated=read.interpolated, warnings=read.warnings)
        made_by = open_table_beside(path) if self.landmarks == "table" else self.open_source()
        video = preprocess_video(path, made_by, self._options_of(path), info)
        return self.score_clip(
            video.clip, interpolated=video.interpolated, quality=video.quality, warnings=video.warnings
        )

    def score_clip(
        self,
        clip: Clip,
        *,
        interpolated: np.ndarray | Sequence[bool] = (),
        quality: Quality | None = None,
        warnings: Sequence[str] = (),
        raw: np.ndarray | None = None,
    ) -> Scored:
        """Scores a clip of n frames.

        ``interpolated`` (n,) is true for frames without a detected face; () if unknown. ``raw`` (members,) is None
        unless these values are already computed. For the rest, see ``Scored``.
        """
        assert len(interpolated) in (0, len(clip.landmarks)), "interpolated needs a value for each frame"
        raw = self._judged([clip])[:, 0] if raw is None else raw
        outputs = [member.output for member in self.members]
        scores = np.array([output.score(value) for output, value in zip(outputs, raw, strict=True)])
        spreads = np.array([output.spread(value) for output, value in zip(outputs, raw, strict=True)])
        score, spread = map(float, combined(scores, spreads))
        source = clip.landmark_source or f"layout {clip.layout}"
        quality = quality or measure(clip)
        about = list(doubts.about_clip(self.members[0], clip, source))
        interval: tuple[float, float] | None = None
        ratings: tuple[float, ...] = ()
        withheld, note, outside, turned = "", self._uncalibrated, "", ""
        if self._usual_motion is not None:
            turned = self._usual_motion.turned(quality)
            with contextlib.suppress(UserError):  # too few frames to measure motion
                outside = self._usual_motion.unlike(clip)
        if (c := self.calibration) is not None:
            interval = c.interval(score, spread)
            ratings, width = c.ratings_in(interval), interval[1] - interval[0]
            note = f"{100 * c.level:g}% interval, conformal on {c.clips} clips of {c.subjects} held-out people" + (
                "" if c.coverage is None else f"; it covered {c.test}"
            )
            if self._max_width is not None and width > self._max_width:
                # The score can be computed even from the width. Drop all of it here, so that no output can show it.
                withheld = f"interval wider than {self._max_width:g} points"
                score = spread = float("nan")
                raw, scores = np.full_like(raw, np.nan), np.full_like(scores, np.nan)
                interval, ratings = None, ()
            else:
                about += doubts.about_width(c, width)
        return Scored(
            clip=clip,
            score=score,
            raw=raw,
            interval=interval,
            level=c.level if c else None,
            ratings=ratings,
            withheld=withheld,
            outside=outside,
            note=note,
            frames_used=doubts.frames_used(self.config, len(clip.landmarks)),
            spread=spread,
            members=scores,
            interpolated=tuple(np.flatnonzero(interpolated).tolist()),
            missing_ratio=float(np.mean(interpolated)) if len(interpolated) else float("nan"),
            landmark_source=source,
            quality=quality,
            # Preprocess has already put the landmarks' warnings among those of its clips.
            warnings=tuple(dict.fromkeys(filter(None, [outside, *warnings, *quality.warnings(), turned, *about]))),
        )

    def score_clips(self, clips: Sequence[Clip]) -> list[Scored]:
        """Scores clips, several at once, which is faster on a GPU."""
        found = []
        for first in range(0, len(clips), CLIPS_AT_ONCE):
            some = clips[first : first + CLIPS_AT_ONCE]
            judged = zip(some, self._judged(some).T, strict=True)
            found += [self.score_clip(clip, raw=raw) for clip, raw in judged]
        return found

    def _judged(self, clips: Sequence[Clip]) -> np.ndarray:
        """The raw values (members, N) of N clips."""
        return np.stack([judge.many(clips) for judge in self._judges])

    def settings(self, path: str | pathlib.Path, expression: str = "") -> str:
        """Short digest of what an input's score depends on, apart from the model.

        That is the names, sizes and times of its files, the calibration, and the options.
        """
        path = pathlib.Path(os.path.realpath(path))  # the same for every spelling
        try:
            found = state(path)
            if self.landmarks == "table" and (table := table_beside(path)).is_file():
                found += state(table)
        except OSError:  # scoring reports why it cannot be read
            found = []
        parts = [
            found,
            [expression, self.landmarks, self._max_width, self._uncalibrated],
            dataclasses.asdict(self._options),
            self.calibration and dataclasses.asdict(self.calibration),
            *([] if self._precision == FLOAT32 else [self._precision]),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    def evidence(self, scored: Scored, attribute: bool = True) -> Evidence:
        """The contents of a report; see ``report.writer.write_report``. A score that is withheld is not explained."""
        effects = None
        if attribute and not scored.withheld:
            if not self._explainers:
                self._explainers = [attribution.Explainer(each.config, each.output) for each in self.members]
            pairs = zip(self._explainers, self.members, strict=True)
            effects = attribution.mean([explain(each.variables, scored.clip) for explain, each in pairs])
        known: dict[str, object] = {
            "landmark_source": scored.landmark_source,
            "model": ", ".join(member.id for member in self.members),
            "checkpoint": ", ".join(f"{member.run}, step {member.step}" for member in self.members),
        }
        if np.isfinite(scored.missing_ratio):
            known["missing_ratio"] = f"{scored.missing_ratio:.1%}"
        if self._precision != FLOAT32:
            known["frames encoded in"] = self._precision
        return Evidence(
            scored.clip,
            scored.score,
            scale=self._scale(scored.score),
            interval=scored.interval,
            level=scored.level,
            ratings=scored.ratings,
            withheld=scored.withheld,
            outside=scored.outside,
            interval_note=scored.note,
            attribution=effects,
            attribution_note="the score is withheld" if scored.withheld else "not requested",
            interpolated=scored.interpolated,
            quality=scored.quality,
            warnings=scored.warnings,
            provenance=provenance(scored.clip, self.config, **known),
        )

    def _load_calibration(self, which: str) -> tuple[calibration.Calibration | None, str]:
        """The members' calibration and "", or None and why there is none."""
        models = tuple(member.id for member in self.members)
        command = "tramp-jax calibrate " + " ".join(str(member.run) for member in self.members)
        if which != BEST:
            command += f" --which {which}"
        found = calibration.load(self.members[0].run, models)
        if found is None:
            return None, f"not calibrated: {command}"
        if found.models != models:
            return None, f"another checkpoint of this run was calibrated: {command}"
        return found, ""

    def _scale(self, score: float) -> RatingScale:
        """The scale of the scores. An older run may have it only in its calibration."""
        known, c = [member.trained_on for member in self.members if member.trained_on], self.calibration
        if any(data.scale for data in known):
            return training_data.joint_scale(known)
        facts = datasets.facts(self.config.data.name)
        return training_data.scale_of(facts, self.config.data.target, (c.low, c.high) if c else None, score)


def combined(scores: np.ndarray, spreads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and spreads (...) of an ensemble, from its members' (M, ...).

    They are the mean and standard deviation of the mixture of the members' distributions.
    """
    return scores.mean(axis=0), np.sqrt(np.square(spreads).mean(axis=0) + np.var(scores, axis=0))
