"""Clips that are read once: decoded frames kept in the memory of the host or of the device (``train.cache``).

| cache | training clips | a batch ships |
|---|---|---|
| "none" | are read and decoded each time | its samples, 15.9 MB a clip at the published sizes |
| "host" | are kept in the memory of the host, filled as clips are first asked for | the same |
| "device" | are kept on every device, filled before the first step | the numbers of its clips, 8 bytes a clip |

Kept are all frames of the clips of the run's training and validation parts, uint8, at the size in which they are
shipped; and the clips' landmarks and colours, on devices their trajectories. Validation clips are kept by the host with
"device", too. Test clips are read as they are, twice in a run.

What a batch shows is drawn on the host by ``pipeline.Sampler``, or inside the training step by
``tramp_jax.batches.device_cache``: the same bits in all three cases.

Of several processes each keeps what it reads, in the end all clips of both parts.
"""

import dataclasses
import os
import pathlib
import threading
from collections.abc import Sequence
from concurrent import futures

import grain
import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from tramp_jax import sharding
from tramp_jax.batches import device_cache, pipeline
from tramp_jax.batches.augment import stored_size
from tramp_jax.batches.pipeline import Batch, ClipNumbers, Split
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.source import ClipSource
from tramp_jax.errors import UserError
from tramp_jax.models import reads_frames, reads_trajectories

CACHES = ("none", "host", "device")

# Shares of the memory that is free before the model has any of it.
HOST_SHARE, DEVICE_SHARE = 0.7, 0.5

# Of a frame's landmarks, depths and colours, in the largest layout.
_POINT_BYTES = 478 * 3 * 4 + 63 * 3

