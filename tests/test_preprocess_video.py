import contextlib
import os
import re
import socket
import struct
import wave
import zlib

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from tests.preprocess_inputs import VIDEOS, damage, encode, grey, real_video, square, woven, write_images, write_video
from tests.raises import user_error
from tramp_jax.data import h264, rate
from tramp_jax.errors import UserError, as_user_error
from tramp_jax.preprocess import PreprocessOptions
from tramp_jax.preprocess.video import open_frames

CASES = VIDEOS.with_name("cases")


def read(path, **options):
    return list(open_frames(path, **options))


def case(folder, name):
    """A file that the program once read wrongly; skips the test if it is missing."""
    path = CASES / folder / name
    if not path.is_file():
        pytest.skip(f"no cases at {CASES}")
    return path


def test_frames_times_and_rate_of_a_video(tmp_path):
    path = write_video(tmp_path / "a.mp4", grey(12), fps=30)
    frames = open_frames(path)
    assert frames.rate == pytest.approx(30)
    seconds, images = zip(*frames, strict=True)
    np.testing.assert_allclose(seconds, np.arange(12) / 30, atol=1e-3)
    brightness = [image.mean() for image in images]
    np.testing.assert_allclose(np.array(brightness) - brightness[0], 5 * np.arange(12), atol=2)
    assert len(list(frames)) == 12  # the same when read again


def test_colours_are_rgb(tmp_path):
    red = [np.full((64, 96, 3), (200, 30 + 4 * t, 30), np.uint8) for t in range(3)]
    for path in (write_video(tmp_path / "a.mp4", red), write_images(tmp_path / "frames", red)):
        np.testing.assert_allclose(read(path)[0][1].mean(axis=(0, 1)), (200, 30, 30), atol=6)


def test_odd_sizes_and_names_in_any_script(tmp_path):
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


@pytest.mark.parametrize("bits", [12, 14, 16])
def test_fewer_bits_in_files_of_sixteen_give_a_warning(tmp_path, bits):
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((8, 9, 3), 2**bits - number, np.uint16))
    frames = open_frames(tmp_path)
    for _ in range(2):
        assert len(list(frames)) == 2
        assert [f"{2 ** (bits - 8) - 1} of 255" in found for found in frames.warnings] == [True] * (bits < 16)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.uint32, np.int32])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_other_numbers_are_named(tmp_path, kind, channels):
    if not cv2.imwrite(str(tmp_path / "1.tif"), np.full((8, 9, channels), 0.5).astype(kind)):
        pytest.skip("OpenCV writes no such image")
    with user_error("unreadable_image", tmp_path / "1.tif", "8 or 16") as caught:
        read(tmp_path / "1.tif")
    assert "object" not in str(caught.value)


def test_a_still_image_is_one_frame(tmp_path):
    folder = write_images(tmp_path / "frames", grey(1))
    assert len(read(folder / "1.png")) == 1


