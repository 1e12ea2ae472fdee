"""Caches of decoded clips in the memory of the host or the devices (``train.cache``).

| cache | training clips | a batch sends to the devices |
|---|---|---|
| "none" | are read and decoded each time | its samples, 15.9 MB a clip at the published sizes |
| "host" | stay in the host's memory once read | the same |
| "device" | are on every device before the first step | the numbers of its clips, 8 bytes a clip |

A cache holds all frames of the training and validation clips, as uint8 at the size in which they are sent, and their
landmarks and colours (on devices, their trajectories). Validation clips stay on the host even with "device". Test clips
are not cached, because a run reads them only twice. With several processes, each caches the clips that it reads, in the
end all of them.

``pipeline.Sampler`` makes samples on the host, and ``tramp_jax.batches.device_cache`` makes them inside the training
step. With every cache, samples have the same bits.
"""

import dataclasses
import os
import pathlib
import threading
from collections.abc import Sequence

import grain
import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tramp_jax import sharding
from tramp_jax.batches import device_cache, pipeline
from tramp_jax.batches.augment import stored_size
from tramp_jax.config import reads_frames, reads_trajectories
from tramp_jax.data.clips import Clip, ClipInfo, decode_frame
from tramp_jax.data.source import ClipSource, Split
from tramp_jax.data.validation import in_order
from tramp_jax.errors import UserError
from tramp_jax.progress import Progress

# The largest shares of the free memory that a cache may take. Free memory is measured before the model is loaded.
HOST_SHARE, DEVICE_SHARE = 0.7, 0.5

# Bytes of a frame's landmarks, depths and colours in the largest layout.
_POINT_BYTES = 478 * 3 * 4 + 63 * 3

