"""From a clip or a video to a score: windows, calibration, ``Scorer``, and the commands score and calibrate."""

import contextlib
import csv
import dataclasses
import functools
import json
import os
import shutil
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from tests import tiny
from tests.raises import user_error
from tramp_jax import Scorer, cli, experiment, shards, split_file, training_data
from tramp_jax import run as run_folder
from tramp_jax.checkpoint import Checkpoints
from tramp_jax.cli.score import expand
from tramp_jax.cli.score_output import Reports, Table, row_of
from tramp_jax.data import datasets, packed_clips
from tramp_jax.data.clip_folder import read_clip, write_clip
from tramp_jax.data.clips import decode_frame
from tramp_jax.data.source import ClipSource, Facts, Split
from tramp_jax.files import locked
from tramp_jax.output import Output
from tramp_jax.preprocess import PreprocessOptions
from tramp_jax.progress import Progress
from tramp_jax.report import attribution
from tramp_jax.scoring import calibration
from tramp_jax.scoring.doubts import about_clip
from tramp_jax.scoring.judges import JaxJudge
from tramp_jax.scoring.members import load_member, load_members
from tramp_jax.scoring.onnx_judge import OnnxJudge
from tramp_jax.scoring.run_calibration import calibrate_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_variables):
    """The folders of two runs, with different untrained models."""
    folders = []
    for number in range(2):
        folder = tmp_path_factory.mktemp("runs") / f"run{number}"
        folder.mkdir()
        config = tiny.get_config().unlock()
        config.data.num_subjects = 40
        (folder / "config.json").write_text(config.to_json())
        variables = {**tiny_variables, "params": {**tiny_variables["params"]}}
        head = tiny_variables["params"]["head"]
        bias = head["layer3"]["bias"] + number
        variables["params"]["head"] = {**head, "layer3": {**head["layer3"], "bias": bias}}
        with Checkpoints(folder, writing=True) as checkpoints:
            checkpoints.save_best(7, variables)
        folders.append(folder)
    return folders


@pytest.fixture(scope="module")
def source():
    config = tiny.get_config().unlock()
    config.data.num_subjects = 40
    return datasets.open_dataset(config).source


@pytest.fixture(scope="module")
def calibrated(runs):
    """The first run after ``tramp-jax calibrate``."""
    assert cli.main(["calibrate", str(runs[0]), "--level", "0.8"]) == 0
    return runs[0]


def test_a_clip_has_the_same_score_every_time_and_clips_differ(runs, source):
    judge = JaxJudge(load_member(runs[0]))
    first, again, other = (judge.many([source[i]])[0] for i in (0, 0, 1))
    assert first == again
    assert first != pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("change", [{"still": True}, {"padding": "zero"}])
def test_runs_with_still_clips_or_zero_padding_calibrate_and_score(runs, source, tmp_path, change):
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    config = json.loads((run / "config.json").read_text())
    config["data"] |= change
    config["model"]["trajectory"] |= {"attention_dropout": 0.0, "drop_path": 0.0, "length": 128}
    (run / "config.json").write_text(json.dumps(config))
    assert cli.main(["calibrate", str(run), "--level", "0.8"]) == 0
    for runtime in ("jax", "onnx"):
        scored = Scorer(run, runtime=runtime).score_clip(source[0])
        assert np.isfinite([scored.score, scored.spread, *scored.interval]).all()
        assert scored.spread > 0


def test_intervals_cover_the_requested_share_of_new_people():
    """People have their own error, and one of them has many clips. Errors grow with the spread."""
    rng = np.random.default_rng(0)

    def clips(people):
        counts = np.where(np.arange(people) % 10 == 0, 40, 2)
        subject = np.repeat(np.arange(people), counts)
        own = rng.normal(size=people) * np.where(np.arange(people) % 10 == 0, 3, 1)
        spread = rng.uniform(0.1, 1.0, len(subject))
        target = rng.uniform(0, 4, len(subject))
        return target + spread * (own[subject] + 0.3 * rng.normal(size=len(subject))), spread, target, subject

    options = {"level": 0.9, "models": ["a"], "scale": (-90.0, 90.0)}
    found = calibration.calibrate(*clips(400), **options)
    scores, spreads, targets, subjects = clips(400)
    low, high = np.array([found.interval(*pair) for pair in zip(scores, spreads, strict=True)]).T
    covered = (low <= targets) & (targets <= high)
    assert np.mean([covered[subjects == person].mean() for person in range(400)]) == pytest.approx(0.9, abs=0.03)
    assert covered.mean() < 0.85  # counted by clips, the few people with many clips would widen all intervals
    sure, unsure = (found.interval(2.0, spread) for spread in (0.1, 1.0))
    assert np.ptp(unsure) > 1.5 * np.ptp(sure)


def test_measured_coverage_counts_each_person_once_and_has_an_interval_over_people():
    made = calibration.Calibration(0.9, 1.0, 1.0, -9.0, 9.0, (), ("a",), clips=9, subjects=9)
    found = made.tested(np.zeros(4), np.zeros(4), np.array([0.0, 5.0, 5.0, 0.0]), ["a", "b", "b", "b"])
    assert found.coverage == pytest.approx((1 + 1 / 3) / 2)
    assert (found.width, found.test_clips, found.test_subjects) == (2, 4, 2)
    people = [f"p{i}" for i in range(10)]
    # Wilson's intervals for 9 and for 10 of 10 people.
    for target, ends in ((9 * [0.0] + [5.0], "60% to 98%"), (10 * [0.0], "72% to 100%")):
        assert ends in made.tested(np.zeros(10), np.zeros(10), np.array(target), people).test


@pytest.mark.parametrize("people", [9, 20, 48])
def test_intervals_from_few_people_cover_the_level_and_hardly_more(people):
    """Errors are exponential, so the coverage of each calibration is known."""
    rng = np.random.default_rng(people)
    zeros, covered = np.zeros(people), []
    for _ in range(1000):
        errors = rng.exponential(size=people)
        found = calibration.calibrate(errors, zeros, zeros, range(people), level=0.9, models=["a"], scale=(-90.0, 90.0))
        covered.append(1 - np.exp(-found.interval(0.0, 0.0)[1]))
    assert np.mean(covered) == pytest.approx(0.9, abs=0.01)


