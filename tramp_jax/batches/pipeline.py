"""Clips to batches with grain: sampling and padding on the host, uint8 frames, explicit random choices per sample."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import grain
import jax
import numpy as np
from ml_collections import ConfigDict

from tramp_jax.batches import sampling
from tramp_jax.batches.augment import stored_size
from tramp_jax.batches.draws import Draw
from tramp_jax.data.clips import Clip, ClipInfo, ClipSource, decode_frame
from tramp_jax.models import reads_frames, reads_trajectories

Batch = dict[str, Any]

# However small they are, more batches than this need not wait for the device.
_MAX_READ_AHEAD = 16

# Entries of a sample that have one element for each of its frames.
_OF_FRAMES = ("frames", "frames_present")


@dataclasses.dataclass(frozen=True)
class Split:
    """A part of a source: the clips at ``indices``."""

    source: ClipSource
    indices: Sequence[int]

    @property
    def infos(self) -> list[ClipInfo]:
        return [self.source.infos[i] for i in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Clip:
        return self.source[self.indices[index]]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A clip to the arrays of one sample.

    Attributes:
      config: the whole configuration.
    """

    config: ConfigDict

    def train(self, position: int, clip: Clip) -> Batch:
        """A training sample: random frames and a random run of a long trajectory.

        Args:
          position: of the sample in the order of training; with ``config.seed`` it decides what is drawn.
          clip: the clip.
        """
        return expanded(self._sample(clip, Draw(self.config.seed, position % 2**32)))

    def test(self, clip: Clip) -> Batch:
        """An evaluation sample: evenly spaced frames and the last run of the trajectory.

        ``frames`` (K, S, S, 3) are the distinct ones, and ``frame_index`` (F,) says which each of the model's F is: a
        short clip that loops is encoded once. (Frames scrambled as released mix neighbours, and are all given.)
        """
        sample = self._sample(clip, None)
        return expanded(sample) if self.config.model.rgb.scrambled_frames else sample

    def trajectory(self, clip: Clip) -> np.ndarray:
        """The whole trajectory (n or more, 63, C) float32 of a clip, padded where it is too short."""
        model, head = self.config.model, self.config.landmarks
        channels = model.trajectory.channels
        whole = sampling.trajectory(clip, channels, head.normalise, head.frontalise)
        return sampling.extend(whole, model.trajectory.length, self.config.data.padding, channels)

    def trajectory_frames(self, n: int, draw: Draw | None) -> np.ndarray:
        """Which frames (T,) of the whole trajectory of a clip of n frames the model sees; no ``draw`` when testing."""
        data = self.config.data
        truncation = data.truncation if draw is not None else "last"
        taken = sampling.trajectory_frames(n, self.config.model.trajectory.length, truncation, draw, data.padding)
        return self._maybe_still(taken)

    def rgb_frames(self, n: int, draw: Draw | None) -> np.ndarray:
        """Which of a clip's n frames the model sees, (F,), ``sampling.NO_FRAME`` for none; no ``draw`` when testing."""
        data = self.config.data
        taken = sampling.rgb_frames(n, self.config.model.rgb.num_frames, draw, data.padding, data.frame_choice)
        return self._maybe_still(taken)

    def _sample(self, clip: Clip, draw: Draw | None) -> Batch:
        model = self.config.model
        sample: Batch = {"target": np.float32(clip.info.score)}
        if reads_trajectories(model):
            taken = self.trajectory_frames(len(clip.landmarks), draw)
            sample["trajectories"] = self.trajectory(clip)[taken]
            sample["index_t"] = sampling.position(taken, model.trajectory.length)
        if reads_frames(model):
            stored = frames_of(clip)
            distinct, where = np.unique(self.rgb_frames(len(stored), draw), return_inverse=True)
            sample["frames"] = decoded(stored, distinct, stored_size(model.rgb.image_size))
            sample["frame_index"] = where.astype(np.int32)
            if self.config.data.padding == "zero":  # zeros of the model's input are no colour: the device sets them
                sample["frames_present"] = distinct != sampling.NO_FRAME
        return sample

    def _maybe_still(self, taken: np.ndarray) -> np.ndarray:
        return np.zeros_like(taken) if self.config.data.still else taken


def expanded(sample: Batch) -> Batch:
    """The sample with all its frames instead of the distinct ones."""
    if "frame_index" in sample:
        where = sample.pop("frame_index")
        distinct = len(next(sample[key] for key in _OF_FRAMES if key in sample))
        if not np.array_equal(where, np.arange(distinct)):  # else spare the copy, half as dear as decoding
            sample |= {key: sample[key][where] for key in _OF_FRAMES if key in sample}
    return sample


def frames_of(clip: Clip) -> Sequence[bytes] | np.ndarray:
    """The frames of a clip whose model looks at frames.

    Raises:
      ValueError: it has none.
    """
    if clip.frames is None:
        raise ValueError(
            f"clip {clip.info.id} has no frames, which the rgb stream needs; set model.streams to "
            '"trajectory" for data of landmarks alone'
        )
    return clip.frames


