"""The PyTorch encoders of ``torch_twin``: SkateFormer for trajectories, Former-DFER for frames.

Axes: B batch, F frames, H and W height and width, S sub-clips, T time, V joints (landmarks), C channels, N tokens.
"""

from collections import OrderedDict

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn

from convert_weights.layouts import distances

HEADS_PER_PART = 4
CONV_GROUPS = 8
Outputs = dict[str, Tensor]


def _embedding(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))


def named(**modules: nn.Module) -> nn.Sequential:
    """Modules applied one after the other, under their names in checkpoints."""
    return nn.Sequential(OrderedDict(modules))


def mlp(width: int, hidden: int) -> nn.Sequential:
    """Linear, exact GELU, Linear over the last axis, whose width stays the same."""
    return named(fc1=nn.Linear(width, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, width))


class DropPath(nn.Module):
    """Stochastic depth: drops a whole residual branch per sample and rescales the branches that stay."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        return x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep) / keep


class SkateAttention(nn.Module):
    """Self-attention within the sets of one partition of the (T, V) grid: (B, T, V, 3C) -> (B, T, V, C).

    The frames of a set are consecutive (``local``) or spread evenly over the clip, and its joints are consecutive
    (``neighbours``) or spread evenly. Its tokens are time-major.
    """

    def __init__(self, config: ConfigDict, local: bool, neighbours: bool) -> None:
        super().__init__()
        self.local, self.neighbours, self.bias_order = local, neighbours, config.bias_order
        self.frames = config.local_frames if local else config.length // 8
        self.joints = config.neighbours if neighbours else config.distant
        table_frames = self.frames if local or not config.table_frames else config.table_frames
        per_pair_of_joints = () if neighbours else (self.joints, self.joints)
        self.relative_position_bias_table = _embedding(2 * table_frames - 1, *per_pair_of_joints, HEADS_PER_PART)
        # Checkpoints hold the index at the size of the table, which may have rows for more frames than a set has. Such
        # a set reads the table's first rows, so it keeps its own index in addition to the stored one.
        self.register_buffer("relative_position_index", torch.from_numpy(distances(table_frames)))
        self.register_buffer("rows", torch.from_numpy(distances(self.frames)), persistent=False)
        self.drop = nn.Dropout(config.attention_dropout)

    def forward(self, x: Tensor) -> Tensor:
        B, T, V, C = x.shape
        sets_t, sets_v = T // self.frames, V // self.joints
        # Time and joints are each split in two; the partition decides which of the two axes counts the sets ...
        time = (sets_t, self.frames) if self.local else (self.frames, sets_t)
        joints = (sets_v, self.joints) if self.neighbours else (self.joints, sets_v)
        # ... and then ordered: sets in time, sets of joints, frames in a set, joints in a set.
        order = [0, *((1, 2) if self.local else (2, 1)), *((3, 4) if self.neighbours else (4, 3)), 5]
        order[2], order[3] = order[3], order[2]
        back = [order.index(axis) for axis in range(6)]

        x = x.reshape(B, *time, *joints, C).permute(order).reshape(-1, self.frames * self.joints, C)
        x = self._attend(x)
        x = x.view(B, sets_t, sets_v, self.frames, self.joints, C // 3).permute(back)
        return x.reshape(B, T, V, C // 3)

    def _attend(self, x: Tensor) -> Tensor:
        """Multi-head attention of every set to itself: (sets, N, 3C) -> (sets, N, C)."""
        sets, N, C = x.shape
        q, k, v = x.view(sets, N, 3, HEADS_PER_PART, -1).permute(2, 0, 3, 1, 4)
        # As published, scaled by the number of heads instead of their width.
        weights = (q * HEADS_PER_PART**-0.5) @ k.transpose(-2, -1) + self._bias()
        weights = self.drop(weights.softmax(dim=-1))
        return (weights @ v).transpose(1, 2).reshape(sets, N, C // 3)

    def _bias(self) -> Tensor:
        """The learned bias of every pair of tokens: (heads, N, N)."""
        bias, N = self.relative_position_bias_table[self.rows], self.frames * self.joints
        if not self.neighbours:  # (frames, frames, joints, joints, heads)
            return bias.permute(4, 0, 2, 1, 3).reshape(HEADS_PER_PART, N, N)
        bias = bias.permute(2, 0, 1)
        if self.bias_order == "tiled":  # as published: laid out as if tokens were joint-major
            return bias.repeat(1, self.joints, self.joints)
        return bias.repeat_interleave(self.joints, dim=1).repeat_interleave(self.joints, dim=2)


class SkateFormerLayer(nn.Module):
    """Convolutions over joints and time beside the four attentions, then an MLP: (B, T, V, C) -> (B, T, V, C)."""

    def __init__(self, config: ConfigDict, width: int, drop_path: float) -> None:
        super().__init__()
        types = [(local, neighbours) for local in (True, False) for neighbours in (True, False)]
        self.norm_1 = nn.LayerNorm(width)
        self.mapping = nn.Linear(width, 2 * width)
        self.gconv = _embedding(CONV_GROUPS, config.num_points, config.num_points)
        self.tconv = nn.Conv2d(width // 4, width // 4, (7, 1), padding=(3, 0), groups=CONV_GROUPS)
        self.attention = nn.ModuleList(SkateAttention(config, *flags) for flags in types)
        self.proj = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp = mlp(width, config.mlp_ratio * width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        C = x.shape[-1]
        to_convs, to_attention = self.mapping(self.norm_1(x)).split([C // 2, 3 * C // 2], dim=-1)
        to_gconv, to_tconv = to_convs.permute(0, 3, 1, 2).chunk(2, dim=1)
        joint_mixed = torch.einsum("gvu,bgctu->bgctv", self.gconv, to_gconv.unflatten(1, (CONV_GROUPS, -1)))
        convs = torch.cat([joint_mixed.flatten(1, 2), self.tconv(to_tconv)], dim=1).permute(0, 2, 3, 1)
        parts = [attention(qkv) for attention, qkv in zip(self.attention, to_attention.chunk(4, dim=-1), strict=True)]
        x = x + self.drop_path(self.proj(torch.cat([convs, *parts], dim=-1)))
        return x + self.drop_path(self.mlp(self.norm_2(x)))


class SkateFormerBlock(nn.Module):
    """A layer, after down-sampling if ``width_in`` is given: (B, C, T, V) -> (B, width, T or T / 2, V)."""

    def __init__(self, config: ConfigDict, width_in: int | None, width: int, drop_path: float) -> None:
        super().__init__()
        self.downsample = nn.Identity()
        if width_in is not None:
            reduction = nn.Conv2d(width_in, width, (7, 1), stride=(2, 1), padding=(3, 0))
            self.downsample = named(reduction=reduction, bn=nn.BatchNorm2d(width))
        self.transformer = SkateFormerLayer(config, width, drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x).permute(0, 2, 3, 1)
        return self.transformer(x).permute(0, 3, 1, 2)


class SkateFormer(nn.Module):
    """Trajectories to one feature vector; ``config`` is the group ``model.trajectory``."""

    def __init__(self, config: ConfigDict) -> None:
        super().__init__()
        C, E = len(config.channels), config.embed_width
        S = config.stem_channels or C
        stem = nn.Conv2d(C, 2 * S, 1), nn.GELU(), nn.Conv2d(2 * S, 3 * S, 1), nn.GELU(), nn.Conv2d(3 * S, E, 1)
        self.stem = nn.Sequential(*stem)
        self.joint_person_embedding = _embedding(E, config.num_points)
        frequencies = 10000.0 ** (-torch.arange(0, E, 2, dtype=torch.float64) / E)
        self.register_buffer("frequencies", frequencies.float(), persistent=False)
        rates = torch.linspace(0, config.drop_path, len(config.widths) * config.blocks_per_stage).tolist()
        self.stages = nn.ModuleList()
        width_in = None
        for width in config.widths:
            blocks = nn.Sequential()
            for i in range(config.blocks_per_stage):
                blocks.append(SkateFormerBlock(config, None if i else width_in, width, rates.pop(0)))
            self.stages.append(named(blocks=blocks))
            width_in = width

    def encode(self, trajectories: Tensor, index_t: Tensor) -> tuple[Tensor, Outputs]:
        """Encodes trajectories.

        Args:
          trajectories: (B, V, T, C), or (B, C, T, V, people) with a person axis, as first published.
          index_t: (B, T) frame positions in [-1, 1).

        Returns:
          Features (B, widths[-1]), and the intermediates ``trajectory_stage_k`` (B, widths[k], T / 2^k, V).
        """
        people = trajectories.ndim == 5
        x = trajectories.transpose(3, 4).flatten(3) if people else trajectories.permute(0, 3, 2, 1)
        angles = self.frequencies[:, None] * index_t[:, None, :]
        sinusoids = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1, 2)  # (B, E, T)
        x = self.stem(x) + sinusoids[..., None] * self.joint_person_embedding[:, None, :]
        out = {}
        for i, stage in enumerate(self.stages):
            x = out[f"trajectory_stage_{i}"] = stage(x)
        return x.mean(dim=(2, 3)), out


class BasicBlock(nn.Module):
    """ResNet's two-convolution block: (B, C, H, W) -> (B, features, H / stride, W / stride)."""

    def __init__(self, width: int, features: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, features, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.downsample = nn.Identity()
        if stride != 1 or width != features:
            shortcut = nn.Conv2d(width, features, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(features))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Residual(nn.Module):
    """``x + fn(norm(x))``, with the names ``fn.norm`` and ``fn.fn`` in checkpoints."""

    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn = named(norm=nn.LayerNorm(width), fn=fn)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(x)


class SelfAttention(nn.Module):
    """Multi-head self-attention without bias in the q, k and v maps: (B, N, C) -> (B, N, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        q, k, v = self.to_qkv(x).view(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
        return self.to_out((weights @ v).transpose(1, 2).reshape(B, N, C))


def _feed_forward(width: int, hidden: int) -> nn.Sequential:
    """Linear, tanh GELU, Linear. The dropouts are off, as published; they only affect the names."""
    first, act, last = nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width)
    return named(net=nn.Sequential(first, act, nn.Dropout(0.0), last, nn.Dropout(0.0)))


def _transformer(width: int, depth: int, heads: int, mlp_dim: int) -> nn.Sequential:
    """Pre-norm layers of attention and MLP: (B, N, C) -> (B, N, C)."""
    layers = nn.Sequential()
    for _ in range(depth):
        attention, feed_forward = SelfAttention(width, heads), _feed_forward(width, mlp_dim)
        layers.append(nn.Sequential(Residual(width, attention), Residual(width, feed_forward)))
    return named(layers=layers)


class SFormer(nn.Module):
    """A ResNet-18 with a transformer layer between its stages 3 and 4: (B, 3, H, W) -> (B, widths[3])."""

    def __init__(self, config: ConfigDict) -> None:
        super().__init__()
        width_in = config.widths[0]
        self.conv1 = nn.Conv2d(3, width_in, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width_in)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for stage, width in enumerate(config.widths, start=1):
            blocks = BasicBlock(width_in, width, 1 if stage == 1 else 2), BasicBlock(width, width, 1)
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            width_in = width
        side = -(-config.image_size // 16)  # side of the map after stage 3; every halving rounds up
        width = config.widths[2]
        self.pos_embedding = _embedding(1, side * side, width)
        self.spatial_transformer = _transformer(width, 1, config.spatial_heads, config.spatial_mlp_dim)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        tokens = self.spatial_transformer(x.flatten(2).transpose(1, 2) + self.pos_embedding)
        x = tokens.transpose(1, 2).reshape(x.shape)
        return self.layer4(x).mean(dim=(2, 3))


class TFormer(nn.Module):
    """Temporal encoder of a sub-clip: (B, F, C) -> the class token after the last layer, (B, C)."""

    def __init__(self, config: ConfigDict) -> None:
        super().__init__()
        width, depth = config.widths[-1], config.temporal_depth
        self.cls_token = _embedding(1, 1, width)
        self.pos_embedding = _embedding(1, config.clip_length + 1, width)
        self.spatial_transformer = _transformer(width, depth, config.temporal_heads, config.temporal_mlp_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embedding
        return self.spatial_transformer(x)[:, 0]


class FormerDFER(nn.Module):
    """Frames to one feature per sub-clip; ``config`` is the group ``model.rgb``."""

    def __init__(self, config: ConfigDict) -> None:
        super().__init__()
        self.clip_length, self.scrambled_frames = config.clip_length, config.scrambled_frames
        self.s_former = SFormer(config)
        self.t_former = TFormer(config)

    def encode(self, frames: Tensor) -> tuple[Tensor, Outputs]:
        """Encodes frames (B, F, 3, H, W), F a multiple of ``clip_length``.

        Returns:
          Sub-clip features (B, S, widths[3]), and the intermediate ``frame_features`` (B, F, widths[3]).
        """
        B, F = frames.shape[:2]
        if self.scrambled_frames:  # the released code reads memory in the order (B, 3, F, H, W) as if it were ours
            frames = frames.transpose(1, 2).reshape(frames.shape)
        features = self.s_former(frames.flatten(0, 1))
        subclips = self.t_former(features.view(-1, self.clip_length, features.shape[-1]))
        return subclips.view(B, F // self.clip_length, -1), {"frame_features": features.view(B, F, -1)}