def test_an_interval_stays_on_the_scale_lists_its_ratings_and_needs_enough_people():
    numbers = np.array([1.0, 2.0, 3.0]), np.zeros(3), np.array([1.0, 2.5, 1.0])
    options = {"models": ["a"], "scale": (0.0, 4.0), "ratings": range(5)}
    found = calibration.calibrate(*numbers, ["a", "b", "c"], level=0.5, **options)
    low, high = found.interval(3.9, 0.0)
    assert 3.0 < low < high == 4.0
    assert found.ratings_in((low, high)) == (4,)
    assert found.ratings_in((0.9, 3.0)) == (1, 2, 3)
    assert found.ratings_in((2.1, 2.4)) == (2,)
    with user_error("too_few_people", 3, "at least 9", "--level"):
        calibration.calibrate(*numbers, ["a", "b", "c"], level=0.9, **options)
    with user_error("too_few_people", 1):  # however many clips a person has
        calibration.calibrate(*(np.zeros(99) for _ in range(3)), ["a"] * 99, level=0.9, **options)


def test_a_calibration_is_saved_with_the_run_and_gives_intervals(calibrated, source):
    found = Scorer(calibrated).calibration
    assert found.level == 0.8
    assert 0 <= found.coverage <= 1
    assert found.test_clips > 0
    scored = Scorer(calibrated).score_clip(source[0])
    low, high = scored.interval
    assert found.low <= low < high <= found.high
    assert "80% interval" in scored.note
    assert scored.ratings
    assert set(scored.ratings) <= set(range(5))


def test_a_calibration_that_is_refused_changes_nothing(runs, tmp_path):
    shutil.copytree(runs[1], tmp_path / "run", ignore=shutil.ignore_patterns("output-*", "usual_motion.json"))
    before = os.listdir(tmp_path / "run")
    with user_error("too_few_people"):
        calibrate_run([tmp_path / "run"], which="best", level=0.99)
    assert os.listdir(tmp_path / "run") == before


def test_a_second_calibrate_of_a_run_is_refused(calibrated, capsys):
    path = calibrated / "calibration.json"
    before = path.read_bytes()
    with locked(path), pytest.raises(SystemExit) as stopped:
        cli.main(["calibrate", str(calibrated), "--level", "0.7"])
    assert (stopped.value.code, stopped.value.__context__.kind) == (1, "in_use")
    assert str(path) in capsys.readouterr().err
    assert path.read_bytes() == before


def test_a_score_with_a_wide_interval_is_withheld(runs, calibrated, source, tmp_path, capsys, undrawn):
    assert not Scorer(calibrated, max_width=4).score_clip(source[0]).withheld
    with user_error("bad_option", -1):
        Scorer(calibrated, max_width=-1)
    with user_error("not_calibrated", "tramp-jax calibrate"):
        Scorer(runs[1], max_width=2)
    write_clip(tmp_path / "clip", source[0])
    out, reports = tmp_path / "scores.csv", tmp_path / "reports"
    command = ["score", str(tmp_path / "clip"), "--checkpoint", str(calibrated), "--out", str(out)]
    command += ["--max-width", "0.01", "--report", str(reports), "--no-attribution"]
    score = Scorer(calibrated).score_clip(source[0]).score
    assert cli.main(command) == 0
    with out.open() as file:
        (row,) = csv.DictReader(file)
    assert row["status"] == "withheld"
    assert "0.01" in row["reason"]
    told = capsys.readouterr().out
    assert "inputs: 0 scored, 1 withheld, 0 failed" in told
    assert f"{score:.2f}" not in told
    page = (reports / row["report"]).read_text()
    assert "withheld" in page
    assert 'class="score"' not in page  # neither the number nor its drawing; tables may hold the same number
    assert f"{score:.2f} on" not in page
    assert cli.main(command) == 0
    assert "1 already in the table" in capsys.readouterr().out


@pytest.mark.parametrize("runtime", ["jax", "onnx"])
def test_nothing_gives_a_withheld_score_away(calibrated, source, runtime, monkeypatch):
    monkeypatch.setattr(attribution, "Explainer", None)  # what moved the score is not even computed
    shown, held = (Scorer(calibrated, max_width=width, runtime=runtime) for width in (4, 0.01))
    scored = held.score_clip(source[0])
    row, whole = row_of(held, scored), row_of(shown, shown.score_clip(source[0]))
    hidden = {"score", "raw", "low", "high", "ratings"}
    assert {name for name in whole if row[name] != whole[name]} == {"status", "reason", "warnings", *hidden}
    assert not any(row[name] for name in hidden)
    assert "% of the scale" in whole["warnings"]
    assert "% of the scale" not in row["warnings"]  # it tells the width of the interval
    assert row["reason"] == row_of(held, held.score_clip(source[1]))["reason"]  # whatever the score
    assert np.isnan([scored.score, scored.spread, *scored.raw, *scored.members]).all()
    assert (scored.interval, scored.ratings) == (None, ())
    explained = held.evidence(scored)
    assert (explained.attribution, explained.attribution_note) == (None, "the score is withheld")
    for given in ({"score": 2.5}, {"interval": (1.0, 2.0)}, {"ratings": (2.0,)}):
        with pytest.raises(AssertionError):
            dataclasses.replace(explained, **given)


def test_the_score_and_spread_of_an_ensemble_are_those_of_its_members(runs, calibrated, source):
    scored = Scorer(*runs).score_clip(source[0])
    assert scored.raw[1] - scored.raw[0] == pytest.approx(1.0, abs=1e-5)
    assert scored.score == pytest.approx(scored.members.mean())
    alone = [Scorer(run).score_clip(source[0]).spread for run in runs]
    assert scored.spread == pytest.approx(np.sqrt(np.mean(np.square(alone)) + np.var(scored.members)))
    assert scored.interval is None  # only the first run was calibrated
    assert scored.note == f"not calibrated: tramp-jax calibrate {runs[0]} {runs[1]}"


