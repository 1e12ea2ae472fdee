"""TraMP-Former (paper, Figure 2): two encoders, a fusion and a head; and its encoders as published on their own."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from tramp_jax.models.former_dfer import FormerDFER
from tramp_jax.models.fusion import TrampFusion
from tramp_jax.models.layers import Array
from tramp_jax.models.skateformer import SkateFormer

Streams = Literal["both", "rgb", "trajectory"]
Outputs = dict[str, Array]


class Head(nn.Module):
    """MLP with ReLU from features (B, C) to scores.

    Attributes:
      hidden: widths of the hidden layers; () for a linear head.
      num_classes: 0 for a regression score (B,); else class logits (B, num_classes).
    """

    hidden: tuple[int, ...] = (128, 64)
    num_classes: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, width in enumerate(self.hidden, start=1):
            x = nn.relu(nn.Dense(width, name=f"layer{i}")(x))
        x = nn.Dense(self.num_classes or 1, name=f"layer{len(self.hidden) + 1}")(x)
        return x if self.num_classes else x[:, 0]


class TrampFormer(nn.Module):
    """The whole model.

    Attributes:
      trajectory_encoder, rgb_encoder, fusion, head: the parts; an unused one may be None.
      width: of the fused feature; the RGB feature is mapped to it, the trajectory feature has it already.
      streams: which inputs are read. With one stream the head sits on that stream's feature.
    """

    trajectory_encoder: SkateFormer | None
    rgb_encoder: FormerDFER | None
    fusion: TrampFusion | None
    head: Head
    width: int = 256
    streams: Streams = "both"

    @nn.compact
    def __call__(
        self,
        frames: Array | None,
        trajectories: Array | None,
        index_t: Array | None,
        train: bool = False,
        frame_index: Array | None = None,
        dropout: bool = False,
        frame_features: Array | None = None,
    ) -> tuple[Array, Outputs]:
        """Scores clips.

        Args:
          frames: (B, F, H, W, 3) RGB, normalised by ImageNet's mean and standard deviation; with ``frame_index``, the
            K distinct frames of each clip (B, K, H, W, 3), which give the same scores at the cost of K; or
            (1, K, H, W, 3), shared by all.
          trajectories: (B, T, V, C), x and y in pixels relative to the nose tip, then r, g, b in 0-255.
          index_t: (B, T) frame positions in [-1, 1).
          train: whether dropout, stochastic depth and batch statistics are on.
          frame_index: (B, F) which of its clip's distinct frames each frame is.
          dropout: whether dropout and stochastic depth are on without ``train``, for Monte-Carlo draws.
          frame_features: (B, K, channels) or (1, K, channels), the output of the S-Former if it is known; replaces
            ``frames``.

        Returns:
          The score (B,) or class logits (B, num_classes); and named intermediates, of which
          ``trajectory_features`` (B, width), ``subclip_features`` (B, F / 16, 512) and ``rgb_features`` (B, width)
          belong to the streams in use.
        """
        out: Outputs = {}
        if self.trajectory_encoder is not None:
            assert trajectories is not None, "the trajectory stream needs trajectories and index_t"
            assert index_t is not None
            features, stages = self.trajectory_encoder(trajectories, index_t, train, dropout)
            out |= stages | {"trajectory_features": features}
        if self.rgb_encoder is not None:
            subclips, stages = self.rgb_encoder(frames, train, frame_index, frame_features)
            rgb = jnp.mean(nn.Dense(self.width, name="rgb_projection")(subclips), axis=1)
            out |= stages | {"subclip_features": subclips, "rgb_features": rgb}
        if self.fusion is not None:
            trajectory = out["trajectory_features"]
            rgb = jnp.broadcast_to(out["rgb_features"], trajectory.shape)  # one clip's frames, several trajectories
            fused = self.fusion(rgb[:, None], trajectory[:, None])
            out["fused_features"] = fused[:, 0]
        feature = {"both": "fused_features", "rgb": "rgb_features", "trajectory": "trajectory_features"}
        return self.head(out[feature[self.streams]].astype(jnp.float32)), out


class SkateFormerClassifier(nn.Module):
    """The trajectory encoder with a linear head, as published for skeleton actions and for pre-training."""

    trajectory_encoder: SkateFormer
    head: Head

    def __call__(
        self,
        frames: Array | None,
        trajectories: Array,
        index_t: Array,
        train: bool = False,
        frame_index: Array | None = None,
        dropout: bool = False,
        frame_features: Array | None = None,
    ) -> tuple[Array, Outputs]:
        """Like ``TrampFormer``, but reads no frames."""
        features, out = self.trajectory_encoder(trajectories, index_t, train, dropout)
        return self.head(features), out | {"trajectory_features": features}


class FormerDFERClassifier(nn.Module):
    """The frame encoder with a linear head on the mean sub-clip, as published for expression recognition."""

    rgb_encoder: FormerDFER
    head: Head

    def __call__(
        self,
        frames: Array | None,
        trajectories: Array | None,
        index_t: Array | None,
        train: bool = False,
        frame_index: Array | None = None,
        dropout: bool = False,
        frame_features: Array | None = None,
    ) -> tuple[Array, Outputs]:
        """Like ``TrampFormer``, but reads no trajectories and has no dropout."""
        subclips, out = self.rgb_encoder(frames, train, frame_index, frame_features)
        return self.head(jnp.mean(subclips, axis=1)), out | {"subclip_features": subclips}
