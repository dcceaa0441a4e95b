r"""The LSTM cell with optional parts from later papers, in any combination.

    ŷ = (y − mean y) / √(var y + ε)                          over the last axis (`lstm_jax.cells.layer_norm`)
    z_t = x_t W_x + h_{t−1} W_h + b                                   gates in the order i, f, g, o
        layer norm: γ_x ⊙ (x_t W_x)^ + γ_h ⊙ (h_{t−1} W_h)^ + b       over all gates together
    z_i, z_f += p_i ⊙ C_{t−1}, p_f ⊙ C_{t−1}                          peepholes
    i, f = σ(z_i), σ(z_f);   g = tanh(z_g)
        coupled gates: i = 1 − f                                      gates in the order f, g, o
    C_t = f ⊙ C_{t−1} + i ⊙ g
    z_o += p_o ⊙ C_t;   o = σ(z_o)                                    peepholes
    n_t = C_t
        layer norm: γ_c ⊙ Ĉ_t + b_c
    y_t = o ⊙ tanh n_t
    h_t = y_t
        projection: y_t W_r

Peepholes: Gers & Schmidhuber 2000, "Recurrent nets that time and count". Coupled gates: Greff et al. 2017,
"LSTM: a search space odyssey" (CIFG). Layer normalisation: Ba et al. 2016, supplementary equations 20–22; the
two normalisations at the gates have no shifts, because b is their sum. Projection: Sak et al.
2014; PyTorch's ``proj_size``.

Axes: x[..., D], h[..., P], C, n, y[..., H], z[..., Z], Z = 4H or, coupled, 3H; w_x[D, Z], w_h[P, Z], b[Z];
p[3H] in the order i, f, o or, coupled, p[2H] in the order f, o; w_r[H, P]. P = H without a projection.

Elementwise factors (`Local`); with coupled gates z_f reaches C_t through f and through i:

    ∂C_t/∂z_i = g i(1−i)      ∂C_t/∂z_f = C_{t−1} f(1−f)      ∂C_t/∂z_g = i (1−g²)      ∂C_t/∂C_{t−1} = f
            coupled:          ∂C_t/∂z_f = (C_{t−1} − g) f(1−f)
    ∂y_t/∂z_o = tanh n_t · o(1−o)      ∂y_t/∂n_t = o (1 − tanh² n_t)
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.cells.activation_slopes import sigmoid_slope, tanh_slope
from lstm_jax.cells.affine import sum_of_outer, sum_of_products
from lstm_jax.cells.cell import (
    CELLS_KEPT,
    Cell,
    HandDerived,
    Paths,
    check_step_arguments,
    zeros_state,
)
from lstm_jax.cells.layer_norm import normalised, through_norm
from lstm_jax.held_arguments import hold
from lstm_jax.initializers import Chrono, Initializer, drawn, uniform, with_gate_bias
from lstm_jax.jax_extensions.weight_with_transpose import matrix_of
from lstm_jax.validation import (
    require_bool,
    require_floating_dtype,
    require_key,
    require_positive_int,
)


class LSTMVariantParams(NamedTuple):
    """Parameters of an LSTM with optional parts; a part that is absent is None.

    Attributes:
        w_x: [D, 4H] in the order i, f, g, o; [D, 3H] in the order f, g, o where the gates are coupled.
        w_h: [P, 4H], likewise; P = H without a projection.
        b: [4H], likewise.
        p: peepholes [3H] in the order i, f, o; [2H] in the order f, o where the gates are coupled.
        norm_x: gain [4H] or [3H] of the normalised x W_x.
        norm_h: gain [4H] or [3H] of the normalised h W_h.
        norm_c: gain [H] of the normalised memory.
        b_c: bias [H] of the normalised memory.
        w_r: projection [H, P].
    """

    w_x: Float[Array, "d z"]
    w_h: Float[Array, "p z"]
    b: Float[Array, "z"]
    p: Float[Array, "peepholes"] | None = None
    norm_x: Float[Array, "z"] | None = None
    norm_h: Float[Array, "z"] | None = None
    norm_c: Float[Array, "h"] | None = None
    b_c: Float[Array, "h"] | None = None
    w_r: Float[Array, "h p"] | None = None


class Options(NamedTuple):
    """Which parts an LSTM has; the arguments of `lstm_jax.lstm`."""

    peepholes: bool
    coupled_gates: bool
    layer_norm: bool
    projection_size: int | None


class PreActivations(NamedTuple):
    """Tangents or cotangents of ``z``, and of ``n`` (layer norm) and ``h`` (projection), or None."""

    z: Float[Array, "*batch z"]
    n: Any  # [..., H]
    h: Any  # [..., P]


class Residuals(NamedTuple):
    """The arrays of one step that the backward pass reads; None where the part is absent.

    ``i`` is None where the gates are coupled; ``tanh_n``, ``from_x`` and ``from_h`` without layer norm.
    """

    i: Float[Array, "*batch h"] | None
    f: Float[Array, "*batch h"]
    g: Float[Array, "*batch h"]
    o: Float[Array, "*batch h"]
    tanh_n: Float[Array, "*batch h"] | None
    from_x: Any  # Normalised[..., Z]
    from_h: Any  # Normalised[..., Z]
    c_prev: Float[Array, "*batch h"]
    h_prev: Float[Array, "*batch p"]


class Local(NamedTuple):
    """Elementwise factors of one step's derivative: ``c_i`` is ∂C_t/∂z_i, and so on.

    ``from_h`` and ``from_c`` are the normalised h_{t−1} W_h and C_t, for `through_norm`.
    """

    c_i: Any  # [..., H]; None where the gates are coupled
    c_f: Float[Array, "*batch h"]
    c_g: Float[Array, "*batch h"]
    c_c: Float[Array, "*batch h"]
    y_o: Float[Array, "*batch h"]
    y_n: Float[Array, "*batch h"]
    from_h: Any  # Normalised[..., Z]
    from_c: Any  # Normalised[..., H]


def _times(vector: Any, rows: Array) -> Array:
    return jnp.broadcast_to(vector, rows.shape) * rows


def _plus(rows: Array, vector: Any) -> Array:
    return rows + jnp.broadcast_to(vector, rows.shape)


def _blocks(array: Any, hidden_size: int, count: int) -> list[Any]:
    """Blocks of H along the last axis; None for the first, the input gate's, where it is coupled."""
    blocks = jnp.split(array, array.shape[-1] // hidden_size, axis=-1)
    return [None] * (count - len(blocks)) + blocks


def _joined(*blocks: Array | None) -> Array:
    return jnp.concatenate([block for block in blocks if block is not None], axis=-1)


def _input_gate_and_memory(residuals: Residuals) -> tuple[Array, Array]:
    """The gate i and C_t, recomputed because that costs less than storing and reading them."""
    i = 1 - residuals.f if residuals.i is None else residuals.i
    return i, residuals.f * residuals.c_prev + i * residuals.g


def _tanh_n(residuals: Residuals, c: Array) -> Array:
    return jnp.tanh(c) if residuals.tanh_n is None else residuals.tanh_n


def _forward(
    params: LSTMVariantParams, state: PyTree, x: Array
) -> tuple[PyTree, Residuals, list[Any]]:
    """The step, its residuals, and the inputs of its nonlinearities: z_i, z_f, z_g, z_o, n."""
    hidden_size = state.c.shape[-1]
    from_x = from_h = None
    y_x, y_h = x @ params.w_x, state.h @ params.w_h
    if params.norm_x is not None:
        from_x, from_h = normalised(y_x), normalised(y_h)
        y_x, y_h = _times(params.norm_x, from_x.hat), _times(params.norm_h, from_h.hat)
    z_i, z_f, z_g, z_o = _blocks(_plus(y_x + y_h, params.b), hidden_size, 4)
    if params.p is not None:
        p_i, p_f, p_o = _blocks(params.p, hidden_size, 3)
        z_i = None if z_i is None else z_i + _times(p_i, state.c)
        z_f = z_f + _times(p_f, state.c)
    f, g = jax.nn.sigmoid(z_f), jnp.tanh(z_g)
    i = 1 - f if z_i is None else jax.nn.sigmoid(z_i)
    c = f * state.c + i * g
    if params.p is not None:
        z_o = z_o + _times(p_o, c)
    o = jax.nn.sigmoid(z_o)
    n = c
    if params.norm_c is not None:
        n = _plus(_times(params.norm_c, normalised(c).hat), params.b_c)
    tanh_n = jnp.tanh(n)
    h = o * tanh_n
    if params.w_r is not None:
        h = h @ params.w_r
    residuals = Residuals(
        i=None if z_i is None else i,
        f=f,
        g=g,
        o=o,
        tanh_n=None if params.norm_c is None else tanh_n,
        from_x=from_x,
        from_h=from_h,
        c_prev=state.c,
        h_prev=state.h,
    )
    return state._replace(h=h, c=c), residuals, [z_i, z_f, z_g, z_o, n]


def forward_step(params: LSTMVariantParams, state: PyTree, x: Array) -> tuple[PyTree, Residuals]:
    """The step: ``(state, residuals)``."""
    return _forward(params, state, x)[:2]


def step(params: LSTMVariantParams, state: PyTree, x: Array) -> tuple[PyTree, Array]:
    """One time step: ``(state, out)`` with out = h_t."""
    check_step_arguments(LSTMVariantParams, params, state, x, parts=("h", "c"))
    state, _ = forward_step(params, state, x)
    return state, state.h


def local_derivatives(residuals: Residuals) -> Local:
    """The elementwise factors of this file's docstring, for any number of steps at once."""
    f, g, o, c_prev = residuals.f, residuals.g, residuals.o, residuals.c_prev
    i, c = _input_gate_and_memory(residuals)
    tanh_n = _tanh_n(residuals, c)
    coupled, normed = residuals.i is None, residuals.tanh_n is not None
    return Local(
        c_i=None if coupled else g * i * (1 - i),
        c_f=(c_prev - g if coupled else c_prev) * f * (1 - f),
        c_g=i * (1 - g**2),
        c_c=f,
        y_o=tanh_n * o * (1 - o),
        y_n=o * (1 - tanh_n**2),
        from_h=residuals.from_h,
        from_c=normalised(c) if normed else None,
    )


def saturated_derivatives(params: LSTMVariantParams, state: PyTree, x: Array) -> Local:
    """The same factors from the inputs of σ and tanh, exact where a gate or a memory saturates."""
    after, residuals, (z_i, z_f, z_g, z_o, n) = _forward(params, state, x)
    g, o, c_prev = residuals.g, residuals.o, residuals.c_prev
    coupled = z_i is None
    i: Any = jax.nn.sigmoid(-z_f) if coupled else residuals.i
    return Local(
        c_i=None if coupled else g * sigmoid_slope(z_i),
        c_f=(c_prev - g if coupled else c_prev) * sigmoid_slope(z_f),
        c_g=i * tanh_slope(z_g),
        c_c=residuals.f,
        y_o=jnp.tanh(n) * sigmoid_slope(z_o),
        y_n=o * tanh_slope(n),
        from_h=residuals.from_h,
        from_c=None if params.norm_c is None else normalised(after.c),
    )


def tangent_step(
    params: LSTMVariantParams, local: Local, state_dot: PyTree, dot: PreActivations
) -> PyTree:
    """ṡ_t from ṡ_{t−1} and from ``dot``, the parts of ż, ṅ, ḣ due to parameters and inputs."""
    hidden_size = state_dot.c.shape[-1]
    y_dot_h = state_dot.h @ params.w_h
    if params.norm_h is not None:
        y_dot_h = _times(params.norm_h, through_norm(local.from_h, y_dot_h))
    z_dot_i, z_dot_f, z_dot_g, z_dot_o = _blocks(dot.z + y_dot_h, hidden_size, 4)
    if params.p is not None:
        p_i, p_f, p_o = _blocks(params.p, hidden_size, 3)
        z_dot_i = None if z_dot_i is None else z_dot_i + _times(p_i, state_dot.c)
        z_dot_f = z_dot_f + _times(p_f, state_dot.c)
    c_dot = local.c_f * z_dot_f + local.c_g * z_dot_g + local.c_c * state_dot.c
    if z_dot_i is not None:
        c_dot = c_dot + local.c_i * z_dot_i
    if params.p is not None:
        z_dot_o = z_dot_o + _times(p_o, c_dot)
    n_dot = c_dot
    if params.norm_c is not None:
        n_dot = dot.n + _times(params.norm_c, through_norm(local.from_c, c_dot))
    h_dot = local.y_o * z_dot_o + local.y_n * n_dot
    if params.w_r is not None:
        h_dot = dot.h + h_dot @ params.w_r
    return state_dot._replace(h=h_dot, c=c_dot)


def backward_step(
    params: LSTMVariantParams, local: Local, d_state: PyTree
) -> tuple[PyTree, PreActivations]:
    """δs_t to δs_{t−1} and δz_t, δn_t, δh_t, with δh_t complete and δC_t without its part through h_t."""
    d_h, d_c = d_state
    d_y = d_h if params.w_r is None else d_h @ params.w_r.T
    d_o, d_n = d_y * local.y_o, d_y * local.y_n
    if params.norm_c is None:
        d_c = d_c + d_n
    else:
        d_c = d_c + through_norm(local.from_c, _times(params.norm_c, d_n))
    if params.p is not None:
        p_i, p_f, p_o = _blocks(params.p, d_c.shape[-1], 3)
        d_c = d_c + _times(p_o, d_o)
    d_i = None if local.c_i is None else d_c * local.c_i
    d_f = d_c * local.c_f
    d_z = _joined(d_i, d_f, d_c * local.c_g, d_o)
    d_c_prev = d_c * local.c_c
    if params.p is not None:
        d_c_prev = d_c_prev + _times(p_f, d_f)
        d_c_prev = d_c_prev if d_i is None else d_c_prev + _times(p_i, d_i)
    d_y_h = d_z
    if params.norm_h is not None:
        d_y_h = through_norm(local.from_h, _times(params.norm_h, d_z))
    d_pre = PreActivations(
        z=d_z,
        n=None if params.norm_c is None else d_n,
        h=None if params.w_r is None else d_h,
    )
    return d_state._replace(h=d_y_h @ params.w_h.T, c=d_c_prev), d_pre


def tangent_inputs(
    params: LSTMVariantParams,
    params_dot: LSTMVariantParams,
    xs: Array,
    xs_dot: Array,
    residuals: Residuals,
) -> PreActivations:
    """ż_t, ṅ_t and ḣ_t without their parts through s_{t−1}, for all t at once."""
    _, c = _input_gate_and_memory(residuals)
    y_dot_x = xs @ params_dot.w_x + xs_dot @ params.w_x
    y_dot_h = residuals.h_prev @ params_dot.w_h
    n_dot = h_dot = None
    if params.norm_x is not None:
        from_x, from_h, from_c = residuals.from_x, residuals.from_h, normalised(c)
        y_dot_x = _times(params.norm_x, through_norm(from_x, y_dot_x))
        y_dot_x = y_dot_x + _times(params_dot.norm_x, from_x.hat)
        y_dot_h = _times(params.norm_h, through_norm(from_h, y_dot_h))
        y_dot_h = y_dot_h + _times(params_dot.norm_h, from_h.hat)
        n_dot = _plus(_times(params_dot.norm_c, from_c.hat), params_dot.b_c)
    z_dot = _plus(y_dot_x + y_dot_h, params_dot.b)
    if params.p is not None:
        p_dot_i, p_dot_f, p_dot_o = _blocks(params_dot.p, c.shape[-1], 3)
        z_dot = z_dot + _joined(
            None if p_dot_i is None else _times(p_dot_i, residuals.c_prev),
            _times(p_dot_f, residuals.c_prev),
            jnp.zeros_like(c),
            _times(p_dot_o, c),
        )
    if params_dot.w_r is not None:
        h_dot = (residuals.o * _tanh_n(residuals, c)) @ params_dot.w_r
    return PreActivations(z_dot, n_dot, h_dot)


def parameter_gradient(
    params: LSTMVariantParams, xs: Array, residuals: Residuals, d_pre: PreActivations
) -> tuple[LSTMVariantParams, Array]:
    """The sums over time and batch, those of matrices each as one product, and ∂L/∂x."""
    _, c = _input_gate_and_memory(residuals)
    d_y_x = d_y_h = d_pre.z
    parts: dict[str, Array] = {}

    def total(array: Array) -> Array:
        return jnp.sum(array, axis=tuple(range(array.ndim - 1)))

    if params.norm_x is not None:
        from_x, from_h = residuals.from_x, residuals.from_h
        d_y_x = through_norm(from_x, _times(params.norm_x, d_pre.z))
        d_y_h = through_norm(from_h, _times(params.norm_h, d_pre.z))
        parts |= {
            "norm_x": sum_of_products(d_pre.z, from_x.hat),
            "norm_h": sum_of_products(d_pre.z, from_h.hat),
            "norm_c": sum_of_products(d_pre.n, normalised(c).hat),
            "b_c": total(d_pre.n),
        }
    if params.p is not None:
        d_i, d_f, _, d_o = _blocks(d_pre.z, c.shape[-1], 4)
        parts["p"] = _joined(
            None if d_i is None else sum_of_products(d_i, residuals.c_prev),
            sum_of_products(d_f, residuals.c_prev),
            sum_of_products(d_o, c),
        )
    if params.w_r is not None:
        parts["w_r"] = sum_of_outer(residuals.o * _tanh_n(residuals, c), d_pre.h)
    d_params = LSTMVariantParams(
        w_x=sum_of_outer(xs, d_y_x),
        w_h=sum_of_outer(residuals.h_prev, d_y_h),
        b=total(d_pre.z),
        **parts,
    )
    return d_params, d_y_x @ params.w_x.T


def step_jacobian(params: LSTMVariantParams, state: PyTree, x: Float[Array, "d"]) -> PyTree:
    """J_t = ∂s_t/∂s_{t−1} for one sample: `tangent_step` of the unit vectors, parameters and inputs constant.

    Returns:
        Nested states, ``jacobian.c.h`` = ∂C_t/∂h_{t−1} as a matrix [out, in]. ∂C_t/∂C_{t−1} is diagonal,
        as a vector [H]. So is ∂h_t/∂C_{t−1}, except with layer norm or a projection, which mix the units
        between C_t and h_t.
    """
    local = saturated_derivatives(params, state, x)
    still = jax.tree.map(jnp.zeros_like, state)
    constant = PreActivations(
        z=jnp.zeros_like(params.b),
        n=None if params.norm_c is None else still.c,
        h=None if params.w_r is None else still.h,
    )

    def moved(state_dot: PyTree) -> PyTree:
        return tangent_step(params, local, state_dot, constant)

    def columns(name: str) -> PyTree:
        unit = jnp.eye(getattr(state, name).shape[0], dtype=x.dtype)
        by_unit = jax.vmap(lambda v: moved(still._replace(**{name: v})))(unit)
        return jax.tree.map(lambda rows: rows.T, by_unit)

    by_h = columns("h")
    # C_{t−1} acts elementwise, so one tangent of ones gives the derivatives of all units.
    by_c = moved(still._replace(c=jnp.ones_like(state.c)))
    h_c = by_c.h if params.norm_c is None and params.w_r is None else columns("c").h
    return state._replace(h=state._replace(h=by_h.h, c=h_c), c=state._replace(h=by_h.c, c=by_c.c))


def direct_jacobian(params: LSTMVariantParams, state: PyTree, x: Float[Array, "d"]) -> PyTree:
    """E_t, the part of J_t that does not pass through W_h: the columns of C_{t−1}, peepholes included."""
    by_h, by_c = step_jacobian(params, state, x)
    return state._replace(
        h=by_h._replace(h=jnp.zeros_like(by_h.h)), c=by_c._replace(h=jnp.zeros_like(by_c.h))
    )


def through_jacobian(
    params: LSTMVariantParams, state: PyTree, x: Float[Array, "d"], kept: Float[Array, "gates"]
) -> PyTree:
    """Σ kept_gate R_t^gate, the part of J_t through W_h: the columns of h_{t−1}; those of C are zeros.

    Layer norm mixes the gates before z_t: a gate's part is the one that enters its pre-activation.
    """
    local = saturated_derivatives(params, state, x)
    still = jax.tree.map(jnp.zeros_like, state)
    n = None if params.norm_c is None else still.c
    h = None if params.w_r is None else still.h
    weights = jnp.repeat(kept, still.c.shape[0])

    def moved(row: Array) -> PyTree:
        if params.norm_h is not None:
            row = _times(params.norm_h, through_norm(local.from_h, row))
        return tangent_step(params, local, still, PreActivations(row * weights, n, h))

    by_unit = jax.tree.map(lambda rows: rows.T, jax.vmap(moved)(matrix_of(params.w_h)))
    by_h, by_c = step_jacobian(params, state, x)
    return state._replace(
        h=by_h._replace(h=by_unit.h, c=jnp.zeros_like(by_h.c)),
        c=by_c._replace(h=by_unit.c, c=jnp.zeros_like(by_c.c)),
    )


def input_jacobian(params: LSTMVariantParams, state: PyTree, x: Float[Array, "d"]) -> PyTree:
    """∂s_t/∂x_t for one sample: `tangent_step` of the unit vectors' ż, with s_{t−1} constant.

    Returns:
        ``jacobian.h`` [P, D] and ``jacobian.c`` [H, D].
    """
    local = saturated_derivatives(params, state, x)
    _, residuals = forward_step(params, state, x)
    still = jax.tree.map(jnp.zeros_like, state)
    # The parameters are constant too: zeros of their shapes.
    params_dot = jax.tree.map(
        lambda p: jnp.zeros(p.shape, x.dtype), jax.tree.map(matrix_of, params)
    )

    def moved(x_dot: Array) -> PyTree:
        dot = tangent_inputs(params, params_dot, x, x_dot, residuals)
        return tangent_step(params, local, still, dot)

    by_unit = jax.vmap(moved)(jnp.eye(x.shape[0], dtype=x.dtype))
    return jax.tree.map(lambda rows: rows.T, by_unit)


def gates(params: LSTMVariantParams, state: PyTree, x: Array) -> dict[str, Array]:
    """The activations i, f, g, o of one step, each [..., H]."""
    _, residuals = forward_step(params, state, x)
    i, _ = _input_gate_and_memory(residuals)
    return {"i": i, "f": residuals.f, "g": residuals.g, "o": residuals.o}


RULE = HandDerived(
    forward_step,
    local_derivatives,
    tangent_step,
    backward_step,
    tangent_inputs,
    parameter_gradient,
    saturated_derivatives,
)


def checked_options(hidden_size: int, **options: Any) -> Options:
    """Refuse options that are neither True nor False, and a projection that is not smaller than H.

    Raises:
        ValueError: naming the argument and its value.
    """
    size = options["projection_size"]
    for name, value in options.items():
        if name != "projection_size":
            require_bool(name, value)
    if size is None:
        return Options(**options)
    require_positive_int("projection_size", size)
    if size >= hidden_size:
        raise ValueError(
            "Size mismatch: expected projection_size to be smaller than hidden_size, "
            f"{hidden_size}, got {size}."
        )
    return Options(**{**options, "projection_size": int(size)})


def _init(
    input_size: int,
    hidden_size: int,
    options: Options,
    forget_bias: float | Chrono,
    w_x_init: Initializer,
    w_h_init: Initializer,
    b_init: Initializer,
    key: Array,
    dtype: Any = float,
) -> LSTMVariantParams:
    """Draw parameters: ``init(key, dtype)`` -> `LSTMVariantParams`."""
    output_size = options.projection_size or hidden_size
    columns = (3 if options.coupled_gates else 4) * hidden_size
    require_key(key)
    dtype = require_floating_dtype(dtype)
    key_x, key_h, key_b, key_f, key_p, key_r = jax.random.split(key, 6)
    b_i, b_f, b_g, b_o = _blocks(drawn("b_init", b_init, key_b, (columns,), dtype), hidden_size, 4)
    b_f = with_gate_bias(b_f, forget_bias, key_f)
    # With coupled gates there is no b_i: z_i is −z_f.
    if isinstance(forget_bias, Chrono) and not options.coupled_gates:
        b_i = -b_f
    params = LSTMVariantParams(
        w_x=drawn("w_x_init", w_x_init, key_x, (input_size, columns), dtype),
        w_h=drawn("w_h_init", w_h_init, key_h, (output_size, columns), dtype),
        b=_joined(b_i, b_f, b_g, b_o),
    )
    draw = uniform(hidden_size**-0.5)
    if options.peepholes:
        params = params._replace(p=draw(key_p, (columns - hidden_size,), dtype))
    if options.layer_norm:
        params = params._replace(
            norm_x=jnp.ones(columns, dtype),
            norm_h=jnp.ones(columns, dtype),
            norm_c=jnp.ones(hidden_size, dtype),
            b_c=jnp.zeros(hidden_size, dtype),
        )
    if options.projection_size:
        params = params._replace(w_r=draw(key_r, (hidden_size, output_size), dtype))
    return params


@lru_cache(maxsize=CELLS_KEPT)
def variant_cell(
    state_type: Callable[..., Any],
    input_size: int,
    hidden_size: int,
    options: Options,
    forget_bias: float | Chrono,
    w_x_init: Initializer,
    w_h_init: Initializer,
    b_init: Initializer,
) -> Cell:
    """Make a cell with any of the options; `lstm_jax.lstm` checks and documents the arguments."""
    output_size = options.projection_size or hidden_size
    n_gates = 3 if options.coupled_gates else 4

    parts = ("peephole", "coupled", "norm", "projected")
    return Cell(
        name="_".join(["lstm", *(part for part, has in zip(parts, options, strict=True) if has)]),
        kind="lstm",
        gate_names=("i", "f", "g", "o")[-n_gates:],
        memory_gate="f",
        input_size=input_size,
        hidden_size=hidden_size,
        init=hold(_init, input_size, hidden_size, options, forget_bias, w_x_init, w_h_init, b_init),
        initial_state=zeros_state(state_type, h=output_size, c=hidden_size),
        step=step,
        step_jacobian=step_jacobian,
        input_jacobian=input_jacobian,
        gates=gates,
        rule=RULE,
        paths=Paths(direct_jacobian, through_jacobian),
    )
