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


def test_balanced_mse_is_the_batch_form_against_all_training_ratings():
    rng = np.random.default_rng(0)
    ratings = rng.choice([0.0, 1.0, 2.0, 4.0], 300, p=[0.5, 0.2, 0.2, 0.1])
    distinct, counts = np.unique(ratings, return_counts=True)
    score = jnp.array(rng.normal(2, 2, 300))
    whole = losses.bmc(score, jnp.array(ratings), sigma=0.8)  # a batch of all training clips
    found = losses.balanced_mse(score, jnp.array(ratings), distinct, counts / 300, sigma=0.8)
    assert found == pytest.approx(float(whole) - np.log(300) * 2 * 0.8**2, rel=1e-5)
    # It does not depend on which clips share a batch.
    halves = [
        losses.balanced_mse(score[part], jnp.array(ratings[part]), distinct, counts / 300, sigma=0.8)
        for part in (slice(0, 150), slice(150, 300))
    ]
    assert np.mean(halves) == pytest.approx(float(found), rel=1e-5)


def test_the_closed_form_is_the_integral_over_the_mixture():
    means, variances, weights, sigma = np.array([0.5, 3.0]), np.array([0.2, 0.6]), np.array([0.3, 0.7]), 0.9
    score, target = 1.7, 2.0
    y = np.linspace(-12, 16, 200_001)
    density = sum(
        w * np.exp(-((y - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v)
        for m, v, w in zip(means, variances, weights, strict=True)
    )
    integral = np.trapezoid(density * np.exp(-((score - y) ** 2) / (2 * sigma**2)), y)
    expected = 2 * sigma**2 * (np.log(integral) + (score - target) ** 2 / (2 * sigma**2))
    found = losses.balanced_mse(jnp.array([score]), jnp.array([target]), means, weights, sigma, variances)
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_closed_form_of_separate_ratings_is_balanced_mse(config):
    ratings = [0.0] * 30 + [2.0] * 10 + [4.0] * 20
    score, target = jnp.array([0.3, 1.9, 5.0]), jnp.array([0.0, 2.0, 4.0])
    found = []
    for name in ("balanced_mse", "gai"):
        config.loss.name = name
        found.append(losses.build_loss(config, ratings)(score, target))
    assert float(found[0]) == pytest.approx(float(found[1]), abs=1e-3)


@pytest.mark.parametrize("name", losses.BALANCED)
def test_balanced_losses_pull_rare_ratings_less_to_the_mean_than_mse(name, config):
    """The best constant guess between a frequent and a rare rating lies nearer to the rare one."""
    ratings = [0.0] * 90 + [4.0] * 10
    target = jnp.array(ratings)
    guesses = np.linspace(0, 4, 81)

    def best(loss):  # of a model that cannot tell the two apart
        return guesses[np.argmin([loss(jnp.full(100, guess), target) for guess in guesses])]

    config.loss.name = name
    balanced = best(losses.build_loss(config, ratings))
    assert balanced > best(losses.mse) + 0.5


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
        losses.check(config)


def test_ratings_that_teach_nothing_are_refused(config):
    for name in losses.BALANCED:
        config.loss.name = name
        losses.check_ratings(config, [1.0, 2.0])
        with user_error("bad_data", 5, name):
            losses.check_ratings(config, [1.0] * 5)
    config.train.batch_size = 1
    losses.check_ratings(config, [1.0, 2.0])
    config.loss.name = "bmc"
    with user_error("bad_option", "train.batch_size", "balanced_mse"):
        losses.check_ratings(config, [1.0, 2.0])
    config.loss.name = "mse"
    losses.check_ratings(config, [1.0])


def test_the_learning_rate_steps_down_by_epochs(config):
    config.optimizer.update(learning_rate=1e-3, decay_every=40, decay_factor=0.1)
    rate = optimizer.learning_rate(config.optimizer, steps_per_epoch=10, epochs=100)
    np.testing.assert_allclose([rate(0), rate(399), rate(400), rate(800)], [1e-3, 1e-3, 1e-4, 1e-5], rtol=1e-5)


def test_the_cosine_ends_at_zero_with_the_last_step(config):
    config.optimizer.update(learning_rate=1.0, schedule="cosine")
    rate = optimizer.learning_rate(config.optimizer, steps_per_epoch=10, epochs=20)
    np.testing.assert_allclose([rate(0), rate(100), rate(200)], [1.0, 0.5, 0.0], atol=1e-6)


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


@pytest.mark.parametrize(("ratings", "wide"), [([0, 4], False), ([0, 10], False), ([0, 25], False), ([12, 100], True)])
def test_a_scale_that_the_recipes_do_not_fit_is_doubted(ratings, wide):
    assert ("100" in losses.doubt(ratings)) == wide
