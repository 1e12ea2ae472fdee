"""Locks of files and folders."""

import errno
import fcntl
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from convert_weights import store
from tests.conftest import ROOT
from tests.raises import user_error
from tramp_jax import cli
from tramp_jax.data.clip_folder import write_clip
from tramp_jax.errors import UserError
from tramp_jax.files import check_mounted, locked, write_atomically
from tramp_jax.synthetic.faces import SyntheticFaces

_HOLD = """
import pathlib, sys, time
from tramp_jax.files import locked
with locked(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("path", ["gs://bucket/x", pathlib.Path("s3://bucket/x"), "https://x.org/a.mp4"])
def test_an_address_is_not_written_below_the_working_folder(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with user_error("bad_path", path):
        check_mounted(path)
    with user_error("bad_path", "bucket" if "bucket" in str(path) else "x.org"), locked(pathlib.Path(path)):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ["score", "s3://bucket/*.mp4", "--checkpoint", "run"],
        ["score", "a.mp4", "--checkpoint", "run", "--out", "s3://bucket/scores.csv"],
        ["preprocess", "s3://bucket/a.mp4", "--out", "clips"],
        ["preprocess", "--list", "s3://bucket/videos.csv", "--out", "clips"],
    ],
)
def test_commands_refuse_an_address(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(command)
    assert re.search("s3:/+bucket", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["C:/x", "/a:/b", "a/b:/c", "12:30.mp4", "~/x"])
def test_a_path_is_not_taken_for_an_address(path):
    check_mounted(path)


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path):
    path = tmp_path / "new" / "scores.csv"
    command = [sys.executable, "-c", _HOLD, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        with user_error("in_use", path, f"process {holder.pid} "), locked(path):
            pass
        holder.kill()  # no chance to clean up
    with locked(path):
        assert [file.name for file in path.parent.iterdir()] == [".scores.csv.lock"]
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("name", ["笑" * 85, "x" * 251 + ".csv", "笑" * 83 + ".csv"])
def test_a_long_name_can_be_written_and_locked(tmp_path, name):
    with locked(tmp_path / name):
        write_atomically(tmp_path / name, "text")
        with user_error("in_use", name), locked(tmp_path / name):
            pass
        with locked(tmp_path / (name[:-1] + "y")):  # another file
            pass
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "text")]


@pytest.mark.parametrize(
    "command",
    [
        ["view", "clip", "--out", "FILE.mp4"],
        ["view", "clip", "--out", "FILE.png"],
        ["preprocess", "a.mp4", "--landmarks", "table", "--queries", "FILE.npz"],
        ["preprocess", "a.mp4", "--landmarks", "table", "--queries", "FILE"],
        ["export", "--checkpoint", "run", "--out", "FILE.onnx"],
        ["validate", "--dataset", "pfed5", "--root", "data", "--json", "FILE.json"],
    ],
)
def test_no_file_is_replaced_unasked(tmp_path, command):
    file = tmp_path / command[-1].replace("FILE", "patient")
    there = file if file.suffix else file.with_suffix(".npz")
    there.write_text("precious")
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command[:-1], str(file)])
    assert stopped.value.__context__.kind == "file_exists"
    assert all(fact in str(stopped.value.__context__) for fact in (str(there), "--overwrite"))
    assert there.read_text() == "precious"


@pytest.mark.parametrize(
    "command",
    [
        ["score", "a.mp4", "--checkpoint", "run", "--out", "PLACE"],
        ["score", "a.mp4", "--checkpoint", "run", "--report", "PLACE"],
        ["score", "a.mp4", "--checkpoint", "run", "--anonymise", "--salt", "PLACE"],
        ["score", "--collect", "--out", "PLACE"],
        ["preprocess", "a.mp4", "--landmarks", "table", "--out", "PLACE"],
        ["preprocess", "a.mp4", "--landmarks", "table", "--queries", "PLACE"],
        ["export", "--checkpoint", "run", "--out", "PLACE"],
        ["view", "clip", "--out", "PLACE.png"],
        ["validate", "--dataset", "synthetic", "--json", "PLACE"],
        ["pack", "--dataset", "synthetic", "--out", "PLACE"],
        ["study", "fusion", "--out", "PLACE"],
    ],
)
def test_an_output_below_a_file_is_refused_before_any_work(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").touch()
    with pytest.raises(SystemExit) as stopped:
        cli.main([part.replace("PLACE", "results/january/x") for part in command])
    assert stopped.value.__context__.kind == "bad_path"
    assert f"{tmp_path / 'results'} is a file" in str(stopped.value.__context__)
    assert os.listdir(tmp_path) == ["results"]


@pytest.mark.parametrize("command", [["score", "--out", "new/scores.csv"], ["preprocess", "a.mp4", "--out", "new/x"]])
def test_collecting_nothing_writes_nothing(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command, "--collect"])
    assert stopped.value.__context__.kind == "missing_file"
    assert not list(tmp_path.iterdir())


def test_the_folders_of_an_output_are_created(tmp_path):
    write_clip(tmp_path / "clip", SyntheticFaces(1, 1)[0])
    for name in ("sheets/january/clip.png", "videos/clip.mp4"):
        assert cli.main(["view", str(tmp_path / "clip"), "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / name).stat().st_size > 0


def test_a_lock_removes_the_folders_that_it_made(tmp_path):
    with pytest.raises(UserError), locked(tmp_path / "a" / "b" / "x"):
        raise UserError("bad_option", "a command is refused")
    assert not list(tmp_path.iterdir())
    with locked(tmp_path / "a" / "b" / "x"):
        (tmp_path / "a" / "y").touch()
    assert os.listdir(tmp_path / "a") == ["y"]


_KILLED = """
import os, pathlib, signal, sys
from tramp_jax import files
path = pathlib.Path(sys.argv[1])
setattr(os, sys.argv[2], lambda *_: os.kill(os.getpid(), signal.SIGKILL))
with files.locked(path):
    files.write_atomically(path, "new")
