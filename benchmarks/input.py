"""How fast the input pipeline feeds a model: packed clips through grain, compared with a plain Pillow loop.

    python -m benchmarks.input [--clips 24] [--batches 4] [--rounds 5] [--threads 2] [--layout DIR] [--caches]
        [--precision bfloat16]

The command writes a synthetic PFED5 once (its published layout, 80 to 150 JPEG frames of 256×256 in each clip) and
packs it. All ways then make the same training batches of ``configs/pfed5.py``: 4 clips, 80 frames of 256×256 and
trajectories of 128 frames with colours. The ways take turns after a warm-up; the table shows the median and range of
the rounds. The report also shows the memory of the process over two epochs of the packed data.

With ``--caches`` the command instead compares the values of ``train.cache`` on the packed data, up to batches on the
device. It measures the time to fill each cache, and the clips per second from then on. Then it trains a model for two
epochs with each cache, and reports the share of the second epoch during which the device waited for its batches. On a
GPU this is the published model of both streams with its frames of 256×256, in ``--precision``. On a CPU such a model
takes seconds for each step and would never wait. So a CPU trains a small model of the frame stream with frames of
37×37, which says little about the published one.
"""

import csv
import functools
import itertools
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from benchmarks import timing
from tramp_jax import config as defaults
from tramp_jax import sharding, trainer, training_log
from tramp_jax.batches import augment, cache, device_cache, pipeline, trajectories
from tramp_jax.batches.draws import Draw
from tramp_jax.batches.view import View, index_t
from tramp_jax.data import clips, datasets, landmarks, packing
from tramp_jax.data.source import Split
from tramp_jax.models import Inputs
from tramp_jax.synthetic.faces import SyntheticFaces

_CACHES = defaults.OPTIONS["train"]["cache"].known
_SUBJECTS_PER_TEST = 4


def write_layout(root: pathlib.Path, count: int) -> None:
    """Writes ``count`` clips in PFED5's published layout: folders of JPEG files, arrays, and two lists.

    To be long enough, each clip plays a synthetic one forwards and backwards.
    """
    source = SyntheticFaces(count, 1, ("smile",))
    rows: dict[str, list[list[object]]] = {"train_41.csv": [], "test_41.csv": []}
    for number in range(count):
        clip = source[number]
        assert clip.frames is not None
        n = 80 + 70 * number // max(1, count - 1)
        loop = [*range(len(clip.frames)), *reversed(range(len(clip.frames)))]
        order = [loop[i % len(loop)] for i in range(n)]
        patient, video = f"P{number:03d}", f"PD{number:04d}_clip"
        folder = root / patient / video
        folder.mkdir(parents=True)
        for i, frame in enumerate(order, 1):
            (folder / f"img_{i:05d}.jpg").write_bytes(clip.frames[frame])
        points = clip.landmarks[order][:, list(landmarks.INSIGHTFACE_71)]
        images = {i: clips.decode_frame(clip.frames[i]) for i in set(order)}
        colours = np.stack([landmarks.pixel_values(images[i], x) for i, x in zip(order, points, strict=True)])
        for name, array in (("detect_73_crop", clip.landmarks[order][:, 33:]), ("RGB_1x1_fromLK", colours)):
            (root / name / patient).mkdir(parents=True)
            np.save(root / name / patient / f"{video}-{patient}.npy", array)
        part = "test_41.csv" if number % _SUBJECTS_PER_TEST == 0 else "train_41.csv"
        rows[part].append([f"{video}_{patient}", f"{clip.info.score:g}", n, 25, 1])
    for name, lines in rows.items():
        with (root / name).open("w", newline="") as file:
            csv.writer(file).writerows([["id", "score", "frames", "fps", "class"], *lines])


def recipe(base: ConfigDict, root: pathlib.Path, threads: int) -> ConfigDict:
    """``base`` with the data in ``root``."""
    config = ConfigDict(base.to_dict())
    config.data.update(datasets.options("pfed5"), root=str(root), expression="smile", validation_fraction=0.2)
    config.train.reader_threads = threads
    return config


