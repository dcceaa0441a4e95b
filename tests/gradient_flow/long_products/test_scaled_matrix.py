"""Matrices times powers of two: exactness where it is promised, range where floats end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gradient_flow.long_products import scaled_matrix as module
from gradient_flow.long_products.scaled_matrix import (
    EMPTY,
    ScaledMatrix,
    as_scaled,
    evenly_scaled,
    scaled_product,
    scaled_sum,
)
from gradient_flow.step_jacobians.scaled_entries import binary_exponent, power_of_two


@jax.jit
def log_frobenius(m):
    return module.log_frobenius(evenly_scaled(m))


@jax.jit
def log_spectral(m):
    return module.log_spectral(evenly_scaled(m))


def value(m):
    """What a moderate `ScaledMatrix` stands for, in float64."""
    return np.ldexp(np.asarray(m.matrix, np.float64), np.asarray(m.exponent)[..., None, :])


def test_powers_of_two_are_exact(x64):
    for dtype in (jnp.float32, jnp.float64):
        limits = np.finfo(dtype)
        exponents = np.arange(limits.minexp, limits.maxexp, dtype=np.int32)
        expected = np.ldexp(np.ones(len(exponents), dtype), exponents)
        np.testing.assert_array_equal(power_of_two(jnp.asarray(exponents), dtype), expected)
        assert power_of_two(jnp.int32(-(2**30)), dtype) == 0
        assert np.isfinite(power_of_two(jnp.int32(2**30), dtype))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_binary_exponents(x64, dtype):
    sizes = jnp.asarray([1.0, 0.5, 0.75, 3.0, 4.0, 1e30, 1e-30], dtype)
    exponents, sizes = np.asarray(binary_exponent(sizes)), np.asarray(sizes)
    assert exponents.dtype == np.int32
    assert (2.0 ** (exponents - 1) <= sizes).all() and (sizes < 2.0**exponents).all()
    assert binary_exponent(dtype(0)) < -(2**29)


@jax.jit
def all_together(m, factors):
    return jax.lax.scan(lambda m, f: (scaled_sum([scaled_product(m, f)]), None), m, factors)[0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("size", [0.01, 100.0])
@pytest.mark.slow
def test_thousands_of_random_matrices(x64, dtype, size):
    """Against the same product with its logarithm taken off at each step, in long doubles."""
    factors = (size * np.random.default_rng(0).standard_normal((5000, 4, 4))).astype(dtype)
    found = all_together(as_scaled(jnp.asarray(np.eye(4), dtype)), jnp.asarray(factors))
    exact, log = np.eye(4, dtype=np.longdouble), np.longdouble(0)
    for factor in factors:
        exact = exact @ factor.astype(np.longdouble)
        top = np.abs(exact).max()
        exact, log = exact / top, log + np.log(top)
    frobenius = float(log + np.log(np.sqrt(np.sum(exact**2))))
    spectral = float(log) + np.log(np.linalg.svd(exact.astype(np.float64))[1][0])
    # 5000 roundings add at most about 5000 units to the log, and as a random walk some 70.
    tolerance = 1000 * float(jnp.finfo(dtype).eps)
    scale = max(1.0, abs(frobenius))
    assert abs(float(log_frobenius(found)) - frobenius) < tolerance * scale
    assert abs(float(log_spectral(found)) - spectral) < tolerance * scale
    assert found.matrix.dtype == dtype and found.exponent.dtype == jnp.int32
    assert 0.5 <= float(jnp.abs(found.matrix).max()) <= 1


def test_a_vector_is_a_diagonal(x64):
    rng = np.random.default_rng(0)
    left = ScaledMatrix(
        jnp.asarray(rng.standard_normal((3, 2, 4))),
        jnp.asarray(rng.integers(-9, 9, (3, 4)), jnp.int32),
    )
    diagonal = jnp.asarray(rng.standard_normal(4))
    expected = value(left) @ np.diag(diagonal)
    np.testing.assert_allclose(value(scaled_product(left, diagonal)), expected, rtol=1e-15)
    np.testing.assert_allclose(
        value(scaled_product(left, jnp.diag(diagonal))), expected, rtol=1e-15
    )


def at(number, exponent, dtype):
    return ScaledMatrix(jnp.full((2, 2), number, dtype), jnp.full(2, exponent, jnp.int32))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_sums_with_zeros(x64, dtype):
    zero = at(0, 0, dtype)
    for exponent in (0, 1000, -100_000):
        low = at(0.75, exponent, dtype)
        for terms in ([zero, low], [low, zero], [zero, low, zero]):
            found = scaled_sum(terms)
            np.testing.assert_array_equal(found.matrix, np.full((2, 2), 0.75))
            assert (found.exponent == exponent).all()
    nothing = scaled_sum([zero, at(0, -100_000, dtype)])
    assert (nothing.exponent == EMPTY).all() and not nothing.matrix.any()
    assert log_frobenius(nothing) == log_spectral(nothing) == -np.inf


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_terms_1000_bits_apart(x64, dtype):
    """300 decades: the small one rounds away, whichever comes first, and no infinity appears."""
    for base in (0, -50_000, 50_000):
        large, small = at(0.5, base, dtype), at(0.5, base - 1000, dtype)
        for terms in ([large, small], [small, large]):
            found = scaled_sum(terms)
            expected = np.log(2 * 0.5) + base * np.log(2)
            np.testing.assert_allclose(log_frobenius(found), expected, rtol=1e-6)


def test_exact_cancellation(x64):
    found = scaled_sum([at(0.5, 7, jnp.float64), at(-0.5, 7, jnp.float64)])
    assert log_frobenius(found) == -np.inf


@pytest.mark.parametrize("norm", [log_frobenius, log_spectral])
def test_nan_stays_nan(norm):
    assert np.isnan(norm(scaled_sum([at(np.nan, 3, jnp.float32), at(1.0, 3, jnp.float32)])))


@pytest.mark.slow
def test_stacks_have_an_exponent_each(x64):
    rng = np.random.default_rng(0)
    stack = jnp.asarray(rng.standard_normal((3, 2, 2)))
    exponents = np.asarray([0, -5000, 5000], np.int32)
    m = ScaledMatrix(stack, jnp.asarray(np.repeat(exponents[:, None], 2, axis=1)))
    for norm, order in ((log_frobenius, "fro"), (log_spectral, 2)):
        expected = np.log(np.linalg.norm(stack, order, axis=(1, 2))) + exponents * np.log(2)
        np.testing.assert_allclose(norm(m), expected, rtol=1e-13)
        np.testing.assert_allclose(norm(scaled_sum([m])), expected, rtol=1e-13)


@pytest.mark.parametrize("norm", [log_frobenius, log_spectral])
def test_the_gradient_goes_through_the_scaling(x64, norm):
    """d log‖c^n M‖ / dc = n/c, at any size of c^n, and the derivative of log‖A B‖ is the plain one."""

    def log_norm_of(c):
        m, _ = jax.lax.scan(
            lambda m, _: (scaled_sum([scaled_product(m, c * jnp.eye(2))]), None),
            as_scaled(jnp.asarray([[1.0, 2.0], [3.0, 5.0]])),
            length=5000,
        )
        return norm(m)

    np.testing.assert_allclose(jax.jit(jax.grad(log_norm_of))(0.3), 5000 / 0.3, rtol=1e-12)
    rng = np.random.default_rng(0)
    a, b = jnp.asarray(rng.standard_normal((2, 3, 3)))
    ours = jax.jit(jax.grad(lambda b: norm(scaled_sum([scaled_product(as_scaled(a), b)]))))(b)
    # d‖P‖₂ = uᵀ dP v, and d‖P‖_F = ⟨P, dP⟩/‖P‖_F.
    p = np.asarray(a @ b)
    u, s, v = np.linalg.svd(p)
    d_p = np.outer(u[:, 0], v[0]) / s[0] if norm is log_spectral else p / np.sum(p**2)
    np.testing.assert_allclose(ours, np.asarray(a).T @ d_p, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("norm", [log_frobenius, log_spectral])
def test_the_gradient_at_zero_is_finite(norm):
    gradient = jax.grad(lambda x: norm(scaled_sum([as_scaled(x)])))(jnp.zeros((2, 2)))
    assert np.isfinite(gradient).all()


def test_columns_drift_apart_and_come_back(x64):
    """What is negligible half-way back may be all that counts in the end: unit 0 falls, then unit 1."""
    shrink, keep = 2.0**-100, 1.0
    factors = np.asarray([[shrink, keep]] * 30 + [[keep, shrink]] * 30)
    for dtype in (jnp.float32, jnp.float64):
        for dense in (False, True):
            some = factors.astype(dtype)
            some = some[:, :, None] * np.eye(2, dtype=dtype) if dense else some
            m = all_together(as_scaled(jnp.asarray(np.eye(2), dtype)), jnp.asarray(some))
            np.testing.assert_allclose(log_spectral(m), -3000 * np.log(2), rtol=1e-6)
            expected = -3000 * np.log(2) + np.log(2) / 2
            np.testing.assert_allclose(log_frobenius(m), expected, rtol=1e-6)


matrices = arrays.arrays(
    np.float64,
    (2, 3),
    elements=st.floats(-4, 4, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-3),
)
exponents = st.lists(st.integers(-200, 200), min_size=3, max_size=3)
terms = st.lists(st.tuples(matrices, exponents), min_size=1, max_size=4)


jitted_sum = jax.jit(scaled_sum)  # one compilation for each number of terms


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True)
@given(terms)
def test_a_scaled_sum_is_the_plain_sum(drawn):
    with jax.enable_x64(True):
        parts = [ScaledMatrix(jnp.asarray(m), jnp.asarray(e, jnp.int32)) for m, e in drawn]
        found = jitted_sum(parts)
        plain = [value(part) for part in parts]
        # Rounding is relative to the largest of the terms in the column, as in any sum.
        error = np.abs(value(found) - sum(plain)).max(axis=0)
        largest = np.max([np.abs(p).max(axis=0) for p in plain], axis=0)
        assert (error <= 4e-16 * len(plain) * largest).all()
        assert np.abs(np.asarray(found.matrix)).max() <= len(plain)
