"""Landmarks as a target of the frame encoder: they follow the frames, reach the encoder, and stay out of scoring."""

import dataclasses
import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import frames as recipe
from tests import tiny
from tests.linear import interrupted_at, measured
from tests.raises import user_error
from tests.test_cache import CACHES, _batches
from tests.tiny_recipe import shrink
from tramp_jax import evaluation, experiment, initial_weights, landmark_readout, losses, models, trainer, training_step
from tramp_jax.batches import augment, pipeline
from tramp_jax.checkpoint import Checkpoints
from tramp_jax.data import datasets
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.models import abstract_variables
from tramp_jax.scoring.judges import JaxJudge
from tramp_jax.scoring.members import load_member


@pytest.fixture
def config(config):
    """The tiny frame stream that learns landmarks too."""
    config.model.streams = "rgb"
    config.loss.landmarks = 2.0
    return config


@pytest.fixture(scope="module")
def splits():
    config = tiny.get_config().unlock()
    config.model.streams, config.loss.landmarks = "rgb", 1.0
    return datasets.split(datasets.open_dataset(config), config, None)


def _clip(positions, size=(256, 192)):
    """A black clip with a white dot under slot 0 of each frame; all other landmarks are in the upper left corner."""
    points = np.zeros((len(positions), 64, 2), np.float32)
    points[:, 0] = positions
    frames = np.zeros((len(positions), *size, 3), np.uint8)
    for frame, (x, y) in zip(frames, positions, strict=True):
        frame[int(y) - 8 : int(y) + 9, int(x) - 8 : int(x) + 9] = 255
    info = ClipInfo("dot", "s", "smile", 1.0, len(positions))
    return Clip(info, points, "points63", frames=frames)


def _centre_of_light(frame):
    """(x, y) in units of half the picture."""
    light = np.maximum(frame.sum(axis=-1) - frame.sum(axis=-1).min(), 0)
    places = [(np.arange(side) + 0.5) * 2 / side - 1 for side in light.shape]
    return [float(light.sum(axis=1 - axis) @ places[axis] / light.sum()) for axis in (1, 0)]


@pytest.mark.parametrize(
    "change",
    [
        {"crop": False, "flip": 0.0},
        {"crop": True, "flip": 0.0},
        {"crop": True, "flip": 1.0, "reverse_frames": True, "reverse_time": 1.0},
    ],
)
def test_points_stay_on_what_the_augmented_frames_show(config, change):
    config.data.padding = "zero"
    config.augment.update(change)
    path = np.linspace((60, 150), (120, 90), 12)
    sample = pipeline.Sampler.to_learn(config).train(0, _clip(path))
    assert sample.inputs.frames.shape == (16, 37, 37, 3)
    batch = jax.tree.map(lambda x: jnp.stack([x] * 4), sample.inputs)
    out = augment.for_training(batch, config, jax.random.key(1))
    slot = 18 if change["flip"] else 0  # the same place of the other eye
    shown = ~np.isnan(out.points[0, :, slot, 0])
    order = slice(None, None, -1 if "reverse_frames" in change else 1)
    np.testing.assert_array_equal(shown[order], np.arange(16) < 12)  # padding has no points
    for frames, points in zip(np.asarray(out.frames), np.asarray(out.points), strict=True):
        found = [_centre_of_light(frame) for frame in frames[shown]]
        np.testing.assert_allclose(found, points[shown, slot], atol=0.03)


def test_an_evaluated_sample_has_the_points_of_each_place_and_scoring_none(config, splits):
    clip = splits["train"][0]
    points = pipeline.Sampler.to_learn(config).test(clip).inputs.points
    view = pipeline.View.of(config, len(clip.landmarks))
    np.testing.assert_array_equal(points, pipeline.frame_points(clip)[view.frames])
    assert pipeline.Sampler(config).test(clip).inputs.points is None
    config.loss.landmarks = 0.0
    assert pipeline.Sampler.to_learn(config).test(clip).inputs.points is None
    variables = abstract_variables(config.model)
    assert landmark_readout.added(variables, config) is variables


