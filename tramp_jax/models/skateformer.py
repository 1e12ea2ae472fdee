"""SkateFormer, the trajectory encoder (paper, trajectory stream). First published for skeleton action recognition.

Axes: B batch, T time, V joints (landmarks), C channels, H attention heads, D channels per head. Tokens attend to each
other within a set. The queries of a set have frames n, joints l and tokens p = (n l); its keys have frames m, joints k
and tokens q = (m k). The clip has g segments in time and j groups of joints, so g · j sets.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from ml_collections import ConfigDict, FrozenConfigDict

from tramp_jax.errors import UserError
from tramp_jax.models.layers import Array, BatchNorm, Dtype, Mlp, TemporalConv, embedding_init, exact_gelu, layer_norm

HEADS_PER_PART = 4
CONV_GROUPS = 8
BiasOrder = Literal["tiled", "time"]


@dataclasses.dataclass(frozen=True)
class Partition:
    """One of the four ways to cut the (T, V) grid into sets of tokens that attend to each other."""

    frames: int
    joints: int
    local: bool  # whether the frames of a set are consecutive; otherwise they are spread evenly over the clip
    neighbours: bool  # whether the joints of a set are consecutive; otherwise they are spread evenly, one per group
    table_rows: int  # rows of the relative position table, at least 2 * frames - 1

    @property
    def axes(self) -> tuple[str, str]:
        """einops patterns of the time axis and of the joint axis; n and l are the axes of a set."""
        return ("(g n)" if self.local else "(n g)"), ("(j l)" if self.neighbours else "(l j)")

    def sets(self, num_frames: int, num_joints: int) -> int:
        """Number of sets in a trajectory."""
        return (num_frames // self.frames) * (num_joints // self.joints)


def partitions(config: ConfigDict) -> tuple[Partition, ...]:
    """The four partitions of a ``model.trajectory`` group.

    A global set has 8, 16, 32 frames for T = 64, 128, 256 with ``patch`` 1.

    Raises:
      UserError: bad_option, if the tables are too small or the length cannot be cut into sets.
    """
    places, halvings = config.length // config.patch, len(config.widths) - 1
    near, far = config.local_frames, places // 8
    if 0 < config.table_frames < far:
        raise UserError(
            "bad_option",
            f"model.trajectory.table_frames is {config.table_frames}, but global sets have {far} frames; use at least "
            f"{far}, or 0",
        )
    shares = [2**halvings * frames for frames in (near, far)]
    if not far or any(places % share for share in shares):
        raise UserError(
            "bad_option",
            f"model.trajectory.length / patch is {places}; {halvings} halvings and sets of {near} and {far} frames "
            f"need a multiple of {shares[0]} and of {shares[1]}, such as 64, 128 or 256",
        )
    rows_near, rows_far = 2 * near - 1, 2 * (config.table_frames or far) - 1
    return (
        Partition(near, config.neighbours, True, True, rows_near),
        Partition(near, config.distant, True, False, rows_near),
        Partition(far, config.neighbours, False, True, rows_far),
        Partition(far, config.distant, False, False, rows_far),
    )


class RelativePositionBias(nn.Module):
    """Learned bias of every pair of tokens in a set: (H, n, l, m, k).

    A row of the table stands for a distance in time. It has one value for all pairs of joints in a set of neighbours,
    and one for each pair in a set of distant joints. ``order="tiled"`` reproduces the published arrangement for
    neighbours: tokens are time-major, but the table is laid out as if they were joint-major, so token p counts as being
    at time p mod n. All published weights were trained that way. ``order="time"`` is evidently what was meant.
    """

    partition: Partition
    order: BiasOrder

    @nn.compact
    def __call__(self) -> Array:
        N, L, rows = self.partition.frames, self.partition.joints, self.partition.table_rows
        time = np.arange(N)
        row = time[:, None] - time[None, :] + N - 1
        if not self.partition.neighbours:
            table = self.param("table", embedding_init, (rows, L, L, HEADS_PER_PART))
            return jnp.einsum("nmlkh->hnlmk", table[row])
        table = self.param("table", embedding_init, (rows, HEADS_PER_PART))
        token = np.arange(N * L)
        time_of_token = token % N if self.order == "tiled" else token // L
        row = row[time_of_token[:, None], time_of_token[None, :]]
        return rearrange(table[row], "(n l) (m k) h -> h n l m k", n=N, m=N)


class SkateAttention(nn.Module):
    """Self-attention within the sets of one partition: q, k, v side by side (B, T, V, 3C) -> (B, T, V, C).

    On a CPU, sets are computed one after another, and again in the backward pass, so that a set's attention weights
    stay in its cache. On other devices, all sets are one batch. docs/performance.md compares both.
    """

    partition: Partition
    dropout: float
    bias_order: BiasOrder

    @nn.compact
    def __call__(self, qkv: Array, keys: Array | None) -> Array:
        """``keys`` are dropout keys, one for each of ``partition.sets``; None drops nothing."""
        B, T, _, _ = qkv.shape
        time, joints = self.partition.axes
        sizes = {"n": self.partition.frames, "l": self.partition.joints}
        q, k, v = rearrange(
            qkv, f"b {time} {joints} (three h d) -> three (g j) b h (n l) d", three=3, h=HEADS_PER_PART, **sizes
        )
        bias_hnlmk = RelativePositionBias(self.partition, self.bias_order, name="bias")()
        # Repeated here, so that its gradient is summed over the clips only once. Summing in every set is slow in XLA.
        bias_bhpq = repeat(bias_hnlmk, "h n l m k -> b h (n l) (m k)", b=B)

        def attend(qkv_and_key: tuple[Array, Array, Array, Array | None]) -> Array:
            q_bhpd, k_bhpd, v_bhpd, key = qkv_and_key
            # As published, scaled by the number of heads instead of by their width.
            logits_bhpq = (q_bhpd * HEADS_PER_PART**-0.5) @ k_bhpd.swapaxes(-1, -2)
            weights_bhpq = jax.nn.softmax(logits_bhpq.astype(jnp.float32) + bias_bhpq, axis=-1)
            if key is not None:
                weights_bhpq = drop_weights(weights_bhpq, self.dropout, key)
            return weights_bhpq.astype(v_bhpd.dtype) @ v_bhpd

        sets = (q, k, v, keys)
        one_by_one = jax.default_backend() == "cpu"
        x = jax.lax.map(jax.checkpoint(attend), sets) if one_by_one else jax.vmap(attend)(sets)
        return rearrange(x, f"(g j) b h (n l) d -> b {time} {joints} (h d)", b=B, g=T // self.partition.frames, **sizes)


def drop_weights(weights_bhpq: Array, rate: float, key: Array) -> Array:
    """Drops attention weights of 4 heads and rescales the rest. ``rate`` is rounded to a multiple of 1/256.

    Random bits cost more than the rest of the attention, so each pair of tokens gets one 32-bit word: a byte per head.
    """
    B, H, P, Q = weights_bhpq.shape
    keep = max(1, round(256 * (1 - rate)))
    words_bpq = jax.random.bits(key, (B, P, Q), jnp.uint32)
    bytes_bhpq = jnp.stack([words_bpq >> (8 * head) & 0xFF for head in range(H)], axis=1)
    return jnp.where(bytes_bhpq < keep, weights_bhpq * (256 / keep), 0.0)


class JointConv(nn.Module):
    """G-Conv: (B, T, V, C) -> the same shape. Each of 8 channel groups mixes joints by its own learned V×V matrix."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        V = x.shape[2]
        matrix = self.param("matrix", embedding_init, (CONV_GROUPS, V, V)).astype(self.dtype)
        x = rearrange(x, "b t u (g c) -> b t u g c", g=CONV_GROUPS)
        return rearrange(jnp.einsum("gvu,btugc->btvgc", matrix, x), "b t v g c -> b t v (g c)")


