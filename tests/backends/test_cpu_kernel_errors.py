"""The CPU kernel with arrays that lie in memory in other ways, and without memory."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close
from kernel_programs import run

import lstm_jax
from lstm_jax.backends.cpu_kernel import library

pytestmark = pytest.mark.skipif(
    not library.status().available, reason=f"no kernel: {library.status().reason}"
)
CELL = lstm_jax.lstm(3, 5)
SIZES = (6, 4, 3)


def both(backend):
    """``(params, xs, state0) -> hs, gradients``, compiled."""

    def loss(params, xs, state0):
        state, hs = lstm_jax.unroll(CELL, params, xs, state0, backend=backend)
        return jnp.sum(jnp.sin(hs)) + jnp.vdot(state.h, state.c), hs

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))


@pytest.fixture(scope="module")
def problem():
    """Arrays of NumPy, and what the loop makes of them."""
    with jax.enable_x64(True):
        random = np.random.default_rng(3)
        params = jax.tree.map(
            lambda leaf: random.normal(size=leaf.shape), CELL.init(jax.random.key(0))
        )
        xs = random.normal(size=SIZES)
        state0 = jax.tree.map(
            lambda leaf: random.normal(size=leaf.shape), CELL.initial_state(SIZES[1])
        )
        return (params, xs, state0), both("loop")(params, xs, state0), both("cpu_kernel")


def backwards(array):
    """The same numbers, last axis first in memory."""
    return np.asfortranarray(array)


def with_gaps(array):
    """The same numbers, every second and third of a larger array, the first axis from its end."""
    large = np.full([3 * n for n in array.shape], np.nan)
    view = large[tuple(slice(None, None, -3 if n == 0 else 3) for n in range(array.ndim))]
    view[...] = array
    return view


def off_alignment(array):
    """The same numbers, one number after an address that a vector could be loaded from."""
    view = np.zeros(array.size + 9)[-array.size :].reshape(array.shape)
    view[...] = array
    return view


@pytest.mark.parametrize("lay", [backwards, with_gaps, off_alignment])
def test_arrays_of_numpy_that_are_not_in_rows(lay, problem, x64):
    arguments, expected, kernel = problem
    laid = jax.tree.map(lay, arguments)
    assert all(
        np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (laid, arguments)), strict=True)
    )
    assert_close(kernel(*laid), expected, 1e-12)


def test_transposed_inside_of_a_program(problem, x64):
    """XLA turns a transpose into another layout where it may; the kernel reads rows."""
    (params, xs, state0), expected, kernel = problem
    turned = jax.tree.map(lambda leaf: leaf.T, (params, xs, state0))

    def run(turned):
        found = kernel(*jax.tree.map(lambda leaf: leaf.T, turned))
        return jax.tree.map(lambda leaf: leaf.T * 1, found)

    found = jax.jit(run)(turned)
    assert_close(jax.tree.map(lambda leaf: leaf.T, found), expected, 1e-12)


def test_pieces_of_larger_arrays_and_one_array_for_two(problem, x64):
    (params, xs, state0), _, kernel = problem
    larger = np.concatenate([xs, xs, xs], axis=2)

    def run(backend):
        def program(larger, h):
            return both(backend)(params, larger[:, :, 3:6], lstm_jax.LSTMState(h, h))

        return jax.jit(program)(larger, state0.h)

    assert_close(run("cpu_kernel"), run("loop"), 1e-12)


def test_donated_arrays(problem, x64):
    """Gradients may be written where their arguments were."""
    arguments, expected, kernel = problem
    donating = jax.jit(lambda *a: kernel(*a), donate_argnums=(0, 1, 2))
    given = jax.tree.map(jnp.asarray, jax.tree.map(np.copy, arguments))
    kept = jax.tree.map(jnp.copy, given)
    found = donating(*given)
    assert_close(found, expected, 1e-12)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given[:2]))
    assert_close(donating(*kept), expected, 1e-12)


OUT_OF_MEMORY = """
import resource
gradient, arguments = problem(SIZES[0])
alone = bits(gradient(*arguments))

# Some megabytes of results, and 82 of workspace: more than malloc has in reserve for a thread.
units = 1600
cell = lstm_jax.lstm(8, units)
params = cell.init(jax.random.key(0), jnp.float64)
xs = jax.random.normal(jax.random.key(1), (3, 40, 8))
def unroll(backend):
    return jax.jit(lambda params, xs: lstm_jax.unroll(cell, params, xs, backend=backend)[1])
run = unroll("cpu_kernel").lower(params, xs).compile()
lines = dict(line.split(":") for line in open("/proc/self/status"))
used = int(lines["VmSize"].split()[0]) * 1024
_, most = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + 2**24, most))
for _ in range(2):
    try:
        jax.block_until_ready(run(params, xs))
    except jax.errors.JaxRuntimeError as error:
        print(error)
    else:
        print("no error")
assert bits(gradient(*arguments)) == alone
resource.setrlimit(resource.RLIMIT_AS, (most, most))
same(run(params, xs), unroll("loop")(params, xs))
assert bits(gradient(*arguments)) == alone
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_out_of_memory_is_one_sentence_and_the_program_goes_on():
    first, second = run(OUT_OF_MEMORY).splitlines()
    assert first == second
    assert first.startswith("RESOURCE_EXHAUSTED: Out of memory: expected ")
    assert first.endswith(".") and first.count(". ") == 0