def broken(tmp_path):
    """Maps names to (path, kind of the error, a fact of its message)."""
    cases = {}
    whole = write_video(tmp_path / "whole.mp4", grey(40)).read_bytes()
    cases["missing"] = (tmp_path / "none.mp4", "missing_file", "")
    cases["empty"] = (tmp_path / "empty.mp4", "empty_file", "0 bytes")
    (tmp_path / "empty.mp4").touch()
    cases["without its index"] = (tmp_path / "cut.mp4", "unreadable_video", "moov")
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    movie = write_video(tmp_path / "short.avi", grey(40))
    cases["a segment"] = (tmp_path / "a.m4s", "unreadable_video", "segment")
    stream = encode(tmp_path / "stream.mp4", grey(8), container={"movflags": "frag_keyframe+empty_moov"}).read_bytes()
    cases["a segment"][0].write_bytes(stream[stream.index(b"moof") - 4 :])
    cases["cut off"] = (movie, "damaged_video", "40 frames")
    movie.write_bytes(movie.read_bytes()[: movie.stat().st_size // 2])
    cases["sound file"] = (tmp_path / "speech.wav", "unreadable_video", "sound")
    with wave.open(str(tmp_path / "speech.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(1600))
    cases["mp4 of sound"] = (tmp_path / "speech.mp4", "unreadable_video", "sound")
    handler = struct.pack(">I4s8s4s", 20, b"hdlr", bytes(8), b"soun")
    box = struct.pack(">I4s", 8 + len(handler), b"moov") + handler
    (tmp_path / "speech.mp4").write_bytes(struct.pack(">I4s8s", 16, b"ftyp", b"isom" + bytes(4)) + box)
    cases["no video at all"] = (tmp_path / "notes.mp4", "unreadable_video", "")
    (tmp_path / "notes.mp4").write_bytes(b"a text" * 500)
    cases["folder without images"] = (tmp_path / "documents", "missing_frames", ".png")
    (tmp_path / "documents").mkdir()
    cases["damaged image"] = (tmp_path / "bad", "unreadable_image", "2.png")
    write_images(tmp_path / "bad", grey(3))
    (tmp_path / "bad" / "2.png").write_bytes(b"\x89PNG broken")
    cases["empty image"] = (tmp_path / "hollow", "unreadable_image", "2.png")
    write_images(tmp_path / "hollow", grey(3))
    (tmp_path / "hollow" / "2.png").write_bytes(b"")
    cases["a header of 60000×60000"] = (tmp_path / "bomb.png", "oversized_file", "60000×60000")
    header = struct.pack(">4sIIBBBBB", b"IHDR", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    cases["mixed sizes"] = (tmp_path / "mixed", "wrong_image_size", "50×40")
    write_images(tmp_path / "mixed", [*grey(2), *grey(1, (50, 40))])
    return cases


def write_sound(path, codec):
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=48000)
        stream.layout = "mono"
        planar = stream.codec_context.format.name
        for number in range(20):
            kind = np.float32 if planar == "fltp" else np.int16
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), kind), format=planar, layout="mono")
            frame.sample_rate, frame.pts = 48000, number * 960
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def test_broken_inputs_are_named(tmp_path, capfd):
    cases = broken(tmp_path)
    for name, codec in (("a.webm", "libopus"), ("a.mkv", "aac"), ("a.ts", "aac"), ("a.avi", "pcm_s16le")):
        cases[name] = (write_sound(tmp_path / "sounds" / name, codec), "unreadable_video", "no video")
    assert len(cases) == 17
    for name, (path, kind, fact) in cases.items():
        with user_error(kind, path, fact) as caught:
            read(path)
        message = str(caught.value)
        assert ";" in message or ":" in message.removeprefix(str(path)), f"{name} has no advice: {message}"
    assert capfd.readouterr().err == ""  # OpenCV and FFmpeg print nothing


def test_an_image_that_does_not_fit_into_memory_is_named(tmp_path, monkeypatch):
    def decode(*_):
        raise MemoryError

    monkeypatch.setattr(cv2, "imdecode", decode)
    with user_error("unreadable_image", tmp_path / "frames", "MemoryError"):
        read(write_images(tmp_path / "frames", grey(1)))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_without_permission_is_named(tmp_path):
    path = write_video(tmp_path / "a.mp4", grey(3))
    path.chmod(0)
    with pytest.raises(PermissionError) as caught:
        read(path)
    assert as_user_error(caught.value).kind == "no_permission"


def test_a_cut_off_video_with_its_index_first_is_refused(tmp_path):
    whole = real_video("WolfgangLanger_Pexels.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: len(whole) // 2])
    with user_error("damaged_video", path, "472 frames"):
        read(path)


@pytest.mark.parametrize("share", [0.99, 0.92])
def test_a_video_that_lacks_few_frames_gives_a_warning(tmp_path, share):
    whole = real_video("WolfgangLanger_Pexels.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: int(len(whole) * share)])
    frames = open_frames(path)
    count = sum(1 for _ in frames)
    assert all(fact in frames.warnings[0] for fact in ("472 frames", f"{count} "))


def test_an_avi_that_lacks_few_frames_gives_a_warning(tmp_path):
    path = write_video(tmp_path / "a.avi", 3 * grey(40))
    frames = open_frames(path)
    assert len(list(frames)) == 120
    assert not frames.warnings
    path.write_bytes(path.read_bytes()[: int(0.93 * path.stat().st_size)])
    count = len(list(frames))
    assert 108 <= count < 120
    assert all(fact in frames.warnings[0] for fact in ("120 frames", f"{count} "))


@pytest.mark.parametrize("name", ["single_face.mp4", "WolfgangLanger_Pexels.mp4", "face_noface.mov", "no_face.mp4"])
def test_whole_videos_give_no_warning(name):
    """One of them states 98 frames and has 95."""
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
        ("1 9", ""),
    ],
)
def test_gaps_in_the_numbers_of_images_give_a_warning(tmp_path, names, missing):
    folder = write_images(tmp_path / "frames", grey(len(names.split())))
    for number, name in reversed(list(enumerate(names.split(), 1))):
        (folder / f"{number}.png").rename(folder / f"_{name}.tmp")
    for file in list(folder.iterdir()):
        file.rename(folder / f"{file.stem[1:]}.png")
    warnings = open_frames(folder).warnings
    assert len(warnings) == bool(missing)
    if missing:
        assert f"missing {missing};" in warnings[0]


def named(tmp_path, *names):
    """A folder of images with these names; each is 5 grey levels brighter than the last."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, name in enumerate(names):
        Image.fromarray(np.full((40, 50, 3), 5 * number, np.uint8)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ("1.png", "1.tif", "2.png", "2.tif"),
        ("left_1.png", "left_2.png", "right_1.png", "right_2.png"),
        ("1.png", "01.png"),
        tuple(f"t_{i * 0.04:g}.png" for i in range(12)),  # 0.2 would come before 0.04
        ("IMG_1.png", "img_2.png", "IMG_3.png", "img_4.png"),
        ("l_1.png", "r_2.png", "l_3.png", "r_4.png"),
        ("anna_1.png", "anna_2.png", "bob_3.png", "bob_4.png"),
        ("IMG_9998.png", "IMG_9999.png", "IMG_0001.png", "IMG_0002.png"),
        ("a-2_998.png", "a-2_999.png", "a-2_000.png"),
        ("1.png", "2.png", "cover.png"),
    ],
)
def test_images_whose_order_is_unclear_are_refused(tmp_path, names):
    with user_error("unclear_order", tmp_path):
        read(named(tmp_path, *names))


@pytest.mark.parametrize(
    "names",
    [
        tuple(f"t_{i * 0.04:.2f}.png" for i in range(40)),
        tuple(f"v{i}.bmp" if i % 2 else f"v{i}.png" for i in range(12)),
        tuple(f"minute{i // 4}_{i % 4}.png" for i in range(12)),
        ("anna.png", "ben.png"),
        ("a1.png", "a2.PNG", "a10.png"),
        ("IMG_0998.png", "IMG_0999.png", "IMG_1000.png", "IMG_1001.png"),
        ("101_0997.png", "101_0999.png", "102_0001.png", "102_0002.png"),
    ],
)
def test_images_are_read_in_the_order_of_their_names(tmp_path, names):
    images = [image for _, image in read(named(tmp_path, *names))]
    assert [int(image[0, 0, 0]) for image in images] == [5 * i for i in range(len(names))]


@pytest.mark.parametrize("name", ["2.heic", "2.HEIF"])
def test_photographs_that_cannot_be_read_are_not_left_out(tmp_path, name):
    folder = named(tmp_path, "1.png", "3.png")
    (folder / name).write_bytes(struct.pack(">I4s8s", 16, b"ftyp", b"heic" + bytes(4)) + bytes(500))
    for path in (folder, folder / name):
        with user_error("unreadable_image", folder / name):
            read(path)


def test_pages_of_an_image_are_not_lost(tmp_path):
    first, *others = (Image.fromarray(image) for image in grey(3))
    first.save(tmp_path / "a.tif", save_all=True, append_images=others)
    with user_error("unsupported_image", tmp_path / "a.tif", "pages"):
        read(tmp_path / "a.tif")
    first.save(tmp_path / "b.tif")
    assert len(read(tmp_path / "b.tif")) == 1


@pytest.mark.parametrize("fps", [0.0, -25.0, float("inf"), float("nan")])
def test_the_rate_of_images_must_be_one_of_a_camera(tmp_path, fps):
    folder = write_images(tmp_path / "frames", grey(2))
    with user_error("bad_option", "--images-fps", f"{fps:g}"):
        PreprocessOptions(images_fps=fps)
    assert [seconds for seconds, _ in read(folder, images_fps=50)] == [0, 0.02]


# Interlaced video


def moving(count, size=(320, 240)):
    """A bright square that moves 8 pixels to the right in each frame."""
    return [np.maximum(square(40 + 8 * t % 120, 60, 120, size), 30) for t in range(count)]


INTERLACED = {
    "tff.mp4": {"codec": "libx264", "field": "tff"},
    "bff.mkv": {"codec": "libx264", "field": "bff"},
    "b-frames.avi": {"codec": "libx264", "field": "tff"},
    "camcorder.ts": {"codec": "libx264", "field": "tff"},
    "dvd.mpg": {"codec": "mpeg2video", "field": "tff"},
    "bff.mpg": {"codec": "mpeg2video", "field": "bff"},
    "divx.avi": {"codec": "mpeg4", "field": "tff"},
    "dv.avi": {"codec": "dvvideo", "field": "bff", "size": (720, 576)},
    "dv.mov": {"codec": "dvvideo", "field": "bff", "size": (720, 576)},
    "prores.mov": {"codec": "prores_ks", "field": "tff", "pixels": "yuv422p10le"},
    "ffv1.mkv": {"codec": "ffv1", "field": "tff"},
}


@pytest.mark.parametrize("name", INTERLACED)
def test_an_interlaced_frame_shows_its_first_field(tmp_path, name):
    """If the fields stay woven, moving edges look like a comb: odd rows lag by 8 pixels."""
    options = dict(INTERLACED[name])
    pictures = moving(16, options.pop("size", (320, 240)))
    path = encode(tmp_path / name, woven(pictures, options["field"]), **options)
    images = [image for _, image in read(path)]
    assert len(images) == 8
    for image, expected in zip(images, pictures[::2], strict=True):
        wide = image.shape[1] / expected.shape[1]  # DV has pixels of 16:15
        seen = (image[70:170].min(axis=2) > 120).sum(axis=1) / wide
        np.testing.assert_allclose(seen, 120, atol=4)  # each row is as wide as the square
        left = (image[70:170].min(axis=2) > 120).argmax(axis=1) / wide
        np.testing.assert_allclose(left, (expected[100, :, 0] > 120).argmax(), atol=4)


def test_an_earlier_video_does_not_show_in_an_interlaced_one(tmp_path):
    """The decoder once returned memory of earlier frames as the picture."""
    person = encode(tmp_path / "person.mp4", moving(16, (640, 352)))
    bars = [np.full((352, 640, 3), 60 + t, np.uint8) for t in range(16)]
    for file in (
        encode(tmp_path / "bars.mp4", bars, field="tff"),
        encode(tmp_path / "bars.mpg", bars, "mpeg2video", field="tff"),
    ):
        assert len(read(person)) == 16
        for number, (_, image) in enumerate(read(file)):
            np.testing.assert_allclose(image.astype(int), 60 + number, atol=4)


def test_progressive_frames_are_not_changed(tmp_path):
    fine = [np.tile(np.uint8([[[40]], [[200]]]), (60, 160, 3)) + np.uint8(t) for t in range(6)]  # rows alternate
    path = encode(tmp_path / "a.mkv", fine, "ffv1", pixels="yuv444p")
    np.testing.assert_allclose([image for _, image in read(path)], fine, atol=2)


@pytest.mark.parametrize("field", ["tff", "bff"])
@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.avi", "utvideo"), ("a.mov", "qtrle")])
def test_unmarked_woven_fields_give_a_warning(tmp_path, field, name, codec):
    pixels = {"utvideo": "yuv422p", "qtrle": "rgb24"}.get(codec, "yuv420p")
    for frames, warnings in ((moving(32), 0), (woven(moving(64), field), 1)):
        video = open_frames(encode(tmp_path / name, frames, codec, pixels=pixels))
        assert len(list(video)) == 32
        assert len(video.warnings) == warnings
    assert "interlaced" in video.warnings[0]


def test_unmarked_woven_fields_of_a_real_video_give_a_warning(tmp_path):
    pictures = [image for _, image in open_frames(real_video("single_face.mp4"))]
    video = open_frames(encode(tmp_path / "a.mp4", woven(pictures, "tff")))
    assert len(list(video)) == 36
    assert "interlaced" in video.warnings[0]


def test_interlaced_hevc_is_refused(tmp_path):
    """The decoder returns its fields as frames of half the height."""
    options = {"x265-params": "interlace=tff:log-level=none"}
    path = encode(tmp_path / "a.mp4", woven(moving(16), "tff"), "libx265", options=options)
    with user_error("unsupported_video", path, "interlaced HEVC"):
        read(path)


@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
def test_a_video_of_identical_frames_is_refused(tmp_path, codec):
    path = encode(tmp_path / "a.mkv", [square(40, 60, 120)] * 8, codec)
    with user_error("still_video", path, "8 frames"):
        read(path)


@pytest.mark.parametrize("name", ["bars_no_person.mp4", "bars_no_person.mpg"])
def test_reported_interlaced_bars(name):
    assert read(case("interlaced_wrong_person", "anna.mp4"))
    for _, image in read(case("interlaced_wrong_person", name)):
        np.testing.assert_allclose(image[300:340, 20:90].mean(axis=(0, 1)), (254, 0, 0), atol=6)
        np.testing.assert_allclose(image[300:340, 130:200].mean(axis=(0, 1)), (0, 254, 0), atol=6)


# Pixels that are not square


@pytest.mark.parametrize(
    ("aspect", "coded", "shown"),
    [
        ("4/3", (360, 270), (480, 270)),  # HDV
        ("16/15", (720, 576), (768, 576)),  # DV
        ("64/45", (720, 576), (1024, 576)),
        ("8/9", (720, 480), (720, 540)),
        ("1/2", (320, 120), (320, 240)),
        ("1/1", (320, 240), (320, 240)),
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.ts"])
def test_pixels_become_square(tmp_path, aspect, coded, shown, name):
    """The side that is too short grows, so round things look round."""
    centre = (coded[0] // 2, coded[1] // 2)
    axes = tuple(round(80 * c / s) for c, s in zip(coded, shown, strict=True))
    dark = np.full((coded[1], coded[0], 3), 20, np.uint8)
    round_thing = [cv2.ellipse(dark.copy(), centre, axes, 0, 0, 360, (210 + t,) * 3, -1) for t in range(4)]
    path = encode(tmp_path / name, round_thing, aspect=aspect)
    image = read(path)[0][1]
    assert image.shape == (shown[1], shown[0], 3)
    bright = image.min(axis=2) > 110
    assert bright.any(axis=0).sum() == pytest.approx(160, abs=4)
    assert bright.any(axis=1).sum() == pytest.approx(160, abs=4)


@pytest.mark.parametrize(("name", "codec"), [("a.ts", "libx264"), ("a.mpg", "mpeg2video"), ("a.avi", "dvvideo")])
def test_pixels_whose_shape_changes_are_refused(tmp_path, name, codec):
    """A camcorder's tape with a recording of 4:3 and one of 16:9."""
    pictures = moving(8, (720, 576))
    parts = [encode(tmp_path / f"part-{name}", pictures, codec, aspect=x).read_bytes() for x in ("16/15", "64/45")]
    (tmp_path / name).write_bytes(b"".join(parts))
    with user_error("wrong_image_size", tmp_path / name, "768×576", "1024×576"):
        read(tmp_path / name)


def test_an_absurd_pixel_shape_gives_a_warning(tmp_path):
    path = encode(tmp_path / "a.mp4", grey(4), aspect="1/9")
    frames = open_frames(path)
    assert {image.shape for _, image in frames} == {(64, 96, 3)}
    assert "1/9" in frames.warnings[0]


def test_interlaced_turned_frames_with_non_square_pixels(tmp_path):
    """First fields, then pixels, then the turn: the order in which the camera applied them."""
    pictures = moving(12)
    path = encode(tmp_path / "a.mp4", woven(pictures, "tff"), field="tff", aspect="4/3", matrix=(0, 1, -1, 0))
    for (_, image), expected in zip(read(path), pictures[::2], strict=True):
        wanted = cv2.rotate(cv2.resize(expected, (427, 240)), cv2.ROTATE_90_CLOCKWISE)
        assert image.shape == wanted.shape
        assert np.abs(image.astype(int) - wanted).mean() < 4


# Upright


# (a, b, c, d) of the display matrix, and how a player shows the frame
TURNS = {
    "rotated by 90": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "rotated by 180": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "rotated by 270": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda image: image[::-1]),
    "transposed": ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    "transposed the other way": ((0, -1, -1, 0), lambda image: np.rot90(image, 2).swapaxes(0, 1)),
    "twice as wide": ((2, 0, 0, 1), lambda image: image.repeat(2, 1)),  # how some editors write non-square pixels
    "undefined": ((0, 0, 0, 0), lambda image: image),
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_flags_that_turn_or_mirror_are_honoured(tmp_path, turn, name):
    matrix, expected = TURNS[turn]
    corner = [np.maximum(square(0, 0, 30, (96, 64)), 20 + 4 * t) for t in range(3)]
    frames = open_frames(encode(tmp_path / name, corner, matrix=matrix))
    for (_, image), whole in zip(frames, corner, strict=True):
        assert image.shape == expected(whole).shape
        assert np.abs(image.astype(int) - expected(whole)).mean() < 6
    assert not frames.warnings


def test_a_rotation_between_two_quarter_turns_gives_a_warning(tmp_path):
    frames = open_frames(encode(tmp_path / "a.mp4", grey(4), matrix=(0.94, 0.34, -0.34, 0.94)))
    assert {image.shape for _, image in frames} == {(64, 96, 3)}
    assert "multiple of 90°" in frames.warnings[0]


# Colours


@pytest.mark.parametrize("transfer", [1, 16, 18])
def test_high_dynamic_range_gives_a_warning(tmp_path, transfer):
    options = {"x265-params": f"log-level=none:colorprim=9:transfer={transfer}:colormatrix=9"}
    frames = open_frames(encode(tmp_path / "a.mp4", moving(8), "libx265", pixels="yuv420p10le", options=options))
    assert len(list(frames)) == 8
    assert [("HDR" in warning) for warning in frames.warnings] == [True] * (transfer > 1)


PATCHES = [(200, 30, 30), (30, 180, 40), (40, 60, 210), (128, 128, 128)]


def write_patches(path, weights, mark, *, full=False, bits=8, size=(64, 64)):
    """A video of ``PATCHES`` whose matrix weighs red and blue so, and the file's mark (FFmpeg's AVColorSpace)."""
    (width, height), (red, blue) = size, weights
    rgb = np.repeat(np.array(PATCHES)[None], height, axis=0).repeat(width // 4, axis=1) / 255
    luma = rgb @ (red, 1 - red - blue, blue)
    chroma = (rgb[..., 2] - luma) / (2 - 2 * blue), (rgb[..., 0] - luma) / (2 - 2 * red)
    low, scale, spread = (0, 255, 255) if full else (16, 219, 224)
    planes = np.rint(np.stack([low + scale * luma, *(128 + spread * part for part in chroma)]) * (1 << bits - 8))
    kind = "yuv444p" if bits == 8 else "yuv444p10le"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, kind
        stream.codec_context.colorspace, stream.codec_context.color_range = mark, 2 if full else 1
        for number in range(2):
            planes[0, 0, 0] += 8 * number  # a video of identical frames is refused
            frame = av.VideoFrame(width, height, kind)
            for to, plane in zip(frame.planes, planes.astype(np.uint8 if bits == 8 else np.uint16), strict=True):
                to.update(plane.tobytes())
            frame.colorspace, frame.color_range, frame.pts = mark, 2 if full else 1, number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


BT601, BT709, BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize(("mark", "weights"), [(5, BT601), (1, BT709), (9, BT2020)])
def test_colours_follow_the_matrix_and_range_of_the_file(tmp_path, full, bits, mark, weights):
    image = read(write_patches(tmp_path / "a.mkv", weights, mark, full=full, bits=bits))[0][1]
    np.testing.assert_allclose(image[32, 8::16], PATCHES, atol=2)


@pytest.mark.parametrize(
    ("size", "mark", "weights"),
    [
        ((1280, 720), 2, BT709),
        ((720, 1280), 2, BT709),
        ((1440, 1080), 2, BT709),
        ((720, 576), 2, BT601),
        ((480, 640), 2, BT601),
        ((1280, 720), 5, BT601),
        ((720, 576), 1, BT709),
    ],
)
def test_a_file_without_a_colour_matrix_has_that_of_its_size(tmp_path, size, mark, weights):
    image = read(write_patches(tmp_path / "a.mkv", weights, mark, size=size))[0][1]
    np.testing.assert_allclose(image[32, size[0] // 8 :: size[0] // 4], PATCHES, atol=2)


# Intact files that seem to lack frames


@pytest.mark.parametrize("name", ["trimmed.mp4", "trimmed.mov"])
def test_a_video_trimmed_without_encoding_is_whole(name):
    frames = open_frames(case("trimmed_on_phone", name))
    seconds = [seconds for seconds, _ in frames]
    assert len(seconds) == 45
    np.testing.assert_allclose(seconds, np.arange(45) / 30, atol=1e-6)
    assert not frames.warnings


def trim(path, start, stop):
    """Writes an edit list into an MP4 with one track, as phones do; ``start`` and ``stop`` are in seconds."""
    data = path.read_bytes()
    entry = data.index(b"elst") + 12
    scale = struct.unpack(">I", data[data.index(b"mvhd") + 16 :][:4])[0]
    ticks = struct.unpack(">I", data[data.index(b"mdhd") + 16 :][:4])[0]
    _, before = struct.unpack(">Ii", data[entry : entry + 8])
    edit = struct.pack(">Ii", round((stop - start) * scale), before + round(start * ticks))
    path.write_bytes(data[:entry] + edit + data[entry + 8 :])


@pytest.mark.parametrize(("start", "stop"), [(0.8, 1.6), (0, 0.4), (0.4, 0.8), (1.2, 1.6)])
def test_an_edit_list_hides_frames(tmp_path, start, stop):
    pictures = moving(40)
    path = encode(tmp_path / "a.mp4", pictures, options={"g": "12"})
    trim(path, start, stop)
    frames = open_frames(path)
    images = [image for _, image in frames]
    expected = pictures[round(25 * start) : round(25 * stop)]
    assert len(images) == len(expected)
    for image, whole in zip(images, expected, strict=True):
        assert np.abs(image.astype(int) - whole).mean() < 4
    assert not frames.warnings


@pytest.mark.parametrize(
    ("name", "codec"), [("a.avi", "libx264"), ("b.avi", "mpeg4"), ("a.mkv", "libx264"), ("a.flv", "libx264")]
)
def test_frames_stored_out_of_order_are_complete_and_evenly_spaced(tmp_path, name, codec):
    """B-frames are stored after frames that are shown later. An AVI file does not state when they are shown."""
    frames = open_frames(encode(tmp_path / name, grey(40), codec, options={"bf": "2", "g": "12", "b": "4000000"}))
    seconds, images = zip(*frames, strict=True)
    np.testing.assert_allclose(seconds, np.arange(40) / 25, atol=1.1e-3)
    brightness = [image.mean() for image in images]
    np.testing.assert_allclose(np.array(brightness) - brightness[0], 5 * np.arange(40), atol=3)
    timing = rate.constant(np.array(seconds), frames.rate)
    assert (timing.fps, timing.warnings, frames.warnings) == (25, (), ())


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_a_whole_video_with_a_variable_rate_gives_no_warning(tmp_path, name):
    """A phone in the dark: 30 frames a second, then 5."""
    times = [*range(0, 990, 33), *range(1000, 3000, 200)]
    frames = open_frames(encode(tmp_path / name, grey(40), fps=30, clock=1000, times=times))
    seconds = [seconds for seconds, _ in frames]
    np.testing.assert_allclose(seconds, np.array(times) / 1000, atol=1.1e-3)
    assert not frames.warnings


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.flv", "a.mov"])
def test_a_truncated_file_of_any_container_is_refused(tmp_path, name):
    codec = "libvpx" if name == "a.webm" else "libx264"
    path = encode(tmp_path / name, moving(40), codec, container={"movflags": "faststart"} if name == "a.mov" else None)
    path.write_bytes(path.read_bytes()[: int(0.69 * path.stat().st_size)])
    with user_error("damaged_video", path, "cut off"):
        read(path)


def test_a_file_with_a_damaged_half_is_refused(tmp_path):
    path = tmp_path / "a.mp4"
    whole = real_video("WolfgangLanger_Pexels.mp4").read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    with user_error("damaged_video", path, "472 frames"):
        read(path)


def remuxed(path, name, dropped=(), metadata=()):
    """Copies the packets of a video, except for those with these numbers, into another container."""
    with (
        av.open(str(path)) as read,
        av.open(str(path.with_name(name)), "w", container_options=KEEP_METADATA) as written,
    ):
        written.metadata.update(metadata)
        stream = written.add_stream_from_template(read.streams.video[0])
        for number, packet in enumerate(read.demux(read.streams.video[0])):
            if packet.size and number not in dropped:
                packet.stream = stream
                written.mux(packet)
    return path.with_name(name)


KEEP_METADATA = {"movflags": "use_metadata_tags"}


def textured(count):
    """A square that moves in front of a pattern, which is costly to encode."""
    pattern = np.random.default_rng(0).integers(0, 100, (18, 22, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    return [np.maximum(square(20 + 2 * t, 30, 80, (176, 144)), pattern) for t in range(count)]


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "mpeg4"), ("b.avi", "mpeg4"), ("c.avi", "msmpeg4")])
def test_frames_before_the_first_whole_picture_are_skipped(tmp_path, name, codec):
    """A video cut without encoding may begin within a group of pictures. Some decoders then draw on grey."""
    pictures = textured(60)
    whole = encode(tmp_path / f"whole-{name}", pictures, codec, options={"g": "4", "b": "4000000"})
    frames = open_frames(remuxed(whole, name, dropped=[0]))
    images = [image for _, image in frames]
    assert len(images) == 56
    for image, expected in zip(images, pictures[4:], strict=True):
        assert np.abs(image.astype(int) - expected).mean() < 8
    assert "3 of 59" in frames.warnings[0]


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.avi", "a.mp4"])
def test_frames_that_the_decoder_leaves_out_at_the_start_are_counted(tmp_path, name):
    """FFmpeg returns nothing of H.264 before the first key frame, which would shift times and frame numbers."""
    whole = encode(tmp_path / f"whole-{name}", textured(30), options={"g": "10", "bf": "0"})
    frames = open_frames(remuxed(whole, name, dropped=[0]))
    seconds, images = zip(*frames, strict=True)
    assert len(images) == 20
    np.testing.assert_allclose(seconds, np.arange(20) / 25, atol=2e-3)
    assert ["9 of 29" in found for found in frames.warnings] == [True]
    assert frames.damaged == 9


@pytest.mark.parametrize(
    ("dropped", "shown", "lost"), [([15], 55, "4 damaged frames of 59"), (range(10), 40, "10 of 50"), ([], 60, "")]
)
def test_frames_that_build_on_a_missing_one_are_counted(tmp_path, dropped, shown, lost):
    """FFmpeg leaves them out of HEVC without a word: after a loss, and where a video was cut without encoding."""
    options = {"g": "10", "x265-params": "log-level=none:bframes=3:open-gop=1:keyint=10:min-keyint=10"}
    whole = encode(tmp_path / "whole.mkv", textured(60), "libx265", options=options)
    frames = open_frames(remuxed(whole, "a.mkv", dropped=dropped))
    assert len(list(frames)) == shown
    assert [lost in found for found in frames.warnings] == [True] * bool(lost)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts", "a.avi", "a.flv"])
@pytest.mark.parametrize("frames_between", ["0", "3"])
def test_frames_of_h264_that_are_missing_are_named(tmp_path, name, frames_between):
    """FFmpeg conceals them: the picture is smeared until the next key frame."""
    whole = encode(tmp_path / f"whole-{name}", textured(60), options={"g": "30", "bf": frames_between})
    for dropped, where in (([], ""), (range(9, 14), "one place"), ([*range(9, 14), *range(39, 44)], "2 places")):
        frames = open_frames(remuxed(whole, name, dropped))
        assert len(list(frames)) == 60 - len(dropped)
        assert [f"missing in {where}" in found for found in frames.warnings] == [True] * bool(dropped)


WHOLE_H264 = {
    "b-frames of two levels": "bframes=6:b-pyramid=normal:keyint=30",
    "open groups": "open-gop=1:keyint=12:min-keyint=4:bframes=3",
    "no key frames": "intra-refresh=1:keyint=20",
    "fields": "tff=1:bframes=3:b-pyramid=normal",
    "marked as fields": "fake-interlaced=1",
    "slices": "slices=4:aud=1:repeat-headers=1:sps-id=3",
    "scaling lists": "cqm=jvt:ref=16:bframes=8",
    "one reference": "ref=1:bframes=0:keyint=infinite",
}


@pytest.mark.parametrize("kind", WHOLE_H264)
@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_whole_h264_gives_no_warning(tmp_path, kind, name):
    params = f"log-level=none:{WHOLE_H264[kind]}"
    frames = open_frames(encode(tmp_path / name, textured(60), options={"x264-params": params}))
    assert len(list(frames)) == 60
    assert not frames.warnings


@pytest.mark.parametrize(
    ("seen", "may_jump", "gaps"),
    [
        ([0, 1, 2, 3], 0, 0),
        ([0, 1, 3, 4], 0, 1),
        ([0, 1, 3, 4], 1, 0),  # upper layers of temporal scalability, left out on purpose
        ([13, 14, 15, 0, 1, 2], 0, 0),
        ([13, 14, 15, 1, 2, 7], 0, 2),
        ([0, 1, 1, 2, 2], 0, 0),  # fields
        ([0, 1, -2, -2, 2, -3, 3], 0, 0),  # a minus: no frame builds on it
        ([0, 1, -2, -2, -3, -3, 3, -4], 0, 1),
        ([0, 1, -1, 2, -2, 3], 0, 0),
        ([0, 1, 2, 3, None, 1, 2], 0, 0),  # None: a key frame, even if the container does not mark it
        ([0, 1, 2, 3, None, 2, 3], 0, 1),
    ],
)
def test_a_gap_in_the_frame_numbers_of_h264_is_a_missing_frame(seen, may_jump, gaps):
    def unit(kind, bits):
        return b"\0\0\1" + bytes([kind, *(int(bits[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(bits), 8))])

    sequence = unit(0x67, f"{66:08b}{0:08b}{30:08b}" + "1" + "1" + "011" + "010" + str(may_jump) + "1")
    numbers = h264.FrameNumbers(sequence + unit(0x68, "0101"))
    for number in seen:
        kind = 0x65 if number is None else 0x61 if number >= 0 else 0x01
        numbers.look(unit(kind, f"11010{abs(number or 0):04b}1"), key=False)
    assert numbers.gaps == gaps


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_hevc_parameters_in_packets_of_their_own_are_not_lost_frames(tmp_path, name):
    options = {"g": "4", "x265-params": "log-level=none:bframes=0:keyint=4:min-keyint=4:open-gop=0:repeat-headers=1"}
    whole = encode(tmp_path / "whole.mkv", textured(20), "libx265", options=options)
    count = 0
    with av.open(str(whole)) as read, av.open(str(tmp_path / name), "w") as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            content = bytes(packet)
            at = max(content.find(b"\x26\1"), content.find(b"\x28\1"), 4) - 4  # of a key picture
            for part, time in ((content[:at], packet.pts or 0), (content[at:], (packet.pts or 0) + 1)):
                if part:
                    made = av.Packet(part)
                    made.pts = made.dts = time
                    made.time_base, made.is_keyframe, made.stream = packet.time_base, packet.is_keyframe, stream
                    written.mux(made)
                    count += 1
    assert count == 25
    frames = open_frames(tmp_path / name)
    assert len(list(frames)) == 20
    assert not frames.warnings


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize(("at", "content"), [(-8, b"xxdc"), (-4, bytes(4)), (-4, b"\xff\xff\xff\x7f")])
def test_a_damaged_header_of_a_frame_in_an_avi_does_not_shift_later_frames(tmp_path, codec, at, content):
    path = encode(tmp_path / "a.avi", grey(40), codec, options={"g": "1", "bf": "0"})
    with av.open(str(path)) as container:
        place = list(container.streams.video[0].index_entries)[20].pos + 8 + at
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + content + whole[place + 4 :])
    frames = open_frames(path)
    seen = {round(25 * seconds): (image.mean() - 40) / 5 for seconds, image in frames}
    assert list(seen) == [*range(20), *range(21, 40)]
    np.testing.assert_allclose(list(seen.values()), list(seen), atol=0.6)
    assert ["1 damaged frame of 40" in found for found in frames.warnings] == [True]


def test_a_damaged_header_of_the_first_frame_in_an_avi_loses_no_other(tmp_path):
    """FFmpeg then takes the first frame that it finds for the first of the file's index."""
    path = encode(tmp_path / "a.avi", textured(30), "libx264", options={"g": "1", "bf": "0"})
    with av.open(str(path)) as container:
        place = next(iter(container.streams.video[0].index_entries)).pos
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + b"xxdc" + whole[place + 4 :])
    frames = open_frames(path)
    seconds, _ = zip(*frames, strict=True)
    np.testing.assert_allclose(seconds, np.arange(29) / 25, atol=2e-3)
    assert frames.damaged == 1  # so that NeuroFace does not trust the numbers


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx265"), ("a.webm", "libvpx"), ("a.webm", "libvpx-vp9")])
def test_holes_in_a_file_are_named_where_the_decoder_notices_nothing(tmp_path, name, codec):
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {"cpu-used": "8", "deadline": "realtime"}
    path = encode(tmp_path / name, textured(24), codec, options={**options, "g": "8", "b": "4000000"})
    frames = open_frames(path)
    assert len(list(frames)) == 24
    assert not frames.warnings
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        at, size = max((packet.pos, packet.size) for packet in container.demux(video=0) if packet.size > 300)
    content[at + size // 2 : at + size // 2 + 80] = bytes(80)
    path.write_bytes(content)
    assert len(list(frames)) == 24
    assert ["blocks of zeros: 1 of 24" in found for found in frames.warnings] == [True]


@pytest.mark.parametrize("name", ["a.avi", "a.mov", "a.mkv"])
def test_a_frame_of_motion_jpeg_with_a_hole_is_skipped(tmp_path, name):
    """By default, the decoder draws something in its place."""
    path = encode(tmp_path / name, textured(40), "mjpeg", pixels="yuvj420p", options={"b": "4000000"})
    whole = path.read_bytes()
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]

    def changed(numbers, content, share):
        made = bytearray(whole)
        for at, size in (places[number] for number in numbers):
            at += int(share * size)
            made[at : at + len(content)] = content
        path.write_bytes(made)
        frames = open_frames(path)
        return [round(25 * seconds) for seconds, _ in frames], frames.warnings

    assert changed((), b"", 0) == ([*range(40)], ())
    for damaged in ((8, 20), (0, 20), (0, 1, 2)):
        numbers, warnings = changed(damaged, bytes(80), 0.5)
        first = next(x for x in range(40) if x not in damaged)
        assert numbers == [x - first for x in range(40) if x not in damaged]
        assert sum(int(re.search(r"\d+", found)[0]) for found in warnings) == len(damaged)
    assert changed(range(40), b"\xff\xd9", 0.95) == ([*range(40)], ())  # some cameras leave out the end of all frames


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "mpeg4"), ("a.ts", "mpeg2video")])
def test_damaged_frames_are_skipped_with_a_warning(tmp_path, name, codec):
    """The decoder guesses what is missing of a frame."""
    path = encode(tmp_path / name, textured(40), codec, options={"g": "10", "b": "4000000"})
    content = bytearray(path.read_bytes())
    middle, length = len(content) // 2, len(content) // 60
    content[middle : middle + length] = bytes(length)
    path.write_bytes(content)
    frames = open_frames(path)
    count = len(list(frames))
    assert count < 40
    assert "damaged" in frames.warnings[0]


