"""Applies a name map, strictly: every tensor finds its place or the conversion fails with both lists."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from convert_weights.names import DROPPED_ENDINGS, name_map
from convert_weights.rules import TRANSFORMS
from tramp_jax.models import build_model, input_shapes

Path = tuple[str, ...]
Variables = dict[str, Any]


class MismatchError(ValueError):
    """Tensors of a checkpoint and parameters of the model do not correspond one to one."""


def target_shapes(config: ConfigDict) -> dict[Path, tuple[int, ...]]:
    """Shapes of all variables of the model that ``config`` (the ``model`` group) describes, by path."""
    inputs = [
        None if shape is None else jax.ShapeDtypeStruct(shape, np.float32)
        for shape in input_shapes(config, batch=1).values()
    ]
    variables = jax.eval_shape(build_model(config).init, jax.random.key(0), *inputs)
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(variables).items()}


def to_variables(tensors: Mapping[str, np.ndarray], config: ConfigDict) -> Variables:
    """PyTorch tensors by released name -> ``{"params": …, "batch_stats": …}`` of the model of ``config``.

    Raises:
      MismatchError: listing every tensor without a place, every parameter without a tensor (each with its shape
        and the closest name on the other side), and every pair whose shapes differ.
    """
    rules = {rule.source: rule for rule in name_map(config)}
    shapes = target_shapes(config)
    assert {rule.target for rule in rules.values()} == set(shapes), "the name map does not cover the model"

    used = {name: x for name, x in tensors.items() if not name.endswith(DROPPED_ENDINGS)}
    problems = [f"  no place for {n} {used[n].shape}{_closest(n, rules)}" for n in used if n not in rules]
    problems += [
        f"  nothing for {n} (our {'/'.join(rules[n].target)} {shapes[rules[n].target]}){_closest(n, used)}"
        for n in rules
        if n not in used
    ]
    flat: dict[Path, np.ndarray] = {}
    for name in used.keys() & rules.keys():
        rule, expected = rules[name], shapes[rules[name].target]
        source_shape = TRANSFORMS[rule.transform].backward(np.empty(expected, bool)).shape
        if used[name].shape != source_shape:
            problems.append(f"  {name} has shape {used[name].shape}, the model needs {source_shape}")
            continue
        flat[rule.target] = np.ascontiguousarray(TRANSFORMS[rule.transform].forward(used[name]))
    if problems:
        raise MismatchError("checkpoint and model do not fit together:\n" + "\n".join(sorted(problems)))
    return {"batch_stats": {}} | traverse_util.unflatten_dict(flat)


def _closest(name: str, others: Iterable[str]) -> str:
    """A hint naming the most similar of ``others``, or nothing if none is similar."""
    match = difflib.get_close_matches(name, others, n=1, cutoff=0.8)
    return f"; closest: {match[0]}" if match else ""
