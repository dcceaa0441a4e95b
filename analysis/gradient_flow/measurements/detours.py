r"""Norms of the gradient's paths from t back to k, by their detours: how often they pass through W_h.

    J_t = E_t + R_t          R_t: all that passes through W_h;  E_t: all that does not

    P_{t,k} = Π (E + R) = Σ_m P^{(m)}_{t,k}          P^{(m)}: the paths with m factors R

    P^{(m)}_{t,k} = P^{(m)}_{t,k+1} E_{k+1} + P^{(m−1)}_{t,k+1} R_{k+1}

Every path is in exactly one P^{(m)}. Paths with more than M detours are one more term, so none is left out:

    P^{(>M)}_{t,k} = P^{(>M)}_{t,k+1} J_{k+1} + P^{(M)}_{t,k+1} R_{k+1}

For an LSTM E_t has the columns of C_{t−1}: `cc` at m = 0 is the carousel ∏ f. For a GRU E_t = diag(u_t). A
vanilla network has no E_t: all of its paths take a detour at every step.
`gradient_flow.measurements.detour_terms` computes the terms.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradient_flow.long_products import transition
from gradient_flow.long_products.chunk_of_steps import LogNorms, Plan, nan_unless
from gradient_flow.long_products.scaled_matrix import (
    EvenlyScaled,
    evenly_scaled,
    log_frobenius,
    log_spectral,
)
from gradient_flow.measurements.curve_summary import chosen_lags
from gradient_flow.measurements.detour_terms import (
    Terms,
    direct_and_recurrent,
    identity_terms,
    step_back,
)
from gradient_flow.result_display import curves_table, draw_result
from gradient_flow.step_jacobians.checked_arguments import (
    checked_blocks,
    checked_run,
    require_finite_states,
    whole_numbers,
)
from gradient_flow.step_jacobians.trajectory import run
from gradient_flow.step_jacobians.vector_products import with_transposed_weights
from lstm_jax.array_types import Array, Bool, Int, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.cells.cell import require_stable_state
from lstm_jax.layers.stack import Stack
from lstm_jax.validation import require_names

NORMS = {"spectral": log_spectral, "frobenius": log_frobenius}
MOST = 64
"""The largest M: the work grows with the number of terms."""


class DetourNorms(NamedTuple):
    """Natural logs of the norms of P^{(m)}, by block: each array [lags, M + 2], a batch before it.

    Attributes:
        lags: in steps; lag 0 is the identity, which is P^{(0)}.
        detours: 0 … M, and last M + 1, which stands for all paths with more than M.
        spectral: largest singular value of each block, ``spectral["cc"]``; −∞ where there is no such path.
        frobenius: Frobenius norm of each block.
        whole_spectral: of the sum of all terms, [lags]: what `jacobian_norms` gives.
        whole_frobenius: likewise.
    """

    lags: Int[np.ndarray, "lags"]
    detours: Int[np.ndarray, "terms"]
    spectral: LogNorms
    frobenius: LogNorms
    whole_spectral: LogNorms
    whole_frobenius: LogNorms

    def plot(self, ax: Any = None, block: str | None = None) -> Any:
        """Draw log10 of a block's norms against the lag, by detours.

        Args:
            ax: a matplotlib axis to draw into; a new one if None.
            block: which block; the first if None.

        Returns:
            The axis.
        """
        return draw_result("detour_curves", self, ax, block=block)

    def _repr_html_(self) -> str:
        norms = self.spectral or self.frobenius
        rows = {
            f"{block}, {'more' if m == self.detours[-1] else m}": np.asarray(logs)[..., m]
            for block, logs in norms.items()
            for m in self.detours
        }
        return curves_table("Norms by block and number of detours, medians", self.lags, rows)


def detour_norms(
    cell_or_step: Cell | Step,
    params: PyTree,
    state0: PyTree | None,
    xs: PyTree,
    *,
    most: int = 8,
    direct: Step | None = None,
    lags: Sequence[int] | None = None,
    blocks: Sequence[str] | None = None,
    norms: Sequence[str] = ("spectral", "frobenius"),
    batched: bool | None = None,
) -> DetourNorms:
    """Log-norms of the paths from the last step back, grouped by how often they pass through W_h.

    The norms of the terms do not add up to the norm of their sum, the transition: paths cancel. Where the
    largest term is far larger than the whole, they cancel nearly completely.

    Args:
        cell_or_step: a cell of `lstm_jax`, or any ``step(params, state, x) -> (state, out)``.
        params: of the cell; any pytree for a step.
        state0: the starting state of one sample, or of B; zeros if None (a step needs one).
        xs: [T, D] or [T, B, D]; for a step any pytree with time leading.
        most: M, from 0 to 64.
        direct: for a step, the same step with `jax.lax.stop_gradient` around all that counts as a detour, as
            in ``lax.stop_gradient(h) @ w_h``. E_t is its Jacobian, R_t = J_t − E_t; where the two share an
            entry, R_t has the rounding of the larger one.
        lags: which to report; if None each up to 10 and then 25 a decade.
        blocks: names of blocks, as for `jacobian_norms`, ``ss`` included, and ``total_c`` of an LSTM; if None
            every block between parts of the state.
        norms: some of ``"spectral"`` and ``"frobenius"``.
        batched: whether a step's xs and state0 have a batch axis.

    Returns:
        `DetourNorms`; ``result.spectral["cc"][i, m]`` is log ‖P^{(m)}_cc‖ at ``result.lags[i]``.

    Raises:
        As `jacobian_norms`; ValueError: a ``most`` out of range, or a step without ``direct``; ShapeError: a
            ``direct`` that returns another state than the step.

    Example:
        >>> import jax, lstm_jax, gradient_flow
        >>> cell = lstm_jax.lstm(3, 8)
        >>> params = cell.init(jax.random.key(0))
        >>> xs = jax.random.normal(jax.random.key(1), (60, 3))
        >>> found = gradient_flow.detour_norms(cell, params, None, xs, most=3, blocks=["cc"])
        >>> found.spectral["cc"].shape == (len(found.lags), 5)
        True
    """
    (most,) = whole_numbers("most", [most], 0, MOST)
    norms = require_names("norms", norms, tuple(NORMS))
    _require_parts(cell_or_step, direct)
    given = checked_run(cell_or_step, params, state0, xs, batched)
    layout = given.layout
    names = checked_blocks(
        cell_or_step, layout, tuple(layout.places()) if blocks is None else blocks
    )
    factors = sorted({"carousel", "chain_c"} & set(names))
    if factors:
        raise ValueError(
            f"Name mismatch: expected blocks of the transition, got {', '.join(factors)}. The carousel is cc "
            "without a detour; chain_c is not a transition."
        )
    if direct is not None and not isinstance(cell_or_step, (Cell, Stack)):
        _require_same_states(cell_or_step, direct, params, given.state0, xs, given.batched)
    chosen = chosen_lags(lags, given.length)
    require_finite_states(cell_or_step, params, given, xs)
    plan = Plan(names, norms, layout)
    found = _curves(
        cell_or_step, direct, plan, most, tuple(chosen), given.batched, params, given.state0, xs
    )
    terms = {n: {b: a[..., :-1] for b, a in found.get(n, {}).items()} for n in NORMS}
    whole = {f"whole_{n}": {b: a[..., -1] for b, a in found.get(n, {}).items()} for n in NORMS}
    return DetourNorms(np.asarray(chosen), np.arange(most + 2), **terms, **whole)


def _require_parts(cell: Cell | Step, direct: Step | None) -> None:
    if isinstance(cell, Stack):
        raise TypeError(
            "Cell mismatch: expected one cell, or a step with direct, got a stack, where the outputs of the "
            "layers below change a state too."
        )
    if isinstance(cell, Cell):
        if direct is not None:
            raise ValueError("Option mismatch: expected direct for a plain step only, got a cell.")
        if cell.paths is None:
            raise ValueError(f"Cell mismatch: expected a cell that has paths, got {cell}.")
    elif not callable(direct):
        raise ValueError(
            f"Option mismatch: expected direct, the step without its detours, got {direct!r}."
        )


def _require_same_states(
    step: Step, direct: Step, params: PyTree, state0: PyTree, xs: PyTree, batched: bool
) -> None:
    """Refuse a ``direct`` that is not the step itself: it differs in its derivative alone."""
    first = jax.tree.map(lambda leaf: leaf[0], xs)
    if batched:
        first, state0 = jax.tree.map(lambda leaf: leaf[0], (first, state0))
    require_stable_state(direct, params, state0, first)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((params, state0, xs))):
        return
    expected, found = (jax.jit(f)(params, state0, first)[0] for f in (step, direct))
    close = jax.tree.map(
        lambda a, b: bool(jnp.allclose(a, b, rtol=1e-4, atol=1e-6)), expected, found
    )
    if not all(jax.tree.leaves(close)):
        raise ValueError(
            "Step mismatch: expected direct to return the same states as the step (only derivatives are "
            "stopped), got other states at step 1."
        )


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def _curves(
    cell: Cell | Step,
    direct: Step | None,
    plan: Plan,
    most: int,
    lags: tuple[int, ...],
    batched: bool,
    params: PyTree,
    state0: PyTree,
    xs: PyTree,
) -> dict[str, LogNorms]:
    """{norm: {block: [batch?, lags, M + 3]}}, the whole transition last."""
    length = jax.tree.leaves(xs)[0].shape[0]
    lowest = length - max(lags)
    record = np.zeros(length + 1, bool)
    record[[length - lag for lag in lags]] = True
    weights = with_transposed_weights(cell, params, length)
    parts_of = direct_and_recurrent(cell, direct, plan.layout)

    def of_sample(state0: PyTree, xs: PyTree) -> dict[str, LogNorms]:
        trajectory = run(cell, params, state0, xs)

        def at(tree: PyTree, k: Array) -> PyTree:
            return jax.tree.map(lambda leaf: leaf[k], tree)

        def back(
            terms: Terms, at_k: tuple[Array, Bool[Array, ""]]
        ) -> tuple[Terms, dict[str, LogNorms]]:
            k, wanted = at_k
            e, r = parts_of(weights, at(trajectory.states, k), at(xs, k))
            terms = step_back(terms, e, r)
            return terms, _norms_if_wanted(wanted, plan, terms, at(trajectory.h_c, k))

        identity = identity_terms(plan.layout, most)
        ks = jnp.arange(lowest, length, dtype=jnp.int32)
        # The first entry is the longest lag.
        _, found = lax.scan(back, identity, (ks, jnp.asarray(record[lowest:length])), reverse=True)
        last = _norms_if_wanted(
            jnp.asarray(record[length]), plan, identity, at(trajectory.h_c, jnp.int32(length))
        )
        where = np.asarray([length - lag - lowest for lag in lags])
        return jax.tree.map(
            lambda rows, row: jnp.concatenate([rows, row[None]])[where], found, last
        )

    return jax.vmap(of_sample, in_axes=(0, 1))(state0, xs) if batched else of_sample(state0, xs)


def _norms_if_wanted(
    wanted: Bool[Array, ""], plan: Plan, terms: Terms, h_c: Any
) -> dict[str, LogNorms]:
    """{norm: {block: [M + 3]}}, NaN where they are not wanted."""

    def measure(terms: Terms) -> dict[str, LogNorms]:
        rows = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *terms)

        def read(name: str) -> EvenlyScaled:
            def one(rows: Any) -> EvenlyScaled:
                walk = transition.Walk(rows, None)
                return evenly_scaled(transition.read(walk, name, plan.layout, h_c))

            return jax.vmap(one)(rows)

        levels = {name: read(name) for name in plan.blocks}
        return {n: {name: NORMS[n](m) for name, m in levels.items()} for n in plan.norms}

    return nan_unless(wanted, measure, terms)
