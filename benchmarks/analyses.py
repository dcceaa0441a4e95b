"""Time analyses of large networks: many units, or many steps.

python benchmarks/analyses.py [a part of a name …]
"""

import sys
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp

import gradient_flow
import lstm_jax

KEY = jax.random.key(0)


def problem(cell: lstm_jax.Cell, length: int, *trials: int) -> tuple[Any, ...]:
    """The cell with fresh weights, from a state of zeros, over noise."""
    xs = jax.random.normal(jax.random.key(1), (length, *trials, cell.input_size))
    return cell, cell.init(KEY), None, xs


def gru(function: Callable[..., Any], *trials: int, **options: Any) -> Any:
    """An analysis of a GRU of 512 units over 600 steps, in so many trials at once."""
    return function(*problem(lstm_jax.gru(64, 512), 600, *trials), **options)


def chrono(function: Callable[..., Any], size: int, length: int, *more: Any, **options: Any) -> Any:
    """An analysis of an LSTM with chrono initialisation for the length of its sequence."""
    cell = lstm_jax.lstm(64, size, forget_bias=lstm_jax.chrono(length))
    return function(*problem(cell, length), *more, **options)


def probes(size: int) -> Any:
    """Norms of ∂C_t/∂C_k at five lags, and the spectral one at the longest."""
    lags = [1, 10, 100, 300, 499]
    options = dict(block="cc", lags=lags, spectral_lags=[499])
    return chrono(gradient_flow.probe_norms, size, 500, KEY, **options)


def last(hs: jax.Array) -> jax.Array:
    """A loss of the last output alone."""
    return jnp.sum(hs[-1])


LONG = 10_000
MEASUREMENTS: dict[str, Callable[[], Any]] = {
    "lyapunov, GRU-512, 600 steps, all": lambda: gru(gradient_flow.lyapunov_spectrum),
    "lyapunov, GRU-512, 600 steps, ten": lambda: gru(gradient_flow.lyapunov_spectrum, k=10),
    "lyapunov, GRU-512, 600 steps, all, 100 trials": lambda: gru(
        gradient_flow.lyapunov_spectrum, 100
    ),
    "probes, LSTM-1024, 500 steps": lambda: probes(1024),
    "probes, LSTM-4096, 500 steps": lambda: probes(4096),
    "norms, LSTM-64, 10,000 steps": lambda: chrono(gradient_flow.jacobian_norms, 64, LONG),
    "credit, LSTM-64, 10,000 steps": lambda: chrono(gradient_flow.credit, 64, LONG, last),
    "step_gain, LSTM-64, 10,000 steps": lambda: chrono(gradient_flow.step_gain, 64, LONG),
    "detours, LSTM-64, 10,000 steps, five lags": lambda: chrono(
        gradient_flow.detour_norms, 64, LONG, lags=[1, 10, 100, 1000, 9999]
    ),
}


def seconds(function: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = perf_counter()
    jax.block_until_ready([leaf for leaf in jax.tree.leaves(function()) if hasattr(leaf, "dtype")])
    return perf_counter() - start


def main(arguments: Sequence[str]) -> None:
    """Print the seconds of a first call, which compiles, and of a second one if the first was short."""
    chosen = [n for n in MEASUREMENTS if not arguments or any(a in n for a in arguments)]
    if not chosen:
        sys.exit(f"expected a part of one of: {'; '.join(MEASUREMENTS)}")
    print(f"{'seconds':46} {'first':>7} {'second':>7}")
    for name in chosen:
        first = seconds(MEASUREMENTS[name])
        second = f"{seconds(MEASUREMENTS[name]):.2f}" if first < 60 else "-"
        print(f"{name:46} {first:7.1f} {second:>7}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
