"""Whether NVIDIA's kernel computes what the loop computes: one look in a process, on a small LSTM."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.array_types import Array
from lstm_jax.backends.cudnn.kernel_derivatives import unroll_by_cudnn, unroll_by_loop
from lstm_jax.cells.lstm import LSTMParams, LSTMState, lstm
from lstm_jax.jax_extensions.matmul_precision import at_precision

AGREEMENT = 1e-4
"""Largest difference from the loop, over the largest number of an array; JAX's emulation on a CPU is within
1e-6."""


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

    def everything(run: Callable[..., Any], inputs: Any, lengths: Array, ways_back: Any) -> Any:
        out, pull = jax.vjp(lambda *inputs: run(layers, *inputs, lengths), *inputs)
        return out, [pull(way) for way in ways_back]

    def off(a: Any, b: Any) -> float:
        return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))

    in_full = jax.jit(at_precision(everything, "float32"), static_argnums=0)
    found, expected = (
        jax.device_get(in_full(run, (params, xs, states), lengths, ways_back))
        for run in (unroll_by_cudnn, by_loop)
    )
    return float(np.max(jax.tree.leaves(jax.tree.map(off, found, expected))))  # NaN if one is