def test_every_cache_gives_the_same_points(config, splits):
    config.data.padding, config.model.rgb.num_frames = "zero", 64  # clips have 45 to 80
    plain, *others = (_batches(config, kind, splits, 2) for kind in CACHES)
    for other in others:
        for one, two in zip(plain, other, strict=True):
            np.testing.assert_array_equal(two.inputs.points, one.inputs.points)
    assert np.isnan(plain[0].inputs.points).any()


def test_blank_frames_and_unknown_points_count_nothing():
    rng = np.random.default_rng(0)
    params = {landmark_readout.NAME: {"kernel": rng.normal(size=(4, 126)), "bias": rng.normal(size=126)}}
    features, points = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 63, 2))
    points[1, 2] = np.nan
    errors = landmark_readout.squared_errors(params, features, points)
    read = (features @ params[landmark_readout.NAME]["kernel"] + params[landmark_readout.NAME]["bias"]).reshape(
        points.shape
    )
    np.testing.assert_allclose(errors, np.square(read - points).mean(axis=(2, 3)), rtol=1e-5)
    away = landmark_readout.distances(params, features, points)
    np.testing.assert_allclose(away, np.linalg.norm(read - points, axis=-1).mean(axis=2), rtol=1e-5)

    def loss(features):
        return jnp.nanmean(landmark_readout.squared_errors(params, features, points))

    gradient = jax.grad(loss)(features)
    assert np.isfinite(gradient).all()
    assert not gradient[1, 2].any()
    assert gradient[0].all()


class _Frames(nn.Module):
    """A stand-in for the network, whose frame features are those of a linear encoder."""

    @nn.compact
    def __call__(self, frames, trajectories, index_t, train=False, frame_index=None, frame_features=None):
        if frame_index is not None:
            frames = jax.vmap(lambda distinct, where: distinct[where])(frames, frame_index)
        features = nn.Dense(16, name="rgb_encoder")(frames[:, :, ::4, ::4].reshape(*frames.shape[:2], -1))
        return nn.Dense(1)(features.mean(axis=1))[:, 0], {"frame_features": features}


@pytest.fixture
def stand_in(monkeypatch):
    for module in (models, training_step, evaluation):
        monkeypatch.setattr(module, "build_model", lambda _: _Frames())


def test_parts_of_a_batch_have_the_loss_and_the_gradients_of_the_whole(config, splits, stand_in):
    batch = next(iter(pipeline.training_batches(splits["train"], config)))
    batch = batch.replace(inputs=augment.for_training(batch.inputs, config, jax.random.key(0)))
    points = np.array(batch.inputs.points)
    points[3, 5:] = np.nan  # clips of different lengths
    batch = batch.replace(inputs=batch.inputs.replace(points=points))
    params = initial_weights.initial_variables(config)[0]["params"]
    start = params, {}, batch, jax.random.key(0)
    objective = training_step.Objective(_Frames(), losses.bmc, 2.0)
    loss, _, gradients = jax.jit(lambda *start: training_step.gradients_of_batch(objective, *start))(*start)
    in_parts = jax.jit(lambda *start: training_step.gradients_in_parts(objective, *start, 4))(*start)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), in_parts[2], gradients)
    assert float(in_parts[0]) == pytest.approx(float(loss), rel=1e-5)
    (score, errors), _ = training_step.forward(_Frames(), params, {}, batch.inputs, jax.random.key(0))
    assert float(loss) == pytest.approx(float(losses.bmc(score, batch.target) + 2 * jnp.nanmean(errors)), rel=1e-5)

    # Landmarks alone: the encoder learns, the rest of the model does not.
    alone = training_step.Objective(_Frames(), losses.build_loss(_only_landmarks(config)), 2.0)
    _, _, gradients = jax.jit(lambda *start: training_step.gradients_of_batch(alone, *start))(*start)
    assert np.abs(gradients["rgb_encoder"]["kernel"]).max() > 0
    assert not np.any(gradients["Dense_0"]["kernel"])


def _only_landmarks(config):
    config.loss.name = "landmarks"
    return config


