"""How long a clip takes to score once its landmarks are known: decode the frames, sample, run the model.

    python -m benchmarks.score [--rounds 5] [--threads 2] [--seconds 210] [--out benchmarks/results]

The published model (T = 128, 80 frames of 224×224) with random weights scores a clip of 128 frames and one of 40. Ways:
PyTorch, eager, which encodes all 80 frames, those of a loop again and again, as the released code does; JAX with all 80
frames; JAX with the distinct ones (``tramp-jax score --runtime jax``); ONNX Runtime (``--runtime onnx``). All decode
each JPEG file once and give the same score, which is checked. They take turns within one process, after a warm-up; the
result is the median of the rounds with their range, in JSON and Markdown, named by the time. Under load of other
programs look at the processor time, or measure again.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import cv2
import jax
import numpy as np
import torch

from benchmarks.torch_twin import build_twin
from convert_weights.convert import to_variables
from tramp_jax import config as defaults
from tramp_jax.data.augment import IMAGENET_MEAN, IMAGENET_STD, for_evaluation
from tramp_jax.data.clips import Clip, ClipInfo, encode_frame
from tramp_jax.data.pipeline import Batch, Sampler, expanded
from tramp_jax.export.session import OnnxJudge
from tramp_jax.models import build_model
from tramp_jax.scoring.members import Judge, Member

PYTORCH, JAX_ALL, JAX_DISTINCT, ONNX = "PyTorch, eager", "JAX, all 80 frames", "JAX, distinct frames", "ONNX Runtime"
LENGTHS = (128, 40)
GOALS = {128: 1.4, 40: 2.4}  # time of PyTorch over that of ONNX Runtime
PACKAGES = ("torch", "jax", "onnxruntime", "onnx", "numpy", "opencv-python")
TOLERANCE = 1e-3  # of scores, relative to max(1, |score|): the ways resize and sum in their own order

Way = Callable[[Clip], float]


@dataclasses.dataclass(frozen=True)
class Measured:
    """Seconds of one way on one clip, a value a round.

    Attributes:
      wall: by the clock.
      processor: of all threads.
    """

    wall: list[float]
    processor: list[float]


def make_clip(count: int) -> Clip:
    """``count`` frames of 256×256 of noise with about the spectrum of a picture, as JPEG, and wandering landmarks."""
    rng = np.random.default_rng(count)
    frames = []
    for _ in range(count):
        octaves = (cv2.resize(rng.uniform(0, 128 / 2**k, (4 << k, 4 << k, 3)), (256, 256)) for k in range(6))
        frames.append(encode_frame(np.clip(np.sum(list(octaves), axis=0), 0, 255).astype(np.uint8)))
    points = rng.uniform(64, 192, (1, 106, 2)) + np.cumsum(rng.normal(0, 1, (count, 106, 2)), axis=0)
    pixels = rng.integers(0, 256, (count, 63, 3), np.uint8)
    info = ClipInfo(f"random_{count}", "nobody", "smile", float("nan"), count)
    return Clip(info, points.astype(np.float32), "insightface106", pixels, tuple(frames))


def ways(threads: int) -> dict[str, Way]:
    """What is compared, by name; all have the same weights."""
    config = defaults.base().lock()
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    twin = build_twin(config.model).eval()
    variables = to_variables({name: x.numpy() for name, x in twin.state_dict().items()}, config.model)
    member = Member(pathlib.Path(), None, config, 0, jax.device_put(variables), "random")
    sampler, model, size = Sampler(config), build_model(config.model), config.model.rgb.image_size

    def sampled(clip: Clip) -> Batch:
        return {name: x[None] for name, x in expanded(sampler.test(clip)).items() if name != "target"}

    mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))

    @torch.inference_mode()
    def by_torch(clip: Clip) -> float:
        sample = {name: torch.from_numpy(x) for name, x in sampled(clip).items()}
        frames = sample["frames"][0].permute(0, 3, 1, 2).float()
        frames = torch.nn.functional.interpolate(frames, (size, size), mode="bilinear", antialias=True)
        frames = (frames / 255 - mean) / std
        return float(twin(frames[None], sample["trajectories"].transpose(1, 2), sample["index_t"])[0])

    @jax.jit
    def apply(sample: Batch) -> jax.Array:
        batch = for_evaluation(sample, size)
        return model.apply(member.variables, batch["frames"], batch["trajectories"], batch["index_t"])[0]

    jax_judge, onnx_judge = Judge(member, draws=0), OnnxJudge(member, draws=0, threads=threads)
    return {
        PYTORCH: by_torch,
        JAX_ALL: lambda clip: float(apply(sampled(clip))[0]),
        JAX_DISTINCT: lambda clip: jax_judge(clip)[0],
        ONNX: lambda clip: onnx_judge(clip)[0],
    }


def measure(threads: int, rounds: int, seconds: float) -> tuple[dict[int, dict[str, Measured]], dict[int, float]]:
    """Measures all ways on all clips; begins no second round that would not end within ``seconds``, warm-up included.

    Returns:
      what was measured, by the clip's length and the way; and the largest difference between scores, by length.

    Raises:
      ValueError: the ways do not give the same score.
    """
    start, longest = time.perf_counter(), 0.0
    by_name = ways(threads)
    clips = {length: make_clip(length) for length in LENGTHS}
    found = {length: {name: Measured([], []) for name in by_name} for length in LENGTHS}
    differences = {}
    for length, clip in clips.items():  # the warm-up, in which JAX compiles
        scores = {name: way(clip) for name, way in by_name.items()}
        differences[length] = max(abs(score - scores[PYTORCH]) for score in scores.values())
        if differences[length] > TOLERANCE * max(1, abs(scores[PYTORCH])):
            raise ValueError(f"the ways differ on {length} frames: {scores}")
    for number in range(rounds):
        begun = time.perf_counter()
        if number and begun - start + longest > seconds:
            break
        for length, clip in clips.items():
            for name, way in by_name.items():
                wall, processor = time.perf_counter(), time.process_time()
                way(clip)
                found[length][name].wall.append(time.perf_counter() - wall)
                found[length][name].processor.append(time.process_time() - processor)
        longest = max(longest, time.perf_counter() - begun)
    return found, differences


def ratios(found: dict[str, Measured], name: str) -> list[float]:
    """Time of PyTorch over that of a way, a value a round."""
    return [slow / fast for slow, fast in zip(found[PYTORCH].wall, found[name].wall, strict=True)]


def table(found: dict[int, dict[str, Measured]]) -> str:
    """The measurements in Markdown."""
    lines = ["| clip | way | time, s | PyTorch's time over it | processor time, s |", "|---|---|---|---|---|"]
    for length, by_name in found.items():
        for name, measured in by_name.items():
            columns = [measured.wall, ratios(by_name, name), measured.processor]
            texts = [f"{statistics.median(x):.2f} ({min(x):.2f}–{max(x):.2f})" for x in columns]
            lines.append(f"| {length} frames | {name} | {' | '.join(texts)} |")
    return "\n".join(lines)


def verdict(found: dict[int, dict[str, Measured]]) -> str:
    """Whether ONNX Runtime reaches the goals."""
    lines = []
    for length, goal in GOALS.items():
        median = statistics.median(ratios(found[length], ONNX))
        outcome = "reached" if median >= goal else "not reached"
        lines.append(f"- {length} frames: {median:.2f} times as fast as PyTorch; the goal of {goal} is {outcome}.")
    return "\n".join(lines)


def machine() -> str:
    """Processor model, where Linux tells it."""
    path = pathlib.Path("/proc/cpuinfo")
    names = [line for line in path.read_text().splitlines() if "model name" in line] if path.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, and writes both files."""
    parser = argparse.ArgumentParser(description="Measure how long a clip takes to score, beside PyTorch.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument(
        "--seconds", type=float, default=210, help="begin no second round that would end later (default 210)"
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"))
    options = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity"):  # XLA takes as many threads as there are cores that it may use
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    load = os.getloadavg()[0]
    found, differences = measure(options.threads, options.rounds, options.seconds)
    now = datetime.datetime.now(datetime.UTC)
    facts = {
        "date": now.isoformat(timespec="seconds"),
        "processor": machine(),
        "threads": options.threads,
        "load_average": {"before": round(load, 1), "after": round(os.getloadavg()[0], 1)},
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "rounds": len(found[LENGTHS[0]][PYTORCH].wall),
        "largest_difference_of_scores": differences,
    }
    head = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    text = f"# Time to score a clip\n\n{head}\n\n{table(found)}\n\n{verdict(found)}\n"
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / f"score_{now:%Y-%m-%d_%H%M}"
    measured = {length: {n: dataclasses.asdict(m) for n, m in by_name.items()} for length, by_name in found.items()}
    stem.with_suffix(".json").write_text(json.dumps(facts | {"seconds": measured}, indent=1) + "\n")
    stem.with_suffix(".md").write_text(text)
    sys.stdout.write(f"{text}\nwritten: {stem}.md and .json\n")


if __name__ == "__main__":
    main()
