"""Several models trained side by side, whose mean is the score."""

import functools

import jax
import numpy as np
import pytest

from tests import tiny
from tests.raises import user_error
from tramp_jax import losses
from tramp_jax.models import build_model, init_variables


@pytest.fixture(scope="module")
def configs():
    """The configuration of one model, and of three of them."""
    one = tiny.get_config().unlock()
    one.model.streams = "trajectory"
    one.model.trajectory.update(attention_dropout=0.5, drop_path=0.0)
    three = one.copy_and_resolve_references().unlock()
    three.model.members = 3
    return one, three


@pytest.fixture(scope="module")
def drawn(configs):
    one, three = configs
    rng = np.random.default_rng(0)
    inputs = (
        rng.normal(size=(2, 64, 63, 5)).astype(np.float32),
        np.tile(np.linspace(-1, 1, 64, dtype=np.float32), (2, 1)),
    )
    return init_variables(three.model, jax.random.key(3)), inputs


def apply(config, variables, inputs):
    """The scores of a model."""
    return jax.jit(functools.partial(build_model(config.model).apply, variables, None))(*inputs)[0]


def test_the_score_is_the_mean_of_the_members(configs, drawn):
    one, three = configs
    variables, inputs = drawn
    score = apply(three, variables, inputs)
    members = [jax.tree.map(lambda x, i=i: x[i], variables["params"]["model"]) for i in range(3)]
    alone = [np.asarray(apply(one, {"params": member}, inputs)) for member in members]
    np.testing.assert_allclose(score, np.mean(alone, axis=0), atol=1e-5)
    assert all(np.abs(alone[0] - other).max() > 1e-3 for other in alone[1:]), "members start alike"


def test_each_member_has_its_own_loss_and_dropout(configs, drawn):
    _, three = configs
    variables, inputs = drawn
    target = np.array([1.0, 3.0], np.float32)

    run = functools.partial(build_model(three.model).apply, train=True, rngs={"dropout": jax.random.key(1)})
    scores = jax.jit(lambda params: run({"params": params}, None, *inputs)[0])
    found = scores(variables["params"])
    assert found.shape == (2, 3)
    three.loss.name = "mse"
    loss = losses.build_loss(three)
    np.testing.assert_allclose(loss(found, target), np.mean((np.asarray(found) - target[:, None]) ** 2), rtol=1e-5)
    same = jax.tree.map(lambda x: np.repeat(x[:1], 3, axis=0), variables["params"])
    equal = np.asarray(scores(same))
    assert np.abs(equal[:, 0] - equal[:, 1]).max() > 1e-4, "members drop the same weights"


def test_frames_cannot_have_members(configs):
    both = tiny.get_config().unlock()
    both.model.members = 2
    with user_error("bad_option", "model.members", 2):
        build_model(both.model)
