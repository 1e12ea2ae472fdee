"""The benchmarks: arithmetic of the timing, FLOPs by hand against XLA's, and each command on a tiny configuration."""

import contextlib
import importlib.util
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tarfile

import jax.numpy as jnp
import pytest

from benchmarks import attention, costs, inference, new_people, parts, quick, scale_model, timing, train_step
from benchmarks import input as input_benchmark
from tests import tiny
from tests.linear import LinearInAll, linear_model
from tests.raises import user_error
from tramp_jax import evaluation
from tramp_jax.config import MODEL, base
from tramp_jax.scoring import onnx_judge
from tramp_jax.studies import cost, plan, runner, table

no_torch = importlib.util.find_spec("torch") is None
ROOT = pathlib.Path(__file__).parents[1]
RECIPE = """
from tests import tiny

def get_config():
    config = tiny.get_config().unlock()"""
INPUT = ["--clips", "8", "--batches", "1", "--rounds", "1"]
LITTLE_AHEAD = "config.train.read_ahead_mb = 1"
FEW_POINTS = "config.model.trajectory.update(num_points=12, neighbours=4, distant=3)"


def recipe_with(folder, *lines):
    """The file of a recipe with the smallest model and these changes."""
    path = folder / "recipe.py"
    path.write_text("\n    ".join([RECIPE, *lines, "return config\n"]))
    return path


@pytest.fixture
def recipe(tmp_path):
    """The file of a recipe for random inputs."""
    return recipe_with(tmp_path, FEW_POINTS)


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """The folder in which ``benchmarks.input`` keeps its data."""
    return tmp_path_factory.mktemp("layout")


def test_ways_take_turns_and_the_first_run_is_not_measured():
    """Only the ways advance the clock: a takes 1, 2, 3 ... seconds, b always 6."""
    now = [0.0]
    calls = []
    lengths = {"a": itertools.count(1.0), "b": itertools.repeat(6.0)}

    def way(name):
        def work():
            calls.append(name)
            now[0] += next(lengths[name])

        return work

    seconds = timing.take_turns({name: way(name) for name in "ab"}, rounds=3, clock=lambda: now[0])
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert seconds == {"a": [2.0, 3.0, 4.0], "b": [6.0] * 3}
    assert timing.spread(seconds["a"]) == timing.Spread(3.0, 2.0, 4.0)
    assert timing.ratios(seconds, "a", "b") == timing.Spread(2.0, 1.5, 3.0)
    assert timing.comparison(seconds, "b")[2:] == [
        "| a | 3000 (2000–4000) | 2.00 (1.50–3.00) |",
        "| b | 6000 (6000–6000) | 1 |",
    ]


def test_a_way_that_fails_or_starts_too_late_does_not_affect_the_others():
    now, runs = [0.0], itertools.count()

    def work():
        now[0] += 50.0

    def out_of_memory():
        if next(runs):  # the first is the warm-up
            raise RuntimeError("\nno | memory\nand more")

    ways = {"a": work, "b": out_of_memory, "c": work, "late": work}
    failed = {}
    seconds = timing.take_turns(ways, 2, clock=lambda: now[0], failed=failed, minutes=1)
    assert seconds == {"a": [50.0, 50.0], "c": [50.0, 50.0]}
    assert failed == {"b": "RuntimeError: no | memory", "late": "not started within 1 minutes"}
    assert timing.comparison(seconds, "b", failed=failed)[2:] == [
        "| a | 50000 (50000–50000) |  |",
        "| c | 50000 (50000–50000) |  |",
        "| late | did not run: not started within 1 minutes | |",
        "| b | did not run: RuntimeError: no / memory | |",
    ]
    with pytest.raises(RuntimeError):
        timing.take_turns({"b": out_of_memory}, rounds=3)


def test_unmeasured_runs_of_a_turn_come_before_the_measured_one():
    now, lengths = [0.0], itertools.cycle([9.0, 9.0, 1.0])  # slow after a pause

    def work():
        now[0] += next(lengths)

    seconds = timing.take_turns({"a": work}, 3, warm_up=0, clock=lambda: now[0], unmeasured=2)
    assert seconds == {"a": [1.0] * 3}


