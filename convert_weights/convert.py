"""Applies a name map strictly: unless every tensor has a place, the conversion fails and lists what does not fit."""

import dataclasses
import difflib
import fnmatch
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from convert_weights.kinds import name_map
from convert_weights.layouts import COUNTER, INDEX, TRANSFORMS, TensorPair, buffers, distances
from convert_weights.safe_globals import printable
from tramp_jax import channels
from tramp_jax.errors import UserError
from tramp_jax.models import abstract_variables

Path = tuple[str, ...]
Shape = tuple[int, ...]
Variables = dict[str, Any]

_LISTED = 60  # show at most this many lines of each list in an error


@dataclasses.dataclass(frozen=True)
class Conversion:
    """The outcome for one state dict."""

    flat: dict[Path, np.ndarray]  # float32 arrays in flax layout, by path (the collection first)
    # Each tensor's pair, which says where it went, by released name and in the state dict's order.
    used: dict[str, TensorPair]
    # Why each buffer was dropped, and what it takes to write it again, by released name.
    dropped: dict[str, dict[str, Any]]
    fresh: list[Path]  # paths that the state dict lacks and was allowed to lack
    rounded: list[str]  # names of float64 tensors that float32 cannot hold exactly


def target_shapes(config: ConfigDict) -> dict[Path, Shape]:
    """Shapes of all variables of the model that ``config`` (the ``model`` group) describes, by path."""
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(abstract_variables(config)).items()}


def channel_scale(trajectory: ConfigDict) -> np.ndarray:
    """One factor per input channel, (C,), even if the option holds a single factor for all of them."""
    return np.broadcast_to(np.asarray(trajectory.input_scale, np.float32), len(channels.names(trajectory.channels)))


def to_variables(tensors: Mapping[str, np.ndarray], config: ConfigDict) -> Variables:
    """PyTorch tensors by released name -> ``{"params": …, "batch_stats": …}`` of the model of ``config``.

    Buffers may be missing, as among gradients.

    Raises:
      UserError: see ``convert``.
    """
    return nested(convert(tensors, config, name_map(config)).flat)


def nested(flat: Mapping[Path, Any]) -> Variables:
    """Variables from arrays by path. Both collections are present, even if one is empty."""
    return {"params": {}, "batch_stats": {}} | traverse_util.unflatten_dict(dict(flat))


def flattened(variables: Variables) -> dict[Path, Any]:
    """The inverse of ``nested``."""
    return {path: x for path, x in traverse_util.flatten_dict(variables).items() if x is not None}


def convert(
    tensors: Mapping[str, np.ndarray],
    config: ConfigDict,
    pairs: Sequence[TensorPair],
    fresh: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
) -> Conversion:
    """Finds a place for every tensor in the model of ``config``, and a tensor for every place.

    Args:
      tensors: PyTorch layout, by released name; buffers included.
      config: the ``model`` group.
      fresh: patterns of parameter paths that may be missing, e.g. ``params/head/*``.
      names: each tensor's name in its file, for messages. Default: the released names.

    Raises:
      UserError: of kind "mismatch". Lists every tensor without a place, every parameter without a tensor (each with
        its shape and the closest name on the other side), and every pair whose shapes differ.
    """
    shapes = target_shapes(config)
    assert sorted(pair.target for pair in pairs) == sorted(shapes), "the name map does not cover the model"
    by_source = {pair.source: pair for pair in pairs}
    dropped = {name: _buffer(name, tensors[name]) for name in buffers(pairs) if name in tensors}
    problems = _Problems(names or {name: name for name in tensors})
    for name, x in tensors.items():
        if name in by_source:
            problems.check(name, x, _in_torch(by_source[name], shapes))
        elif name not in dropped:
            problems.unplaced[name] = x.shape
        elif dropped[name] is None:
            problems.misshapen.append(f"  {problems.shown(name)} {x.shape} does not hold what its name says")
    absent = [pair for pair in pairs if pair.source not in tensors]
    left = [pair.target for pair in absent if matches("/".join(pair.target), fresh)]
    problems.missing = {
        pair.source: (_in_torch(pair, shapes), pair.target) for pair in absent if pair.target not in left
    }
    problems.raise_if_any()
    used = {name: by_source[name] for name in tensors if name in by_source}
    flat = {pair.target: _float32(TRANSFORMS[pair.transform].forward(tensors[name])) for name, pair in used.items()}
    rounded = [name for name, pair in used.items() if _rounded(tensors[name], flat[pair.target])]
    return Conversion(flat, used, {k: v for k, v in dropped.items() if v}, left, rounded)


def matches(path: str, patterns: Collection[str]) -> bool:
    """Whether ``path``, joined by slashes, matches one of ``patterns`` or lies below a match; ``*`` is any text."""
    return any(fnmatch.fnmatchcase(path, p) or fnmatch.fnmatchcase(path, f"{p}/*") for p in patterns)


def _in_torch(pair: TensorPair, shapes: Mapping[Path, Shape]) -> Shape:
    # The sizes come from the file and may be huge, so nothing is allocated.
    return TRANSFORMS[pair.transform].backward(np.broadcast_to(False, shapes[pair.target])).shape


