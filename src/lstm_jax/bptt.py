r"""Back-propagation through time, derived by hand.

With δs_t the total cotangent of the state s_t and ∂ℓ_t/∂h_t what the loss adds at step t, for t = T … 1:

    δh_t         += ∂ℓ_t/∂h_t
    δs_{t−1}, δz_t = backward_step(δs_t)                     one step, elementwise and one δz W_hᵀ
    ∂L/∂W_x, ∂L/∂W_h, ∂L/∂b, ∂L/∂x = parameter_gradient(δz_{1…T})     after the loop, one product each

Forward mode runs the same factors in the other order: ż for all t at once, then the loop.

Axes: xs[T, ..., D], hs[T, ..., H]; params and states as in `lstm_jax.cells`. docs/derivation.md derives
every line. `bptt` is the plain function; `unroll_by_hand` is the unrolled cell whose derivative, in
every mode that JAX knows, is this one.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.cells.cell import Cell, HandDerived, check_cell_arguments
from lstm_jax.linear_map import linear_map
from lstm_jax.validation import require_arrays


class Gradients(NamedTuple):
    """The gradient with respect to everything that an unrolled cell depends on."""

    params: Any
    xs: Any
    state0: Any


def rule_of(cell: Cell) -> HandDerived:
    """A cell's hand-derived derivative.

    Raises:
        ValueError: a cell that has none.
    """
    if cell.rule is None:
        raise ValueError(
            f'{cell} has no hand-derived rule: expected gradient="autodiff" or "auto", got "bptt".'
        )
    return cell.rule


@partial(jax.jit, static_argnums=(0, 1, 2))
def forward_pass(
    cell: Cell, reverse: bool, unroll: int, params: PyTree, xs: Array, state0: PyTree
) -> tuple[tuple[PyTree, Array], PyTree]:
    """Run the cell and keep what the derivative needs: ``((state, hs), residuals[T, ...])``."""
    rule = rule_of(cell)

    def step(state: PyTree, x: Array) -> tuple[PyTree, tuple[Array, PyTree]]:
        state, residuals = rule.forward_step(params, state, x)
        return state, (state.h, residuals)

    state, (hs, residuals) = lax.scan(step, state0, xs, reverse=reverse, unroll=unroll)
    return (state, hs), residuals


@partial(jax.jit, static_argnums=(0, 1, 2))
def tangent_pass(
    cell: Cell, reverse: bool, unroll: int, saved: tuple[PyTree, Array, PyTree], dots: Gradients
) -> tuple[PyTree, Array]:
    """The derivative forward in time: tangents of params, xs and s_0 to those of s_T and hs."""
    params, xs, residuals = saved
    rule = rule_of(cell)
    z_dots = rule.tangent_inputs(params, dots.params, xs, dots.xs, residuals)

    def step(state_dot: PyTree, inputs: tuple[PyTree, PyTree]) -> tuple[PyTree, Array]:
        residuals_t, z_dot = inputs
        state_dot = rule.tangent_step(params, residuals_t, state_dot, z_dot)
        return state_dot, state_dot.h

    return lax.scan(step, dots.state0, (residuals, z_dots), reverse=reverse, unroll=unroll)


@partial(jax.jit, static_argnums=(0, 1, 2))
def backward_pass(
    cell: Cell,
    reverse: bool,
    unroll: int,
    saved: tuple[PyTree, Array, PyTree],
    cotangents: tuple[PyTree, Array],
) -> Gradients:
    """The derivative backward in time: cotangents of s_T and hs to those of params, xs and s_0."""
    params, xs, residuals = saved
    d_state, d_hs = cotangents
    rule = rule_of(cell)

    def step(d_state: PyTree, inputs: tuple[PyTree, Array]) -> tuple[PyTree, PyTree]:
        residuals_t, d_out = inputs
        d_state = d_state._replace(h=d_state.h + d_out)
        return rule.backward_step(params, residuals_t, d_state)

    d_state0, d_z = lax.scan(step, d_state, (residuals, d_hs), reverse=not reverse, unroll=unroll)
    d_params, d_xs = rule.parameter_gradient(params, xs, residuals, d_z)
    return Gradients(d_params, d_xs, d_state0)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def unroll_by_hand(
    cell: Cell, reverse: bool, unroll: int, params: PyTree, xs: Array, state0: PyTree
) -> tuple[PyTree, Array]:
    """The unrolled cell ``(state, hs)`` whose derivative is `tangent_pass` and `backward_pass`."""
    out, _ = forward_pass(cell, reverse, unroll, params, xs, state0)
    return out


@unroll_by_hand.defjvp
def _unroll_by_hand_jvp(
    cell: Cell,
    reverse: bool,
    unroll: int,
    primals: tuple[PyTree, Array, PyTree],
    tangents: tuple[PyTree, Array, PyTree],
) -> tuple[Any, Any]:
    params, xs, state0 = primals
    out, residuals = forward_pass(cell, reverse, unroll, params, xs, state0)
    out_dot = linear_map(
        partial(tangent_pass, cell, reverse, unroll),
        partial(backward_pass, cell, reverse, unroll),
        (params, xs, residuals),
        Gradients(*tangents),
    )
    return out, out_dot


def bptt(
    cell: Cell,
    params: PyTree,
    xs: Float[Array, "time *batch d"],
    state0: PyTree | None = None,
    *,
    d_hs: Float[Array, "time *batch h"] | None = None,
    d_state: PyTree | None = None,
    reverse: bool = False,
    unroll: int = 1,
) -> Gradients:
    """Every gradient of an unrolled cell by the hand-derived recursion, without autodiff.

    For a loss L of ``state, hs = unroll(cell, params, xs, state0)``.

    Args:
        cell: from `lstm`, `gru` or `rnn`.
        params: of the cell.
        xs: [T, D] or [T, B, D].
        state0: the starting state, [H] or [B, H] leaves; zeros if None.
        d_hs: ∂L/∂hs with the state held, [T, H] or [T, B, H]; zeros if None.
        d_state: ∂L/∂state, the cotangent of the final state; zeros if None.
        reverse: whether the cell ran from the last step to the first.
        unroll: steps per iteration of the loop.

    Returns:
        `Gradients`: ``params`` (``w_x``, ``w_h``, ``b``, …), ``xs`` and ``state0`` (``h`` and, for an
        LSTM, ``c``), each shaped as what it belongs to.

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell or each other.

    Example:
        >>> import jax, jax.numpy as jnp, lstm_jax
        >>> cell = lstm_jax.lstm(3, 4)
        >>> params = cell.init(jax.random.key(0))
        >>> xs = jnp.ones((5, 3))
        >>> gradients = lstm_jax.bptt(cell, params, xs, d_hs=jnp.ones((5, 4)))
        >>> gradients.params.w_h.shape, gradients.state0.c.shape
        ((4, 16), (4,))
    """
    state0 = check_cell_arguments(cell, params, xs, state0)
    (state, hs), residuals = forward_pass(cell, reverse, unroll, params, xs, state0)
    dtype = hs.dtype
    d_hs = jnp.zeros_like(hs) if d_hs is None else d_hs
    d_state = jax.tree.map(jnp.zeros_like, state) if d_state is None else d_state
    require_arrays("d_hs", d_hs, hs, dtype)
    require_arrays("d_state", d_state, state, dtype)
    return backward_pass(cell, reverse, unroll, (params, xs, residuals), (d_state, d_hs))