# Memory limits of Linux control groups, versions 2 and 1.
_CONTAINER_LIMITS = (
    pathlib.Path("/sys/fs/cgroup/memory.max"),
    pathlib.Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


class ClipCache(ClipSource):
    """A ``ClipSource`` that reads each clip of a split once, on first use, even if several threads need it at once.

    Attributes:
      infos: the clips' descriptions.
      frames: (N, S, S, 3) uint8, the frames of all clips in order, filled as clips are read; None if frames are not
        cached. Cached clips hold read-only views of them.
    """

    def __init__(self, split: Split, size: int | None):
        """Reads no clip yet. ``size`` is S, the side of the cached frames; None to cache no frames."""
        self.infos: Sequence[ClipInfo] = split.infos
        self._split, self._size = split, size
        self._clips: list[Clip | None] = [None] * len(split)
        self._locks = [threading.Lock() for _ in self._clips]
        ends = np.cumsum([info.num_frames for info in self.infos], dtype=int).tolist()
        self._places = [range(end - info.num_frames, end) for info, end in zip(self.infos, ends, strict=True)]
        # The system provides the memory page by page, as frames are written.
        self.frames = np.empty((ends[-1] if ends else 0, size, size, 3), np.uint8) if size is not None else None

    def __getitem__(self, index: int) -> Clip:
        """Clip ``index``. A clip that cannot be read is not cached.

        Raises:
          UserError: no_frames; bad_data if its ``info`` has another number of frames; or the reader's error.
        """
        with self._locks[index]:
            clip = self._clips[index]
            if clip is None:
                clip = self._clips[index] = self._read(index)
        return clip

    def fill(self, threads: int) -> None:
        """Reads all clips that are not cached yet, with a progress bar."""
        with Progress(len(self), "clip", what="decoding", quiet=not sharding.is_first_process()) as bar:
            for _ in in_order(self.__getitem__, range(len(self)), threads):
                bar.update()

    def _read(self, index: int) -> Clip:
        clip = self._split[index]
        frames = frame_size = None
        if self.frames is not None and self._size is not None:
            stored, place = pipeline.frames_of(clip), self._places[index]
            if len(stored) != len(place):
                raise UserError(
                    "bad_data",
                    f"clip {clip.info.id} has {len(stored)} frames, but its data set lists {len(place)}; recreate it",
                )
            frames = self.frames[place.start : place.stop]
            frames[:] = pipeline.decoded(stored, np.arange(len(stored)), self._size)
            frames.flags.writeable = False
            frame_size = decode_frame(stored[0]).shape[:2]
        # Copies, because views of a packed record would keep the whole record in memory.
        pixels, depth = (x if x is None else x.copy() for x in (clip.pixels, clip.depth))
        return dataclasses.replace(
            clip, landmarks=clip.landmarks.copy(), pixels=pixels, depth=depth, frames=frames, frame_size=frame_size
        )


@dataclasses.dataclass(frozen=True)
class RunClips:
    """A run's training and validation clips behind their cache, and the training batches made from them."""

    train: Split
    validation: Split
    store: device_cache.Store | None = None  # the training clips, with ``train.cache`` "device"

    def batches(self, config: ConfigDict, first: int = 0) -> grain.IterDataset:
        """Host batches from number ``first`` on, of ``ClipNumbers`` if there is a store; see ``training_batches``."""
        return pipeline.training_batches(self.train, config, first, numbers_only=self.store is not None)


def build_run_clips(config: ConfigDict, train: Split, validation: Split, mesh: Mesh) -> RunClips:
    """Sets up the cache of ``config.train.cache``; "device" reads all training clips before it returns."""
    check(config, train, validation)
    if config.train.cache == "none":
        return RunClips(train, validation)
    size = stored_size(config.model.rgb.image_size) if reads_frames(config.model) else None
    cached, validation = ClipCache(train, size), _all_of(ClipCache(validation, size))
    if config.train.cache == "host":
        return RunClips(_all_of(cached), validation)
    cached.fill(config.train.reader_threads)
    with_landmarks = reads_trajectories(config.model) or config.loss.landmarks > 0
    clips = [cached[index] for index in range(len(cached))] if with_landmarks else None
    return RunClips(train, validation, device_cache.build(cached.infos, clips, cached.frames, config, mesh))


def _all_of(cache: ClipCache) -> Split:
    return Split(cache, range(len(cache)))


def check(config: ConfigDict, train: Split, validation: Split) -> None:
    """Checks that the cache fits into memory. Reads no clips.

    Raises:
      UserError: no_room if the cache needs more than ``HOST_SHARE`` of the host's free memory or more than
        ``DEVICE_SHARE`` of a device's.
    """
    kind, device = config.train.cache, jax.local_devices()[0]
    if kind == "none":
        return
    frame = 3 * stored_size(config.model.rgb.image_size) ** 2 if reads_frames(config.model) else 0
    to_train, to_validate = (sum(info.num_frames for info in split.infos) for split in (train, validation))
    on_host = (to_train + to_validate) * (frame + _POINT_BYTES)
    if kind == "device":
        on_device, free = to_train * frame, free_device_memory(device)
        if reads_trajectories(config.model):
            on_device += device_cache.trajectory_bytes(train.infos, config)
        if free is None:  # on a CPU, devices use the host's memory, and each has its own copy
            on_host += on_device * jax.local_device_count()
        elif on_device > DEVICE_SHARE * free:
            what = f"{to_train:,} frames and their trajectories need {_gib(on_device)} of each device's memory"
            raise _no_room(kind, what, DEVICE_SHARE, free, 'train.cache="host" or "none"')
    free = free_host_memory()
    if on_host > HOST_SHARE * free:
        what = f"{to_train + to_validate:,} frames and their landmarks need {_gib(on_host)} of the host's memory"
        raise _no_room(kind, what, HOST_SHARE, free, 'train.cache="none"')


def _no_room(kind: str, what: str, share: float, free: int, instead: str) -> UserError:
    return UserError(
        "no_room", f'train.cache="{kind}": {what}, more than {share:.0%} of the free {_gib(free)}; use {instead}'
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"


def free_device_memory(device: jax.Device) -> int | None:
    """A device's free bytes; None if it does not report them, as a CPU does not."""
    stats = device.memory_stats() or {}
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0) if "bytes_limit" in stats else None


def free_host_memory() -> int:
    """The host's free bytes, or its container's limit if that is less. Outside Linux, all of the host's memory."""
    try:
        rows = pathlib.Path("/proc/meminfo").read_text().splitlines()
        # Not sysconf's SC_AVPHYS_PAGES, which does not count the page cache as free.
        free = next(int(row.split()[1]) * 1024 for row in rows if row.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in _CONTAINER_LIMITS:
        if path.is_file() and (limit := path.read_text().strip()).isdigit():  # or "max"
            free = min(free, int(limit))
    return free