def test_short_calls_are_repeated_until_they_can_be_measured():
    now = [0.0]

    def call():
        now[0] += 0.001
        return jnp.zeros(())

    way, count = timing.repeated(call, least=0.02, clock=lambda: now[0])
    assert 20 <= count < 30
    start = now[0]
    way()
    assert now[0] - start == pytest.approx(count * 0.001)
    shown = [timing.digits(value) for value in (0.01234, 1.234, 12.34, 1234.5, 0)]
    assert shown == ["0.0123", "1.23", "12.3", "1234", "0"]


def test_report_is_written_after_every_section_even_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("BENCHMARK_COMMIT", raising=False)
    report = timing.Report("costs", ["--rounds", "1"], tmp_path / "out", ["float32"])
    report.add("first", ["a line"], value=1)
    assert read_report(tmp_path / "out", 1)["machine"]["commit"] is None
    report.add("second", ["a line"], value=2)
    assert read_report(tmp_path / "out", 2)["measured"]["first"] == {"value": 1}
    monkeypatch.setenv("BENCHMARK_COMMIT", "abc1234")
    assert timing.machine()["commit"] == "abc1234"


def test_flops_by_hand_are_those_of_xla():
    """Only products are counted by hand. With large widths, the rest that XLA counts is small."""
    config = tiny.get_config().unlock().model
    config.trajectory.update(widths=(128, 256), embed_width=128)
    config.fusion.width = 256
    config.rgb.update(widths=(32, 32, 64, 128), image_size=224)
    shares = {"mapping": 1.01, "proj": 1.01, "MLP": 1.15, "G-Conv": 1.01, "down-sampling": 1.02}
    shares |= {"stem of the frames": 1.01, "spatial transformer": 1.05, "temporal transformer": 1.03}
    # XLA leaves out products with padding: a fifth of those in the last stage, which has 7×7 positions.
    shares |= {f"ResNet stage {i}": 1.0 for i in (1, 2, 3, 4)} | {"fusion and head": 1.02}
    seen = set()
    fusions = []
    ways = [{"name": name} for name in MODEL["fusion"]["name"].known]
    for way in [*ways, {"name": "cross", "tokens": "sequence"}]:
        config.fusion.update(way)
        fusions.append(parts.fusion_part(config, 1))
    found = parts.trajectory_parts(config, 1), parts.frame_parts(config, 16), fusions
    for part in itertools.chain(*found):
        if part.kind in shares:
            seen.add(part.kind)
            least = 0.8 if "ResNet" in part.kind else 1
            assert least <= costs.part_cost(part)["XLA flops"] / part.flops <= shares[part.kind], part
    assert seen == set(shares)


def test_flops_of_the_whole_model_are_those_of_its_parts():
    """The parts leave out the stem of the trajectories, 4% of their FLOPs."""
    config = base().model
    frames = parts.total_flops(parts.frame_parts(config, config.rgb.num_frames))
    trajectories = parts.total_flops([*parts.trajectory_parts(config, 1), parts.fusion_part(config, 1)])
    assert cost.flops(config) == pytest.approx(frames + trajectories, rel=0.003)
    config.streams = "trajectory"
    assert 1.04 < cost.flops(config) / trajectories < 1.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "arguments", "sections"),
    [(attention, ["--batch", "1"], 2), (inference, [], 3)],
    ids=["attention", "inference"],
)
def test_command_runs(command, arguments, sections, recipe, tmp_path, monkeypatch):
    every_part = parts.trajectory_parts
    # One kind of attention among neighbours, and one among distant joints: all four would compile 48 programs.
    chosen = ("attention 1", "attention 4")
    monkeypatch.setattr(parts, "trajectory_parts", lambda *given: [x for x in every_part(*given) if x.kind in chosen])
    command.main(["--config", str(recipe), "--rounds", "1", "--out", str(tmp_path / "out"), *arguments])
    read_report(tmp_path / "out", sections)


