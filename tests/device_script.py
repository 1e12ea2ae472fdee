"""Runs a training step of both streams and a checkpoint on 1 to 8 devices, for test_devices, in its own process."""

import json
import pathlib
import sys

import jax
import numpy as np
from jax.sharding import Mesh

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tests import tiny
from tests.linear import Linear
from tramp_jax import losses, optimizer, sharding, training_step
from tramp_jax.batches import pipeline
from tramp_jax.checkpoint import Checkpoints
from tramp_jax.data import datasets
from tramp_jax.models import init_variables, input_shapes


def first_batch(config):
    """The first training batch."""
    splits = datasets.split(datasets.open_dataset(config), config, None)
    batches = iter(pipeline.training_batches(splits["train"], config))
    batch = next(batches)
    batches.close()
    return batch


def main(folder: pathlib.Path) -> None:
    config = tiny.get_config().unlock()
    config.optimizer.name = "sgd"
    config.train.ema = 0.9
    batch = first_batch(config)
    variables = jax.tree.map(np.asarray, init_variables(config.model, jax.random.key(0)))
    sgd = optimizer.build_optimizer(config.optimizer, lambda step: 0.1)
    meshes = {count: Mesh(np.array(jax.devices()[:count]), ("data",)) for count in (1, 4, 8)}

    def step(count):
        run = training_step.build_train_step(config, losses.build_loss(config), sgd, meshes[count])
        state = training_step.init_state(variables, sgd, meshes[count], config.train.ema)
        state, measured = run(state, sharding.put(batch, meshes[count]), None)
        return state, float(measured["loss"])

    found, params, first = {"devices": {}}, variables["params"], None
    for count in (1, 8):
        state, loss = step(count)
        new = jax.tree.map(np.asarray, state.scoring["params"])  # the average over a single step
        first = first or new
        found["devices"][count] = {"loss": loss, "moved": _apart(new, params), "away": _apart(new, first)}
    with Checkpoints(folder / "run", writing=True) as checkpoints:  # on 8 devices
        checkpoints.save_last(1, state.scoring, state.training, {"best": None, "best_step": None})
        found["restored"] = {}
        for count, mesh in meshes.items():
            _, *restored, _ = checkpoints.restore_last(state.scoring, state.training, mesh)
            same = jax.tree.map(np.array_equal, restored, [state.scoring, state.training])
            there = {len(x.sharding.device_set) for x in jax.tree.leaves(restored)}
            found["restored"][count] = jax.tree.all(same) and there == {count}

    # Parts of a batch add up to the whole without batch statistics and dropout, so of a linear model.
    config.model.streams = "trajectory"
    training_step.build_model = lambda config: Linear()
    read = np.zeros(input_shapes(config.model, 1)["trajectories"])
    weights = Linear().init(jax.random.key(0), None, read, None)["params"]
    variables = {"params": jax.tree.map(lambda x: 0.01 * np.asarray(x), weights), "batch_stats": {}}
    found["whole"] = step(1)[1]
    config.train.accumulate = 2
    found["in parts"] = step(4)[1]
    (folder / "found.json").write_text(json.dumps(found))


def _apart(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.max(np.abs(x - y))), a, b)))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
