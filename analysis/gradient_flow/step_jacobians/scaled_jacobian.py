r"""Step Jacobians whose entries cannot underflow, however far a gate or a memory saturates.

    ∂h_t/∂C_{t−1} = diag(o ⊙ (1 − tanh² C_t) ⊙ f)        10^−51.5 at C = 60, o = f = 1

The closed forms of the LSTM, the GRU and the tanh network, as in `lstm_jax.cells`, with their elementwise
factors as mantissas and powers of two (`gradient_flow.step_jacobians.scaled_entries`):

    J_t = E_t + R_t          R_t: all that passes through W_h;  E_t: all that does not

A row has one power of two, that of its largest part. (In a row whose gates read different units through
zeros of W_h, a part 10^−38 times smaller in float32, 10^−308 in float64, is lost.) Other cells, stacks and
plain steps have their own step Jacobian, in the range of their dtype.

Axes: one sample; a block is a matrix [out, in], or a vector where it is diagonal.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from gradient_flow.step_jacobians.scaled_entries import (
    LEAST,
    ScaledEntries,
    binary_exponent,
    block_sum,
    power_of_two,
    scaled,
    scaled_sigmoid,
    scaled_sigmoid_slope,
    scaled_tanh_slope,
    sizes_of,
    times,
)
from gradient_flow.step_jacobians.state_layout import Layout
from gradient_flow.step_jacobians.step_jacobian import block_jacobian
from lstm_jax.array_types import Array, PyTree
from lstm_jax.cells import Cell, GRUParams, GRUState, LSTMParams, LSTMState, Step
from lstm_jax.cells.affine import pre_activations
from lstm_jax.cells.gru import Local as GRULocal
from lstm_jax.cells.gru import forward_step as gru_forward
from lstm_jax.cells.gru import step_jacobian as gru_jacobian
from lstm_jax.cells.lstm import Local as LSTMLocal
from lstm_jax.cells.lstm import forward_step as lstm_forward
from lstm_jax.cells.lstm import step_jacobian as lstm_jacobian
from lstm_jax.cells.rnn import step_jacobian as rnn_jacobian
from lstm_jax.jax_extensions.weight_with_transpose import matrix_of
from lstm_jax.layers.stack import Stack


def has_scaled_jacobian(cell: Cell | Stack | Step) -> bool:
    """Whether the blocks of `scaled_jacobian` are `ScaledEntries`."""
    return _parts_of(cell) is not None


def scaled_jacobian(
    cell: Cell | Stack | Step, layout: Layout, params: PyTree
) -> Callable[[PyTree, PyTree], Any]:
    """Make ``(state, x) -> J_t`` of one sample: blocks of arrays, or of `ScaledEntries`.

    Outside of a loop over steps: what the weights alone determine is computed here.
    """
    parts = _parts_of(cell)
    if parts is None or not isinstance(cell, Cell):
        closed_or_jacfwd = block_jacobian(cell, layout)
        return lambda state, x: closed_or_jacfwd(params, state, x)
    every = np.ones(len(cell.gate_names), layout.dtype)
    weights = _gate_rows(cell, params)

    def whole(state: PyTree, x: PyTree) -> Any:
        e, r = parts(params, weights, state, x, jnp.asarray(every))
        return tuple(tuple(map(_either_or_both, *rows)) for rows in zip(e, r, strict=True))

    return whole


def scaled_parts(cell: Cell) -> Callable[..., tuple[Any, Any]]:
    """Make ``(params, state, x, kept) -> (E_t, Σ kept_gate R_t^gate)`` of one sample, as `cell.paths` has."""
    parts = _parts_of(cell)
    if parts is None:
        paths: Any = cell.paths
        return lambda params, state, x, kept: (
            tuple(map(tuple, paths.direct(params, state, x))),
            tuple(map(tuple, paths.through(params, state, x, kept))),
        )

    def both(params: PyTree, state: PyTree, x: PyTree, kept: Array) -> tuple[Any, Any]:
        e, r = parts(params, _gate_rows(cell, params), state, x, kept)
        none = scaled(jnp.zeros_like(state.h))
        return (
            tuple(tuple(none if block is None else block for block in row) for row in e),
            tuple(tuple(none if block is None else block for block in row) for row in r),
        )

    return both


def lstm_factors(params: LSTMParams, state: LSTMState, x: Array) -> Any:
    """The six elementwise factors of `lstm_jax.cells.lstm`, as `ScaledEntries`."""
    after, (_, _, g, _, c_prev, _) = lstm_forward(params, state, x)
    z_i, z_f, z_g, z_o = jnp.split(pre_activations(params, state.h, x), 4, axis=-1)
    factors: Any = LSTMLocal
    return factors(
        c_i=times(g, scaled_sigmoid_slope(z_i)),
        c_f=times(c_prev, scaled_sigmoid_slope(z_f)),
        c_g=times(scaled_sigmoid(z_i), scaled_tanh_slope(z_g)),
        c_c=scaled_sigmoid(z_f),
        h_o=times(jnp.tanh(after.c), scaled_sigmoid_slope(z_o)),
        h_c=times(scaled_sigmoid(z_o), scaled_tanh_slope(after.c)),
    )


def gru_factors(params: GRUParams, state: GRUState, x: Array) -> Any:
    """The five elementwise factors of `lstm_jax.cells.gru`, as `ScaledEntries`."""
    _, (r, _, n, a, h_prev) = gru_forward(params, state, x)
    from_x = x @ params.w_x
    z_r, z_u, x_n = jnp.split(from_x + jnp.broadcast_to(params.b, from_x.shape), 3, axis=-1)
    h_r, h_u, _ = jnp.split(h_prev @ params.w_h, 3, axis=-1)
    z_r, z_u = z_r + h_r, z_u + h_u
    h_n = times(scaled_sigmoid(-z_u), scaled_tanh_slope(x_n + r * a))
    factors: Any = GRULocal
    return factors(
        h_r=times(times(h_n, a), scaled_sigmoid_slope(z_r)),
        h_u=times(h_prev - n, scaled_sigmoid_slope(z_u)),
        h_n=h_n,
        h_a=times(h_n, scaled_sigmoid(z_r)),
        h_h=scaled_sigmoid(z_u),
    )


class _Rows(NamedTuple):
    """Rows [n, m] of a matrix, and the binary exponent of the largest entry of each."""

    matrix: Any
    tops: Any


def _gate_rows(cell: Cell, params: Any) -> list[_Rows]:
    """Wᵀ of each gate."""
    rows = jnp.split(matrix_of(params.w_h.T), len(cell.gate_names))
    largest = [jnp.max(jnp.abs(stop_gradient(w)), axis=1) for w in rows]
    return [
        # Not the exponent of zero, to which another could not be added.
        _Rows(w, jnp.maximum(binary_exponent(size), LEAST))
        for w, size in zip(rows, largest, strict=True)
    ]


def _sum_of_rows(*terms: tuple[ScaledEntries, _Rows]) -> tuple[ScaledEntries, Array]:
    """Σ diag(factor) rows, each row with a power of two; and that power, `LEAST` for a row of zeros."""
    tops = [jnp.maximum(sizes_of(factor) + rows.tops, LEAST) for factor, rows in terms]
    top = tops[0]
    for other in tops[1:]:
        top = jnp.maximum(top, other)
    shift = jnp.where(top > LEAST, top, 0)
    parts = [
        (f.mantissa * power_of_two(f.exponent - shift, f.mantissa.dtype))[:, None] * rows.matrix
        for f, rows in terms
    ]
    return ScaledEntries(sum(parts[1:], start=parts[0]), shift[:, None]), top


def _parts_of(cell: Any) -> Any:
    """``(params, weights, state, x, kept) -> (E_t, R_t)``, None for zeros; None if there is no such form."""
    if not isinstance(cell, Cell):
        return None
    closed_form = cell.step_jacobian
    if closed_form is lstm_jacobian:
        return _lstm_parts
    if closed_form is gru_jacobian:
        return _gru_parts
    if getattr(closed_form, "function", None) is rnn_jacobian and cell.activation == "tanh":
        return _rnn_parts
    return None


def _lstm_parts(
    params: Any, weights: list[_Rows], state: Any, x: Array, kept: Array
) -> tuple[Any, Any]:
    local = lstm_factors(params, state, x)
    i, f, g = (_kept(kept, n, factor) for n, factor in enumerate((local.c_i, local.c_f, local.c_g)))
    c_h, tops = _sum_of_rows(*zip((i, f, g), weights[:3], strict=True))
    # Through C_t: the factor with the power of two of its row.
    follows = times(local.h_c, ScaledEntries(jnp.ones_like(state.h), c_h.exponent[:, 0]))
    of_c_h = _Rows(c_h.mantissa, jnp.where(tops > LEAST, 0, LEAST))
    h_h, _ = _sum_of_rows((_kept(kept, 3, local.h_o), weights[3]), (follows, of_c_h))
    direct = ((None, times(local.h_c, local.c_c)), (None, local.c_c))
    return direct, ((h_h, None), (c_h, None))


def _gru_parts(
    params: Any, weights: list[_Rows], state: Any, x: Array, kept: Array
) -> tuple[Any, Any]:
    local = gru_factors(params, state, x)
    r, u, a = (_kept(kept, n, factor) for n, factor in enumerate((local.h_r, local.h_u, local.h_a)))
    h_h, _ = _sum_of_rows(*zip((r, u, a), weights, strict=True))
    return ((local.h_h,),), ((h_h,),)


def _rnn_parts(
    params: Any, weights: list[_Rows], state: Any, x: Array, kept: Array
) -> tuple[Any, Any]:
    slope = scaled_tanh_slope(pre_activations(params, state.h, x))
    return ((None,),), ((_sum_of_rows((_kept(kept, 0, slope), weights[0]))[0],),)


def _kept(kept: Array, number: int, factor: ScaledEntries) -> ScaledEntries:
    return factor._replace(mantissa=kept[number] * factor.mantissa)


def _either_or_both(e: Any, r: Any) -> Any:
    if e is None or r is None:
        return r if e is None else e
    return block_sum(e, r)
