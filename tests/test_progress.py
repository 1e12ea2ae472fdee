"""Progress in the log of a job."""

import io
import types

import pytest

from tramp_jax import progress
from tramp_jax.progress import Progress


@pytest.fixture
def log(monkeypatch):
    """Returns stderr without a terminal, and sets a clock on which each unit takes 25 seconds."""
    stream, clock = io.StringIO(), iter(range(0, 10_000, 25))
    monkeypatch.setattr(progress, "sys", types.SimpleNamespace(stderr=stream))
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    return stream


def test_a_log_gets_a_line_a_minute_with_the_time_left(log):
    with Progress(12, "step", first=2, what="training") as bar:
        for _ in range(7):
            bar.update(note="loss 0.5")
    assert log.getvalue().splitlines() == [
        "training: step 5 of 12 (42%), loss 0.5, 02:55 left",
        "training: step 8 of 12 (67%), loss 0.5, 01:40 left",
    ]


def test_short_work_and_quiet_processes_log_nothing(log):
    assert list(progress.over(["a", "b"], "clip")) == ["a", "b"]
    with Progress(9, "step", quiet=True) as bar:
        bar.update(8)
    assert log.getvalue() == ""
