"""Locks of files and folders."""

import errno
import fcntl
import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.raises import user_error
from tramp_jax.files import locked

_HOLD = """
import pathlib, sys, time
from tramp_jax.files import locked
with locked(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


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


# Lines that write files in a folder of their own, which gets its name when it is complete, or rows that are whole or
# left out when they are read.
_WRITES_SAFELY = {
    "tramp_jax/data/clip_folder.py": 5,
    "tramp_jax/cli/score.py": 1,
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


def test_a_lock_whose_file_was_just_removed_is_not_taken(tmp_path, monkeypatch):
    """The holder removes the file after another program opened it, and a third one creates it again."""
    lock, flock = tmp_path / ".run.lock", fcntl.flock
    opened = []

    def remove_first(file, how):
        if not opened:
            lock.unlink()
        opened.append(file)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
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
