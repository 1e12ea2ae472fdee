import dataclasses
import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.published_layouts import PFED5_EXPRESSIONS, write_pfed5
from tramp_jax.data import clips
from tramp_jax.data.problems import DataError, Problems
from tramp_jax.data.readers import pfed5
from tramp_jax.data.readers.pfed5 import EXPRESSIONS, PFED5
from tramp_jax.data.readers.pfed5_lists import read_list
from tramp_jax.errors import UserError

EACH = {"num_train_subjects": 2, "num_test_subjects": 1, "expressions": ("sit_at_rest", "clench_teeth")}


@pytest.fixture
def root(tmp_path):
    """Three subjects with one clip each: P00 and P01 to train, P02 to test."""
    write_pfed5(tmp_path)
    return tmp_path


def edit(path: Path, row: int, old: str, new: str) -> None:
    """Replaces text in one row (counted from 1) of a list."""
    lines = path.read_text().splitlines()
    assert old in lines[row - 1]
    lines[row - 1] = lines[row - 1].replace(old, new)
    path.write_text("\n".join(lines))


def array_files(root: Path) -> tuple[Path, Path]:
    """Landmark and colour file of the first clip."""
    name = "P00/PD0000_clip-P00.npy"
    return root / "detect_73_crop" / name, root / "RGB_1x1_fromLK" / name


def _unplaced(info: clips.ClipInfo) -> clips.ClipInfo:
    """Without the list and the row that it was read from."""
    return dataclasses.replace(info, source="")


def change(path: Path, function) -> None:
    np.save(path, function(np.load(path)))


@pytest.mark.parametrize("variant", ["qafe_net", "tramp_former"])
def test_reads_what_was_published(tmp_path, variant):
    written = write_pfed5(tmp_path, **EACH, clips_per_subject=2, variant=variant)
    source: clips.ClipSource = PFED5(tmp_path)
    assert len(source) == len(written) == 12
    assert [_unplaced(info) for info in source.infos] == [clip.info for clip in written]
    for index in (0, 11):
        read, expected = source[index], written[index]
        assert read.info == source.infos[index]
        assert (_unplaced(read.info), read.layout, read.fps, read.frames) == (
            expected.info,
            "insightface73",
            25,
            expected.frames,
        )
        np.testing.assert_array_equal(read.landmarks, expected.landmarks)
        np.testing.assert_array_equal(read.pixels, expected.pixels)
        assert read.landmarks.dtype == np.float32
        assert (read.pixels.shape, read.pixels.dtype) == ((7, 63, 3), np.uint8)
        assert clips.decode_frame(read.frames[0]).shape == (256, 256, 3)


def test_every_expression_has_its_number(tmp_path):
    write_pfed5(tmp_path, 1, 1, PFED5_EXPRESSIONS)
    assert EXPRESSIONS == PFED5_EXPRESSIONS
    assert [info.expression for info in PFED5(tmp_path).infos[:5]] == list(PFED5_EXPRESSIONS)


def test_official_split_is_that_of_the_lists(root):
    source = PFED5(root)
    assert source.official_split() == {"train": {"P00", "P01"}, "test": {"P02"}}


def test_a_subject_in_both_lists_is_named(root):
    edit(root / "test_41.csv", 2, "_P02", "_P01")
    with pytest.raises(ValueError, match=r"test_41.csv, row 2: subject P01 is also in .*train_41.csv"):
        PFED5(root)


def test_infos_need_only_the_lists(root):
    for file in [*root.rglob("*.jpg"), *root.rglob("*.npy")]:
        file.unlink()
    assert [info.num_frames for info in PFED5(root).infos] == [7, 7, 7]


