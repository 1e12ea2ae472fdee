"""Writes and reads converted folders, and reads the folders of training runs.

A converted folder holds ``variables/``, an Orbax checkpoint of ``{"params", "batch_stats"}``, and ``conversion.json``.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from ml_collections import ConfigDict

from convert_weights.convert import Path, Variables, flattened, nested, target_shapes
from convert_weights.kinds import KINDS
from convert_weights.kinds.kind import model_config
from convert_weights.layouts import TensorPair
from convert_weights.reader import nonfinite_warnings
from tramp_jax import config as options
from tramp_jax import json_files, run
from tramp_jax.errors import UserError
from tramp_jax.files import check_place

VARIABLES, REPORT = "variables", "conversion.json"
FORMAT = 1
_CONVERT_AGAIN = "convert its source again"


@dataclasses.dataclass(frozen=True)
class LoadedCheckpoint:
    """Weights, and what is known about them."""

    kind: str  # a key of ``kinds.KINDS``
    # ``{"params": …, "batch_stats": …}`` of float32 NumPy arrays, without those in ``report["fresh"]``
    variables: Variables
    model_config: ConfigDict  # the ``model`` group they fit; see ``tramp_jax.config.MODEL``
    report: dict[str, Any]  # the contents of conversion.json, see docs/weights.md


def check_free(path: pathlib.Path, overwrite: bool, marker: str = "") -> None:
    """Raises UserError if writing would replace something it should not; see also ``check_place``.

    Args:
      overwrite: whether an earlier output of the same type may be replaced.
      marker: a file that every output folder of this type holds; "" if the output is a file.
    """
    check_place(path)
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise UserError("file_exists", f"{path}: exists; replace it with --overwrite, or name another")
    if path.is_dir() != bool(marker) or (marker and not (path / marker).is_file()):
        what = f"a folder with {marker}" if marker else "a file"
        raise UserError("file_exists", f"{path}: is not {what}, so it will not be overwritten; name another")


@contextlib.contextmanager
def written_whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path next to ``path``, moved there if the block succeeds and removed otherwise.

    Raises:
      UserError: it cannot be written, for instance because the disk is full.
    """
    name = path.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(".partial", f".{name}.", path.parent, ignore_cleanup_errors=True) as scratch:
            new = pathlib.Path(scratch, name)
            yield new
            if path.is_dir():  # a file is replaced at once
                path.rename(new.with_name(f"{name}.old"))
            new.rename(path)
    except OSError as error:
        what = f"{path}: cannot be written ({error.strerror or error}); check the disk and its permissions"
        raise UserError("cannot_write", what) from error


def write_folder(variables: Variables, report: dict[str, Any], path: pathlib.Path, overwrite: bool) -> None:
    """Writes a converted folder, whole or not at all. Raises UserError if ``path`` exists, unless ``overwrite``."""
    path = path.absolute()
    check_free(path, overwrite, REPORT)
    with written_whole(path) as new:
        new.mkdir()
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(new / VARIABLES, variables)
        (new / REPORT).write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")


def load_folder(path: pathlib.Path, checkpoint: str) -> LoadedCheckpoint:
    """Loads a converted folder or a run. Raises UserError."""
    if (path / REPORT).is_file():
        if checkpoint:
            what = f"{path}: is a converted folder and has no checkpoint {checkpoint!r}; omit --checkpoint"
            raise UserError("missing_checkpoint", what)
        return _load_converted(path)
    if run.is_trained(path):
        return _load_run(path, checkpoint)
    folds = run.trained_folds(path)
    if folds:
        raise UserError("not_a_run", f"{path}: is a run over folds; give one of them, such as {folds[0]}")
    raise UserError(
        "not_a_run",
        f"{path}: is neither a converted folder ({REPORT}) nor a training run (checkpoints/); "
        "give one of these, or the .pth, .pt or .safetensors file itself",
    )


@dataclasses.dataclass(frozen=True)
class _Naming:
    container: str
    prefix: str
    encoder: str
    head: str


