"""Breaks small valid inputs at random: only our own error may come out, within 10 seconds and 1 GB.

    python -m tests.fuzz --tries 20000 --out tests/fuzz_results.json [TARGET...]

Each try is seeded by (seed, target, number), so ``--first N --tries 1`` repeats try N. A child process makes the tries,
because some faults end or hang a process. ``tests/test_fuzz.py`` makes a few tries of each target in every run.
"""

import argparse
import dataclasses
import io
import json
import multiprocessing
import os
import pathlib
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tramp_jax.errors import as_user_error

MOST_SECONDS, MOST_MEGABYTES = 10.0, 1024.0
_EXTREME = (0, 1, 0x7F, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
_NUMBERS = (b"-1", b"0", b"99999999", b"9223372036854775808", b"1e999", b"NaN", b"-0.5", b"9" * 5000)
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 1e308, float("nan"), 2**62, 2**70, "", "x" * 999, "../../etc/passwd", "/etc/passwd", "\0",
    [], {}, [[]], {"a": []}, [None] * 9,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Target:
    """One kind of input.

    Attributes:
      make: writes a valid input into an empty folder.
      read: reads the input in the folder; the second argument is the file that was changed.
      files: whether each file is an input of its own, and only the changed one is read.
    """

    make: Callable[[pathlib.Path], object]
    read: Callable[[pathlib.Path, pathlib.Path], object]
    files: bool = False

    def prepare(self, folder: pathlib.Path) -> dict[pathlib.Path, bytes]:
        """Makes the input, reads it, which imports everything, and returns its files with their contents."""
        self.make(folder)
        contents = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        for path in contents if self.files else list(contents)[:1]:
            self.read(folder, path)
        return contents


@dataclasses.dataclass
class Outcome:
    """What came out of the tries of one target: how many, how many were refused, the slowest, the most memory."""

    tries: int = 0
    refused: int = 0
    slowest: float = 0.0
    megabytes: float = 0.0
    findings: list[str] = dataclasses.field(default_factory=list)


# --- targets -----------------------------------------------------------------------------------------------------


def _make_checkpoint(folder: pathlib.Path) -> None:
    from tests.hostile_files import entry, safetensors_file
    from tests.state_dicts import pth, random_state_dict, small

    tensors = random_state_dict(small("former_dfer"))
    (folder / "new.pth").write_bytes(pth({"state_dict": tensors, "epoch": 3}))
    (folder / "some.safetensors").write_bytes(safetensors_file({"w": entry()}))


def _read_checkpoint(folder: pathlib.Path, changed: pathlib.Path) -> None:
    from convert_weights import reader

    if changed.name.startswith("some"):
        reader.read(changed)
        return
    from convert_weights.load import load_checkpoint

    load_checkpoint(changed)


def _clip() -> Any:
    from tramp_jax.data.clips import ClipInfo
    from tramp_jax.synthetic.faces import SyntheticFaces

    clip = SyntheticFaces(1, 1, ("smile",))[0]
    info = ClipInfo("a", "s000", "smile", 2.0, 6)
    return dataclasses.replace(
        clip, info=info, landmarks=clip.landmarks[:6], pixels=clip.pixels[:6], frames=clip.frames[:6], depth=None
    )


def _make_clip(folder: pathlib.Path) -> None:
    from tramp_jax.data.clip_folder import write_clip

    write_clip(folder / "a", _clip())
    evidence = {
        "landmarks": "mediapipe", "warnings": ["small"], "interpolated": [False] * 6, "scores": [None] + [0.9] * 5,
        "crop": {"x": 1, "y": 2, "side": 300}, "frame_size": [640, 480], "options": {"--fps": 25},
    }  # fmt: skip
    (folder / "a" / "evidence.json").write_text(json.dumps(evidence))


def _read_clip(folder: pathlib.Path, changed: pathlib.Path) -> None:
    from tramp_jax.data.clip_folder import read_clip
    from tramp_jax.preprocess import batch

    clip = read_clip(folder / "a")
    batch.read_origin(folder / "a", len(clip.landmarks)).quality(clip).warnings()


def _make_packed(folder: pathlib.Path) -> None:
    from tests.published_layouts import write_folder
    from tramp_jax.data import packing
    from tramp_jax.data.source import Wanted

    with tempfile.TemporaryDirectory() as made:
        write_folder(pathlib.Path(made), num_subjects=2, num_frames=3)
        packing.pack(_config("folder", made), Wanted(), folder / "packed", 1 << 30)


def _config(name: str, root: object) -> Any:
    from tramp_jax import config as defaults
    from tramp_jax.data import datasets

    config = defaults.base()
    config.data.update(datasets.options(name), root=str(root))
    return config


def _read_data(name: str, part: str) -> Callable[[pathlib.Path, pathlib.Path], None]:
    def read(folder: pathlib.Path, changed: pathlib.Path) -> None:
        from tramp_jax.data import datasets
        from tramp_jax.data.source import Wanted

        wanted = Wanted(frames=False, pixels=False) if name == "youtubepd" else Wanted()
        dataset = datasets.open_dataset(_config(name, folder / part), wanted)
        for index in range(len(dataset.source)):
            dataset.source[index]

    return read


def _make_run(folder: pathlib.Path) -> None:
    import jax

    from tests import tiny
    from tramp_jax import output, run, split_file, usual_motion
    from tramp_jax.checkpoint import Checkpoints
    from tramp_jax.data import datasets
    from tramp_jax.data.source import RatingScale
    from tramp_jax.models import abstract_variables

    config = tiny.get_config().unlock()
    config.model.streams = "trajectory"
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_text(config.to_json())
    split_file.save(folder / "run", {None: datasets.split(datasets.open_dataset(config), config, None)})
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract_variables(config.model))
    with Checkpoints(folder / "run", writing=True) as checkpoints:
        checkpoints.save_best(7, zeros)
    usual = usual_motion.UsualMotion((0.0,), (1.0,), 1.0, (-5.0, 5.0), (-5.0, 5.0))
    (folder / "run" / run.USUAL_MOTION).write_text(json.dumps(dataclasses.asdict(usual)))
    found = output.of_training(config, ((0.0, 1), (1.0, 2), (2.0, 1)), RatingScale())
    run.output_file(folder / "run", 7).write_text(json.dumps(dataclasses.asdict(found)))


