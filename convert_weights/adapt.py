"""Adapts weights to a slightly different model: another T, image size or channels, or only one of the encoders."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from convert_weights.convert import Path, Variables, channel_scale, flattened, nested, target_shapes
from convert_weights.load import load_checkpoint
from convert_weights.reader import nonfinite_warnings
from convert_weights.store import LoadedCheckpoint
from tramp_jax import channels
from tramp_jax.errors import UserError

Part = Literal["all", "rgb", "trajectory"]
TableRule = Literal["released", "centred"]

_MODULES = {"rgb": "rgb_encoder", "trajectory": "trajectory_encoder"}
# Options that change what the weights of a module mean but not their shapes.
_UNSEEN = {
    "trajectory_encoder": ("trajectory.neighbours", "trajectory.bias_order", "trajectory.patch"),
    "rgb_encoder": ("rgb.spatial_heads", "rgb.temporal_heads"),
    "fusion": ("fusion.heads", "fusion.query"),
}


class Row(NamedTuple):
    """The outcome for one array."""

    path: str  # the array's path in the model ("params/…"), or in the source if it was skipped
    status: str  # "loaded", "adapted" (see note), "fresh" (not in the source) or "skipped" (no place in the model)
    source: str = ""  # the path that the user gave; "" for fresh
    note: str = ""  # how it was adapted


class Adapted(NamedTuple):
    """Arrays for some or all of the model's parameters, a row for each array, and warnings."""

    variables: Variables
    rows: list[Row]
    warnings: list[str]


def adapt(
    checkpoint: LoadedCheckpoint,
    model_config: ConfigDict,
    part: Part = "all",
    table_rule: TableRule = "released",
    source: str = "source",
) -> Adapted:
    """Fits the weights of ``checkpoint`` to the model of ``model_config``.

    It adapts the S-Former's position embeddings to another image size (bicubic), the trajectory encoder's stem to a
    subset of its channels and to another ``input_scale``, and tables of relative positions to another T.

    Args:
      model_config: the ``model`` group of the target.
      table_rule: "released": the model reads the first rows of a table, whatever T the table was trained with, as the
        released code does. "centred": rows move, so that each still stands for the same distance in time.
      source: the checkpoint's name in rows and messages.

    Raises:
      UserError: of kind "mismatch" if a parameter of the part has no weights, weights of the part have no place, or
        shapes differ in a way that cannot be adapted.
    """
    if table_rule not in get_args(TableRule):
        raise UserError("bad_option", f"config.init.tables is {table_rule!r}; known: {', '.join(get_args(TableRule))}")
    shapes = {path: s for path, s in target_shapes(model_config).items() if _in_part(path, part)}
    given = {path: x for path, x in flattened(checkpoint.variables).items() if _in_part(path, part)}
    problems = _unmatched(checkpoint, shapes, given, part, source)
    flat, rows = {}, []
    for path in shapes.keys() & given.keys():
        try:
            flat[path], note = _fitted(
                path, given[path], shapes[path], checkpoint.model_config, model_config, table_rule
            )
        except UserError as error:
            problems.append(f"  {'/'.join(path)}: {error}")
            continue
        rows.append(Row("/".join(path), "adapted" if note else "loaded", source, note))
    if problems:
        advice = "" if part != "all" else "\nto load only an encoder, use init.rgb or init.trajectory"
        raise _mismatch(f"{source}: does not fit the model:\n" + "\n".join(sorted(problems)) + advice)
    skipped = (p for p in flattened(checkpoint.variables) if not _in_part(p, part))
    rows += [Row("/".join(p), "skipped", source, f"init.{part} takes only {_MODULES[part]}") for p in skipped]
    return Adapted(nested(flat), sorted(rows), _unseen(checkpoint.model_config, model_config, given, source))


def _mismatch(message: str) -> UserError:
    return UserError("mismatch", message)


