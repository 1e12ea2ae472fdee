"""The folder of a run, and files that are written whole."""

import errno
import os
import pathlib
import re

import pytest

from tests import tiny
from tests.conftest import ROOT
from tests.raises import user_error
from tramp_jax import run
from tramp_jax.files import expanded, write_atomically


@pytest.fixture
def folder(tmp_path):
    run.prepare(tiny.get_config(), tmp_path / "run", resume=False, overwrite=False)
    return tmp_path / "run"


def test_a_run_and_its_folds_share_the_configuration(folder):
    fold = run.fold_folder(folder, 2)
    fold.mkdir()
    assert run.load_config(folder) == run.load_config(fold)
    assert (run.fold_of(folder), run.fold_of(fold)) == (None, 2)
    assert run.home(folder) == run.home(fold) == folder
    assert run.fold_folder(folder, None) == folder


def test_a_fold_is_found_from_inside(folder, monkeypatch):
    fold = run.fold_folder(folder, 0)
    fold.mkdir()
    monkeypatch.chdir(fold)
    here = type(fold)(".")
    assert (run.fold_of(here), run.home(here)) == (0, folder)


def test_a_run_may_be_called_like_a_fold(tmp_path):
    folder = tmp_path / "fold_1"
    run.prepare(tiny.get_config(), folder, resume=False, overwrite=False)
    assert (run.fold_of(folder), run.home(folder)) == (None, folder)


def test_trained_folds_hold_checkpoints(folder):
    for name in ("fold_0", "fold_1/checkpoints", "fold_2/checkpoints"):
        (folder / name).mkdir(parents=True)
    assert [path.name for path in run.trained_folds(folder)] == ["fold_1", "fold_2"]
    assert not run.is_trained(folder)


def test_each_ensemble_has_its_own_calibration(folder):
    names = {run.calibration_file(folder, models).name for models in (["a"], ["a", "b"], ["b", "a"])}
    assert len(names) == 3
    assert "calibration.json" in names


@pytest.mark.parametrize("text", ["", "[]", '{"model": 1}', '{"model": {"rgb": '])
def test_a_damaged_configuration_is_named(text, folder):
    (folder / run.CONFIG).write_text(text)
    with user_error("damaged_file", folder / run.CONFIG):
        run.load_config(folder)


def test_an_unknown_value_in_a_configuration_is_not_damage(folder, config):
    config.model.streams = "all"
    (folder / run.CONFIG).write_text(config.to_json())
    with user_error("bad_option", folder / run.CONFIG, "model.streams", "all"):
        run.load_config(folder)


def test_a_folder_that_is_not_a_run_is_named(tmp_path):
    with user_error("not_a_run", tmp_path / run.CONFIG):
        run.load_config(tmp_path)
    for number in range(6):
        (tmp_path / f"2024{number}").mkdir()
        (tmp_path / f"2024{number}" / run.CONFIG).touch()
    runs = ", ".join(str(tmp_path / f"2024{number}") for number in range(1, 6))
    with user_error("not_a_run", runs) as caught:
        run.load_config(tmp_path)
    assert "20240" not in str(caught.value)


def test_only_a_run_is_overwritten(folder, tmp_path):
    (folder / "old").touch()
    with user_error("file_exists", folder):
        run.prepare(tiny.get_config(), folder, resume=False, overwrite=False)
    run.prepare(tiny.get_config(), folder, resume=False, overwrite=True)
    assert [path.name for path in folder.iterdir()] == [run.CONFIG]
    link = tmp_path / "link"
    link.symlink_to(folder)
    (folder / "old").touch()
    run.prepare(tiny.get_config(), link, resume=False, overwrite=True)
    assert link.is_symlink()
    assert [path.name for path in folder.iterdir()] == [run.CONFIG]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / run.CONFIG).write_text("{}")
    with user_error("not_a_run", tmp_path / "thesis"):
        run.prepare(tiny.get_config(), tmp_path / "thesis", resume=False, overwrite=True)
    assert (tmp_path / "thesis" / run.CONFIG).exists()


@pytest.mark.parametrize("option", ["data.root", "init.all", "init.rgb"])
def test_a_run_does_not_overwrite_what_it_reads(option, folder, config):
    config.update_from_flattened_dict({option: str(folder / "weights")})
    with user_error("bad_option", folder / "weights", "--workdir"):
        run.prepare(config, folder, resume=False, overwrite=True)
    assert (folder / run.CONFIG).exists()


def test_a_run_resumes_elsewhere_but_not_with_other_options(folder):
    config = tiny.get_config()
    config.data.root, config.train.cache = "elsewhere", "host"
    run.prepare(config, folder, resume=True, overwrite=False)
    config.seed = 7
    with user_error("changed_options", folder, "seed"):
        run.prepare(config, folder, resume=True, overwrite=False)


@pytest.mark.parametrize("content", ["ρ\r\n", b"\x00\xff"])
def test_a_file_is_replaced_by_its_new_content(content, tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("old")
    (tmp_path / "link").symlink_to("data/file")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "data" / "file").read_text() == "new"
    assert os.listdir(tmp_path / "data") == ["file"]


def test_two_writers_of_one_file_with_equal_process_numbers_do_not_meet(tmp_path, monkeypatch):
    """As in two containers."""
    path, sync, inner = tmp_path / "file", os.fsync, []

    def write_between(file):
        if not inner:
            inner.append(file)
            write_atomically(path, "inner")
        sync(file)

    monkeypatch.setattr(os, "fsync", write_between)
    write_atomically(path, "outer, which is longer")
    assert path.read_text() == "outer, which is longer"
    assert os.listdir(tmp_path) == ["file"]


def test_a_run_killed_while_its_folder_was_made_can_start_again(tmp_path):
    (tmp_path / f".{run.CONFIG}.1234.partial").touch()
    run.prepare(tiny.get_config(), tmp_path, resume=False, overwrite=False)
    assert run.load_config(tmp_path).name == "tiny"


def test_an_option_of_a_command_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/run") == tmp_path / "run"
    assert expanded("~nobody-of-that-name") == pathlib.Path("~nobody-of-that-name")
    given = [
        line
        for path in (*ROOT.glob("tramp_jax/cli/*.py"), ROOT / "convert_weights/__main__.py")
        for line in path.read_text().splitlines()
        if re.search(r"type=(pathlib\.)?Path\b", line)
    ]
    assert given == []


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is checked
        write_atomically(path, "new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
