r"""J_t Q without more of J_t than that takes: how a step moves k tangents of the state.

    a cell          row a of J_t Q:     Σ_b J_ab Q_b            closed blocks; a diagonal one stays a vector
    a stack         q'^l = J^l q^l + X^l ẏ^{l−1},   ẏ^l = q'^l_h  (+ ẏ^{l−1} with a residual connection)
    any step        k directional derivatives, `jax.jvp`, of which `jax.jacfwd` would need n

Axes: q[n, k], the parts of the state under each other; one sample.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradient_flow.step_jacobian import Layout, moving_parts, with_parts
from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.dropout import zoneout_rates
from lstm_jax.loop_weight import loop_weights
from lstm_jax.stack import Stack, cells_of

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
