"""TraMP fusion: the RGB feature attends to the trajectory feature (paper, TraMP blocks).

Axes: B batch, Q query tokens, K key tokens, C channels, A attention heads, D channels per head.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from tramp_jax.models.layers import Array, Mlp, layer_norm


class CrossAttention(nn.Module):
    """Multi-head attention of ``x`` (B, Q, C) to ``y`` (B, K, C) -> (B, Q, C); q, k, v maps without bias.

    With the published single key the softmax is 1, so that the q and k maps neither matter nor get a gradient.
    """

    heads: int

    @nn.compact
    def __call__(self, x: Array, y: Array) -> Array:
        C = x.shape[-1]

        def project(z: Array, name: str) -> Array:
            z = nn.Dense(C, use_bias=False, name=name)(z)
            return rearrange(z, "b n (a d) -> b a n d", a=self.heads)

        q, k, v = project(x, "q"), project(y, "k"), project(y, "v")
        weights = jax.nn.softmax(jnp.einsum("baqd,bakd->baqk", q, k) * q.shape[-1] ** -0.5, axis=-1)
        x = rearrange(jnp.einsum("baqk,bakd->baqd", weights, v), "b a q d -> b q (a d)")
        return nn.Dense(C, name="proj")(x)


class TrampBlock(nn.Module):
    """x + attention to the trajectory, then x + MLP. Only the RGB tokens ``x`` are updated."""

    heads: int
    mlp_ratio: int

    @nn.compact
    def __call__(self, x: Array, trajectory: Array) -> Array:
        attention = CrossAttention(self.heads, name="attention")
        x = x + attention(layer_norm("norm_q")(x), layer_norm("norm_v")(trajectory))
        return x + Mlp(self.mlp_ratio * x.shape[-1], name="mlp")(layer_norm("norm_2")(x))


class TrampFusion(nn.Module):
    """A stack of TraMP blocks: RGB (B, Q, C) and trajectory (B, K, C) tokens -> (B, Q, C)."""

    depth: int = 3
    heads: int = 8
    mlp_ratio: int = 4

    @nn.compact
    def __call__(self, rgb: Array, trajectory: Array) -> Array:
        for i in range(self.depth):
            rgb = TrampBlock(self.heads, self.mlp_ratio, name=f"block_{i}")(rgb, trajectory)
        return rgb
