"""Alternatives to how scoring runs the model: less or more work in JAX, other ways to encode frames in ONNX Runtime.

    python -m benchmarks.inference [--clips 2] [--config FILE] [--run RUN]

In JAX, one alternative puts back work that scoring skips, and the other leaves out work that it could skip. They
replace pieces of ``tramp_jax.models`` during tracing. Scoring also skips the frames that a short clip repeats;
``python -m benchmarks.score`` measures that, since it needs whole clips.

In ONNX Runtime, the alternatives are other numbers of frames in a call, and convolutions in int8, whose ranges are
calibrated on drawn faces. If OpenVINO is installed and the processor has the instructions, bfloat16 is one, too: the
``--precision bfloat16`` of ``tramp-jax score``. ``--run`` names a trained run that reads frames. With it, the command
also measures how far int8 and bfloat16 move the scores of 200 drawn clips.
"""

import contextlib
import functools
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import timing
from tramp_jax import models
from tramp_jax.batches.pipeline import Sampler
from tramp_jax.config import streams
from tramp_jax.data.clips import Clip
from tramp_jax.models import former_dfer, fusion
from tramp_jax.output import Output
from tramp_jax.scoring import onnx_judge
from tramp_jax.scoring.members import Member, load_member
from tramp_jax.shards import cores
from tramp_jax.synthetic.faces import EXPRESSIONS, SyntheticFaces

AS_IT_IS = "as it is"
INT8 = {"int8": 0, "int8 in stages 3 and 4": 10}  # convolutions left in float32: those of the stem and stages 1 and 2
FRAMES, AT_ONCE = 32, (1, 4, 32)
CALIBRATION_CLIPS, CLIPS, BOUND = 64, 200, 0.02  # the bound is in rating points


