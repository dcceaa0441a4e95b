r"""Products of step Jacobians, and the backward pass, parallel in time by an associative scan.

    P_{T,k} = J_T ⋯ J_{k+1}                                     [δ_kᵀ 1] = [δ_{k+1}ᵀ 1] H_k
    δ_k = J_{k+1}ᵀ δ_{k+1} + l_k,   l_k = ∂ℓ_k/∂s_k              H_k = | J_{k+1}  0 |
                                                                      |  l_kᵀ    1 |

A product of matrices may be bracketed in any way, so that T of them take log₂ T rounds in place of T: with
about twice the multiplications, and matrix-matrix products where the serial backward pass has matrix-vector
ones. This is faster on a machine with idle arithmetic units, and not on two cores of a CPU. ``form="serial"``
is the same recursion, step by step.

For the scales, and what they lose, see `gradient_flow.parallel_in_time.associative_scan`.

Axes: time leading; memory T·n², a few times over.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.long_products.scaled_matrix import (
    ScaledMatrix,
    as_scaled,
    evenly_scaled,
    log_frobenius,
    log_spectral,
    with_exponent,
)
from gradient_flow.parallel_in_time.associative_scan import (
    FORMS,
    affine,
    rows_of,
    running_products,
    step_jacobians,
)
from gradient_flow.step_jacobians.checked_arguments import (
    checked_run,
    require_cotangents,
    require_finite_states,
    with_samples,
    without_samples,
)
from gradient_flow.step_jacobians.state_layout import Layout, flat_parts, from_flat, part_slices
from gradient_flow.step_jacobians.trajectory import run
from lstm_jax.array_types import Array, Float, Int, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.layers.stack import Stack
from lstm_jax.validation import require_one_of


class Transitions(NamedTuple):
    """∂s_T/∂s_k at every lag, as matrix · diag(2^exponent).

    Attributes:
        lags: T − k, from 0 to T.
        matrix: [lags, n, n] or [B, lags, n, n], the largest entry of each column from ½ to 1, or 0.
        exponent: [lags, n] or [B, lags, n].
    """

    lags: Int[np.ndarray, "lags"]
    matrix: Float[Array, "*batch lags n n"]
    exponent: Int[Array, "*batch lags n"]

    def log_norms(self, norm: str = "spectral") -> Float[Array, "*batch lags"]:
        """Natural logs of the ``"spectral"`` or ``"frobenius"`` norms; −∞ of an exact zero."""
        require_one_of("norm", norm, ("spectral", "frobenius"))
        of = log_spectral if norm == "spectral" else log_frobenius
        return jax.jit(lambda m: of(evenly_scaled(m)))(ScaledMatrix(self.matrix, self.exponent))


class Cotangents(NamedTuple):
    """The total cotangents δ_k = ∂ℓ/∂s_k.

    Attributes:
        d_states: a pytree like the state with time leading, [T + 1, …] or [T + 1, B, …], k from 0; zero
            where the dtype underflows.
        log_norms: for each part of the state the natural log of its norm, [T + 1] or [B, T + 1], without
            underflow.
    """

    d_states: Any
    log_norms: dict[str, Float[Array, "*batch starts"]]


def parallel_transitions(
    cell_or_step: Cell | Stack | Step,
    params: PyTree,
    state0: PyTree | None,
    xs: PyTree,
    *,
    form: str = "parallel",
    batched: bool | None = None,
) -> Transitions:
    """∂s_T/∂s_k for all k by an associative scan.

    Args:
        cell_or_step: a cell, a stack in one direction, or any step, as for `jacobian_norms`.
        params: of the cell.
        state0: the starting state of one sample, or of B; zeros if None (a step needs one).
        xs: [T, D] or [T, B, D]; for a step any pytree with time leading.
        form: ``"parallel"``, or ``"serial"`` for the same products one after the other.
        batched: whether a step's xs and state0 have a batch axis.

    Returns:
        `Transitions`, by lag from 0.

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell, the step or each other.
        NonFiniteError: a NaN or an infinity in the arguments, or in the states, with its step.
        ValueError: an unknown form.

    Example:
        >>> import jax, lstm_jax, gradient_flow
        >>> cell = lstm_jax.rnn(3, 8, activation="identity", w_h_init=lstm_jax.orthogonal(0.5))
        >>> params = cell.init(jax.random.key(0))
        >>> found = gradient_flow.parallel_transitions(cell, params, None, jax.numpy.ones((1000, 3)))
        >>> print(round(float(found.log_norms()[1000])))  # 1000 log ½
        -693
    """
    require_one_of("form", form, FORMS)
    given = checked_run(cell_or_step, params, state0, xs, batched)
    require_finite_states(cell_or_step, params, given, xs)
    found = _transitions(cell_or_step, given.layout, given.batched, form, params, given.state0, xs)
    return Transitions(np.arange(given.length + 1), *found)


def parallel_cotangents(
    cell_or_step: Cell | Stack | Step,
    params: PyTree,
    state0: PyTree | None,
    xs: PyTree,
    d_states: PyTree,
    *,
    form: str = "parallel",
    batched: bool | None = None,
) -> Cotangents:
    """The exact backward pass by an associative scan: ∂ℓ/∂s_k for all k.

    Args:
        cell_or_step: a cell, a stack in one direction, or any step, as for `jacobian_norms`.
        params: of the cell.
        state0: the starting state of one sample, or of B; zeros if None (a step needs one).
        xs: [T, D] or [T, B, D]; for a step any pytree with time leading.
        d_states: l_t = ∂ℓ_t/∂s_t, what the loss adds at t = 1 … T: a pytree like the state with time
            leading, [T, …] or [T, B, …]. Leaves that are not floating are ignored.
        form: ``"parallel"``, or ``"serial"`` for the same recursion step by step.
        batched: whether a step's xs and state0 have a batch axis.

    Returns:
        `Cotangents`.

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell, the step or each other.
        NonFiniteError: a NaN or an infinity in the arguments, or in the states, with its step.
        ValueError: an unknown form.

    Example:
        >>> import jax.numpy as jnp, gradient_flow
        >>> def step(params, state, x):
        ...     return params * state + x, None
        >>> d_states = jnp.zeros((1000, 2)).at[-1].set(1.0)  # a loss that looks at the last state
        >>> found = gradient_flow.parallel_cotangents(
        ...     step, jnp.asarray([1.0, 0.5]), jnp.zeros(2), jnp.ones(1000), d_states
        ... )
        >>> found.d_states[0].tolist()
        [1.0, 0.0]
    """
    require_one_of("form", form, FORMS)
    given = checked_run(cell_or_step, params, state0, xs, batched)
    require_cotangents("d_states", given, d_states, given.length)
    require_finite_states(cell_or_step, params, given, xs)
    return _cotangents(
        cell_or_step, given.layout, given.batched, form, params, given.state0, xs, d_states
    )


def _before(cell: Cell | Stack | Step, params: PyTree, state0: PyTree, xs: PyTree) -> PyTree:
    """s_0 … s_{T−1} of one sample."""
    return jax.tree.map(lambda s: s[:-1], run(cell, params, state0, xs).states)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _transitions(
    cell: Cell | Stack | Step,
    layout: Layout,
    batched: bool,
    form: str,
    params: PyTree,
    state0: PyTree,
    xs: PyTree,
) -> tuple[Array, Array]:
    def one(state0: PyTree, xs: PyTree) -> ScaledMatrix:
        before = _before(cell, params, state0, xs)
        factors = as_scaled(step_jacobians(cell, layout, params, before, xs))
        found = running_products(factors, reverse=True, form=form)
        eye = as_scaled(jnp.eye(sum(layout.sizes), dtype=layout.dtype)[None])
        # By lag: k from T down.
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b[::-1]]), eye, found)

    found = jax.vmap(one, in_axes=(0, 1))(*with_samples(batched, state0, xs))
    return tuple(without_samples(batched, found))


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _cotangents(
    cell: Cell | Stack | Step,
    layout: Layout,
    batched: bool,
    form: str,
    params: PyTree,
    state0: PyTree,
    xs: PyTree,
    d_states: PyTree,
) -> Cotangents:
    def one(state0: PyTree, xs: PyTree, d_states: PyTree) -> tuple[PyTree, dict[str, Array]]:
        jacobians = step_jacobians(cell, layout, params, _before(cell, params, state0, xs), xs)
        local = jax.vmap(partial(flat_parts, layout))(d_states)
        # H_0 … H_T; the first has no l, the last no J.
        factors = affine(
            jnp.concatenate([jacobians, jnp.zeros_like(jacobians[:1])]),
            jnp.concatenate([jnp.zeros_like(local[:1]), local]),
        )
        row = rows_of(running_products(factors, reverse=True, form=form))
        flat = with_exponent(row, jnp.zeros_like(row.exponent))[:, 0]
        logs = {
            name: log_frobenius(
                evenly_scaled(ScaledMatrix(row.matrix[..., part], row.exponent[..., part]))
            )
            for name, part in zip(layout.names, part_slices(layout), strict=True)
        }
        return jax.vmap(lambda v: from_flat(layout, state0, v))(flat), logs

    state0, xs = with_samples(batched, state0, xs)
    _, d_states = with_samples(batched, (), d_states)
    found, logs = jax.vmap(one, in_axes=(0, 1, 1), out_axes=(1, 0))(state0, xs, d_states)
    return Cotangents(without_samples(batched, found, axis=1), without_samples(batched, logs))
