"""train.py and eval.py as a user runs them: whole runs, resuming, devices, and mistakes."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from absl import flags
from ml_collections import config_flags

from configs import pfed5, youtubepd
from tests import linear, tiny
from tests.conftest import ROOT
from tests.raises import user_error
from tramp_jax import evaluation, experiment, metrics, sharding, trainer, training_data, training_log
from tramp_jax.batches import pipeline
from tramp_jax.cli import scripts
from tramp_jax.cli.exit_codes import BUG, EXIT_ERROR, EXIT_INTERRUPTED, exit_codes
from tramp_jax.data.source import Facts
from tramp_jax.errors import Interrupted, UserError
from tramp_jax.files import locked
from tramp_jax.training_log import read_metrics

STEPS = 10 * 2 // 8 * 3  # 10 training clips, two passes, batches of 8, three epochs


def _train(workdir, resume=False, **options):
    """train.py without its own process; ``options`` are of the tiny configuration, with __ for dots."""
    config = tiny.get_config()
    with config.unlocked():
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in options.items()})
    experiment.train(config, workdir, resume)


LINEAR = {name.replace(".", "__"): value for name, value in linear.OPTIONS.items()} | {"train__epochs": 10}
LINEAR_STEPS = 10 * 2 // 8 * 10


@pytest.fixture
def linear_model():
    """Trains ``LINEAR`` in a moment, where the model is not the point."""
    with linear.linear_model():
        yield


@pytest.fixture(scope="module")
def finished_linear_run(tmp_path_factory):
    """A whole training run of the linear model."""
    workdir = tmp_path_factory.mktemp("runs") / "linear"
    with linear.linear_model():
        _train(workdir, **LINEAR)
    return workdir


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A whole training run."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    _train(workdir)
    return workdir


def _losses(workdir):
    return [row["loss"] for row in read_metrics(workdir) if row["kind"] == "train"]


def _arrays(workdir, which="last"):
    (step,) = (workdir / "checkpoints" / which).iterdir()
    return int(step.name), ocp.StandardCheckpointer().restore(step / "variables")


def _equal(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def _wait_for_steps(workdir, count, alive):
    deadline = time.time() + 300
    while len(_losses(workdir)) < count:
        assert alive()
        assert time.time() < deadline
        time.sleep(0.01)


def test_a_run_leaves_metrics_plots_and_both_checkpoints(finished_run):
    assert len(_losses(finished_run)) == STEPS
    assert _arrays(finished_run)[0] == STEPS
    files = "config.json", "curves.png", "evaluation/test-best/scatter.png", "evaluation/test-last/predictions.csv"
    files += "evaluation/test-best/agreement.png", "usual_motion.json"
    for name in files:
        assert (finished_run / name).stat().st_size > 0, name
    report = json.loads((finished_run / "evaluation/test-best/metrics.json").read_text())
    assert set(report["all"]) == set(metrics.REGRESSION)
    assert np.sum(report["confusion"]["clips"]) == report["clips"]
    assert "selected on validation subjects" in report["title"]
    data = training_data.load(finished_run, tiny.get_config())
    assert (data.clips["train"], data.expressions) == (10, ("smile",))
    assert data.people["train"] + data.people["validation"] + data.people["test"] == tiny.get_config().data.num_subjects
    assert 0 <= data.low < data.high <= 4


def test_losses_are_recorded_in_tensorboard_too(finished_run):
    from tensorboardX.proto import event_pb2

    (path,) = (finished_run / "tensorboard").iterdir()
    raw, events = path.read_bytes(), []
    while raw:  # length, its checksum, the event, its checksum
        size = int.from_bytes(raw[:8], "little")
        events.append(event_pb2.Event.FromString(raw[12 : 12 + size]))
        raw = raw[16 + size :]
    logged = [v.simple_value for e in events for v in e.summary.value if v.tag == "train/loss"]
    np.testing.assert_allclose(logged, _losses(finished_run), rtol=1e-6)


def test_eval_reproduces_the_report_of_the_run(finished_linear_run, program):
    path = finished_linear_run / "evaluation/test-last/predictions.csv"
    before = path.read_text()
    path.unlink()
    result = program("tests/process_script.py", "eval.py", "--workdir", finished_linear_run, "--checkpoint", "last")
    assert result.returncode == 0, result.stderr
    assert path.read_text() == before
    assert "spearman" in result.stdout


def _check_resumes(workdir, whole, capsys):
    """Resumes a run that was killed after its first checkpoint, and compares it with a whole one."""
    assert any((workdir / "checkpoints" / "last").iterdir())
    experiment.train(None, workdir, resume=True)  # the run knows its own configuration
    assert "epoch 1/" not in capsys.readouterr().out
    assert _losses(workdir) == _losses(whole)
    for which in ("last", "best"):
        (step, ours), (reference_step, reference) = _arrays(workdir, which), _arrays(whole, which)
        assert step == reference_step
        assert _equal(ours, reference)


def test_a_killed_run_resumes_to_the_same_bits(linear_model, finished_linear_run, program, tmp_path, capsys):
    workdir = tmp_path / "killed"
    flags = [f"--config.{name.replace('__', '.')}={value}" for name, value in LINEAR.items()]
    # A random step after the first checkpoint and before the last step.
    kill = "train.py", "SIGKILL", np.random.default_rng().integers(3, LINEAR_STEPS)
    process = program("tests/process_script.py", *kill, "--config", "tests/tiny.py", *flags, "--workdir", workdir)
    assert process.returncode == -signal.SIGKILL, process.stderr
    _check_resumes(workdir, finished_linear_run, capsys)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_resumes_to_the_same_bits(finished_run, program, tmp_path, capsys):
    """With the network, and from outside, whatever the run is doing."""
    workdir = tmp_path / "killed"
    process = program("train.py", "--config", "tests/tiny.py", "--workdir", workdir, wait=False)
    _wait_for_steps(workdir, np.random.default_rng().integers(3, STEPS), lambda: process.poll() is None)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    _check_resumes(workdir, finished_run, capsys)


def test_a_run_killed_before_its_first_checkpoint_starts_again_from_its_given_weights(
    linear_model, finished_linear_run, tmp_path, monkeypatch
):
    options = LINEAR | {"init__all": str(finished_linear_run), "train__epochs": 1}
    _train(tmp_path / "whole", **options)
    with monkeypatch.context() as patched:
        patched.setattr(training_log.Reporter, "write", _interrupt)
        with pytest.raises(Interrupted):
            _train(tmp_path / "cut", **options)
    assert not list((tmp_path / "cut/checkpoints/last").iterdir())
    _train(tmp_path / "cut", resume=True, **options)
    assert _losses(tmp_path / "cut") == _losses(tmp_path / "whole")
    assert _equal(_arrays(tmp_path / "cut")[1], _arrays(tmp_path / "whole")[1])


def _interrupt(*_):
    raise KeyboardInterrupt


def test_a_second_trainer_on_a_run_is_refused(finished_run, program, tmp_path, monkeypatch):
    """Neither --resume nor --overwrite touches a run that trains. Only the first of several processes locks it."""
    files = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    with locked(finished_run):
        for resume in (True, False):
            with user_error("in_use", finished_run, f"process {os.getpid()} "):
                experiment.train(tiny.get_config(), finished_run, resume, overwrite=not resume)
        result = program("train.py", "--workdir", finished_run, "--resume")
        assert (result.returncode, result.stdout) == (EXIT_ERROR, "")
        assert result.stderr.startswith("error: ")
        monkeypatch.setattr(sharding, "is_first_process", lambda: False)
        _train(finished_run, resume=True)
    assert {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")} == files


def test_an_interrupted_run_saves_its_state_and_resumes(linear_model, finished_linear_run, tmp_path, capsys):
    workdir = tmp_path / "interrupted"

    def interrupt():
        _wait_for_steps(workdir, 1, lambda: True)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(SystemExit) as stopped, exit_codes():
        _train(workdir, **LINEAR)
    thread.join()
    assert stopped.value.code == EXIT_INTERRUPTED
    assert "--resume" in capsys.readouterr().err
    step = _arrays(workdir)[0]
    assert 0 < step < LINEAR_STEPS
    _train(workdir, resume=True, **LINEAR)
    assert re.search(rf"\bstep {step} of {LINEAR_STEPS}\b", capsys.readouterr().out)
    assert _losses(workdir) == _losses(finished_linear_run)
    assert _equal(_arrays(workdir)[1], _arrays(finished_linear_run)[1])


def test_sigterm_outside_of_the_training_steps_says_how_to_continue(linear_model, tmp_path, monkeypatch, capsys):
    """Before the folder is there, before the first step, in the last step's evaluation and in the final one."""
    workdir = tmp_path / "run"

    def terminated(place, name, resume):
        original = getattr(place, name)

        def terminate(*arguments, **options):
            if not signals:
                signals.append(os.kill(os.getpid(), signal.SIGTERM))
            return original(*arguments, **options)

        signals = []
        with monkeypatch.context() as patched:
            patched.setattr(place, name, terminate)
            with pytest.raises(SystemExit) as stopped, exit_codes():
                _train(workdir, resume, **(LINEAR | {"train__evaluate_every": 10}))
        assert stopped.value.code == EXIT_INTERRUPTED
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        return capsys.readouterr().err

    assert "run the same command again" in terminated(experiment, "open_folds", False)
    assert not workdir.exists()
    command = f"--workdir {workdir} --resume"
    assert command in terminated(trainer, "build_run_clips", False)
    assert command in (message := terminated(evaluation, "summary", True))
    assert f"step {LINEAR_STEPS} of {LINEAR_STEPS}; the state is saved" in message
    assert command in terminated(evaluation, "write_report", True)
    _train(workdir, resume=True, **(LINEAR | {"train__evaluate_every": 10}))
    assert (workdir / "evaluation/test-last/metrics.json").exists()
    assert len(_losses(workdir)) == LINEAR_STEPS


