r"""A textbook's picture, computed: gates carry one input past others, to two later outputs and no further.

Seven steps. The input gate is open at step 1, the forget gate throughout, the output gate at steps 4 and 6:

    ∂h_t/∂x_{1,k}     how much output t changes with the signal of step k, [7, 7]

Every step has a signal, x_1; it is the gates that let only the first one through.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lstm_jax
from experiments.gate_walkthrough.cells import hard_step, stacked
from lstm_jax import LSTMState
from lstm_jax.array_types import Array

WRITTEN, READ = 1, (4, 6)
"""The step that is written and those that are read, counted from 1."""
SIGNALS = (0.5, -0.4, 0.3, 0.2, -0.3, 0.4, -0.5)


class Carried(NamedTuple):
    """How much each output changes with each signal, [7, 7] over (t, k), and the last memory, [7]."""

    outputs: np.ndarray
    memory: np.ndarray


def signals() -> Array:
    """The seven inputs, xs[7, 4]: x_2 = 1 writes, x_3 = 1 reads."""
    steps = range(1, len(SIGNALS) + 1)
    rows = [
        (signal, float(t == WRITTEN), float(t in READ), 1.0)
        for t, signal in zip(steps, SIGNALS, strict=True)
    ]
    return jnp.asarray(np.array(rows))


def carried() -> dict[str, Carried]:
    """The derivatives of both cells, by autodiff: ``{"hard": …, "soft": …}``."""
    zero = jnp.zeros(1, float)
    found = {}
    for name, step in (("hard", hard_step), ("soft", lstm_jax.lstm(4, 1))):

        def run(xs: Array, step=step) -> tuple[Array, Array]:  # type: ignore[no-untyped-def]
            last, outs = lstm_jax.unroll(step, stacked("ifgo"), xs, LSTMState(zero, zero))
            hs = outs.h if step is hard_step else outs
            return hs[:, 0], last.c[0]

        outputs, memory = jax.jacrev(run)(signals())
        found[name] = Carried(np.asarray(outputs)[..., 0], np.asarray(memory)[..., 0])
    return found
