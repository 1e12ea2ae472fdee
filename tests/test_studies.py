"""Studies: their files, their runs, their tables, and a kill in the middle."""

import csv
import itertools
import json
import pathlib
import re
import shutil
import signal
import sys
import time

import numpy as np
import pytest

from benchmarks import results_page
from configs import synthetic
from tests.linear import linear_model, measured
from tests.published_layouts import write_folder
from tests.raises import user_error
from tramp_jax import baselines, cli, evaluation, metrics
from tramp_jax.data.landmarks import MIRROR
from tramp_jax.files import locked
from tramp_jax.models import build_model
from tramp_jax.run import prepare
from tramp_jax.studies import plan, runner, table
from tramp_jax.studies import simple as simple_methods

ROOT = pathlib.Path(__file__).parents[1]
SIMPLE = """
title = "Two simple methods"
reference = "forest"
[[rows]]
name = "forest"
method = "random forest"
paper.synthetic = [50.0]
[[rows]]
name = "SVR, C = 3"
method = "SVR"
"""

LINEAR = """
[on.synthetic]
model.streams = "trajectory"
model.trajectory.channels = "xy"
loss.landmarks = 0.0
train.epochs = 2
[[rows]]
name = "whole"
[[rows]]
name = "cut"
"""


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def study_file(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture(scope="module")
def simple(tmp_path_factory):
    """The folder of a finished study of simple methods, with two seeds."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "mine.toml").write_text(SIMPLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert study(folder / "mine.toml", folder / "out", "--seeds", "2") == 0
    return folder


def study(file: pathlib.Path | str, out: pathlib.Path, *arguments: str) -> int:
    return cli.main(["study", str(file), "--quick", "--out", str(out), *arguments])


def cells(out: pathlib.Path) -> dict[tuple[str, str, str], dict[str, str]]:
    with (out / table.TABLE).open() as file:
        return {(row["row"], row["column"], row["metric"]): row for row in csv.DictReader(file)}


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "studies").glob("*.toml")))
def test_every_row_of_every_study_is_a_model_that_can_be_built(name):
    for data, quick in (("pfed5", False), ("neuroface", False), ("synthetic", True), ("folder", False)):
        study = plan.load(name, data, quick)
        for run in plan.runs(study, "", pathlib.Path("out"), 1):
            if not run.row.method:
                build_model(run.config.model)


def test_columns_are_those_of_the_recipe_or_of_the_study():
    study = plan.load("streams", "pfed5")
    runs = plan.runs(study, "DATA", pathlib.Path("out"), 2)
    assert list(study.columns) == ["sit_at_rest", "smile", "frown", "squeeze_eyes", "clench_teeth"]
    assert len(runs) == 7 * 5 * 2
    assert {run.config.data.root for run in runs} == {"DATA"}
    first = [run for run in runs if run.row.name == "both, C = 5" and run.seed == 1]
    assert [run.config.model.trajectory.length for run in first] == [64, 128, 128, 128, 128]
    assert first[0].folder == pathlib.Path("out/runs/both-c-5/sit-at-rest/1")
    scores = plan.load("classification", "neuroface")
    assert {run.config.data.target for run in plan.runs(scores, "", pathlib.Path("out"), 1)} == {
        "ROM",
        "speed",
        "symmetry",
    }


def test_a_rows_data_lies_inside_the_root():
    runs = plan.runs(plan.load("landmarks", "folder"), "clips", pathlib.Path("out"), 1)
    assert [run.config.data.root for run in runs][:2] == ["clips/insightface", "clips/mediapipe"]


@pytest.mark.parametrize(
    ("text", "kind", "facts"),
    [
        ("title = ", "bad_study", ["mine.toml"]),
        ('title = "x"', "bad_study", ["mine.toml", "[[rows]]"]),
        ('colums = 1\n[[rows]]\nname = "a"', "bad_study", ["'colums'"]),
        ('[[rows]]\nname = "a b"\n[[rows]]\nname = "A-B"', "bad_study", ["same name"]),
        ('reference = "b"\n[[rows]]\nname = "a"', "bad_study", ["'b'"]),
        ('[[rows]]\nname = "a"\n[columns.synthetic]\n"a b" = {}\na-b = {}', "bad_study", ["columns"]),
        ('[[rows]]\nname = "a"\n[columns.synthetic.mean]', "bad_study", ["mean"]),
        ('[[rows]]\nname = "a"\npaper.synthetic = 50.0', "bad_study", ["form"]),
        ('[[rows]]\nname = "a"\nmethod = "magic"', "bad_study", ["'magic'", "random forest"]),
        ('[[rows]]\nname = "a"\nmodell.streams = "rgb"', "bad_study", ["'modell'"]),
        ('[[rows]]\nname = "a"\npaper.synthetic = [1, 2, 3]', "bad_study", ["paper.synthetic"]),
        ('[[rows]]\nname = "a"\npaper.synthetic = ["1"]', "bad_study", ["numbers"]),
        ('[[rows]]\nname = "a"\nmodel.stream = "rgb"', "unknown_option", ["model.stream", "model.streams"]),
        ('[[rows]]\nname = "a"\ndata.colour = 1', "unknown_option", ["data.colour", "'a'"]),
        ('[[rows]]\nname = "a"\nmodel.streams = 3', "bad_option", ["model.streams", 3]),
        ('[[rows]]\nname = "a"\nmodel.streams = "sound"', "bad_option", ["model.streams", "sound"]),
    ],
)
def test_a_mistake_in_a_study_is_named(study_file, text, kind, facts):
    with user_error(kind, *facts):
        plan.runs(plan.load(study_file(text), "synthetic"), "", pathlib.Path("out"), 1)


def test_an_unknown_study_or_recipe_is_named_with_the_known_ones():
    with user_error("missing_study", "fusoin", "fusion"):
        plan.load("fusoin", "synthetic")
    with user_error("missing_recipe", "pfed", "pfed5"):
        plan.load("fusion", "pfed")


def test_a_recipe_may_build_on_another_in_the_same_folder(tmp_path, monkeypatch):
    """Beside the clone, and with the installed command, whose search path does not begin in this folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(ROOT))])
    for module in {"configs", "configs.synthetic"} & sys.modules.keys():
        monkeypatch.delitem(sys.modules, module)
    with user_error("missing_recipe", "first", "clone"):
        plan.load(str(ROOT / "studies/fusion.toml"), "first")
    (tmp_path / "configs").mkdir()
    shutil.copy(ROOT / "configs/synthetic.py", tmp_path / "configs/first.py")
    (tmp_path / "configs/second.py").write_text("from configs.first import get_config\n")
    (tmp_path / "configs/third.py").write_text("from configs.fourth import get_config\n")
    assert plan.load(str(ROOT / "studies/fusion.toml"), "second").recipe["get_config"]() == synthetic.get_config()
    with user_error("missing_recipe", "configs/third.py", "configs.fourth", "clone"):
        plan.load(str(ROOT / "studies/fusion.toml"), "third")


