"""The recipe for few people, from training to a score, and the choice between it and the published model."""

import json
import pathlib
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from benchmarks import agreement, divisions
from configs import folder, synthetic
from tests import linear
from tests.conftest import ROOT
from tests.published_layouts import write_folder
from tests.raises import user_error
from tramp_jax import Scorer, experiment, run
from tramp_jax.cli import scripts
from tramp_jax.data import datasets

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the recipe for few people on a few drawn ones."""
    config = synthetic.get_config("few").unlock()
    config.data.update(num_subjects=20, clips_per_subject=1)
    config.train.update(epochs=1, evaluate_every=1)
    config.model.members = 2
    config.model.trajectory.length = 64
    config.evaluation.bootstrap = 20
    workdir = tmp_path_factory.mktemp("few") / "run"
    experiment.train(config.lock(), workdir)
    return workdir, config


@pytest.fixture(scope="module")
def linear_run(tmp_path_factory):
    """Cross-validation of six people in three folds, with a linear stand-in for the network."""
    config = synthetic.get_config("few").unlock()
    config.update_from_flattened_dict(linear.OPTIONS)
    config.model.update(members=1, ridge=False)
    config.model.trajectory.patch = 1
    config.data.update(num_subjects=6, clips_per_subject=1, protocol="k_fold", num_folds=3)
    config.train.update(epochs=1, evaluate_every=1, batch_size=2)
    config.evaluation.bootstrap = 100
    workdir = tmp_path_factory.mktemp("few") / "folds"
    with linear.linear_model():
        experiment.train(config.lock(), workdir)
    return workdir


def test_frames_have_no_share_in_the_scores_of_landmarks(trained, monkeypatch, capsys):
    workdir, config = trained
    shares = agreement.share_of_frames(workdir)
    np.testing.assert_array_equal(shares, np.zeros(len(experiment.open_folds(config).splits[None]["test"])))
    monkeypatch.setattr(agreement, "share_of_frames", lambda _: shares)  # explaining them again takes seconds
    agreement.main(["--streams", str(workdir)])
    assert "frames 0%" in capsys.readouterr().out


@pytest.mark.parametrize(("frames", "shares"), [((3.0, 0.0, -1.0), [0.75, 0.5]), ((0.0, 0.0, 0.0), [])])
def test_clips_whose_score_no_stream_changes_have_no_share(monkeypatch, capsys, frames, shares):
    effects = [SimpleNamespace(frames=np.array([x]), trajectory=np.array([np.sign(x)])) for x in frames]
    member = SimpleNamespace(config=None, output=None, variables=None, fold=None)
    folds = SimpleNamespace(splits={None: {"test": effects}})
    monkeypatch.setattr(agreement, "load_member", lambda _: member)
    monkeypatch.setattr(agreement, "Explainer", lambda *_: lambda _, clip: clip)
    monkeypatch.setattr(agreement.experiment, "open_folds", lambda *_: folds)
    np.testing.assert_array_equal(agreement.share_of_frames(pathlib.Path("run")), shares)
    agreement.main(["--streams", "run"])
    assert ("mean of 2 test clips" if shares else "no stream") in capsys.readouterr().out


def test_twenty_people_are_enough_for_three_steps_in_an_epoch(trained):
    workdir, config = trained
    rows = [json.loads(line) for line in (workdir / run.MEASUREMENTS).read_text().splitlines()]
    assert max(row["step"] for row in rows) == config.train.epochs * 3


def test_simple_methods_learn_from_the_same_people(trained):
    workdir, _ = trained
    found = json.loads((workdir / run.BASELINES).read_text())
    assert {"random forest", "SVR", "ridge", "model + SVR", "model, best"} <= set(found["spearman"])
    assert set(found["differences"]["spearman"]) == {
        "model, best − random forest",
        "model, best − SVR",
        "model, best − ridge",
        "model + SVR − random forest",
        "model + SVR − model, best",
    }
    assert (workdir / run.BASELINES_PLOT).is_file()
    assert not (workdir / run.CROSS_VALIDATION).exists()


def test_differences_are_defined_where_folds_hold_few_people(linear_run):
    """Resampled people may miss a fold, or be all alike in one."""
    found = json.loads((linear_run / run.CROSS_VALIDATION).read_text())["differences"]
    for pairs in found.values():
        for difference in pairs.values():
            assert difference["interval"] is None or difference["interval"][0] <= difference["interval"][1]
    assert any(each["interval"] for each in found["spearman"].values())


def test_both_runtimes_score_with_all_members(trained):
    workdir, config = trained
    clip = datasets.open_dataset(config).source[3]
    by_onnx, by_jax = (Scorer(workdir, runtime=name).score_clip(clip).score for name in ("onnx", "jax"))
    assert np.isfinite(by_onnx)
    assert by_onnx == pytest.approx(by_jax, abs=1e-4)


def test_own_clips_have_the_same_recipe():
    one, other = folder.get_config("few"), synthetic.get_config("few")
    assert one.model == other.model
    assert one.optimizer == other.optimizer
    assert folder.get_config().model.members == 1


# Several divisions


def test_a_person_counts_in_every_division(linear_run, capsys):
    """The same division twice says no more than once."""
    divisions.main([str(linear_run), str(linear_run), "--draws=100"])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines() if line]
    found = {row[0]: row[1:] for row in rows[rows.index(next(row for row in rows if row[0] == "spearman")) :]}
    for name, (first, second, both) in found.items():
        if "−" in name:
            assert first == second == both
    written = json.loads((linear_run / run.CROSS_VALIDATION).read_text())
    for name, entry in written["differences"]["spearman"].items():
        assert found[name][0] == divisions._text(entry)
    means = {name: [value for value in values if value is not None] for name, values in written["spearman"].items()}
    compared = [name for name in ("random forest", "SVR", "model, best") if means[name]]
    assert len(compared) >= 2
    for name in compared:
        assert float(found[name][2].split()[0]) == pytest.approx(np.mean(means[name]), abs=6e-4)


# The choice between this recipe and the published model


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The folder of a clip with two frames."""
    root = tmp_path_factory.mktemp("clip")
    [written] = write_folder(root, 1, num_frames=2)
    return root / written.info.id