def test_an_ensemble_has_its_own_calibration(runs, calibrated, source, tmp_path):
    folders = [tmp_path / run.name for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        shutil.copytree(run, folder)
    alone = Scorer(folders[0]).calibration
    assert cli.main(["calibrate", *map(str, folders), "--level", "0.7"]) == 0
    together = Scorer(*folders)
    assert together.calibration.level == 0.7
    assert together.score_clip(source[0]).interval is not None
    assert Scorer(folders[0]).calibration == alone


@pytest.fixture(scope="module")
def cross_validated(tmp_path_factory, tiny_variables):
    """A run over four folds, with models that differ in their bias."""
    home = tmp_path_factory.mktemp("runs") / "folds"
    config = tiny.get_config().unlock()
    config.data.update(num_subjects=20, protocol="k_fold", num_folds=4)
    home.mkdir()
    (home / "config.json").write_text(config.to_json())
    for number in range(4):
        variables = jax.tree.map(np.copy, tiny_variables)
        variables["params"]["head"]["layer3"]["bias"] += 0.3 * number
        (home / f"fold_{number}").mkdir()
        with Checkpoints(home / f"fold_{number}", writing=True) as checkpoints:
            checkpoints.save_best(7, variables)
    (home / run_folder.CROSS_VALIDATION).touch()
    return home


def test_a_cross_validation_that_has_not_ended_is_not_taken_for_all_folds(cross_validated, tmp_path):
    shutil.copytree(cross_validated, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "fold_3")
    (tmp_path / "run" / run_folder.CROSS_VALIDATION).unlink()
    for use in (Scorer, lambda folder: calibrate_run([folder], which="best", level=0.9)):
        with user_error("unfinished_run", tmp_path / "run", "--resume", "fold_2"):
            use(tmp_path / "run")
    assert len(Scorer(*(tmp_path / "run" / f"fold_{k}" for k in range(3))).members) == 3


def test_a_model_named_twice_is_refused(runs, cross_validated, tmp_path):
    """It would count twice in the mean."""
    folds, link = cross_validated.parent / cross_validated.name, tmp_path / "link"
    link.symlink_to(runs[0])
    for folders in ([runs[0], runs[1], link], [folds, folds / "fold_1"]):
        with user_error("bad_option", str(folders[-1])):
            load_members(folders)


def test_a_cross_validation_that_has_lost_a_fold_is_not_taken_for_all_folds(cross_validated, tmp_path):
    shutil.copytree(cross_validated, tmp_path / "run")
    config = run_folder.load_config(cross_validated)
    split_file.save(tmp_path / "run", split_file.splits_of(datasets.open_dataset(config), config, None))
    assert len(load_members([tmp_path / "run"])) == 4
    shutil.rmtree(tmp_path / "run" / "fold_1")
    with user_error("missing_checkpoint", tmp_path / "run" / "fold_1", "fold_2"):
        load_members([tmp_path / "run"])


def test_a_run_that_a_program_still_trains_gets_a_warning(tmp_path, capsys):
    run, evaluate = tmp_path / "run", functools.partial(experiment.evaluate, which="best", split="test")
    for use, folder in ((load_members, [run / "fold_1"]), (load_members, [run]), (evaluate, run)):
        for lock, warned in ((locked(run), True), (contextlib.nullcontext(), False)):
            with lock, user_error("not_a_run"):  # nothing is saved yet
                use(folder)
            assert (f"{run} is" in capsys.readouterr().err) == warned


def test_folds_are_calibrated_on_everybody_each_by_the_fold_that_has_not_seen_them(cross_validated, capsys):
    assert cli.main(["calibrate", str(cross_validated)]) == 0
    assert "20 clips of 20 people" in capsys.readouterr().out
    scorer = Scorer(cross_validated)
    found = scorer.calibration
    assert (found.clips, found.subjects, found.test_clips, found.test_subjects) == (20, 20, 20, 20)
    scores, spreads, targets, people = [], [], [], []
    for member in scorer.members:
        split = datasets.split(datasets.open_dataset(member.config), member.config, member.fold)["test"]
        raw = OnnxJudge(member).many([split[i] for i in range(len(split))])
        scores += list(member.output.score(raw))
        spreads += list(member.output.spread(raw))
        targets += [info.score for info in split.infos]
        people += [info.subject for info in split.infos]
    assert len(set(people)) == 20
    ids = [member.id for member in scorer.members]
    given = np.array(scores), np.array(spreads), np.array(targets), people
    expected = calibration.calibrate(*given, level=0.9, models=ids, scale=(0.0, 4.0))
    assert (found.factor, found.floor) == pytest.approx((expected.factor, expected.floor), rel=1e-3)
    clip = datasets.open_dataset(scorer.config).source[0]
    scored = scorer.score_clip(clip)
    assert len(scored.members) == 4
    assert scored.interval is not None
    with user_error("too_few_people", 3, "num_folds"):  # the validation people of one fold
        calibrate_run([cross_validated / "fold_1"], which="best", level=0.9)


@pytest.mark.slow
def test_the_effects_in_the_report_of_an_ensemble_add_up_to_its_score(runs, source, monkeypatch):
    scorer = Scorer(*runs)
    output = Output((0.0, 2.0, 4.0), (0.3, 0.3, 0.4), sigma=1.0, low=0.0, high=4.0, offset=2.0)
    scorer.members = [dataclasses.replace(member, output=output) for member in scorer.members]
    explainer = attribution.Explainer(scorer.members[0].config, output)
    explainer.max_evaluations = attribution.NODES  # its sum is then not exact, but has a stated error
    monkeypatch.setattr(attribution, "Explainer", lambda *_: explainer)  # both members have the same one: compiled once
    scored = scorer.score_clip(source[0])
    found = scorer.evidence(scored).attribution
    assert np.ptp(scored.members) > 0.1
    assert found.score == pytest.approx(scored.score, abs=1e-3)
    assert found.regions.sum() == pytest.approx(found.difference, abs=found.error + 1e-6)


def test_clips_scored_together_have_the_same_scores_as_alone(runs, source):
    scorer = Scorer(runs[0], runtime="jax")
    clips = [source[i] for i in range(5)]  # one more than are scored at once
    for clip, scored in zip(clips, scorer.score_clips(clips), strict=True):
        alone = scorer.score_clip(clip)
        assert scored.clip is clip
        assert scored.score == pytest.approx(alone.score, abs=1e-5)


def test_the_command_skips_failures_and_inputs_already_in_the_table(runs, calibrated, source, tmp_path, capsys):
    write_clip(tmp_path / "clips" / "good clip", source[0])
    write_clip(tmp_path / "clips" / "gut", dataclasses.replace(source[1], info=source[0].info))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    out, reports = tmp_path / "out" / "scores.csv", tmp_path / "reports"
    inputs = [str(tmp_path / "clips" / "*"), str(tmp_path / "broken.mp4")]
    command = ["score", *inputs, "--checkpoint", str(calibrated), "--out", str(out)]
    assert cli.main([*command, "--report", str(reports), "--no-attribution"]) == 1
    printed = capsys.readouterr()
    assert "2 scored, 1 failed" in printed.out
    assert "broken.mp4" in printed.err
    with out.open() as file:
        rows = {row["input"].rsplit("/", 1)[-1]: row for row in csv.DictReader(file)}
    good = rows["good clip"]
    assert good["status"] == "ok"
    assert good["expression"] == "smile"
    assert "drawn faces" in good["warnings"]
    assert rows["broken.mp4"]["status"] == "failed"
    assert rows["broken.mp4"]["reason"]
    expected = Scorer(calibrated).score_clip(source[0])
    found = [float(good[name]) for name in ("score", "low", "high")]
    assert found == pytest.approx([expected.score, *expected.interval], abs=2e-3)
    assert good["frames_used"] == str(min(int(good["frames"]), 64))
    assert {path.name for path in reports.iterdir()} == {rows[name]["report"] for name in ("good clip", "gut")}
    page = reports / rows["gut"]["report"]
    assert page.name.startswith("gut-")
    assert "not a diagnosis" in page.read_text()

    before = out.read_text()
    assert cli.main(command) == 1  # only the broken one is tried again
    assert "0 scored, 1 failed, 2 already in the table" in capsys.readouterr().out
    assert sorted(out.read_text().splitlines()) == sorted(before.splitlines())

    # A missing report is written again, without another row.
    page.unlink()
    assert cli.main([*command, "--report", str(reports), "--no-attribution"]) == 1
    assert page.exists()
    assert sorted(out.read_text().splitlines()) == sorted(before.splitlines())

    # A table holds scores of only one model.
    before = out.read_text()
    command[command.index("--checkpoint") + 1] = str(runs[1])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(command)
    assert "has scores of another model" in capsys.readouterr().err
    assert out.read_text() == before


def test_jobs_of_an_array_write_the_table_of_one_run(calibrated, source, tmp_path, capsys):
    inputs = [tmp_path / name for name in ("d", "broken", "a", "c", "b")]
    for i, path in enumerate(inputs):
        if i != 1:
            write_clip(path, source[i])
    whole, out = tmp_path / "whole.csv", tmp_path / "parts.csv"
    command = ["score", *map(str, inputs), "--checkpoint", str(calibrated), "--out"]
    assert cli.main([*command, str(whole)]) == 1
    assert cli.main([*command, str(out), "--shard", "2/2"]) == 1
    with pytest.raises(SystemExit):
        cli.main(["score", "--collect", "--out", str(out)])
    assert "1/2" in capsys.readouterr().err
    assert cli.main([*command, str(out), "--shard", "1/2"]) == 0
    assert cli.main(["score", "--collect", "--out", str(out)]) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.shard-*"))

    # Another array finds the rows that are there, and adds its own.
    write_clip(tmp_path / "e", source[5])
    command = ["score", *map(str, inputs[2:]), str(tmp_path / "e"), "--checkpoint", str(calibrated), "--out", str(out)]
    for shard, added in (("1/2", 0), ("2/2", 1)):
        assert cli.main([*command, "--shard", shard]) == 0
        assert f"{added} scored, 0 failed, {2 - added}" in capsys.readouterr().out
    assert cli.main(["score", "--collect", "--out", str(out)]) == 0
    assert out.read_text().splitlines()[:-1] == whole.read_text().splitlines()


def test_an_older_part_replaces_no_newer_row(tmp_path):
    """A command was stopped before its parts were joined, and its inputs were then scored with other settings."""
    part = tmp_path / "scores.shard-1-of-2.csv"
    for path, settings in ((part, "old"), (tmp_path / "scores.csv", "new")):
        with Table(path, overwrite=False) as table:
            table.add({"input": "a", "status": "ok", "settings": settings})
    table = Table(part, overwrite=False, whole=tmp_path / "scores.csv")
    table.expect({"a": "new"})
    with table:
        pass
    assert len(part.read_text().splitlines()) == 1  # the header

    with Table(part, overwrite=False) as table:  # now another shard scores a
        for name in "ab":
            table.add({"input": name, "status": "ok", "settings": "old"})
    table = Table(part, overwrite=False)
    table.expect({"b": "old"})
    assert [table.find(name, "old") is None for name in "ab"] == [True, False]


@pytest.mark.slow
def test_processes_write_the_table_of_one(calibrated, source, tmp_path, monkeypatch, capfd):
    counted = []
    inputs = [tmp_path / name for name in ("d", "broken", "a")]
    for i in (0, 2):
        write_clip(inputs[i], source[i])
    whole, out = tmp_path / "whole.csv", tmp_path / "parts.csv"
    command = ["score", *map(str, inputs), "--fps", "25", "--checkpoint", str(calibrated), "--out"]
    assert cli.main([*command, str(whole)]) == 1
    one = capfd.readouterr()
    assert cli.main([*command, str(out), "--jobs", "2"]) == 1
    two = capfd.readouterr()
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.shard-*"))
    messages = [line for line in one.out.splitlines() if line.startswith(str(tmp_path))]
    assert len(messages) == 2
    assert set(messages) < set(two.out.splitlines())
    errors = [line for line in one.err.splitlines() if line.startswith(("error:", "warning:"))]
    assert len(errors) == 2
    assert sorted(line for line in two.err.splitlines() if line.startswith(("error:", "warning:"))) == sorted(errors)

    # Another run goes on with this table: an input is new, the broken one is tried again.
    write_clip(tmp_path / "new", source[3])
    before = out.read_text().splitlines()
    monkeypatch.setattr(Progress, "update", lambda *_: counted.append(1))
    assert cli.main(["score", str(tmp_path / "new"), *command[1:], str(out), "--jobs", "2"]) == 1
    told = [line.partition(":")[0] for line in capfd.readouterr().out.splitlines() if line.startswith(str(tmp_path))]
    assert told == [str(tmp_path / "new"), str(out)]
    assert out.read_text().splitlines()[:-1] == before
    assert len(counted) == 4


def test_unfinished_shards_are_not_joined(calibrated, source, tmp_path, monkeypatch, capsys):
    inputs, out, sound = [tmp_path / name for name in "abcd"], tmp_path / "scores.csv", Scorer.score
    for path in inputs:
        write_clip(path, source[0])

    def score(*names, shard):
        given = [str(tmp_path / name) for name in names]
        return cli.main(["score", *given, "--checkpoint", str(calibrated), "--out", str(out), "--shard", shard])

    def refused(*facts):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["score", "--collect", "--out", str(out)])
        assert stopped.value.__context__.kind == "unfinished_shard"
        message = capsys.readouterr().err
        assert all(fact in message for fact in facts)
        assert not out.exists()

    def stopped_at_c(self, path, expression):
        if str(path).endswith("c"):
            raise KeyboardInterrupt
        return sound(self, path, expression)

    monkeypatch.setattr(Scorer, "score", stopped_at_c)
    with pytest.raises(SystemExit):
        score(*"abcd", shard="1/2")
    monkeypatch.setattr(Scorer, "score", sound)
    assert score(*"abcd", shard="2/2") == 0
    refused("c")
    assert score(*"abcd", shard="1/2") == 0
    assert score(*"bcd", shard="2/2") == 0  # now c is in both
    refused("c")
    assert score(*"bcd", shard="1/2") == 0
    with shards.locked(out, shards.parse("1/2")), pytest.raises(SystemExit) as stopped:
        cli.main(["score", "--collect", "--out", str(out)])
    assert stopped.value.__context__.kind == "in_use"
    assert cli.main(["score", "--collect", "--out", str(out)]) == 0
    with out.open() as file:
        assert [row["input"] for row in csv.DictReader(file)] == ["b", "c", "d"]


