"""Former-DFER, the frame encoder (paper, RGB stream). First published for dynamic expression recognition.

Axes: B batch, F frames, H and W height and width, S sub-clips, C channels, N tokens, A attention heads.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from ml_collections import FrozenConfigDict

from tramp_jax.models.layers import (
    Array,
    BatchNorm,
    Conv,
    Dtype,
    Mlp,
    embedding_init,
    layer_norm,
    max_pool,
    tanh_gelu,
)


class BasicBlock(nn.Module):
    """ResNet's two-convolution block: (B, H, W, C) -> (B, H / stride, W / stride, features)."""

    features: int
    stride: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = nn.relu(BatchNorm(name="bn1")(Conv(self.features, 3, self.stride, self.dtype, name="conv1")(x), train))
        y = BatchNorm(name="bn2")(Conv(self.features, 3, 1, self.dtype, name="conv2")(y), train)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = Conv(self.features, 1, self.stride, self.dtype, name="downsample_conv")(x)
            x = BatchNorm(name="downsample_bn")(x, train)
        return nn.relu(x + y)


class SelfAttention(nn.Module):
    """Multi-head self-attention: (B, N, C) -> (B, N, C). The q, k and v maps have no bias."""

    heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        C = x.shape[-1]
        qkv = nn.Dense(3 * C, use_bias=False, dtype=self.dtype, name="qkv")(x)
        q, k, v = rearrange(qkv, "b n (three a d) -> three b a n d", three=3, a=self.heads)
        logits = (q @ k.swapaxes(-1, -2)).astype(jnp.float32) * q.shape[-1] ** -0.5
        weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
        return nn.Dense(C, dtype=self.dtype, name="proj")(rearrange(weights @ v, "b a n d -> b n (a d)"))


class TransformerLayer(nn.Module):
    """Pre-norm attention and MLP: (B, N, C) -> (B, N, C)."""

    heads: int
    mlp_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x + SelfAttention(self.heads, self.dtype, name="attention")(layer_norm("norm_1", self.dtype)(x))
        return x + Mlp(self.mlp_dim, tanh_gelu, self.dtype, name="mlp")(layer_norm("norm_2", self.dtype)(x))


class SFormer(nn.Module):
    """Spatial encoder of single frames: a ResNet-18 with a transformer layer between its stages 3 and 4.

    (B, H, W, 3) -> (B, widths[3])
    """

    widths: tuple[int, ...]
    heads: int
    mlp_dim: int
    dtype: Dtype
    remat: bool

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = nn.relu(BatchNorm(name="bn1")(Conv(self.widths[0], 7, 2, self.dtype, name="conv1")(x), train))
        x = max_pool(x)
        block_of = nn.remat(BasicBlock, static_argnums=(2,)) if self.remat else BasicBlock
        for stage, width in enumerate(self.widths, start=1):
            if stage == 4:
                x = self._attend(x)
            for block in range(2):
                stride = 2 if stage > 1 and block == 0 else 1
                x = block_of(width, stride, self.dtype, name=f"layer{stage}_{block}")(x, train)
        return jnp.mean(x, axis=(1, 2))

    def _attend(self, x: Array) -> Array:
        """One transformer layer over the positions of the feature map. Only ``__call__`` may call it."""
        H, C = x.shape[1], x.shape[3]
        x = rearrange(x, "b h w c -> b (h w) c")
        x = x + self.param("pos_embedding", embedding_init, (1, x.shape[1], C)).astype(self.dtype)
        x = TransformerLayer(self.heads, self.mlp_dim, self.dtype, name="transformer")(x)
        return rearrange(x, "b (h w) c -> b h w c", h=H)


class TFormer(nn.Module):
    """Temporal encoder of sub-clips: frame features (B, F, C) -> (B, C), the class token after ``depth`` layers."""

    depth: int
    heads: int
    mlp_dim: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        B, F, C = x.shape
        cls_token = self.param("cls_token", embedding_init, (1, 1, C))
        x = jnp.concatenate([jnp.broadcast_to(cls_token, (B, 1, C)).astype(self.dtype), x], axis=1)
        x = x + self.param("pos_embedding", embedding_init, (1, F + 1, C)).astype(self.dtype)
        for i in range(self.depth):
            x = TransformerLayer(self.heads, self.mlp_dim, self.dtype, name=f"layer_{i}")(x)
        return x[:, 0]


def scramble_as_released(frames: Array) -> Array:
    """Rearranges the planes of frames (B, F, H, W, 3) as the released code does. The shape stays.

    The released code reads memory laid out as (B, 3, F, H, W) as if it were (B, F, 3, H, W). The three colours of an
    "image" are then mostly three consecutive frames in one colour.
    """
    B, F, H, W, C = frames.shape
    planes = rearrange(frames, "b f h w c -> b c f h w").reshape(B, F, C, H, W)
    return rearrange(planes, "b f c h w -> b f h w c")


class FormerDFER(nn.Module):
    """Encodes frames to one feature per sub-clip."""

    config: FrozenConfigDict  # the ``model.rgb`` group
    dtype: Dtype  # type of the products, see ``layers``
    remat: bool  # whether to recompute the residual blocks in the backward pass instead of storing their activations

    @nn.compact
    def __call__(
        self, frames: Array | None, train: bool, frame_index: Array | None = None, frame_features: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Encodes frames (B, F, H, W, 3), F a multiple of ``clip_length``; see ``TrampFormer`` for all arguments.

        Returns:
          Sub-clip features (B, F / clip_length, widths[3]), and the intermediate ``frame_features``
          (B, F, widths[3]).
        """
        if frame_features is None:
            assert frames is not None, "the frame stream needs frames or their features"
            frame_features = self._encode_frames(frames, train, frame_index is not None)
        if frame_index is not None:
            B, (_, K, C) = len(frame_index), frame_features.shape
            frame_features = jnp.broadcast_to(frame_features, (B, K, C))
            frame_features = jnp.take_along_axis(frame_features, frame_index[:, :, None], axis=1)
        c = self.config
        x = rearrange(frame_features, "b (s f) c -> (b s) f c", f=c.clip_length)
        x = TFormer(c.temporal_depth, c.temporal_heads, c.temporal_mlp_dim, self.dtype, name="t_former")(x)
        x = rearrange(x, "(b s) c -> b s c", b=len(frame_features))
        return x.astype(jnp.float32), {"frame_features": frame_features}

    def _encode_frames(self, frames: Array, train: bool, distinct: bool) -> Array:
        """Frames (B, K, H, W, 3) -> features (B, K, widths[3]). Only ``__call__`` may call it."""
        c = self.config
        if c.scrambled_frames:
            assert not distinct, "scrambled_frames mixes neighbouring frames: pass all F frames, without frame_index"
            frames = scramble_as_released(frames)
        x = rearrange(frames, "b k h w c -> (b k) h w c").astype(self.dtype)
        s_former = SFormer(c.widths, c.spatial_heads, c.spatial_mlp_dim, self.dtype, self.remat, name="s_former")
        x = s_former(x, train)
        return rearrange(x, "(b k) c -> b k c", b=len(frames))
