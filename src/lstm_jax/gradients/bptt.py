r"""Back-propagation through time, derived by hand.

With δs_t the total cotangent of the state s_t and ∂ℓ_t/∂h_t the loss's part at step t, for t = T … 1:

    δh_t         += ∂ℓ_t/∂h_t
    δs_{t−1}, δz_t = backward_step(δs_t)                     one step, elementwise and one δz W_hᵀ
    ∂L/∂W_x, ∂L/∂W_h, ∂L/∂b, ∂L/∂x = parameter_gradient(δz)          for many steps, one product each

Forward mode runs the same factors in the other order: ż for all t at once, then the loop.

Axes: xs[T, ..., D], hs[T, ..., H]; params and states as in `lstm_jax.cells`. docs/derivation.md derives every
line. `bptt` is the plain function; `lstm_jax.gradients.custom_derivative` makes it the derivative of the
unrolled cell in every mode of JAX.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.cells.cell import Cell, HandDerived, check_cell_arguments
from lstm_jax.gradients.sums_by_device import by_parts, in_parts, parts_of, summed
from lstm_jax.jax_extensions.mesh_axes import vary_over, varying_axes
from lstm_jax.jax_extensions.weight_with_transpose import with_transposes
from lstm_jax.time_loop.chunked_scan import add_to, chunk_starts, scan_chunks, zero_sums
from lstm_jax.time_loop.scan import ScanSettings, divisor_near, scan, scan_settings
from lstm_jax.time_loop.step_masks import (
    NO_MASKS,
    StepMasks,
    cotangent_before_step,
    cotangent_through_step,
    drop_recurrent,
    output_of_step,
    state_after_step,
    state_before_step,
    tangent_before_step,
    zero_padding,
)
from lstm_jax.validation import is_symbolic, require_arrays, require_bool


class Gradients(NamedTuple):
    """The gradient with respect to everything that an unrolled cell depends on; RTRL leaves ``xs`` None."""

    params: PyTree
    xs: Float[Array, "time *batch d"] | None
    state0: PyTree


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


class Saved(NamedTuple):
    """The inputs, outputs and residuals of the forward pass, for its derivative."""

    params: PyTree
    xs: Float[Array, "time *batch d"]
    state0: PyTree
    hs: Float[Array, "time *batch h"]
    residuals: PyTree
    masks: StepMasks


def without_outputs(residuals: Any, masks: StepMasks = NO_MASKS) -> Any:
    """The residuals without h_t and h_{t−1}, which ``hs`` contains."""
    zoneout = masks.zoneout
    # Zoneout by booleans: where a unit keeps its state, ``hs`` lacks the step's h_t, but no cotangent passes
    # through the step. Zoneout by a fraction: the step's h_t is needed.
    fraction = zoneout is not None and zoneout.h.dtype != bool
    known = {"h_prev"} if fraction else {"h", "h_prev"}
    return residuals._replace(**dict.fromkeys(known & set(residuals._fields)))


def _with_outputs(
    residuals: Any, h_start: Array, hs: Array, masks: StepMasks, reverse: bool
) -> Any:
    """The residuals of some steps with h_t and h_{t−1}, which is ``hs`` moved by one step."""
    parts = [hs[1:], h_start[None]] if reverse else [h_start[None], hs[:-1]]
    h_prev = state_before_step(masks, jnp.concatenate(parts))
    h_prev = h_prev if masks.dropout is None else h_prev * masks.dropout
    outputs = {"h": hs} if getattr(residuals, "h", hs) is None else {}
    return residuals._replace(h_prev=h_prev, **outputs)


def zeros_for_none(cotangent: PyTree, like: PyTree) -> PyTree:
    """A cotangent with zeros in place of None."""
    return type(like)(
        *(jnp.zeros_like(b) if a is None else a for a, b in zip(cotangent, like, strict=True))
    )


@partial(jax.jit, static_argnums=(0, 1))
def forward_pass(
    cell: Cell, settings: ScanSettings, params: PyTree, xs: Array, state0: PyTree, masks: StepMasks
) -> tuple[tuple[PyTree, Array], PyTree]:
    """Run the cell and store the residuals: ``((state, hs), residuals[T, ...])``."""
    rule = rule_of(cell)
    weights = with_transposes(params, xs.shape[0])

    def step(state: PyTree, at: tuple[Array, StepMasks]) -> tuple[PyTree, tuple[Array, PyTree]]:
        x, masks = at
        before = state_before_step(masks, state)
        state, residuals = rule.forward_step(weights, drop_recurrent(masks, before), x)
        state = state_after_step(masks, state, before)
        return state, (output_of_step(masks, state.h), without_outputs(residuals, masks))

    state, (hs, residuals) = scan(settings, step, state0, (xs, masks), apart=True)
    return (state, hs), residuals


@partial(jax.jit, static_argnums=(0, 1))
def tangent_pass(
    cell: Cell, settings: ScanSettings, saved: Saved, dots: Gradients
) -> tuple[PyTree, Array]:
    """The derivative forward in time: from tangents of params, xs and s_0 to tangents of s_T and hs."""
    params, xs, state0, hs, residuals, masks = saved
    rule = rule_of(cell)
    residuals = _with_outputs(residuals, state0.h, hs, masks, settings.reverse)
    z_dots = rule.tangent_inputs(params, dots.params, xs, dots.xs, residuals)

    def step(state_dot: PyTree, inputs: tuple[PyTree, PyTree, StepMasks]) -> tuple[PyTree, Array]:
        residuals_t, z_dot, masks = inputs
        local = rule.local_derivatives(residuals_t)
        before = tangent_before_step(masks, state_dot)
        state_dot = rule.tangent_step(params, local, drop_recurrent(masks, before), z_dot)
        state_dot = state_after_step(masks, state_dot, before)
        return state_dot, output_of_step(masks, state_dot.h)

    return scan(settings, step, dots.state0, (residuals, z_dots, masks), apart=True)


@partial(jax.jit, static_argnums=(0, 1))
def backward_pass(
    cell: Cell, settings: ScanSettings, saved: Saved, cotangents: tuple[PyTree, Array | None]
) -> Gradients:
    """The derivative backward in time: from cotangents of s_T and hs to cotangents of params, xs and s_0.

    None stands for a cotangent that is zero.
    """
    found = backward_sums(cell, settings, saved, cotangents)
    return found._replace(params=summed(found.params, saved.params, saved.xs))


def backward_sums(
    cell: Cell, settings: ScanSettings, saved: Saved, cotangents: tuple[PyTree, Array | None]
) -> Gradients:
    """`backward_pass`, with the sums of the parameters as `lstm_jax.gradients.sums_by_device` carries them.

    For each chunk: the elementwise factors of all its steps, then the recursion, step by step, then the sums
    over the chunk's δz, each one product.
    """
    params, xs, state0, hs, residuals, masks = saved
    d_state, d_hs = cotangents
    d_state = zeros_for_none(d_state, state0)
    rule = rule_of(cell)
    weights = with_transposes(params, xs.shape[0])
    parts = parts_of(xs)
    zeros = in_parts(xs, vary_over(varying_axes(saved, cotangents), zero_sums(params)))

    def step(
        d_state: PyTree, inputs: tuple[PyTree, Array | None, StepMasks]
    ) -> tuple[PyTree, PyTree]:
        local, d_out, masks = inputs
        if d_out is not None:
            d_state = d_state._replace(h=d_state.h + output_of_step(masks, d_out))
        d_before, d_z = rule.backward_step(weights, local, cotangent_through_step(masks, d_state))
        d_before = cotangent_before_step(masks, drop_recurrent(masks, d_before), d_state)
        return tangent_before_step(masks, d_before), zero_padding(masks, d_z)

    def chunk(carry: PyTree, h_start: Array, inputs: PyTree) -> tuple[PyTree, Array]:
        d_state, d_params = carry
        xs, hs, residuals, d_hs, masks = inputs
        residuals = _with_outputs(residuals, h_start, hs, masks, settings.reverse)
        local = rule.local_derivatives(residuals)
        d_state, d_z = scan(settings.opposite, step, d_state, (local, d_hs, masks))
        d_part, d_xs = by_parts(rule.parameter_gradient, parts, weights, xs, residuals, d_z)
        d_params = add_to(d_params, d_part)
        return (d_state, d_params), d_xs

    batch_size = xs.size // (xs.shape[0] * xs.shape[-1]) // parts
    steps = xs.shape[0]
    # Of symbolic sizes nobody knows how many rows fit: one chunk.
    if not is_symbolic(steps) and not is_symbolic(batch_size):
        steps = divisor_near(steps, max(1, settings.platform.rows // batch_size))
    (d_state0, d_params), d_xs = scan_chunks(
        chunk,
        (d_state, zeros),
        chunk_starts(state0.h, hs, steps, reverse=settings.reverse),
        (xs, hs, residuals, d_hs, masks),
        steps,
        reverse=not settings.reverse,
    )
    return Gradients(d_params, d_xs, d_state0)


def bptt(
    cell: Cell,
    params: PyTree,
    xs: Float[Array, "time *batch d"],
    state0: PyTree | None = None,
    *,
    d_hs: Float[Array, "time *batch h"] | None = None,
    d_state: PyTree | None = None,
    reverse: bool = False,
    unroll: int | str = "auto",
) -> Gradients:
    """Every gradient of an unrolled cell by the hand-derived recursion, without autodiff.

    For a loss L of ``state, hs = unroll(cell, params, xs, state0)``.

    Args:
        cell: from `lstm`, `gru` or `rnn`.
        params: of the cell.
        xs: [T, D] or [T, B, D].
        state0: the starting state, [H] or [B, H] leaves; zeros if None.
        d_hs: ∂L/∂hs with the state constant, [T, H] or [T, B, H]; zeros if None.
        d_state: ∂L/∂state, the cotangent of the final state; zeros if None.
        reverse: whether the cell ran from the last step to the first.
        unroll: steps per iteration of the loop, as for `unroll`.

    Returns:
        `Gradients`: ``params`` (``w_x``, ``w_h``, ``b``, …), ``xs`` and ``state0`` (``h`` and, for an
        LSTM, ``c``), each of its argument's shape.

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell or each other.
        ValueError: ``unroll`` is neither a positive integer nor ``"auto"``.

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
    require_bool("reverse", reverse)
    settings = scan_settings(bool(reverse), unroll)
    (state, hs), residuals = forward_pass(cell, settings, params, xs, state0, NO_MASKS)
    dtype = hs.dtype
    d_hs = jnp.zeros_like(hs) if d_hs is None else d_hs
    d_state = jax.tree.map(jnp.zeros_like, state) if d_state is None else d_state
    require_arrays("d_hs", d_hs, hs, dtype)
    require_arrays("d_state", d_state, state, dtype)
    saved = Saved(params, xs, state0, hs, residuals, NO_MASKS)
    return backward_pass(cell, settings, saved, (d_state, d_hs))
