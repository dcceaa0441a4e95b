"""Time the backward pass of a GRU: by hand, by serial products, and by an associative scan.

python benchmarks/parallel_in_time.py
"""

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp

import gradient_flow
import lstm_jax

LENGTH, SIZE, REPEATS = 1000, 32, 5


def milliseconds(function: Callable[[], Any]) -> float:
    """The median of some calls after a first one that compiles."""
    jax.block_until_ready(function())
    taken = []
    for _ in range(REPEATS):
        start = perf_counter()
        jax.block_until_ready(function())
        taken.append(perf_counter() - start)
    return 1000 * median(taken)


def main() -> None:
    """Print a line for each form."""
    cell = lstm_jax.gru(3, SIZE)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (LENGTH, 3))
    d_states = jax.tree.map(lambda s: jnp.ones((LENGTH, *s.shape)), cell.initial_state())
    by_hand = milliseconds(lambda: lstm_jax.bptt(cell, params, xs, d_hs=d_states.h))
    print(f"bptt        {by_hand:7.1f} ms")
    for form in ("serial", "parallel"):

        def backward(form: str = form) -> Any:
            return tuple(
                gradient_flow.parallel_cotangents(cell, params, None, xs, d_states, form=form)
            )

        print(f"{form:10}  {milliseconds(backward):7.1f} ms")


if __name__ == "__main__":
    main()
