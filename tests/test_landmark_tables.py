"""Landmark tables from OpenFace and py-feat: as clips, as a landmark source next to a video, and as data sets."""

import csv
from pathlib import Path

import numpy as np
import pytest

from configs import folder
from configs import ravdess as recipe
from tests import landmark_table_files as files
from tests.preprocess_inputs import write_video
from tests.raises import user_error
from tramp_jax import Scorer, cli, experiment
from tramp_jax.data import clip_folder, datasets, landmark_checks, landmark_tables, landmarks, validation
from tramp_jax.data.problems import WARNING, Problems
from tramp_jax.data.readers import ravdess, tables
from tramp_jax.data.source import Wanted
from tramp_jax.preprocess import SourceOptions, open_landmark_source, preprocess_video

OPENFACE = Path(__file__).parents[2] / "shared" / "openface_csv" / "OpenFace_Test.csv"


@pytest.fixture
def points():
    return files.drawn68()


@pytest.fixture
def table(tmp_path, points):
    """Writes a table of OpenFace in which some columns are replaced, and returns its path."""

    def write(name="anna.csv", eyes=False, **columns):
        return files.write(tmp_path / name, files.openface(points, eyes) | columns, blank=" ")

    return write


def without(rows, *numbers):
    """``rows`` with 0 at some places: frames without a face, counted from 0."""
    return [0 if i in numbers else row for i, row in enumerate(rows)]


def test_openface_has_the_points_of_its_pixels(table, points):
    read = landmark_tables.read(table())
    np.testing.assert_allclose(read.points, landmarks.from_ibug68(points), atol=2e-3)
    assert read.found.all()
    np.testing.assert_allclose(read.seconds, np.arange(60) / 30, atol=6e-4)


def test_pyfeat_has_the_same_points_and_no_times(tmp_path, table, points):
    read = landmark_tables.read(files.write(tmp_path / "fex.csv", files.pyfeat(points)))
    np.testing.assert_array_equal(read.points, landmark_tables.read(table()).points)
    assert read.seconds is None


def test_a_table_of_several_videos_is_refused(tmp_path, points):
    """py-feat numbers the frames of several videos consecutively; for images, each row names another file."""
    columns = files.pyfeat(points)
    path = files.write(tmp_path / "fex.csv", columns | {"input": ["a.mp4"] * 30 + ["b.mp4"] * 30})
    with user_error("no_single_face", path, "a.mp4", "b.mp4"):
        landmark_tables.read_trajectory(path, 30.0)
    images = files.write(tmp_path / "images.csv", columns | {"input": [f"{i}.png" for i in range(60)]})
    assert landmark_tables.read(images).found.all()


def test_pupils_are_the_irises_of_openface(table, points):
    with_eyes, without_eyes = landmark_tables.read(table(eyes=True)), landmark_tables.read(table())
    pupils = [landmarks.SLOT_NAMES.index(f"{side}_eye_pupil") for side in ("left", "right")]
    corners = points[:, [[36, 39], [42, 45]]].mean(axis=2)
    np.testing.assert_allclose(with_eyes.points[:, pupils], corners + 2, atol=2e-3)
    others = np.setdiff1d(np.arange(64), pupils)
    np.testing.assert_array_equal(with_eyes.points[:, others], without_eyes.points[:, others])


def test_a_real_table_of_openface():
    if not OPENFACE.is_file():
        pytest.skip(f"no table at {OPENFACE}")
    with user_error("no_frame_rate", OPENFACE, "1000"):  # OpenFace read it from images
        landmark_tables.read_trajectory(OPENFACE)
    found, fps, _, _ = landmark_tables.read_trajectory(OPENFACE, 30.0)
    assert (found.shape, fps) == ((100, 64, 2), 30.0)
    assert not list(landmark_checks.faults(found))
    middle = {name: found[0, landmarks.SLOT_NAMES.index(name)] for name in landmarks.SLOT_NAMES}
    assert middle["left_eye_pupil"][0] < middle["nose_bridge1"][0] < middle["right_eye_pupil"][0]
    assert middle["left_eyebrow_upper_middle"][1] < middle["left_eye_top"][1] < middle["left_eye_bottom"][1]
    assert middle["nose_middle_contour"][1] < middle["mouth_upper_lip_bottom"][1] < middle["mouth_lower_lip_top"][1] + 3


@pytest.mark.parametrize(("yes", "no"), [("TRUE", "FALSE"), ("True", "False")])
def test_a_truth_value_is_one_or_zero(table, yes, no):
    assert landmark_tables.read_trajectory(table(success=[yes] * 20 + [no] * 3 + [yes] * 37)).interpolated.sum() == 3


