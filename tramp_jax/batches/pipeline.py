"""Turns clips into batches with grain. The host makes samples, with uint8 frames and random choices from ``draws``."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeVar

import cv2
import flax.struct
import grain
import jax
import numpy as np
from ml_collections import ConfigDict

from tramp_jax import channels
from tramp_jax.batches.augment import stored_size
from tramp_jax.batches.draws import Draw
from tramp_jax.batches.trajectories import trajectory
from tramp_jax.batches.view import BLANK, View, blanks_frames, extended, frame_times, index_t, step_times
from tramp_jax.config import reads_frames, reads_trajectories
from tramp_jax.data import landmarks
from tramp_jax.data.clips import Clip, decode_frame
from tramp_jax.data.source import Split
from tramp_jax.errors import UserError
from tramp_jax.models.inputs import Array, Inputs

_Tree = TypeVar("_Tree")

_MAX_READ_AHEAD = 16  # batches, however small


class Batch(flax.struct.PyTreeNode):
    """A batch of B clips for training or evaluation; without the leading axis, a single sample."""

    inputs: Inputs  # of the model
    target: Array  # (B,) float32 ratings, or class numbers
    mask: Array | None = None  # (B,) float32, 0 in rows that only pad the batch; None in training


class ClipNumbers(flax.struct.PyTreeNode):
    """A training batch of B clips that are already on the devices; see ``device_cache``."""

    clip: Array  # (B,) int32, number of the clip in its split
    position: Array  # (B,) uint32, number of the sample in the order of training; determines its random choices


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Makes the samples that a whole configuration asks for. ``with_points`` adds ``Inputs.points``."""

    config: ConfigDict
    with_points: bool = False

    @classmethod
    def to_learn(cls, config: ConfigDict) -> "Sampler":
        """A sampler whose samples have everything that the loss needs."""
        return cls(config, with_points=config.loss.landmarks > 0 and reads_frames(config.model))

    def train(self, position: int, clip: Clip) -> Batch:
        """A training sample with all F frames in order.

        ``position``, its number in the order of training, and ``config.seed`` set the random choices.
        """
        view = View.of(self.config, len(clip.landmarks), Draw(self.config.seed, position % 2**32))
        return Batch(all_frames(self._sample(clip, view)), np.float32(clip.info.score))

    def test(self, clip: Clip) -> Batch:
        """An evaluation sample. It has each distinct frame once, however often it is shown; see ``frame_index``."""
        return Batch(self._sample(clip, View.of(self.config, len(clip.landmarks))), np.float32(clip.info.score))

    def trajectory(self, clip: Clip) -> np.ndarray:
        """The whole trajectory (max(n, T), 63, C) float32 of a clip, padded if it is short; see ``view.extended``."""
        model, head = self.config.model.trajectory, self.config.landmarks
        read = channels.stored(model.channels)
        whole = trajectory(clip, read, head.normalise, head.frontalise)
        return extended(whole, model.length, self.config.data.padding, read)

    def times(self, clip: Clip) -> np.ndarray:
        """The time (max(n, T),) of each frame of ``trajectory`` in seconds; see ``view.frame_times``."""
        return frame_times(len(clip.landmarks), self.config.model.trajectory.length, self.config.data.padding, clip.fps)

    def _sample(self, clip: Clip, view: View) -> Inputs:
        """A sample of a view. Its K frames are distinct, except that ``scrambled_frames`` needs all F in order."""
        inputs = Inputs()
        if reads_frames(self.config.model):
            if self.config.model.rgb.scrambled_frames:
                inputs = self._frames(clip, view.frames)
            else:
                distinct, where = np.unique(view.frames, return_inverse=True)
                inputs = self._frames(clip, distinct).replace(frame_index=where.astype(np.int32))
        if reads_trajectories(self.config.model):
            inputs = inputs.replace(
                trajectories=self.trajectory(clip)[view.numbers],
                index_t=index_t(view.numbers, self.config.model.trajectory.length),
            )
            if channels.reads_motion(self.config.model.trajectory.channels):
                inputs = inputs.replace(seconds=step_times(self.times(clip)[view.numbers], view.numbers))
        if self.with_points:
            shown = frame_points(clip)[view.frames]
            shown[view.frames == BLANK] = np.nan
            inputs = inputs.replace(points=shown)
        return inputs

    def _frames(self, clip: Clip, numbers: np.ndarray) -> Inputs:
        """Inputs with the frames (K, S, S, 3) of these numbers (K,)."""
        size = stored_size(self.config.model.rgb.image_size)
        # Blanks are zeros in the model's input, which are not black, so the device makes them after normalisation.
        present = numbers != BLANK if blanks_frames(self.config) else None
        return Inputs(frames=decoded(frames_of(clip), numbers, size), frames_present=present)


