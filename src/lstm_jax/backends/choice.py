"""Who computes a network: the loop in XLA or NVIDIA's kernel, and what ``backend="auto"`` asks of the kernel.

``backend="cudnn"`` refuses by name what the kernel cannot run. ``backend="auto"`` takes the kernel where all
of these hold, and else the loop, which computes the same numbers to rounding:

    device      CUDA with cuDNN
    gradient    "bptt" or "auto"; autodiff differentiates the loop
    settings    JAX, when it traces the function, is set to a precision of matrix products that cuDNN has, and
                not to look for NaN (the kernel's workspace may look like it)
    layers      standard LSTMs in float32, of one size, each in the same directions
    options     lengths and reverse alone
    steps       more than the loop takes in one iteration
    one device  a kernel cannot be split: with several devices, or a mesh set, only inside of `jax.shard_map`
                over all of its axes; and one process, because each looks at its own device
    memory      its workspace takes no more than a sixteenth of what JAX may use of the device's
    agreement   on a small LSTM, in full single precision, it computed what the loop did, on the device on
                which JAX computes unless told otherwise and in this process
"""

import warnings
from functools import cache
from typing import Any, NamedTuple

import jax

from lstm_jax.backends.cudnn import agreement, conditions
from lstm_jax.backends.cudnn.kernel_call import Kernel, Layers, workspace_size
from lstm_jax.backends.loop import Loop
from lstm_jax.jax_extensions.matmul_precision import default_precision
from lstm_jax.time_loop.scan import GPU, device_here, divisor_near
from lstm_jax.time_loop.step_masks import StepMasks
from lstm_jax.validation import require_one_of

GRADIENTS = ("auto", "bptt", "autodiff")
BACKENDS = ("auto", "loop", "cudnn")

WORKSPACE_SHARE = 1 / 16
"""Of the memory that JAX may use, for the workspace of one call; a network may make several."""


class Choice(NamedTuple):
    """Who computes a network.

    Attributes:
        kernel: whether NVIDIA's kernel does; else the loop.
        or_loop: whether the loop takes over where the kernel is not there, as `Kernel` has it.
        loop: settings of the loop.
    """

    kernel: bool
    or_loop: bool
    loop: Loop


def check_choice(gradient: Any, backend: Any) -> None:
    """Refuse what is neither a gradient nor a backend, or a pair that does not fit.

    Raises:
        ValueError: with what was expected and what came.
    """
    require_one_of("gradient", gradient, GRADIENTS)
    if not isinstance(backend, Loop):
        require_one_of("backend", backend, (*BACKENDS, "lstm_jax.Loop(...)"))
    if backend == "cudnn" and gradient == "autodiff":
        raise ValueError(
            'Option mismatch: expected gradient="auto" or "bptt" with backend="cudnn", got "autodiff". '
            "The kernel has its own backward pass."
        )


def choose(
    gradient: str, backend: str | Loop, layers: Layers, inputs: Any, masks: StepMasks
) -> Choice:
    """Who computes these layers.

    Args:
        gradient: ``"auto"``, ``"bptt"`` or ``"autodiff"``.
        backend: ``"auto"``, ``"loop"``, ``"cudnn"`` or a `Loop`.
        layers: their cells.
        inputs: the type of the inputs, [T, D] or [T, B, D]: their shape and dtype.
        masks: what happens to the state between steps.

    Raises:
        ValueError: ``"cudnn"`` for what its kernel cannot run, with the reason.
    """
    loop = backend if isinstance(backend, Loop) else Loop()
    if backend == "cudnn":
        conditions.require_cudnn(layers, inputs.dtype, masks)
        return Choice(kernel=True, or_loop=False, loop=loop)
    kernel = (
        backend == "auto"
        and gradient != "autodiff"
        and not conditions.unsupported_mask(masks)
        and _auto_takes_kernel(layers, inputs)
    )
    return Choice(kernel, or_loop=True, loop=loop)


def _auto_takes_kernel(layers: Layers, inputs: Any) -> bool:
    """Whether ``backend="auto"`` takes the kernel, as far as device, layers and memory go."""
    reason = (
        conditions.device_refusal()
        or conditions.refusal(layers, inputs.dtype)
        or conditions.precision_refusal()
    )
    if reason:
        return False
    looks_for_nan = jax.config.jax_debug_nans or jax.config.jax_debug_infs  # type: ignore[attr-defined]
    no_loop = divisor_near(inputs.shape[0], GPU.steps) == inputs.shape[0]
    if looks_for_nan or no_loop or not _stays_whole():
        return False
    device = device_here()
    if (reason := agreement.objection(device)) is not None:
        _warn_once(reason)
        return False
    return _workspace_fits(layers, inputs, device)


@cache
def _warn_once(reason: str) -> None:
    warnings.warn(f'{reason}; backend="auto" takes the loop.', RuntimeWarning, stacklevel=4)


def _stays_whole() -> bool:
    """Whether JAX will not split what is traced here over devices."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.axis_names:
        alone = set(mesh.manual_axes) == set(mesh.axis_names)
    else:
        alone = jax.device_count() == 1
    return alone and jax.process_count() == 1


def _workspace_fits(layers: Layers, inputs: Any, device: jax.Device) -> bool:
    kernel = Kernel(layers, default_precision(), whole=True, or_loop=True)
    numbers = workspace_size(kernel, inputs.shape[0], inputs.shape[1] if inputs.ndim == 3 else 1)
    return 4 * numbers <= WORKSPACE_SHARE * _memory(device)


def _memory(device: jax.Device) -> float:
    """Bytes that JAX may use of it; no limit where its allocator does not count."""
    try:
        known = device.memory_stats() or {}
    except jax.errors.JaxRuntimeError:
        known = {}
    return known.get("bytes_limit", float("inf"))