@pytest.mark.parametrize("column", ["success", "confidence"])
def test_short_gaps_are_interpolated(table, points, column):
    whole = landmark_tables.read_trajectory(table()).points
    found = landmark_tables.read_trajectory(table(**{column: without([1] * 60, *range(20, 25))}))
    assert np.flatnonzero(found.interpolated).tolist() == [20, 21, 22, 23, 24]
    assert "5 of 60 frames" in found.warnings[0]
    gap = found.points
    expected = np.linspace(whole[19], whole[25], 7)
    scale = np.ptp(whole) / np.ptp(gap)  # the crop may differ a little
    np.testing.assert_allclose((gap[19:26] - gap[19:20]) * scale, expected - whole[19:20], atol=0.2)
    np.testing.assert_allclose(np.diff(gap[19:26], 2, axis=0), 0, atol=1e-3)


def test_the_first_and_last_frames_without_a_face_are_cut_off(table):
    found = landmark_tables.read_trajectory(table(success=without([1] * 60, 0, 1, 2, 59)))
    assert (len(found.points), found.interpolated.any()) == (56, False)
    assert "frames 4-59 (56) of 60" in found.warnings[0]


@pytest.mark.parametrize("fps", [-25.0, float("inf"), float("nan")])
@pytest.mark.parametrize("seconds", [range(60), [0] * 60], ids=["times", "no times"])
def test_a_rate_that_no_camera_has_is_refused(table, seconds, fps):
    path = table(timestamp=[second / 30 for second in seconds])
    with user_error("bad_option", path, f"{fps:g}"):
        landmark_tables.read_trajectory(path, fps)


def test_a_longer_gap_is_interpolated_on_request(table):
    path = table(success=without([1] * 60, *range(20, 28)))
    assert landmark_tables.read_trajectory(path, max_gap=8).interpolated.sum() == 8
    with user_error("no_single_face", path, "8 frames", "7"):
        landmark_tables.read_trajectory(path, max_gap=7)


def test_a_table_whose_rate_varies_is_resampled_with_a_warning(table):
    found = landmark_tables.read_trajectory(table(timestamp=np.cumsum(np.where(np.arange(60) % 10, 1, 3)) / 30))
    assert found.fps == pytest.approx(30, rel=1e-3)
    assert len(found.points) > 60
    assert "variable" in found.warnings[0]


@pytest.mark.parametrize("still", [5, 20])
def test_a_tracker_that_stood_still_gives_a_warning(tmp_path, points, still):
    frozen = np.concatenate([points[:30], np.repeat(points[29:30], still, 0), points[30 + still :]])
    found = landmark_tables.read_trajectory(files.write(tmp_path / "a.csv", files.openface(frozen)))
    assert any(f"{still} of 60" in warning for warning in found.warnings) == (still > 6)


@pytest.mark.parametrize("first", [1, 0, 1000])
def test_a_part_of_a_longer_table_is_a_clip(table, first):
    """People cut a clip out of a recording by deleting the other rows."""
    whole = landmark_tables.read_trajectory(table())
    later = [f"{(first + i) / 30:.3f}" for i in range(60)]
    found = landmark_tables.read_trajectory(table(frame=range(first, first + 60), timestamp=later))
    np.testing.assert_array_equal(found.points, whole.points)
    assert not found.warnings


def test_beside_a_video_frame_numbers_count_from_its_first_frame(table):
    assert np.flatnonzero(landmark_tables.read(table(frame=range(11, 71))).found).tolist() == list(range(10, 70))


@pytest.mark.parametrize(
    ("separator", "start", "point"), [(";", "", "."), (";", "", ","), ("\t", "", ","), (";", "sep=;\n", ",")]
)
def test_a_table_that_a_spreadsheet_saved_is_read(table, separator, start, point):
    path = table()
    whole = landmark_tables.read_trajectory(path)
    path.write_text(start + path.read_text().replace(",", separator).replace(".", point))
    np.testing.assert_array_equal(landmark_tables.read_trajectory(path).points, whole.points)


def test_a_frame_without_a_row_is_a_gap(tmp_path, table):
    path = table()
    lines = path.read_text().splitlines()
    shorter = tmp_path / "shorter.csv"
    shorter.write_text("\n".join(lines[:11] + lines[13:]))
    read = landmark_tables.read(shorter)
    assert np.flatnonzero(~read.found).tolist() == [10, 11]
    np.testing.assert_allclose(read.seconds, np.arange(60) / 30, atol=6e-4)


