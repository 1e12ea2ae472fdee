"""Read a pickle without running anything in it.

A pickle is a program for a small stack machine, and two of its instructions are "import this name" and "call it".
This module is that machine with both taken out. The standard library only splits the bytes into instructions
(`pickletools.genops`); here a name becomes an inert `Global`, and "calling" one looks its *text* up in a table of
functions written below, or gives a `Placeholder`. Nothing is imported, no attribute is set and no method of an
object named by the file is called, because no such object ever exists.

Why not `pickle.Unpickler` with a strict `find_class`? It would still call whatever object is on the stack
(REDUCE, OBJ, NEWOBJ), look for `__setstate__`, `append`, `extend`, `add` on it and update its `__dict__` (BUILD, also that of an
allowed function), consult the process-wide extension registry (EXT1 to EXT4), and, in the C version, allocate a memo of 32 GiB for one
LONG_BINPUT. Its Python version, `pickle._Unpickler`, is private. Each hole can be closed; a machine without calls has none.
What remains is exhaustion: the number of instructions and of copied items is capped, dictionary keys are short
scalars (hashing a nest of shared tuples takes exponential time), and nothing here recurses.
"""

import dataclasses
import io
import pickletools
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

MAX_BYTES = 64 << 20  # of one pickle: a state dict of a thousand tensors takes about 0.1 MB
MAX_STEPS = 5_000_000  # instructions plus copied items: about 100 000 tensors

DAMAGED = "it is damaged or forged: download it again from its publisher"
_ATTACK = "this looks like an attack: delete the file, and do not open it with torch.load"
_LATIN = ("latin1", "latin-1", "iso-8859-1")

# No checkpoint needs these names. Finding one is no danger here, where nothing can be called; it is worth a warning
# because the same file opened by another program would run it.
_ATTACK_MODULES = frozenset(
    "asyncio bdb code codeop commands ctypes distutils idlelib importlib marshal multiprocessing nt os pdb pip pkgutil "
    "platform posix pty pydoc runpy shutil signal socket subprocess sys tempfile timeit urllib webbrowser".split()
)
_ATTACK_BUILTINS = frozenset("__import__ breakpoint compile delattr eval exec exit input open quit setattr".split())

_SAME_MODULE = {  # names from Python 2 and NumPy 2
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy._core.multiarray": "numpy.core.multiarray",
}


class FormatError(ValueError):
    """What is wrong with a file and what to do about it, in one line, without the file's name."""

    def __init__(self, what: str, cure: str = DAMAGED):
        super().__init__(f"{what}; {cure}")


def shown(text: object, limit: int = 80) -> str:
    """Text from a file made fit for a terminal: one line, printable characters only, at most `limit` of them."""
    line = "".join(c if c.isprintable() else "?" for c in str(text)[: limit + 1])
    return line if len(line) <= limit else line[: limit - 1] + "…"


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Placeholder:
    """Stands where the file had an object of a class that is not loaded; its contents are dropped."""

    name: str


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Global:
    """A class or function named by the file, as text: `torch.float32`, `collections.OrderedDict`."""

    name: str


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """A typed run of numbers elsewhere in the file. `view`, pre-1.6 files only, is (first element, elements)."""

    key: str
    dtype: str  # torch's name, e.g. `float32`; the class's full name where it is not known
    numel: int
    view: tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """A strided window on a storage; `offset` and `stride` count elements. Not checked against the storage yet."""

    storage: Storage
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclasses.dataclass(eq=False, slots=True)
class _NumpyDtype:
    code: str
    order: str = "<"


def run(stream: io.BytesIO) -> tuple[object, dict[str, Storage]]:
    """Interpret one pickle from `stream`, leaving the position behind it.

    Returns the root object, made of dict, list, tuple, str, bytes, numbers, None and the records above (sets become
    lists), and every storage that it names. Raises FormatError.
    """
    machine = _Machine()
    try:
        for opcode, arg, _ in pickletools.genops(stream):
            machine.step(opcode.name, arg)
    except FormatError:
        raise
    except (LookupError, ValueError, TypeError, OverflowError, MemoryError, DeprecationWarning) as error:
        # stack underflow, unknown opcode, short argument, bad escape: all say that the stream is no honest pickle
        raise FormatError(f"its pickle cannot be read ({shown(error)})") from error
    return machine.root, machine.storages


