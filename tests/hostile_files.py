"""Checkpoint files assembled by hand, byte by byte, without PyTorch: well-formed ones and a table of hostile ones.

``python -m tests.hostile_files`` writes each hostile file, reads it, and prints the table of docs/weights.md.
"""

import dataclasses
import io
import json
import os
import pathlib
import pickle
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable

from convert_weights import reader
from tramp_jax.errors import UserError

MAGIC = 0x1950A86A20F9469CFC6C
EXTENSION_CODE = 32749  # a test registers Armed under it
FIRED: list[str] = []  # the methods of Armed that ran


class Armed:
    """An importable class that leaves a trace whenever any of its methods runs."""

    def __init__(self, *args):
        FIRED.append("__init__")

    def __setstate__(self, state):
        FIRED.append("__setstate__")

    def append(self, item):
        FIRED.append("append")

    def extend(self, items):
        FIRED.append("extend")

    def add(self, item):
        FIRED.append("add")

    def __setitem__(self, key, value):
        FIRED.append("__setitem__")


# --- an assembler for pickles ----------------------------------------------------------------------------------------


def plain(value) -> bytes:
    """Instructions that push plain data."""
    return pickle.dumps(value, 2)[2:-1]


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def call(function: bytes, *args: bytes) -> bytes:
    return function + b"(" + b"".join(args) + b"tR"


