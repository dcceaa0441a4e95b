r"""Credit: how much of a loss at the last step goes back to each state, input and weight of each step before.

    δs_T = ∂ℓ_T/∂s_T,      δs_{k−1} = δs_k J_k,      δx_k = δs_k ∂s_k/∂x_k

    ∂ℓ_T/∂W = Σ_k G_k,     G_k = δs_k ∂s_k/∂W          the contribution of step k to the gradient

∂ℓ_T/∂C_k is taken with h_k held, as if C_k alone were moved: of a loss of h_T alone ∂ℓ_T/∂C_T is 0. What a
change of the memory does at all, h_k = o_k ⊙ tanh C_k following and o_k held, is the total

    dℓ_T/dC_k = ∂ℓ_T/∂C_k + ∂ℓ_T/∂h_k D_k,     D_k = diag(o_k ⊙ (1 − tanh² C_k)),  D_0 = 0

The backward pass is rescaled by a power of two at every step, so a cotangent of 10⁻⁵⁰⁰⁰ keeps its digits. The
states of `lstm` without optional parts, `gru` and `rnn` have powers of two of their own, and are exact where
gates and memories saturate to any degree; inputs and weights are in the dtype's range of the step's largest.
Norms are Euclidean (of a matrix Frobenius), returned as natural logarithms. The share of step k in ∂ℓ_T/∂W is

    ⟨G_k, G⟩ / ⟨G, G⟩,     G = Σ_k G_k

its contribution along the direction of G. The shares sum to 1; a share is negative where G_k points against
G. With cells of `lstm_jax` the parts of W are the gates: their columns of W_x, W_h and b.

Axes: states [T + 1], by k from 0; inputs and weights [T], by k from 1; a batch leads.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradient_flow.long_products.scaled_matrix import (
    EMPTY,
    ScaledMatrix,
    evenly_scaled,
    log_frobenius,
    log_value,
    scaled_product,
    scaled_sum,
)
from gradient_flow.long_products.spectral_norm import log_or_zero
from gradient_flow.long_products.transition import row_times
from gradient_flow.result_display import draw_result, values_table
from gradient_flow.step_jacobians.checked_arguments import (
    checked_run,
    require_finite_states,
    with_samples,
    without_samples,
)
from gradient_flow.step_jacobians.scaled_entries import binary_exponent, power_of_two
from gradient_flow.step_jacobians.scaled_jacobian import (
    has_scaled_jacobian,
    lstm_factors,
    scaled_jacobian,
)
from gradient_flow.step_jacobians.state_layout import Layout
from gradient_flow.step_jacobians.trajectory import is_lstm, states_of_samples
from gradient_flow.step_jacobians.vector_products import step_vjp
from lstm_jax.array_types import Array, Float, PyTree, shapes_of
from lstm_jax.cells import Cell, Step
from lstm_jax.layers.stack import Stack
from lstm_jax.validation import (
    ShapeError,
    leaf_name,
    require_array,
    require_finite,
    require_parameters,
    show_shape,
)


class Credit(NamedTuple):
    """Norms of the gradient of a loss at the last step, as natural logs; a batch leads.

    Attributes:
        states: of ∂ℓ_T/∂h_k, ∂ℓ_T/∂C_k, … by the part's name, [T + 1], k = 0 … T; the other parts held: at T,
            ``c`` is −∞ for a loss of h_T alone.
        inputs: of ∂ℓ_T/∂x_k, [T], k = 1 … T; ``inputs[k − 1]`` is that of x_k.
        weights: of G_k, by gate (or other parameter), [T].
        shares: ⟨G_k, G⟩ / ⟨G, G⟩, numbers and no logs, [T]; they sum to 1, or are 0 where G is 0.
        total_c: of dℓ_T/dC_k, h_k following C_k, [T + 1], of an LSTM without optional parts; else None.
    """

    states: dict[str, Array]
    inputs: Any
    weights: dict[str, Array]
    shares: dict[str, Array]
    total_c: Any = None

    def plot(self, ax: Any = None) -> Any:
        """Draw log10 of the gradient's norm against the step, by state and input.

        Args:
            ax: a matplotlib axis to draw into; a new one if None.

        Returns:
            The axis.
        """
        return draw_result("credit_curves", self, ax)

    def _repr_html_(self) -> str:
        logs = {f"states, {name}": value for name, value in self.states.items()}
        if hasattr(self.inputs, "shape"):
            logs["inputs"] = self.inputs
        logs |= {f"weights, {name}": value for name, value in self.weights.items()}
        shares = {f"shares, {name}": value for name, value in self.shares.items()}
        return values_table("Gradient of a loss at the last step", logs | shares, logs=logs)


def credit(
    cell_or_step: Cell | Stack | Step,
    params: PyTree,
    state0: PyTree | None,
    xs: PyTree,
    loss: Callable[[PyTree], Array],
    *,
    batched: bool | None = None,
) -> Credit:
    """How much of the gradient of a loss at the last step each state, input and weight gets, step by step.

    Args:
        cell_or_step: a cell of `lstm_jax`, a stack in one direction, or any
            ``step(params, state, x) -> (state, out)``.
        params: of the cell; any pytree for a step.
        state0: the starting state of one sample, or of B; zeros if None (a step needs one).
        xs: [T, D] or [T, B, D]; for a step any pytree of floating arrays with time leading.
        loss: ``loss(state) -> number`` of the state after the last step; with a batch, of the states of all
            samples.
        batched: whether a step's xs and state0 have a batch axis.

    Returns:
        `Credit`; ``result.states["h"][k]`` is log ‖∂ℓ_T/∂h_k‖, ``result.total_c[k]`` log ‖dℓ_T/dC_k‖.

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell, the step or each other, or a
            loss that does not return a number.
        NonFiniteError: a NaN or an infinity in the arguments, in the states, or in the loss's gradient.

    Example:
        >>> import jax, lstm_jax, gradient_flow
        >>> cell = lstm_jax.lstm(3, 8)
        >>> params = cell.init(jax.random.key(0))
        >>> xs = jax.random.normal(jax.random.key(1), (400, 3))
        >>> found = gradient_flow.credit(cell, params, None, xs, lambda state: state.h.sum())
        >>> found.states["c"].shape, sorted(found.weights)
        ((401,), ['f', 'g', 'i', 'o'])
        >>> print(float(found.states["c"][400]))  # h_T held, and the loss does not see C_T
        -inf
        >>> bool(found.total_c[400] > -3)  # h_T follows C_T
        True
        >>> bool(found.inputs[0] < -50)  # the first input gets almost nothing
        True
    """
    require_parameters("loss", loss, "state")
    given = checked_run(cell_or_step, params, state0, xs, batched)
    require_finite_states(cell_or_step, params, given, xs)
    states0, samples = with_samples(given.batched, given.state0, xs)
    states = states_of_samples(cell_or_step, params, states0, samples)
    last = jax.tree.map(lambda leaf: leaf[-1] if given.batched else leaf[-1, 0], states)
    d_last = _gradient(loss, last)
    require_finite("the loss's gradient", d_last)
    parts = [
        jnp.asarray(leaf) if given.batched else jnp.asarray(leaf)[None]
        for leaf, moves in zip(jax.tree.leaves(d_last), given.layout.moving, strict=True)
        if moves
    ]
    found = _credit(cell_or_step, given.layout, params, states, samples, parts)
    return without_samples(given.batched, found)


def input_credit(
    function: Callable[[PyTree], PyTree], xs: PyTree, loss: Callable[[PyTree], Array]
) -> Float[Array, "*batch time"]:
    """How much of a loss's gradient each input gets, of any sequence function, recurrent or not.

    Not rescaled: a derivative that underflows to 0 is returned as −∞.

    Args:
        function: ``function(xs) -> ys``, such as a causal self-attention layer.
        xs: [T, D] or [T, B, D].
        loss: ``loss(ys) -> number``; ``lambda ys: ys[-1].sum()`` for the last output.

    Returns:
        log ‖∂ℓ/∂x_k‖, [T] or [B, T], k = 1 … T.

    Raises:
        ShapeError: xs of another rank, or without a step.
        TypeError: a loss that does not return a number.
        NonFiniteError: a NaN or an infinity in xs or in the gradient.

    Example:
        >>> import jax, jax.numpy as jnp, gradient_flow
        >>> xs = jax.random.normal(jax.random.key(0), (50, 4))
        >>> average = lambda xs: jnp.cumsum(xs, 0) / jnp.arange(1, 51)[:, None]
        >>> found = gradient_flow.input_credit(average, xs, lambda ys: ys[-1].sum())
        >>> found.shape, bool(jnp.ptp(found) < 1e-6)  # every step gets the same
        ((50,), True)
    """
    require_parameters("function", function, "xs")
    require_parameters("loss", loss, "ys")
    require_array("xs", xs)
    if jnp.ndim(xs) not in (2, 3) or 0 in jnp.shape(xs):
        raise ShapeError(
            f"Shape mismatch: expected xs [T, D] or [T, B, D], got {show_shape(jnp.shape(xs))}."
        )
    require_finite("xs", xs, time_axis=True)
    d_xs = _gradient(lambda xs: loss(function(xs)), xs)
    require_finite("the gradient by xs", d_xs, time_axis=True)
    rows = d_xs.reshape(-1, d_xs.shape[-1])
    return jnp.moveaxis(jax.vmap(_log_norm)(rows).reshape(d_xs.shape[:-1]), 0, -1)


def _gradient(loss: Callable[[PyTree], Array], at: PyTree) -> PyTree:
    try:
        shape = shapes_of(loss, at)
    except TypeError as error:  # JAX, of a result that is no array
        raise TypeError(
            f"Loss mismatch: expected a loss that returns a number, got one of which: {error}"
        ) from error
    if getattr(shape, "shape", None) != () or not jnp.issubdtype(shape.dtype, jnp.floating):
        raise TypeError(f"Loss mismatch: expected a loss that returns a number, got {shape}.")
    return jax.jit(jax.grad(loss, allow_int=True))(at)


class _ScaledArrays(NamedTuple):
    """Arrays with a common power of two: each stands for ``array · 2^exponent``."""

    arrays: Any
    exponent: Any


def _rescaled(arrays: list[Array], exponent: Array) -> _ScaledArrays:
    top = jnp.max(jnp.stack([jnp.max(jnp.abs(array), initial=0.0) for array in arrays]))
    more = jnp.where(top > 0, binary_exponent(top), 0)
    return _ScaledArrays([a * power_of_two(-more, a.dtype) for a in arrays], exponent + more)


def _add(a: _ScaledArrays, b: _ScaledArrays) -> _ScaledArrays:
    top = jnp.maximum(a.exponent, b.exponent)
    scales = [power_of_two(term.exponent - top, a.arrays[0].dtype) for term in (a, b)]
    sums = [x * scales[0] + y * scales[1] for x, y in zip(a.arrays, b.arrays, strict=True)]
    return _rescaled(sums, top)


def _parts_of_weights(cell: Cell | Stack | Step, d_params: PyTree) -> dict[str, list[Array]]:
    """The gradient split by gate; parameters that belong to no gate by their names."""
    named = {
        leaf_name(path) or "params": leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(d_params)[0]
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    }
    if not (isinstance(cell, Cell) and cell.paths):
        return {name: [leaf] for name, leaf in named.items()}
    gates = cell.gate_names
    parts: dict[str, list[Array]] = {gate: [] for gate in gates}
    for name, leaf in named.items():
        if name in ("w_x", "w_h", "b"):
            for gate, columns in zip(gates, jnp.split(leaf, len(gates), axis=-1), strict=True):
                parts[gate].append(columns)
        else:  # b_hn is the candidate's second bias; the others belong to no single gate
            parts.setdefault("n" if name == "b_hn" else name, []).append(leaf)
    return parts


def _log_norm(tree: PyTree) -> Array:
    """Log ‖·‖ of all floating leaves together, without underflow of the squares."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    top = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), initial=0.0) for leaf in leaves]))
    unit = jnp.where(top > 0, top, jnp.ones_like(top))
    squares = sum(jnp.sum((leaf / jnp.broadcast_to(unit, leaf.shape)) ** 2) for leaf in leaves)
    return log_or_zero(top) + log_or_zero(jnp.asarray(squares)) / 2


