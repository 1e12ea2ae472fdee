"""Orbax checkpoints of a run: the last one, which training continues from, and the best one by validation subjects.

Each holds ``variables`` (params and batch_stats: all that scoring needs) as an item of its own; the last one also
holds the optimiser and a small JSON record. The step is the position in the data.
"""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from tramp_jax import sharding

LAST, BEST = "last", "best"


class Checkpoints:
    """The checkpoints below ``workdir``/checkpoints. Use as a context manager.

    Args:
      workdir: of the run.
      keep_last: how many of the last checkpoints to keep.
      writing: this is the one process that trains, and may clear away what a killed one left half written.
    """

    def __init__(self, workdir: str | pathlib.Path, keep_last: int = 1, writing: bool = False):
        root = pathlib.Path(workdir).absolute() / "checkpoints"
        self._managers = {
            name: ocp.CheckpointManager(
                root / name,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=keep,
                    enable_async_checkpointing=False,
                    # What a killed run was writing; only the trainer may take it for a leftover.
                    cleanup_tmp_directories=writing,
                ),
            )
            for name, keep in ((LAST, keep_last), (BEST, 1))
        }
        self.root = root

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        for manager in self._managers.values():
            manager.close()

    def last_step(self) -> int | None:
        """Step of the last checkpoint, None before the first."""
        return self._managers[LAST].latest_step()

    def save_last(self, step: int, variables: Any, optimizer: Any, record: dict[str, Any]) -> None:
        """Saves all that is needed to continue from ``step``; the position in the data is the step itself."""
        if step == self.last_step():
            return
        self._managers[LAST].save(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardSave(variables),
                optimizer=ocp.args.StandardSave(optimizer),
                record=ocp.args.JsonSave(record),
            ),
        )

    def save_best(self, step: int, variables: Any) -> None:
        """Replaces the best checkpoint. One of the same step, left by an interrupted run, is the same: it stays."""
        if step not in self._managers[BEST].all_steps():
            self._managers[BEST].save(step, args=ocp.args.Composite(variables=ocp.args.StandardSave(variables)))

    def restore_last(self, variables: Any, optimizer: Any, mesh: Mesh) -> tuple[int, Any, Any, dict[str, Any]]:
        """Returns (step, variables, optimizer, record) of the last checkpoint.

        ``variables`` and ``optimizer`` say structure, shapes and types; the arrays come back replicated on ``mesh``,
        whatever number of devices they were saved from.
        """
        step = self.last_step()
        if step is None:
            raise FileNotFoundError(f"{self.root} holds no checkpoint to resume from; start without --resume")
        restored = self._managers[LAST].restore(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardRestore(_abstract(variables, mesh)),
                optimizer=ocp.args.StandardRestore(_abstract(optimizer, mesh)),
                record=ocp.args.JsonRestore(),
            ),
        )
        return step, restored.variables, restored.optimizer, restored.record

    def restore_variables(self, which: str, variables: Any, mesh: Mesh) -> tuple[int, Any]:
        """(step, variables) of the "last" or "best" checkpoint, or of the one at a step given as a number.

        Raises:
          FileNotFoundError: there is no such checkpoint; the message lists those that exist.
        """
        for name, manager in self._managers.items():
            step = manager.latest_step() if which == name else int(which) if which.isdigit() else None
            if step is not None and step in manager.all_steps():
                target = ocp.args.Composite(variables=ocp.args.StandardRestore(_abstract(variables, mesh)))
                return step, manager.restore(step, args=target).variables
        existing = "; ".join(f"{name}: {list(m.all_steps()) or 'none'}" for name, m in self._managers.items())
        raise FileNotFoundError(f"no checkpoint {which!r} in {self.root} ({existing})")


def _abstract(tree: Any, mesh: Mesh) -> Any:
    where = sharding.replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)
