r"""Gate activations, and gate time constants: how long each unit remembers by its gate alone.

    ∏_{j=k+1}^{t} f_j = exp(−(t − k) / τ),      τ = −1 / mean log f        effective, over a run

For a constant gate, τ = −1 / log f, which is 1/(1 − f) − ½ for f near 1; 1/(1 − mean f) is the number that is
usually quoted. For a gate that varies, mean log f ≤ log mean f: it remembers for a shorter time than that.

Relation to the curves: with τ the longest of all units, the carousel's norm falls as e^(−lag/τ),

    half-life  τ log 2      decades per 100 steps  100 / (τ log 10)      horizon at a thousandth  τ log 1000

Axes: every array [H], a batch leads.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradient_flow.result_display import values_table
from gradient_flow.step_jacobians.checked_arguments import (
    checked_run,
    require_finite_states,
    with_samples,
    without_samples,
)
from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.cells import Cell
from lstm_jax.cells.cell import check_cell_arguments, require_cell
from lstm_jax.validation import require_finite_arguments


class TimeConstants(NamedTuple):
    """Time constants in steps, by unit: [H] or [B, H].

    Attributes:
        effective: −1 / mean log f over the run; ∞ for a gate that was 1 throughout, 0 for one that was 0 at
            any step.
        at_mean: 1 / (1 − mean f), from 1 to ∞.
        shortest: 1 / (1 − f) at the step with the smallest f.
        longest: 1 / (1 − f) at the step with the largest f; ∞ where that f is 1.
    """

    effective: Any
    at_mean: Any
    shortest: Any
    longest: Any

    def _repr_html_(self) -> str:
        return values_table("Time constants of the units, in steps", self._asdict())


def gate_time_constants(
    cell: Cell, params: PyTree, state0: PyTree | None, xs: Float[Array, "time *batch d"]
) -> TimeConstants:
    """How long the gate of each unit keeps its state, over a run.

    Args:
        cell: from `lstm_jax.lstm` (the forget gate f) or `gru` (the update gate u), or a variant.
        params: of the cell.
        state0: the starting state; zeros if None.
        xs: [T, D] or [T, B, D].

    Raises:
        ValueError: a vanilla cell, which has no gate.
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell or each other.
        NonFiniteError: a NaN or an infinity in the arguments, or in the states, with its step.

    Example:
        >>> import jax, lstm_jax
        >>> from gradient_flow import gate_time_constants
        >>> cell = lstm_jax.lstm(3, 8, forget_bias=lstm_jax.chrono(1000))
        >>> params = cell.init(jax.random.key(0))
        >>> xs = jax.random.normal(jax.random.key(1), (200, 3))
        >>> found = gate_time_constants(cell, params, None, xs)
        >>> found.effective.shape, bool((found.effective <= found.at_mean).all())
        ((8,), True)
    """
    require_cell(cell)
    gate = cell.memory_gate
    if gate is None:
        raise ValueError(f"Cell mismatch: expected a cell with gates, lstm or gru, got {cell!r}.")
    given = checked_run(cell, params, state0, xs, None)
    require_finite_states(cell, params, given, xs)
    states, samples = with_samples(given.batched, given.state0, xs)
    found = _time_constants(cell, gate, params, states, samples)
    return without_samples(given.batched, found)


@partial(jax.jit, static_argnums=(0, 1))
def _time_constants(
    cell: Cell, gate: str, params: PyTree, state0: PyTree, xs: Array
) -> TimeConstants:
    def keep(state: PyTree, x: Array) -> tuple[PyTree, Array]:
        return cell.step(params, state, x)[0], cell.gates(params, state, x)[gate]

    _, f = lax.scan(keep, state0, xs)
    return TimeConstants(
        # Sizes: log 1 is −0 and its inverse −∞, and a mean of f near 1 may round to more than 1.
        effective=1 / jnp.abs(jnp.mean(jnp.log(f), axis=0)),
        at_mean=1 / jnp.mean(1 - f, axis=0),
        shortest=1 / (1 - jnp.min(f, axis=0)),
        longest=1 / (1 - jnp.max(f, axis=0)),
    )


def gate_activations(
    cell: Cell, params: PyTree, state0: PyTree | None, xs: Array
) -> dict[str, Array]:
    """The activation of each gate at each step.

    Args:
        cell: from `lstm_jax.lstm` (i, f, g, o), `gru` (r, u, n) or `rnn` (its slope φ').
        params: of the cell.
        state0: the starting state; zeros if None.
        xs: [T, D] or [T, B, D].

    Returns:
        ``{name: [T, H] or [T, B, H]}``.

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell or each other.
        NonFiniteError: a NaN or an infinity in the arguments.
    """
    state0 = check_cell_arguments(cell, params, xs, state0)
    require_finite_arguments(params, state0, xs, batched=jnp.ndim(xs) == 3)

    return _gates(cell, params, state0, xs)


@partial(jax.jit, static_argnums=0)
def _gates(cell: Cell, params: PyTree, state0: PyTree, xs: Array) -> dict[str, Array]:
    def keep(state: PyTree, x: Array) -> tuple[PyTree, dict[str, Array]]:
        after, _ = cell.step(params, state, x)
        return after, cell.gates(params, state, x)

    return lax.scan(keep, state0, xs)[1]