_DAMAGED_CACHE = """
import pathlib, sys, jax
from tramp_jax.cli import scripts
scripts.quick_start()
scripts.quick_start()
work = jax.jit(lambda x: x * 3 + 1)
work(2.0)
files = sorted(pathlib.Path(sys.argv[1]).glob("*-cache"))
for number, file in enumerate(files):
    file.write_bytes(file.read_bytes()[: number % 2 * 100])
jax.clear_caches()
print(work(2.0), bool(files), all(file.stat().st_size > 100 for file in files), scripts.CACHE.is_absolute())
"""


def test_a_damaged_compiled_program_is_compiled_and_written_again(tmp_path):
    environment = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment["XDG_CACHE_HOME"] = ""  # the same as unset
    command = [sys.executable, "-c", _DAMAGED_CACHE, str(tmp_path)]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert (result.stdout, result.stderr) == ("7.0 True True True\n", "")


@pytest.mark.parametrize("when", ["training", "the final evaluation"])
def test_a_run_that_is_deleted_meanwhile_is_an_error(when, linear_model, tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "run"
    place, name, needed = (
        (trainer, "_time_of", "metrics.jsonl") if when == "training" else (evaluation, "write_report", "evaluation")
    )
    original = getattr(place, name)

    def delete(*arguments):
        if (workdir / needed).exists():
            shutil.rmtree(workdir)
        return original(*arguments)

    monkeypatch.setattr(place, name, delete)
    with pytest.raises(SystemExit) as stopped, exit_codes():
        _train(workdir, **LINEAR)
    assert (stopped.value.code, stopped.value.__context__.kind) == (EXIT_ERROR, "not_a_run")
    printed = capsys.readouterr()
    assert str(workdir) in printed.err
    assert "checkpoints, metrics and plots" not in printed.out
    assert os.listdir(tmp_path) in ([], ["run"])  # no lock stays


def test_a_clip_that_cannot_be_read_costs_no_step(linear_model, finished_linear_run, tmp_path, monkeypatch, capsys):
    """The state of the last step is saved before the error ends the run, which then goes on without a difference."""
    workdir, read, sample = tmp_path / "broken", itertools.count(), pipeline.Sampler.train
    enough = 4 * tiny.get_config().train.batch_size

    def train(self, position, clip):
        if next(read) >= enough:
            raise UserError("unreadable_clip", f"{clip.info.id}: the disk is gone")
        return sample(self, position, clip)

    monkeypatch.setattr(pipeline.Sampler, "train", train)
    with pytest.raises(SystemExit) as stopped, exit_codes():
        _train(workdir, **LINEAR)
    assert stopped.value.code == EXIT_ERROR
    assert "the disk is gone" in capsys.readouterr().err
    step = _arrays(workdir)[0]
    assert 0 < step < LINEAR_STEPS
    assert len(_losses(workdir)) == step
    monkeypatch.undo()
    _train(workdir, resume=True, **LINEAR)
    assert _losses(workdir) == _losses(finished_linear_run)
    assert _equal(_arrays(workdir)[1], _arrays(finished_linear_run)[1])


def test_training_starts_from_given_weights_and_leaves_the_frozen_ones(finished_run, tmp_path, capsys):
    workdir = tmp_path / "tuned"
    freeze = ("rgb_encoder", "trajectory_encoder/stage_*")
    _train(workdir, init__all=str(finished_run), freeze=freeze, train__epochs=1)
    (_, tuned), (_, given) = _arrays(workdir), _arrays(finished_run, "best")
    for collection in ("params", "batch_stats"):
        assert _equal(tuned[collection]["rgb_encoder"], given[collection]["rgb_encoder"])
    trajectory, before = (x["params"]["trajectory_encoder"] for x in (tuned, given))
    assert _equal(trajectory["stage_0_block_0"], before["stage_0_block_0"])
    for trained in ("fusion", "head"):
        assert not _equal(tuned["params"][trained], given["params"][trained])
    assert not _equal(trajectory["stem_0"], before["stem_0"])
    table = (workdir / "initialisation.txt").read_text()
    assert re.search(r"params/rgb_encoder .*loaded", table)
    assert re.search(r"frozen: \d+ of \d+ arrays", table)
    assert table.strip() in capsys.readouterr().out


def test_cross_validation_trains_every_fold_beside_the_baselines(linear_model, tmp_path, capsys):
    options = LINEAR | {"train__epochs": 1, "data__protocol": "k_fold", "data__num_folds": 2}
    _train(tmp_path / "folds", **options)
    printed = capsys.readouterr().out
    values = json.loads((tmp_path / "folds" / "cross_validation.json").read_text())
    assert set(values) == {"auroc", "spearman", "differences"}
    methods = {"constant", "random forest", "SVR", "ridge", "model + SVR", "model, best", "model, last"}
    assert set(values["auroc"]) == set(values["spearman"]) == methods
    assert set(values["differences"]) == {"auroc", "spearman"}
    for pairs in values["differences"].values():
        assert all(len(found["interval"]) == 2 for found in pairs.values())
    assert values["auroc"]["constant"] == [0.5, 0.5]
    assert values["spearman"]["constant"] == [None, None]
    assert all(isinstance(x, float) for x in values["spearman"]["random forest"])
    assert "2-fold cross-validation" in printed
    (tmp_path / "folds" / "cross_validation.json").unlink()
    _train(tmp_path / "folds", resume=True, **options)  # nothing is trained again
    assert "epoch" not in capsys.readouterr().out
    assert json.loads((tmp_path / "folds" / "cross_validation.json").read_text()) == values
    experiment.evaluate(tmp_path / "folds", "last", "test")
    blocks = re.findall("^(.*), checkpoint of step", whole := capsys.readouterr().out, re.M)
    assert blocks == ["fold_0, test", "fold_1, test"]
    experiment.evaluate(tmp_path / "folds" / "fold_1", "last", "test")
    assert whole.endswith(capsys.readouterr().out)


def test_a_number_of_folds_beside_a_published_split_gets_a_warning(config, tmp_path, capsys):
    config.data.num_folds = 5
    for fold, warned in ((None, True), (0, False)):
        experiment.announce(config, experiment.Folds({fold: {}}, Facts()), tmp_path)
        assert ("data.num_folds=5" in capsys.readouterr().out) == warned


# Options of the configuration, or what surrounds it; the kind of the error; and facts that its message must name.
MISTAKES = {
    "an existing folder": ({"existing": True}, "file_exists", ["--resume"]),
    "resuming with other options": (
        {"existing": True, "resume": True, "optimizer.learning_rate": 0.5},
        "changed_options",
        ["learning_rate", "0.5"],
    ),
    "resuming nothing": ({"resume": True}, "not_a_run", ["--resume"]),
    "heads that do not divide": ({"model.fusion.heads": 3}, None, ["model.fusion.width"]),
    "an unknown table order": ({"model.trajectory.bias_order": "tilde"}, "bad_option", ["tilde", "tiled", "time"]),
    "channels without their scale": ({"model.trajectory.channels": "xy"}, None, ["input_scale"]),
    "no evaluation": ({"train.evaluate_every": 0}, "bad_option", ["train.evaluate_every", "0"]),
    "no recipe": ({"config": lambda: None}, "missing_option", ["--config"]),
    "an unknown data set": ({"data.name": "pfed"}, None, ["data.name", "pfed"]),
    "another recipe's data": ({"data.name": "pfed5"}, None, ["configs/pfed5.py"]),
    "an expression that is not there": ({"data.expression": "yawn"}, None, ["data.expression", "yawn", "smile"]),
    "an unknown stream": ({"model.streams": "all"}, "bad_option", ["model.streams", "all", "both, rgb, trajectory"]),
    "a loss without its head": ({"loss.name": "cross_entropy"}, "bad_option", ["loss.name", "num_classes"]),
    "one fold": ({"data.protocol": "k_fold", "data.num_folds": 1}, None, ["data.num_folds", "1"]),
    "a frozen part that does not exist": ({"freeze": ("rgb_encodr",)}, "bad_option", ["rgb_encodr", "rgb_encoder"]),
    "weights that are missing": ({"init.all": "weights.pth"}, None, ["weights.pth"]),
    "missing landmarks": ({"config": youtubepd.get_config}, None, ["data/YouTubePD"]),
    "missing PFED5": ({"config": pfed5.get_config}, None, ["data/PFED5"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message(mistake, finished_run, tmp_path, capsys):
    options, kind, facts = MISTAKES[mistake]
    options = dict(options)
    workdir = finished_run if options.pop("existing", False) else tmp_path / "new"
    config, resume = options.pop("config", tiny.get_config)(), options.pop("resume", False)
    if config is not None:
        with config.unlocked():
            config.update_from_flattened_dict(options)
    with pytest.raises(SystemExit) as stopped, exit_codes():
        experiment.train(config, workdir, resume)
    assert stopped.value.code == EXIT_ERROR
    assert kind in (None, getattr(stopped.value.__context__, "kind", None))
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    for fact in facts:
        assert fact in message
    assert finished_run.exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [("init.all", "weights.pth", "missing_file"), ("freeze", ("rgb_encodr",), "bad_option")],
)
def test_a_run_that_is_refused_replaces_no_other(option, value, kind, tmp_path):
    folder, config = tmp_path / "run", tiny.get_config().unlock()
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json())
    config.update_from_flattened_dict({option: value})
    with user_error(kind):
        experiment.train(config, folder, overwrite=True)
    assert os.listdir(tmp_path) == ["run"]
    assert os.listdir(folder) == ["config.json"]


def test_a_bug_keeps_its_traceback(monkeypatch, tmp_path):
    """A shape bug, planted in the model."""

    def broken(config):
        raise ValueError("shapes (3,) and (4,) do not match")

    monkeypatch.setattr(experiment, "build_model", broken)
    with pytest.raises(ValueError, match="do not match") as caught, exit_codes():
        _train(tmp_path / "new")
    assert caught.value.__notes__ == [BUG]


def test_the_folder_alone_resumes_a_run(finished_run, program):
    """As the message of an interrupted run says."""
    result = program("train.py", "--workdir", finished_run, "--resume")
    assert result.returncode == 0, result.stderr
    assert str(finished_run) in result.stdout


def test_without_a_recipe_the_message_asks_for_one(program):
    result = program("train.py")
    assert (result.returncode, result.stdout) == (EXIT_ERROR, "")
    assert result.stderr.startswith("error: --config is missing")


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        (["train.py", "--config", "tests/tiny.py", "model.streams=rgb"], "'model.streams=rgb'"),
        (["train.py", "--workdir", "run", "--resume", "--config.train.epochs=9"], "--config.train.epochs"),
        (["eval.py", "run"], "--workdir is missing"),
        (["eval.py", "--workdir", "run", "further"], "'further'"),
        (["eval.py", "--workdr", "run"], "workdr"),
    ],
)
def test_an_argument_that_means_nothing_is_refused(program, line, fact):
    result = program(*line)
    assert (result.returncode, result.stdout) == (EXIT_ERROR, "")
    assert result.stderr.startswith("error: ")
    assert fact in result.stderr.splitlines()[0]