# Of memory, as version 2 and 1 of Linux' control groups tell them.
_CONTAINER_LIMITS = (
    pathlib.Path("/sys/fs/cgroup/memory.max"),
    pathlib.Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


class ClipCache(ClipSource):
    """The clips of a split that reads each of them once, when it is first asked for.

    The frames are (n, S, S, 3) uint8 and read-only. Several threads can read: two that ask for the same clip at the
    same time read it once.
    """

    def __init__(self, split: Split, size: int | None):
        """Reads nothing.

        Args:
          split: the clips.
          size: S, side of the frames that are kept; None keeps no frames.
        """
        self.infos: Sequence[ClipInfo] = split.infos
        self._split, self._size = split, size
        self._clips: list[Clip | None] = [None] * len(split)
        self._locks = [threading.Lock() for _ in self._clips]
        ends = np.cumsum([info.num_frames for info in self.infos], dtype=int).tolist()
        self._places = [range(end - info.num_frames, end) for info, end in zip(self.infos, ends, strict=True)]
        # Memory is taken page by page as frames are written.
        self._frames = np.empty((ends[-1] if ends else 0, size, size, 3), np.uint8) if size is not None else None

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Clip:
        """Clip ``index``.

        Raises:
          UserError: frames are to be kept, and the clip has none or not as many as its ``info`` says; and whatever
            reading it raises. Nothing of the clip is kept then.
        """
        with self._locks[index]:
            clip = self._clips[index]
            if clip is None:
                clip = self._clips[index] = self._read(index)
        return clip

    def fill(self, threads: int) -> None:
        """Reads all clips that are not read yet, showing the progress."""
        quiet = None if sharding.is_first_process() else True  # None: where there is no terminal
        with (
            futures.ThreadPoolExecutor(max(1, threads)) as readers,
            tqdm(total=len(self), desc="decoding", unit="clip", dynamic_ncols=True, disable=quiet) as bar,
        ):
            pending = [readers.submit(self.__getitem__, index) for index in range(len(self))]
            try:
                for done in futures.as_completed(pending):
                    done.result()
                    bar.update()
            finally:
                for future in pending:  # after an error or Ctrl-C no further clip is begun
                    future.cancel()

    @property
    def frames(self) -> np.ndarray | None:
        """The frames (N, S, S, 3) of all clips that are read, one clip after the other; None if none are kept."""
        return self._frames

    def _read(self, index: int) -> Clip:
        clip = self._split[index]
        frames = None
        if self._frames is not None and self._size is not None:
            stored, place = pipeline.frames_of(clip), self._places[index]
            if len(stored) != len(place):
                raise UserError(
                    "bad_value",
                    f"clip {clip.info.id} has {len(stored)} frames where its data set says {len(place)}; re-create it",
                )
            frames = self._frames[place.start : place.stop]
            frames[:] = pipeline.decoded(stored, np.arange(len(stored)), self._size)
            frames.flags.writeable = False
        # Arrays of a record are views of it: without a copy they would keep its compressed frames in memory.
        pixels, depth = (x if x is None else x.copy() for x in (clip.pixels, clip.depth))
        return dataclasses.replace(clip, landmarks=clip.landmarks.copy(), pixels=pixels, depth=depth, frames=frames)


@dataclasses.dataclass(frozen=True)
class Feed:
    """The clips of a training as ``train.cache`` keeps them, and the way of their batches to the devices.

    Attributes:
      train: clips to train on.
      validation: clips to choose a checkpoint by.
      store: the training clips, where devices keep them. Batches are numbers of clips then.
      mesh: the devices.
    """

    train: Split
    validation: Split
    store: device_cache.Store | None
    mesh: Mesh

    def batches(self, config: ConfigDict, first: int = 0) -> grain.IterDataset:
        """Host batches from number ``first`` on, see ``pipeline.training_batches``."""
        return pipeline.training_batches(self.train, config, first, numbers_only=self.store is not None)

    def put(self, batch: Batch | ClipNumbers) -> Batch | ClipNumbers:
        """A host batch onto the devices, split over them. It returns before the transfer has ended."""
        return sharding.put(batch, self.mesh)


def build_feed(config: ConfigDict, train: Split, validation: Split, mesh: Mesh) -> Feed:
    """Keeps what ``config.train.cache`` says; "device" reads all clips to train on before it returns.

    Raises:
      UserError: see ``check``; or a clip cannot be read.
    """
    check(config, train, validation)
    if config.train.cache == "none":
        return Feed(train, validation, None, mesh)
    size = stored_size(config.model.rgb.image_size) if reads_frames(config.model) else None
    kept, validation = ClipCache(train, size), _all_of(ClipCache(validation, size))
    if config.train.cache == "host":
        return Feed(_all_of(kept), validation, None, mesh)
    kept.fill(config.train.reader_threads)
    clips = [kept[index] for index in range(len(kept))] if reads_trajectories(config.model) else None
    return Feed(train, validation, device_cache.build(kept.infos, clips, kept.frames, config, mesh), mesh)


def _all_of(cache: ClipCache) -> Split:
    return Split(cache, range(len(cache)))


def check(config: ConfigDict, train: Split, validation: Split) -> None:
    """Refuses a cache for which there is no room; reads no clip.

    Raises:
      UserError: unknown ``train.cache``; or what is kept needs more than ``HOST_SHARE`` of the host's free memory, or
        more than ``DEVICE_SHARE`` of a device's.
    """
    kind, device = config.train.cache, jax.local_devices()[0]
    if kind not in CACHES:
        raise UserError("bad_option", f"train.cache is {kind!r}; known: {', '.join(CACHES)}")
    if kind == "none":
        return
    frame = 3 * stored_size(config.model.rgb.image_size) ** 2 if reads_frames(config.model) else 0
    to_train, to_validate = (sum(info.num_frames for info in split.infos) for split in (train, validation))
    on_host = (to_train + to_validate) * (frame + _POINT_BYTES)
    if kind == "device":
        on_device, free = to_train * frame, free_device_memory(device)
        if reads_trajectories(config.model):
            on_device += device_cache.trajectory_bytes(train.infos, config)
        if free is None:  # a CPU: its devices take their memory from the host
            on_host += on_device * jax.local_device_count()
        elif on_device > DEVICE_SHARE * free:
            what = f"{to_train:,} frames and their trajectories need {_gib(on_device)} in the memory of each device"
            raise UserError("bad_option", _no_room(kind, what, DEVICE_SHARE, free, 'train.cache="host" or "none"'))
    free = free_host_memory()
    if on_host > HOST_SHARE * free:
        what = f"{to_train + to_validate:,} frames and their landmarks need {_gib(on_host)} in the memory of the host"
        raise UserError("bad_option", _no_room(kind, what, HOST_SHARE, free, 'train.cache="none"'))


def _no_room(kind: str, what: str, share: float, free: int, instead: str) -> str:
    return f'train.cache="{kind}": {what}, more than {share:.0%} of the {_gib(free)} that are free; use {instead}'


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"


def free_device_memory(device: jax.Device) -> int | None:
    """Bytes that a device has left for this process; None where it cannot tell, as a CPU."""
    stats = device.memory_stats() or {}
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0) if "bytes_limit" in stats else None


def free_host_memory() -> int:
    """Bytes that programs can still take, within the limit of the container; outside Linux all that the host has."""
    try:
        rows = pathlib.Path("/proc/meminfo").read_text().splitlines()
        # Not sysconf's SC_AVPHYS_PAGES: it leaves out what the files in the page cache would give back.
        free = next(int(row.split()[1]) * 1024 for row in rows if row.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in _CONTAINER_LIMITS:
        if path.is_file() and (limit := path.read_text().strip()).isdigit():  # or "max"
            free = min(free, int(limit))
    return free