def _read_run(folder: pathlib.Path, changed: pathlib.Path) -> None:
    from tests import tiny
    from tramp_jax import split_file, usual_motion
    from tramp_jax.data import datasets
    from tramp_jax.scoring.members import load_member

    config = tiny.get_config()  # not the changed one, which may ask for any number of drawn people
    split_file.splits_of(datasets.open_dataset(config), config, folder / "run")
    usual_motion.load(folder / "run")
    load_member(folder / "run")


def _make_converted(folder: pathlib.Path) -> None:
    from convert_weights import store
    from convert_weights.load import load_checkpoint
    from tests.state_dicts import pth, random_state_dict, small

    with tempfile.TemporaryDirectory() as made:
        path = pathlib.Path(made) / "x.pth"
        path.write_bytes(pth(random_state_dict(small("former_dfer"))))
        checkpoint = load_checkpoint(path)
    store.write_folder(checkpoint.variables, checkpoint.report, folder / "converted", False)


def _read_converted(folder: pathlib.Path, changed: pathlib.Path) -> None:
    from convert_weights.load import load_checkpoint

    load_checkpoint(folder / "converted")


def _make_tables(folder: pathlib.Path) -> None:
    from tests.published_layouts import as_workbook
    from tramp_jax.cli.score_output import COLUMNS
    from tramp_jax.data.tables import csv_text

    rows = [["path", "subject", "expression", "score"], ["a.mp4", "Möller", "smile", "2"], ["b.mp4", "P 2", "", "3.5"]]
    (folder / "list.csv").write_text(csv_text(rows), encoding="utf-8")
    (folder / "wide.csv").write_text(csv_text(rows).replace(",", ";"), encoding="utf-16")
    shutil.copy(folder / "list.csv", folder / "book.csv")
    as_workbook(folder / "book.csv")
    (folder / "scores.csv").write_text(csv_text([COLUMNS, [str(i) for i in range(len(COLUMNS))]]))


