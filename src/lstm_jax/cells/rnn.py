r"""The vanilla recurrent cell (Elman 1990): step, hand-derived rule and Jacobians.

    h_t = φ(z_t),   z_t = x_t W_x + h_{t−1} W_h + b,   φ one of tanh, relu, identity

Axes: x[..., D], h[..., H]; w_x[D, H], w_h[H, H], b[H].

Every derivative below is built from one elementwise factor, φ'(z_t) written in terms of h_t:
1 − h² for tanh, 1 where h > 0 (else 0) for relu, 1 for identity.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Float
from lstm_jax.cells.activation_slopes import tanh_slope
from lstm_jax.cells.affine import parameter_gradient, pre_activations, tangent_inputs
from lstm_jax.cells.cell import (
    CELLS_KEPT,
    Cell,
    HandDerived,
    Paths,
    check_step_arguments,
    checked_initializers,
    checked_sizes,
    zeros_state,
)
from lstm_jax.held_arguments import hold
from lstm_jax.initializers import Initializer, drawn, zeros
from lstm_jax.jax_extensions.weight_with_transpose import matrix_of
from lstm_jax.validation import require_floating_dtype, require_key, require_one_of


class RNNParams(NamedTuple):
    """``w_x[D, H]``, ``w_h[H, H]``, ``b[H]``."""

    w_x: Float[Array, "d h"]
    w_h: Float[Array, "h h"]
    b: Float[Array, "h"]


class RNNState(NamedTuple):
    """The hidden state ``h[..., H]``; in a Jacobian, a state of states."""

    h: Float[Array, "*batch h"]


# For mypy: a Jacobian is a state of states.
Jacobian: Any = RNNState


class Residuals(NamedTuple):
    """The arrays of one step that the backward pass reads."""

    h: Float[Array, "*batch h"]
    h_prev: Float[Array, "*batch h"]


class Local(NamedTuple):
    """The elementwise factor of one step's derivative: ``h_z`` is ∂h_t/∂z_t."""

    h_z: Float[Array, "*batch h"]


class Activation(NamedTuple):
    """φ; φ' as a function of φ's value; and φ' as a function of z, exact where φ saturates."""

    function: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    saturated_slope: Callable[[Array], Array]


def _step_function(value: Array) -> Array:
    return (value > 0).astype(value.dtype)


def _one_minus_square(h: Array) -> Array:
    return 1 - h**2


def _tanh(z: Array) -> Array:
    return jnp.tanh(z)


def _relu(z: Array) -> Array:
    return jax.nn.relu(z)


def _itself(z: Array) -> Array:
    return z


def _ones(h: Array) -> Array:
    return jnp.ones_like(h)


# Functions of this module, because pickle finds them by their names, and does not find JAX's.
ACTIVATIONS = {
    "tanh": Activation(_tanh, _one_minus_square, tanh_slope),
    "relu": Activation(_relu, _step_function, _step_function),
    "identity": Activation(_itself, _ones, _ones),
}


def forward_step(
    activation: Activation, params: RNNParams, state: RNNState, x: Float[Array, "*batch d"]
) -> tuple[RNNState, Residuals]:
    """The step: ``(state, residuals)``."""
    h = activation.function(pre_activations(params, state.h, x))
    return RNNState(h), Residuals(h, state.h)


def step(
    activation: Activation, params: RNNParams, state: RNNState, x: Array
) -> tuple[RNNState, Array]:
    """One time step: ``(state, out)`` with out = h_t."""
    check_step_arguments(RNNParams, params, state, x)
    state, _ = forward_step(activation, params, state, x)
    return state, state.h


def local_derivatives(activation: Activation, residuals: Residuals) -> Local:
    """The factor of this file's docstring, for any number of steps at once."""
    return Local(activation.slope(residuals.h))


def saturated_derivatives(
    activation: Activation, params: RNNParams, state: RNNState, x: Array
) -> Local:
    """The same factor from the pre-activation, exact where a unit saturates."""
    return Local(activation.saturated_slope(pre_activations(params, state.h, x)))


def tangent_step(params: RNNParams, local: Local, state_dot: RNNState, z_dot: Array) -> RNNState:
    """ḣ_t = φ'(z_t) ż_t."""
    return RNNState(local.h_z * (z_dot + state_dot.h @ params.w_h))


def backward_step(params: RNNParams, local: Local, d_state: RNNState) -> tuple[RNNState, Array]:
    """δz_t = φ'(z_t) δh_t;   δh_{t−1} = δz_t W_hᵀ."""
    d_z = d_state.h * local.h_z
    return RNNState(d_z @ params.w_h.T), d_z


def step_jacobian(
    activation: Activation, params: RNNParams, state: RNNState, x: Float[Array, "d"]
) -> RNNState:
    """∂h_t/∂h_{t−1} = diag(φ'(z_t)) W_hᵀ, for one sample, as ``jacobian.h.h`` [out, in]."""
    slope = activation.saturated_slope(pre_activations(params, state.h, x))
    return Jacobian(RNNState(slope[:, None] * matrix_of(params.w_h.T)))


