"""What ``tests.soak`` makes of its samples; the long runs themselves take minutes and are started by hand."""

import dataclasses
import mmap
import os
from concurrent import futures

import pytest

from tests import soak


def samples(**grown):
    """A process that is level but for what grows from its middle to its end by this much."""
    level = [soak.Sample(done / 90, 500.0, 40, 20) for done in range(91)]
    return [
        dataclasses.replace(s, **{name: getattr(s, name) + by * (s.done > 2 / 3) for name, by in grown.items()})
        for s in level
    ]


@pytest.mark.parametrize(("name", "by"), [("megabytes", 60.0), ("files", 10), ("threads", 8)])
def test_what_grows_is_named(name, by):
    assert soak.judge(samples(**{name: by}), 1.0).grown == [name]
    assert soak.judge(samples(**{name: by / 10}), 1.0).grown == []


def test_slower_frames_are_named():
    found = soak.judge(samples(), 1.0)
    assert dataclasses.replace(found, frame_ms=(10.0, 20.0)).grown == ["frame_ms"]
    assert dataclasses.replace(found, frame_ms=(10.0, 11.0)).grown == []


def test_this_process_can_be_sampled():
    before = soak.sample(os.getpid(), 0.0)
    block = mmap.mmap(-1, 1 << 26)  # fresh memory: a large process may have as much to spare
    block.write(bytes(1 << 26))
    with open(os.devnull) as file, futures.ThreadPoolExecutor(1) as pool:
        pool.submit(len, block).result()
        after = soak.sample(os.getpid(), 0.0)
        assert after.files >= before.files + 1, file
        assert after.threads >= before.threads + 1
    assert after.megabytes - before.megabytes > 32, len(block)
