r"""The gain of one LSTM step on the gradient of its memory, and which of four terms makes the gradient grow.

    G_t = dC_t/dC_{t−1} = diag(f_t) + (A^f_t + A^i_t + A^g_t) D_{t−1}

    A^f = diag(C_{t−1} ⊙ f(1−f)) W_hfᵀ      A^i = diag(g ⊙ i(1−i)) W_hiᵀ      A^g = diag(i ⊙ (1−g²)) W_hgᵀ
    D_{t−1} = diag(o_{t−1} ⊙ (1 − tanh² C_{t−1}))        h_{t−1} follows C_{t−1}, o_{t−1} held; D_0 = 0

The gain is ‖G_t‖. With its singular vectors u and v, ‖G_t‖ = Σ_terms uᵀ term v: each term's part of the gain,
and a term *pushes* the step above 1 where ‖G_t‖ > 1 and without that term it would not be.

For given gates and a memory with |C_j| ≤ M_j, every entry of G_t is bounded. The norm of the matrix of these
bounds is a bound on the gain of every such memory:

    ‖G_t‖ ≤ ‖ diag(f) + (M f(1−f) |W_hfᵀ| + |g| i(1−i) |W_hiᵀ| + i(1−g²) |W_hgᵀ|) diag(o_{t−1}) ‖

Axes: every array [T], by t from 1; a batch leads.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradient_flow.result_display import values_table
from gradient_flow.step_jacobians.checked_arguments import (
    checked_run,
    require_finite_states,
    with_samples,
    without_samples,
)
from gradient_flow.step_jacobians.scaled_entries import unscaled
from gradient_flow.step_jacobians.trajectory import is_lstm, run
from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.cells import Cell, LSTMParams
from lstm_jax.cells.lstm import saturated_derivatives

TERMS = ("f", "through_f", "through_i", "through_g")
"""The forget gate itself, and the paths through h_{t−1} into three gates."""


class StepGain(NamedTuple):
    """The growth of ∂C in one step, [T] or [B, T]; numbers, not logs.

    Attributes:
        gain: ‖dC_t/dC_{t−1}‖, the largest singular value; at t = 1 the largest forget gate.
        norms: of each of the terms ``f``, ``through_f``, ``through_i`` and ``through_g``.
        parts: the part of each in the gain, uᵀ term v; their sum is the gain, and a part may be negative.
        without: the gain without the term.
        pushes: where the gain is above 1, and without the term would not be.
        largest: the bound on the gain for these gates and every memory within the range of this run.
    """

    gain: Any
    norms: dict[str, Array]
    parts: dict[str, Array]
    without: dict[str, Array]
    pushes: dict[str, Array]
    largest: Any

    def _repr_html_(self) -> str:
        norms = {f"norm of {name}": value for name, value in self.norms.items()}
        return values_table(
            "Growth in one step", {"gain": self.gain, **norms, "largest": self.largest}
        )


def step_gain(
    cell: Cell, params: LSTMParams, state0: PyTree | None, xs: Float[Array, "time *batch d"]
) -> StepGain:
    """The gain of every step, split into its terms.

    Args:
        cell: from `lstm_jax.lstm`, without its optional parts.
        params: of the cell.
        state0: the starting state; zeros if None.
        xs: [T, D] or [T, B, D].

    Returns:
        `StepGain`; ``(result.gain > 1).mean()`` is how often a step lets the gradient grow, and
        ``result.pushes["through_g"]`` is where the path through g causes that.

    Raises:
        ValueError: a cell of another kind.
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell or each other.
        NonFiniteError: a NaN or an infinity in the arguments, or in the states, with its step.

    Example:
        >>> import jax, lstm_jax
        >>> from gradient_flow import step_gain
        >>> cell = lstm_jax.lstm(3, 8, forget_bias=3.0)
        >>> params = cell.init(jax.random.key(0))
        >>> found = step_gain(cell, params, None, jax.random.normal(jax.random.key(1), (50, 3)))
        >>> found.gain.shape, bool((found.largest >= found.gain).all())
        ((50,), True)
    """
    if not is_lstm(cell):
        raise ValueError(f"Cell mismatch: expected an lstm without optional parts, got {cell!r}.")
    given = checked_run(cell, params, state0, xs, None)
    require_finite_states(cell, params, given, xs)
    states, samples = with_samples(given.batched, given.state0, xs)
    found = _step_gain(cell, params, states, samples)
    return without_samples(given.batched, found)


@partial(jax.jit, static_argnums=0)
def _step_gain(cell: Cell, params: LSTMParams, state0: PyTree, xs: Array) -> StepGain:
    w_i, w_f, w_g, _ = jnp.split(params.w_h.T, 4)

    def of_sample(state0: PyTree, xs: Array) -> StepGain:
        trajectory = run(cell, params, state0, xs)
        most = jnp.max(jnp.abs(trajectory.states.c[:-1]), axis=0)
        before = jax.tree.map(lambda leaf: leaf[:-1], trajectory.states)
        o = jax.vmap(lambda s, x: cell.gates(params, s, x)["o"])(before, xs)
        # There is no o_0: h_0 does not depend on C_0.
        o_before = jnp.concatenate([jnp.zeros_like(o[:1]), o[:-1]])

        def at(inputs: tuple[PyTree, Array, Array, Array]) -> StepGain:
            state, x, h_c, o_before = inputs
            local = saturated_derivatives(params, state, x)
            gates = cell.gates(params, state, x)
            slope_f = gates["f"] * (1 - gates["f"])

            def through(factor: Array, w: Array, follows: Array) -> Array:
                return factor[:, None] * w * follows[None, :]

            terms = dict(
                zip(
                    TERMS,
                    (
                        jnp.diag(local.c_c),
                        through(local.c_f, w_f, h_c),
                        through(local.c_i, w_i, h_c),
                        through(local.c_g, w_g, h_c),
                    ),
                    strict=True,
                )
            )
            whole = sum(terms.values())
            u, sigma, v = jnp.linalg.svd(whole)
            gain = sigma[0]
            without = {name: _norm(whole - term) for name, term in terms.items()}
            allowed = jnp.diag(local.c_c) + sum(
                through(jnp.abs(factor), jnp.abs(w), o_before)
                for factor, w in ((most * slope_f, w_f), (local.c_i, w_i), (local.c_g, w_g))
            )
            return StepGain(
                gain=gain,
                norms={name: _norm(term) for name, term in terms.items()},
                parts={name: u[:, 0] @ term @ v[0] for name, term in terms.items()},
                without=without,
                pushes={name: (gain > 1) & (left <= 1) for name, left in without.items()},
                largest=_norm(allowed),
            )

        # Sixteen steps at a time: all at once would take the memory of several times T matrices.
        return lax.map(at, (before, xs, unscaled(trajectory.h_c)[:-1], o_before), batch_size=16)

    return jax.vmap(of_sample, in_axes=(0, 1))(state0, xs)


def _norm(matrix: Array) -> Array:
    return jnp.linalg.svd(matrix, compute_uv=False)[0]
