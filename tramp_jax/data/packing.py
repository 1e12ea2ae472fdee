"""Writes a data set as packed clips (``packed_clips``): in parallel, one shard at a time, resumable.

A shard gets its name when it is complete, and the manifest comes last, so a killed process leaves nothing broken. While
a store is being written, its folder also holds pack.json, which says what goes into which shard, and a small file with
the checksum of each finished shard.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from ml_collections import ConfigDict

import tramp_jax
from tramp_jax import json_files, shards
from tramp_jax.data import packed_clips
from tramp_jax.data.clips import ClipInfo
from tramp_jax.data.datasets import open_dataset, options, path_options
from tramp_jax.data.packed_clips import MANIFEST, PLAN, VERSION, Manifest, Shard
from tramp_jax.data.problems import WARNING, Problem, Problems, counted
from tramp_jax.data.source import ClipSource, Dataset, Wanted
from tramp_jax.data.validation import check, in_order
from tramp_jax.errors import UserError
from tramp_jax.files import write_atomically
from tramp_jax.progress import Progress

# Groups of one record make random access cheap. Frames are already compressed, and the rest is small.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_PROBED = 8  # clips from which to estimate how many fit into a shard
_UNFINISHED = ".unfinished"
_REMOVE = "remove the folder and pack again"


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The contents of each shard."""

    request: dict[str, Any]  # see ``Manifest``
    kept: tuple[int, ...]  # indices of the clips to pack
    ends: tuple[int, ...]  # for each shard, the number of clips up to its end
    skipped: tuple[Problem, ...] = ()  # problems with the clips that are skipped
    warnings: tuple[Problem, ...] = ()  # see ``Manifest``


def pack(
    config: ConfigDict,
    wanted: Wanted,
    out: pathlib.Path,
    shard_bytes: int,
    workers: int = 2,
    skip_bad: bool = False,
    job: shards.Shard | None = None,
    collect: bool = False,
) -> str:
    """Packs the data set of ``config.data`` into the folder ``out``, or resumes an interrupted run.

    Every clip is checked before anything is written.

    Args:
      config: the whole configuration; only ``config.data`` matters.
      wanted: what to pack of each clip.
      out: a folder that does not exist, is empty, or holds the same data set packed with the same arguments.
      shard_bytes: approximate size of a shard.
      workers: threads; the result does not depend on their number.
      skip_bad: whether to skip clips with a fault, and list them in the manifest, instead of stopping.
      job: which shards to write, without the manifest; several jobs may write into ``out`` at once.
      collect: whether to write only the manifest, once all shards exist.

    Returns:
      One line on what was done.

    Raises:
      UserError: bad_data with all faults in the data; file_exists if ``out`` holds something else; in_use if another
        program packs into it; missing_file, naming the shards that ``collect`` finds missing.
    """
    config = _resolved(config)
    dataset = open_dataset(config, wanted, Problems(collect=True))
    with shards.locked(out, job):
        request = _request(config, dataset, wanted, shard_bytes, skip_bad)
        if (out / MANIFEST).is_file():
            manifest = packed_clips.read_manifest(out)
            _check_same(manifest.request, request, out)
            _clear(out)
            return f"{out}: nothing to do, its {len(manifest.infos)} clips are packed already{_notes(manifest)}"
        if plan := json_files.read_record(_Plan, out / PLAN, _REMOVE):
            _check_same(plan.request, request, out)
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            message = f"{out}: exists and is not a packed data set; name another folder with --out"
            raise UserError("file_exists", message)
        elif collect:
            raise UserError("missing_file", f"{out}: no job has packed anything; run it with --shard I/N first")
        else:
            plan = _make_plan(config, wanted, request, shard_bytes, workers, skip_bad)
            out.mkdir(parents=True, exist_ok=True)
            json_files.write(out / PLAN, plan)

        source = None if collect else dataset.source  # to collect, nothing is written
        written, already = _shards(source, wanted, plan, out, workers, job)
        if job:
            return f"{out}: part {job} is {len(written)} of {len(plan.ends)} shards, {already} of them finished before"
        infos = tuple(dataset.source.infos[index] for index in plan.kept)
        manifest = Manifest(
            name=config.data.name,
            infos=infos,
            shards=tuple(written),
            official=dataset.official,
            folds=tuple(dataset.folds),
            request=request,
            labels=_labels(infos),
            skipped=plan.skipped,
            warnings=plan.warnings,
            tool=f"tramp_jax {tramp_jax.__version__}",
        )
        write_atomically(out / MANIFEST, manifest.to_json())
        _clear(out)
        size = sum(shard.bytes for shard in written) / 2**20
        kept = f", {already} of them finished before" if already else ""
        return f"{out}: {len(infos)} clips in {len(written)} shards{kept}, {size:.1f} MiB{_notes(manifest)}"