@pytest.mark.slow
def test_training_step_runs_each_way(recipe, tmp_path):
    pytest.importorskip("torch")
    ways = ["--ways", "jax-float32", "torch-eager", "torch-bfloat16"]
    flags = ["--encoder-batch", "2", "--batch", "2", "--side", "64", *ways]
    train_step.main(["--config", str(recipe), "--rounds", "1", "--out", str(tmp_path / "out"), *flags])
    measured = read_report(tmp_path / "out", 4)["measured"]
    assert set(measured["first step of a new process, jax-float32"]["seconds"]) == {"nothing compiled", "again"}
    assert measured["trajectory encoder"]["difference"] < 1e-5
    assert set(measured["training step"]["seconds"]) == set(measured["training step"]["shares"]) == set(ways[1:])
    differences = measured["scores, training step"]["differences"]
    assert differences["jax-float32"] < 1e-5
    assert 1e-5 < differences["torch-bfloat16"] < 0.1


@pytest.mark.slow
def test_a_way_whose_process_ends_fails_alone(tmp_path):
    failed = {}
    with contextlib.ExitStack() as processes:
        way = train_step.in_own_process("jax-float32", ["--config", str(tmp_path / "missing.py")], processes)
        assert list(timing.take_turns({"broken": way, "sound": int}, 1, failed=failed)) == ["sound"]
    assert list(failed) == ["broken"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["scaling", "--batch", "2", "--rounds", "1"],
        pytest.param(["score", "--rounds", "1"], marks=pytest.mark.skipif(no_torch, reason="needs PyTorch")),
        ["input", *INPUT],
    ],
    ids=["scaling", "score", "input"],
)
def test_command_runs_in_its_own_process(command, layout, tmp_path):
    name, *flags = command
    lines = {
        "scaling": ['config.model.streams = "trajectory"', FEW_POINTS],
        "score": ["config.model.trajectory.patch = 1"],  # as in PyTorch
        "input": [LITTLE_AHEAD],
    }
    recipe = recipe_with(tmp_path, *lines[name])
    line = [sys.executable, "-m", f"benchmarks.{name}", *flags, "--config", recipe, "--out", tmp_path / "out"]
    line += ["--layout", layout] if name == "input" else []
    ran = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    measured = read_report(tmp_path / "out", {"score": 3, "input": 2}.get(name, 1))["measured"]
    if name == "scaling":
        assert set(measured["training step of 2 clips"]["seconds"]) == {"1", "2"}
    elif name == "score":
        assert len(measured["a clip of 40 frames"]["seconds"]) == 4 + onnx_judge.has_bfloat16()
    else:
        assert "Memory over two epochs" in next((tmp_path / "out").glob("*.md")).read_text()


@pytest.mark.slow
def test_caches_are_compared_in_training(layout, tmp_path):
    flags = ["--caches", *INPUT, "--layout", str(layout), "--config", str(recipe_with(tmp_path, LITTLE_AHEAD))]
    with linear_model(lambda _: LinearInAll()):
        input_benchmark.main([*flags, "--out", str(tmp_path / "out")])
    assert read_report(tmp_path / "out", 2)["measured"]["in training"]["losses_apart"] == 0
    assert "37×37" in next((tmp_path / "out").glob("*.md")).read_text()


@pytest.mark.slow
def test_script_for_a_gpu_leaves_reports_and_an_archive(recipe, tmp_path):
    flags = ["--config", recipe, "--rounds", "1", "--batch", "1", "--side", "64", "--megabytes", "1"]
    environment = os.environ | {"OUT": str(tmp_path), "PYTHON": sys.executable}
    script = ["bash", "benchmarks/gpu.sh"]
    line = [*script, "costs", "scaling", "--", *flags]
    ran = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
    read_report(tmp_path, 5)
    with tarfile.open(tmp_path / "reports.tar.gz") as archive:
        endings = {pathlib.Path(name).suffix for name in archive.getnames()}
    assert {".md", ".json", ".log"} <= endings
    assert subprocess.run([*script, "cost"], cwd=ROOT, capture_output=True, check=False).returncode == 2


def read_report(folder, sections):
    (path,) = folder.glob("*.json")
    report = json.loads(path.read_text())
    assert len(report["measured"]) == sections
    assert {"processor", "cores", "devices", "jax", "load_before", "load_after"} <= set(report["machine"])
    text = path.with_suffix(".md").read_text()
    assert report["command"] in text
    assert text.count("\n## ") == sections
    return report


