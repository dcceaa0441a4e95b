"""Plain autodiff's norms: right while they can be represented, 0 from there on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import CELLS, random_problem
from dense import log_norm, transitions
from slow_cases import slow_but

from gradient_flow import autodiff_norms, jacobian_norms


@pytest.mark.parametrize("name", slow_but(CELLS, "gru"))
def test_it_is_the_norm_in_float64(x64, name):
    cell, params, xs, state0, *_ = random_problem(name, 40)
    norms = autodiff_norms(cell, params, state0, xs)
    assert norms.shape == (41,) and norms[0] == 1
    dense = transitions(cell, params, state0, xs)["hh"]
    np.testing.assert_allclose(norms, np.exp(log_norm(dense, "spectral")), rtol=1e-11)


@pytest.mark.slow
def test_float32_ends_in_zeros():
    cell, params, xs, state0, *_ = random_problem("rnn_tanh", 300, scale=0.1)
    norms = np.asarray(autodiff_norms(cell, params, state0, xs))
    assert norms.dtype == np.float32
    exact = np.asarray(jacobian_norms(cell, params, state0, xs).spectral["hh"])
    # Above the smallest normal number, exp(-87), by so much that parts below it, which a compiler may or may
    # not flush to zero, do not count.
    ordinary = exact > -75
    np.testing.assert_allclose(norms[ordinary], np.exp(exact[ordinary]), rtol=1e-4)
    below = exact < -104  # below the smallest denormal, exp(-103.3)
    assert below.any() and (norms[below] == 0).all()
    assert np.isfinite(exact).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_batched(x64, name):
    cell, params, xs, state0, *_ = random_problem(name, 9, 3)
    norms = autodiff_norms(cell, params, state0, xs)
    assert norms.shape == (3, 10)
    for n in range(3):
        alone = autodiff_norms(cell, params, jax.tree.map(lambda s, n=n: s[n], state0), xs[:, n])
        np.testing.assert_allclose(norms[n], alone, rtol=1e-12)


def test_a_missing_state_is_zeros():
    cell, params, xs, *_ = random_problem("lstm", 5, 2)
    zeros = cell.initial_state(2)
    np.testing.assert_array_equal(
        autodiff_norms(cell, params, None, xs), autodiff_norms(cell, params, zeros, xs)
    )


def test_refusals(without_type_checker):
    cell, params, xs, *_ = random_problem("lstm", 5)
    with pytest.raises(ValueError, match=r"expected xs \[T, 3\].*got \[5, 2\]"):
        autodiff_norms(cell, params, None, xs[:, :2])
    with pytest.raises(TypeError, match="expected xs float32.*got int32"):
        autodiff_norms(cell, params, None, xs.astype(jnp.int32))
