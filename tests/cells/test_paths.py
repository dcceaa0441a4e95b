"""The step Jacobian's parts, past the recurrent weights and through them, gate by gate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import CELLS, assert_close, random_like, random_problem

import lstm_jax

pytestmark = pytest.mark.usefixtures("x64")

VARIANTS = {
    "gru_reset_before": lambda: lstm_jax.gru(3, 5, reset_after=False),
    "peepholes": lambda: lstm_jax.lstm(3, 5, peepholes=True),
    "coupled": lambda: lstm_jax.lstm(3, 5, coupled_gates=True, peepholes=True),
    "norm": lambda: lstm_jax.lstm(3, 5, layer_norm=True),
    "projected": lambda: lstm_jax.lstm(3, 5, projection_size=2, peepholes=True),
    "all": lambda: lstm_jax.lstm(
        3, 5, peepholes=True, coupled_gates=True, layer_norm=True, projection_size=2
    ),
}
EVERY = [*CELLS, *VARIANTS]


def problem(name):
    if name in CELLS:
        cell, params, xs, state, *_ = random_problem(name, 1, scale=1.0)
        return cell, params, state, xs[0]
    cell, rng = VARIANTS[name](), np.random.default_rng(7)
    params = random_like(rng, jax.eval_shape(cell.init, jax.random.key(0)))
    state = random_like(rng, jax.eval_shape(cell.initial_state))
    return cell, params, state, jnp.asarray(rng.standard_normal(3))


def dense(jacobian):
    return jax.tree.map(lambda block: jnp.diag(block) if block.ndim == 1 else block, jacobian)


def plus(*jacobians):
    return jax.tree.map(lambda *blocks: sum(blocks), *map(dense, jacobians))


@pytest.mark.parametrize("name", EVERY)
def test_the_parts_make_the_whole(name):
    cell, *at = problem(name)

    @jax.jit
    def parts_and_whole(*at):
        each = [cell.paths.through(*at, kept) for kept in jnp.eye(len(cell.gate_names))]
        return plus(cell.paths.direct(*at), *each), dense(cell.step_jacobian(*at))

    assert_close(*parts_and_whole(*at), 1e-13)


def weakened(params, state, x, kept):
    """Parameters with each gate's recurrent weights times ``kept``, at the same pre-activations."""
    size = params.w_h.shape[1] // len(kept)
    weights = jnp.repeat(kept, size)[None, :]
    lost = (state.h[None, :] @ ((1 - weights) * params.w_h))[0]
    changed = params._replace(w_h=weights * params.w_h)
    if hasattr(params, "b_hn"):
        gates, new = lost[: 2 * size], lost[2 * size :]
        b = params.b + jnp.concatenate([gates, jnp.zeros_like(new)])
        return changed._replace(b=b, b_hn=params.b_hn + new)
    return changed._replace(b=params.b + lost)


@pytest.mark.parametrize("name", [*CELLS, "peepholes", "coupled", "projected"])
def test_weights_scaled_at_the_same_pre_activations_scale_their_paths(name):
    cell, *at = problem(name)
    kept = jnp.asarray(np.random.default_rng(3).uniform(0, 2, len(cell.gate_names)))

    @jax.jit
    def everything(params, state, x):
        found = plus(
            cell.paths.direct(params, state, x), cell.paths.through(params, state, x, kept)
        )
        other = weakened(params, state, x, kept)
        expected = jax.jacfwd(lambda s: cell.step(other, s, x)[0])(state)
        outputs = [cell.step(weights, state, x)[1] for weights in (other, params)]
        return outputs, (found, expected)

    outputs, jacobians = everything(*at)
    assert_close(*outputs, 1e-13)
    assert_close(*jacobians, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["norm", "all"])
def test_with_layer_norm_only_h_passes_through_the_recurrent_weights(name):
    cell, params, state, x = problem(name)
    kept = jnp.zeros(len(cell.gate_names))
    nothing = jax.tree.map(jnp.any, cell.paths.through(params, state, x, kept))
    assert not any(jax.tree.leaves(nothing))
    direct = dense(jax.jit(cell.paths.direct)(params, state, x))
    without_h = jax.jit(jax.jacfwd(lambda c: cell.step(params, state._replace(c=c), x)[0]))(state.c)
    assert_close((direct.h.c, direct.c.c), tuple(without_h), 1e-12)
    assert not direct.h.h.any() and not direct.c.h.any()


def test_the_reset_gate_before_the_product_is_one_way():
    cell, params, state, x = problem("gru_reset_before")

    w_r, w_u, w_n = jnp.split(params.w_h, 3, axis=1)
    z_r, z_u, z_n = jnp.split(x @ params.w_x + params.b, 3)
    r, u = jax.nn.sigmoid(z_r + state.h @ w_r), jax.nn.sigmoid(z_u + state.h @ w_u)

    def new_state(h):  # the way of n alone: r and u held
        n = jnp.tanh(z_n + (r * h) @ w_n)
        return (1 - u) * n

    expected = jax.jacfwd(new_state)(state.h)
    found = cell.paths.through(params, state, x, jnp.asarray([0.0, 0.0, 1.0])).h.h
    assert_close(found, expected, 1e-12)
