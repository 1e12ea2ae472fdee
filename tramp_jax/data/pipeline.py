"""Clips to batches with grain: sampling and padding on the host, uint8 frames, an explicit rng per sample."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import grain
import numpy as np
from ml_collections import ConfigDict

from tramp_jax.data import sampling
from tramp_jax.data.augment import stored_size
from tramp_jax.data.clips import Clip, ClipInfo, ClipSource, decode_frame
from tramp_jax.models import reads_frames, reads_trajectories

Batch = dict[str, Any]

# Grain's default of 500 counts batches where batch() is upstream, and decodes as many before the first is out.
READ_AHEAD = 4


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

    def train(self, clip: Clip, rng: np.random.Generator) -> Batch:
        """A training sample: random frames and a random run of a long trajectory."""
        return self._sample(clip, rng)

    def test(self, clip: Clip) -> Batch:
        """An evaluation sample: evenly spaced frames and the last run of the trajectory."""
        return self._sample(clip, None)

    def _sample(self, clip: Clip, rng: np.random.Generator | None) -> Batch:
        model = self.config.model
        sample: Batch = {"target": np.float32(clip.info.score)}
        if reads_trajectories(model):
            length = model.trajectory.length
            whole = sampling.trajectory(clip, model.trajectory.channels, self.config.compat.first_frame_centring)
            truncation = self.config.data.truncation if rng is not None else "last"
            taken = self._maybe_still(sampling.trajectory_frames(len(whole), length, truncation, rng))
            sample |= {"trajectories": whole[taken], "index_t": sampling.position(taken, length)}
        if reads_frames(model):
            if clip.frames is None:
                raise ValueError(
                    f"clip {clip.info.id} has no frames, which the rgb stream needs; set model.streams to "
                    '"trajectory" for data of landmarks alone'
                )
            taken = self._maybe_still(sampling.rgb_frames(len(clip.frames), model.rgb.num_frames, rng))
            sample["frames"] = _decode(clip.frames, taken, stored_size(model.rgb.image_size))
        return sample

    def _maybe_still(self, taken: np.ndarray) -> np.ndarray:
        return np.zeros_like(taken) if self.config.data.still else taken


def _decode(stored: Sequence[bytes] | np.ndarray, taken: np.ndarray, size: int) -> np.ndarray:
    """Frames (len(taken), size, size, 3) uint8; a frame that is taken repeatedly is decoded once."""
    distinct, where = np.unique(taken, return_inverse=True)
    images = [decode_frame(stored[i]) for i in distinct]
    images = [
        x if x.shape[:2] == (size, size) else cv2.resize(x, (size, size), interpolation=cv2.INTER_AREA) for x in images
    ]
    return np.stack(images)[where]


def training_batches(split: Split, config: ConfigDict) -> grain.IterDataset:
    """Endless shuffled batches of ``config.train.batch_size``, new random draws in every pass.

    The order and the draws are functions of (``config.seed``, position), whatever the number of reader threads.
    """
    batch_size = config.train.batch_size
    if len(split) == 0:
        raise ValueError("there is no clip to train on; check config.data.expression and the data set")
    dataset = grain.MapDataset.source(split).seed(config.seed).shuffle().repeat()
    dataset = dataset.random_map(Sampler(config).train).batch(batch_size, drop_remainder=True)
    return dataset.to_iter_dataset(grain.ReadOptions(config.train.reader_threads, READ_AHEAD))


def evaluation_batches(split: Split, config: ConfigDict, batch_size: int) -> Iterator[Batch]:
    """All clips in order, once; the last batch is padded to ``batch_size``, and ``mask`` (B,) is 0 where padded."""
    dataset = grain.MapDataset.source(split).map(Sampler(config).test).batch(batch_size)
    for batch in dataset.to_iter_dataset(grain.ReadOptions(config.train.reader_threads, READ_AHEAD)):
        count = len(batch["target"])
        pad = batch_size - count
        padded = {k: np.concatenate([x, np.repeat(x[-1:], pad, axis=0)]) if pad else x for k, x in batch.items()}
        yield padded | {"mask": (np.arange(batch_size) < count).astype(np.float32)}
