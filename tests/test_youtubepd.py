import builtins
import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from tests import youtubepd_layout as layout
from tramp_jax.data import landmarks
from tramp_jax.data.clips import ClipSource
from tramp_jax.data.problems import DataError, Problems
from tramp_jax.data.readers.youtubepd import YouTubePD, _PlainUnpickler, read_frame
from tramp_jax.errors import UserError


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
    source: ClipSource = YouTubePD(root)
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


def test_points_stand_in_the_order_of_the_layout(root):
    published = pickle.loads((root / "Landmarks/video27/2.pickle").read_bytes())
    read = YouTubePD(root)[0].landmarks[1]
    for i, name in enumerate(landmarks.FACEPP_106):
        assert tuple(read[i]) == (published[name]["x"], published[name]["y"])


def test_order_of_names_in_the_file_does_not_matter(frame):
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
    read = YouTubePD(tmp_path)[0].landmarks
    np.testing.assert_array_equal(read[1], read_frame(folder / "2.pickle"))
    np.testing.assert_array_equal(read[10], read_frame(folder / "11.pickle"))


def test_missing_frames_are_left_out_and_counted(tmp_path):
    layout.write_list(tmp_path, "train", {"video1": 2})
    folder = layout.write_video(tmp_path, "video1", 2, numbers=[3, 4, 6, 7, 8, 9, 10, 11, 12, 13])
    source = YouTubePD(tmp_path)
    assert source.missing == {"video1": 1}
    assert source[0].landmarks.shape[0] == source.infos[0].num_frames == 10
    np.testing.assert_array_equal(source[0].landmarks[2], read_frame(folder / "6.pickle"))


def test_too_many_missing_frames_are_refused(tmp_path):
    layout.write_list(tmp_path, "train", {"video1": 2})
    layout.write_video(tmp_path, "video1", 2, numbers=[1, 2, 5, 6])
    with pytest.raises(ValueError, match=r"video1: 2 of the 6 frames .* more than the 10%"):
        YouTubePD(tmp_path)
    assert len(YouTubePD(tmp_path, max_missing=0.5)) == 1


def test_a_clip_does_not_share_memory_with_the_next_reading(root):
    source = YouTubePD(root)
    first = source[0].landmarks.copy()
    source[0].landmarks[:] = 0
    np.testing.assert_array_equal(source[0].landmarks, first)


def test_indices_count_from_the_end_and_stop(root):
    source = YouTubePD(root)
    assert source[-1].info == source.infos[1]
    with pytest.raises(IndexError):
        source[2]


def test_official_split(tmp_path):
    layout.write_layout(tmp_path, train={"video1": 3, "video2": 0}, test={"video9": 10})
    source = YouTubePD(tmp_path)
    assert source.split == {"video1": "train", "video2": "train", "video9": "test"}
    assert source.official_split() == {"train": {"video1", "video2"}, "test": {"video9"}}
    assert source.infos[2].score == 10


def test_official_split_needs_the_test_list(root):
    with pytest.raises(ValueError, match=r"test\.csv.*cross-validate"):
        YouTubePD(root).official_split()


def test_video_in_both_lists_is_refused(tmp_path):
    layout.write_layout(tmp_path, train={"video1": 3})
    layout.write_list(tmp_path, "test", {"video1": 3})
    with pytest.raises(ValueError, match=r"test\.csv, line 1: video1 is also in .*train\.csv"):
        YouTubePD(tmp_path)


def test_absent_parts_are_named_with_the_cure(root):
    def refused(match: str) -> None:
        with pytest.raises(DataError, match=match):
            YouTubePD(root)

    with pytest.raises(UserError, match=r"nowhere: .*git clone https://.*--config\.data\.root"):
        YouTubePD(root / "nowhere")
    (root / "Landmarks/video3/multi_label.txt").unlink()
    refused(r"video3/multi_label\.txt.*restore")
    (root / "Landmarks/video27").rename(root / "elsewhere")
    refused(r"Landmarks/video27: no such folder.*train\.csv")
    (root / "Data_Extraction/train.csv").unlink()
    refused(r"train\.csv: the official training list is missing.*github")


def test_a_collector_gets_every_fault_and_the_videos_without(tmp_path):
    root = layout.write_layout(tmp_path, train={"video1": 4, "video2": 0, "video3": 1, "video4": 2})
    (root / "Landmarks/video1/multi_label.txt").write_text("7")
    (root / "Landmarks/video2").rename(root / "elsewhere")
    (root / "Landmarks/video3/3.pickle").write_bytes(b"")
    with (root / "Data_Extraction/train.csv").open("a") as file:
        file.write("video9_final.mp4 eleven\n")
    problems = Problems(collect=True)
    source = YouTubePD(root, problems=problems)
    assert [problem.kind for problem in problems.found] == ["bad_score", "contradicting_label", "missing_frames"]
    assert [info.id for info in source.infos] == ["video3", "video4"]
    (problem,) = source.problems(0)
    assert (problem.kind, problem.clip) == ("empty_file", "video3")
    assert "video3/3.pickle" in problem.message
    assert not list(source.problems(1))


