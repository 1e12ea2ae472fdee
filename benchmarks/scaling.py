"""The training step on 1, 2, 4 ... devices with the same global batch: ideally, N devices are N times as fast.

    python -m benchmarks.scaling [--batch 8] [--devices 2] [--precision bfloat16]

On a CPU the devices are fake ones that share the cores. There the ideal is 1, and the rest is the cost of splitting. On
GPUs all devices of the machine take part.
"""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the arguments, measures, and writes the report."""
    from benchmarks import timing  # does not import jax

    flags = timing.parser(__doc__, rounds=5)
    timing.add_precision(flags)
    flags.add_argument("--batch", type=int, help="clips in all; default 4 on a CPU, else 8 per device")
    flags.add_argument("--frames", type=int, help="frames of a clip; default 16 on a CPU, else the recipe's")
    flags.add_argument("--devices", type=int, default=2, help="fake devices on a CPU")
    options = flags.parse_args(arguments)

    import jax
    import numpy as np
    from jax.sharding import Mesh

    from benchmarks import ways

    jax.config.update("jax_num_cpu_devices", options.devices)  # has no effect on other devices
    on_cpu, available = jax.default_backend() == "cpu", jax.device_count()
    config = timing.recipe(options.config)
    config.model.rgb.num_frames = options.frames or (16 if on_cpu else config.model.rgb.num_frames)
    batch = options.batch or (4 if on_cpu else 8 * available)
    counts = sorted({2**i for i in range(available.bit_length())} | {available})
    counts = [count for count in counts if count <= available and batch % count == 0]
    report = timing.Report("scaling", arguments, options.out)
    work, way = ways.prepare(config, batch, twin=False), ways.JaxWay(options.precision)
    meshes = {str(count): Mesh(np.array(jax.devices()[:count]), ("data",)) for count in counts}
    steps = {name: way.step(work, mesh) for name, mesh in meshes.items()}
    failed: dict[str, str] = {}
    seconds = timing.take_turns(steps, options.rounds, failed=failed)
    lines = ["| devices | ms, median (range) | clips/s | times 1 device, median (range) |", "|---|---|---|---|"]
    for name, values in seconds.items():
        spread = timing.spread(values)
        gain = "1" if name == "1" else ""
        if not gain and "1" in seconds:
            gain = f"{timing.ratios(seconds, name, '1'):.2f}"
        ms = timing.spread([1e3 * value for value in values])
        lines.append(f"| {name} | {ms:.1f} | {batch / spread.median:.2f} | {gain} |")
    lines += [f"| {name} | did not run: {why} | | |" for name, why in failed.items()]
    if on_cpu:
        lines += ["", f"Fake devices that share {timing.cores()} cores: the ideal is 1."]
    report.add(f"training step of {batch} clips", lines, batch=batch, seconds=seconds)


if __name__ == "__main__":
    main()
