"""Your own clips: the clip folder, its writer, the list, and the recipe."""

import csv
import dataclasses
import errno
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from configs import folder as recipe
from tests.faults import Bomb
from tests.linear import linear_model
from tests.published_layouts import write_folder
from tests.raises import user_error
from tests.tiny_recipe import shrink
from tramp_jax import experiment
from tramp_jax.data import clips, datasets, landmarks, validation
from tramp_jax.data.clip_folder import read_clip, write_clip
from tramp_jax.data.problems import Problems
from tramp_jax.data.readers import folder as reader
from tramp_jax.data.source import Dataset, Wanted
from tramp_jax.synthetic.faces import SyntheticFaces


@pytest.fixture
def root(tmp_path):
    """Three people with a clip each."""
    write_folder(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def clip():
    """A synthetic clip of 4 frames, with everything that a clip may have."""
    made = SyntheticFaces(1, 1, ("smile",))[0]
    info = dataclasses.replace(made.info, num_frames=4, group="PD", targets=(("speed", 2.5),), source="somewhere")
    depth = np.random.default_rng(0).normal(size=(4, 106)).astype(np.float32)
    return clips.Clip(info, made.landmarks[:4], made.layout, made.pixels[:4], made.frames[:4], 30.0, depth)


def opened(root: Path | str, wanted: Wanted | None = None, problems: Problems | None = None, **options: str) -> Dataset:
    return reader.open(root, reader.Options(**options), wanted or Wanted(), problems or Problems())


def test_ratings_outside_a_declared_scale_are_refused(root):
    config = recipe.get_config().unlock()
    config.data.update(root=str(root), scale=(0.0, 4.0))
    assert datasets.open_dataset(config).facts.scale.high == 4
    edit(root / "clips.csv", 3, "score", "6")
    with user_error("bad_score", "clips.csv, row 3", 6, "data.scale"):
        datasets.open_dataset(config)
    found = Problems(collect=True)
    assert len(datasets.open_dataset(config, problems=found).source) == 2
    assert [problem.kind for problem in found.found] == ["bad_score"]
    config.data.scale = (0.0, 0.0)
    assert len(datasets.open_dataset(config).source) == 3
    for wrong in ((4.0, 0.0), (1.0, 1.0), (0.0, 1.0, 2.0)):
        config.data.scale = wrong
        with user_error("bad_option", "data.scale"):
            datasets.open_dataset(config)


def assert_same(read: clips.Clip, expected: clips.Clip) -> None:
    for field in dataclasses.fields(clips.Clip):
        found, given = getattr(read, field.name), getattr(expected, field.name)
        if isinstance(given, np.ndarray):
            np.testing.assert_array_equal(found, given)
            assert found.dtype == given.dtype
        elif field.name == "info":
            assert dataclasses.replace(found, source="") == dataclasses.replace(given, source="")
        else:
            assert found == given


def edit(path: Path, row: int, column: str, text: str) -> None:
    """Puts ``text`` into a field, and adds the column if it is missing; row 1 is the header."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[row - 2][column] = text
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for x in rows for key in x)), restval="")
        writer.writeheader()
        writer.writerows(rows)


# The clip folder


def test_a_written_clip_reads_the_same(tmp_path, clip):
    write_clip(tmp_path / "a/b", clip)
    assert_same(read_clip(tmp_path / "a/b"), clip)
    assert [x.name for x in (tmp_path / "a").iterdir()] == ["b"]


def test_missing_parts_of_a_clip_are_not_written(tmp_path, clip):
    info = dataclasses.replace(clip.info, score=float("nan"))
    bare = dataclasses.replace(clip, info=info, pixels=None, frames=None, depth=None)
    write_clip(tmp_path / "bare", bare)
    read = read_clip(tmp_path / "bare")
    assert (read.frames, read.pixels, read.depth) == (None, None, None)
    assert np.isnan(read.info.score)
    assert sorted(x.name for x in (tmp_path / "bare").iterdir()) == ["clip.json", "landmarks.npy"]


def test_missing_colours_are_taken_from_the_frames(tmp_path, clip):
    write_clip(tmp_path / "clip", dataclasses.replace(clip, pixels=None))
    computed = read_clip(tmp_path / "clip").pixels
    assert computed.shape == (4, 63, 3)
    # The clip's own colours were taken before its frames were compressed.
    assert np.abs(computed.astype(int) - clip.pixels).mean() < 6
    assert read_clip(tmp_path / "clip", with_pixels=False).pixels is None


def test_frames_may_be_arrays_or_png_and_are_read_in_order(tmp_path, clip):
    images = np.stack([clips.decode_frame(clip.frames[i % 4]) for i in range(11)])
    images[:, 0, 0] = np.arange(11)[:, None] * 20
    points = np.repeat(clip.landmarks[:1], 11, axis=0)
    info = dataclasses.replace(clip.info, num_frames=11)
    long = clips.Clip(info, points, clip.layout, None, images)
    write_clip(tmp_path / "clip", long)
    read = [clips.decode_frame(frame) for frame in read_clip(tmp_path / "clip").frames]
    assert np.abs(np.stack(read).astype(int) - images).mean() < 3
    import cv2

    png = [cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes() for image in images]
    write_clip(tmp_path / "clip", dataclasses.replace(long, frames=tuple(png)), overwrite=True)
    for i, file in enumerate(sorted((tmp_path / "clip").glob("*.png")), 1):
        file.rename(file.with_name(f"{i}.png"))
    read = [clips.decode_frame(frame) for frame in read_clip(tmp_path / "clip").frames]
    np.testing.assert_array_equal(np.stack(read), images)


def test_writing_is_all_or_nothing(tmp_path, clip, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "disk full")

    write_clip(tmp_path / "clip", clip)
    monkeypatch.setattr(json, "dumps", fail)
    for name, overwrite in (("other", False), ("clip", True)):
        with pytest.raises(OSError, match="disk full"):
            write_clip(tmp_path / name, clip, overwrite)
    monkeypatch.undo()
    assert [x.name for x in tmp_path.iterdir()] == ["clip"]
    assert_same(read_clip(tmp_path / "clip"), clip)


def test_an_existing_clip_is_replaced_only_with_overwrite(tmp_path, clip):
    write_clip(tmp_path / "clip", clip)
    with user_error("file_exists", tmp_path / "clip"):
        write_clip(tmp_path / "clip", clip)
    faster = dataclasses.replace(clip, fps=50.0, frames=None, pixels=None)
    write_clip(tmp_path / "clip", faster, overwrite=True)
    assert_same(read_clip(tmp_path / "clip"), faster)
    assert [x.name for x in tmp_path.iterdir()] == ["clip"]
    (tmp_path / "clip/clip.json").unlink()
    with user_error("file_exists", tmp_path / "clip", "clip.json"):
        write_clip(tmp_path / "clip", clip, overwrite=True)


@pytest.mark.parametrize(
    "change",
    [
        {"layout": "insightface73"},
        {"landmarks": np.full((4, 106, 2), np.nan)},
        {"frames": (b"", b"")},
        {"frames": np.zeros((4, 64, 64, 3), np.uint8)},
        {"pixels": np.zeros((4, 71, 3), np.uint8)},
        {"depth": np.zeros((4, 63))},
        {"fps": 0.0},
        {"landmarks": np.zeros((0, 106, 2), np.float32), "frames": None},
    ],
    ids=str,
)
def test_a_clip_that_could_not_be_read_back_is_not_written(tmp_path, clip, change):
    part = next(iter(change))
    what = {"pixels": "colours", "landmarks": "landmarks|no frames"}.get(part, part)
    with pytest.raises(ValueError, match=what):
        write_clip(tmp_path / "clip", dataclasses.replace(clip, **change))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "kind", "facts"),
    [
        ("{", "bad_description", ["JSON"]),
        ("[]", "bad_description", ["JSON object"]),
        ("{}", "bad_description", ["layout is None", *landmarks.LAYOUTS]),
        ('{"layout": ["a"]}', "bad_description", ["layout is ['a']"]),
        ('{"layout": "insightface73"}', "wrong_shape", ["(5, 106, 2)", "(frames, 73, 2)"]),
        ('{"layout": "insightface106", "fps": 0}', "bad_description", ["fps is 0,"]),
        ('{"layout": "insightface106", "fps": "fast"}', "bad_description", ["fps is 'fast'"]),
        ('{"layout": "insightface106", "fps": NaN}', "bad_description", ["fps is nan"]),
        ('{"layout": "insightface106", "score": "high"}', "bad_description", ["score", "targets", "high"]),
        ('{"layout": "insightface106", "targets": 3}', "bad_description", ["score", "targets"]),
    ],
)
def test_a_broken_description_is_named(root, text, kind, facts):
    folder = root / "clips/s000/0"
    (folder / "clip.json").write_text(text)
    with user_error(kind, folder / ("clip.json" if kind == "bad_description" else "landmarks.npy"), *facts):
        read_clip(folder)


def test_a_missing_description_is_named(root):
    (root / "clips/s000/0/clip.json").unlink()
    with user_error("bad_description", root / "clips/s000/0/clip.json", '{"layout": NAME}'):
        opened(root).source[0]


# The list


def test_clips_are_read_from_their_list(tmp_path):
    written = write_folder(tmp_path, 3, clips_per_subject=2, extra=("range",))
    dataset = opened(tmp_path)
    assert list(dataset.source.infos) == [clip.info for clip in written]
    for index in (0, 5):
        assert_same(dataset.source[index], written[index])
    assert dataset.official is None


def test_optional_columns_are_read(root):
    path = root / "clips.csv"
    for row in (2, 3, 4):
        edit(path, row, "split", "Test" if row == 3 else "train")
        edit(path, row, "id", f"clip{row}")
    edit(path, 2, "group", "PD")
    edit(path, 3, "fps", "12.5")
    edit(path, 2, "Range", "3")
    edit(path, 2, "remark", "3, or so")
    dataset = opened(root)
    source = dataset.source
    assert [info.id for info in source.infos] == ["clip2", "clip3", "clip4"]
    assert [info.group for info in source.infos] == ["PD", "", ""]
    assert [source[i].fps for i in range(3)] == [30, 12.5, 30]
    assert [info.targets for info in source.infos] == [(("range", 3.0),), (), ()]
    assert dataset.official == {"train": {"s000", "s002"}, "test": {"s001"}}


def test_a_list_of_training_clips_only_has_no_official_split(root):
    for row in (2, 3, 4):
        edit(root / "clips.csv", row, "split", "train")
    assert opened(root).official is None


def test_the_list_may_have_another_name_and_place(root):
    (root / "clips.csv").rename(root / "clips/mine.csv")
    text = (root / "clips/mine.csv").read_text().replace("clips/", "")
    (root / "clips/mine.csv").write_text(text)
    assert len(opened(root, clip_list=str(root / "clips/mine.csv")).source) == 3
    with user_error("missing_list", root, "clips.csv", "clip_list=FILE"):
        opened(root)
    with user_error("missing_list", root / "other.csv", "clip_list=FILE"):
        opened(root, clip_list=str(root / "other.csv"))


def test_parts_that_are_not_wanted_may_be_missing(root):
    for file in root.rglob("*.jpg"):
        file.unlink()
    clip = opened(root, Wanted(frames=False, pixels=False)).source[0]
    assert (clip.frames, clip.pixels) == (None, None)
    with user_error("missing_frames", root / "clips/s000/0", "0 images", "clips/s000/0 has 5 frames"):
        opened(root, Wanted(frames=False)).source[0]


@pytest.mark.parametrize(
    ("column", "text", "kind", "facts"),
    [
        ("score", "high", "malformed_row", ["row 2", "score is 'high'"]),
        ("score", "", "malformed_row", ["row 2", "score is empty"]),
        ("subject", "", "malformed_row", ["row 2", "subject is empty"]),
        ("fps", "-1", "malformed_row", ["row 2", "fps is '-1'"]),
        ("path", "clips/s001/0", "duplicate_clip", ["row 3", "'clips/s001/0'", "in row 2"]),
        ("path", "clips/nobody", "missing_clip", ["row 2", "clips/nobody"]),
        ("path", "raw/film.mp4", "not_preprocessed", ["row 2", "film.mp4 is a video", "`tramp-jax preprocess`"]),
        ("path", "raw", "not_preprocessed", ["row 2", "raw", "landmarks.npy", "`tramp-jax preprocess`"]),
    ],
)
def test_a_malformed_row_is_named_and_skipped(root, column, text, kind, facts):
    (root / "raw").mkdir()
    (root / "raw/film.mp4").write_bytes(b"")
    edit(root / "clips.csv", 2, column, text)
    with user_error(kind, root / "clips.csv", *facts):
        opened(root)
    problems = Problems(collect=True)
    assert len(opened(root, problems=problems).source) == 2
    assert [x.kind for x in problems.found] == [kind]


def test_all_faults_of_a_row_are_named_at_once(root):
    for column, text in (("subject", ""), ("expression", "nan"), ("score", "high"), ("fps", "0.04")):
        edit(root / "clips.csv", 2, column, text)
    facts = "subject is empty", "expression is 'nan'", "score is 'high'", "fps is '0.04'"
    with user_error("malformed_row", f"{root / 'clips.csv'}, row 2", *facts):
        opened(root)


def test_a_subject_in_both_parts_is_named(tmp_path):
    write_folder(tmp_path, 3, num_test_subjects=1)
    edit(tmp_path / "clips.csv", 4, "subject", "s000")
    with user_error("subject_in_both_lists", f"{tmp_path / 'clips.csv'}, row 4", "s000", "in test here", "in train"):
        opened(tmp_path)
    edit(tmp_path / "clips.csv", 4, "split", "both")
    with user_error("malformed_row", f"{tmp_path / 'clips.csv'}, row 4", "split is 'both'", "train or test"):
        opened(tmp_path)


def test_lists_without_columns_or_rows_are_refused(root):
    path = root / "clips.csv"
    header, text = path.read_text().splitlines()[0], path.read_text()
    path.write_text(text.replace(",", "|"))
    with user_error("bad_columns", path, "no column 'path'", "no column 'subject'", header.replace(",", "|")):
        opened(root)
    path.write_text(header)
    with user_error("empty_list", path):
        opened(root)
    path.write_text(text.replace("smile,", "smile, and,then,", 1))
    with user_error("malformed_row", f"{path}, row 2", "6 fields", "4 columns"):
        opened(root)
    path.write_text(text.replace("expression", "score", 1))
    with user_error("bad_columns", path, "two columns 'score'"):
        opened(root)


def test_the_message_for_absent_data_says_what_to_make(tmp_path):
    facts = "clips.csv", "path,subject,expression,score", "tramp-jax preprocess", "--config.data.root=ROOT"
    for missing, kind in (("", "missing_file"), (tmp_path / "no", "missing_file"), (tmp_path, "missing_list")):
        with user_error(kind, missing, *facts):
            opened(missing)
    with user_error("missing_file", "'no/such'", Path.cwd(), *facts) as caught:
        opened("no/such")
    assert "--data-root" not in str(caught.value)  # which only commands that open a run have
    config = recipe.get_config()
    config.data.root = "no/such"
    for skip_bad in (False, True):
        config.data.skip_bad = skip_bad
        with user_error("missing_file", "'no/such'", "--data-root", "--data_root", "--config.data.root"):
            validation.open_sound(config, tmp_path / "skipped.json")


@pytest.mark.parametrize("name", ["landmarks.npy", "colours.npy", "depth.npy"])
def test_files_are_never_executed(root, name):
    objects = np.empty((5, 106, 2), object)
    objects[:] = Bomb()
    np.save(root / "clips/s000/0" / name, objects)
    with user_error("unreadable_array", root / "clips/s000/0" / name):
        opened(root).source[0]
    (root / "clips/s000/0" / name).write_bytes(pickle.dumps(Bomb()))
    with user_error("unreadable_array", root / "clips/s000/0" / name):
        opened(root).source[0]


@pytest.mark.parametrize("text", [None, "{", "{}"])
def test_check_names_a_broken_description_once_and_goes_on(root, text):
    folder = root / "clips/s000/0"
    np.save(folder / "colours.npy", np.zeros((5, 60, 3)))
    if text is None:
        (folder / "clip.json").unlink()
    else:
        (folder / "clip.json").write_text(text)
    found, clip = opened(root).source.check(0)
    assert [x.kind for x in found] == ["bad_description", "wrong_shape"]
    assert clip is None


# The recipe


def test_recipe_trains_on_the_folder_and_its_split(tmp_path):
    write_folder(tmp_path / "data", 13, num_test_subjects=2, extra=("range",))
    config = shrink(recipe.get_config(), tmp_path / "data", streams="trajectory")
    config.data.target = "range"
    folds = experiment.open_folds(config)
    assert {info.subject for info in folds.splits[None]["test"].infos} == {"s011", "s012"}
    (tmp_path / "run").mkdir()
    with linear_model():
        experiment.train_folds(config, folds, tmp_path / "run", resume=False)
    with (tmp_path / "run/evaluation/test-last/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["target"]) for row in rows] == [12, 13]
    assert all(np.isfinite(float(row["score"])) for row in rows)
