"""Describes how faces move in the training clips, to recognise a clip unlike anything the model was trained on.

The score of such a clip means nothing, however certain the model is. The logarithm of each motion feature of a clip
(see ``baselines``; features are skewed) is compared with its median over the training clips, in units of its
interquartile range. The clip's distance is the root mean square of these differences, each limited to a largest value.
A clip is unusual if it is farther away than nearly all validation clips, each person counting once. If the validation
clips show only a few people, training clips count too, each compared with those of the other training people. The
rotation of the head is compared with that in the training frames.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
from ml_collections import ConfigDict

from tramp_jax import json_files, progress, run, sharding
from tramp_jax.data import datasets, head_motion, landmark_quality
from tramp_jax.data.clips import Clip
from tramp_jax.data.datasets import TRAIN, VALIDATION
from tramp_jax.data.source import Split, Wanted
from tramp_jax.errors import UserError
from tramp_jax.metrics import weights_of_people
from tramp_jax.models import reads_trajectories

_USUAL = 0.95  # share of new people's clips that should count as usual
_ENOUGH = 19  # people; fewer cannot show the ``_USUAL`` quantile of their distances
_LARGEST = 10.0  # limit of a single feature's difference, in interquartile ranges
_OFFSET = 0.01  # added before the logarithm
_POSES = (0.5, 99.5)  # percentiles of the head's rotation in training


@dataclasses.dataclass(frozen=True)
class UsualMotion:
    """The motion of the training clips."""

    medians: tuple[float, ...]  # (D,) medians of the logarithms of ``baselines.FEATURE_NAMES``
    ranges: tuple[float, ...]  # (D,) interquartile ranges of the same
    threshold: float  # the largest distance of a usual clip
    # Smallest and largest rotation of the head in the training frames, in degrees, without the most extreme 1%. None
    # if an earlier version wrote the file.
    yaw: tuple[float, float] | None = None
    pitch: tuple[float, float] | None = None  # likewise

    def turned(self, quality: landmark_quality.Quality) -> str:
        """A warning if the head turns farther than in training, by more than the error of the estimate; else ""."""
        words = []
        for name, values, usual, error in (
            ("yaw", quality.yaw, self.yaw, landmark_quality.YAW_ERROR),
            ("pitch", quality.pitch, self.pitch, landmark_quality.PITCH_ERROR),
        ):
            if usual is None:
                continue
            beyond = (values < usual[0] - error) | (values > usual[1] + error)
            if beyond.mean() > landmark_quality.FEW:
                worst = values[beyond][np.abs(values[beyond]).argmax()]
                words.append(
                    f"{name} up to {worst:.0f}° in {beyond.sum()} of {len(values)} frames; in training, "
                    f"{usual[0]:.0f}° to {usual[1]:.0f}°"
                )
        return f"the head turns farther than in training ({'; '.join(words)})" if words else ""

    def unlike(self, clip: Clip) -> str:
        """Describes what is unusual about a clip's motion; "" if nothing is."""
        from tramp_jax.baselines import FEATURE_NAMES

        features, medians, ranges = _features(clip), np.array(self.medians), np.array(self.ranges)
        distance = _distance(features, medians, ranges)
        if distance <= self.threshold:
            return ""
        off = np.abs(features - medians) / ranges
        largest = ", ".join(FEATURE_NAMES[i].replace("_", " ") for i in np.argsort(-off, kind="stable")[:3])
        return (
            f"the motion is outside what the model was trained on (distance {distance:.1f}, usual up to "
            f"{self.threshold:.1f}; most unusual: {largest})"
        )


def describe(config: ConfigDict, splits: Mapping[str, Split], folder: pathlib.Path) -> None:
    """Reads the landmarks of all training and validation clips, and writes usual_motion.json.

    Does nothing if the file exists, or if the model reads no trajectories, since its data may then have no landmarks.
    Writes nothing if the training clips that can be used show fewer than two people.
    """
    path = folder / run.USUAL_MOTION
    if path.exists() or not reads_trajectories(config.model) or not sharding.is_first_process():
        return
    source = datasets.open_dataset(config, Wanted(frames=False, pixels=False)).source
    numbers = {info.id: i for i, info in enumerate(source.infos)}
    rotations: list[np.ndarray] = []

    def features(name: str) -> Iterator[tuple[str, np.ndarray]]:
        for info in progress.over(splits[name].infos, "clip", f"motion of {name} clips", leave=False):
            try:
                clip = source[numbers[info.id]]
                found = _features(clip)
            except UserError:  # too short, or unusable without its frames
                continue
            if name == TRAIN:
                quality = landmark_quality.measure(clip)
                rotations.append(np.stack([quality.yaw, quality.pitch]))
            yield info.subject, found

    shown = list(features(TRAIN))
    people, train = np.array([person for person, _ in shown]), np.array([each for _, each in shown])
    if len(set(people)) < 2:
        return
    medians, ranges = _spread(train)
    found = [(person, _distance(each, medians, ranges)) for person, each in features(VALIDATION)]
    if len({person for person, _ in found}) < _ENOUGH:
        found += [(person, _distance(each, *_spread(train[people != person]))) for person, each in shown]
    names, distances = zip(*sorted(found, key=lambda pair: pair[1]), strict=True)
    # Also count the new person, whose distance may be larger than all others.
    covered = np.cumsum(weights_of_people(names)) / (len(set(names)) + 1)
    threshold = distances[min(int(np.searchsorted(covered, _USUAL - 1e-9)), len(distances) - 1)]
    low, high = np.nanpercentile(np.concatenate(rotations, axis=1), _POSES, axis=1)
    yaw, pitch = zip(low.tolist(), high.tolist(), strict=True)
    content = UsualMotion(tuple(medians.tolist()), tuple(ranges.tolist()), float(threshold), yaw, pitch)
    json_files.write(path, content)


def _spread(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians and interquartile ranges (D,) of the features (N, D) of clips."""
    ranges = np.maximum(np.subtract(*np.percentile(features, [75, 25], axis=0)), 0.05)
    return np.median(features, axis=0), ranges


def load(folder: pathlib.Path) -> UsualMotion | None:
    """Reads the outcome of ``describe``; None if there is none.

    Raises:
      UserError: damaged_file.
    """
    return json_files.read_record(
        UsualMotion,
        folder / run.USUAL_MOTION,
        "run tramp-jax calibrate again",
        lambda found: len(found.medians) == len(found.ranges) and min(found.ranges, default=0) > 0,
    )


def _features(clip: Clip) -> np.ndarray:
    from tramp_jax.baselines import motion_features  # imports scikit-learn, which takes seconds

    return np.log(np.maximum(motion_features(head_motion.positions(clip), clip.fps), 0) + _OFFSET)


def _distance(features: np.ndarray, medians: np.ndarray, ranges: np.ndarray) -> float:
    off = np.minimum(np.abs(features - medians) / ranges, _LARGEST)
    return float(np.sqrt(np.mean(np.square(off))))
