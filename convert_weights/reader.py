"""Reads ``.pth``, ``.pt`` and ``.safetensors`` files without PyTorch and without trusting them.

There are three containers: the zip archive that ``torch.save`` has written since PyTorch 1.6, the stream of pickles
that it wrote before, and safetensors. A file's first bytes, not its name, say which one it is. The reader runs nothing
in a file (``inert_pickle``), writes nothing, and checks every declared size against the bytes that are there.
"""

import dataclasses
import functools
import hashlib
import io
import json
import math
import os
import pathlib
import re
import stat
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from convert_weights import inert_pickle
from convert_weights.safe_globals import DAMAGED, Global, NumpyDtype, Placeholder, Storage, Tensor, bad_file, printable
from tramp_jax.errors import UserError

_RESAVE = "save its state_dict again with torch.save (PyTorch 1.6 or newer)"
_OTHER_FILE = "give the .pth, .pt or .safetensors file itself"
_GIVE_WEIGHTS = "give a file that holds the model's state_dict"
_MAX_DEPTH = 100  # nesting of dictionaries and lists
_MAX_NODES = 1_000_000  # size of the tree, without the contents of placeholders
_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # pickle of 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_MAX_SAFETENSORS_HEADER = 100_000_000  # the format's own limit

_NUMPY_NAMES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "complex64", "complex128",
)  # fmt: skip
_ML_NAMES = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
_DTYPES: dict[str, np.dtype] = {name: np.dtype(name) for name in _NUMPY_NAMES}
_DTYPES |= {name: np.dtype(getattr(ml_dtypes, name)) for name in _ML_NAMES if hasattr(ml_dtypes, name)}
_SAFETENSORS_DTYPES = {
    "BOOL": "bool", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "U8": "uint8", "U16": "uint16",
    "U32": "uint32", "U64": "uint64", "F16": "float16", "F32": "float32", "F64": "float64", "C64": "complex64",
    "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip

# Files that people mistake for checkpoints: their first bytes, what they are, and what to do.
_NOT_CHECKPOINTS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights", "run `git lfs pull`, or download the file"),
    (b"<", "is a web page, not the weights", "the download got an error or login page: download it again in a browser"),
    (b"\x1f\x8b", "is compressed with gzip", "unpack it first with gunzip or tar"),
    (b"\x93NUMPY", "is a NumPy array, not a checkpoint", _OTHER_FILE),
    (b"\x89HDF", "is an HDF5 file, not a PyTorch checkpoint", _OTHER_FILE),
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The contents of a file."""

    # dict, list and tuple of None, bool, numbers, str, bytes, np.ndarray (read-only; tensors that share a storage share
    # memory) and Placeholder. A set becomes a list, a subclass of dict a dict, a torch type or device its name.
    tree: Any
    sha256: str  # of the whole file, in hex
    placeholders: tuple[str, ...]  # ``where: class`` for each object that was not loaded


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a checkpoint. Nothing in it is run.

    Raises:
      UserError: the file cannot be read safely.
    """
    path = pathlib.Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would hang
            raise bad_file("is a folder" if path.is_dir() else "is not a regular file", _OTHER_FILE)
        with path.open("rb") as file:
            tree, placeholders = _parse(file, os.fstat(file.fileno()).st_size, path.suffix)
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except UserError as error:
        raise _error(error.kind, path, error) from error
    except FileNotFoundError as error:
        raise _error("missing_file", path, f"{error.strerror}; check the path") from error
    except OSError as error:
        text = f"{error.strerror or error}; check the file and its permissions"
        raise _error("unreadable_file", path, text) from error
    except (zipfile.BadZipFile, ArithmeticError, EOFError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # zipfile and NumPy raise these for input that no check here foresaw.
        raise _error("damaged_file", path, f"cannot be read ({printable(error)}); {DAMAGED}") from error
    return Checkpoint(tree, sha256, placeholders)


def _error(kind: str, path: pathlib.Path, text: object) -> UserError:
    return UserError(kind, f"{printable(path, 300)}: {printable(text, 400)}")


def nonfinite_warnings(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """A warning for each tensor that holds a NaN or an infinity."""
    bad = (name for name, x in tensors.items() if x.dtype.kind not in "biu" and not np.isfinite(x).all())
    return [f"not a finite number (NaN or infinity) in {name}" for name in bad]


def _parse(file: BinaryIO, size: int, suffix: str) -> tuple[object, tuple[str, ...]]:
    head = file.read(512)
    file.seek(0)
    if head.startswith(b"PK\x03\x04"):
        root, storage_bytes = _read_zip(file, size)
    elif head.startswith(_LEGACY_MAGIC):
        root, storage_bytes = _read_legacy(io.BytesIO(file.read()))
    elif head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return _read_safetensors(file, size), ()
    else:
        raise _not_a_checkpoint(head, suffix)
    resolver = _Resolver(storage_bytes, byte_budget=16 * size + (256 << 20))
    tree = resolver.resolve(root, ())
    if not resolver.tensors:
        what = resolver.placeholders[0] if resolver.placeholders else f"a {type(tree).__name__} without any"
        raise bad_file(f"holds no tensors ({what})", _GIVE_WEIGHTS)
    return tree, tuple(resolver.placeholders)


def _not_a_checkpoint(head: bytes, suffix: str) -> UserError:
    """The error for a file that is not a zip archive, a pre-1.6 file or safetensors."""
    if not head:
        return bad_file("is empty", "download it again from its publisher")
    for magic, what, cure in _NOT_CHECKPOINTS:
        if head.lstrip().startswith(magic):
            return bad_file(what, cure)
    if head[257:262] == b"ustar":
        return bad_file("is a tar archive, or was saved by PyTorch 0.1", f"unpack it, or {_RESAVE}")
    if suffix == ".safetensors":
        return bad_file("does not begin with a safetensors header, or is cut short")
    if head[0] == 0x80 and len(head) > 1 and head[1] <= 5:
        return bad_file("is a plain pickle, not a file written by torch.save", _RESAVE)
    return bad_file(f"is not a PyTorch or safetensors file (it starts with {head[:8]!r})", _OTHER_FILE)


def _read_zip(file: BinaryIO, size: int) -> tuple[object, Callable[[str], bytes]]:
    """Reads a file of PyTorch 1.6 or later. Returns its root object, and a function key -> storage bytes."""
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise bad_file(f"is a zip archive cut short or damaged ({printable(error)})") from error
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if re.fullmatch("([^/]+/)?data[.]pkl", name)]
    if len(pickles) != 1:
        raise bad_file("is a zip archive, but not one written by torch.save", _OTHER_FILE)
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in entries or any(name.startswith(f"{prefix}code/") for name in entries):
        raise bad_file("is a TorchScript program, not a state dict", f"load it with torch.jit.load and {_RESAVE}")
    _check_entries(archive.infolist(), size)
    if entries[pickles[0]].file_size > inert_pickle.MAX_BYTES:
        raise bad_file(f"its pickle is larger than {inert_pickle.MAX_BYTES >> 20} MiB")
    order = entries.get(f"{prefix}byteorder")  # written since PyTorch 2.1
    if order and archive.read(order) != b"little":
        raise bad_file("was written on a big-endian machine", f"on a little-endian machine, {_RESAVE}")

    @functools.cache
    def storage_bytes(key: str) -> bytes:
        entry = entries.get(f"{prefix}data/{key}")
        if entry is None:
            raise bad_file(f"storage '{printable(key)}' is missing")
        return archive.read(entry)

    root, _ = inert_pickle.run(io.BytesIO(archive.read(pickles[0])))
    return root, storage_bytes


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """torch stores entries uncompressed, one after the other, so together they cannot exceed the file's size."""
    declared = sum(entry.file_size for entry in entries)
    if declared > size:
        raise bad_file(f"is a zip bomb or damaged: it declares {declared:,} bytes in a file of {size:,}")
    if len({entry.filename for entry in entries}) < len(entries):
        raise bad_file("is a zip archive with duplicate entry names")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise bad_file(f"its zip entry '{printable(entry.filename)}' is compressed or encrypted", _RESAVE)


def _read_legacy(stream: io.BytesIO) -> tuple[object, Callable[[str], bytes]]:
    """Reads a file from before 1.6; returns what ``_read_zip`` does.

    It holds five pickles (magic, version, system, object, storage keys), then each storage's length and bytes.
    """
    _magic, version, system = (inert_pickle.run(stream)[0] for _ in range(3))
    if version != _LEGACY_VERSION or not isinstance(system, dict):
        raise bad_file("its pre-1.6 header is malformed")
    if system.get("little_endian") is not True:
        raise bad_file("was written on a big-endian machine", f"on a little-endian machine, {_RESAVE}")
    root, storages = inert_pickle.run(stream)
    keys, _ = inert_pickle.run(stream)
    if not isinstance(keys, list) or any(type(key) is not str for key in keys) or set(keys) != set(storages):
        raise bad_file("its list of storages does not match its tensors")
    data = {}
    for key in keys:
        numel = int.from_bytes(stream.read(8), "little", signed=True)
        if storages[key].dtype not in _DTYPES:
            raise bad_file(f"has a storage of the unknown type {printable(storages[key].dtype)}", _RESAVE)
        length = numel * _DTYPES[storages[key].dtype].itemsize
        if not 0 <= length <= stream.getbuffer().nbytes - stream.tell():
            raise bad_file(f"is cut short in storage '{printable(key)}'")
        data[key] = stream.read(length)
    return root, data.__getitem__


class _Resolver:
    """Turns a pickle's records into arrays and lists where its placeholders are."""

    def __init__(self, storage_bytes: Callable[[str], bytes], byte_budget: int):
        self.storage_bytes = storage_bytes
        self.byte_budget = byte_budget  # an expanded tensor (stride 0) has more elements than the file has bytes
        self.tensors = 0
        self.placeholders: list[str] = []
        self.nodes_left = _MAX_NODES

    def resolve(self, node: Any, path: tuple[object, ...]) -> object:
        """Copies the tree without sharing, so that a later walk takes no more steps than were counted here."""
        self.nodes_left -= 1
        if self.nodes_left < 0:
            raise bad_file(f"its dictionaries and lists unfold to more than {_MAX_NODES:,} items")
        if len(path) > _MAX_DEPTH:
            raise bad_file(f"its dictionaries and lists are nested deeper than {_MAX_DEPTH}, or in themselves")
        match node:
            case dict():
                for key in node:
                    if isinstance(key, Placeholder):
                        self._placeholder(key.name, path)
                return {key: self.resolve(value, (*path, key)) for key, value in node.items()}
            case list() | tuple():
                return type(node)(self.resolve(value, (*path, i)) for i, value in enumerate(node))
            case Tensor():
                return self._array(node, path)
            case Global() if node.name.removeprefix("torch.") in _DTYPES:
                return node.name
            case Placeholder() | Global():
                return self._placeholder(node.name, path)
            case Storage():
                return self._placeholder(f"storage of {node.dtype}", path)
            case NumpyDtype():
                return self._placeholder("numpy.dtype", path)
            case _:  # None, a number, text or bytes
                return node

    def _placeholder(self, name: str, path: tuple[object, ...]) -> Placeholder:
        self.placeholders.append(f"{_place(path)}: {printable(name)}")
        return Placeholder(name)

    def _array(self, tensor: Tensor, path: tuple[object, ...]) -> object:
        """A view on the storage, created only if its last element lies inside."""
        storage = tensor.storage
        if not {tensor.dtype, storage.dtype} <= _DTYPES.keys():
            return self._placeholder(f"tensor of {tensor.dtype}", path)
        self.tensors += 1
        dtype, unit = _DTYPES[tensor.dtype], _DTYPES[storage.dtype].itemsize
        self.byte_budget -= math.prod(max(n, 1) for n in tensor.size) * dtype.itemsize
        if self.byte_budget < 0:
            raise bad_file(f"tensor '{_place(path)}' {tensor.size} is far larger than the file")
        if 0 in tensor.size:
            return np.zeros(tensor.size, dtype)
        data = self.storage_bytes(storage.key)
        if len(data) != storage.numel * unit:
            have, want = len(data), storage.numel * unit
            raise bad_file(f"storage '{printable(storage.key)}' has {have:,} bytes where {want:,} are declared")
        first, length = storage.view
        start = first * unit + tensor.offset * dtype.itemsize
        reach = sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True)) + 1
        if first + length > storage.numel or start + reach * dtype.itemsize > (first + length) * unit:
            raise bad_file(f"tensor '{_place(path)}' {tensor.size} reaches beyond its storage of {len(data):,} bytes")
        return np.ndarray(tensor.size, dtype, data, start, [step * dtype.itemsize for step in tensor.stride])


