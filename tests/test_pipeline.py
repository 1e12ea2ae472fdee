"""Batches: contents, reproducibility, and augmentation on the device."""

import dataclasses
import itertools

import grain
import jax
import numpy as np
import pytest

from tests.raises import user_error
from tests.tiny import sized
from tramp_jax.batches import augment, pipeline
from tramp_jax.data import datasets
from tramp_jax.models import Inputs


@pytest.fixture(scope="module")
def dataset():
    from tests import tiny

    return datasets.open_dataset(tiny.get_config())


@pytest.fixture
def config(config):
    config.model.trajectory.patch = 1
    return config


@pytest.fixture
def split(dataset, config):
    return datasets.split(dataset, config, None)["train"]


def _take(config, split, count):
    iterator = iter(pipeline.training_batches(split, config))
    batches = list(itertools.islice(iterator, count))
    iterator.close()
    return batches


def _same(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def test_a_batch_has_the_shapes_that_the_model_takes(config, split):
    (batch,) = _take(config, split, 1)
    assert batch.inputs.frames.shape == (8, 16, 37, 37, 3)  # 32 · 256 / 224
    assert batch.inputs.frames.dtype == np.uint8
    assert batch.inputs.trajectories.shape == (8, 64, 63, 5)
    assert batch.inputs.index_t.shape == (8, 64)
    assert batch.target.shape == (8,)


def test_an_unread_stream_is_not_read(config, split):
    config.model.streams = "trajectory"
    assert _take(config, split, 1)[0].inputs.frames is None
    config.model.streams = "rgb"
    assert _take(config, split, 1)[0].inputs.trajectories is None


def test_still_clips_show_only_their_first_frame(config, split):
    config.data.still = True
    config.augment.update(crop=False, flip=0.0, reverse_time=0.0)
    (batch,) = _take(config, split, 1)
    for name in ("frames", "trajectories", "index_t"):
        shown = getattr(batch.inputs, name)
        np.testing.assert_array_equal(shown, np.broadcast_to(shown[:, :1], shown.shape))
    config.data.still = False
    (moving,) = _take(config, split, 1)
    assert np.any(moving.inputs.frames != batch.inputs.frames)
    np.testing.assert_array_equal(batch.target, moving.target)


def test_the_released_centring_reaches_the_batch(config, split):
    sample = {}
    for centring in ("nose", "first_frame"):
        config.landmarks.normalise = centring
        sample[centring] = pipeline.Sampler(config).test(split[0]).inputs.trajectories
    assert np.abs(sample["first_frame"] - sample["nose"])[..., :2].max() > 1
    np.testing.assert_array_equal(sample["first_frame"][..., 2:], sample["nose"][..., 2:])


def test_batches_depend_on_the_seed_and_not_on_the_number_of_threads(config, split):
    config.train.reader_threads = 1
    one = _take(config, split, 4)
    config.train.reader_threads = 4
    four = _take(config, split, 4)
    assert all(map(_same, one, four))
    config.seed = 1
    assert not any(map(_same, one, _take(config, split, 4)))


def test_every_pass_has_a_new_order_and_new_draws(config, split):
    config.train.batch_size = len(split)
    first, second = _take(config, split, 2)
    assert sorted(first.target) == sorted(second.target) == sorted(info.score for info in split.infos)
    assert not _same(first, second)


def test_the_position_in_the_data_can_be_restored(config, split):
    iterator = iter(pipeline.training_batches(split, config))
    for _ in range(3):
        next(iterator)
    state, expected = iterator.get_state(), next(iterator)
    fresh = iter(pipeline.training_batches(split, config))
    fresh.set_state(state)
    assert _same(next(fresh), expected)
    iterator.close()
    fresh.close()
    assert isinstance(iterator, grain.DatasetIterator)


def test_evaluation_shows_every_clip_once_and_masks_the_padding(config, split):
    config.model.streams = "trajectory"
    batches = list(pipeline.evaluation_batches(split, config, 4))  # 10 clips
    assert [batch.mask.tolist() for batch in batches] == [[1] * 4, [1] * 4, [1, 1, 0, 0]]
    targets = np.concatenate([batch.target[batch.mask > 0] for batch in batches])
    np.testing.assert_array_equal(targets, [info.score for info in split.infos])
    again = list(pipeline.evaluation_batches(split, config, 4))
    assert all(map(_same, batches, again))


def test_a_clip_without_frames_is_refused_if_the_model_reads_them(config, split):
    clip = split[0]
    bare = type(clip)(clip.info, clip.landmarks, clip.layout)
    config.model.streams = "rgb"
    with user_error("no_frames", clip.info.id, "model.streams"):
        pipeline.Sampler(config).test(bare)


def test_splits_share_no_subject_and_cover_everyone(config, dataset):
    parts = datasets.split(dataset, config, None)
    subjects = [{info.subject for info in part.infos} for part in parts.values()]
    assert not any(a & b for a, b in itertools.combinations(subjects, 2))
    assert set.union(*subjects) == {info.subject for info in dataset.source.infos}


def test_folds_test_every_subject_once(config, dataset):
    config.data.update(protocol="k_fold", num_folds=3)
    assert list(datasets.runs(dataset, config)) == [0, 1, 2]
    tested = [info.id for fold in range(3) for info in datasets.split(dataset, config, fold)["test"].infos]
    assert sorted(tested) == sorted(info.id for info in dataset.source.infos)
    config.data.fold = 1
    assert datasets.runs(dataset, config) == (1,)
    config.data.protocol = "holdout"
    with user_error("bad_option", "data.fold is 1", "data.num_folds"):
        datasets.runs(dataset, config)


def test_an_official_split_is_kept(config, dataset):
    everyone = sorted({info.subject for info in dataset.source.infos})
    official = {"train": frozenset(everyone[:10]), "test": frozenset(everyone[10:])}
    with_official = dataclasses.replace(dataset, official=official)
    parts = datasets.split(with_official, config, None)
    assert {info.subject for info in parts["test"].infos} == official["test"]
    config.data.update(protocol="k_fold", num_folds=2)  # cross-validation never touches the official test list
    for fold in range(2):
        seen = {i.subject for part in datasets.split(with_official, config, fold).values() for i in part.infos}
        assert seen == official["train"]


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return Inputs(
        frames=rng.integers(0, 256, (64, 2, 40, 40, 3)).astype(np.uint8),
        trajectories=rng.normal(size=(64, 8, 3, 2)).astype(np.float32),
    )


def test_training_crops_are_normalised_windows_of_the_frames(config, batch):
    config.augment.update(crop=True, flip=0.0, reverse_time=0.0)
    out = augment.for_training(batch, sized(config, 35), jax.random.key(0))
    normal = np.asarray(augment.normalise(batch.frames))
    corners = set()
    for i in range(64):
        found = [
            (y, x)
            for y in range(6)
            for x in range(6)
            if np.allclose(out.frames[i], normal[i, :, y : y + 35, x : x + 35], atol=1e-5)
        ]
        assert len(found) == 1, "not one window in all frames"
        corners.add(found[0])
    assert len(corners) > 20
    np.testing.assert_array_equal(out.trajectories, batch.trajectories)


def test_half_of_the_clips_are_flipped_and_half_reversed(config, batch):
    config.augment.update(crop=False, flip=0.5, reverse_time=0.5)
    out = augment.for_training(batch, sized(config, 40), jax.random.key(0))
    plain = np.asarray(augment.normalise(batch.frames))
    flipped = [np.allclose(out.frames[i], plain[i, :, :, ::-1], atol=1e-5) for i in range(64)]
    kept = [np.allclose(out.frames[i], plain[i], atol=1e-5) for i in range(64)]
    reversed_ = [np.array_equal(out.trajectories[i], batch.trajectories[i, ::-1]) for i in range(64)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert 16 < sum(flipped) < 48
    assert 16 < sum(reversed_) < 48
    assert flipped != reversed_  # independent draws


def test_evaluation_resizes_the_whole_frame(config, batch):
    out = augment.for_evaluation(batch, sized(config, 20).model)
    assert out.frames.shape == (64, 2, 20, 20, 3)
    whole = np.asarray(augment.normalise(batch.frames)).mean((2, 3))
    np.testing.assert_allclose(out.frames.mean((2, 3)), whole, atol=0.05)


def test_stored_frames_keep_the_published_proportion():
    assert augment.stored_size(224) == 256
    assert augment.stored_size(112) == 128
