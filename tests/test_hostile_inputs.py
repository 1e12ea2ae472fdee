"""Inputs that anyone may have made: small files that exhaust memory, pipes, and JSON of the wrong shape."""

import io
import json
import os
import pathlib
import resource
import socket
import struct
import subprocess
import sys
import zipfile
import zlib

import cv2
import numpy as np
import pytest
import tensorstore
from PIL import Image

from tests import published_layouts, tiny
from tests.raises import user_error
from tramp_jax import (
    checkpoint,
    cli,
    config,
    cross_validation,
    json_files,
    run,
    sharding,
    training_data,
    training_log,
)
from tramp_jax.data import clip_files, clip_folder, clips, datasets, images, packed_clips, packing, validation
from tramp_jax.data.problems import Problems
from tramp_jax.data.source import Wanted
from tramp_jax.errors import UserError
from tramp_jax.preprocess import batch
from tramp_jax.preprocess.sources.tracks import Tracks
from tramp_jax.preprocess.video import expand_input, open_frames
from tramp_jax.scoring import calibration

HUGE = 30_000


@pytest.fixture(autouse=True)
def _little_memory():
    """An allocation of 4 GB more than there is now fails."""
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def _fault(read):
    """The error of a user that reading raises, or None; any other error escapes."""
    try:
        read()
    except UserError as error:
        return error
    return None


# Images


