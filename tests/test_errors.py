"""What a program makes of an exception: one line and an exit code, or a traceback and a request to report it."""

import errno
import importlib.metadata
import io
import os
import pickle
import re
import subprocess
import sys

import pytest

from convert_weights import __main__ as convert_weights
from tramp_jax import cli
from tramp_jax.cli import score
from tramp_jax.cli.exit_codes import BUG, EXIT_ERROR, EXIT_INTERRUPTED, exit_codes
from tramp_jax.errors import Interrupted, UserError, as_user_error


def _end_of(error, capsys):
    """The exit code and the message of a program in which ``error`` is raised."""
    with pytest.raises(SystemExit) as stopped, exit_codes():
        raise error
    return stopped.value.code, capsys.readouterr().err


def test_letters_that_a_terminal_cannot_show_do_not_stop_a_program(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    with exit_codes():
        sys.stdout.write("é 笑")
    sys.stdout.flush()
    assert sys.stdout.buffer.getvalue() == b"\xe9 \\u7b11"


def test_an_input_may_begin_with_a_dash(monkeypatch):
    given = []
    monkeypatch.setattr(score, "run", lambda arguments: given.append(arguments.inputs) or 0)
    assert cli.main(["score", "--", "-dash.mp4", "--chekpoint"]) == 0
    assert given == [["-dash.mp4", "--chekpoint"]]


def test_a_users_mistake_is_one_line(capsys):
    mistake = UserError("missing_file", "clips.csv: no such file")
    assert _end_of(mistake, capsys) == (EXIT_ERROR, "error: clips.csv: no such file\n")
    assert pickle.loads(pickle.dumps(mistake)).kind == "missing_file"
    assert not isinstance(mistake, ValueError)  # so code that expects one of a library does not swallow it


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, "missing_file"),
        (errno.EACCES, "no_permission"),
        (errno.EROFS, "no_permission"),
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EISDIR, "bad_path"),
        (errno.ENOTDIR, "bad_path"),
        (errno.ENAMETOOLONG, "bad_path"),
        (errno.ELOOP, "bad_path"),
        (errno.EIO, "lost_disk"),
        (errno.ESTALE, "lost_disk"),
    ],
)
def test_an_error_of_the_system_about_a_file_has_a_cure(number, kind):
    mistake = as_user_error(OSError(number, os.strerror(number), "clips.csv"))
    assert mistake.kind == kind
    assert str(mistake).startswith("clips.csv: ")


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        (["score", "x.mp4", "--chekpoint", "run"], "--checkpoint"),
        (["export", "--chekpoint=run"], "--checkpoint"),  # not that the option is missing
        (["pack", "--no-landmark", "--shard-size", "3", "--collct"], "--collect"),  # two options may be shortened
    ],
)
def test_a_misspelt_option_of_a_command_names_the_closest_one(command, meant, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(command)
    assert stopped.value.code == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_a_misspelt_option_of_convert_weights_names_the_closest_one(capsys):
    with pytest.raises(SystemExit):
        convert_weights.main(["x.pth", "--ou", "a", "--verfy"])
    assert "did you mean --verify?" in capsys.readouterr().err


def test_a_file_where_a_folder_must_be_is_named(tmp_path):
    (tmp_path / "scores.csv").touch()
    with pytest.raises(FileExistsError) as caught:
        (tmp_path / "scores.csv").mkdir(exist_ok=True)
    mistake = as_user_error(caught.value)
    path, _, what = str(mistake).partition(": ")
    assert (mistake.kind, path) == ("file_exists", str(tmp_path / "scores.csv"))
    assert "folder" in what
    assert "remove" not in what  # it may hold hours of scores


def test_a_full_disk_needs_no_file_name():
    assert as_user_error(OSError(errno.ENOSPC, "No space left on device")).kind == "disk_full"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("write() failed: No space left on device; writing /d/x.array_record; at byte 262144"),
        ValueError('Error writing "a/0" at local file "/d/x.array_record": No space left on device [os_error_code=28]'),
    ],
)
def test_a_full_disk_is_recognised_in_the_words_of_libraries(error):
    mistake = as_user_error(error)
    assert (mistake.kind, str(mistake).partition(":")[0]) == ("disk_full", "/d/x.array_record")


def test_an_interruption_has_its_own_exit_code(capsys):
    for error in (Interrupted("stopped after step 3"), KeyboardInterrupt()):
        code, message = _end_of(error, capsys)
        assert code == EXIT_INTERRUPTED
        assert "Traceback" not in message


@pytest.mark.parametrize("error", [TypeError("x"), KeyError("x"), OSError(errno.EIO, "I/O error"), MemoryError()])
def test_a_bug_passes_through_with_a_request_to_report_it(error, capsys):
    with pytest.raises(type(error)) as caught, exit_codes():
        raise error
    assert caught.value.__notes__ == [BUG]
    assert not capsys.readouterr().err


def test_a_missing_run_is_one_line_of_the_program(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["export", "--checkpoint", str(tmp_path / "nothing"), "--out", str(tmp_path / "model.onnx")])
    assert stopped.value.code == EXIT_ERROR
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert str(tmp_path / "nothing") in message


@pytest.mark.parametrize("reason", ["cannot open shared object file: No such file or directory", "file too short"])
def test_a_missing_library_of_the_system_is_named_with_its_cure(reason, capsys, monkeypatch):
    installed = {"opencv-python": "4.9"}  # by InsightFace

    def version(name):
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    error = ImportError(f"libGL.so.1: {reason}", name="cv2")
    code, message = _end_of(error, capsys)
    assert code == EXIT_ERROR
    assert "libGL.so.1" in message
    assert "opencv-python-headless==4.9" in message
    installed.clear()
    assert "cv2 needs it" in _end_of(error, capsys)[1]
    assert "libxyz.so.2" in str(as_user_error(ImportError(f"/usr/lib/libxyz.so.2: {reason}", name="other")))
    assert as_user_error(ImportError("cannot import name 'x' from 'y'")) is None


def test_no_library_of_a_desktop_is_needed(tmp_path):
    """With empty files instead of libGL and the like, OpenCV works, or one line says how to make it work."""
    listed = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    found = set(re.findall(r"=> (\S+/lib(?:GL|xcb|gthread-2\.0)\.so\S*)", listed))
    if not found:
        pytest.skip("none of these libraries is installed, so every other test shows it")
    (tmp_path / "empty").touch()
    hidden = "".join(f"mount --bind {tmp_path}/empty $(readlink -f {path}) && " for path in sorted(found))
    command = f"{hidden} {sys.executable} -m tramp_jax view {tmp_path}/nothing --out {tmp_path}/x.png"
    result = subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, check=False)
    if "unshare" in result.stderr or "mount" in result.stderr:
        pytest.skip("this user may not hide files")
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert f"{tmp_path}/nothing" in result.stderr or "opencv-python-headless==" in result.stderr
