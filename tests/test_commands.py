"""train.py and eval.py as a user runs them: whole runs, resuming, devices, and mistakes."""

import json
import re
import signal
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

from configs import pfed5, youtubepd
from tests import tiny
from tramp_jax import commands
from tramp_jax.reporting import read_metrics

TINY = ("--config", "tests/tiny.py")


@pytest.fixture(scope="module")
def finished_run(program, tmp_path_factory):
    """A whole training run, with what it printed."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    result = program("train.py", *TINY, "--workdir", workdir)
    assert result.returncode == 0, result.stderr
    return workdir, result


def _losses(workdir):
    return [row["loss"] for row in read_metrics(workdir) if row["kind"] == "train"]


def _arrays(workdir, which="last"):
    (step,) = (workdir / "checkpoints" / which).iterdir()
    return int(step.name), ocp.StandardCheckpointer().restore(step / "variables")


def _equal(a, b):
    import jax

    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_a_run_leaves_metrics_plots_and_both_checkpoints(finished_run):
    workdir, result = finished_run
    steps = 10 * 2 // 8 * 3  # 10 training clips, two passes, batches of 8, three epochs
    assert len(_losses(workdir)) == steps
    assert _arrays(workdir)[0] == steps
    for name in (
        "config.json",
        "curves.png",
        "evaluation/test-best/scatter.png",
        "evaluation/test-last/predictions.csv",
    ):
        assert (workdir / name).stat().st_size > 0, name
    assert any((workdir / "tensorboard").iterdir())
    report = json.loads((workdir / "evaluation/test-best/metrics.json").read_text())
    assert set(report["all"]) == {"spearman", "pearson", "mae", "rmse", "relative_l2", "auroc"}
    assert "epoch 3/3" in result.stdout
    assert "chosen on validation subjects" in result.stdout


def test_losses_are_recorded_in_tensorboard_too(finished_run):
    from tensorboardX.proto import event_pb2

    workdir, _ = finished_run
    (path,) = (workdir / "tensorboard").iterdir()
    raw, events = path.read_bytes(), []
    while raw:  # length, its checksum, the event, its checksum
        size = int.from_bytes(raw[:8], "little")
        events.append(event_pb2.Event.FromString(raw[12 : 12 + size]))
        raw = raw[16 + size :]
    logged = [v.simple_value for e in events for v in e.summary.value if v.tag == "train/loss"]
    np.testing.assert_allclose(logged, _losses(workdir), rtol=1e-6)


def test_eval_reproduces_the_report_of_the_run(finished_run, program):
    workdir, _ = finished_run
    path = workdir / "evaluation/test-last/predictions.csv"
    before = path.read_text()
    path.unlink()
    result = program("eval.py", "--workdir", workdir, "--checkpoint", "last")
    assert result.returncode == 0, result.stderr
    assert path.read_text() == before
    assert "spearman" in result.stdout


def test_a_killed_run_resumes_to_the_same_bits(finished_run, program, tmp_path):
    whole, _ = finished_run
    workdir = tmp_path / "killed"
    process = program("train.py", *TINY, "--workdir", workdir, wait=False)
    # A random step after the first checkpoint: kill it with no chance to clean up.
    kill_at = np.random.default_rng().integers(3, 6)
    deadline = time.time() + 300
    while len(_losses(workdir)) < kill_at:
        assert process.poll() is None, process.stderr.read()
        assert time.time() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    result = program("train.py", "--workdir", workdir, "--resume")
    assert result.returncode == 0, result.stderr
    assert _losses(workdir) == _losses(whole)
    for which in ("last", "best"):
        (step, ours), (reference_step, reference) = _arrays(workdir, which), _arrays(whole, which)
        assert step == reference_step
        assert _equal(ours, reference)


def test_an_interrupted_run_saves_its_state_and_resumes(finished_run, program, tmp_path):
    whole, _ = finished_run
    workdir = tmp_path / "interrupted"
    process = program("train.py", *TINY, "--workdir", workdir, wait=False)
    while len(_losses(workdir)) < 1:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "--resume" in err
    assert "Traceback" not in err
    assert program("train.py", "--workdir", workdir, "--resume").returncode == 0
    assert _losses(workdir) == _losses(whole)


def test_eight_devices_give_the_losses_of_one(program, tmp_path):
    # The published optimiser: Adam's division by small second moments would magnify rounding from step to step.
    options = ("--config.optimizer.name=sgd", "--config.optimizer.learning_rate=1e-3", "--config.optimizer.clip_norm=0")
    curves = []
    for devices in (1, 8):
        workdir = tmp_path / str(devices)
        result = program("train.py", *TINY, *options, "--workdir", workdir, devices=devices)
        assert result.returncode == 0, result.stderr
        curves.append(_losses(workdir))
    assert np.ptp(curves[0]) > 0.1
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)


def test_training_starts_from_given_weights_and_leaves_the_frozen_ones(finished_run, program, tmp_path):
    whole, _ = finished_run
    workdir = tmp_path / "tuned"
    options = (f"--config.init.all={whole}", "--config.freeze=('rgb_encoder', 'trajectory_encoder/stage_*')")
    result = program("train.py", *TINY, *options, "--config.train.epochs=1", "--workdir", workdir)
    assert result.returncode == 0, result.stderr
    (_, tuned), (_, given) = _arrays(workdir), _arrays(whole, "best")
    for collection in ("params", "batch_stats"):
        assert _equal(tuned[collection]["rgb_encoder"], given[collection]["rgb_encoder"])
    trajectory, before = (x["params"]["trajectory_encoder"] for x in (tuned, given))
    assert _equal(trajectory["stage_2_block_0"], before["stage_2_block_0"])
    for trained in ("fusion", "head"):
        assert not _equal(tuned["params"][trained], given["params"][trained])
    assert not _equal(trajectory["stem_0"], before["stem_0"])
    table = (workdir / "initialisation.txt").read_text()
    assert re.search(r"params/rgb_encoder .*loaded", table)
    assert re.search(r"frozen: \d+ of \d+ arrays", table)
    assert table.strip() in result.stdout


# What is asked for (options of the configuration, or what surrounds it), and what the message must hold.
MISTAKES = {
    "an existing folder": ({"existing": True}, "--resume"),
    "resuming with other options": (
        {"existing": True, "resume": True, "optimizer.learning_rate": 0.5},
        "learning_rate",
    ),
    "resuming nothing": ({"resume": True}, "without --resume"),
    "no recipe": ({"config": lambda: None}, "--config"),
    "an unknown data set": ({"data.name": "pfed"}, "known: synthetic"),
    "an expression that is not there": ({"data.expression": "yawn"}, "it has: smile"),
    "a wrong stream": ({"model.streams": "all"}, "both, rgb, trajectory"),
    "a loss without its head": ({"loss.name": "cross_entropy"}, "num_classes"),
    "a frozen part that is not there": ({"freeze": ("rgb_encodr",)}, "rgb_encoder"),
    "weights that are not there": ({"init.all": "weights.pth"}, "weights.pth"),
    "absent landmarks": ({"config": youtubepd.get_config}, "git clone"),
    "absent PFED5": ({"config": pfed5.get_config}, "request form"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_message(mistake, finished_run, tmp_path, capsys):
    options, cure = MISTAKES[mistake]
    workdir = finished_run[0] if options.pop("existing", False) else tmp_path / "new"
    config, resume = options.pop("config", tiny.get_config)(), options.pop("resume", False)
    if config is not None:
        with config.unlocked():
            config.update_from_flattened_dict(options)
    with pytest.raises(SystemExit) as stopped, commands.told():
        commands.train(config, workdir, resume=resume, overwrite=False)
    assert stopped.value.code == commands.EXIT_ERROR
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert cure in message


def test_a_config_typo_names_the_closest_key(program, tmp_path):
    result = program("train.py", *TINY, "--workdir", tmp_path / "new", "--config.optimizer.learning_rat=0.1")
    assert result.returncode != 0
    assert re.search(r"learning_rate\b", result.stderr)
    assert "Traceback" not in result.stderr


def test_a_loss_that_is_not_finite_stops_the_run(program, tmp_path):
    options = ("--config.optimizer.learning_rate=1e30", "--config.optimizer.clip_norm=0.0")
    result = program("train.py", *TINY, "--workdir", tmp_path / "diverging", *options)
    assert result.returncode == 1
    assert re.search(r"the loss is (nan|inf) at step \d", result.stderr)
    assert "learning_rate" in result.stderr


@pytest.mark.parametrize(
    ("existing", "checkpoint", "split", "cure"),
    [
        (False, "best", "test", "train.py"),
        (True, "77", "test", "last: [6]"),
        (True, "last", "tset", "train, validation, test"),
    ],
)
def test_eval_mistakes_are_told_in_one_message(existing, checkpoint, split, cure, finished_run, tmp_path, capsys):
    with pytest.raises(SystemExit), commands.told():
        commands.evaluate(finished_run[0] if existing else tmp_path, checkpoint, split, "")
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert cure in message


def test_a_batch_that_the_devices_cannot_share_is_refused(program, tmp_path):
    result = program("train.py", *TINY, "--workdir", tmp_path / "new", "--config.train.batch_size=7", devices=2)
    assert result.returncode == 1
    assert "multiple of 2" in result.stderr
    assert "Traceback" not in result.stderr
