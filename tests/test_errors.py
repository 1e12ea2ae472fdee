"""What a program makes of an exception: one line and an exit code, or a traceback and a request to report it."""

import errno
import os
import pickle

import pytest

from tramp_jax import cli
from tramp_jax.cli.exit_codes import BUG, EXIT_ERROR, EXIT_INTERRUPTED, exit_codes
from tramp_jax.errors import Interrupted, UserError, as_user_error


def _end_of(error, capsys):
    """The exit code and the message of a program in which ``error`` is raised."""
    with pytest.raises(SystemExit) as stopped, exit_codes():
        raise error
    return stopped.value.code, capsys.readouterr().err


def test_a_users_mistake_is_one_line(capsys):
    mistake = UserError("missing_file", "clips.csv: no such file")
    assert _end_of(mistake, capsys) == (EXIT_ERROR, "error: clips.csv: no such file\n")
    assert pickle.loads(pickle.dumps(mistake)).kind == "missing_file"


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
    ],
)
def test_an_error_of_the_system_about_a_file_has_a_cure(number, kind):
    mistake = as_user_error(OSError(number, os.strerror(number), "clips.csv"))
    assert mistake.kind == kind
    assert str(mistake).startswith("clips.csv: ")


def test_a_full_disk_needs_no_file_name():
    assert as_user_error(OSError(errno.ENOSPC, "No space left on device")).kind == "disk_full"


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