@pytest.mark.parametrize("options", [{"g": "1"}, {"g": "3"}, {"g": "1", "slicecrc": "0"}])
@pytest.mark.parametrize("name", ["a.mkv", "a.avi"])
def test_a_frame_of_ffv1_with_a_wrong_checksum_is_skipped(tmp_path, name, options):
    """FFmpeg shows a part of the frame before in its place."""
    path = encode(tmp_path / name, textured(40), "ffv1", options={"level": "3", "slices": "4", **options})
    frames = open_frames(path)
    assert len(list(frames)) == 40
    assert not frames.warnings
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    whole = path.read_bytes()
    for number in (7, 0):
        content, (at, size) = bytearray(whole), places[number]
        content[at + size // 2] ^= 1
        path.write_bytes(content)
        lost = {number} if options["g"] == "1" else set(range(number, number // 3 * 3 + 3))
        kept = [x for x in range(40) if "slicecrc" in options or x not in lost]
        assert [round(25 * seconds) for seconds, _ in frames] == [x - kept[0] for x in kept]
        assert frames.damaged == 40 - len(kept)
        assert len(frames.warnings) == (len(kept) < 40)


@pytest.mark.parametrize("codec", ["mjpeg", "mpeg4"])
def test_damage_in_an_avi_does_not_shift_the_times_of_later_frames(tmp_path, codec):
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = encode(tmp_path / "a.avi", grey(40), codec, pixels=pixels, options={"g": "1"})
    frames = list(open_frames(damage(path, [8, 9, 10])))
    seen = {round(25 * seconds): (image.mean() - 40) / 5 for seconds, image in frames}
    assert list(seen) == [*range(8), *range(11, 40)]
    np.testing.assert_allclose(list(seen.values()), list(seen), atol=0.6)


@pytest.mark.parametrize("name", ["a.wmv", "a.ts", "a.gif"])
def test_a_truncated_file_without_an_index_is_named(tmp_path, name):
    codec, pixels = {"a.wmv": ("wmv2", "yuv420p"), "a.gif": ("gif", "rgb8")}.get(name, ("libx264", "yuv420p"))
    path = encode(tmp_path / name, moving(40), codec, pixels=pixels, options={"g": "10"})
    frames = open_frames(path)
    assert len(list(frames)) == 40
    assert not frames.warnings
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 1])
    count = len(list(frames))
    assert count < 40
    assert f"cut off after {count} frames" in frames.warnings[0]


def joined(tmp_path, name, codec="libx264", **options):
    """Two videos of 20 and 16 frames joined byte by byte, and the first of them."""
    first = encode(tmp_path / f"first-{name}", moving(20, (96, 64)), codec, **options)
    second = encode(tmp_path / f"second-{name}", [255 - x for x in moving(16, (96, 64))], codec, **options)
    (tmp_path / name).write_bytes(first.read_bytes() + second.read_bytes())
    return tmp_path / name, first


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {}),
        ("faststart.mp4", "libx264", {"container": {"movflags": "faststart"}}),
        ("a.mov", "libx264", {}),
        ("a.3gp", "mpeg4", {}),
        ("a.flv", "libx264", {}),
        ("a.wmv", "wmv2", {}),
    ],
)
def test_a_second_video_in_a_file_is_named(tmp_path, name, codec, options):
    """The decoder stops at the end of the first."""
    path, first = joined(tmp_path, name, codec, **options)
    for file, warned in ((first, False), (path, True)):
        frames = open_frames(file)
        assert len(list(frames)) == 20
        assert ["another video" in found for found in frames.warnings] == [True] * warned


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.mkv", "libx264", "yuv420p"),
        ("a.webm", "libvpx", "yuv420p"),
        ("a.ts", "libx264", "yuv420p"),
        ("a.mpg", "mpeg2video", "yuv420p"),
        ("a.gif", "gif", "rgb8"),
    ],
)
def test_joined_files_of_other_kinds_are_read_to_their_end(tmp_path, name, codec, pixels):
    frames = open_frames(joined(tmp_path, name, codec, pixels=pixels)[0])
    seconds, images = zip(*frames, strict=True)
    assert [image[0, 0, 0] > 128 for image in images] == [False] * 20 + [True] * 16
    timing = rate.constant(np.array(seconds), frames.rate)
    assert (timing.fps, len(timing.chosen)) == (25, 36)
    assert len(timing.warnings) == (name not in ("a.avi", "a.gif"))  # their times begin again
    described_once = name in ("a.avi", "a.mkv", "a.webm")
    assert ["another video" in found for found in frames.warnings] == [True] * described_once


