"""The model that a state dict belongs to, read off the names and shapes of its tensors.

What shapes cannot tell is taken at its published value and listed as assumed. Nothing is an error here: where a shape
makes no sense the published value stands in, so that the conversion then fails with the tensors that do not fit it.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from tramp_jax import config as defaults

Shape = tuple[int, ...]

KINDS = ("former_dfer", "skateformer", "tramp_former")
_SHARED_FRAMES = 32  # TraMP-Former's global tables are made for the sets of T = 256, whatever its own T
_MAX_COUNT = 64  # of stages, blocks, layers, and of frames or joints in a set; more is no model of these kinds
_PUBLISHED_LENGTH = {"skateformer": 256, "tramp_former": 128}


@dataclasses.dataclass
class Architecture:
    """A ``model`` config group, and where its values are from.

    Attributes:
      config: complete.
      read: options read off names and shapes, by dotted name.
      assumed: options that shapes do not tell, each with its value and a reason.
    """

    config: ConfigDict
    read: dict[str, Any] = dataclasses.field(default_factory=dict)
    assumed: dict[str, str] = dataclasses.field(default_factory=dict)

    def set(self, option: str, value: Any) -> None:
        """Takes ``value`` as read; None leaves the published one, as assumed."""
        if value is None:
            self.assume(option, self._get(option), "its tensors are missing or malformed")
            return
        self._put(option, value)
        self.read[option] = value

    def assume(self, option: str, value: Any, why: str) -> None:
        self._put(option, value)
        self.assumed[option] = f"{value}: {why}"

    def _get(self, option: str) -> Any:
        group, _, key = option.rpartition(".")
        return (self.config[group] if group else self.config)[key]

    def _put(self, option: str, value: Any) -> None:
        group, _, key = option.rpartition(".")
        (self.config[group] if group else self.config)[key] = value


def model_config(values: Mapping[str, Any] | None = None) -> ConfigDict:
    """The published ``model`` group, changed to ``values`` (as of JSON)."""
    config = defaults.base().model.copy_and_resolve_references()
    config.update(values or {})
    return config


def channel_scale(trajectory: ConfigDict) -> np.ndarray:
    """Factors on the input channels (C,), written once where they are one for all."""
    return np.broadcast_to(np.asarray(trajectory.input_scale, np.float32), len(trajectory.channels))


def recognise(names: Iterable[str]) -> str | None:
    """The kind of checkpoint that has tensors of these names (without ``module.``), if it is one of ``KINDS``."""
    names = list(names)
    tops = {name.split(".")[0] for name in names}
    if tops & {"rgb_encoder", "fusion", "rgb_transform"} or any(re.match(r"evaluator\.layer\d", n) for n in names):
        return "tramp_former"
    if tops & {"s_former", "t_former"}:
        return "former_dfer"
    inner = {name.split(".")[1] for name in names if re.match(r"encoder\.", name)}
    if (tops | inner) & {"joint_person_embedding", "stem", "stages"}:
        return "skateformer"
    return None


def read_architecture(kind: str, shapes: Mapping[str, Shape], length: int | None = None) -> Architecture:
    """The model of a state dict in the released names.

    Args:
      kind: one of ``KINDS``.
      shapes: of its tensors, by name.
      length: T of its trajectories, where known; tables shared between lengths do not tell.
    """
    found = Architecture(model_config({"name": kind}))
    tops = {name.split(".")[0] for name in shapes}
    if kind == "skateformer":
        _read_trajectory(found, _Tensors(shapes, ""), length)
        _read_linear_head(found, _Tensors(shapes, "head."))
    elif kind == "former_dfer":
        _read_rgb(found, _Tensors(shapes, ""), sub_clips=1)
        _read_linear_head(found, _Tensors(shapes, "fc."))
    else:
        streams = {(True, False): "trajectory", (False, True): "rgb"}.get(("encoder" in tops, "rgb_encoder" in tops))
        found.set("streams", streams or "both")
        if found.config.streams != "rgb":
            _read_trajectory(found, _Tensors(shapes, "encoder."), length)
        if found.config.streams != "trajectory":
            _read_rgb(found, _Tensors(shapes, "rgb_encoder."), sub_clips=5)
        if found.config.streams == "both":
            _read_fusion(found, _Tensors(shapes, ""))
        elif found.config.streams == "rgb":
            found.set("fusion.width", _Tensors(shapes, "rgb_transform.").size("bias"))
        _read_head(found, _Tensors(shapes, "evaluator."))
    return found


class _Tensors:
    """Shapes of the tensors whose names begin with ``prefix``, by the rest of the name."""

    def __init__(self, shapes: Mapping[str, Shape], prefix: str):
        self.shapes = {n.removeprefix(prefix): s for n, s in shapes.items() if n.startswith(prefix)}

    def size(self, *names: str, axis: int = 0, rank: int = 1) -> int | None:
        """Size along ``axis`` of the first of ``names`` that is there with this rank; None if that is 0 or none is."""
        for name in names:
            if len(self.shapes.get(name, ())) == rank:
                return self.shapes[name][axis] or None
        return None

    def count(self, prefix: str) -> int:
        """How many of prefix0., prefix1., … are there without a gap."""
        pattern = re.compile(re.escape(prefix) + r"(\d{1,4})\.")
        found = {int(match[1]) for match in map(pattern.match, self.shapes) if match}
        return next(n for n in range(len(found) + 1) if n not in found)


def _counted(count: int) -> int | None:
    return count if 0 < count <= _MAX_COUNT else None


def _read_trajectory(found: Architecture, tensors: _Tensors, length: int | None) -> None:
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
    _read_length(found, (table + 1) // 2 if table else _SHARED_FRAMES, length)
    found.assume("trajectory.bias_order", "tiled", "every published weight was trained so")
    found.assume("trajectory.input_scale", (1.0,), "published weights take pixels and 0-255 as they are")


def _plausible(joints: tuple[int, ...], rows: tuple[int, ...]) -> bool:
    """Whether sets have few joints, and tables an odd number of rows for few frames: what is built is their square."""
    return max(joints) <= _MAX_COUNT and all(n % 2 and n < 2 * _MAX_COUNT for n in rows)


def _read_widths(found: Architecture, tensors: _Tensors) -> None:
    stages = _counted(tensors.count("stages."))
    blocks = collections.Counter(tensors.count(f"stages.{i}.blocks.") for i in range(stages or 0))
    widths = [
        tensors.size(*(f"stages.{i}.blocks.0.transformer.{leaf}" for leaf in ("norm_1.weight", "norm_1.bias")))
        for i in range(stages or 0)
    ]
    if any(not w or w % 32 for w in widths):  # 8 groups of a quarter, 4 heads of an eighth
        widths = []
    found.set("trajectory.widths", tuple(widths) or None)
    found.set("trajectory.blocks_per_stage", _counted(blocks.most_common(1)[0][0]) if blocks else None)
    hidden = tensors.size("stages.0.blocks.0.transformer.mlp.fc1.bias")
    found.set("trajectory.mlp_ratio", _ratio(hidden, widths[0] if widths else None))


def _ratio(hidden: int | None, width: int | None) -> int | None:
    return hidden // width if hidden and width and hidden >= width else None


def _read_stem(found: Architecture, tensors: _Tensors) -> None:
    C, double = tensors.size("stem.0.weight", axis=1, rank=4), tensors.size("stem.0.bias", "stem.2.weight")
    xyz = tensors.size("joint_person_embedding", axis=1, rank=2) == 48
    channels = {2: "xy", 3: "xyz" if xyz else "rgb", 5: "xyrgb"}.get(C or 0)
    if channels:
        found.read["trajectory.channels"] = C
        found.assume("trajectory.channels", channels, "the order in which this number of channels was published")
    else:
        found.set("trajectory.channels", None)
    hidden = double // 2 if double and double % 2 == 0 else C
    if channels and hidden != C:
        found.set("trajectory.stem_channels", hidden)
    width = tensors.size("stem.4.bias")
    found.set("trajectory.embed_width", width if width and width % 2 == 0 else None)


def _read_length(found: Architecture, table_frames: int, length: int | None) -> None:
    """T, and the size of the tables of the global partitions."""
    if table_frames != _SHARED_FRAMES:  # made for this model alone: an eighth of T
        found.set("trajectory.table_frames", 0)
        found.set("trajectory.length", 8 * table_frames)
        return
    found.set("trajectory.table_frames", _SHARED_FRAMES)
    if length is not None:
        found.assume("trajectory.length", length, "as asked")
    else:
        why = "tables for T = 256 serve every length; this is the published one of this kind"
        found.assume("trajectory.length", _PUBLISHED_LENGTH[found.config.name], why)


def _read_rgb(found: Architecture, tensors: _Tensors, sub_clips: int) -> None:
    stages = [tensors.size(f"s_former.layer{i}.0.bn1.weight", f"s_former.layer{i}.0.bn1.bias") for i in range(1, 5)]
    found.set("rgb.widths", tuple(stages) if all(stages) else None)
    positions = tensors.size("s_former.pos_embedding", axis=1, rank=3) or 0
    side = math.isqrt(positions)
    found.set("rgb.image_size", 16 * side if side and side * side == positions else None)
    frames = tensors.size("t_former.pos_embedding", axis=1, rank=3) or 0
    found.set("rgb.clip_length", frames - 1 if frames > 1 else None)
    found.assume("rgb.num_frames", sub_clips * found.config.rgb.clip_length, f"published with {sub_clips} sub-clips")
    found.set("rgb.temporal_depth", _counted(tensors.count("t_former.spatial_transformer.layers.")))
    for option, part, width in (("spatial", "s_former", 2), ("temporal", "t_former", 3)):
        hidden = tensors.size(f"{part}.spatial_transformer.layers.0.1.fn.fn.net.0.bias")
        found.set(f"rgb.{option}_mlp_dim", hidden)
        _assume_heads(found, f"rgb.{option}_heads", found.config.rgb.widths[width])


def _assume_heads(found: Architecture, option: str, width: int) -> None:
    found.assume(option, math.gcd(8, width), "heads leave no trace in shapes; published with 8")


def _read_fusion(found: Architecture, tensors: _Tensors) -> None:
    width = found.config.trajectory.widths[-1]  # the trajectory feature enters the fusion as it is
    found.set("fusion.width", width)
    found.set("fusion.depth", _counted(tensors.count("fusion.model.")))
    hidden = tensors.size("fusion.model.0.mlp.fc1.bias")
    found.set("fusion.mlp_ratio", _ratio(hidden, width))
    _assume_heads(found, "fusion.heads", width)


def _read_linear_head(found: Architecture, tensors: _Tensors) -> None:
    found.set("head.hidden", ())
    _read_outputs(found, tensors.size("bias"))


def _read_head(found: Architecture, tensors: _Tensors) -> None:
    layers = next(n for n in range(_MAX_COUNT) if f"layer{n + 1}.bias" not in tensors.shapes)
    sizes = [tensors.size(f"layer{i}.bias") for i in range(1, layers + 1)]
    found.set("head.hidden", tuple(sizes[:-1]) if sizes and all(sizes) else None)
    _read_outputs(found, sizes[-1] if sizes else None)


def _read_outputs(found: Architecture, outputs: int | None) -> None:
    """One output is a score; more are classes."""
    found.set("head.num_classes", None if outputs is None else 0 if outputs == 1 else outputs)
