"""Packed clips: a folder of ArrayRecord shards with one record per clip, and a manifest that describes them.

    OUT/manifest.json                            see ``Manifest``
    OUT/clips-00000-of-00012.array_record        records, in the order of the manifest's infos

OUT may be an address that ``etils.epath`` opens, such as gs://bucket/OUT. ArrayRecord reads only files on a disk, so
each shard is then copied into a temporary file when it is first needed.

A record describes itself: magic (4 bytes), schema version (uint16), length of the header (uint32), the header (JSON:
info, layout, fps, landmark source if known, and shape or lengths of the arrays), then landmarks, colours, depths and
frames as they lie in memory, all little-endian. Any change that an older reader would misread must raise ``VERSION``; a
reader refuses versions above its own.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import re
import shutil
import struct
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from etils import epath

from tramp_jax import json_files
from tramp_jax.data.clip_checks import clip_problems
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.problems import DataError, Problem
from tramp_jax.data.source import ClipSource, Wanted
from tramp_jax.errors import UserError
from tramp_jax.files import check_mounted

VERSION = 1
MANIFEST = "manifest.json"
PLAN = "pack.json"  # exists while a store is being written

_SHARD = re.compile(r"[\w-]+\.array_record", re.ASCII)  # no path out of the folder
_MAGIC = b"TRMP"
_PRELUDE = struct.Struct("<4sHI")
_ARRAYS = {"landmarks": "<f4", "pixels": "|u1", "depth": "<f4"}  # fields of Clip, in the order of a record
_AGAIN = "pack the data set again, or restore the file from a copy"


def encode(clip: Clip) -> bytes:
    """Encodes a clip as a record. The same clip gives the same bytes."""
    header: dict[str, Any] = {
        "info": dataclasses.asdict(clip.info),
        "layout": clip.layout,
        "fps": clip.fps,
        "arrays": {},
        "frames": None,
    }
    if clip.landmark_source:
        header["landmark_source"] = clip.landmark_source
    buffers: list[bytes] = []
    for name, dtype in _ARRAYS.items():
        array = getattr(clip, name)
        if array is not None:
            header["arrays"][name] = list(array.shape)
            buffers.append(_plain(array, dtype, f"clip {clip.info.id}: {name}"))
    if isinstance(clip.frames, np.ndarray):
        header["frames"] = {"shape": list(clip.frames.shape)}
        buffers.append(_plain(clip.frames, "|u1", f"clip {clip.info.id}: frames"))
    elif clip.frames is not None:
        header["frames"] = {"lengths": [len(frame) for frame in clip.frames]}
        buffers += clip.frames
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join([_PRELUDE.pack(_MAGIC, VERSION, len(text)), text, *buffers])


def _plain(array: np.ndarray, dtype: str, what: str) -> bytes:
    if array.dtype != np.dtype(dtype):
        raise ValueError(f"{what} are {array.dtype}, not {np.dtype(dtype)}")
    return array.astype(dtype, copy=False).tobytes()


def decode(record: bytes, with_frames: bool = True, with_pixels: bool = True) -> Clip:
    """Decodes a clip exactly as ``encode`` got it. Frames stored as an array share the record's memory.

    Raises:
      UserError: damaged_file if the bytes are not such a record; newer_version.
    """
    if len(record) < _PRELUDE.size or not record.startswith(_MAGIC):
        raise UserError("damaged_file", "not a clip record")
    _, version, length = _PRELUDE.unpack_from(record)
    check_version(version, "the record")
    try:
        header = json.loads(record[_PRELUDE.size : _PRELUDE.size + length])
        info = _info(header["info"])
        at = _PRELUDE.size + length
        arrays: dict[str, Any] = {}
        for name, shape in header["arrays"].items():
            if name != "pixels" or with_pixels:
                arrays[name] = _view(record, at, _ARRAYS[name], shape).copy()
            at += math.prod(shape) * np.dtype(_ARRAYS[name]).itemsize
        frames = _frames(record, at, header["frames"]) if with_frames and header["frames"] else None
        source = str(header.get("landmark_source", ""))  # older records have none
        return Clip(info, layout=header["layout"], fps=header["fps"], frames=frames, landmark_source=source, **arrays)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError("damaged_file", f"the record is damaged ({error!r})") from error


def _view(record: bytes, at: int, dtype: str, shape: Sequence[int]) -> np.ndarray:
    return np.frombuffer(record, dtype, math.prod(shape), at).reshape(shape)


def _frames(record: bytes, at: int, kept: Mapping[str, Any]) -> tuple[bytes, ...] | np.ndarray:
    if "shape" in kept:
        return _view(record, at, "|u1", kept["shape"])
    ends = at + np.cumsum([0, *kept["lengths"]])
    if ends[-1] != len(record):
        raise ValueError(f"{len(record)} bytes, but its header declares {ends[-1]}")
    return tuple(record[a:b] for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))


def check_version(version: int, what: str) -> None:
    """Raises UserError (newer_version) if a newer program wrote ``what`` with another schema."""
    if version > VERSION:
        raise UserError(
            "newer_version",
            f"{what} has schema version {version}, but this program reads versions up to {VERSION}: upgrade "
            "tramp_jax, or pack the data set again with this version",
        )


def _info(entry: Mapping[str, Any]) -> ClipInfo:
    targets = tuple((str(name), float(value)) for name, value in entry["targets"])
    return ClipInfo(**{**entry, "targets": targets})


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of records."""

    file: str  # its name in the manifest's folder
    records: int  # number of records
    bytes: int  # size
    sha256: str  # in hex


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The description of a packed data set."""

    name: str  # of the data set, one of ``readers.READERS``
    infos: tuple[ClipInfo, ...]  # all clips, in the order of the records
    shards: tuple[Shard, ...]  # in the order of their records
    official: Mapping[str, frozenset[str]] | None  # subjects of the published "train" and "test" parts
    folds: tuple[frozenset[str], ...]  # test subjects of each published fold
    request: Mapping[str, Any]  # the data, and the options it was packed with; repeating a request changes nothing
    labels: Mapping[str, Mapping[str, int]]  # number of clips by expression and score, for people to read
    skipped: tuple[Problem, ...] = ()  # problems with the clips that packing skipped
    warnings: tuple[Problem, ...] = ()  # all other problems, such as clips that the reader skipped
    tool: str = ""  # version of the program that wrote it

    def to_json(self) -> str:
        """The text of manifest.json."""
        content = {"version": VERSION, "num_clips": len(self.infos), **dataclasses.asdict(self)}
        content["official"] = self.official and {name: sorted(people) for name, people in self.official.items()}
        content["folds"] = [sorted(people) for people in self.folds]
        return json.dumps(content, indent=1) + "\n"


def is_packed(root: str | epath.Path) -> bool:
    """Whether ``root`` is a finished store of packed clips.

    Raises:
      UserError: unfinished, if ``tramp-jax pack`` was interrupted; bad_path, if ``root`` is an address that cannot be
        opened or holds no packed clips.
    """
    try:
        folder = epath.Path(root).expanduser()
        if (folder / MANIFEST).exists():
            return True
        interrupted = (folder / PLAN).exists()
    except Exception as error:  # no such protocol, no package for it, no permission, no connection
        if "://" not in str(root):
            raise
        message = f"{root}: cannot be opened ({type(error).__name__}: {error}); correct this, or copy the folder here"
        raise UserError("bad_path", message) from error
    if interrupted:
        message = f"{folder}: packing was interrupted; run the same `tramp-jax pack` again to finish it"
        raise UserError("unfinished", message)
    check_mounted(root)
    return False


def read_manifest(root: str | epath.Path) -> Manifest:
    """Reads the manifest of a store. Raises UserError (damaged_file, oversized_file or newer_version)."""
    path = epath.Path(root).expanduser() / MANIFEST
    if path.exists() and not path.is_file():  # reading a pipe would hang
        raise UserError("damaged_file", f"{path}: not a file; {_AGAIN}")
    if (size := path.stat().length) > json_files.MAX_BYTES:
        raise UserError("oversized_file", f"{path}: has {size >> 20} MB, too large for a manifest; {_AGAIN}")
    content = json_files.parse(path.read_bytes(), str(path), _AGAIN)
    try:
        check_version(content.pop("version"), str(path))
        content.pop("num_clips")
        manifest = json_files.record(Manifest, content)
        json_files.record(Wanted, manifest.request["wanted"])
        if wrong := [shard.file for shard in manifest.shards if not _SHARD.fullmatch(shard.file) or shard.records < 0]:
            raise ValueError(f"{wrong[0]!r:.80} is not a shard of this folder")
    except (KeyError, TypeError, ValueError) as error:
        message = f"{path}: not a manifest of packed clips ({error!r}); {_AGAIN}"
        raise UserError("damaged_file", message) from error
    records = sum(shard.records for shard in manifest.shards)
    if records != len(manifest.infos):
        message = f"{path}: lists {len(manifest.infos)} clips, but its shards have {records} records; {_AGAIN}"
        raise UserError("damaged_file", message)
    return manifest


class PackedClips(ClipSource):
    """A packed data set. Reading a clip reads only its record. Threads can share it."""

    def __init__(self, root: str | epath.Path, wanted: Wanted):
        """Reads the manifest, not the shards.

        Raises:
          UserError: see ``read_manifest``; bad_data if frames or landmarks are wanted but were not packed.
        """
        self.root = epath.Path(root).expanduser()
        self.manifest = read_manifest(root)
        self.infos = self.manifest.infos
        self._with_landmarks = wanted.landmarks
        self._wanted = wanted
        for part, is_wanted in (("landmarks", wanted.landmarks), ("frames", wanted.frames)):
            if is_wanted and not self.manifest.request["wanted"].get(part, True):
                message = f"{self.root}: was packed without {part}, which this model needs; pack the data set with them"
                raise UserError("bad_data", message)
        paths: list[object] = [self.root / shard.file for shard in self.manifest.shards]
        self._lock, self._missing = threading.Lock(), set[int]()
        if "://" in str(self.root):
            # Files without a name, of which nothing stays, even if this process is killed.
            self._copies = [tempfile.TemporaryFile() for _ in paths]  # noqa: SIM115
            for copy in self._copies:
                weakref.finalize(self, copy.close)
            self._missing = set(range(len(paths)))
            paths = [f"/dev/fd/{copy.fileno()}" for copy in self._copies]
        # ArrayRecord opens a shard only when it is needed if its name ends with its number of records.
        names = [f"{path}[0:{shard.records}]" for path, shard in zip(paths, self.manifest.shards, strict=True)]
        self._records = ArrayRecordDataSource(names, {"max_parallelism": "0"})

    def __getitem__(self, index: int) -> Clip:
        index = range(len(self))[index]
        info = self.infos[index]
        try:
            clip = decode(self._record(index), self._wanted.frames, self._wanted.pixels)
        except (UserError, RuntimeError, ValueError, IndexError, OSError) as error:
            raise self._unreadable(index, f"cannot be read ({error})") from error
        if clip.info != info:
            raise self._unreadable(index, f"holds clip {clip.info.id!r}, not the manifest's {info.id!r}")
        for problem in clip_problems(clip, self._with_landmarks, with_values=False):
            raise self._unreadable(index, problem.message)
        return clip

    def _record(self, index: int) -> bytes:
        number = self._place(index)[0]
        with self._lock:
            if number in self._missing:
                copy = self._copies[number]
                copy.truncate(0)  # of an attempt that failed
                copy.seek(0)
                with (self.root / self.manifest.shards[number].file).open("rb") as file:
                    shutil.copyfileobj(file, copy, 1 << 20)
                copy.flush()
                self._missing.remove(number)
        return self._records[index]

    def _place(self, index: int) -> tuple[int, int]:
        """The number of the shard with clip ``index``, and the number of its record."""
        ends = itertools.accumulate(shard.records for shard in self.manifest.shards)
        number, end = next((number, end) for number, end in enumerate(ends) if index < end)
        return number, index - end + self.manifest.shards[number].records

    def _unreadable(self, index: int, what: str) -> DataError:
        shard, number = self._place(index)
        message = f"{self.root / self.manifest.shards[shard].file}, record {number}: {what}; {_AGAIN}"
        return DataError(Problem("unreadable_record", message, self.infos[index].id))

    def store_problems(self) -> Iterator[Problem]:
        """Compares the size and checksum of every shard with the manifest."""
        for shard in self.manifest.shards:
            path = self.root / shard.file
            if not path.exists():
                yield Problem("missing_shard", f"{path}: is missing; {_AGAIN}", shard.file)
            elif (size := path.stat().length) != shard.bytes:
                what = f"{path}: has {size} bytes, but the manifest says {shard.bytes}; {_AGAIN}"
                yield Problem("damaged_shard", what, shard.file)
            elif checksum(path) != shard.sha256:
                what = f"{path}: its SHA-256 checksum differs from the manifest's; {_AGAIN}"
                yield Problem("damaged_shard", what, shard.file)


def checksum(path: epath.Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
