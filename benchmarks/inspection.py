"""Time ``gradient-flow inspect`` in a process of its own: ``python -m benchmarks.inspection``.

Three LSTM layers of 256 units over 160 steps and 4 samples, the sizes of resemblyzer's, with drawn weights.
Beside the seconds stand those that the products of transitions and step Jacobians would take at the rate of
one large product, and their share. Time nothing else meanwhile.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lstm_jax

INPUTS, HIDDEN, LAYERS, STEPS, SAMPLES = 40, 256, 3, 160, 4
PRODUCT = 2048


def products() -> float:
    """Operations of a transition [2H, 2H] times a step's Jacobian, through the gates, over the whole run."""
    return 16.0 * HIDDEN**3 * STEPS * SAMPLES * LAYERS


def rate() -> float:
    """Operations a second of one large product in XLA, the best of five."""
    a = jax.random.normal(jax.random.key(0), (PRODUCT, PRODUCT))
    square = jax.jit(jnp.matmul)
    square(a, a).block_until_ready()
    seconds = []
    for _ in range(5):
        start = perf_counter()
        square(a, a).block_until_ready()
        seconds.append(perf_counter() - start)
    return 2.0 * PRODUCT**3 / min(seconds)


def main() -> int:
    """Run the command in each of its forms, and print a line for each."""
    sizes = [INPUTS, *[HIDDEN] * (LAYERS - 1)]
    net = lstm_jax.stack(*(lstm_jax.lstm(size, HIDDEN) for size in sizes))
    arrays = lstm_jax.weights.to_pytorch(net, net.init(jax.random.key(0)))
    least = products() / rate()
    print(f"products alone, at the rate of one of {PRODUCT} x {PRODUCT}: {least:.1f} s")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.npz"
        named: dict[str, Any] = {f"lstm.{name}": array for name, array in arrays.items()}
        np.savez(model, **named)
        for words in (["--quick"], []):
            out = Path(folder) / f"run{len(words)}"
            command = [sys.executable, "-m", "gradient_flow", "inspect", str(model), *words]
            command += ["--lag", str(STEPS), "--samples", str(SAMPLES), "--out", str(out)]
            start = perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds = perf_counter() - start
            print(
                f"inspect {' '.join(words) or 'as it is'}: {seconds:.1f} s, products {least / seconds:.0%}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
