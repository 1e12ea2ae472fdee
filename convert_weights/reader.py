"""Read `.pth`, `.pt` and `.safetensors` files without PyTorch and without trusting them.

Three containers, told apart by their first bytes and not by their names: the zip archive that `torch.save` has
written since 1.6, the stream of pickles that it wrote before, and safetensors. Nothing in a file is run
(`inert_pickle`), nothing is written, and no size that a file states is believed before it is held against the number
of bytes that are there.
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
from convert_weights.safe_globals import DAMAGED, FormatError, Global, NumpyDtype, Placeholder, Storage, Tensor, shown

_RESAVE = "save its state_dict again with torch.save (PyTorch 1.6 or newer)"
_OTHER_FILE = "give the .pth, .pt or .safetensors file itself"
_MAX_DEPTH = 100  # of dictionaries and lists in each other
_MAX_NODES = 1_000_000  # of the tree; what placeholders held is not in it
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

# First bytes of what people have on disk under a checkpoint's name, what it is, and the cure.
_NOT_CHECKPOINTS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights", "run `git lfs pull`, or download the file"),
    (b"<", "is a web page, not the weights", "the download got an error or login page: download it again in a browser"),
    (b"\x1f\x8b", "is compressed with gzip", "unpack it first with gunzip or tar"),
    (b"\x93NUMPY", "is a NumPy array, not a checkpoint", _OTHER_FILE),
    (b"\x89HDF", "is an HDF5 file, not a PyTorch checkpoint", _OTHER_FILE),
)


class CheckpointError(ValueError):
    """One line: the file, what is wrong with it, and the cure."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    tree: dict, list and tuple of None, bool, numbers, str, bytes, np.ndarray (read-only; tensors that share a storage
        share memory) and Placeholder. Sets are lists, subclasses of dict are dict, a torch dtype or device is its name.
    sha256: of the whole file, in hex.
    placeholders: `where: class` for each object that was not loaded.
    """

    tree: Any
    sha256: str
    placeholders: tuple[str, ...]


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint. Nothing in it is run. Raises CheckpointError for every file that cannot be read safely."""
    path = pathlib.Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise FormatError("is a folder" if path.is_dir() else "is not a regular file", _OTHER_FILE)
        with path.open("rb") as file:
            tree, placeholders = _parse(file, os.fstat(file.fileno()).st_size, path.suffix)
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except FormatError as error:
        raise _error(path, str(error)) from error
    except OSError as error:
        cure = "check the path" if isinstance(error, FileNotFoundError) else "check the file and its permissions"
        raise _error(path, f"{error.strerror or error}; {cure}") from error
    except (zipfile.BadZipFile, ArithmeticError, EOFError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # what zipfile and NumPy say of input that no check here foresaw
        raise _error(path, f"cannot be read ({shown(error)}); {DAMAGED}") from error
    return Checkpoint(tree, sha256, placeholders)


def _error(path: pathlib.Path, text: str) -> CheckpointError:
    return CheckpointError(f"{shown(path, 300)}: {shown(text, 400)}")


def find_nonfinite(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity."""
    return [name for name, x in tensors.items() if x.dtype.kind not in "biu" and not np.isfinite(x).all()]


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
        raise FormatError(f"holds no tensors ({what})", "give a file that holds the model's state_dict")
    return tree, tuple(resolver.placeholders)


def _not_a_checkpoint(head: bytes, suffix: str) -> FormatError:
    """The message for a file that is neither a zip archive, a pre-1.6 file nor safetensors."""
    if not head:
        return FormatError("is empty", "download it again from its publisher")
    for magic, what, cure in _NOT_CHECKPOINTS:
        if head.lstrip().startswith(magic):
            return FormatError(what, cure)
    if head[257:262] == b"ustar":
        return FormatError("is a tar archive, or was saved by PyTorch 0.1", f"unpack it, or {_RESAVE}")
    if suffix == ".safetensors":
        return FormatError("does not begin with a safetensors header, or is cut short")
    if head[0] == 0x80 and len(head) > 1 and head[1] <= 5:
        return FormatError("is a plain pickle, not a file written by torch.save", _RESAVE)
    return FormatError(f"is no PyTorch or safetensors file (it starts with {head[:8]!r})", _OTHER_FILE)


def _read_zip(file: BinaryIO, size: int) -> tuple[object, Callable[[str], bytes]]:
    """PyTorch 1.6 and later: the root object, with records in it, and a function from storage key to bytes."""
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise FormatError(f"is a zip archive cut short or damaged ({shown(error)})") from error
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if re.fullmatch("([^/]+/)?data[.]pkl", name)]
    if len(pickles) != 1:
        raise FormatError("is a zip archive, but not one written by torch.save", _OTHER_FILE)
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in entries or any(name.startswith(f"{prefix}code/") for name in entries):
        raise FormatError("is a TorchScript program, not a state dict", f"load it with torch.jit.load and {_RESAVE}")
    _check_entries(archive.infolist(), size)
    if entries[pickles[0]].file_size > inert_pickle.MAX_BYTES:
        raise FormatError(f"its pickle is larger than {inert_pickle.MAX_BYTES >> 20} MiB")
    order = entries.get(f"{prefix}byteorder")  # written since 2.1; before, only little-endian machines mattered
    if order and archive.read(order) != b"little":
        raise FormatError("was written on a big-endian machine", f"on a little-endian machine, {_RESAVE}")

    @functools.cache
    def storage_bytes(key: str) -> bytes:
        entry = entries.get(f"{prefix}data/{key}")
        if entry is None:
            raise FormatError(f"storage '{shown(key)}' is missing")
        return archive.read(entry)

    root, _ = inert_pickle.run(io.BytesIO(archive.read(pickles[0])))
    return root, storage_bytes


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """torch stores its entries as they are, one behind the other: what is declared cannot exceed the file."""
    declared = sum(entry.file_size for entry in entries)
    if declared > size:
        raise FormatError(f"is a zip bomb or damaged: it declares {declared:,} bytes in a file of {size:,}")
    if len({entry.filename for entry in entries}) < len(entries):
        raise FormatError("is a zip archive with two entries of one name")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise FormatError(f"its zip entry '{shown(entry.filename)}' is compressed or encrypted", _RESAVE)


def _read_legacy(stream: io.BytesIO) -> tuple[object, Callable[[str], bytes]]:
    """Before 1.6: five pickles (magic, version, system, object, storage keys), then each storage's length and bytes."""
    _magic, version, system = (inert_pickle.run(stream)[0] for _ in range(3))
    if version != _LEGACY_VERSION or not isinstance(system, dict):
        raise FormatError("its pre-1.6 header is malformed")
    if system.get("little_endian") is not True:
        raise FormatError("was written on a big-endian machine", f"on a little-endian machine, {_RESAVE}")
    root, storages = inert_pickle.run(stream)
    keys, _ = inert_pickle.run(stream)
    if not isinstance(keys, list) or any(type(key) is not str for key in keys) or set(keys) != set(storages):
        raise FormatError("its list of storages does not match its tensors")
    data = {}
    for key in keys:
        numel = int.from_bytes(stream.read(8), "little", signed=True)
        if storages[key].dtype not in _DTYPES:
            raise FormatError(f"holds a {shown(storages[key].dtype)}, whose size is not known here", _RESAVE)
        length = numel * _DTYPES[storages[key].dtype].itemsize
        if not 0 <= length <= stream.getbuffer().nbytes - stream.tell():
            raise FormatError(f"is cut short in storage '{shown(key)}'")
        data[key] = stream.read(length)
    return root, data.__getitem__


class _Resolver:
    """Turns the records of a pickle into arrays and lists the placeholders with their places."""

    def __init__(self, storage_bytes: Callable[[str], bytes], byte_budget: int):
        self.storage_bytes = storage_bytes
        self.byte_budget = byte_budget  # an expanded tensor (stride 0) names more elements than the file has bytes
        self.tensors = 0
        self.placeholders: list[str] = []
        self.nodes_left = _MAX_NODES

    def resolve(self, node: Any, path: tuple[object, ...]) -> object:
        """Copies the tree without sharing, so that a walk over the result takes as many steps as were counted here."""
        self.nodes_left -= 1
        if self.nodes_left < 0:
            raise FormatError(f"its dictionaries and lists unfold to more than {_MAX_NODES:,} items")
        if len(path) > _MAX_DEPTH:
            raise FormatError(f"its dictionaries and lists are nested deeper than {_MAX_DEPTH}, or in themselves")
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
        self.placeholders.append(f"{_place(path)}: {shown(name)}")
        return Placeholder(name)

    def _array(self, tensor: Tensor, path: tuple[object, ...]) -> object:
        """A view on the storage, made only after its last element is known to lie inside."""
        storage = tensor.storage
        if not {tensor.dtype, storage.dtype} <= _DTYPES.keys():
            return self._placeholder(f"tensor of {tensor.dtype}", path)
        self.tensors += 1
        dtype, unit = _DTYPES[tensor.dtype], _DTYPES[storage.dtype].itemsize
        self.byte_budget -= math.prod(max(n, 1) for n in tensor.size) * dtype.itemsize
        if self.byte_budget < 0:
            raise FormatError(f"tensor '{_place(path)}' {tensor.size} is far larger than the file")
        if 0 in tensor.size:
            return np.zeros(tensor.size, dtype)
        data = self.storage_bytes(storage.key)
        if len(data) != storage.numel * unit:
            have, want = len(data), storage.numel * unit
            raise FormatError(f"storage '{shown(storage.key)}' has {have:,} bytes where {want:,} are declared")
        first, length = storage.view
        start = first * unit + tensor.offset * dtype.itemsize
        reach = sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True)) + 1
        if first + length > storage.numel or start + reach * dtype.itemsize > (first + length) * unit:
            raise FormatError(
                f"tensor '{_place(path)}' {tensor.size} reaches beyond its storage of {len(data):,} bytes"
            )
        return np.ndarray(tensor.size, dtype, data, start, [step * dtype.itemsize for step in tensor.stride])


