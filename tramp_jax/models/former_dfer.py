"""Former-DFER: the frame encoder (paper, RGB stream; first published for dynamic expression recognition).

Axes: B batch, F frames, H and W height and width, S sub-clips, C channels, N tokens, A attention heads.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from tramp_jax.models.layers import Array, BatchNorm, Mlp, embedding_init, layer_norm, tanh_gelu

_conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _conv(features: int, kernel: int, stride: int, name: str) -> nn.Conv:
    pad = kernel // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=stride,
        padding=((pad, pad), (pad, pad)),
        use_bias=False,
        kernel_init=_conv_init,
        name=name,
    )


class BasicBlock(nn.Module):
    """ResNet's two-convolution block: (B, H, W, C) -> (B, H / stride, W / stride, features)."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = nn.relu(BatchNorm(name="bn1")(_conv(self.features, 3, self.stride, "conv1")(x), train))
        y = BatchNorm(name="bn2")(_conv(self.features, 3, 1, "conv2")(y), train)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = _conv(self.features, 1, self.stride, "downsample_conv")(x)
            x = BatchNorm(name="downsample_bn")(x, train)
        return nn.relu(x + y)


class SelfAttention(nn.Module):
    """Multi-head self-attention whose q, k and v maps have no bias: (B, N, C) -> (B, N, C)."""

    heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        C = x.shape[-1]
        qkv = nn.Dense(3 * C, use_bias=False, name="qkv")(x)
        q, k, v = rearrange(qkv, "b n (three a d) -> three b a n d", three=3, a=self.heads)
        weights = jax.nn.softmax(q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5, axis=-1)
        return nn.Dense(C, name="proj")(rearrange(weights @ v, "b a n d -> b n (a d)"))


class TransformerLayer(nn.Module):
    """Pre-norm attention and MLP: (B, N, C) -> (B, N, C)."""

    heads: int
    mlp_dim: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x + SelfAttention(self.heads, name="attention")(layer_norm("norm_1")(x))
        return x + Mlp(self.mlp_dim, tanh_gelu, name="mlp")(layer_norm("norm_2")(x))


class SFormer(nn.Module):
    """Spatial encoder of single frames: a ResNet-18 with a transformer layer between its stages 3 and 4.

    (B, H, W, 3) -> (B, widths[3])
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    heads: int = 8
    mlp_dim: int = 512

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = nn.relu(BatchNorm(name="bn1")(_conv(self.widths[0], 7, 2, "conv1")(x), train))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage, width in enumerate(self.widths, start=1):
            if stage == 4:
                x = self._attend(x)
            for block in range(2):
                stride = 2 if stage > 1 and block == 0 else 1
                x = BasicBlock(width, stride, name=f"layer{stage}_{block}")(x, train)
        return jnp.mean(x, axis=(1, 2))

    def _attend(self, x: Array) -> Array:
        """One transformer layer over the positions of the map; called from ``__call__`` alone."""
        H, C = x.shape[1], x.shape[3]
        x = rearrange(x, "b h w c -> b (h w) c")
        x = x + self.param("pos_embedding", embedding_init, (1, x.shape[1], C))
        x = TransformerLayer(self.heads, self.mlp_dim, name="transformer")(x)
        return rearrange(x, "b (h w) c -> b h w c", h=H)


class TFormer(nn.Module):
    """Temporal encoder of a sub-clip's frame features: (B, F, C) -> (B, C), the class token after ``depth`` layers."""

    depth: int = 3
    heads: int = 8
    mlp_dim: int = 1024

    @nn.compact
    def __call__(self, x: Array) -> Array:
        B, F, C = x.shape
        cls_token = self.param("cls_token", embedding_init, (1, 1, C))
        x = jnp.concatenate([jnp.broadcast_to(cls_token, (B, 1, C)), x], axis=1)
        x = x + self.param("pos_embedding", embedding_init, (1, F + 1, C))
        for i in range(self.depth):
            x = TransformerLayer(self.heads, self.mlp_dim, name=f"layer_{i}")(x)
        return x[:, 0]


def scramble_as_released(frames: Array) -> Array:
    """What the released code feeds its frame encoder: (B, F, H, W, 3) -> the same shape, with planes out of place.

    There, clips arrive as (B, 3, F, H, W) and their memory is read as (B, F, 3, H, W): each "image" consists of
    three consecutive frames of one colour.
    """
    B, F, H, W, C = frames.shape
    planes = rearrange(frames, "b f h w c -> b c f h w").reshape(B, F, C, H, W)
    return rearrange(planes, "b f c h w -> b f h w c")


class FormerDFER(nn.Module):
    """Frames to one feature per sub-clip.

    Attributes:
      widths: channels of the four ResNet stages.
      clip_length: frames in a sub-clip.
      spatial_heads, spatial_mlp_dim: transformer layer of the S-Former.
      temporal_depth, temporal_heads, temporal_mlp_dim: the T-Former.
      scrambled_frames: reproduce the released code's frame layout (``compat.scrambled_frames``).
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    clip_length: int = 16
    spatial_heads: int = 8
    spatial_mlp_dim: int = 512
    temporal_depth: int = 3
    temporal_heads: int = 8
    temporal_mlp_dim: int = 1024
    scrambled_frames: bool = False

    @nn.compact
    def __call__(self, frames: Array, train: bool) -> tuple[Array, dict[str, Array]]:
        """Encodes frames.

        Args:
          frames: (B, F, H, W, 3) normalised RGB; F is a multiple of ``clip_length``.
          train: whether batch statistics are used and updated.

        Returns:
          Sub-clip features (B, F / clip_length, widths[3]), and the intermediate ``frame_features``
          (B, F, widths[3]).
        """
        F = frames.shape[1]
        if F % self.clip_length:
            raise ValueError(f"{F} frames cannot be cut into sub-clips of {self.clip_length}")
        if self.scrambled_frames:
            frames = scramble_as_released(frames)
        x = rearrange(frames, "b f h w c -> (b f) h w c")
        x = SFormer(self.widths, self.spatial_heads, self.spatial_mlp_dim, name="s_former")(x, train)
        frame_features = rearrange(x, "(b f) c -> b f c", f=F)
        x = rearrange(frame_features, "b (s f) c -> (b s) f c", f=self.clip_length)
        x = TFormer(self.temporal_depth, self.temporal_heads, self.temporal_mlp_dim, name="t_former")(x)
        return rearrange(x, "(b s) c -> b s c", s=F // self.clip_length), {"frame_features": frame_features}