def test_a_table_keeps_apart_equal_names_in_two_folders(tmp_path, monkeypatch, capsys):
    row = {"input": "smile.csv", "status": "ok", "settings": "s", "model": "m"}
    out = tmp_path / "tables" / "scores.csv"
    for person in ("tables/anna", "tables/bob", "carl"):
        (tmp_path / person).mkdir(parents=True)
        monkeypatch.chdir(tmp_path / person)
        with Table(Path(os.path.relpath(out)), overwrite=False) as table:
            assert table.find("smile.csv", "s") is None
            table.add(row)
            assert table.find("smile.csv", "s")
    with out.open() as file:
        expected = ["anna/smile.csv", "bob/smile.csv", str(tmp_path / "carl" / "smile.csv")]
        assert [row["input"] for row in csv.DictReader(file)] == expected
    monkeypatch.chdir(tmp_path)
    for path in ("tables/anna/smile.csv", "tables/bob/../bob/smile.csv", "carl/smile.csv"):
        assert Table(out, overwrite=False).find(path, "s")
    assert not capsys.readouterr().err
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "smile.csv").touch()  # earlier versions wrote paths from where they ran
    Table(out, overwrite=False)
    assert "anna/smile.csv" in capsys.readouterr().err


def test_reports_of_two_models_do_not_overwrite_each_other(runs, source, tmp_path, undrawn):
    write_clip(tmp_path / "smile", source[0])
    for number, run in enumerate(runs):
        command = ["score", str(tmp_path / "smile"), "--checkpoint", str(run), "--out", str(tmp_path / f"{number}.csv")]
        assert cli.main([*command, "--report", str(tmp_path / "reports"), "--no-attribution"]) == 0
    assert len(os.listdir(tmp_path / "reports")) == 2


