"""Data parallelism: one mesh axis, along which batches are split. Parameters are replicated.

Either one process sees all devices, or each of several processes (on a cluster or TPU pod) sees its own. Then each runs
the same program and reads its own rows of every batch, and only the first writes files for people.
"""

from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tramp_jax.errors import UserError

Tree = TypeVar("Tree")


def join_processes(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes of the run. Call it before anything uses a device.

    ``coordinator`` is the address "host:port" of process 0. If it is None, all three arguments come from the
    environment that SLURM, Open MPI or Cloud TPU sets.

    Raises:
      UserError: cannot_join if the environment does not describe the processes or they cannot be reached.
    """
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            "cannot_join",
            f"cannot join the other processes: {error}. Outside SLURM, Open MPI and Cloud TPU, start every process "
            "with --coordinator=HOST:PORT --num_processes=N --process_id=I",
        ) from error


def is_first_process() -> bool:
    """Whether this process writes the files that people read."""
    return jax.process_index() == 0


def any_process(condition: bool) -> bool:
    """Whether ``condition`` holds in any process. All processes must call this."""
    if jax.process_count() == 1:
        return condition
    return bool(np.any(multihost_utils.process_allgather(np.array(condition))))


def wait_for_all(name: str) -> None:
    """Returns when every process has called this."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def data_mesh() -> Mesh:
    """All devices of all processes along one axis called "data"."""
    return Mesh(np.array(jax.devices()), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """Places the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Divides the leading axis among the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, parts: int, mesh: Mesh) -> None:
    """Refuses a training batch that cannot be cut into equal ``parts`` (``train.accumulate``) on every device.

    Raises:
      UserError: bad_option.
    """
    shares = parts * mesh.size
    if batch_size % shares:
        raise UserError(
            "bad_option",
            f"train.batch_size={batch_size} cannot be divided into equal parts by train.accumulate={parts} "
            f"and {mesh.size} devices; use a multiple of {shares}",
        )


def put(batch: Tree, mesh: Mesh) -> Tree:
    """Puts this process's rows of a batch on its devices. The rows of all processes form the global batch."""
    where = split_batch(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, where)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(where, x), batch)