def test_video_without_frames_is_refused(root):
    for path in (root / "Landmarks/video3").glob("*.pickle"):
        path.rename(path.with_suffix(".png"))
    with pytest.raises(ValueError, match=r"video3: no frames"):
        YouTubePD(root)


@pytest.mark.parametrize("label", ["5", "", "four"])
def test_label_that_disagrees_with_the_list_is_refused(root, label):
    (root / "Landmarks/video27/multi_label.txt").write_text(label)
    with pytest.raises(ValueError, match=r"video27/multi_label\.txt says .*train\.csv, line 1 says 4"):
        YouTubePD(root)


@pytest.mark.parametrize(
    "line",
    [
        "video5_final.mp4",
        "video5_final.mp4 x",
        "video5_final.mp4 11",
        "video5_final.mp4 -1",
        "video5_final.mp4 3 4",
        "video5_final.mp4,3",
        "video5.mp4 3",
        "../video5 3",
        "video27_final.mp4 4",
    ],
)
def test_malformed_line_is_refused_with_its_number(root, line):
    path = root / "Data_Extraction/train.csv"
    path.write_text(path.read_text() + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"train\.csv, line 4: "):
        YouTubePD(root)


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
    with pytest.raises(ValueError, match=r"7\.pickle: refused.*plain dicts, strings and ints.*restore it from https"):
        read_frame(frame(raw))
    assert not marker.exists()
    pickle.loads(raw)  # the attack itself works
    assert marker.exists()


def test_the_unpickler_alone_refuses_names_and_foreign_objects():
    for raw, reason in ((b"cos\nsystem\n.", r"asks for os\.system"), (b"\x80\x02K\x01Q.", "outside the file")):
        with pytest.raises(pickle.UnpicklingError, match=reason):
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
    with pytest.raises(ValueError, match=r"7\.pickle: refused"):
        read_frame(frame(raw))


def test_oversized_file_is_refused_unread(frame):
    with pytest.raises(ValueError, match=r"7\.pickle: too large .*100000 bytes"):
        read_frame(frame(bytes(100_000)))


@pytest.mark.parametrize("content", [3, "a text"])
def test_file_without_landmarks_is_refused(frame, content):
    with pytest.raises(ValueError, match=r"7\.pickle: holds a (int|str), not a dict"):
        read_frame(frame(content))


def test_missing_and_unknown_landmarks_are_named(frame):
    points = a_frame()
    points["third_eye"] = points.pop("nose_tip")
    with pytest.raises(ValueError, match=r"7\.pickle: missing landmarks \['nose_tip'\], unknown .*'third_eye'"):
        read_frame(frame(points))
    with pytest.raises(ValueError, match=r"7\.pickle: missing landmarks \[\], unknown landmarks \['third_eye'\]"):
        read_frame(frame(a_frame() | {"third_eye": {"x": 1, "y": 2}}))


@pytest.mark.parametrize("point", [{"x": "1", "y": 2}, {"x": 1}, {"x": 1, "y": 2, "z": 3}, {"x": 1, "y": 99999}, 7])
def test_odd_coordinates_are_refused(frame, point):
    with pytest.raises(ValueError, match=r"7\.pickle: landmark nose_tip is .*integer x and y"):
        read_frame(frame(a_frame() | {"nose_tip": point}))


def test_a_small_file_cannot_fill_the_error_message(frame):
    bomb: object = {}
    for _ in range(40):  # 2**40 entries when written out
        bomb = {"x": bomb, "y": bomb}
    with pytest.raises(ValueError, match="landmark nose_tip is") as error:
        read_frame(frame(a_frame() | {"nose_tip": bomb}))
    assert len(str(error.value)) < 2000


def test_real_training_list(tmp_path_factory):
    source = YouTubePD(layout.real_root(tmp_path_factory))
    train = [info for info in source.infos if source.split[info.id] == "train"]
    assert len(train) == 72
    assert sum(info.score > 0 for info in train) == 36
    assert sum(info.num_frames for info in train) == 6697
    assert not any(source.missing[info.id] for info in train)
    for index in range(0, 72, 12):
        points = source[index].landmarks
        assert points.shape == (train[index].num_frames, 106, 2)
        assert points.min() >= 0
        assert points.max() < 256
