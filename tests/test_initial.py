"""Initial weights are drawn all at once, with the bits of a compiled ``init``."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny
from tramp_jax.models import init_variables, initial
from tramp_jax.models.layers import BatchNorm, conv_init, embedding_init


class Small(nn.Module):
    """A layer for each initialiser of the models; the dense layer has more numbers than a block."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), kernel_init=conv_init)(x)
        x = BatchNorm()(x, train=False) + self.param("embedding", embedding_init, (1, 1, 1, 4))
        return nn.Dense(3000)(x)


def model(members):
    if members == 1:
        return Small()
    kinds = {"params": 0, "batch_stats": 0}
    return nn.vmap(Small, variable_axes=kinds, split_rngs={"params": True}, in_axes=None, axis_size=members)()


@pytest.mark.parametrize("members", [1, 3])
def test_the_bits_are_those_of_a_compiled_init(members):
    init, inputs = model(members).init, (jax.random.key(5), jnp.zeros((1, 4, 4, 3)))
    compiled = jax.jit(init)
    # From JAX 0.11 on, a compiled init rounds otherwise; the drawn bits stay those of 0.10.
    rtol = 0 if jax.__version_info__ < (0, 11) else 5e-7
    same = functools.partial(np.testing.assert_allclose, rtol=rtol)
    jax.tree.map(same, initial.draw(init, *inputs), compiled(*inputs))


def test_all_draws_of_the_model_are_made_at_once(monkeypatch):
    counts = []
    draw_all = initial._draw_all
    monkeypatch.setattr(initial, "_draw_all", lambda draws: counts.append(len(draws)) or draw_all(draws))
    config = tiny.get_config()
    params = init_variables(config.model, jax.random.key(0))["params"]
    assert counts == [sum(len(np.unique(leaf)) > 1 for leaf in jax.tree.leaves(params))]


def test_the_state_of_an_optimiser_is_that_of_its_own_init():
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.constant_schedule(0.1)))
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(())}
    ours, theirs = initial.draw(adam.init, params), adam.init(params)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (one.shape, one.dtype, one.weak_type) == (other.shape, other.dtype, other.weak_type)
        np.testing.assert_array_equal(one, other)