def direct_jacobian(params: RNNParams, state: RNNState, x: Float[Array, "d"]) -> RNNState:
    """E_t, the part of J_t that does not pass through W_h: zeros, as a vector."""
    return Jacobian(RNNState(jnp.zeros_like(state.h)))


def through_jacobian(
    activation: Activation,
    params: RNNParams,
    state: RNNState,
    x: Float[Array, "d"],
    kept: Float[Array, "1"],
) -> RNNState:
    """R_t, the part of J_t through W_h: all of it, times ``kept``."""
    whole: Any = step_jacobian(activation, params, state, x)
    return Jacobian(RNNState(kept[0] * whole.h.h))


def input_jacobian(
    activation: Activation, params: RNNParams, state: RNNState, x: Float[Array, "d"]
) -> RNNState:
    """∂h_t/∂x_t = diag(φ'(z_t)) W_xᵀ, for one sample, as ``jacobian.h`` [H, D]."""
    slope = activation.saturated_slope(pre_activations(params, state.h, x))
    return RNNState(slope[:, None] * matrix_of(params.w_x.T))


def gates(activation: Activation, params: RNNParams, state: RNNState, x: Array) -> dict[str, Array]:
    """The slope φ'(z_t), [..., H], in place of the gates that a vanilla network does not have."""
    state, _ = forward_step(activation, params, state, x)
    return {"slope": activation.slope(state.h)}


def rnn(
    input_size: int,
    hidden_size: int,
    *,
    activation: str = "tanh",
    w_x_init: Initializer | None = None,
    w_h_init: Initializer | None = None,
    b_init: Initializer = zeros,
) -> Cell:
    """A vanilla recurrent cell (the equation is this module's docstring).

    Args:
        input_size: D.
        hidden_size: H.
        activation: ``"tanh"``, ``"relu"`` or ``"identity"``.
        w_x_init: initialiser of ``w_x``; uniform(1/√H) if None.
        w_h_init: initialiser of ``w_h``; uniform(1/√H) if None. `scaled_identity()` with relu
            is the IRNN, `orthogonal()` keeps norms.
        b_init: initialiser of ``b``; zeros.

    Returns:
        A `Cell` over `RNNParams` and `RNNState`; equal arguments give the identical cell.

    Raises:
        ValueError: a size that is not a positive integer, or an unknown activation.
        TypeError: an initialiser that cannot be called.

    Example:
        >>> import lstm_jax
        >>> irnn = lstm_jax.rnn(3, 4, activation="relu", w_h_init=lstm_jax.scaled_identity())
        >>> irnn
        rnn_relu(input_size=3, hidden_size=4)
    """
    require_one_of("activation", activation, tuple(ACTIVATIONS))
    sizes = checked_sizes(input_size, hidden_size)
    initializers = checked_initializers(hidden_size, w_x_init, w_h_init, b_init)
    return _rnn(*sizes, activation, *initializers)


def _init(
    input_size: int,
    hidden_size: int,
    w_x_init: Initializer,
    w_h_init: Initializer,
    b_init: Initializer,
    key: Array,
    dtype: Any = float,
) -> RNNParams:
    """Draw parameters: ``init(key, dtype)`` -> `RNNParams`."""
    require_key(key)
    dtype = require_floating_dtype(dtype)
    key_x, key_h, key_b = jax.random.split(key, 3)
    return RNNParams(
        w_x=drawn("w_x_init", w_x_init, key_x, (input_size, hidden_size), dtype),
        w_h=drawn("w_h_init", w_h_init, key_h, (hidden_size, hidden_size), dtype),
        b=drawn("b_init", b_init, key_b, (hidden_size,), dtype),
    )


@lru_cache(maxsize=CELLS_KEPT)
def _rnn(
    input_size: int,
    hidden_size: int,
    activation: str,
    w_x_init: Initializer,
    w_h_init: Initializer,
    b_init: Initializer,
) -> Cell:
    phi = ACTIVATIONS[activation]

    return Cell(
        name=f"rnn_{activation}",
        kind="rnn",
        gate_names=("h",),
        memory_gate=None,
        input_size=input_size,
        hidden_size=hidden_size,
        init=hold(_init, input_size, hidden_size, w_x_init, w_h_init, b_init),
        initial_state=zeros_state(RNNState, h=hidden_size),
        step=hold(step, phi),
        step_jacobian=hold(step_jacobian, phi),
        input_jacobian=hold(input_jacobian, phi),
        gates=hold(gates, phi),
        rule=HandDerived(
            hold(forward_step, phi),
            hold(local_derivatives, phi),
            tangent_step,
            backward_step,
            tangent_inputs,
            parameter_gradient,
            hold(saturated_derivatives, phi),
        ),
        paths=Paths(direct_jacobian, hold(through_jacobian, phi)),
        activation=activation,
    )
