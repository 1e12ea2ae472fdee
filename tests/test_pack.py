"""``tramp-jax pack``: whole or not there, resumable, repeatable, and strict about faults."""

import json
import multiprocessing
import pathlib
import time

import pytest

from tests.published_layouts import write_pfed5
from tramp_jax import cli, config
from tramp_jax.data import datasets, packing, records
from tramp_jax.data.records import PackedClips


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
    assert not list(PackedClips(packed).shard_problems())


def test_the_outcome_does_not_depend_on_the_number_of_threads(packed, published, shard_mb, tmp_path):
    assert _pack(published, tmp_path / "out", "--shard-size-mb", shard_mb, "--workers", 1) == 0
    assert _content(tmp_path / "out") == _content(packed)


def test_a_second_run_has_nothing_to_do(packed, published, shard_mb, capsys):
    before = {path: path.stat().st_mtime_ns for path in packed.iterdir()}
    assert _pack(published, packed, "--shard-size-mb", shard_mb) == 0
    assert "nothing to do, its 6 clips are packed already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in packed.iterdir()}


def test_another_request_into_the_same_folder_is_refused(packed, published, shard_mb, tmp_path, capsys):
    def refused(root, reason: str, *more: object) -> None:
        with pytest.raises(SystemExit):
            _pack(root, packed, "--shard-size-mb", shard_mb, *more)
        message = capsys.readouterr().err
        assert "holds another data set, or the same one packed otherwise" in message
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
    assert "exists and is no packed data set" in capsys.readouterr().err
    assert _content(tmp_path) == {"thesis.tex": b"irreplaceable"}


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("expresion_column=3", "did you mean expression_column?"),
        ("expression_column=three", "must be of the kind of 0"),
        ("expression_column", "write KEY=VALUE"),
    ],
)
def test_mistaken_options_are_refused(published, tmp_path, capsys, setting, reason):
    with pytest.raises(SystemExit):
        _pack(published, tmp_path / "out", "--set", setting)
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_reach_the_data_set(tmp_path):
    settings = "num_subjects=2", "expressions=smile,frown", "synthetic_seed=3"
    arguments = ["--dataset", "synthetic", "--out", str(tmp_path / "out"), "--no-frames", "--set", *settings]
    assert cli.main(["pack", *arguments]) == 0
    source = PackedClips(tmp_path / "out", with_frames=False)
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
    source = PackedClips(out)
    assert [info.subject for info in source.infos] == ["P01", "P03", "P04"]
    assert [source[index].info.subject for index in range(3)] == ["P01", "P03", "P04"]
    assert [problem.kind for problem in source.manifest.skipped] == [
        "bad_score",
        "truncated_image",
        "missing_landmarks",
    ]
    assert source.manifest.official["train"] == {"P00", "P01", "P02", "P03"}


# Interruption


def _pack_slowly(root: pathlib.Path, out: pathlib.Path, size: float, signal: pathlib.Path) -> None:
    """Packs, but stays forever with the second clip of the second shard, after a sign that it has come so far."""
    from tramp_jax.data.pfed5 import PFED5

    read = PFED5.__getitem__

    def slow(self, index):
        if index == 3 and list(out.glob("clips-00001-*")):
            signal.touch()
            time.sleep(600)
        return read(self, index)

    PFED5.__getitem__ = slow
    made = config.base()
    made.data.update(datasets.options("pfed5"), root=str(root))
    packing.pack(made, datasets.Wanted(), out, round(size * 2**20), workers=1)


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
    with pytest.raises(ValueError, match="packing was interrupted; run the same"):
        datasets.open_dataset(made)

    first = out / "clips-00000-of-00003.array_record"
    written = first.stat().st_mtime_ns
    assert _pack(published, out, "--shard-size-mb", shard_mb) == 0
    assert "6 clips in 3 shards, 1 of them finished before" in capsys.readouterr().out
    assert first.stat().st_mtime_ns == written
    assert _content(out) == _content(packed)


def test_a_shard_that_changed_meanwhile_is_written_again(packed, published, shard_mb, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(packing, "_clear", lambda out: None)
        assert _pack(published, out, "--shard-size-mb", shard_mb) == 0
    (out / records.MANIFEST).unlink()  # as if it had been killed just before
    shard = out / "clips-00001-of-00003.array_record"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert _pack(published, out, "--shard-size-mb", shard_mb) == 0
    assert _content(out) == _content(packed)
