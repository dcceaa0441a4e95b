r"""The GRU cell as Cho et al. 2014 wrote it, with the reset gate *before* the recurrent product.

Keras's ``reset_after=False``, ONNX's ``linear_before_reset=0``; `lstm_jax.cells.gru` has cuDNN's form.

    r, u = σ(x_t W_x + h_{t−1} W_h + b)                     gates in the order r, u, n
    a_t  = r ⊙ h_{t−1}
    n    = tanh(x_t W_xn + b_n + a_t W_hn)
    h_t  = (1−u) ⊙ n + u ⊙ h_{t−1}

Axes: x[..., D], h[..., H]; w_x[D, 3H], w_h[H, 3H], b[3H].

Every derivative below is built from W_h and the elementwise factors (`Local`):

    ∂a_t/∂z_r = h_{t−1} r(1−r)    ∂a_t/∂h_{t−1} = r    ∂h_t/∂z_u = (h_{t−1} − n) u(1−u)
    ∂h_t/∂z_n = (1−u)(1−n²)       ∂h_t/∂h_{t−1} with the gates and n constant = u

Each entry of z_r acts on every unit, through a_t W_hn; in cuDNN's form it acts on one.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.cells.activation_slopes import sigmoid_slope, tanh_slope
from lstm_jax.cells.affine import sum_of_outer
from lstm_jax.cells.cell import (
    CELLS_KEPT,
    Cell,
    HandDerived,
    Paths,
    check_step_arguments,
    zeros_state,
)
from lstm_jax.held_arguments import hold
from lstm_jax.initializers import Chrono, Initializer, drawn, with_gate_bias
from lstm_jax.jax_extensions.weight_with_transpose import matrix_of
from lstm_jax.validation import require_floating_dtype, require_key


class GRUResetBeforeParams(NamedTuple):
    """``w_x[D, 3H]``, ``w_h[H, 3H]``, ``b[3H]``; gates in the order r, u, n."""

    w_x: Float[Array, "d z"]
    w_h: Float[Array, "h z"]
    b: Float[Array, "z"]


class Residuals(NamedTuple):
    """The arrays of one step that the backward pass reads."""

    r: Float[Array, "*batch h"]
    u: Float[Array, "*batch h"]
    n: Float[Array, "*batch h"]
    h_prev: Float[Array, "*batch h"]


class Local(NamedTuple):
    """Elementwise factors of one step's derivative: ``a_r`` is ∂a_t/∂z_r, and so on."""

    a_r: Float[Array, "*batch h"]
    a_h: Float[Array, "*batch h"]
    h_u: Float[Array, "*batch h"]
    h_n: Float[Array, "*batch h"]
    h_h: Float[Array, "*batch h"]


def _recurrent(w_h: Any) -> tuple[Array, Array]:
    """W_h's columns of r and u, to be multiplied by h_{t−1}, and of n, by a_t: [H, 2H], [H, H]."""
    size = matrix_of(w_h).shape[0]
    return matrix_of(w_h)[:, : 2 * size], matrix_of(w_h)[:, 2 * size :]


def _of_gates(z: Array) -> tuple[Array, Array]:
    """The last axis's part of r and u together, and of n: [..., 2H], [..., H]."""
    size = z.shape[-1] // 3
    return z[..., : 2 * size], z[..., 2 * size :]


def _forward(
    params: GRUResetBeforeParams, state: PyTree, x: Array
) -> tuple[PyTree, Residuals, tuple[Array, ...]]:
    """The step, its residuals and its pre-activations."""
    w_ru, w_n = _recurrent(params.w_h)
    from_x = x @ params.w_x
    x_ru, x_n = _of_gates(from_x + jnp.broadcast_to(params.b, from_x.shape))
    z_r, z_u = jnp.split(x_ru + state.h @ w_ru, 2, axis=-1)
    r, u = jax.nn.sigmoid(z_r), jax.nn.sigmoid(z_u)
    z_n = x_n + (r * state.h) @ w_n
    n = jnp.tanh(z_n)
    h = (1 - u) * n + u * state.h
    return state._replace(h=h), Residuals(r, u, n, state.h), (z_r, z_u, z_n)


def forward_step(
    params: GRUResetBeforeParams, state: PyTree, x: Float[Array, "*batch d"]
) -> tuple[PyTree, Residuals]:
    """The step: ``(state, residuals)``."""
    return _forward(params, state, x)[:2]


def step(params: GRUResetBeforeParams, state: PyTree, x: Array) -> tuple[PyTree, Array]:
    """One time step: ``(state, out)`` with out = h_t."""
    check_step_arguments(GRUResetBeforeParams, params, state, x)
    state, _ = forward_step(params, state, x)
    return state, state.h


