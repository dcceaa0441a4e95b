"""The type `Cell`, a recurrent cell as a named tuple of pure functions, and the checks of its arguments.

A cell works on one time step, on any leading batch axes:

    step(params, state, x) -> (state, out)          x[..., D]; state leaves and out [..., H]

`HandDerived` is the derivative of one step for back-propagation through time. Each function is linear in its
arguments with a dot (tangents) or with δ (cotangents, d_ in code):

    forward_step    (params, state, x)        -> state, residuals
    tangent_step    (params, local, ṡ, ż)     -> ṡ        ż: tangents of the pre-activations that
                                                          do not pass through h_{t−1}
    backward_step   (params, local, δs)       -> δs_prev, δz                     = tangent_stepᵀ

and for any number of steps at once, outside the loop:

    local_derivatives   (residuals) -> local                                     elementwise factors of a step
    tangent_inputs      (params, params_dot, xs, xs_dot, residuals)   -> ż       x·Ẇ_x + h·Ẇ_h + ḃ + ẋ·W_x
    parameter_gradient  (params, xs, residuals, δz) -> (d_params, d_xs)          = tangent_inputsᵀ

and, for products of Jacobians, the same factors from the pre-activations of one step, exact where 1 − tanh²
would round to 0:

    saturated_derivatives   (params, state, x) -> local

The residuals have a field ``h_prev`` (h_{t−1}) and may have ``h`` (h_t). The loop reads both from the
outputs and does not store them twice. A matrix of the params may be a `WeightWithTranspose`
(`lstm_jax.jax_extensions.weight_with_transpose`): use only ``rows @ w``, ``rows @ w.T`` and `matrix_of`.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, PyTree, shapes_of
from lstm_jax.held_arguments import hold
from lstm_jax.initializers import Initializer, require_initializers, uniform
from lstm_jax.jax_extensions.mesh_axes import vary_over, varying_axes
from lstm_jax.jax_extensions.weight_with_transpose import matrix_of
from lstm_jax.validation import (
    DtypeError,
    ShapeError,
    is_symbolic,
    leaf_name,
    require_array,
    require_arrays,
    require_dtype,
    require_floating_dtype,
    require_parameters,
    require_positive_int,
    require_same_structure,
    show_shape,
)

Step = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]
"""``step(params, state, x) -> (state, out)``, the order of `jax.lax.scan`."""


Kind = Literal["rnn", "gru", "lstm"]
"""The kind of a cell, whatever its optional parts."""


CELLS_KEPT = 1024
"""Cells of each kind that are kept: one that is made again is the same object, so nothing compiles again."""


class HandDerived(NamedTuple):
    """The hand-derived derivative of a cell's step; the module's docstring gives each signature."""

    forward_step: Callable[..., tuple[Any, Any]]
    local_derivatives: Callable[..., Any]
    tangent_step: Callable[..., Any]
    backward_step: Callable[..., tuple[Any, Any]]
    tangent_inputs: Callable[..., Any]
    parameter_gradient: Callable[..., tuple[Any, Any]]
    saturated_derivatives: Callable[..., Any] | None = None


class Paths(NamedTuple):
    """The parts of a step Jacobian: J_t = E_t + Σ_gate R_t^gate, around the recurrent weights, through them.

    Attributes:
        direct: ``direct(params, state, x) -> state of states``, E_t as ``step_jacobian`` gives J_t: all that
            moves s_t without passing through ``w_h``.
        through: ``through(params, state, x, kept) -> state of states``, Σ kept_gate R_t^gate: all that passes
            through ``w_h``, by the gate it enters; ``kept`` [gates], in the order of ``Cell.gate_names``.
    """

    direct: Callable[..., Any]
    through: Callable[..., Any]


class Cell(NamedTuple):
    """A recurrent cell as pure functions, as an optax transformation is; made by `lstm`, `gru`, `rnn`.

    Attributes:
        name: for messages: ``lstm``, ``gru``, ``rnn_tanh``, ``gru_reset_before``,
            ``lstm_peephole_coupled_norm_projected``. Code reads the next three.
        kind: ``"rnn"``, ``"gru"`` or ``"lstm"``.
        gate_names: the gates in the order of the columns of ``w_h``; ``("h",)`` of a vanilla cell.
        memory_gate: the gate that keeps the memory: ``"f"`` of an LSTM, ``"u"`` of a GRU; None without one.
        input_size: D.
        hidden_size: H.
        init: ``init(key, dtype=float) -> params``.
        initial_state: ``initial_state(batch_size=None, dtype=float) -> state`` of zeros, [H] or [B, H].
        step: ``step(params, state, x) -> (state, out)``.
        step_jacobian: ``step_jacobian(params, state, x) -> state of states``, for one sample:
            ``jacobian.c.h`` is ∂C_t/∂h_{t−1}, a matrix [out, in], or a vector [H] where it is diagonal.
        input_jacobian: ``input_jacobian(params, state, x) -> state``, for one sample: ``jacobian.c`` is
            ∂C_t/∂x_t, [H, D].
        gates: ``gates(params, state, x) -> {name: activation [..., H]}``.
        rule: the hand-derived derivative, used by `bptt` and by `jax.grad` of `unroll`; None where
            there is none.
        paths: the step Jacobian's parts; None where they are not known.
        activation: φ of a vanilla cell, ``"tanh"``, ``"relu"`` or ``"identity"``; ``"tanh"`` of the others.

    If you replace ``step`` (`Cell._replace`), replace ``rule``, the two Jacobians, ``gates`` and ``paths``
    too: they are derived from that step. ``rule=None`` leaves the gradient to autodiff.
    """

    name: str
    kind: Kind
    gate_names: tuple[str, ...]
    memory_gate: str | None
    input_size: int
    hidden_size: int
    init: Callable[..., Any]
    initial_state: Callable[..., Any]
    step: Step
    step_jacobian: Callable[..., Any]
    input_jacobian: Callable[..., Any]
    gates: Callable[..., dict[str, Array]]
    rule: HandDerived | None
    paths: Paths | None = None
    activation: str = "tanh"

    @property
    def output_size(self) -> int:
        """The size of an output h_t: H, or that of its projection."""
        return int(state_shapes(self).h.shape[-1])

    def __repr__(self) -> str:
        """Show the name and the two sizes."""
        return f"{self.name}(input_size={self.input_size}, hidden_size={self.hidden_size})"


def require_cell(cell: Any) -> None:
    """Refuse anything but a cell.

    Raises:
        TypeError: naming the type of the value.
    """
    if not isinstance(cell, Cell):
        raise TypeError(
            f"Cell mismatch: expected a cell from lstm, gru or rnn, got {type(cell).__name__}."
        )


def require_stable_state(step: Step, params: PyTree, state: PyTree, x: PyTree) -> None:
    """Refuse a step that returns a state of another structure, shape or dtype than it was given.

    Raises:
        ShapeError: naming the first leaf that changed.
        TypeError: a step that does not return a pair, or changes the state's structure.
    """
    require_parameters("step", step, "params, state, x")
    result = shapes_of(step, params, state, x)
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"Step mismatch: expected step to return (state, out), got {result}.")
    before, after = shapes_of(lambda s: s, state), result[0]
    require_same_structure("the state after a step", after, before)
    for (path, old), new in zip(
        jax.tree_util.tree_flatten_with_path(before)[0], jax.tree.leaves(after), strict=True
    ):
        if old.shape != new.shape or old.dtype != new.dtype:
            label = f"state.{leaf_name(path)}" if path else "the state"
            raise ShapeError(
                f"Shape mismatch: expected the step to keep {label} as {old.dtype.name}"
                f"{show_shape(old.shape)}, got {new.dtype.name}{show_shape(new.shape)}."
            )


def zeros_state(state_type: Callable[..., Any], **sizes: int) -> Callable[..., Any]:
    """Make a cell's ``initial_state``: zeros in the sizes named, [H], or [B, H] for a batch."""
    return hold(_zeros, state_type, tuple(sizes.items()))


