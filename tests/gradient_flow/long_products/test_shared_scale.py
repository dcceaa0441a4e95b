"""Walks with one scale for all of them, against each walk for itself, and where the one scale is refused."""

from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import random_problem
from dense import all_states, assert_logs_close

from gradient_flow import all_pairs_norms, jacobian_norms
from gradient_flow.long_products import backward_walk, scaled_matrix, shared_scale, transition
from gradient_flow.step_jacobians.state_layout import layout_of

BLOCKS = frozenset({"hh", "hc", "ch", "cc", "total_c", "chain_c"})


@pytest.fixture
def never_together(monkeypatch):
    """Make every column miss its scale, so that each walk goes for itself."""

    def switch():
        monkeypatch.setattr(shared_scale, "REACH", -1)
        jax.clear_caches()

    yield switch
    monkeypatch.undo()
    jax.clear_caches()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "length"), [("lstm", 21), ("gru", 16), ("rnn_tanh", 7)])
def test_together_is_as_each_for_itself(x64, never_together, name, length):
    cell, params, xs, state0, *_ = random_problem(name, length)
    map_of = partial(all_pairs_norms, cell, params, state0, xs, norms=("spectral", "frobenius"))
    together = map_of()
    never_together()
    apart = map_of()
    for norm in ("spectral", "frobenius"):
        for block, values in getattr(together, norm).items():
            assert_logs_close(values, getattr(apart, norm)[block], 1e-12)


@pytest.mark.slow
def test_one_scale_serves_an_ordinary_network():
    """Or all of the above would compare the exact way with itself."""
    cell, params, xs, state0, *_ = random_problem("lstm", 8, dtype=jnp.float32)
    stacks, scales = shared_scale.to_shared_scale(
        walks(cell, state0, 3), jnp.array([False, False, True])
    )
    states = all_states(cell.step, params, state0, xs)
    times = jnp.array([4, 6, 9])

    @jax.jit
    def back(stacks, k):
        before = jax.tree.map(lambda s: s[k], states)
        jacobian = tuple(map(tuple, cell.step_jacobian(params, before, xs[k])))
        factors = shared_scale.rescaled_jacobian(scales, jacobian, jnp.ones_like(state0.h))
        return shared_scale.step_back(stacks, scales, factors, times > k, times == k)

    for k in reversed(range(8)):
        stacks = back(stacks, k)
    assert shared_scale.nothing_lost(stacks)


def walks(cell, state0, count):
    start = transition.start(layout_of(state0), BLOCKS)
    return jax.tree.map(lambda a: jnp.broadcast_to(a, (count, *a.shape)), start)


def test_walks_in_other_proportions_do_not_share_a_scale():
    def two(first, second):
        matrix = jnp.broadcast_to(jnp.eye(2), (2, 2, 2))
        block = scaled_matrix.ScaledMatrix(matrix, jnp.array([first, second], jnp.int32))
        stacks, _ = shared_scale.to_shared_scale(
            transition.Walk(((block,),), None), jnp.array([True, True])
        )
        return bool(shared_scale.nothing_lost(stacks))

    assert two([0, 0], [-500, -500])
    assert two([0, -30], [-500, -535])
    assert two([0, -30], [-530, -500])
    assert two([0, -90], [-500, -590])
    assert not two([0, -50], [-550, -500])
    assert not two([0, -120], [-500, -620])


def linear(params, state, x):
    """s_t = x_t s_{t−1}: any Jacobians whatever; from s_0 = 0, so that no state overflows."""
    state = x @ state
    return state, state


def exact_logs(factors, t, k):
    """Log of the Frobenius norm of a product of 2 × 2 matrices, in fractions."""
    product = [[Fraction(int(i == j)) for j in range(2)] for i in range(2)]
    for factor in factors[k:t]:
        rows = [[Fraction(float(value)) for value in row] for row in factor]
        product = [
            [sum(rows[i][m] * product[m][j] for m in range(2)) for j in range(2)] for i in range(2)
        ]
    total = sum(value**2 for row in product for value in row)
    numerator, denominator = total.numerator, total.denominator
    return (big_log(numerator) - big_log(denominator)) / 2 if numerator else -np.inf


def big_log(integer):
    shift = max(integer.bit_length() - 60, 0)
    return np.log(float(integer >> shift)) + shift * np.log(2)


def diagonal(*values):
    return np.diag(2.0 ** np.array(values))