@pytest.fixture
def people(clip, tmp_path):
    """``people(12)`` writes a list of 12 people, each with a copy of the same clip; returns its folder."""

    def write(count, frames=True, split=False):
        root, rows = tmp_path / "clips", ["path,subject,expression,score" + ",split" * split]
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for i in range(count):
            shutil.copytree(clip, root / f"c{i}", ignore=None if frames else shutil.ignore_patterns("*.jpg"))
            part = f",{'test' if i % 4 else 'train'}" * split
            rows.append(f"c{i},p{i:03d}x,{'frown' if i < 3 else 'smile'},{i % 5}{part}")
        (root / "clips.csv").write_text("\n".join([*rows, ""]))
        return root

    return write


def chosen(root, *options, recipe="configs/folder.py", resumed=None):
    """What train.py trains with this command line."""
    line = ["train.py", f"--config={ROOT / recipe}", f"--config.data.root={root}", *options]
    known = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=known, sys_argv=line)
    known(line)
    return scripts.chosen(known["config"], resumed)


def is_few(config):
    return config.model.trajectory == folder.get_config("few").model.trajectory


@pytest.mark.parametrize(("count", "few"), [(12, True), (99, True), (100, False), (120, False)])
def test_the_number_of_people_chooses(count, few, people, capsys):
    config = chosen(people(count))
    assert is_few(config) == few
    assert config.data.num_folds == (5 if few else 0)
    told = capsys.readouterr().out
    assert told.startswith(f"{count} people")
    assert f"configs/folder.py:{'published' if few else 'few'}\n" in told
    config.data.update(root="", num_folds=0)
    expected = folder.get_config("few" if few else "").unlock()
    expected.data.root = ""
    assert config.to_json(sort_keys=True) == expected.to_json(sort_keys=True)


def test_only_people_with_the_expression_and_the_rating_count(people):
    root = people(120)
    assert is_few(chosen(root, "--config.data.expression=frown"))
    rows = (root / "clips.csv").read_text().splitlines()
    rated = [f"{rows[0]},speed", *(f"{row},{i if i < 70 else ''}" for i, row in enumerate(rows[1:]))]
    (root / "clips.csv").write_text("\n".join(rated))
    assert not is_few(chosen(root))
    assert is_few(chosen(root, "--config.data.target=speed"))