def _place(path: tuple[object, ...]) -> str:
    """The keys of a place in the tree, joined by dots, for messages."""
    return printable(".".join(printable(key, 60) for key in path), 200) or "root"


def _read_safetensors(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """Reads eight bytes of header length, a JSON header, then the tensors' bytes without gaps or overlaps."""
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, _MAX_SAFETENSORS_HEADER):
        raise bad_file("its safetensors header is longer than the file or 100 MB")
    try:
        header = json.loads(file.read(length), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise bad_file(f"its safetensors header is not JSON ({printable(error)})") from error
    header.pop("__metadata__", None)
    room = size - 8 - length
    places = {name: _safetensor(name, entry, room) for name, entry in header.items()}
    end = 0
    for _, _, begin, stop in sorted(places.values(), key=lambda place: place[2:]):
        if begin != end:
            raise bad_file("its tensors overlap or leave gaps")
        end = stop
    if end != room:
        raise bad_file(f"its tensors take {end:,} bytes but {room:,} follow the header")
    if not places:
        raise bad_file("holds no tensors", _GIVE_WEIGHTS)
    tensors = {}
    for name, (dtype, shape, begin, stop) in places.items():
        file.seek(8 + length + begin)
        tensors[name] = np.ndarray(shape, dtype, file.read(stop - begin))
    return tensors


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise bad_file("its safetensors header repeats a name")
    return result


def _safetensor(name: str, entry: Any, room: int) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """(type, shape, begin, end) from ``{"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}``."""
    match entry:
        case {"dtype": str(code), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise bad_file(f"tensor '{printable(name)}' has a malformed entry in the header")
    if code not in _SAFETENSORS_DTYPES:
        raise bad_file(f"tensor '{printable(name)}' has the unknown dtype {printable(code)}", _RESAVE)
    if len(shape) > 32 or any(type(n) is not int or not 0 <= n < 1 << 48 for n in shape):
        raise bad_file(f"tensor '{printable(name)}' has a malformed shape")
    dtype = _DTYPES[_SAFETENSORS_DTYPES[code]]
    if not 0 <= begin <= end <= room:
        raise bad_file(f"tensor '{printable(name)}' lies beyond the end of the file")
    if math.prod(shape) * dtype.itemsize != end - begin:
        raise bad_file(f"tensor '{printable(name)}' {tuple(shape)} does not fit its {end - begin:,} bytes")
    return dtype, tuple(shape), begin, end
