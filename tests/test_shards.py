"""Work divided between the jobs of an array."""

import argparse
import itertools

import pytest

from tests.raises import user_error
from tramp_jax import shards


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12])
def test_shards_divide_the_work_and_keep_its_order(count):
    items = list(range(10))
    parts = [shards.parse(f"{number}/{count}").take(items) for number in range(1, count + 1)]
    assert sorted(itertools.chain(*parts)) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert shards.interleaved(parts) == items


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "-1/4", "1", "a/b", "1/2/3", ""])
def test_a_shard_counts_from_1(text):
    with user_error("bad_option", "--shard", text):
        shards.parse(text)


def test_there_are_at_most_as_many_jobs_as_inputs():
    assert [shards.number_of_jobs(argparse.Namespace(jobs=jobs), 3) for jobs in (1, 2, 8)] == [1, 2, 3]
    with user_error("bad_option", "--jobs", 0):
        shards.number_of_jobs(argparse.Namespace(jobs=0), 3)


def test_processes_share_the_cores(monkeypatch):
    usable = shards.cores()
    for job, share in (("1/1", usable), ("2/2", max(1, usable // 2)), ("1/999", 1)):
        monkeypatch.setenv(shards._JOB, job)
        assert shards.cores() == share


def test_parts_are_found_in_order_and_missing_ones_are_named(tmp_path):
    whole = tmp_path / "scores.csv"
    with user_error("missing_file", whole):
        shards.collected(whole)
    paths = [shards.parse(f"{number}/11").path(whole) for number in range(1, 12)]
    for path in paths:
        path.touch()
    (tmp_path / "others.shard-1-of-2.csv").touch()
    assert shards.collected(whole) == paths
    paths[2].unlink()
    with user_error("missing_file", "3/11"):
        shards.collected(whole)
    paths[2].touch()
    shards.parse("1/2").path(whole).touch()
    with user_error("bad_option", "2 and 11"):
        shards.collected(whole)
