r"""A recurrence evaluated in parallel: Newton's method on all of its states at once.

    s_t = f(s_{t−1}, x_t),  t = 1 … T,        J_t = ∂f/∂s at s_{t−1}

Linearised about a guess s^(i), the recurrence is affine, and an associative scan solves it in log₂ T rounds:

    s_t = J_t s_{t−1} + b_t,   b_t = f(s^(i)_{t−1}, x_t) − J_t s^(i)_{t−1};   s_0 given

After i rounds the first i states are exact, whatever the guess; where the dynamics forget, λ_1 < 0, errors do
not travel far, and a few rounds are enough for any T. Where they do not, λ_1 > 0, corrections grow on their
way and the number of rounds goes towards T (Lim et al. 2024; Gonzalez et al. 2025). The size of the last
correction, which knows of that growth, decides on convergence: a small residual alone would not.

A state that is not finite on the way, or so large that its square is not, is set back to f of the guess, and
that round does not count as converged.

Axes: states[T, n], one sample.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradient_flow.arguments import checked_run, step_of, with_samples
from gradient_flow.associative import affine, rows_of, running_products, step_jacobians
from gradient_flow.scaled import with_exponent
from gradient_flow.step_jacobian import Layout, flat_parts, from_flat
from lstm_jax.array_types import Array, Bool, Float, Int, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.stack import Stack
from lstm_jax.validation import DtypeError, require_arrays, require_number, require_positive_int


class ParallelStates(NamedTuple):
    """The states of a run, and how far Newton's method has come.

    Attributes:
        states: s_1 … s_T, a pytree like the state with time leading; of no use where not converged.
        iterations: rounds taken, a number, or [B].
        converged: whether the last correction was within the tolerance.
        correction: its size, the largest |s^(i) − s^(i−1)| beside states of size max(1, |s|).
        residual: the largest |s_t − f(s_{t−1}, x_t)| of the states returned, in the same measure.
    """

    states: Any
    iterations: Int[Array, "*batch"]
    converged: Bool[Array, "*batch"]
    correction: Float[Array, "*batch"]
    residual: Float[Array, "*batch"]


def parallel_states(
    cell_or_step: Cell | Stack | Step,
    params: PyTree,
    state0: PyTree | None,
    xs: PyTree,
    *,
    guess: PyTree | None = None,
    max_iterations: int = 100,
    tolerance: float | None = None,
    batched: bool | None = None,
) -> ParallelStates:
    """The states of a run by parallel Newton iteration; look at ``converged`` before using them.

    Converged states are those of the serial run to about the square of the tolerance, and to rounding as
    it grows along the sequence. No loop over time is run here, and so nothing tells at which step states
    overflow that do: they do not converge.

    Args:
        cell_or_step: a cell, a stack in one direction, or any step whose state is floating throughout.
        params: of the cell.
        state0: the starting state of one sample, or of B; zeros if None (a step needs one).
        xs: [T, D] or [T, B, D]; for a step any pytree with time leading.
        guess: states to begin with, as ``states`` of an earlier call; s_0 at all times if None.
        max_iterations: when to give up.
        tolerance: largest correction that counts as converged; a thousand units of rounding if None.
        batched: whether a step's xs and state0 have a batch axis.

    Returns:
        `ParallelStates`.

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell, the step or each other; a
            state with leaves that are not floating, of which there is no Newton step.
        NonFiniteError: a NaN or an infinity in the arguments; of xs, with its step.
        ValueError: max_iterations or tolerance that are not positive.

    Source: Lim, Zhu, Selfridge & Kasim, "Parallelizing non-linear sequential models over the sequence
    length", 2024.

    Example:
        >>> import jax, jax.numpy as jnp, lstm_jax, gradient_flow
        >>> cell = lstm_jax.gru(3, 8)
        >>> params = cell.init(jax.random.key(0))
        >>> xs = jax.random.normal(jax.random.key(1), (500, 3))
        >>> found = gradient_flow.parallel_states(cell, params, None, xs)
        >>> _, hs = lstm_jax.unroll(cell, params, xs)
        >>> bool(found.converged), bool(jnp.allclose(found.states.h, hs, atol=1e-5))
        (True, True)
    """
    require_positive_int("max_iterations", max_iterations)
    if tolerance is not None:
        require_number("tolerance", tolerance, above=0)
    given = checked_run(cell_or_step, params, state0, xs, batched)
    layout = given.layout
    if not all(layout.moving):
        raise DtypeError(
            "Dtype mismatch: expected a state whose leaves are all floating, which a Newton step can "
            f"correct, got {given.state0}."
        )
    if guess is not None:
        shapes = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct((given.length, *jnp.shape(s)), layout.dtype),
            given.state0,
        )
        require_arrays("guess", guess, shapes, layout.dtype)
    if tolerance is None:
        tolerance = 1000 * float(jnp.finfo(layout.dtype).eps)
    return _newton(
        cell_or_step,
        layout,
        given.batched,
        params,
        given.state0,
        xs,
        guess,
        jnp.int32(max_iterations),
        jnp.asarray(tolerance, layout.dtype),
    )


class _Round(NamedTuple):
    """Where the iteration stands: states[T, n], the size of the correction that led there, and its number."""

    states: Any
    correction: Any
    number: Any


@partial(jax.jit, static_argnums=(0, 1, 2))
def _newton(
    cell: Cell | Stack | Step,
    layout: Layout,
    batched: bool,
    params: PyTree,
    state0: PyTree,
    xs: PyTree,
    guess: PyTree | None,
    most: Array,
    tolerance: Array,
) -> ParallelStates:
    step = step_of(cell)
    length = jax.tree.leaves(xs)[0].shape[0]
    flat_of = partial(flat_parts, layout)
    # Beyond it a square overflows and a reciprocal is no normal number; a NaN is not below it.
    huge = jnp.sqrt(jnp.finfo(layout.dtype).max)

    def one(state0: PyTree, xs: PyTree, guess: PyTree | None) -> tuple[PyTree, _Round, Array]:
        first = flat_of(state0)

        def ahead(states: Array) -> tuple[PyTree, Array]:
            """The states before each step, and f of them."""
            before = jnp.concatenate([first[None], states[:-1]])
            before = jax.vmap(lambda v: from_flat(layout, state0, v))(before)
            after = jax.vmap(lambda s, x: flat_of(step(params, s, x)[0]))(before, xs)
            return before, after

        def correct(at: _Round) -> _Round:
            before, after = ahead(at.states)
            jacobians = step_jacobians(cell, layout, params, before, xs)
            flat = jax.vmap(flat_of)(before)
            offsets = after - jnp.einsum("tij,tj->ti", jacobians, flat)
            # [s_0 1] comes out of the first factor, whatever goes in.
            factors = affine(
                jnp.concatenate([jnp.zeros_like(jacobians[:1]), jnp.swapaxes(jacobians, 1, 2)]),
                jnp.concatenate([first[None], offsets]),
            )
            row = rows_of(running_products(factors))
            found = with_exponent(row, jnp.zeros_like(row.exponent))[1:, 0]
            sound = jnp.abs(found) < huge
            found = jnp.where(sound, found, jnp.where(jnp.abs(after) < huge, after, 0))
            size = jnp.max(jnp.abs(found - at.states) / _scale(found))
            return _Round(found, jnp.where(jnp.all(sound), size, jnp.inf), at.number + 1)

        if guess is None:
            begin = jnp.broadcast_to(first, (length, *first.shape))
        else:
            begin = jax.vmap(flat_of)(guess)
        last = lax.while_loop(
            lambda at: ~(at.correction <= tolerance) & (at.number < most),
            correct,
            _Round(begin, jnp.asarray(jnp.inf, layout.dtype), jnp.int32(0)),
        )
        _, after = ahead(last.states)
        residual = jnp.max(jnp.abs(after - last.states) / _scale(last.states))
        states = jax.vmap(lambda v: from_flat(layout, state0, v))(last.states)
        return states, last._replace(states=None), residual

    state0, xs = with_samples(batched, state0, xs)
    if guess is not None:
        _, guess = with_samples(batched, (), guess)
    states, last, residual = jax.vmap(one, in_axes=(0, 1, 1), out_axes=(1, 0, 0))(state0, xs, guess)
    if not batched:
        states = jax.tree.map(lambda a: a[:, 0], states)
        last, residual = jax.tree.map(lambda a: a[0], (last, residual))
    return ParallelStates(
        states, last.number, last.correction <= tolerance, last.correction, residual
    )


def _scale(states: Float[Array, "T n"]) -> Float[Array, ""]:
    return jnp.maximum(jnp.max(jnp.abs(states)), jnp.ones((), states.dtype))