def _notes(manifest: Manifest) -> str:
    """How many problems of each kind there were, to end a line with."""
    notes = counted([*manifest.skipped, *manifest.warnings], {info.id for info in manifest.infos})
    return f"; {notes}: see {MANIFEST}" if notes else ""


def _resolved(config: ConfigDict) -> ConfigDict:
    """Makes paths absolute, so that the request does not depend on the working directory."""
    config = config.copy_and_resolve_references().unlock()
    for key in ("root", *path_options(config.data.name)):
        if config.data.get(key) and "://" not in config.data[key]:
            config.data[key] = str(pathlib.Path(config.data[key]).expanduser().resolve())
    return config


def _request(config: ConfigDict, dataset: Dataset, wanted: Wanted, shard_bytes: int, skip_bad: bool) -> dict[str, Any]:
    data = config.data.to_dict()
    infos = [repr(dataclasses.replace(info, source="")) for info in dataset.source.infos]  # without a path
    parts = [
        *(f"{name}: {sorted(people)}" for name, people in sorted((dataset.official or {}).items())),
        *(f"{sorted(people)}" for people in dataset.folds),
    ]
    chosen = {key: data[key] for key in options(config.data.name) if key in data}
    return json.loads(  # as it will be read again
        json.dumps(
            {
                "schema": VERSION,
                "root": data["root"],
                "options": chosen,
                "wanted": dataclasses.asdict(wanted),
                "shard_bytes": shard_bytes,
                "skip_bad": skip_bad,
                "lists": hashlib.sha256("\n".join(infos + parts).encode()).hexdigest(),
            }
        )
    )


def _check_same(old: Any, new: dict[str, Any], out: pathlib.Path) -> None:
    changed = [f"{key} ({old.get(key)} there, {new[key]} now)" for key in new if old.get(key) != new[key]]
    if changed:
        raise UserError(
            "file_exists",
            f"{out}: holds another data set, or this one packed with other options; changed: {', '.join(changed)}; "
            "name another folder with --out, or remove this one",
        )


def _make_plan(
    config: ConfigDict, wanted: Wanted, request: dict[str, Any], shard_bytes: int, workers: int, skip_bad: bool
) -> _Plan:
    report = check(config, wanted, workers)
    if report.errors and not skip_bad:
        cure = "nothing was packed; fix the data, or skip these clips with --skip-bad"
        raise UserError("bad_data", "\n".join([*report.lines(), cure]))
    sound, kept = report.sound()
    # Estimated from a few clips, to avoid reading all of them a second time.
    probed = np.unique(np.linspace(0, len(kept) - 1, _PROBED).astype(int)).tolist()
    frames = [info.num_frames for info in sound.source.infos]
    per_frame = sum(len(_record(sound.source, wanted, i)) for i in probed) / sum(frames[i] for i in probed)
    number = max(1, round(sum(frames) * per_frame / shard_bytes))
    shard_of = np.ceil(number * np.cumsum(frames) / sum(frames) - 1e-9)  # shards of equal size
    ends = [*(np.flatnonzero(np.diff(shard_of)) + 1).tolist(), len(kept)]
    warnings = [problem for problem in report.problems if problem.severity == WARNING]
    notes = tuple(dict.fromkeys([*report.dataset.notes, *warnings]))  # a reader's warnings are in both
    return _Plan(request, tuple(kept), tuple(ends), tuple(report.errors), notes)


