"""The training step: gradients, updates, accumulation, and several processes."""

import contextlib
import socket
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny
from tests.device_script import first_batch
from tests.linear import OPTIONS, Linear, interrupted_at, linear_model, measured, terminated_at
from tramp_jax import experiment, initial_weights, losses, optimizer, sharding, trainer, training_step
from tramp_jax.batches.pipeline import Batch
from tramp_jax.checkpoint import Checkpoints
from tramp_jax.cli.exit_codes import EXIT_INTERRUPTED
from tramp_jax.data import datasets
from tramp_jax.errors import Interrupted
from tramp_jax.models import Inputs, init_variables


def test_gradients_in_parts_are_those_of_the_whole_batch():
    rng = np.random.default_rng(0)
    batch = Batch(Inputs(trajectories=rng.normal(size=(8, 5)).astype(np.float32)), jnp.arange(8.0))
    objective, key = training_step.Objective(Linear(), losses.bmc), jax.random.key(0)
    params = Linear().init(key, None, batch.inputs.trajectories, None)["params"]
    whole = training_step.gradients_of_batch(objective, params, {}, batch, key)
    in_parts = training_step.gradients_in_parts(objective, params, {}, batch, key, 4)
    assert jax.tree.structure(in_parts) == jax.tree.structure(whole)
    for ours, theirs in zip(jax.tree.leaves(in_parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    (score, _), _ = training_step.forward(objective.model, params, {}, batch.inputs, key)
    assert whole[0] == losses.bmc(score, batch.target)


def test_an_update_moves_parameters_and_all_statistics_that_are_not_frozen():
    sgd = optax.sgd(0.5)
    variables = {
        "params": {"w": jnp.ones(2)},
        "batch_stats": {"a": {"mean": jnp.zeros(1)}, "b": {"mean": jnp.zeros(1)}},
    }
    state = training_step.TrainState(jnp.int32(3), variables, sgd.init(variables["params"]))
    statistics = jax.tree.map(lambda x: x + 1, variables["batch_stats"])
    new = training_step.update(state, {"w": jnp.array([1.0, 2.0])}, statistics, sgd, {("a", "mean")})
    assert new.step == 4
    np.testing.assert_array_equal(new.variables["params"]["w"], [0.5, 0.0])
    assert new.variables["batch_stats"] == {"a": {"mean": 0}, "b": {"mean": 1}}


def test_the_average_weighs_later_steps_more_and_starts_with_the_first():
    rng = np.random.default_rng(0)
    initial, *after = rng.normal(size=(5, 3)).astype(np.float32)
    fixed = np.float32(0.1)
    average = {"moving": initial, "frozen": fixed}
    for n, weights in enumerate(after, start=1):
        average = training_step.averaged(average, {"moving": weights, "frozen": fixed}, jnp.int32(n), 0.7)
        expected = np.average(after[:n], axis=0, weights=0.7 ** np.arange(n)[::-1])
        np.testing.assert_allclose(average["moving"], expected, rtol=1e-5)
    assert average["frozen"] == fixed


@pytest.fixture(scope="module")
def averaged_runs(tmp_path_factory):
    """Folders of the same run: without an average, with one, and with one after an interruption."""
    root, config = tmp_path_factory.mktemp("runs"), tiny.get_config().unlock()
    config.update_from_flattened_dict(
        OPTIONS | {"optimizer.learning_rate": 0.02, "train.epochs": 2, "train.keep_last": 2}
    )
    splits = datasets.split(datasets.open_dataset(config), config, None)
    with linear_model():
        for name, decay in {"plain": 0.0, "whole": 0.9, "cut": 0.9}.items():
            (root / name).mkdir()
            config.train.ema = decay
            if name == "cut":
                with interrupted_at(3):
                    trainer.fit(config, splits, root / name)
            trainer.fit(config, splits, root / name, resume=name == "cut")
    return {path.name: path for path in root.iterdir()}


def restored(folder, which="last"):
    shapes = Linear().init(jax.random.key(0), None, np.zeros((1, 16, 63, 2), np.float32), None) | {"batch_stats": {}}
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore_variables(which, shapes, sharding.data_mesh())


def test_an_average_is_evaluated_and_saved_without_changing_the_training(averaged_runs):
    plain, whole = averaged_runs["plain"], averaged_runs["whole"]
    assert measured(whole, "train") == measured(plain, "train")
    assert measured(whole, "validation") != measured(plain, "validation")
    (_, weights), (_, average) = restored(plain), restored(whole)
    apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), weights["params"], average["params"])
    assert max(jax.tree.leaves(apart)) > 1e-4
    best, variables = restored(whole, "best")
    _, then = restored(whole, str(best))  # of the last checkpoints, which are all kept
    assert jax.tree.all(jax.tree.map(np.array_equal, variables, then))


def test_an_interrupted_run_continues_its_average_with_the_same_bits(averaged_runs):
    whole, cut = averaged_runs["whole"], averaged_runs["cut"]
    assert measured(cut, "train", "validation") == measured(whole, "train", "validation")
    assert jax.tree.all(jax.tree.map(np.array_equal, restored(cut), restored(whole)))


