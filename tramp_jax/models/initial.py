"""Draws initial weights with two small programs.

XLA compiles every random draw of a model's ``init`` separately, which takes ten seconds or more. Here, all draws share
a program that fills blocks of random bits and one that turns them into numbers. In JAX, a random number depends only on
the key and the number's position, so the weights are those of a compiled ``init``: bit for bit in JAX 0.10, up to the
last digit in newer versions. The weights drawn here have the same bits in every version.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

_BLOCK = 1 << 13
_PARTS = 16  # of equal size, so that one program computes them all
_NORMAL, _TRUNCATED = "_normal", "_truncated_normal"  # jitted functions that draw; any other is compiled separately
_INFINITY, _ROOT_2 = np.float32(np.inf), np.float32(2**0.5)
# What initialisers do with their draws. NumPy computes the same bits, because IEEE 754 fixes how these are rounded.
_EXACT: dict[str, Callable[..., Any]] = {"mul": np.multiply, "div": np.divide, "sqrt": np.sqrt}


def draw(init: Callable[..., Any], *inputs: Any) -> Any:
    """Returns ``init(*inputs)``, without computing what its result does not depend on, such as a module's output.

    It evaluates the operations of ``init`` one by one: first those that depend on no draw, then all draws together,
    then the rest.

    Args:
      init: the ``init`` of a flax module or an optimiser.
      inputs: trees of arrays: for a module, a random key and its inputs, which may be mere shapes and types.
    """
    closed, shapes = jax.make_jaxpr(init, return_shape=True)(*inputs)
    jaxpr, used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    given = [value for value, needed in zip(jax.tree.leaves(inputs), used, strict=True) if needed]
    values = dict(zip([*jaxpr.invars, *jaxpr.constvars], [*given, *closed.consts], strict=True))

    unscaled: set[Any] = set()  # draws whose numbers still lack the factor √2

    def read(variable: Any) -> Any:
        if isinstance(variable, core.Literal):
            return np.asarray(variable.val, variable.aval.dtype)  # type: ignore[attr-defined]
        return values[variable] * _ROOT_2 if variable in unscaled else values[variable]

    def compute(equation: Any) -> None:
        first, *others = equation.invars
        if equation.primitive.name == "mul" and not isinstance(first, core.Literal) and first in unscaled:
            # As XLA does: the product of the two constants first.
            found: Sequence[Any] = [values[first] * (_ROOT_2 * read(others[0]))]
        else:
            found = _evaluate(equation, [*map(read, equation.invars)])
        values.update(zip(equation.outvars, found, strict=True))

    draws: list[Any] = []
    later: list[Any] = []
    for equation in jaxpr.eqns:
        if equation.params.get("name") in (_NORMAL, _TRUNCATED):
            draws.append(equation)
        elif all(isinstance(variable, core.Literal) or variable in values for variable in equation.invars):
            compute(equation)
        else:
            later.append(equation)
    drawn = _draw_all([_Draw.of(*map(read, each.invars), shape=each.outvars[0].aval.shape) for each in draws])
    values.update((each.outvars[0], numbers) for each, numbers in zip(draws, drawn, strict=True))
    unscaled.update(each.outvars[0] for each in draws if each.params["name"] == _NORMAL)
    for equation in later:
        compute(equation)
    leaves = jax.device_put([read(variable) for variable in jaxpr.outvars])  # jnp.asarray would compile a copy
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def _evaluate(equation: Any, inputs: Sequence[Any]) -> Sequence[Any]:
    """The results of one operation."""
    name = equation.primitive.name
    if name in _EXACT:
        return [_EXACT[name](*inputs)]
    if name == "broadcast_in_dim" and not np.ndim(inputs[0]):
        return [np.broadcast_to(inputs[0], equation.params["shape"])]
    found = equation.primitive.bind(*inputs, **equation.params)
    return found if equation.primitive.multiple_results else [found]


class _Draw(NamedTuple):
    """An array of normal random numbers."""

    keys: np.ndarray  # (K, words), one for each of K equal parts of the array
    # (5,) lower and upper limit of the uniform numbers that become normal ones, a factor, and lower and upper limit of
    # the result
    limits: np.ndarray
    shape: tuple[int, ...]

    @classmethod
    def of(cls, key: jax.Array, low: Any = None, high: Any = None, *, shape: tuple[int, ...]) -> "_Draw":
        """A draw between ``low`` and ``high``. If they are None, it has no limits and still lacks the factor √2."""
        words = np.asarray(jax.random.key_data(key))
        limits = [np.nextafter(np.float32(-1), np.float32(0)), 1, 1, -_INFINITY, _INFINITY]
        if low is not None:
            low, high = np.float32(low), np.float32(high)
            limits = [jax.lax.erf(low / _ROOT_2), jax.lax.erf(high / _ROOT_2), _ROOT_2]
            limits += [np.nextafter(low, _INFINITY), np.nextafter(high, -_INFINITY)]
        return cls(words.reshape(-1, words.shape[-1]), np.array(limits, np.float32), shape)

    @property
    def blocks(self) -> int:
        """Number of blocks for each key."""
        return -(-math.prod(self.shape) // (len(self.keys) * _BLOCK))


def _draw_all(draws: Sequence[_Draw]) -> list[np.ndarray]:
    """The numbers of all draws, computed over the blocks of all of them at once."""
    if not draws:
        return []
    keys = np.concatenate([np.repeat(each.keys, each.blocks, axis=0) for each in draws])
    firsts = np.concatenate([np.tile(_BLOCK * np.arange(each.blocks), len(each.keys)) for each in draws])
    counts = [len(each.keys) * each.blocks for each in draws]
    limits = np.repeat([each.limits for each in draws], counts, axis=0)
    whole = -(-len(keys) // _PARTS) * _PARTS  # the last blocks are spare
    keys, firsts, limits = (np.resize(x, (whole, *x.shape[1:])) for x in (keys, firsts, limits))
    bits = np.asarray(jax.jit(_bits)(keys, firsts.astype(np.uint32)))
    # Not optimised, because optimised code may round sums of products differently, which would change the weights of
    # every seed.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    program = jax.jit(_normal_numbers, compiler_options=options)
    with ThreadPoolExecutor() as threads:  # each part uses one thread
        inputs = (np.split(x, _PARTS) for x in (bits, limits))
        numbers = np.concatenate(list(threads.map(lambda *part: np.asarray(program(*part)), *inputs)))
    parts = np.split(numbers[: sum(counts)], np.cumsum(counts)[:-1])
    return [
        part.reshape(len(each.keys), -1)[:, : math.prod(each.shape) // len(each.keys)].reshape(each.shape)
        for each, part in zip(draws, parts, strict=True)
    ]


def _bits(keys: jax.Array, firsts: jax.Array) -> jax.Array:
    """Random bits (N, _BLOCK): for each of N keys, those of the numbers from position ``firsts`` on."""

    def block(key_and_first: tuple[jax.Array, jax.Array]) -> jax.Array:
        words, first = key_and_first
        positions = first + jnp.arange(_BLOCK, dtype=jnp.uint32)
        # jax.random makes the bits of its n-th number from the two words of fold_in(key, n).
        folded = jax.random.key_data(
            jax.vmap(jax.random.fold_in, (None, 0))(jax.random.wrap_key_data(words), positions)
        )
        return folded[:, 0] ^ folded[:, 1]

    return jax.lax.map(block, (keys, firsts))


def _normal_numbers(bits: jax.Array, limits: jax.Array) -> jax.Array:
    """Normal numbers (N, _BLOCK) from random bits of that shape, within ``limits`` (N, 5)."""

    def block(bits_and_limits: tuple[jax.Array, jax.Array]) -> jax.Array:
        bits, (low, high, factor, least, most) = bits_and_limits
        between_1_and_2 = jax.lax.bitcast_convert_type(bits >> 9 | 0x3F800000, jnp.float32)
        uniform = jnp.maximum(low, (between_1_and_2 - 1) * (high - low) + low)
        return jnp.clip(factor * jax.lax.erf_inv(uniform), least, most)

    return jax.lax.map(block, (bits, limits))