HARD = {
    # What is far below the range at one step is all that is left a few steps back.
    "a column falls and comes back": [
        *[np.diag([1.0, 1.0])] * 3,
        np.array([[0, 1.0], [0, 0]]),
        *[diagonal(0, 35)] * 4,
        *[diagonal(0, -35)] * 4,
    ],
    "columns that part for ever": [diagonal(-1, -40)] * 20,
    "columns that part and meet": [*[np.ones((2, 2))] * 3, *[diagonal(30, -30)] * 9],
    "a walk that begins beside one that is almost nothing": [diagonal(-60, -60)] * 20,
    "a walk in other proportions": [*[diagonal(-30, 30)] * 5, *[diagonal(30, -30)] * 11],
    "a factor beyond the range": [diagonal(-120, 100), np.full((2, 2), 2.0**-100)] * 6,
    "zero for a while": [*[np.eye(2)] * 4, np.zeros((2, 2)), *[np.eye(2)] * 5],
    "a column of zeros": [np.array([[1.0, 0], [0.5, 0]])] * 12,
}


@pytest.mark.parametrize("name", HARD)
def test_what_one_scale_cannot_hold_is_done_exactly(name):
    # Identities fill up to one length, so that one program serves all: P_{t,k} up to there is the same.
    length = len(HARD[name])
    factors = np.tile(np.eye(2, dtype=np.float32), (20, 1, 1))
    factors[:length] = HARD[name]
    pairs = all_pairs_norms(linear, None, jnp.zeros(2), jnp.asarray(factors), norms=("frobenius",))
    found = np.asarray(pairs.frobenius["ss"])
    for i, t in enumerate(pairs.times):
        for j, k in enumerate(pairs.starts[: t + 1]):
            expected = exact_logs(factors, t, k)
            np.testing.assert_allclose(found[i, j], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a column falls and comes back", "a walk in other proportions"])
def test_without_the_check_the_hard_ones_are_wrong(monkeypatch, name):
    monkeypatch.setattr(shared_scale, "REACH", 2**20)
    monkeypatch.setattr(shared_scale, "_in_reach", lambda *_: jnp.asarray(True))
    monkeypatch.setattr(shared_scale, "SPREAD", 2**20)
    jax.clear_caches()
    try:
        with pytest.raises(AssertionError):
            test_what_one_scale_cannot_hold_is_done_exactly(name)
    finally:
        jax.clear_caches()


@pytest.mark.slow
def test_a_nan_does_not_hide_behind_another_walk():
    factors = np.tile(np.eye(2, dtype=np.float32), (12, 1, 1))

    def poisoned(params, state, x):
        matrix, bad = x
        state = matrix @ state * jnp.where(bad, jnp.sqrt(jnp.sum(state) * 0), 1)
        return state, state

    bad = jnp.arange(12) == 5
    flow = jacobian_norms(
        poisoned,
        None,
        jnp.ones(2),
        (jnp.asarray(factors), bad),
        norms=("frobenius",),
        times=[5, 12],
    )
    values = np.asarray(next(iter(flow.frobenius.values())))
    assert np.isfinite(values[0][:6]).all()
    assert not np.isfinite(values[1][8:]).any()


@pytest.mark.parametrize(
    ("recorded", "most"),
    [
        (range(0, 300), backward_walk.CHUNK),
        ([0], 1),
        (range(0, 300, backward_walk.CHUNK), 1),
        (range(0, 300, backward_walk.CHUNK - 1), 2),
        ([0, 1, 2, 100, 101], 3),
        ([7, 0, 7, 7], 2),
    ],
)
def test_how_many_recorded_steps_a_chunk_can_hold(recorded, most):
    assert backward_walk._most_per_chunk(list(recorded)) == most


@pytest.mark.slow
def test_few_lags_are_the_same_numbers(x64):
    cell, params, xs, state0, *_ = random_problem("lstm", 40)
    whole = jacobian_norms(cell, params, state0, xs, norms=("spectral",))
    lags = [0, 3, 4, 17, 33, 40]
    some = jacobian_norms(cell, params, state0, xs, norms=("spectral",), lags=lags, times=[40, 20])
    for block, values in some.spectral.items():
        assert_logs_close(values[0], whole.spectral[block][np.array(lags)], 1e-12)
        assert np.isnan(values[1][4:]).all() and np.isfinite(values[1][1:4]).all()


@pytest.mark.slow
def test_the_loops_differentiate_through_either_way(x64, never_together):
    cell, params, xs, state0, *_ = random_problem("gru", 11)

    def log_norm(params):
        flow = jacobian_norms(cell, params, state0, xs, norms=("frobenius",))
        return flow.frobenius["hh"][9]

    together = jax.grad(log_norm)(params)
    never_together()
    apart = jax.grad(log_norm)(params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10), together, apart)
