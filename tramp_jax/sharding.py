"""Data parallelism: one mesh axis; batches are split along it, parameters are replicated."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def data_mesh() -> Mesh:
    """All devices along one axis called "data"."""
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


def put(batch: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
    """A host batch onto the devices, split along its leading axis."""
    return jax.device_put(batch, split_batch(mesh))