@pytest.mark.parametrize("name", ["a.png", "a.webp", "larger.gif", "smaller.gif"])
def test_a_second_animation_in_a_file_is_named(tmp_path, name):
    path, parts = tmp_path / name, []
    for size in ((96, 64), (120, 80) if name == "larger.gif" else (60, 40)):
        first, *others = (Image.fromarray(picture) for picture in moving(5, size))
        first.save(path, save_all=True, append_images=others, duration=40)
        parts.append(path.read_bytes())
    for content, warned in ((parts[0], False), (b"".join(parts), True)):
        path.write_bytes(content)
        frames = open_frames(path)
        assert len(list(frames)) >= 5
        assert any("another video" in found for found in frames.warnings) == warned


def doubts(path):
    """The warnings about a video, or why it is refused."""
    frames = open_frames(path)
    try:
        list(frames)
    except UserError as error:
        return str(error)
    return " ".join(frames.warnings)


@pytest.mark.parametrize(("one", "other"), [("libx264", "mpeg2video"), ("mpeg2video", "libx264"), ("mpeg4", "libx264")])
def test_a_second_video_of_another_codec_in_a_transport_stream_is_named(tmp_path, one, other):
    first, second = (encode(tmp_path / f"{codec}.ts", textured(100), codec) for codec in (one, other))
    path = tmp_path / "a.ts"
    assert doubts(first) == doubts(second) == ""
    path.write_bytes(first.read_bytes() + second.read_bytes())
    assert "another video" in doubts(path)


