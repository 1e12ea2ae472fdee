"""The recipe for few people, from training to a score."""

import json

import numpy as np
import pytest

from configs import folder, synthetic
from tests import linear
from tests.conftest import compiled_quickly
from tramp_jax import Scorer, experiment, run
from tramp_jax.data import datasets


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the recipe for few people on a few drawn ones."""
    config = synthetic.get_config("few").unlock()
    config.data.update(num_subjects=20, clips_per_subject=1)
    config.train.update(epochs=2, evaluate_every=2)
    config.model.members = 2
    config.evaluation.bootstrap = 20
    workdir = tmp_path_factory.mktemp("few") / "run"
    with compiled_quickly():  # two steps
        experiment.train(config.lock(), workdir)
    return workdir, config


@pytest.fixture(scope="module")
def linear_run(tmp_path_factory):
    """Cross-validation of six people in three folds, with a linear stand-in for the network."""
    config = synthetic.get_config("few").unlock()
    config.update_from_flattened_dict(linear.OPTIONS)
    config.model.update(members=1, ridge=False)
    config.model.trajectory.patch = 1
    config.data.update(num_subjects=6, clips_per_subject=1, protocol="k_fold", num_folds=3)
    config.train.update(epochs=1, evaluate_every=1, batch_size=2)
    config.evaluation.bootstrap = 100
    workdir = tmp_path_factory.mktemp("few") / "folds"
    with linear.linear_model():
        experiment.train(config.lock(), workdir)
    return workdir


def test_simple_methods_learn_from_the_same_people(trained):
    workdir, _ = trained
    found = json.loads((workdir / run.BASELINES).read_text())
    assert {"random forest", "SVR", "ridge", "model + SVR", "model, best"} <= set(found["spearman"])
    assert set(found["differences"]["spearman"]) == {
        "model, best − random forest",
        "model, best − SVR",
        "model, best − ridge",
        "model + SVR − random forest",
        "model + SVR − model, best",
    }
    assert (workdir / run.BASELINES_PLOT).is_file()
    assert not (workdir / run.CROSS_VALIDATION).exists()


def test_differences_are_defined_where_folds_hold_few_people(linear_run):
    """Resampled people may miss a fold, or be all alike in one."""
    found = json.loads((linear_run / run.CROSS_VALIDATION).read_text())["differences"]
    for pairs in found.values():
        for difference in pairs.values():
            assert difference["interval"] is None or difference["interval"][0] <= difference["interval"][1]
    assert any(each["interval"] for each in found["spearman"].values())


@pytest.mark.usefixtures("quick_compile")
def test_both_runtimes_score_with_all_members(trained):
    workdir, config = trained
    clip = datasets.open_dataset(config).source[3]
    by_onnx, by_jax = (Scorer(workdir, runtime=name).score_clip(clip).score for name in ("onnx", "jax"))
    assert np.isfinite(by_onnx)
    assert by_onnx == pytest.approx(by_jax, abs=1e-4)


def test_own_clips_have_the_same_recipe():
    one, other = folder.get_config("few"), synthetic.get_config("few")
    assert one.model == other.model
    assert one.optimizer == other.optimizer
    assert folder.get_config().model.members == 1