def test_the_rate_is_that_of_the_timestamps_or_the_wanted_one(table):
    path = table()
    assert landmark_tables.read_trajectory(path)[1] == pytest.approx(30, rel=1e-3)
    found, fps, _, _ = landmark_tables.read_trajectory(path, 15.0)
    assert (len(found), fps) == (30, 15.0)


def test_points_are_those_of_a_face_in_its_crop(table):
    found = landmark_tables.read_trajectory(table()).points
    assert found.dtype == np.float32
    assert not list(landmark_checks.faults(found))
    assert abs(np.mean([found.min(axis=(0, 1)), found.max(axis=(0, 1))]) - 128) < 2


@pytest.mark.parametrize(
    ("columns", "kind", "facts"),
    [
        ({"success": without([1] * 60, *range(20, 26))}, "no_single_face", ["6 frames", "frame 21"]),
        ({"success": [0] * 60}, "no_single_face", ["60"]),
        ({"success": [0] * 40 + [1] * 20}, "no_single_face", ["41", "60"]),
        ({"face_id": [0] * 30 + [1] * 30}, "no_single_face", ["face_id", "0, 1"]),
        ({"frame": [1, 1, *range(3, 61)]}, "no_single_face", ["frame 1"]),
        ({"frame": [*range(1, 60), 10**9]}, "no_single_face", ["60"]),
        ({"frame": [*range(1, 60), 60.5]}, "bad_data", ["frame"]),
        ({"x_0": ["?"] * 60}, "bad_data", ["x_0"]),
        ({"x_68": [1] * 60}, "bad_columns", ["68"]),
        ({"eye_lmk_x_0": [1] * 60}, "bad_columns", ["eye_lmk_x_1"]),
        ({"timestamp": [0] * 60}, "no_frame_rate", ["fps"]),
        ({"timestamp": [i * 1000 / 30 for i in range(60)]}, "bad_data", ["seconds"]),
        ({"timestamp": [i * 33333 for i in range(60)]}, "bad_data", ["seconds"]),
        ({"timestamp": [*np.arange(30) / 30, *np.arange(30) / 30]}, "bad_data", ["0.966"]),
        ({"timestamp": [*np.arange(30) / 30, *np.arange(30, 60) / 30 + 60]}, "bad_data", ["60.0 seconds"]),
        ({"confidence": [98] * 60}, "bad_data", ["confidence", "98"]),
        ({" x_0": [1] * 60}, "bad_columns", ["x_0"]),
        ({"timestamp ": range(60)}, "bad_columns", ["timestamp"]),
    ],
)
def test_what_is_wrong_is_named_with_its_file(table, columns, kind, facts):
    path = table(**columns)
    with user_error(kind, path, *facts):
        landmark_tables.read_trajectory(path)


def moved_from(points, frame):
    moved = points.copy()
    moved[frame:] += (400, 0)
    return moved


@pytest.mark.parametrize(
    ("change", "kind", "fact"),
    [
        (lambda points: points / (384, 288), "landmarks_out_of_crop", "pixels"),  # shares of the picture
        (lambda points: points * (1, -1) + (0, 288), "not_upright", "178°"),  # y grows upwards
        (lambda points: points * (-1, 1) + (384, 0), "mirrored_landmarks", "x must"),  # x grows to the left
        (lambda points: points[..., ::-1], "not_upright", "92°"),  # y before x
        (lambda points: np.stack([288 - points[..., 1], points[..., 0]], -1), "not_upright", "92°"),
        (lambda points: moved_from(points, 30), "no_single_face", "frame 31"),
        (
            lambda points: np.where(np.arange(60)[:, None, None] % 2, np.add(points, (150, 0)), points),
            "no_single_face",
            "frame 2",
        ),
    ],
    ids=["shares", "y up", "x left", "y first", "turned", "another face", "two faces in turn"],
)
@pytest.mark.parametrize("fps", [0.0, 30.0])
def test_points_that_cannot_be_one_upright_face_in_pixels_are_refused(tmp_path, points, change, kind, fact, fps):
    columns = files.openface(change(points))
    del columns["frame"]  # without it, only the positions show that there are two faces
    path = files.write(tmp_path / "a.csv", columns)
    with user_error(kind, path, fact):
        landmark_tables.read_trajectory(path, fps)


def test_rows_out_of_order_are_sorted_or_refused(tmp_path, points):
    order = np.random.default_rng(0).permutation(60)
    columns = {name: [values[i] for i in order] for name, values in files.openface(points).items()}
    expected = landmark_tables.read_trajectory(files.write(tmp_path / "sorted.csv", files.openface(points)))
    found = landmark_tables.read_trajectory(files.write(tmp_path / "a.csv", columns))
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1] == expected[1]
    del columns["frame"]
    with user_error("bad_data", "b.csv", "sort"):
        landmark_tables.read_trajectory(files.write(tmp_path / "b.csv", columns), 30.0)


