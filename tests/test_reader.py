"""The checkpoint reader: hostile files do nothing, and honest ones are read as they were written."""

import copyreg
import hashlib
import os
import pathlib
import pickle
import subprocess
import sys
import time
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert_weights import inert_pickle, reader
from convert_weights.safe_globals import Placeholder
from tests import hostile_files as make
from tests.raises import user_error
from tramp_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
BY_NAME = [pytest.param(row, id=row.name) for row in make.TABLE]
SETTINGS = settings(max_examples=60, deadline=None)


@pytest.fixture(autouse=True)
def extension():
    """Registers the class that ``extension.pth`` asks for by number, for one test: the registry is process-wide."""
    copyreg.add_extension("tests.hostile_files", "Armed", make.EXTENSION_CODE)
    make.FIRED.clear()
    yield
    copyreg.remove_extension("tests.hostile_files", "Armed", make.EXTENSION_CODE)
    copyreg._extension_cache.pop(make.EXTENSION_CODE, None)
    vars(make.plain).clear()


class _Watch:
    """Records the interpreter's audit events of running code, importing by name, and touching other files."""

    EVENTS = ("compile", "exec", "os.", "subprocess.", "pickle.find_class", "shutil.", "socket.", "ctypes.")

    def __init__(self):
        self.armed, self.seen = False, []
        sys.addaudithook(self._hook)  # cannot be removed, so all tests share it

    def _hook(self, event, args):
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if self.armed and (event.startswith(self.EVENTS) or writes):
            self.seen.append((event, args))

    def read(self, path):
        self.seen.clear()
        self.armed = True
        try:
            return reader.read(path)
        finally:
            self.armed = False


@pytest.fixture(scope="session")
def watch(tmp_path_factory):
    watch = _Watch()
    good = tmp_path_factory.mktemp("good") / "good.pth"
    good.write_bytes(make.zip_file())
    reader.read(good)  # the standard library imports some codecs on first use
    return watch


def _snapshot(folder):
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()}


def _fired(canary):
    return canary.exists() or bool(make.FIRED) or bool(vars(make.plain))


def _read(folder, content, name="file.pth"):
    path = folder / name
    path.write_bytes(content)
    return reader.read(path)


# --- hostile and broken files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", BY_NAME)
def test_hostile_file_gives_one_line_runs_nothing_writes_nothing(row, tmp_path, watch, monkeypatch):
    monkeypatch.setattr(reader, "_MAX_NODES", make.NODES)
    path, canary = tmp_path / row.name, tmp_path / "canary"
    path.write_bytes(row.content(str(canary)))
    before = _snapshot(tmp_path)
    kind, fact = row.error
    with user_error(kind) as caught:
        watch.read(path)
    assert watch.seen == []
    assert not _fired(canary)
    assert _snapshot(tmp_path) == before
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert fact in message.removeprefix(f"{path}: ")
    assert message.isprintable()  # one line, no terminal codes
    assert len(message.removeprefix(str(path)).split("; ")) >= 2, "no cure given"


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in make.ATTACKS])
def test_the_same_attack_works_on_plain_pickle(row, tmp_path):
    """The control: if the reader ran anything, the test above would see it."""
    canary = tmp_path / "canary"
    pickle.loads(row.attack(str(canary)))
    assert _fired(canary)


def test_the_watch_sees_what_it_should(watch, tmp_path, monkeypatch):
    for harm in (lambda _: os.system("true"), lambda _: eval("1"), lambda _: (tmp_path / "new").write_text("x")):
        monkeypatch.setattr(reader, "read", harm)
        watch.read(None)
        assert watch.seen


def test_rows_of_the_table_have_different_names():
    assert len({row.name for row in make.TABLE}) == len(make.TABLE)


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("folder", "unsupported_file"),
        ("pipe", "unsupported_file"),
        ("absent", "missing_file"),
        ("loop", "unreadable_file"),
    ],
)
def test_a_path_that_is_not_a_file_is_an_error(what, kind, tmp_path):
    path = tmp_path / "weights.pth"
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "loop":
        path.symlink_to(path)
    with user_error(kind, path):
        reader.read(path)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"(" + make.plain(1) + make.plain(2) + b"u", id="SETITEMS"),
        pytest.param(b"(" + make.plain(1) + b"e", id="APPENDS"),
        pytest.param(make.plain({"__class__": 1}) + b"b", id="BUILD"),
    ],
)
@pytest.mark.parametrize("target", [make.WEIGHT, make.named("torch", "float32"), make.plain("text"), b"K\x01"])
def test_instructions_act_only_on_what_they_are_for(target, body, tmp_path):
    with user_error("damaged_file", "something that is not"):
        _read(tmp_path, make.zip_file(target + body))