def decoded(stored: Sequence[bytes] | np.ndarray, taken: np.ndarray, size: int) -> np.ndarray:
    """Frames (len(taken), size, size, 3) uint8 of a clip's stored ones, black where there is none."""
    images = np.zeros((len(taken), size, size, 3), np.uint8)  # filled in place: a copy costs half of what decoding does
    for place, frame in enumerate(taken.tolist()):
        if frame == sampling.NO_FRAME:
            continue
        image = decode_frame(stored[frame])
        if image.shape[:2] != (size, size):
            image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        images[place] = image
    return images


def training_batches(split: Split, config: ConfigDict, first: int = 0, numbers_only: bool = False) -> grain.IterDataset:
    """Endless shuffled batches of ``config.train.batch_size`` from number ``first`` on, new draws in every pass.

    The order and the draws are functions of (``config.seed``, position), whatever the number of reader threads and of
    processes, and wherever clips are kept; each process gets its own rows of every batch. With ``numbers_only`` no
    clip is read: batches have ``clip`` (B,) int32, its number in the split, and ``position`` (B,) uint32, for which
    ``device_cache.sample`` makes the samples.
    """
    processes = jax.process_count()
    rows = config.train.batch_size // processes
    if len(split) == 0:
        raise ValueError("there is no clip to train on; check config.data.expression and the data set")
    dataset = grain.MapDataset.source(range(len(split)) if numbers_only else split)
    dataset = dataset.seed(config.seed).shuffle().repeat()
    dataset = dataset.map_with_index(_numbers if numbers_only else Sampler(config).train)
    dataset = dataset.batch(rows, drop_remainder=True)
    dataset = dataset[first * processes + jax.process_index() :: processes]
    return dataset.to_iter_dataset(_read_options(config, rows, numbers_only))


def _numbers(position: int, clip: int) -> Batch:
    return {"clip": np.int32(clip), "position": np.uint32(position % 2**32)}


def _read_options(config: ConfigDict, rows: int, numbers_only: bool = False) -> grain.ReadOptions:
    # Grain's default buffer is 500 elements, which are batches where batch() is upstream: gigabytes of frames.
    return grain.ReadOptions(config.train.reader_threads, read_ahead(config, rows, numbers_only))


def read_ahead(config: ConfigDict, rows: int, numbers_only: bool = False) -> int:
    """How many batches of ``rows`` are made before they are asked for: what ``config.train.read_ahead_mb`` holds."""
    if numbers_only:
        return _MAX_READ_AHEAD
    return int(np.clip(config.train.read_ahead_mb * 2**20 // batch_bytes(config, rows), 1, _MAX_READ_AHEAD))


def batch_bytes(config: ConfigDict, batch_size: int) -> int:
    """Size in memory of the arrays of one batch."""
    model, size = config.model, 0
    if reads_trajectories(model):
        length, points = model.trajectory.length, model.trajectory.num_points
        size += 4 * length * (points * len(model.trajectory.channels) + 1)
    if reads_frames(model):
        size += 3 * model.rgb.num_frames * stored_size(model.rgb.image_size) ** 2
    return batch_size * size


def evaluation_batches(split: Split, config: ConfigDict, batch_size: int) -> Iterator[Batch]:
    """All clips in order, once; the last batch is padded to ``batch_size``, and ``mask`` (B,) is 0 where padded.

    Each process gets its own rows of every batch, but the whole mask. Clips of few frames are padded to a common
    number of distinct frames, a multiple of ``evaluation.frame_bucket``: few shapes, few compilations.
    """
    infos, count, own = split.infos, len(split), batch_size // jax.process_count()
    start = own * jax.process_index()
    plan: list[tuple[np.ndarray, list[int]]] = []
    for first in range(0, count, batch_size):
        here = range(first + start, min(first + start + own, count))
        plan.append((np.arange(first, first + batch_size) < count, list(here) or [count - 1]))
    needed = [split.indices[row] for _, rows in plan for row in rows]
    dataset = grain.MapDataset.source(Split(split.source, needed)).map(Sampler(config).test)
    samples = iter(dataset.to_iter_dataset(_read_options(config, 1)))
    for number, (mask, rows) in enumerate(plan):
        slots = _frame_slots(infos[number * batch_size : (number + 1) * batch_size], config)
        batch = [padded(next(samples), slots) for _ in rows]
        batch += batch[-1:] * (own - len(batch))
        yield {k: np.stack([x[k] for x in batch]) for k in batch[0]} | {"mask": mask.astype(np.float32)}
    samples.close()


def _frame_slots(infos: Sequence[ClipInfo], config: ConfigDict) -> int:
    """How many distinct frames a clip of this batch may have, rounded up to the bucket."""
    frames = config.model.rgb.num_frames
    return frame_slots(max(min(info.num_frames + (config.data.padding == "zero"), frames) for info in infos), config)


def frame_slots(count: int, config: ConfigDict) -> int:
    """``count`` distinct frames rounded up to the bucket, so that few shapes are compiled."""
    bucket = config.evaluation.frame_bucket
    return min(-(-count // bucket) * bucket, config.model.rgb.num_frames)


def padded(sample: Batch, slots: int) -> Batch:
    """The sample with its distinct frames padded to ``slots`` by the last one."""
    if "frame_index" not in sample:
        return sample
    where = np.minimum(np.arange(slots), len(sample["frames"]) - 1)
    return sample | {key: sample[key][where] for key in _OF_FRAMES if key in sample}
