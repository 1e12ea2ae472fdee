"""What a report of a data set finds: every planted fault by name, and nothing in sound data."""

import dataclasses
import json
import pathlib
import re
import shutil

import numpy as np
import pytest

from tests import faults, published_layouts, tiny, youtubepd_layout
from tests.faults import FAULTS
from tests.raises import user_error
from tramp_jax import cli, config, experiment, run
from tramp_jax.data import (
    clip_checks,
    clip_files,
    clips,
    datasets,
    images,
    landmark_checks,
    landmarks,
    packing,
    validation,
)
from tramp_jax.data.clips import ClipInfo
from tramp_jax.data.problems import Problems
from tramp_jax.data.source import Dataset, FileSource, Wanted
from tramp_jax.errors import UserError
from tramp_jax.synthetic.faces import SyntheticFaces

DOCUMENT = pathlib.Path(__file__).parents[1] / "docs" / "data.md"


def _config(name: str, root: pathlib.Path):
    made = config.base()
    made.data.update(datasets.options(name), root=str(root))
    return made


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """A sound layout of every data set, by name; not to be changed."""
    root = tmp_path_factory.mktemp("layouts")
    published_layouts.write_pfed5(root / "pfed5", 3, 1)
    youtubepd_layout.write_layout(root / "youtubepd", train={"video1": 4, "video2": 0, "video3": 1})
    youtubepd_layout.write_list(root / "youtubepd", "test", {"video9": 4})
    youtubepd_layout.write_video(root / "youtubepd", "video9", 4, seed=9)
    published_layouts.write_folder(root / "folder")
    published_layouts.write_dfew(root / "dfew")
    published_layouts.write_neuroface(root / "neuroface", cropped=True, lengths=(5, 6))
    clip = sum(path.stat().st_size for path in (root / "pfed5" / "P00").rglob("*.jpg"))
    packing.pack(_config("pfed5", root / "pfed5"), Wanted(), root / "packed", 2 * clip)  # two shards of two
    return root


@pytest.fixture
def broken(layouts, tmp_path):
    """Copies a layout, and breaks the copy by some faults: ``broken("pfed5", fault, ...) -> folder``."""

    def copy(name: str, *made: faults.Fault) -> pathlib.Path:
        shutil.copytree(layouts / name, tmp_path / name)
        for fault in made:
            fault.make(tmp_path / name)
        return tmp_path / name

    return copy


def _check(name: str, root: pathlib.Path) -> validation.Report:
    return validation.check(_config("pfed5" if name == "packed" else name, root), Wanted())


def _named(report: validation.Report, fault: faults.Fault) -> bool:
    return any(
        problem.kind == fault.kind and all(fact in problem.message for fact in fault.facts)
        for problem in report.problems
    )


@pytest.mark.parametrize("name", ["pfed5", "youtubepd", "folder", "dfew", "packed"])
def test_sound_data_have_no_errors(layouts, name):
    report = _check(name, layouts / name)
    assert not report.errors
    assert not report.bad
    assert len(report.dataset.source) > 1
    assert not any(_named(report, fault) for fault in FAULTS if fault.dataset == name)


def test_sound_files_of_neuroface_have_no_errors(layouts):
    report = _check("neuroface", layouts / "neuroface")
    assert {problem.kind for problem in report.errors} <= {"empty_part"}  # one person cannot fill three folds
    assert not report.bad


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.dataset}: {fault.what}")
def test_every_fault_is_named(broken, fault):
    report = _check(fault.dataset, broken(fault.dataset, fault))
    assert _named(report, fault), report.lines()
    severity = {problem.severity for problem in report.problems if problem.kind == fault.kind}
    assert severity == {fault.severity}


def test_the_documentation_lists_every_kind_of_fault():
    text = DOCUMENT.read_text()
    assert not [fault.kind for fault in FAULTS if f"`{fault.kind}`" not in text]


def test_one_run_lists_many_faults_and_keeps_the_sound_clips(broken, tmp_path, capsys):
    chosen = [fault for fault in FAULTS if fault.dataset == "pfed5"]
    by_name = {fault.what: fault for fault in chosen}
    planted = [
        by_name[what]
        for what in (
            "a truncated image",
            "landmarks that are NaN",
            "the file of colours is missing",
            "a score out of range",
            "a clip listed twice",
        )
    ]
    root = broken("pfed5", *planted)
    arguments = ["--dataset", "pfed5", "--root", str(root), "--json", str(tmp_path / "found.json")]
    assert cli.main(["validate", *arguments]) == 1
    out = capsys.readouterr().out
    for fault in planted:
        (line,) = (line for line in out.splitlines() if line.startswith(f"error: [{fault.kind}]"))
        assert all(fact in line for fact in fault.facts), fault.what
    assert re.search(r"^ +1  truncated_image$", out, re.MULTILINE)
    assert "5 errors" in out
    assert "2 of 3 clips are usable" in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["counts"] | {fault.kind: 1 for fault in planted} == found["counts"]
    assert found["bad_clips"] == [faults.CLIP]


