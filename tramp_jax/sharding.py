"""Data parallelism: one mesh axis; batches are split along it, parameters are replicated.

Either one process sees all devices, or several processes (on a cluster or TPU pod) see their own. Each then runs the
same program and reads its own rows of every batch; only the first writes files for people.
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

    Args:
      coordinator: address "host:port" of the first process; None to get all three arguments from the cluster's
        environment (SLURM, Open MPI, Cloud TPU).
      num_processes: number of processes.
      process_id: number of this process, from 0.

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
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis divided over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, mesh: Mesh, option: str) -> None:
    """Refuses a batch that the devices cannot share evenly.

    Raises:
      UserError: bad_option, which names ``option``.
    """
    if batch_size % mesh.size:
        n = mesh.size
        raise UserError(
            "bad_option", f"{option}={batch_size} cannot be divided among {n} devices; use a multiple of {n}"
        )


def put(batch: Tree, mesh: Mesh) -> Tree:
    """Puts this process's rows of a batch onto its devices. The rows of all processes form the global batch."""
    where = split_batch(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, where)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(where, x), batch)
