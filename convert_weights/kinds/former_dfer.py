"""Former-DFER, the frame encoder with a linear head: ``FormerDFER_DFEW.pth`` and its code's own checkpoints."""

import math
from collections.abc import Mapping

from ml_collections import ConfigDict

from convert_weights.kinds.kind import Architecture, Kind, Shape, Tensors, linear_head
from convert_weights.layouts import TensorPair, batch_norm, linear, norm


def encoder(prefix: str, config: ConfigDict) -> list[TensorPair]:
    """The tensors of the frame encoder, whose names begin with ``prefix``."""
    s_former, t_former = ("rgb_encoder", "s_former"), ("rgb_encoder", "t_former")
    source = f"{prefix}s_former"
    pairs = [TensorPair(f"{source}.pos_embedding", ("params", *s_former, "pos_embedding"), "as is")]
    pairs += _conv(f"{source}.conv1", (*s_former, "conv1"))
    pairs += batch_norm(f"{source}.bn1", (*s_former, "bn1"))
    width_in = config.rgb.widths[0]
    for stage, width in enumerate(config.rgb.widths, start=1):
        for block in range(2):
            shortcut = block == 0 and (stage > 1 or width != width_in)
            pairs += _basic_block(f"{source}.layer{stage}.{block}", (*s_former, f"layer{stage}_{block}"), shortcut)
    pairs += _transformer_layer(f"{source}.spatial_transformer.layers.0", (*s_former, "transformer"))

    source = f"{prefix}t_former"
    for name in ("cls_token", "pos_embedding"):
        pairs.append(TensorPair(f"{source}.{name}", ("params", *t_former, name), "as is"))
    for i in range(config.rgb.temporal_depth):
        # The released T-Former also calls its layers a spatial transformer.
        pairs += _transformer_layer(f"{source}.spatial_transformer.layers.{i}", (*t_former, f"layer_{i}"))
    return pairs


def _conv(source: str, target: tuple[str, ...]) -> list[TensorPair]:
    return linear(source, target, bias=False, transform="conv")


def _basic_block(source: str, target: tuple[str, ...], shortcut: bool) -> list[TensorPair]:
    pairs: list[TensorPair] = []
    for i in (1, 2):
        pairs += _conv(f"{source}.conv{i}", (*target, f"conv{i}"))
        pairs += batch_norm(f"{source}.bn{i}", (*target, f"bn{i}"))
    if shortcut:
        pairs += _conv(f"{source}.downsample.0", (*target, "downsample_conv"))
        pairs += batch_norm(f"{source}.downsample.1", (*target, "downsample_bn"))
    return pairs


def _transformer_layer(source: str, target: tuple[str, ...]) -> list[TensorPair]:
    return [
        *norm(f"{source}.0.fn.norm", (*target, "norm_1")),
        *linear(f"{source}.0.fn.fn.to_qkv", (*target, "attention", "qkv"), bias=False),
        *linear(f"{source}.0.fn.fn.to_out.0", (*target, "attention", "proj")),
        *norm(f"{source}.1.fn.norm", (*target, "norm_2")),
        *linear(f"{source}.1.fn.fn.net.0", (*target, "mlp", "fc1")),
        *linear(f"{source}.1.fn.fn.net.3", (*target, "mlp", "fc2")),
    ]


def read_encoder(found: Architecture, tensors: Tensors, sub_clips: int) -> None:
    """Reads the ``rgb`` group; ``sub_clips`` is the published number of sub-clips, which shapes do not reveal."""
    stages = [tensors.size(f"s_former.layer{i}.0.bn1.weight", f"s_former.layer{i}.0.bn1.bias") for i in range(1, 5)]
    found.set("rgb.widths", tuple(stages) if all(stages) else None)
    positions = tensors.size("s_former.pos_embedding", axis=1, rank=3) or 0
    side = math.isqrt(positions)
    found.set("rgb.image_size", 16 * side if side and side * side == positions else None)
    frames = tensors.size("t_former.pos_embedding", axis=1, rank=3) or 0
    found.set("rgb.clip_length", frames - 1 if frames > 1 else None)
    found.assume("rgb.num_frames", sub_clips * found.config.rgb.clip_length, f"published with {sub_clips} sub-clips")
    found.set_count("rgb.temporal_depth", tensors.count("t_former.spatial_transformer.layers."))
    for option, part, width in (("spatial", "s_former", 2), ("temporal", "t_former", 3)):
        hidden = tensors.size(f"{part}.spatial_transformer.layers.0.1.fn.fn.net.0.bias")
        found.set(f"rgb.{option}_mlp_dim", hidden)
        found.assume_heads(f"rgb.{option}_heads", found.config.rgb.widths[width])


def _name_map(config: ConfigDict) -> list[TensorPair]:
    return encoder("", config) + linear_head("fc", config)


def _read(shapes: Mapping[str, Shape], length: int | None) -> Architecture:
    found = Architecture("former_dfer")
    read_encoder(found, Tensors(shapes), sub_clips=1)
    found.set_head((), Tensors(shapes).size("fc.bias"))
    return found


KIND = Kind("former_dfer", ("s_former.", "t_former."), _read, _name_map, container="state_dict")
