r"""Derivation 4: two exercises of a widely used notebook, whose printed gradients differ from their code's.

*The cell.* The backward pass through one vanilla cell, a' = tanh(W_ax x + W_aa a + b_a). The listing draws a
bias b and hands the cell the b_a of an earlier exercise. Every formula is right; the numbers are another
network's:

    δz ≟ δa' ⊙ (1 − tanh²(W_ax x + W_aa a + b_a,earlier))                    right with the b_a that was drawn

*The sequence.* The backward pass through an LSTM over four steps, as an older version (v3) of the notebook
has it, starts every step anew with nothing from the step after it:

    δh_t ≟ ∂ℓ_t/∂h_t                        δC_t ≟ δh_t ⊙ o ⊙ (1 − tanh² C_t)
    δh_t = ∂ℓ_t/∂h_t + Σ_a δz_{a,t+1} W_haᵀ      δC_t = δC_{t+1} ⊙ f_{t+1} + δh_t ⊙ o ⊙ (1 − tanh² C_t)

Right at lag 0, and nothing at all from lag 1 on. Carrying only one of the two does not mend it.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

import lstm_jax
from experiments.derivation_audit.plain_lstm import (
    GATES,
    INTO_MEMORY,
    Gate,
    Weights,
    contributions,
    forward,
    through,
)
from experiments.rnn_by_hand.published import CELL_BACKWARD, Printed, cell_problem, draws
from lstm_jax import LSTMState, RNNParams, RNNState
from lstm_jax.array_types import Array

CELL = lstm_jax.rnn(3, 5)

SEQUENCE_BACKWARD = (
    Printed("dx", (1, 2, 0), "-0.00173313"),
    Printed("dx", (1, 2, 1), "0.08287442"),
    Printed("dx", (1, 2, 2), "-0.30545663"),
    Printed("dx", (1, 2, 3), "-0.43281115"),
    Printed("da0", (2, 3), "-0.095911501954"),
    Printed("dWf", (3, 1), "-0.0698198561274"),
    Printed("dWi", (1, 2), "0.102371820249"),
    Printed("dWc", (3, 1), "-0.0624983794927"),
    Printed("dWo", (1, 2), "0.0484389131444"),
    Printed("dbf", (4, 0), "-0.0565788"),
    Printed("dbi", (4, 0), "-0.15399065"),
    Printed("dbc", (4, 0), "-0.29691142"),
    Printed("dbo", (4, 0), "-0.29798344"),
)


def linear_loss(params: Any, state: Any, x: dict[str, Array]) -> Array:
    """Σ h_t ⊙ r_t, whose derivative by h_t is the r_t that an exercise hands to its backward pass."""
    return jnp.sum(state.h * x["r"])


def cell_step(params: RNNParams, state: RNNState, x: dict[str, Array]) -> tuple[RNNState, Array]:
    """The vanilla cell, for autodiff to differentiate."""
    return CELL.step(params, state, x["x"])


def drawn_cell() -> tuple[RNNParams, RNNState, dict[str, Array]]:
    """The one-cell exercise as its listing draws it: ``(params, state0, xs)`` with T = 1."""
    drawn = cell_problem("listed")
    return drawn.params, drawn.state0, {"x": drawn.xs, "r": drawn.d_hs}


def cell_with(bias: str, params: RNNParams, state0: RNNState, xs: dict[str, Any]) -> RNNParams:
    """The exercise's backward pass through one cell, with the bias drawn or with the one left over."""
    b = params.b if bias == "listed" else cell_problem("left over").params.b
    x, h_prev, d_h = np.asarray(xs["x"][0]), np.asarray(state0.h), np.asarray(xs["r"][0])
    h = np.tanh(x @ np.asarray(params.w_x) + h_prev @ np.asarray(params.w_h) + np.asarray(b))
    d_z = d_h * (1 - h**2)
    return RNNParams(x.T @ d_z, h_prev.T @ d_z, d_z.sum(0))


cell_published = partial(cell_with, "left over")
cell_corrected = partial(cell_with, "listed")