def test_given_options_win_over_the_choice(people):
    root = people(12)
    config = chosen(root, "--config.model.members=5", "--config.data.num_folds=0", "--config.model.head.hidden=(8,)")
    assert is_few(config)
    assert (config.model.members, config.data.num_folds, config.model.head.hidden) == (5, 0, (8,))
    assert chosen(root, "--config.data.protocol=holdout").data.num_folds == 0
    assert chosen(people(12, split=True)).data.num_folds == 0


@pytest.mark.parametrize("option", ["init.all=weights.pth", "model.streams=rgb", "loss.landmarks=30"])
def test_weights_and_frames_ask_for_the_published_model(option, people, capsys):
    assert not is_few(chosen(people(12), f"--config.{option}"))
    assert "configs/folder.py:few" in capsys.readouterr().out


def test_a_given_size_is_not_chosen_again(people, capsys):
    assert not is_few(chosen(people(12), recipe="configs/folder.py:published"))
    few = chosen(people(120, frames=False), recipe="configs/folder.py:few")
    assert (is_few(few), few.data.num_folds, capsys.readouterr().out) == (True, 0, "")


def test_the_published_model_asks_for_frames(people):
    root = people(120, frames=False)
    with user_error("no_frames", "c0", "configs/folder.py:few"):
        chosen(root)
    assert not is_few(chosen(root, "--config.model.streams=trajectory"))


def test_a_list_without_people_is_left_to_training(people, capsys):
    root = people(0)
    with user_error("empty_list", root / "clips.csv"):
        experiment.open_folds(chosen(root))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("before", "after"), [(12, 120), (120, 12)])
@pytest.mark.parametrize("split", [True, False])
def test_a_resumed_run_is_not_chosen_again(before, after, split, people, tmp_path, capsys):
    run.prepare(chosen(people(before, split=split), "--config.seed=3"), tmp_path / "run", resume=False, overwrite=False)
    capsys.readouterr()
    config = chosen(people(after), "--config.seed=3", resumed=tmp_path / "run")
    run.check_same(tmp_path / "run", config)
    assert capsys.readouterr().out == ""
    with user_error("changed_options", "seed") as refused:
        run.check_same(tmp_path / "run", chosen(people(after), "--config.seed=4", resumed=tmp_path / "run"))
    assert "members" not in str(refused.value)


def test_a_recipe_of_ones_own_chooses_too(people, tmp_path, capsys):
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from configs.folder import SIZES\nfrom tramp_jax import config as defaults\nfrom configs import folder\n\n"
        "def get_config(argument=''):\n"
        "    given = defaults.recipe_arguments('mine.py', argument, side=['left', 'right'], size=SIZES)\n"
        "    config = folder.get_config(given.get('size', '')).unlock()\n"
        "    config.name = given.get('side', '')\n"
        "    config.data.num_folds = 7\n"
        "    return config.lock()\n"
    )
    for count in (12, 120):
        config = chosen(people(count), recipe=f"{recipe}:left")
        assert (is_few(config), config.name, config.data.num_folds) == (count == 12, "left", 7)
        assert f"{recipe}:left,{'published' if count == 12 else 'few'}" in capsys.readouterr().out
    assert not is_few(chosen(people(12), recipe=f"{recipe}:size=Published,left"))


@pytest.mark.slow
def test_a_clinic_trains_and_resumes(program, tmp_path):
    """With a linear stand-in for the network."""
    write_folder(tmp_path / "clips", 12, num_frames=9)
    line = ["--config", "configs/folder.py", f"--config.data.root={tmp_path / 'clips'}", "--config.model.members=1"]
    line += ["--config.train.epochs=1", "--config.train.evaluate_every=1", "--config.evaluation.baselines=False"]
    line += ["--config.data.fold=0", "--workdir", tmp_path / "run"]  # one of the five folds
    trained = program("tests/process_script.py", "train.py", *line)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.startswith("12 people, ")
    written = json.loads((tmp_path / "run" / run.CONFIG).read_text())
    assert (written["model"]["members"], written["data"]["num_folds"], written["model"]["ridge"]) == (1, 5, True)
    assert program("tests/process_script.py", "train.py", *line, "--resume").returncode == 0


def test_a_large_list_without_frames_is_refused_by_the_program(program, people):
    root = people(120, frames=False)
    result = program("train.py", "--config", "configs/folder.py", f"--config.data.root={root}")
    assert result.returncode == 1
    assert result.stdout.startswith("120 people, ")
    assert result.stderr.startswith("error: ")
    assert "configs/folder.py:few" in result.stderr