@dataclasses.dataclass(frozen=True)
class _Report:
    """The types in conversion.json; docs/weights.md says what its fields hold."""

    format: int
    source: dict[str, Any]
    kind: str
    naming: _Naming
    architecture: dict[str, Any]
    assumed: dict[str, str]
    tensors: tuple[dict[str, Any], ...]
    dropped: tuple[dict[str, Any], ...]
    fresh: tuple[str, ...]
    warnings: tuple[str, ...]
    model_config: dict[str, Any]


def _load_converted(path: pathlib.Path) -> LoadedCheckpoint:
    from tramp_jax import checkpoint

    def damaged(reason: object) -> UserError:
        return UserError("damaged_file", f"{path}: is damaged ({reason}); {_CONVERT_AGAIN}")

    report = json_files.read(path / REPORT, _CONVERT_AGAIN)
    if report.get("format") != FORMAT:
        what = f"{path}: has format {report.get('format')!r:.40}, not {FORMAT}; {_CONVERT_AGAIN}"
        raise UserError("unsupported_file", what)
    json_files.checked_record(_Report, report, path / REPORT, _CONVERT_AGAIN)
    try:
        given = report["model_config"]
        # Weights for NTU RGB+D read three coordinates, which no option names.
        options.of_run({"model": given | {"trajectory": given["trajectory"] | {"channels": "xyrgb"}}})
        config = model_config(given)
    except (UserError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise damaged(_first_line(error)) from error
    try:
        shapes = target_shapes(config)
    except UserError as error:
        raise damaged(_first_line(error)) from error
    fresh = {tuple(target.split("/")) for target in report["fresh"]}
    if report["kind"] not in KINDS or not fresh <= shapes.keys():
        raise damaged("its kind or a fresh array is unknown")
    shapes = {target: shape for target, shape in shapes.items() if target not in fresh}
    restore_args = nested(dict.fromkeys(shapes, ocp.RestoreArgs(restore_type=np.ndarray)))
    folder = (path / VARIABLES).absolute()
    try:
        if flattened(checkpoint.stored_shapes(folder)) != shapes:
            raise damaged(f"its arrays do not match its {REPORT}")
        with ocp.PyTreeCheckpointer() as checkpointer:
            variables = checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=restore_args))
    except checkpoint.DAMAGE as error:
        raise damaged(_first_line(error)) from error
    return LoadedCheckpoint(report["kind"], nested(flattened(variables)), config, report)


def _load_run(path: pathlib.Path, checkpoint: str) -> LoadedCheckpoint:
    """Loads the model of a training run, or of one of its folds."""
    from tramp_jax import sharding
    from tramp_jax.checkpoint import BEST, LAST, Checkpoints

    which = checkpoint or (BEST if any((path / run.CHECKPOINTS / BEST).glob("[0-9]*")) else LAST)
    config = model_config(run.load_config(path).model.to_dict())
    shapes = {target: jax.ShapeDtypeStruct(shape, np.float32) for target, shape in target_shapes(config).items()}
    with Checkpoints(path) as checkpoints:
        step, variables = checkpoints.restore_variables(which, nested(shapes), sharding.data_mesh())
    flat = {target: np.asarray(x) for target, x in flattened(variables).items()}
    source = {"run": path.absolute().name, "checkpoint": which, "step": step}
    return LoadedCheckpoint(config.name, nested(flat), config, _run_report(source, config, flat))


def _run_report(source: dict[str, Any], config: ConfigDict, flat: dict[Path, np.ndarray]) -> dict[str, Any]:
    pairs: list[TensorPair] = []
    with contextlib.suppress(UserError):  # a model that was never released has no names
        pairs = KINDS[config.name].name_map(config)
    return {
        "format": FORMAT,
        "source": source,
        "kind": config.name,
        "naming": {"container": KINDS[config.name].container, "prefix": "", "encoder": "", "head": ""},
        "architecture": traverse_util.flatten_dict(config.to_dict(), sep="."),
        "assumed": {},
        "tensors": [
            {"source": pair.source, "target": "/".join(pair.target), "transform": pair.transform} for pair in pairs
        ],
        "dropped": [],
        "fresh": [],
        "warnings": nonfinite_warnings({"/".join(target): x for target, x in flat.items()}),
        "model_config": config.to_dict(),
    }


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