def local_derivatives(residuals: Residuals) -> Local:
    """The elementwise factors of this file's docstring, for any number of steps at once."""
    r, u, n, h_prev = residuals
    return Local(
        a_r=h_prev * r * (1 - r),
        a_h=r,
        h_u=(h_prev - n) * u * (1 - u),
        h_n=(1 - u) * (1 - n**2),
        h_h=u,
    )


def saturated_derivatives(params: GRUResetBeforeParams, state: PyTree, x: Array) -> Local:
    """The same factors from the pre-activations, exact where a gate saturates."""
    _, (r, u, n, h_prev), (z_r, z_u, z_n) = _forward(params, state, x)
    return Local(
        a_r=h_prev * sigmoid_slope(z_r),
        a_h=r,
        h_u=(h_prev - n) * sigmoid_slope(z_u),
        h_n=jax.nn.sigmoid(-z_u) * tanh_slope(z_n),
        h_h=u,
    )


def tangent_step(
    params: GRUResetBeforeParams, local: Local, state_dot: PyTree, z_dot: Array
) -> PyTree:
    """ȧ_t = ∂a_t/∂z_r ż_r + r ḣ_{t−1};   ḣ_t = ∂h_t/∂z_u ż_u + ∂h_t/∂z_n (ż_n + ȧ_t W_hn) + u ḣ_{t−1}."""
    w_ru, w_n = _recurrent(params.w_h)
    z_dot_ru, z_dot_n = _of_gates(z_dot)
    z_dot_r, z_dot_u = jnp.split(z_dot_ru + state_dot.h @ w_ru, 2, axis=-1)
    a_dot = local.a_r * z_dot_r + local.a_h * state_dot.h
    z_dot_n = z_dot_n + a_dot @ w_n
    return state_dot._replace(h=local.h_u * z_dot_u + local.h_n * z_dot_n + local.h_h * state_dot.h)


def backward_step(
    params: GRUResetBeforeParams, local: Local, d_state: PyTree
) -> tuple[PyTree, Array]:
    """δh_t to δh_{t−1} and δz_t, with δh_t complete; δz_r comes through δa_t = δz_n W_hnᵀ."""
    d_h = d_state.h
    # Rows of the transpose: a `WeightWithTranspose` stores it, so that no copy is made.
    size = d_h.shape[-1]
    w_t = matrix_of(params.w_h.T)
    d_n = d_h * local.h_n
    d_a = d_n @ w_t[2 * size :]
    d_ru = jnp.concatenate([d_a * local.a_r, d_h * local.h_u], axis=-1)
    d_h_prev = d_ru @ w_t[: 2 * size] + d_a * local.a_h + d_h * local.h_h
    return d_state._replace(h=d_h_prev), jnp.concatenate([d_ru, d_n], axis=-1)


def tangent_inputs(
    params: GRUResetBeforeParams,
    params_dot: GRUResetBeforeParams,
    xs: Array,
    xs_dot: Array,
    residuals: Residuals,
) -> Array:
    """ż_t without its parts through h_{t−1}, for all t at once."""
    w_dot_ru, w_dot_n = _recurrent(params_dot.w_h)
    a = residuals.r * residuals.h_prev
    from_h = jnp.concatenate([residuals.h_prev @ w_dot_ru, a @ w_dot_n], axis=-1)
    z_dot = xs @ params_dot.w_x + xs_dot @ params.w_x + from_h
    return z_dot + jnp.broadcast_to(params_dot.b, z_dot.shape)


def parameter_gradient(
    params: GRUResetBeforeParams, xs: Array, residuals: Residuals, d_z: Array
) -> tuple[GRUResetBeforeParams, Array]:
    """The sums over time and batch, each as one product; in the block of n, with a_t for h_{t−1}."""
    d_ru, d_n = _of_gates(d_z)
    a = residuals.r * residuals.h_prev
    d_w_h = [sum_of_outer(residuals.h_prev, d_ru), sum_of_outer(a, d_n)]
    d_params = GRUResetBeforeParams(
        w_x=sum_of_outer(xs, d_z),
        w_h=jnp.concatenate(d_w_h, axis=-1),
        b=jnp.sum(d_z, axis=tuple(range(d_z.ndim - 1))),
    )
    return d_params, d_z @ params.w_x.T