def test_warnings_are_not_a_failure(layouts, capsys):
    assert cli.main(["validate", "--dataset", "pfed5", "--root", str(layouts / "pfed5")]) == 0
    assert "warning: [missing_class]" in capsys.readouterr().out
    assert cli.main(["validate", "--root", str(layouts / "packed")]) == 0


def _neuroface(folder: pathlib.Path) -> list[str]:
    """Arguments for a sound layout with people of every fold."""
    published_layouts.write_neuroface(folder, ("N002", "A008", "A010"), cropped=True)
    return ["validate", "--dataset", "neuroface", "--root", str(folder)]


def test_the_chosen_rating_is_checked(tmp_path, capsys):
    arguments = _neuroface(tmp_path)
    assert cli.main([*arguments, "--target", "speed", "--classes", "6"]) == 0
    table = tmp_path / "ratings.csv"
    header, *rows = [line.split(",") for line in table.read_text().splitlines()]
    speed = header.index("speed")
    for row, value in zip(rows, ("", "", "4", "4"), strict=False):  # of two repetitions, by two raters
        row[speed] = value
    table.write_text("\n".join(",".join(row) for row in [header, *rows]))
    assert cli.main(arguments) == 0
    capsys.readouterr()
    assert cli.main([*arguments, "--target", "speed", "--classes", "4"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"error: \[missing_target\] .*neuroface_split.csv, row 2 .*: has no rating 'speed'", out)
    assert re.search(r"error: \[class_out_of_range\] .*row 3 .*: the speed gives class 4, but .* 0 to 3", out)


@pytest.mark.parametrize(
    ("more", "fact"),
    [
        (["--target", "sped"], "'sped'; this data set has: ROM, fatigue, speed"),
        (["--set", "target=speed"], "tramp-jax validate --target speed"),
        (["--classes", "-1"], "-1"),
    ],
)
def test_mistaken_ratings_are_refused(layouts, capsys, more, fact):
    with pytest.raises(SystemExit):
        cli.main(["validate", "--dataset", "neuroface", "--root", str(layouts / "neuroface"), *more])
    assert fact in capsys.readouterr().err


def test_a_packed_data_set_is_verified_with_a_rating_too(broken, tmp_path, capsys):
    root = broken("packed", next(fault for fault in FAULTS if fault.kind == "missing_shard"))
    assert cli.main(["validate", "--root", str(root), "--classes", "5"]) == 1
    assert "error: [missing_shard]" in capsys.readouterr().out


def test_folds_have_their_published_numbers(layouts):
    lines = "\n".join(_check("neuroface", layouts / "neuroface").lines())
    assert "the test part of fold 2 of 3 has no clip" in lines
    assert "fold 1 of 3 tests subject 'A009'" in lines
    assert "fold 0" not in lines


@pytest.mark.parametrize(
    ("names", "gaps"),
    [
        (("img_00001.jpg", "img_00002.jpg", "img_00003.jpg"), ""),
        (("img_00001.jpg", "img_00002.jpg", "img_00004.jpg", "img_00008.jpg", "img_00009.jpg"), "3, 5-7"),
        (("5.jpg", "6.jpg", "7.jpg"), ""),
        (("10.jpg", "9.jpg", "7.jpg", "6.jpg"), "8"),
        (("2.jpg", "4.jpg", "6.jpg", "10.jpg"), ""),  # every second frame of a video
        (("0.033.jpg", "0.067.jpg", "0.100.jpg"), ""),  # times
        (("a1.jpg", "b2.jpg", "a4.jpg"), ""),
        (("left.jpg", "right.jpg"), ""),
        (("7.jpg",), ""),
        (("1.jpg", "2.jpg", f"{10**30}.jpg"), f"3-{10**30 - 1}"),
        (tuple(f"{i}.jpg" for i in range(30) if i % 4), "4, 8, 12, 16, 20, ..."),
    ],
)
def test_gaps_in_frame_numbers_are_named(names, gaps):
    assert clip_files.numbering_gaps([pathlib.Path(name) for name in names]) == gaps


@pytest.mark.parametrize(
    ("error", "kind"), [(OSError(5, "the disk is gone"), "unreadable_clip"), (UserError("bad_data", "x"), "bad_data")]
)
def test_the_report_goes_on_after_a_clip_that_cannot_be_read(layouts, monkeypatch, error, kind):
    monkeypatch.setattr(clip_files, "read_clip", _raising(error))
    report = _check("pfed5", layouts / "pfed5")
    assert report.bad == {0, 1, 2, 3}
    assert [problem.kind for problem in report.errors] == [kind] * 4
    assert "train_41.csv, row 2" in report.errors[0].message


def test_a_bug_in_a_reader_is_not_reported_as_a_problem_of_the_data(layouts, monkeypatch):
    monkeypatch.setattr(clip_files, "read_clip", _raising(ValueError("shapes (3,) and (4,) do not match")))
    with pytest.raises(ValueError, match="do not match"):
        _check("pfed5", layouts / "pfed5")


def _raising(error):
    def fail(*arguments):
        raise error

    return fail


# The data set as a whole


def _listed(*people: str, **rest) -> Dataset:
    """Clips of these subjects, without files."""
    infos = [ClipInfo(f"clip{i}", name, "smile", i % 2, 5) for i, name in enumerate(people)]
    return Dataset(FileSource(infos, lambda info, problems: None), **rest)


@pytest.mark.parametrize(
    ("dataset", "found"),
    [
        (_listed("a", "a", "b", "b", official={"train": frozenset("a"), "test": frozenset("b")}), set()),
        (
            _listed("a", "a", "b", "b", official={"train": frozenset("ab"), "test": frozenset("b")}),
            {"subject_in_both_lists"},
        ),
        (_listed("a", "a", "b", "b", folds=(frozenset("a"), frozenset("b"))), set()),
        (
            _listed("a", "a", "b", "b", folds=(frozenset("a"), frozenset("ab"))),
            {"subject_in_two_folds", "empty_part"},
        ),
        (
            _listed("a", "a", "b", "b", "S7", "S7", folds=(frozenset("a"), frozenset(["b", "S7 "]))),
            {"unknown_subject", "untested_subject"},
        ),
        (_listed(), {"no_clips"}),
    ],
)
def test_parts_are_checked(dataset, found):
    assert {problem.kind for problem in validation._set_problems(dataset)} == found


@pytest.mark.parametrize(
    ("change", "kind", "fact"),
    [
        ({"subject": "S007 "}, "blank_in_name", "'S007 '"),
        ({"subject": "Anna Smith"}, "blank_in_name", "Anna_Smith"),
        ({"id": ""}, "blank_in_name", "id"),
        ({"score": float("nan")}, "bad_score", "nan"),
        ({"num_frames": 0}, "bad_frame_count", "0"),
    ],
)
def test_infos_are_checked(change, kind, fact):
    info = ClipInfo("clip", "a", "smile", 1.0, 5)
    assert not validation._info_problems(info)
    (problem,) = validation._info_problems(dataclasses.replace(info, **change))
    assert problem.kind == kind
    assert fact in problem.message


@pytest.fixture(scope="module")
def clip():
    made = SyntheticFaces(1, 1)[0]
    info = dataclasses.replace(made.info, num_frames=3)
    return clips.Clip(info, made.landmarks[:3], made.layout, made.pixels[:3], made.frames[:3])


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda clip: {"landmarks": clip.landmarks[:, :9]}, "wrong_shape"),
        (lambda clip: {"landmarks": clip.landmarks[:2]}, "wrong_number_of_landmarks"),
        (lambda clip: {"landmarks": np.where(clip.landmarks > 150, np.inf, clip.landmarks)}, "landmarks_not_finite"),
        (lambda clip: {"landmarks": clip.landmarks / 1000}, "landmarks_out_of_crop"),
        (lambda clip: {"landmarks": clip.landmarks + 150}, "landmarks_out_of_crop"),
        (lambda clip: {"landmarks": clip.landmarks * [[[1.0]], [[0.0]], [[1.0]]]}, "undetected_face"),
        (lambda clip: {"landmarks": clip.landmarks - 300 * np.eye(106)[7][:, None]}, "stray_landmark"),
        (lambda clip: {"pixels": clip.pixels[:, :9]}, "wrong_shape"),
        (lambda clip: {"frames": clip.frames[:2]}, "missing_frames"),
        (lambda clip: {"frames": clip.frames * 2}, "extra_frames"),
        (lambda clip: {"frames": (*clip.frames[:2], clip.frames[2][:-99])}, "truncated_image"),
    ],
)
def test_a_clip_of_any_source_is_checked(clip, change, kind):
    assert not list(clip_checks.clip_problems(clip))
    (problem,) = clip_checks.clip_problems(dataclasses.replace(clip, **change(clip)))
    assert problem.kind == kind