@pytest.mark.parametrize("target", [make.WEIGHT, make.plain("text"), make.plain({}), b"K\x01"])
@pytest.mark.parametrize("body", [b")R", b")\x81", b")}\x92"])
def test_only_names_can_stand_for_calls(target, body, tmp_path):
    with user_error("damaged_file", "class or function"):
        _read(tmp_path, make.zip_file(target + body))


def test_foreign_objects_beside_weights_are_reported_and_inert(tmp_path):
    armed = make.ARMED + b")\x81" + make.plain({"best": 0.9}) + b"b"
    content = make.zip_file(
        make.mapping({"model": make.mapping({"w": make.WEIGHT}), "recorder": armed, "log": b"]" + armed + b"a"})
    )
    checkpoint = _read(tmp_path, content)
    assert checkpoint.placeholders == ("recorder: tests.hostile_files.Armed", "log.0: tests.hostile_files.Armed")
    assert checkpoint.tree["recorder"].name == "tests.hostile_files.Armed"
    assert isinstance(checkpoint.tree["log"][0], Placeholder)
    np.testing.assert_array_equal(checkpoint.tree["model"]["w"], np.arange(6, dtype=np.float32).reshape(2, 3))
    assert make.FIRED == []


def test_names_from_the_file_cannot_forge_a_message(tmp_path):
    """A class name with line breaks and terminal codes, which protocol 4 allows."""
    forged = make.call(make.plain("m") + make.plain("x\n\x1b[2Jfile.pth: fine" + "y" * 1000) + b"\x93")
    checkpoint = _read(tmp_path, make.zip_file(make.mapping({"w": make.WEIGHT, "k\n": forged})))
    (line,) = checkpoint.placeholders
    assert line.isprintable()
    assert len(line) < 300


_W = make.plain("w") + make.WEIGHT
_SAME_HASH = b"".join(make.plain((i << 64) * sys.hash_info.modulus) + b"N" for i in range(1, 40_000))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"}(" + make.NEST + b"N" + _W + b"u", id="nest of pairs as a key"),
        pytest.param(b"}(" + make.ARMED + make.NEST + b"R" + b"N" + _W + b"u", id="nest of pairs in a placeholder"),
        pytest.param(b"}(" + _SAME_HASH + _W + b"u", id="keys of equal hash"),
    ],
)
def test_time_is_bounded(body, tmp_path):
    """A reader that follows the pickle to the letter takes 16 seconds for the last and never finishes the first."""
    start = time.process_time()
    checkpoint = _read(tmp_path, make.zip_file(body))
    assert time.process_time() - start < 5
    assert "w" in checkpoint.tree
    assert all(line.startswith("root: dictionary key ") for line in checkpoint.placeholders)
    assert checkpoint.placeholders


def test_memory_is_bounded(tmp_path):
    """One LONG_BINPUT with the index 2**32 - 1 is a memo of 32 GB in the C unpickler."""
    content = make.zip_file(make.plain(1) + b"r\xff\xff\xff\xff0}(" + _W + b"u")
    tracemalloc.start()
    checkpoint = _read(tmp_path, content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "w" in checkpoint.tree
    assert peak < 16 << 20


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"N0" * 600, id="instructions"),
        pytest.param(
            b"](" + b"N" * 200 + b"eq\x000" + make.call(make.named("builtins", "set"), b"h\x00") * 5, id="copies"
        ),
        pytest.param(
            make.plain("x" * 40_000) + b"q\x000" + make.call(make.named("_codecs", "encode"), b"h\x00") * 3, id="text"
        ),
    ],
)
def test_steps_are_counted(body, tmp_path, monkeypatch):
    monkeypatch.setattr(inert_pickle, "MAX_STEPS", 1000)
    with user_error("damaged_file", "1,000 steps"):
        _read(tmp_path, make.zip_file(body))


