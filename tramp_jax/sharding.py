"""Data parallelism: one mesh axis; batches are split along it, parameters are replicated.

One process sees all devices, or several processes (of a cluster, a TPU pod) each see their own. Every process then runs
the same program; each reads its own rows of every batch, and the first alone writes what people read.
"""

from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")


def join_processes(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes of the run; call before anything touches a device.

    Args:
      coordinator: address "host:port" of the first process; None to take all three from the cluster's environment
        (SLURM, Open MPI, Cloud TPU).
      num_processes: how many there are.
      process_id: which one this is, from 0.

    Raises:
      ValueError: the environment tells nothing, or the others cannot be reached.
    """
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"cannot join the other processes: {error}. Outside SLURM, Open MPI and Cloud TPU give every process "
            "--coordinator=HOST:PORT --num_processes=N --process_id=I"
        ) from error


def is_first_process() -> bool:
    """Whether this process writes the files that people read."""
    return jax.process_index() == 0


def any_process(condition: bool) -> bool:
    """Whether ``condition`` holds in any process; all of them must ask."""
    if jax.process_count() == 1:
        return condition
    return bool(np.any(multihost_utils.process_allgather(np.array(condition))))


def wait_for_all(name: str) -> None:
    """Returns when every process has come here."""
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
      ValueError: naming ``option``.
    """
    if batch_size % mesh.size:
        n = mesh.size
        raise ValueError(f"{option}={batch_size} cannot be divided over {n} devices; use a multiple of {n}")


def put(batch: Tree, mesh: Mesh) -> Tree:
    """Sends this process's rows of a host batch to its devices; all processes' rows make the global batch."""
    where = split_batch(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, where)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(where, x), batch)
