r"""The LSTM cell: step, hand-derived rule and Jacobians.

Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000):

    z_t = x_t W_x + h_{t−1} W_h + b                 gates in the order i, f, g, o
    i, f, o = σ(z_i), σ(z_f), σ(z_o);   g = tanh(z_g)
    C_t = f ⊙ C_{t−1} + i ⊙ g
    h_t = o ⊙ tanh C_t

Axes: x[..., D], h[..., H], C[..., H], z[..., 4H]; w_x[D, 4H], w_h[H, 4H], b[4H].

Every derivative below is built from six elementwise factors (`Local`):

    ∂C_t/∂z_i = g i(1−i)      ∂C_t/∂z_f = C_{t−1} f(1−f)      ∂C_t/∂z_g = i (1−g²)
    ∂h_t/∂z_o = tanh C_t · o(1−o)      ∂h_t/∂C_t = o (1 − tanh² C_t)      ∂C_t/∂C_{t−1} = f
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Float
from lstm_jax.cells.activation_slopes import sigmoid_slope, tanh_slope
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
from lstm_jax.cells.lstm_variants import checked_options, variant_cell
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
from lstm_jax.validation import require_floating_dtype, require_key


class LSTMParams(NamedTuple):
    """``w_x[D, 4H]``, ``w_h[H, 4H]``, ``b[4H]``; gates in the order i, f, g, o."""

    w_x: Float[Array, "d z"]
    w_h: Float[Array, "h z"]
    b: Float[Array, "z"]


class LSTMState(NamedTuple):
    """The hidden state ``h[..., H]`` and the memory ``c[..., H]``.

    With a projection (`lstm_jax.cells.lstm_variants`) the hidden state is ``h[..., P]``. The tuple also
    serves for any pair indexed by h and c: cotangents, rates, names, the two rows of a Jacobian.
    """

    h: Float[Array, "*batch h"]
    c: Float[Array, "*batch h"]


# For mypy: a Jacobian is a state of states.
Jacobian: Any = LSTMState


class Residuals(NamedTuple):
    """The arrays of one step that the backward pass reads."""

    i: Float[Array, "*batch h"]
    f: Float[Array, "*batch h"]
    g: Float[Array, "*batch h"]
    o: Float[Array, "*batch h"]
    c_prev: Float[Array, "*batch h"]
    h_prev: Float[Array, "*batch h"]


class Local(NamedTuple):
    """Elementwise factors of one step's derivative: ``c_i`` is ∂C_t/∂z_i, and so on."""

    c_i: Float[Array, "*batch h"]
    c_f: Float[Array, "*batch h"]
    c_g: Float[Array, "*batch h"]
    c_c: Float[Array, "*batch h"]
    h_o: Float[Array, "*batch h"]
    h_c: Float[Array, "*batch h"]


def forward_step(params: LSTMParams, state: LSTMState, x: Array) -> tuple[LSTMState, Residuals]:
    """The step: ``(state, residuals)``."""
    z_i, z_f, z_g, z_o = jnp.split(pre_activations(params, state.h, x), 4, axis=-1)
    i, f, o = jax.nn.sigmoid(z_i), jax.nn.sigmoid(z_f), jax.nn.sigmoid(z_o)
    g = jnp.tanh(z_g)
    c = f * state.c + i * g
    h = o * jnp.tanh(c)
    return LSTMState(h, c), Residuals(i, f, g, o, state.c, state.h)


def step(params: LSTMParams, state: LSTMState, x: Array) -> tuple[LSTMState, Array]:
    """One time step: ``(state, out)`` with out = h_t."""
    check_step_arguments(LSTMParams, params, state, x, parts=("h", "c"))
    state, _ = forward_step(params, state, x)
    return state, state.h