def test_a_name_that_is_not_unicode_is_refused_and_the_others_are_scored(calibrated, source, tmp_path, capsys, undrawn):
    write_clip(tmp_path / "zoe", source[0])
    bad = os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller")
    shutil.copytree(tmp_path / "zoe", bad)
    command = ["score", bad, str(tmp_path / "zoe"), "--checkpoint", str(calibrated), "--runtime", "jax"]
    command += ["--out", str(tmp_path / "scores.csv"), "--report", str(tmp_path / "reports"), "--no-attribution"]
    for _ in range(2):
        assert cli.main(command) == 1
        assert "ller" in capsys.readouterr().err
        with (tmp_path / "scores.csv").open(encoding="utf-8") as file:
            rows = {row["input"]: row["status"] for row in csv.DictReader(file)}
        assert sorted(rows.values()) == ["failed", "ok"]
        assert all(name.encode() for name in rows)


def test_changed_inputs_are_scored_again_and_other_rows_stay(calibrated, source, tmp_path, capsys, undrawn):
    """Files of two people share a name, a file is replaced, an option changes, and a failed row stays."""
    for person, clip in (("anna", source[0]), ("bert", source[1])):
        write_clip(tmp_path / person / "smile", clip)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    out, reports = tmp_path / "scores.csv", tmp_path / "reports"

    def score(*inputs, width=4.0):
        command = ["score", *(str(tmp_path / name) for name in inputs), "--checkpoint", str(calibrated)]
        cli.main([*command, "--out", str(out), "--report", str(reports), "--no-attribution", "--max-width", str(width)])
        with out.open() as file:
            rows = list(csv.DictReader(file))
        return {row["input"].removeprefix(f"{tmp_path}/"): row for row in rows}, capsys.readouterr().out, len(rows)

    score("broken.mp4")
    score("anna/smile")
    rows, _, count = score("bert/smile")
    assert (count, rows["broken.mp4"]["status"]) == (3, "failed")
    assert rows["anna/smile"]["report"] != rows["bert/smile"]["report"]
    assert len(list(reports.iterdir())) == 2
    again, said, _ = score("anna/smile", "bert/smile")
    assert "0 scored, 0 failed, 2 already in the table" in said
    assert again == rows
    other, said, count = score("anna/smile", width=4.5)
    assert "1 scored, 0 failed, 0 already in the table" in said
    assert (count, other["bert/smile"]) == (3, rows["bert/smile"])
    assert other["anna/smile"]["settings"] != rows["anna/smile"]["settings"]
    write_clip(tmp_path / "anna" / "smile", source[3], overwrite=True)
    replaced, said, _ = score("anna/smile", width=4.5)
    assert "1 scored" in said
    assert replaced["anna/smile"]["score"] != other["anna/smile"]["score"]


