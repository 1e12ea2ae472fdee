"""Random choices with the same bits in NumPy and in JAX, on every backend.

A sample's choices depend only on the seed and on its position in the endless order of training samples. The generator
is the counter-based Threefry-2x32 with 20 rounds (Salmon et al. 2011), so reader threads on the host and the training
step on the device make the same choices, in any order.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_LARGEST = np.uint32(0xFFFFFFFF)

# What a choice is for. Each purpose has its own random words.
FRAMES, TRAJECTORY = 0, 1


def threefry(key: tuple[Any, Any], counter: tuple[Any, Any]) -> tuple[Any, Any]:
    """Two random words from a key of two words and a counter of two words.

    All are uint32 arrays, NumPy or JAX, that broadcast together; not NumPy scalars, which would warn about the intended
    overflow.
    """
    keys = (*key, key[0] ^ key[1] ^ _PARITY)
    x, y = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(5):
        for bits in _ROTATIONS[group % 2]:
            x = x + y
            y = (y << bits | y >> (32 - bits)) ^ x
        x, y = x + keys[(group + 1) % 3], y + keys[(group + 2) % 3] + (group + 1)
    return x, y


class Draw(NamedTuple):
    """The random choices of one sample, or of several at once."""

    seed: int  # the run's seed
    position: Any  # the sample's number in the order of training, below 2**32; for several, a (...,) uint32 JAX array

    def words(self, purpose: int, count: int) -> Any:
        """Random words (..., count) uint32. With a larger ``count``, the first words are the same."""
        xp: Any = jnp if isinstance(self.position, jax.Array) else np
        seed = xp.full(1, self.seed & 0xFFFFFFFF, xp.uint32)
        position = xp.asarray(self.position, xp.uint32)[..., None]
        return threefry((seed, position), (xp.arange(count, dtype=xp.uint32), xp.full(1, purpose, xp.uint32)))[0]

    def run(self, purpose: int, n: Any, length: int) -> Any:
        """Numbers (..., length) of consecutive frames out of ``n`` (...,). All runs are equally likely.

        Undefined if ``n`` < ``length``.
        """
        word = self.words(purpose, 1)
        xp: Any = jnp if isinstance(word, jax.Array) else np
        runs = xp.asarray(xp.maximum(n - length + 1, 1), xp.uint32)[..., None]
        return (word % runs).astype(xp.int32) + xp.arange(length)

    def subset(self, purpose: int, n: Any, count: int, limit: int) -> Any:
        """Numbers (..., count), in order, of different frames out of ``n`` (...,) <= ``limit``.

        All subsets are equally likely. ``limit`` does not change the outcome. Undefined if ``n`` < ``count``.
        """
        words = self.words(purpose, limit)
        xp: Any = jnp if isinstance(words, jax.Array) else np
        words = xp.where(xp.arange(limit) < xp.asarray(n)[..., None], words, _LARGEST)
        return xp.sort(xp.argsort(words, axis=-1, stable=True)[..., :count], axis=-1)
