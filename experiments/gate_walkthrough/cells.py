r"""The classroom's cell with step gates, and the weights that it shares with the library's.

    classroom   i, f, o = 1[z > 0];  g = z_g;        C_t = f C_{t−1} + i g;   h_t = o C_t

with z_t = x_t W_x: no recurrent weights, and the bias is the weight of an input that is always 1.

Axes: x[4] over (x_1, x_2, x_3, 1), w_x[4, 4H] with H = 1.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lstm_jax import LSTMParams, LSTMState
from lstm_jax.array_types import Array

WEIGHTS = {
    "g": (1, 0, 0, 0),  # the candidate is x_1
    "i": (0, 100, 0, -10),  # written where x_2 = 1
    "o": (0, 0, 100, -10),  # read where x_3 = 1
    "f": (0, 100, 0, 10),  # kept unless x_2 = −1
}


class Trace(NamedTuple):
    """Every quantity of a run over T steps, each [T]; ``before`` is C_{t−1} and ``c`` is C_t."""

    g: Any
    i: Any
    f: Any
    o: Any
    before: Any
    c: Any
    h: Any


def stacked(order: str) -> LSTMParams:
    """Parameters with the rows of the four gates stacked in ``order``, for a cell with H = 1.

    Args:
        order: the letters i, f, g, o in the order in which the columns of ``w_x`` are filled.

    Returns:
        ``w_x[4, 4]``, ``w_h[1, 4]`` and ``b[4]``; the last two are zero.
    """
    w_x = jnp.asarray(np.array([WEIGHTS[gate] for gate in order], dtype=float).T)
    return LSTMParams(w_x=w_x, w_h=jnp.zeros((1, 4), w_x.dtype), b=jnp.zeros(4, w_x.dtype))


def hard_step(params: LSTMParams, state: LSTMState, x: Array) -> tuple[LSTMState, Trace]:
    """One step with gates that are 0 or 1 and no squashing; reads its columns as i, f, g, o.

    Args:
        params: ``w_x[4, 4]``.
        state: ``h[1]`` and ``c[1]``.
        x: [4].

    Returns:
        The state, and everything worth looking at as a `Trace` of [1] arrays.
    """
    z_i, z_f, g, z_o = jnp.split(x @ params.w_x, 4)
    i, f, o = ((z > 0).astype(z.dtype) for z in (z_i, z_f, z_o))
    c = f * state.c + i * g
    h = o * c
    return LSTMState(h, c), Trace(g=g, i=i, f=f, o=o, before=state.c, c=c, h=h)
