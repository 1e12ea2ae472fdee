"""A whole training set in the memory of the devices, and samples made of it inside the training step.

The host names the clips of a batch and their positions in the order of training, 8 bytes a clip. What ``Sampler`` draws
on the host for the other caches, the step draws here, by the same functions and with the same outcome: see
``tramp_jax.batches.draws``.
"""

from collections.abc import Callable, Iterable, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tramp_jax import sharding
from tramp_jax.batches import view
from tramp_jax.batches.draws import Draw
from tramp_jax.batches.pipeline import Batch, ClipNumbers, Sampler
from tramp_jax.batches.view import BLANK, View
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.models.inputs import Inputs


class Stream(flax.struct.PyTreeNode):
    """One of the two streams of all clips.

    Attributes:
      rows: (N, ...) the frames of all clips, one clip after the other, each as one row.
      first: (C,) int32, number of each clip's first row.
      count: (C,) int32, frames of each clip before any padding.
      fixed: (C, F) int32, the clip's frames in a sample if nothing is drawn; ``BLANK`` for zeros.
      limit: the largest ``count``.
    """

    rows: jax.Array
    first: jax.Array
    count: jax.Array
    fixed: jax.Array
    limit: int = flax.struct.field(pytree_node=False)

    def taken(self, clip: jax.Array, drawn: Callable[[jax.Array], jax.Array] | None) -> jax.Array:
        """Frame numbers (B, F) within the clips (B,); ``drawn`` makes them of the counts (B,) of long clips."""
        fixed = self.fixed[clip]
        if drawn is None:
            return fixed
        count = self.count[clip]
        return jnp.where(count[:, None] < fixed.shape[1], fixed, drawn(count))

    def show(self, clip: jax.Array, taken: jax.Array) -> jax.Array:
        """The rows (B, F, ...) of ``taken`` (B, F), zeros where there is no frame."""
        numbers = jnp.where(taken == BLANK, len(self.rows), self.first[clip][:, None] + taken)
        return jnp.take(self.rows, numbers, axis=0, mode="fill", fill_value=0)


class Store(flax.struct.PyTreeNode):
    """All clips of a split on the devices.

    Attributes:
      target: (C,) float32.
      position: float32, ``index_t`` of each frame number.
      trajectories: rows (V·K,) float32 of padded clips; None if the model does not look at them.
      frames: rows (S·S·3,) uint8; None if the model does not look at them.
    """

    target: jax.Array
    position: jax.Array | None
    trajectories: Stream | None
    frames: Stream | None


def trajectory_bytes(infos: Iterable[ClipInfo], config: ConfigDict) -> int:
    """Memory that the trajectories of the clips take."""
    model = config.model.trajectory
    return 4 * model.num_points * len(model.channels) * sum(max(info.num_frames, model.length) for info in infos)


def build(
    infos: Sequence[ClipInfo],
    clips: Sequence[Clip] | None,
    frames: np.ndarray | None,
    config: ConfigDict,
    mesh: Mesh,
) -> Store:
    """Puts clips on every device.

    Args:
      infos: of the C clips.
      clips: their landmarks and colours, if the model looks at trajectories.
      frames: (N, S, S, 3) uint8 of all clips, one after the other, if the model looks at them.
      config: the whole configuration.
      mesh: the devices.

    Raises:
      UserError: a trajectory cannot be made, see ``trajectories.trajectory``.
    """
    sampler = Sampler(config)

    def put(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding.replicated(mesh), array)

    def stream(rows: np.ndarray, lengths: Sequence[int], counts: Sequence[int], fixed: list[np.ndarray]) -> Stream:
        first, count, table = (np.asarray(x, np.int32) for x in (np.cumsum([0, *lengths[:-1]]), counts, fixed))
        return Stream(put(rows), put(first), put(count), put(table), limit=max(counts))

    target = put(np.array([info.score for info in infos], np.float32))
    position = trajectories = images = None
    if clips is not None:
        counts = [len(clip.landmarks) for clip in clips]
        whole = [sampler.trajectory(clip) for clip in clips]
        rows = np.concatenate(whole).reshape(sum(map(len, whole)), -1)
        fixed = [View.of(config, n).numbers for n in counts]
        trajectories = stream(rows, [len(each) for each in whole], counts, fixed)
        length = config.model.trajectory.length
        position = put(view.index_t(np.arange(max(*counts, length)), length))
    if frames is not None:
        counts = [info.num_frames for info in infos]
        # A row a frame: some devices pad short innermost axes.
        images = stream(frames.reshape(len(frames), -1), counts, counts, [View.of(config, n).frames for n in counts])
    return Store(target, position, trajectories, images)


def sample(store: Store, batch: ClipNumbers, config: ConfigDict) -> Batch:
    """Inside the step: what ``Sampler.train`` makes of the clips that a batch names, for the streams in use."""
    clip, draw, data = batch.clip, Draw(config.seed, batch.position), config.data
    inputs = Inputs()
    if store.trajectories is not None and store.position is not None:
        stream, model = store.trajectories, config.model.trajectory
        drawn = data.truncation == "random" and not data.still
        taken = stream.taken(clip, (lambda n: view.drawn_run(draw, n, model.length)) if drawn else None)
        values = stream.show(clip, taken).reshape(*taken.shape, model.num_points, -1)
        inputs = inputs.replace(trajectories=values, index_t=store.position[taken])
    if store.frames is not None:
        stream, F, choice = store.frames, config.model.rgb.num_frames, data.frame_choice
        drawn, limit = choice != "uniform" and not data.still, stream.limit
        taken = stream.taken(clip, (lambda n: view.drawn_frames(draw, n, F, choice, limit)) if drawn else None)
        shown = stream.show(clip, taken)
        side = round((shown.shape[-1] / 3) ** 0.5)
        inputs = inputs.replace(
            frames=shown.reshape(*taken.shape, side, side, 3),
            frames_present=taken != BLANK if view.padding_of(config).blank else None,
        )
    return Batch(inputs, store.target[clip])
