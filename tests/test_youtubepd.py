"""The reader of YouTubePD, on files in its published layout, and on the real training data if it is available."""

import builtins
import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from configs import youtubepd as recipe
from tests import youtubepd_layout as layout
from tests.raises import user_error
from tramp_jax.data import datasets, landmarks
from tramp_jax.data.problems import Problems
from tramp_jax.data.readers import youtubepd
from tramp_jax.data.readers.youtubepd import ADDRESS, _PlainUnpickler, read_frame
from tramp_jax.data.source import Dataset, Wanted


def opened(root: Path | str, problems: Problems | None = None) -> Dataset:
    return youtubepd.open(root, youtubepd.Options(), Wanted(), problems or Problems())


@pytest.fixture
def root(tmp_path):
    return layout.write_layout(tmp_path, train={"video27": 4, "video3": 0})


@pytest.fixture
def frame(tmp_path):
    """Writes one frame file and returns its path."""

    def write(content: object) -> Path:
        path = tmp_path / "7.pickle"
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=4))
        return path

    return write


def a_frame() -> dict:
    return layout.random_frame(np.random.default_rng(0))


def test_reads_the_published_layout(root):
    source = opened(root).source
    assert [(i.id, i.subject, i.score, i.num_frames) for i in source.infos] == [
        ("video27", "video27", 4.0, 5),
        ("video3", "video3", 0.0, 5),
    ]
    clip = source[1]
    assert clip.info == source.infos[1]
    assert clip.landmarks.shape == (5, 106, 2)
    assert clip.landmarks.dtype == np.float32
    assert clip.frames is None
    assert clip.pixels is None
    assert landmarks.select(clip.landmarks, clip.layout).shape == (5, 63, 2)
    assert len(source) == 2


def test_points_are_in_the_order_of_the_layout(root):
    published = pickle.loads((root / "Landmarks/video27/2.pickle").read_bytes())
    read = opened(root).source[0].landmarks[1]
    for i, name in enumerate(landmarks.FACEPP_106):
        assert tuple(read[i]) == (published[name]["x"], published[name]["y"])


def test_the_order_of_names_in_the_file_does_not_matter(frame):
    points = a_frame()
    expected = read_frame(frame(points))
    np.testing.assert_array_equal(read_frame(frame(dict(reversed(points.items())))), expected)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_binary_protocol_is_read(frame, protocol):
    points = a_frame() | {"nose_tip": {"x": -3, "y": 300}}  # one negative, one above a byte
    read = read_frame(frame(pickle.dumps(points, protocol)))
    np.testing.assert_array_equal(read[landmarks.FACEPP_106.index("nose_tip")], [-3, 300])


def test_frames_are_sorted_by_number(tmp_path):
    layout.write_list(tmp_path, "train", {"video1": 2})
    folder = layout.write_video(tmp_path, "video1", 2, numbers=range(1, 12))
    read = opened(tmp_path).source[0].landmarks
    np.testing.assert_array_equal(read[1], read_frame(folder / "2.pickle"))
    np.testing.assert_array_equal(read[10], read_frame(folder / "11.pickle"))


def test_missing_frames_are_skipped(tmp_path):
    layout.write_list(tmp_path, "train", {"video1": 2})
    folder = layout.write_video(tmp_path, "video1", 2, numbers=[3, 4, 6, 7, 8, 9, 10, 11, 12, 13])  # 5 is missing
    source = opened(tmp_path).source
    assert source[0].landmarks.shape[0] == source.infos[0].num_frames == 10
    np.testing.assert_array_equal(source[0].landmarks[2], read_frame(folder / "6.pickle"))


@pytest.mark.parametrize(("numbers", "missing"), [([1, 2, 5, 6], "2 of the 6"), ([1, *range(3, 10)], "1 of the 9")])
def test_too_many_missing_frames_are_refused(tmp_path, numbers, missing):
    layout.write_list(tmp_path, "train", {"video1": 2})
    folder = layout.write_video(tmp_path, "video1", 2, numbers=numbers)
    with user_error("missing_frames", folder, missing, "10%"):
        opened(tmp_path)


def test_up_to_a_tenth_of_the_frames_may_be_missing(tmp_path):
    layout.write_list(tmp_path, "train", {"video1": 2})
    layout.write_video(tmp_path, "video1", 2, numbers=[1, *range(3, 11)])
    assert opened(tmp_path).source.infos[0].num_frames == 9


