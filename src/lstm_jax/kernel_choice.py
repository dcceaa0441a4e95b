"""When NVIDIA's kernel (`lstm_jax.cudnn`) runs an LSTM: what it knows, and when ``gradient="auto"`` takes it.

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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.array_types import Array
from lstm_jax.cells.lstm import RULE, LSTMParams, LSTMState, lstm, step
from lstm_jax.cudnn import (
    PRECISIONS,
    Kernel,
    Layers,
    notes_size,
    unroll_by_cudnn,
    unroll_by_loop,
)
from lstm_jax.loop import GPU, device_here, divisor_near, platform_name
from lstm_jax.marks import Marks
from lstm_jax.precision import default_precision

NOTES_SHARE = 1 / 16
"""Of the memory that JAX may use, for the notes of one call; a network may make several."""
AGREEMENT = 1e-4
"""Largest difference from the loop, over the largest number of an array; JAX's emulation on a CPU is within
1e-6."""


def refusal(layers: Layers, dtype: Any) -> str | None:
    """Why the kernel cannot run these layers: ``"expected …, got …"``; None if it can.

    It knows the standard LSTM in float32, every layer of the same size and in the same directions.
    """
    cells = [cell for layer in layers for cell in layer]
    for cell in cells:
        if cell.step is not step or cell.rule is not RULE:
            return f"expected the standard LSTM, got {cell}"
    sizes = sorted({cell.hidden_size for cell in cells})
    if len(sizes) > 1:
        return f"expected layers of one hidden size, got {', '.join(map(str, sizes))}"
    if len({len(layer) for layer in layers}) > 1:
        return "expected every layer in one direction or every layer in both, got some of each"
    if dtype != jnp.float32:
        return f"expected float32, got {jnp.dtype(dtype).name}"
    return None


def device_refusal() -> str | None:
    """Why there is no kernel here, likewise: it needs a CUDA device and JAX's plugin for it."""
    platform = platform_name()
    if platform not in ("gpu", "cuda"):
        return f"expected a CUDA device, got {platform}"
    try:
        from jax.experimental import rnn

        known = rnn.gpu_rnn._cuda_rnn is not None
    except (ImportError, AttributeError):
        known = False
    return None if known else "expected JAX's CUDA plugin with cuDNN, got a GPU without it"


def precision_refusal() -> str | None:
    """Why its products cannot have the precision that JAX is set to, likewise."""
    if (precision := default_precision()) in PRECISIONS:
        return None
    return (
        'expected a default matmul precision of "float32", "tensorfloat32" or None, got '
        f"{precision!r}"
    )


def require_cudnn(layers: Layers, dtype: Any, marks: Marks) -> None:
    """Refuse what NVIDIA's kernel does not know.

    Raises:
        ValueError: with what was expected and what came.
    """
    reason = refusal(layers, dtype) or device_refusal() or precision_refusal()
    if reason is not None:
        raise ValueError(f'gradient="cudnn" does not fit: {reason}.')
    if name := mark_unknown(marks):
        raise ValueError(f'gradient="cudnn" does not fit: expected lengths alone, got {name}.')


def mark_unknown(marks: Marks) -> str | None:
    """What happens to the state between steps that the kernel does not know, by its name in `unroll`."""
    names = ("resets", "truncate", "zoneout", "recurrent_dropout")
    given = (marks.reset, marks.cut, marks.held, marks.factor)
    return next((n for n, mark in zip(names, given, strict=True) if mark is not None), None)


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


@cache
def objection(device: jax.Device) -> str | None:
    """What is wrong with the kernel on a device: it fails, or it is not what the loop computes; None if fine.

    It is looked at once in a process, on a small LSTM.
    """

    def alone() -> float:
        with (
            jax.default_device(device),
            jax.transfer_guard("allow"),
            jax.check_tracer_leaks(False),
        ):
            return disagreement()

    try:
        # A thread of its own has none of the traces, meshes and settings that this is called under.
        with ThreadPoolExecutor(1) as thread:
            off = thread.submit(alone).result()
    except Exception as error:  # whatever a driver or a library has to say
        words = " ".join(str(error).split())[:200]
        return f"On a small LSTM NVIDIA's kernel failed with {type(error).__name__}: {words}"
    if off <= AGREEMENT:
        return None
    return (
        f"On a small LSTM NVIDIA's kernel differs from the hand-derived rule by {off:.1e}, expected at most "
        f"{AGREEMENT:.0e}"
    )


def disagreement() -> float:
    """How far the kernel is from the loop on a small LSTM: outputs, and every gradient of two ways back.

    Two layers in both directions and sequences of different lengths; no number is like another. Two ways back
    because the kernel writes over its notes.

    Returns:
        The largest difference in an array over its largest number, of all arrays.
    """
    layers = tuple((lstm(size, 4), lstm(size, 4)) for size in (3, 8))
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> Array:
        return jnp.asarray(0.7 * rng.standard_normal(shape), jnp.float32)

    params = tuple(
        tuple(LSTMParams(drawn(size, 16), drawn(4, 16), drawn(16)) for _ in range(2))
        for size in (3, 8)
    )
    states = tuple(tuple(LSTMState(drawn(3, 4), drawn(3, 4)) for _ in range(2)) for _ in range(2))
    xs, lengths = drawn(5, 3, 3), jnp.asarray([5, 3, 1], jnp.int32)
    # One step an iteration: in single precision the same, and compiled in a tenth of the time.
    by_loop = partial(unroll_by_loop, unroll=1)
    outputs = jax.eval_shape(partial(by_loop, layers), params, xs, states, lengths)
    ways_back = [jax.tree.map(lambda a: drawn(*a.shape), outputs) for _ in range(2)]

    @partial(jax.jit, static_argnums=0)
    def everything(run: Callable[..., Any], inputs: Any, lengths: Array, ways_back: Any) -> Any:
        out, pull = jax.vjp(lambda *inputs: run(layers, *inputs, lengths), *inputs)
        return out, [pull(way) for way in ways_back]

    def off(a: Any, b: Any) -> float:
        return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))

    with jax.default_matmul_precision("float32"):
        found, expected = (
            jax.device_get(everything(run, (params, xs, states), lengths, ways_back))
            for run in (unroll_by_cudnn, by_loop)
        )
    return float(np.max(jax.tree.leaves(jax.tree.map(off, found, expected))))  # NaN if one is
