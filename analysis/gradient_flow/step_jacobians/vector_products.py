r"""J_t Q without more of J_t than that takes: how a step moves k tangents of the state.

    a cell          row a of J_t Q:     Σ_b J_ab Q_b            closed blocks; a diagonal one stays a vector
    a stack         q'^l = J^l q^l + X^l ẏ^{l−1},   ẏ^l = q'^l_h  (+ ẏ^{l−1} with a residual connection)
    any step        k directional derivatives, `jax.jvp`, of which `jax.jacfwd` would need n

Axes: q[n, k], the parts of the state under each other; one sample.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gradient_flow.step_jacobians.state_layout import Layout, moving_parts, with_parts
from gradient_flow.step_jacobians.trajectory import step_of
from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.dropout import zoneout_rates
from lstm_jax.jax_extensions.weight_with_transpose import loop_weights
from lstm_jax.layers.stack import Stack, cells_of

Pull = Callable[[PyTree, PyTree, PyTree, list[Array]], tuple[PyTree, list[Array], PyTree]]
"""``(params, state, x, δs_k) -> (G_k, δs_{k−1}, δx_k)``, linear in δs_k, the moving leaves of a state."""


def step_vjp(cell: Cell | Stack | Step, layout: Layout) -> Pull:
    rule: Any = cell.rule if isinstance(cell, Cell) else None
    if rule is None or rule.saturated_derivatives is None:
        step = step_of(cell)

        def by_autodiff(params: PyTree, state: PyTree, x: PyTree, d_parts: list[Array]) -> Any:
            def move(params: PyTree, parts: list[Array], x: PyTree) -> list[Array]:
                after, _ = step(params, with_parts(layout, state, parts), x)
                return list(moving_parts(layout, after))

            return jax.vjp(move, params, list(moving_parts(layout, state)), x)[1](d_parts)

        return by_autodiff

    def by_hand(params: PyTree, state: PyTree, x: Array, d_parts: list[Array]) -> Any:
        local = rule.saturated_derivatives(params, state, x)
        _, residuals = rule.forward_step(params, state, x)
        d_before, d_pre = rule.backward_step(params, local, with_parts(layout, state, d_parts))
        one = jax.tree.map(lambda leaf: leaf[None], (x, residuals, d_pre))
        d_params, d_x = rule.parameter_gradient(params, *one)
        return d_params, list(moving_parts(layout, d_before)), d_x[0]

    return by_hand


def row_products(cell: Cell | Stack | Step, layout: Layout) -> tuple[Any, Any]:
    """``(params, state, x, rows) -> rows``, by tangents and by cotangents: J v and Jᵀ v of every row v."""
    rule: Any = cell.rule if isinstance(cell, Cell) else None
    splits = [sum(layout.sizes[: n + 1]) for n in range(len(layout.sizes) - 1)]

    def parts(row: Array, state: PyTree) -> list[Array]:
        shapes = [jnp.shape(part) for part in moving_parts(layout, state)]
        return [p.reshape(s) for p, s in zip(jnp.split(row, splits), shapes, strict=True)]

    def flat(parts: Sequence[Array]) -> Array:
        return jnp.concatenate([jnp.ravel(part) for part in parts])

    if rule is None or rule.saturated_derivatives is None:
        step = step_of(cell)

        def step_of_parts(params: PyTree, state: PyTree, x: PyTree) -> tuple[Any, list[Array]]:
            def move(here: list[Array]) -> list[Array]:
                return list(
                    moving_parts(layout, step(params, with_parts(layout, state, here), x)[0])
                )

            return move, list(moving_parts(layout, state))

        def forward(params: PyTree, state: PyTree, x: PyTree, rows: Array) -> Array:
            move, here = step_of_parts(params, state, x)
            return jax.vmap(lambda row: flat(jax.jvp(move, (here,), (parts(row, state),))[1]))(rows)

        def backward(params: PyTree, state: PyTree, x: PyTree, rows: Array) -> Array:
            move, here = step_of_parts(params, state, x)
            _, pull = jax.vjp(move, here)
            return jax.vmap(lambda row: flat(pull(parts(row, state))[0]))(rows)

        return forward, backward

    def local_of(params: PyTree, state: PyTree, x: Array) -> Any:
        return rule.saturated_derivatives(params, state, x)

    def forward_by_hand(params: PyTree, state: PyTree, x: Array, rows: Array) -> Array:
        local = local_of(params, state, x)
        dot = rule.backward_step(params, local, jax.tree.map(jnp.zeros_like, state))[1]

        def one(row: Array) -> Array:
            state_dot = with_parts(layout, state, parts(row, state))
            return flat(jax.tree.leaves(rule.tangent_step(params, local, state_dot, dot)))

        return jax.vmap(one)(rows)

    def backward_by_hand(params: PyTree, state: PyTree, x: Array, rows: Array) -> Array:
        local = local_of(params, state, x)

        def one(row: Array) -> Array:
            d_state = with_parts(layout, state, parts(row, state))
            return flat(jax.tree.leaves(rule.backward_step(params, local, d_state)[0]))

        return jax.vmap(one)(rows)

    return forward_by_hand, backward_by_hand


Move = Callable[[PyTree, PyTree, PyTree, Float[Array, "n k"]], tuple[PyTree, Float[Array, "n k"]]]
"""``(params, state, x, q) -> (state after the step, J_t q)``."""


def pushforward(cell: Cell | Stack | Step, layout: Layout) -> Move:
    """Make the function ``(params, state, x, q) -> (state, J q)`` for one sample of a cell or a step.

    Args:
        cell: a cell or a stack, with its closed forms, or any step.
        layout: of the state.
    """
    if isinstance(cell, Stack):
        return lambda params, states, x, q: _of_stack(cell, layout, params, states, x, q)
    if isinstance(cell, Cell):
        return lambda params, state, x, q: _of_cell(cell, layout, params, state, x, q)
    return lambda params, state, x, q: _by_autodiff(cell, layout, params, state, x, q)


def laid_out(cell: Cell | Stack | Step, params: PyTree, steps: int) -> PyTree:
    """The parameters with transposes of the weights made once, for a closed form in a loop."""
    return loop_weights(params, steps) if isinstance(cell, (Cell, Stack)) else params


def _of_cell(
    cell: Cell, layout: Layout, params: PyTree, state: PyTree, x: Array, q: Array
) -> tuple[PyTree, Array]:
    jacobian = cell.step_jacobian(params, state, x)
    parts = _split(q, layout.sizes)
    moved = [_times_parts(row, parts) for row in jacobian]
    return cell.step(params, state, x)[0], jnp.concatenate(moved)


def _of_stack(
    stack: Stack, layout: Layout, params: Any, states: PyTree, x: Array, q: Array
) -> tuple[PyTree, Array]:
    parts = iter(_split(q, layout.sizes))
    after, moved = [], []
    x_dot: Any = None
    for number, (cell, own, state) in enumerate(
        zip(cells_of(stack.layers), params.layers, states, strict=True)
    ):
        jacobian = cell.step_jacobian(own, state, x)
        rates = zoneout_rates(stack.zoneout, state)
        mine = [next(parts) for _ in state]
        dots = [_times_parts(row, mine) for row in jacobian]
        if x_dot is not None:
            by_input = cell.input_jacobian(own, state, x)
            dots = [dot + block @ x_dot for dot, block in zip(dots, by_input, strict=True)]
        dots = [
            rate * before + (1 - rate) * dot if rate else dot
            for rate, before, dot in zip(rates, mine, dots, strict=True)
        ]
        new, out = cell.step(own, state, x)
        if any(rates):
            new = type(new)(
                *(r * old + (1 - r) * n for r, old, n in zip(rates, state, new, strict=True))
            )
            out = new.h
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
        parts = _split(tangent, layout.sizes)
        shaped = tuple(t.reshape(p.shape) for t, p in zip(parts, here, strict=True))
        _, dots, after = jax.jvp(move, (here,), (shaped,), has_aux=True)
        return dots, after

    dots, after = jax.vmap(along, in_axes=1, out_axes=(-1, None))(q)
    return after, jnp.concatenate([d.reshape(-1, q.shape[1]) for d in dots])


def _split(q: Array, sizes: tuple[int, ...]) -> list[Array]:
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    return [q[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _times_parts(row: Any, parts: list[Array]) -> Array:
    """Σ_b J_ab q_b, a vector standing for a diagonal block."""
    terms = [
        block @ q if block.ndim == 2 else jnp.broadcast_to(block[:, None], q.shape) * q
        for block, q in zip(row, parts, strict=True)
    ]
    return sum(terms[1:], start=terms[0])
