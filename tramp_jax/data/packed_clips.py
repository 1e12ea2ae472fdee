"""Packed clips: a folder of ArrayRecord shards with one record for each clip, and a manifest that describes them.

    OUT/manifest.json                            what is known without reading a shard: see ``Manifest``
    OUT/clips-00000-of-00012.array_record        records, in the order of the manifest's infos

A record is self-describing: magic (4 bytes), schema version (uint16), length of the header (uint32), the header (JSON:
info, layout, fps, and shape or lengths of what follows), then landmarks, colours, depths and frames as they lie in
memory, all little-endian. Whatever changes this raises ``VERSION``; a reader refuses versions above its own.
"""

import dataclasses
import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from etils import epath

from tramp_jax.data import clip_checks
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.problems import DataError, Problem
from tramp_jax.errors import UserError

VERSION = 1
MANIFEST = "manifest.json"
PLAN = "pack.json"  # is there while a store is being written

_MAGIC = b"TRMP"
_PRELUDE = struct.Struct("<4sHI")
_ARRAYS = {"landmarks": "<f4", "pixels": "|u1", "depth": "<f4"}  # fields of Clip, in the order of a record
_AGAIN = "pack the data set again, or restore the file from a copy"


def encode(clip: Clip) -> bytes:
    """The record of a clip; the same bytes for the same clip.

    Raises:
      UserError: an array of another type than ``Clip`` says.
    """
    header: dict[str, Any] = {
        "info": _to_json(clip.info),
        "layout": clip.layout,
        "fps": clip.fps,
        "arrays": {},
        "frames": None,
    }
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
        raise UserError("bad_data", f"{what} are {array.dtype}, not {np.dtype(dtype)}")
    return array.astype(dtype, copy=False).tobytes()


def decode(record: bytes, with_frames: bool = True, with_pixels: bool = True) -> Clip:
    """The clip of a record, exactly as it was encoded; frames kept as an array share the record's memory.

    Args:
      record: made by ``encode``.
      with_frames: False leaves ``frames`` None and does not touch them.
      with_pixels: False leaves ``pixels`` None.

    Raises:
      UserError: bytes that are no such record, or a record of a newer version.
    """
    if len(record) < _PRELUDE.size or not record.startswith(_MAGIC):
        raise UserError("bad_data", "it is not a clip record")
    _, version, length = _PRELUDE.unpack_from(record)
    check_version(version, "the record")
    try:
        header = json.loads(record[_PRELUDE.size : _PRELUDE.size + length])
        info = _info(header["info"])
        at = _PRELUDE.size + length
        arrays: dict[str, np.ndarray] = {}
        for name, shape in header["arrays"].items():
            if name != "pixels" or with_pixels:
                arrays[name] = _view(record, at, _ARRAYS[name], shape).copy()
            at += math.prod(shape) * np.dtype(_ARRAYS[name]).itemsize
        frames = _frames(record, at, header["frames"]) if with_frames and header["frames"] else None
        return Clip(info, layout=header["layout"], fps=header["fps"], frames=frames, **arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError("damaged_file", f"the record is damaged ({error!r})") from error


def _view(record: bytes, at: int, dtype: str, shape: Sequence[int]) -> np.ndarray:
    return np.frombuffer(record, dtype, math.prod(shape), at).reshape(shape)


def _frames(record: bytes, at: int, kept: Mapping[str, Any]) -> tuple[bytes, ...] | np.ndarray:
    if "shape" in kept:
        return _view(record, at, "|u1", kept["shape"])
    ends = at + np.cumsum([0, *kept["lengths"]])
    if ends[-1] != len(record):
        raise UserError("bad_data", f"{len(record)} bytes where its header promises {ends[-1]}")
    return tuple(record[a:b] for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))


def check_version(version: int, what: str) -> None:
    """Raises ValueError where ``what`` was written by a later program with another schema."""
    if version > VERSION:
        raise UserError(
            "bad_data",
            f"{what} has the schema version {version}, and this program reads versions up to {VERSION}: get a "
            "newer tramp_jax, or pack the data set again with this version",
        )


