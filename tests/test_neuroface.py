"""The reader of the augmented Toronto NeuroFace, on files in its published layout, and its recipe."""

import csv
import dataclasses
import itertools
import math
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from configs import neuroface as recipe
from tests.linear import linear_model
from tests.preprocess_inputs import damage, encode, grey, square, woven
from tests.published_layouts import NEUROFACE_OFFSET, frame_number, write_neuroface
from tests.raises import user_error
from tests.tiny_recipe import shrink
from tramp_jax import experiment, models
from tramp_jax.batches import pipeline
from tramp_jax.data import clips, datasets, landmarks
from tramp_jax.data.face_box import Box, face_box
from tramp_jax.data.problems import Problems
from tramp_jax.data.readers import neuroface, neuroface_lists
from tramp_jax.data.readers.neuroface_lists import FOLDS
from tramp_jax.data.source import ClipSource, Dataset, Wanted

PUBLISHED = Path(__file__).parents[2] / "shared" / "neuroface_split.csv"
FILE = "N002_02_NSM_OPEN_color"
EVERYTHING = Wanted()


@pytest.fixture
def root(tmp_path):
    """One video with two repetitions of 5 and 4 frames, in frames 2-6 and 7-10."""
    write_neuroface(tmp_path)
    return tmp_path


def opened(root: Path, wanted: Wanted = EVERYTHING, problems: Problems | None = None, **options) -> Dataset:
    return neuroface.open(root, neuroface.Options(**options), wanted, problems or Problems())


def source_of(root: Path, wanted: Wanted = EVERYTHING) -> ClipSource:
    return opened(root, wanted).source


def collected(root: Path) -> tuple[ClipSource, Problems]:
    """The clips that remain, and the problems with the lists."""
    problems = Problems(collect=True)
    return opened(root, problems=problems).source, problems


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def edit(path: Path, row: int, column: int, text: str) -> None:
    """Puts ``text`` into a field; row 1 is the header, columns count from 0."""
    rows = rows_of(path)
    rows[row - 1][column] = text
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def split_list(path: Path, *rows: tuple) -> Path:
    """A split list with these rows of (repID, frames, start, end) of one video."""
    lines = ["File Name,repID,Number of Frames,start,end", *(f"{FILE},{','.join(map(str, row))}" for row in rows)]
    path.write_text("\r\n".join(lines))
    return path


# Content


@pytest.mark.parametrize("video_type", ["avi", "mp4"])
def test_videos_are_cut_at_exactly_the_listed_frames(tmp_path, video_type):
    written = write_neuroface(tmp_path, ("N002", "OP03"), ("OPEN", "KISS"), (5, 9, 4), video_type=video_type)
    source = source_of(tmp_path)
    assert list(source.infos) == [one.info for one in written]
    for index in (0, 1, 2, len(written) - 1):
        clip, one = source[index], written[index]
        box = face_box(landmarks.select(one.points, "insightface73"))
        corner = box.map(np.array(NEUROFACE_OFFSET, float))
        found = [frame_number(frame, tuple(corner), 256 / box.side) for frame in clip.frames]
        assert found == list(range(one.first, one.first + one.info.num_frames))
        assert (clip.frames.shape[1:], clip.frames.dtype, clip.fps) == ((256, 256, 3), np.uint8, 50)


@pytest.mark.parametrize("points_per_frame", [73, 106])
def test_landmarks_lie_on_the_same_image_content_after_the_crop(tmp_path, points_per_frame):
    written = write_neuroface(tmp_path, points_per_frame=points_per_frame)
    layout = f"insightface{points_per_frame}"
    marked = 30  # of the 63 points: one of the right brow
    whole = [image.copy() for image in neuroface.read_video(tmp_path / f"Videos/{FILE}.avi", 2, 6)]
    for image, points in zip(whole, landmarks.select(written[0].points, layout), strict=True):
        cv2.circle(image, points[marked].astype(int).tolist(), 4, (255, 0, 255), -1)
    write_video_of(tmp_path / f"Videos/{FILE}.avi", [whole[0], *whole])  # frame 1 is in no repetition
    clip = source_of(tmp_path)[0]
    assert clip.layout == layout
    assert clip.landmarks.dtype == np.float32
    assert clip.landmarks.min() > 0
    assert clip.landmarks.max() < 256
    np.testing.assert_allclose(clip.pixels[:, marked], np.tile([255, 0, 255], (5, 1)), atol=60)
    away = landmarks.select(clip.landmarks, layout)[0, marked] + (40, 40)
    assert abs(clip.frames[0][int(away[1]), int(away[0])] - np.array([255.0, 0, 255])).max() > 60