"""


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_kill_while_writing_leaves_the_old_file_and_no_lock(moment, tmp_path):
    """Calibrations, exported models and all other single files are written this way."""
    path = tmp_path / "calibration.json"
    path.write_text("old")
    command = [sys.executable, "-c", _KILLED, str(path), moment]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    with locked(path):
        write_atomically(path, "new")
    assert path.read_text() == "new"


def test_a_converted_file_is_never_missing_while_it_is_replaced(tmp_path, monkeypatch):
    path, rename = tmp_path / "weights.pth", os.rename
    path.write_text("old")

    def checked(*paths):
        rename(*paths)
        assert path.exists()

    monkeypatch.setattr(os, "rename", checked)
    with store.written_whole(path) as new:
        new.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["weights.pth"]


# Lines that write files in a folder of their own, which gets its name when it is complete, rows that are whole or left
# out when they are read, or a salt, which is refused unless it is whole.
_WRITES_SAFELY = {
    "tramp_jax/data/clip_folder.py": 6,
    "tramp_jax/cli/pseudonyms.py": 1,
    "tramp_jax/cli/score_output.py": 1,
    "tramp_jax/training_log.py": 1,
    "convert_weights/store.py": 1,
}
_IN_PLACE = re.compile(
    r"\.write_(text|bytes)\(|\bopen\([^()]*\"[wax]b?\"|\bnp\.save\w*\((?!file,)|json\.dump\(|savefig\((?!buffer|image)"
)


def test_every_file_is_written_whole():
    """A full disk or a kill leaves the old file or the new one."""
    found = {}
    for path in (*ROOT.glob("tramp_jax/**/*.py"), *ROOT.glob("convert_weights/**/*.py")):
        name = str(path.relative_to(ROOT))
        lines = [line for line in path.read_text().splitlines() if _IN_PLACE.search(line)]
        if lines and name != "tramp_jax/files.py":
            found[name] = len(lines)
    assert found == _WRITES_SAFELY


def test_spellings_of_a_path_share_a_lock(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    with locked(tmp_path / "run"):
        for spelling in ("run", "./run", "link", "x/../run"):
            with user_error("in_use", pathlib.Path(spelling)), locked(pathlib.Path(spelling)):
                pass
        with locked(tmp_path / "another"):
            pass


@pytest.mark.parametrize(("module", "name"), [(fcntl, "flock"), (os, "fstat")])
def test_a_lock_whose_file_was_just_removed_is_not_taken(module, name, tmp_path, monkeypatch):
    """Its holder removes it after another program opened it: before that one locks it, or just after."""
    lock, original = tmp_path / ".run.lock", getattr(module, name)
    opened = []

    def remove_first(file, *arguments):
        if not opened:
            lock.unlink()
        opened.append(file)
        return original(file, *arguments)

    monkeypatch.setattr(module, name, remove_first)
    with locked(tmp_path / "run"):
        assert len(opened) == 2
        with user_error("in_use", f"process {os.getpid()} "), locked(tmp_path / "run"):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_that_cannot_lock_is_used_with_a_warning(number, tmp_path, monkeypatch, capsys):
    def unsupported(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with locked(tmp_path / "scores.csv"):
        pass
    message = capsys.readouterr().err
    assert message.startswith("warning: ")
    assert str(tmp_path / "scores.csv") in message
