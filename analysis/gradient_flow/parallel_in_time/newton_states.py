r"""All states of a recurrence at once: DEER, parallel Newton iteration over time.

    s_t = f(s_{t−1}, x_t),  t = 1 … T,        J_t = ∂f/∂s at s_{t−1}

Linearised about a guess s^(i), the recurrence is affine, and an associative scan solves it in log₂ T rounds:

    s_t = J_t s_{t−1} + b_t,   b_t = f(s^(i)_{t−1}, x_t) − J_t s^(i)_{t−1};   s_0 given

After i rounds the first i states are exact, whatever the guess. Where the dynamics forget, λ_1 < 0, errors
die out, and a few rounds are enough for any T. Where λ_1 > 0, corrections grow along the sequence and the
number of rounds approaches T (Lim et al. 2024; Gonzalez et al. 2025). Convergence is decided by the size of
the last correction, which includes that growth: a small residual alone is not enough.

A round that goes beyond eight times max(1, the largest state that f returns) is damped: its states become f
of the guess, and the next round uses κ J in place of J. κ is halved after such a round, and doubled up to 1
after the others. Only a full Newton step, κ = 1, counts as converged. A network with λ_1 < 0 along its
trajectory may still be unstable near the guess, and then take many rounds.

Axes: states[T, n], one sample.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradient_flow.long_products.scaled_matrix import with_exponent
from gradient_flow.parallel_in_time.associative_scan import (
    affine,
    rows_of,
    running_products,
    step_jacobians,
)
from gradient_flow.step_jacobians.checked_arguments import (
    checked_run,
    with_samples,
    without_samples,
)
from gradient_flow.step_jacobians.state_layout import Layout, flat_parts, from_flat
from gradient_flow.step_jacobians.trajectory import step_of
from lstm_jax.array_types import Array, Bool, Float, Int, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.layers.stack import Stack
from lstm_jax.validation import DtypeError, require_arrays, require_number, require_positive_int


class ParallelStates(NamedTuple):
    """The states of a run by Newton's method, and whether it converged.

    Attributes:
        states: s_1 … s_T, a pytree like the state with time leading; wrong where not converged.
        iterations: the number of rounds, a number or [B].
        converged: whether the last correction and the residual are within the tolerance.
        correction: the last Newton step: the largest |s_t^(i) − s_t^(i−1)| / max(1, |s_t|); ∞ if damped.
        residual: the largest |s_t − f(s_{t−1}, x_t)| / max(1, |s_t|) of the returned states.
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
    """The states of a run by parallel Newton iteration; check ``converged`` before using them.

    Converged states agree with the serial run to about the square of the tolerance, and to rounding as it
    grows along the sequence. There is no loop over time, so a state that overflows is not reported with its
    step: the iteration does not converge.

    Args:
        cell_or_step: a cell, a stack in one direction, or any step whose state is floating throughout.
        params: of the cell.
        state0: the starting state of one sample, or of B; zeros if None (a step needs one).
        xs: [T, D] or [T, B, D]; for a step any pytree with time leading.
        guess: states to start with, as ``states`` of an earlier call; s_0 at all times if None.
        max_iterations: the most rounds.
        tolerance: the largest correction and residual of converged states; a thousand units of rounding if
            None.
        batched: whether a step's xs and state0 have a batch axis.

    Returns:
        `ParallelStates`.

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell, the step or each other; a
            state with leaves that are not floating.
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
            "Dtype mismatch: expected a state whose leaves are all floating, as a Newton step needs, "
            f"got {given.state0}."
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


class _Iterate(NamedTuple):
    """The carry of the iteration.

    Attributes:
        states: [T, n].
        after: [T, n], f of the state before each.
        residual: the largest difference between the two.
        correction: the last Newton step, ∞ if damped.
        damping: κ of the next round.
        number: the rounds so far.
    """

    states: Any
    after: Any
    residual: Any
    correction: Any
    damping: Any
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
    max_iterations: Array,
    tolerance: Array,
) -> ParallelStates:
    step = step_of(cell)
    length = jax.tree.leaves(xs)[0].shape[0]
    flat_of = partial(flat_parts, layout)
    # Beyond this, reciprocals are not normal numbers, and sizes cannot be compared.
    huge = jnp.sqrt(jnp.finfo(layout.dtype).max)

    def one(state0: PyTree, xs: PyTree, guess: PyTree | None) -> tuple[PyTree, _Iterate, Array]:
        first = flat_of(state0)

        def before(states: Array) -> PyTree:
            earlier = jnp.concatenate([first[None], states[:-1]])
            return jax.vmap(lambda v: from_flat(layout, state0, v))(earlier)

        def step_and_residual(states: Array) -> tuple[Array, Array]:
            """F of the state before each, and the residual."""
            after = jax.vmap(lambda s, x: flat_of(step(params, s, x)[0]))(before(states), xs)
            return after, _largest(after - states, states)

        def newton(at: _Iterate) -> Array:
            earlier = before(at.states)
            jacobians = at.damping * step_jacobians(cell, layout, params, earlier, xs)
            flat = jax.vmap(flat_of)(earlier)
            offsets = at.after - jnp.einsum("tij,tj->ti", jacobians, flat)
            # The first factor returns [s_0 1] for every input.
            factors = affine(
                jnp.concatenate([jnp.zeros_like(jacobians[:1]), jnp.swapaxes(jacobians, 1, 2)]),
                jnp.concatenate([first[None], offsets]),
            )
            row = rows_of(running_products(factors))
            return with_exponent(row, jnp.zeros_like(row.exponent))[1:, 0]

        def correct(at: _Iterate) -> _Iterate:
            found = newton(at)
            after, residual = step_and_residual(found)
            bound = 8 * jnp.maximum(jnp.max(jnp.abs(at.after)), 1)
            # False for a NaN.
            sound = jnp.max(jnp.abs(found)) <= jnp.minimum(bound, huge)
            whole = sound & (at.damping == 1)
            correction = jnp.where(whole, _largest(found - at.states, found), jnp.inf)
            damped = jnp.where(jnp.abs(at.after) < huge, at.after, 0)
            states = jnp.where(sound, found, damped)
            after_damped, residual_damped = step_and_residual(damped)
            return _Iterate(
                states,
                jnp.where(sound, after, after_damped),
                jnp.where(sound, residual, residual_damped),
                correction,
                jnp.where(sound, jnp.minimum(2 * at.damping, 1), at.damping / 2),
                at.number + 1,
            )

        def done(at: _Iterate) -> Array:
            return (at.correction <= tolerance) & (at.residual <= tolerance)

        if guess is None:
            start = jnp.broadcast_to(first, (length, *first.shape))
        else:
            start = jax.vmap(flat_of)(guess)
        whole, infinite = jnp.ones((), layout.dtype), jnp.asarray(jnp.inf, layout.dtype)
        last = lax.while_loop(
            lambda at: ~done(at) & (at.number < max_iterations),
            correct,
            _Iterate(start, *step_and_residual(start), infinite, whole, jnp.int32(0)),
        )
        states = jax.vmap(lambda v: from_flat(layout, state0, v))(last.states)
        return states, last._replace(states=None, after=None), done(last)

    state0, xs = with_samples(batched, state0, xs)
    if guess is not None:
        _, guess = with_samples(batched, (), guess)
    states, last, converged = jax.vmap(one, in_axes=(0, 1, 1), out_axes=(1, 0, 0))(
        state0, xs, guess
    )
    states = without_samples(batched, states, axis=1)
    last, converged = without_samples(batched, (last, converged))
    return ParallelStates(states, last.number, converged, last.correction, last.residual)


def _largest(difference: Float[Array, "T n"], states: Float[Array, "T n"]) -> Float[Array, ""]:
    """The largest entry, relative to the largest of the state at its time and 1."""
    sizes = jnp.maximum(jnp.max(jnp.abs(states), axis=1), 1)
    return jnp.max(jnp.max(jnp.abs(difference), axis=1) / sizes)