class _Machine:
    """The stack, the marks and the memo of the pickle language."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each open mark
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.root: object = None
        self.steps_left = MAX_STEPS

    def step(self, name: str, arg: Any) -> None:
        self.spend(1)
        if name in _LITERALS:
            self.stack.append(arg)
        elif name in _NEW:
            self.stack.append(_NEW[name]())
        elif name in _OPS:
            _OPS[name](self, arg)
        elif name not in ("PROTO", "FRAME"):
            raise FormatError(f"its pickle uses the instruction {name}, which no checkpoint needs")

    def spend(self, steps: int) -> None:
        self.steps_left -= steps
        if self.steps_left < 0:
            raise FormatError(f"its pickle takes more than {MAX_STEPS:,} steps")

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def mark(self, _: Any) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def stop(self, _: Any) -> None:
        self.root = self.stack.pop()

    def tuple_of(self, count: int) -> None:
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def extend(self, items: list[Any]) -> None:
        """APPEND, APPENDS, ADDITEMS: only a list of our own making grows."""
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, Placeholder):
            raise FormatError("its pickle appends to something that is not a list")

    def setitems(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is dict:
            target.update(_pairs(items))
        elif not isinstance(target, Placeholder):
            raise FormatError("its pickle sets items of something that is not a dictionary")

    def build(self, _: Any) -> None:
        """Give an object its state: kept for a NumPy dtype (byte order), else dropped.

        A dict here is an OrderedDict, whose state is torch's `_metadata` (module versions).
        """
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _NumpyDtype):
            if type(state) is tuple and len(state) > 1 and state[1] in ("<", ">", "|"):
                target.order = state[1]
        elif type(target) is not dict and not isinstance(target, Placeholder):
            raise FormatError("its pickle sets attributes of something that is not an object")

    def call(self, function: Any, args: Any) -> None:
        """What stands for a call: one of our own functions where the name is in the table, else a placeholder."""
        if isinstance(function, Global) and function.name in _CALLS and type(args) is tuple:
            self.stack.append(_CALLS[function.name](self, args))
        elif isinstance(function, Global | Placeholder):
            name = function.name
            if name.startswith("copyreg.") and type(args) is tuple and args and isinstance(args[0], Global):
                name = args[0].name  # copyreg._reconstructor(cls, …), copyreg.__newobj__(cls, …)
            self.stack.append(Placeholder(name))
        else:
            raise FormatError("its pickle calls something that is not a class or function")

    def reduce(self, _: Any) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self.call(function, args)

    def newobj_ex(self, _: Any) -> None:
        del self.stack[-1]  # keyword arguments: nothing in the table takes any
        self.reduce(None)

    def obj(self, _: Any) -> None:
        function, *args = self.pop_mark()
        self.call(function, tuple(args))

    def stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(_global(module, name))

    def inst(self, arg: str) -> None:
        args = tuple(self.pop_mark())
        self.call(_global(*arg.split(" ", 1)), args)

    def persistent(self, _: Any) -> None:
        """torch's reference to a storage (or, in old files, to the source code of a pickled module)."""
        ident = self.stack.pop()
        if type(ident) is tuple and len(ident) > 1 and ident[0] == "module" and isinstance(ident[1], Global):
            self.stack.append(ident[1])
            return
        storage = _storage(ident)
        first = self.storages.setdefault(storage.key, storage)
        if (first.dtype, first.numel) != (storage.dtype, storage.numel):
            raise FormatError(f"storage '{shown(storage.key)}' is declared with two types or sizes")
        self.stack.append(storage)


def _global(module: Any, name: Any) -> Global:
    if type(module) is not str or type(name) is not str:
        raise FormatError("its pickle names a class with something that is not text")
    module = _SAME_MODULE.get(module, module)
    full = f"{module}.{name}"
    owners = {module.split(".")[0], *name.split(".")[:-1]}
    if owners & _ATTACK_MODULES or (module == "builtins" and name in _ATTACK_BUILTINS):
        raise FormatError(f"it asks to run {shown(full)} (nothing was run)", _ATTACK)
    return Global(full)


def _index(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise FormatError("a tensor's size, stride or offset is not a sensible number")
    return value


def _storage(ident: Any) -> Storage:
    if type(ident) is not tuple or len(ident) not in (5, 6) or ident[0] != "storage":
        raise FormatError("its pickle refers to outside data in a way that torch does not")
    kind, key, _, numel = ident[1:5]
    if not isinstance(kind, Global) or type(key) is not str:
        raise FormatError("its pickle refers to outside data in a way that torch does not")
    view = ident[5] if len(ident) == 6 else None
    if view is None:
        view = (key, 0, numel)
    if type(view) is not tuple or len(view) != 3:
        raise FormatError("a storage's view is malformed")
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


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, dtype: str, metadata: Any) -> Tensor | Placeholder:
    if not isinstance(storage, Storage):
        raise FormatError("a tensor is built on something that is not a storage")
    if type(size) is not tuple or type(stride) is not tuple or len(size) != len(stride) or len(size) > 32:
        raise FormatError("a tensor's size and stride do not fit each other")
    if metadata:  # conjugate or negative bit set: the stored numbers are not the tensor's
        return Placeholder("torch.Tensor with a lazy conjugation or negation")
    return Tensor(storage, dtype, _index(offset), tuple(map(_index, size)), tuple(map(_index, stride)))


def _tensor_v2(_: _Machine, args: tuple[Any, ...]) -> Tensor | Placeholder:
    storage, offset, size, stride = args[:4]
    dtype = storage.dtype if isinstance(storage, Storage) else ""
    return _tensor(storage, offset, size, stride, dtype, args[6] if len(args) > 6 else None)


