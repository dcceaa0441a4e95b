"""The plain, dense counterparts that the microscope is held against: slow, short-ranged, obvious."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import lstm_jax
from lstm_jax.cells import LSTMState

LSTM_BLOCKS = ("hh", "hc", "ch", "cc")
LSTM_PATHS = ("total_c", "chain_c", "carousel")


def all_states(step, params, state0, xs):
    """The states s_0 … s_T, stacked."""

    def keep(state, x):
        state, _ = step(params, state, x)
        return state, state

    later = lax.scan(keep, state0, xs)[1]
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), state0, later)


def tail(step, params, xs, k, state):
    """s_T from s_k: an unroll over the whole sequence whose first k steps leave the state alone.

    That gives every k one shape, and so one program; `test_the_reference` checks it against tails cut
    to their length.
    """

    def later(params, state, inputs):
        x, active = inputs
        moved, _ = step(params, state, x)
        return jax.tree.map(lambda new, old: jnp.where(active, new, old), moved, state), None

    active = jnp.arange(len(jax.tree.leaves(xs)[0])) >= k
    return lstm_jax.unroll(later, params, (xs, active), state, gradient="autodiff")[0]


@partial(jax.jit, static_argnums=0)
def _jacobians(cell, params, state0, xs):
    states = all_states(cell.step, params, state0, xs)
    ks = jnp.arange(xs.shape[0] + 1)

    def whole(at):
        k, state = at
        return jax.jacrev(lambda s: tail(cell.step, params, xs, k, s))(state)

    found = {
        a + b: getattr(getattr(jacobian, a), b)
        for jacobian in [lax.map(whole, (ks, states))]
        for a in jacobian._fields
        for b in jacobian._fields
    }
    if cell.name != "lstm":
        return found
    before = jax.tree.map(lambda s: s[:-1], states)
    gates = jax.vmap(cell.gates, in_axes=(None, 0, 0))(params, before, xs)
    o = jnp.concatenate([jnp.zeros_like(gates["o"][:1]), gates["o"]])

    def tied(k, state, c):
        """The state at k as a function of C_k alone, o_k held; h_0 is tied to nothing."""
        return LSTMState(jnp.where(k > 0, o[k] * jnp.tanh(c), state.h), c)

    def total(at):
        k, state = at
        return jax.jacrev(lambda c: tail(cell.step, params, xs, k, tied(k, state, c)).c)(state.c)

    def one_step(at):
        k, state = at
        return jax.jacrev(lambda c: cell.step(params, tied(k, state, c), xs[k])[0].c)(state.c)

    links = lax.map(one_step, (ks[:-1], before))
    # Back from T: row k of the stack is the product of the links k+1 … T.
    size = links.shape[-1]
    chain = [jnp.eye(size, dtype=links.dtype)]
    f = [chain[0]]
    for j in range(xs.shape[0] - 1, -1, -1):
        chain.append(chain[-1] @ links[j])
        f.append(f[-1] @ jnp.diag(gates["f"][j]))
    found["total_c"] = lax.map(total, (ks, states))
    found["chain_c"] = jnp.stack(chain[::-1])
    found["carousel"] = jnp.stack(f[::-1])
    return found


def transitions(cell, params, state0, xs):
    """∂s_T/∂s_k by `jax.jacrev` of the tail, ``{block: [T + 1, rows, columns]}``, by lag from 0."""
    found = {name: np.asarray(a)[::-1] for name, a in _jacobians(cell, params, state0, xs).items()}
    parts = cell.initial_state()._fields
    found["ss"] = np.block([[found[a + b] for b in parts] for a in parts])
    return found


def log_norm(matrices, norm):
    """Natural log of a norm of each of a stack of matrices, by numpy."""
    if norm == "frobenius":
        values = np.sqrt(np.sum(matrices**2, axis=(-2, -1)))
    else:
        values = np.linalg.svd(matrices, compute_uv=False)[
            ..., {"spectral": 0, "smallest": -1}[norm]
        ]
    with np.errstate(divide="ignore"):
        return np.log(values)


def assert_logs_close(value, expected, tolerance, relative=0.0):
    """|difference of logs| within tolerance + relative·|log|; −∞ equals −∞ only, NaN equals NaN only."""
    value, expected = np.asarray(value), np.asarray(expected)
    assert value.shape == expected.shape, (value.shape, expected.shape)
    np.testing.assert_array_equal(np.isnan(value), np.isnan(expected))
    np.testing.assert_array_equal(np.isneginf(value), np.isneginf(expected))
    finite = np.isfinite(expected)
    assert np.isfinite(value[finite]).all()
    off = np.abs(value[finite].astype(np.float64) - expected[finite])
    beyond = off - tolerance - relative * np.abs(expected[finite])
    assert np.max(beyond, initial=-1.0) <= 0, f"off by up to {off.max():.2e}"
