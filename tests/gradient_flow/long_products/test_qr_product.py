"""Graded products: the product is kept, and its smallest singular value with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from high_precision import log_singular_values, product

from gradient_flow.long_products import qr_product
from gradient_flow.long_products.qr_product import QRProduct

multiply = jax.jit(qr_product.multiply)
log_smallest = jax.jit(qr_product.log_smallest)

pytestmark = pytest.mark.usefixtures("x64")


def value(g):
    return np.asarray(g.q) @ np.diag(2.0 ** np.asarray(g.exponents, float)) @ np.asarray(g.y)


def of(matrix):
    """A matrix as a graded product."""
    return multiply(matrix, qr_product.identity(matrix.shape[1], matrix.dtype))


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_the_identity():
    np.testing.assert_array_equal(value(qr_product.identity(4, jnp.float64)), np.eye(4))


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_the_product_is_kept(steps):
    factors = random(steps, 4, 4)
    g, plain = qr_product.identity(4, jnp.float64), np.eye(4)
    for factor in factors:
        g, plain = multiply(jnp.asarray(factor), g), factor @ plain
        np.testing.assert_allclose(value(g), plain, atol=1e-13 * np.abs(plain).max())
        np.testing.assert_allclose(g.q.T @ g.q, np.eye(4), atol=1e-14)
        sizes = np.abs(g.y).max(axis=1)
        assert (0.5 <= sizes).all() and (sizes < 1).all()
        assert g.exponents.dtype == jnp.int32


@pytest.mark.parametrize(
    "shapes", [[(4, 4), (2, 4)], [(4, 4), (6, 4)], [(3, 5), (5, 3)], [(5, 3), (2, 5)]]
)
def test_rectangular_factors(shapes):
    factors = [random(*shape, seed=n) for n, shape in enumerate(shapes)]
    g = of(jnp.asarray(factors[0]))
    g = multiply(jnp.asarray(factors[1]), g)
    plain = factors[1] @ factors[0]
    np.testing.assert_allclose(value(g), plain, atol=1e-13)
    assert g.y.shape[0] <= min(shapes[1][0], max(shapes[0]))
    if min(plain.shape) == np.linalg.matrix_rank(plain):
        smallest = np.log(np.linalg.svd(plain)[1][-1])
        np.testing.assert_allclose(log_smallest(g), smallest, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 4), (4, 7), (7, 4), (1, 1), (1, 5), (5, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_log_smallest_of_an_orderly_matrix(shape, seed):
    matrix = random(*shape, seed=seed)
    found = log_smallest(of(jnp.asarray(matrix)))
    # Conditions up to some 100: numpy is good to 1e-13.
    expected = np.log(np.linalg.svd(matrix, compute_uv=False)[-1])
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_rows_of_any_size(dtype):
    """A diagonal that float64 cannot hold."""
    exponents = jnp.asarray([-3000, 2000, 0], jnp.int32)
    g = QRProduct(jnp.eye(3, dtype=dtype), exponents, jnp.eye(3, dtype=dtype))
    np.testing.assert_allclose(log_smallest(g), -3000 * np.log(2), rtol=1e-6)
    halved = multiply(jnp.asarray(0.5, dtype) * jnp.eye(3, dtype=dtype), g)
    np.testing.assert_allclose(log_smallest(halved), -3001 * np.log(2), rtol=1e-6)
    assert halved.y.dtype == dtype


def test_a_mixed_diagonal_of_any_size():
    """Singular values 10^0, 10^-100 … 10^-400 behind random rotations, one factor at a time."""
    rng = np.random.default_rng(0)
    rotations = [np.linalg.qr(rng.standard_normal((5, 5)))[0] for _ in range(4)]
    factors = []
    for rotation in rotations:
        factors += [np.diag(10.0 ** -np.arange(0, 125, 25.0)), rotation]
    g = qr_product.identity(5, jnp.float64)
    for factor in factors:
        g = multiply(jnp.asarray(factor), g)
    logs = log_singular_values(product(factors))
    np.testing.assert_allclose(log_smallest(g), logs[-1], atol=1e-8)


@pytest.mark.parametrize(
    "matrix",
    [np.zeros((3, 3)), np.diag([1.0, 2.0, 0.0]), np.diag([0.0, 2.0, 3.0]), np.zeros((2, 4))],
    ids=["zero", "last", "first", "wide"],
)
def test_a_singular_matrix_has_none(matrix):
    assert log_smallest(of(jnp.asarray(matrix))) == -np.inf


def test_a_singular_factor_does_not_harm_what_it_leaves_alone():
    """Rows that have become zero stay out of the way of those that go on falling."""
    g = of(jnp.diag(jnp.asarray([1.0, 0.0, 1.0])))
    for _ in range(3000):
        g = multiply(jnp.diag(jnp.asarray([0.5, 0.5, 0.25])), g)
    kept = multiply(jnp.asarray([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), g)
    kept = kept._replace(y=kept.y[:, jnp.array([0, 2])])
    np.testing.assert_allclose(log_smallest(kept), -6000 * np.log(2), rtol=1e-12)
    assert log_smallest(g) == -np.inf


def test_nan_propagates():
    broken = jnp.asarray(random(3, 3)).at[1, 2].set(jnp.nan)
    g = of(broken)
    assert np.isnan(log_smallest(g))
    assert np.isnan(log_smallest(multiply(jnp.eye(3), g)))
    healthy = of(jnp.asarray(random(3, 3)))
    assert np.isnan(log_smallest(multiply(broken, healthy)))


def test_under_jit_and_vmap():
    factors = jnp.asarray(random(5, 3, 4, 4))

    @jax.jit
    @jax.vmap
    def smallest(several):
        start = qr_product.identity(4, jnp.float64)
        g, _ = jax.lax.scan(lambda g, f: (multiply(f, g), None), start, several)
        return log_smallest(g)

    for found, several in zip(smallest(factors), np.asarray(factors), strict=True):
        plain = several[2] @ several[1] @ several[0]
        expected = np.log(np.linalg.svd(plain, compute_uv=False)[-1])
        np.testing.assert_allclose(found, expected, atol=1e-10)