def _read_tables(folder: pathlib.Path, changed: pathlib.Path) -> None:
    from tramp_jax.cli.score_output import Table
    from tramp_jax.preprocess import batch

    if changed.name == "scores.csv":
        Table(changed, overwrite=False)
    else:
        batch.read_jobs(changed)


def _make_tracks(folder: pathlib.Path) -> None:
    points = np.random.default_rng(0).uniform(0, 64, (64, 5, 2)).astype(np.float32)
    np.savez(folder / "tapir.npz", tracks=points, visibles=np.ones((64, 5), bool))
    np.savez_compressed(folder / "cotracker.npz", pred_tracks=points.swapaxes(0, 1)[None])
    np.save(folder / "plain.npy", points)


def _read_tracks(folder: pathlib.Path, changed: pathlib.Path) -> None:
    from tramp_jax.preprocess.sources.tracks import Tracks

    list(Tracks(changed)([np.zeros((64, 64, 3), np.uint8)] * 5))


def _make_videos(folder: pathlib.Path) -> None:
    from PIL import Image

    from tests import preprocess_inputs

    pictures = [preprocess_inputs.square(10 + 2 * i, 10, 20, (64, 48)) for i in range(8)]
    preprocess_inputs.write_video(folder / "a.mp4", pictures)
    preprocess_inputs.write_video(folder / "b.avi", pictures)
    images = [Image.fromarray(picture) for picture in pictures]
    for name in ("c.webp", "d.png", "e.gif"):
        images[0].save(folder / name, save_all=True, append_images=images[1:], duration=40)
    images[0].save(folder / "f.jpg")


def _read_videos(folder: pathlib.Path, changed: pathlib.Path) -> None:
    from tramp_jax.preprocess.video import open_frames

    for _ in open_frames(changed):
        pass


def _make_youtubepd(folder: pathlib.Path) -> None:
    from tests.youtubepd_layout import write_layout

    write_layout(folder / "youtube", {"video1": 2}, {"video2": 0})


TARGETS = {
    "checkpoint": Target(_make_checkpoint, _read_checkpoint, files=True),
    "clip folder": Target(_make_clip, _read_clip),
    "packed store": Target(_make_packed, _read_data("folder", "packed")),
    "run folder": Target(_make_run, _read_run),
    "converted folder": Target(_make_converted, _read_converted),
    "tables": Target(_make_tables, _read_tables, files=True),
    "tracks": Target(_make_tracks, _read_tracks, files=True),
    "videos": Target(_make_videos, _read_videos, files=True),
    "YouTubePD": Target(_make_youtubepd, _read_data("youtubepd", "youtube")),
}


# --- changes -----------------------------------------------------------------------------------------------------


def change(content: bytes, name: str, rng: np.random.Generator) -> bytes:
    """A file's content with one to three random changes."""
    if content[:2] == b"PK" and rng.random() < 0.7:
        return _inside(content, rng)
    kinds = [_flip, _flip, _cut, _repeat, _insert, _extreme, _number]
    if name.endswith(".json") or content[:1] == b"{":
        kinds += [_swap] * 7
    for _ in range(rng.integers(1, 4)):
        content = kinds[rng.integers(len(kinds))](content, rng)
    return content