def test_a_stream_that_begins_within_a_file_stops_nothing(tmp_path):
    """A card of a camcorder and a converted file. PyAV raises an IndexError at the end."""
    path = tmp_path / "a.ts"
    parts = [encode(tmp_path / "b.ts", textured(60)), encode(tmp_path / "c.m2ts", textured(60))]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = open_frames(path)
    assert 59 <= len(list(frames)) <= 60  # the last one may be lost where the parts meet
    assert "another video" in frames.warnings[-1]


def test_a_long_avi_has_several_parts(tmp_path):
    """Beyond a gigabyte, OpenDML goes on with RIFF chunks of another kind."""
    path = encode(tmp_path / "a.avi", moving(20, (96, 64)), "mjpeg", pixels="yuvj420p")
    whole = path.read_bytes()
    at = whole.index(b"movi")
    part = whole[at : at + int.from_bytes(whole[at - 4 : at], "little")]
    part = b"AVIXLIST" + struct.pack("<I", len(part)) + part
    path.write_bytes(whole + b"RIFF" + struct.pack("<I", len(part)) + part)
    frames = open_frames(path)
    assert len(list(frames)) == 40
    assert not frames.warnings


@pytest.mark.parametrize("movflags", ["use_metadata_tags", "faststart"])
def test_what_else_may_follow_a_video_gives_no_warning(tmp_path, movflags):
    """A recorder writes the index twice; phones and action cameras append their own data."""
    path = encode(tmp_path / "a.mp4", moving(20, (96, 64)), container={"movflags": movflags})
    whole = path.read_bytes()
    at = whole.index(b"moov") - 4
    index = whole[at : at + int.from_bytes(whole[at : at + 4], "big")]
    for more in (
        index,
        bytes(99),
        b"\xff\xd8\xff\xe0",
        b"made by x\n",
        struct.pack(">I4s", 8 + len(whole), b"mpvd") + whole,
    ):
        path.write_bytes(whole + more)
        frames = open_frames(path)
        assert len(list(frames)) == 20
        assert not frames.warnings