def test_a_failed_attempt_deletes_no_score(calibrated, source, tmp_path, capsys):
    clip, out = tmp_path / "anna", tmp_path / "scores.csv"
    write_clip(clip, source[0])
    command = ["score", str(clip), "--checkpoint", str(calibrated), "--out", str(out)]
    assert cli.main(command) == 0
    before = out.read_bytes()
    for option, value in (("--fps", "0"), ("--images-fps", "0"), ("--max-gap", "-1"), ("--max-width", "-1")):
        with pytest.raises(SystemExit) as stopped:
            cli.main([*command, option, value])
        assert (stopped.value.code, stopped.value.__context__.kind) == (1, "bad_option")
        assert out.read_bytes() == before

    clip.rename(tmp_path / "elsewhere")
    capsys.readouterr()
    for more in ([], ["--shard", "1/1"]):
        assert cli.main([*command, "--landmarks", "table", *more]) == 1
        printed = capsys.readouterr()
        assert "0 scored, 1 failed, 0 already in the table" in printed.out
        assert str(clip) in printed.err
        assert out.read_bytes() == before
    assert cli.main(["score", "--collect", "--out", str(out)]) == 0
    assert out.read_bytes() == before
    (tmp_path / "elsewhere").rename(clip)
    assert cli.main(command) == 0
    assert "1 already in the table" in capsys.readouterr().out


def test_a_second_score_on_one_table_is_refused_and_no_row_is_lost(calibrated, source, tmp_path, monkeypatch, capsys):
    for name in ("anna", "bert", "carl"):
        write_clip(tmp_path / name, source[0])
    out, score = tmp_path / "new" / "scores.csv", Scorer.score
    command = ["score", "--checkpoint", str(calibrated), "--out", str(out)]
    refused = []

    def score_while_another_starts(scorer, path, expression):
        if not refused:
            with pytest.raises(SystemExit) as stopped:
                cli.main([*command, str(tmp_path / "carl")])
            refused.append((stopped.value.code, stopped.value.__context__.kind, capsys.readouterr().err))
        return score(scorer, path, expression)

    monkeypatch.setattr(Scorer, "score", score_while_another_starts)
    assert cli.main([*command, str(tmp_path / "anna"), str(tmp_path / "bert")]) == 0
    ((code, kind, message),) = refused
    assert (code, kind, message.count("\n")) == (1, "in_use", 1)
    assert str(out) in message
    assert f"process {os.getpid()} " in message
    assert cli.main([*command, str(tmp_path / "carl")]) == 0  # the first has ended
    with out.open() as file:
        assert [Path(row["input"]).name for row in csv.DictReader(file)] == ["anna", "bert", "carl"]
    assert os.listdir(out.parent) == [out.name]


def test_a_full_disk_loses_no_earlier_row_of_a_table(tmp_path):
    rows = [{"input": str(tmp_path / name), "status": "ok", "model": "m", "settings": "s"} for name in "ab"]
    path = tmp_path / "scores.csv"
    with pytest.raises(OSError, match="No space left"), Table(path, overwrite=False) as table:  # noqa: PT012
        table.add(rows[0])
        table._file.close()
        table._file = open("/dev/full", "a", encoding="utf-8")  # noqa: SIM115
        table.add(rows[1])
    with Table(path, overwrite=False) as table:
        assert [table.find(row["input"], "s") is not None for row in rows] == [True, False]
        table.add(rows[1])
    assert [Path(row["input"]).name for row in csv.DictReader(path.read_text().splitlines())] == ["a", "b"]


def test_spellings_of_a_path_share_one_row_and_one_report(calibrated, source, tmp_path, monkeypatch, capsys, undrawn):
    write_clip(tmp_path / "clips" / "smile", source[0])
    (tmp_path / "link").symlink_to(tmp_path / "clips" / "smile")
    monkeypatch.chdir(tmp_path)
    spellings = ["clips/smile", "./clips/smile", str(tmp_path / "clips" / "smile"), "link", "clips/../clips/smile"]
    command = ["--checkpoint", str(calibrated), "--out", "scores.csv", "--report", "reports", "--no-attribution"]
    assert expand([*spellings[1:], str(tmp_path / "other.mp4"), spellings[0]]) == [
        spellings[1],
        str(tmp_path / "other.mp4"),
    ]
    for spelling in spellings:
        assert cli.main(["score", spelling, *command]) == 0
    assert capsys.readouterr().out.count("0 scored, 0 failed, 1 already in the table") == len(spellings) - 1
    with open("scores.csv") as file:
        assert [row["input"] for row in csv.DictReader(file)] == spellings[:1]
    assert len(os.listdir("reports")) == 1
    assert cli.main(["score", spellings[3], *command[:-3], "--max-width", "4.5"]) == 0
    with open("scores.csv") as file:
        assert [row["input"] for row in csv.DictReader(file)] == ["link"]  # scored again, in place of its row


def test_the_report_of_a_long_name_is_written(tmp_path):
    reports = Reports(tmp_path, False, None, "model")
    paths = [reports.path(f"/{person}/{'笑' * 83}.mp4") for person in ("anna", "ben")]
    for path in paths:
        path.touch()
    assert len(list(tmp_path.iterdir())) == 2
    assert reports.path("/anna/smile.mp4").name.startswith("smile-")