def _inside(content: bytes, rng: np.random.Generator) -> bytes:
    """A zip archive in which one entry has changed; its checksums are right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        entries = old.infolist()
        chosen = rng.integers(len(entries))
        for number, entry in enumerate(entries):
            data = old.read(entry)
            new.writestr(entry, change(data, entry.filename, rng) if number == chosen else data)
    return buffer.getvalue()


def _at(content: bytes, rng: np.random.Generator) -> int:
    """A place; often in the first or last bytes, where headers are."""
    n = len(content)
    reach = n if rng.random() < 0.4 else min(n, 200)
    place = int(rng.integers(reach + 1))
    return place if rng.random() < 0.6 else n - place


def _flip(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        if changed:
            changed[min(_at(content, rng), len(changed) - 1)] = int(rng.integers(256))
    return bytes(changed)


def _cut(content: bytes, rng: np.random.Generator) -> bytes:
    return (
        content[: _at(content, rng)] if rng.random() < 0.5 else content[: (a := _at(content, rng))] + content[a + 9 :]
    )


def _repeat(content: bytes, rng: np.random.Generator) -> bytes:
    a, b = sorted((_at(content, rng), _at(content, rng)))
    return content[:b] + content[a:b] * int(rng.integers(1, 4)) + content[b:]


def _insert(content: bytes, rng: np.random.Generator) -> bytes:
    a = _at(content, rng)
    return content[:a] + rng.bytes(int(rng.integers(1, 64))) + content[a:]


def _extreme(content: bytes, rng: np.random.Generator) -> bytes:
    a, width = _at(content, rng), int(rng.choice([1, 2, 4, 8]))
    value = _EXTREME[rng.integers(len(_EXTREME))] % (1 << 8 * width)
    return content[:a] + value.to_bytes(width, "little" if rng.random() < 0.5 else "big") + content[a + width :]


def _number(content: bytes, rng: np.random.Generator) -> bytes:
    """Replaces a number in text."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", content[:20_000]))
    if not found:
        return content
    match = found[rng.integers(len(found))]
    return content[: match.start()] + _NUMBERS[rng.integers(len(_NUMBERS))] + content[match.end() :]


def _swap(content: bytes, rng: np.random.Generator) -> bytes:
    """Replaces a value in JSON by one of another type or size, or removes it, or renames its key."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return content
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            places.append((node, key))
            walk(value)

    walk(tree)
    if not places:
        return json.dumps(_VALUES[rng.integers(len(_VALUES))]).encode()
    node, key = places[rng.integers(len(places))]
    kind = rng.random()
    if kind < 0.15:
        del node[key]
    elif kind < 0.25 and isinstance(node, dict):
        node[f"{key}_"] = node.pop(key)
    elif kind < 0.3:
        node[key] = "DEEP"
        return json.dumps(tree).replace('"DEEP"', "[" * 9999 + "]" * 9999).encode()
    else:
        node[key] = _VALUES[rng.integers(len(_VALUES))]
    return json.dumps(tree).encode()


# --- tries -------------------------------------------------------------------------------------------------------


def attempt(name: str, folder: pathlib.Path, files: dict[pathlib.Path, bytes], seed: int, number: int) -> str:
    """Makes one try: "ok", "refused", or the traceback of an error that is not ours. The input is valid afterwards."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
    path = list(files)[rng.integers(len(files))]
    kind = rng.random()
    path.unlink()
    if kind < 0.02:
        path.mkdir()
    elif kind > 0.04:
        path.write_bytes(change(files[path], path.name, rng))
    try:
        TARGETS[name].read(folder, path)
    except Exception as error:
        if as_user_error(error) is not None:
            return "refused"
        where = path.relative_to(folder)
        return f"{where}: " + "".join(traceback.format_exception(error)[-6:])[-1500:]
    else:
        return "ok"
    finally:
        if path.is_dir():
            path.rmdir()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[path])


