"""Caches: the same batches and losses with each, no needless reading or memory, and caches that do not fit."""

import dataclasses
import itertools
import threading
import time

import cv2
import jax
import numpy as np
import pytest

from tests import tiny
from tests.linear import LinearInAll, linear_model
from tests.raises import user_error
from tests.tiny import sized
from tramp_jax import config as defaults
from tramp_jax import sharding, trainer
from tramp_jax.batches import cache, device_cache, pipeline, view
from tramp_jax.batches.augment import for_training
from tramp_jax.data import datasets
from tramp_jax.data.clips import decode_frame, encode_frame
from tramp_jax.data.source import Split
from tramp_jax.errors import UserError
from tramp_jax.training_log import read_metrics

CACHES = defaults.OPTIONS["train"]["cache"].known


@pytest.fixture(scope="module")
def splits():
    """Frames are small, because most of these tests decode all of them."""
    drawn = datasets.split(datasets.open_dataset(tiny.get_config()), tiny.get_config(), None)
    every = drawn["train"].source
    clips = [every[index] for index in range(len(every))]
    clips = [dataclasses.replace(clip, frames=tuple(map(_smaller, clip.frames))) for clip in clips]
    source = _Watched(clips, infos=every.infos)
    return {name: Split(source, split.indices) for name, split in drawn.items()}


def _smaller(frame):
    return encode_frame(cv2.resize(decode_frame(frame), (48, 48)))


class _Watched:
    """A source that records which clips are read. ``before`` is called before each; ``change`` changes the clip."""

    def __init__(self, source, before=lambda index: None, change=lambda clip: clip, infos=None):
        self.infos, self._source, self._before, self._change = infos or source.infos, source, before, change
        self.read = []

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        self.read.append(index)
        self._before(index)
        return self._change(self._source[index])


def _watched(split, **how):
    source = _Watched(split, **how)
    return source, Split(source, range(len(split)))


def _run_clips(config, kind, splits):
    config.train.cache = kind
    return cache.build_run_clips(config, splits["train"], splits["validation"], sharding.data_mesh())


def _batches(config, kind, splits, count):
    """Batches as the training step sees them."""
    clips = _run_clips(config, kind, splits)
    iterator = iter(clips.batches(config))
    batches = [sharding.put(batch, sharding.data_mesh()) for batch in itertools.islice(iterator, count)]
    iterator.close()
    if clips.store is not None:
        sample = jax.jit(lambda store, batch: device_cache.sample(store, batch, config))
        batches = [sample(clips.store, batch) for batch in batches]
    return jax.device_get(batches)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"still": True},
        {"truncation": "last", "frame_choice": "consecutive"},
        {"frame_choice": "uniform"},
        *({"padding": padding} for padding in view.PADDINGS),
        {"padding": "zero", "frame_padding": "reflect"},
        {"padding": "spline", "frame_padding": "zero"},
        {"padding": "repeat", "length": 96},  # every clip is shorter
        {"padding": "loop", "channels": "energy"},
        {"padding": "spline", "channels": "xyrgb+speed"},
        {"padding": "reflect", "channels": "rgb+range+asymmetry"},
    ],
)
def test_every_cache_gives_the_same_batches(config, splits, change):
    change = dict(change)
    config.model.trajectory.channels, length = change.pop("channels", "xyrgb"), change.pop("length", 64)
    config.model.trajectory.input_scale = (1.0,)
    config.data.update(change)
    config.train.update(reader_threads=4, read_ahead_mb=1)
    if "padding" in change:
        config.model.rgb.num_frames = config.model.trajectory.length = length  # clips have 45 to 80
    plain, on_host, on_device = (_batches(config, kind, splits, 3) for kind in CACHES)
    assert plain[0].inputs.frames.shape == (8, config.model.rgb.num_frames, 37, 37, 3)
    for one, *others in zip(plain, on_host, on_device, strict=True):
        for other in others:
            assert jax.tree.structure(other) == jax.tree.structure(one)
            for path, array in jax.tree.leaves_with_path(one):
                (twin,) = (leaf for name, leaf in jax.tree.leaves_with_path(other) if name == path)
                assert twin.dtype == array.dtype
                np.testing.assert_array_equal(twin, array, err_msg=jax.tree_util.keystr(path))
    blanks = any(batch.inputs.frames_present is not None for batch in on_device)
    assert blanks == (change.get("frame_padding", change.get("padding")) == "zero")
    if blanks:
        missing = [batch.inputs.frames[~batch.inputs.frames_present] for batch in on_device]
        assert sum(map(len, missing)) > 0
        assert not any(map(np.any, missing))
        for_training(on_device[0].inputs, sized(config, 32), jax.random.key(0))


def test_a_batch_of_cached_clips_on_the_device_is_their_numbers(config, splits):
    iterator = iter(_run_clips(config, "device", splits).batches(config))
    batches = list(itertools.islice(iterator, 3))
    iterator.close()
    for batch in batches:
        assert isinstance(batch, pipeline.ClipNumbers)
        assert sum(array.nbytes for array in jax.tree.leaves(batch)) == 8 * 8
    positions = np.concatenate([batch.position for batch in batches])
    np.testing.assert_array_equal(positions, np.arange(24))
    shown, count = np.concatenate([batch.clip for batch in batches]).tolist(), len(splits["train"])
    assert set(shown[:count]) == set(shown[count : 2 * count]) == set(range(count))