def training_split(config: ConfigDict) -> Split:
    """The training clips of ``config``."""
    return datasets.split(datasets.open_dataset(config), config, None)[datasets.TRAIN]


def pillow_batches(root: pathlib.Path, config: ConfigDict, split: Split) -> Iterator[pipeline.Batch]:
    """Training batches as a plain script makes them: it opens the files of a clip one by one, in one thread."""
    rng, shown = np.random.default_rng(0), itertools.count()
    order = itertools.chain.from_iterable(rng.permutation(len(split)) for _ in itertools.count())
    infos, rgb, length = split.infos, config.model.rgb, config.model.trajectory.length
    size = (augment.stored_size(rgb.image_size),) * 2  # 256 as published, so nothing is resized
    while True:
        samples = []
        for index in itertools.islice(order, config.train.batch_size):
            info, draw = infos[index], Draw(config.seed, next(shown))
            video = info.id.rsplit("_", 1)[0]
            files = sorted((root / info.subject / video).iterdir())
            view = View.of(config, len(files), draw)
            images = [
                np.asarray(Image.open(files[i]).convert("RGB").resize(size, Image.Resampling.BOX)) for i in view.frames
            ]
            name = f"{info.subject}/{video}-{info.subject}.npy"
            points, colours = np.load(root / "detect_73_crop" / name), np.load(root / "RGB_1x1_fromLK" / name)
            colours = colours[:, landmarks.LAYOUTS["insightface71"].slots]
            clip = clips.Clip(info, points, "insightface73", colours)
            inputs = Inputs(
                frames=np.stack(images),
                trajectories=trajectories.trajectory(clip, "xyrgb")[view.numbers],
                index_t=index_t(view.numbers, length),
            )
            samples.append(pipeline.Batch(inputs, np.float32(info.score)))
        yield pipeline.stacked(samples)