@pytest.mark.parametrize("flag", [["--config", "configs/synthetc.py:smile"], ["--config=configs/synthetc.py"]])
def test_a_missing_recipe_is_reported_before_it_is_run(flag, monkeypatch):
    monkeypatch.chdir(ROOT)
    scripts.check_recipe(["train.py", "--config", "configs/pfed5.py:frown"])
    with user_error("missing_recipe", "configs/synthetc.py", "configs/synthetic.py"):
        scripts.check_recipe(["train.py", *flag, "--resume"])


def test_a_recipe_without_arguments_refuses_one(monkeypatch):
    monkeypatch.chdir(ROOT)
    with user_error("bad_option", "configs/dfew_rgb.py:smile"):
        scripts.check_recipe(["train.py", "--config", "configs/dfew_rgb.py:smile"])


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        ("train.epochs=two", "a whole number"),
        ("seed=1.5", "a whole number"),
        ("loss.sigma=big", "a number"),
        ("augment.crop=maybe", "True or False"),
        ("optimizer=adam", "a group of options"),
    ],
)
def test_a_value_of_another_type_is_explained_in_plain_words(option, kind, monkeypatch):
    line = ["train.py", f"--config.{option}"]
    monkeypatch.setattr("sys.argv", line)  # the library finds the given options there
    known = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", tiny.get_config(), flag_values=known)
    with pytest.raises(flags.Error) as refused:
        known(line)
    assert scripts.plain_message(str(refused.value)).startswith(f"--config.{option}: this option takes {kind}")


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of the library
def test_an_unknown_argument_of_a_recipe_reaches_the_program(monkeypatch):
    monkeypatch.chdir(ROOT)
    line = ["train.py", "--config=configs/pfed5.py:grin"]
    monkeypatch.setattr("sys.argv", line)
    known = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=known)
    with user_error("bad_option", "configs/pfed5.py:grin"):
        known(line)