def _zeros(
    state_type: Callable[..., Any],
    sizes: tuple[tuple[str, int], ...],
    batch_size: int | None = None,
    dtype: Any = float,
) -> Any:
    if batch_size is not None and not is_symbolic(batch_size):
        require_positive_int("batch_size", batch_size)
    batch = () if batch_size is None else (batch_size,)
    dtype = require_floating_dtype(dtype)
    return state_type(**{name: jnp.zeros((*batch, n), dtype) for name, n in sizes})


def checked_sizes(input_size: int, hidden_size: int) -> tuple[int, int]:
    """Refuse sizes that are not positive integers; return them as plain ones."""
    require_positive_int("input_size", input_size)
    require_positive_int("hidden_size", hidden_size)
    return int(input_size), int(hidden_size)


def checked_initializers(
    hidden_size: int,
    w_x_init: Initializer | None,
    w_h_init: Initializer | None,
    b_init: Initializer,
) -> tuple[Initializer, Initializer, Initializer]:
    """Refuse initialisers that cannot be called; fill in uniform(1/√H) for a missing one."""
    require_initializers(w_x_init=w_x_init, w_h_init=w_h_init, b_init=b_init)
    default = uniform(hidden_size**-0.5)
    return w_x_init or default, w_h_init or default, b_init


