"""Fusion of the two streams: the paper's TraMP blocks, and the alternatives in its Table VI.

Axes: B batch, Q query tokens, K key tokens, C channels, A attention heads, D channels per head.

To add a strategy, add a ``Fusion`` to ``FUSIONS``, its name to ``model.fusion.name`` in ``tramp_jax.config`` and its
ONNX nodes to ``tramp_jax.export.fusion_graph``. Late fusion, which joins scores instead of features, is in
``tramp_former``.
"""

from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from tramp_jax.models.layers import Array, Dtype, Mlp, layer_norm

Query = Literal["rgb", "trajectory"]
Tokens = Literal["mean", "sequence"]


class CrossAttention(nn.Module):
    """Multi-head attention of ``x`` (B, Q, C) to ``y`` (B, K, C) -> (B, Q, C). The q, k and v maps have no bias.

    With a single key, as published, the softmax is 1. The q and k maps then have no effect and no gradient, and are not
    computed. Their parameters exist nevertheless, because the published weights include them.
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
    """Adds attention to the other stream ``y`` (B, K, C), then an MLP, to the tokens ``x`` (B, Q, C)."""

    heads: int
    mlp_ratio: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, y: Array) -> Array:
        attention = CrossAttention(self.heads, self.dtype, name="attention")
        x = x + attention(layer_norm("norm_q", self.dtype)(x), layer_norm("norm_v", self.dtype)(y))
        mlp = Mlp(self.mlp_ratio * x.shape[-1], dtype=self.dtype, name="mlp")
        return x + mlp(layer_norm("norm_2", self.dtype)(x))


class Fusion(nn.Module):
    """A strategy: RGB tokens (B, Q, C), trajectory tokens (B, K, C) -> tokens (B, N, C), whose mean is the feature."""

    # Whether the strategy has attention. Only then do heads matter, and can a stream have several tokens.
    attends: ClassVar[bool] = False
    depth: int  # number of blocks; unused by strategies without blocks
    heads: int  # option of the blocks, unused like ``depth``
    mlp_ratio: int  # option of the blocks, unused like ``depth``
    query: Query  # the stream that attends to the other one; only ``TrampFusion`` uses it
    # "mean": one token per stream, its feature, so Q = K = 1; "sequence": a token for each sub-clip of the frames and
    # for each moment of the trajectory encoder's last stage. Only for strategies with attention.
    tokens: Tokens
    dtype: Dtype  # type of the products, see ``layers``


class TrampFusion(Fusion):
    """A stack of TraMP blocks, published with the RGB feature as the query. N is the number of queries."""

    attends = True

    @nn.compact
    def __call__(self, rgb: Array, trajectory: Array) -> Array:
        x, y = (rgb, trajectory) if self.query == "rgb" else (trajectory, rgb)
        for i in range(self.depth):
            x = TrampBlock(self.heads, self.mlp_ratio, self.dtype, name=f"block_{i}")(x, y)
        return x


class ConcatenationFusion(Fusion):
    """Both features side by side, then one linear map to the width of one: Q = K = N = 1."""

    @nn.compact
    def __call__(self, rgb: Array, trajectory: Array) -> Array:
        return nn.Dense(rgb.shape[-1], dtype=self.dtype, name="linear")(jnp.concatenate([rgb, trajectory], axis=-1))


class SumFusion(Fusion):
    """The sum of both features, without parameters: Q = K = N = 1."""

    def __call__(self, rgb: Array, trajectory: Array) -> Array:
        return rgb + trajectory


class CrossFusion(Fusion):
    """Bidirectional cross-fusion: in every block, RGB attends to the trajectory, then the trajectory to that RGB.

    Both directions share their weights. The N = 2 tokens are each stream's mean token. This is the idea of QAFE-Net
    (Duan et al., 2023). The exact form in the paper's Table VI is unknown.
    """

    attends = True

    @nn.compact
    def __call__(self, rgb: Array, trajectory: Array) -> Array:
        for i in range(self.depth):
            block = TrampBlock(self.heads, self.mlp_ratio, self.dtype, name=f"cross_block_{i}")
            rgb = block(rgb, trajectory)
            trajectory = block(trajectory, rgb)
        return jnp.concatenate([jnp.mean(x, axis=1, keepdims=True) for x in (rgb, trajectory)], axis=1)


FUSIONS = {"tramp": TrampFusion, "concatenation": ConcatenationFusion, "sum": SumFusion, "cross": CrossFusion}
