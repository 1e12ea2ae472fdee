"""The reader of DFEW, on files in its published layout, and the two recipes of pre-training."""

import json
from pathlib import Path

import numpy as np
import pytest

from configs import dfew_rgb, dfew_trajectory, pfed5
from tests.published_layouts import DFEW_UNDETECTED, write_dfew
from tests.tiny_recipe import shrink
from tramp_jax import experiment, initial_weights, models
from tramp_jax.data import clips, datasets
from tramp_jax.data.problems import DataError, Problems
from tramp_jax.data.readers.dfew import DFEW, EMOTIONS
from tramp_jax.errors import UserError


@pytest.fixture
def root(tmp_path):
    """Two clips to train and one to test."""
    write_dfew(tmp_path)
    return tmp_path


def edit(path: Path, line: int, old: str, new: str) -> None:
    lines = path.read_text().splitlines()
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new)
    path.write_text("\n".join(lines))


# Content


@pytest.mark.parametrize("colours", [True, False])
def test_reads_what_was_published(tmp_path, colours):
    written = write_dfew(tmp_path, 3, 2, colours=colours)
    source: clips.ClipSource = DFEW(tmp_path)
    assert list(source.infos) == [clip.info for clip in written]
    for index in (0, 4):
        read, expected = source[index], written[index]
        assert (read.info, read.layout, read.frames) == (expected.info, "insightface73", expected.frames)
        np.testing.assert_array_equal(read.landmarks, expected.landmarks)
        np.testing.assert_array_equal(read.pixels, expected.pixels)
        assert (read.pixels.shape, read.pixels.dtype) == ((5, 63, 3), np.uint8)


def test_official_split_is_that_of_the_set(tmp_path):
    write_dfew(tmp_path, number=4)
    source = DFEW(tmp_path, number=4)
    assert source.official_split() == {"train": {"00001", "00002"}, "test": {"00003"}}
    assert [info.subject for info in source.infos] == ["00001", "00002", "00003"]
    with pytest.raises(UserError, match=r"set_1_train.txt: no such list; .*train_list=FILE"):
        DFEW(tmp_path)
    with pytest.raises(ValueError, match=r"data.set is 6"):
        DFEW(tmp_path, number=6)


@pytest.mark.parametrize("first_label", [0, 1])
def test_labels_of_both_releases_make_the_same_classes(tmp_path, first_label):
    write_dfew(tmp_path, 5, 2, first_label=first_label)
    scores = [info.score for info in DFEW(tmp_path).infos]
    assert scores == [6, 0, 1, 2, 3, 4, 5]
    assert EMOTIONS[6] == "fear"


def test_labels_that_tell_not_where_they_begin_are_asked_for(tmp_path):
    write_dfew(tmp_path)
    edit(tmp_path / "set_1_train.txt", 1, " 7", " 5")  # leaves 5, 1 and 2
    with pytest.raises(DataError, match=r"labels are 1, 2, 5, which tells not .*first_label=0 or 1"):
        DFEW(tmp_path)
    assert [info.score for info in DFEW(tmp_path, first_label=1).infos] == [4, 0, 1]
    assert [info.score for info in DFEW(tmp_path, first_label=0).infos] == [5, 1, 2]


def test_labels_from_zero_to_seven_contradict_each_other(tmp_path):
    write_dfew(tmp_path)
    edit(tmp_path / "set_1_test.txt", 1, " 2", " 0")
    with pytest.raises(DataError, match=r"set_1_train.txt, line 1: label 7, but labels count from 0 to 6"):
        DFEW(tmp_path)


def test_clips_with_an_undetected_face_are_left_out_and_counted(tmp_path):
    written = write_dfew(tmp_path, 5, 1, undetected=DFEW_UNDETECTED)
    problems = Problems()
    source = DFEW(tmp_path, problems=problems)
    assert list(source.infos) == [clip.info for clip in written]
    assert source.left_out == ["00003", "00004", "00005"]
    assert source.official_split()["train"] == {"00001", "00002"}
    assert [(x.kind, x.severity, x.clip) for x in problems.found] == [
        ("undetected_face", "warning", name) for name in source.left_out
    ]
    assert "00003.npy: no such file" in problems.found[0].message
    assert "1 of 5 frames, the first is frame 3" in problems.found[1].message
    assert len(DFEW(tmp_path, with_landmarks=False)) == 6


def test_frames_alone_need_no_landmarks(tmp_path):
    written = write_dfew(tmp_path, colours=False)
    for file in (tmp_path / "landmarks").iterdir():
        file.unlink()
    (tmp_path / "landmarks").rmdir()
    clip = DFEW(tmp_path, with_landmarks=False)[1]
    assert clip.frames == written[1].frames
    assert np.isnan(clip.landmarks).all()
    assert clip.pixels is None
    with pytest.raises(UserError, match=r"landmarks: no such folder of landmarks.*landmarks_root=FOLDER"):
        DFEW(tmp_path)


def test_trajectories_are_read_without_frames(root):
    for file in root.rglob("*.jpg"):
        file.unlink()
    clip = DFEW(root, with_frames=False)[0]
    assert clip.frames is None
    assert clip.pixels.shape == (5, 63, 3)


def test_short_clips_are_left_out(root):
    edit(root / "set_1_train.txt", 2, " 5 ", " 4 ")
    problems = Problems()
    source = DFEW(root, min_frames=5, problems=problems)
    assert [info.id for info in source.infos] == ["00001", "00003"]
    assert [(x.kind, x.severity) for x in problems.found] == [("short_clip", "warning")]


