"""How long scoring a clip takes once its landmarks are known: decode the frames, sample, run the model.

    python -m benchmarks.score [--rounds 5] [--threads 2]

The published model (T = 128, 80 frames of 224×224) with random weights scores a clip of 128 frames, one of 40, and one
of 20 frames that each appear twice, as in a video of 15 frames per second that was resampled to 30. There are five
ways: eager PyTorch, which like the released code encodes every frame of the sample, even those that a loop repeats; JAX
with every frame; JAX with each frame number once (``tramp-jax score --runtime jax``); and ONNX Runtime (``--runtime
onnx``), which also encodes neighbouring frames with equal pixels once; and the same with frames in bfloat16
(``--precision bfloat16``), where OpenVINO and the processor can. All decode each JPEG file once, and the command checks
that their raw values agree. An interval takes no more time, since it is computed from the raw value. Everything
runs on the CPU, even if there is a GPU.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Sequence

import cv2
import jax
import numpy as np
import torch
from ml_collections import ConfigDict

from benchmarks import timing
from convert_weights.convert import to_variables
from convert_weights.torch_twin import build_twin
from tramp_jax import models
from tramp_jax.batches.augment import IMAGENET_MEAN, IMAGENET_STD, for_evaluation
from tramp_jax.batches.pipeline import Sampler, all_frames
from tramp_jax.data.clips import Clip, ClipInfo, encode_frame
from tramp_jax.models import Inputs, build_model
from tramp_jax.output import Output
from tramp_jax.scoring.judges import JaxJudge
from tramp_jax.scoring.members import Member
from tramp_jax.scoring.onnx_judge import BFLOAT16, OnnxJudge, has_bfloat16

PYTORCH, JAX_ALL, JAX_DISTINCT, ONNX = "torch-eager", "jax, all frames", "jax, distinct frames", "onnx-runtime"
ONNX_BFLOAT16 = "onnx-runtime, bfloat16"
CLIPS = {"a clip of 128 frames": (128, 1), "a clip of 40 frames": (40, 1), "a clip of 20 frames, each twice": (40, 2)}
TOLERANCE = 1e-3  # for scores, relative to max(1, |score|): the ways resize and sum in different orders

Way = Callable[[Clip], float]


def make_clip(count: int, times: int = 1) -> Clip:
    """A clip of ``count`` 256×256 JPEG frames of noise with about a photo's spectrum, and of wandering landmarks.

    Each picture is shown ``times`` times.
    """
    rng = np.random.default_rng(count)
    frames = []
    for _ in range(count // times):
        octaves = (cv2.resize(rng.uniform(0, 128 / 2**k, (4 << k, 4 << k, 3)), (256, 256)) for k in range(6))
        frames += [encode_frame(np.clip(np.sum(list(octaves), axis=0), 0, 255).astype(np.uint8))] * times
    points = rng.uniform(64, 192, (1, 106, 2)) + np.cumsum(rng.normal(0, 1, (count, 106, 2)), axis=0)
    pixels = rng.integers(0, 256, (count, 63, 3), np.uint8)
    info = ClipInfo(f"random_{count}", "nobody", "smile", float("nan"), count)
    return Clip(info, points.astype(np.float32), "insightface106", pixels, tuple(frames))


def ways(config: ConfigDict, threads: int) -> dict[str, Way]:
    """The ways by name. All have the same weights."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    twin = build_twin(config.model).eval()
    variables = to_variables({name: x.numpy() for name, x in twin.state_dict().items()}, config.model)
    output = Output((), (), 1.0, 0.0, 4.0)
    member = Member(pathlib.Path(), None, config, 0, jax.device_put(variables), None, output)
    sampler, model, size = Sampler(config), build_model(config.model), config.model.rgb.image_size

    def sampled(clip: Clip) -> Inputs:
        return jax.tree.map(lambda x: x[None], all_frames(sampler.test(clip).inputs))

    mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))

    @torch.inference_mode()
    def by_torch(clip: Clip) -> float:
        sample: Inputs = jax.tree.map(torch.from_numpy, sampled(clip))
        frames = sample.frames[0].permute(0, 3, 1, 2).float()
        frames = torch.nn.functional.interpolate(frames, (size, size), mode="bilinear", antialias=True)
        frames = (frames / 255 - mean) / std
        return float(twin(frames[None], sample.trajectories.transpose(1, 2), sample.index_t)[0])

    @jax.jit
    def apply(sample: Inputs) -> jax.Array:
        return models.apply(model, member.variables, for_evaluation(sample, member.config.model))[0]

    by_jax, by_onnx = JaxJudge(member), OnnxJudge(member, threads)
    found = {
        PYTORCH: by_torch,
        JAX_ALL: lambda clip: float(apply(sampled(clip))[0]),
        JAX_DISTINCT: lambda clip: float(by_jax.many([clip])[0]),
        ONNX: lambda clip: float(by_onnx.many([clip])[0]),
    }
    if has_bfloat16():
        in_bfloat16 = OnnxJudge(member, threads, BFLOAT16)
        found[ONNX_BFLOAT16] = lambda clip: float(in_bfloat16.many([clip])[0])
    return found


def check(by_name: dict[str, Way], clip: Clip) -> float:
    """The largest difference between scores. This is also the warm-up, in which JAX compiles.

    Raises:
      ValueError: the scores do not agree.
    """
    scores = {name: way(clip) for name, way in by_name.items()}
    difference = max(abs(score - scores[PYTORCH]) for score in scores.values())
    if difference > TOLERANCE * max(1, abs(scores[PYTORCH])):
        raise ValueError(f"the ways differ on {len(clip.landmarks)} frames: {scores}")
    return difference


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the arguments, measures, and writes the report."""
    flags = timing.parser(__doc__, rounds=5)
    flags.add_argument("--threads", type=int, default=min(2, timing.cores()))
    options = flags.parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")
    if hasattr(os, "sched_setaffinity"):  # XLA starts a thread for each core that it may use
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    report = timing.Report("score", arguments, options.out)
    config = timing.recipe(options.config)
    config.model.trajectory.input_scale = (1.0,)  # the twin does not scale
    by_name = ways(config.lock(), options.threads)
    for title, (length, times) in CLIPS.items():
        clip = make_clip(length, times)
        difference = check(by_name, clip)
        turns = {name: functools.partial(way, clip) for name, way in by_name.items()}
        seconds = timing.take_turns(turns, options.rounds, warm_up=0)
        lines = [*timing.comparison(seconds, PYTORCH), "", f"Raw values differ by at most {difference:.1g}."]
        report.add(title, lines, seconds=seconds, difference=difference)


if __name__ == "__main__":
    main()