def local_derivatives(residuals: Residuals) -> Local:
    """The six elementwise factors of this file's docstring, for any number of steps at once."""
    i, f, g, o, c_prev, _ = residuals
    # Recomputing tanh C_t for many steps at once costs less than storing and reading it.
    tanh_c = jnp.tanh(f * c_prev + i * g)
    return Local(
        c_i=g * i * (1 - i),
        c_f=c_prev * f * (1 - f),
        c_g=i * (1 - g**2),
        c_c=f,
        h_o=tanh_c * o * (1 - o),
        h_c=o * (1 - tanh_c**2),
    )


def saturated_derivatives(params: LSTMParams, state: LSTMState, x: Array) -> Local:
    """The same six factors from the pre-activations, exact where a gate or a memory saturates."""
    _, (i, _, g, o, c_prev, _) = forward_step(params, state, x)
    z_i, z_f, z_g, z_o = jnp.split(pre_activations(params, state.h, x), 4, axis=-1)
    f = jax.nn.sigmoid(z_f)
    c = f * c_prev + i * g
    return Local(
        c_i=g * sigmoid_slope(z_i),
        c_f=c_prev * sigmoid_slope(z_f),
        c_g=i * tanh_slope(z_g),
        c_c=f,
        h_o=jnp.tanh(c) * sigmoid_slope(z_o),
        h_c=o * tanh_slope(c),
    )


def tangent_step(params: LSTMParams, local: Local, state_dot: LSTMState, z_dot: Array) -> LSTMState:
    """Ċ_t = Σ ∂C_t/∂z ż + f Ċ_{t−1};   ḣ_t = ∂h_t/∂z_o ż_o + ∂h_t/∂C_t Ċ_t."""
    z_dot = z_dot + state_dot.h @ params.w_h
    z_dot_i, z_dot_f, z_dot_g, z_dot_o = jnp.split(z_dot, 4, axis=-1)
    c_dot = (
        local.c_i * z_dot_i + local.c_f * z_dot_f + local.c_g * z_dot_g + local.c_c * state_dot.c
    )
    h_dot = local.h_o * z_dot_o + local.h_c * c_dot
    return LSTMState(h_dot, c_dot)


def backward_step(params: LSTMParams, local: Local, d_state: LSTMState) -> tuple[LSTMState, Array]:
    """δs_t to δs_{t−1} and δz_t, with δh_t complete and δC_t still without its part through h_t."""
    d_h, d_c = d_state
    d_c = d_c + d_h * local.h_c
    d_z = jnp.concatenate(
        [d_c * local.c_i, d_c * local.c_f, d_c * local.c_g, d_h * local.h_o], axis=-1
    )
    return LSTMState(h=d_z @ params.w_h.T, c=d_c * local.c_c), d_z


def step_jacobian(params: LSTMParams, state: LSTMState, x: Float[Array, "d"]) -> LSTMState:
    """J_t = ∂s_t/∂s_{t−1} in closed form, for one sample.

        ∂C_t/∂h_{t−1} = diag(∂C/∂z_i) W_hiᵀ + diag(∂C/∂z_f) W_hfᵀ + diag(∂C/∂z_g) W_hgᵀ
        ∂C_t/∂C_{t−1} = diag(f)
        ∂h_t/∂h_{t−1} = diag(∂h/∂z_o) W_hoᵀ + diag(∂h/∂C) ∂C_t/∂h_{t−1}
        ∂h_t/∂C_{t−1} = diag(∂h/∂C) diag(f)

    Returns:
        Nested states, ``jacobian.c.h`` = ∂C_t/∂h_{t−1} as a matrix [out, in]; the two derivatives with
        respect to C_{t−1} are diagonal and come as vectors [H].
    """
    local = saturated_derivatives(params, state, x)
    h_h, c_h = _through(local, matrix_of(params.w_h.T))
    return Jacobian(h=LSTMState(h=h_h, c=local.h_c * local.c_c), c=LSTMState(h=c_h, c=local.c_c))