def mapping(items: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(plain(key) + value for key, value in items.items()) + b"u"


def program(body: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + body + b"."


def storage(key: str = "0", numel: int = 6, kind: str = "FloatStorage", tail: bytes = b"") -> bytes:
    return b"(" + plain("storage") + named("torch", kind) + plain(key) + plain("cpu") + plain(numel) + tail + b"tQ"


def tensor(source: bytes, size=(2, 3), stride=(3, 1), offset=0) -> bytes:
    hooks = call(named("collections", "OrderedDict"))
    rest = (plain(offset), plain(size), plain(stride), plain(False), hooks)
    return call(named("torch._utils", "_rebuild_tensor_v2"), source, *rest)


NUMBERS = struct.pack("<6f", 0, 1, 2, 3, 4, 5)
WEIGHT = tensor(storage())


# --- containers ------------------------------------------------------------------------------------------------------


def zip_file(
    body: bytes = b"",
    storages: dict[str, bytes] | None = None,
    extra=(),
    compression=zipfile.ZIP_STORED,
    order=b"little",
) -> bytes:
    """A ``torch.save`` archive around a pickle body, by default one good weight."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program(body or mapping({"w": WEIGHT})))
        archive.writestr("archive/byteorder", order)
        for key, data in ({"0": NUMBERS} if storages is None else storages).items():
            archive.writestr(f"archive/data/{key}", data)
        for name, data in extra:
            archive.writestr(name, data)
    return buffer.getvalue()


def legacy_file(body: bytes, storages: dict[str, bytes], numel=6, little=True, version=1001) -> bytes:
    """What ``torch.save`` wrote before version 1.6."""
    header = (MAGIC, version, {"protocol_version": 1001, "little_endian": little, "type_sizes": {"int": 4}})
    pickles = [*(pickle.dumps(part, 2) for part in header), program(body), pickle.dumps(list(storages), 2)]
    return b"".join(pickles) + b"".join(struct.pack("<q", numel) + data for data in storages.values())


def safetensors_file(header: object, data: bytes = NUMBERS) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2, 3), begin=0, end=24) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


# --- the table -------------------------------------------------------------------------------------------------------

Error = tuple[str, str]


def unsafe(fact: str) -> Error:
    return "unsafe_file", fact


def damaged(fact: str) -> Error:
    return "damaged_file", fact


def unsupported(fact: str) -> Error:
    return "unsupported_file", fact


@dataclasses.dataclass(frozen=True)
class Hostile:
    """A file, the kind of its error and a fact in it; for an attack, the pickle that does harm in ``pickle.loads``."""

    name: str
    what: str
    error: Error
    content: Callable[[str], bytes]  # given the path that the attack would write
    attack: Callable[[str], bytes] | None = None


def _touch(canary: str) -> bytes:
    return plain(f"touch {canary}")


def _attack(name: str, what: str, error: Error, body: Callable[[str], bytes], wrap=None) -> Hostile:
    """An attack as a whole zip file, or inside the file that ``wrap`` makes from it."""
    return Hostile(name, what, error, lambda c: (wrap or zip_file)(body(c)), lambda c: program(body(c), 4))


def _system(canary: str) -> bytes:
    return call(named("os", "system"), _touch(canary))


def _open_code(canary: str) -> bytes:
    return plain(f"open({canary!r}, 'w').close()")


def _through_getattr(canary: str) -> bytes:
    """getattr(posixpath.os, "system")("touch …"): neither name is suspicious by itself."""
    inner = call(named("builtins", "getattr"), named("posixpath", "os"), plain("system"))
    return call(inner, _touch(canary))


ARMED = named("tests.hostile_files", "Armed")
_NEW = ARMED + b")\x81"

ATTACKS = [
    _attack("system.pth", "REDUCE of os.system", unsafe("os.system"), _system),
    _attack("posix.pth", "the same under its other name", unsafe("posix.system"),
            lambda c: call(named("posix", "system"), _touch(c))),
    _attack("beside.pth", "os.system beside good weights", unsafe("os.system"), _system,
            lambda body: zip_file(mapping({"w": WEIGHT, "epoch": body}))),
    _attack("old.pth", "os.system in a pre-1.6 file", unsafe("os.system"), _system,
            lambda body: legacy_file(body, {})),
    _attack("eval.pth", "REDUCE of builtins.eval", unsafe("builtins.eval"),
            lambda c: call(named("builtins", "eval"), _open_code(c))),
    _attack("exec_py2.pth", "exec under its Python 2 name", unsafe("builtins.exec"),
            lambda c: call(named("builtins", "exec"), _open_code(c)),
            lambda body: zip_file(body.replace(b"cbuiltins", b"c__builtin__"))),
    _attack("getattr.pth", "nested REDUCE, no suspicious name", unsupported("builtins.getattr"),
            _through_getattr),
    _attack("dotted.pth", "STACK_GLOBAL with a dotted name", unsafe("posixpath.os.system"),
            lambda c: call(plain("posixpath") + plain("os.system") + b"\x93", _touch(c))),
    _attack("inst.pth", "INST of os.system", unsafe("os.system"),
            lambda c: b"(" + _touch(c) + b"ios\nsystem\n"),
    _attack("obj.pth", "OBJ of os.system", unsafe("os.system"),
            lambda c: b"(" + named("os", "system") + _touch(c) + b"o"),
    _attack("setstate.pth", "a class with __setstate__", unsupported("tests.hostile_files.Armed"),
            lambda _: _NEW + plain({"a": 1}) + b"b"),
    _attack("init.pth", "a class with __init__", unsupported("tests.hostile_files.Armed"),
            lambda _: ARMED + b")R"),
    _attack("append.pth", "APPENDS to a foreign object", unsupported("tests.hostile_files.Armed"),
            lambda _: _NEW + b"(" + plain(1) + b"e"),
    _attack("setitem.pth", "SETITEM on a foreign object", unsupported("tests.hostile_files.Armed"),
            lambda _: _NEW + plain(1) + plain(1) + b"s"),
    _attack("add.pth", "ADDITEMS to a foreign object", unsupported("tests.hostile_files.Armed"),
            lambda _: _NEW + b"(" + plain(1) + b"\x90"),
    _attack("extension.pth", "EXT2 of a registered class", unsupported("copyreg.extension_32749"),
            lambda _: b"\x83" + struct.pack("<H", EXTENSION_CODE) + b")R"),
    _attack("build_function.pth", "BUILD on a function", damaged("attributes"),
            lambda _: named("tests.hostile_files", "plain") + plain({"fired": 1}) + b"b"),
]  # fmt: skip


def _bomb() -> bytes:
    """64 MB of zeros in 64 kB."""
    return zip_file(storages={"0": bytes(64 << 20)}, compression=zipfile.ZIP_DEFLATED)


def _declare(data: bytes, name: bytes, size: int) -> bytes:
    """State another size for a stored entry, in both of its headers."""
    local, central = data.index(name) - 30, data.rindex(name) - 46
    sizes = struct.pack("<II", size, size)
    for at in (local + 18, central + 20):
        data = data[:at] + sizes + data[at + 8 :]
    return data


def _encrypt(data: bytes) -> bytes:
    """Set the flag for encryption on the last entry."""
    at = data.rindex(b"PK\x01\x02") + 8
    return data[:at] + b"\x01" + data[at + 1 :]


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def _file(name: str, what: str, error: Error, content: bytes | Callable[[], bytes]) -> Hostile:
    return Hostile(name, what, error, lambda _: content() if callable(content) else content)


def _zip(name: str, what: str, error: Error, *args, **kwargs) -> Hostile:
    return _file(name, what, error, zip_file(*args, **kwargs))


def _weight(name: str, what: str, error: Error, **kwargs) -> Hostile:
    return _zip(name, what, error, mapping({"w": tensor(storage(), **kwargs)}))


def _old(name: str, what: str, error: Error, data=NUMBERS, tail=b"", **kwargs) -> Hostile:
    content = legacy_file(mapping({"w": tensor(storage(tail=tail))}), {"0": data} if data else {}, **kwargs)
    return _file(name, what, error, content)


def _safe(name: str, what: str, error: Error, header: object, data: bytes = NUMBERS) -> Hostile:
    return _file(f"{name}.safetensors", what, error, safetensors_file(header, data))


NODES = 10_000  # for ``reader._MAX_NODES``: to unfold a million takes seconds
NEST = plain(1) + b"2\x86" * 60  # DUP and TUPLE2: 60 objects, 2**60 leaves
_DEEP = b"]" * 100_000 + b"a" * 99_999
_SCRIPT = [("archive/constants.pkl", b""), ("archive/code/__torch__.py", b"")]
_TWO_TYPES = mapping({"a": WEIGHT, "b": tensor(storage(kind="IntStorage"))})
ENTRY = json.dumps(entry()).encode()

BROKEN = [
    _file("cut.pth", "zip cut in half", damaged("cut short"), zip_file()[:300]),
    _file("bomb.pth", "zip bomb: 64 MB in 64 kB", damaged("67,109,022"), _bomb),
    _file("lying.pth", "stored entry that claims 1 GB", damaged("1,000,000,158"),
          _declare(zip_file(), b"archive/data/0", 10**9)),
    _zip("deflated.pth", "compressed entries", unsupported("archive/data.pkl"), compression=zipfile.ZIP_DEFLATED,
         storages={"0": bytes(range(24))}),
    _file("double.pth", "two entries of one name", damaged("duplicate entry"),
          zip_file(storages={"0": NUMBERS, "1": NUMBERS}).replace(b"archive/data/1", b"archive/data/0")),
    _file("locked.pth", "an encrypted entry", unsupported("archive/data/0"), _encrypt(zip_file())),
    _file("flipped.pth", "a changed byte in a storage", damaged("CRC-32"),
          zip_file().replace(NUMBERS, NUMBERS[:-1] + b"!")),
    _zip("script.pt", "a TorchScript program", unsupported("TorchScript"), extra=_SCRIPT,
         compression=zipfile.ZIP_DEFLATED, storages={"0": bytes(999)}),
    _zip("report.pth", "another zip archive", unsupported("torch.save"), extra=[("other/data.pkl", b"")]),
    _zip("big.pth", "written on a big-endian machine", unsupported("big-endian"), order=b"big"),
    _zip("short.pth", "storage shorter than declared", damaged("20 bytes"),
         storages={"0": NUMBERS[:20]}),
    _zip("missing.pth", "storage missing", damaged("missing"), storages={}),
    _weight("offset.pth", "offset beyond the storage", damaged("24 bytes"), offset=1),
    _weight("stride.pth", "stride beyond the storage", damaged("24 bytes"), stride=(4, 1)),
    _weight("expand.pth", "4 TB by stride 0", damaged("1099511627776"), size=(1 << 40,), stride=(0,)),
    _weight("minus.pth", "negative stride", damaged("stride or offset"), stride=(-1, 1)),
    _weight("rank.pth", "stride of another rank", damaged("size and stride"), stride=(1,)),
    _zip("foreign.pth", "tensor on a foreign object", damaged("storage"),
         mapping({"w": tensor(_NEW)})),
    _zip("types.pth", "one storage, two types", damaged("two types"), _TWO_TYPES),
    _zip("reference.pth", "a reference to another file", damaged("outside data"),
         plain(("file", "/etc/passwd")) + b"Q"),
    _zip("deep.pth", "lists nested 100 000 deep", damaged("100"), _DEEP),
    _zip("unfold.pth", "60 pairs of the pair before", damaged(f"{NODES:,}"), NEST),
    _zip("cycle.pth", "a list that contains itself", damaged("themselves"), b"]q\x00h\x00a"),
    _zip("garbage.pth", "a pickle that is not one", damaged("opcode"), b"\xfe\xfe"),
    _zip("underflow.pth", "a pickle that empties its stack", damaged("empty list"), b"00"),
    _zip("count.pth", "a text of 2 GB in 7 bytes", damaged("2147483647"), b"X\xff\xff\xff\x7f"),
    _zip("nothing.pth", "a state dict without tensors", unsupported("no tensors"), mapping({"epoch": plain(3)})),
    _file("magic.pth", "wrong magic", unsupported("x00"), b"\x00\x01\x02\x03 and so on"),
    _file("plain.pth", "a plain pickle", unsupported("pickle"), pickle.dumps({"w": [1.0]})),
    _file("empty.pth", "an empty file", damaged("empty"), b""),
    _file("lfs.pth", "a Git LFS pointer", unsupported("git lfs pull"), b"version https://git-lfs.github.com/spec/v1\n"),
    _file("page.pth", "a web page", unsupported("web page"), b"\n<!DOCTYPE html><title>Sign in</title>"),
    _file("packed.pth", "a gzip file", unsupported("gzip"), b"\x1f\x8b\x08\x00"),
    _file("tar.pth", "a tar file (PyTorch 0.1)", unsupported("tar archive"), _tar),
    _old("old_cut.pth", "pre-1.6, cut in a storage", damaged("storage '0'"), NUMBERS[:20]),
    _old("old_length.pth", "pre-1.6, storage of another length", damaged("20 bytes"), NUMBERS[:20], numel=5),
    _old("old_minus.pth", "pre-1.6, negative length", damaged("storage '0'"), numel=-6),
    _old("old_keys.pth", "pre-1.6 without its storage", damaged("list of storages"), b""),
    _old("old_view.pth", "pre-1.6, view beyond its storage", damaged("24 bytes"), tail=plain(("1", 1, 6))),
    _old("old_version.pth", "pre-1.6, another protocol", damaged("pre-1.6 header"), version=1000),
    _old("old_big.pth", "pre-1.6, big-endian", unsupported("big-endian"), little=False),
    _file("head.safetensors", "header longer than the file", damaged("safetensors header"),
          struct.pack("<Q", 1 << 40) + b"{}"),
    _safe("text", "header that is not JSON", damaged("JSON"), b"{{{{"),
    _safe("nest", "JSON nested 100 000 deep", damaged("JSON"), b'{"w":' + b"[" * 100_000),
    _safe("overlap", "overlapping tensors", damaged("overlap"), {"a": entry(), "b": entry(shape=(2,), begin=16)}),
    _safe("gap", "a gap before a tensor", damaged("gaps"), {"a": entry(shape=(2,), begin=16)}),
    _safe("trail", "bytes behind the last tensor", damaged("16 bytes"), {"a": entry(shape=(4,), end=16)}),
    _safe("cut", "cut in the data", damaged("end of the file"), {"w": entry()}, NUMBERS[:20]),
    _safe("shape", "shape against offsets", damaged("(2, 4)"), {"w": entry(shape=(2, 4))}),
    _safe("minus", "negative shape", damaged("shape"), {"w": entry(shape=(-2, -3))}),
    _safe("offsets", "offsets that are text", damaged("'w'"), {"w": entry(begin="0")}),
    _safe("dtype", "unknown dtype", unsupported("F4"), {"w": entry(dtype="F4")}),
    _safe("twice", "one name twice", damaged("repeats"), b'{"w":%s,"w":%s}' % (ENTRY, ENTRY)),
    _safe("none", "no tensors", unsupported("no tensors"), {"__metadata__": {}}, b""),
]  # fmt: skip

TABLE = ATTACKS + BROKEN


def main() -> None:
    print("| file | what it is | error |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for row in TABLE:
            path = pathlib.Path(row.name)
            path.write_bytes(row.content(os.path.join(folder, "canary")))
            try:
                reader.read(path)
            except UserError as error:
                print(f"| {row.name} | {row.what} | {str(error).removeprefix(row.name + ': ')} |")
            else:
                raise SystemExit(f"{row.name} was read without an error")


if __name__ == "__main__":
    main()
