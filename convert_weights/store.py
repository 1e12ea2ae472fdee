"""Converted folders on disk, written whole or not at all; and the folders of training runs, read.

A converted folder holds ``variables/``, an Orbax checkpoint of ``{"params", "batch_stats"}``, and ``conversion.json``.
"""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from ml_collections import ConfigDict

from convert_weights.architecture import model_config
from convert_weights.convert import Path, Variables, flattened, nested, target_shapes
from convert_weights.layouts import Rule
from convert_weights.names import name_map
from convert_weights.reader import CheckpointError, find_nonfinite

VARIABLES, REPORT, RUN_CONFIG = "variables", "conversion.json", "config.json"
FORMAT = 1
# What a class of the released code is saved in, where no source file says otherwise.
_CONTAINERS = {"former_dfer": "state_dict", "skateformer": "", "tramp_former": "model"}

Loaded = tuple[str, Variables, ConfigDict, dict[str, Any]]


def check_free(path: pathlib.Path, overwrite: bool, marker: str = "") -> None:
    """Raises CheckpointError if writing ``path`` would replace something it should not.

    Args:
      overwrite: whether something of the same sort may be replaced.
      marker: of a folder, the file that shows that it is of this sort.
    """
    if not path.parent.is_dir():
        raise CheckpointError(f"{path.parent}: no such folder; create it first")
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise CheckpointError(f"{path}: exists; replace it with --overwrite, or name another")
    if path.is_dir() != bool(marker) or (marker and not (path / marker).is_file()):
        what = f"a folder with {marker}" if marker else "a file"
        raise CheckpointError(f"{path}: is not {what}, so it will not be overwritten; name another")


@contextlib.contextmanager
def written_whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary place beside ``path``, moved there if the block succeeds and removed if it does not."""
    scratch = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        yield scratch / path.name
        if os.path.lexists(path):
            path.rename(scratch / f"{path.name}.old")
        (scratch / path.name).rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_folder(variables: Variables, report: dict[str, Any], path: pathlib.Path, overwrite: bool) -> None:
    """Writes a converted folder. Raises CheckpointError if ``path`` exists, unless ``overwrite``."""
    path = path.absolute()
    check_free(path, overwrite, REPORT)
    with written_whole(path) as new:
        new.mkdir()
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(new / VARIABLES, variables)
        (new / REPORT).write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")


def load_folder(path: pathlib.Path, checkpoint: str) -> Loaded:
    """(kind, variables, model config, report) of a converted folder or of a run."""
    if (path / REPORT).is_file():
        if checkpoint:
            raise CheckpointError(f"{path}: is a converted folder and has no checkpoint {checkpoint!r}; leave that out")
        return _load_converted(path)
    if (path / "checkpoints").is_dir():
        return _load_run(path, checkpoint)
    folds = sorted(path.glob("fold_*/checkpoints"))
    if folds:
        raise CheckpointError(f"{path}: is a run over folds; give one of them, such as {folds[0].parent}")
    raise CheckpointError(
        f"{path}: is neither a converted folder ({REPORT}) nor a training run (checkpoints/); "
        "give one of these, or the .pth, .pt or .safetensors file itself"
    )


def _load_converted(path: pathlib.Path) -> Loaded:
    report = _json(path / REPORT)
    try:
        if report["format"] != FORMAT:
            raise CheckpointError(f"{path}: has format {report['format']}, known is {FORMAT}; convert its source again")
        config = model_config(report["model_config"])
        shapes = target_shapes(config)
        for target in report["fresh"]:
            del shapes[tuple(target.split("/"))]
        restore_args = nested(dict.fromkeys(shapes, ocp.RestoreArgs(restore_type=np.ndarray)))
        with ocp.PyTreeCheckpointer() as checkpointer:
            variables = checkpointer.restore(
                (path / VARIABLES).absolute(), args=ocp.args.PyTreeRestore(restore_args=restore_args)
            )
        flat = flattened(variables)
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: is damaged ({_first_line(error)}); convert its source again") from error
    if {target: x.shape for target, x in flat.items()} != shapes:
        raise CheckpointError(f"{path}: its arrays are not those of its {REPORT}; convert its source again")
    return report["kind"], nested(flat), config, report


def _load_run(path: pathlib.Path, checkpoint: str) -> Loaded:
    """The model of a training run, or of one fold of it."""
    from tramp_jax import sharding
    from tramp_jax.checkpoint import BEST, LAST, Checkpoints

    home = path if (path / RUN_CONFIG).is_file() else path.absolute().parent  # a fold's is that of all folds
    which = checkpoint or (BEST if any((path / "checkpoints" / BEST).glob("[0-9]*")) else LAST)
    try:
        config = model_config(_json(home / RUN_CONFIG)["model"])
        shapes = {target: jax.ShapeDtypeStruct(shape, np.float32) for target, shape in target_shapes(config).items()}
        with Checkpoints(path) as checkpoints:
            step, variables = checkpoints.restore_variables(which, nested(shapes), sharding.data_mesh())
    except (KeyError, TypeError, ValueError, OSError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: {_first_line(error)}; check that the run is whole") from error
    flat = {target: np.asarray(x) for target, x in flattened(variables).items()}
    source = {"run": path.absolute().name, "checkpoint": which, "step": step}
    return config.name, nested(flat), config, _run_report(source, config, flat)


def _run_report(source: dict[str, Any], config: ConfigDict, flat: dict[Path, np.ndarray]) -> dict[str, Any]:
    naming = {"container": _CONTAINERS[config.name], "prefix": "", "encoder": "", "head": ""}
    if config.name == "skateformer":
        naming["head"] = "head."
    named = {"/".join(target): x for target, x in flat.items()}
    rules = _rules(config)
    return {
        "format": FORMAT,
        "source": source,
        "kind": config.name,
        "naming": naming,
        "architecture": traverse_util.flatten_dict(config.to_dict(), sep="."),
        "assumed": {},
        "tensors": [{"source": r.source, "target": "/".join(r.target), "transform": r.transform} for r in rules],
        "dropped": [],
        "fresh": [],
        "warnings": [f"not a finite number (NaN or infinity) in {name}" for name in find_nonfinite(named)],
        "model_config": config.to_dict(),
    }


def _rules(config: ConfigDict) -> list[Rule]:
    """The name map, empty for a model that has no names in PyTorch."""
    try:
        return name_map(config)
    except ValueError:
        return []


def _json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