def step_jacobian(params: GRUResetBeforeParams, state: PyTree, x: Float[Array, "d"]) -> PyTree:
    """J_t in closed form, for one sample.

        ∂h_t/∂h_{t−1} = diag(u) + diag(∂h/∂z_u) W_huᵀ + diag(∂h/∂z_n) W_hnᵀ ∂a_t/∂h_{t−1}
        ∂a_t/∂h_{t−1} = diag(r) + diag(∂a/∂z_r) W_hrᵀ

    Returns:
        Nested states: ``jacobian.h.h``, a matrix [out, in].
    """
    local = saturated_derivatives(params, state, x)
    w_r, w_u, w_n = jnp.split(matrix_of(params.w_h.T), 3)
    a_h = jnp.diag(local.a_h) + local.a_r[:, None] * w_r
    h_h = jnp.diag(local.h_h) + local.h_u[:, None] * w_u + local.h_n[:, None] * (w_n @ a_h)
    return state._replace(h=state._replace(h=h_h))


def direct_jacobian(params: GRUResetBeforeParams, state: PyTree, x: Float[Array, "d"]) -> PyTree:
    """E_t, the part of J_t that does not pass through W_h: ``jacobian.h.h`` = u as a vector, the diagonal."""
    return state._replace(h=state._replace(h=saturated_derivatives(params, state, x).h_h))


def through_jacobian(
    params: GRUResetBeforeParams, state: PyTree, x: Float[Array, "d"], kept: Float[Array, "3"]
) -> PyTree:
    """Σ kept_gate R_t^gate, the part of J_t through W_h.

    The path through the reset gate uses W_hr and then W_hn in the same step. It counts as one detour, and
    ``kept`` of r alone keeps or cuts it.
    """
    local = saturated_derivatives(params, state, x)
    w_r, w_u, w_n = jnp.split(matrix_of(params.w_h.T), 3)
    a_h = jnp.diag(kept[2] * local.a_h) + (kept[0] * local.a_r)[:, None] * w_r
    h_h = (kept[1] * local.h_u)[:, None] * w_u + local.h_n[:, None] * (w_n @ a_h)
    return state._replace(h=state._replace(h=h_h))


PATHS = Paths(direct_jacobian, through_jacobian)


def input_jacobian(params: GRUResetBeforeParams, state: PyTree, x: Float[Array, "d"]) -> PyTree:
    """∂h_t/∂x_t, for one sample, as ``jacobian.h`` [H, D].

    diag(∂h/∂z_u) W_xuᵀ + diag(∂h/∂z_n) (W_xnᵀ + W_hnᵀ diag(∂a/∂z_r) W_xrᵀ).
    """
    local = saturated_derivatives(params, state, x)
    w_r, w_u, w_n = jnp.split(matrix_of(params.w_x.T), 3)
    through_a = jnp.split(matrix_of(params.w_h.T), 3)[2] @ (local.a_r[:, None] * w_r)
    return state._replace(h=local.h_u[:, None] * w_u + local.h_n[:, None] * (w_n + through_a))


def gates(params: GRUResetBeforeParams, state: PyTree, x: Array) -> dict[str, Array]:
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


def _init(
    input_size: int,
    hidden_size: int,
    update_bias: float | Chrono,
    w_x_init: Initializer,
    w_h_init: Initializer,
    b_init: Initializer,
    key: Array,
    dtype: Any = float,
) -> GRUResetBeforeParams:
    """Draw parameters: ``init(key, dtype)`` -> `GRUResetBeforeParams`."""
    require_key(key)
    dtype = require_floating_dtype(dtype)
    key_x, key_h, key_b, key_u = jax.random.split(key, 4)
    b_r, b_u, b_n = jnp.split(drawn("b_init", b_init, key_b, (3 * hidden_size,), dtype), 3)
    b_u = with_gate_bias(b_u, update_bias, key_u)
    return GRUResetBeforeParams(
        w_x=drawn("w_x_init", w_x_init, key_x, (input_size, 3 * hidden_size), dtype),
        w_h=drawn("w_h_init", w_h_init, key_h, (hidden_size, 3 * hidden_size), dtype),
        b=jnp.concatenate([b_r, b_u, b_n]),
    )


@lru_cache(maxsize=CELLS_KEPT)
def reset_before_cell(
    state_type: Callable[..., Any],
    input_size: int,
    hidden_size: int,
    update_bias: float | Chrono,
    w_x_init: Initializer,
    w_h_init: Initializer,
    b_init: Initializer,
) -> Cell:
    """Make the cell of ``gru(..., reset_after=False)``; `lstm_jax.gru` checks and documents the arguments."""
    return Cell(
        name="gru_reset_before",
        kind="gru",
        gate_names=("r", "u", "n"),
        memory_gate="u",
        input_size=input_size,
        hidden_size=hidden_size,
        init=hold(_init, input_size, hidden_size, update_bias, w_x_init, w_h_init, b_init),
        initial_state=zeros_state(state_type, h=hidden_size),
        step=step,
        step_jacobian=step_jacobian,
        input_jacobian=input_jacobian,
        gates=gates,
        rule=RULE,
        paths=PATHS,
    )
