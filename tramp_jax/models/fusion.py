"""TraMP fusion: the RGB feature attends to the trajectory feature (paper, TraMP blocks).

Axes: B batch, Q query tokens, K key tokens, C channels, A attention heads, D channels per head.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from tramp_jax.models.layers import Array, Dtype, Mlp, layer_norm


class CrossAttention(nn.Module):
    """Multi-head attention of ``x`` (B, Q, C) to ``y`` (B, K, C) -> (B, Q, C). The q, k and v maps have no bias.

    With a single key, as published, the softmax is 1, so the q and k maps have no effect and no gradient and are not
    computed. The published weights include them, so the parameters stay.
    """

    heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, y: Array) -> Array:
        Q, C = x.shape[1:]
        q_map, k_map, v_map = (nn.Dense(C, use_bias=False, dtype=self.dtype, name=name) for name in "qkv")
        if y.shape[1] == 1 and not self.is_initializing():
            return nn.Dense(C, dtype=self.dtype, name="proj")(jnp.repeat(v_map(y), Q, axis=1))
        q, k, v = (rearrange(z, "b n (a d) -> b a n d", a=self.heads) for z in (q_map(x), k_map(y), v_map(y)))
        logits = jnp.einsum("baqd,bakd->baqk", q, k).astype(jnp.float32) * q.shape[-1] ** -0.5
        weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
        x = rearrange(jnp.einsum("baqk,bakd->baqd", weights, v), "b a q d -> b q (a d)")
        return nn.Dense(C, dtype=self.dtype, name="proj")(x)


class TrampBlock(nn.Module):
    """Adds attention to the trajectory, then an MLP, to the RGB tokens ``x``. The trajectory stays as it is."""

    heads: int
    mlp_ratio: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, trajectory: Array) -> Array:
        attention = CrossAttention(self.heads, self.dtype, name="attention")
        x = x + attention(layer_norm("norm_q", self.dtype)(x), layer_norm("norm_v", self.dtype)(trajectory))
        mlp = Mlp(self.mlp_ratio * x.shape[-1], dtype=self.dtype, name="mlp")
        return x + mlp(layer_norm("norm_2", self.dtype)(x))


class TrampFusion(nn.Module):
    """A stack of TraMP blocks: RGB (B, Q, C) and trajectory (B, K, C) tokens -> (B, Q, C)."""

    depth: int = 3
    heads: int = 8
    mlp_ratio: int = 4
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, rgb: Array, trajectory: Array) -> Array:
        for i in range(self.depth):
            rgb = TrampBlock(self.heads, self.mlp_ratio, self.dtype, name=f"block_{i}")(rgb, trajectory)
        return rgb
