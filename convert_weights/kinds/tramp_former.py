"""A trained TraMP-Former: both encoders, or one of them, with fusion and head."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from convert_weights.kinds import former_dfer, skateformer
from convert_weights.kinds.kind import MAX_COUNT, Architecture, Kind, Shape, Tensors
from convert_weights.layouts import TensorPair, linear, norm
from tramp_jax.errors import UserError


def _name_map(config: ConfigDict) -> list[TensorPair]:
    pairs: list[TensorPair] = []
    if config.streams != "rgb":
        pairs += skateformer.encoder("encoder.", config)
    if config.streams != "trajectory":
        pairs += former_dfer.encoder("rgb_encoder.", config) + linear("rgb_transform", ("rgb_projection",))
    if config.streams == "both":
        pairs += _fusion(config)
    for i in range(1, len(config.head.hidden) + 2):
        pairs += linear(f"evaluator.layer{i}", ("head", f"layer{i}"))
    return pairs


def _fusion(config: ConfigDict) -> list[TensorPair]:
    for option, released in {"name": "tramp", "query": "rgb", "tokens": "mean"}.items():
        if config.fusion[option] != released:
            raise UserError(
                "no_counterpart",
                f"model.fusion.{option} is {config.fusion[option]}; only {released} was released and has a PyTorch "
                "counterpart",
            )
    pairs: list[TensorPair] = []
    for i in range(config.fusion.depth):
        source, target = f"fusion.model.{i}", ("fusion", f"block_{i}")
        for name in ("norm_q", "norm_v"):
            pairs += norm(f"{source}.{name}", (*target, name))
        for name in ("q", "k", "v"):
            pairs += linear(f"{source}.attn.{name}_map", (*target, "attention", name), bias=False)
        pairs += linear(f"{source}.attn.proj", (*target, "attention", "proj"))
        pairs += norm(f"{source}.norm2", (*target, "norm_2"))
        for name in ("fc1", "fc2"):
            pairs += linear(f"{source}.mlp.{name}", (*target, "mlp", name))
    return pairs


def _read(shapes: Mapping[str, Shape], length: int | None) -> Architecture:
    found = Architecture("tramp_former")
    tops = {name.split(".")[0] for name in shapes}
    streams = {(True, False): "trajectory", (False, True): "rgb"}.get(("encoder" in tops, "rgb_encoder" in tops))
    found.set("streams", streams or "both")
    if found.config.streams != "rgb":
        skateformer.read_encoder(found, Tensors(shapes, "encoder."), length, published_length=128)
    if found.config.streams != "trajectory":
        former_dfer.read_encoder(found, Tensors(shapes, "rgb_encoder."), sub_clips=5)
    if found.config.streams == "both":
        _read_fusion(found, Tensors(shapes, "fusion.model."))
    elif found.config.streams == "rgb":
        found.set("fusion.width", Tensors(shapes).size("rgb_transform.bias"))
    _read_head(found, Tensors(shapes, "evaluator."))
    return found


def _read_fusion(found: Architecture, tensors: Tensors) -> None:
    width = found.config.trajectory.widths[-1]  # the trajectory feature enters the fusion unchanged
    found.set("fusion.width", width)
    found.set_count("fusion.depth", tensors.count(""))
    found.set_ratio("fusion.mlp_ratio", tensors.size("0.mlp.fc1.bias"), width)
    found.assume_heads("fusion.heads", width)


def _read_head(found: Architecture, tensors: Tensors) -> None:
    layers = next(n for n in range(MAX_COUNT) if f"layer{n + 1}.bias" not in tensors.shapes)
    sizes = [tensors.size(f"layer{i}.bias") for i in range(1, layers + 1)]
    hidden = tuple(filter(None, sizes[:-1]))
    found.set_head(hidden if sizes and all(sizes) else None, sizes[-1] if sizes else None)


_MARKS = ("rgb_encoder.", "rgb_transform.", "fusion.", "evaluator.layer")
KIND = Kind("tramp_former", _MARKS, _read, _name_map, container="model")