def write_video_of(path: Path, images: list[np.ndarray]) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 50.0, images[0].shape[1::-1])
    for image in images:
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()


def test_crop_is_the_same_for_both_layouts_and_all_frames(tmp_path):
    boxes = []
    for count in (73, 106):
        one = write_neuroface(tmp_path / str(count), points_per_frame=count)[0]
        boxes.append(face_box(landmarks.select(one.points, f"insightface{count}")))
    assert boxes[0] == boxes[1]
    extent = np.ptp(landmarks.select(one.points, "insightface106"), axis=(0, 1)).max()
    assert 2 * extent <= boxes[0].side < 2 * extent + 1


def test_crop_maps_points_as_it_maps_the_image():
    """Every pixel of a crop that is scaled down shows what lies under the point that maps to it."""
    ramp = np.tile(np.arange(600, dtype=float)[None, :, None] / 4, (600, 1, 3)).astype(np.uint8)
    box = Box(40, 20, 512)
    cropped = box.cut(ramp)
    x = np.arange(60, 500, 37) + 0.5
    mapped = box.map(np.stack([x, np.full_like(x, 300)], axis=1))
    under = cropped[mapped[:, 1].astype(int), mapped[:, 0].astype(int), 0]
    np.testing.assert_allclose(under, x / 4, atol=1)


def test_cropped_files_are_read_unchanged(tmp_path):
    written = write_neuroface(tmp_path, lengths=(12, 3), cropped=True)
    source = source_of(tmp_path)
    for index, one in enumerate(written):
        clip = source[index]
        assert clip.info == one.info
        assert clip.frames == one.frames
        assert [frame_number(clips.decode_frame(x)) for x in clip.frames] == list(
            range(one.first, one.first + len(one.frames))
        )
        np.testing.assert_array_equal(clip.landmarks, one.points)
        under = landmarks.select(one.points, "insightface73")[2]
        expected = landmarks.pixel_values(clips.decode_frame(clip.frames[2]), under)
        np.testing.assert_array_equal(clip.pixels[2], expected)


def test_only_the_wanted_parts_are_read(root):
    (root / f"Videos/{FILE}.avi").unlink()
    clip = source_of(root, Wanted(frames=False, pixels=False))[1]
    assert (clip.frames, clip.pixels, clip.landmarks.shape) == (None, None, (4, 73, 2))
    with user_error("missing_video", root / "Videos", FILE, f"clip {FILE}_2"):
        source_of(root, Wanted(frames=False))[1]


# Lists


def test_scores_are_means_of_the_raters(root):
    edit(root / "ratings.csv", 2, 3, "1")
    edit(root / "ratings.csv", 3, 3, "2.5")
    edit(root / "ratings.csv", 2, 4, "")  # one rater without symmetry
    edit(root / "ratings.csv", 3, 4, "4")
    info = source_of(root).infos[0]
    assert info.score == 1.75
    assert dict(info.targets)["symmetry"] == 4


@pytest.mark.parametrize(
    ("subject", "group"), [("A002", "ALS"), ("S007", "stroke"), ("OP01", "stroke"), ("N019", "control")]
)
def test_the_id_shows_the_group(tmp_path, subject, group):
    write_neuroface(tmp_path, (subject,))
    assert source_of(tmp_path).infos[0].group == group


def test_blanks_and_byte_order_marks_are_read(root):
    path = root / "neuroface_split.csv"
    expected = list(source_of(root).infos)
    path.write_text("\ufeff" + path.read_text().replace(FILE, f" {FILE} ").replace(",5,", ", 5.0 ,"), encoding="utf-8")
    assert list(source_of(root).infos) == expected


