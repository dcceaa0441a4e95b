r"""Derivation 1: dC_t/dC_k as the product of one-step derivatives, each with o constant.

Published, with h_j = o_j ⊙ tanh C_j following C_j:

    dC_t/dC_k ≟ ∏ ∂C_{j+1}/∂C_j,    ∂C_{j+1}/∂C_j = diag(f_{j+1}) + A_{j+1} diag(o_j ⊙ (1 − tanh² C_j))

with A_{j+1} = ∂C_{j+1}/∂h_j, through the gates i, f, g. Turned into a recursion for the loss ℓ(C_T):

    δh_k ≟ Σ_{a = i, f, g} δz_{a,k+1} W_haᵀ         δC_k = δC_{k+1} ⊙ f_{k+1} + δh_k ⊙ o_k ⊙ (1 − tanh² C_k)

This leaves out that h_k moves the *output gate* of step k + 1 too, and through it h_{k+1}:

    δh_k = … + δz_{o,k+1} W_hoᵀ                 δz_{o,k+1} = δh_{k+1} ⊙ tanh C_{k+1} ⊙ o(1−o)

With a loss on C_T the term is zero at lag 1, because nothing reads h_T; from lag 2 on it is not.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.derivation_audit.plain_lstm import (
    INTO_MEMORY,
    Residuals,
    Weights,
    contributions,
    forward,
    through,
)
from lstm_jax import LSTMState
from lstm_jax.array_types import Array


def loss(params: Weights, state: LSTMState, x: dict[str, Array]) -> Array:
    """ℓ(C_T) = Σ C_T ⊙ r, so that the gradient of e_C at step k is the transposed dC_T/dC_k times r."""
    return jnp.sum(state.c * x["r"])


def published(params: Weights, state0: LSTMState, xs: dict[str, Any]) -> Weights:
    """The product, as a recursion."""
    return _backward(params, state0, xs, output_gate=False)


def corrected(params: Weights, state0: LSTMState, xs: dict[str, Any]) -> Weights:
    """The product with the path through the output gate."""
    return _backward(params, state0, xs, output_gate=True)


def _backward(
    params: Weights, state0: LSTMState, xs: dict[str, Any], *, output_gate: bool
) -> Weights:
    residuals = forward(params, state0, xs)
    d_h, d_c = np.zeros_like(residuals.h), np.zeros_like(residuals.c)
    d_c[-1] = np.asarray(xs["r"])[-1]
    for k in reversed(range(len(d_c) - 1)):
        d_h[k] = through(params, {a: d_c[k + 1] * residuals.c_z[a][k + 1] for a in INTO_MEMORY})
        if output_gate:
            d_h[k] += through(params, {"o": d_h[k + 1] * residuals.h_o[k + 1]})
        d_c[k] = d_c[k + 1] * residuals.f[k + 1] + d_h[k] * residuals.h_c[k]
    d_z = {a: d_c * residuals.c_z[a] for a in INTO_MEMORY} | {"o": d_h * residuals.h_o}
    return contributions(residuals, d_z, d_h, d_c)


def product_errors(params: Weights, residuals: Residuals) -> np.ndarray:
    """‖∏ ∂C_{j+1}/∂C_j − dC_T/dC_{T−lag}‖ / ‖dC_T/dC_{T−lag}‖ in the Frobenius norm, for lags 1 … T − 1.

    Args:
        params: of the network.
        residuals: the forward pass of one sample, [T, 1, H].
    """
    length, size = len(residuals.h), residuals.h.shape[-1]

    def row(per_unit: np.ndarray) -> np.ndarray:
        return per_unit[0][:, None]

    def w(gate: str) -> np.ndarray:
        return np.asarray(getattr(params, gate).w_h).T

    product = np.eye(size)
    by_h, by_c = np.zeros((size, size)), np.eye(size)  # of C_T by h_k and by C_k held apart
    errors = []
    for k in reversed(range(length - 1)):
        a = sum(row(residuals.c_z[g][k + 1]) * w(g) for g in INTO_MEMORY)
        f, h_c_next = np.diag(residuals.f[k + 1][0]), row(residuals.h_c[k + 1])
        h_by_h = row(residuals.h_o[k + 1]) * w("o") + h_c_next * a
        by_h, by_c = by_h @ h_by_h + by_c @ a, (by_h * h_c_next.T + by_c) @ f
        follows = np.diag(residuals.h_c[k][0])
        product = product @ (f + a @ follows)
        total = by_c + by_h @ follows
        errors.append(np.linalg.norm(product - total) / np.linalg.norm(total))
    return np.array(errors)
