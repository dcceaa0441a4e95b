"""The choice of the backend: the loop in XLA or NVIDIA's kernel, and the conditions of ``backend="auto"``.

``backend="cudnn"`` raises an error for a network that the kernel cannot run. ``backend="auto"`` takes the
kernel if all of these hold, and else the loop, which computes the same numbers to rounding:

    device      CUDA with cuDNN
    gradient    "bptt" or "auto"; autodiff differentiates the loop
    settings    when JAX traces the function, its precision of matrix products is one that cuDNN has, and its
                search for NaN is off (the bits of the kernel's workspace may be a NaN)
    layers      standard LSTMs in float32, of one size, each in the same directions
    options     lengths and reverse alone
    steps       more than the loop takes in one iteration
    one device  JAX cannot split a kernel: with several devices, or a mesh set, only inside `jax.shard_map`
                over all of its axes; and one process, because each process checks only its device
    memory      its workspace takes at most a sixteenth of the memory that JAX may use
    agreement   on a small LSTM, in full single precision, it computed the loop's numbers: once in each
                process, on JAX's default device
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
from lstm_jax.validation import is_symbolic, require_one_of

GRADIENTS = ("auto", "bptt", "autodiff")
BACKENDS = ("auto", "loop", "cudnn")

WORKSPACE_SHARE = 1 / 16
"""The part of the memory that JAX may use for the workspace of one call; a network may make several."""


class Choice(NamedTuple):
    """The backend of a network.

    Attributes:
        kernel: whether it is NVIDIA's kernel; else the loop.
        or_loop: whether the loop takes over where there is no kernel, as in `Kernel`.
        loop: settings of the loop.
    """

    kernel: bool
    or_loop: bool
    loop: Loop


def check_choice(gradient: Any, backend: Any) -> None:
    """Refuse an unknown gradient or backend, or a pair that does not fit.

    Raises:
        ValueError: naming the expected and the actual value.
    """
    require_one_of("gradient", gradient, GRADIENTS)
    if not isinstance(backend, Loop):
        require_one_of("backend", backend, (*BACKENDS, "lstm_jax.Loop(...)"))
    if backend == "cudnn" and gradient == "autodiff":
        raise ValueError(
            'Option mismatch: expected gradient="auto" or "bptt" with backend="cudnn", got "autodiff". '
            "With the kernel, the gradient is the kernel's backward pass."
        )


def choose(
    gradient: str, backend: str | Loop, layers: Layers, inputs: Any, masks: StepMasks
) -> Choice:
    """Choose the backend of some layers.

    Args:
        gradient: ``"auto"``, ``"bptt"`` or ``"autodiff"``.
        backend: ``"auto"``, ``"loop"``, ``"cudnn"`` or a `Loop`.
        layers: their cells.
        inputs: the type of the inputs, [T, D] or [T, B, D]: their shape and dtype.
        masks: of every step.

    Raises:
        ValueError: ``"cudnn"`` for layers or masks that its kernel cannot run, with the reason.
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
    """Whether device, settings, layers and memory let ``backend="auto"`` take the kernel."""
    reason = (
        conditions.device_refusal()
        or conditions.refusal(layers, inputs.dtype)
        or conditions.precision_refusal()
    )
    if reason:
        return False
    looks_for_nan = jax.config.jax_debug_nans or jax.config.jax_debug_infs  # type: ignore[attr-defined]
    # All steps in one iteration: XLA then runs no loop, and a kernel saves no launches.
    length = inputs.shape[0]
    no_loop = is_symbolic(length) or divisor_near(length, GPU.steps) == length
    if looks_for_nan or no_loop or not _stays_whole():
        return False
    device = device_here()
    # After the cheap checks, because the first call in a process compiles and runs both backends.
    if (reason := agreement.objection(device)) is not None:
        _warn_once(reason)
        return False
    return _workspace_fits(layers, inputs, device)


@cache
def _warn_once(reason: str) -> None:
    warnings.warn(f'{reason}; backend="auto" takes the loop.', RuntimeWarning, stacklevel=4)


def _stays_whole() -> bool:
    """Whether JAX cannot split the traced computation over devices."""
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
    """The bytes of a device that JAX may use; infinite where its allocator does not count."""
    try:
        known = device.memory_stats() or {}
    except jax.errors.JaxRuntimeError:
        known = {}
    return known.get("bytes_limit", float("inf"))
