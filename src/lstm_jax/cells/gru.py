r"""The GRU cell: step, hand-derived rule and Jacobians.

Gated recurrent unit (Cho et al. 2014), in the form of cuDNN, PyTorch and Keras's ``reset_after``:

    r, u = σ(x_t W_x + h_{t−1} W_h + b)                     gates in the order r, u, n
    a_t  = h_{t−1} W_hn + b_hn
    n    = tanh(x_t W_xn + b_n + r ⊙ a_t)
    h_t  = (1−u) ⊙ n + u ⊙ h_{t−1}

Axes: x[..., D], h[..., H]; w_x[D, 3H], w_h[H, 3H], b[3H], b_hn[H].

Every derivative below is built from the elementwise factors (`Local`), with ν = (1−u)(1−n²) = ∂h_t/∂z_n:

    ∂h_t/∂z_r = ν a_t r(1−r)    ∂h_t/∂z_u = (h_{t−1} − n) u(1−u)    ∂h_t/∂a_t = ν r
    ∂h_t/∂h_{t−1} with the gates constant = u
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Float
from lstm_jax.cells.activation_slopes import sigmoid_slope, tanh_slope
from lstm_jax.cells.affine import sum_of_outer
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
from lstm_jax.cells.gru_reset_before import reset_before_cell
from lstm_jax.held_arguments import hold
from lstm_jax.initializers import (
    Chrono,
    Initializer,
    drawn,
    require_gate_bias,
    with_gate_bias,
    zeros,
)
from lstm_jax.jax_extensions.weight_with_transpose import matrix_of
from lstm_jax.validation import require_bool, require_floating_dtype, require_key


class GRUParams(NamedTuple):
    """``w_x[D, 3H]``, ``w_h[H, 3H]``, ``b[3H]``, ``b_hn[H]``; gates in the order r, u, n."""

    w_x: Float[Array, "d z"]
    w_h: Float[Array, "h z"]
    b: Float[Array, "z"]
    b_hn: Float[Array, "h"]


class GRUState(NamedTuple):
    """The hidden state ``h[..., H]``; in a Jacobian, a state of states."""

    h: Float[Array, "*batch h"]


# For mypy: a Jacobian is a state of states.
Jacobian: Any = GRUState


class PreActivations(NamedTuple):
    """Tangents or cotangents of ``z`` (r, u, n; the part of x) and of ``a`` (the part of h inside n)."""

    z: Float[Array, "*batch z"]
    a: Float[Array, "*batch h"]


class Residuals(NamedTuple):
    """The arrays of one step that the backward pass reads."""

    r: Float[Array, "*batch h"]
    u: Float[Array, "*batch h"]
    n: Float[Array, "*batch h"]
    a: Float[Array, "*batch h"]
    h_prev: Float[Array, "*batch h"]


class Local(NamedTuple):
    """Elementwise factors of one step's derivative: ``h_r`` is ∂h_t/∂z_r, and so on."""

    h_r: Float[Array, "*batch h"]
    h_u: Float[Array, "*batch h"]
    h_n: Float[Array, "*batch h"]
    h_a: Float[Array, "*batch h"]
    h_h: Float[Array, "*batch h"]


def forward_step(
    params: GRUParams, state: GRUState, x: Float[Array, "*batch d"]
) -> tuple[GRUState, Residuals]:
    """The step: ``(state, residuals)``."""
    from_x = x @ params.w_x
    from_x = from_x + jnp.broadcast_to(params.b, from_x.shape)
    x_r, x_u, x_n = jnp.split(from_x, 3, axis=-1)
    h_r, h_u, h_n = jnp.split(state.h @ params.w_h, 3, axis=-1)
    r, u = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_u + h_u)
    a = h_n + jnp.broadcast_to(params.b_hn, h_n.shape)
    n = jnp.tanh(x_n + r * a)
    h = (1 - u) * n + u * state.h
    return GRUState(h), Residuals(r, u, n, a, state.h)