def test_the_table_holds_what_the_predictions_say(simple):
    out = simple / "out"
    found = cells(out)
    rhos = []
    for seed in (0, 1):
        written = evaluation.read_predictions(out / f"runs/forest/{seed}/evaluation/test-best")
        rhos.append(metrics.spearman(written.raw, written.target))
    forest, svr = found["forest", "mean", "spearman"], found["SVR, C = 3", "mean", "spearman"]
    np.testing.assert_allclose(float(forest["value"]), np.mean(rhos), atol=1e-6)
    np.testing.assert_allclose(float(forest["sd_over_seeds"]), np.std(rhos, ddof=1), atol=1e-6)
    np.testing.assert_allclose(float(svr["difference"]), float(svr["value"]) - float(forest["value"]), atol=2e-6)
    assert (forest["difference"], forest["paper"], svr["paper"]) == ("", "50.0", "")
    text = (out / table.MARKDOWN).read_text()
    assert f"{100 * np.mean(rhos):.1f}" in text
    assert (out / table.FIGURE).stat().st_size > 5000


def test_a_finished_study_only_remakes_the_table(simple, capsys):
    out = simple / "out"
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/**/*") if path.is_file()}
    text = (out / table.MARKDOWN).read_bytes()
    assert study(simple / "mine.toml", out, "--seeds", "2") == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/**/*") if path.is_file()} == before
    assert (out / table.MARKDOWN).read_bytes() == text