def _unmatched(
    checkpoint: LoadedCheckpoint,
    shapes: Mapping[Path, tuple[int, ...]],
    given: Mapping[Path, np.ndarray],
    part: Part,
    source: str,
) -> list[str]:
    """One line for each parameter that only one side has."""
    for what, arrays in (("the model", shapes), ("the source", given)):
        if not arrays:
            raise _mismatch(f"{source}: {what} has no {_MODULES.get(part, 'parameters')}; remove init.{part}")
    fresh = {tuple(path.split("/")) for path in checkpoint.report["fresh"]}
    missing = shapes.keys() - given.keys() - fresh
    lines = [f"  {'/'.join(p)} {shapes[p]} is missing from the source" for p in missing]
    return lines + [f"  {'/'.join(p)} {given[p].shape} has no place in the model" for p in given.keys() - shapes.keys()]


def _in_part(path: Path, part: Part) -> bool:
    return part == "all" or _MODULES[part] in path  # below params, or below the models of an ensemble


def _unseen(theirs: ConfigDict, ours: ConfigDict, given: Mapping[Path, Any], source: str) -> list[str]:
    """Warnings about differences that shapes do not reveal."""
    warnings = []
    for module, options in _UNSEEN.items():
        if not any(module in path for path in given):
            continue
        for option in options:
            group, key = option.split(".")
            if theirs[group][key] != ours[group][key]:
                warnings.append(
                    f"{source}: model.{option} is {ours[group][key]}, but the weights use {theirs[group][key]}"
                )
    return warnings


def _fitted(
    path: Path, x: np.ndarray, shape: tuple[int, ...], theirs: ConfigDict, ours: ConfigDict, table_rule: TableRule
) -> tuple[np.ndarray, str]:
    """(array of ``shape``, how it was changed or ""), from ``x`` in the model ``theirs`` to ``ours``.

    Raises:
      UserError: it cannot be changed without loss.
    """
    note = ""
    if path[1:] == ("rgb_encoder", "s_former", "pos_embedding"):
        x, note = _positions(x, shape)
    elif path[-3:] == ("trajectory_encoder", "stem_0", "kernel"):
        x, note = _stem(x, shape, theirs.trajectory, ours.trajectory)
    elif path[-2:] == ("bias", "table") and path[-3] in ("attention_3", "attention_4"):
        x, note = _table(x, shape[0], theirs.trajectory, ours.trajectory, table_rule)
    if x.shape != shape:
        raise _mismatch(f"has shape {x.shape}, the model needs {shape}")
    return x, note


