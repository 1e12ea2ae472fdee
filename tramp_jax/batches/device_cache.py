"""Keeps a whole training set in the memory of the devices, and makes samples from it inside the training step.

The host sends only the numbers of a batch's clips and their positions in the order of training, 8 bytes a clip. The
step makes the random choices that ``Sampler`` makes on the host for the other caches, by the same functions and with
the same bits (see ``tramp_jax.batches.draws``).
"""

from collections.abc import Iterable, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tramp_jax import channels, sharding
from tramp_jax.batches import view
from tramp_jax.batches.draws import FRAMES, TRAJECTORY, Draw
from tramp_jax.batches.pipeline import Batch, ClipNumbers, Sampler, frame_points
from tramp_jax.batches.view import BLANK, View
from tramp_jax.config import reads_trajectories
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.models.inputs import Inputs


class Stream(flax.struct.PyTreeNode):
    """One of the two streams of all C clips."""

    rows: jax.Array  # (N, ...), one row per frame, one clip after another
    first: jax.Array  # (C,) int32, index of each clip's first row
    count: jax.Array  # (C,) int32, number of frames of each clip before padding
    fixed: jax.Array  # (C, F) int32, the frame numbers of each clip in evaluation, or ``BLANK``
    limit: int = flax.struct.field(pytree_node=False)  # the largest ``count``

    def numbers(self, config: ConfigDict, stream: int, clip: jax.Array, draw: Draw) -> jax.Array:
        """The frame numbers (B, F) of the clips (B,) in training; see ``view.training_numbers``."""
        return view.training_numbers(config, stream, draw, self.count[clip], self.fixed[clip], self.limit)

    def show(self, clip: jax.Array, numbers: jax.Array) -> jax.Array:
        """The rows (B, F, ...) of these frame numbers (B, F); zeros for ``BLANK``."""
        rows = jnp.where(numbers == BLANK, len(self.rows), self.first[clip][:, None] + numbers)
        return jnp.take(self.rows, rows, axis=0, mode="fill", fill_value=0)


class Store(flax.struct.PyTreeNode):
    """All C clips of a split on the devices. A stream that the model does not read is None."""

    target: jax.Array  # (C,) float32
    index_t: jax.Array | None  # (largest number of frames,) float32, ``index_t`` of each frame number
    times: jax.Array | None  # (N,) float32 ``view.frame_times`` of ``trajectories``; None if no channel reads motion
    trajectories: Stream | None  # rows (V·channels,) float32 of padded clips
    frames: Stream | None  # rows (S·S·3,) uint8
    points: Stream | None = None  # rows (63·2,) float32, landmarks in the frames; None if the loss does not use them


def trajectory_bytes(infos: Iterable[ClipInfo], config: ConfigDict) -> int:
    """Bytes that the clips' trajectories take on a device."""
    model = config.model.trajectory
    values = model.num_points * len(channels.stored(model.channels)) + channels.reads_motion(model.channels)
    return 4 * values * sum(max(info.num_frames, model.length) for info in infos)


def build(
    infos: Sequence[ClipInfo], clips: Sequence[Clip] | None, frames: np.ndarray | None, config: ConfigDict, mesh: Mesh
) -> Store:
    """Puts C clips on every device.

    ``clips`` have landmarks and colours, if the model reads trajectories or the loss uses landmarks. ``frames`` are
    those of all clips, one after another, (N, S, S, 3) uint8, if the model reads frames. ``config`` is the whole
    configuration.
    """
    sampler = Sampler.to_learn(config)

    def put(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding.replicated(mesh), array)

    def stream(rows: np.ndarray, lengths: Sequence[int], counts: Sequence[int], fixed: list[np.ndarray]) -> Stream:
        first, count, table = (np.asarray(x, np.int32) for x in (np.cumsum([0, *lengths[:-1]]), counts, fixed))
        return Stream(put(rows), put(first), put(count), put(table), limit=max(counts))

    target = put(np.array([info.score for info in infos], np.float32))
    positions = times = trajectories = images = points = None
    if clips is not None and reads_trajectories(config.model):
        counts = [len(clip.landmarks) for clip in clips]
        whole = [sampler.trajectory(clip) for clip in clips]
        rows = np.concatenate(whole).reshape(sum(map(len, whole)), -1)
        fixed = [View.of(config, n).numbers for n in counts]
        trajectories = stream(rows, [len(each) for each in whole], counts, fixed)
        length = config.model.trajectory.length
        positions = put(view.index_t(np.arange(max(*counts, length)), length))
        if channels.reads_motion(config.model.trajectory.channels):
            times = put(np.concatenate([sampler.times(clip) for clip in clips]))
    if frames is not None:
        counts = [info.num_frames for info in infos]
        # Flat rows, because some devices pad short innermost axes.
        images = stream(frames.reshape(len(frames), -1), counts, counts, [View.of(config, n).frames for n in counts])
        if clips is not None and sampler.with_points:
            rows = np.concatenate([frame_points(clip) for clip in clips])
            points = images.replace(rows=put(rows.reshape(len(rows), -1)))
    return Store(target, positions, times, trajectories, images, points)


def sample(store: Store, batch: ClipNumbers, config: ConfigDict) -> Batch:
    """Makes the samples that ``Sampler.train`` makes of the same clips. Called inside the training step."""
    clip, draw = batch.clip, Draw(config.seed, batch.position)
    inputs = Inputs()
    if store.trajectories is not None and store.index_t is not None:
        stream = store.trajectories
        numbers = stream.numbers(config, TRAJECTORY, clip, draw)
        values = stream.show(clip, numbers).reshape(*numbers.shape, config.model.trajectory.num_points, -1)
        inputs = inputs.replace(trajectories=values, index_t=store.index_t[numbers])
        if store.times is not None:
            times = store.times[stream.first[clip][:, None] + numbers]
            inputs = inputs.replace(seconds=view.step_times(times, numbers))
    if store.frames is not None:
        stream = store.frames
        numbers = stream.numbers(config, FRAMES, clip, draw)
        shown = stream.show(clip, numbers)
        side = round((shown.shape[-1] / 3) ** 0.5)
        inputs = inputs.replace(
            frames=shown.reshape(*numbers.shape, side, side, 3),
            frames_present=numbers != BLANK if view.blanks_frames(config) else None,
        )
        if store.points is not None:
            shown = store.points.show(clip, numbers).reshape(*numbers.shape, -1, 2)
            inputs = inputs.replace(points=jnp.where((numbers == BLANK)[:, :, None, None], jnp.nan, shown))
    return Batch(inputs, store.target[clip])
