"""The map over (t, k) against curves of single times."""

import jax
import numpy as np
import pytest
from comparison import random_problem
from dense import assert_logs_close
from slow_cases import slow_but

from gradient_flow import all_pairs_norms, jacobian_norms

NORMS = ("spectral", "smallest")


def check(problem, every, norms=NORMS, blocks=None):
    cell, params, xs, state0, *_ = problem
    length = xs.shape[0]
    options = dict(norms=norms, blocks=blocks)
    pairs = all_pairs_norms(cell, params, state0, xs, every=every, **options)
    times = list(range(every, length + 1, every))
    assert list(pairs.times) == times
    assert list(pairs.starts) == list(range(0, length + 1, every))
    # Each single time is a walk of its own.
    flow = jacobian_norms(cell, params, state0, xs, times=times, **options)
    for norm in norms:
        for block, values in getattr(pairs, norm).items():
            curves = np.asarray(getattr(flow, norm)[block])
            expected = np.full((*curves.shape[:-1], len(pairs.starts)), np.nan)
            for i, t in enumerate(times):
                for j, k in enumerate(pairs.starts):
                    if k <= t:
                        expected[..., i, j] = curves[..., i, t - k]
            assert_logs_close(values, expected, 1e-9 if norm == "smallest" else 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 4])
def test_the_map_is_made_of_curves(x64, every):
    """24 times at every=1, so that more than one group of them walks back."""
    check(random_problem("lstm", 24), every, blocks=["total_c", "carousel"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "every"), [("gru", 7), ("rnn_relu", 24)])
def test_a_stride_that_need_not_divide_the_length(x64, name, every):
    check(random_problem(name, 24), every)


@pytest.mark.slow
def test_many_groups(x64):
    check(random_problem("gru", 50), 1, norms=("frobenius",))


@pytest.mark.parametrize("length", slow_but([1, 16, 17], 17))
@pytest.mark.slow
def test_the_edge_of_a_group(x64, length):
    check(random_problem("rnn_tanh", length), 1, norms=("spectral",))


@pytest.mark.slow
def test_batched(x64):
    check(random_problem("lstm", 10, 3), 3, blocks=["cc", "chain_c"], norms=("spectral",))


@pytest.mark.slow
def test_a_plain_step(x64):
    cell, params, xs, state0, *_ = random_problem("lstm", 18, 2)
    general = all_pairs_norms(cell.step, params, state0, xs, every=2, batched=True)
    closed = all_pairs_norms(cell, params, state0, xs, every=2, blocks=list(general.spectral))
    for block, values in general.spectral.items():
        assert values.shape == (2, 9, 10)
        assert_logs_close(values, closed.spectral[block], 1e-12)


@pytest.mark.slow
def test_under_jit():
    cell, params, xs, state0, *_ = random_problem("gru", 9)
    expected = all_pairs_norms(cell, params, state0, xs, every=3).spectral["hh"]
    traced = jax.jit(lambda p, s, x: all_pairs_norms(cell, p, s, x, every=3).spectral["hh"])(
        params, state0, xs
    )
    assert_logs_close(traced, expected, 1e-6)


@pytest.mark.slow
def test_float32_without_underflow():
    cell, params, xs, state0, *_ = random_problem("rnn_tanh", 300, scale=0.1)
    pairs = all_pairs_norms(cell, params, state0, xs, every=100)
    corner = float(pairs.spectral["hh"][-1, 0])
    assert -1000 < corner < -300  # far below 1e-38, and finite
