r"""Many devices, and many processes or hosts, by JAX's own engine.

    mesh     one axis, "data": the samples of a batch, or the seeds of a sweep, are spread over it;
             parameters are the same on every device, and gradients are added up by XLA.

The same program runs on one device, on all of a machine, and on those of several hosts: each process calls
`start_processes` first, and sees the devices of all.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from lstm_jax.array_types import PyTree
from lstm_jax.training.step import DATA
from lstm_jax.validation import require_positive_int


def start_processes(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Join the processes of a run, on one host or several: `jax.distributed.initialize`, checked.

    To be called before anything else that touches a device. On a TPU slice, and under SLURM or Open MPI, all
    three are found by JAX and can be left out.

    Args:
        coordinator: ``host:port`` of the first process, reachable from all.
        processes: how many there are.
        process: which one this is, from 0.

    Raises:
        ValueError: one of the three without the others, or a number out of range.
        RuntimeError: by JAX, where it finds no cluster or cannot reach the coordinator.
    """
    named = (coordinator, processes, process)
    if any(value is not None for value in named):
        if coordinator is None or processes is None or process is None:
            raise ValueError(
                "Process mismatch: expected coordinator, processes and process together, got "
                f"{coordinator!r}, {processes!r} and {process!r}."
            )
        require_positive_int("processes", processes)
        if isinstance(process, bool) or not 0 <= process < processes:
            raise ValueError(
                f"Process mismatch: expected process from 0 to {processes - 1}, got {process!r}."
            )
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(
                f"Process mismatch: expected coordinator as host:port, got {coordinator!r}."
            )
    jax.distributed.initialize(coordinator, processes, process)


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the one axis ``"data"``.

    Args:
        devices: those to be used; all of all processes if None.

    Raises:
        ValueError: no devices.

    Example:
        >>> from lstm_jax.training import data_mesh
        >>> data_mesh().axis_names
        ('data',)
    """
    devices = jax.devices() if devices is None else list(devices)
    if not devices:
        raise ValueError("Device mismatch: expected at least one device, got none.")
    return Mesh(np.array(devices), (DATA,))


def placed(tree: PyTree, shardings: PyTree) -> PyTree:
    """Put values that every process holds whole where the shardings say."""

    def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, tree, shardings)