def _png(width, height):
    """The header of a PNG image of any size, with pixels of a small one."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")


def _small(suffix):
    return cv2.imencode(suffix, np.zeros((8, 8, 3), np.uint8))[1].tobytes()


def _jpeg():
    made = bytearray(_small(".jpg"))
    at = made.index(b"\xff\xc0")
    made[at + 5 : at + 9] = struct.pack(">HH", HUGE, HUGE)
    return bytes(made)


def _bmp():
    made = bytearray(_small(".bmp"))
    made[18:26] = struct.pack("<ii", HUGE, HUGE)
    return bytes(made)


def _pillow(kind, side=8):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return bytearray(buffer.getvalue())


def _tiff():
    made = _pillow("TIFF")
    offset = struct.unpack_from("<I", made, 4)[0]
    for entry in range(struct.unpack_from("<H", made, offset)[0]):
        at = offset + 2 + 12 * entry
        if struct.unpack_from("<H", made, at)[0] in (256, 257):  # width and height
            struct.pack_into("<HHIHH", made, at, struct.unpack_from("<H", made, at)[0], 3, 1, HUGE, 0)
    return bytes(made)


def _webp():
    made = _pillow("WEBP")
    at = made.index(b"VP8L") + 9
    struct.pack_into("<I", made, at, (16_383 - 1) | ((16_383 - 1) << 14))
    return bytes(made)


BOMBS = {".png": _png(HUGE, HUGE), ".jpg": _jpeg(), ".bmp": _bmp(), ".tif": _tiff(), ".webp": _webp()}


@pytest.mark.parametrize("suffix", BOMBS)
def test_an_image_that_declares_a_huge_size_is_refused(tmp_path, suffix):
    (tmp_path / f"1{suffix}").write_bytes(BOMBS[suffix])
    for path in (tmp_path, tmp_path / f"1{suffix}"):
        with user_error("oversized_file", tmp_path / f"1{suffix}"):
            list(open_frames(path))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("size", [0, 256])
def test_a_frame_that_declares_a_huge_size_is_refused(suffix, size):
    with user_error("wrong_image_size" if size else "oversized_file", HUGE):
        images.decode_whole(BOMBS[suffix], size)
    with user_error("oversized_file", HUGE):
        clips.decode_frame(BOMBS[suffix])


@pytest.mark.parametrize("suffix", [*BOMBS, ".jpeg"])
def test_images_of_ordinary_size_are_read(tmp_path, suffix):
    (tmp_path / f"1{suffix}").write_bytes(_small(suffix))
    ((_, image),) = open_frames(tmp_path)
    assert image.shape == (8, 8, 3)


def test_an_image_file_of_gigabytes_is_not_read(tmp_path):
    with (tmp_path / "1.png").open("wb") as file:
        file.truncate(8 << 30)
    with user_error("oversized_file", tmp_path / "1.png"):
        list(open_frames(tmp_path))


def test_a_frame_of_gigabytes_is_not_read(tmp_path):
    with (tmp_path / "000001.jpg").open("wb") as file:
        file.truncate(8 << 30)
    with user_error("oversized_file", tmp_path / "000001.jpg"):
        files = clip_files.ClipFiles(tmp_path, tmp_path, (), 25.0, "make it again")
        clip_files.read_clip(clips.ClipInfo("c", "a", "smile", 1.0, 1), files, Wanted(landmarks=False), Problems())


# Arrays


def _declaring(shape, dtype="<f4", content=b""):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + content


SHAPES = [
    (2 << 30, 106, 2), (10**30, 106, 2), (10**9, 0, 2), (-5, 106, 2), (1 << 20, 1 << 20, 1 << 20), (5, 106, 2),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_an_array_that_declares_more_than_its_file_holds_is_refused(tmp_path, shape):
    path = tmp_path / "landmarks.npy"
    path.write_bytes(_declaring(shape))
    problems = Problems(collect=True)
    assert clip_files.read_array(path, "c", "landmarks", "make it again", problems) is None
    assert clip_folder.count_frames(tmp_path, "c", problems) == 0
    assert {problem.kind for problem in problems.found} <= {"unreadable_array", "wrong_shape"}
    assert all(str(path) in problem.message for problem in problems.found)
    fault = _fault(lambda: Tracks(path))
    assert fault.kind in ("unreadable_array", "wrong_shape")
    assert str(path) in str(fault)


def test_a_long_array_of_its_full_size_is_refused(tmp_path):
    path = tmp_path / "landmarks.npy"
    path.write_bytes(_declaring((5_000_000, 106, 2)))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 5_000_000 * 106 * 2 * 4)  # sparse
    with user_error("unreadable_array", path):
        clip_files.read_array(path, "c", "landmarks", "make it again", Problems())


def _npz(path, **contents):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(f"{name}.npy", content)


@pytest.mark.parametrize(
    "content", [_declaring((2 << 30, 64, 2)), _declaring((600_000, 64, 2), content=bytes(600_000 * 64 * 8)), b"x", b""]
)
def test_tracks_that_unpack_to_gigabytes_are_refused(tmp_path, content):
    _npz(tmp_path / "a.npz", tracks=content)
    assert (tmp_path / "a.npz").stat().st_size < 1 << 20
    with user_error("unreadable_array", tmp_path / "a.npz"):
        Tracks(tmp_path / "a.npz")


def test_every_damaged_byte_of_tracks_is_named(tmp_path):
    points = np.random.default_rng(0).normal(size=(6, 64, 2))
    np.savez_compressed(tmp_path / "a.npz", tracks=points)
    whole = (tmp_path / "a.npz").read_bytes()
    assert Tracks(tmp_path / "a.npz").layout == "points63"
    faults = []
    for at in range(0, len(whole), 37):
        (tmp_path / "a.npz").write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        faults.append(_fault(lambda: Tracks(tmp_path / "a.npz")))
    assert sum(fault is not None for fault in faults) > 100
    assert all(fault is None or "a.npz" in str(fault) for fault in faults)


def test_a_batch_goes_on_after_damaged_tracks(tmp_path, capsys):
    """The first video fails by the name of its tracks, and the second one is tried."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "tracks").mkdir()
    for name in "ab":
        (tmp_path / "videos" / f"{name}.mp4").write_bytes(b"no video")
        np.savez_compressed(tmp_path / "tracks" / f"{name}.npz", tracks=np.ones((64, 9, 2)))
    damaged = bytearray((tmp_path / "tracks" / "a.npz").read_bytes())
    damaged[60] ^= 255
    (tmp_path / "tracks" / "a.npz").write_bytes(damaged)
    arguments = [str(tmp_path / "videos"), "--landmarks", "tracks", "--tracks", str(tmp_path / "tracks")]
    assert cli.main(["preprocess", *arguments, "--out", str(tmp_path / "out")]) == 1
    output = capsys.readouterr()
    assert "a.npz" in output.err
    assert "b.mp4" in output.err
    assert "2 failed" in output.out


# Pipes, sockets and devices


def _special(path, kind):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # an address may have 108 characters
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(here)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()


@pytest.fixture(params=["pipe", "socket", "device", "folder"])
def special(request):
    return lambda path: _special(path, request.param)


