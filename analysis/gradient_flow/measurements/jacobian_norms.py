r"""Log-norms of ∂s_t/∂s_k at every lag, or over all pairs of times, exact at any length.

    P_{t,k} = J_t J_{t−1} ⋯ J_{k+1},   J_j = ∂s_j/∂s_{j−1};   the lag is t − k

`jacobian_norms` gives the curve of every block against the lag, back from chosen times; `all_pairs_norms`
gives the map over all (t, k). Each is one jitted program: it computes the states once, then walks back and
forms each J_j where it is used, without storing it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.long_products.backward_walk import lag_curves, pair_map
from gradient_flow.long_products.chunk_of_steps import LogNorms, Plan
from gradient_flow.result_display import curves_table, draw_result, values_table
from gradient_flow.step_jacobians.checked_arguments import (
    checked_blocks,
    checked_run,
    require_finite_states,
    whole_numbers,
)
from lstm_jax.array_types import Int, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.layers.stack import Stack
from lstm_jax.validation import require_names, require_positive_int

NORMS = ("spectral", "frobenius", "smallest")


class JacobianNorms(NamedTuple):
    """Natural logs of norms, by block, against the lag.

    Each array is [lags]; a batch puts B before it, and several times put their axis between:
    [B, times, lags]. Lags that reach before the start of the sequence are NaN.

    Attributes:
        lags: the lags, in steps; lag 0 is the identity.
        times: the times t, counted from 1.
        spectral: largest singular value of each block, ``spectral["hh"]``.
        frobenius: Frobenius norm of each block.
        smallest: smallest singular value of each block.
    """

    lags: Int[np.ndarray, "lags"]
    times: Int[np.ndarray, "times"]
    spectral: LogNorms
    frobenius: LogNorms
    smallest: LogNorms

    def plot(self, ax: Any = None) -> Any:
        """Draw log10 of the norms against the lag, from the latest time back.

        Args:
            ax: a matplotlib axis to draw into; a new one if None.

        Returns:
            The axis.
        """
        return draw_result("jacobian_curves", self, ax)

    def _repr_html_(self) -> str:
        return curves_table(
            "Jacobian norms, medians", self.lags, self.spectral or self.frobenius or self.smallest
        )


class PairNorms(NamedTuple):
    """Natural logs of norms, by block, over pairs (t, k): each array [times, starts], a batch before it.

    Where k > t there is no transition, and the entry is NaN.

    Attributes:
        times: t, the later step, counted from 1.
        starts: k, the earlier step, counted from 0 (the starting state).
        spectral: largest singular value of each block.
        frobenius: Frobenius norm of each block.
        smallest: smallest singular value of each block.
    """

    times: Int[np.ndarray, "times"]
    starts: Int[np.ndarray, "starts"]
    spectral: LogNorms
    frobenius: LogNorms
    smallest: LogNorms

    def plot(self, ax: Any = None, block: str | None = None) -> Any:
        """Draw log10 of a block's norms over all pairs; of a batch, its first sample.

        Args:
            ax: a matplotlib axis to draw into; a new one if None.
            block: which block; the first if None.

        Returns:
            The axis.
        """
        return draw_result("pair_map", self, ax, block=block)

    def _repr_html_(self) -> str:
        return values_table(
            "Jacobian norms over pairs (t, k)",
            self.spectral or self.frobenius or self.smallest,
            logs=self.spectral or self.frobenius or self.smallest,
        )


def jacobian_norms(
    cell_or_step: Cell | Stack | Step,
    params: PyTree,
    state0: PyTree | None,
    xs: PyTree,
    *,
    times: Sequence[int] | None = None,
    lags: Sequence[int] | None = None,
    blocks: Sequence[str] | None = None,
    norms: Sequence[str] = ("spectral", "frobenius"),
    batched: bool | None = None,
) -> JacobianNorms:
    """Log-norms of the blocks of ∂s_t/∂s_k, back from the last step or from chosen ones.

    Exact to rounding error at any lag: the product is rescaled by powers of two at every step, so a norm of
    10⁻⁵⁰⁰⁰ is returned as its logarithm, in float32 too. A log-norm of −∞ means that the block is exactly
    zero, as hh is for an LSTM whose W_h is 0. Gates and memories may saturate to any degree in `lstm`
    without optional parts, in `gru` and in `rnn`. In their variants and in stacks a factor of one step's
    Jacobian underflows to 0 where a tanh is driven beyond |z| ≈ 44 in float32, 354 in float64; a plain step
    has the slopes of `jax.jacfwd`, and 1 − tanh² rounds to 0 beyond |z| ≈ 9 in float32.

    Args:
        cell_or_step: a cell of `lstm_jax`, whose step Jacobian is in closed form; a stack of them in one
            direction, whose parts are called ``0.h``, ``0.c``, ``1.h``, … by layer; or any
            ``step(params, state, x) -> (state, out)`` with a pytree of arrays for a state, whose step
            Jacobian is taken by `jax.jacfwd`.
        params: of the cell; any pytree for a step.
        state0: the starting state of one sample, or of B; zeros if None (a step needs one).
        xs: [T, D] or [T, B, D]; for a step any pytree with time leading.
        times: the t's, each from 1 to T; if None, T alone, without an axis for times.
        lags: which lags to report, each from 0 to the largest time; all of them if None. Every step is
            walked through in any case: fewer lags save only norms, which are about half of the cost.
        blocks: names of the blocks. A name is the part that moves and the part that is moved: ``hh``,
            ``hc``, ``ch``, ``cc`` for an LSTM, ``hh`` for a GRU or RNN, for a step the names of its
            state's leaves (``out,in`` where they are longer than a letter; a bare array is ``s``).
            For an LSTM also ``total_c``, ``carousel`` and ``chain_c``. ``ss`` is the whole transition.
            If None, all but ``ss``.
        norms: some of ``"spectral"``, ``"frobenius"`` and ``"smallest"`` (the smallest singular value, to
            its full relative accuracy, by a QR decomposition at each step: several times as expensive; for a
            step Jacobian that is singular, exactly or to rounding, it is at the level of rounding).
        batched: whether xs has a batch axis after time and state0 one in front. For a cell this is read from
            xs; a step is not batched if None.

    Returns:
        `JacobianNorms`; ``result.spectral["hh"]`` is log ‖∂h_t/∂h_k‖ against ``result.lags``.

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell, the step or each other.
        NonFiniteError: a NaN or an infinity in the arguments, or in the states, with its step.
        ValueError: times, lags, blocks or norms that do not exist.

    Example:
        >>> import jax, lstm_jax, gradient_flow
        >>> cell = lstm_jax.rnn(3, 8, activation="identity", w_h_init=lstm_jax.orthogonal(0.5))
        >>> params = cell.init(jax.random.key(0))
        >>> xs = jax.random.normal(jax.random.key(1), (1000, 3))
        >>> flow = gradient_flow.jacobian_norms(cell, params, None, xs)
        >>> flow.spectral["hh"].shape
        (1001,)
        >>> print(round(float(flow.spectral["hh"][1000])))  # 1000 log ½, far below what float32 holds
        -693
    """
    state0, batched, length, plan = _prepare(
        cell_or_step, params, state0, xs, blocks, norms, batched
    )
    ts = whole_numbers("times", [length] if times is None else times, 1, length)
    chosen = whole_numbers("lags", range(max(ts) + 1) if lags is None else lags, 0, max(ts))
    found = lag_curves(
        cell_or_step, plan, tuple(chosen), batched, params, state0, xs, jnp.asarray(ts, jnp.int32)
    )
    if times is None:
        found = jax.tree.map(lambda a: a[..., 0, :], found)
    return JacobianNorms(
        lags=np.asarray(chosen), times=np.asarray(ts), **{n: found.get(n, {}) for n in NORMS}
    )


def all_pairs_norms(
    cell_or_step: Cell | Stack | Step,
    params: PyTree,
    state0: PyTree | None,
    xs: PyTree,
    *,
    every: int = 1,
    blocks: Sequence[str] | None = None,
    norms: Sequence[str] = ("spectral", "frobenius"),
    batched: bool | None = None,
) -> PairNorms:
    """Log-norms of the blocks of ∂s_t/∂s_k for all pairs k ≤ t.

    Args:
        cell_or_step: as for `jacobian_norms`, and so the arguments not listed here.
        params: of the cell.
        state0: the starting state; zeros if None.
        xs: [T, D] or [T, B, D]; T up to 1,000 is meant: the work grows with T².
        every: distance in steps between the t's, and between the k's, that are reported.
        blocks: names of the blocks.
        norms: some of ``"spectral"``, ``"frobenius"`` and ``"smallest"``.
        batched: whether a step's xs and state0 have a batch axis.

    Returns:
        `PairNorms`; ``result.spectral["hh"][i, j]`` is log ‖∂h_t/∂h_k‖ at t = ``times[i]``,
        k = ``starts[j]``.

    Raises:
        As `jacobian_norms`.

    Example:
        >>> import jax, lstm_jax, gradient_flow
        >>> cell = lstm_jax.rnn(3, 8)
        >>> params = cell.init(jax.random.key(0))
        >>> xs = jax.random.normal(jax.random.key(1), (40, 3))
        >>> pairs = gradient_flow.all_pairs_norms(cell, params, None, xs, every=10)
        >>> pairs.spectral["hh"].shape
        (4, 5)
    """
    require_positive_int("every", every)
    state0, batched, length, plan = _prepare(
        cell_or_step, params, state0, xs, blocks, norms, batched
    )
    if every > length:
        raise ValueError(
            f"Stride mismatch: expected every of at most {length} steps (the length), got {every}."
        )
    ts = np.arange(every, length + 1, every)
    starts = np.arange(0, length + 1, every)
    found = pair_map(cell_or_step, plan, every, batched, params, state0, xs)
    return PairNorms(times=ts, starts=starts, **{n: found.get(n, {}) for n in NORMS})


def _prepare(
    cell: Cell | Stack | Step,
    params: PyTree,
    state0: PyTree | None,
    xs: PyTree,
    blocks: Sequence[str] | None,
    norms: Sequence[str],
    batched: bool | None,
) -> tuple[PyTree, bool, int, Plan]:
    """Check everything that can be checked before any long work."""
    norms = require_names("norms", norms, NORMS)
    given = checked_run(cell, params, state0, xs, batched)
    blocks = checked_blocks(cell, given.layout, blocks)
    require_finite_states(cell, params, given, xs)
    return given.state0, given.batched, given.length, Plan(blocks, norms, given.layout)
