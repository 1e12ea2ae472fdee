"""``tramp-jax pack``: whole or not there, resumable, repeatable, and strict about faults."""

import json
import multiprocessing
import os
import pathlib
import time

import numpy as np
import pytest

from configs import folder as recipe
from tests import youtubepd_layout
from tests.published_layouts import write_dfew, write_folder, write_neuroface, write_pfed5
from tests.raises import user_error
from tramp_jax import cli, config
from tramp_jax.data import clip_files, datasets, packed_clips, packing
from tramp_jax.data.packed_clips import PackedClips
from tramp_jax.data.source import Wanted


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The PFED5 layout: six clips of 7 frames; not to be changed."""
    root = tmp_path_factory.mktemp("published")
    write_pfed5(root, 5, 1)
    return root


@pytest.fixture(scope="module")
def shard_mb(published):
    """So that there are three shards."""
    return sum(path.stat().st_size for path in published.rglob("*.jpg")) / 3 / 2**20


def _pack(root, out, *more: object) -> int:
    arguments = ["--dataset", "pfed5", "--root", root, "--out", out, "--workers", 2, *more]
    return cli.main(["pack", *map(str, arguments)])


def _content(out: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture(scope="module")
def packed(published, shard_mb, tmp_path_factory):
    """The layout packed in one go; not to be changed."""
    out = tmp_path_factory.mktemp("packed") / "out"
    assert _pack(published, out, "--shard-size-mb", shard_mb) == 0
    return out


def test_a_packed_folder_holds_shards_and_manifest_alone(packed, published):
    assert sorted(_content(packed)) == [
        *(f"clips-0000{i}-of-00003.array_record" for i in range(3)),
        "manifest.json",
    ]
    manifest = json.loads((packed / "manifest.json").read_text())
    assert (manifest["version"], manifest["name"], manifest["num_clips"]) == (1, "pfed5", 6)
    assert [shard["records"] for shard in manifest["shards"]] == [2, 2, 2]
    assert manifest["official"] == {"train": [f"P0{i}" for i in range(5)], "test": ["P05"]}
    assert sum(manifest["labels"]["smile"].values()) == 6
    assert manifest["request"]["root"] == str(published)
    assert manifest["tool"].startswith("tramp_jax ")
    assert not list(PackedClips(packed, Wanted()).store_problems())


def test_the_outcome_does_not_depend_on_the_number_of_threads(packed, published, shard_mb, tmp_path):
    assert _pack(published, tmp_path / "out", "--shard-size-mb", shard_mb, "--workers", 1) == 0
    assert _content(tmp_path / "out") == _content(packed)


def test_a_second_run_has_nothing_to_do(packed, published, shard_mb, capsys):
    before = {path: path.stat().st_mtime_ns for path in packed.iterdir()}
    assert _pack(published, packed, "--shard-size-mb", shard_mb) == 0
    assert "nothing to do, its 6 clips are packed already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in packed.iterdir()}


def test_the_spelling_of_a_path_does_not_matter(packed, published, shard_mb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(published)
    assert _pack(".", tmp_path / "out", "--shard-size-mb", shard_mb) == 0
    assert _content(tmp_path / "out") == _content(packed)
    capsys.readouterr()
    monkeypatch.chdir(published.parent)
    for root in (published.name, published, f"../{published.parent.name}/{published.name}"):
        assert _pack(root, packed, "--shard-size-mb", shard_mb) == 0
        assert "nothing to do" in capsys.readouterr().out

    out, lists = tmp_path / "options", published / "train_41.csv"
    assert _pack(published, out, "--set", f"train_list={published.name}/train_41.csv") == 0
    assert _pack(published, out, "--set", f"train_list={lists}") == 0
    assert "nothing to do" in capsys.readouterr().out


def test_another_request_into_the_same_folder_is_refused(packed, published, shard_mb, tmp_path, capsys):
    def refused(root, reason: str, *more: object) -> None:
        with pytest.raises(SystemExit):
            _pack(root, packed, "--shard-size-mb", shard_mb, *more)
        message = capsys.readouterr().err
        assert str(packed) in message
        assert reason in message

    before = _content(packed)
    refused(published, "shard_bytes (", "--shard-size-mb", 2 * shard_mb)
    refused(published, "options (", "--set", "expression_column=4")
    refused(published, "skip_bad (False there, True now)", "--skip-bad")
    refused(published, "wanted (", "--no-frames")
    write_pfed5(tmp_path / "other", 1, 1)
    refused(tmp_path / "other", "lists (")
    assert _content(packed) == before


def test_a_folder_with_something_else_is_left_alone(published, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("irreplaceable")
    with pytest.raises(SystemExit):
        _pack(published, tmp_path)
    assert str(tmp_path) in capsys.readouterr().err
    assert _content(tmp_path) == {"thesis.tex": b"irreplaceable"}


@pytest.mark.parametrize(
    ("setting", "fact"),
    [
        ("expresion_column=3", "expression_column?"),
        ("expression_column=three", "--set expression_column=three"),
        ("expression_column", "KEY=VALUE"),
        ("target=speed", "tramp-jax validate --target speed"),
    ],
)
def test_wrong_options_are_refused(published, tmp_path, capsys, setting, fact):
    with pytest.raises(SystemExit):
        _pack(published, tmp_path / "out", "--set", setting)
    assert fact in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_reach_the_data_set(tmp_path):
    settings = "num_subjects=2", "expressions=smile,frown", "synthetic_seed=3"
    arguments = ["--dataset", "synthetic", "--out", str(tmp_path / "out"), "--no-frames", "--set", *settings]
    assert cli.main(["pack", *arguments]) == 0
    source = PackedClips(tmp_path / "out", Wanted(frames=False))
    assert [(info.subject, info.expression) for info in source.infos] == [
        (subject, expression) for subject in ("s000", "s001") for expression in ("smile", "frown")
    ]
    assert source.manifest.request["options"]["synthetic_seed"] == 3
    assert (source[3].frames, source[3].pixels.shape[1:]) == (None, (63, 3))


def test_faults_stop_it_unless_they_are_to_be_skipped(tmp_path, capsys):
    root, out = tmp_path / "published", tmp_path / "out"
    write_pfed5(root, 4, 1)
    image = root / "P00/PD0000_clip/img_00003.jpg"
    image.write_bytes(image.read_bytes()[:-50])
    (root / "detect_73_crop/P02/PD0002_clip-P02.npy").unlink()
    with (root / "train_41.csv").open("a") as file:
        file.write("PD0009_clip_P00,9,7,25,1\n")
    with pytest.raises(SystemExit):
        _pack(root, out)
    message = capsys.readouterr().err
    for kind in ("bad_score", "truncated_image", "missing_landmarks"):
        assert f"error: [{kind}]" in message
    assert "nothing was packed" in message
    assert not out.exists()

    assert _pack(root, out, "--skip-bad") == 0
    assert "3 clips in 1 shards" in capsys.readouterr().out
    source = PackedClips(out, Wanted())
    assert [info.subject for info in source.infos] == ["P01", "P03", "P04"]
    assert [source[index].info.subject for index in range(3)] == ["P01", "P03", "P04"]
    assert [problem.kind for problem in source.manifest.skipped] == [
        "bad_score",
        "truncated_image",
        "missing_landmarks",
    ]
    assert source.manifest.official["train"] == {"P00", "P01", "P02", "P03"}


def test_clips_that_a_reader_skips_are_reported_and_kept(tmp_path, capsys):
    root, out = tmp_path / "dfew", tmp_path / "out"
    write_dfew(root, num_train=5, undetected=("missing", "nan", "zero"))
    arguments = ["pack", "--dataset", "dfew", "--root", str(root), "--out", str(out)]
    for outcome in ("3 clips in 1 shards", "nothing to do"):
        assert cli.main(arguments) == 0
        line = capsys.readouterr().out.splitlines()[0]
        assert outcome in line
        assert "; 3 clips skipped (3 undetected_face), 2 warnings (2 missing_class): see manifest.json" in line
    left_out = [
        problem for problem in PackedClips(out, Wanted()).manifest.warnings if problem.kind == "undetected_face"
    ]
    assert [problem.clip for problem in left_out] == ["00003", "00004", "00005"]
    assert "landmarks/00003.npy: no such file" in left_out[0].message
    made = config.base()
    for place in (root, out):
        made.data.update(datasets.options("dfew"), root=str(place))
        assert datasets.open_dataset(made).summary().startswith("3 clips skipped (3 undetected_face)")


def test_a_manifest_of_an_earlier_version_has_no_warnings(packed, tmp_path):
    content = json.loads((packed / "manifest.json").read_text())
    del content["warnings"]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    assert packed_clips.read_manifest(tmp_path).warnings == ()


_WITHOUT_LANDMARKS = {
    "pfed5": (write_pfed5, "detect_73_crop/**/*.npy"),
    "folder": (write_folder, "clips/**/landmarks.npy"),
    "dfew": (write_dfew, "landmarks/*.npy"),
    "neuroface": (lambda root: write_neuroface(root, NEUROFACE_PEOPLE, cropped=True), "landmarks/*.npy"),
}
NEUROFACE_PEOPLE = ("N002", "A008", "A010")  # one of each fold


@pytest.mark.parametrize("name", [*_WITHOUT_LANDMARKS])
def test_frames_alone_need_no_landmarks(name, tmp_path, capsys):
    root, out = tmp_path / name, tmp_path / "out"
    write, pattern = _WITHOUT_LANDMARKS[name]
    write(root)
    arguments = ["--dataset", name, "--root", str(root), "--no-landmarks"]
    assert cli.main(["pack", *arguments, "--out", str(tmp_path / "with_files")]) == 0
    files = list(root.glob(pattern))
    assert files
    for file in files:
        file.unlink()
    assert cli.main(["validate", *arguments]) == 0, capsys.readouterr().out
    assert cli.main(["pack", *arguments, "--out", str(out)]) == 0
    assert _content(out).keys() == _content(tmp_path / "with_files").keys()
    source = PackedClips(out, Wanted(landmarks=False))
    assert source.manifest.infos == PackedClips(tmp_path / "with_files", Wanted(landmarks=False)).manifest.infos
    for clip in (source[index] for index in range(len(source))):
        assert clip.frames is not None
        assert len(clip.frames) == clip.info.num_frames
        assert np.isnan(clip.landmarks).all()
        assert clip.pixels is None

    made = config.base()
    made.data.update(datasets.options(name), root=str(out))
    with user_error("bad_data", out, "landmarks"):
        datasets.open_dataset(made)
    for place in (root, out):  # a model of frames alone can be trained
        made.data.root, made.model.streams = str(place), "rgb"
        assert len(datasets.open_dataset(made).source) == len(source)


def test_landmarks_alone_need_no_images(tmp_path, capsys):
    root, out = tmp_path / "folder", tmp_path / "out"
    write_folder(root)
    for image in root.glob("clips/**/*.jpg"):
        image.unlink()
    arguments = ["--dataset", "folder", "--root", str(root), "--no-frames"]
    assert cli.main(["validate", *arguments]) == 1
    assert "--no-colours" in capsys.readouterr().out
    arguments.append("--no-colours")
    assert cli.main(["validate", *arguments]) == 0
    assert cli.main(["pack", *arguments, "--out", str(out)]) == 0
    assert cli.main(["validate", "--root", str(out)]) == 0
    made = recipe.get_config("few").unlock()
    made.data.root = str(out)
    clip = datasets.open_dataset(made).source[0]
    assert np.isfinite(clip.landmarks).all()
    assert (clip.pixels, clip.frames) == (None, None)


def test_crops_of_a_video_need_landmarks_but_are_packed_without(tmp_path):
    root, out = tmp_path / "neuroface", tmp_path / "out"
    write_neuroface(root, NEUROFACE_PEOPLE)
    assert cli.main(["pack", "--dataset", "neuroface", "--root", str(root), "--no-landmarks", "--out", str(out)]) == 0
    clip = PackedClips(out, Wanted(landmarks=False))[0]
    assert clip.frames is not None
    assert np.isnan(clip.landmarks).all()


def test_nothing_is_left_without_landmarks(published, tmp_path, capsys):
    youtubepd_layout.write_layout(tmp_path / "youtubepd", train={"video1": 4})
    arguments = ["pack", "--dataset", "youtubepd", "--root", str(tmp_path / "youtubepd"), "--no-landmarks"]
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--out", str(tmp_path / "out")])
    assert "youtubepd" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        _pack(published, tmp_path / "out", "--no-landmarks", "--no-frames")
    assert "--no-frames" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Interruption


def _pack_slowly(root: pathlib.Path, out: pathlib.Path, size: float, signal: pathlib.Path) -> None:
    """Packs, but stops at the second clip of the second shard, and creates ``signal`` once it is there."""
    read = clip_files.read_clip

    def slow(info, *arguments):
        if info.subject == "P03" and list(out.glob("clips-00001-*")):
            signal.touch()
            time.sleep(600)
        return read(info, *arguments)

    clip_files.read_clip = slow
    made = config.base()
    made.data.update(datasets.options("pfed5"), root=str(root))
    packing.pack(made, Wanted(), out, round(size * 2**20), workers=1)


def test_a_second_pack_into_one_folder_is_refused(published, shard_mb, tmp_path, monkeypatch, capsys):
    out, write, refused = tmp_path / "out", packing._write_shard, []

    def write_while_another_starts(*arguments):
        if not refused:
            refused.append(out)
            with user_error("in_use", out, f"process {os.getpid()} "):
                packing.pack(made, Wanted(), out, 1 << 20)
        return write(*arguments)

    made = config.base()
    made.data.update(datasets.options("pfed5"), root=str(published))
    monkeypatch.setattr(packing, "_write_shard", write_while_another_starts)
    assert _pack(published, out, "--shard-size-mb", shard_mb) == 0
    assert refused
    assert "6 clips in 3 shards" in capsys.readouterr().out
    assert not (out / packed_clips.PLAN).exists()


def test_a_killed_pack_goes_on_where_it_was(packed, published, shard_mb, tmp_path, capsys):
    out, signal = tmp_path / "out", tmp_path / "signal"
    arguments = published, out, shard_mb, signal
    process = multiprocessing.get_context("spawn").Process(target=_pack_slowly, args=arguments)
    process.start()
    deadline = time.time() + 120
    while not signal.exists():
        assert process.is_alive()
        assert time.time() < deadline
        time.sleep(0.02)
    process.kill()
    process.join()

    names = set(_content(out))
    assert "clips-00000-of-00003.array_record" in names
    assert not {"clips-00001-of-00003.array_record", "manifest.json"} & names
    assert any(name.startswith("clips-00001-of-00003.array_record.") for name in names)  # the half shard
    made = config.base()
    made.data.update(datasets.options("pfed5"), root=str(out))
    with user_error("unfinished", out, "tramp-jax pack"):
        datasets.open_dataset(made)

    first = out / "clips-00000-of-00003.array_record"
    written = first.stat().st_mtime_ns
    assert _pack(published, out, "--shard-size-mb", shard_mb) == 0
    assert "6 clips in 3 shards, 1 of them finished before" in capsys.readouterr().out
    assert first.stat().st_mtime_ns == written
    assert _content(out) == _content(packed)


def test_a_pack_goes_on_after_a_full_disk(packed, published, shard_mb, tmp_path, monkeypatch, capsys):
    """The writer raises this when it is closed, each time, as seen on a small disk."""
    out, opened = tmp_path / "out", []

    class Full(packing.ArrayRecordWriter):
        def __init__(self, path, options):
            super().__init__(path, options)
            opened.append(path)

        def close(self):
            super().close()
            if len(opened) == 2:
                raise RuntimeError(f"write() failed: No space left on device; writing {opened[-1]}; at byte 4096")

    with monkeypatch.context() as patched:
        patched.setattr(packing, "ArrayRecordWriter", Full)
        with pytest.raises(SystemExit) as stopped:
            _pack(published, out, "--shard-size-mb", shard_mb)
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {opened[-1]}: no space left")
    assert sorted(_content(out)) == ["clips-00000-of-00003.array_record", "clips-00000-of-00003.json", "pack.json"]
    assert _pack(published, out, "--shard-size-mb", shard_mb) == 0
    assert _content(out) == _content(packed)


def test_a_shard_that_changed_meanwhile_is_written_again(packed, published, shard_mb, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(packing, "_clear", lambda out: None)
        assert _pack(published, out, "--shard-size-mb", shard_mb) == 0
    (out / packed_clips.MANIFEST).unlink()  # as if it had been killed just before
    shard = out / "clips-00001-of-00003.array_record"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert _pack(published, out, "--shard-size-mb", shard_mb) == 0
    assert _content(out) == _content(packed)


def test_jobs_of_an_array_pack_what_one_run_packs(packed, published, shard_mb, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    command = [published, out, "--shard-size-mb", shard_mb]
    with pytest.raises(SystemExit):
        _pack(*command, "--collect")
    assert "no job has packed anything" in capsys.readouterr().err
    assert _pack(*command, "--shard", "2/2") == 0
    assert not (out / "manifest.json").exists()
    with pytest.raises(SystemExit):
        _pack(*command, "--collect")
    missing = capsys.readouterr().err
    assert all((f"clips-0000{number}" in missing) == (number != 1) for number in range(3))
    assert _pack(*command, "--shard", "1/2") == 0
    read, checksum = [], packed_clips.checksum
    monkeypatch.setattr(packed_clips, "checksum", lambda path: read.append(path.name) or checksum(path))
    assert _pack(*command, "--collect") == 0
    assert len(read) == 3  # each shard once
    assert _content(out) == _content(packed)