def step(params: GRUParams, state: GRUState, x: Array) -> tuple[GRUState, Array]:
    """One time step: ``(state, out)`` with out = h_t."""
    check_step_arguments(GRUParams, params, state, x)
    state, _ = forward_step(params, state, x)
    return state, state.h


def local_derivatives(residuals: Residuals) -> Local:
    """The elementwise factors of this file's docstring, for any number of steps at once."""
    r, u, n, a, h_prev = residuals
    h_n = (1 - u) * (1 - n**2)
    return Local(
        h_r=h_n * a * r * (1 - r),
        h_u=(h_prev - n) * u * (1 - u),
        h_n=h_n,
        h_a=h_n * r,
        h_h=u,
    )


def saturated_derivatives(params: GRUParams, state: GRUState, x: Array) -> Local:
    """The same factors from the pre-activations, exact where a gate saturates."""
    _, (r, u, n, a, h_prev) = forward_step(params, state, x)
    from_x = x @ params.w_x
    x_r, x_u, x_n = jnp.split(from_x + jnp.broadcast_to(params.b, from_x.shape), 3, axis=-1)
    h_r, h_u, _ = jnp.split(h_prev @ params.w_h, 3, axis=-1)
    h_n = jax.nn.sigmoid(-x_u - h_u) * tanh_slope(x_n + r * a)
    return Local(
        h_r=h_n * a * sigmoid_slope(x_r + h_r),
        h_u=(h_prev - n) * sigmoid_slope(x_u + h_u),
        h_n=h_n,
        h_a=h_n * r,
        h_h=u,
    )


def tangent_step(
    params: GRUParams, local: Local, state_dot: GRUState, dot: PreActivations
) -> GRUState:
    """ḣ_t = Σ ∂h_t/∂z ż + ∂h_t/∂a ȧ + u ḣ_{t−1}."""
    z_dot_r, z_dot_u, z_dot_n = jnp.split(dot.z, 3, axis=-1)
    h_dot_r, h_dot_u, h_dot_a = jnp.split(state_dot.h @ params.w_h, 3, axis=-1)
    return GRUState(
        local.h_r * (z_dot_r + h_dot_r)
        + local.h_u * (z_dot_u + h_dot_u)
        + local.h_n * z_dot_n
        + local.h_a * (dot.a + h_dot_a)
        + local.h_h * state_dot.h
    )


def backward_step(
    params: GRUParams, local: Local, d_state: GRUState
) -> tuple[GRUState, PreActivations]:
    """δh_t to δh_{t−1}, δz_t and δa_t, with δh_t complete."""
    d_h = d_state.h
    d_r, d_u = d_h * local.h_r, d_h * local.h_u
    d_n, d_a = d_h * local.h_n, d_h * local.h_a
    d_h_prev = jnp.concatenate([d_r, d_u, d_a], axis=-1) @ params.w_h.T + d_h * local.h_h
    return GRUState(d_h_prev), PreActivations(jnp.concatenate([d_r, d_u, d_n], axis=-1), d_a)


def tangent_inputs(
    params: GRUParams, params_dot: GRUParams, xs: Array, xs_dot: Array, residuals: Residuals
) -> PreActivations:
    """ż_t and ȧ_t without their parts through h_{t−1}, for all t at once."""
    z_dot = xs @ params_dot.w_x + xs_dot @ params.w_x
    z_dot = z_dot + jnp.broadcast_to(params_dot.b, z_dot.shape)
    z_dot_r, z_dot_u, z_dot_n = jnp.split(z_dot, 3, axis=-1)
    h_dot_r, h_dot_u, a_dot = jnp.split(residuals.h_prev @ params_dot.w_h, 3, axis=-1)
    a_dot = a_dot + jnp.broadcast_to(params_dot.b_hn, a_dot.shape)
    return PreActivations(
        jnp.concatenate([z_dot_r + h_dot_r, z_dot_u + h_dot_u, z_dot_n], axis=-1), a_dot
    )