def resident_mb() -> float:
    """Resident memory of this process in MiB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def rate(batches: Iterator[pipeline.Batch], count: int, batch_size: int) -> tuple[float, float]:
    """Clips per second, and milliseconds of all processors per clip, over the next ``count`` batches."""
    start, busy = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(batches)
    clips_read = count * batch_size
    return clips_read / (time.perf_counter() - start), 1e3 * (time.process_time() - busy) / clips_read


def run(
    base: ConfigDict, root: pathlib.Path, packed: pathlib.Path, batches: int, rounds: int, threads: int
) -> list[str]:
    """Measures; returns the lines of the report."""
    plain, config = recipe(base, root, threads), recipe(base, packed, threads)
    split = training_split(config)
    unpacked = training_split(plain)
    pillow = "Pillow, one file after the other"
    # A way starts again in each of its turns: if it read ahead during other turns, it would slow them down.
    ways: dict[str, Callable[[], Any]] = {
        pillow: lambda: pillow_batches(root, config, split),
        "published files through grain": lambda: iter(pipeline.training_batches(unpacked, plain)),
        "packed through grain": lambda: iter(pipeline.training_batches(split, config)),
    }
    size = config.train.batch_size
    expected: list[tuple[int, ...]] = []
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, start in ways.items():
            way = start()
            shapes = [array.shape for array in jax.tree.leaves(next(way))]
            expected = expected or shapes
            if shapes != expected:
                raise ValueError(f"{name} makes {shapes}, not {expected}")
            # Once the read-ahead is full, one batch is made for each that is taken.
            for _ in range(0 if name == pillow else pipeline.read_ahead(config, size)):
                next(way)
            measured = rate(way, batches, size)
            way.close()
            if turn:  # the first turn is the warm-up
                rates[name].append(measured)

    lines = ["| way | clips/s, median (range) | times Pillow | CPU ms a clip |", "|---|---|---|---|"]
    by_pillow = statistics.median(found for found, _ in rates[pillow])
    for name, pairs in rates.items():
        found, busy = zip(*pairs, strict=True)
        gain = statistics.median(found) / by_pillow
        lines.append(f"| {name} | {timing.spread(found):.1f} | {gain:.2f} | {statistics.median(busy):.1f} |")
    return [*lines, "", *memory(split, config)]


def memory(split: Split, config: ConfigDict) -> list[str]:
    """Measures the memory over two epochs of the packed data; returns the lines of the report."""
    passes = config.train.passes_per_epoch
    epoch = max(4, passes * len(split) // config.train.batch_size)
    iterator = iter(pipeline.training_batches(split, config))
    seen = []
    for _ in range(2 * epoch):
        next(iterator)
        seen.append(resident_mb())
    iterator.close()
    first, second = seen[epoch // 2 : epoch], seen[epoch:]
    buffered = pipeline.read_ahead(config, config.train.batch_size)
    megabytes = buffered * pipeline.batch_bytes(config, config.train.batch_size) / 2**20
    return [
        f"Memory over two epochs of {epoch} batches: median {statistics.median(first):.0f} MiB in the second half of "
        f"the first, {statistics.median(second):.0f} MiB in the second, at most {max(seen):.0f} MiB; "
        f"{buffered} batches are read ahead, {megabytes:.0f} MiB"
    ]


def run_caches(base: ConfigDict, packed: pathlib.Path, batches: int, rounds: int, threads: int) -> list[str]:
    """Measures reading with each value of ``train.cache``; returns the lines of the report."""
    filling, rates = cache_rates(base, packed, batches, rounds, threads)
    lines = ["| train.cache | filled in, s | clips/s, median (range) | CPU ms a clip |", "|---|---|---|---|"]
    for kind, pairs in rates.items():
        found, busy = zip(*pairs, strict=True)
        filled = f"{filling[kind]:.1f}" if kind != "none" else ""
        lines.append(f"| {kind} | {filled} | {timing.spread(found):.1f} | {statistics.median(busy):.1f} |")
    return lines


def cache_rates(
    base: ConfigDict, packed: pathlib.Path, batches: int, rounds: int, threads: int
) -> tuple[dict[str, float], dict[str, list[tuple[float, float]]]]:
    """For each value of ``train.cache``: seconds to fill it, and in each round (clips/s, CPU ms a clip)."""
    caches: dict[str, tuple[ConfigDict, cache.RunClips, float]] = {}
    for kind in _CACHES:
        config = recipe(base, packed, threads)
        config.train.cache = kind
        splits = datasets.split(datasets.open_dataset(config), config, None)
        start = time.perf_counter()
        run_clips = cache.build_run_clips(
            config, splits[datasets.TRAIN], splits[datasets.VALIDATION], sharding.data_mesh()
        )
        if kind == "host":  # it keeps each clip when it is first read; the device's cache is full already
            with futures.ThreadPoolExecutor(threads) as readers:
                list(readers.map(run_clips.train.__getitem__, range(len(run_clips.train))))
        caches[kind] = config, run_clips, time.perf_counter() - start
    rates: dict[str, list[tuple[float, float]]] = {kind: [] for kind in caches}

    in_step = jax.jit(functools.partial(device_cache.sample, config=recipe(base, packed, threads)))

    def made(run_clips: cache.RunClips, batch: pipeline.Batch) -> pipeline.Batch:
        """The samples on the device, made by the training step's own code if the clips are there already."""
        batch = sharding.put(batch, sharding.data_mesh())
        return batch if run_clips.store is None else in_step(run_clips.store, batch)

    for _ in range(rounds):
        for kind, (config, run_clips, _) in caches.items():
            host = iter(run_clips.batches(config))
            device = (jax.block_until_ready(made(run_clips, batch)) for batch in host)
            # Once the read-ahead is full, one batch is made for each that is taken.
            ahead = pipeline.read_ahead(config, config.train.batch_size, numbers_only=run_clips.store is not None)
            for _ in range(1 + ahead):
                next(device)
            rates[kind].append(rate(device, batches + ahead, config.train.batch_size))
            host.close()
    return {kind: seconds for kind, (*_, seconds) in caches.items()}, rates


