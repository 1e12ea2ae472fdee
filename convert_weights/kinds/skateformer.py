"""SkateFormer, the trajectory encoder with a linear head: its releases, and ``SkateFormer_256_rgb1x1.pth``."""

import collections
from collections.abc import Mapping

from ml_collections import ConfigDict

from convert_weights.kinds.kind import MAX_COUNT, Architecture, Kind, Shape, Tensors, linear_head
from convert_weights.layouts import TensorPair, batch_norm, linear, norm

_SHARED_FRAMES = 32  # TraMP-Former's global tables are sized for T = 256, whatever its own T


def encoder(prefix: str, config: ConfigDict) -> list[TensorPair]:
    """The tensors of the trajectory encoder, whose names begin with ``prefix``."""
    top = "trajectory_encoder"
    pairs = [TensorPair(f"{prefix}joint_person_embedding", ("params", top, "joint_embedding"), "as is")]
    for i in range(3):
        pairs += linear(f"{prefix}stem.{2 * i}", (top, f"stem_{i}"), transform="pointwise")
    for stage in range(len(config.trajectory.widths)):
        if stage > 0:
            source, target = f"{prefix}stages.{stage}.blocks.0.downsample", (top, f"stage_{stage}_downsample")
            pairs += linear(f"{source}.reduction", (*target, "reduction"), transform="temporal")
            pairs += batch_norm(f"{source}.bn", (*target, "bn"))
        for block in range(config.trajectory.blocks_per_stage):
            source = f"{prefix}stages.{stage}.blocks.{block}.transformer"
            pairs += _block(source, (top, f"stage_{stage}_block_{block}"))
    return pairs


def _block(source: str, target: tuple[str, ...]) -> list[TensorPair]:
    pairs = [
        TensorPair(f"{source}.gconv", ("params", *target, "g_conv", "matrix"), "as is"),
        *norm(f"{source}.norm_1", (*target, "norm_1")),
        *linear(f"{source}.mapping", (*target, "mapping")),
        *linear(f"{source}.tconv", (*target, "t_conv"), transform="temporal"),
        *linear(f"{source}.proj", (*target, "proj")),
        *norm(f"{source}.norm_2", (*target, "norm_2")),
        *linear(f"{source}.mlp.fc1", (*target, "mlp", "fc1")),
        *linear(f"{source}.mlp.fc2", (*target, "mlp", "fc2")),
    ]
    for i in range(4):
        table = f"{source}.attention.{i}.relative_position_bias_table"
        pairs.append(TensorPair(table, ("params", *target, f"attention_{i + 1}", "bias", "table"), "as is"))
    return pairs