def test_a_clip_does_not_share_memory_with_the_next_reading(root):
    source = opened(root).source
    first = source[0].landmarks.copy()
    source[0].landmarks[:] = 0
    np.testing.assert_array_equal(source[0].landmarks, first)


def test_official_split(tmp_path):
    layout.write_layout(tmp_path, train={"video1": 3, "video2": 0}, test={"video9": 10})
    dataset = opened(tmp_path)
    assert dataset.official == {"train": {"video1", "video2"}, "test": {"video9"}}
    assert [(info.id, info.score) for info in dataset.source.infos] == [("video1", 3), ("video2", 0), ("video9", 10)]


def test_there_is_no_official_split_without_a_test_list(root):
    assert opened(root).official is None
    layout.write_list(root, "test", {})
    assert opened(root).official is None


def test_the_official_protocol_needs_the_test_list(root):
    config = recipe.get_config()
    config.data.root = str(root)
    config.data.protocol = "official"
    with user_error("bad_option", "data.protocol", "official", "youtubepd"):
        datasets.runs(datasets.open_dataset(config), config)


def test_frames_cannot_be_read_without_landmarks(root):
    with user_error("bad_option", "youtubepd"):
        youtubepd.open(root, youtubepd.Options(), Wanted(landmarks=False), Problems())


def test_absent_parts_are_named_with_the_cure(root):
    with user_error("missing_file", root / "nowhere", f"git clone {ADDRESS}", "--config.data.root"):
        opened(root / "nowhere")
    path = root / "Data_Extraction/train.csv"
    path.unlink()
    with user_error("missing_list", path, ADDRESS):
        opened(root)


def test_a_collector_gets_every_fault_and_the_videos_without(tmp_path):
    root = layout.write_layout(tmp_path, train={"video1": 4, "video2": 0, "video3": 1, "video4": 2})
    (root / "Landmarks/video1/multi_label.txt").write_text("7")
    (root / "Landmarks/video2").rename(root / "elsewhere")
    for frame, content in (("3", b""), ("5", b"not a pickle")):
        (root / f"Landmarks/video3/{frame}.pickle").write_bytes(content)
    with (root / "Data_Extraction/train.csv").open("a") as file:
        file.write("video9_final.mp4 eleven\n")
    problems = Problems(collect=True)
    source = opened(root, problems).source
    assert [problem.kind for problem in problems.found] == ["bad_score", "contradicting_label", "missing_frames"]
    assert [info.id for info in source.infos] == ["video3", "video4"]
    found, clip = source.check(0)
    assert [(problem.kind, problem.clip) for problem in found] == [
        ("empty_file", "video3"),
        ("unreadable_pickle", "video3"),
    ]
    assert [str(root / f"Landmarks/video3/{frame}.pickle") in x.message for frame, x in zip("35", found, strict=True)]
    assert clip is None
    assert source.check(1)[0] == []


def test_video_without_frames_is_refused(root):
    folder = root / "Landmarks/video3"
    for path in folder.glob("*.pickle"):
        path.rename(path.with_suffix(".png"))
    with user_error("missing_frames", folder, "no frames"):
        opened(root)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("video5_final.mp4", "bad_score"),
        ("video5_final.mp4 x", "bad_score"),
        ("video5_final.mp4 11", "bad_score"),
        ("video5_final.mp4 -1", "bad_score"),
        ("video5_final.mp4 3 4", "bad_score"),
        ("video5_final.mp4,3", "bad_id"),
        ("video5.mp4 3", "bad_id"),
        ("../video5 3", "bad_id"),
        ("video27_final.mp4 4", "duplicate_clip"),
    ],
)
def test_malformed_line_is_refused_with_its_number(root, line, kind):
    path = root / "Data_Extraction/train.csv"
    path.write_text(path.read_text() + "\n" + line + "\n")
    with user_error(kind, f"{path}, line 4", "video27" if kind == "duplicate_clip" else repr(line)):
        opened(root)