def _place(path: tuple[object, ...]) -> str:
    """Where in the tree, for a message: the keys joined by dots."""
    return shown(".".join(shown(key, 60) for key in path), 200) or "root"


def _read_safetensors(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """Eight bytes of header length, a JSON header, then the tensors' bytes without gaps or overlaps."""
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, _MAX_SAFETENSORS_HEADER):
        raise FormatError("its safetensors header is longer than the file or 100 MB")
    try:
        header = json.loads(file.read(length), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"its safetensors header is not JSON ({shown(error)})") from error
    header.pop("__metadata__", None)
    room = size - 8 - length
    places = {name: _safetensor(name, entry, room) for name, entry in header.items()}
    end = 0
    for _, _, begin, stop in sorted(places.values(), key=lambda place: place[2:]):
        if begin != end:
            raise FormatError("its tensors overlap or leave gaps")
        end = stop
    if end != room:
        raise FormatError(f"its tensors take {end:,} bytes but {room:,} follow the header")
    if not places:
        raise FormatError("holds no tensors", "give a file that holds the model's state_dict")
    tensors = {}
    for name, (dtype, shape, begin, stop) in places.items():
        file.seek(8 + length + begin)
        tensors[name] = np.ndarray(shape, dtype, file.read(stop - begin))
    return tensors


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise FormatError("its safetensors header has one name twice")
    return result


def _safetensor(name: str, entry: Any, room: int) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Type, shape, begin, end of a tensor, from `{"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}`."""
    match entry:
        case {"dtype": str(code), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise FormatError(f"tensor '{shown(name)}' is described wrongly in its header")
    if code not in _SAFETENSORS_DTYPES:
        raise FormatError(f"tensor '{shown(name)}' has dtype {shown(code)}, which is not known here", _RESAVE)
    if len(shape) > 32 or any(type(n) is not int or not 0 <= n < 1 << 48 for n in shape):
        raise FormatError(f"tensor '{shown(name)}' has a malformed shape")
    dtype = _DTYPES[_SAFETENSORS_DTYPES[code]]
    if not 0 <= begin <= end <= room:
        raise FormatError(f"tensor '{shown(name)}' lies beyond the end of the file")
    if math.prod(shape) * dtype.itemsize != end - begin:
        raise FormatError(f"tensor '{shown(name)}' {tuple(shape)} does not fit its {end - begin:,} bytes")
    return dtype, tuple(shape), begin, end
