"""TraMP-Former (paper, Figure 2): two encoders, a fusion and a head; or one encoder by itself, as first published."""

import flax.linen as nn
import jax.numpy as jnp

from tramp_jax.models.former_dfer import FormerDFER
from tramp_jax.models.fusion import Fusion
from tramp_jax.models.layers import Array, embedding_init
from tramp_jax.models.skateformer import SkateFormer

Outputs = dict[str, Array]


class Head(nn.Module):
    """MLP with ReLU from features (B, C) to scores (B,) or class logits (B, num_classes)."""

    hidden: tuple[int, ...]  # widths of the hidden layers; () for a linear head
    num_classes: int  # 0 for a score

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, width in enumerate(self.hidden, start=1):
            x = nn.relu(nn.Dense(width, name=f"layer{i}")(x))
        x = nn.Dense(self.num_classes or 1, name=f"layer{len(self.hidden) + 1}")(x)
        return x if self.num_classes else x[:, 0]


class TrampFormer(nn.Module):
    """The whole model, or one encoder with a head on its feature."""

    trajectory_encoder: SkateFormer | None  # None if unused
    rgb_encoder: FormerDFER | None  # None if unused
    fusion: Fusion | None  # None if unused
    head: Head
    # Only for late fusion, where each stream has its own head; ``head`` then reads the RGB feature.
    trajectory_head: Head | None
    # Channels of the fused feature. The trajectory feature already has this width; the RGB feature is projected. None
    # for no projection, as in the published Former-DFER.
    width: int | None

    @nn.compact
    def __call__(
        self,
        frames: Array | None,
        trajectories: Array | None,
        index_t: Array | None,
        train: bool = False,
        frame_index: Array | None = None,
        frame_features: Array | None = None,
    ) -> tuple[Array, Outputs]:
        """Scores clips.

        Args:
          frames: (B, F, H, W, 3) RGB, normalised by ImageNet's mean and standard deviation. With ``frame_index``, only
            the K distinct frames of each clip (B, K, H, W, 3), or (1, K, H, W, 3) if all clips share them. This gives
            the same scores at the cost of K frames.
          trajectories: (B, T, V, C): x and y in pixels relative to the nose tip, then r, g, b in 0-255.
          index_t: (B, T) frame positions in [-1, 1).
          train: whether dropout, stochastic depth and batch statistics are on.
          frame_index: (B, F) number of the distinct frame at each place.
          frame_features: (B, K, channels) or (1, K, channels) output of the S-Former, if known; replaces ``frames``.

        Returns:
          Two results. First, the scores (B,) or class logits (B, num_classes); in training with late fusion, those of
          each stream, (B, 2) or (B, 2, num_classes), so that each stream has its own loss. Second, named intermediates,
          such as ``subclip_features`` (B, F / 16, 512), ``rgb_tokens`` (B, F / 16, width) and ``trajectory_tokens``
          (B, T', width), and their means ``rgb_features`` and ``trajectory_features`` (B, width).
        """
        out: Outputs = {}
        if self.trajectory_encoder is not None:
            assert trajectories is not None, "the trajectory stream needs trajectories and index_t"
            assert index_t is not None
            features, stages = self.trajectory_encoder(trajectories, index_t, train)
            out |= stages | {"trajectory_features": features}
        if self.rgb_encoder is not None:
            subclips, stages = self.rgb_encoder(frames, train, frame_index, frame_features)
            tokens = nn.Dense(self.width, name="rgb_projection")(subclips) if self.width is not None else subclips
            out |= stages | {"subclip_features": subclips, "rgb_tokens": tokens, "rgb_features": tokens.mean(axis=1)}
        if self.fusion is not None:
            if self.fusion.tokens == "mean":
                rgb, trajectory = out["rgb_features"][:, None], out["trajectory_features"][:, None]
            else:
                # A sub-clip's feature does not show its place in time, but the trajectory's tokens do, by ``index_t``.
                positions = self.param("rgb_positions", embedding_init, tokens.shape[1:])
                rgb, trajectory = tokens + positions, out["trajectory_tokens"]
            rgb = jnp.broadcast_to(rgb, (len(trajectory), *rgb.shape[1:]))  # if all clips share the frames
            out["fused_features"] = jnp.mean(self.fusion(rgb, trajectory), axis=1)
        if self.trajectory_head is not None:
            pairs = (self.head, out["rgb_features"]), (self.trajectory_head, out["trajectory_features"])
            scores = [head(features.astype(jnp.float32)) for head, features in pairs]
            stacked = jnp.stack(jnp.broadcast_arrays(*scores), axis=1)
            return (stacked if train else jnp.mean(stacked, axis=1)), out
        stream = "trajectory" if self.rgb_encoder is None else "rgb"
        feature = out[f"{stream}_features" if self.fusion is None else "fused_features"]
        return self.head(feature.astype(jnp.float32)), out


class Ensemble(nn.Module):
    """Models trained side by side that read the same trajectories. The score is the mean of theirs.

    They differ in their initial weights and in their dropout.
    """

    model: TrampFormer  # one member; it reads no frames. All parameters have a leading axis of ``members``.
    members: int  # number of models

    @nn.compact
    def __call__(
        self,
        frames: Array | None,
        trajectories: Array,
        index_t: Array,
        train: bool = False,
        frame_index: Array | None = None,
        frame_features: Array | None = None,
    ) -> tuple[Array, Outputs]:
        """See ``TrampFormer``. In training, scores are (B, members), so that each member has its own loss."""

        def score(model: TrampFormer, trajectories: Array, index_t: Array) -> Array:
            return model(None, trajectories, index_t, train)[0]

        score_all = nn.vmap(
            score,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=None,
            out_axes=1,
            axis_size=self.members,
        )
        scores = score_all(self.model, trajectories, index_t)
        return (scores if train else jnp.mean(scores, axis=1)), {}