def test_a_run_that_was_deleted_is_done_again(simple, tmp_path, capsys):
    out = shutil.copytree(simple / "out", tmp_path / "out")
    shutil.rmtree(out / "runs/forest/1")
    assert study(simple / "mine.toml", out, "--seeds", "2") == 0
    assert (out / table.TABLE).read_bytes() == (simple / "out" / table.TABLE).read_bytes()


def test_shards_divide_the_runs_and_collect_joins_them(simple, tmp_path, capsys):
    for shard in ("1/3", "2/3"):
        assert study(simple / "mine.toml", tmp_path, "--seeds", "2", "--shard", shard) == 0
    assert not (tmp_path / table.MARKDOWN).exists()
    assert study(simple / "mine.toml", tmp_path, "--seeds", "2", "--collect") == 0
    assert [row["missing"] for row in cells(tmp_path).values()].count("1") == 3 * 2  # metrics × columns of one row
    assert study(simple / "mine.toml", tmp_path, "--seeds", "2", "--shard", "3/3") == 0
    assert study(simple / "mine.toml", tmp_path, "--seeds", "2", "--collect") == 0
    for name in (table.MARKDOWN, table.TABLE):
        assert (tmp_path / name).read_bytes() == (simple / "out" / name).read_bytes()


@pytest.mark.slow
def test_a_killed_study_ends_with_the_table_of_an_uninterrupted_one(simple, tmp_path, program):
    arguments = ("study", simple / "mine.toml", "--quick", "--seeds", "2", "--out", tmp_path)
    process = program("tramp_jax/__main__.py", *arguments, wait=False, PYTHONPATH=str(ROOT))
    first = tmp_path / "runs/forest/0.json"
    for _ in itertools.takewhile(lambda _: not first.exists(), range(2400)):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    ended = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*.json")}
    assert first in ended
    assert study(simple / "mine.toml", tmp_path, "--seeds", "2") == 0
    assert all(path.stat().st_mtime_ns == when for path, when in ended.items())
    for name in (table.MARKDOWN, table.TABLE):
        assert (tmp_path / name).read_bytes() == (simple / "out" / name).read_bytes()


@pytest.mark.slow
def test_a_training_that_is_killed_in_a_study_continues(study_file, tmp_path, program, capsys):
    """Both rows are the same model. The second one, which is killed, ends like the first one, which is not."""
    file, out = study_file(LINEAR), tmp_path / "out"
    killed = program("tests/study_script.py", "study", file, "--quick", "--out", out)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    whole, cut = out / "runs/whole/0", out / "runs/cut/0"
    ended = whole.with_suffix(".json").stat().st_mtime_ns
    assert not cut.with_suffix(".json").exists()
    with linear_model():
        assert study(file, out) == 0
    assert whole.with_suffix(".json").stat().st_mtime_ns == ended
    one, other = (measured(folder, "train") for folder in (whole, cut))
    assert [row["step"] for row in one] == [row["step"] for row in other] == [*range(1, 7)]
    np.testing.assert_allclose([row["loss"] for row in one], [row["loss"] for row in other], rtol=1e-5)
    assert cells(out)["cut", "mean", "mae"]["difference"] == "0.000000"


def test_a_failing_run_is_a_line_with_its_reason_and_is_tried_again(study_file, tmp_path, capsys):
    text = SIMPLE + '[[rows]]\nname = "nobody"\nmethod = "SVR"\ndata.expression = "yawn"\n'
    out = tmp_path / "out"
    assert study(study_file(text), out) == 0
    assert "yawn" in json.loads((out / "runs/nobody/0.json").read_text())["error"]
    assert "yawn" in (out / table.MARKDOWN).read_text()
    assert cells(out)["nobody", "mean", "spearman"]["value"] == ""
    assert cells(out)["forest", "mean", "spearman"]["value"]
    [nobody] = [
        run for run in plan.runs(plan.load(study_file(text), "synthetic", True), "", out, 1) if "nob" in str(run)
    ]
    assert not runner.is_done(nobody)