def parameter_gradient(
    params: GRUParams, xs: Array, residuals: Residuals, d_pre: PreActivations
) -> tuple[GRUParams, Array]:
    """The sums over time and batch, each as one product. In the block of n, W_h gets δa and W_x gets δz_n."""
    batch_axes = tuple(range(d_pre.a.ndim - 1))
    d_r, d_u, _ = jnp.split(d_pre.z, 3, axis=-1)
    d_params = GRUParams(
        w_x=sum_of_outer(xs, d_pre.z),
        w_h=sum_of_outer(residuals.h_prev, jnp.concatenate([d_r, d_u, d_pre.a], axis=-1)),
        b=jnp.sum(d_pre.z, axis=batch_axes),
        b_hn=jnp.sum(d_pre.a, axis=batch_axes),
    )
    return d_params, d_pre.z @ params.w_x.T


def step_jacobian(params: GRUParams, state: GRUState, x: Float[Array, "d"]) -> GRUState:
    """∂h_t/∂h_{t−1} = diag(u) + diag(∂h/∂z_r) W_hrᵀ + diag(∂h/∂z_u) W_huᵀ + diag(∂h/∂a) W_hnᵀ.

    Returns:
        Nested states: ``jacobian.h.h``, a matrix [out, in].
    """
    local = saturated_derivatives(params, state, x)
    w_r, w_u, w_n = jnp.split(matrix_of(params.w_h.T), 3)
    h_h = local.h_r[:, None] * w_r + local.h_u[:, None] * w_u + local.h_a[:, None] * w_n
    return Jacobian(GRUState(h_h + jnp.diag(local.h_h)))


def direct_jacobian(params: GRUParams, state: GRUState, x: Float[Array, "d"]) -> GRUState:
    """E_t, the part of J_t that does not pass through W_h: ``jacobian.h.h`` = u as a vector, the diagonal."""
    return Jacobian(GRUState(saturated_derivatives(params, state, x).h_h))


def through_jacobian(
    params: GRUParams, state: GRUState, x: Float[Array, "d"], kept: Float[Array, "3"]
) -> GRUState:
    """Σ kept_gate R_t^gate, the part of J_t through W_h: all but diag(u)."""
    local = saturated_derivatives(params, state, x)
    w_r, w_u, w_n = jnp.split(matrix_of(params.w_h.T), 3)
    h_r, h_u, h_a = kept[0] * local.h_r, kept[1] * local.h_u, kept[2] * local.h_a
    h_h = h_r[:, None] * w_r + h_u[:, None] * w_u + h_a[:, None] * w_n
    return Jacobian(GRUState(h_h))


PATHS = Paths(direct_jacobian, through_jacobian)


def input_jacobian(params: GRUParams, state: GRUState, x: Float[Array, "d"]) -> GRUState:
    """∂h_t/∂x_t = diag(∂h/∂z_r) W_xrᵀ + diag(∂h/∂z_u) W_xuᵀ + diag(∂h/∂z_n) W_xnᵀ, one sample, [H, D]."""
    local = saturated_derivatives(params, state, x)
    w_r, w_u, w_n = jnp.split(matrix_of(params.w_x.T), 3)
    return GRUState(local.h_r[:, None] * w_r + local.h_u[:, None] * w_u + local.h_n[:, None] * w_n)


def gates(params: GRUParams, state: GRUState, x: Array) -> dict[str, Array]:
    """The activations r, u, n of one step, each [..., H]."""
    _, residuals = forward_step(params, state, x)
    return {name: getattr(residuals, name) for name in ("r", "u", "n")}


RULE = HandDerived(
    forward_step,
    local_derivatives,
    tangent_step,
    backward_step,
    tangent_inputs,
    parameter_gradient,
    saturated_derivatives,
)