def direct_jacobian(params: LSTMParams, state: LSTMState, x: Float[Array, "d"]) -> LSTMState:
    """E_t, the part of J_t that does not pass through W_h: the columns of C_{t−1}; four vectors [H]."""
    local = saturated_derivatives(params, state, x)
    none = jnp.zeros_like(local.c_c)
    return Jacobian(h=LSTMState(h=none, c=local.h_c * local.c_c), c=LSTMState(h=none, c=local.c_c))


def through_jacobian(
    params: LSTMParams, state: LSTMState, x: Float[Array, "d"], kept: Float[Array, "4"]
) -> LSTMState:
    """Σ kept_gate R_t^gate, the part of J_t through W_h: the columns of h_{t−1}; those of C are zeros."""
    local = saturated_derivatives(params, state, x)
    w_t = matrix_of(params.w_h.T)
    h_h, c_h = _through(local, w_t * jnp.repeat(kept, local.c_c.shape[0])[:, None])
    none = jnp.zeros_like(local.c_c)
    return Jacobian(h=LSTMState(h=h_h, c=none), c=LSTMState(h=c_h, c=none))


PATHS = Paths(direct_jacobian, through_jacobian)


def input_jacobian(params: LSTMParams, state: LSTMState, x: Float[Array, "d"]) -> LSTMState:
    """∂s_t/∂x_t in closed form, for one sample: `step_jacobian`'s column of h, with W_x in place of W_h.

    Returns:
        ``jacobian.h`` = ∂h_t/∂x_t and ``jacobian.c`` = ∂C_t/∂x_t, [H, D].
    """
    return _through(saturated_derivatives(params, state, x), matrix_of(params.w_x.T))


def _through(local: Local, w_t: Float[Array, "z n"]) -> LSTMState:
    """The derivatives of h_t and C_t through the four pre-activations, z = … W; Wᵀ is given."""
    w_i, w_f, w_g, w_o = jnp.split(w_t, 4)
    c_h = local.c_i[:, None] * w_i + local.c_f[:, None] * w_f + local.c_g[:, None] * w_g
    h_h = local.h_o[:, None] * w_o + local.h_c[:, None] * c_h
    return LSTMState(h=h_h, c=c_h)


def gates(params: LSTMParams, state: LSTMState, x: Array) -> dict[str, Array]:
    """The activations i, f, g, o of one step, each [..., H]."""
    _, residuals = forward_step(params, state, x)
    return {name: getattr(residuals, name) for name in ("i", "f", "g", "o")}


RULE = HandDerived(
    forward_step,
    local_derivatives,
    tangent_step,
    backward_step,
    tangent_inputs,
    parameter_gradient,
    saturated_derivatives,
)