def test_training_has_the_same_losses_with_every_cache(config, splits, tmp_path, capsys):
    config.train.epochs = 2
    rows = {}
    with linear_model(lambda _: LinearInAll()):
        for kind in CACHES:
            config.train.cache = kind
            (tmp_path / kind).mkdir()
            trainer.fit(config, splits, tmp_path / kind)
            rows[kind] = read_metrics(tmp_path / kind)
            said = capsys.readouterr().out
            assert said.count(" clips/s, input ") == 2
    losses = {
        kind: [(row["step"], row["loss"]) for row in found if row["kind"] == "train"] for kind, found in rows.items()
    }
    scores = {kind: [row["mae"] for row in found if row["kind"] == "validation"] for kind, found in rows.items()}
    assert len(set(losses["none"])) == 4
    assert losses["host"] == losses["none"]
    assert losses["device"] == losses["none"]
    assert scores["host"] == scores["device"] == scores["none"]
    for found in rows.values():
        shares = [row["waited"] for row in found if row["kind"] == "input"]
        assert len(shares) == 2
        assert all(0 <= share <= 1 for share in shares)


def test_each_clip_is_read_once_and_test_clips_never(config, splits):
    for kind in ("host", "device"):
        source, _ = _watched(splits["train"].source)
        watched = {name: Split(source, splits[name].indices) for name in splits}
        clips = _run_clips(config, kind, watched)
        assert sorted(source.read) == (sorted(splits["train"].indices) if kind == "device" else [])
        iterator = iter(clips.batches(config))
        for _ in range(4):  # two passes and more
            next(iterator)
        iterator.close()
        for _ in range(2):
            list(pipeline.evaluation_batches(clips.validation, config, 4))
        assert sorted(source.read) == sorted([*splits["train"].indices, *splits["validation"].indices])


def test_nothing_is_read_ahead_before_the_first_step(config, splits):
    source, train = _watched(splits["train"])
    clips = _run_clips(config, "none", splits | {"train": train})
    batches = trainer._host_batches(clips, config, 2)
    found = [next(batches)]
    assert len(source.read) == config.train.batch_size
    found += itertools.islice(batches, 2)
    batches.close()
    plain = iter(clips.batches(config, 2))
    for one, other in zip(found, plain, strict=False):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    plain.close()


def test_a_stream_that_the_model_does_not_read_is_not_cached(config, splits):
    config.model.streams = "trajectory"  # with colours, so the synthetic source renders frames
    assert splits["train"][0].frames is not None
    clips = _run_clips(config, "host", splits)
    assert clips.train[0].frames is None
    np.testing.assert_array_equal(clips.train[0].pixels, splits["train"][0].pixels)
    store = _run_clips(config, "device", splits).store
    assert store.frames is None
    assert store.trajectories is not None
    config.model.streams = "rgb"
    store = _run_clips(config, "device", splits).store
    assert store.trajectories is None
    assert store.frames is not None
    config.train.cache = "host"
    needed = (
        sum(info.num_frames for part in ("train", "validation") for info in splits[part].infos) * cache._POINT_BYTES
    )
    assert needed < 2**24  # with frames at the published size, 160 MB


def test_a_cached_clip_does_not_keep_its_record_in_memory(splits):
    def as_a_view(clip):  # like packed clips, whose arrays are views of a record
        return dataclasses.replace(clip, landmarks=np.concatenate([clip.landmarks] * 2)[: len(clip.landmarks)])

    _, split = _watched(splits["train"], change=as_a_view)
    assert split[0].landmarks.base is not None
    kept = cache.ClipCache(split, 37)[0]
    assert kept.landmarks.base is None
    assert not kept.frames.flags.writeable


def test_a_cache_that_does_not_fit_is_refused(config, splits, monkeypatch):
    frames = [sum(info.num_frames for info in splits[name].infos) for name in ("train", "validation")]
    needed = sum(frames) * (3 * 37**2 + cache._POINT_BYTES)
    enough = int(needed / cache.HOST_SHARE) + 1
    monkeypatch.setattr(cache, "free_host_memory", lambda: enough)
    _run_clips(config, "host", splits)
    monkeypatch.setattr(cache, "free_host_memory", lambda: enough - 2)
    with user_error("no_room", 'train.cache="host"', f"{sum(frames):,} frames", "host's memory", "70%", '"none"'):
        _run_clips(config, "host", splits)
    _run_clips(config, "none", splits)

    # The devices of a CPU use the same memory.
    monkeypatch.setattr(cache, "free_host_memory", lambda: enough)
    with user_error("no_room", 'train.cache="device"', "host's memory"):
        _run_clips(config, "device", splits)
    # Other devices have their own.
    trajectories = 63 * 5 * 4 * sum(max(info.num_frames, 64) for info in splits["train"].infos)
    enough_there = int((frames[0] * 3 * 37**2 + trajectories) / cache.DEVICE_SHARE) + 1
    monkeypatch.setattr(cache, "free_device_memory", lambda device: enough_there)
    _run_clips(config, "device", splits)
    monkeypatch.setattr(cache, "free_device_memory", lambda device: enough_there - 2)
    with user_error("no_room", 'train.cache="device"', "each device's memory", "50%", '"host" or "none"'):
        _run_clips(config, "device", splits)