def test_id_gives_patient_and_video(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("a_b_c_d_e_f_take_2_S7_x,1,9,1\n")
    assert [(i.id, i.subject) for i in read_list(path)] == [("a_b_c_d_e_f_take_2_S7_x", "x")]


def test_frames_are_in_natural_order(tmp_path):
    write_pfed5(tmp_path, num_frames=11)
    expected = PFED5(tmp_path)[0].frames
    folder = tmp_path / "P00/PD0000_clip"
    for i in range(1, 12):
        (folder / f"img_{i:05d}.jpg").rename(folder / f"{i}.jpg")
    (folder / "._1.jpg").write_bytes(b"a file system's own note")
    assert PFED5(tmp_path)[0].frames == expected
    assert len(set(expected)) == 11


def test_missing_folder_of_colours_computes_them(tmp_path):
    with_pixels, without = tmp_path / "with", tmp_path / "without"
    write_pfed5(with_pixels)
    write_pfed5(without, pixels=False)
    np.testing.assert_array_equal(PFED5(without)[1].pixels, PFED5(with_pixels)[1].pixels)
    with pytest.raises(DataError, match=r"elsewhere: no such folder of pixels.*pixels_root"):
        PFED5(without, pixels_root=tmp_path / "elsewhere")


def test_computed_colours_need_frames_of_the_published_size(tmp_path):
    write_pfed5(tmp_path, pixels=False)
    (tmp_path / "P00/PD0000_clip/img_00003.jpg").write_bytes(clips.encode_frame(np.zeros((64, 32, 3), np.uint8)))
    with pytest.raises(ValueError, match=r"P00/PD0000_clip/img_00003.jpg \(frame 2\): has 32×64 pixels, not"):
        PFED5(tmp_path)[0]


def test_trajectories_are_read_without_frames(tmp_path):
    written = write_pfed5(tmp_path)
    for file in tmp_path.rglob("*.jpg"):
        file.unlink()
    clip = PFED5(tmp_path, with_frames=False)[0]
    assert clip.frames is None
    np.testing.assert_array_equal(clip.pixels, written[0].pixels)


def test_lists_and_arrays_may_lie_elsewhere(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    written = write_pfed5(root)
    other.mkdir()
    for name in ("detect_73_crop", "RGB_1x1_fromLK", "train_41.csv", "test_41.csv"):
        (root / name).rename(other / f"my_{name}")
    source = PFED5(
        root,
        landmarks_root=other / "my_detect_73_crop",
        pixels_root=other / "my_RGB_1x1_fromLK",
        train_list=other / "my_train_41.csv",
        test_list=other / "my_test_41.csv",
    )
    np.testing.assert_array_equal(source[2].landmarks, written[2].landmarks)


def test_points_of_74_lose_the_one_in_front_and_the_depth(root):
    expected = PFED5(root)[0].landmarks
    path = array_files(root)[0]
    change(path, lambda x: np.pad(x, ((0, 0), (1, 0), (0, 1)), constant_values=5.0))
    np.testing.assert_array_equal(PFED5(root)[0].landmarks, expected)


def test_colours_stored_as_fractions_are_rounded(root):
    expected = PFED5(root)[0].pixels
    change(array_files(root)[1], lambda x: np.clip(x - 0.4, 0, 255))
    np.testing.assert_array_equal(PFED5(root)[0].pixels, expected)


# Lists


def lines(*rows: str, header: str = "id,score,frames,class") -> str:
    return "\n".join([header, *rows, ""])


GOOD = ("PD0001_clip_P01,3,50,1", "PD0002_clip_P01,0,60,4")


def test_a_list_without_a_header_keeps_its_first_row(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("\n".join(GOOD))
    assert [info.score for info in read_list(path)] == [3, 0]
    for header in ("id,score,frames,class", "0,1,2,3"):
        path.write_text(lines(*GOOD, header=header))
        assert [info.score for info in read_list(path)] == [3, 0]


def test_blanks_byte_order_marks_empty_rows_and_decimals_are_read(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("\ufeffPD0001_clip_P01 , 2.5,50.0 ,1.0\r\n\r\n,,,\r\n" + GOOD[1], encoding="utf-8")
    assert read_list(path) == [
        clips.ClipInfo("PD0001_clip_P01", "P01", "smile", 2.5, 50, source=f"{path}, row 1"),
        clips.ClipInfo("PD0002_clip_P01", "P01", "clench_teeth", 0, 60, source=f"{path}, row 4"),
    ]


@pytest.mark.parametrize(
    ("rows", "header", "expression"),
    [
        (("PD0001_clip_P01,3,50,2,25",), "id,score,frames,class,fps", "frown"),
        (("PD0001_clip_P01,3,50,25,2",), "id,score,frames,fps,class", "frown"),
        (("PD0001_clip_P01,3,50,4,2",), "id,score,frames,rater,Expression", "frown"),
        (("PD0001_clip_P01,3,50,2,4",), "id,score,frames,class_idx,rater", "frown"),
    ],
)
def test_the_column_of_the_expression_is_found(tmp_path, rows, header, expression):
    path = tmp_path / "list.csv"
    path.write_text(lines(*rows, header=header))
    assert [info.expression for info in read_list(path)] == [expression]


def test_a_column_that_cannot_be_told_is_asked_for(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(lines("PD0001_clip_P01,3,50,2,4", header="id,score,frames,a,b"))
    with pytest.raises(ValueError, match=r"list.csv: cannot tell.*both columns.*expression_column=COLUMN"):
        read_list(path)
    assert [read_list(path, column)[0].expression for column in (3, 4)] == ["frown", "clench_teeth"]
    path.write_text(lines("PD0001_clip_P01,3,50,smile"))
    with pytest.raises(ValueError, match=r"list.csv: cannot tell.*neither column.*expression_column=COLUMN"):
        read_list(path)


def test_one_wrong_expression_does_not_move_the_column(tmp_path):
    path = tmp_path / "list.csv"
    rows = [
        f"PD000{i}_clip_P01,3,50,{rater},{expression}" for i, (rater, expression) in enumerate([(1, 1), (9, 2), (8, 5)])
    ]
    path.write_text(lines(*rows, header="id,score,frames,a,b"))
    with pytest.raises(ValueError, match=r"row 4: the expression '5' \(column 4\) is none of 0 sit_at_rest, 1 smile"):
        read_list(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("PD0009_clip_P01,abc,50,1", r"row 3: the score 'abc' \(column 1\) is not a number of 0 to 4"),
        ("PD0009_clip_P01,nan,50,1", r"row 3: the score 'nan'"),
        ("PD0009_clip_P01,4.5,50,1", r"row 3: the score '4.5'"),
        ("PD0009_clip_P01,-1,50,1", r"row 3: the score '-1'"),
        ("PD0009_clip_P01,2,0,1", r"row 3: the number of frames '0' \(column 2\)"),
        ("PD0009_clip_P01,2,50.5,1", r"row 3: the number of frames '50.5'"),
        ("PD0009_clip_P01,2,50,-1", r"row 3: the expression '-1'"),
        ("PD0009_clip_P01,2,50", r"row 3: has 3 columns, but column 3"),
        (",2,50,1", r"row 3: the id '' is not"),
        ("PD0009_clip P01,2,50,1", r"row 3: the id 'PD0009_clip P01' is not .* without blanks"),
        ("PD0009clip1P01,2,50,1", r"row 3: the id"),
        ("PD9_P01,2,50,1", r"row 3: the id"),
        ("../secret_clip_P01,2,50,1", r"row 3: the id"),
        ("..secret_clip_P01,2,50,1", r"row 3: the id"),
        ("PD0009_clip_..,2,50,1", r"row 3: the id"),
        ("PD0009_clip_/etc,2,50,1", r"row 3: the id"),
        ("PD0001_clip_P01,2,50,1", r"row 3: 'PD0001_clip_P01' names the same clip as row 2"),
        ("PD0001_clip_again_P01,2,50,1", r"row 3: .* same clip as row 2 \(patient P01, video PD0001_clip\)"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, row, message):
    path = tmp_path / "list.csv"
    path.write_text(lines(GOOD[0], row, GOOD[1]))
    with pytest.raises(ValueError, match=f"list.csv, {message}"):
        read_list(path)


@pytest.mark.parametrize("text", ["", "\n\n", lines()])
def test_an_empty_list_is_refused(tmp_path, text):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"list.csv: lists no clips"):
        read_list(path)


def test_both_published_lists_ask_which(root):
    (root / "PFED5_train.csv").write_text((root / "train_41.csv").read_text())
    with pytest.raises(ValueError, match=r"both train_41.csv and PFED5_train.csv.*train_list=FILE"):
        PFED5(root)
    assert len(PFED5(root, train_list=root / "PFED5_train.csv")) == 3


# Absent and broken data


@pytest.mark.parametrize("missing", ["", "no/such/folder"])
def test_absent_data_tells_what_to_obtain_and_where_to_put_it(missing):
    with pytest.raises(UserError) as caught:
        PFED5(missing)
    for part in ("not public", "request form", "QAFE-Net", "ROOT/PATIENT/VIDEO/", "--config.data.root=ROOT"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train_41.csv", r"no train_41.csv or PFED5_train.csv; .*QAFE-Net.*train_list=FILE"),
        ("test_41.csv", r"no test_41.csv or PFED5_test.csv; .*test_list=FILE"),
        ("detect_73_crop", r"detect_73_crop: no such folder of landmarks; .*TraMP-Former.*landmarks_root=FOLDER"),
    ],
)
def test_a_missing_part_is_named(root, name, message):
    (root / name).rename(root / "gone")
    with pytest.raises(DataError, match=message):
        PFED5(root)


def test_a_given_list_must_exist(root):
    with pytest.raises(DataError, match=r"mine.csv: no such file.*test_list=FILE"):
        PFED5(root, test_list=root / "mine.csv")


@pytest.mark.parametrize("part", [0, 1], ids=["landmarks", "colours"])
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[:-1], r"of 6 frames where .*train_41.csv, row 2 says 7 for clip PD0000_clip_smile_P00"),
        (lambda x: x[:, :-1], r"has the shape \(7, 7., .\), not \(frames, 7., .\)"),
        (lambda x: x[0], r"of shape \(7., .\), not"),
        (lambda x: x.astype(str), r"holds <U"),
        (lambda x: x + 1000.0, r"must be pixels|outside 0-255"),
        (
            lambda x: np.where((np.indices(x.shape)[0] > 3) & (np.indices(x.shape)[1] == 5), np.nan, x),
            r"3 frames .* frame 4|outside 0-255",
        ),
    ],
)
def test_broken_arrays_are_named(root, part, function, message):
    path = array_files(root)[part]
    change(path, function)
    with pytest.raises(ValueError, match=rf"{path.parts[-3]}/P00/PD0000_clip-P00.npy: .*{message}"):
        PFED5(root)[0]


def test_landmarks_scaled_to_one_are_refused(root):
    change(array_files(root)[0], lambda x: x / 256)
    with pytest.raises(
        ValueError, match=r"PD0000_clip-P00.npy: landmarks reach from 0\..* must be pixels of the 256×256"
    ):
        PFED5(root)[0]


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a file of the data set was executed",)


@pytest.mark.parametrize("part", [0, 1], ids=["landmarks", "colours"])
def test_files_are_never_executed(root, part):
    path = array_files(root)[part]
    objects = np.empty((7, 73, 2), object)
    objects[:] = Bomb()
    np.save(path, objects)
    with pytest.raises(ValueError, match=r"PD0000_clip-P00.npy: refused, .*Object arrays"):
        PFED5(root)[0]
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"PD0000_clip-P00.npy: refused"):
        PFED5(root)[0]