def all_frames(inputs: Inputs) -> Inputs:
    """Replaces a sample's distinct frames and ``frame_index`` by all F frames in order."""
    where, frames = inputs.frame_index, inputs.frames
    if where is None or frames is None:
        return inputs
    if not np.array_equal(where, np.arange(len(frames))):  # no needless copy, which costs half as much as decoding
        inputs = _chosen(inputs, where)
    return inputs.replace(frame_index=None)


def _chosen(inputs: Inputs, where: np.ndarray) -> Inputs:
    """Replaces a sample's frames by those at these places."""
    assert inputs.frames is not None
    present = inputs.frames_present
    return inputs.replace(frames=inputs.frames[where], frames_present=None if present is None else present[where])


def frames_of(clip: Clip) -> Sequence[bytes] | np.ndarray:
    """The stored frames of a clip. Raises UserError (no_frames) for a clip without frames."""
    if clip.frames is None:
        raise UserError(
            "no_frames",
            f"clip {clip.info.id} has no frames, but the model reads them; for data with only landmarks, set "
            'model.streams to "trajectory"',
        )
    return clip.frames


def frame_points(clip: Clip) -> np.ndarray:
    """The landmarks (n, 63, 2) float32 of a clip in units of half a frame, whose edges are at -1 and 1."""
    height, width = clip.frame_size or decode_frame(frames_of(clip)[0]).shape[:2]
    points = landmarks.select(clip.landmarks, clip.layout)
    if np.isnan(points).all():
        raise UserError(
            "no_landmarks",
            f"clip {clip.info.id} has no landmarks, but loss.landmarks needs them; set loss.landmarks to 0",
        )
    return (2 * points / (width, height) - 1).astype(np.float32)


def decoded(stored: Sequence[bytes] | np.ndarray, numbers: np.ndarray, size: int) -> np.ndarray:
    """A clip's frames with these numbers, (len(numbers), size, size, 3) uint8; black for ``BLANK``."""
    images = np.zeros((len(numbers), size, size, 3), np.uint8)  # filled in place, because np.stack would copy
    for place, frame in enumerate(numbers.tolist()):
        if frame == BLANK:
            continue
        image = decode_frame(stored[frame])
        if image.shape[:2] != (size, size):
            image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        images[place] = image
    return images


def training_batches(split: Split, config: ConfigDict, first: int = 0, numbers_only: bool = False) -> grain.IterDataset:
    """Endless shuffled batches of ``config.train.batch_size``, with new random choices in every pass.

    Order and choices depend only on ``config.seed`` and the position in the data, not on the number of reader threads
    or processes or on ``train.cache``. Each process gets its own rows of every batch. ``first`` is the number of the
    first one, from 0. With ``numbers_only``, no clips are read, and batches are ``ClipNumbers``.
    """
    processes = jax.process_count()
    rows = config.train.batch_size // processes
    if len(split) == 0:
        raise UserError("no_clips", "there are no clips to train on; check data.expression and the data set")
    dataset = grain.MapDataset.source(range(len(split)) if numbers_only else split)
    dataset = dataset.seed(config.seed).shuffle().repeat()
    dataset = dataset.map_with_index(_numbers if numbers_only else Sampler.to_learn(config).train)
    dataset = dataset.batch(rows, drop_remainder=True)
    dataset = dataset[first * processes + jax.process_index() :: processes]
    return dataset.to_iter_dataset(_read_options(config, rows, numbers_only))


