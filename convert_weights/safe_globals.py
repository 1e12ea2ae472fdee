"""Inert stand-ins for what a pickle names: plain records, and a table of functions that replace its calls.

A file names classes and functions. Here a name is only looked up as text in ``SAFE_CALLS``; a name that is not there
becomes a ``Placeholder``. Every function below takes the arguments in the file, checks their exact types, and returns
plain data. None calls a method of a value whose type it has not checked.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tramp_jax.errors import UserError

DAMAGED = "download it again from its publisher"
_ATTACK = "this is an attack: delete the file and do not open it with torch.load"
_LATIN = ("latin1", "latin-1", "iso-8859-1")

# No checkpoint needs these. They are harmless here, where nothing is called, but another program that opens the same
# file would run them: hence the error.
_ATTACK_MODULES = {
    "ctypes", "importlib", "marshal", "nt", "os", "posix", "pty", "runpy", "shutil", "socket", "subprocess", "sys",
}  # fmt: skip
_ATTACK_BUILTINS = {"__import__", "breakpoint", "compile", "eval", "exec", "open"}

_SAME_MODULE = {  # names in Python 2 and NumPy 2
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy._core.multiarray": "numpy.core.multiarray",
}


def bad_file(what: str, cure: str = DAMAGED) -> UserError:
    """The error for a file that cannot be read. The caller adds the file's name."""
    return UserError("damaged_file" if cure == DAMAGED else "unsupported_file", f"{what}; {cure}")


def printable(text: object, limit: int = 80) -> str:
    """Text from a file, safe for a terminal: one line, printable characters only, at most ``limit`` of them."""
    line = "".join(c if c.isprintable() else "?" for c in str(text)[: limit + 1])
    return line if len(line) <= limit else line[: limit - 1] + "…"


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Placeholder:
    """An object of a class that is not loaded. Its contents are dropped."""

    name: str


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Global:
    """A class or function that the file names, as text: ``torch.float32``, ``collections.OrderedDict``."""

    name: str


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """A typed run of numbers elsewhere in the file. Files before 1.6 share runs: ``view`` is (first element, count)."""

    key: str
    dtype: str  # torch's name, e.g. ``float32``, or the full name of an unknown class
    numel: int
    view: tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """A strided window on a storage, not yet checked against it. ``offset`` and ``stride`` count elements."""

    storage: Storage
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclasses.dataclass(eq=False, slots=True)
class NumpyDtype:
    """A NumPy type: its code and byte order."""

    code: str
    order: str = "<"


def global_named(module: Any, name: Any) -> Global:
    """The stand-in for a class or function. Raises UserError for one that only an attack needs."""
    if type(module) is not str or type(name) is not str:
        raise bad_file("its pickle names a class with something that is not text")
    module = _SAME_MODULE.get(module, module)
    full = f"{module}.{name}"
    owners = {module.split(".")[0], *name.split(".")[:-1]}
    if owners & _ATTACK_MODULES or (module == "builtins" and name in _ATTACK_BUILTINS):
        raise UserError("unsafe_file", f"it asks to run {printable(full)} (nothing was run); {_ATTACK}")
    return Global(full)


