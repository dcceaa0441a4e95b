r"""Check a gradient derived by hand against autodiff, parameter by parameter and lag by lag.

The parameters θ are used once at each step. Write θ_k for the copy used at step k. The loss of the last step
has the gradient


    c_k = ∂ℓ_T/∂θ_k,   lag T − k            ∂ℓ_T/∂θ = Σ_k c_k

A derivation that forgets a path through time is right at the first lags and wrong from some lag on; the leaf
and that lag identify the path. The reference is autodiff of the plain scan with T copies of the parameters,
under `jit`, in float64.

A gradient by hand may return c_1 … c_T one by one, or only their sum:
`gradient_flow.verdicts.step_contributions` finds the c_k of both. Of sums, a c_k below their rounding is not
resolved, so that a vanishing gradient that was cut off looks right: return the c_k to tell.
`gradient_flow.verdicts.audit_report` has the table and the sentence, `gradient_flow.verdicts.usual_faults`
what is recognised by its kind.

Axes: xs[T, ...]; the errors of a leaf are [lags], each relative to the largest entry at that lag.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.measurements.curve_summary import lag_grid
from gradient_flow.step_jacobians.checked_arguments import whole_numbers
from gradient_flow.verdicts.audit_report import Audit, LeafAudit
from gradient_flow.verdicts.step_contributions import by_autodiff, by_hand
from gradient_flow.verdicts.usual_faults import common_factor, gate_order
from lstm_jax.array_types import PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.gradients.gradient_check import in_float64, relative_error
from lstm_jax.validation import (
    ShapeError,
    leaf_name,
    require_finite_arguments,
    require_number,
    require_one_of,
    require_parameters,
    require_tree_of_arrays,
)

LOSS_AT = ("last", "every")


def audit(
    gradient: Callable[[Any, Any, Any], PyTree],
    cell_or_step: Cell | Step,
    loss: Callable[[Any, Any, Any], Any],
    params: PyTree,
    state0: PyTree,
    xs: PyTree,
    *,
    loss_at: str = "last",
    lags: Sequence[int] | None = None,
    tolerance: float = 1e-12,
) -> Audit:
    """Compare a gradient derived by hand with autodiff in float64, per parameter and per lag.

    `lstm_jax.check_gradients` compares whole gradients with central differences as well.

    Args:
        gradient: ``gradient(params, state0, xs)``, the derivation: a pytree like ``params`` whose leaves
            have the parameters' shapes, or [T, *shape] with the contribution of each step. It is not
            traced, so NumPy loops work; one that returns sums is called for parts of the sequence too, two
            or four for each lag (under `jit` it compiles for each of their lengths), and tells nothing of
            lags whose contribution is below the rounding of the sums.
        cell_or_step: a cell, or any ``step(params, state, x) -> (state, out)``.
        loss: ``loss(params, state, x) -> scalar``, what the loss adds at one step, from the state after it.
        params: pytree of floating arrays. A leaf of zeros that the step adds to a quantity has that
            quantity's total cotangent for its c_k: this is how a recursion for δh_k or δC_k is audited.
        state0: the starting state.
        xs: any pytree of arrays with time leading; the targets of the loss belong here too.
        loss_at: what ``gradient`` is the gradient of: the loss of the ``"last"`` step, or the sum over
            ``"every"`` step. The lags are those of the last step's loss either way.
        lags: which to compare, from 0 to T − 1; if None each up to 10, and then some 25 a decade.
        tolerance: bound on every relative error.

    Returns:
        An `Audit`: ``verdict`` in words, ``wrong`` as {leaf: first wrong lag} and ``wrong_gates`` as
        {leaf: {gate: first wrong lag}}, ``resolved_lags``, ``factor`` and ``gate_order`` of what is right
        but for these, ``leaves`` in numbers.

    Raises:
        ShapeError: a gradient whose leaves have other shapes, or xs without a common time axis.
        TypeError: a gradient whose structure is not that of ``params``.
        ValueError: lags outside of the sequence, or a loss that is not a scalar.
        NonFiniteError: a NaN or an infinity in the arguments.

    Example:
        >>> import jax, jax.numpy as jnp, lstm_jax, gradient_flow
        >>> cell = lstm_jax.lstm(3, 4)
        >>> xs = jax.random.normal(jax.random.key(1), (6, 3))
        >>> def by_hand(params, state0, xs):  # of the loss Σ h_T
        ...     d_hs = jnp.zeros((len(xs), 4)).at[-1].set(1.0)
        ...     return lstm_jax.bptt(cell, params, xs, state0, d_hs=d_hs).params
        >>> found = gradient_flow.audit(
        ...     by_hand, cell, lambda params, state, x: jnp.sum(state.h),
        ...     cell.init(jax.random.key(0)), cell.initial_state(), xs,
        ... )
        >>> found.ok
        True
    """
    require_one_of("loss_at", loss_at, LOSS_AT)
    require_number("tolerance", tolerance, above=0)
    require_parameters("gradient", gradient, "params, state0, xs")
    require_parameters("loss", loss, "params, state, x")
    step = cell_or_step.step if isinstance(cell_or_step, Cell) else cell_or_step
    require_parameters("step", step, "params, state, x")
    for name, value in (("params", params), ("state0", state0), ("xs", xs)):
        require_tree_of_arrays(name, value)
    require_finite_arguments(params, state0, xs)
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(xs)}
    if len(lengths) != 1 or not min(lengths) or not min(lengths)[0]:
        raise ShapeError(
            f"Shape mismatch: expected xs with one leading time axis, got {sorted(lengths)}."
        )
    length = min(lengths)[0]
    if lags is None:
        lags = lag_grid((length - 1,)) if length > 1 else [0]
    wanted = whole_numbers("lags", lags, 0, length - 1)
    with jax.enable_x64(True):
        params, state0, xs = in_float64((params, state0, xs))
        reference = by_autodiff(step, loss, loss_at, params, state0, xs)
        hand = by_hand(gradient, loss_at, params, reference.states, xs, wanted)
    names = [leaf_name(path) or "params" for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    gates: tuple[str, ...] = ()
    columns = 0
    if isinstance(cell_or_step, Cell) and len(cell_or_step.gate_names) > 1:
        gates = cell_or_step.gate_names
        columns = len(gates) * cell_or_step.hidden_size
    packed = [np.shape(leaf)[-1:] == (columns,) for leaf in jax.tree.leaves(params)]
    leaves = []
    for n, name in enumerate(names):
        right = [reference.single[n][length - 1 - lag] for lag in wanted]
        found = _leaf_audit(name, hand.single[n], right, gates if packed[n] else ())
        leaves.append(found._replace(whole=relative_error(hand.whole[n], reference.whole[n])))
    result = Audit(np.asarray(wanted), tuple(leaves), tolerance)
    if result.ok:
        return result
    pairs = [(hand.whole, reference.whole)]
    if hand.by_step is not None:
        pairs.append((hand.by_step, reference.single))
    counts = {"batch": _batch_size(state0, xs), "steps": length}
    factors = [common_factor(*pair, tolerance, counts) for pair in pairs]
    orders = [gate_order(*pair, packed, gates, tolerance) for pair in pairs]
    return result._replace(
        factor=factors[0] if None not in factors else None,
        gate_order=orders[0] if len(set(orders)) == 1 else None,
    )


def _leaf_audit(
    name: str,
    hand: list[tuple[np.ndarray, float]],
    right: list[np.ndarray],
    gates: tuple[str, ...],
) -> LeafAudit:
    """Compare c_k at each lag, and gate by gate."""
    by_lag, sizes, resolution = (np.zeros(len(right)) for _ in range(3))
    by_gate = {gate: np.zeros(len(right)) for gate in gates}
    for i, ((found, unresolved), expected) in enumerate(zip(hand, right, strict=True)):
        size = sizes[i] = np.max(np.abs(expected), initial=0.0)
        if unresolved:
            resolution[i] = unresolved / size if size else np.inf
        difference = np.abs(found - expected)
        # Written so that a NaN is an error too.
        if not np.max(difference, initial=0.0) <= unresolved:
            by_lag[i] = _finite_or_inf(relative_error(found, expected))
            columns = np.split(difference, len(gates), axis=-1) if gates else []
            for gate, own in zip(gates, columns, strict=True):
                top = float(np.max(own, initial=0.0))
                seen = not top <= unresolved
                by_gate[gate][i] = _finite_or_inf(top / size if size else np.inf) if seen else 0.0
        elif 0 < size <= unresolved:
            for errors in (by_lag, *by_gate.values()):
                errors[i] = np.nan
    return LeafAudit(name, 0.0, by_lag, sizes, resolution, by_gate)


def _finite_or_inf(error: float) -> float:
    return np.inf if np.isnan(error) else error


def _batch_size(state0: PyTree, xs: PyTree) -> int:
    """The size of an axis that leads the state and follows time in xs; 1 without one."""
    states, inputs = ([jnp.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (state0, xs))
    axes = {shape[0] for shape in states if len(shape) > 1}
    axes |= {shape[1] for shape in inputs if len(shape) > 1}
    every = all(len(shape) > 1 for shape in (*states, *inputs))
    return axes.pop() if every and len(axes) == 1 else 1
