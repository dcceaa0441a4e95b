r"""A penalty on gradients that vanish in the backward pass (Pascanu, Mikolov & Bengio 2013, section 3.3).

With δh_t the total cotangent of h_t and J_t = ∂h_t/∂h_{t−1} = diag(φ'(z_t)) W_hᵀ of a vanilla network,

    Ω = mean over t, b of (q_t − 1)²,   q_t = ‖δh_t J_t‖ / ‖δh_t‖                             (their eq. 9)

and its gradient by W_h is the immediate one, h_t and δh_t constant (their eq. 10). With v_t = δh_t ⊙ φ'(z_t)
and r_t = δh_t J_t = v_t W_hᵀ, N terms in the mean,

    ∂⁺Ω/∂W_h = (1/N) Σ_{t,b} 2 (q_t − 1) r_tᵀ v_t / (‖r_t‖ ‖δh_t‖)

    δh_{t−1} = ∂ℓ_{t−1}/∂h_{t−1} + r_t                                                   (`state_cotangents`)

Axes: hs, d_totals[T, ..., H], d_totals[t] being δh_t; w_h[H, H].

The paper's sum over t is a mean over the steps and samples whose δh_t is not zero in the authors' program
(github.com/pascanur/trainingRNNs), and in this file; the step from h_1 to h_0 counts. That program compares
*squared* norms, (q² − 1)², which is four times as much near q = 1: ``squared=True``.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lstm_jax.array_types import Array, Float, shapes_of
from lstm_jax.cells.affine import sum_of_outer
from lstm_jax.cells.cell import Cell, HandDerived, require_cell
from lstm_jax.cells.rnn import Residuals, RNNParams, RNNState, backward_step
from lstm_jax.gradients.bptt import rule_of
from lstm_jax.jax_extensions.weight_with_transpose import with_transposes
from lstm_jax.time_loop.step_masks import (
    StepMasks,
    checked_lengths,
    cotangent_before_step,
    step_masks,
    zero_padding,
)
from lstm_jax.validation import (
    DtypeError,
    ShapeError,
    require_array,
    require_arrays,
    require_bool,
    require_same_structure,
    show_shape,
)


class VanishingPenalty(NamedTuple):
    """The penalty and its gradient.

    Attributes:
        omega: Ω, a number.
        d_w_h: ∂⁺Ω/∂W_h, its immediate gradient, [H, H]; multiply it by the penalty's weight and add it to the
            loss's gradient by ``w_h``.
    """

    omega: Float[Array, ""]
    d_w_h: Float[Array, "h h"]


def state_cotangents(
    cell: Cell,
    params: RNNParams,
    hs: Float[Array, "time *batch h"],
    *,
    d_hs: Float[Array, "time *batch h"] | None = None,
    d_state: RNNState | None = None,
    lengths: Any = None,
) -> Float[Array, "time *batch h"]:
    """The total cotangent δh_t of every state, from the loss's part at each step.

        δh_{t−1} = ∂ℓ_{t−1}/∂h_{t−1} + (δh_t ⊙ φ'(z_t)) W_hᵀ

    Args:
        cell: from `rnn`.
        params: of the cell.
        hs: the outputs of `unroll`, [T, H] or [T, B, H].
        d_hs: ∂L/∂hs with the states constant, shaped as ``hs``; zeros if None.
        d_state: ∂L/∂state, the cotangent of `unroll`'s final state; zeros if None.
        lengths: those of the call of `unroll`, [B]; all T if None. The final state is then that after the
            last step of each sequence.

    Returns:
        δh_1 … δh_T, shaped as ``hs``; zeros past a sequence's length.

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell or each other.
        ValueError: a cell that is not a vanilla one, or lengths beyond T.

    Example:
        >>> import jax, jax.numpy as jnp, lstm_jax
        >>> from lstm_jax.training.gradient_penalty import state_cotangents
        >>> cell = lstm_jax.rnn(3, 4, activation="identity", w_h_init=lstm_jax.scaled_identity(0.5))
        >>> params = cell.init(jax.random.key(0))
        >>> state, hs = lstm_jax.unroll(cell, params, jnp.ones((3, 3)))
        >>> print(state_cotangents(cell, params, hs, d_state=lstm_jax.RNNState(jnp.ones(4)))[:, 0])
        [0.25 0.5  1.  ]
    """
    rule = _checked(cell, params, hs)
    like = RNNState(hs[-1])
    d_hs = jnp.zeros_like(hs) if d_hs is None else d_hs
    d_state = jax.tree.map(jnp.zeros_like, like) if d_state is None else d_state
    require_arrays("d_hs", d_hs, hs, hs.dtype)
    require_arrays("d_state", d_state, like, hs.dtype)
    lengths = None if lengths is None else checked_lengths(lengths, hs)
    masks = step_masks(hs, lengths)
    weights = with_transposes(params, len(hs))

    def step(d_state: RNNState, at: tuple[Array, Array, StepMasks]) -> tuple[RNNState, Array]:
        h, d_h, masks = at
        d_total = RNNState(d_state.h + zero_padding(masks, d_h))
        d_before, _ = rule.backward_step(weights, _local(rule, h), d_total)
        return cotangent_before_step(masks, d_before, d_total), zero_padding(masks, d_total.h)

    _, d_totals = lax.scan(step, d_state, (hs, d_hs, masks), reverse=True)
    return d_totals


def vanishing_penalty(
    cell: Cell,
    params: RNNParams,
    hs: Float[Array, "time *batch h"],
    d_totals: Float[Array, "time *batch h"],
    *,
    squared: bool = False,
) -> VanishingPenalty:
    """The penalty on a gradient whose norm changes from step to step, and its gradient by W_h.

        Ω = mean of (‖δh_t J_t‖ / ‖δh_t‖ − 1)²,   ∂⁺Ω/∂W_h with h_t and δh_t constant

    The mean is over the steps and samples whose δh_t is not zero (not below the smallest normal number of
    its dtype); Ω is 0 where there is none. Where δh_t J_t is zero, so is its part of the gradient.

    Args:
        cell: from `rnn`.
        params: of the cell.
        hs: the outputs of `unroll`, [T, H] or [T, B, H].
        d_totals: δh_1 … δh_T from `state_cotangents`, shaped as ``hs``.
        squared: compare squared norms, as the authors' program does.

    Returns:
        A `VanishingPenalty`.

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell or each other.
        ValueError: a cell that is not a vanilla one, or ``squared`` neither True nor False.

    Example:
        >>> import jax, jax.numpy as jnp, lstm_jax
        >>> from lstm_jax.training.gradient_penalty import state_cotangents, vanishing_penalty
        >>> cell = lstm_jax.rnn(3, 4, activation="identity", w_h_init=lstm_jax.scaled_identity(0.5))
        >>> params = cell.init(jax.random.key(0))
        >>> state, hs = lstm_jax.unroll(cell, params, jnp.ones((20, 2, 3)))
        >>> d_totals = state_cotangents(cell, params, hs, d_hs=jnp.ones((20, 2, 4)))
        >>> penalty = vanishing_penalty(cell, params, hs, d_totals)
        >>> float(penalty.omega), penalty.d_w_h.shape
        (0.25, (4, 4))
    """
    rule = _checked(cell, params, hs)
    require_arrays("d_totals", d_totals, hs, hs.dtype)
    require_bool("squared", squared)
    largest = jnp.max(jnp.abs(d_totals), axis=-1, keepdims=True)
    counted = largest >= jnp.finfo(hs.dtype).tiny
    # The quotient does not depend on the scale of δh_t, whose square would underflow.
    d_totals = jnp.where(counted, d_totals / jnp.where(counted, largest, 1), 0)
    before, v = rule.backward_step(params, _local(rule, hs), RNNState(d_totals))
    r = before.h
    norm_r, norm_d = _norm(r), _norm(d_totals)
    q = norm_r / jnp.where(counted, norm_d, 1)
    excess, slope = (q**2 - 1, 2 * q) if squared else (q - 1, jnp.ones_like(q))
    number = jnp.maximum(jnp.sum(counted, dtype=hs.dtype), 1)
    omega = jnp.sum(jnp.where(counted, excess**2, 0)) / number
    moving = counted & (norm_r > 0)
    factor = jnp.where(moving, 2 * excess * slope / jnp.where(moving, norm_r * norm_d, 1), 0)
    return VanishingPenalty(omega, sum_of_outer(r * factor / number, v))


def _norm(rows: Array) -> Array:
    return jnp.sqrt(jnp.sum(rows**2, axis=-1, keepdims=True))


def _local(rule: HandDerived, hs: Array) -> Any:
    not_read: Any = None
    return rule.local_derivatives(Residuals(h=hs, h_prev=not_read))


def _checked(cell: Cell, params: RNNParams, hs: Array) -> HandDerived:
    """The rule of a vanilla cell whose parameters and outputs fit."""
    require_cell(cell)
    rule = rule_of(cell)
    if rule.backward_step is not backward_step:
        raise ValueError(f"Cell mismatch: expected a vanilla cell from rnn, got {cell}.")
    expected = shapes_of(cell.init, jax.random.key(0))
    require_same_structure("params", params, expected)
    require_array("params.w_h", params.w_h)
    dtype = jnp.result_type(params.w_h)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise DtypeError(f"Dtype mismatch: expected floating params, got {dtype.name}.")
    require_arrays("params", params, expected, dtype)
    require_array("hs", hs)
    shape = jnp.shape(hs)
    if len(shape) not in (2, 3) or 0 in shape or shape[-1] != cell.hidden_size:
        raise ShapeError(
            f"Shape mismatch: expected hs [T, {cell.hidden_size}] or [T, B, {cell.hidden_size}], "
            f"got {show_shape(shape)}."
        )
    require_arrays("hs", hs, jax.ShapeDtypeStruct(shape, dtype), dtype)
    return rule