class _Identity(nn.Module):
    """Replaces a batch normalisation, as if it were folded into the convolution before it."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return x


def _without_normalisation() -> Any:
    return mock.patch.object(former_dfer, "BatchNorm", _Identity)


def _queries_and_keys() -> Any:
    """Computes queries and keys even though there is only one key to attend to."""
    return mock.patch.object(fusion.CrossAttention, "is_initializing", return_value=True)


def take_turns(module: nn.Module, inputs: Sequence[jax.Array], ways: dict[str, Callable[[], Any]], rounds: int) -> Any:
    """Measures the forward pass of ``module`` in each way, in seconds."""
    variables = jax.jit(module.init)(jax.random.key(0), *inputs)
    calls = {}
    for name, change in ways.items():
        forward = jax.jit(lambda variables, inputs: module.apply(variables, *inputs))
        with change():
            jax.block_until_ready(forward(variables, inputs))
        calls[name] = lambda forward=forward: jax.block_until_ready(forward(variables, inputs))
    return timing.take_turns(calls, rounds)


class _FrameEncoder(nn.Module):
    encoder: nn.Module

    def __call__(self, frames: jax.Array) -> Any:
        return self.encoder(frames, False)


def in_jax(report: timing.Report, config: ConfigDict, clips: int, rounds: int) -> None:
    """Measures the frame encoder on ``clips`` sub-clips, and the fusion; ``config`` is the ``model`` group."""
    model, rgb, key = models.build_model(config), config.rgb, jax.random.key(0)
    frames = jax.random.normal(key, (clips, rgb.clip_length, rgb.image_size, rgb.image_size, 3))
    ways = {AS_IT_IS: contextlib.nullcontext, "without batch normalisation": _without_normalisation}
    seconds = take_turns(_FrameEncoder(model.rgb_encoder), [frames], ways, rounds)
    report.add("frame encoder", timing.comparison(seconds, AS_IT_IS), seconds=seconds)

    query = jax.random.normal(key, (8, 1, config.fusion.width))
    ways = {"queries and keys computed": _queries_and_keys, AS_IT_IS: contextlib.nullcontext}
    seconds = take_turns(model.fusion, [query, query], ways, rounds)
    report.add("fusion", timing.comparison(seconds, "queries and keys computed"), seconds=seconds)


def drawn(seed: int, count: int, config: ConfigDict) -> list[Clip]:
    """Drawn clips of the expression in ``config``, or of all expressions if faces cannot be drawn with that one."""
    one = config.data.expression
    expressions = (one,) if one in EXPRESSIONS else EXPRESSIONS
    clips = SyntheticFaces(-(-count // len(expressions)), 1, expressions, seed, cues=config.data.get("cues", "motion"))
    return [clips[i] for i in range(count)]


def in_int8(member: Member, clips: Sequence[Clip], left_out: int, threads: int) -> Any:
    """The session of a member's frame encoder with convolutions in int8, except for the first ``left_out``.

    Weights have 7 bits and a scale for each channel: AVX2 adds pairs of products in 16 bits, which 8 bits exceed.
    """
    import onnx
    from onnx.utils import Extractor
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from tramp_jax.export.onnx_graph import FRAME_FEATURES, build

    model = build(member.config, member.variables, member.output)
    names = [entry.name for entry in model.graph.input if entry.name in ("frames", "frames_present")]
    part = Extractor(model).extract_model(names, [FRAME_FEATURES])
    convolutions = [node.name for node in part.graph.node if node.op_type == "Conv"]
    samples = (Sampler(member.config).test(clip).inputs for clip in clips)
    feeds = ({name: getattr(sample, name)[None, ::4] for name in names} for sample in samples)

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        given, made = (pathlib.Path(folder) / name for name in ("float32.onnx", "int8.onnx"))
        onnx.save(part, given)
        quant_pre_process(given, given, skip_symbolic_shape=True)
        q.quantize_static(
            given,
            made,
            Reader(),
            quant_format=q.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=convolutions[:left_out],
            per_channel=True,
            reduce_range=True,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
        )
        return onnx_judge.open_session(made.read_bytes(), threads)


def in_onnx_runtime(config: ConfigDict, rounds: int, threads: int) -> dict[str, list[float]]:
    """Seconds that the frame encoder takes for ``FRAMES`` frames in each way."""
    variables = models.init_variables(config.model, jax.random.key(0))
    member = Member(pathlib.Path(), None, config, 0, variables, None, Output((), (), 1.0, 0.0, 4.0))
    clips = drawn(0, 8, config)
    frames = np.concatenate([Sampler(config).test(clip).inputs.frames for clip in clips])[:FRAMES]
    assert len(frames) == FRAMES

    def encode(session: Any, at_once: int) -> None:
        for first in range(0, FRAMES, at_once):
            session.run(None, {"frames": frames[None, first : first + at_once]})

    whole = onnx_judge.OnnxJudge(member, threads).encoder
    ways = {AS_IT_IS: functools.partial(encode, whole, 16)}
    ways |= {f"{count} at a time": functools.partial(encode, whole, count) for count in AT_ONCE}
    for name, left_out in INT8.items():
        ways[name] = functools.partial(encode, in_int8(member, clips, left_out, threads), 16)
    if onnx_judge.has_bfloat16():
        judge = onnx_judge.OnnxJudge(member, threads, onnx_judge.BFLOAT16)
        ways[onnx_judge.BFLOAT16] = functools.partial(encode, judge.encoder, 16)
    return timing.take_turns(ways, rounds)


def shifts(folder: pathlib.Path, threads: int) -> tuple[list[str], dict[str, list[float]]]:
    """How far fewer digits move a trained run's scores of drawn clips, in rating points: a table, all differences."""
    member = load_member(folder)
    calibration, clips = drawn(1, CALIBRATION_CLIPS, member.config), drawn(777, CLIPS, member.config)
    judge = onnx_judge.OnnxJudge(member, threads)
    exact = member.output.score(judge.many(clips))

    def judges() -> Iterator[tuple[str, onnx_judge.OnnxJudge]]:
        for name, left_out in INT8.items():
            judge.encoder = in_int8(member, calibration, left_out, threads)
            yield name, judge
        if onnx_judge.has_bfloat16() and streams(member.config.model) == "both":
            yield onnx_judge.BFLOAT16, onnx_judge.OnnxJudge(member, threads, onnx_judge.BFLOAT16)

    found = {}
    lines = [
        f"Scores of {CLIPS} clips in float32 have a standard deviation of {np.std(exact):.2f}.",
        "",
        f"| way | mean | median | 95% | largest | within {BOUND} |",
        "|---|---|---|---|---|---|",
    ]
    for name, other in judges():
        moved = np.abs(member.output.score(other.many(clips)) - exact)
        numbers = [np.mean(moved), *np.quantile(moved, [0.5, 0.95, 1])]
        lines.append(f"| {name} | {' | '.join(f'{x:.4f}' for x in numbers)} | {np.mean(moved <= BOUND):.1%} |")
        found[name] = moved.tolist()
    return lines, found


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the arguments, measures, and writes the report."""
    flags = timing.parser(__doc__, rounds=5)
    flags.add_argument("--clips", type=int, default=2, help="of the encoder's clip length, 16 frames as published")
    flags.add_argument(
        "--run", type=pathlib.Path, help="trained run whose scores are compared in float32 and with fewer digits"
    )
    flags.add_argument("--threads", type=int, default=min(2, cores()), help="of ONNX Runtime")
    options = flags.parse_args(arguments)
    config = timing.recipe(options.config)
    config.data.padding = "loop"  # without padding, frames are the encoder's only input
    report = timing.Report("inference", arguments, options.out)
    in_jax(report, config.model, options.clips, options.rounds)
    if not onnx_judge.missing():
        seconds = in_onnx_runtime(config, options.rounds, options.threads)
        report.add(f"ONNX Runtime, {FRAMES} frames", timing.comparison(seconds, AS_IT_IS), seconds=seconds)
        if options.run:
            lines, found = shifts(options.run, options.threads)
            report.add("scores with fewer digits", lines, moved=found)


if __name__ == "__main__":
    main()