def _as_line(scaled: _ScaledArrays) -> tuple[ScaledMatrix, ...]:
    """Parts of a cotangent as rows [1, n] with a power of two for each unit."""
    rows = [jnp.reshape(array, (1, -1)) for array in scaled.arrays]
    return tuple(
        scaled_sum([ScaledMatrix(row, jnp.full(row.shape[1], scaled.exponent))]) for row in rows
    )


def _log_size(row: ScaledMatrix) -> Array:
    return log_frobenius(evenly_scaled(row))


def _inner_product(a: list[Array], b: list[Array]) -> Array:
    return jnp.asarray(sum(jnp.vdot(x, y) for x, y in zip(a, b, strict=True)))


@partial(jax.jit, static_argnums=(0, 1))
def _credit(
    cell: Cell | Stack | Step,
    layout: Layout,
    params: PyTree,
    states: PyTree,
    xs: PyTree,
    d_last: list[Array],
) -> Credit:
    vjp = step_vjp(cell, layout)
    before = jax.tree.map(lambda leaf: leaf[:-1], states)
    jacobian = scaled_jacobian(cell, layout, params) if has_scaled_jacobian(cell) else None

    def norms(line: tuple[ScaledMatrix, ...], h_c: Any) -> tuple[dict[str, Array], Any]:
        """Of δs_k by part, and of the total by C_k."""
        logs = {n: _log_size(block) for n, block in zip(layout.names, line, strict=True)}
        if not is_lstm(cell):
            return logs, None
        return logs, _log_size(scaled_sum([scaled_product(line[0], h_c), line[1]]))

    def of_sample(before: PyTree, xs: PyTree, d_last: list[Array]) -> Credit:
        def back(carry: Any, at: tuple[PyTree, PyTree]) -> Any:
            (d_state, exponent), line, sums = carry
            d_params, d_before, d_x = vjp(params, *at, d_state)
            weights = _parts_of_weights(cell, d_params)
            sums = {
                name: _add(sums[name], _rescaled(part, exponent)) for name, part in weights.items()
            }
            logs = ({name: _log_norm(part) for name, part in weights.items()}, _log_norm(d_x))
            logs = jax.tree.map(lambda log: log_value(log, exponent), logs)
            of_state = norms(line, lstm_factors(params, *at).h_c if is_lstm(cell) else None)
            after = _rescaled(d_before, exponent)
            line = _as_line(after) if jacobian is None else row_times(line, jacobian(*at))
            return (after, line, sums), (of_state, *logs)

        def share(
            sums: dict[str, _ScaledArrays], scaled: _ScaledArrays, at: tuple[PyTree, PyTree]
        ) -> tuple[_ScaledArrays, dict[str, Array]]:
            arrays, exponent = scaled
            d_params, d_before, _ = vjp(params, *at, arrays)
            weights = _parts_of_weights(cell, d_params)
            found = {}
            for name, (whole, scale) in sums.items():
                size = _inner_product(whole, whole)
                part = _inner_product(weights[name], whole) / jnp.where(size > 0, size, 1)
                found[name] = part * power_of_two(exponent - scale, part.dtype)
            return _rescaled(d_before, exponent), found

        last = _rescaled(d_last, jnp.int32(0))
        at = (before, xs)
        state, x = jax.tree.map(lambda leaf: leaf[0], at)
        shapes = shapes_of(lambda d: _parts_of_weights(cell, vjp(params, state, x, d)[0]), d_last)
        empty = {
            name: _ScaledArrays([jnp.zeros(a.shape, a.dtype) for a in part], jnp.int32(EMPTY))
            for name, part in shapes.items()
        }
        (_, line, sums), (later, weights, inputs) = lax.scan(
            back, (last, _as_line(last), empty), at, reverse=True
        )
        # G is known only now. A second backward pass compares each G_k with it; storing them fills memory.
        _, shares = lax.scan(lambda *carry_at: share(sums, *carry_at), last, at, reverse=True)
        # D_0 = 0: nothing ties the given h_0 to C_0.
        first = norms(line, jnp.zeros(layout.sizes[-1], layout.dtype))
        of_states, total_c = jax.tree.map(lambda row, rows: jnp.append(row, rows), first, later)
        return Credit(of_states, inputs, weights, shares, total_c)

    return jax.vmap(of_sample, in_axes=(1, 1, 0))(before, xs, d_last)
