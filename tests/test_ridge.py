"""The ridge regression that is half of a score with ``model.ridge``."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from configs import synthetic
from tests.linear import linear_model
from tests.raises import user_error
from tramp_jax import baselines, experiment, models, ridge, sharding
from tramp_jax.batches import pipeline
from tramp_jax.batches.augment import for_evaluation
from tramp_jax.checkpoint import LAST, Checkpoints
from tramp_jax.data import datasets
from tramp_jax.data.datasets import TEST, TRAIN
from tramp_jax.metrics import spearman


@pytest.fixture(scope="module")
def config():
    """A small model of motion, with a ridge regression beside it."""
    config = synthetic.get_config("few").unlock()
    config.data.update(num_subjects=40, clips_per_subject=1)
    config.model.members = 1
    config.model.trajectory.length = 64
    config.train.update(epochs=1, evaluate_every=1)
    config.evaluation.update(bootstrap=0, baselines=False)
    return config.lock()


@pytest.fixture(scope="module")
def splits(config):
    dataset = datasets.open_dataset(config)
    return datasets.split(dataset, config, None)


@pytest.fixture(scope="module")
def fitted(config, splits):
    fresh = models.init_variables(config.model, jax.random.key(0))
    return ridge.fitted(fresh, splits[TRAIN], config, sharding.data_mesh())


def read(split, config):
    """What the encoder reads of all clips of a split, and their ratings."""
    batch = next(pipeline.evaluation_batches(split, config, len(split)))
    return for_evaluation(batch.inputs, config.model), np.asarray(batch.target)


def score(model, variables, inputs, train=False):
    def apply(variables):
        return models.apply(model, variables, inputs, train=train, rngs={"dropout": jax.random.key(0)})[0]

    return jax.jit(apply)(variables)


def test_half_of_the_score_is_that_of_the_regression(config, splits, fitted):
    inputs, _ = read(splits[TEST], config)
    model = models.build_model(config.model)
    alone = {"params": fitted["params"], "batch_stats": {}}
    network, whole = (np.asarray(score(model, v, inputs)) for v in (alone, fitted))
    train_inputs, ratings = read(splits[TRAIN], config)
    features = [
        np.asarray(x.trajectories).mean(axis=1).reshape(len(x.trajectories), -1) for x in (train_inputs, inputs)
    ]
    penalty = ridge.PENALTY * features[0].var(axis=0).sum()
    expected = Ridge(penalty).fit(features[0], ratings).predict(features[1])
    np.testing.assert_allclose(whole, (network + expected) / 2, atol=1e-3)
    trained, same = (np.asarray(score(model, v, inputs, train=True)) for v in (fitted, alone))
    np.testing.assert_array_equal(trained, same)  # the network learns the ratings by itself


def test_the_regression_scores_people_that_it_has_not_seen(config, splits, fitted):
    inputs, ratings = read(splits[TEST], config)
    found = fitted["batch_stats"][models.RIDGE]
    score = np.asarray(models.channel_means(inputs.trajectories)) @ np.asarray(found["kernel"]) + found["bias"]
    assert spearman(np.asarray(score), ratings) > 0.7
    # It is the simple method, on the same input.
    described = [
        baselines.described([splits[part]], config.landmarks, baselines.motion_energies)[0] for part in (TRAIN, TEST)
    ]
    infos = splits[TRAIN].infos
    people = [info.subject for info in infos]
    simple = baselines.ridge(described[0], [info.score for info in infos], described[1], people)
    assert np.corrcoef(score, simple)[0, 1] > 0.95


def test_people_count_the_same_and_the_unit_does_not_matter():
    rng = np.random.default_rng(0)
    features, ratings = rng.normal(size=(30, 40)), rng.normal(size=30)
    once = ridge.regression(features, ratings, range(30))
    clips = np.repeat(np.arange(30), rng.integers(1, 5, 30))
    often = ridge.regression(features[clips], ratings[clips], clips)
    np.testing.assert_allclose(often.coef_, once.coef_, atol=1e-12)
    pixels = ridge.regression(100 * features, ratings, range(30))
    np.testing.assert_allclose(100 * pixels.coef_, once.coef_, atol=1e-12)
    still = np.full((len(clips), 40), -1.6094379)
    np.testing.assert_allclose(ridge.regression(still, ratings[clips], clips).coef_, 0, atol=1e-9)


def test_training_keeps_the_regression_and_the_checkpoint_holds_it(config, splits, fitted, tmp_path):
    with linear_model():
        experiment.train(config, tmp_path / "run")
        with Checkpoints(tmp_path / "run") as checkpoints:
            wanted = models.abstract_variables(config.model)
            _, variables = checkpoints.restore_variables(LAST, wanted, sharding.data_mesh())
    for name, values in fitted["batch_stats"][models.RIDGE].items():
        np.testing.assert_array_equal(variables["batch_stats"][models.RIDGE][name], values)


@pytest.mark.parametrize(
    "options", [{"streams": "rgb"}, {"name": "skateformer"}, {"head": {"num_classes": 3, "hidden": ()}}]
)
def test_models_that_cannot_have_one_are_refused(config, options):
    model = config.model.copy_and_resolve_references().unlock()
    model.update({"members": 1} | options)
    with user_error("bad_option", "model.ridge"):
        models.build_model(model)
