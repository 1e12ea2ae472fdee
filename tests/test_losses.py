"""Losses and the learning rate."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.raises import user_error
from tramp_jax import losses, optimizer


def test_bmc_prefers_scores_at_their_own_target():
    target = jnp.array([0.0, 1.0, 3.0, 4.0])
    assert losses.bmc(target, target) < losses.bmc(target[::-1], target)


def test_bmc_sees_the_whole_batch():
    score, target = jnp.array([0.5, 2.0]), jnp.array([0.0, 3.0])
    other = losses.bmc(score, target.at[1].set(1.0))
    separately = (losses.bmc(score[:1], target[:1]) + losses.bmc(score[1:], target[1:])) / 2
    assert separately == 0.0  # a single clip has nothing to be confused with
    assert other > losses.bmc(score, target) > 0


def test_the_released_argument_order_reaches_the_loss(config):
    score, target = jnp.array([0.5, 2.0, 1.0]), jnp.array([0.0, 3.0, 3.0])
    paper = losses.build_loss(config)(score, target)
    config.loss.swapped = True
    assert losses.build_loss(config)(score, target) == losses.bmc(target, score) != paper


def test_cross_entropy_of_certain_logits():
    assert losses.cross_entropy(jnp.array([[20.0, 0.0], [0.0, 20.0]]), jnp.array([0.0, 1.0])) < 1e-6


@pytest.mark.parametrize(("name", "classes"), [("cross_entropy", 0), ("bmc", 7)])
def test_a_loss_must_fit_the_head(name, classes, config):
    config.loss.name, config.model.head.num_classes = name, classes
    with user_error("bad_option", "loss.name", name, "model.head.num_classes"):
        losses.build_loss(config)


def test_the_learning_rate_steps_down_by_epochs(config):
    config.optimizer.update(learning_rate=1e-3, decay_every=40, decay_factor=0.1)
    rate = optimizer.learning_rate(config.optimizer, steps_per_epoch=10, epochs=100)
    np.testing.assert_allclose([rate(0), rate(399), rate(400), rate(800)], [1e-3, 1e-3, 1e-4, 1e-5], rtol=1e-5)


def test_warm_up_rises_to_the_schedule(config):
    config.optimizer.update(learning_rate=1.0, decay_every=40, warmup_epochs=1.0)
    rate = optimizer.learning_rate(config.optimizer, steps_per_epoch=10, epochs=100)
    np.testing.assert_allclose([rate(0), rate(5), rate(10)], [0.1, 0.55, 1.0], rtol=1e-5)


def test_sgd_follows_torch(config):
    torch = pytest.importorskip("torch")
    config.optimizer.update(name="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.01, clip_norm=0.0)
    sgd = optimizer.build_optimizer(config.optimizer, lambda step: 0.1)
    ours, theirs = jnp.array([1.0, -2.0]), torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    reference = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.01)
    state = sgd.init(ours)
    for gradient in ([0.3, 0.1], [-0.2, 0.4], [0.5, 0.5]):
        updates, state = sgd.update(jnp.array(gradient), state, ours)
        ours = ours + updates
        theirs.grad = torch.tensor(gradient)
        reference.step()
    np.testing.assert_allclose(ours, theirs.detach(), rtol=1e-5)
