"""Scale on paper: steps per second on 1, 8 and 64 devices, and what limits them. Measures nothing itself.

    python -m benchmarks.scale_model [--tflops 135] [--memory 3350] [--host 25]

The work of a step is counted: FLOPs of products (``tramp_jax/studies/cost.py``), bytes of gradients from the shapes of
the model, and the bytes that XLA's programs touch from the kept report of ``benchmarks.costs``. Flags state the peaks
of the machines; their defaults are an assumption about servers of eight H100, not a measurement. A step takes as long
as its arithmetic or its memory traffic, whichever is longer, and then the all-reduce, which overlaps with nothing. Each
server makes the input meanwhile; without a cache, the input limits the steps if it is slower.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from benchmarks import timing
from tramp_jax import models
from tramp_jax.studies import cost

PER_SERVER = 8
JPEG_MB = 43.0 / 24  # a clip of 80 to 150 frames as packed by ``benchmarks.input`` (2026-11-22)
COSTS = "2026-11-28_costs-float32_cpu.json"
FRAMES, CLIPS = 32, 8  # in that report: frames for the frame encoder, clips for the rest


@dataclasses.dataclass(frozen=True)
class Machine:
    """Stated peaks."""

    tflops: float  # TFLOP/s that the convolutions of a device reach
    memory: float  # GB/s of a device's memory
    within: float  # GB/s between the devices of a server
    between: float  # GB/s from a device to other servers
    host: float  # clips/s that a server decodes


@dataclasses.dataclass(frozen=True)
class Clip:
    """The cost of a clip in a training step, and the gradients of a step, which are the same for any batch."""

    flops: float
    touched: float  # bytes of memory traffic
    frames: float  # bytes of pixels
    gradients: float  # bytes


def clip_of(config: ConfigDict) -> Clip:
    """The cost of the model of a configuration."""
    report = json.loads((timing.RESULTS / COSTS).read_text())["measured"]
    frame_parts, trajectory_parts = (report[name]["parts"] for name in list(report)[-2:])
    touched = sum(row["XLA bytes"] for row in frame_parts) * config.model.rgb.num_frames / FRAMES
    touched += sum(row["XLA bytes"] for row in trajectory_parts) / CLIPS
    size = config.model.rgb.image_size
    params = jax.tree.leaves(models.abstract_variables(config.model)["params"])
    return Clip(
        flops=cost.TRAINING * cost.flops(config.model),
        touched=cost.TRAINING * touched,
        frames=config.model.rgb.num_frames * size * size * 3,
        gradients=sum(4 * math.prod(leaf.shape) for leaf in params),
    )


def row(clip: Clip, machine: Machine, devices: int, batch: int) -> dict[str, float | str]:
    """One step of ``batch`` clips on ``devices``: milliseconds of each stage, steps/s, and the stage that limits."""
    servers = max(1, devices // PER_SERVER)
    each = math.ceil(batch / devices)
    link = machine.within if servers == 1 else machine.between
    stages = {
        "arithmetic": 1e3 * each * clip.flops / (1e12 * machine.tflops),
        "memory": 1e3 * each * clip.touched / (1e9 * machine.memory),
        # A ring sends every gradient twice, less the device's own share.
        "all-reduce": 1e3 * 2 * (devices - 1) / devices * clip.gradients / (1e9 * link),
        "input": 1e3 * batch / (machine.host * servers),
    }
    device = max(stages["arithmetic"], stages["memory"]) + stages["all-reduce"]
    return {
        **stages,
        "cached steps/s": 1e3 / device,
        "steps/s": 1e3 / max(device, stages["input"]),
        "first": max(stages, key=lambda name: stages[name]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    flags = timing.parser(__doc__, rounds=1)
    reached = cost.SHARE * cost.PEAK["bfloat16"]
    flags.add_argument("--tflops", type=float, default=reached, help="TFLOP/s that a device reaches in bfloat16")
    flags.add_argument("--memory", type=float, default=3350, help="GB/s of a device's memory")
    flags.add_argument("--within", type=float, default=450, help="GB/s between the devices of a server, one direction")
    flags.add_argument("--between", type=float, default=50, help="GB/s of a device to other servers, one direction")
    flags.add_argument("--host", type=float, default=33.4 * 96, help="clips/s that a server decodes: a core's × cores")
    options = flags.parse_args(arguments)
    machine = Machine(options.tflops, options.memory, options.within, options.between, options.host)
    config = timing.recipe(options.config)
    clip = clip_of(config)
    lines = [
        f"A clip in training: {clip.flops / 1e12:.2f} TFLOP, {clip.touched / 1e9:.1f} GB of memory traffic in float32, "
        f"{clip.frames / 1e6:.1f} MB of pixels; gradients of {clip.gradients / 1e6:.0f} MB a step.",
        "",
        "| devices | clips a step | arithmetic ms | memory ms | all-reduce ms | input ms | steps/s, cached "
        "| steps/s, read | clips/s | read MB/s a server | pixels MB/s a device | longest |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    recipe = config.train.batch_size
    for devices, batch in [(1, recipe), (recipe, recipe), *((devices, 8 * devices) for devices in (1, 8, 64))]:
        found = row(clip, machine, devices, batch)
        ms = " | ".join(f"{found[name]:.2f}" for name in ("arithmetic", "memory", "all-reduce", "input"))
        clips = float(found["steps/s"]) * batch
        servers = max(1, devices // PER_SERVER)
        lines.append(
            f"| {devices} | {batch} | {ms} | {found['cached steps/s']:.1f} | {found['steps/s']:.1f} | {clips:.0f} "
            f"| {clips * JPEG_MB / servers:.0f} | {clips * clip.frames / 1e6 / devices:.0f} | {found['first']} |"
        )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