def test_pickle_size_is_capped(tmp_path, monkeypatch):
    monkeypatch.setattr(inert_pickle, "MAX_BYTES", 1 << 20)
    with user_error("damaged_file", "1 MiB"):
        _read(tmp_path, make.zip_file(make.plain("x" * (1 << 20))))


GOOD_FILES = {
    "zip": make.zip_file(),
    "legacy": make.legacy_file(make.mapping({"w": make.WEIGHT}), {"0": make.NUMBERS}),
    "safetensors": make.safetensors_file({"w": make.entry()}),
}


@pytest.mark.parametrize("kind", GOOD_FILES)
@settings(SETTINGS, max_examples=150)
@given(data=st.data())
def test_damage_gives_a_checkpoint_or_one_line(kind, data, tmp_path_factory):
    content = bytearray(GOOD_FILES[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    try:
        checkpoint = _read(tmp_path_factory.getbasetemp(), bytes(content), "damaged.bin")
    except UserError as error:
        line = str(error)
    else:
        line = " ".join(checkpoint.placeholders)
    assert line.isprintable()


# --- honest files without PyTorch ------------------------------------------------------------------------------------


def test_ordered_dict_state_is_dropped(tmp_path):
    """A state dict's ``_metadata``, and Python 2's form with a list of pairs."""
    state = make.call(make.named("collections", "OrderedDict"), b"](](" + _W + b"ee")
    tree = _read(tmp_path, make.zip_file(state + make.plain({"_metadata": {"": {"version": 1}}}) + b"b")).tree
    assert list(tree) == ["w"]


def test_pytorch_before_1_6_with_views(tmp_path):
    """Two tensors on views of one storage, as PyTorch 0.x wrote them."""
    low, high = (
        make.tensor(make.storage(tail=make.plain((key, at, 3))), (3,), (1,)) for key, at in (("1", 0), ("2", 3))
    )
    tree = _read(tmp_path, make.legacy_file(make.mapping({"low": low, "high": high}), {"0": make.NUMBERS})).tree
    assert tree["low"].tolist() == [0, 1, 2]
    assert tree["high"].tolist() == [3, 4, 5]


def test_sha256_and_shared_storage(tmp_path):
    content = make.zip_file(make.mapping({"a": make.WEIGHT, "b": make.tensor(make.storage(), (2, 2), (1, 2), 1)}))
    checkpoint = _read(tmp_path, content)
    assert checkpoint.sha256 == hashlib.sha256(content).hexdigest()
    assert checkpoint.tree["b"].tolist() == [[1, 3], [2, 4]]
    assert np.shares_memory(checkpoint.tree["a"], checkpoint.tree["b"])
    assert not checkpoint.tree["a"].flags.writeable


def test_torch_is_never_imported(tmp_path):
    (tmp_path / "w.pth").write_bytes(GOOD_FILES["zip"])
    program = "import sys; sys.modules['torch'] = None; from convert_weights import reader; reader.read(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, tmp_path / "w.pth"], check=True, cwd=ROOT)


def test_kind_goes_by_content_not_by_name(tmp_path):
    for content, name in ((GOOD_FILES["zip"], "w.safetensors"), (GOOD_FILES["safetensors"], "w.pth")):
        assert _read(tmp_path, content, name).tree["w"].shape == (2, 3)


@pytest.mark.parametrize("pad", range(256))
def test_safetensors_header_of_any_length(pad, tmp_path):
    """The file begins with a length, whose first byte may be ``<`` or a blank, as in a web page."""
    content = make.safetensors_file(b'{"w":' + make.ENTRY + b"}" + b" " * pad)
    weight = _read(tmp_path, content).tree["w"]
    assert weight.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert weight.flags.aligned
    assert not weight.flags.writeable


def test_nonfinite_warnings_name_the_tensors():
    good = {"f": np.zeros(2), "i": np.ones(2, np.int64), "b": np.array([True]), "h": np.zeros(1, ml_dtypes.bfloat16)}
    bad = {
        "nan": np.array([0, np.nan], np.float32),
        "inf": np.array([-np.inf], np.float16),
        "bf": np.array([np.nan], ml_dtypes.bfloat16),
        "f8": np.array([np.nan], ml_dtypes.float8_e4m3fn),
        "c": np.array([1 + 1j * np.inf]),
    }
    assert reader.nonfinite_warnings(good) == []
    assert [line.split()[-1] for line in reader.nonfinite_warnings(good | bad)] == list(bad)