class Call:
    """Pickles into a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(where: str, marker: Path) -> object:
    call = Call(builtins.eval, f"__import__('pathlib').Path({str(marker)!r}).touch()")
    if where == "system":
        return Call(os.system, f"touch {marker}")
    if where == "eval":
        return call
    if where == "coordinate":
        return a_frame() | {"nose_tip": {"x": call, "y": 1}}
    return a_frame() | {"nose_tip": {"x": 1, "y": 1, "z": Call(Call, call)}}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("where", ["system", "eval", "coordinate", "nested"])
def test_hostile_pickle_is_refused_and_nothing_runs(frame, tmp_path, where, protocol):
    marker = tmp_path / "ran"
    raw = pickle.dumps(hostile(where, marker), protocol)
    with user_error("unreadable_pickle", tmp_path / "7.pickle", "refused", "dicts, strings and ints", ADDRESS):
        read_frame(frame(raw))
    assert not marker.exists()
    pickle.loads(raw)  # the attack itself works
    assert marker.exists()


def test_the_unpickler_itself_refuses_names_and_outside_objects():
    for raw in (b"cos\nsystem\n.", b"\x80\x02K\x01Q."):
        with pytest.raises(pickle.UnpicklingError):
            _PlainUnpickler(io.BytesIO(raw)).load()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not a pickle",
        b"\x80\x04}.trailing",
        b"\x80\x04}}K\x01s.",  # a dict as a key
        b"\x80\x04s.",  # nothing on the stack
        b"\x80\x04}r" + struct.pack("<I", 2**31 - 1) + b".",  # a memo of 16 GB
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",  # a byte array of a terabyte
        pickle.dumps({"a": {"x": 1.0, "y": 2}}, 4),
        pickle.dumps([1, 2], 4),
        pickle.dumps({"a": {"x": True, "y": 2}}, 4),
        pickle.dumps({"a": {"x": 2**80, "y": 2}}, 4),
    ],
)
def test_damaged_or_foreign_pickle_is_refused(frame, raw):
    path = frame(raw)
    with user_error("unreadable_pickle" if raw else "empty_file", path, "refused"):
        read_frame(path)


def test_oversized_file_is_refused_unread(frame, monkeypatch):
    path = frame(bytes(100_000))
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    with user_error("oversized_file", path, "100000 bytes"):
        read_frame(path)


@pytest.mark.parametrize("content", [3, "a text"])
def test_file_without_landmarks_is_refused(frame, content):
    path = frame(content)
    with user_error("unreadable_pickle", path, f"holds a {type(content).__name__}"):
        read_frame(path)


def test_missing_and_unknown_landmarks_are_named(frame):
    points = a_frame()
    points["third_eye"] = points.pop("nose_tip")
    path = frame(points)
    with user_error("missing_landmarks", path, "missing landmarks ['nose_tip']", "unknown landmarks ['third_eye']"):
        read_frame(path)
    path = frame(a_frame() | {"third_eye": {"x": 1, "y": 2}})
    with user_error("missing_landmarks", path, "missing landmarks []", "unknown landmarks ['third_eye']"):
        read_frame(path)


@pytest.mark.parametrize("point", [{"x": "1", "y": 2}, {"x": 1}, {"x": 1, "y": 2, "z": 3}, {"x": 1, "y": 99999}, 7])
def test_odd_coordinates_are_refused(frame, point):
    path = frame(a_frame() | {"nose_tip": point})
    with user_error("landmarks_out_of_crop", path, f"nose_tip is {point}", "integer x and y"):
        read_frame(path)


def test_a_small_file_cannot_fill_the_error_message(frame):
    bomb: object = {}
    for _ in range(40):  # 2**40 entries when written out
        bomb = {"x": bomb, "y": bomb}
    with user_error("landmarks_out_of_crop", "nose_tip") as error:
        read_frame(frame(a_frame() | {"nose_tip": bomb}))
    assert len(str(error.value)) < 2000


def test_real_training_list(tmp_path_factory):
    root = layout.real_root(tmp_path_factory)
    source = opened(root).source
    listed = youtubepd.read_list(root / "Data_Extraction/train.csv", Problems())
    train = [info for info in source.infos if info.id in listed]
    assert len(train) == 72
    assert sum(info.score > 0 for info in train) == 36
    assert sum(info.num_frames for info in train) == 6697
    for info in train:  # no frames are missing
        numbers = [int(path.stem) for path in (root / "Landmarks" / info.id).glob("*.pickle")]
        assert max(numbers) - min(numbers) + 1 == info.num_frames
    for index in range(0, 72, 12):
        points = source[index].landmarks
        assert points.shape == (train[index].num_frames, 106, 2)
        assert points.min() >= 0
        assert points.max() < 256