@pytest.mark.parametrize(
    ("rows", "taken"),
    [
        # (repID, Number of Frames, start, end) -> first and last
        ([(1, 77, 114, 196), (2, 84, 190, 274)], [(114, 190), (191, 274)]),
        ([(1, 74, 112, 197), (2, 110, 158, 295)], [(112, 185), (186, 295)]),
        ([(1, 153, 121, 274), (2, 151, 264, 425), (3, 124, 415, 548)], [(121, 273), (274, 424), (425, 548)]),
        ([(3, 117, 207, 323), (4, 113, 206, 435)], [(207, 323), (323, 435)]),
        ([(1, 10, 5, 20)], [(5, 14)]),
    ],
)
def test_the_number_of_frames_decides_if_start_and_end_span_more(tmp_path, rows, taken):
    """The published rows of A015, A016, S003 and A002 span more, and are tested in both orders."""
    for order in (rows, rows[::-1]):
        problems = Problems()
        found = neuroface_lists.read_split_list(split_list(tmp_path / "list.csv", *order), problems)
        assert {one.number: (one.first, one.last) for one in found} == dict(
            zip([row[0] for row in rows], taken, strict=True)
        )
        assert [one.number for one in found] == [row[0] for row in order]
        assert {x.kind for x in problems.found} == {"frame_count"}
        assert {x.severity for x in problems.found} == {"warning"}


def test_an_unused_task_is_counted_and_skipped(tmp_path):
    write_neuroface(tmp_path, tasks=("BIGSMILE", "OPEN"))
    problems = Problems()
    source = opened(tmp_path, problems=problems).source
    assert {info.expression for info in source.infos} == {"OPEN"}
    assert [(x.kind, x.severity) for x in problems.found] == [("unused_task", "warning")]
    for fact in (str(tmp_path / "neuroface_split.csv"), "2 repetitions", "BIGSMILE"):
        assert fact in problems.found[0].message


@pytest.mark.parametrize(
    ("column", "text", "kind", "facts"),
    [
        (0, "N002_02_NSM_SMILE_color", "malformed_row", ("'N002_02_NSM_SMILE_color'", "BLOW, KISS, BROW")),
        (0, "../N002_OPEN", "malformed_row", ("'../N002_OPEN'", "SUBJECT")),
        (0, "N0020_02_NSM_OPEN_color", "malformed_row", ("subject N0020",)),
        (0, "N002_OPEN_KISS", "malformed_row", ("'N002_OPEN_KISS'", "BLOW, KISS, BROW")),
        (1, "x", "malformed_row", ("repid", "'x'", "at least 1")),
        (1, "2", "duplicate_clip", (f"repetition 2 of {FILE}", "row 2")),
        (2, "6", "malformed_row", ("frames 2 to 6", "6 of Number of Frames")),
        (3, "0", "malformed_row", ("start", "'0'")),
        (4, "", "malformed_row", ("end", "''")),
        (4, "1", "malformed_row", ("frames 2 to 1",)),
    ],
)
def test_a_malformed_row_is_named_and_skipped(root, column, text, kind, facts):
    path = root / "neuroface_split.csv"
    edit(path, 2, column, text)
    row = 3 if kind == "duplicate_clip" else 2
    with user_error(kind, f"{path}, row {row}", *facts):
        opened(root)
    source, problems = collected(root)
    assert kind in {x.kind for x in problems.found}
    assert len(source) == 1


def test_all_faults_of_a_row_are_named_at_once(root):
    path = root / "neuroface_split.csv"
    for column, text in ((0, "X999_OPEN"), (1, "x"), (3, "0")):
        edit(path, 2, column, text)
    with user_error("malformed_row", f"{path}, row 2", "subject X999", "repid is 'x'", "start is '0'"):
        opened(root)
    edit(root / "ratings.csv", 2, 3, "high")
    edit(root / "ratings.csv", 2, 5, "6")
    assert any("'high'" in x.message and "ROM is '6'" in x.message for x in collected(root)[1].found)


