"""When NVIDIA's kernel (`lstm_jax.backends.cudnn.kernel_derivatives`) runs an LSTM: what it knows, and when
``gradient="auto"`` takes it.

``gradient="cudnn"`` refuses by name what the kernel does not know. ``gradient="auto"`` takes the kernel where
all of these hold, and else the loop, which computes the same numbers to rounding:

    device      CUDA with cuDNN
    settings    JAX, when it traces the function, is set to a precision of matrix products that cuDNN has, and
                not to look for NaN (the kernel's notes may look like it)
    layers      standard LSTMs in float32, of one size, each in the same directions
    options     lengths and reverse alone; ``unroll`` or ``segments`` given ask for the loop
    steps       more than the loop takes in one iteration
    one device  a kernel cannot be split: with several devices, or a mesh set, only inside of `jax.shard_map`
                over all of its axes; and one process, because each looks at its own device
    memory      its notes take no more than a sixteenth of what JAX may use of the device's
    agreement   on a small LSTM, in full single precision, it computed what the loop did, on the device on
                which JAX computes unless told otherwise and in this process
"""

import warnings
from functools import cache

import jax

from lstm_jax.array_types import Array
from lstm_jax.backends.cudnn.agreement import objection
from lstm_jax.backends.cudnn.conditions import device_refusal, precision_refusal, refusal
from lstm_jax.backends.cudnn.kernel_call import Kernel, Layers, notes_size
from lstm_jax.jax_extensions.matmul_precision import default_precision
from lstm_jax.time_loop.scan import GPU, device_here, divisor_near

NOTES_SHARE = 1 / 16
"""Of the memory that JAX may use, for the notes of one call; a network may make several."""


def auto_takes_kernel(layers: Layers, xs: Array) -> bool:
    """Whether ``gradient="auto"`` takes the kernel, as far as device, layers and memory go.

    Args:
        layers: their cells.
        xs: [T, D] or [T, B, D].
    """
    if device_refusal() or refusal(layers, xs.dtype) or precision_refusal():
        return False
    looks_for_nan = jax.config.jax_debug_nans or jax.config.jax_debug_infs  # type: ignore[attr-defined]
    no_loop = divisor_near(len(xs), GPU.steps) == len(xs)
    if looks_for_nan or no_loop or not _stays_whole():
        return False
    device = device_here()
    if (reason := objection(device)) is not None:
        _warn_once(reason)
        return False
    return _notes_fit(layers, xs, device)


@cache
def _warn_once(reason: str) -> None:
    warnings.warn(f'{reason}; gradient="auto" takes the loop.', RuntimeWarning, stacklevel=4)


def _stays_whole() -> bool:
    """Whether JAX will not split what is traced here over devices."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.axis_names:
        alone = set(mesh.manual_axes) == set(mesh.axis_names)
    else:
        alone = jax.device_count() == 1
    return alone and jax.process_count() == 1


def _notes_fit(layers: Layers, xs: Array, device: jax.Device) -> bool:
    kernel = Kernel(layers, default_precision(), whole=True, or_loop=True)
    notes = notes_size(kernel, len(xs), xs.shape[1] if xs.ndim == 3 else 1)
    return 4 * notes <= NOTES_SHARE * _memory(device)


def _memory(device: jax.Device) -> float:
    """Bytes that JAX may use of it; no limit where its allocator does not count."""
    try:
        known = device.memory_stats() or {}
    except jax.errors.JaxRuntimeError:
        known = {}
    return known.get("bytes_limit", float("inf"))
