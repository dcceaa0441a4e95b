"""One-sided Jacobi: orderly matrices against numpy, spreads of any size against exact arithmetic."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from high_precision import exact, log_singular_values
from mpmath import mp

from gradient_flow.long_products.jacobi_svd import singular_values

found_by_jacobi = jax.jit(singular_values)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def measure(columns, exponents=None, along=None, dtype=float):
    columns = jnp.asarray(columns, dtype)
    n = columns.shape[1]
    exponents = jnp.zeros(n, jnp.int32) if exponents is None else jnp.asarray(exponents, jnp.int32)
    along = jnp.zeros((1, n), columns.dtype) if along is None else jnp.asarray(along, dtype)
    return found_by_jacobi(columns, exponents, along)


@pytest.mark.parametrize(
    "shape", [(1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (9, 4), (16, 16), (33, 33)]
)
def test_an_orderly_matrix(x64, shape):
    matrix = random(*shape)
    logs, _ = measure(matrix)
    expected = np.linalg.svd(matrix, compute_uv=False)
    # numpy's own error is ε σ_1 of each.
    np.testing.assert_allclose(np.exp(logs), expected, rtol=1e-12, atol=1e-14 * expected[0])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("n", [2, 5, 8])
@pytest.mark.parametrize("order", ["falling", "rising", "mixed"])
def test_hundreds_of_decades_between_the_columns(x64, n, order, dtype):
    exponents = np.round(np.linspace(0, -1500, n)).astype(int)
    if order != "falling":
        exponents = exponents[::-1] if order == "rising" else np.roll(exponents, 2)
    columns = np.asarray(random(n, n, seed=n), np.dtype(dtype))
    logs, _ = measure(columns, exponents, dtype=dtype)
    with mp.workdps(1200):
        scales = mpmath.diag([mpmath.mpf(2) ** int(e) for e in exponents])
        values = mp.svd_r(exact(columns) * scales, compute_uv=False)
        expected = [float(mpmath.log(v)) for v in values]
    assert np.ptp(expected) > 900
    # Logs to their own rounding, and ε κ: κ is below 100 for these.
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(logs, expected, rtol=2 * eps, atol=100 * eps)


def test_columns_a_few_decades_apart_that_are_nearly_parallel(x64):
    base = random(6, 1)
    columns = base + 1e-3 * random(6, 6, seed=1)
    exponents = [0, -3, -6, -9, -12, -15]
    logs, _ = measure(columns, exponents)
    expected = log_singular_values(exact(columns * 2.0 ** np.array(exponents)))
    np.testing.assert_allclose(logs, expected, atol=1e-11)


def test_what_is_turned_along_is_multiplied_by_v(x64):
    matrix, rows = random(7, 5), random(3, 5, seed=1)
    logs, along = measure(matrix, along=rows)
    v = np.linalg.svd(matrix)[2].T
    np.testing.assert_allclose(np.abs(along), np.abs(rows @ v), atol=1e-12)
    # With powers of two apart, the order of the columns does not matter.
    exponents, order = np.array([-40, 3, 0, -9, 10]), np.array([2, 0, 4, 1, 3])
    one = measure(matrix, exponents, rows)
    other = measure(matrix[:, order], exponents[order], rows[:, order])
    np.testing.assert_allclose(one[0], other[0], atol=1e-12)
    np.testing.assert_allclose(np.abs(one[1]), np.abs(other[1]), atol=1e-9)
    v = np.linalg.svd(matrix * 2.0**exponents)[2].T
    np.testing.assert_allclose(np.abs(one[1]), np.abs(rows @ v), atol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_columns_that_are_zero(x64, n):
    matrix = random(n, n)
    matrix[:, n // 2] = 0
    logs, _ = measure(matrix)
    assert logs[-1] == -np.inf
    np.testing.assert_allclose(np.exp(logs[:-1]), np.linalg.svd(matrix)[1][:-1], rtol=1e-12)
    assert (measure(np.zeros((n, n)))[0] == -np.inf).all()


def test_orthogonal_columns_and_equal_ones(x64):
    logs, _ = measure(np.eye(4), [0, -9, 5, 2])
    np.testing.assert_allclose(logs, np.log(2.0) * np.array([5, 2, 0, -9]), rtol=1e-15)
    logs, _ = measure(np.ones((4, 2)))
    np.testing.assert_allclose(np.exp(logs), [8**0.5, 0], atol=1e-15)


def test_nan_propagates(x64):
    matrix = random(4, 4)
    matrix[1, 2] = np.nan
    assert np.isnan(measure(matrix)[0]).all()


def test_a_batch(x64):
    matrices = random(3, 6, 6)
    zeros = jnp.zeros((3, 6), jnp.int32)
    logs, _ = jax.jit(jax.vmap(singular_values))(jnp.asarray(matrices), zeros, jnp.zeros((3, 1, 6)))
    expected = np.linalg.svd(matrices, compute_uv=False)
    np.testing.assert_allclose(np.exp(logs), expected, rtol=1e-12)