def test_rows_of_zeros_have_no_face(tmp_path, points):
    gone = np.where(np.isin(np.arange(60), [20, 21])[:, None, None], 0, points)
    read = landmark_tables.read(files.write(tmp_path / "a.csv", files.openface(gone)))
    assert np.flatnonzero(~read.found).tolist() == [20, 21]


@pytest.mark.parametrize("cell", ["", "-nan(ind)", "nan", "NaN", "-nan"])
def test_a_point_that_is_not_a_number_is_a_gap(table, points, cell):
    read = landmark_tables.read(table(x_3=[cell, *points[1:, 3, 0]]))
    assert np.flatnonzero(~read.found).tolist() == [0]


def test_other_files_are_refused(tmp_path, points):
    with user_error("missing_file", tmp_path / "a.csv"):
        landmark_tables.read(tmp_path / "a.csv")
    for text, kind, fact in (
        ("", "bad_columns", "x_0"),
        ("a,b\n1,2\n", "bad_columns", "x_0"),
        (",".join(files.points_of(points)) + "\n", "bad_data", "rows"),
        (",".join(files.points_of(points)) + "\n1,2\n", "bad_data", "row 2:"),
        ("sep=,\n\n" + ",".join(files.points_of(points)) + "\n\n1,2\n", "bad_data", "row 5:"),
    ):
        (tmp_path / "a.csv").write_text(text)
        with user_error(kind, tmp_path / "a.csv", fact):
            landmark_tables.read(tmp_path / "a.csv")


# Beside a video.