def megabytes() -> float:
    """Peak of the memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def try_here(name: str, folder: pathlib.Path, seed: int, numbers: range) -> Outcome:
    """Makes tries in this process. A try that never ends is not stopped."""
    files, outcome = TARGETS[name].prepare(folder), Outcome()
    for number in numbers:
        started, before = time.monotonic(), megabytes()
        _count(outcome, number, attempt(name, folder, files, seed, number))
        outcome.slowest = max(outcome.slowest, time.monotonic() - started)
        if outcome.slowest > MOST_SECONDS:
            outcome.findings.append(f"try {number}: took {outcome.slowest:.0f} s")
            break
        used = megabytes() - before
        outcome.megabytes = max(outcome.megabytes, used)
        if used > MOST_MEGABYTES:
            outcome.findings.append(f"try {number}: took {used:.0f} MB")
            break
    return outcome


def _count(outcome: Outcome, number: int, result: str) -> None:
    outcome.tries += 1
    outcome.refused += result == "refused"
    if result not in ("ok", "refused"):
        outcome.findings.append(f"try {number}: {result}")


def _child(name: str, seed: int, numbers: range, pipe: Any) -> None:
    """Makes tries and sends the result of each."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries complain about each file
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(made)
        files = TARGETS[name].prepare(folder)
        pipe.send(("ready", 0.0))
        for number in numbers:
            before = megabytes()
            result = attempt(name, folder, files, seed, number)
            pipe.send((result, megabytes() - before))


def run(name: str, seed: int, first: int, tries: int, seconds: float = float("inf")) -> Outcome:
    """Makes tries in child processes, which are replaced if they hang, crash or take too much memory."""
    outcome, number, end, deadline = Outcome(), first, first + tries, float("inf")
    context = multiprocessing.get_context("spawn")
    while number < end and time.monotonic() < deadline:
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(name, seed, range(number, end), there), daemon=True)
        child.start()
        there.close()
        patience, ready = 300.0, False  # to start
        try:
            while number < end and time.monotonic() < deadline:
                started = time.monotonic()
                if not here.poll(patience):
                    outcome.tries, number = outcome.tries + 1, number + 1
                    outcome.findings.append(f"try {number - 1}: no answer for {patience:.0f} s")
                    break
                result, used = here.recv()
                if result == "ready":
                    patience, ready = MOST_SECONDS, True
                    deadline = min(deadline, time.monotonic() + seconds)
                    continue
                _count(outcome, number, result)
                outcome.slowest = max(outcome.slowest, time.monotonic() - started)
                outcome.megabytes = max(outcome.megabytes, used)
                number += 1
                if used > MOST_MEGABYTES:
                    outcome.findings.append(f"try {number - 1}: took {used:.0f} MB")
                    break
        except EOFError:
            child.join()
            if not ready:
                raise RuntimeError(f"the target {name} cannot be made or read") from None
            outcome.tries, number = outcome.tries + 1, number + 1
            outcome.findings.append(f"try {number - 1}: the process ended with code {child.exitcode}")
        finally:
            child.kill()
            child.join()
    return outcome


def main(arguments: list[str] | None = None) -> None:
    """Makes the tries and prints, and optionally records, what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--tries", type=int, default=20_000, help="of each target (default 20000)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop each target after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first try")
    parser.add_argument("--out", type=pathlib.Path, help="record the figures in this JSON file")
    options = parser.parse_args(arguments)
    for name in options.targets or TARGETS:
        found = run(name, options.seed, options.first, options.tries, options.seconds)
        print(
            f"{name}: {found.tries} tries, {found.refused} refused, {len(found.findings)} findings; slowest "
            f"{found.slowest:.1f} s, {found.megabytes:.0f} MB",
            *found.findings,
            sep="\n",
            flush=True,
        )
        if options.out:
            known = json.loads(options.out.read_text()) if options.out.exists() else {}
            known[name] = dataclasses.asdict(found) | {"findings": len(found.findings), "seed": options.seed}
            options.out.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