@pytest.mark.parametrize(
    ("taken", "warning"),
    [
        ("240.000000", "slow motion"),
        ("1.000000", "time lapse"),
        ("60.000000", "slow motion"),
        ("40.000000", ""),
        ("25.0", ""),
        ("30.000000", ""),
        ("fast", ""),
        ("0", ""),
    ],
)
def test_slow_motion_and_time_lapse_give_a_warning(tmp_path, taken, warning):
    """Phones write the rate of the camera into the file, whose own rate is the usual one."""
    path = encode(tmp_path / "a.mp4", grey(12))
    frames = open_frames(remuxed(path, "b.mp4", metadata={"com.android.capture.fps": taken}))
    assert len(list(frames)) == 12
    assert [warning in found for found in frames.warnings] == [True] * bool(warning)


@pytest.mark.parametrize("speed", [1.0, 0.5, 0.0])
def test_an_edit_list_that_changes_the_speed_gives_a_warning(tmp_path, speed):
    path = encode(tmp_path / "a.mp4", grey(12), options={"bf": "0"})
    content = bytearray(path.read_bytes())
    at = content.find(b"elst") + 12  # of its only entry: duration, start and speed
    assert content[at - 8 : at] == struct.pack(">II", 0, 1)
    content[at + 8 : at + 12] = struct.pack(">i", int(speed * (1 << 16)))
    path.write_bytes(content)
    frames = open_frames(path)
    assert len(list(frames)) == 12
    assert [f"{speed:g} times" in found for found in frames.warnings] == [True] * (speed != 1)


