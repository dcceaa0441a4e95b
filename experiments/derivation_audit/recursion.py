r"""Derivation 2: one recursion for δh by ∂h_{t+1}/∂h_t, and a separate one for δC.

Published, with ΔC_{t+1} = o_{t+1} ⊙ (1 − tanh² C_{t+1}) and ∂h_{t+1}/∂h_t a sum over the four gates:

    δh_t ≟ Vᵀ(ŷ_t − y_t) + (∂h_{t+1}/∂h_t)ᵀ δh_{t+1}
    δC_t = δC_{t+1} ⊙ f_{t+1} + δh_t ⊙ ΔC_t

The state is the pair (h, C), and its step Jacobian has four blocks. Take for C the part δC⁻_t of its
cotangent that comes from later steps alone, δC_t = δC⁻_t + δh_t ⊙ ΔC_t. Back through the pair:

    δh_t   = Vᵀ(ŷ_t − y_t) + (∂h_{t+1}/∂h_t)ᵀ δh_{t+1} + (∂C_{t+1}/∂h_t)ᵀ δC⁻_{t+1}
    δC⁻_t  =                 (∂h_{t+1}/∂C_t)ᵀ δh_{t+1} + (∂C_{t+1}/∂C_t)ᵀ δC⁻_{t+1} = f_{t+1} ⊙ δC_{t+1}

Three of the four blocks are carried. The one left out is ∂C_{t+1}/∂h_t on what comes back along the memory,

    Σ_{a = i, f, g} (f_{t+2} ⊙ δC_{t+2} ⊙ ∂C_{t+1}/∂z_a) W_haᵀ

the way h_t → C_{t+1} → C_{t+2} → h_{t+2}, which never touches h_{t+1}. It takes two steps: right at lags 0
and 1, wrong from lag 2 on. What is left out is what an LSTM is for.
"""

from typing import Any

import numpy as np

from experiments.derivation_audit.plain_lstm import (
    INTO_MEMORY,
    Weights,
    contributions,
    forward,
    logit_cotangents,
    through,
)
from lstm_jax import LSTMState


def published(params: Weights, state0: LSTMState, xs: dict[str, Any]) -> Weights:
    """The two recursions as they are printed."""
    return _backward(params, state0, xs, along_the_memory=False)


def corrected(params: Weights, state0: LSTMState, xs: dict[str, Any]) -> Weights:
    """The two recursions with the fourth block."""
    return _backward(params, state0, xs, along_the_memory=True)


def _backward(
    params: Weights, state0: LSTMState, xs: dict[str, Any], *, along_the_memory: bool
) -> Weights:
    residuals = forward(params, state0, xs)
    d_logits = logit_cotangents(params, residuals, xs)
    d_h = d_logits @ np.asarray(params.v).T
    d_c = np.zeros_like(d_h)
    length = len(d_h)
    for t in reversed(range(length)):
        if t + 1 < length:
            # (∂h_{t+1}/∂h_t)ᵀ δh_{t+1}, over the four gates
            to_memory = d_h[t + 1] * residuals.h_c[t + 1]
            d_z = {a: to_memory * residuals.c_z[a][t + 1] for a in INTO_MEMORY}
            d_h[t] += through(params, d_z | {"o": d_h[t + 1] * residuals.h_o[t + 1]})
        if along_the_memory and t + 2 < length:
            later = residuals.f[t + 2] * d_c[t + 2]
            d_h[t] += through(params, {a: later * residuals.c_z[a][t + 1] for a in INTO_MEMORY})
        d_c[t] = d_h[t] * residuals.h_c[t]
        if t + 1 < length:
            d_c[t] += d_c[t + 1] * residuals.f[t + 1]
    d_z = {a: d_c * residuals.c_z[a] for a in INTO_MEMORY} | {"o": d_h * residuals.h_o}
    return contributions(residuals, d_z, d_h, d_c, d_logits)