@pytest.mark.parametrize(
    ("row", "column", "text", "kind", "facts"),
    [
        (2, 3, "high", "malformed_row", ("overall", "'high'")),
        (2, 3, "", "malformed_row", ("overall", "''")),
        (2, 3, "-1", "malformed_row", ("overall", "'-1'")),
        (2, 5, "6", "malformed_row", ("ROM", "'6'", "0 to 5")),
        (2, 1, "first", "malformed_row", ("File Name", "repID")),
        (3, 2, "rater1", "duplicate_rating", ("rater rater1", "row 2")),
    ],
)
def test_a_malformed_rating_is_named_and_skipped(root, row, column, text, kind, facts):
    path = root / "ratings.csv"
    edit(path, row, column, text)
    with user_error(kind, f"{path}, row {row}", *facts):
        opened(root)
    source, problems = collected(root)
    assert len(source) == 2  # the other rater's score is left
    assert [x.kind for x in problems.found] == [kind, "raters"]


def test_a_repetition_without_a_rating_and_a_rating_without_a_repetition_are_reported(root):
    for row in (2, 3):
        edit(root / "ratings.csv", row, 1, "9")
    with user_error("missing_rating", root / "ratings.csv", f"{root / 'neuroface_split.csv'}, row 2", f"{FILE}_1"):
        opened(root)
    source, problems = collected(root)
    assert [info.id for info in source.infos] == [f"{FILE}_2"]
    assert {x.kind: x.severity for x in problems.found} == {"missing_rating": "error", "unknown_repetition": "warning"}


def test_an_empty_list_is_an_error(root):
    path = split_list(root / "neuroface_split.csv")
    with user_error("empty_list", path, "BLOW, KISS"):
        opened(root)


# Missing and broken files


def test_without_the_data_the_error_explains_how_to_get_it(tmp_path):
    facts = "on request", "slp.utoronto.ca", "ROOT/Videos/", "ratings.csv", "--config.data.root=ROOT"
    with user_error("missing_file", tmp_path / "no", "data.root", *facts):
        opened(tmp_path / "no")


@pytest.mark.parametrize(
    ("cropped", "name", "kind", "option"),
    [
        (False, "Videos", "missing_folder", "videos_root=FOLDER"),
        (False, "video_landmarks", "missing_folder", "video_landmarks_root=FOLDER"),
        (True, "frames", "missing_folder", "frames_root=FOLDER"),
        (False, "neuroface_split.csv", "missing_list", "split_list=FILE"),
        (False, "ratings.csv", "missing_list", "ratings=FILE"),
    ],
)
def test_the_error_names_a_missing_part(tmp_path, cropped, name, kind, option):
    write_neuroface(tmp_path, cropped=cropped)
    (tmp_path / name).rename(tmp_path / "gone")
    with user_error(kind, tmp_path, name, option, "slp.utoronto.ca"):
        opened(tmp_path)


def test_a_video_that_ends_too_early_is_reported(root):
    video = root / f"Videos/{FILE}.avi"
    write_video_of(video, list(neuroface.read_video(video, 1, 8)))
    source = source_of(root)
    assert source[0].frames.shape == (5, 256, 256, 3)
    assert source.check(0)[0] == []
    with user_error("short_video", video, "frame 9", "frames 7 to 10"):
        source[1]
    video.write_bytes(b"no video")
    assert [x.kind for x in source.check(0)[0]] == ["unreadable_video"]


def test_frames_after_a_damaged_one_are_not_read_under_other_numbers(tmp_path):
    path = damage(encode(tmp_path / "a.avi", grey(40), "mjpeg", pixels="yuvj420p"), [30])
    assert len(list(neuroface.read_video(path, 3, 8))) == 6
    with user_error("damaged_video", path):
        list(neuroface.read_video(path, 25, 35))


def test_frames_that_the_decoder_does_not_see_do_not_shift_the_numbers(tmp_path):
    """The header of a frame is damaged, so FFmpeg goes on to the next."""
    path = encode(tmp_path / "a.avi", grey(40), "mjpeg", pixels="yuvj420p")
    with av.open(str(path)) as container:
        place = list(container.streams.video[0].index_entries)[20].pos
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + b"xxdc" + whole[place + 4 :])
    assert len(list(neuroface.read_video(path, 3, 8))) == 6
    with user_error("damaged_video", path):
        list(neuroface.read_video(path, 25, 35))