def test_a_tag_in_another_encoding_stops_nothing(tmp_path):
    path = encode(tmp_path / "a.mkv", [np.roll(square(8, 8, 16, (96, 64)), i, axis=1) for i in range(5)])
    content = path.read_bytes()
    assert b"Lavf" in content  # FFmpeg's name
    path.write_bytes(content.replace(b"Lavf", b"L\xe4vf"))
    assert len(read(path)) == 5


def test_a_playlist_opens_no_connection(tmp_path):
    """Only the named file is read, whatever it contains."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        path = tmp_path / "a.m3u8"
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{address}\n#EXT-X-ENDLIST\n")
        with user_error("unreadable_video", path):
            read(path)
        with pytest.raises(TimeoutError):
            server.accept()


CONTAINERS = {
    "a.mp4": {"aspect": "4/3", "matrix": (0, 1, -1, 0)},
    "a.avi": {"codec": "mpeg4"},
    "a.mkv": {},
    "a.webm": {"codec": "libvpx"},
    "a.mpg": {"codec": "mpeg2video", "field": "tff"},
    "a.flv": {},
    "a.wmv": {"codec": "wmv2"},
    "a.ts": {},
    "a.mov": {"codec": "prores_ks", "pixels": "yuv422p10le", "field": "tff"},
    "a.webp": {},
    "a.png": {},
    "a.gif": {},
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_any_damage_gives_frames_or_our_own_error(tmp_path, name):
    path = tmp_path / name
    pictures = moving(12, (96, 64))
    if CONTAINERS[name] or name in ("a.mkv", "a.flv", "a.ts"):
        encode(path, pictures, **CONTAINERS[name])
    else:
        first, *others = (Image.fromarray(picture) for picture in pictures)
        first.save(path, save_all=True, append_images=others, duration=40)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for number in range(40):
        damaged = bytearray(whole)
        reach = min(600, len(whole)) if number % 2 else len(whole)
        for _ in range(random.integers(1, 12)):
            damaged[random.integers(reach)] = random.integers(256)
        path.write_bytes(damaged[: random.integers(1, len(whole))] if number % 4 == 0 else damaged)
        with contextlib.suppress(UserError):
            read(path)


# Animated images


@pytest.mark.parametrize("name", ["a.webp", "lossy.webp", "a.png", "a.gif", "a.avif"])
def test_an_animated_image_has_many_frames(tmp_path, name):
    lossless = {"lossless": True} if name == "a.webp" else {}
    first, *others = (Image.fromarray(image) for image in moving(12))
    first.save(tmp_path / name, save_all=True, append_images=others, duration=40, **lossless)
    frames = open_frames(tmp_path / name)
    seconds, images = zip(*frames, strict=True)
    np.testing.assert_allclose(seconds, np.arange(12) / 25, atol=1e-6)
    assert frames.rate == pytest.approx(25)
    for image, expected in zip(images, moving(12), strict=True):
        assert np.abs(image.astype(int) - expected).mean() < 4
    assert len(list(frames)) == 12


def test_an_animation_among_the_images_of_a_folder_is_named(tmp_path):
    folder = write_images(tmp_path / "frames", grey(3))
    first, *others = (Image.fromarray(image) for image in grey(3))
    first.save(folder / "2.png", save_all=True, append_images=others)
    with user_error("unsupported_image", folder / "2.png", "animated PNG"):
        read(folder)


def test_an_animation_that_declares_a_huge_size_is_refused(tmp_path):
    path = tmp_path / "a.webp"
    first, *others = (Image.fromarray(image) for image in moving(4))
    first.save(path, save_all=True, append_images=others, duration=40)
    content = bytearray(path.read_bytes())
    content[27:30] = (149999).to_bytes(3, "little")  # its height, less 1
    path.write_bytes(content)
    with user_error("oversized_file", path, "320×150000"):
        read(path)


def test_a_damaged_animation_is_named(tmp_path):
    path = tmp_path / "a.webp"
    first, *others = (Image.fromarray(image) for image in moving(12))
    first.save(path, save_all=True, append_images=others, duration=40)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:40], whole[:200] + bytes(len(whole) - 200)):
        path.write_bytes(content)
        with user_error("unreadable_video", path):
            read(path)


# A constant rate


def test_a_constant_rate_is_not_changed():
    jitter = np.random.default_rng(0).uniform(-5e-4, 5e-4, 100)  # a container's clock
    timing = rate.constant(np.arange(100) / 29.97 + jitter, 29.97)
    np.testing.assert_array_equal(timing.chosen, np.arange(100))
    assert timing.fps == pytest.approx(29.97, rel=2e-2)
    assert not timing.warnings


@pytest.mark.parametrize("clock", [1000, 600, 100])
@pytest.mark.parametrize("fps", [24, 25, 30000 / 1001, 30, 50, 60, 90, 100, 120, 240])
@pytest.mark.parametrize("rounded", [np.floor, np.round])
def test_a_coarse_clock_does_not_change_a_constant_rate(clock, fps, rounded):
    """Clocks of Matroska, WebM, QuickTime and GIF, with and without the container's nominal rate."""
    if fps > 0.8 * clock:
        pytest.skip("several frames at one time")
    seconds = rounded(np.arange(60) * clock / fps) / clock
    timing = rate.constant(seconds, fps)
    assert timing.fps == pytest.approx(fps, rel=1e-9)
    np.testing.assert_array_equal(timing.chosen, np.arange(60))
    unknown = rate.constant(seconds, 0)
    assert unknown.fps == pytest.approx(fps, rel=fps / clock / 59 + 1e-3)
    assert not timing.warnings + unknown.warnings