def test_landmarks_of_synthetic_faces_are_not_doubted():
    source = SyntheticFaces(4, 1, with_frames=False)
    for points in (source[index].landmarks for index in range(len(source))):
        for chosen in (points, points[:, 33:], landmarks.select(points, "insightface106")):
            assert not list(landmark_checks.faults(chosen))
            assert landmark_checks.doubt(chosen) == ""
            assert landmark_checks.doubt(chosen * (112 / 256))
            assert landmark_checks.doubt(chosen + 90)


def test_landmarks_of_a_frame_of_unknown_size_are_compared_with_each_other(clip):
    points = clip.landmarks + 1500
    assert not list(landmark_checks.faults(points, None))
    points[1, 8] = 0
    ((kind, what),) = landmark_checks.faults(points, None)
    assert kind == "stray_landmark"
    assert "in frame 2: point 8 at (0, 0)" in what


def test_every_cut_of_an_image_is_seen(clip):
    """OpenCV decodes most of them without a word."""
    for image in (clip.frames[0], _png(clip.frames[0])):
        assert images.fault(image, 256) is None
        for cut in np.linspace(0, len(image) - 1, 40).astype(int):
            assert images.fault(image[:cut]) is not None, cut
        with user_error("wrong_image_size", "256×256", "128×128"):
            images.decode_whole(image, 128)


