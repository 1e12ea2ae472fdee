"""The reader of PFED5, on files in its published layout."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.published_layouts import PFED5_EXPRESSIONS, edit, write_pfed5
from tests.raises import user_error
from tramp_jax.data import clips, images
from tramp_jax.data.problems import Problems
from tramp_jax.data.readers import pfed5
from tramp_jax.data.readers.pfed5_lists import read_list
from tramp_jax.data.source import Dataset, Wanted

EACH = {"num_train_subjects": 2, "num_test_subjects": 1, "expressions": ("sit_at_rest", "clench_teeth")}
EVERYTHING = Wanted()
FIRST = "PD0000_clip_smile_P00"  # id of the first clip
POINTS, COLOURS = (f"{folder}/P00/PD0000_clip-P00.npy" for folder in ("detect_73_crop", "RGB_1x1_fromLK"))


@pytest.fixture
def root(tmp_path):
    """Three subjects with one clip each: P00 and P01 for training, P02 for the test."""
    write_pfed5(tmp_path)
    return tmp_path


def opened(root: Path | str, wanted: Wanted = EVERYTHING, problems: Problems | None = None, **options) -> Dataset:
    return pfed5.open(root, pfed5.Options(**options), wanted, problems or Problems())


def listed(path: Path, column: int = 0) -> list[clips.ClipInfo]:
    return read_list(path, column, Problems())


def without_source(info: clips.ClipInfo) -> clips.ClipInfo:
    return dataclasses.replace(info, source="")


def change(path: Path, function) -> None:
    np.save(path, function(np.load(path)))


@pytest.mark.parametrize("variant", ["qafe_net", "tramp_former"])
def test_reads_the_published_files(tmp_path, variant):
    written = write_pfed5(tmp_path, **EACH, clips_per_subject=2, variant=variant)
    source = opened(tmp_path).source
    assert len(source) == len(written) == 12
    assert [without_source(info) for info in source.infos] == [clip.info for clip in written]
    for index in (0, 11):
        read, expected = source[index], written[index]
        assert read.info == source.infos[index]
        assert (read.layout, read.fps, read.frames) == ("insightface73", 25, expected.frames)
        np.testing.assert_array_equal(read.landmarks, expected.landmarks)
        np.testing.assert_array_equal(read.pixels, expected.pixels)
        assert read.landmarks.dtype == np.float32
        assert (read.pixels.shape, read.pixels.dtype) == ((7, 63, 3), np.uint8)
        assert clips.decode_frame(read.frames[0]).shape == (256, 256, 3)


def test_every_expression_has_its_number(tmp_path):
    write_pfed5(tmp_path, 1, 1, PFED5_EXPRESSIONS)
    assert pfed5.EXPRESSIONS == PFED5_EXPRESSIONS
    assert [info.expression for info in opened(tmp_path).source.infos[:5]] == list(PFED5_EXPRESSIONS)


def test_official_split_comes_from_the_lists(root):
    assert opened(root).official == {"train": {"P00", "P01"}, "test": {"P02"}}


def test_infos_need_only_the_lists(root):
    for file in [*root.rglob("*.jpg"), *root.rglob("*.npy")]:
        file.unlink()
    assert [info.num_frames for info in opened(root).source.infos] == [7, 7, 7]


def test_id_contains_video_and_patient(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("a_b_c_d_e_f_take_2_S7_x,1,9,1\n")
    assert [(info.id, info.subject) for info in listed(path)] == [("a_b_c_d_e_f_take_2_S7_x", "x")]


def test_frames_are_in_natural_order(tmp_path):
    write_pfed5(tmp_path, num_frames=11)
    source = opened(tmp_path).source
    expected = source[0].frames
    folder = tmp_path / "P00/PD0000_clip"
    for i in range(1, 12):
        (folder / f"img_{i:05d}.jpg").rename(folder / f"{i}.jpg")
    (folder / "._1.jpg").write_bytes(b"metadata of a file system")
    assert source[0].frames == expected
    assert len(set(expected)) == 11


def test_without_the_folder_of_colours_they_come_from_the_frames(tmp_path):
    with_pixels, without = tmp_path / "with", tmp_path / "without"
    write_pfed5(with_pixels)
    write_pfed5(without, pixels=False)
    np.testing.assert_array_equal(opened(without).source[1].pixels, opened(with_pixels).source[1].pixels)
    with user_error("missing_folder", tmp_path / "elsewhere", "pixels_root", "TraMP-Former"):
        opened(without, pixels_root=str(tmp_path / "elsewhere"))


def test_colours_from_frames_need_the_published_size(tmp_path):
    write_pfed5(tmp_path, pixels=False)
    image = tmp_path / "P00/PD0000_clip/img_00003.jpg"
    image.write_bytes(clips.encode_frame(np.zeros((64, 32, 3), np.uint8)))
    with user_error("wrong_image_size", image, "32×64", "256×256"):
        opened(tmp_path).source[0]


def test_lists_and_arrays_may_lie_elsewhere(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    written = write_pfed5(root)
    other.mkdir()
    for name in ("detect_73_crop", "RGB_1x1_fromLK", "train_41.csv", "test_41.csv"):
        (root / name).rename(other / f"my_{name}")
    source = opened(
        root,
        landmarks_root=str(other / "my_detect_73_crop"),
        pixels_root=str(other / "my_RGB_1x1_fromLK"),
        train_list=str(other / "my_train_41.csv"),
        test_list=str(other / "my_test_41.csv"),
    ).source
    np.testing.assert_array_equal(source[2].landmarks, written[2].landmarks)
    np.testing.assert_array_equal(source[2].pixels, written[2].pixels)


def test_files_of_74_points_lose_the_first_point_and_the_depth(root):
    source = opened(root).source
    expected = source[0].landmarks
    change(root / POINTS, lambda x: np.pad(x, ((0, 0), (1, 0), (0, 1)), constant_values=5.0))
    np.testing.assert_array_equal(source[0].landmarks, expected)


def test_fractional_colours_are_rounded(root):
    source = opened(root).source
    expected = source[0].pixels
    change(root / COLOURS, lambda x: np.clip(x - 0.4, 0, 255))
    np.testing.assert_array_equal(source[0].pixels, expected)


# Lists


def lines(*rows: str, header: str = "id,score,frames,class") -> str:
    return "\n".join([header, *rows, ""])


GOOD = ("PD0001_clip_P01,3,50,1", "PD0002_clip_P01,0,60,4")


def test_a_list_without_a_header_keeps_its_first_row(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("\n".join(GOOD))
    assert [info.score for info in listed(path)] == [3, 0]
    for header in ("id,score,frames,class", "0,1,2,3"):
        path.write_text(lines(*GOOD, header=header))
        assert [info.score for info in listed(path)] == [3, 0]


def test_blanks_byte_order_marks_empty_rows_and_decimals_are_read(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("\ufeffPD0001_clip_P01 , 2.5,50.0 ,1.0\r\n\r\n,,,\r\n" + GOOD[1], encoding="utf-8")
    assert listed(path) == [
        clips.ClipInfo("PD0001_clip_P01", "P01", "smile", 2.5, 50, source=f"{path}, row 1"),
        clips.ClipInfo("PD0002_clip_P01", "P01", "clench_teeth", 0, 60, source=f"{path}, row 4"),
    ]


@pytest.mark.parametrize(
    ("row", "header"),
    [
        ("PD0001_clip_P01,3,50,2,25", "id,score,frames,class,fps"),
        ("PD0001_clip_P01,3,50,25,2", "id,score,frames,fps,class"),
        ("PD0001_clip_P01,3,50,4,2", "id,score,frames,rater,Expression"),
        ("PD0001_clip_P01,3,50,2,4", "id,score,frames,class_idx,rater"),
    ],
)
def test_the_column_of_the_expression_is_found(tmp_path, row, header):
    path = tmp_path / "list.csv"
    path.write_text(lines(row, header=header))
    assert [info.expression for info in listed(path)] == ["frown"]


def test_an_unclear_column_of_the_expression_needs_the_option(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(lines("PD0001_clip_P01,3,50,2,4", header="id,score,frames,a,b"))
    with user_error("unclear_column", path, "both columns 3 and 4", "expression_column"):
        listed(path)
    assert [listed(path, column)[0].expression for column in (3, 4)] == ["frown", "clench_teeth"]
    path.write_text(lines("PD0001_clip_P01,3,50,smile"))
    with user_error("unclear_column", path, "neither column 3 nor column 4", "expression_column"):
        listed(path)


def test_one_wrong_expression_does_not_change_the_column(tmp_path):
    path = tmp_path / "list.csv"
    rows = [
        f"PD000{i}_clip_P01,3,50,{rater},{expression}" for i, (rater, expression) in enumerate([(1, 1), (9, 2), (8, 5)])
    ]
    path.write_text(lines(*rows, header="id,score,frames,a,b"))
    with user_error("bad_expression", f"{path}, row 4", "'5'", "column 4", "0 sit_at_rest, 1 smile"):
        listed(path)


@pytest.mark.parametrize(
    ("row", "kind", "facts"),
    [
        ("PD0009_clip_P01,abc,50,1", "bad_score", ("'abc'", "column 1", "0 to 4")),
        ("PD0009_clip_P01,nan,50,1", "bad_score", ("'nan'",)),
        ("PD0009_clip_P01,4.5,50,1", "bad_score", ("'4.5'",)),
        ("PD0009_clip_P01,-1,50,1", "bad_score", ("'-1'",)),
        ("PD0009_clip_P01,2,0,1", "bad_frame_count", ("'0'", "column 2")),
        ("PD0009_clip_P01,2,50.5,1", "bad_frame_count", ("'50.5'",)),
        ("PD0009_clip_P01,2,50,-1", "bad_expression", ("'-1'",)),
        ("PD0009_clip_P01,2,50", "missing_column", ("3 columns", "column 3")),
        (",2,50,1", "bad_id", ("''",)),
        ("PD0009_clip P01,2,50,1", "bad_id", ("'PD0009_clip P01'", "blanks")),
        ("PD0009clip1P01,2,50,1", "bad_id", ("'PD0009clip1P01'",)),
        ("PD9_P01,2,50,1", "bad_id", ("'PD9_P01'",)),
        ("../secret_clip_P01,2,50,1", "bad_id", ("'../secret_clip_P01'",)),
        ("..secret_clip_P01,2,50,1", "bad_id", ("'..secret_clip_P01'",)),
        ("PD0009_clip_..,2,50,1", "bad_id", ("'PD0009_clip_..'",)),
        ("PD0009_clip_/etc,2,50,1", "bad_id", ("'PD0009_clip_/etc'",)),
        ("PD0001_clip_P01,2,50,1", "duplicate_clip", ("'PD0001_clip_P01'", "row 2")),
        ("PD0001_clip_again_P01,2,50,1", "duplicate_clip", ("row 2", "patient P01", "video PD0001_clip")),
    ],
)
def test_errors_show_the_malformed_row(tmp_path, row, kind, facts):
    path = tmp_path / "list.csv"
    path.write_text(lines(GOOD[0], row, GOOD[1]))
    with user_error(kind, f"{path}, row 3", *facts):
        listed(path)


def test_all_faults_of_a_row_are_collected(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(lines(*GOOD, "PD0009_clip P01,9,0,1"))
    problems = Problems(collect=True)
    assert len(read_list(path, 0, problems)) == 2
    assert [problem.kind for problem in problems.found] == ["bad_id", "bad_score", "bad_frame_count"]


@pytest.mark.parametrize("text", ["", "\n\n", lines()])
def test_an_empty_list_is_an_error(tmp_path, text):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with user_error("empty_list", path):
        listed(path)


def test_the_lists_of_both_releases_need_a_choice(root):
    (root / "PFED5_train.csv").write_text((root / "train_41.csv").read_text())
    with user_error("ambiguous_list", "train_41.csv", "PFED5_train.csv", "train_list"):
        opened(root)
    assert len(opened(root, train_list=str(root / "PFED5_train.csv")).source) == 3


# Missing and broken data


@pytest.mark.parametrize("missing", ["", "no/such/folder"])
def test_without_the_data_the_error_explains_how_to_get_it(missing):
    facts = "not public", "request form", "QAFE-Net", "ROOT/PATIENT/VIDEO/", "--config.data.root=ROOT"
    with user_error("missing_file", repr(missing), "data.root", *facts):
        opened(missing)


def test_a_list_in_the_options_must_exist(root):
    with user_error("missing_list", root / "mine.csv", "test_list=FILE"):
        opened(root, test_list=str(root / "mine.csv"))


def _nan(x: np.ndarray) -> np.ndarray:
    """One point is NaN in the last three of the seven frames."""
    frame, point, *_ = np.indices(x.shape)
    return np.where((frame > 3) & (point == 5), np.nan, x)


@pytest.mark.parametrize(
    ("array", "function", "kind", "facts"),
    [
        (POINTS, lambda x: x[:, :-1], "wrong_shape", ("(7, 72, 2)", "(frames, 73, 2)")),
        (COLOURS, lambda x: x[:, :-1], "wrong_shape", ("(7, 70, 3)", "(frames, 71, 3)")),
        (POINTS, lambda x: x[0], "wrong_shape", ("(73, 2)",)),
        (COLOURS, lambda x: x[0], "wrong_shape", ("(71, 3)",)),
        (POINTS, lambda x: x / 256, "landmarks_out_of_crop", ("from 0.", "256×256")),
        (POINTS, _nan, "landmarks_not_finite", ("3 of 7 frames", "frame 5")),
        (COLOURS, _nan, "colours_out_of_range", ("0-255", "frame 5")),
    ],
)
def test_the_first_error_names_the_broken_array(root, array, function, kind, facts):
    change(root / array, function)
    with user_error(kind, root / array, *facts):
        opened(root).source[0]


def test_errors_name_missing_and_damaged_frames(root):
    source, folder = opened(root).source, root / "P00/PD0000_clip"
    image = folder / "img_00002.jpg"
    image.write_bytes(b"")
    with user_error("unreadable_image", image, "0 bytes"):
        source[0]
    image.unlink()
    with user_error("missing_frames", folder, "6 images", "7 frames", f"{root / 'train_41.csv'}, row 2", FIRST):
        source[0]
    folder.rename(root / "gone")
    with user_error("missing_frames", folder, FIRST):
        source[0]


def test_a_check_lists_every_broken_part(root):
    source = opened(root).source
    problems, clip = source.check(0)
    assert (problems, clip.info) == ([], source.infos[0])
    (root / POINTS).unlink()
    (root / COLOURS).write_bytes(b"")
    (root / "P00/PD0000_clip/img_00001.jpg").unlink()
    image = root / "P00/PD0000_clip/img_00004.jpg"
    image.write_bytes(image.read_bytes()[:-100])
    expected = [
        ("missing_landmarks", POINTS),
        ("unreadable_array", COLOURS),
        ("missing_frames", "6 images"),
        ("truncated_image", str(image)),
    ]
    problems, clip = source.check(0)
    assert clip is None
    for problem, (kind, part) in zip(problems, expected, strict=True):
        assert (problem.kind, problem.clip) == (kind, FIRST)
        assert part in problem.message
    with user_error("missing_landmarks") as caught:
        source[0]
    assert caught.value.problem == problems[0]
    assert source.check(1)[0] == []


def test_a_collector_gets_every_fault_and_the_other_rows_remain(tmp_path):
    write_pfed5(tmp_path, 4, 1)
    edit(tmp_path / "train_41.csv", 2, ",7,25", ",0,25")
    edit(tmp_path / "train_41.csv", 3, "PD0001_clip", "PD0001 clip")
    edit(tmp_path / "test_41.csv", 2, "_P04", "_P03")
    (tmp_path / "detect_73_crop").rename(tmp_path / "gone")
    problems = Problems(collect=True)
    dataset = opened(tmp_path, problems=problems)
    kinds = ["missing_folder", "bad_frame_count", "bad_id", "subject_in_both_lists"]
    assert [problem.kind for problem in problems.found] == kinds
    assert [info.subject for info in dataset.source.infos] == ["P02", "P03"]
    assert dataset.official == {"train": {"P02", "P03"}, "test": frozenset()}
    assert [problem.kind for problem in dataset.source.check(0)[0]] == ["missing_landmarks"]


@pytest.mark.parametrize("stored", [True, False], ids=["colours stored", "colours from frames"])
def test_only_the_wanted_parts_are_read(tmp_path, monkeypatch, stored):
    written = write_pfed5(tmp_path, pixels=stored)[0]
    decoded = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda *arguments: decoded.append(0) or decode(*arguments))

    clip = opened(tmp_path, Wanted(pixels=False)).source[0]
    assert (clip.frames, clip.pixels, decoded) == (written.frames, None, [])
    if stored:
        for image in tmp_path.rglob("*.jpg"):
            image.unlink()
    clip = opened(tmp_path, Wanted(frames=False)).source[0]
    np.testing.assert_array_equal(clip.pixels, written.pixels)
    assert clip.frames is None
    assert len(decoded) == (0 if stored else 7)
    for path in [*tmp_path.rglob("*.jpg"), *(tmp_path / "RGB_1x1_fromLK").rglob("*.npy")]:
        path.unlink()
    source = opened(tmp_path, Wanted(frames=False, pixels=False)).source
    clip = source[0]
    assert (clip.frames, clip.pixels) == (None, None)
    np.testing.assert_array_equal(clip.landmarks, written.landmarks)
    assert source.check(0)[0] == []