def cell_digits() -> dict[str, tuple[str, float]]:
    """Each printed number of the cell's parameters, and what the published backward pass gives."""
    found = cell_published(*drawn_cell())
    columns: dict[str, Any] = {"dWax": found.w_x.T, "dWaa": found.w_h.T, "dba": found.b[:, None]}
    return _beside(CELL_BACKWARD, columns)


def drawn_sequence() -> tuple[Weights, LSTMState, dict[str, Array]]:
    """The sequence exercise: seven steps are drawn, and cotangents for the first four of them."""
    shapes: dict[str, tuple[int, ...]] = {"x": (3, 10, 7), "a0": (5, 10)}
    for gate in ("f", "i", "o", "c"):
        shapes |= {f"W{gate}": (5, 8), f"b{gate}": (5, 1)}
    drawn = draws(shapes | {"da": (5, 10, 4)})
    # Its candidate is called c; its matrices act on [a; x] in columns.
    gates = {
        name: Gate(
            jnp.asarray(drawn[f"W{theirs}"][:, 5:].T),
            jnp.asarray(drawn[f"W{theirs}"][:, :5].T),
            jnp.asarray(drawn[f"b{theirs}"][:, 0]),
        )
        for name, theirs in zip(GATES, ("i", "f", "c", "o"), strict=True)
    }
    zero = jnp.zeros(5, float)
    state0 = LSTMState(jnp.asarray(drawn["a0"].T), jnp.zeros((10, 5), float))
    xs = {"x": jnp.asarray(drawn["x"].T[:4]), "r": jnp.asarray(drawn["da"].T)}
    return Weights(**gates, h=zero, c=zero), state0, xs


def sequence(
    carried: tuple[str, ...], params: Weights, state0: LSTMState, xs: dict[str, Any]
) -> Weights:
    """Back through the sequence, handing on δh, δC, both or neither; one contribution a step."""
    return _sequence(carried, params, state0, xs)[0]


def _sequence(
    carried: tuple[str, ...], params: Weights, state0: LSTMState, xs: dict[str, Any]
) -> tuple[Weights, dict[str, np.ndarray]]:
    residuals = forward(params, state0, xs)
    d_h, d_c = np.array(xs["r"]), np.zeros_like(residuals.c)
    length = len(d_h)
    for t in reversed(range(length)):
        if t + 1 < length:
            d_z = {a: d_c[t + 1] * residuals.c_z[a][t + 1] for a in INTO_MEMORY}
            if "h" in carried:
                d_h[t] += through(params, d_z | {"o": d_h[t + 1] * residuals.h_o[t + 1]})
            if "c" in carried:
                d_c[t] = d_c[t + 1] * residuals.f[t + 1]
        d_c[t] += d_h[t] * residuals.h_c[t]
    d_z = {a: d_c * residuals.c_z[a] for a in INTO_MEMORY} | {"o": d_h * residuals.h_o}
    return contributions(residuals, d_z, d_h, d_c), d_z


sequence_published = partial(sequence, ())
memory_alone = partial(sequence, ("c",))
output_alone = partial(sequence, ("h",))
sequence_corrected = partial(sequence, ("h", "c"))


def sequence_digits() -> dict[str, tuple[str, float]]:
    """Each printed number of the sequence, and what a backward pass that carries nothing gives."""
    params, state0, xs = drawn_sequence()
    found, d_z = _sequence((), params, state0, xs)
    columns = {
        "dx": sum((d_z[n] @ getattr(params, n).w_x.T for n in GATES), np.zeros((1, 1, 1))).T,
        "da0": through(params, {n: d[0] for n, d in d_z.items()}).T,
    }
    for name, theirs in zip(GATES, ("i", "f", "c", "o"), strict=True):
        gate = getattr(found, name)
        columns[f"dW{theirs}"] = np.concatenate([gate.w_h, gate.w_x], axis=1).sum(0).T
        columns[f"db{theirs}"] = gate.b.sum(0)[:, None]
    return _beside(SEQUENCE_BACKWARD, columns)


def _beside(
    printed: tuple[Printed, ...], columns: dict[str, np.ndarray]
) -> dict[str, tuple[str, float]]:
    return {
        name + "".join(f"[{n}]" for n in entry): (text, float(columns[name][entry]))
        for name, entry, text in printed
        if name in columns
    }
