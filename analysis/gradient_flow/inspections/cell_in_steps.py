r"""Single units of an LSTM step by step, forward and backward: what the picture of the cell shows.

Forward the equations, backward those of back-propagation through time, in float64, for one sample and the
loss ½ ‖h_T‖²:

    δh_t = δz_{t+1} W_hᵀ (δh_T = h_T)        δC_t = δC_{t+1} ⊙ f_{t+1} + δh_t ⊙ o_t ⊙ (1 − tanh² C_t)
"""

from typing import Any

import numpy as np

from lstm_jax.array_types import PyTree
from lstm_jax.cells import Cell
from lstm_jax.cells.lstm import RULE

UNITS, STEPS = 8, 60
"""Units that are shown, and the last steps."""
FORWARD = ("z_i", "z_f", "z_g", "z_o", "i", "f", "g", "o", "c_before", "c", "tanh_c", "h")
BACKWARD = ("d_h", "d_c", "d_z_i", "d_z_f", "d_z_g", "d_z_o")


def cell_in_steps(cell: Cell, params: PyTree, state0: PyTree, xs: Any) -> dict[str, np.ndarray]:
    """Activations and cotangents of some units over the last steps.

    Args:
        cell: the standard `lstm_jax.lstm`; any other gives no numbers.
        params: of the cell.
        state0: the starting state, [H] each.
        xs: [T, D].

    Returns:
        ``i f g o z_i z_f z_g z_o c c_before tanh_c h`` and the total cotangents ``d_h d_c d_z_i d_z_f d_z_g
        d_z_o``, [steps, units] each; ``units`` [units], those with the largest cotangent of C in the first
        of these steps; ``steps`` [steps], counted from 1. Empty for another cell.
    """
    if cell.rule is not RULE:
        return {}
    w_x, w_h, b = (np.asarray(one, np.float64) for one in (params.w_x, params.w_h, params.b))
    h, c = (np.asarray(one, np.float64) for one in (state0.h, state0.c))
    rows = []
    for x in np.asarray(xs, np.float64):
        z = np.split(x @ w_x + h @ w_h + b, 4)
        i, f, o = (0.5 * (1 + np.tanh(0.5 * z[n])) for n in (0, 1, 3))
        g, before = np.tanh(z[2]), c
        c = f * c + i * g
        h = o * np.tanh(c)
        rows.append(np.stack([*z, i, f, g, o, before, c, np.tanh(c), h]))
    found = dict(zip(FORWARD, np.stack(rows, axis=1), strict=True))
    back, d_h, d_c_after = [], h, np.zeros_like(c)
    for t in reversed(range(len(rows))):
        i, f, g, o, before, tanh_c = (
            found[name][t] for name in ("i", "f", "g", "o", "c_before", "tanh_c")
        )
        d_c = d_c_after + d_h * o * (1 - tanh_c**2)
        d_z_i, d_z_f, d_z_g = (
            d_c * g * i * (1 - i),
            d_c * before * f * (1 - f),
            d_c * i * (1 - g**2),
        )
        d_z = (d_z_i, d_z_f, d_z_g, d_h * tanh_c * o * (1 - o))
        back.append(np.stack([d_h, d_c, *d_z]))
        d_h, d_c_after = np.concatenate(d_z) @ w_h.T, d_c * f
    found |= dict(zip(BACKWARD, np.stack(back[::-1], axis=1), strict=True))
    first = max(len(rows) - STEPS, 0)
    units = np.sort(np.argsort(-np.abs(found["d_c"][first]), kind="stable")[:UNITS])
    shown = {name: values[first:, units] for name, values in found.items()}
    return shown | {"units": units, "steps": np.arange(first + 1, len(rows) + 1)}
