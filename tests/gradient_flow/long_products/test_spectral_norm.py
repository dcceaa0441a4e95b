"""The largest singular value by repeated squaring, against numpy's decomposition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gradient_flow.long_products import spectral_norm
from gradient_flow.long_products.spectral_norm import log_largest_by_svd

log_largest = jax.jit(spectral_norm.log_largest)  # one compilation for each shape
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


def apart(count):
    """The largest row alone, and ``count`` smaller equal ones, which make the largest singular value."""
    m = np.zeros((40, 40))
    m[0, 0] = 1
    m[1 : 1 + count, 1:] = np.sqrt(0.9 / 39)
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
    "a start that misses": lambda rng: apart(30),
    "a start that barely misses": lambda rng: apart(2),
    "two of a kind": lambda rng: np.kron(np.eye(2), rng.standard_normal((20, 20))),
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_batches_however_they_are_made(x64):
    rng = np.random.default_rng(0)
    square = [m for make in CASES.values() if (m := make(rng)).shape == (40, 40)]
    two = np.stack([normalised(m, np.float64) for m in square[:10]]).reshape(2, 5, 40, 40)
    assert_right(log_largest(jnp.asarray(two)), two)
    assert_right(jax.vmap(log_largest)(jnp.asarray(two)), two)
    assert_right(jax.jit(jax.vmap(jax.vmap(log_largest)))(jnp.asarray(two)), two)


def test_powers_of_two_come_out_exactly():
    for n in (5, 32):
        eye = np.eye(n, dtype=np.float32)
        value = log_largest(jnp.asarray(np.stack([eye, eye[::-1] / 2])))
        np.testing.assert_array_equal(value, [0.0, np.log(np.float32(0.5))])


def test_a_nan_stays_one():
    stack = np.stack([np.eye(5, dtype=np.float32)] * 2)
    stack[1, 3, 2] = np.nan
    np.testing.assert_array_equal(np.isnan(log_largest(jnp.asarray(stack))), [False, True])


@pytest.mark.slow
@pytest.mark.parametrize("n", [128, 256])
def test_sizes_as_they_are_used(n):
    rng = np.random.default_rng(0)
    stack = [jacobians(rng, n, k) for k in (1, 3, 30, 100)] + [orthogonal(rng, n)]
    stack = np.stack([normalised(m, np.float32) for m in stack])
    assert_right(log_largest(jnp.asarray(stack)), stack)


matrices = arrays.arrays(
    np.float64,
    st.sampled_from([(2, 3), (16, 20), (7, 7)]),
    elements=st.floats(-1, 1).filter(lambda x: x == 0 or abs(x) > 1e-12),
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(matrices)
def test_any_matrix(drawn):
    with jax.enable_x64(True):
        for dtype in DTYPES:
            matrix = normalised(drawn, dtype)
            assert_right(log_largest(jnp.asarray(matrix)), matrix)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bounds_hold_at_every_power(x64, dtype):
    """λ_1 lies between them before the squaring has closed, too, and whatever vector there is."""
    rng = np.random.default_rng(0)
    look = jax.jit(spectral_norm._update_bounds)  # one compilation for each size
    for make in CASES.values():
        matrix = normalised(make(rng), dtype)
        if not matrix.any():
            continue
        m = matrix.astype(np.float64)
        truth = 2 * expected(matrix)
        v = rng.standard_normal((1, len(m)))
        v = jnp.asarray(v / np.linalg.norm(v), dtype)
        n, shift = m @ m.T, 0.0
        for p in 2.0 ** np.arange(8):
            size = np.trace(n)
            n, shift = n / size, shift + np.log(size) / p
            known = (
                jnp.asarray(a, dtype)[None] for a in (1.0, np.sum(n**2), shift, -np.inf, np.inf)
            )
            power = look(
                spectral_norm._Power(jnp.asarray(n[None], dtype), v, *known, jnp.asarray(p, dtype))
            )
            slack = 16 * len(m) * np.finfo(dtype).eps / p
            slack += 8 * np.finfo(dtype).eps * (1 + abs(truth))
            assert float(power.low[0]) - slack <= truth <= float(power.high[0]) + slack
            n = n @ n


def test_temples_bound_holds_and_is_tight():
    """Of products with A Aᵀ alone, where nothing has converged yet."""
    rng = np.random.default_rng(0)
    matrix = with_values(rng, [1, *[0.9**n * 0.4 for n in range(12)]])
    a = jnp.asarray(normalised(matrix, np.float32))[None]
    truth = 2 * expected(np.asarray(a[0]))
    for tolerance in (1e-1, 1e-2, 1e-3, 1e-5):
        start = spectral_norm._unit(jnp.asarray(rng.standard_normal((1, len(matrix))), np.float32))
        total = jnp.sum(a**2, axis=(1, 2))
        guess = spectral_norm._power_iteration(
            lambda v: spectral_norm._times(a, spectral_norm._transposed_times(a, v)),
            lambda theta, total=total: total - theta,
            start,
            tolerance,
        )
        low = float(jnp.log(guess.theta)[0])
        assert low - 1e-6 <= truth <= low + float(guess.excess[0]) + 1e-6
        assert 0 < guess.excess[0] <= tolerance


@pytest.mark.slow
def test_what_closes_late_closes_in_a_large_batch():
    """More matrices than are squared together, hard and easy ones mixed, one of them zero, one NaN."""
    rng = np.random.default_rng(0)
    few = spectral_norm.AT_ONCE // 128**2
    stack = [normalised(jacobians(rng, 128, k % 9), np.float32) for k in range(2 * few + 3)]
    stack[5] = np.zeros_like(stack[5])
    stack[few] = np.full_like(stack[5], np.nan)
    value = np.asarray(log_largest(jnp.asarray(np.stack(stack))))
    assert np.isnan(value[few])
    del stack[few]
    assert_right(jnp.asarray(np.delete(value, few)), np.stack(stack))


def test_the_derivative_is_that_of_the_decomposition(x64):
    rng = np.random.default_rng(0)
    matrix = jnp.asarray(normalised(rng.standard_normal((3, 40, 24)), np.float64))
    ours = jax.grad(lambda a: jnp.sum(log_largest(a)))(matrix)
    theirs = jax.grad(lambda a: jnp.sum(log_largest_by_svd(a)))(matrix)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)
    dot = jax.jvp(log_largest, (matrix,), (matrix,))[1]
    np.testing.assert_allclose(dot, np.ones(3), rtol=1e-12)
