"""The benchmarks: the timing's arithmetic, counted FLOPs against XLA's, and every command on the tiny configuration."""

import importlib.util
import itertools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks import attention, costs, inference, timing, train_step
from tests import tiny
from tramp_jax.models import build_model

no_torch = importlib.util.find_spec("torch") is None
ROOT = pathlib.Path(__file__).parents[1]
RECIPE = """
from tests import tiny

def get_config():
    config = tiny.get_config().unlock()
    config.model.trajectory.update(widths=(32,), blocks_per_stage=1)  # compiles fastest
    return config
"""


@pytest.fixture
def recipe(tmp_path):
    """A recipe's file with the smallest model."""
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return path


@pytest.fixture(autouse=True)
def _quick_compile():
    """Programs run once or twice here: optimising them would take longest."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_ways_take_turns_and_the_first_run_is_not_measured():
    """A clock that only the ways advance: a takes 1, 2, 3 ... seconds, b always 6."""
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
    assert timing.comparison(seconds, "b", per=1, unit="s")[2:] == [
        "| a | 3.0 (2.0–4.0) | 2.00 (1.50–3.00) |",
        "| b | 6.0 (6.0–6.0) | 1 |",
    ]


def test_flops_by_hand_are_those_of_xla():
    """Products alone are counted by hand: what XLA counts beside them is small where widths are not."""
    config = tiny.get_config().unlock().model
    config.trajectory.update(widths=(128, 256), embed_width=128)
    config.fusion.width = 256
    shares = {"mapping": 1.01, "proj": 1.01, "MLP": 1.15, "G-Conv": 1.01, "down-sampling": 1.02}
    seen = set()
    for part in costs.trajectory_parts(config, batch=1):
        if part.kind in shares:
            seen.add(part.kind)
            assert 1 <= costs.part_cost(part)["XLA flops"] / part.flops <= shares[part.kind], part
    assert seen == set(shares)


def test_flops_of_the_frame_encoder_by_hand_are_those_of_xla():
    config = tiny.get_config().unlock().model
    config.name, config.streams = "former_dfer", "rgb"
    config.head.update(hidden=(), num_classes=0)
    config.rgb.update(widths=(32, 32, 64, 128), image_size=224)
    model = build_model(config)
    frames = jax.ShapeDtypeStruct((1, 16, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(frames.shape), None, None))
    counted = costs.xla_cost(lambda variables, x: model.apply(variables, x, None, None)[0], variables, frames)
    # XLA leaves out what is multiplied by padding: a fifth of the products of the last stage, of 7×7 positions.
    assert 0.85 < counted["flops"] / costs.frame_encoder_flops(config, 16) < 1.05


@pytest.mark.parametrize(
    ("command", "arguments", "sections"),
    [
        (costs, ["--batch", "1", "--side", "64", "--megabytes", "1"], 3),
        pytest.param(attention, ["--batch", "1"], 4, marks=pytest.mark.slow),
        pytest.param(inference, [], 2, marks=pytest.mark.slow),
    ],
    ids=["costs", "attention", "inference"],
)
def test_command_runs(command, arguments, sections, recipe, tmp_path):
    command.main(["--config", str(recipe), "--rounds", "1", "--out", str(tmp_path / "out"), *arguments])
    read_report(tmp_path / "out", sections)


@pytest.mark.slow
def test_training_step_runs_each_way(recipe, tmp_path):
    pytest.importorskip("torch")
    ways = ["--ways", "jax-float32", "torch-eager", "torch-bfloat16"]
    flags = ["--parts", "encoder", "step", "--encoder-batch", "2", "--batch", "2", *ways]
    train_step.main(["--config", str(recipe), "--rounds", "1", "--out", str(tmp_path / "out"), *flags])
    measured = read_report(tmp_path / "out", 2)["measured"]
    assert measured["trajectory encoder"]["difference"] < 1e-5
    assert set(measured["training step"]["seconds"]) == set(ways[1:])


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["train_step", "--parts", "compile", "--batch", "1"],
        ["scaling", "--batch", "2", "--rounds", "1"],
        pytest.param(["score", "--rounds", "1"], marks=pytest.mark.skipif(no_torch, reason="needs PyTorch")),
        ["input", "--clips", "8", "--batches", "1", "--rounds", "1"],
    ],
    ids=["compile", "scaling", "score", "input"],
)
def test_command_runs_in_a_process_of_its_own(command, recipe, tmp_path):
    name, *flags = command
    line = [sys.executable, "-m", f"benchmarks.{name}", *flags, "--config", recipe, "--out", tmp_path / "out"]
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    ran = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    measured = read_report(tmp_path / "out", 2 if name in ("score", "input") else 1)["measured"]
    if name == "scaling":
        assert set(measured["training step of 2 clips"]["seconds"]) == {"1", "2"}
    elif name == "score":
        assert len(measured["a clip of 40 frames"]["seconds"]) == 4
    elif name == "input":
        assert "Memory over two epochs" in next((tmp_path / "out").glob("*.md")).read_text()
    else:
        seconds = measured["first step of a new process"]["seconds"]
        assert seconds["again"]["step compiled"] < seconds["nothing compiled"]["step compiled"]


def read_report(folder, sections):
    (path,) = folder.glob("*.json")
    report = json.loads(path.read_text())
    assert len(report["measured"]) == sections
    assert {"processor", "cores", "devices", "jax", "load_before", "load_after"} <= set(report["machine"])
    text = path.with_suffix(".md").read_text()
    assert report["command"] in text
    assert text.count("\n## ") == sections
    return report
