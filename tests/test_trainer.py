"""The training step: gradients, updates, accumulation, and several processes."""

import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny
from tests.conftest import ROOT
from tests.device_script import first_batch
from tests.linear import Linear
from tramp_jax import losses, optimizer, sharding, training_step
from tramp_jax.batches.pipeline import Batch
from tramp_jax.models import Inputs, init_variables
from tramp_jax.training_log import read_metrics


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


@pytest.fixture(scope="module")
def trajectory_config():
    """The trajectory stream, so that parts of a batch add up to the whole: without batch statistics (that is, with one
    stage) and without dropout."""
    config = tiny.get_config().unlock()
    config.model.streams = "trajectory"
    config.model.trajectory.update(channels="xy", input_scale=(0.03,), widths=(32,))
    config.model.trajectory.update(attention_dropout=0.0, drop_path=0.0)
    config.augment.reverse_time = 0.0
    config.optimizer.update(name="sgd", learning_rate=1e-2)
    return config


@pytest.mark.usefixtures("quick_compile")
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


@pytest.mark.slow
def test_two_processes_of_four_devices_give_the_losses_of_one_device(tmp_path):
    """Over loopback, through train.py: each process reads its own rows, and the batches are the same."""
    options = ["--config.optimizer.name=sgd", "--config.optimizer.learning_rate=1e-3", "--config.model.streams=rgb"]
    command = [sys.executable, str(ROOT / "train.py"), "--config", "tests/tiny.py", "--config.train.epochs=2", *options]

    def start(workdir, devices, *flags):
        environment = {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        return subprocess.Popen(
            [*command, "--workdir", str(tmp_path / workdir), *flags],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = ["--coordinator", f"127.0.0.1:{port}", "--num_processes", "2", "--config.train.cache=device"]
    together.append("--process_id")
    running = [start("one", 1), start("two", 4, *together, "0"), start("two", 4, *together, "1")]
    said = [process.communicate(timeout=500)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    one, two = (
        [row["loss"] for row in read_metrics(tmp_path / name) if row["kind"] == "train"] for name in ("one", "two")
    )
    assert len(one) == 4
    np.testing.assert_allclose(two, one, rtol=1e-5)
    report = "evaluation/test-last/predictions.csv"
    assert len((tmp_path / "two" / report).read_text()) == len((tmp_path / "one" / report).read_text())
    assert "spearman" in said[1]
    assert "spearman" not in said[2]  # only the first process prints
