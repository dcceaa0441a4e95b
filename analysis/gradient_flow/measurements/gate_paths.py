r"""Which gate carries the gradient: norms of the transition with the paths through some gates cut.

    J_t = E_t + Σ_gate R_t^gate          E_t: not through W_h;  R_t^gate: through W_h into a gate

    P^S_{t,k} = ∏_{j=t}^{k+1} (E_j + Σ_{gate ∈ S} R_j^gate)          S: the gates that are kept

The states are those of the whole network; only the derivative is cut, as by `stop_gradient` before the gate.
With all gates kept P^S is the transition. With none, h_{t−1} is detached from all gates (h-detach: Kanuparthi
et al. 2019); for an LSTM the carousel is left.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.long_products.backward_walk import lag_curves
from gradient_flow.long_products.chunk_of_steps import LogNorms, Plan
from gradient_flow.measurements.curve_summary import chosen_lags
from gradient_flow.result_display import curves_table, draw_result
from gradient_flow.step_jacobians.checked_arguments import (
    checked_run,
    require_finite_states,
    with_samples,
)
from gradient_flow.step_jacobians.scaled_entries import block_sum
from gradient_flow.step_jacobians.scaled_jacobian import scaled_parts
from gradient_flow.step_jacobians.state_layout import JOINT
from lstm_jax.array_types import Array, Int, PyTree
from lstm_jax.cells import Cell
from lstm_jax.cells.cell import require_cell
from lstm_jax.validation import require_names

NORMS = ("spectral", "frobenius")


class GatePaths(NamedTuple):
    """Natural logs of the norms of P^S, by block: each array [subsets, lags], a batch before it.

    Attributes:
        kept: the gates of each subset, () first and all of them last unless chosen otherwise.
        lags: in steps.
        spectral: largest singular value of each block, ``spectral["cc"]``.
        frobenius: Frobenius norm of each block.
    """

    kept: tuple[tuple[str, ...], ...]
    lags: Int[np.ndarray, "lags"]
    spectral: LogNorms
    frobenius: LogNorms

    def plot(self, ax: Any = None, block: str | None = None) -> Any:
        """Draw log10 of a block's norms against the lag, by the gates that are kept.

        Args:
            ax: a matplotlib axis to draw into; a new one if None.
            block: which block; the first if None.

        Returns:
            The axis.
        """
        return draw_result("gate_path_curves", self, ax, block=block)

    def _repr_html_(self) -> str:
        norms = self.spectral or self.frobenius
        rows = {
            f"{block}, {'+'.join(kept) or 'no gate'}": np.asarray(logs)[..., n, :]
            for block, logs in norms.items()
            for n, kept in enumerate(self.kept)
        }
        return curves_table("Norms by block and gates kept, medians", self.lags, rows)


def gate_path_norms(
    cell: Cell,
    params: PyTree,
    state0: PyTree | None,
    xs: Array,
    *,
    kept: Sequence[Iterable[str]] | None = None,
    lags: Sequence[int] | None = None,
    blocks: Sequence[str] | None = None,
    norms: Sequence[str] = ("spectral",),
) -> GatePaths:
    """Log-norms of the transition from the last step back, with the paths through some gates cut.

    Args:
        cell: from `lstm_jax.lstm` (gates i, f, g, o), `gru` (r, u, n) or `rnn` (h), or a variant of them.
        params: of the cell.
        state0: the starting state; zeros if None.
        xs: [T, D] or [T, B, D].
        kept: the subsets of gates to keep, each a collection of names; all of them, 16 for an LSTM, if None.
        lags: which to report; if None each up to 10 and then 25 a decade.
        blocks: names of blocks between parts of the state, or ``ss``; all but that if None.
        norms: some of ``"spectral"`` and ``"frobenius"``.

    Returns:
        `GatePaths`; ``result.spectral["cc"][n]`` is the curve of the subset ``result.kept[n]``, −∞ where
        no path is left.

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell or each other.
        NonFiniteError: a NaN or an infinity in the arguments, or in the states, with its step.
        ValueError: gates, lags, blocks or norms that do not exist.

    Example:
        >>> import jax, lstm_jax, gradient_flow
        >>> cell = lstm_jax.lstm(3, 8)
        >>> params = cell.init(jax.random.key(0))
        >>> xs = jax.random.normal(jax.random.key(1), (30, 3))
        >>> found = gradient_flow.gate_path_norms(cell, params, None, xs, kept=["", "f", "ifgo"])
        >>> found.kept, found.spectral["cc"].shape[0]
        (((), ('f',), ('i', 'f', 'g', 'o')), 3)
    """
    require_cell(cell)
    if cell.paths is None:
        raise ValueError(f"Cell mismatch: expected a cell that has paths, got {cell}.")
    gates = cell.gate_names
    subsets = _subsets(gates, kept)
    norms = require_names("norms", norms, NORMS)
    given = checked_run(cell, params, state0, xs, None)
    names = tuple(given.layout.places())
    names = names if blocks is None else require_names("blocks", blocks, (*names, JOINT))
    chosen = chosen_lags(lags, given.length)
    require_finite_states(cell, params, given, xs)
    masks = np.asarray([[gate in subset for gate in gates] for subset in subsets])
    states, samples = with_samples(given.batched, given.state0, xs)
    # Each subset is a sample, so that all of them walk together.
    count, batch = len(subsets), samples.shape[1]
    states = jax.tree.map(lambda leaf: jnp.repeat(leaf, count, axis=0), states)
    inputs = (
        jnp.repeat(samples, count, axis=1),
        jnp.broadcast_to(
            jnp.tile(jnp.asarray(masks, given.layout.dtype), (batch, 1)),
            (given.length, batch * count, len(gates)),
        ),
    )
    found = lag_curves(
        _cut(cell),
        Plan(names, norms, given.layout),
        tuple(chosen),
        True,
        params,
        states,
        inputs,
        jnp.asarray([given.length], jnp.int32),
    )

    def by_subset(curves: Array) -> Array:
        curves = curves[:, 0].reshape(batch, count, -1)
        return curves if given.batched else curves[0]

    found = jax.tree.map(by_subset, found)
    return GatePaths(subsets, np.asarray(chosen), **{n: found.get(n, {}) for n in NORMS})


def _subsets(
    gates: tuple[str, ...], kept: Sequence[Iterable[str]] | None
) -> tuple[tuple[str, ...], ...]:
    if kept is None:
        return tuple(s for size in range(len(gates) + 1) for s in combinations(gates, size))
    if isinstance(kept, str) or not isinstance(kept, Sequence) or not kept:
        raise TypeError(f"Type mismatch: expected kept as a list of sets of gates, got {kept!r}.")
    subsets = [require_names("gates", tuple(subset), gates) for subset in kept]
    return tuple(tuple(gate for gate in gates if gate in subset) for subset in subsets)


@lru_cache
def _cut(cell: Cell) -> Cell:
    """The cell with inputs ``(x, kept)``; its step Jacobian has only the paths through the gates kept."""
    parts = scaled_parts(cell)

    def step(params: PyTree, state: PyTree, inputs: tuple[Array, Array]) -> tuple[PyTree, Array]:
        return cell.step(params, state, inputs[0])

    def step_jacobian(params: PyTree, state: PyTree, inputs: tuple[Array, Array]) -> Any:
        x, kept = inputs
        return tuple(
            tuple(map(block_sum, *rows))
            for rows in zip(*parts(params, state, x, kept), strict=True)
        )

    # Another step and name: the walk must not take it for the standard LSTM, whose gates read x.
    return cell._replace(
        name=f"{cell.name}_cut", step=step, step_jacobian=step_jacobian, rule=None, paths=None
    )
