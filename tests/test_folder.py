"""Clips of one's own: the clip folder, its writer, the list, and the recipe."""

import csv
import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from configs import folder as recipe
from tests.published_layouts import write_folder
from tests.tiny_recipe import shrink
from tramp_jax import experiment
from tramp_jax.data import clips, datasets
from tramp_jax.data.problems import DataError, Problems
from tramp_jax.data.readers.folder import Folder, read_clip, write_clip
from tramp_jax.errors import UserError
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


def assert_same(read: clips.Clip, expected: clips.Clip) -> None:
    for field in dataclasses.fields(clips.Clip):
        found, wanted = getattr(read, field.name), getattr(expected, field.name)
        if isinstance(wanted, np.ndarray):
            np.testing.assert_array_equal(found, wanted)
            assert found.dtype == wanted.dtype
        elif field.name == "info":
            assert dataclasses.replace(found, source="") == dataclasses.replace(wanted, source="")
        else:
            assert found == wanted


def edit(path: Path, row: int, column: str, text: str) -> None:
    """Puts ``text`` into a field, and makes the column where there is none; row 1 is the header."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[row - 2][column] = text
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for x in rows for key in x)), restval="")
        writer.writeheader()
        writer.writerows(rows)


# The clip folder


def test_what_was_written_is_read(tmp_path, clip):
    write_clip(tmp_path / "a/b", clip)
    assert_same(read_clip(tmp_path / "a/b"), clip)
    assert [x.name for x in (tmp_path / "a").iterdir()] == ["b"]


def test_parts_that_a_clip_lacks_are_not_written(tmp_path, clip):
    info = dataclasses.replace(clip.info, score=float("nan"))
    bare = dataclasses.replace(clip, info=info, pixels=None, frames=None, depth=None)
    write_clip(tmp_path / "bare", bare)
    read = read_clip(tmp_path / "bare")
    assert (read.frames, read.pixels, read.depth) == (None, None, None)
    assert np.isnan(read.info.score)
    assert sorted(x.name for x in (tmp_path / "bare").iterdir()) == ["clip.json", "landmarks.npy"]


def test_colours_are_computed_where_there_are_none(tmp_path, clip):
    write_clip(tmp_path / "clip", dataclasses.replace(clip, pixels=None))
    computed = read_clip(tmp_path / "clip").pixels
    assert computed.shape == (4, 63, 3)
    # The clip's own were taken before the compression of its frames.
    assert np.abs(computed.astype(int) - clip.pixels).mean() < 6
    assert read_clip(tmp_path / "clip", with_pixels=False).pixels is None


def test_frames_may_be_arrays_or_png_and_are_in_order_of_time(tmp_path, clip):
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
    write_clip(tmp_path / "clip", clip)
    monkeypatch.setattr(json, "dumps", lambda *args, **kwargs: pytest.fail("disk full"))
    with pytest.raises(pytest.fail.Exception, match="disk full"):
        write_clip(tmp_path / "other", clip)
    with pytest.raises(pytest.fail.Exception, match="disk full"):
        write_clip(tmp_path / "clip", clip, overwrite=True)
    monkeypatch.undo()
    assert [x.name for x in tmp_path.iterdir()] == ["clip"]
    assert_same(read_clip(tmp_path / "clip"), clip)


def test_an_existing_clip_is_replaced_only_when_asked(tmp_path, clip):
    write_clip(tmp_path / "clip", clip)
    with pytest.raises(FileExistsError, match="clip: exists already"):
        write_clip(tmp_path / "clip", clip)
    faster = dataclasses.replace(clip, fps=50.0, frames=None, pixels=None)
    write_clip(tmp_path / "clip", faster, overwrite=True)
    assert_same(read_clip(tmp_path / "clip"), faster)
    assert [x.name for x in tmp_path.iterdir()] == ["clip"]
    (tmp_path / "clip/clip.json").unlink()
    with pytest.raises(FileExistsError, match="is no clip"):
        write_clip(tmp_path / "clip", clip, overwrite=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "insightface73"}, "has points of shape"),
        ({"landmarks": np.full((4, 106, 2), np.nan)}, "landmarks that are numbers"),
        ({"frames": (b"", b"")}, "landmarks of 4 frames and frames of 2"),
        ({"frames": np.zeros((4, 64, 64, 3), np.uint8)}, r"frames must be \(n, 256, 256, 3\)"),
        ({"pixels": np.zeros((4, 71, 3), np.uint8)}, r"pixels must be \(n, 63, 3\)"),
        ({"depth": np.zeros((4, 63))}, r"depth must be \(n, P\)"),
        ({"fps": 0.0}, "fps is 0.0"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(tmp_path, clip, change, message):
    with pytest.raises(ValueError, match=message):
        write_clip(tmp_path / "clip", dataclasses.replace(clip, **change))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "holds no object"),
        ("{}", "layout is None; known: insightface106"),
        ('{"layout": ["a"]}', r"layout is \['a'\]"),
        ('{"layout": "insightface73"}', r"has the shape \(5, 106, 2\), not \(frames, 73, 2\)"),
        ('{"layout": "insightface106", "fps": 0}', "fps is 0, not a number above 0"),
        ('{"layout": "insightface106", "fps": "fast"}', "fps is 'fast'"),
        ('{"layout": "insightface106", "fps": NaN}', "fps is nan"),
        ('{"layout": "insightface106", "score": "high"}', "score and targets must be numbers"),
        ('{"layout": "insightface106", "targets": 3}', "score and targets must be numbers"),
    ],
)
def test_a_broken_description_is_named(root, text, message):
    folder = root / "clips/s000/0"
    (folder / "clip.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_clip(folder)


# The list


def test_clips_are_read_by_their_list(tmp_path):
    written = write_folder(tmp_path, 3, clips_per_subject=2, extra=("range",))
    source: clips.ClipSource = Folder(tmp_path)
    assert list(source.infos) == [clip.info for clip in written]
    for index in (0, 5):
        assert_same(source[index], written[index])
    assert source.official_split() is None


def test_optional_columns_are_read(root):
    path = root / "clips.csv"
    for row in (2, 3, 4):
        edit(path, row, "split", "Test" if row == 3 else "train")
        edit(path, row, "id", f"clip{row}")
    edit(path, 2, "group", "PD")
    edit(path, 3, "fps", "12.5")
    edit(path, 2, "Range", "3")
    edit(path, 2, "remark", "3, or so")
    source = Folder(root)
    assert [info.id for info in source.infos] == ["clip2", "clip3", "clip4"]
    assert [info.group for info in source.infos] == ["PD", "", ""]
    assert [source[i].fps for i in range(3)] == [30, 12.5, 30]
    assert [info.targets for info in source.infos] == [(("range", 3.0),), (), ()]
    assert source.official_split() == {"train": {"s000", "s002"}, "test": {"s001"}}


def test_a_split_of_training_alone_is_none(root):
    for row in (2, 3, 4):
        edit(root / "clips.csv", row, "split", "train")
    assert Folder(root).official_split() is None


def test_the_list_may_have_another_name_and_place(root):
    (root / "clips.csv").rename(root / "clips/mine.csv")
    text = (root / "clips/mine.csv").read_text().replace("clips/", "")
    (root / "clips/mine.csv").write_text(text)
    assert len(Folder(root, clip_list=root / "clips/mine.csv")) == 3
    with pytest.raises(UserError, match=r"clips.csv: no such list; .*clip_list=FILE"):
        Folder(root)


def test_what_is_not_wanted_is_not_needed(root):
    for file in root.rglob("*.jpg"):
        file.unlink()
    clip = Folder(root, with_frames=False, with_pixels=False)[0]
    assert (clip.frames, clip.pixels) == (None, None)
    with pytest.raises(DataError, match=r"s000/0: has 0 images where clip clips/s000/0 has 5 frames"):
        Folder(root, with_frames=False)[0]


@pytest.mark.parametrize(
    ("column", "text", "kind", "message"),
    [
        ("score", "high", "malformed_row", "score is 'high', not a number"),
        ("score", "", "malformed_row", "score is empty"),
        ("subject", "", "malformed_row", "subject is empty"),
        ("fps", "-1", "malformed_row", "fps is '-1'"),
        ("path", "clips/s001/0", "duplicate_clip", "row 3: clip 'clips/s001/0' is also in row 2"),
        ("path", "clips/nobody", "missing_clip", "clips/nobody: no such folder of a clip"),
        ("path", "raw/film.mp4", "not_preprocessed", "film.mp4 is a video; .* `tramp-jax preprocess`"),
        ("path", "raw", "not_preprocessed", "raw: has no landmarks.npy; .* `tramp-jax preprocess`"),
    ],
)
def test_a_malformed_row_is_named_and_left_out(root, column, text, kind, message):
    (root / "raw").mkdir()
    (root / "raw/film.mp4").write_bytes(b"")
    edit(root / "clips.csv", 2, column, text)
    with pytest.raises(DataError, match=rf"clips.csv, row \d: .*{message}|clips.csv, {message}"):
        Folder(root)
    problems = Problems(collect=True)
    assert len(Folder(root, problems=problems)) == 2
    assert [x.kind for x in problems.found] == [kind]


def test_a_subject_on_both_sides_is_named(tmp_path):
    write_folder(tmp_path, 3, num_test_subjects=1)
    edit(tmp_path / "clips.csv", 4, "subject", "s000")
    with pytest.raises(DataError, match=r"row 4: subject s000 is in test here and in train before"):
        Folder(tmp_path)
    edit(tmp_path / "clips.csv", 4, "split", "both")
    with pytest.raises(DataError, match=r"row 4: split is 'both', not train or test"):
        Folder(tmp_path)


def test_lists_without_columns_or_rows_are_refused(root):
    path = root / "clips.csv"
    header, text = path.read_text().splitlines()[0], path.read_text()
    path.write_text(text.replace(",", "|"))
    with pytest.raises(
        DataError, match=r"clips.csv: has no column 'path' and no column 'subject'.*must name the columns"
    ):
        Folder(root)
    path.write_text(header)
    with pytest.raises(DataError, match="lists no clips"):
        Folder(root)
    path.write_text(text.replace("smile,", "smile, and,then,", 1))
    with pytest.raises(DataError, match=r"row 2: has 6 fields where the header names 4 columns"):
        Folder(root)
    path.write_text(text.replace("expression", "score", 1))
    with pytest.raises(DataError, match="two columns 'score'"):
        Folder(root)


def test_absent_data_tells_what_to_make(tmp_path):
    for missing in ("", tmp_path / "no", tmp_path):
        with pytest.raises(UserError) as caught:
            Folder(missing)
        for part in ("clips.csv", "path,subject,expression,score", "tramp-jax preprocess", "--config.data.root=ROOT"):
            assert part in str(caught.value)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a file of the data set was executed",)


@pytest.mark.parametrize("name", ["landmarks.npy", "colours.npy", "depth.npy"])
def test_files_are_never_executed(root, name):
    objects = np.empty((5, 106, 2), object)
    objects[:] = Bomb()
    np.save(root / "clips/s000/0" / name, objects)
    with pytest.raises(DataError, match=rf"{name}: refused"):
        Folder(root)[0]
    (root / "clips/s000/0" / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match=rf"{name}: refused"):
        Folder(root)[0]


def test_problems_lists_every_broken_part(root):
    assert list(Folder(root).problems(0)) == []
    folder = root / "clips/s000/0"
    points = np.load(folder / "landmarks.npy")
    points[2:4] = np.nan
    np.save(folder / "landmarks.npy", points)
    np.save(folder / "colours.npy", np.zeros((5, 60, 3)))
    (folder / "000002.jpg").write_bytes(b"\xff\xd8 and so on")
    (folder / "extra.jpg").write_bytes((folder / "000001.jpg").read_bytes())
    source = Folder(root)
    found = list(source.problems(0))
    assert [x.kind for x in found] == ["landmarks_not_finite", "wrong_shape", "extra_frames", "truncated_image"]
    assert "2 frames have landmarks that are no numbers, the first is frame 3 of 5" in found[0].message
    with pytest.raises(DataError) as caught:
        source[0]
    assert caught.value.problem == found[0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[:, :100], "has the shape"),
        (lambda x: x / 256, "landmarks reach from 0.* must be pixels of the 256×256 crop"),
        (lambda x: x + 1000, "landmarks reach from 1"),
        (lambda x: x.astype(str), "holds <U"),
    ],
)
def test_broken_landmarks_are_named(root, function, message):
    path = root / "clips/s000/0/landmarks.npy"
    np.save(path, function(np.load(path)))
    with pytest.raises(DataError, match=f"landmarks.npy: {message}"):
        Folder(root)[0]


# The recipe


def test_recipe_trains_on_the_folder_and_its_split(tmp_path):
    write_folder(tmp_path / "data", 13, num_test_subjects=2, extra=("range",))
    config = shrink(recipe.get_config(), tmp_path / "data", streams="trajectory")
    config.data.target = "range"
    folds = experiment.open_folds(config)
    assert {info.subject for info in folds.splits[None]["test"].infos} == {"s011", "s012"}
    (tmp_path / "run").mkdir()
    experiment.train_folds(config, folds, tmp_path / "run", resume=False)
    with (tmp_path / "run/evaluation/test-last/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["target"]) for row in rows] == [12, 13]
    assert all(np.isfinite(float(row["score"])) for row in rows)


def test_recipe_without_the_data_tells_what_to_make(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"'data/folder' \(data.root\): no such folder.\nA folder of your own"):
        datasets.open_dataset(recipe.get_config())
