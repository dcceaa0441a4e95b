r"""J_t Q and vᵀ J_t of one step, forward and backward, without forming all of J_t where that saves work.

    a cell          row a of J_t Q:     Σ_b J_ab Q_b            closed blocks; a diagonal one stays a vector
    a stack         q'^l = J^l q^l + X^l ẏ^{l−1},   ẏ^l = q'^l_h  (+ ẏ^{l−1} with a residual connection)
    any step        k directional derivatives by `jax.jvp` (`jax.jacfwd` needs n)

and backward by a cell's hand-derived rule, or by `jax.vjp`.

Axes: q[n, k], the parts of the state one below the other; one sample.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradient_flow.step_jacobians.scaled_entries import LEAST, power_of_two, scaled, sizes_of
from gradient_flow.step_jacobians.scaled_jacobian import has_scaled_jacobian, scaled_jacobian
from gradient_flow.step_jacobians.state_layout import (
    Layout,
    flat_parts,
    from_flat,
    moving_parts,
    part_slices,
    with_parts,
)
from gradient_flow.step_jacobians.trajectory import step_of
from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.dropout import zoneout_rates
from lstm_jax.jax_extensions.weight_with_transpose import with_transposes
from lstm_jax.layers.stack import Stack, cells_of, step_with_zoneout

Jvp = Callable[[PyTree, PyTree, PyTree, Float[Array, "n k"]], tuple[PyTree, Float[Array, "n k"]]]
"""``(params, state, x, q) -> (state after the step, J_t q)``."""

Vjp = Callable[[PyTree, PyTree, PyTree, list[Array]], tuple[PyTree, list[Array], PyTree]]
"""``(params, state, x, δs_t) -> (G_t, δs_{t−1}, δx_t)``, linear in δs_t, the moving leaves of a state."""


def step_jvp(cell: Cell | Stack | Step, layout: Layout, *, form_jacobian: bool = True) -> Jvp:
    """Make the function ``(params, state, x, q) -> (state, J q)`` for one sample of a cell or a step.

    Args:
        cell: a cell or a stack, with its closed forms, or any step.
        layout: of the state.
        form_jacobian: whether to form the J of a cell, or of each layer, first: faster for many columns.
            Without it, no array of size n² is made besides the weights.
    """
    if isinstance(cell, Stack) and form_jacobian:
        return lambda params, states, x, q: _of_stack(cell, layout, params, states, x, q)
    if isinstance(cell, Cell) and form_jacobian:
        return lambda params, state, x, q: _of_cell(cell, layout, params, state, x, q)
    if isinstance(cell, Cell) and _has_rule(cell):
        return lambda params, state, x, q: _by_rule(cell, layout, params, state, x, q)
    return lambda params, state, x, q: _by_autodiff(step_of(cell), layout, params, state, x, q)


def scaled_step_jvp(
    cell: Cell | Stack | Step, layout: Layout, params: PyTree
) -> Callable[[PyTree, PyTree, Array], tuple[PyTree, Array, Array]] | None:
    """Make ``(state, x, q) -> (state after the step, J_t q 2^−e, e)``, J's largest entry being 2^e at most.

    None for what has no Jacobian in scaled form. Entries of J smaller than the largest by more than the
    dtype's range are 0.
    """
    if not has_scaled_jacobian(cell):
        return None
    jacobian_of, step = scaled_jacobian(cell, layout, params), step_of(cell)

    def move(state: PyTree, x: PyTree, q: Array) -> tuple[PyTree, Array, Array]:
        rows = jacobian_of(state, x)
        top = jnp.max(jnp.stack([jnp.max(sizes_of(block)) for row in rows for block in row]))
        top = jnp.where(top > LEAST, top, 0)
        parts = _split(layout, q)
        moved = [
            _times_parts(
                [b.mantissa * power_of_two(b.exponent - top, q.dtype) for b in map(scaled, row)],
                parts,
            )
            for row in rows
        ]
        return step(params, state, x)[0], jnp.concatenate(moved), top

    return move


def step_vjp(cell: Cell | Stack | Step, layout: Layout) -> Vjp:
    """Make the function ``(params, state, x, δs_t) -> (G_t, δs_{t−1}, δx_t)``: one step backward.

    G_t is the contribution of this step to the parameters' gradient. Unused results cost nothing under `jit`.
    """
    if not (isinstance(cell, Cell) and _has_rule(cell)):
        step = step_of(cell)

        def by_autodiff(params: PyTree, state: PyTree, x: PyTree, d_parts: list[Array]) -> Any:
            def move(params: PyTree, parts: list[Array], x: PyTree) -> list[Array]:
                after, _ = step(params, with_parts(layout, state, parts), x)
                return list(moving_parts(layout, after))

            return jax.vjp(move, params, list(moving_parts(layout, state)), x)[1](d_parts)

        return by_autodiff
    rule: Any = cell.rule

    def by_hand(params: PyTree, state: PyTree, x: Array, d_parts: list[Array]) -> Any:
        local = rule.saturated_derivatives(params, state, x)
        _, residuals = rule.forward_step(params, state, x)
        d_before, d_pre = rule.backward_step(params, local, with_parts(layout, state, d_parts))
        one = jax.tree.map(lambda leaf: leaf[None], (x, residuals, d_pre))
        d_params, d_x = rule.parameter_gradient(params, *one)
        return d_params, list(moving_parts(layout, d_before)), d_x[0]

    return by_hand


def _has_rule(cell: Cell) -> bool:
    return cell.rule is not None and cell.rule.saturated_derivatives is not None


def with_transposed_weights(cell: Cell | Stack | Step, params: PyTree, steps: int) -> PyTree:
    """The parameters with transposes of the weights, made once, which closed forms in a loop read."""
    return with_transposes(params, steps) if isinstance(cell, (Cell, Stack)) else params


def _of_cell(
    cell: Cell, layout: Layout, params: PyTree, state: PyTree, x: Array, q: Array
) -> tuple[PyTree, Array]:
    jacobian = cell.step_jacobian(params, state, x)
    parts = _split(layout, q)
    moved = [_times_parts(row, parts) for row in jacobian]
    return cell.step(params, state, x)[0], jnp.concatenate(moved)


def _by_rule(
    cell: Cell, layout: Layout, params: PyTree, state: PyTree, x: Array, q: Array
) -> tuple[PyTree, Array]:
    rule: Any = cell.rule
    local = rule.saturated_derivatives(params, state, x)
    # Inputs and parameters are constant: ż = 0, in the shape of δz.
    z_dot = rule.backward_step(params, local, jax.tree.map(jnp.zeros_like, state))[1]

    def along(row: Float[Array, "n"]) -> Array:
        state_dot = from_flat(layout, state, row)
        return flat_parts(layout, rule.tangent_step(params, local, state_dot, z_dot))

    return cell.step(params, state, x)[0], jax.vmap(along, in_axes=1, out_axes=1)(q)


def _of_stack(
    stack: Stack, layout: Layout, params: Any, states: PyTree, x: Array, q: Array
) -> tuple[PyTree, Array]:
    parts = iter(_split(layout, q))
    after, moved = [], []
    x_dot: Any = None
    for number, (cell, weights, state) in enumerate(
        zip(cells_of(stack.layers), params.layers, states, strict=True)
    ):
        jacobian = cell.step_jacobian(weights, state, x)
        rates = zoneout_rates(stack.zoneout, state)
        layer_parts = [next(parts) for _ in state]
        dots = [_times_parts(row, layer_parts) for row in jacobian]
        if x_dot is not None:
            by_input = cell.input_jacobian(weights, state, x)
            dots = [dot + block @ x_dot for dot, block in zip(dots, by_input, strict=True)]
        dots = [
            rate * before + (1 - rate) * dot if rate else dot
            for rate, before, dot in zip(rates, layer_parts, dots, strict=True)
        ]
        new, out = step_with_zoneout(cell, weights, state, x, rates)
        out_dot = dots[0]
        if stack.residual and number:
            out, out_dot = out + x, out_dot + x_dot
        x, x_dot = out, out_dot
        after.append(new)
        moved += dots
    return tuple(after), jnp.concatenate(moved)


def _by_autodiff(
    step: Step, layout: Layout, params: PyTree, state: PyTree, x: PyTree, q: Array
) -> tuple[PyTree, Array]:
    def move(parts: tuple[Array, ...]) -> tuple[tuple[Array, ...], PyTree]:
        after, _ = step(params, with_parts(layout, state, parts), x)
        return moving_parts(layout, after), after

    here = moving_parts(layout, state)

    def along(tangent: Float[Array, "n"]) -> tuple[tuple[Array, ...], PyTree]:
        parts = _split(layout, tangent)
        shaped = tuple(t.reshape(p.shape) for t, p in zip(parts, here, strict=True))
        _, dots, after = jax.jvp(move, (here,), (shaped,), has_aux=True)
        return dots, after

    dots, after = jax.vmap(along, in_axes=1, out_axes=(-1, None))(q)
    return after, jnp.concatenate([d.reshape(-1, q.shape[1]) for d in dots])


def _split(layout: Layout, q: Array) -> list[Array]:
    return [q[place] for place in part_slices(layout)]


def _times_parts(row: Any, parts: list[Array]) -> Array:
    """Σ_b J_ab q_b, a vector standing for a diagonal block."""
    terms = [
        block @ q if block.ndim == 2 else jnp.broadcast_to(block[:, None], q.shape) * q
        for block, q in zip(row, parts, strict=True)
    ]
    return sum(terms[1:], start=terms[0])