def _numbers(position: int, clip: int) -> ClipNumbers:
    return ClipNumbers(np.int32(clip), np.uint32(position % 2**32))


def _read_options(config: ConfigDict, rows: int, numbers_only: bool = False) -> grain.ReadOptions:
    # Grain reads 500 elements ahead by default. Here, these would be batches, with gigabytes of frames.
    return grain.ReadOptions(config.train.reader_threads, read_ahead(config, rows, numbers_only))


def read_ahead(config: ConfigDict, rows: int, numbers_only: bool = False) -> int:
    """Number of batches of ``rows`` to read ahead: as many as fit into ``config.train.read_ahead_mb``."""
    if numbers_only:
        return _MAX_READ_AHEAD
    return int(np.clip(config.train.read_ahead_mb * 2**20 // batch_bytes(config, rows), 1, _MAX_READ_AHEAD))


def batch_bytes(config: ConfigDict, batch_size: int) -> int:
    """Bytes of a batch on the host."""
    model, size = config.model, 0
    if reads_trajectories(model):
        length, points = model.trajectory.length, model.trajectory.num_points
        option = model.trajectory.channels
        size += 4 * length * (points * len(channels.stored(option)) + 1 + channels.reads_motion(option))
    if reads_frames(model):
        size += 3 * model.rgb.num_frames * stored_size(model.rgb.image_size) ** 2
    return batch_size * size


def evaluation_batches(split: Split, config: ConfigDict, batch_size: int) -> Iterator[Batch]:
    """All clips in order, once. ``mask`` is 0 in the rows that pad the last batch.

    Each process gets its own rows of every batch, but the mask of all rows. The number of distinct frames is rounded
    up; see ``frame_slots``.
    """
    infos, count, own = split.infos, len(split), batch_size // jax.process_count()
    start = own * jax.process_index()
    plan: list[tuple[np.ndarray, list[int]]] = []
    for first in range(0, count, batch_size):
        here = range(first + start, min(first + start + own, count))
        plan.append((np.arange(first, first + batch_size) < count, list(here) or [count - 1]))
    needed = [split.indices[row] for _, rows in plan for row in rows]
    dataset = grain.MapDataset.source(Split(split.source, needed)).map(Sampler.to_learn(config).test)
    samples = iter(dataset.to_iter_dataset(_read_options(config, 1)))
    for number, (mask, rows) in enumerate(plan):
        infos_here = infos[number * batch_size : (number + 1) * batch_size]
        slots = frame_slots(max(_distinct_frames(info.num_frames, config) for info in infos_here), config)
        batch = [next(samples) for _ in rows]
        batch = [sample.replace(inputs=with_slots(sample.inputs, slots)) for sample in batch]
        batch += batch[-1:] * (own - len(batch))
        yield stacked(batch).replace(mask=mask.astype(np.float32))
    samples.close()


def _distinct_frames(n: int, config: ConfigDict) -> int:
    """Upper bound on the distinct frames in a sample of a clip of n frames."""
    return min(n + blanks_frames(config), config.model.rgb.num_frames)


def frame_slots(count: int, config: ConfigDict) -> int:
    """Rounds a number of distinct frames up to a multiple of ``evaluation.frame_bucket``, to compile fewer shapes."""
    bucket = config.evaluation.frame_bucket
    return max(count, min(-(-count // bucket) * bucket, config.model.rgb.num_frames))


def with_slots(inputs: Inputs, slots: int) -> Inputs:
    """Pads a sample's distinct frames to ``slots`` frames by repeating the last one."""
    if inputs.frame_index is None or inputs.frames is None:
        return inputs
    return _chosen(inputs, np.minimum(np.arange(slots), len(inputs.frames) - 1))


def stacked(samples: Sequence[_Tree]) -> _Tree:
    """Stacks samples, which are pytrees, into a batch."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *samples)
