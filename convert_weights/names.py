"""Which PyTorch tensor is which of ours, spelled out for every published kind of checkpoint.

A map is a list of rules computed from the architecture (a ``model`` config group), so that it is complete by
construction: whatever is left over on either side is an error (``convert_weights.convert``).
"""

from ml_collections import ConfigDict

from convert_weights.layouts import Rule, batch_norm, linear, norm

# Buffers that PyTorch saves and that carry nothing to convert: a counter beside the running mean, and distances in
# time beside their table.
COUNTER, INDEX = "num_batches_tracked", "relative_position_index"
_TABLE, _MEAN = "relative_position_bias_table", "running_mean"


def name_map(config: ConfigDict) -> list[Rule]:
    """All tensors of the model that ``config`` (the ``model`` group) describes, in the released code's names.

    Raises:
      ValueError: a model that has no counterpart there.
    """
    if config.name != "tramp_former" and config.head.hidden:
        raise ValueError(
            f"model.head.hidden is {tuple(config.head.hidden)}, but {config.name} was released with a linear head: ()"
        )
    if config.name == "skateformer":
        return skateformer("", config) + linear("head", ("head", "layer1"))
    if config.name == "former_dfer":
        return former_dfer("", config) + linear("fc", ("head", "layer1"))
    rules: list[Rule] = []
    if config.streams != "rgb":
        rules += skateformer("encoder.", config)
    if config.streams != "trajectory":
        rules += former_dfer("rgb_encoder.", config) + linear("rgb_transform", ("rgb_projection",))
    if config.streams == "both":
        rules += fusion("fusion.", config)
    for i in range(1, len(config.head.hidden) + 2):
        rules += linear(f"evaluator.layer{i}", ("head", f"layer{i}"))
    return rules


def buffers(rules: list[Rule]) -> list[str]:
    """Names of the buffers that a state dict holds besides the tensors of ``rules``."""
    counters = [rule.source.removesuffix(_MEAN) + COUNTER for rule in rules if rule.source.endswith("." + _MEAN)]
    return counters + [rule.source.removesuffix(_TABLE) + INDEX for rule in rules if rule.source.endswith("." + _TABLE)]


def skateformer(prefix: str, config: ConfigDict) -> list[Rule]:
    """The trajectory encoder, its names beginning with ``prefix``."""
    top = "trajectory_encoder"
    rules = [Rule(f"{prefix}joint_person_embedding", ("params", top, "joint_embedding"), "as is")]
    for i in range(3):
        rules += linear(f"{prefix}stem.{2 * i}", (top, f"stem_{i}"), transform="pointwise")
    for stage in range(len(config.trajectory.widths)):
        if stage > 0:
            source, target = f"{prefix}stages.{stage}.blocks.0.downsample", (top, f"stage_{stage}_downsample")
            rules += linear(f"{source}.reduction", (*target, "reduction"), transform="temporal")
            rules += batch_norm(f"{source}.bn", (*target, "bn"))
        for block in range(config.trajectory.blocks_per_stage):
            source = f"{prefix}stages.{stage}.blocks.{block}.transformer"
            rules += _skateformer_block(source, (top, f"stage_{stage}_block_{block}"))
    return rules


def _skateformer_block(source: str, target: tuple[str, ...]) -> list[Rule]:
    rules = [
        Rule(f"{source}.gconv", ("params", *target, "g_conv", "matrix"), "as is"),
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
        rules.append(Rule(table, ("params", *target, f"attention_{i + 1}", "bias", "table"), "as is"))
    return rules


def former_dfer(prefix: str, config: ConfigDict) -> list[Rule]:
    """The frame encoder, its names beginning with ``prefix``."""
    s_former, t_former = ("rgb_encoder", "s_former"), ("rgb_encoder", "t_former")
    source = f"{prefix}s_former"
    rules = [Rule(f"{source}.pos_embedding", ("params", *s_former, "pos_embedding"), "as is")]
    rules += _conv(f"{source}.conv1", (*s_former, "conv1"))
    rules += batch_norm(f"{source}.bn1", (*s_former, "bn1"))
    width_in = config.rgb.widths[0]
    for stage, width in enumerate(config.rgb.widths, start=1):
        for block in range(2):
            shortcut = block == 0 and (stage > 1 or width != width_in)
            rules += _basic_block(f"{source}.layer{stage}.{block}", (*s_former, f"layer{stage}_{block}"), shortcut)
    rules += _transformer_layer(f"{source}.spatial_transformer.layers.0", (*s_former, "transformer"))

    source = f"{prefix}t_former"
    for name in ("cls_token", "pos_embedding"):
        rules.append(Rule(f"{source}.{name}", ("params", *t_former, name), "as is"))
    for i in range(config.rgb.temporal_depth):
        # The released T-Former calls its layers a spatial transformer, too.
        rules += _transformer_layer(f"{source}.spatial_transformer.layers.{i}", (*t_former, f"layer_{i}"))
    return rules


def _conv(source: str, target: tuple[str, ...]) -> list[Rule]:
    return linear(source, target, bias=False, transform="conv")


def _basic_block(source: str, target: tuple[str, ...], shortcut: bool) -> list[Rule]:
    rules: list[Rule] = []
    for i in (1, 2):
        rules += _conv(f"{source}.conv{i}", (*target, f"conv{i}"))
        rules += batch_norm(f"{source}.bn{i}", (*target, f"bn{i}"))
    if shortcut:
        rules += _conv(f"{source}.downsample.0", (*target, "downsample_conv"))
        rules += batch_norm(f"{source}.downsample.1", (*target, "downsample_bn"))
    return rules


def _transformer_layer(source: str, target: tuple[str, ...]) -> list[Rule]:
    return [
        *norm(f"{source}.0.fn.norm", (*target, "norm_1")),
        *linear(f"{source}.0.fn.fn.to_qkv", (*target, "attention", "qkv"), bias=False),
        *linear(f"{source}.0.fn.fn.to_out.0", (*target, "attention", "proj")),
        *norm(f"{source}.1.fn.norm", (*target, "norm_2")),
        *linear(f"{source}.1.fn.fn.net.0", (*target, "mlp", "fc1")),
        *linear(f"{source}.1.fn.fn.net.3", (*target, "mlp", "fc2")),
    ]


def fusion(prefix: str, config: ConfigDict) -> list[Rule]:
    """The TraMP blocks, their names beginning with ``prefix``."""
    rules: list[Rule] = []
    for i in range(config.fusion.depth):
        source, target = f"{prefix}model.{i}", ("fusion", f"block_{i}")
        for name in ("norm_q", "norm_v"):
            rules += norm(f"{source}.{name}", (*target, name))
        for name in ("q", "k", "v"):
            rules += linear(f"{source}.attn.{name}_map", (*target, "attention", name), bias=False)
        rules += linear(f"{source}.attn.proj", (*target, "attention", "proj"))
        rules += norm(f"{source}.norm2", (*target, "norm_2"))
        for name in ("fc1", "fc2"):
            rules += linear(f"{source}.mlp.{name}", (*target, "mlp", name))
    return rules