def read_encoder(found: Architecture, tensors: Tensors, length: int | None, published_length: int) -> None:
    """Reads the ``trajectory`` group; ``published_length`` is T if neither the tables nor ``length`` give it."""
    _read_widths(found, tensors)
    _read_stem(found, tensors)
    block = "stages.0.blocks.0.transformer"
    V = tensors.size(f"{block}.gconv", axis=1, rank=3)
    local = tensors.size(f"{block}.attention.0.relative_position_bias_table", rank=2)
    table = tensors.size(f"{block}.attention.2.relative_position_bias_table", rank=2)
    K = tensors.size(f"{block}.attention.1.relative_position_bias_table", axis=1, rank=4)
    if not (V and K and local and table and V % K == 0 and _plausible((K, V // K), (local, table))):
        V = K = local = table = None
    found.set("trajectory.num_points", V)
    found.set("trajectory.distant", K)
    found.set("trajectory.local_frames", (local + 1) // 2 if local else None)
    if V and K:
        skeleton = (V, K) == (48, 12)
        L = 8 if skeleton else V // K
        why = "published for two people of 24 joints" if skeleton else "one point of each of the K groups: V / K"
        found.assume("trajectory.neighbours", L, why)
    _read_length(found, (table + 1) // 2 if table else _SHARED_FRAMES, length, published_length)
    found.assume("trajectory.bias_order", "tiled", "all published weights were trained that way")
    found.assume("trajectory.input_scale", (1.0,), "published weights take pixels and 0-255 unscaled")


def _plausible(joints: tuple[int, ...], rows: tuple[int, ...]) -> bool:
    """Whether sets have few joints, and tables an odd number of rows for few frames. Memory is quadratic in both."""
    return max(joints) <= MAX_COUNT and all(n % 2 and n < 2 * MAX_COUNT for n in rows)


def _read_widths(found: Architecture, tensors: Tensors) -> None:
    stages = tensors.count("stages.")
    stages = stages if stages <= MAX_COUNT else 0
    blocks = collections.Counter(tensors.count(f"stages.{i}.blocks.") for i in range(stages))
    norms = [f"stages.{i}.blocks.0.transformer.norm_1" for i in range(stages)]
    widths = [tensors.size(f"{name}.weight", f"{name}.bias") for name in norms]
    if any(not w or w % 32 for w in widths):  # 8 groups of a quarter, 4 heads of an eighth
        widths = []
    found.set("trajectory.widths", tuple(widths) or None)
    found.set_count("trajectory.blocks_per_stage", blocks.most_common(1)[0][0] if blocks else 0)
    hidden = tensors.size("stages.0.blocks.0.transformer.mlp.fc1.bias")
    found.set_ratio("trajectory.mlp_ratio", hidden, widths[0] if widths else None)


def _read_stem(found: Architecture, tensors: Tensors) -> None:
    C, double = tensors.size("stem.0.weight", axis=1, rank=4), tensors.size("stem.0.bias", "stem.2.weight")
    xyz = tensors.size("joint_person_embedding", axis=1, rank=2) == 48
    channels = {2: "xy", 3: "xyz" if xyz else "rgb", 5: "xyrgb"}.get(C or 0)
    if channels:
        found.read["trajectory.channels"] = C
        found.assume("trajectory.channels", channels, "the published order for this number of channels")
    else:
        found.set("trajectory.channels", None)
    hidden = double // 2 if double and double % 2 == 0 else C
    if channels and hidden != C:
        found.set("trajectory.stem_channels", hidden)
    width = tensors.size("stem.4.bias")
    found.set("trajectory.embed_width", width if width and width % 2 == 0 else None)


def _read_length(found: Architecture, table_frames: int, length: int | None, published: int) -> None:
    """Reads T and the size of the global partitions' tables."""
    if table_frames != _SHARED_FRAMES:  # sized for this model, an eighth of its T
        found.set("trajectory.table_frames", 0)
        found.set("trajectory.length", 8 * table_frames)
        return
    found.set("trajectory.table_frames", _SHARED_FRAMES)
    why = "as requested"
    if length is None:
        length, why = published, "tables for T = 256 fit every length; this is the published length of this kind"
    found.assume("trajectory.length", length, why)


def _name_map(config: ConfigDict) -> list[TensorPair]:
    return encoder("", config) + linear_head("head", config)


def _read(shapes: Mapping[str, Shape], length: int | None) -> Architecture:
    found = Architecture("skateformer")
    read_encoder(found, Tensors(shapes), length, published_length=256)
    found.set_head((), Tensors(shapes).size("head.bias"))
    return found


def _naming(tops: set[str]) -> dict[str, str]:
    """TraMP-Former's authors publish the encoder with their own head and, in some files, their own prefix."""
    return {
        "encoder": "encoder." if "encoder" in tops and "stages" not in tops else "",
        "head": "evaluator.head." if "evaluator" in tops and "head" not in tops else "head.",
    }


_TENSORS = ("joint_person_embedding", "stem.", "stages.")
KIND = Kind("skateformer", (*_TENSORS, *(f"encoder.{name}" for name in _TENSORS)), _read, _name_map, naming=_naming)
