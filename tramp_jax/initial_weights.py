"""The parameters that training starts from: fresh or loaded, and which of them are frozen."""

import difflib
from collections.abc import Sequence
from typing import Any

import jax
from flax import traverse_util
from ml_collections import ConfigDict

from convert_weights.adapt import format_rows, initialise
from convert_weights.convert import Path, matches
from tramp_jax import config as options
from tramp_jax import landmark_readout
from tramp_jax.errors import UserError
from tramp_jax.models import init_variables


def initial_variables(config: ConfigDict, given: bool = True) -> tuple[dict[str, Any], str]:
    """The ``{"params", "batch_stats"}`` to start from, and a table of what was loaded, adapted, fresh and skipped.

    ``config.init.all`` names a whole model. ``config.init.rgb`` and ``config.init.trajectory`` name an encoder each and
    take precedence. Each is a PyTorch file, a folder made by ``python -m convert_weights``, or a run. ``given=False``
    leaves them out, for a resumed run, whose checkpoint replaces all variables. The table is "" if nothing was loaded.

    Raises:
      UserError: weights cannot be read or do not fit the model.
    """
    fresh = landmark_readout.added(init_variables(config.model, jax.random.key(config.seed)), config)
    sources = {part: config.init[part] for part in ("all", "rgb", "trajectory") if config.init[part]}
    if not sources or not given:
        return fresh, ""
    variables, rows = initialise(config.model, fresh, sources, config.init.tables)
    return variables, format_rows(rows)


def check(config: ConfigDict) -> None:
    """Refuses weights or patterns of ``config.freeze`` that do not fit, before a run's folder is made or replaced.

    Raises:
      UserError: see ``initial_variables`` and ``frozen_paths``.
    """
    if config.freeze or options.has_weights(config):
        frozen_paths(initial_variables(config)[0], config.freeze)


def frozen_paths(variables: dict[str, Any], patterns: Sequence[str]) -> dict[str, set[Path]]:
    """The paths in each collection that ``config.freeze`` names: ``{"params": …, "batch_stats": …}``.

    Patterns are paths, with * for any text, such as "rgb_encoder" (which includes everything in it) or "*/conv1".

    Raises:
      UserError: bad_option if a pattern matches nothing.
    """
    paths = list(traverse_util.flatten_dict(variables))
    frozen: dict[str, set[Path]] = {"params": set(), "batch_stats": set()}
    for pattern in patterns:
        matched = [path for path in paths if matches("/".join(path[1:]), [pattern])]
        if not matched:
            modules = {"/".join(path[1:end]) for path in paths for end in range(2, len(path) + 1)}
            close = difflib.get_close_matches(pattern, modules, n=3, cutoff=0.3) or sorted(variables["params"])
            raise UserError("bad_option", f"freeze: no parameter matches {pattern!r}; closest: {', '.join(close)}")
        for collection, *path in matched:
            frozen[collection].add(tuple(path))
    return frozen
