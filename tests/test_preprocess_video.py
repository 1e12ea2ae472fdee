import os
import struct
import wave
import zlib

import cv2
import numpy as np
import pytest

from tests.preprocess_inputs import grey, real_video, write_images, write_video
from tramp_jax.preprocess import rate
from tramp_jax.preprocess.video import VideoError, open_frames


def read(path, **options):
    return list(open_frames(path, **options))


def fail(path, **options):
    """The message of the error that reading ends with; it names the file."""
    with pytest.raises(VideoError) as caught:
        read(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


def rotate_flag(path):
    """Sets the rotation of the only track of an MP4 to a quarter turn clockwise."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    turned = [0, 1 << 16, 0, -(1 << 16), 0, 0, 64 << 16, 0, 1 << 30]
    data[matrix : matrix + 36] = struct.pack(">9i", *turned)
    path.write_bytes(data)


def test_frames_times_and_rate_of_a_video(tmp_path):
    path = write_video(tmp_path / "a.mp4", grey(12), fps=30)
    frames = open_frames(path)
    assert frames.rate == pytest.approx(30)
    seconds, images = zip(*frames, strict=True)
    np.testing.assert_allclose(seconds, np.arange(12) / 30, atol=1e-3)
    brightness = [image.mean() for image in images]
    np.testing.assert_allclose(np.array(brightness) - brightness[0], 5 * np.arange(12), atol=2)
    assert len(list(frames)) == 12  # a second reading gives the same


def test_colours_are_rgb(tmp_path):
    red = [np.full((64, 96, 3), (200, 30, 30), np.uint8)] * 3
    for path in (write_video(tmp_path / "a.mp4", red), write_images(tmp_path / "frames", red)):
        np.testing.assert_allclose(read(path)[0][1].mean(axis=(0, 1)), (200, 30, 30), atol=6)


def test_the_rotation_flag_is_honoured(tmp_path):
    half = np.zeros((64, 96, 3), np.uint8)
    half[:, :48] = 255  # bright on the left: after a quarter turn clockwise, above
    path = write_video(tmp_path / "a.mp4", [half] * 3)
    rotate_flag(path)
    image = read(path)[0][1]
    assert image.shape == (96, 64, 3)
    assert image[:40].mean() > 240
    assert image[-40:].mean() < 15


def test_odd_sizes_and_names_of_any_script(tmp_path):
    folder = write_images(tmp_path / "مريم улыбка 笑 %03d", grey(11, (97, 63)))
    images = [image for _, image in read(folder)]
    assert {image.shape for image in images} == {(63, 97, 3)}
    np.testing.assert_array_equal([image[0, 0, 0] for image in images], 40 + 5 * np.arange(11))  # 10.png after 9.png
    video = write_video(tmp_path / "Анна smile %02d.mp4", grey(3))
    assert len(read(video)) == 3


def test_images_with_alpha_16_bits_or_grey_become_rgb(tmp_path):
    kinds = {
        "alpha": np.dstack([np.full((8, 9, 3), (10, 20, 200), np.uint8), np.full((8, 9), 77, np.uint8)]),
        "deep": np.full((8, 9, 3), (10 << 8, 20 << 8, 200 << 8), np.uint16),
        "grey": np.full((8, 9), 90, np.uint8),
    }
    expected = {"alpha": (200, 20, 10), "deep": (200, 20, 10), "grey": (90, 90, 90)}
    for name, image in kinds.items():
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "1.png"), image)
        ((_, frame),) = read(tmp_path / name)
        assert frame.dtype == np.uint8
        np.testing.assert_allclose(frame[0, 0], expected[name], atol=1)


def test_a_still_image_is_one_frame(tmp_path):
    folder = write_images(tmp_path / "frames", grey(1))
    assert len(read(folder / "1.png")) == 1


def broken(tmp_path):
    """Name -> (path, words that the message has)."""
    cases = {}
    whole = write_video(tmp_path / "whole.mp4", grey(40)).read_bytes()
    cases["missing"] = (tmp_path / "none.mp4", "no such file")
    cases["empty"] = (tmp_path / "empty.mp4", "empty")
    (tmp_path / "empty.mp4").touch()
    cases["without its index"] = (tmp_path / "cut.mp4", "index (moov) is missing")
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    movie = write_video(tmp_path / "short.avi", grey(40))
    cases["cut off"] = (movie, "promises 40 frames")
    movie.write_bytes(movie.read_bytes()[: movie.stat().st_size // 2])
    cases["sound file"] = (tmp_path / "speech.wav", "sound")
    with wave.open(str(tmp_path / "speech.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(1600))
    cases["mp4 of sound"] = (tmp_path / "speech.mp4", "sound but no video")
    handler = struct.pack(">I4s8s4s", 20, b"hdlr", bytes(8), b"soun")
    box = struct.pack(">I4s", 8 + len(handler), b"moov") + handler
    (tmp_path / "speech.mp4").write_bytes(struct.pack(">I4s8s", 16, b"ftyp", b"isom" + bytes(4)) + box)
    cases["no video at all"] = (tmp_path / "notes.mp4", "not a video")
    (tmp_path / "notes.mp4").write_bytes(b"a text" * 500)
    cases["folder without images"] = (tmp_path / "documents", "no images")
    (tmp_path / "documents").mkdir()
    cases["damaged image"] = (tmp_path / "bad", "not a readable image")
    write_images(tmp_path / "bad", grey(3))
    (tmp_path / "bad" / "2.png").write_bytes(b"\x89PNG broken")
    cases["empty image"] = (tmp_path / "hollow", "not a readable image")
    write_images(tmp_path / "hollow", grey(3))
    (tmp_path / "hollow" / "2.png").write_bytes(b"")
    cases["a header of 60000×60000"] = (tmp_path / "bomb.png", "not a readable image")
    header = struct.pack(">4sIIBBBBB", b"IHDR", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    cases["mixed sizes"] = (tmp_path / "mixed", "one size")
    write_images(tmp_path / "mixed", [*grey(2), *grey(1, (50, 40))])
    return cases


def test_broken_inputs_are_named(tmp_path, capfd):
    cases = broken(tmp_path)
    assert len(cases) == 12
    for name, (path, words) in cases.items():
        message = fail(path)
        assert words in message, f"{name}: {message}"
        assert ";" in message or ":" in message.removeprefix(str(path)), f"{name} tells no cure: {message}"
    assert capfd.readouterr().err == ""  # OpenCV and FFmpeg keep quiet


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_without_permission_is_named(tmp_path):
    path = write_video(tmp_path / "a.mp4", grey(3))
    path.chmod(0)
    assert "permission" in fail(path).lower()


def test_a_video_of_the_index_first_kind_that_is_cut_off(tmp_path):
    whole = real_video("WolfgangLanger_Pexels.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: len(whole) // 2])
    assert "promises 472 frames" in fail(path)


@pytest.mark.parametrize("share", [0.99, 0.92])
def test_a_video_that_lacks_a_little_is_warned_of(tmp_path, share):
    whole = real_video("WolfgangLanger_Pexels.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: int(len(whole) * share)])
    frames = open_frames(path)
    count = sum(1 for _ in frames)
    assert frames.warnings[0].startswith(f"the file promises 472 frames, but only {count} can be read")


def test_a_short_copy_of_another_container_is_warned_of(tmp_path):
    path = write_video(tmp_path / "a.avi", 3 * grey(40))
    frames = open_frames(path)
    assert len(list(frames)) == 120
    assert not frames.warnings
    path.write_bytes(path.read_bytes()[: int(0.93 * path.stat().st_size)])
    count = len(list(frames))
    assert 108 <= count < 120
    assert f"promises 120 frames, but only {count}" in frames.warnings[0]


@pytest.mark.parametrize("name", ["single_face.mp4", "WolfgangLanger_Pexels.mp4", "face_noface.mov", "no_face.mp4"])
def test_whole_videos_are_not_warned_of(name):
    """One of them promises 98 frames and holds 95."""
    frames = open_frames(real_video(name))
    assert sum(1 for _ in frames)
    assert not frames.warnings


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        ("1 2 3 4 6 7 11", "5, 8-10"),
        ("f_008 f_009 f_011", "10"),
        ("take2_0001 take2_0002 take2_0004", "3"),
        ("10 20 40 50", ""),
        ("1 2 3 4", ""),
        ("2 4 6 8", ""),
        ("1001 1034 1070 1099", ""),
        ("a b d", ""),
        ("a1 b2 c4 d5", ""),
        ("1 9", ""),
    ],
)
def test_missing_numbers_of_images_are_warned_of(tmp_path, names, missing):
    folder = write_images(tmp_path / "frames", grey(len(names.split())))
    for number, name in reversed(list(enumerate(names.split(), 1))):
        (folder / f"{number}.png").rename(folder / f"_{name}.tmp")
    for file in list(folder.iterdir()):
        file.rename(folder / f"{file.stem[1:]}.png")
    warnings = open_frames(folder).warnings
    assert len(warnings) == bool(missing)
    if missing:
        assert f"missing {missing};" in warnings[0]


def test_the_rate_of_images_must_be_positive(tmp_path):
    folder = write_images(tmp_path / "frames", grey(2))
    assert "--images-fps" in fail(folder, images_fps=0.0)
    assert [seconds for seconds, _ in read(folder, images_fps=50)] == [0, 0.02]


# A constant rate


def test_a_constant_rate_is_left_alone():
    jitter = np.random.default_rng(0).uniform(-5e-4, 5e-4, 100)  # a container's clock
    timing = rate.constant(np.arange(100) / 29.97 + jitter, 29.97)
    np.testing.assert_array_equal(timing.chosen, np.arange(100))
    assert timing.fps == pytest.approx(29.97, rel=2e-2)
    assert not timing.warnings


def test_a_variable_rate_becomes_constant_by_the_nearest_time():
    seconds = np.concatenate([np.arange(0, 1, 1 / 25), 1 + np.arange(0, 1, 1 / 12.5), 2 + np.arange(0, 1, 1 / 25)])
    timing = rate.constant(seconds, 20.8)
    assert timing.fps == 25
    wanted = np.arange(len(timing.chosen)) / 25
    distance = np.abs(seconds[:, None] - wanted).min(axis=0)
    np.testing.assert_allclose(np.abs(seconds[timing.chosen] - wanted), distance, atol=1e-9)
    assert "variable frame rate" in timing.warnings[0]


def test_another_rate_takes_the_nearest_frames():
    timing = rate.constant(np.arange(61) / 60, 60, target=25)
    assert timing.fps == 25
    assert len(timing.chosen) == 26  # one second, both ends included
    np.testing.assert_array_equal(timing.chosen[:6], [0, 2, 5, 7, 10, 12])
    doubled = rate.constant(np.arange(10) / 25, 25, target=50)
    assert len(doubled.chosen) == 19
    assert "9 repeated" in doubled.warnings[0]


def test_times_that_make_no_sense_give_way_to_the_nominal_rate():
    timing = rate.constant(np.zeros(10), 24)
    assert timing.fps == 24
    assert "make no sense" in timing.warnings[0]
    with pytest.raises(ValueError, match="neither times nor a frame rate"):
        rate.constant(np.zeros(10), 0)
    with pytest.raises(ValueError, match="--fps must be above 0"):
        rate.constant(np.arange(3) / 25, 25, target=0)


def test_a_real_video_of_variable_rate():
    frames = open_frames(real_video("face_noface.mov"))
    seconds = np.array([seconds for seconds, _ in frames])
    timing = rate.constant(seconds, frames.rate)
    assert timing.fps == pytest.approx(24, abs=0.01)
    assert len(timing.chosen) == 153  # 6.36 s; 30 frames a second at first, 24 later
    assert "variable frame rate" in timing.warnings[0]