def test_an_interlaced_video_of_non_square_pixels_is_read_as_a_player_shows_it(tmp_path):
    """OpenCV returned what the previous file had left in memory."""
    pictures = [np.maximum(square(40 + 8 * t, 60, 120), 30) for t in range(16)]
    path = encode(tmp_path / "a.avi", woven(pictures, "tff"), "mpeg4", field="tff", aspect="4/3")
    images = list(neuroface.read_video(path, 3, 5))
    assert [image.shape for image in images] == [(240, 427, 3)] * 3
    for image, picture in zip(images, pictures[4:10:2], strict=True):
        assert np.abs(cv2.resize(image, (320, 240)).astype(int) - picture).mean() < 4


def test_landmarks_outside_the_video_frame_are_reported(root):
    path = root / f"video_landmarks/{FILE}_1.npy"
    np.save(path, np.load(path) + 2000)
    with user_error("landmarks_out_of_frame", path, "420×320", root / f"Videos/{FILE}.avi"):
        source_of(root)[0]


# The published list


@pytest.mark.skipif(not PUBLISHED.is_file(), reason=f"the published split list is not at {PUBLISHED}")
def test_the_whole_published_list_is_read():
    problems = Problems()
    found = neuroface_lists.read_split_list(PUBLISHED, problems)
    rows = {f"{row[0]}_{row[1]}": row for row in rows_of(PUBLISHED)[1:]}
    assert len(rows) == 821
    assert len(found) == 770
    assert {one.file.split("_")[0] for one in found} == neuroface_lists.SUBJECTS
    for one in found:
        _, _, frames, start, end = rows[one.id]
        assert one.num_frames == int(frames)
        assert int(start) <= one.first <= one.last <= int(end)
    shared = []
    for file in {one.file for one in found}:
        cuts = sorted((one.last, one.first, one.id) for one in found if one.file == file)
        shared += [b[2] for a, b in itertools.pairwise(cuts) if b[1] <= a[0]]
    assert shared == ["A002_02_NSM_SPREAD_color_4"]
    kinds = [x.kind for x in problems.found]
    assert (kinds.count("unused_task"), kinds.count("frame_count"), len(kinds)) == (1, 22, 23)


def test_published_folds_test_everyone_once(root):
    assert opened(root).folds == FOLDS
    assert [len(fold) for fold in FOLDS] == [12, 12, 12]
    assert len(neuroface_lists.SUBJECTS) == 36
    assert "S007" in FOLDS[0]
    counts = [sum(s.startswith(letter) for s in neuroface_lists.SUBJECTS) for letter in ("A", ("S", "OP"), "N")]
    assert counts == [11, 14, 11]


# The recipe


@pytest.mark.parametrize(
    ("argument", "task", "fold"),
    [("", "OPEN", -1), ("kiss", "KISS", -1), ("BROW,2", "BROW", 1), ("3, spread", "SPREAD", 2), ("fold=1", "OPEN", 0)],
)
def test_recipe_takes_a_task_and_a_fold(argument, task, fold):
    config = recipe.get_config(argument)
    assert (config.data.expression, config.data.fold, config.data.protocol) == (task, fold, "folds")
    assert config.model.trajectory.length == 128  # as the published figures


def test_recipe_learns_classes_of_a_sub_score():
    config = recipe.get_config("Blow,classification")
    assert (config.data.target, config.data.protocol, config.loss.name) == ("symmetry", "holdout", "cross_entropy")
    assert config.name == "neuroface_blow_classes"
    assert models.build_model(config.model).head.num_classes == 6


def test_the_command_line_overrides_the_recipe(root):
    """The recipe's own target, symmetry, would be accepted."""
    options = ["--config.data.target=beauty", f"--config.data.root={root}"]
    command = [sys.executable, "train.py", "--config", "configs/neuroface.py:OPEN,classification", *options]
    ran = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    (line,) = ran.stderr.splitlines()
    assert line.startswith("error: ")
    for fact in ("data.target", "beauty", "ROM", "fatigue"):
        assert fact in line


@pytest.mark.parametrize("argument", ["SMILE", "OPEN,4", "OPEN,KISS", "OPEN,sleep"])
def test_recipe_lists_what_it_knows(argument):
    tasks = "BLOW, KISS, BROW, OPEN, SPREAD"
    with user_error("bad_option", f"configs/neuroface.py:{argument}", tasks, "classification"):
        recipe.get_config(argument)