def test_the_folder_of_a_run_is_not_an_input(runs):
    """Its plots would be read as a video."""
    cv2.imwrite(str(runs[0] / "curves.png"), np.zeros((8, 8, 3), np.uint8))
    with user_error("bad_option", str(runs[0]), "--checkpoint"):
        expand([str(runs[0])])


def test_a_folder_expands_to_its_videos_or_its_clips(source, tmp_path):
    for name in ("b 2.mp4", "b 10.mov", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert expand([str(tmp_path)]) == [str(tmp_path / "b 2.mp4"), str(tmp_path / "b 10.mov")]
    for name in ("anna", "bert"):
        write_clip(tmp_path / "clips" / name, source[0])
    clips = [str(tmp_path / "clips" / name) for name in ("anna", "bert")]
    assert expand([str(tmp_path / "clips")]) == clips
    assert expand(clips) == clips
    (tmp_path / "frame.png").write_bytes(b"")
    with user_error("ambiguous_folder", tmp_path):
        expand([str(tmp_path)])


@pytest.mark.parametrize(
    ("given", "named"), [("--fps 10", "--fps"), ("--keep longest --max-gap 9", "--max-gap, --keep"), ("", None)]
)
def test_options_of_preprocessing_that_cannot_change_a_clip_are_named(given, named, tmp_path, capsys):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "clip.json").touch()
    command = ["score", str(tmp_path / "clip"), "--checkpoint", str(tmp_path), "--out", str(tmp_path / "scores.csv")]
    with pytest.raises(SystemExit):  # there is no run
        cli.main([*command, *given.split()])
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert [f" {named} " in line for line in warnings] == [True] * bool(given)


@pytest.mark.parametrize("other", ["bert.mp4", "1.jpg"])
def test_a_folder_of_clips_and_videos_is_not_read_in_part(other, tmp_path):
    for name in ("anna", ".anna-1234.old"):  # the second was left by a killed process
        (tmp_path / name).mkdir()
        (tmp_path / name / "clip.json").write_text("{}")
    assert expand([str(tmp_path)]) == [str(tmp_path / "anna")]
    (tmp_path / other).touch()
    with user_error("bad_option", tmp_path, other):
        expand([str(tmp_path)])


def test_a_folder_that_cannot_be_read_gets_a_row(runs, tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "1.png").symlink_to(tmp_path / "nothing")
    scorer = Scorer(runs[0])
    assert scorer.settings(tmp_path / "frames") == scorer.settings(tmp_path / "nothing")