def gru(
    input_size: int,
    hidden_size: int,
    *,
    update_bias: float | Chrono = 0.0,
    w_x_init: Initializer | None = None,
    w_h_init: Initializer | None = None,
    b_init: Initializer = zeros,
    reset_after: bool = True,
) -> Cell:
    """A gated recurrent unit (the equations are this module's docstring).

    Args:
        input_size: D.
        hidden_size: H.
        update_bias: added to b_u, the bias of the gate that keeps the state; or `chrono` (T_max).
        w_x_init: initialiser of ``w_x``; uniform(1/√H) if None.
        w_h_init: initialiser of ``w_h``; uniform(1/√H) if None.
        b_init: initialiser of ``b`` and ``b_hn`` before the update bias; zeros.
        reset_after: whether the reset gate multiplies h_{t−1} W_hn + b_hn, after the product, as in cuDNN;
            False for the form of Cho et al., (r ⊙ h_{t−1}) W_hn, which is Keras's ``reset_after=False`` and
            ONNX's ``linear_before_reset=0`` (`lstm_jax.cells.gru_reset_before`).

    Returns:
        A `Cell` over `GRUParams`, or `GRUResetBeforeParams`, and `GRUState`; equal arguments give the
        identical cell.

    Raises:
        ValueError: a size that is not a positive integer, or a reset_after that is neither True nor False.
        TypeError: an update_bias that is neither a finite number nor `chrono`, or an initialiser that
            cannot be called.

    Example:
        >>> import jax, lstm_jax
        >>> cell = lstm_jax.gru(3, 4)
        >>> cell.init(jax.random.key(0)).w_h.shape
        (4, 12)
        >>> lstm_jax.gru(3, 4, reset_after=False)
        gru_reset_before(input_size=3, hidden_size=4)
    """
    require_bool("reset_after", reset_after)
    require_gate_bias("update_bias", update_bias)
    sizes = checked_sizes(input_size, hidden_size)
    initializers = checked_initializers(hidden_size, w_x_init, w_h_init, b_init)
    if not reset_after:
        return reset_before_cell(GRUState, *sizes, update_bias, *initializers)
    return _gru(*sizes, update_bias, *initializers)


def _init(
    input_size: int,
    hidden_size: int,
    update_bias: float | Chrono,
    w_x_init: Initializer,
    w_h_init: Initializer,
    b_init: Initializer,
    key: Array,
    dtype: Any = float,
) -> GRUParams:
    """Draw parameters: ``init(key, dtype)`` -> `GRUParams`."""
    require_key(key)
    dtype = require_floating_dtype(dtype)
    key_x, key_h, key_b, key_u = jax.random.split(key, 4)
    b_r, b_u, b_n, b_hn = jnp.split(drawn("b_init", b_init, key_b, (4 * hidden_size,), dtype), 4)
    b_u = with_gate_bias(b_u, update_bias, key_u)
    return GRUParams(
        w_x=drawn("w_x_init", w_x_init, key_x, (input_size, 3 * hidden_size), dtype),
        w_h=drawn("w_h_init", w_h_init, key_h, (hidden_size, 3 * hidden_size), dtype),
        b=jnp.concatenate([b_r, b_u, b_n]),
        b_hn=b_hn,
    )


@lru_cache(maxsize=CELLS_KEPT)
def _gru(
    input_size: int,
    hidden_size: int,
    update_bias: float | Chrono,
    w_x_init: Initializer,
    w_h_init: Initializer,
    b_init: Initializer,
) -> Cell:
    return Cell(
        name="gru",
        kind="gru",
        gate_names=("r", "u", "n"),
        memory_gate="u",
        input_size=input_size,
        hidden_size=hidden_size,
        init=hold(_init, input_size, hidden_size, update_bias, w_x_init, w_h_init, b_init),
        initial_state=zeros_state(GRUState, h=hidden_size),
        step=step,
        step_jacobian=step_jacobian,
        input_jacobian=input_jacobian,
        gates=gates,
        rule=RULE,
        paths=PATHS,
    )