@pytest.fixture
def video(tmp_path):
    picture = np.random.default_rng(0).integers(0, 200, (36, 48, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    return write_video(tmp_path / "anna.mp4", (picture + np.uint8(i % 5) for i in range(60)), fps=30.0)


def test_the_table_beside_a_video_gives_its_landmarks(video, table, points, tmp_path, capsys):
    table(success=without([1] * 60, 20, 21))
    arguments = ["preprocess", str(video), "--landmarks", "table", "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 0, capsys.readouterr().err
    clip = clip_folder.read_clip(tmp_path / "out" / "anna")
    assert (clip.layout, len(clip.landmarks)) == ("points63", 60)
    made = preprocess_video(video, open_landmark_source("table", SourceOptions(tracks=tmp_path / "anna.csv")))
    assert np.flatnonzero(made.interpolated).tolist() == [20, 21]
    there = np.setdiff1d(np.arange(60), [20, 21])
    expected = made.crop.map(landmarks.from_ibug68(points))
    np.testing.assert_allclose(clip.landmarks[there], expected[there], atol=0.01)


def test_a_video_without_a_table_is_refused(video, tmp_path, capsys):
    assert cli.main(["preprocess", str(video), "--landmarks", "table", "--out", str(tmp_path / "out")]) == 1
    assert str(tmp_path / "anna.csv") in capsys.readouterr().err


# Data sets.


def write_clips(folder, people=3, fps=""):
    """Tables of some people and their list."""
    rows = [["path", "subject", "expression", "score", "fps"]]
    for person in range(people):
        files.write(folder / f"{person}.csv", files.openface(files.drawn68(person, 30)))
        rows.append([f"{person}.csv", f"s{person}", "smile", person, fps])
    with (folder / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def opened(reader, root, problems=None):
    return reader.open(root, reader.Options(), Wanted(False, False), problems or Problems())


def test_a_folder_of_tables_is_a_data_set(tmp_path):
    write_clips(tmp_path)
    source = opened(tables, tmp_path).source
    assert [(info.id, info.subject, info.score, info.num_frames) for info in source.infos] == [
        (f"{i}.csv", f"s{i}", float(i), 30) for i in range(3)
    ]
    clip = source[1]
    np.testing.assert_array_equal(clip.landmarks, landmark_tables.read_trajectory(tmp_path / "1.csv")[0])
    assert clip.info == source.infos[1]
    assert clip.frames is None
    clip.landmarks[:] = 0  # a copy
    assert source[1].landmarks.any()


def test_the_recipe_for_few_people_takes_tables(tmp_path):
    write_clips(tmp_path)
    config = folder.get_config("few").unlock()
    config.data.update(name="tables", root=str(tmp_path))
    assert len(datasets.open_dataset(config).source) == 3
    assert not validation.check(config).errors


def test_the_list_can_give_the_rate(tmp_path):
    write_clips(tmp_path, fps="15")
    clip = opened(tables, tmp_path).source[0]
    assert (clip.fps, clip.info.num_frames) == (15.0, 15)


def test_doubts_about_a_table_are_warnings_of_the_data_set(tmp_path):
    write_clips(tmp_path)
    columns = files.pyfeat(files.drawn68(1, 60))
    every_second = {name: list(values)[::2] for name, values in columns.items()} | {"frame": range(0, 60, 2)}
    files.write(tmp_path / "1.csv", every_second)
    text = (tmp_path / "clips.csv").read_text()
    (tmp_path / "clips.csv").write_text(text.replace("1.csv,s1,smile,1,", "1.csv,s1,smile,1,30"))
    problems = Problems()
    assert len(opened(tables, tmp_path, problems).source) == 3
    (problem,) = problems.found
    assert (problem.kind, problem.severity, problem.clip) == ("doubtful_landmarks", WARNING, "1.csv")
    assert all(fact in problem.message for fact in ("row 3", "29 of 59"))


def test_a_broken_table_is_named_with_its_row(tmp_path):
    write_clips(tmp_path)
    (tmp_path / "1.csv").write_text("a,b\n")
    with user_error("bad_columns", tmp_path / "1.csv", "row 3"):
        opened(tables, tmp_path)
    problems = Problems(collect=True)
    assert [info.id for info in opened(tables, tmp_path, problems).source.infos] == ["0.csv", "2.csv"]
    assert [(problem.kind, problem.clip) for problem in problems.found] == [("bad_columns", "1.csv")]


def test_tables_have_nothing_but_landmarks(tmp_path):
    for reader in (tables, ravdess):
        with user_error("bad_option", reader.__name__.rpartition(".")[2]):
            reader.open(tmp_path, reader.Options(), Wanted(landmarks=False), Problems())


def test_ravdess_has_actors_emotions_and_intensities(tmp_path):
    written = files.write_ravdess(tmp_path / "FacialTracking_Actors_01-24", emotions=("neutral", "happy", "surprised"))
    dataset = opened(ravdess, tmp_path)
    found = {info.id: (info.subject, info.expression, info.score) for info in dataset.source.infos}
    assert found == written
    assert list(found) == sorted(written)
    assert {dict(info.targets)["emotion"] for info in dataset.source.infos} == {0.0, 2.0, 7.0}
    clip = dataset.source[0]
    assert clip.fps == pytest.approx(30, rel=0.01)
    assert clip.landmarks.shape == (20, 64, 2)


def test_ravdess_refuses_what_is_not_a_recording(tmp_path):
    with user_error("missing_file", tmp_path / "none", ravdess.ADDRESS):
        opened(ravdess, tmp_path / "none")
    with user_error("no_clips", tmp_path, ravdess.ADDRESS):
        opened(ravdess, tmp_path)
    (tmp_path / "01-01-09-01-01-01-01.csv").write_text("")
    with user_error("bad_id", "01-01-09-01-01-01-01.csv"):
        opened(ravdess, tmp_path)


def test_ravdess_splits_actors(tmp_path):
    files.write_ravdess(tmp_path, actors=range(1, 6), emotions=("happy",), count=8)
    config = recipe.get_config().unlock()
    config.data.root = str(tmp_path)
    dataset = datasets.open_dataset(config)
    parts = datasets.split(dataset, config, None)
    people = [{info.subject for info in part.infos} for part in parts.values()]
    assert sum(map(len, people)) == len(set.union(*people)) == 5
    assert not validation.check(config).errors


@pytest.mark.slow
def test_a_table_can_be_scored_without_video(tmp_path):
    files.write_ravdess(tmp_path, actors=range(1, 9), emotions=("happy",), count=20)
    config = recipe.get_config().unlock()
    config.data.root = str(tmp_path)
    config.model.members = 1
    config.train.update(epochs=1, evaluate_every=1)
    config.evaluation.update(bootstrap=10, baselines=False)
    experiment.train(config.lock(), tmp_path / "run")
    columns = files.openface(files.drawn68(8, 20)) | {"success": without([1] * 20, 7, 8)}
    scored = Scorer(tmp_path / "run").score(files.write(tmp_path / "new.csv", columns))
    assert 1 <= scored.score <= 2
    assert (scored.interpolated, scored.missing_ratio) == ((7, 8), 0.1)
    assert any("2 of 20 frames" in warning for warning in scored.warnings)
    assert scored.landmark_source == "table"
    assert ravdess.FACTS.caveat in scored.warnings