def test_the_memory_of_this_machine_is_found():
    assert 2**20 < cache.free_host_memory() < 2**50
    assert cache.free_device_memory(jax.devices("cpu")[0]) is None


def test_a_limit_of_the_container_counts(monkeypatch, tmp_path):
    limit, none = tmp_path / "limit", tmp_path / "max"
    limit.write_text("123456\n")
    none.write_text("max\n")
    monkeypatch.setattr(cache, "_CONTAINER_LIMITS", (none, tmp_path / "absent"))
    assert cache.free_host_memory() > 2**20
    monkeypatch.setattr(cache, "_CONTAINER_LIMITS", (none, limit))
    assert cache.free_host_memory() == 123456


def _in_threads(*calls):
    found = [None] * len(calls)

    def run(place):
        found[place] = calls[place]()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_two_readers_of_one_clip_read_it_once(splits):
    source, split = _watched(splits["train"], before=lambda index: time.sleep(0.2))
    kept = cache.ClipCache(split, 37)
    one, two = _in_threads(lambda: kept[0], lambda: kept[0])
    assert one is two is not None
    assert source.read == [0]


def test_readers_of_two_clips_do_not_wait_for_each_other(splits):
    both = threading.Barrier(2, timeout=30)
    _, split = _watched(splits["train"], before=lambda index: both.wait())
    kept = cache.ClipCache(split, 37)
    for index, clip in enumerate(_in_threads(lambda: kept[0], lambda: kept[1])):
        stored = splits["train"][index].frames
        np.testing.assert_array_equal(clip.frames, pipeline.decoded(stored, np.arange(len(stored)), 37))


def test_a_clip_that_cannot_be_read_is_not_cached(config, splits):
    broken = {3}

    def fail(index):
        time.sleep(0.1 * (index > 3 and bool(broken)))
        if index in broken:
            raise UserError("bad_data", f"clip {index} is broken")

    source, split = _watched(splits["train"], before=fail)
    kept = cache.ClipCache(split, 37)
    with user_error("bad_data", "clip 3"):
        kept.fill(threads=1)
    assert len(source.read) < len(split)  # the rest is not read
    broken.clear()
    kept.fill(threads=1)
    assert sorted(source.read) == [0, 1, 2, 3, 3, *range(4, len(split))]


def test_another_number_of_frames_than_the_data_set_says_is_refused(splits):
    def shorter(clip):
        return dataclasses.replace(clip, frames=clip.frames[1:])

    _, split = _watched(splits["train"], change=shorter)
    listed = split.infos[0].num_frames
    with user_error("bad_data", split.infos[0].id, listed, listed - 1):
        cache.ClipCache(split, 37)[0]
    _, split = _watched(splits["train"], change=lambda clip: dataclasses.replace(clip, frames=None))
    with user_error("no_frames", split.infos[0].id, "model.streams"):
        cache.ClipCache(split, 37)[0]


class _Step:
    """The outcome of a step that ends when ``end`` is called."""

    def __init__(self):
        self._ended = threading.Event()
        self.end = self._ended.set

    def block_until_ready(self):
        assert self._ended.wait(60)
        return self


def _input(make):
    def batches():
        while True:
            yield make()

    return trainer._Prefetched(batches(), lambda batch: batch)


def test_waiting_during_a_step_is_not_counted():
    step = _Step()
    with _input(lambda: time.sleep(0.05)) as source:
        source.next(step)
        step.end()
        assert source.waited() == 0


def test_waiting_after_the_step_has_ended_is_counted():
    step = _Step()

    def make():
        time.sleep(0.3)  # during the step
        step.end()
        time.sleep(0.3)  # the device has nothing to do

    with _input(make) as source:
        started = time.perf_counter()
        source.next(step)
        passed = time.perf_counter() - started
        assert 0.03 < source.waited() <= passed - 0.3  # a busy machine sees the end of the step late
        assert source.waited() == 0  # counted once


def test_all_time_before_the_first_step_is_waiting():
    with _input(lambda: time.sleep(0.1)) as source:
        source.next()
        assert source.waited() >= 0.1


def test_a_transfer_that_outlasts_the_step_is_counted():
    step, transfer = _Step(), _Step()
    with trainer._Prefetched((number for number in range(9)), lambda batch: transfer) as source:
        source.next(step)  # returns before the batch arrives
        step.end()
        threading.Timer(0.3, transfer.end).start()
        assert 0.2 < source.waited() < 10


def test_the_next_batch_is_sent_before_the_step_ends():
    put, step = [], _Step()
    with trainer._Prefetched((number for number in range(9)), put.append) as source:
        source.next()
        source.next(step)  # returns before the step ends
        assert put == [0, 1]
        step.end()
