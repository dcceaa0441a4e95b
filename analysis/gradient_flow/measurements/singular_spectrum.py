r"""All singular values of ∂s_t/∂s_k: the directions that survive a lag, and what they carry of the gradient.

    P_{t,k} = U diag(σ) Vᵀ                  ∂ℓ/∂s_k = Pᵀ δ = Σ_i σ_i (u_i · δ) v_i,   δ = ∂ℓ/∂s_t

A change at k reaches the direction u_i of the later state with the factor σ_i. Only the part of the loss
gradient δ in the surviving directions arrives at k: cos² of its angle to them is Σ_i (u_i · δ)² / |δ|² over
the survivors.

P is walked back as a graded product, Pᵀ = Q diag(2^e) Y (`gradient_flow.long_products.qr_product`). One more
factorisation gives Yᵀ diag(2^e) = Q' diag(2^w) Y' with well-conditioned rows of Y'. One-sided Jacobi then
finds each singular value to full relative accuracy (`gradient_flow.long_products.jacobi_svd`). Within one
step that holds down to rounding: what is smaller than ε times the largest entry of a single J, as where gates
or memories saturate that far, is lost in it.

Axes: log_values[lags, n], a batch before them; n is the smaller side of the block.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradient_flow.long_products import qr_transition
from gradient_flow.long_products.jacobi_svd import singular_values
from gradient_flow.long_products.qr_product import QRProduct, multiply
from gradient_flow.long_products.step_factors import run_samples, step_factors
from gradient_flow.measurements.curve_summary import chosen_lags
from gradient_flow.result_display import draw_result, values_table
from gradient_flow.step_jacobians.checked_arguments import (
    checked_blocks,
    checked_run,
    require_cotangents,
    require_finite_states,
    whole_numbers,
    with_samples,
    without_samples,
)
from gradient_flow.step_jacobians.state_layout import JOINT, LSTM_PATHS, Layout, moving_parts
from lstm_jax.array_types import Array, Float, Int, PyTree, shapes_of
from lstm_jax.cells import Cell, Step
from lstm_jax.layers.stack import Stack
from lstm_jax.validation import require_number


class SingularSpectrum(NamedTuple):
    """All singular values of a block of ∂s_t/∂s_k, and the loss gradient in their directions.

    Attributes:
        lags: the lags t − k.
        log_values: [lags, n] or [B, lags, n], natural logs, falling; −∞ where exactly zero.
        alignment: as log_values, |u_i · δ| / |δ| for each direction u_i of the later state; None without
            a cotangent. Among directions with equal singular values only Σ (u_i · δ)² is determined.
    """

    lags: Int[np.ndarray, "lags"]
    log_values: Float[Array, "*batch lags n"]
    alignment: Any

    def plot(self, ax: Any = None) -> Any:
        """Draw log10 of the singular values, a line for each lag.

        Args:
            ax: a matplotlib axis to draw into; a new one if None.

        Returns:
            The axis.
        """
        return draw_result("spectrum_lines", self, ax)

    def _repr_html_(self) -> str:
        values = {f"lag {lag}": self.log_values[..., n, :] for n, lag in enumerate(self.lags)}
        return values_table("Singular values", values, logs=values)

    def survivors(
        self, threshold: float = 1e-3, *, relative: bool = False
    ) -> Int[Array, "*batch lags"]:
        """How many directions have σ_i ≥ threshold; σ_i ≥ threshold · σ_1 if relative."""
        return jnp.sum(self._surviving(threshold, relative), axis=-1)

    def angle(
        self, threshold: float = 1e-3, *, relative: bool = False
    ) -> Float[Array, "*batch lags"]:
        """The angle between δ and the survivors' span, in radians: 0 if all of δ arrives, π/2 if none does.

        Raises:
            ValueError: a spectrum without a cotangent.
        """
        if self.alignment is None:
            raise ValueError(
                "Option mismatch: expected a spectrum taken with cotangent=, got one without."
            )
        surviving = self._surviving(threshold, relative)
        inside = jnp.sum(jnp.where(surviving, self.alignment**2, 0), axis=-1)
        outside = jnp.sum(jnp.where(surviving, 0, self.alignment**2), axis=-1)
        return jnp.arctan2(jnp.sqrt(outside), jnp.sqrt(inside))

    def _surviving(self, threshold: float, relative: bool) -> Array:
        require_number("threshold", threshold, above=0)
        logs = self.log_values - self.log_values[..., :1] if relative else self.log_values
        # −∞ − (−∞) is NaN: no direction of a zero block survives.
        return logs >= jnp.asarray(np.log(threshold), self.log_values.dtype)


def singular_spectrum(
    cell_or_step: Cell | Stack | Step,
    params: PyTree,
    state0: PyTree | None,
    xs: PyTree,
    *,
    time: int | None = None,
    lags: Sequence[int] | None = None,
    block: str = JOINT,
    cotangent: PyTree | None = None,
    batched: bool | None = None,
) -> SingularSpectrum:
    """Every singular value of a block of ∂s_t/∂s_k, at chosen lags back from t.

    The cost is a QR decomposition for each step, and a Jacobi iteration for each lag: about ten times n³
    operations.

    Args:
        cell_or_step: as for `jacobian_norms`: a cell, a stack in one direction, or any step.
        params: of the cell.
        state0: the starting state of one sample, or of B; zeros if None (a step needs one).
        xs: [T, D] or [T, B, D]; for a step any pytree with time leading.
        time: t, from 1 to T; T if None.
        lags: which lags, each from 0 to t; if None each up to 10, some 25 a decade from there, and t.
        block: ``ss``, the whole transition, or a block's name, as for `jacobian_norms`; also ``total_c``
            and ``chain_c`` for an LSTM.
        cotangent: δ, the loss gradient at the state s_t: a pytree like the state, with a batch axis where
            there is one. For a block, only the part of its row is used.
        batched: whether a step's xs and state0 have a batch axis.

    Returns:
        `SingularSpectrum`.

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell, the step or each other.
        NonFiniteError: a NaN or an infinity in the arguments, or in the states, with its step.
        ValueError: a time, lags or a block that do not exist.

    Source: Demmel & Veselić, "Jacobi's method is more accurate than QR", 1992.

    Example:
        >>> import jax, jax.numpy as jnp, gradient_flow
        >>> def step(params, state, x):
        ...     return params * state + x, None
        >>> slopes = jnp.asarray([1.0, 0.9, 0.1])
        >>> spectrum = gradient_flow.singular_spectrum(
        ...     step, slopes, jnp.zeros(3), jnp.ones(1000), lags=[1, 10, 1000], cotangent=jnp.ones(3)
        ... )
        >>> print(spectrum.survivors(1e-3))
        [3 2 1]
        >>> [round(float(value)) for value in spectrum.log_values[2]]  # 1000 log 0.9, 1000 log 0.1
        [0, -105, -2303]
        >>> print(round(float(jnp.rad2deg(spectrum.angle(1e-3)[2]))))  # one direction of three is left
        55
    """
    given = checked_run(cell_or_step, params, state0, xs, batched)
    checked_blocks(cell_or_step, given.layout, [block])
    if block == LSTM_PATHS[1]:
        raise ValueError(
            "Unknown block: expected a matrix, got 'carousel', a diagonal. Its singular values are products "
            "of forget gates."
        )
    (time,) = whole_numbers("time", [given.length if time is None else time], 1, given.length)
    chosen = chosen_lags(lags, time)
    if cotangent is not None:
        require_cotangents("cotangent", given, cotangent)
    require_finite_states(cell_or_step, params, given, xs)
    xs = jax.tree.map(lambda leaf: leaf[:time], xs)
    # Each once and rising, in the order of the walk.
    recorded = tuple(sorted(set(chosen)))
    logs, cosines = _measure(
        cell_or_step,
        given.layout,
        block,
        recorded,
        given.batched,
        params,
        given.state0,
        xs,
        cotangent,
    )
    places = np.searchsorted(recorded, chosen)
    alignment = None if cosines is None else cosines[..., places, :]
    return SingularSpectrum(np.asarray(chosen), logs[..., places, :], alignment)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _measure(
    cell: Cell | Stack | Step,
    layout: Layout,
    block: str,
    lags: tuple[int, ...],
    batched: bool,
    params: PyTree,
    state0: PyTree,
    xs: PyTree,
    cotangent: PyTree | None,
) -> tuple[Array, Array | None]:
    """Logs and alignments, [batch?, lags, n], of rising lags."""
    trajectory = run_samples(cell, batched, params, state0, xs)
    length, samples = jax.tree.leaves(xs)[0].shape[0], jax.tree.leaves(trajectory.xs)[0].shape[0]
    factors = step_factors(cell, layout, trajectory)
    delta = None
    if cotangent is not None:
        cotangent, _ = with_samples(batched, cotangent, ())
        delta = _row_part(layout, block, cotangent, samples)
        delta = delta / jnp.sqrt(jnp.sum(delta**2, axis=1, keepdims=True))

    def measure(walk: qr_transition.QRWalk, k: Array) -> tuple[Array, Array]:
        def one(walk: Any, h_c: Any, delta: Any) -> tuple[Array, Array]:
            return _of_product(qr_transition.read(walk, block, layout, h_c), delta)

        return jax.vmap(one)(walk, factors.h_c(k), delta)

    def back(carry: PyTree, at: tuple[Array, Array]) -> tuple[PyTree, None]:
        walk, found, count = carry
        k, recorded = at
        walk = jax.vmap(qr_transition.step_back)(walk, factors.jacobian(k), factors.h_c(k))

        def add() -> PyTree:
            return jax.tree.map(lambda all_, new: all_.at[count].set(new), found, measure(walk, k))

        found = lax.cond(recorded, add, lambda: found)
        return (walk, found, count + recorded.astype(jnp.int32)), None

    walk = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (samples, *leaf.shape)),
        qr_transition.start(layout, frozenset({block})),
    )
    last = jnp.int32(length)
    shapes = shapes_of(measure, walk, last)
    found = jax.tree.map(lambda a: jnp.zeros((len(lags), *a.shape), a.dtype), shapes)
    if lags[0] == 0:
        found = jax.tree.map(lambda all_, new: all_.at[0].set(new), found, measure(walk, last))
    steps = np.arange(1, lags[-1] + 1)
    ks = (jnp.asarray(length - steps, jnp.int32), jnp.asarray(np.isin(steps, lags)))
    _, found, _ = lax.scan(back, (walk, found, jnp.int32(lags[0] == 0)), ks)[0]
    logs, cosines = without_samples(batched, [jnp.moveaxis(a, 0, 1) for a in found])
    return logs, None if delta is None else cosines


def _row_part(layout: Layout, block: str, cotangent: PyTree, samples: int) -> Array:
    """The part of δ in the rows of a block, [samples, rows]."""
    parts = [part.reshape(samples, -1) for part in moving_parts(layout, cotangent)]
    if block == JOINT:
        return jnp.concatenate(parts, axis=1)
    return parts[1 if block in LSTM_PATHS else layout.places()[block][0]]


def _of_product(product: QRProduct, delta: Any) -> tuple[Array, Array]:
    """Logs of the singular values of Q diag(2^e) Y, and |u_i · δ| for the left singular vectors u_i of P."""
    eye = jnp.eye(product.y.shape[0], dtype=product.y.dtype)
    q, w, y = multiply(product.y.T, QRProduct(eye, product.exponents, eye))
    along = jnp.zeros((1, len(w)), y.dtype) if delta is None else (delta @ q)[None]
    logs, rotated = singular_values(y.T, w, along)
    return logs, jnp.abs(rotated[0])
