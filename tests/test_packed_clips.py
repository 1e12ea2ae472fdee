"""Packed clips: records are exact and refuse what they are not, and a store reads like the data set it was made of."""

import concurrent.futures
import dataclasses
import importlib
import itertools
import json
import pathlib
import shutil

import hypothesis
import jax
import numpy as np
import pytest
from etils import epath
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests import tiny
from tests.published_layouts import write_pfed5
from tests.raises import user_error
from tramp_jax import cli
from tramp_jax import config as defaults
from tramp_jax.batches import pipeline
from tramp_jax.data import datasets, packed_clips, packing
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.data.packed_clips import PackedClips
from tramp_jax.data.source import Wanted

_TEXT = st.text(max_size=9)
_NUMBER = st.floats(allow_nan=False)


@st.composite
def _clips(draw) -> Clip:
    n = draw(st.integers(1, 3))
    info = ClipInfo(
        id=draw(_TEXT),
        subject=draw(_TEXT),
        expression=draw(_TEXT),
        score=draw(_NUMBER),
        num_frames=n,
        group=draw(_TEXT),
        targets=tuple(draw(st.lists(st.tuples(_TEXT, _NUMBER), max_size=2))),
        source=draw(_TEXT),
    )
    return Clip(
        info,
        landmarks=draw(hnp.arrays(np.float32, (n, 4, 2))),
        layout=draw(_TEXT),
        pixels=draw(st.none() | hnp.arrays(np.uint8, (n, 3, 3))),
        frames=draw(
            st.none()
            | hnp.arrays(np.uint8, (n, 2, 5, 3))
            | st.lists(st.binary(max_size=9), min_size=n, max_size=n).map(tuple)
        ),
        fps=draw(_NUMBER),
        depth=draw(st.none() | hnp.arrays(np.float32, (n, 4))),
    )


def _assert_same(a: Clip, b: Clip) -> None:
    """To the bit, NaN included."""
    assert (a.info, a.layout, a.fps) == (b.info, b.layout, b.fps)
    for name in ("landmarks", "pixels", "depth", "frames"):
        x, y = getattr(a, name), getattr(b, name)
        assert type(x) is type(y), name
        if isinstance(x, np.ndarray):
            assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), name
        else:
            assert x == y, name


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(_clips())
def test_a_record_is_exact(clip):
    record = packed_clips.encode(clip)
    _assert_same(packed_clips.decode(record), clip)
    assert packed_clips.encode(packed_clips.decode(record)) == record
    bare = packed_clips.decode(record, with_frames=False, with_pixels=False)
    _assert_same(bare, dataclasses.replace(clip, frames=None, pixels=None))


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(_clips(), st.data())
def test_a_cut_record_is_refused(clip, data):
    record = packed_clips.encode(clip)
    held = sum(x.size for x in (clip.landmarks, clip.pixels, clip.depth) if x is not None)
    assert held
    cut = data.draw(st.integers(0, len(record) - 1))
    with user_error("damaged_file"):
        packed_clips.decode(record[:cut])


def test_a_record_of_a_newer_version_is_refused(monkeypatch):
    clip = Clip(ClipInfo("a", "b", "c", 1.0, 1), np.zeros((1, 4, 2), np.float32), "")
    with monkeypatch.context() as patched:
        patched.setattr(packed_clips, "VERSION", 2)
        record = packed_clips.encode(clip)
        packed_clips.decode(record)
    with user_error("newer_version", "version 2"):
        packed_clips.decode(record)
    with user_error("damaged_file"):
        packed_clips.decode(b"\0" + record)


def test_arrays_of_another_type_are_refused():
    clip = Clip(ClipInfo("a", "b", "c", 1.0, 1), np.zeros((1, 4, 2)), "")
    with pytest.raises(ValueError, match="float64"):  # a programmer's error, so it has no kind
        packed_clips.encode(clip)


# Stores


