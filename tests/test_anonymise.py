"""``tramp-jax score --anonymise``: tables and reports without names, which still resume and join."""

import contextlib
import csv
import dataclasses
import os

import pytest

from tests import tiny
from tests.raises import user_error
from tramp_jax import cli
from tramp_jax.checkpoint import Checkpoints
from tramp_jax.cli.pseudonyms import Pseudonyms
from tramp_jax.data.clip_folder import write_clip
from tramp_jax.synthetic.faces import SyntheticFaces

NAMES = ("Erika", "Mustermann", "smile", "ward")


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_variables):
    """The folder of a run with an untrained model."""
    folder = tmp_path_factory.mktemp("ward") / "run"
    folder.mkdir()
    (folder / "config.json").write_text(tiny.get_config().to_json())
    with Checkpoints(folder, writing=True) as checkpoints:
        checkpoints.save_best(7, tiny_variables)
    return folder


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_no_name_reaches_tables_or_reports_and_scoring_resumes(run, tmp_path, capsys, monkeypatch, undrawn):
    clip = SyntheticFaces(1, 1, ("smile",))[0]
    info = dataclasses.replace(clip.info, id="Erika_1", subject="Erika Mustermann", source="/ward 7/Erika.mp4")
    folder = tmp_path / "Erika Mustermann"
    write_clip(folder / "smile-1", dataclasses.replace(clip, info=dataclasses.replace(info, expression="")))
    broken = folder / "Mustermann.mp4"
    broken.write_bytes(b"no video")
    out, salt, reports = tmp_path / "scores.csv", tmp_path / "salts" / "mine", tmp_path / "reports"
    command = ["score", str(folder / "smile-1"), str(broken), "--checkpoint", str(run), "--runtime", "jax"]
    hidden = [*command, "--out", str(out), "--anonymise", "--salt", str(salt)]
    assert cli.main([*hidden, "--report", str(reports), "--no-attribution"]) == 1
    printed = capsys.readouterr()
    assert salt.stat().st_mode & 0o777 == 0o600
    secret = salt.read_text().strip()
    (good, bad), (page,) = rows(out), reports.iterdir()
    assert (good["status"], bad["status"]) == ("ok", "failed")
    for text in (out.read_text(), page.read_text(), page.name):
        assert not [name for name in (*NAMES, str(tmp_path), secret) if name in text]
    assert secret not in printed.out + printed.err
    assert good["input"] in printed.out  # so that you know which row is whose
    assert page.name == good["report"]
    assert page.name.startswith(good["input"])
    assert bad["input"] in bad["reason"]

    before = out.read_text()
    monkeypatch.chdir(folder)
    spelt = ["score", "smile-1", *hidden[2:]]
    assert cli.main(spelt) == 1
    assert "1 already in the table" in capsys.readouterr().out
    assert sorted(out.read_text().splitlines()) == sorted(before.splitlines())

    other = tmp_path / "other.csv"
    assert cli.main([*command[:2], *command[3:], "--out", str(other), "--anonymise", "--salt", str(salt)]) == 0
    assert rows(other)[0]["input"] == good["input"]  # equal salts: the tables join
    capsys.readouterr()
    for wrong in (
        [*command, "--out", str(out)],
        [*hidden[:-1], str(tmp_path / "new")],
        [*command, "--salt", str(salt)],
    ):
        with pytest.raises(SystemExit):
            cli.main(wrong)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert "--" in line
    assert not (tmp_path / "new").exists()
    assert sorted(out.read_text().splitlines()) == sorted(before.splitlines())


@pytest.mark.parametrize(
    "more", [(), ("--shard", "1/2"), pytest.param(("--jobs", "2"), marks=pytest.mark.slow)], ids=["", "shard", "jobs"]
)
@pytest.mark.parametrize("wrong", ["no run", "no model file", "no such expression"])
def test_a_refused_command_leaves_no_salt_and_no_folder(run, wrong, more, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("anna.mp4", "bert.mp4"):
        (tmp_path / name).write_bytes(b"no video")
    checkpoint, expression, models = str(run), "smile", []
    if wrong == "no run":
        checkpoint = "nothing"
    elif wrong == "no model file":
        models = ["--models-dir", "."]
    else:
        expression = "smiel"
    command = ["score", "anna.mp4", "bert.mp4", "--checkpoint", checkpoint, "--expression", expression, *models]
    command += ["--out", "tables/scores.csv", "--anonymise", "--salt", "salts/mine", "--report", "reports", *more]
    with contextlib.suppress(SystemExit):
        assert cli.main(command) == 1
    assert sorted(os.listdir(tmp_path)) == ["anna.mp4", "bert.mp4"]


@pytest.mark.slow
def test_processes_share_a_new_salt(run, tmp_path):
    clips = SyntheticFaces(2, 1, ("smile",))
    for i, name in enumerate(("anna", "bert")):
        write_clip(tmp_path / name, clips[i])
    command = ["score", *(str(tmp_path / name) for name in ("anna", "bert")), "--checkpoint", str(run), "--anonymise"]
    assert cli.main([*command, "--out", str(tmp_path / "scores.csv"), "--jobs", "2"]) == 0
    own = Pseudonyms(tmp_path / "scores.csv.salt")
    assert [row["input"] for row in rows(tmp_path / "scores.csv")] == [
        own.of_input(tmp_path / name) for name in ("anna", "bert")
    ]


def test_a_salt_that_others_can_read_or_that_is_damaged_is_refused(tmp_path):
    salt = tmp_path / "salt"
    first = Pseudonyms(salt)
    assert Pseudonyms(salt).of("a") == first.of("a") != Pseudonyms(tmp_path / "other").of("a")
    salt.chmod(0o644)
    if os.name == "posix":
        with user_error("no_permission", salt, "chmod 600"):
            Pseudonyms(salt)
    salt.chmod(0o600)
    for content in (b"", b"abc", b"\xff" * 65, b"a" * 999):
        salt.write_bytes(content)
        with user_error("damaged_file", salt):
            Pseudonyms(salt)


def test_messages_keep_their_words_and_lose_all_spellings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pseudonyms = Pseudonyms(tmp_path / "salt", [tmp_path / "runs" / "Anna"])
    own = pseudonyms.of_input("Jo/Ann.mp4")
    for text, expected in (
        ("Jo/Ann.mp4: has 3 frames", f"{own}: has 3 frames"),
        (f"{tmp_path}/Jo/Ann.mp4: Annual report", f"{own}: Annual report"),
        (f"run tramp-jax calibrate {tmp_path}/runs/Anna", "run tramp-jax calibrate RUN"),
        ("Jo/Ann.mp4/Ann-Smith-1.png: damaged", f"{own}: damaged"),
    ):
        assert pseudonyms.hide(text, "Jo/Ann.mp4") == expected