def _to_json(info: ClipInfo) -> dict[str, Any]:
    return dataclasses.asdict(info) | {"targets": [list(pair) for pair in info.targets]}


def _info(entry: Mapping[str, Any]) -> ClipInfo:
    targets = tuple((str(name), float(value)) for name, value in entry["targets"])
    return ClipInfo(**{**entry, "targets": targets})


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of records.

    Attributes:
      file: name in the folder of the manifest.
      records: how many it holds.
      bytes: size of the file.
      sha256: of the file, in hexadecimal digits.
    """

    file: str
    records: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a packed data set is, in words.

    Attributes:
      name: of the data set, a key of ``datasets.READERS``.
      infos: of all clips, in the order of the records.
      shards: in order; their records one after the other are the clips.
      official: subjects of the published "train" and "test" parts, or None.
      folds: test subjects of each published fold.
      request: what was packed and with which options; the same request into the same folder has nothing to do.
      labels: clips by expression and score; a summary for people.
      skipped: problems of the clips that were left out.
      warnings: everything else that was found, such as clips that the reader had left out.
      tool: version of the program that wrote it.
    """

    name: str
    infos: tuple[ClipInfo, ...]
    shards: tuple[Shard, ...]
    official: Mapping[str, frozenset[str]] | None
    folds: tuple[frozenset[str], ...]
    request: Mapping[str, Any]
    labels: Mapping[str, Mapping[str, int]]
    skipped: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    tool: str = ""

    def to_json(self) -> str:
        """The text of manifest.json."""
        content = {"version": VERSION, "num_clips": len(self.infos)} | {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        content["infos"] = [_to_json(info) for info in self.infos]
        content["shards"] = [dataclasses.asdict(shard) for shard in self.shards]
        content["official"] = self.official and {name: sorted(people) for name, people in self.official.items()}
        content["folds"] = [sorted(people) for people in self.folds]
        for name in ("skipped", "warnings"):
            content[name] = [dataclasses.asdict(problem) for problem in getattr(self, name)]
        return json.dumps(content, indent=1) + "\n"


def is_packed(root: str | epath.Path) -> bool:
    """Whether ``root`` is a finished store of packed clips.

    Raises:
      UserError: it is one that ``tramp-jax pack`` has begun and not finished.
    """
    folder = epath.Path(root).expanduser()
    if (folder / MANIFEST).exists():
        return True
    if (folder / PLAN).exists():
        raise UserError(
            "bad_data", f"{folder}: packing was interrupted; run the same `tramp-jax pack` again to finish it"
        )
    return False


def read_manifest(root: str | epath.Path) -> Manifest:
    """The manifest of a store, without reading its shards.

    Raises:
      UserError: no manifest, a damaged one, or one of a newer version.
    """
    path = epath.Path(root).expanduser() / MANIFEST
    try:
        content = json.loads(path.read_text())
        check_version(content["version"], str(path))
        official = content["official"]
        manifest = Manifest(
            name=content["name"],
            infos=tuple(map(_info, content["infos"])),
            shards=tuple(Shard(**shard) for shard in content["shards"]),
            official=official and {name: frozenset(people) for name, people in official.items()},
            folds=tuple(map(frozenset, content["folds"])),
            request=content["request"],
            labels=content["labels"],
            skipped=tuple(Problem(**problem) for problem in content["skipped"]),
            warnings=tuple(Problem(**problem) for problem in content.get("warnings", ())),  # older ones have none
            tool=content["tool"],
        )
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError("damaged_file", f"{path}: is no manifest of packed clips ({error!r}); {_AGAIN}") from error
    if sum(shard.records for shard in manifest.shards) != len(manifest.infos):
        raise UserError(
            "damaged_file", f"{path}: its shards have another number of records than its {len(manifest.infos)} clips"
        )
    return manifest


class PackedClips:
    """A packed data set as a ``clips.ClipSource``. Reading a clip reads its record alone.

    Attributes:
      root: the folder, on a local disk or wherever ArrayRecord and ``etils.epath`` read.
      manifest: what is in it.
    """

    def __init__(
        self,
        root: str | epath.Path,
        with_frames: bool = True,
        with_pixels: bool = True,
        with_landmarks: bool = True,
    ):
        """Reads the manifest, not the shards.

        Args:
          root: made by ``tramp-jax pack``.
          with_frames: False leaves the frames out of the clips.
          with_pixels: False leaves the colours out.
          with_landmarks: False accepts a data set of frames alone, whose landmarks are NaN.

        Raises:
          UserError: see ``read_manifest``; or frames or landmarks are wanted that were not packed.
        """
        self.root = epath.Path(root).expanduser()
        self.manifest = read_manifest(root)
        self._with_frames, self._with_pixels = with_frames, with_pixels
        self._with_landmarks = with_landmarks
        for what, is_wanted in (("landmarks", with_landmarks), ("frames", with_frames)):
            if is_wanted and not self.manifest.request["wanted"][what]:
                raise UserError(
                    "bad_data", f"{self.root}: was packed without {what}, which this model needs; pack them, too"
                )
        # With the number of records behind its name, a shard is opened when first needed.
        names = [f"{self.root / shard.file}[0:{shard.records}]" for shard in self.manifest.shards]
        self._records = ArrayRecordDataSource(names, {"max_parallelism": "0"})

    @property
    def infos(self) -> Sequence[ClipInfo]:
        return self.manifest.infos

    def __len__(self) -> int:
        return len(self.manifest.infos)

    def __getitem__(self, index: int) -> Clip:
        """Clip ``index``; can be called by several threads.

        Raises:
          DataError: a missing or damaged shard, or one that belongs to another manifest.
        """
        index = range(len(self))[index]
        info = self.infos[index]
        try:
            clip = decode(self._records[index], self._with_frames, self._with_pixels)
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            raise self._unreadable(index, f"cannot be read ({error})") from error
        if clip.info != info:
            raise self._unreadable(index, f"holds clip {clip.info.id!r}, not the manifest's {info.id!r}")
        return clip

    def _unreadable(self, index: int, what: str) -> DataError:
        number, shards = index, iter(self.manifest.shards)
        shard = next(shards)
        while number >= shard.records:
            number, shard = number - shard.records, next(shards)
        message = f"{self.root / shard.file}, record {number}: {what}; {_AGAIN}"
        return DataError(Problem("unreadable_record", message, self.infos[index].id))

    def problems(self, index: int) -> Iterator[Problem]:
        """What is wrong with clip ``index`` as far as it is wanted; decodes its frames."""
        try:
            clip = self[index]
        except DataError as error:
            yield error.problem
            return
        yield from clip_checks.clip_problems(clip, self._with_landmarks)

    def few_frames(self, index: int) -> tuple[bytes, ...]:
        """A few images of clip ``index``, to tell whether two clips are the same; () where frames are not wanted."""
        return clip_checks.few_frames(self[index])

    def shard_problems(self) -> Iterator[Problem]:
        """What is wrong with the files of the store, by size and checksum; reads all of every shard."""
        for shard in self.manifest.shards:
            path = self.root / shard.file
            if not path.exists():
                yield Problem("missing_shard", f"{path}: is missing; {_AGAIN}", shard.file)
            elif (size := path.stat().length) != shard.bytes:
                what = f"{path}: has {size} bytes where the manifest says {shard.bytes}; {_AGAIN}"
                yield Problem("damaged_shard", what, shard.file)
            elif checksum(path) != shard.sha256:
                what = f"{path}: its SHA-256 checksum is not the manifest's; {_AGAIN}"
                yield Problem("damaged_shard", what, shard.file)


def checksum(path: epath.Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