def _png(image: bytes) -> bytes:
    import cv2

    return cv2.imencode(".png", clips.decode_frame(image))[1].tobytes()


# Training without the bad clips


def test_training_skips_bad_clips_and_says_so(broken, tmp_path):
    root = broken("pfed5", next(fault for fault in FAULTS if fault.what == "landmarks that are NaN"))
    skipping = _config("pfed5", root)
    skipping.train.reader_threads = 1
    dataset, report = validation.open_sound(skipping)
    assert report is None
    assert len(dataset.source) == 4
    skipping.data.skip_bad = True
    dataset, report = validation.open_sound(skipping)
    assert [info.subject for info in dataset.source.infos] == ["P01", "P02", "P03"]
    assert "3 of 4 clips are usable" in report.summary()
    assert "1 landmarks_not_finite" in report.summary()

    written = tmp_path / run.SKIPPED
    written.write_text(report.to_json())
    shutil.copytree(root / "P01", root / "P00", dirs_exist_ok=True)
    dataset, again = validation.open_sound(skipping, written)  # nothing is checked again
    assert again is None
    assert [info.subject for info in dataset.source.infos] == ["P01", "P02", "P03"]


def test_training_stops_where_a_part_would_be_empty(broken):
    root = broken("pfed5", next(fault for fault in FAULTS if fault.what == "a list is missing"))
    skipping = _config("pfed5", root)
    skipping.data.skip_bad = True
    with user_error("bad_data", "missing_list", "official test part"):
        validation.open_sound(skipping)


def test_collected_problems_do_not_stop_a_reader(broken):
    """The table's faults of lists are all reported, too."""
    chosen = [
        fault
        for fault in FAULTS
        if fault.what in ("a score above 10", "no label", "a malformed line", "a frame of zero bytes")
    ]
    root = broken("youtubepd", *chosen)
    problems = Problems(collect=True)
    datasets.open_dataset(_config("youtubepd", root), Wanted(), problems)
    assert [problem.kind for problem in problems.found] == ["bad_score", "bad_id", "missing_label"]


def test_a_run_records_what_it_skipped(broken, tmp_path, capsys):
    root = broken("pfed5", next(fault for fault in FAULTS if fault.what == "a truncated image"))
    skipping = tiny.get_config().unlock()
    skipping.data.update(datasets.options("pfed5"), root=str(root), expression="smile", skip_bad=True)
    skipping.train.batch_size = 2
    skipping.loss.name = "mse"  # a single training clip is left
    folds = experiment.open_folds(skipping)
    experiment.announce(skipping, folds, tmp_path)
    assert {info.subject for part in folds.splits[None].values() for info in part.infos} == {"P01", "P02", "P03"}
    assert json.loads((tmp_path / "skipped.json").read_text())["bad_clips"] == [faults.CLIP]
    assert "3 of 4 clips are usable; errors: 1 truncated_image" in capsys.readouterr().out

    for path in root.rglob("*.jpg"):  # a run that is continued checks nothing again, and keeps its clips
        path.unlink()
    again = experiment.open_folds(skipping, tmp_path)
    assert again.report is None
    assert again.splits[None]["train"].infos == folds.splits[None]["train"].infos


def test_a_run_says_what_the_reader_skipped(tmp_path, capsys):
    published_layouts.write_dfew(tmp_path / "dfew", num_train=6, num_test=2, undetected=("missing", "nan"))
    left = tiny.get_config().unlock()
    left.data.update(datasets.options("dfew"), root=str(tmp_path / "dfew"), expression="", validation_fraction=0.3)
    left.train.batch_size = 2
    experiment.announce(left, experiment.open_folds(left), tmp_path)
    assert "2 clips skipped (2 undetected_face)" in capsys.readouterr().out
