"""Products of many Jacobians multiplied out in mpmath, where no digit is lost, and their norms."""

import jax
import mpmath
import numpy as np
from mpmath import mp

DIGITS = 400


def exact(array):
    """A float array as an mpmath matrix, without rounding."""
    return mpmath.matrix(np.atleast_2d(np.asarray(array, np.float64)).tolist())


def product(factors):
    """factors[-1] @ … @ factors[0] with all their digits."""
    with mp.workdps(DIGITS):
        result = mpmath.eye(len(factors[0]))
        for factor in factors:
            result = exact(factor) * result
        return result


def log_singular_values(matrix):
    """Natural logs, falling."""
    with mp.workdps(DIGITS):
        values = mp.svd_r(matrix, compute_uv=False)
        return np.array([float(mpmath.log(v)) if v > 0 else -np.inf for v in values])


def lstm_matrices(cell, params, states, xs, lag):
    """The named matrices of P_{T,T−lag} for an LSTM, from its float Jacobians: ``{name: matrix}``."""
    length, size = xs.shape[0], cell.hidden_size
    dense, h_c = [], []
    for n in range(length - lag, length):
        state = jax.tree.map(lambda s, n=n: s[n], states)
        jacobian = cell.step_jacobian(params, state, xs[n])
        lines = [[np.diag(b) if b.ndim == 1 else np.asarray(b) for b in line] for line in jacobian]
        dense.append(np.block(lines))
        # h_n = o tanh C_n, so that o is h over tanh C.
        c = np.asarray(state.c, np.float64)
        o = np.asarray(
            cell.gates(params, jax.tree.map(lambda s, n=n: s[n - 1], states), xs[n - 1])["o"]
        )
        h_c.append(o * (1 - np.tanh(c) ** 2))
    with mp.workdps(DIGITS):
        whole = product(dense)
        h, c = slice(0, size), slice(size, 2 * size)
        d = mpmath.diag(h_c[0].tolist())
        chain = mpmath.eye(size)
        for jacobian, d_j in zip(dense, h_c, strict=True):
            chain = (
                exact(jacobian[c, h]) * mpmath.diag(d_j.tolist()) + exact(jacobian[c, c])
            ) * chain
        return {
            "ss": whole,
            "hh": whole[h, h],
            "hc": whole[h, c],
            "ch": whole[c, h],
            "cc": whole[c, c],
            "total_c": whole[c, h] * d + whole[c, c],
            "chain_c": chain,
        }
