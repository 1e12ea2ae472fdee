"""Orbax checkpoints of a run: the last one, from which training continues, and the best one by validation subjects.

A checkpoint consists of named items. Both have ``variables``: params and batch_stats, which is all that scoring needs.
If the run trains the map to landmarks (``landmark_readout``), that is an item of its own. The last checkpoint also has
``optimizer`` and a small JSON ``record``. With ``train.ema``, ``variables`` are the averages, and ``optimizer`` also
holds the variables that training continues with. The step is the position in the data.
"""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from tramp_jax import landmark_readout, run, sharding
from tramp_jax.errors import UserError, as_user_error

LAST, BEST = "last", "best"
# Orbax and TensorStore raise these for damaged files; RecursionError comes from deeply nested JSON.
DAMAGE = (ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, OSError, RecursionError)


def can_resume(folder: pathlib.Path) -> bool:
    """Whether a run or fold has a last checkpoint. Creates nothing, unlike ``Checkpoints`` for writing."""
    # Orbax gives a checkpoint its number as a name only when it is complete.
    return any(path.name.isdigit() for path in (folder / run.CHECKPOINTS / LAST).glob("*"))


class Checkpoints:
    """The checkpoints of a run or fold. Use as a context manager.

    Args:
      keep_last: how many of the latest checkpoints to keep, besides the best one.
      writing: True in training: creates the folders, and removes what a killed run left half-written.

    Raises:
      UserError: missing_checkpoint, unless ``writing``; damaged_file.
    """

    def __init__(self, folder: str | pathlib.Path, keep_last: int = 1, writing: bool = False):
        root = pathlib.Path(folder).absolute() / run.CHECKPOINTS
        if not (writing or root.is_dir()):  # Orbax would create it
            raise UserError("missing_checkpoint", f"{folder} holds no checkpoints; train it first")
        self.root = root
        with self._damage_named():
            self._managers = {
                name: ocp.CheckpointManager(
                    root / name,
                    options=ocp.CheckpointManagerOptions(
                        max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=writing
                    ),
                )
                for name, keep in ((LAST, keep_last), (BEST, 1))
            }

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        for manager in self._managers.values():
            manager.close()

    @contextlib.contextmanager
    def _damage_named(self) -> Iterator[None]:
        """Turns what Orbax raises for a damaged checkpoint into a UserError (damaged_file). For calls of Orbax only."""
        try:
            yield
        except DAMAGE as error:
            if as_user_error(error) is not None:
                raise
            raise self._damaged((str(error) or type(error).__name__).splitlines()[0]) from error

    def _damaged(self, reason: str) -> UserError:
        return UserError(
            "damaged_file",
            f"{self.root}: a checkpoint is damaged, or does not match the model in config.json ({reason:.200}); "
            "restore it from a copy, or train again",
        )

    def last_step(self) -> int | None:
        """Step of the last checkpoint; None if there is none yet."""
        return self._managers[LAST].latest_step()

    def save_last(self, step: int, variables: Any, optimizer: Any, record: dict[str, Any]) -> None:
        """Saves everything needed to continue from ``step``; the position in the data is the step itself."""
        if step == self.last_step():
            return
        self._managers[LAST].save(
            step,
            args=ocp.args.Composite(
                **_to_save(variables),
                optimizer=ocp.args.StandardSave(optimizer),
                record=ocp.args.JsonSave(record),
            ),
        )

    def save_best(self, step: int, variables: Any) -> None:
        """Replaces the best checkpoint, unless this step's is already saved: an interrupted run repeats some steps."""
        if step not in self._managers[BEST].all_steps():
            self._managers[BEST].save(step, args=ocp.args.Composite(**_to_save(variables)))

    def restore_last(self, variables: Any, optimizer: Any, mesh: Mesh) -> tuple[int, Any, Any, dict[str, Any]]:
        """Returns (step, variables, optimizer, record) of the last checkpoint.

        The arguments ``variables`` and ``optimizer`` only give structure, shapes and types. The restored arrays are
        replicated on ``mesh``, however many devices saved them.

        Raises:
          UserError: missing_checkpoint or damaged_file.
        """
        step = self.last_step()
        if step is None:
            raise UserError(
                "missing_checkpoint", f"{self.root} holds no checkpoint to resume from; start without --resume"
            )
        trees = _to_restore(variables, mesh) | {"optimizer": ocp.args.StandardRestore(_abstract(optimizer, mesh))}
        restored = self._restore(LAST, step, trees, record=ocp.args.JsonRestore())
        record = restored.record
        known = isinstance(record, dict) and record.keys() >= {"best", "best_step"}
        if not (known and all(isinstance(record[name], int | float | None) for name in ("best", "best_step"))):
            raise self._damaged(f"its record is {record!r:.60}")
        return step, _restored(restored), restored.optimizer, record

    def restore_variables(self, which: str, variables: Any, mesh: Mesh) -> tuple[int, Any]:
        """Returns (step, variables) of the checkpoint "last", "best" or of a step such as "120". See ``restore_last``.

        Raises:
          UserError: missing_checkpoint, listing the existing ones, or damaged_file.
        """
        for name, manager in self._managers.items():
            numbered = int(which) if which.isdecimal() else None
            step = manager.latest_step() if which == name else numbered
            if step is not None and step in manager.all_steps():
                return step, _restored(self._restore(name, step, _to_restore(variables, mesh)))
        existing = "; ".join(f"{name}: {list(m.all_steps()) or 'none'}" for name, m in self._managers.items())
        if self.last_step() is not None and not self._managers[BEST].all_steps():
            existing += f"; training has not ended; wait, or continue it with `{run.resume_command(self.root.parent)}`"
        raise UserError("missing_checkpoint", f"no checkpoint {which!r} in {self.root}; there are {existing}")

    def _restore(self, name: str, step: int, trees: dict[str, Any], **others: Any) -> Any:
        arguments = ocp.args.Composite(**trees, **others)
        with self._damage_named():
            for tree in trees:
                stored_shapes(self.root / name / str(step) / tree)
            return self._managers[name].restore(step, args=arguments)


