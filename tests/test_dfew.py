"""The reader of DFEW, on files in its published layout, and the two recipes of pre-training."""

from pathlib import Path

import numpy as np
import pytest

from configs import dfew_rgb, dfew_trajectory
from tests.published_layouts import DFEW_UNDETECTED, edit, write_dfew
from tests.raises import user_error
from tests.tiny_recipe import shrink
from tramp_jax import experiment, models
from tramp_jax.data.problems import Problems
from tramp_jax.data.readers import dfew
from tramp_jax.data.source import Dataset, Wanted


@pytest.fixture
def root(tmp_path):
    """Two clips to train and one to test."""
    write_dfew(tmp_path)
    return tmp_path


def opened(
    root: Path | str, wanted: Wanted | None = None, problems: Problems | None = None, **options: object
) -> Dataset:
    return dfew.open(root, dfew.Options(**options), wanted or Wanted(), problems or Problems())


# Content


@pytest.mark.parametrize("colours", [True, False])
def test_reads_what_was_published(tmp_path, colours):
    written = write_dfew(tmp_path, 3, 2, colours=colours)
    source = opened(tmp_path).source
    assert list(source.infos) == [clip.info for clip in written]
    for index in (0, 4):
        read, expected = source[index], written[index]
        assert (read.info, read.layout, read.frames) == (expected.info, "insightface73", expected.frames)
        np.testing.assert_array_equal(read.landmarks, expected.landmarks)
        np.testing.assert_array_equal(read.pixels, expected.pixels)
        assert (read.pixels.shape, read.pixels.dtype) == ((5, 63, 3), np.uint8)


def test_official_split_is_that_of_the_set(tmp_path):
    write_dfew(tmp_path, number=4)
    dataset = opened(tmp_path, set=4)
    assert dataset.official == {"train": {"00001", "00002"}, "test": {"00003"}}
    assert [info.subject for info in dataset.source.infos] == ["00001", "00002", "00003"]
    with user_error("missing_list", tmp_path, "set_1_train.txt", "train_list=FILE"):
        opened(tmp_path)
    with user_error("bad_option", "data.set", 6):
        opened(tmp_path, set=6)


def test_first_label_is_zero_or_one(root):
    with user_error("bad_option", "data.first_label", 2):
        opened(root, first_label=2)


@pytest.mark.parametrize("first_label", [0, 1])
def test_labels_of_both_releases_make_the_same_classes(tmp_path, first_label):
    write_dfew(tmp_path, 5, 2, first_label=first_label)
    scores = [info.score for info in opened(tmp_path).source.infos]
    assert scores == [6, 0, 1, 2, 3, 4, 5]
    assert dfew.EMOTIONS[6] == "fear"


def test_labels_without_a_0_or_a_7_need_an_option(root):
    edit(root / "set_1_train.txt", 1, " 7", " 5")  # leaves 5, 1 and 2
    with user_error("ambiguous_labels", root / "set_1_train.txt", "1, 2, 5", "first_label=0 or 1"):
        opened(root)
    assert [info.score for info in opened(root, first_label=1).source.infos] == [4, 0, 1]
    assert [info.score for info in opened(root, first_label=0).source.infos] == [5, 1, 2]


def test_labels_from_zero_to_seven_contradict_each_other(root):
    edit(root / "set_1_test.txt", 1, " 2", " 0")
    with user_error("bad_label", f"{root / 'set_1_train.txt'}, line 1", "label 7", "from 0 to 6"):
        opened(root)


def test_clips_with_an_undetected_face_are_skipped_and_counted(tmp_path):
    written = write_dfew(tmp_path, 5, 1, undetected=DFEW_UNDETECTED)
    problems = Problems()
    dataset = opened(tmp_path, problems=problems)
    assert list(dataset.source.infos) == [clip.info for clip in written]
    assert dataset.official == {"train": {"00001", "00002"}, "test": {"00006"}}
    assert [(x.kind, x.severity, x.clip) for x in problems.found] == [
        ("undetected_face", "warning", name) for name in ("00003", "00004", "00005")
    ]
    for name, problem in zip(("00003", "00004", "00005"), problems.found, strict=True):
        assert str(tmp_path / f"landmarks/{name}.npy") in problem.message
    for fact in ("1 of 5 frames", "frame 3"):
        assert fact in problems.found[1].message
    assert len(opened(tmp_path, Wanted(landmarks=False)).source) == 6


def test_frames_are_read_without_landmarks(tmp_path):
    written = write_dfew(tmp_path, colours=False)
    for file in (tmp_path / "landmarks").iterdir():
        file.unlink()
    (tmp_path / "landmarks").rmdir()
    clip = opened(tmp_path, Wanted(landmarks=False)).source[1]
    assert clip.frames == written[1].frames
    assert np.isnan(clip.landmarks).all()
    assert clip.pixels is None
    with user_error("missing_folder", tmp_path / "landmarks", "landmarks_root=FOLDER"):
        opened(tmp_path)


