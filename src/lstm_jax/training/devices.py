r"""Training on many devices, processes and hosts: the mesh, and the start of the processes.

    data     the axis over which the samples of a batch, or the seeds of a sweep, are spread: parameters
             are the same on every device, and XLA adds the gradients
    model    an axis over which hidden units may be split, where a network is too large for one device

The same program runs on one device, on all devices of a machine, and on those of several hosts. Each process
calls `start_processes` first and then sees all devices.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from lstm_jax.array_types import PyTree
from lstm_jax.jax_extensions.mesh_axes import DATA, MODEL
from lstm_jax.validation import require_int, require_positive_int, require_text


def start_processes(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    heartbeat_seconds: int = 100,
) -> None:
    """Join the processes of a run, on one host or several: `jax.distributed.initialize`, checked.

    Call it before anything that uses a device. On a TPU slice, and under SLURM or Open MPI, JAX finds all
    three arguments, and you can leave them out.

    Args:
        coordinator: ``host:port`` of the first process, reachable from all.
        processes: the number of processes.
        process: the number of this one, from 0.
        heartbeat_seconds: after which a process that is not heard of is lost, and the others end.

    Raises:
        ValueError: one of the three without the others, or a number out of range.
        TypeError: a coordinator that is no text.
        RuntimeError: from JAX, if it finds no cluster or cannot reach the coordinator.
    """
    named = (coordinator, processes, process)
    if any(value is not None for value in named):
        if coordinator is None or processes is None or process is None:
            raise ValueError(
                "Process mismatch: expected coordinator, processes and process together, got "
                f"{coordinator!r}, {processes!r} and {process!r}."
            )
        require_positive_int("processes", processes)
        require_int("process", process, most=processes - 1)
        require_text("coordinator", coordinator)
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ValueError(
                f"Process mismatch: expected coordinator as host:port, got {coordinator!r}."
            )
    require_positive_int("heartbeat_seconds", heartbeat_seconds)
    jax.distributed.initialize(
        coordinator, processes, process, heartbeat_timeout_seconds=heartbeat_seconds
    )


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the one axis ``"data"``.

    Args:
        devices: the devices of the mesh; those of all processes if None.

    Raises:
        TypeError: anything but a list of devices.
        ValueError: no devices, or one twice.

    Example:
        >>> from lstm_jax.training import data_mesh
        >>> data_mesh().axis_names
        ('data',)
    """
    devices = jax.devices() if devices is None else devices
    several = isinstance(devices, (Sequence, np.ndarray)) and not isinstance(devices, str)
    if not several or not all(isinstance(device, jax.Device) for device in devices):
        raise TypeError(
            f"Type mismatch: expected devices as a list, of jax.devices(), got {devices!r}."
        )
    if not len(devices):
        raise ValueError("Device mismatch: expected at least one device, got none.")
    if len(set(devices)) < len(devices):
        raise ValueError(f"Device mismatch: expected different devices, got {devices!r}.")
    return Mesh(np.array(devices), (DATA,))


def device_mesh(model: int, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axes ``"data"`` and ``"model"``: samples are spread over one, units over the other.

    `split_units` in the ``init`` of a problem splits the units. Devices that are next to each other in the
    list have parts of the same samples, and exchange h at every step of the loop: let them be of one host.

    Args:
        model: devices over which the hidden units are split; they must divide the number of devices.
        devices: the devices of the mesh; those of all processes if None.

    Raises:
        TypeError: anything but a list of devices.
        ValueError: no devices, one twice, or a number of them that ``model`` does not divide.

    Example:
        >>> from lstm_jax.training import device_mesh
        >>> device_mesh(1).axis_names
        ('data', 'model')
    """
    require_positive_int("model", model)
    flat = data_mesh(devices).devices
    if flat.size % model:
        raise ValueError(
            f"Device mismatch: expected a number of devices that model={model} divides, got {flat.size}."
        )
    return Mesh(flat.reshape(-1, model), (DATA, MODEL))


def in_context(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """The context in which a loop finds the axes over which samples and units are spread."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def parts_here(mesh: Mesh) -> int:
    """Into how many parts the samples of this process are cut."""
    mine = np.isin([device.id for device in mesh.devices.flat], [d.id for d in mesh.local_devices])
    axis = mesh.axis_names.index(DATA)
    return len(set(np.argwhere(mine.reshape(mesh.devices.shape))[:, axis].tolist()))


def placed(tree: PyTree, shardings: PyTree) -> PyTree:
    """Shard values that are complete in every process."""

    def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, tree, shardings)