def test_nothing_usable_is_an_error(root):
    for file in (root / "landmarks").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"landmarks: none of the 3 listed clips can be used"):
        DFEW(root)


# Lists


def test_the_path_counts_by_its_last_part(root):
    text = (root / "set_1_train.txt").read_text()
    (root / "set_1_train.txt").write_text(text.replace("your_dataset_path/DFEW/train/", "/home/a user/DFEW_Face/"))
    (root / "set_1_test.txt").write_text("00003\t5\t2\r\n\r\n")
    assert [info.id for info in DFEW(root).infos] == ["00001", "00002", "00003"]


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("a/00002 5 8", "malformed_row", "line 2: 'a/00002 5 8' is not"),
        ("a/00002 5", "malformed_row", "line 2: 'a/00002 5' is not"),
        ("a/00002 0 1", "malformed_row", "line 2"),
        ("a/00002 5 happy", "malformed_row", "line 2"),
        ("a/.. 5 1", "malformed_row", "line 2"),
        ("b/00001 5 1", "duplicate_clip", r"line 2: clip 00001 is also in .*set_1_train.txt, line 1"),
    ],
)
def test_a_malformed_line_is_named_and_left_out(root, line, kind, message):
    edit(root / "set_1_train.txt", 2, "your_dataset_path/DFEW/train/00002 5 1", line)
    with pytest.raises(DataError, match=rf"set_1_train.txt, {message}"):
        DFEW(root)
    problems = Problems(collect=True)
    assert [info.id for info in DFEW(root, problems=problems).infos] == ["00001", "00003"]
    assert [x.kind for x in problems.found] == [kind]


def test_a_clip_to_train_and_to_test_is_named(root):
    edit(root / "set_1_test.txt", 1, "00003", "00001")
    with pytest.raises(DataError, match=r"set_1_test.txt, line 1: clip 00001 is also in .*set_1_train.txt, line 1"):
        DFEW(root)


def test_empty_lists_are_refused(root):
    for part in ("train", "test"):
        (root / f"set_1_{part}.txt").write_text("\n")
    with pytest.raises(DataError, match="lists no clips"):
        DFEW(root)


# Absent and broken files


def test_absent_data_tells_what_to_obtain_and_where_to_put_it():
    with pytest.raises(UserError) as caught:
        DFEW("")
    for part in ("on request", "dfew-dataset.github.io", "Former-DFER", "ROOT/frames/00001/", "--config.data.root"):
        assert part in str(caught.value)


def test_problems_lists_every_broken_part(root):
    assert list(DFEW(root).problems(1)) == []
    source = DFEW(root)
    np.save(root / "landmarks/00002.npy", np.ones((5, 72, 2)))
    np.save(root / "colours/00002.npy", np.full((5, 71, 3), 300))
    folder = root / "frames/00002"
    (folder / "00002_00001.jpg").write_bytes(b"")
    (folder / "00002_00002.jpg").unlink()
    kinds = ["wrong_shape", "colours_out_of_range", "missing_frames", "empty_file"]
    found = list(source.problems(1))
    assert [x.kind for x in found] == kinds
    assert {x.clip for x in found} == {"00002"}
    with pytest.raises(DataError) as caught:
        source[1]
    assert caught.value.problem.kind == "missing_frames"
    assert list(source.problems(0)) == []


# Recipes


def test_recipes_build_the_published_encoders():
    trajectory, rgb = dfew_trajectory.get_config(), dfew_rgb.get_config()
    assert models.input_shapes(trajectory.model, 2)["trajectories"] == (2, 256, 63, 5)
    assert models.input_shapes(rgb.model, 2)["frames"] == (2, 16, 112, 112, 3)
    for config, encoder in ((trajectory, "trajectory_encoder"), (rgb, "rgb_encoder")):
        params = models.abstract_variables(config.model)["params"]
        assert set(params) == {encoder, "head"}
        assert [x.shape[-1] for x in params["head"].values() for x in x.values()].count(7) == 2  # kernel and bias


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [dfew_trajectory, dfew_rgb])
def test_recipe_trains_an_encoder_that_pfed5_starts_from(tmp_path, recipe):
    write_dfew(tmp_path / "data", 17, 6, num_frames=6)
    if recipe is dfew_rgb:  # which needs no landmarks
        (tmp_path / "data/landmarks").rename(tmp_path / "elsewhere")
    config = shrink(recipe.get_config(), tmp_path / "data")
    config.data.min_frames = 1
    folds = experiment.open_folds(config)
    assert {info.id for info in folds.splits[None]["test"].infos} == {f"{i:05d}" for i in range(18, 24)}
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(config.to_json())
    lines = experiment.train_folds(config, folds, tmp_path / "run", resume=False)
    report = json.loads((tmp_path / "run/evaluation/test-last/metrics.json").read_text())["all"]
    assert {"accuracy", "uar", "f1"} <= report.keys()
    assert any("uar" in line for line in lines)

    part = "rgb" if recipe is dfew_rgb else "trajectory"
    downstream = shrink(pfed5.get_config(), tmp_path, streams=part)
    downstream.init[part] = str(tmp_path / "run")
    _, table = initial_weights.initial_variables(downstream)
    assert f"{part}_encoder" in table


def test_recipe_without_the_data_tells_what_to_obtain(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"'data/DFEW' \(data.root\): no such folder.\nDFEW"):
        datasets.open_dataset(dfew_rgb.get_config())