@pytest.mark.parametrize("part", [0, 1], ids=["landmarks", "colours"])
def test_missing_and_damaged_arrays_are_named(root, part):
    path = array_files(root)[part]
    raw = path.read_bytes()
    for cut in (0, 5, 60, len(raw) - 1):
        path.write_bytes(raw[:cut])
        with pytest.raises(ValueError, match=r"PD0000_clip-P00.npy: refused"):
            PFED5(root)[0]
    path.unlink()
    with pytest.raises(DataError, match=rf"{path.parts[-3]}/P00/PD0000_clip-P00.npy: .* are missing"):
        PFED5(root)[0]


def test_missing_and_damaged_frames_are_named(root):
    folder = root / "P00/PD0000_clip"
    (folder / "img_00002.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"img_00002.jpg: is no JPEG image \(0 bytes\)"):
        PFED5(root)[0]
    (folder / "img_00002.jpg").unlink()
    with pytest.raises(
        ValueError, match=r"P00/PD0000_clip: has 6 frames .*, row 2 says 7 for clip PD0000_clip_smile_P00"
    ):
        PFED5(root)[0]
    folder.rename(root / "gone")
    with pytest.raises(DataError, match=r"P00/PD0000_clip: the frames of clip PD0000_clip_smile_P00 are missing"):
        PFED5(root)[0]


def test_problems_lists_every_broken_part(root):
    points, colours = array_files(root)
    assert list(PFED5(root).problems(0)) == []
    points.unlink()
    colours.write_bytes(b"")
    (root / "P00/PD0000_clip/img_00001.jpg").unlink()
    image = root / "P00/PD0000_clip/img_00004.jpg"
    image.write_bytes(image.read_bytes()[:-100])
    found = list(PFED5(root).problems(0))
    kinds = "missing_landmarks", "missing_frames", "truncated_image", "unreadable_array"
    parts = "detect_73_crop", "6 frames", r"img_00004.jpg (frame 2)", "RGB_1x1_fromLK"
    for problem, kind, part in itertools.zip_longest(found, kinds, parts):
        assert (problem.kind, problem.clip) == (kind, "PD0000_clip_smile_P00")
        assert part in problem.message
    with pytest.raises(DataError) as caught:
        PFED5(root)[0]
    assert caught.value.problem == found[0]
    assert list(PFED5(root).problems(1)) == []


def test_a_collector_gets_every_fault_and_the_rows_without(tmp_path):
    write_pfed5(tmp_path, 4, 1)
    edit(tmp_path / "train_41.csv", 2, ",7,25", ",0,25")
    edit(tmp_path / "train_41.csv", 3, "PD0001_clip", "PD0001 clip")
    edit(tmp_path / "test_41.csv", 2, "_P04", "_P03")
    (tmp_path / "detect_73_crop").rename(tmp_path / "gone")
    problems = Problems(collect=True)
    source = PFED5(tmp_path, problems=problems)
    kinds = ["missing_folder", "bad_frame_count", "bad_id", "subject_in_both_lists"]
    assert [problem.kind for problem in problems.found] == kinds
    assert [info.subject for info in source.infos] == ["P02", "P03"]
    assert source.official_split() == {"train": {"P02", "P03"}, "test": frozenset()}
    assert [problem.kind for problem in source.problems(0)] == ["missing_landmarks"]


def test_one_row_can_have_several_faults(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(lines(*GOOD, "PD0009_clip P01,9,0,1"))
    problems = Problems(collect=True)
    assert len(read_list(path, problems=problems)) == 2
    assert [problem.kind for problem in problems.found] == ["bad_id", "bad_score", "bad_frame_count"]


@pytest.mark.parametrize("stored", [True, False], ids=["colours stored", "colours computed"])
def test_what_is_not_wanted_is_not_read(tmp_path, monkeypatch, stored):
    written = write_pfed5(tmp_path, pixels=stored)
    decoded = []
    monkeypatch.setattr(pfed5, "decode_frame", lambda frame: decoded.append(0) or clips.decode_frame(frame))

    def read(with_frames: bool, with_pixels: bool) -> clips.Clip:
        decoded.clear()
        return PFED5(tmp_path, with_frames=with_frames, with_pixels=with_pixels)[0]

    clip = read(True, False)
    assert (clip.frames, clip.pixels, decoded) == (written[0].frames, None, [])
    clip = read(False, True)
    np.testing.assert_array_equal(clip.pixels, written[0].pixels)
    assert clip.frames is None
    assert len(decoded) == (0 if stored else 7)
    for path in [*tmp_path.rglob("*.jpg"), *(tmp_path / "RGB_1x1_fromLK").rglob("*.npy")]:
        path.unlink()
    clip = read(False, False)
    assert (clip.frames, clip.pixels) == (None, None)
    np.testing.assert_array_equal(clip.landmarks, written[0].landmarks)
    assert not list(PFED5(tmp_path, with_frames=False, with_pixels=False).problems(0))
