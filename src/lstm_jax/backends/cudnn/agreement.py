"""Compare NVIDIA's kernel with the loop on a small LSTM, once in each process."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.array_types import Array, shapes_of
from lstm_jax.backends.cudnn.kernel_derivatives import unroll_by_cudnn, unroll_by_loop
from lstm_jax.cells.lstm import LSTMParams, LSTMState, lstm
from lstm_jax.jax_extensions.matmul_precision import at_precision

AGREEMENT = 1e-4
"""Largest difference from the loop, over the largest number of an array; JAX's emulation on a CPU is within
1e-6."""


@cache
def objection(device: jax.Device) -> str | None:
    """Why not to take the kernel on a device: it fails, or it differs from the loop; None if it is right.

    The comparison, on a small LSTM, runs once in a process.
    """

    def compare() -> float:
        with (
            jax.default_device(device),
            jax.transfer_guard("allow"),
            jax.check_tracer_leaks(False),
        ):
            return disagreement()

    try:
        # A new thread is free of the caller's traces, meshes and settings.
        with ThreadPoolExecutor(1) as thread:
            off = thread.submit(compare).result()
    except Exception as error:  # any error of a driver or a library
        words = " ".join(str(error).split())[:200]
        return f"On a small LSTM NVIDIA's kernel failed with {type(error).__name__}: {words}"
    if off <= AGREEMENT:
        return None
    return (
        f"On a small LSTM NVIDIA's kernel differs from the hand-derived rule by {off:.1e}, expected at most "
        f"{AGREEMENT:.0e}"
    )


def disagreement() -> float:
    """The difference of the kernel from the loop on a small LSTM: outputs and gradients.

    Two layers in both directions, sequences of different lengths, random numbers. Two backward passes,
    because the kernel overwrites its workspace in each.

    Returns:
        The largest difference in an array divided by the array's largest number, over all arrays.
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
    # One step per iteration: the same numbers, compiled in a tenth of the time.
    by_loop = partial(unroll_by_loop, unroll=1)
    outputs = shapes_of(partial(by_loop, layers), params, xs, states, lengths)
    cotangents = [jax.tree.map(lambda a: drawn(*a.shape), outputs) for _ in range(2)]

    def outputs_and_gradients(
        run: Callable[..., Any], inputs: Any, lengths: Array, cotangents: Any
    ) -> Any:
        out, pull = jax.vjp(lambda *inputs: run(layers, *inputs, lengths), *inputs)
        return out, [pull(each) for each in cotangents]

    def off(a: Any, b: Any) -> float:
        return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))

    in_full = jax.jit(at_precision(outputs_and_gradients, "float32"), static_argnums=0)
    found, expected = (
        jax.device_get(in_full(run, (params, xs, states), lengths, cotangents))
        for run in (unroll_by_cudnn, by_loop)
    )
    return float(np.max(jax.tree.leaves(jax.tree.map(off, found, expected))))  # NaN if one is