@pytest.fixture(scope="module")
def trajectory_config():
    """The trajectory stream, so that parts of a batch add up to the whole: without batch statistics (that is, with one
    stage) and without dropout."""
    config = tiny.get_config().unlock()
    config.model.streams = "trajectory"
    config.model.trajectory.update(channels="xy", input_scale=(0.03,))
    config.model.trajectory.update(attention_dropout=0.0, drop_path=0.0)
    config.augment.reverse_time = 0.0
    config.optimizer.update(name="sgd", learning_rate=1e-2)
    return config


def test_a_step_in_parts_has_the_loss_and_the_update_of_the_whole(trajectory_config):
    config, mesh = trajectory_config, sharding.data_mesh()
    batch = first_batch(config)
    variables = jax.tree.map(np.asarray, init_variables(config.model, jax.random.key(0)))
    sgd = optimizer.build_optimizer(config.optimizer, lambda step: config.optimizer.learning_rate)
    outcomes = []
    for parts in (1, 4):
        config.train.accumulate = parts
        step = training_step.build_train_step(config, losses.build_loss(config), sgd, mesh)
        start = training_step.init_state(variables, sgd, mesh)
        outcomes.append(step(start, sharding.put(batch, mesh), None))
        assert all(x.is_deleted() for x in jax.tree.leaves(start.variables))  # its memory holds the new state
    (whole, measured), (in_parts, measured_in_parts) = outcomes
    # The softmax of the loss is over the whole batch, so a mean over parts would differ.
    assert float(measured["loss"]) == pytest.approx(float(measured_in_parts["loss"]), rel=1e-6)
    moved = jax.tree.map(lambda new, old: np.max(np.abs(new - old)), whole.variables, variables)
    apart = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), whole.variables, in_parts.variables)
    assert max(jax.tree.leaves(apart)) < 1e-5 * max(jax.tree.leaves(moved))


def test_gradients_of_frozen_parameters_are_not_computed(trajectory_config):
    config, mesh = trajectory_config, sharding.data_mesh()
    variables = init_variables(config.model, jax.random.key(0))

    def flops(patterns):
        frozen = initial_weights.frozen_paths(variables, patterns)
        sgd = optimizer.build_optimizer(config.optimizer, lambda step: 1e-2, frozen["params"])
        step = training_step.build_train_step(config, losses.build_loss(config), sgd, mesh, frozen)
        start = training_step.init_state(variables, sgd, mesh)
        return step.lower(start, sharding.put(first_batch(config), mesh), None).compile().cost_analysis()["flops"]

    assert flops(("trajectory_encoder",)) < 0.6 * flops(())  # forward only, where the backward pass is twice as much


MOVING = OPTIONS | {"optimizer.learning_rate": 0.02}


def train_alone(folder, stop=False, resume=False):
    config = tiny.get_config().unlock()
    config.update_from_flattened_dict(MOVING)
    with linear_model(), contextlib.ExitStack() as stopping:
        if stop:
            stopping.enter_context(pytest.raises(Interrupted))
            stopping.enter_context(terminated_at(2))
        experiment.train(config, folder, resume)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that one process trains without a stop."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train_alone(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("first", ["one", "two"])
def test_a_run_goes_on_with_another_number_of_processes(first, whole, tmp_path, program):
    """One process has a device, and each of two has four, through train.py. SIGTERM reaches one of them; both stop.

    The model is linear: Gloo waits only 30 s for a process that takes longer to compile than the other one.
    """
    cut = tmp_path / "cut"

    def together(folder, stop=False, resume=False):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            join = ["--coordinator", f"127.0.0.1:{free.getsockname()[1]}", "--num_processes", 2, "--process_id"]
        flags = [f"--config.{name}={value}" for name, value in MOVING.items()] + ["--resume"] * resume
        command = ["--config", "tests/tiny.py", *flags, "--config.train.cache=device", "--workdir", folder, *join]
        signals = [(), ("SIGTERM", 2) * stop]
        running = [
            program("tests/process_script.py", "train.py", *signals[number], *command, number, devices=4, wait=False)
            for number in (0, 1)
        ]
        try:
            with futures.ThreadPoolExecutor() as readers:  # at once: if the pipe of one is full, the other waits for it
                said = list(readers.map(lambda process: process.communicate(timeout=500), running))
        finally:
            for process in running:
                process.kill()
        assert [process.returncode for process in running] == [EXIT_INTERRUPTED * stop] * 2, said
        assert ["epoch" in out for out, _ in said] == [True, False]  # only the first process prints

    halves = (train_alone, together) if first == "one" else (together, train_alone)
    halves[0](cut, stop=True)
    assert [row["step"] for row in measured(cut, "train")] == [1, 2, 3]
    halves[1](cut, resume=True)
    one, two = ([row["loss"] for row in measured(folder, "train")] for folder in (whole, cut))
    assert len(one) == 6
    np.testing.assert_allclose(two, one, rtol=1e-4)
    for which in ("last", "best"):
        (step, weights), (same_step, same) = restored(whole, which), restored(cut, which)
        assert step == same_step
        apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), weights, same)
        assert max(jax.tree.leaves(apart)) < 1e-5  # of about 0.1