def _positions(x: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
    if x.shape[1] == shape[1]:
        return x, ""
    before, after = math.isqrt(x.shape[1]), math.isqrt(shape[1])
    if before**2 != x.shape[1] or after**2 != shape[1]:
        raise _mismatch(f"{x.shape[1]} or {shape[1]} positions do not form a square")
    return resample(x, after), f"{before}×{before} positions resampled to {after}×{after} (bicubic, a = -0.5)"


def _stem(x: np.ndarray, shape: tuple[int, ...], theirs: ConfigDict, ours: ConfigDict) -> tuple[np.ndarray, str]:
    notes = []
    given, wanted = channels.names(theirs.channels), channels.names(ours.channels)
    scale = dict(zip(given, channel_scale(theirs), strict=True))
    if given != wanted:
        absent = set(wanted) - set(given)
        if absent:
            raise _mismatch(f"has channels {theirs.channels}, the model also needs {' and '.join(sorted(absent))}")
        if x.shape[-1] != shape[-1]:
            raise _mismatch(
                f"has {x.shape[-1]} hidden channels, and dropping some would lose information; "
                f"keep them with --config.model.trajectory.stem_channels={x.shape[-1] // 2}"
            )
        x = x[..., [given.index(channel) for channel in wanted], :]
        notes.append(f"channels {ours.channels} of {theirs.channels}")
    factors = np.array([scale[channel] for channel in wanted]) / channel_scale(ours)
    if x.shape == shape and np.any(factors != 1):
        x = x * factors[:, None].astype(np.float32)
        notes.append(f"scaled for input_scale {tuple(ours.input_scale)} instead of {tuple(theirs.input_scale)}")
    return x, "; ".join(notes)


def _table(
    x: np.ndarray, rows: int, theirs: ConfigDict, ours: ConfigDict, table_rule: TableRule
) -> tuple[np.ndarray, str]:
    """The model's table and a note. Row r stands for a distance of r - M + 1 steps, of the M steps in a global set."""
    before, after = (each.length // each.patch // 8 for each in (theirs, ours))
    shift = before - after if table_rule == "centred" else 0
    if shift == 0 and rows == len(x):
        return x, ""
    row = np.arange(rows) + shift
    if table_rule == "centred":  # distances beyond the longest trained one repeat it
        last = 2 * before - 2
    elif len(x) < 2 * after - 1:
        raise _mismatch(
            f"has {len(x)} rows, the model reads {2 * after - 1}; --config.init.tables=centred repeats the last one"
        )
    else:
        last = len(x) - 1
    note = f"{table_rule}: row r from row r + {shift}" if shift else f"{rows} of {len(x)} rows"
    return x[np.clip(row, 0, last)], note


def resample(embedding: np.ndarray, side: int) -> np.ndarray:
    """Resamples position embeddings (1, n·n, C) of a square map, row by row, to (1, side·side, C).

    The kernel is Keys' cubic (a = -0.5), with pixel centres at ½ and renormalised at the borders. To shrink a map, the
    kernel widens.
    """
    n, C = math.isqrt(embedding.shape[1]), embedding.shape[2]
    resized = jax.image.resize(embedding.reshape(n, n, C), (side, side, C), method="cubic")
    return np.asarray(resized, np.float32).reshape(1, side * side, C)


def initialise(
    model_config: ConfigDict,
    fresh_variables: Variables,
    sources: Mapping[str, str | os.PathLike[str]],
    table_rule: TableRule = "released",
) -> tuple[Variables, list[Row]]:
    """Loads the variables to start training from.

    Sources are "all" for the whole model, "rgb" and "trajectory" for the encoders, which take precedence. Each is a
    PyTorch file, a converted folder or a run; "" means not given. ``model_config`` is the ``model`` group.

    Returns:
      Variables structured like ``fresh_variables``, in which loaded arrays are float32 NumPy arrays; and a row for each
      variable and for each skipped array, sorted by path. See ``format_rows``.

    Raises:
      UserError: of kind "not_finite" if a weight is NaN or infinite; see also ``load_checkpoint`` and ``adapt``.
    """
    unknown = set(sources) - {"all", *_MODULES}
    if unknown:
        raise UserError("unknown_option", f"sources {sorted(unknown)} are unknown; known: all, rgb, trajectory")
    flat = flattened(fresh_variables)
    rows = {"/".join(path): Row("/".join(path), "fresh") for path in flat}
    skipped = []
    for part in ("all", "rgb", "trajectory"):
        path = os.fspath(sources.get(part, ""))
        if not path:
            continue
        # Encoders are often published without a head, and none is needed here.
        checkpoint = load_checkpoint(path, fresh=() if part == "all" else ("params/head",))
        adapted = adapt(checkpoint, model_config, part, table_rule, path)
        for warning in checkpoint.report["warnings"] + adapted.warnings:
            tqdm.write(f"warning: {path}: {warning.removeprefix(f'{path}: ')}", file=sys.stderr)
        loaded = flattened(adapted.variables)
        if broken := nonfinite_warnings({"/".join(target): x for target, x in loaded.items()}):
            raise UserError("not_finite", f"{path}: {broken[0]}; training cannot start from it, so give other weights")
        flat |= loaded
        rows |= {row.path: row for row in adapted.rows if row.status != "skipped"}
        skipped += [row for row in adapted.rows if row.status == "skipped"]
    return nested(flat), sorted([*rows.values(), *skipped])


def format_rows(rows: Sequence[Row]) -> str:
    """Formats rows as a table with one line per module, status, source and adaptation."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        note = row.note if row.status == "adapted" else ""
        module = "/".join(row.path.split("/")[:2])
        groups.setdefault((module, row.status, row.source, note), []).append(row)
    cells: list[tuple[str, ...]] = [("module", "arrays", "status", "source", "note")]
    for (module, *rest), group in groups.items():
        cells.append((group[0].path if len(group) == 1 else module, str(len(group)), *rest))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)
