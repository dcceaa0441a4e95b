r"""Check a gradient derived by hand against autodiff, parameter by parameter and lag by lag.

The parameters θ are used once at each step. Write θ_k for the copy used at step k. The loss of the last step
has the gradient


    c_k = ∂ℓ_T/∂θ_k,   lag T − k            ∂ℓ_T/∂θ = Σ_k c_k

A derivation that forgets a path through time is right at the first lags and wrong from some lag on; the leaf
and that lag identify the path. The reference is autodiff of the plain scan with T copies of the parameters,
under `jit`, in float64.

A gradient by hand may return c_1 … c_T one by one, or only their sum:
`gradient_flow.verdicts.step_contributions` finds the c_k of both.

Axes: xs[T, ...]; the errors of a leaf are [lags], each relative to the largest entry at that lag.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.measurements.curve_summary import lag_grid
from gradient_flow.verdicts.step_contributions import by_autodiff, by_hand
from lstm_jax.array_types import Float, Int, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.gradients.gradient_check import in_float64, relative_error
from lstm_jax.validation import (
    ShapeError,
    leaf_name,
    require_finite_arguments,
    require_number,
    require_one_of,
)

LOSS_AT = ("last", "every")
NAMED = 6
"""Leaves that a verdict names at each lag, at most."""


class LeafAudit(NamedTuple):
    """One leaf of the parameters.

    Attributes:
        name: its path, ``w_h``.
        whole: relative error of its whole gradient.
        by_lag: relative error of c_k at each lag; ∞ where c_k should be 0, or where it is NaN.
        sizes: max|c_k| by autodiff at each lag.
    """

    name: str
    whole: float
    by_lag: Float[np.ndarray, "lags"]
    sizes: Float[np.ndarray, "lags"]


class Audit(NamedTuple):
    """The outcome of `audit`: a table under `str`, a sentence as ``verdict``.

    Attributes:
        lags: the lags that were compared.
        leaves: one `LeafAudit` for each leaf of the parameters.
        tolerance: bound on every relative error.
    """

    lags: Int[np.ndarray, "lags"]
    leaves: tuple[LeafAudit, ...]
    tolerance: float

    @property
    def wrong(self) -> dict[str, int]:
        """The first wrong lag of each leaf that has one."""
        return {
            leaf.name: int(self.lags[np.argmax(leaf.by_lag > self.tolerance)])
            for leaf in self.leaves
            if (leaf.by_lag > self.tolerance).any()
        }

    @property
    def ok(self) -> bool:
        """Whether every leaf is right, as a whole and at every lag."""
        return not self.wrong and all(leaf.whole <= self.tolerance for leaf in self.leaves)

    @property
    def worst(self) -> tuple[str, int, float]:
        """Leaf, lag and size of the largest error."""
        leaf = max(self.leaves, key=lambda leaf: leaf.by_lag.max())
        return leaf.name, int(self.lags[leaf.by_lag.argmax()]), float(leaf.by_lag.max())

    @property
    def verdict(self) -> str:
        """Right, or wrong from which lag on and in which leaves, in one sentence."""
        name, lag, error = self.worst
        most = f"the largest error is {error:.2g}, in {name} at lag {lag}"
        if self.ok:
            return f"right at every lag up to {self.lags[-1]}: {most}"
        if not self.wrong:
            missed = ", ".join(
                leaf.name for leaf in self.leaves if not leaf.whole <= self.tolerance
            )
            return f"right at the lags that were compared, wrong as a whole in {missed}: {most}"
        groups = []
        for start in sorted(set(self.wrong.values())):
            names = [leaf for leaf, lag in self.wrong.items() if lag == start]
            named = ", ".join(names[:NAMED])
            named += f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            if len(names) == len(self.leaves) > 1:
                named = "every leaf"
            groups.append(f"from lag {start} on in {named}")
        return f"wrong {'; '.join(groups)}: {most}"

    def __str__(self) -> str:
        """The table, one line for each leaf and up to eight lags, and the verdict."""
        shown = np.unique(np.linspace(0, len(self.lags) - 1, min(8, len(self.lags))).astype(int))
        width = max(len("parameter"), *(len(leaf.name) for leaf in self.leaves))
        heads = "".join(f"  {f'lag {self.lags[n]}':>8}" for n in shown)
        lines = [f"{'parameter':{width}}  {'whole':>8}{heads}"]
        for leaf in self.leaves:
            cells = "".join(f"  {leaf.by_lag[n]:8.1e}" for n in shown)
            start = self.wrong.get(leaf.name)
            end = "" if start is None else f"  <- wrong from lag {start}"
            lines.append(f"{leaf.name:{width}}  {leaf.whole:8.1e}{cells}{end}")
        return "\n".join((*lines, f"{self.verdict} (relative, float64)"))


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
            or four for each lag (under `jit` it compiles for each of their lengths).
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
        An `Audit`: ``verdict`` in words, ``wrong`` as {leaf: first wrong lag}, ``leaves`` in numbers.

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
    for function in (gradient, loss):
        if not callable(function):
            raise TypeError(
                "Type mismatch: expected gradient and loss as functions, got "
                f"{type(function).__name__}."
            )
    step = cell_or_step.step if isinstance(cell_or_step, Cell) else cell_or_step
    require_finite_arguments(params, state0, xs)
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(xs)}
    if len(lengths) != 1 or not min(lengths) or not min(lengths)[0]:
        raise ShapeError(
            f"Shape mismatch: expected xs with one leading time axis, got {sorted(lengths)}."
        )
    length = min(lengths)[0]
    wanted = list(lags) if lags is not None else lag_grid((length - 1,)) if length > 1 else [0]
    if not wanted:
        raise ValueError("Range mismatch: expected at least one lag, got none.")
    for lag in wanted:
        if isinstance(lag, bool) or not isinstance(lag, (int, np.integer)) or not 0 <= lag < length:
            raise ValueError(f"Range mismatch: expected lags from 0 to {length - 1}, got {lag!r}.")
    with jax.enable_x64(True):
        params, state0, xs = in_float64((params, state0, xs))
        reference = by_autodiff(step, loss, loss_at, params, state0, xs)
        whole, hand = by_hand(gradient, loss_at, params, reference.states, xs, wanted)
    leaves = []
    for n, (path, _) in enumerate(jax.tree_util.tree_flatten_with_path(params)[0]):
        by_lag, sizes = np.zeros(len(wanted)), np.zeros(len(wanted))
        for i, (lag, (found, unresolved)) in enumerate(zip(wanted, hand[n], strict=True)):
            right = reference.single[n][length - 1 - lag]
            # Written so that a NaN is an error too.
            told = not np.max(np.abs(found - right), initial=0.0) <= unresolved
            by_lag[i] = relative_error(found, right) if told else 0.0
            sizes[i] = np.max(np.abs(right), initial=0.0)
        by_lag = np.where(np.isnan(by_lag), np.inf, by_lag)
        error = relative_error(whole[n], reference.whole[n])
        leaves.append(LeafAudit(leaf_name(path) or "params", error, by_lag, sizes))
    return Audit(np.asarray(wanted), tuple(leaves), tolerance)
