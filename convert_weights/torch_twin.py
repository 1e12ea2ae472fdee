"""Our models in PyTorch, to check conversions and as the baseline of benchmarks. Start with ``build_twin``.

These are ordinary eager modules whose parameters and buffers have the released names, so a released checkpoint loads
with ``strict=True``. Nothing here depends on JAX.

Axes: B batch, F frames, H and W height and width, S sub-clips, T time, V joints (landmarks), C channels,
Q query tokens, K key tokens.
"""

from ml_collections import ConfigDict
from torch import Tensor, nn

from convert_weights.torch_encoders import FormerDFER, Outputs, SkateFormer, mlp, named
from tramp_jax.errors import UserError


class CrossAttention(nn.Module):
    """Multi-head attention of ``x`` (B, Q, C) to ``y`` (B, K, C) -> (B, Q, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_map = nn.Linear(width, width, bias=False)
        self.k_map = nn.Linear(width, width, bias=False)
        self.v_map = nn.Linear(width, width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        maps = (self.q_map, x), (self.k_map, y), (self.v_map, y)
        q, k, v = (linear(z).unflatten(-1, (self.heads, -1)).transpose(1, 2) for linear, z in maps)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class TrampBlock(nn.Module):
    """x + attention to the trajectory, then x + MLP: only the RGB tokens ``x`` (B, Q, C) are updated."""

    def __init__(self, config: ConfigDict) -> None:
        super().__init__()
        self.norm_q = nn.LayerNorm(config.width)
        self.norm_v = nn.LayerNorm(config.width)
        self.attn = CrossAttention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = mlp(config.width, config.mlp_ratio * config.width)

    def forward(self, x: Tensor, trajectory: Tensor) -> Tensor:
        x = x + self.attn(self.norm_q(x), self.norm_v(trajectory))
        return x + self.mlp(self.norm2(x))


def _evaluator(width: int, config: ConfigDict) -> nn.Sequential:
    """The head, Linear layers with ReLU between them: (B, width) -> (B, num_classes or 1)."""
    layers: dict[str, nn.Module] = {}
    for i, hidden in enumerate(config.hidden, start=1):
        layers |= {f"layer{i}": nn.Linear(width, hidden), f"relu{i}": nn.ReLU(inplace=True)}
        width = hidden
    return named(**layers, **{f"layer{len(config.hidden) + 1}": nn.Linear(width, config.num_classes or 1)})


class TrampFormer(nn.Module):
    """The whole model, or one of its streams with the head on that stream's feature."""

    def __init__(self, config: ConfigDict) -> None:
        super().__init__()
        self.streams, self.num_classes = config.streams, config.head.num_classes
        width = config.trajectory.widths[-1] if self.streams == "trajectory" else config.fusion.width
        if self.streams != "rgb":
            self.encoder = SkateFormer(config.trajectory)
        if self.streams != "trajectory":
            self.rgb_encoder = FormerDFER(config.rgb)
            self.rgb_transform = nn.Linear(config.rgb.widths[-1], width)
        if self.streams == "both":
            blocks = nn.ModuleList(TrampBlock(config.fusion) for _ in range(config.fusion.depth))
            self.fusion = nn.ModuleDict({"model": blocks})
        self.evaluator = _evaluator(width, config.head)

    def forward(
        self, frames: Tensor | None, trajectories: Tensor | None, index_t: Tensor | None
    ) -> tuple[Tensor, Outputs]:
        """Scores clips.

        Args:
          frames: (B, F, 3, H, W) RGB, normalised by ImageNet's mean and standard deviation; None if not read.
          trajectories: (B, V, T, C), or (B, C, T, V, people); None if not read.
          index_t: (B, T) frame positions in [-1, 1); None if not read.

        Returns:
          The score (B,) or class logits (B, num_classes); and named intermediates of the streams in use:
          ``trajectory_stage_k`` (B, widths[k], T / 2^k, V), ``trajectory_features`` (B, width), ``frame_features``
          (B, F, 512), ``subclip_features`` (B, S, 512), ``rgb_features`` and ``fused_features`` (B, width).
        """
        out: Outputs = {}
        if self.streams != "rgb":
            features, stages = self.encoder.encode(trajectories, index_t)
            out |= stages | {"trajectory_features": features}
        if self.streams != "trajectory":
            subclips, frame_features = self.rgb_encoder.encode(frames)
            features = self.rgb_transform(subclips).mean(dim=1)
            out |= frame_features | {"subclip_features": subclips, "rgb_features": features}
        if self.streams == "both":
            features = features[:, None]
            for block in self.fusion["model"]:
                features = block(features, out["trajectory_features"][:, None])
            features = out["fused_features"] = features[:, 0]
        return _score(self.evaluator(features), self.num_classes), out


class SkateFormerClassifier(SkateFormer):
    """The trajectory encoder with a linear head. As published, its parameters have no prefix."""

    def __init__(self, config: ConfigDict) -> None:
        super().__init__(config.trajectory)
        self.num_classes = config.head.num_classes
        self.head = nn.Linear(config.trajectory.widths[-1], self.num_classes or 1)

    def forward(self, frames: Tensor | None, trajectories: Tensor, index_t: Tensor) -> tuple[Tensor, Outputs]:
        """As ``TrampFormer``; ``frames`` are not read."""
        features, out = self.encode(trajectories, index_t)
        return _score(self.head(features), self.num_classes), out | {"trajectory_features": features}


class FormerDFERClassifier(FormerDFER):
    """The frame encoder with a linear head on the mean sub-clip feature, named as published."""

    def __init__(self, config: ConfigDict) -> None:
        super().__init__(config.rgb)
        self.num_classes = config.head.num_classes
        self.fc = nn.Linear(config.rgb.widths[-1], self.num_classes or 1)

    def forward(self, frames: Tensor, trajectories: object, index_t: object) -> tuple[Tensor, Outputs]:
        """As ``TrampFormer``; ``trajectories`` and ``index_t`` are not read."""
        subclips, out = self.encode(frames)
        features = subclips.mean(dim=1)
        out |= {"subclip_features": subclips, "rgb_features": features}
        return _score(self.fc(features), self.num_classes), out


def _score(y: Tensor, num_classes: int) -> Tensor:
    """A head's output as class logits (B, num_classes), or as the score (B,) of a regression."""
    return y if num_classes else y[:, 0]


def build_twin(config: ConfigDict) -> TrampFormer | SkateFormerClassifier | FormerDFERClassifier:
    """Builds the PyTorch model that ``config`` (the ``model`` group, see ``tramp_jax.config.MODEL``) describes.

    It is freshly initialised and in training mode; ``load_state_dict`` takes tensors with the released names.

    Raises:
      UserError: an unknown model, or an encoder with hidden layers in its head, which was never released.
    """
    models = {"tramp_former": TrampFormer, "skateformer": SkateFormerClassifier, "former_dfer": FormerDFERClassifier}
    if config.name not in models:
        raise UserError("bad_option", f"model.name is {config.name!r}; known: {', '.join(models)}")
    if config.name != "tramp_former" and config.head.hidden:
        what = f"model.head.hidden is {tuple(config.head.hidden)}, but {config.name} has a linear head in PyTorch: ()"
        raise UserError("no_counterpart", what)
    return models[config.name](config)