def test_quick_prints_ratios_beside_those_that_were_kept(tmp_path, monkeypatch, capsys):
    now = [2.0]
    for name in ("starts", "caches", "scoring", "training"):
        measured = {name: lambda rounds, name=name: {name: timing.spread([now[0]] * rounds)}}
        monkeypatch.setattr(quick, name, measured[name])
    quick.main(["--out", str(tmp_path), "--keep"])
    now[0] = 1.5
    monkeypatch.setattr(quick, "caches", lambda rounds: {})
    quick.main(["--out", str(tmp_path)])
    assert "| starts | 1.50 (1.50–1.50) | 2.0 |" in capsys.readouterr().out
    assert json.loads((tmp_path / "quick.json").read_text())["ratios"]["caches"] == 2.0
    quick.main(["--out", str(tmp_path), "--keep"])  # one run, one machine
    assert "caches" not in json.loads((tmp_path / "quick.json").read_text())["ratios"]


@pytest.mark.slow
def test_quick_prepares_the_step_of_the_recipe_for_both_sides(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(timing, "take_turns", lambda ways, rounds: {name: [1.0] * rounds for name in ways})
    assert list(quick.training(1)) == ["train: step, times torch-eager"]


def test_a_study_is_tested_on_new_people(tmp_path, monkeypatch, capsys):
    """A network, here a linear one, and a simple method get the same new people; the study stays as it is."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(table, "DRAWS", 10)
    file, old, new = tmp_path / "small.toml", tmp_path / "old", tmp_path / "new"
    file.write_text("""
        [on.synthetic]
        data.num_subjects = 15
        model.streams = "trajectory"
        model.trajectory.channels = "xy"
        train.epochs = 1
        loss.landmarks = 0.0
        evaluation.baselines = false
        evaluation.bootstrap = 0
        [[rows]]
        name = "linear"
        [[rows]]
        name = "forest"
        method = "random forest"
    """)
    with linear_model():
        runner.execute(plan.runs(plan.load(str(file), "synthetic"), "", old, 1))
        before = {path: path.stat().st_mtime_ns for path in old.rglob("*")}
        with user_error("unfinished_run", old / "runs/linear/1"):
            new_people.main([str(file), str(old), "--seeds", "2", "--people", "1", "--out", str(tmp_path / "two")])
        new_people.main([str(file), str(old), "--seeds", "1", "--people", "15", "--out", str(new)])
    assert {path: path.stat().st_mtime_ns for path in old.rglob("*")} == before
    assert "15 test people" in capsys.readouterr().out
    reports = [f"runs/{row}/0/evaluation/test-best" for row in ("linear", "forest")]
    linear, forest = (evaluation.read_predictions(new / report) for report in reports)
    assert len(set(linear.subjects)) == len(linear.clips) == 15
    assert (linear.clips, linear.target.tolist()) == (forest.clips, forest.target.tolist())
    # They are as many as the people of the study. If they were the same people, some raw values would be the same.
    assert not set(linear.raw) & set(evaluation.read_predictions(old / reports[0]).raw)


def test_the_model_of_scale_follows_its_peaks():
    clip = scale_model.Clip(flops=2e12, touched=1e9, frames=1e6, gradients=1e8)
    machine = scale_model.Machine(tflops=100, memory=1000, within=400, between=50, host=200)
    one, eight, many = (scale_model.row(clip, machine, devices, 8 * devices) for devices in (1, 8, 64))
    assert one["all-reduce"] == 0
    assert (one["arithmetic"], one["memory"], one["input"]) == pytest.approx((160, 8, 40))
    assert (one["first"], eight["first"]) == ("arithmetic", "input")  # one server feeds eight devices
    assert eight["steps/s"] == pytest.approx(1000 / 320)
    assert eight["cached steps/s"] == pytest.approx(1000 / (160 + 2 * 7 / 8 * 1e8 / 4e11 * 1e3))
    assert many["all-reduce"] == pytest.approx(2 * 63 / 64 * 2)