def test_a_row_that_has_changed_is_not_mixed_with_the_old_one(study_file, tmp_path, capsys):
    out = tmp_path / "out"
    assert study(study_file(SIMPLE), out) == 0
    capsys.readouterr()
    with pytest.raises(SystemExit):
        study(study_file(SIMPLE + "data.num_subjects = 25\n"), out)
    assert "num_subjects" in capsys.readouterr().err


def test_a_run_in_use_is_skipped(study_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(simple_methods, "fit", lambda config, folder, _: prepare(config, folder, False, False))
    runs = plan.runs(plan.load(study_file(SIMPLE), "synthetic", True), "", tmp_path / "out", 1)
    with locked(runs[0].folder):
        runner.execute(runs)
    assert runner.outcome(runs[0]) is None
    assert runner.is_done(runs[1])
    runner.execute(runs)
    assert all(map(runner.is_done, runs))


def test_an_outcome_that_says_nothing_is_named(study_file, tmp_path):
    [first, _] = plan.runs(plan.load(study_file(SIMPLE), "synthetic"), "", tmp_path, 1)
    first.outcome.parent.mkdir(parents=True)
    for text in ("{}", '{"error": null, "flops": "1e9"}'):
        first.outcome.write_text(text)
        with user_error("damaged_file", "0.json"):
            runner.outcome(first)


def test_options_apply_in_the_order_of_the_documentation(study_file):
    text = """
        [on.folder.data]
        root = "of the study"
        target = "of the study"
        [columns.folder.one.data]
        root = "of the column"
        [[rows]]
        name = "a"
        on.folder.data.expression = "of the row"
    """
    [first] = plan.runs(plan.load(study_file(text), "folder"), "root", pathlib.Path("out"), 1)
    data = first.config.data
    assert (data.root, data.target, data.expression) == ("root/of the column", "of the study", "of the row")


def test_zero_seeds_are_refused(study_file, tmp_path, capsys):
    with pytest.raises(SystemExit):
        study(study_file(SIMPLE), tmp_path / "out", "--seeds", "0")
    assert "--seeds" in capsys.readouterr().err


def part(column: str, clips: str, target: list[float], score: list[float], seed: int = 0) -> table.Part:
    """Predictions of clips called "a", "b", ..., each of a person of that name."""
    values = np.array(score)
    return table.Part(column, seed, evaluation.Written(list(clips), list(clips), np.array(target), values, values))


def test_a_mean_and_its_difference_are_of_the_same_columns_and_clips():
    whole = [part("smile", "abc", [1, 2, 3], [1, 2, 3]), part("frown", "abc", [1, 2, 3], [1, 3, 2])]
    half = [part("smile", "abcd", [1, 2, 3, 4], [1, 2, 3, 0])]
    of_both = table._figures("spearman", ["smile", "frown"], half, whole, 100)
    assert np.isnan([of_both.value, of_both.difference]).all()
    of_smile = table._figures("spearman", ["smile"], half, whole[:1], 100)
    assert of_smile.value < of_smile.difference == 0
    assert of_smile.difference_interval == (0, 0)


def test_people_are_drawn_with_their_clips_of_all_columns_and_seeds():
    """Two equal rows differ by nothing on any people; a seed without its columns has no spread."""
    rng = np.random.default_rng(0)
    parts = [part(c, "abcdef", [0, 1, 2, 3, 4, 5], rng.normal(size=6), s) for c in ("one", "two") for s in (0, 1)]
    figures = table._figures("spearman", ["one", "two"], parts, parts, 50)
    assert (figures.difference, figures.difference_interval) == (0, (0, 0))
    assert figures.interval[0] < figures.value < figures.interval[1]
    assert np.isnan(table._figures("spearman", ["one", "two"], parts[:-1], [], 0).spread)


def test_intervals_contain_the_spread_over_seeds():
    """One seed ranks all people as rated, the other one in reverse: any mean of drawn seeds is possible."""
    target = [0, 1, 2, 3, 4, 5]
    parts = [part("one", "abcdef", target, target, 0), part("one", "abcdef", target, target[::-1], 1)]
    none = [part("one", "abcdef", target, [1, 0, 3, 2, 5, 4], seed) for seed in (0, 1)]
    figures = table._figures("spearman", ["one"], parts, none, 200)
    assert figures.value == pytest.approx(0)
    assert figures.interval == pytest.approx((-1, 1))
    assert figures.difference_interval[0] < -1 < figures.difference < 0 < figures.difference_interval[1]


def test_a_difference_is_of_the_seeds_that_both_rows_have():
    rng = np.random.default_rng(0)
    parts = [part("one", "abcdef", [0, 1, 2, 3, 4, 5], rng.normal(size=6), seed) for seed in range(4)]
    for one, other in ((parts, parts[1:3]), (parts[:2], parts[1:])):
        figures = table._figures("spearman", ["one"], one, other, 50)
        assert (figures.difference, figures.difference_interval) == (0, (0, 0))
    assert np.isnan(table._figures("spearman", ["one"], parts[:2], parts[2:], 50).difference)


def test_any_name_leaves_the_tables_whole(study_file, tmp_path):
    study = plan.load(study_file('[[rows]]\nname = "+ motion | energy"\n'), "synthetic")
    text = table.write(study, plan.runs(study, "", tmp_path, 1), tmp_path, 0)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1
    with (tmp_path / table.TABLE).open() as file:
        assert {row["row"] for row in csv.DictReader(file)} == {"'+ motion | energy"}  # no formula


def test_the_study_of_the_documentation_runs_on_your_own_clips(study_file, tmp_path, capsys):
    text = (ROOT / "docs" / "studies.md").read_text().partition("```toml\n")[2].partition("```")[0]
    assert 0 < len(text.strip().splitlines()) <= 10
    write_folder(tmp_path / "clips", num_subjects=8, clips_per_subject=1, num_frames=20)
    out = tmp_path / "out"
    with linear_model():
        assert study(study_file(text), out, "--data", "folder:few", "--root", str(tmp_path / "clips")) == 0
    found = cells(out)
    assert {row for row, _, _ in found} == {"positions", "motion"}
    for row in ("positions", "motion"):
        assert json.loads((out / f"runs/{row}/0.json").read_text())["error"] is None
        assert float(found[row, "mean", "mae"]["value"]) >= 0
        assert float(found[row, "mean", "mae"]["parameters"]) > 1000


def test_dry_run_needs_no_data_and_the_page_of_results_has_its_sum(capsys):
    dry = ["study", "length", "--data", "neuroface", "--dry-run"]
    assert cli.main([*dry, "--tflops", "67.567"]) == 0  # an H100's 495 TFLOP/s × 135 / 989
    given = capsys.readouterr().out
    assert cli.main(dry) == 0
    out = capsys.readouterr().out
    assert "T = 256, SPREAD" in out
    # SPREAD: 103 clips in each of three folds, 5 passes, batches of 4, 100 epochs.
    assert f"{3 * 103} clips, {100 * (309 * 5 // 4):,} steps" in out
    assert given.splitlines()[:-1] == out.splitlines()[:-1]
    runs, steps, hours = re.match(r"(\d+) runs, ([\d,]+) steps, ([\d.]+) hours", out.splitlines()[-1]).groups()
    row = f"| length | neuroface | {runs} | {steps} | {hours} |"
    assert row in results_page.COSTS.read_text(), "run python -m benchmarks.results_page --costs"


def test_the_page_of_results_is_that_of_the_studies():
    assert results_page.page() == results_page.PAGE.read_text(), "run python -m benchmarks.results_page"


def test_geometric_features_see_the_side_that_moves():
    """A mirrored face has the same features with the sides exchanged."""
    rng = np.random.default_rng(0)
    points = np.cumsum(rng.normal(0, 0.01, (30, 63, 2)), axis=0) + rng.normal(0, 1, (63, 2))
    features = baselines.geometric_features(points, 25.0)
    mirrored = baselines.geometric_features(points[:, MIRROR] * (-1, 1), 25.0)
    assert features.shape == (32,)
    assert np.isfinite(features).all()
    np.testing.assert_allclose(features[:8], mirrored[:8])  # opening and width of the mouth
    np.testing.assert_allclose(features[12:16], mirrored[16:20])  # halves of the area between the lips
    np.testing.assert_allclose(features[20:24], mirrored[24:28])  # corners
    np.testing.assert_allclose(features[28:], mirrored[28:])
    np.testing.assert_allclose(features, baselines.geometric_features(3 * points, 25.0), rtol=1e-6)
