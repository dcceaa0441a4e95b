"""The largest singular value by repeated squaring, against numpy's decomposition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gradient_flow import spectral
from gradient_flow.spectral import log_largest_by_svd

log_largest = jax.jit(spectral.log_largest)  # one compilation for each shape
DTYPES = (np.float32, np.float64)


def orthogonal(rng, n):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def with_values(rng, values):
    values = np.asarray(values)
    return orthogonal(rng, len(values)) @ np.diag(values) @ orthogonal(rng, len(values))


def jacobians(rng, n, count):
    """A product of Jacobians of a tanh network, which is nearly of rank one after some."""
    m = np.eye(n)
    for _ in range(count):
        m = m @ (rng.uniform(0.1, 1, (n, 1)) * rng.standard_normal((n, n)) / np.sqrt(n))
        m /= np.abs(m).max()
    return m


def step(rng, n):
    """The half of an orthogonal matrix, and a head that misses what counts."""
    m = np.zeros((n, n))
    m[: n // 2, : n // 2] = 1e-9 * rng.standard_normal((n // 2, n // 2))
    m[-1, -1] = 1
    return m


CASES = {
    "one": lambda rng: np.array([[-0.7]]),
    "zero": lambda rng: np.zeros((5, 5)),
    "row": lambda rng: rng.standard_normal((1, 9)),
    "column": lambda rng: rng.standard_normal((9, 1)),
    "random": lambda rng: rng.standard_normal((40, 40)),
    "wide": lambda rng: rng.standard_normal((20, 70)),
    "tall": lambda rng: rng.standard_normal((70, 20)),
    "rank 1": lambda rng: np.outer(rng.standard_normal(33), rng.standard_normal(20)),
    "identity": lambda rng: np.eye(40),
    "identity of an odd size": lambda rng: 0.9 * np.eye(37),
    "diagonal": lambda rng: np.diag(rng.uniform(0, 1, 50)),
    "nilpotent": lambda rng: np.diag(np.ones(39), 1),
    "orthogonal": lambda rng: orthogonal(rng, 48),
    "two equal": lambda rng: with_values(rng, [1, 1, *np.linspace(0.99, 0, 38)]),
    "two nearly equal": lambda rng: with_values(rng, [1, 1 - 1e-9, *np.linspace(0.99, 0, 38)]),
    "many nearly equal": lambda rng: with_values(rng, np.linspace(1, 0.9999, 40)),
    "a narrow gap": lambda rng: with_values(rng, [1, *[0.9999] * 39]),
    "falling": lambda rng: with_values(rng, 10.0 ** -np.arange(40)),
    "graded columns": lambda rng: rng.standard_normal((40, 40)) * 10.0 ** -np.arange(40),
    "graded rows": lambda rng: rng.standard_normal((40, 40)) * 10.0 ** -np.arange(40)[:, None],
    "graded rows, rising": lambda rng: (
        rng.standard_normal((40, 40)) * 10.0 ** -np.arange(40)[::-1, None]
    ),
    "the last entry": lambda rng: step(rng, 40),
    "all ones": lambda rng: np.ones((40, 40)),
    "signs that cancel": lambda rng: np.kron(np.array([[1, 1], [1, -1]]), np.ones((20, 20))),
    "one Jacobian": lambda rng: jacobians(rng, 40, 1),
    "ten Jacobians": lambda rng: jacobians(rng, 40, 10),
    "300 Jacobians": lambda rng: jacobians(rng, 40, 300),
}


def normalised(matrix, dtype):
    size = np.abs(matrix).max()
    return np.asarray(matrix / (size or 1), dtype)


def expected(matrix):
    with np.errstate(divide="ignore"):
        return np.log(np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)[..., 0])


def assert_right(value, matrix):
    """To 16 units of rounding of the norm itself."""
    truth = expected(matrix)
    assert value.dtype == matrix.dtype and value.shape == truth.shape
    np.testing.assert_array_equal(np.isneginf(value), np.isneginf(truth))
    finite = np.isfinite(truth)
    off = np.abs(np.asarray(value, np.float64)[finite] - truth[finite])
    bound = 16 * np.finfo(matrix.dtype).eps * (1 + np.abs(truth[finite]))
    assert (off <= bound).all(), off / bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_matrix(x64, name, dtype):
    for seed in range(3):
        matrix = normalised(CASES[name](np.random.default_rng(seed)), dtype)
        assert_right(log_largest(jnp.asarray(matrix)), matrix)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_batch_of_every_kind(x64, dtype):
    """What closes late does not spoil what closed at once."""
    rng = np.random.default_rng(0)
    square = [m for make in CASES.values() if (m := make(rng)).shape == (40, 40)]
    stack = np.stack([normalised(m, dtype) for m in square])
    assert len(stack) > 10
    assert_right(log_largest(jnp.asarray(stack)), stack)
    two = stack[:10].reshape(2, 5, 40, 40)
    assert_right(log_largest(jnp.asarray(two)), two)
    assert_right(jax.vmap(log_largest)(jnp.asarray(two)), two)
    assert_right(jax.jit(jax.vmap(jax.vmap(log_largest)))(jnp.asarray(two)), two)


def test_powers_of_two_come_out_exactly():
    for n in (1, 5, 32, 37):
        assert log_largest(jnp.eye(n)) == 0.0
        assert log_largest(jnp.eye(n)[::-1] / 2) == jnp.log(jnp.float32(0.5))


def test_a_nan_stays_one():
    stack = jnp.stack([jnp.eye(40), jnp.eye(40).at[3, 5].set(jnp.nan)])
    np.testing.assert_array_equal(np.isnan(log_largest(stack)), [False, True])


@pytest.mark.parametrize("n", [128, 256])
def test_sizes_as_they_are_used(n):
    rng = np.random.default_rng(0)
    stack = np.stack([normalised(jacobians(rng, n, k), np.float32) for k in (1, 3, 30, 100)])
    assert_right(log_largest(jnp.asarray(stack)), stack)
    flat = normalised(orthogonal(rng, n), np.float32)
    assert_right(log_largest(jnp.asarray(flat)), flat)


matrices = arrays.arrays(
    np.float64,
    st.sampled_from([(2, 3), (16, 20), (7, 7)]),
    elements=st.floats(-1, 1).filter(lambda x: x == 0 or abs(x) > 1e-12),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(matrices)
def test_any_matrix(drawn):
    with jax.enable_x64(True):
        for dtype in DTYPES:
            matrix = normalised(drawn, dtype)
            assert_right(log_largest(jnp.asarray(matrix)), matrix)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bounds_hold_at_every_power(x64, dtype):
    """λ_1(N) lies between them before the squaring has closed, too."""
    rng = np.random.default_rng(0)
    for make in CASES.values():
        matrix = normalised(make(rng), dtype)
        if not matrix.any():
            continue
        m = matrix.astype(np.float64)
        n = m @ m.T
        for _ in range(8):
            n = n / np.trace(n)
            power = spectral._Power(jnp.asarray(n[None], dtype), jnp.zeros(1, dtype), dtype(1))
            low, high = spectral._bounds(power)
            truth = np.log(np.linalg.norm(n, 2))
            slack = 16 * len(n) * np.finfo(dtype).eps
            assert float(low[0]) - slack <= truth <= float(high[0]) + slack
            n = n @ n


def test_the_head_alone_stands_for_the_matrix_only_where_it_may():
    """Without the test of the tail, or without what follows it, this matrix is wrong."""
    matrix = jnp.asarray(step(np.random.default_rng(0), 40), jnp.float32)
    assert log_largest(matrix) == 0.0
    batch = jnp.stack([matrix[::-1], matrix])
    np.testing.assert_array_equal(log_largest(batch), [0.0, 0.0])
    head = spectral._by_squaring(batch[:, :10])
    assert head[1] < -10


def test_the_derivative_is_that_of_the_decomposition(x64):
    rng = np.random.default_rng(0)
    matrix = jnp.asarray(normalised(rng.standard_normal((3, 40, 24)), np.float64))
    ours = jax.grad(lambda a: jnp.sum(log_largest(a)))(matrix)
    theirs = jax.grad(lambda a: jnp.sum(log_largest_by_svd(a)))(matrix)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)
    dot = jax.jvp(log_largest, (matrix,), (matrix,))[1]
    np.testing.assert_allclose(dot, np.ones(3), rtol=1e-12)