@pytest.mark.parametrize(("fps", "name"), [(30, "a.mkv"), (60, "a.webm"), (120, "a.mkv"), (30, "a.flv"), (50, "a.gif")])
def test_the_rate_of_files_with_a_coarse_clock_is_exact(tmp_path, fps, name):
    codec, pixels = {"a.webm": ("libvpx", "yuv420p"), "a.gif": ("gif", "rgb8")}.get(name, ("libx264", "yuv420p"))
    frames = open_frames(encode(tmp_path / name, moving(24), codec, fps, pixels=pixels))
    timing = rate.constant(np.array([seconds for seconds, _ in frames]), frames.rate)
    assert (timing.fps, len(timing.chosen), timing.warnings) == (fps, 24, ())


def test_a_missing_frame_is_noticed_on_a_coarse_clock():
    for fps in (30, 60, 120, 240):
        seconds = np.delete(np.round(np.arange(100) * 1000 / fps) / 1000, 40)
        timing = rate.constant(seconds, fps)
        assert timing.fps == fps
        np.testing.assert_array_equal(timing.chosen, [*range(40), timing.chosen[40], *range(40, 99)])
        assert "1 of 98 steps" in timing.warnings[0]


def test_a_pause_of_the_recording_is_named():
    """Two recordings in one file, or a camera that stopped for a while."""
    seconds = np.concatenate([np.arange(10) / 25, 60 + np.arange(10) / 25])
    for target in (None, 30):
        for first, frame in (
            (0, "frame 10;"),
            (5, "frame 15;"),
        ):  # of the video, from whose sixth frame the face is seen
            with user_error("bad_data", "59.6 seconds", frame):
                rate.constant(seconds, 25, target, first)
    times = np.concatenate([np.arange(10) / 25, 1.2 + np.arange(10) / 25])
    assert len(rate.constant(times, 25).chosen) == 40


@pytest.mark.parametrize(("fps", "slow"), [(0.0001, True), (1 / 60, True), (5, True), (10, False), (240, False)])
def test_a_rate_too_slow_for_a_face_gives_a_warning(fps, slow):
    timing = rate.constant(np.arange(20) / fps, 0)
    assert timing.fps == pytest.approx(fps, rel=0.05)
    np.testing.assert_array_equal(timing.chosen, np.arange(20))
    assert len(timing.warnings) == slow


def test_a_rate_that_drifts_is_variable():
    seconds = np.concatenate([np.arange(50) / 25, 2 + np.arange(50) / 26.5])
    timing = rate.constant(seconds, 25.7)
    assert "drifts" in timing.warnings[0]
    assert np.abs(seconds[timing.chosen] - np.arange(len(timing.chosen)) / timing.fps).max() < 0.025


def test_a_variable_rate_becomes_constant_with_the_nearest_frames():
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


def test_invalid_times_are_replaced_by_the_nominal_rate():
    timing = rate.constant(np.zeros(10), 24)
    assert timing.fps == 24
    assert "24 frames" in timing.warnings[0]
    with user_error("bad_data", "ffmpeg"):
        rate.constant(np.zeros(10), 0)
    for fps in (0, -25, 1e9, float("inf"), float("nan")):
        with user_error("bad_option", "--fps", f"{fps:g}"):
            rate.constant(np.arange(3) / 25, 25, target=fps)


def test_a_real_video_of_variable_rate():
    frames = open_frames(real_video("face_noface.mov"))
    seconds = np.array([seconds for seconds, _ in frames])
    timing = rate.constant(seconds, frames.rate)
    assert timing.fps == pytest.approx(24, abs=0.01)
    assert len(timing.chosen) == 153  # 6.36 s; 30 frames a second at first, 24 later
    assert "variable frame rate" in timing.warnings[0]