def _buffer(name: str, x: np.ndarray) -> dict[str, Any] | None:
    """Why a buffer is dropped and how to rebuild it; None if its contents do not fit its name."""
    if x.dtype.kind not in "iu":
        return None
    if name.endswith(COUNTER) and x.size == 1:
        return {"reason": "counter of training batches, not read by the model", "value": int(x.item())}
    if x.ndim != 2 or not np.array_equal(x, distances(len(x))):
        return None
    return {"reason": f"{INDEX}, computed from the shapes", "frames": len(x)}


def _float32(x: np.ndarray) -> np.ndarray:
    """A copy: the reader's arrays are read-only and keep the whole storage alive."""
    with np.errstate(over="ignore"):
        return np.array(x, np.float32, order="C")


def _rounded(x: np.ndarray, converted: np.ndarray) -> bool:
    """Whether a type wider than float32 lost digits; float32 holds all other types exactly."""
    if x.dtype.itemsize <= 4:
        return False
    return not np.array_equal(np.sort(x, axis=None), np.sort(converted, axis=None), equal_nan=True)


class _Problems:
    """Collects what does not fit and raises one error about all of it."""

    def __init__(self, names: Mapping[str, str]):
        self.names = names
        self.unplaced: dict[str, Shape] = {}
        self.missing: dict[str, tuple[Shape, Path]] = {}
        self.misshapen: list[str] = []

    def shown(self, name: str) -> str:
        return printable(self.names[name], 120)

    def check(self, name: str, x: np.ndarray, expected: Shape) -> None:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            self.misshapen.append(f"  {self.shown(name)} holds {x.dtype}, the model needs floating-point numbers")
        elif x.shape != expected:
            transposed = expected[::-1], (*expected[1::-1], *expected[2:])  # all axes, or the first two
            hint = "; it is transposed" if x.shape in transposed else ""
            self.misshapen.append(f"  {self.shown(name)} has shape {x.shape}, the model needs {expected}{hint}")

    def raise_if_any(self) -> None:
        if not (self.unplaced or self.missing or self.misshapen):
            return
        missing = {name: shape for name, (shape, _) in self.missing.items()}
        unplaced = [f"  {self.shown(n)} {s}{_closest(n, s, missing)}" for n, s in _first(self.unplaced)]
        named = {self.shown(n): s for n, s in self.unplaced.items()}
        lacking = [f"  {n} {s} (our {'/'.join(self.missing[n][1])}){_closest(n, s, named)}" for n, s in _first(missing)]
        only_head = self.missing and not self.unplaced and all(path[1] == "head" for _, path in self.missing.values())
        raise UserError(
            "mismatch",
            "checkpoint and model do not match"
            + _section("without a place in the model", unplaced, len(self.unplaced))
            + _section("missing from the checkpoint", lacking, len(missing))
            + _section("with the wrong shape or type", self.misshapen[:_LISTED], len(self.misshapen))
            + ("\nif this is an encoder without a head, add --fresh params/head" if only_head else "")
            + (self._how_to_drop() if self.unplaced and not self.missing else ""),
        )

    def _how_to_drop(self) -> str:
        """Advice with the broadest patterns that match only the unplaced tensors."""
        placed = (name.split(".") for released, name in self.names.items() if released not in self.unplaced)
        modules = {tuple(parts[:depth]) for parts in placed for depth in range(len(parts))}
        patterns: dict[str, None] = {}
        for parts in (self.names[name].split(".") for name in self.unplaced):
            depth = next((n for n in range(1, len(parts)) if tuple(parts[:n]) not in modules), len(parts))
            patterns[".".join([*parts[:depth], *(["*"] if depth < len(parts) else [])])] = None
        known = [pattern for pattern in list(patterns)[:4] if re.fullmatch(r"[\w.]+\*?", pattern)] or ["PATTERN"]
        options = " ".join(f"--drop '{pattern}'" for pattern in known)
        return f"\nif their publisher's code does not use them, drop them: python -m convert_weights SRC {options}"


def _first(items: Mapping[str, Shape]) -> list[tuple[str, Shape]]:
    return list(items.items())[:_LISTED]


def _section(title: str, lines: list[str], count: int) -> str:
    if not count:
        return ""
    more = [f"  … and {count - len(lines)} more"] if count > len(lines) else []
    return "\n" + "\n".join([f"{count} {title}:", *lines, *more])


def _closest(name: str, shape: Shape, others: Mapping[str, Shape]) -> str:
    """A hint naming the most similar of ``others``, preferably one of the same shape; "" if none is similar."""
    leaf = name.rsplit(".", 1)[-1]
    same_shape = [n for n, s in others.items() if s == shape]
    same_leaf = [n for n in others if n.rsplit(".", 1)[-1] == leaf]
    for candidates in (same_shape, same_leaf):
        for closest in difflib.get_close_matches(name, candidates, n=1, cutoff=0.7):
            return f"; closest: {closest} {others[closest]}"
    return ""