def small(config: ConfigDict) -> ConfigDict:
    """``config`` with a model of the frame stream whose steps take milliseconds on a CPU."""
    config = ConfigDict(config.to_dict())
    config.model.streams = "rgb"
    config.model.rgb.update(widths=(8, 8, 16, 16), image_size=32, spatial_mlp_dim=16)
    config.model.rgb.update(spatial_heads=2, temporal_heads=2, temporal_depth=1, temporal_mlp_dim=16)
    config.model.fusion.width = 32
    config.model.head.hidden = (16, 8)
    return config


def input_bound(base: ConfigDict, packed: pathlib.Path, threads: int) -> tuple[list[str], dict[str, Any]]:
    """Trains with each value of ``train.cache``; returns the lines of the report and the measurements."""
    base = small(base) if jax.default_backend() == "cpu" else ConfigDict(base.to_dict())
    # Otherwise the readers would make much of an epoch while the validation clips are scored.
    base.train.read_ahead_mb = 3
    model, side = base.model, augment.stored_size(base.model.rgb.image_size)
    lines = [
        f"The model reads {'both streams' if model.streams == 'both' else 'only the frame stream'}, "
        f"{model.rgb.num_frames} frames stored at {side}×{side}, in {model.precision}; "
        f"read ahead: {pipeline.read_ahead(base, base.train.batch_size)} batches of {base.train.batch_size} clips.",
        "",
        "| train.cache | share of an epoch during which the device waits |",
        "|---|---|",
    ]
    losses: dict[str, np.ndarray] = {}
    waited: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        # The trainings share their compiled programs.
        if not jax.config.jax_compilation_cache_dir:
            jax.config.update("jax_compilation_cache_dir", f"{temporary}/compiled")
        for kind in _CACHES:
            config = recipe(base, packed, threads)
            config.train.update(cache=kind, epochs=2)
            workdir = pathlib.Path(temporary) / kind
            workdir.mkdir()
            splits = datasets.split(datasets.open_dataset(config), config, None)
            trainer.fit(config, splits, workdir)
            rows = training_log.read_metrics(workdir)
            losses[kind] = np.array([row["loss"] for row in rows if row["kind"] == "train"])
            waited[kind] = [row["waited"] for row in rows if row["kind"] == "input"][-1]
            lines.append(f"| {kind} | {waited[kind]:.1%} |")
    least, most = np.min(list(losses.values()), axis=0), np.max(list(losses.values()), axis=0)
    apart = float(np.max((most - least) / np.abs(most)))
    same = "are the same with all caches" if apart == 0 else f"differ by at most {apart:.0e} of their size"
    lines += ["", f"The losses of {len(losses['none'])} steps {same}."]
    return lines, {"waited": waited, "losses_apart": apart}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the arguments, writes the data, measures, and writes the report."""
    flags = timing.parser(__doc__, rounds=5)
    flags.add_argument("--clips", type=int, default=24)
    flags.add_argument("--batches", type=int, default=4, help="how many to measure in a row")
    flags.add_argument("--threads", type=int, default=2, help="reader threads of the pipeline")
    flags.add_argument("--layout", type=pathlib.Path, help="folder to keep the data in, and to reuse it from")
    flags.add_argument("--caches", action="store_true", help="compare the values of train.cache instead")
    timing.add_precision(flags)
    options = flags.parse_args(arguments)
    base = timing.recipe(options.config)
    base.model.precision = options.precision
    report = timing.Report("input", arguments, options.out, ["caches", options.precision] if options.caches else [])
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.layout or pathlib.Path(temporary)
        root, packed = folder / "published", folder / "packed"
        if not root.exists():
            write_layout(root, options.clips)
        start = time.perf_counter()
        done = packing.pack(recipe(base, root, options.threads), datasets.Wanted(), packed, 64 * 2**20, options.threads)
        seconds = time.perf_counter() - start
        measured = packed, options.batches, options.rounds, options.threads
        if options.caches:
            report.add("on its way to the device", run_caches(base, *measured))
            lines, found = input_bound(base, packed, options.threads)
            report.add("in training", lines, **found)
        else:
            # Without the folder, which no longer exists when you read this.
            report.add("packing", [f"{done.rpartition(': ')[2]} ({seconds:.1f} s)"])
            report.add("training batches", run(base, root, *measured))


if __name__ == "__main__":
    main()
