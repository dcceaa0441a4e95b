r"""Real-time recurrent learning: the exact gradient forward in time (Williams & Zipser 1989).

The loop carries the influence S_t = ∂s_t/∂θ of every parameter on the state,

    S_t = J_t S_{t−1} + ∂s_t/∂θ |_{s_{t−1}}                 J_t = ∂s_t/∂s_{t−1}
    ∂L/∂θ = Σ_t (∂ℓ_t/∂s_t) S_t

so that the gradient of everything up to t is known at t, and nothing of the past is stored. Within one step
a parameter acts through one pre-activation, z_j = Σ_i x_i W_ij + …, which acts on one unit:

    ∂s_t/∂W_ij |_{s_{t−1}} = x_i · ∂s_t/∂z_j        (h_{t−1,i} for W_h, 1 for a bias)

Against back-propagation through time, for P parameters and H units:

    BPTT    time T·P          memory T·H           the gradient at the end
    RTRL    time T·P·H²       memory P·H           the gradient at every step

RTRL is for streams without an end and for learning at every step, and only for small networks: with
D = H = 64 the influence in an LSTM has 4·10⁶ numbers, with D = H = 256 some 3·10⁸.

Axes, one sample: a leaf of S is [*shape of θ, H] for each leaf [H] of the state.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.cells import gru_reset_before, lstm_variants
from lstm_jax.cells.cell import Cell, check_cell_arguments, require_cell
from lstm_jax.gradients.bptt import Gradients, rule_of
from lstm_jax.validation import require_arrays


class Influence(NamedTuple):
    """A state of one sample and its derivatives with respect to the parameters and the starting state.

    Attributes:
        state: s_t.
        params: ∂s_t/∂θ, a state of parameters: ``influence.params.h.w_h`` is [H, 4H, H] for an LSTM, its last
            axis that of h_t.
        state0: ∂s_t/∂s_0, a state of states: ``influence.state0.c.h`` is ∂C_t/∂h_0, [in, out].
    """

    state: PyTree
    params: PyTree
    state0: PyTree


def _require_plain(cell: Cell) -> None:
    """Refuse a cell with parameters that do not act through one pre-activation and one unit.

    Raises:
        ValueError: such a cell, or one without a hand-derived rule.
    """
    require_cell(cell)
    if rule_of(cell) in (lstm_variants.RULE, gru_reset_before.RULE):
        raise ValueError(
            "Cell mismatch: expected lstm, gru or rnn without optional parts, whose pre-activations "
            f"each move one unit, got {cell}."
        )


def influence_start(cell: Cell, params: PyTree, state0: PyTree | None = None) -> Influence:
    """The influence before the first step: zeros for the parameters, the identity for s_0.

    Args:
        cell: from `lstm`, `gru` or `rnn`.
        params: of the cell.
        state0: the starting state of one sample, leaves [H]; zeros if None.

    Returns:
        An `Influence` for `influence_step`.

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell or each other.
        ValueError: a cell without a hand-derived rule, or one with optional parts, such as peepholes.
    """
    _require_plain(cell)
    dtype = jnp.result_type(jax.tree.leaves(params)[0])
    nothing = jnp.zeros((1, cell.input_size), dtype)
    state0 = check_cell_arguments(cell, params, nothing, state0)
    size = cell.hidden_size
    of_params = jax.tree.map(lambda leaf: jnp.zeros((*leaf.shape, size), dtype), params)
    eye, zeros = jnp.eye(size, dtype=dtype), jnp.zeros((size, size), dtype)
    numbers = range(len(state0))
    return Influence(
        state0,
        type(state0)(*(of_params for _ in numbers)),
        type(state0)(
            *(type(state0)(*(eye if n == m else zeros for m in numbers)) for n in numbers)
        ),
    )


def influence_step(
    cell: Cell, params: PyTree, influence: Influence, x: Float[Array, "d"]
) -> Influence:
    """One step of the cell and of its influence; ``influence.state.h`` of the result is the output.

    The parameters may change between steps, as in online learning. The influence is then that of the
    parameters at each step.
    """
    rule = rule_of(cell)
    before = influence.state
    state, residuals = rule.forward_step(params, before, x)
    local = rule.local_derivatives(residuals)
    jacobian = cell.step_jacobian(params, before, x)
    still = jax.tree.map(jnp.zeros_like, before)

    def of_leaf(name: str, leaf: Array) -> PyTree:
        """∂s_t/∂θ with s_{t−1} constant, a state of arrays [*shape of θ, H]."""
        rows = {"w_x": x, "w_h": before.h}.get(name, jnp.ones(1, x.dtype))
        # A gate acts elementwise, so one tangent of ones gives the derivatives of all its units.
        moved = [
            rule.tangent_step(params, local, still, dot) for dot in _gate_dots(cell, params, name)
        ]

        def placed(*of_gates: Float[Array, "h"]) -> Float[Array, "..."]:
            diagonals = jnp.concatenate([jnp.diag(of_gate) for of_gate in of_gates])
            return (rows[:, None, None] * diagonals[None]).reshape(*leaf.shape, -1)

        return jax.tree.map(placed, *moved)

    of_leaves = [of_leaf(name, leaf) for name, leaf in zip(params._fields, params, strict=True)]
    after = []
    for number, row in enumerate(jacobian):
        direct = type(params)(*(tuple(of)[number] for of in of_leaves))
        after.append(jax.tree.map(jnp.add, _through(row, influence.params), direct))
    of_state0 = type(state)(*(_through(row, influence.state0) for row in jacobian))
    return Influence(state, type(state)(*after), of_state0)


def _through(row: PyTree, influences: PyTree) -> PyTree:
    """Σ_n S_n Jᵀ_{row,n}: one row of blocks of J_t applied to the influence on s_{t−1}."""

    def times(block: Array, influence: PyTree) -> PyTree:
        # A vector stands for a diagonal matrix.
        return jax.tree.map(
            lambda s: s * jnp.broadcast_to(block, s.shape) if block.ndim == 1 else s @ block.T,
            influence,
        )

    terms = [times(block, influence) for block, influence in zip(row, influences, strict=True)]
    return jax.tree.map(lambda *parts: sum(parts[1:], start=parts[0]), *terms)


def _gate_dots(cell: Cell, params: PyTree, name: str) -> list[PyTree]:
    """ż for one of the parameters, gate by gate: ones in the gate's pre-activations, zeros elsewhere."""
    rule, size = rule_of(cell), cell.hidden_size
    zeros = jax.tree.map(jnp.zeros_like, params)
    leaf = getattr(params, name)
    one = jnp.zeros((1, cell.input_size), leaf.dtype).at[:, 0].set(1)
    h = jnp.zeros((1, size), leaf.dtype).at[:, 0].set(1)
    _, residuals = rule.forward_step(zeros, cell.initial_state(1, leaf.dtype), one)
    dots = []
    for gate in range(leaf.shape[-1] // size):
        columns = slice(gate * size, (gate + 1) * size)
        ones = jnp.zeros_like(leaf)
        ones = ones.at[columns].set(1) if leaf.ndim == 1 else ones.at[0, columns].set(1)
        dot = rule.tangent_inputs(
            zeros,
            zeros._replace(**{name: ones}),
            one,
            jnp.zeros_like(one),
            residuals._replace(h_prev=h),
        )
        dots.append(jax.tree.map(lambda leaf: leaf[0], dot))
    return dots


def influence_gradient(influence: Influence, d_state: PyTree) -> Gradients:
    """The gradient of a loss on the present state.

    Args:
        influence: from `influence_step`.
        d_state: ∂ℓ/∂s_t, leaves [H].

    Returns:
        `Gradients` for the parameters and s_0; ``xs`` is None, because the loop does not carry the influence
        of single inputs.
    """

    def applied(of: PyTree) -> PyTree:
        terms = [
            jax.tree.map(lambda s, d=d: s @ d, influence_on)
            for influence_on, d in zip(of, d_state, strict=True)
        ]
        return jax.tree.map(lambda *parts: sum(parts[1:], start=parts[0]), *terms)

    return Gradients(applied(influence.params), None, applied(influence.state0))


def rtrl(
    cell: Cell,
    params: PyTree,
    xs: Float[Array, "time *batch d"],
    state0: PyTree | None = None,
    *,
    d_hs: Float[Array, "time *batch h"] | None = None,
    d_state: PyTree | None = None,
) -> Gradients:
    """The gradient of an unrolled cell, forward in time; the same numbers as `bptt`.

    For a loss L of ``state, hs = unroll(cell, params, xs, state0)``. Where the cotangents depend on the
    states, as they do in learning, the pieces are `influence_start`, `influence_step` and
    `influence_gradient`.

    Args:
        cell: from `lstm`, `gru` or `rnn`.
        params: of the cell.
        xs: [T, D] or [T, B, D].
        state0: the starting state, [H] or [B, H] leaves; zeros if None.
        d_hs: ∂L/∂hs with the state constant, [T, H] or [T, B, H]; zeros if None.
        d_state: ∂L/∂state, the cotangent of the final state; zeros if None.

    Returns:
        `Gradients` with ``params`` and ``state0``; ``xs`` is None, because the loop does not carry the
        influence of single inputs.

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell or each other.
        ValueError: a cell without a hand-derived rule, or one with optional parts, such as peepholes.

    Example:
        >>> import jax, jax.numpy as jnp, lstm_jax
        >>> cell = lstm_jax.lstm(3, 4)
        >>> params = cell.init(jax.random.key(0))
        >>> xs = jnp.ones((5, 3))
        >>> forward = lstm_jax.rtrl(cell, params, xs, d_hs=jnp.ones((5, 4)))
        >>> backward = lstm_jax.bptt(cell, params, xs, d_hs=jnp.ones((5, 4)))
        >>> bool(jnp.allclose(forward.params.w_h, backward.params.w_h, atol=1e-5))
        True
    """
    _require_plain(cell)
    state0 = check_cell_arguments(cell, params, xs, state0)
    dtype = jnp.result_type(xs)
    hs = jax.ShapeDtypeStruct((*jnp.shape(xs)[:-1], cell.hidden_size), dtype)
    d_hs = jnp.zeros(hs.shape, dtype) if d_hs is None else d_hs
    require_arrays("d_hs", d_hs, hs, dtype)
    d_state = jax.tree.map(jnp.zeros_like, state0) if d_state is None else d_state
    require_arrays("d_state", d_state, state0, dtype)
    return _rtrl(cell, params, xs, state0, d_hs, d_state)


@partial(jax.jit, static_argnums=0)
def _rtrl(
    cell: Cell, params: PyTree, xs: Array, state0: PyTree, d_hs: Array, d_state: PyTree
) -> Gradients:
    if xs.ndim == 3:
        each = jax.vmap(partial(_rtrl, cell, params), in_axes=(1, 0, 1, 0))(
            xs, state0, d_hs, d_state
        )
        return each._replace(params=jax.tree.map(lambda leaf: jnp.sum(leaf, 0), each.params))

    def step(
        carry: tuple[Influence, Gradients], at: tuple[Array, Array]
    ) -> tuple[tuple[Influence, Gradients], None]:
        influence, gradient = carry
        x, d_h = at
        influence = influence_step(cell, params, influence, x)
        d_state = jax.tree.map(jnp.zeros_like, influence.state)._replace(h=d_h)
        part = influence_gradient(influence, d_state)
        return (influence, jax.tree.map(jnp.add, gradient, part)), None

    start = influence_start(cell, params, state0)
    nothing = Gradients(*(jax.tree.map(jnp.zeros_like, tree) for tree in (params, None, state0)))
    (influence, gradient), _ = lax.scan(step, (start, nothing), (xs, d_hs))
    return jax.tree.map(jnp.add, gradient, influence_gradient(influence, d_state))