def _pfed5(root: pathlib.Path):
    config = defaults.base()
    config.data.update(datasets.options("pfed5"), root=str(root))
    return config


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the PFED5 layout, its packed copy of three shards); not to be changed."""
    root = tmp_path_factory.mktemp("store")
    write_pfed5(root / "published", 5, 1, num_frames=8)
    size = sum(path.stat().st_size for path in (root / "published").rglob("*.jpg"))
    packing.pack(_pfed5(root / "published"), Wanted(), root / "packed", size // 3)
    return root / "published", root / "packed"


@pytest.fixture
def copy(made, tmp_path):
    """A packed copy that may be broken."""
    return pathlib.Path(shutil.copytree(made[1], tmp_path / "packed"))


def test_a_store_is_the_data_set(made):
    published, packed = (datasets.open_dataset(_pfed5(root), Wanted()) for root in made)
    assert isinstance(packed.source, PackedClips)
    assert list(packed.source.infos) == list(published.source.infos)
    assert packed.official == published.official
    for index in (3, 0, 5, -1):  # in any order
        _assert_same(packed.source[index], published.source[index])
    with pytest.raises(IndexError):
        packed.source[6]


@pytest.fixture
def bucket(monkeypatch):
    """A file system in memory, in the place of s3fs."""
    memory = pytest.importorskip("fsspec.implementations.memory")

    class Bucket(memory.MemoryFileSystem):
        protocol, store, pseudo_dirs = "s3", {}, [""]

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(str(path).removeprefix("s3:/"))

    monkeypatch.setitem(importlib.import_module("fsspec.registry")._registry, "s3", Bucket)
    opened = epath.backend.fsspec_backend._get_filesystem
    opened.cache_clear()
    yield opened("s3")
    opened.cache_clear()


def test_a_store_is_read_from_an_address(made, bucket, capsys):
    bucket.put(str(made[1]), "s3://bucket/data", recursive=True)
    published, packed = (datasets.open_dataset(_pfed5(root), Wanted()) for root in (made[0], "s3://bucket/data"))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for a, b in zip(pool.map(packed.source.__getitem__, range(6)), published.source, strict=True):
            _assert_same(a, b)
    assert cli.main(["validate", "--root", "s3://bucket/data"]) == 0
    bucket.rm("s3://bucket/data/clips-00001-of-00003.array_record")
    assert cli.main(["validate", "--root", "s3://bucket/data"]) == 1
    assert "s3://bucket/data/clips-00001-of-00003.array_record" in capsys.readouterr().out


def test_an_address_without_packed_data_is_refused(bucket):
    bucket.pipe("s3://bucket/data/clips.csv", b"path,subject")
    for root in ("s3://bucket/data", "nosuch://bucket/data"):
        with user_error("bad_path", root):
            packed_clips.is_packed(root)


def test_unwanted_parts_are_skipped(made):
    source = PackedClips(made[1], Wanted(frames=False, pixels=False))
    assert (source[0].frames, source[0].pixels) == (None, None)
    assert PackedClips(made[1], Wanted(frames=False))[0].pixels is not None


def test_threads_read_the_same(made):
    source = PackedClips(made[1], Wanted())
    order = [index % 6 for index in range(60)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda index: source[index], order))
    expected = [source[index] for index in range(6)]
    for index, clip in zip(order, read, strict=True):
        _assert_same(clip, expected[index])


def test_infos_need_no_shard(copy):
    for path in copy.glob("*.array_record"):
        path.unlink()
    source = PackedClips(copy, Wanted())
    assert [info.subject for info in source.infos] == [f"P0{i}" for i in range(6)]
    with user_error("unreadable_record", "clips-00001-of-00003.array_record, record 0"):
        source[2]


def test_one_clip_is_read_without_the_rest_of_its_shard(made, tmp_path):
    counter = pathlib.Path("/proc/self/io")
    if not counter.exists():
        pytest.skip("needs /proc/self/io, which counts the bytes that a process reads")
    packing.pack(_pfed5(made[0]), Wanted(), tmp_path / "one", 2**30)
    source = PackedClips(tmp_path / "one", Wanted())
    (shard,) = source.manifest.shards
    assert shard.records == 6

    def read() -> int:
        return int(counter.read_text().split()[1])

    source[0]  # opens the shard, which reads its index from the last MB
    before = read()
    clip = source[3]
    assert read() - before < 0.5 * shard.bytes
    assert read() - before > len(packed_clips.encode(clip))


@pytest.mark.parametrize("where", [0.02, 0.5])
def test_a_damaged_shard_is_named(copy, where):
    path = copy / "clips-00000-of-00003.array_record"
    raw = bytearray(path.read_bytes())
    size = len(packed_clips.encode(PackedClips(copy, Wanted())[0]))
    raw[int(where * size) + 200] ^= 255
    path.write_bytes(raw)
    with user_error("unreadable_record", "clips-00000-of-00003.array_record, record 0"):
        PackedClips(copy, Wanted())[0]
    PackedClips(copy, Wanted())[1]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda x: x | {"version": 2}, "newer_version"),
        (lambda x: {key: value for key, value in x.items() if key != "infos"}, "damaged_file"),
        (lambda x: x | {"shards": x["shards"][1:]}, "damaged_file"),
        (lambda x: x | {"infos": 3}, "damaged_file"),
        (lambda x: [], "damaged_file"),
    ],
)
def test_a_broken_manifest_is_refused(copy, change, kind):
    path = copy / packed_clips.MANIFEST
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with user_error(kind, "manifest.json"):
        PackedClips(copy, Wanted())


@pytest.mark.parametrize("shape", [(7, 73), (8, 3), (8, 73, 1), (0,)])
@pytest.mark.parametrize("part", ["depth", "pixels", "landmarks"])
def test_a_record_whose_arrays_do_not_fit_each_other_is_refused(made, tmp_path, monkeypatch, part, shape):
    """A store from elsewhere, whose checksums are right."""
    array = np.zeros(shape, np.uint8 if part == "pixels" else np.float32)
    encode = packed_clips.encode
    monkeypatch.setattr(packed_clips, "encode", lambda clip: encode(dataclasses.replace(clip, **{part: array})))
    packing.pack(_pfed5(made[0]), Wanted(), tmp_path / "odd", 2**30)
    with user_error("unreadable_record", "clips-00000-of-00001.array_record, record 2", str(shape)):
        PackedClips(tmp_path / "odd", Wanted())[2]


def test_another_data_set_is_refused(made):
    config = defaults.base()
    config.data.update(datasets.options("youtubepd"), root=str(made[1]))
    with user_error("bad_option", "packed", "data.root", "pfed5", "youtubepd"):
        datasets.open_dataset(config)


def test_frames_that_were_not_packed_cannot_be_wanted(made, tmp_path):
    packing.pack(_pfed5(made[0]), Wanted(frames=False), tmp_path / "bare", 2**30)
    assert PackedClips(tmp_path / "bare", Wanted(frames=False))[0].frames is None
    with user_error("bad_data", "bare", "frames"):
        PackedClips(tmp_path / "bare", Wanted())


def test_the_same_recipe_makes_the_same_batches(made, bucket):
    bucket.put(str(made[1]), "s3://bucket/data", recursive=True)
    batches = []
    for root in (*made, "s3://bucket/data"):
        config = tiny.get_config().unlock()
        config.data.update(datasets.options("pfed5"), root=str(root))
        config.data.expression = "smile"
        config.train.batch_size = 2
        dataset = datasets.open_dataset(config)
        split = datasets.split(dataset, config, None)["train"]
        iterator = iter(pipeline.training_batches(split, config))
        batches.append(list(itertools.islice(iterator, 3)))
        iterator.close()
    for expected, *others in zip(*batches, strict=True):
        for other in others:
            assert jax.tree.structure(other) == jax.tree.structure(expected)
            jax.tree.map(np.testing.assert_array_equal, other, expected)


def test_reading_ahead_is_counted_in_bytes(made):
    config = tiny.get_config().unlock()
    config.data.update(datasets.options("pfed5"), root=str(made[0]))
    batch = pipeline.batch_bytes(config, 2)
    split = datasets.split(datasets.open_dataset(config), config, None)["train"]
    config.train.batch_size = 2
    iterator = iter(pipeline.training_batches(split, config))
    arrays = next(iterator)
    iterator.close()
    assert batch == sum(array.nbytes for array in jax.tree.leaves(arrays.inputs))
    published = defaults.base()
    for budget, batches in ((1, 1), (256, 4), (640, 10), (10_000, 16)):
        published.train.read_ahead_mb = budget
        assert pipeline.read_ahead(published, 4) == batches