def _shards(
    source: ClipSource | None, wanted: Wanted, plan: _Plan, out: pathlib.Path, workers: int, job: shards.Shard | None
) -> tuple[list[Shard], int]:
    """All shards, or those of a job, and how many existed before. Writes the others, if there is a source."""
    found: list[Shard] = []
    missing: list[str] = []
    already = 0
    every = list(range(len(plan.ends)))
    mine = job.take(every) if job else every
    starts = [0, *plan.ends]
    with Progress(sum(plan.ends[i] - starts[i] for i in mine), "clip", what="packing") as bar:
        for number in mine:
            indices = plan.kept[starts[number] : plan.ends[number]]
            path = out / f"clips-{number:05d}-of-{len(plan.ends):05d}.array_record"
            if shard := _finished(path):
                already += 1
                bar.update(len(indices))
                found.append(shard)
            elif source is not None:
                record = functools.partial(_record, source, wanted)
                found.append(_write_shard(record, indices, path, workers, bar))
            else:
                missing.append(path.name)
    if missing:
        cure = "run the missing jobs of --shard before --collect"
        raise UserError("missing_file", f"{out}: {', '.join(missing)}: not packed yet; {cure}")
    return found, already


def _finished(path: pathlib.Path) -> Shard | None:
    """The shard of an earlier run, if it is complete."""
    try:
        shard = json_files.read_record(Shard, path.with_suffix(".json"), "")
    except UserError:  # its note is damaged, so the shard is written again
        return None
    if shard is None or not path.is_file() or packed_clips.checksum(epath.Path(path)) != shard.sha256:
        return None
    return shard


def _record(source: ClipSource, wanted: Wanted, index: int) -> bytes:
    clip = source[index]
    # Some sources return more than is wanted.
    if not wanted.frames:
        clip = dataclasses.replace(clip, frames=None)
    if not wanted.pixels:
        clip = dataclasses.replace(clip, pixels=None)
    if not wanted.landmarks:
        clip = dataclasses.replace(clip, landmarks=np.full_like(clip.landmarks, np.nan), depth=None)
    return packed_clips.encode(clip)


def _write_shard(
    record: Callable[[int], bytes], indices: Sequence[int], path: pathlib.Path, workers: int, bar: Progress
) -> Shard:
    unfinished = path.with_name(f"{path.name}.{os.getpid()}{_UNFINISHED}")
    writer = ArrayRecordWriter(str(unfinished), _WRITER_OPTIONS)
    try:
        for packed in in_order(record, indices, workers):
            writer.write(packed)
            bar.update()
        writer.close()
    except BaseException:
        with contextlib.suppress(RuntimeError):  # a full disk again
            writer.close()
        unfinished.unlink()
        raise
    with unfinished.open("rb") as file:  # the content must reach the disk before the final name
        os.fsync(file.fileno())
    checksum = packed_clips.checksum(epath.Path(unfinished))
    shard = Shard(path.name, len(indices), unfinished.stat().st_size, checksum)
    unfinished.rename(path)
    json_files.write(path.with_suffix(".json"), shard)
    return shard


def _clear(out: pathlib.Path) -> None:
    """Removes the files that only an unfinished store needs; the plan last, as the rest means nothing without it."""
    for path in (*out.glob("clips-*.json"), *out.glob(f"*{_UNFINISHED}"), *out.glob(".*.partial"), out / PLAN):
        path.unlink(missing_ok=True)


def _labels(infos: Sequence[ClipInfo]) -> dict[str, dict[str, int]]:
    counts: dict[str, collections.Counter[float]] = collections.defaultdict(collections.Counter)
    for info in infos:
        counts[info.expression][info.score] += 1
    return {name: {f"{score:g}": n for score, n in sorted(scores.items())} for name, scores in sorted(counts.items())}
