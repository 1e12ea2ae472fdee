"""Reads a pickle without running anything in it.

A pickle is a program for a small stack machine, and two of its instructions are "import this name" and "call it".
This module is that machine without these two. The standard library only splits the bytes into instructions
(``pickletools.genops``). A name becomes an inert ``Global``, and "calling" it looks up its *text* in the table of
``safe_globals``, or leaves a ``Placeholder``. Nothing is imported, no attribute is set, and no method of an object
named by the file is called, because no such object ever exists.

Why not ``pickle.Unpickler`` with a strict ``find_class``? It would still call whatever object is on the stack (REDUCE,
OBJ, NEWOBJ), look for ``__setstate__``, ``append``, ``extend`` and ``add`` on it, update its ``__dict__`` (BUILD, even
that of an allowed function), consult the process-wide extension registry (EXT1 to EXT4), and, in the C version,
allocate a memo of 32 GiB for one LONG_BINPUT. The Python version, ``pickle._Unpickler``, is private. Each hole can be
closed, but a machine without calls has none. That leaves exhaustion: the number of instructions and copied items is
capped, dictionary keys are short scalars (hashing a nest of shared tuples takes exponential time), and nothing here
recurses.
"""

import io
import pickletools
from typing import Any

from convert_weights.safe_globals import (
    SAFE_CALLS,
    Global,
    NumpyDtype,
    Placeholder,
    Storage,
    bad_file,
    global_named,
    pairs,
    printable,
    storage_from,
)

MAX_BYTES = 64 << 20  # size of the pickle in a zip archive; one for a thousand tensors takes about 0.1 MB
MAX_STEPS = 5_000_000  # instructions plus copied items; enough for about 100,000 tensors

_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def run(stream: io.BytesIO) -> tuple[object, dict[str, Storage]]:
    """Interprets one pickle from ``stream`` and leaves the stream positioned after it.

    Returns:
      The root object, built from dict, list, tuple, str, bytes, numbers, None and the records of ``safe_globals`` (sets
      become lists); and every storage it names, by key.

    Raises:
      UserError: the stream is not a pickle of plain data, or it asks for something that only an attack needs.
    """
    machine = _Machine()
    try:
        for opcode, arg, _ in pickletools.genops(stream):
            machine.step(opcode.name, arg)
    except (LookupError, ValueError, TypeError, OverflowError, MemoryError, DeprecationWarning) as error:
        # Stack underflow, unknown opcode, short argument, bad escape: no honest pickle has these.
        raise bad_file(f"its pickle cannot be read ({printable(error)})") from error
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
        """Executes one instruction. Every instruction with an effect is listed here."""
        self.spend(1)
        stack = self.stack
        match name:
            case _ if name in _LITERALS:
                stack.append(arg)
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self.memo[arg])
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[arg] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BYTEARRAY8":
                stack.append(bytes(arg))
            case _ if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case "EMPTY_LIST" | "EMPTY_SET":  # a set would hash its items: see safe_globals._key
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "MARK":
                self.outer.append(stack)
                self.stack = []
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                last_first = [stack.pop() for _ in range(int(name[-1]))]
                stack.append(tuple(reversed(last_first)))
            case "TUPLE" | "FROZENSET":
                self.push(tuple(self.pop_mark()))
            case "LIST":
                self.push(self.pop_mark())
            case "DICT":
                self.push(pairs(self.pop_mark()))
            case "APPEND":
                self.append([stack.pop()])
            case "APPENDS" | "ADDITEMS":
                self.append(self.pop_mark())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self.set_items([key, value])
            case "SETITEMS":
                self.set_items(self.pop_mark())
            case "GLOBAL":
                stack.append(global_named(*arg.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(global_named(module, attribute))
            case "BINPERSID":
                self.persistent(stack.pop())
            case "REDUCE" | "NEWOBJ":
                args, function = stack.pop(), stack.pop()
                self.call(function, args)
            case "NEWOBJ_EX":
                _keywords, args, function = stack.pop(), stack.pop(), stack.pop()
                self.call(function, args)
            case "INST":
                items = self.pop_mark()
                self.call(global_named(*arg.split(" ", 1)), tuple(items))
            case "OBJ":
                function, *items = self.pop_mark()
                self.call(function, tuple(items))
            case "EXT1" | "EXT2" | "EXT4":  # an index into a process-wide table of classes, never looked up
                stack.append(Global(f"copyreg.extension_{arg}"))
            case "BUILD":
                self.build(stack.pop())
            case "POP" if stack:
                stack.pop()
            case "POP" | "POP_MARK":
                self.pop_mark()
            case "DUP":
                stack.append(stack[-1])
            case "STOP":
                self.root = stack.pop()
            case "PROTO" | "FRAME":
                pass
            case _:
                raise bad_file(f"its pickle uses the instruction {name}, which no checkpoint needs")

    def spend(self, steps: int) -> None:
        self.steps_left -= steps
        if self.steps_left < 0:
            raise bad_file(f"its pickle takes more than {MAX_STEPS:,} steps")

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def append(self, items: list[Any]) -> None:
        """Extends a list. Other targets are not lists of ours: an error, or dropped with their placeholder."""
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, Placeholder):
            raise bad_file("its pickle appends to something that is not a list")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is dict:
            target.update(pairs(items))
        elif not isinstance(target, Placeholder):
            raise bad_file("its pickle sets items of something that is not a dictionary")

    def build(self, state: Any) -> None:
        """Gives an object its state: the byte order of a NumPy dtype is kept, anything else is dropped.

        A dict here is an OrderedDict, whose state is torch's ``_metadata`` (module versions).
        """
        target = self.stack[-1]
        if isinstance(target, NumpyDtype):
            if type(state) is tuple and len(state) > 1 and type(state[1]) is str and state[1] in ("<", ">", "|"):
                target.order = state[1]
        elif type(target) is not dict and not isinstance(target, Placeholder):
            raise bad_file("its pickle sets attributes of something that is not an object")

    def call(self, function: Any, args: Any) -> None:
        """Stands in for a call: runs our own function if the name is in the table, else pushes a placeholder."""
        if not isinstance(function, Global | Placeholder):
            raise bad_file("its pickle calls something that is not a class or function")
        if isinstance(function, Global) and function.name in SAFE_CALLS and type(args) is tuple:
            self.spend(sum(map(_cost, (args, *args))))
            self.push(SAFE_CALLS[function.name](args))
            return
        name = function.name
        if name.startswith("copyreg.") and type(args) is tuple and args and isinstance(args[0], Global):
            name = args[0].name  # copyreg._reconstructor(cls, …), copyreg.__newobj__(cls, …)
        self.push(Placeholder(name))

    def persistent(self, ident: Any) -> None:
        """Resolves torch's reference to a storage or, in old files, to a pickled module's class and source code."""
        if type(ident) is tuple and len(ident) > 1 and ident[0] == "module" and isinstance(ident[1], Global):
            self.push(ident[1])
            return
        storage = storage_from(ident)
        first = self.storages.setdefault(storage.key, storage)
        if (first.dtype, first.numel) != (storage.dtype, storage.numel):
            raise bad_file(f"storage '{printable(storage.key)}' is declared with two types or sizes")
        self.push(storage)


def _cost(argument: Any) -> int:
    """Steps charged for copying an argument, so that copying one long list over and over hits the limit."""
    if type(argument) in (list, tuple, dict):
        return len(argument)
    return len(argument) // 64 if type(argument) in (str, bytes) else 0