def _index(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise bad_file("a tensor's size, stride or offset is not a sensible number")
    return value


def storage_from(ident: Any) -> Storage:
    """The storage that torch's tuple ("storage", class, key, device, elements[, view]) refers to."""
    if type(ident) is not tuple or len(ident) not in (5, 6) or ident[0] != "storage":
        raise bad_file("its pickle refers to outside data in a way that torch does not")
    kind, key, _, numel = ident[1:5]
    if not isinstance(kind, Global) or type(key) is not str:
        raise bad_file("its pickle refers to outside data in a way that torch does not")
    view = ident[5] if len(ident) == 6 else None
    if view is None:
        view = (key, 0, numel)
    if type(view) is not tuple or len(view) != 3:
        raise bad_file("a storage's view is malformed")
    return Storage(key, _STORAGES.get(kind.name, kind.name), _index(numel), (_index(view[1]), _index(view[2])))


_STORAGES = {
    f"{module}.{name}Storage": dtype
    for module in ("torch", "torch.cuda", "torch.storage")
    for name, dtype in {
        "BFloat16": "bfloat16", "Bool": "bool", "Byte": "uint8", "Char": "int8", "ComplexDouble": "complex128",
        "ComplexFloat": "complex64", "Double": "float64", "Float": "float32", "Half": "float16", "Int": "int32",
        "Long": "int64", "Short": "int16", "Untyped": "uint8",
    }.items()
}  # fmt: skip


def _tensor(args: tuple[Any, ...], dtype: str, metadata: tuple[Any, ...]) -> Tensor | Placeholder:
    storage, offset, size, stride = args[:4]
    if not isinstance(storage, Storage):
        raise bad_file("a tensor is built on something that is not a storage")
    if type(size) is not tuple or type(stride) is not tuple or len(size) != len(stride) or len(size) > 32:
        raise bad_file("a tensor's size and stride do not fit each other")
    if any(metadata):  # conjugate or negative bit set: the stored numbers are not the tensor's
        return Placeholder("torch.Tensor with a lazy conjugation or negation")
    return Tensor(storage, dtype, _index(offset), tuple(map(_index, size)), tuple(map(_index, stride)))


def _tensor_v2(args: tuple[Any, ...]) -> Tensor | Placeholder:
    return _tensor(args, args[0].dtype if isinstance(args[0], Storage) else "", args[6:7])


def _tensor_v3(args: tuple[Any, ...]) -> Tensor | Placeholder:
    if not isinstance(args[6], Global):
        raise bad_file("a tensor's dtype is malformed")
    return _tensor(args, args[6].name.removeprefix("torch."), args[7:8])


def _parameter(args: tuple[Any, ...]) -> Tensor | Placeholder:
    if not isinstance(args[0], Tensor | Placeholder):
        raise bad_file("a parameter is built on something that is not a tensor")
    return args[0]


def _device(args: tuple[Any, ...]) -> str | Placeholder:
    return args[0] if args and type(args[0]) is str else Placeholder("torch.device")


def _items(args: tuple[Any, ...]) -> list[Any]:
    """The items of the only argument, a list or tuple; none if there is no argument."""
    items = args[0] if args else ()
    if type(items) not in (list, tuple):
        raise bad_file("a container is built on something that is not a list")
    return list(items)


def _dict(args: tuple[Any, ...]) -> dict[Any, Any]:
    if args and type(args[0]) is dict:
        return dict(args[0])
    pairs = _items(args)
    if any(type(pair) not in (list, tuple) or len(pair) != 2 for pair in pairs):
        raise bad_file("a dictionary is built on something that is not pairs")
    return {_key(key): value for key, value in pairs}


def _bytes(args: tuple[Any, ...]) -> bytes | Placeholder:
    """``_codecs.encode(text, "latin1")``, as protocol 2 writes bytes; also ``bytes()`` and ``bytearray(b"…")``."""
    text = args[0] if args else ""
    encoding = args[1] if len(args) > 1 else "latin1"
    if type(text) is str and encoding in _LATIN:
        text = text.encode("latin-1")
    if type(text) is not bytes:
        return Placeholder("bytes")
    return text


def _complex(args: tuple[Any, ...]) -> complex | Placeholder:
    real, imaginary = args
    return complex(real, imaginary) if type(real) is type(imaginary) is float else Placeholder("builtins.complex")


def _numpy_dtype(args: tuple[Any, ...]) -> NumpyDtype | Placeholder:
    code = args[0] if args else None
    if type(code) is str and re.fullmatch("b1|[iu][1248]|f[248]|c8|c16", code):
        return NumpyDtype(code)
    return Placeholder("numpy.dtype")


def _numpy_scalar(args: tuple[Any, ...]) -> np.generic | Placeholder:
    """A NumPy number, e.g. a best score. Text and object scalars are not loaded."""
    if len(args) != 2 or not isinstance(args[0], NumpyDtype):
        return Placeholder("numpy.generic")
    data = _bytes(args[1:])
    dtype = np.dtype(args[0].order + args[0].code)
    if type(data) is not bytes or len(data) != dtype.itemsize:
        raise bad_file("a NumPy number has the wrong length")
    return np.frombuffer(data, dtype)[0]


SAFE_CALLS: dict[str, Callable[[tuple[Any, ...]], object]] = {
    "torch._utils._rebuild_tensor": _tensor_v2,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": lambda args: tuple(_items(args)),
    "torch.device": _device,
    "collections.OrderedDict": _dict,
    "collections.Counter": _dict,
    "collections.defaultdict": lambda args: {},  # the argument is the factory; items follow
    "builtins.set": _items,
    "builtins.frozenset": lambda args: tuple(_items(args)),
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.complex": _complex,
    "_codecs.encode": _bytes,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
}


def _key(value: Any) -> Any:
    """A key that hashes in constant time: a scalar or a short flat tuple. Any other key becomes a placeholder."""
    if _is_scalar(value) or (type(value) is tuple and len(value) <= 8 and all(map(_is_scalar, value))):
        return value
    name = value.name if isinstance(value, Global | Placeholder) else type(value).__name__
    return Placeholder(f"dictionary key {name}")


def _is_scalar(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < 1 << 60  # larger numbers can share a hash, which makes a dictionary slow
    return value is None or isinstance(value, np.generic) or type(value) in (str, bytes, bool, float)


def pairs(items: list[Any]) -> dict[Any, Any]:
    """A dictionary from alternating keys and values."""
    return {_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}