def test_what_is_not_a_file_is_not_an_image(tmp_path, special):
    (tmp_path / "1.png").write_bytes(_small(".png"))
    special(tmp_path / "2.png")
    assert len(list(open_frames(tmp_path))) == 1
    assert [path.name for path in clip_files.image_files(tmp_path)] == ["1.png"]
    special(tmp_path / "a.mp4")
    assert expand_input(tmp_path) == [tmp_path]
    fault = _fault(lambda: list(open_frames(tmp_path / "2.png")))
    assert fault.kind == ("missing_frames" if (tmp_path / "2.png").is_dir() else "bad_path")
    assert str(tmp_path / "2.png") in str(fault)


@pytest.mark.parametrize("name", ["clips.csv", "c0/clip.json", "c0/landmarks.npy", "c0/colours.npy", "c0/000001.jpg"])
def test_what_is_not_a_file_does_not_stop_a_report(tmp_path, special, name):
    published_layouts.write_folder(tmp_path, 2)
    (tmp_path / "clips/s000/0").rename(tmp_path / "c0")
    text = (tmp_path / "clips.csv").read_text().replace("clips/s000/0", "c0")
    (tmp_path / "clips.csv").write_text(text)
    (tmp_path / name).unlink(missing_ok=True)
    special(tmp_path / name)
    made = config.base()
    made.data.update(datasets.options("folder"), root=str(tmp_path))
    report = validation.check(made, Wanted())
    assert report.errors or name == "c0/colours.npy"  # optional: taken from the frames
    if name != "clips.csv":
        assert "clips/s001/0" in [report.dataset.source.infos[i].id for i in range(len(report.dataset.source.infos))]


# JSON

DEEP = "[" * 100_000
NOT_JSON = ["", "{", "[]", "3", "null", DEEP, '{"a":' * 50_000, f'{{"a": {"9" * 5000}}}']
NOT_JSON += [f'{{"a": {"9" * 400}}}', '{"a": ', "\ud800".encode("utf-8", "surrogatepass"), b"\xff\xfe\x00"]


@pytest.fixture(params=NOT_JSON, ids=lambda text: repr(text[:12]))
def not_json(request):
    return request.param if isinstance(request.param, bytes) else request.param.encode()


def test_what_is_not_json_is_named(tmp_path, not_json):
    path = tmp_path / "a.json"
    path.write_bytes(not_json)
    with user_error("damaged_file", path, "make it again"):
        json_files.read(path, "make it again")


def test_a_json_file_of_gigabytes_is_not_read(tmp_path):
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(8 << 30)
    with user_error("oversized_file", tmp_path / "a.json"):
        json_files.read(tmp_path / "a.json", "make it again")


WRONG = [None, [], {}, "text", 3, 0.5, True, -1, [[]], {"a": {}}, "../x", 2**62]


def _replaced(content, path=()):
    """Copies of a JSON value with one of its parts replaced or removed, and the part's path."""
    for wrong in WRONG:
        if type(wrong) is not type(content) or wrong != content:
            yield path, wrong
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(parts)[:40]:
        for where, changed in _replaced(value, (*path, key)):
            copy = dict(content) if isinstance(content, dict) else list(content)
            copy[key] = changed
            yield where, copy
        if isinstance(content, dict):
            yield (*path, key), {name: each for name, each in content.items() if name != key}


def _only_user_errors(path, read):
    """Reads every change of a JSON file: the only errors are those of a user. Returns how many changes were refused."""
    text = path.read_text()
    refused = 0
    for where, changed in _replaced(json.loads(text)):
        path.write_text(json.dumps(changed))
        try:
            fault = _fault(read)
        except Exception as error:
            raise AssertionError(f"{where} was replaced") from error
        assert fault is None or path.name in str(fault) or fault.kind == "bad_data", where
        refused += fault is not None
    path.write_text(text)
    read()
    return refused


@pytest.fixture
def calibrated(tmp_path):
    made = calibration.Calibration(0.9, 1.5, 0.1, 0, 4, (0, 1, 2), ("a",), 20, 10)
    made.save(tmp_path)
    return tmp_path