def test_recipe_trains_a_fold_and_tests_its_people(tmp_path):
    """Four people of each fold, from videos to predictions; S007 is among them and is tested."""
    people = [sorted(fold, reverse=True)[:4] for fold in FOLDS]
    assert "S007" in people[0]
    write_neuroface(tmp_path / "data", list(itertools.chain(*people)), ("OPEN", "KISS"), (4, 3))
    config = shrink(recipe.get_config("OPEN,1"), tmp_path / "data", streams="trajectory")
    folds = experiment.open_folds(config)
    assert list(folds.splits) == [0]
    assert {info.subject for info in folds.splits[0]["test"].infos} == set(people[0])
    (tmp_path / "run").mkdir()
    with linear_model():
        experiment.train_folds(config, folds, tmp_path / "run", resume=False)
    rows = rows_of(tmp_path / "run/fold_0/evaluation/test-last/predictions.csv")[1:]
    assert sorted(row[0] for row in rows) == sorted(f"{s}_02_NSM_OPEN_color_{i}" for s in people[0] for i in (1, 2))
    assert all(math.isfinite(float(row[4])) for row in rows)


def test_classes_are_sub_scores_rounded_half_up(tmp_path):
    people = sorted(FOLDS[0])[:5]
    write_neuroface(tmp_path, people, lengths=(4,))
    for row, text in ((2, "1"), (3, "2"), (4, "4"), (5, "5")):  # the first two repetitions: 1.5 and 4.5
        edit(tmp_path / "ratings.csv", row, 5, text)
    config = shrink(recipe.get_config("classification"), tmp_path)
    config.data.target = "ROM"
    dataset = datasets.open_dataset(config)
    plain = source_of(tmp_path)
    expected = [math.floor(dict(info.targets)["ROM"] + 0.5) for info in plain.infos]
    assert [info.score for info in dataset.source.infos] == expected
    assert expected[:2] == [2, 5]
    clip = dataset.source[1]
    assert (clip.info.score, clip.frames.shape) == (5, (4, 256, 256, 3))
    parts = datasets.split(dataset, config, None)
    assert len({info.subject for info in parts["test"].infos}) == 1  # 20% of five
    sample = pipeline.Sampler(config).train(0, parts["test"][0])
    assert len(sample.inputs.frames) == config.model.rgb.num_frames
    assert sample.inputs.trajectories.shape == (config.model.trajectory.length, 63, 5)
    assert sample.target == parts["test"].infos[0].score


def test_target_is_a_mean_for_regression_and_must_exist(root):
    config = shrink(recipe.get_config("OPEN"), root)
    config.data.target = "ROM"
    expected = [dict(info.targets)["ROM"] for info in source_of(root).infos]
    assert [info.score for info in datasets.open_dataset(config).source.infos] == expected
    config.data.target = "beauty"
    with user_error("bad_option", "data.target", "'beauty'", "ROM, fatigue, speed, symmetry"):
        datasets.open_dataset(config)


def test_clips_without_the_target_are_reported_and_skipped(root):
    for row in (2, 3):
        edit(root / "ratings.csv", row, 5, "")
    config = shrink(recipe.get_config("OPEN"), root)
    config.data.target = "ROM"
    with user_error("missing_target", f"{root / 'neuroface_split.csv'}, row 2", "'ROM'"):
        datasets.open_dataset(config)
    problems = Problems(collect=True)
    source = datasets.open_dataset(config, problems=problems).source
    assert [info.id for info in source.infos] == [f"{FILE}_2"]
    assert source[0].info == dataclasses.replace(source_of(root).infos[1], score=source.infos[0].score)
    assert [x.kind for x in problems.found] == ["missing_target"]


def test_ratings_that_are_not_a_class_are_errors(root):
    config = shrink(recipe.get_config("classification"), root)
    config.model.head.num_classes = 2
    config.data.target = ""
    edit(root / "ratings.csv", 2, 3, "7")
    with user_error("class_out_of_range", "row 2", "score", "class 5", "model.head.num_classes=2"):
        datasets.open_dataset(config)