def test_a_misspelt_option_names_the_closest_one(program, tmp_path):
    result = program("train.py", "--config", "tests/tiny.py", "--config.optimizer.learning_rat=0.1")
    assert (result.returncode, result.stdout) == (EXIT_ERROR, "")
    assert result.stderr.startswith("error: ")
    assert re.search(r"learning_rate\b", result.stderr)
    assert "Traceback" not in result.stderr


def test_a_bug_in_a_recipe_keeps_its_traceback(program, tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text("from configs import synthetic\n\ndef get_config():\n    return synthetic.get_confg()\n")
    result = program("train.py", "--config", recipe)
    assert result.returncode == EXIT_ERROR
    assert "Traceback" in result.stderr
    assert "recipe.py" in result.stderr


def test_a_loss_that_is_not_finite_stops_the_run(linear_model, tmp_path, capsys):
    with pytest.raises(SystemExit), exit_codes():
        _train(tmp_path / "diverging", **LINEAR, optimizer__learning_rate=1e30, optimizer__clip_norm=0.0)
    message = capsys.readouterr().err
    assert re.search(r"is (nan|inf) at step \d", message)
    assert "learning_rate" in message


def test_parameters_that_are_not_finite_are_never_saved(linear_model, tmp_path, capsys):
    """The loss of a step is computed before its update, so a check of the loss would let broken parameters through."""
    options = {"optimizer__name": "sgd", "optimizer__learning_rate": 1e38, "optimizer__clip_norm": 0.0}
    with pytest.raises(SystemExit), exit_codes():
        _train(tmp_path / "broken", **LINEAR, **options)
    assert "parameter norm" in capsys.readouterr().err
    assert not any((tmp_path / "broken" / "checkpoints" / "last").iterdir())


def test_a_run_that_diverges_keeps_its_checkpoint_and_resumes_from_it(
    linear_model, finished_linear_run, tmp_path, monkeypatch
):
    """A moment's fault, such as that of a device, in the first step of the third epoch."""
    build = trainer.build_train_step

    def build_broken(*arguments):
        step = build(*arguments)

        def broken(state, *batch):
            number = int(state.step)
            state, measured = step(state, *batch)
            return state, measured | ({"parameter_norm": np.float32(np.nan)} if number == 4 else {})

        return broken

    with monkeypatch.context() as patched, user_error("not_finite", "of step 4, is intact"):
        patched.setattr(trainer, "build_train_step", build_broken)
        _train(tmp_path / "run", **LINEAR)
    assert _arrays(tmp_path / "run")[0] == 4
    _train(tmp_path / "run", resume=True, **LINEAR)
    assert _losses(tmp_path / "run") == _losses(finished_linear_run)
    assert _equal(_arrays(tmp_path / "run")[1], _arrays(finished_linear_run)[1])


def test_only_runs_are_overwritten(tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with user_error("not_a_run", folder):
        experiment.train(tiny.get_config(), folder, overwrite=True)
    assert (folder / "config.json").exists()


@pytest.mark.parametrize(
    ("existing", "checkpoint", "split", "fact"),
    [
        (False, "best", "test", "train.py"),
        (True, "77", "test", "last: [6]"),
        (True, "last", "tset", "train, validation, test"),
    ],
)
def test_a_mistake_in_eval_is_one_message(existing, checkpoint, split, fact, finished_run, tmp_path, capsys):
    with pytest.raises(SystemExit), exit_codes():
        experiment.evaluate(finished_run if existing else tmp_path, checkpoint, split)
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert fact in message


def test_a_batch_that_devices_or_parts_cannot_share_is_refused():
    class TwoDevices:
        size = 2

    sharding.check_batch_size(12, 3, TwoDevices)
    for size, parts in ((7, 1), (8, 3)):
        with user_error("bad_option", f"train.batch_size={size}", f"train.accumulate={parts}", 2):
            sharding.check_batch_size(size, parts, TwoDevices)
