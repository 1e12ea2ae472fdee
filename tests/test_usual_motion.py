"""A clip that moves unlike the training clips is recognised, and a new person's clip is not."""

import dataclasses
import json

import numpy as np
import pytest

from tests import tiny
from tests.raises import user_error
from tramp_jax import run, usual_motion
from tramp_jax.data import datasets
from tramp_jax.data.source import Split, Wanted


@pytest.fixture(scope="module")
def splits():
    config = tiny.get_config().unlock()
    config.data.update(num_subjects=120, clips_per_subject=2)
    dataset = datasets.open_dataset(config, Wanted(frames=False, pixels=False))
    return config, datasets.split(dataset, config, None)


@pytest.fixture(scope="module")
def usual(splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    usual_motion.describe(*splits, folder)
    return usual_motion.load(folder)


def moved(clip, change):
    return dataclasses.replace(clip, landmarks=change(clip.landmarks.astype(np.float64)).astype(np.float32))


def shaking(points):
    return points + np.random.default_rng(0).normal(0, 6, points.shape)


def frozen(points):
    return np.repeat(points[:1], len(points), axis=0)


def exaggerated(points):
    return points[:1] + 4 * (points - points[:1])


def test_most_clips_of_new_people_are_usual(splits, usual):
    test = splits[1]["test"]
    strange = [usual.unlike(test[i]) for i in range(len(test))]
    assert np.mean([bool(text) for text in strange]) <= 0.2


@pytest.mark.parametrize("change", [shaking, frozen, exaggerated])
def test_other_motion_is_recognised(splits, usual, change):
    test = splits[1]["test"]
    strange = [usual.unlike(moved(test[i], change)) for i in range(8)]
    assert np.mean([bool(text) for text in strange]) >= 0.9
    assert "usual up to" in strange[0]


def test_two_validation_clips_do_not_set_the_limit_alone(splits, tmp_path):
    config, parts = splits
    found = []
    for first in (0, 4, 8):
        some = {"train": Split(parts["train"], range(48)), "validation": Split(parts["validation"], [first, first + 1])}
        folder = tmp_path / str(first)
        folder.mkdir()
        usual_motion.describe(config, some, folder)
        found.append(usual_motion.load(folder))
    assert max(each.threshold for each in found) < 1.3 * min(each.threshold for each in found)
    test = parts["test"]
    assert np.mean([bool(found[0].unlike(test[i])) for i in range(len(test))]) <= 0.2
    assert all(found[0].unlike(moved(test[i], shaking)) for i in range(4))


def test_a_person_with_many_clips_sets_no_limit(splits, tmp_path):
    """Neither as the only validation person who moves unlike the others, nor by resembling one's own other clips."""
    config, parts = splits
    found = []
    for name, train, validation in (
        ("once", range(0, 20, 2), range(0, 38, 2)),
        ("often", range(0, 20, 2), sorted([*range(0, 38, 2), *[0] * 30])),
        ("few", range(0, 20, 2), [0]),
        ("copies", sorted([*range(0, 20, 2)] * 5), [0]),
    ):
        some = {"train": Split(parts["train"], train), "validation": Split(parts["validation"], validation)}
        folder = tmp_path / name
        folder.mkdir()
        usual_motion.describe(config, some, folder)
        found.append(usual_motion.load(folder).threshold)
    assert found[0] == found[1]
    assert found[2] == pytest.approx(found[3], rel=0.2)


def test_a_model_of_frames_alone_has_no_usual_motion(splits, tmp_path):
    config = splits[0].copy_and_resolve_references()
    config.model.streams = "rgb"
    usual_motion.describe(config, splits[1], tmp_path)
    assert usual_motion.load(tmp_path) is None


def test_a_damaged_file_is_named(usual, tmp_path):
    path = tmp_path / run.USUAL_MOTION
    for text in ("{", "[]", "{}", json.dumps(dataclasses.asdict(usual) | {"threshold": float("nan")})):
        path.write_text(text)
        with user_error("damaged_file", path):
            usual_motion.load(tmp_path)