class Draws(NamedTuple):
    """The random draws of one block."""

    keys: tuple[Array | None, ...]  # the dropout keys of each attention, see ``SkateAttention``
    # (2, B) factors of the two residual branches, see ``draw_paths``; None if the block never drops them
    paths: Array | None


def draw_paths(key: Array, rates: Sequence[float], batch: int) -> Array:
    """Stochastic depth: (blocks, 2, B) factors, 0 for a dropped branch and 1 / (1 - rate) otherwise."""
    keep = 1.0 - jnp.asarray(rates)[:, None, None]
    return jax.random.bernoulli(key, keep, (len(rates), 2, batch)) / keep


class SkateFormerBlock(nn.Module):
    """Convolutions over joints and time in parallel with four types of attention, then an MLP: (B, T, V, C)."""

    config: FrozenConfigDict
    partitions: tuple[Partition, ...]
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array, draws: Draws) -> Array:
        C, c = x.shape[-1], self.config
        y = nn.Dense(2 * C, dtype=self.dtype, name="mapping")(layer_norm("norm_1", self.dtype)(x))
        to_joint_conv, to_temporal_conv, *to_attention = jnp.split(
            y, [C // 4, C // 2, C // 2 + 3 * C // 8, C // 2 + 6 * C // 8, C // 2 + 9 * C // 8], axis=-1
        )
        branches = [
            JointConv(self.dtype, name="g_conv")(to_joint_conv),
            TemporalConv(C // 4, groups=CONV_GROUPS, dtype=self.dtype, name="t_conv")(to_temporal_conv),
        ]
        for i, (partition, qkv, keys) in enumerate(zip(self.partitions, to_attention, draws.keys, strict=True)):
            attention = SkateAttention(partition, c.attention_dropout, c.bias_order, name=f"attention_{i + 1}")
            branches.append(attention(qkv, keys))
        y = nn.Dense(C, dtype=self.dtype, name="proj")(jnp.concatenate(branches, axis=-1))
        x = x + _times(y, draws.paths, 0)
        y = Mlp(c.mlp_ratio * C, dtype=self.dtype, name="mlp")(layer_norm("norm_2", self.dtype)(x))
        return x + _times(y, draws.paths, 1)


def _times(y: Array, paths: Array | None, branch: int) -> Array:
    return y if paths is None else y * paths[branch][:, None, None, None].astype(y.dtype)


class Downsample(nn.Module):
    """7×1 convolution of stride 2, then batch normalisation: (B, T, V, C) -> (B, T / 2, V, features)."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        return BatchNorm(name="bn")(TemporalConv(self.features, stride=2, dtype=self.dtype, name="reduction")(x), train)


def time_embedding(index_t: Array, width: int) -> Array:
    """Sinusoids of frame positions: (B, T) -> (B, T, width). Even channels are sines, odd ones cosines."""
    frequencies = jnp.exp(jnp.arange(0, width, 2) * (-np.log(10000.0) / width))
    angles = index_t[..., None] * frequencies
    return rearrange(jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1), "b t k two -> b t (k two)")


class SkateFormer(nn.Module):
    """Encodes trajectories to one feature vector per clip.

    Each stage after the first halves time. The rate of stochastic depth grows linearly from 0 to ``drop_path``.
    """

    config: FrozenConfigDict  # the ``model.trajectory`` group
    partitions: tuple[Partition, ...]  # the four partitions, see the function ``partitions``
    # Type of the products, see ``layers``. The stem is always float32, because pixels and 0-255 need its digits.
    dtype: Dtype
    remat: bool  # whether to recompute the blocks in the backward pass instead of storing their activations

    @nn.compact
    def __call__(self, trajectories: Array, index_t: Array, train: bool) -> tuple[Array, dict[str, Array]]:
        """Encodes trajectories (B, T, V, C) or (B, T, people, V, C); see ``TrampFormer`` for the other arguments.

        Returns:
          Features (B, widths[-1]), and the intermediates ``trajectory_stage_k`` (B, T / 2^k, V, widths[k]) and
          ``trajectory_tokens`` (B, T', widths[-1]): the mean over joints at each of the last stage's T' moments.
        """
        if trajectories.ndim == 5:
            trajectories = rearrange(trajectories, "b t p v c -> b t (p v) c")
        c = self.config
        V, S = trajectories.shape[-2], c.stem_channels or trajectories.shape[-1]
        x = trajectories * jnp.array(c.input_scale)
        for i, width in enumerate((2 * S, 3 * S, c.embed_width)):
            x = nn.Dense(width, name=f"stem_{i}")(x if i == 0 else exact_gelu(x))
        joint_embedding = self.param("joint_embedding", embedding_init, (c.embed_width, V))
        x = x + time_embedding(index_t, c.embed_width)[:, :, None, :] * joint_embedding.T
        x = x.astype(self.dtype)

        out = {}
        block_of = nn.remat(SkateFormerBlock) if self.remat else SkateFormerBlock
        draws = iter(self._draws(x.shape, train))
        for stage, width in enumerate(c.widths):
            if stage > 0:
                x = Downsample(width, self.dtype, name=f"stage_{stage}_downsample")(x, train)
            for block in range(c.blocks_per_stage):
                x = block_of(c, self.partitions, self.dtype, name=f"stage_{stage}_block_{block}")(x, next(draws))
            out[f"trajectory_stage_{stage}"] = x
        x = x.astype(jnp.float32)
        return jnp.mean(x, axis=(1, 2)), out | {"trajectory_tokens": jnp.mean(x, axis=2)}

    def _draws(self, shape: tuple[int, ...], drop: bool) -> list[Draws]:
        """All blocks' draws for an input (B, T, V, C): made at once, because XLA compiles each draw to a loop."""
        (B, T, V, _), c = shape, self.config
        stages = np.repeat(np.arange(len(c.widths)), c.blocks_per_stage).tolist()
        nothing: tuple[Array | None, ...] = (None,) * len(self.partitions)
        if not (drop and (c.attention_dropout or c.drop_path)):
            return [Draws(nothing, None)] * len(stages)
        attention_key, path_key = jax.random.split(self.make_rng("dropout"))
        rates = np.linspace(0.0, c.drop_path, len(stages)).tolist()
        paths = [x if rate else None for x, rate in zip(draw_paths(path_key, rates, B), rates, strict=True)]
        if not c.attention_dropout:
            return [Draws(nothing, of_block) for of_block in paths]
        counts = [[partition.sets(T >> stage, V) for partition in self.partitions] for stage in stages]
        keys = jnp.split(jax.random.split(attention_key, np.sum(counts)), np.cumsum(counts)[:-1])
        of_blocks = [tuple(keys[i : i + len(nothing)]) for i in range(0, len(keys), len(nothing))]
        return [Draws(*pair) for pair in zip(of_blocks, paths, strict=True)]
