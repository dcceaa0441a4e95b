r"""Derivation 3: a word-level LSTM with a softmax, and two misplaced activation derivatives.

Published, the rest of the backward pass being right:

    δlogits_t ≟ (ŷ_t − y_t) ⊙ ŷ_t ⊙ (1 − ŷ_t)         a sigmoid's derivative, of an output that has no sigmoid
    δz_g      ≟ δC_t ⊙ i ⊙ (1 − tanh² g)              tanh′ written for the raw value, given the activated one
    δC_t      = … + δh_t ⊙ o ⊙ (1 − tanh² C_t)        tanh′ of the raw value: right

Cross-entropy and softmax together have the derivative ŷ − y; the softmax's own derivative is in it already.
And g = tanh z_g is activated, so that tanh′(z_g) = 1 − g², while C_t is raw, so that tanh′ = 1 − tanh² C_t:

    δlogits_t = ŷ_t − y_t                             δz_g = δC_t ⊙ i ⊙ (1 − g²)

The first fault spoils every leaf from lag 0 on. The second spoils g alone at lag 0, and the others from
lag 1 on, because δz_g is what goes back through W_hg; the output layer it does not touch.
"""

from functools import partial
from typing import Any

import numpy as np

from experiments.derivation_audit.plain_lstm import (
    INTO_MEMORY,
    Weights,
    contributions,
    forward,
    logit_cotangents,
    probabilities,
    through,
)
from lstm_jax import LSTMState


def backward(
    params: Weights,
    state0: LSTMState,
    xs: dict[str, Any],
    *,
    sigmoid_derivative: bool,
    tanh_twice: bool,
) -> Weights:
    """The backward pass with either fault, with both or with none."""
    residuals = forward(params, state0, xs)
    d_logits = logit_cotangents(params, residuals, xs)
    if sigmoid_derivative:
        shown = probabilities(params, residuals)
        d_logits = d_logits * shown * (1 - shown)
    slope_of_g = 1 - np.tanh(residuals.g) ** 2 if tanh_twice else 1 - residuals.g**2
    c_z = residuals.c_z | {"g": residuals.i * slope_of_g}
    d_h = d_logits @ np.asarray(params.v).T
    d_c = np.zeros_like(d_h)
    length = len(d_h)
    for t in reversed(range(length)):
        if t + 1 < length:
            d_z = {a: d_c[t + 1] * c_z[a][t + 1] for a in INTO_MEMORY}
            d_h[t] += through(params, d_z | {"o": d_h[t + 1] * residuals.h_o[t + 1]})
            d_c[t] = d_c[t + 1] * residuals.f[t + 1]
        d_c[t] += d_h[t] * residuals.h_c[t]
    d_z = {a: d_c * c_z[a] for a in INTO_MEMORY} | {"o": d_h * residuals.h_o}
    return contributions(residuals, d_z, d_h, d_c, d_logits)


published = partial(backward, sigmoid_derivative=True, tanh_twice=True)
without_the_sigmoid = partial(backward, sigmoid_derivative=False, tanh_twice=True)
without_the_second_tanh = partial(backward, sigmoid_derivative=True, tanh_twice=False)
corrected = partial(backward, sigmoid_derivative=False, tanh_twice=False)