def test_trajectories_are_read_without_frames(root):
    for file in root.rglob("*.jpg"):
        file.unlink()
    clip = opened(root, Wanted(frames=False)).source[0]
    assert clip.frames is None
    assert clip.pixels.shape == (5, 63, 3)


def test_short_clips_are_skipped(root):
    edit(root / "set_1_train.txt", 2, " 5 ", " 4 ")
    problems = Problems()
    source = opened(root, problems=problems, min_frames=5).source
    assert [info.id for info in source.infos] == ["00001", "00003"]
    assert [(x.kind, x.severity, x.clip) for x in problems.found] == [("short_clip", "warning", "00002")]


def test_a_data_set_without_usable_clips_is_an_error(root):
    for file in (root / "landmarks").iterdir():
        file.unlink()
    with user_error("no_clips", root / "landmarks", "3 listed clips", "00001"):
        opened(root)


# Lists


def test_only_the_last_part_of_a_path_is_used(root):
    text = (root / "set_1_train.txt").read_text()
    (root / "set_1_train.txt").write_text(text.replace("your_dataset_path/DFEW/train/", "/home/a user/DFEW_Face/"))
    (root / "set_1_test.txt").write_text("00003\t5\t2\r\n\r\n")
    assert [info.id for info in opened(root).source.infos] == ["00001", "00002", "00003"]


@pytest.mark.parametrize(
    ("line", "kind", "facts"),
    [
        ("a/00002 5 8", "malformed_row", ["'a/00002 5 8'"]),
        ("a/00002 5", "malformed_row", ["'a/00002 5'"]),
        ("a/00002 0 1", "malformed_row", ["'a/00002 0 1'"]),
        ("a/00002 5 happy", "malformed_row", ["'a/00002 5 happy'"]),
        ("a/.. 5 1", "malformed_row", ["'a/.. 5 1'"]),
        ("b/00001 5 1", "duplicate_clip", ["clip 00001", "set_1_train.txt, line 1"]),
    ],
)
def test_a_malformed_line_is_named_and_skipped(root, line, kind, facts):
    edit(root / "set_1_train.txt", 2, "your_dataset_path/DFEW/train/00002 5 1", line)
    with user_error(kind, f"{root / 'set_1_train.txt'}, line 2", *facts):
        opened(root)
    problems = Problems(collect=True)
    assert [info.id for info in opened(root, problems=problems).source.infos] == ["00001", "00003"]
    assert [x.kind for x in problems.found] == [kind]


def test_a_clip_in_both_lists_is_named(root):
    edit(root / "set_1_test.txt", 1, "00003", "00001")
    places = f"{root / 'set_1_test.txt'}, line 1", f"{root / 'set_1_train.txt'}, line 1"
    with user_error("duplicate_clip", "clip 00001", *places):
        opened(root)


def test_empty_lists_are_refused(root):
    for part in ("train", "test"):
        (root / f"set_1_{part}.txt").write_text("\n")
    with user_error("empty_list", root / "set_1_train.txt"):
        opened(root)


# Absent and broken files


def test_the_message_for_absent_data_says_what_to_obtain_and_where_to_put_it():
    facts = "on request", "dfew-dataset.github.io", "Former-DFER", "ROOT/frames/00001/", "--config.data.root"
    with user_error("missing_file", *facts):
        opened("")


# Recipes


def test_recipes_build_the_published_encoders():
    trajectory, rgb = dfew_trajectory.get_config(), dfew_rgb.get_config()
    assert models.input_shapes(trajectory.model, 2)["trajectories"] == (2, 256, 63, 5)
    assert models.input_shapes(rgb.model, 2)["frames"] == (2, 16, 112, 112, 3)
    for config, encoder in ((trajectory, "trajectory_encoder"), (rgb, "rgb_encoder")):
        params = models.abstract_variables(config.model)["params"]
        assert set(params) == {encoder, "head"}
        assert [x.shape[-1] for x in params["head"].values() for x in x.values()].count(7) == 2  # kernel and bias


@pytest.mark.parametrize("recipe", [dfew_trajectory, dfew_rgb])
def test_recipe_opens_the_official_split(tmp_path, recipe):
    write_dfew(tmp_path / "data", 17, 6, num_frames=6)
    if recipe is dfew_rgb:  # needs no landmarks
        (tmp_path / "data/landmarks").rename(tmp_path / "elsewhere")
    config = shrink(recipe.get_config(), tmp_path / "data")
    config.data.min_frames = 1
    test = experiment.open_folds(config).splits[None]["test"]
    assert {info.id for info in test.infos} == {f"{i:05d}" for i in range(18, 24)}
    assert (test[0].frames is not None) == (recipe is dfew_rgb)