def test_every_change_of_a_calibration_is_a_users_error(calibrated):
    assert _only_user_errors(calibrated / "calibration.json", lambda: calibration.load(calibrated, ["a"])) > 50


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("factor", float("nan")),
        ("factor", -1),
        ("level", 2),
        ("low", 5),
        ("floor", "1"),
        ("models", "a"),
        ("ratings", [0, "1"]),
    ],
)
def test_a_calibration_with_senseless_numbers_is_named(calibrated, name, value):
    path = calibrated / "calibration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with user_error("damaged_file", path):
        calibration.load(calibrated, ["a"])


def test_every_change_of_training_data_is_a_users_error(tmp_path):
    made = training_data.TrainingData({"train": 3}, {"train": 2}, ("smile",), 0.0, 4.0, 25.0, ("insightface106",))
    made.save(tmp_path)
    assert _only_user_errors(tmp_path / run.DATA, lambda: training_data.load(tmp_path, tiny.get_config())) > 50


def test_every_change_of_a_configuration_is_a_users_error(tmp_path):
    folder = tmp_path / "run"
    run.prepare(tiny.get_config(), folder, resume=False, overwrite=False)
    assert _only_user_errors(folder / run.CONFIG, lambda: run.load_config(folder)) > 500


def test_every_change_of_metrics_is_a_users_error(tmp_path):
    path = tmp_path / run.METRICS
    path.write_text(json.dumps({"all": {"auroc": {"value": 0.5, "interval": None}, "spearman": {"value": None}}}))
    assert _only_user_errors(path, lambda: cross_validation._read_metrics(tmp_path)) > 20


def test_every_change_of_a_description_is_a_users_error(tmp_path):
    published_layouts.write_folder(tmp_path, 1)
    folder = tmp_path / "clips/s000/0"
    refused = _only_user_errors(
        folder / clip_folder.DESCRIPTION, lambda: clip_folder.read_clip(folder, with_frames=False, with_pixels=False)
    )
    assert refused > 20


def test_every_change_of_the_evidence_is_a_users_error(tmp_path):
    (tmp_path / batch.EVIDENCE).write_text(json.dumps({"landmarks": "a", "warnings": ["b"], "interpolated": [True]}))
    assert _only_user_errors(tmp_path / batch.EVIDENCE, lambda: batch.read_origin(tmp_path, 1)) > 20


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    root = tmp_path_factory.mktemp("packed")
    published_layouts.write_folder(root / "data", 2)
    made = config.base()
    made.data.update(datasets.options("folder"), root=str(root / "data"))
    packing.pack(made, Wanted(), root / "out", 1 << 20)
    return root / "out"


def test_every_change_of_a_manifest_is_a_users_error(packed):
    path = packed / packed_clips.MANIFEST
    assert _only_user_errors(path, lambda: packed_clips.PackedClips(packed, Wanted())) > 300


@pytest.mark.parametrize(
    "file", ["../x.array_record", "/etc/passwd", "a/b.array_record", "..", "", "x.array_record[0:9]"]
)
def test_a_manifest_does_not_lead_out_of_its_folder(packed, file):
    path = packed / packed_clips.MANIFEST
    text = path.read_text()
    content = json.loads(text)
    content["shards"][0]["file"] = file
    path.write_text(json.dumps(content))
    try:
        with user_error("damaged_file", path, repr(file)):
            packed_clips.PackedClips(packed, Wanted())
    finally:
        path.write_text(text)


@pytest.mark.parametrize("line", [DEEP, "[]", "3", '{"step": "a", "kind": "train"}', '{"kind": "train"}', '{"step": 1'])
def test_measurements_end_at_a_damaged_line(tmp_path, line):
    good = '{"step": 1, "kind": "train", "loss": 1.0}'
    (tmp_path / run.MEASUREMENTS).write_text("\n".join([good, line, good]))
    assert training_log.read_metrics(tmp_path) == [json.loads(good)]


def test_a_report_goes_on_after_damaged_descriptions(tmp_path, not_json):
    published_layouts.write_folder(tmp_path, 2)
    (tmp_path / "clips/s000/0" / clip_folder.DESCRIPTION).write_bytes(not_json)
    made = config.base()
    made.data.update(datasets.options("folder"), root=str(tmp_path))
    report = validation.check(made, Wanted(frames=False))
    assert {problem.kind for problem in report.errors} == {"bad_description"}
    assert report.bad == {0}