def stored_shapes(item: pathlib.Path) -> Any:
    """The shapes of the arrays of one item of a checkpoint, as a tree.

    Raises:
      ValueError: a chunk is larger than its array. A small file can declare chunks of gigabytes, and reading any part
        of a chunk takes the memory of the whole chunk.
    """

    def shape(stored: Any) -> tuple[int, ...]:
        chunk = stored.storage.chunk_shape
        if any(length > max(whole, 1) for length, whole in zip(chunk, stored.shape, strict=True)):
            raise ValueError(f"it declares chunks of {chunk} for an array of {stored.shape}")
        return tuple(stored.shape)

    return jax.tree.map(shape, ocp.PyTreeCheckpointHandler().metadata(epath.Path(item)).tree)


def _items(variables: Any) -> dict[str, Any]:
    """The trees to save as items: the model's variables, and the map to landmarks if there is one."""
    params = dict(variables["params"])
    readout = params.pop(landmark_readout.NAME, None)
    items = {"variables": variables | {"params": params}}
    return items if readout is None else items | {landmark_readout.NAME: readout}


def _to_save(variables: Any) -> dict[str, Any]:
    return {name: ocp.args.StandardSave(tree) for name, tree in _items(variables).items()}


def _to_restore(variables: Any, mesh: Mesh) -> dict[str, Any]:
    return {name: ocp.args.StandardRestore(_abstract(tree, mesh)) for name, tree in _items(variables).items()}


def _restored(items: Any) -> Any:
    """The inverse of ``_items``."""
    if landmark_readout.NAME not in items:
        return items.variables
    readout = {landmark_readout.NAME: items[landmark_readout.NAME]}
    return items.variables | {"params": items.variables["params"] | readout}


def _abstract(tree: Any, mesh: Mesh) -> Any:
    """Shapes and types of arrays, to be restored on every device."""
    where = sharding.replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)