def lstm(
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float | Chrono = 1.0,
    w_x_init: Initializer | None = None,
    w_h_init: Initializer | None = None,
    b_init: Initializer = zeros,
    peepholes: bool = False,
    coupled_gates: bool = False,
    layer_norm: bool = False,
    projection_size: int | None = None,
) -> Cell:
    """A long short-term memory cell (the equations are this module's docstring).

    The last four arguments add parts, in any combination. Their equations and sources are in
    `lstm_jax.cells.lstm_variants`.

    Args:
        input_size: D.
        hidden_size: H.
        forget_bias: added to b_f, 1.0 as Jozefowicz et al. 2015 advise; or `chrono` (T_max), which
            sets b_f ~ log U[1, T_max − 1] and b_i = −b_f (b_f alone where the gates are coupled).
        w_x_init: initialiser of ``w_x``; uniform(1/√H) if None.
        w_h_init: initialiser of ``w_h``; uniform(1/√H) if None.
        b_init: initialiser of ``b`` before the forget bias; zeros.
        peepholes: whether the gates see the memory, i and f the one before the step, o the one after it
            (Gers & Schmidhuber 2000); ``p``, drawn from uniform(1/√H).
        coupled_gates: whether i = 1 − f (Greff et al. 2017), without an input gate.
        layer_norm: whether x W_x, h W_h and the memory are normalised (Ba et al. 2016); the gains begin
            as ones, the memory's bias as zeros.
        projection_size: P, smaller than H: h_t is y_t W_r of size P (Sak et al. 2014, PyTorch's
            ``proj_size``), with ``w_r`` drawn from uniform(1/√H); no projection if None.

    Returns:
        A `Cell` over `LSTMParams`, or over `LSTMVariantParams` with any of the last four arguments, and
        `LSTMState`. Equal arguments give the identical cell, so that a cell is a cheap static argument
        of `jax.jit`.

    Raises:
        ValueError: a size that is not a positive integer, a projection_size that is not smaller than
            hidden_size, or another part that is neither True nor False.
        TypeError: a forget_bias that is neither a finite number nor `chrono`, or an initialiser that
            cannot be called.

    Example:
        >>> import jax, lstm_jax
        >>> cell = lstm_jax.lstm(3, 4)
        >>> params = cell.init(jax.random.key(0))
        >>> state, out = cell.step(params, cell.initial_state(), jax.numpy.ones(3))
        >>> out.shape
        (4,)
        >>> lstm_jax.lstm(3, 4, peepholes=True, projection_size=2)
        lstm_peephole_projected(input_size=3, hidden_size=4)
    """
    require_gate_bias("forget_bias", forget_bias)
    sizes = checked_sizes(input_size, hidden_size)
    initializers = checked_initializers(hidden_size, w_x_init, w_h_init, b_init)
    options = checked_options(
        hidden_size,
        peepholes=peepholes,
        coupled_gates=coupled_gates,
        layer_norm=layer_norm,
        projection_size=projection_size,
    )
    if any(options):
        return variant_cell(LSTMState, *sizes, options, forget_bias, *initializers)
    return _lstm(*sizes, forget_bias, *initializers)


def _init(
    input_size: int,
    hidden_size: int,
    forget_bias: float | Chrono,
    w_x_init: Initializer,
    w_h_init: Initializer,
    b_init: Initializer,
    key: Array,
    dtype: Any = float,
) -> LSTMParams:
    """Draw parameters: ``init(key, dtype)`` -> `LSTMParams`."""
    require_key(key)
    dtype = require_floating_dtype(dtype)
    key_x, key_h, key_b, key_f = jax.random.split(key, 4)
    b_i, b_f, b_g, b_o = jnp.split(drawn("b_init", b_init, key_b, (4 * hidden_size,), dtype), 4)
    b_f = with_gate_bias(b_f, forget_bias, key_f)
    b_i = -b_f if isinstance(forget_bias, Chrono) else b_i
    return LSTMParams(
        w_x=drawn("w_x_init", w_x_init, key_x, (input_size, 4 * hidden_size), dtype),
        w_h=drawn("w_h_init", w_h_init, key_h, (hidden_size, 4 * hidden_size), dtype),
        b=jnp.concatenate([b_i, b_f, b_g, b_o]),
    )


@lru_cache(maxsize=CELLS_KEPT)
def _lstm(
    input_size: int,
    hidden_size: int,
    forget_bias: float | Chrono,
    w_x_init: Initializer,
    w_h_init: Initializer,
    b_init: Initializer,
) -> Cell:
    return Cell(
        name="lstm",
        kind="lstm",
        gate_names=("i", "f", "g", "o"),
        memory_gate="f",
        input_size=input_size,
        hidden_size=hidden_size,
        init=hold(_init, input_size, hidden_size, forget_bias, w_x_init, w_h_init, b_init),
        initial_state=zeros_state(LSTMState, h=hidden_size, c=hidden_size),
        step=step,
        step_jacobian=step_jacobian,
        input_jacobian=input_jacobian,
        gates=gates,
        rule=RULE,
        paths=PATHS,
    )