def test_a_run_without_data_json_has_the_scale_of_its_calibration(calibrated, source, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(calibrated, run)
    config = json.loads((run / "config.json").read_text())
    config["data"]["name"] = "folder"
    (run / "config.json").write_text(json.dumps(config))
    scorer = Scorer(run)
    scale = scorer.evidence(scorer.score_clip(source[0]), attribute=False).scale
    assert (scale.low, scale.high) == (scorer.calibration.low, scorer.calibration.high)


def test_warnings_of_preprocessing_stay_with_the_clip(runs, source, tmp_path):
    write_clip(tmp_path / "anna", source[0])
    made = {"landmarks": "lucas-kanade", "warnings": ["another person is in view"]}
    (tmp_path / "anna" / "evidence.json").write_text(
        json.dumps(made | {"interpolated": [False] * len(source[0].landmarks)})
    )
    scored = Scorer(runs[0]).score(tmp_path / "anna")
    assert scored.landmark_source == "lucas-kanade"
    assert "another person is in view" in scored.warnings


@pytest.mark.parametrize(
    ("recorded", "asked", "expected"), [("frown", "", "frown"), ("frown", "smile", "smile"), ("", "", "")]
)
def test_the_expression_of_a_clip_is_the_one_asked_for_or_recorded(runs, source, tmp_path, recorded, asked, expected):
    info = dataclasses.replace(source[0].info, expression=recorded)
    write_clip(tmp_path / "anna", dataclasses.replace(source[0], info=info))
    scored = Scorer(runs[0]).score(tmp_path / "anna", asked)
    assert scored.clip.info.expression == expected
    assert any("frown" in warning for warning in scored.warnings) == (expected == "frown")  # the model knows smiles


def test_a_failing_library_does_not_stop_other_inputs(calibrated, source, tmp_path, monkeypatch, capsys):
    for name in ("a", "b"):
        write_clip(tmp_path / name, source[0])
    sound, out = Scorer.score, tmp_path / "scores.csv"

    def score(self, path, expression):
        if str(path).endswith("a"):
            raise RuntimeError("a library gave up")
        return sound(self, path, expression)

    monkeypatch.setattr(Scorer, "score", score)
    inputs = [str(tmp_path / name) for name in ("a", "b")]
    assert cli.main(["score", *inputs, "--checkpoint", str(calibrated), "--out", str(out)]) == 1
    with out.open() as file:
        rows = {row["input"]: row for row in csv.DictReader(file)}
    assert rows["a"]["reason"] == f"{inputs[0]}: RuntimeError: a library gave up"
    assert rows["b"]["status"] == "ok"

    # If a report cannot be written, the score stays; if a source cannot be opened, earlier rows stay.
    monkeypatch.setattr(Scorer, "score", sound)
    monkeypatch.setattr(Scorer, "evidence", lambda *_: 1 / 0)
    command = ["score", *inputs, "--checkpoint", str(calibrated), "--out", str(out)]
    assert cli.main([*command, "--report", str(tmp_path / "reports")]) == 1
    assert "no report" in capsys.readouterr().err
    table = out.read_text()
    assert table.count(",ok,") == 2
    (tmp_path / "video.mp4").write_bytes(b"no video")
    command.insert(1, str(tmp_path / "video.mp4"))
    with pytest.raises(SystemExit):
        cli.main([*command, "--landmarks", "mediapipe", "--models-dir", str(tmp_path)])
    assert out.read_text() == table


def test_a_missing_device_is_reported(calibrated, program, tmp_path):
    if jax.default_backend() != "cpu":
        pytest.skip("there is another device")
    options = "--checkpoint", str(calibrated), "--device", "tpu", "--out", str(tmp_path / "scores.csv")
    result = program("tramp_jax/__main__.py", "score", str(tmp_path), *options)
    assert result.returncode == 1
    assert result.stderr.startswith("error: --device tpu: ")


def test_an_interval_as_wide_as_the_scale_gets_a_warning(calibrated, source):
    scorer = Scorer(calibrated)
    c = scorer.calibration

    def doubts(**changes):
        scorer.calibration = dataclasses.replace(c, **changes)
        return [text for text in scorer.score_clip(source[0]).warnings if "of the scale" in text]

    assert "100%" in doubts(factor=100.0)[0]
    assert not doubts(factor=0.0)
    assert not doubts(low=2.0, high=2.0)  # all clips have the same rating


def test_landmarks_from_another_source_than_that_of_your_own_clips_get_a_warning(runs, source, tmp_path):
    """As ``tramp-jax preprocess`` records it, in a folder or packed. All sources of a few clips are known."""
    run, clips = tmp_path / "run", []
    shutil.copytree(runs[1], run)
    for number, name in enumerate(("mediapipe", "insightface", "")):
        write_clip(tmp_path / str(number), dataclasses.replace(source[number], landmark_source=name))
        clips.append(read_clip(tmp_path / str(number)))
        assert packed_clips.decode(packed_clips.encode(clips[-1])).landmark_source == name

    class Source(ClipSource):
        infos = tuple(clip.info for clip in clips)

        def __getitem__(self, index):
            return clips[index]

    part = Split(Source(), range(3))
    found = training_data.describe({"train": part, "validation": part}, Facts())
    assert found.landmark_source == "insightface, mediapipe"

    def warned(landmark_source, trained_on, caveat=""):
        dataclasses.replace(found, landmark_source=trained_on, caveat=caveat).save(run)
        clip = dataclasses.replace(source[0], landmark_source=landmark_source)
        scored = Scorer(run).score_clip(clip)
        return any("differ systematically" in text for text in scored.warnings)

    assert warned("lucas-kanade", "mediapipe")
    assert warned("lucas-kanade", "insightface, mediapipe", caveat="these were acted")
    assert not warned("mediapipe", "insightface, mediapipe")
    assert not warned("mediapipe", "")  # an older run, or clips that do not say
    assert not warned("", "mediapipe")


def test_a_clip_unlike_the_training_clips_gets_warnings(runs, source, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(runs[1], run)
    assert Scorer(run).expressions == ("smile",)  # an older run: that of its configuration
    people = {"train": 3}
    data = training_data.TrainingData({"train": 9}, people, ("frown", "smile"), 0.5, 7.0, 50.0, ("points63",))
    data.save(run)
    config = json.loads((run / "config.json").read_text())
    config["data"].update(name="folder", expression="")
    (run / "config.json").write_text(json.dumps(config))
    scorer = Scorer(run)
    info = dataclasses.replace(source[0].info, expression="pout")
    scored = scorer.score_clip(dataclasses.replace(source[0], info=info))
    assert any("trained on frown, smile, not on pout" in text for text in scored.warnings)
    assert any("25 frames per second" in text and "50" in text for text in scored.warnings)
    assert any("in layout points63, but these are in" in text for text in scored.warnings)
    info = dataclasses.replace(info, expression="frown")
    known = dataclasses.replace(source[0], info=info, fps=50.0, layout="points63")
    assert not any("trained on" in text for text in about_clip(scorer.members[0], known, ""))
    frames = tmp_path / "frames"
    frames.mkdir()
    cv2.imwrite(str(frames / "1.png"), np.zeros((8, 8, 3), np.uint8))
    for rate, wanted in ((25.0, 50.0), (47.0, None)):  # a similar rate stays
        options = PreprocessOptions(images_fps=rate)
        assert Scorer(run, options=options)._options_of(frames).fps == wanted
    scale = scorer.evidence(scored, attribute=False).scale
    assert (scale.low, scale.high) == (0.5, 7.0)
    for given, meant in (("smiel", "smile"), ("Frown", "frown")):
        with pytest.raises(SystemExit):
            cli.main(["score", "x.mp4", "--checkpoint", str(run), "--expression", given, "--out", str(tmp_path / "s")])
        assert f"did you mean {meant}?" in capsys.readouterr().err
    scorer.check_expression("pout")
    (run / run_folder.DATA).write_text("{")
    with user_error("damaged_file", run / run_folder.DATA):
        Scorer(run)


def test_a_real_video_gives_a_score(calibrated, real_video):
    pytest.importorskip("ai_edge_litert", reason="the mediapipe extra is not installed")
    scored = Scorer(calibrated).score(real_video("single_face.mp4"), "smile")
    assert np.isfinite(scored.score)
    assert scored.missing_ratio == 0
    assert len(scored.clip.frames) == 72
    assert decode_frame(scored.clip.frames[0]).shape == (256, 256, 3)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with user_error("not_a_run", tmp_path / "nothing", "train.py"):
        Scorer(tmp_path / "nothing")
    (tmp_path / "config.json").write_text(tiny.get_config().to_json())
    with user_error("missing_checkpoint", tmp_path):
        Scorer(tmp_path)


def test_a_pattern_that_nothing_matches_is_refused(calibrated, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["score", str(tmp_path / "*.mp4"), "--checkpoint", str(calibrated)])
    assert "*.mp4" in capsys.readouterr().err


def test_another_table_is_not_overwritten(calibrated, tmp_path, capsys):
    out = tmp_path / "results.csv"
    out.write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit):
        cli.main(["score", "x.mp4", "--checkpoint", str(calibrated), "--out", str(out)])
    assert "--out" in capsys.readouterr().err
    assert out.read_text() == "a,b\n1,2\n"


def test_a_damaged_calibration_is_named(runs, tmp_path):
    (tmp_path / "calibration.json").write_text('{"level": 0.9}')
    with user_error("damaged_file", tmp_path / "calibration.json"):
        calibration.load(tmp_path, ["a"])