def check_step_arguments(
    kind: Any, params: Any, state: Any, x: Any, *, parts: tuple[str, ...] = ("h",)
) -> None:
    """Refuse parameters, a state and an input of one step that do not fit each other.

    Broadcasting would repeat the state of one sample for all samples of x without a word.

    Args:
        kind: the type of the parameters.
        params: of the cell.
        state: before the step, leaves [..., H].
        x: [..., D].
        parts: the fields of the state.

    Raises:
        ShapeError, DtypeError, TypeError: naming the expected and the actual value.
    """
    if type(params) is not kind:
        raise TypeError(
            f"Structure mismatch: expected params as {kind.__name__}, got {type(params).__name__}."
        )
    if getattr(state, "_fields", ()) != parts:
        raise TypeError(
            f"Structure mismatch: expected a state of {', '.join(parts)}, from the cell's "
            f"initial_state, got {type(state).__name__}."
        )
    w_x, w_h, b = matrix_of(params.w_x), matrix_of(params.w_h), params.b
    for name, value in (("params.w_x", w_x), ("params.w_h", w_h), ("params.b", b), ("x", x)):
        require_array(name, value)
        require_dtype(name, value, w_x.dtype)
    if jnp.ndim(x) == 0 or x.shape[-1] != w_x.shape[0]:
        raise ShapeError(
            f"Shape mismatch: expected x [..., {w_x.shape[0]}], got {show_shape(jnp.shape(x))}."
        )
    for name, leaf in state._asdict().items():
        require_array(f"state.{name}", leaf)
        # The rows of W_h are h; c has a third or a fourth of b.
        size = w_h.shape[0] if name == "h" else b.shape[-1] // 4
        if name == "c" and jnp.shape(leaf)[-1:] == (b.shape[-1] // 3,):
            size = b.shape[-1] // 3
        shape = (*x.shape[:-1], size)
        if jnp.shape(leaf) != shape:
            raise ShapeError(
                f"Shape mismatch: expected state.{name} {show_shape(shape)} beside x "
                f"{show_shape(x.shape)}, got {show_shape(jnp.shape(leaf))}."
            )


def check_cell_arguments(cell: Cell, params: PyTree, xs: Array, state0: PyTree | None) -> PyTree:
    """Refuse params, a sequence or a starting state that do not fit the cell or each other.

    Returns:
        The starting state; zeros in place of None.

    Raises:
        ShapeError: a wrong rank or size, or T = 0.
        DtypeError: parameters that are not all of one floating dtype, or xs or state0 of another.
        TypeError: params or state0 of another cell, or xs that is not an array.
    """
    require_cell(cell)
    expected = parameter_shapes(cell)
    sizes = f"D={cell.input_size}, H={cell.hidden_size}"
    require_same_structure(f"{cell.name} params", params, expected)
    require_array("params", jax.tree.leaves(params)[0])
    dtype = jnp.result_type(jax.tree.leaves(params)[0])
    if not jnp.issubdtype(dtype, jnp.floating):
        raise DtypeError(f"Dtype mismatch: expected floating params, got {dtype.name}.")
    require_arrays("params", params, expected, dtype, legend=sizes)
    require_array("xs", xs)
    shape = jnp.shape(xs)
    if len(shape) not in (2, 3) or shape[-1] != cell.input_size:
        more = " Put jax.vmap around unroll for more batch axes." if len(shape) > 3 else ""
        raise ShapeError(
            f"Shape mismatch: expected xs [T, {cell.input_size}] or [T, B, {cell.input_size}], "
            f"got {show_shape(shape)}.{more}"
        )
    if shape[0] == 0:
        raise ShapeError(
            f"Shape mismatch: expected xs of at least one time step, got {show_shape(shape)}."
        )
    require_dtype("xs", xs, dtype)
    if shape[1] == 0:
        raise ShapeError(
            f"Shape mismatch: expected xs of at least one sample, got {show_shape(shape)}."
        )
    zeros = cell.initial_state(shape[1] if len(shape) == 3 else None, dtype)
    if state0 is None:
        state0 = zeros
    require_arrays("state0", state0, zeros, dtype, legend=f"xs {show_shape(shape)}, {sizes}")
    return vary_over(varying_axes(params, xs), jax.tree.map(jnp.asarray, state0))


@lru_cache(maxsize=CELLS_KEPT)
def parameter_shapes(net: Any) -> PyTree:
    """The shapes of the parameters of a cell or a stack, as ``net.init`` draws them."""
    return shapes_of(net.init, jax.random.key(0))


@lru_cache(maxsize=CELLS_KEPT)
def state_shapes(net: Any) -> PyTree:
    """The shapes of the state of one sample, of a cell or a stack."""
    return shapes_of(net.initial_state)
