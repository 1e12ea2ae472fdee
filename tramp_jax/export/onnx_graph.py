"""Builds the ONNX graph of a model from its configuration and variables.

The graph takes what ``pipeline.Sampler.test`` makes of a clip, as a batch of one, and computes in float32. It has no
dropout. Batch normalisation is folded into convolutions, and scales of logits and inputs into linear layers. A fusion
with a single key has no q and k maps, since they would have no effect.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import onnx
from ml_collections import ConfigDict
from onnx import TensorProto, helper

import tramp_jax
from tramp_jax import channels
from tramp_jax.batches.augment import stored_size
from tramp_jax.batches.view import blanks_frames
from tramp_jax.errors import UserError
from tramp_jax.export.frame_graph import normalised, s_former, t_former
from tramp_jax.export.fusion_graph import fused
from tramp_jax.export.graph import OPSET, Graph, Tensor, Weights, dense, mean
from tramp_jax.export.motion_graph import for_encoder
from tramp_jax.export.trajectory_graph import skateformer
from tramp_jax.models import RIDGE, build_model, reads_frames, reads_trajectories
from tramp_jax.models.tramp_former import Ensemble, TrampFormer
from tramp_jax.output import Output

IR_VERSION = 9  # ONNX 1.15, the first with all the operators in use
SCORE, RAW, FRAME_FEATURES = "score", "raw", "frame_features"


def build(
    config: ConfigDict, variables: Any, output: Output, metadata: Mapping[str, str] | None = None
) -> onnx.ModelProto:
    """The ONNX graph of a trained model.

    The inputs are the fields of ``models.Inputs`` that the model reads: ``frames`` (1, K, S, S, 3) uint8 RGB at the
    stored size S, for any K, and ``frame_index`` (1, F) int32 (with ``scrambled_frames``: all F frames, and no index);
    ``frames_present`` (1, K) bool, if padding is blank; ``trajectories`` (1, T, V, C), ``index_t`` (1, T) and, if some
    channels describe motion, ``seconds`` (1, T), all float32. The outputs are ``score`` (1,) on the rating scale, the
    model's ``raw`` value (1,) and, if the model reads frames, ``frame_features`` (K, C).
    The model's metadata are ``config`` (JSON), ``tramp_jax`` (version) and the given ones.

    Args:
      config: the whole configuration.

    Raises:
      UserError: the model is a classifier.
    """
    if config.model.head.num_classes:
        raise UserError(
            "classifier",
            f"model.head.num_classes is {config.model.head.num_classes}, but only regression models can be exported",
        )
    g = Graph()
    params, statistics = (jax.tree.map(np.asarray, variables.get(part, {})) for part in ("params", "batch_stats"))
    inputs, outputs = [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in (SCORE, RAW)]
    read = None
    if reads_trajectories(config.model):
        inputs += _trajectory_inputs(config)
        read = for_encoder(g, config.model.trajectory)
    if reads_frames(config.model):
        inputs += _frame_inputs(config)
        width = config.model.rgb.widths[-1]
        outputs.append(helper.make_tensor_value_info(FRAME_FEATURES, TensorProto.FLOAT, ["K", width]))
    model = build_model(config.model)
    if isinstance(model, Ensemble):
        values = []
        for i in range(model.members):
            weights, moments = (
                jax.tree.map(lambda x, i=i: x[i], part.get("model", {})) for part in (params, statistics)
            )
            values.append(_value(g, config, model.model, weights, moments, read))
        value = g.op("ReduceMean", g.op("Concat", *values, axis=0), [0], keepdims=0)
    else:
        value = _value(g, config, model, params, statistics, read)
    if RIDGE in statistics:
        assert read is not None
        value = g.op("Mul", g.op("Add", value, _ridge(g, statistics[RIDGE], read[0])), np.array(0.5))
    raw = g.output(g.op("Reshape", value, [1]), RAW)
    g.output(_score(g, output, raw), SCORE)
    proto = as_model(g, inputs, outputs)
    entries = {"config": json.dumps(json.loads(config.to_json())), "tramp_jax": tramp_jax.__version__}
    helper.set_model_props(proto, {**entries, **(metadata or {})})
    return proto


def as_model(g: Graph, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """Makes an ONNX model of the collected nodes."""
    return helper.make_model(
        helper.make_graph(g.nodes, "tramp_former", inputs, outputs, g.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="tramp_jax",
        producer_version=tramp_jax.__version__,
    )


def _value(
    g: Graph,
    config: ConfigDict,
    model: TrampFormer,
    params: Weights,
    statistics: Weights,
    read: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """The raw value (1, 1) of one model. ``read`` is what its trajectory encoder reads, if it has one."""
    in_tokens = model.fusion is not None and model.fusion.tokens == "sequence"
    features: list[Tensor] = []
    if read is not None:
        assert model.trajectory_encoder is not None
        moments = statistics.get("trajectory_encoder", {})
        tokens = skateformer(g, model.trajectory_encoder, params["trajectory_encoder"], moments, *read)
        if in_tokens:
            shape = [-1, config.model.trajectory.num_points, config.model.trajectory.widths[-1]]
            features.append(g.op("ReduceMean", g.op("Reshape", tokens, shape), [1], keepdims=0))
        else:
            features.append(mean(g, tokens))
    if reads_frames(config.model):
        c = config.model.rgb
        weights, moments = params["rgb_encoder"], statistics["rgb_encoder"]
        encoded = s_former(g, c, weights["s_former"], moments["s_former"], normalised(g, config))
        encoded = g.output(encoded, FRAME_FEATURES)
        rgb = t_former(g, c, weights["t_former"], encoded)
        if not in_tokens:
            rgb = mean(g, rgb)
        if "rgb_projection" in params:
            rgb = dense(g, params["rgb_projection"], rgb)
        features.append(g.op("Add", rgb, params["rgb_positions"]) if in_tokens else rgb)
    if model.trajectory_head is not None:
        trajectory, rgb = features
        scores = _head(g, params["head"], rgb), _head(g, params["trajectory_head"], trajectory)
        return g.op("Mul", g.op("Add", *scores), np.array(0.5))
    feature = features[0]
    if model.fusion is not None:
        trajectory, rgb = features
        feature = fused(g, model.fusion, params.get("fusion", {}), rgb, trajectory)
    return _head(g, params["head"], feature)


def _ridge(g: Graph, weights: Weights, channels_read: Tensor) -> Tensor:
    """The score (1, 1) of the ridge regression; ``channels_read`` are (T / patch, V, channels)."""
    means = g.op("Reshape", g.op("ReduceMean", channels_read, [0], keepdims=0), [1, -1])
    return g.op("Add", g.op("MatMul", means, weights["kernel"][:, None]), weights["bias"])


def _trajectory_inputs(config: ConfigDict) -> list[onnx.ValueInfoProto]:
    c = config.model.trajectory
    shape = [1, c.length, c.num_points, len(channels.stored(c.channels))]
    times = ["index_t", "seconds"] if channels.reads_motion(c.channels) else ["index_t"]
    return [
        helper.make_tensor_value_info("trajectories", TensorProto.FLOAT, shape),
        *(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, c.length]) for name in times),
    ]


def _frame_inputs(config: ConfigDict) -> list[onnx.ValueInfoProto]:
    c, size = config.model.rgb, stored_size(config.model.rgb.image_size)
    count = c.num_frames if c.scrambled_frames else "K"
    infos = [helper.make_tensor_value_info("frames", TensorProto.UINT8, [1, count, size, size, 3])]
    if not c.scrambled_frames:
        infos.append(helper.make_tensor_value_info("frame_index", TensorProto.INT32, [1, c.num_frames]))
    if blanks_frames(config):
        infos.append(helper.make_tensor_value_info("frames_present", TensorProto.BOOL, [1, count]))
    return infos


def _score(g: Graph, output: Output, raw: Tensor) -> Tensor:
    """The score (1,) of a raw value (1,), see ``output``."""
    x = g.op("Add", g.op("Mul", raw, np.array(output.slope)), np.array(output.offset))
    if output.knots:
        x = _bent(g, output, x)
    if not output.ratings:
        return g.op("Clip", x, np.array(output.low), np.array(output.high))
    distances = g.op("Sub", x, np.array(output.ratings))
    logits = g.op("Mul", g.op("Mul", distances, distances), np.array(-1 / (2 * output.sigma**2)))
    shares = g.op("Softmax", g.op("Add", logits, np.log(output.shares)), axis=-1)
    return g.op("ReduceSum", g.op("Mul", shares, np.array(output.ratings)), [0], keepdims=1)


def _bent(g: Graph, output: Output, line: Tensor) -> Tensor:
    """Maps a line's value (1,) through the knots, before decoding; see ``Output.pieces``."""
    starts, lengths, slopes = output.pieces()
    (first, lowest), (last, _) = output.knots[0], output.knots[-1]
    inside = g.op("Min", g.op("Max", g.op("Sub", line, starts), np.array(0.0)), lengths)
    parts = [
        g.op("Min", g.op("Sub", line, np.array(first)), np.array(0.0)),
        g.op("ReduceSum", g.op("Mul", inside, slopes), [0], keepdims=1),
        g.op("Max", g.op("Sub", line, np.array(last)), np.array(0.0)),
    ]
    return g.op("Add", g.op("Sum", *parts), np.array(lowest))


def _head(g: Graph, weights: Weights, x: Tensor) -> Tensor:
    """Linear layers with ReLU in between: (1, C) -> (1, 1)."""
    for i in range(1, len(weights)):
        x = g.op("Relu", dense(g, weights[f"layer{i}"], x))
    return dense(g, weights[f"layer{len(weights)}"], x)