def _tensor_v3(_: _Machine, args: tuple[Any, ...]) -> Tensor | Placeholder:
    storage, offset, size, stride, _requires_grad, _hooks, dtype = args[:7]
    if not isinstance(dtype, Global):
        raise FormatError("a tensor's dtype is malformed")
    return _tensor(storage, offset, size, stride, dtype.name.removeprefix("torch."), args[7] if len(args) > 7 else None)


def _parameter(_: _Machine, args: tuple[Any, ...]) -> Tensor | Placeholder:
    if not isinstance(args[0], Tensor | Placeholder):
        raise FormatError("a parameter is built on something that is not a tensor")
    return args[0]


def _device(_: _Machine, args: tuple[Any, ...]) -> str | Placeholder:
    return args[0] if args and type(args[0]) is str else Placeholder("torch.device")


def _items(machine: _Machine, args: tuple[Any, ...]) -> list[Any]:
    """The items of a list or tuple given as the one argument, or of none."""
    items = args[0] if args else ()
    if type(items) not in (list, tuple):
        raise FormatError("a container is built on something that is not a list")
    machine.spend(len(items))
    return list(items)


def _dict(machine: _Machine, args: tuple[Any, ...]) -> dict[Any, Any]:
    if args and type(args[0]) is dict:
        machine.spend(len(args[0]))
        return dict(args[0])
    pairs = _items(machine, args)
    if any(type(pair) not in (list, tuple) or len(pair) != 2 for pair in pairs):
        raise FormatError("a dictionary is built on something that is not pairs")
    return {_key(key): value for key, value in pairs}


def _bytes(machine: _Machine, args: tuple[Any, ...]) -> bytes | Placeholder:
    """`_codecs.encode(text, "latin1")`, which is how protocol 2 writes bytes; `bytes()`; `bytearray(b"…")`."""
    text, encoding = (*args, "latin1")[:2] if args else ("", "latin1")
    if type(text) is str and encoding in _LATIN:
        text = text.encode("latin-1")
    if type(text) is not bytes:
        return Placeholder("bytes")
    machine.spend(len(text) // 64)  # so that copying one long text again and again ends
    return text


def _complex(_: _Machine, args: tuple[Any, ...]) -> complex:
    real, imaginary = args
    return float(real) + 1j * float(imaginary) if type(real) is type(imaginary) is float else complex("nan")


def _numpy_dtype(_: _Machine, args: tuple[Any, ...]) -> _NumpyDtype | Placeholder:
    code = args[0] if args else None
    if type(code) is str and re.fullmatch("b1|[iu][1248]|f[248]|c8|c16", code):
        return _NumpyDtype(code)
    return Placeholder("numpy.dtype")


def _numpy_scalar(machine: _Machine, args: tuple[Any, ...]) -> np.generic | Placeholder:
    """A NumPy number, e.g. a best score. Text and object scalars are not loaded."""
    if len(args) != 2 or not isinstance(args[0], _NumpyDtype):
        return Placeholder("numpy.generic")
    data = _bytes(machine, args[1:])
    dtype = np.dtype(args[0].order + args[0].code)
    if type(data) is not bytes or len(data) != dtype.itemsize:
        raise FormatError("a NumPy number has the wrong length")
    return np.frombuffer(data, dtype)[0]


_CALLS: dict[str, Callable[[_Machine, tuple[Any, ...]], object]] = {
    "torch._utils._rebuild_tensor": _tensor_v2,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": lambda machine, args: tuple(_items(machine, args)),
    "torch.device": _device,
    "collections.OrderedDict": _dict,
    "collections.Counter": _dict,
    "collections.defaultdict": lambda machine, args: {},  # the argument is the factory; items follow
    "builtins.set": _items,
    "builtins.frozenset": lambda machine, args: tuple(_items(machine, args)),
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.complex": _complex,
    "_codecs.encode": _bytes,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
}


def _key(value: Any) -> Any:
    """A dictionary key that hashes in constant time: a scalar or a short flat tuple; else a placeholder."""
    if _is_scalar(value) or (type(value) is tuple and len(value) <= 8 and all(map(_is_scalar, value))):
        return value
    name = value.name if isinstance(value, Global | Placeholder) else type(value).__name__
    return Placeholder(f"dictionary key {name}")


def _is_scalar(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < 1 << 60  # beyond, different numbers share a hash and a dictionary degenerates
    return value is None or isinstance(value, np.generic) or type(value) in (str, bytes, bool, float)


def _pairs(items: list[Any]) -> Iterable[tuple[Any, Any]]:
    return ((_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))


_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 FLOAT BINFLOAT".split()
)
_NEW: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
_OPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": lambda m, _: m.pop_mark() and None,
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "STOP": _Machine.stop,
    "TUPLE": lambda m, _: m.stack_items(tuple),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
}