def test_an_interrupted_run_continues_to_the_same_bits(config, splits, stand_in, tmp_path):
    config.train.epochs = 3
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    trainer.fit(config, splits, tmp_path / "whole")

    with interrupted_at(3):
        trainer.fit(config, splits, tmp_path / "cut")
    trainer.fit(config, splits, tmp_path / "cut", resume=True)
    whole, cut = (measured(tmp_path / name, "train", "validation") for name in ("whole", "cut"))
    assert cut == whole
    assert all(0 < row["landmark_error"] < 100 for row in whole if row["kind"] == "validation")


def test_the_checkpoint_of_least_landmark_error_is_chosen(config, splits, stand_in, tmp_path):
    config.train.epochs = 3
    trainer.fit(_only_landmarks(config), splits, tmp_path)
    errors = {row["step"]: row["landmark_error"] for row in measured(tmp_path, "validation")}
    assert set(errors) == {2, 4, 6}
    with Checkpoints(tmp_path) as checkpoints:
        step, variables = checkpoints.restore_variables(
            "best", initial_weights.initial_variables(config)[0], trainer.sharding.data_mesh()
        )
    assert step == min(errors, key=errors.get)
    assert landmark_readout.NAME in variables["params"]


def test_scoring_and_export_read_a_checkpoint_without_the_map(config, splits, tmp_path):
    variables = initial_weights.initial_variables(config)[0]
    assert landmark_readout.NAME in variables["params"]
    (tmp_path / "config.json").write_text(config.to_json())
    with Checkpoints(tmp_path, writing=True) as checkpoints:
        checkpoints.save_best(1, variables)
    member = load_member(tmp_path)
    model = abstract_variables(config.model)
    assert jax.tree.structure(member.variables) == jax.tree.structure(model)  # export and conversion take these
    bare = dataclasses.replace(splits["test"][0], landmarks=np.full_like(splits["test"][0].landmarks, np.nan))
    assert np.isfinite(JaxJudge(member).many([bare])).all()
    start = tiny.get_config().unlock()
    start.model.streams, start.init.rgb = "rgb", str(tmp_path)
    taken, table = initial_weights.initial_variables(start)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, taken["params"]["rgb_encoder"], variables["params"]["rgb_encoder"])
    )
    assert landmark_readout.NAME not in table


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"loss.name": "landmarks", "loss.landmarks": 0.0}, "loss.landmarks=0"),
        ({"loss.name": "landmarks", "model.streams": "trajectory"}, "model.streams"),
        ({"model.rgb.scrambled_frames": True}, "model.rgb.scrambled_frames"),
    ],
)
def test_options_that_leave_nothing_to_learn_are_refused(config, change, fact):
    config.update_from_flattened_dict(change)
    with user_error("bad_option", fact):
        losses.check(config)


def test_a_clip_without_landmarks_or_frames_is_refused(config):
    clip = _clip(np.full((12, 2), 50.0))
    with user_error("no_landmarks", "clip dot", "loss.landmarks"):
        pipeline.Sampler.to_learn(config).train(0, dataclasses.replace(clip, landmarks=clip.landmarks * np.nan))
    with user_error("no_frames", "clip dot"):
        pipeline.Sampler.to_learn(config).train(0, dataclasses.replace(clip, frames=None))
    assert datasets.wanted_by(config).landmarks
    config.loss.landmarks = 0.0
    assert not datasets.wanted_by(config).landmarks


@pytest.mark.slow
def test_recipe_pre_trains_an_encoder_that_another_run_starts_from(tmp_path):
    config = shrink(recipe.get_config(), "", streams="rgb")
    config.data.update(num_subjects=15, expression="smile")
    experiment.train(config, tmp_path / "run")
    report = json.loads((tmp_path / "run/evaluation/test-best/metrics.json").read_text())["all"]
    assert list(report) == ["landmark_error"]
    assert 0 < report["landmark_error"]["value"] < 100
    experiment.evaluate(tmp_path / "run", "last", "test")
    with user_error("no_scores", tmp_path / "run", "config.init.rgb"):
        load_member(tmp_path / "run")
    start = tiny.get_config().unlock()
    start.model.streams, start.init.rgb = "rgb", str(tmp_path / "run")
    _, table = initial_weights.initial_variables(start)
    assert "rgb_encoder" in table
    shutil.rmtree(tmp_path / "run")
