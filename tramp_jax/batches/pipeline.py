"""Clips to batches with grain: sampling and padding on the host, uint8 frames, explicit random choices per sample."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeVar

import cv2
import flax.struct
import grain
import jax
import numpy as np
from ml_collections import ConfigDict

from tramp_jax.batches.augment import stored_size
from tramp_jax.batches.draws import Draw
from tramp_jax.batches.trajectories import trajectory
from tramp_jax.batches.view import BLANK, View, extended, index_t, padding_of
from tramp_jax.data.clips import Clip, decode_frame
from tramp_jax.data.source import Split
from tramp_jax.errors import UserError
from tramp_jax.models import reads_frames, reads_trajectories
from tramp_jax.models.inputs import Array, Inputs

_Tree = TypeVar("_Tree")

# Small batches are read ahead too, but never more than this many.
_MAX_READ_AHEAD = 16


class Batch(flax.struct.PyTreeNode):
    """B clips as the training step and the evaluation take them; without the leading axis, one sample.

    Attributes:
      inputs: what the model reads.
      target: (B,) float32 ratings, or class numbers.
      mask: (B,) float32, 0 where a row only fills the batch; None in training.
    """

    inputs: Inputs
    target: Array
    mask: Array | None = None


class ClipNumbers(flax.struct.PyTreeNode):
    """A training batch of clips that the devices hold already, see ``device_cache``.

    Attributes:
      clip: (B,) int32, number of each clip in its split.
      position: (B,) uint32, number of each sample in the order of training; decides its random choices.
    """

    clip: Array
    position: Array


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Turns a clip into one sample, under a whole configuration."""

    config: ConfigDict

    def train(self, position: int, clip: Clip) -> Batch:
        """A training sample, with all its frames in order.

        Args:
          position: number of the sample in the order of training; with ``config.seed`` it decides what is drawn.
          clip: the clip.
        """
        view = View.of(self.config, len(clip.landmarks), Draw(self.config.seed, position % 2**32))
        return Batch(all_frames(self._inputs(clip, view)), np.float32(clip.info.score))

    def test(self, clip: Clip) -> Batch:
        """An evaluation sample; a frame that a short clip repeats is there once.

        (Frames scrambled as released mix neighbours, so all of them are there.)
        """
        inputs = self._inputs(clip, View.of(self.config, len(clip.landmarks)))
        if self.config.model.rgb.scrambled_frames:
            inputs = all_frames(inputs)
        return Batch(inputs, np.float32(clip.info.score))

    def views(self, clip: Clip, views: Sequence[View]) -> tuple[Inputs, Inputs]:
        """Several views of a clip, which share its frames.

        (Frames scrambled as released cannot be shared; then all views show those of the first one.)

        Returns:
          The frames of all views, each once: ``frames`` (K, S, S, 3) and ``frames_present`` (K,); and the D views:
          ``frame_index`` (D, F), ``trajectories`` (D, T, V, C), ``index_t`` (D, T).
        """
        shared, rows = Inputs(), Inputs()
        if reads_frames(self.config.model):
            if self.config.model.rgb.scrambled_frames:
                shared = self._frames(clip, views[0].frames)
            else:
                distinct, where = np.unique(np.stack([view.frames for view in views]), return_inverse=True)
                shared = self._frames(clip, distinct)
                rows = rows.replace(frame_index=where.reshape(len(views), -1).astype(np.int32))
        if reads_trajectories(self.config.model):
            whole = self._positions_and_colours(clip)
            seen = [self._trajectory(whole, view) for view in views]
            trajectories, positions = (np.stack(arrays) for arrays in zip(*seen, strict=True))
            rows = rows.replace(trajectories=trajectories, index_t=positions)
        return shared, rows

    def trajectory(self, clip: Clip) -> np.ndarray:
        """The whole trajectory (n or more, 63, C) float32 of a clip, padded if it is too short."""
        return self._padded(self._positions_and_colours(clip))

    def _inputs(self, clip: Clip, view: View) -> Inputs:
        inputs = Inputs()
        if reads_trajectories(self.config.model):
            values, index_t = self._trajectory(self._positions_and_colours(clip), view)
            inputs = inputs.replace(trajectories=values, index_t=index_t)
        if reads_frames(self.config.model):
            distinct, where = np.unique(view.frames, return_inverse=True)
            frames = self._frames(clip, distinct)
            inputs = inputs.replace(
                frames=frames.frames, frames_present=frames.frames_present, frame_index=where.astype(np.int32)
            )
        return inputs

    def _frames(self, clip: Clip, distinct: np.ndarray) -> Inputs:
        """The clip's frames (K, S, S, 3) of these numbers."""
        size = stored_size(self.config.model.rgb.image_size)
        # Zeros of the model's input are not a colour, so the device sets them.
        present = distinct != BLANK if padding_of(self.config).blank else None
        return Inputs(frames=decoded(frames_of(clip), distinct, size), frames_present=present)

    def _trajectory(self, whole: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
        """(T, 63, C) and ``index_t`` (T,) of a view of the trajectory (n, 63, C)."""
        start, end = view.window
        length = self.config.model.trajectory.length
        return self._padded(whole[start:end])[view.numbers], index_t(view.numbers, length)

    def _padded(self, whole: np.ndarray) -> np.ndarray:
        model = self.config.model.trajectory
        return extended(whole, model.length, self.config.data.padding, model.channels)

    def _positions_and_colours(self, clip: Clip) -> np.ndarray:
        head = self.config.landmarks
        return trajectory(clip, self.config.model.trajectory.channels, head.normalise, head.frontalise)


def all_frames(inputs: Inputs) -> Inputs:
    """One sample with all its F frames in order, in place of the distinct ones and ``frame_index``."""
    where, frames = inputs.frame_index, inputs.frames
    if where is None or frames is None:
        return inputs
    if np.array_equal(where, np.arange(len(frames))):  # a copy would cost half as much as decoding
        return inputs.replace(frame_index=None)
    present = inputs.frames_present
    return inputs.replace(
        frames=frames[where], frames_present=None if present is None else present[where], frame_index=None
    )


def frames_of(clip: Clip) -> Sequence[bytes] | np.ndarray:
    """The stored frames of a clip that a model reads frames of.

    Raises:
      UserError: the clip has none.
    """
    if clip.frames is None:
        raise UserError(
            "no_frames",
            f"clip {clip.info.id} has no frames, but the model reads them; set model.streams to "
            '"trajectory" for data with landmarks only',
        )
    return clip.frames


def decoded(stored: Sequence[bytes] | np.ndarray, numbers: np.ndarray, size: int) -> np.ndarray:
    """Frames (len(numbers), size, size, 3) uint8 from a clip's stored ones; black for ``BLANK``."""
    images = np.zeros((len(numbers), size, size, 3), np.uint8)  # filled in place: a copy costs half of the decoding
    for place, frame in enumerate(numbers.tolist()):
        if frame == BLANK:
            continue
        image = decode_frame(stored[frame])
        if image.shape[:2] != (size, size):
            image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        images[place] = image
    return images


def training_batches(split: Split, config: ConfigDict, first: int = 0, numbers_only: bool = False) -> grain.IterDataset:
    """Endless shuffled batches of ``config.train.batch_size`` from number ``first`` on, new draws in every pass.

    The order and the draws are functions of (``config.seed``, position). They do not depend on the number of reader
    threads or processes, or on where clips are kept. Each process gets its own rows of every batch.

    Returns:
      An iterator over ``Batch``; with ``numbers_only``, which reads no clip, over ``ClipNumbers``.

    Raises:
      UserError: there is no clip to train on.
    """
    processes = jax.process_count()
    rows = config.train.batch_size // processes
    if len(split) == 0:
        raise UserError("no_clips", "there is no clip to train on; check data.expression and the data set")
    dataset = grain.MapDataset.source(range(len(split)) if numbers_only else split)
    dataset = dataset.seed(config.seed).shuffle().repeat()
    dataset = dataset.map_with_index(_numbers if numbers_only else Sampler(config).train)
    dataset = dataset.batch(rows, drop_remainder=True)
    dataset = dataset[first * processes + jax.process_index() :: processes]
    return dataset.to_iter_dataset(_read_options(config, rows, numbers_only))


def _numbers(position: int, clip: int) -> ClipNumbers:
    return ClipNumbers(np.int32(clip), np.uint32(position % 2**32))


def _read_options(config: ConfigDict, rows: int, numbers_only: bool = False) -> grain.ReadOptions:
    # Grain buffers 500 elements by default. After batch() these are batches: gigabytes of frames.
    return grain.ReadOptions(config.train.reader_threads, read_ahead(config, rows, numbers_only))


def read_ahead(config: ConfigDict, rows: int, numbers_only: bool = False) -> int:
    """Number of batches of ``rows`` to read ahead: as many as fit into ``config.train.read_ahead_mb``."""
    if numbers_only:
        return _MAX_READ_AHEAD
    return int(np.clip(config.train.read_ahead_mb * 2**20 // batch_bytes(config, rows), 1, _MAX_READ_AHEAD))


def batch_bytes(config: ConfigDict, batch_size: int) -> int:
    """Bytes that the arrays of one batch take."""
    model, size = config.model, 0
    if reads_trajectories(model):
        length, points = model.trajectory.length, model.trajectory.num_points
        size += 4 * length * (points * len(model.trajectory.channels) + 1)
    if reads_frames(model):
        size += 3 * model.rgb.num_frames * stored_size(model.rgb.image_size) ** 2
    return batch_size * size


def evaluation_batches(split: Split, config: ConfigDict, batch_size: int) -> Iterator[Batch]:
    """All clips in order, once; ``mask`` is 0 in the rows that fill up the last batch.

    Each process gets its own rows of every batch, but the whole mask. The distinct frames of a batch are padded to a
    multiple of ``evaluation.frame_bucket``: few shapes, few compilations.
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
        infos_here = infos[number * batch_size : (number + 1) * batch_size]
        slots = frame_slots(max(_distinct_frames(info.num_frames, config) for info in infos_here), config)
        batch = [next(samples) for _ in rows]
        batch = [sample.replace(inputs=with_slots(sample.inputs, slots)) for sample in batch]
        batch += batch[-1:] * (own - len(batch))
        yield stacked(batch).replace(mask=mask.astype(np.float32))
    samples.close()


def _distinct_frames(n: int, config: ConfigDict) -> int:
    """An upper bound of the distinct frames of a clip of n frames."""
    return min(n + padding_of(config).blank, config.model.rgb.num_frames)


def frame_slots(count: int, config: ConfigDict) -> int:
    """``count`` distinct frames rounded up to the bucket, so that few shapes are compiled."""
    bucket = config.evaluation.frame_bucket
    return max(count, min(-(-count // bucket) * bucket, config.model.rgb.num_frames))


def with_slots(inputs: Inputs, slots: int) -> Inputs:
    """One sample whose distinct frames (K, ...) are padded to ``slots`` by the last one."""
    if inputs.frame_index is None or inputs.frames is None:
        return inputs
    where = np.minimum(np.arange(slots), len(inputs.frames) - 1)
    present = inputs.frames_present
    return inputs.replace(frames=inputs.frames[where], frames_present=None if present is None else present[where])


def stacked(samples: Sequence[_Tree]) -> _Tree:
    """Pytrees of one sample each as a pytree of a batch."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *samples)
