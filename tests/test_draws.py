"""Random choices: the published generator, the same on host and device, all choices equally likely."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tramp_jax.batches import draws
from tramp_jax.batches.draws import Draw


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [  # published answers for 20 rounds
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_the_generator_gives_the_published_answers(key, counter, words):
    for xp in (np, jnp):
        pairs = [tuple(xp.array([word], xp.uint32) for word in pair) for pair in (key, counter)]
        assert tuple(int(x[0]) for x in draws.threefry(*pairs)) == words


def test_host_and_device_choose_alike():
    positions = np.array([0, 1, 2, 77, 2**31, 2**32 - 1], np.uint32)
    n = np.array([80, 81, 150, 90, 200, 133])

    @jax.jit
    def on_device(positions, n):
        draw = Draw(5, positions)
        return draw.subset(draws.FRAMES, n, 80, 200), draw.run(draws.TRAJECTORY, n, 64)

    subsets, runs = on_device(positions, n)
    for position, count, subset, run in zip(positions.tolist(), n.tolist(), subsets, runs, strict=True):
        draw = Draw(5, position)
        np.testing.assert_array_equal(draw.subset(draws.FRAMES, count, 80, count), subset)
        np.testing.assert_array_equal(draw.run(draws.TRAJECTORY, count, 64), run)


def test_all_choices_are_equally_likely():
    draw = Draw(3, jnp.arange(6000, dtype=jnp.uint32))
    subsets = collections.Counter(map(tuple, np.asarray(draw.subset(draws.FRAMES, jnp.full(6000, 5), 3, 8)).tolist()))
    assert set(subsets) == set(itertools.combinations(range(5), 3))
    starts = collections.Counter(np.asarray(draw.run(draws.TRAJECTORY, jnp.full(6000, 13), 4))[:, 0].tolist())
    assert set(starts) == set(range(10))
    for counts in (subsets, starts):  # 600 each, with a standard deviation of 23
        assert max(abs(count - 600) for count in counts.values()) < 120


def test_choices_depend_on_seed_position_and_purpose():
    words = [Draw(*of).words(purpose, 4).tolist() for of in ((0, 0), (0, 1), (1, 0)) for purpose in (0, 1)]
    assert len(set(map(tuple, words))) == 6
    assert Draw(-1, 0).words(0, 4).tolist() == Draw(2**32 - 1, 0).words(0, 4).tolist()