def test_a_huge_image_takes_little_memory(tmp_path):
    """In its own process, because memory that was used once counts forever."""
    (tmp_path / "1.png").write_bytes(_png(HUGE, HUGE))
    code = (
        "import pathlib, sys\nfrom tramp_jax.errors import UserError\n"
        "from tramp_jax.preprocess.video import open_frames\n"
        "try:\n    list(open_frames(sys.argv[1]))\nexcept UserError as error:\n    print(error)\n"
        "print(pathlib.Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    message, memory = done.stdout.splitlines()
    assert "1.png" in message
    assert int(memory) < 1 << 20  # kB


# Checkpoints


def test_a_checkpoint_that_declares_huge_chunks_is_refused(tmp_path):
    """A file of a few hundred bytes; reading an array takes the memory of a whole chunk."""
    tree = {"params": {"layer": {"kernel": np.zeros(3, np.float32)}}, "batch_stats": {}}
    with checkpoint.Checkpoints(tmp_path, writing=True) as checkpoints:
        checkpoints.save_last(1, tree, tree, {"best": None, "best_step": None})
    item = tmp_path / "checkpoints/last/1/variables"
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{item}/"}).result()
    key = b"params.layer.kernel/.zarray"
    declared = json.loads(store.read(key).result().value)
    store.write(key, json.dumps(declared | {"chunks": [1 << 28]}).encode()).result()
    with checkpoint.Checkpoints(tmp_path) as checkpoints, user_error("damaged_file", tmp_path, 1 << 28):
        checkpoints.restore_variables("last", tree, sharding.data_mesh())
    with checkpoint.Checkpoints(tmp_path) as checkpoints, user_error("damaged_file", tmp_path, 1 << 28):
        checkpoints.restore_last(tree, tree, sharding.data_mesh())


@pytest.mark.parametrize("record", ['{"best": "x", "best_step": 1}', "{}", "[1]"])
def test_the_record_of_a_checkpoint_is_checked(tmp_path, record):
    tree = {"params": {"layer": {"kernel": np.zeros(3, np.float32)}}, "batch_stats": {}}
    with checkpoint.Checkpoints(tmp_path, writing=True) as checkpoints:
        checkpoints.save_last(1, tree, tree, {"best": 0.5, "best_step": 1})
        assert checkpoints.restore_last(tree, tree, sharding.data_mesh())[3] == {"best": 0.5, "best_step": 1}
    (tmp_path / "checkpoints/last/1/record/metadata").write_text(record)
    with checkpoint.Checkpoints(tmp_path) as checkpoints, user_error("damaged_file", tmp_path):
        checkpoints.restore_last(tree, tree, sharding.data_mesh())


def test_a_bug_in_restoring_is_not_reported_as_damage(tmp_path, monkeypatch):
    tree = {"params": {"layer": {"kernel": np.zeros(3, np.float32)}}, "batch_stats": {}}
    with checkpoint.Checkpoints(tmp_path, writing=True) as checkpoints:
        checkpoints.save_last(1, tree, tree, {"best": None, "best_step": None})
        monkeypatch.setattr(checkpoint, "_restored", lambda items: len(1))
        with pytest.raises(TypeError, match="has no len"):
            checkpoints.restore_variables("last", tree, sharding.data_mesh())


@pytest.mark.parametrize("which", ["77", "-1", "²"])
def test_a_step_without_a_checkpoint_is_refused(tmp_path, which):
    with checkpoint.Checkpoints(tmp_path, writing=True) as checkpoints, user_error("missing_checkpoint", which):
        checkpoints.restore_variables(which, {}, sharding.data_mesh())


def test_a_run_without_a_best_checkpoint_yet_can_be_continued(tmp_path):
    tree, fold = {"params": {"kernel": np.zeros(3, np.float32)}, "batch_stats": {}}, tmp_path / "fold_1"
    with checkpoint.Checkpoints(fold, writing=True) as checkpoints:
        checkpoints.save_last(50, tree, tree, {"best": None, "best_step": None})
        with user_error("missing_checkpoint", "'best'", "last: [50]", f"--workdir {tmp_path} --resume"):
            checkpoints.restore_variables("best", tree, sharding.data_mesh())


def test_reading_creates_no_checkpoints(tmp_path):
    with user_error("missing_checkpoint", tmp_path):
        checkpoint.Checkpoints(tmp_path)
    assert not list(tmp_path.iterdir())
