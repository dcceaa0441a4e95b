"""A scan over chunks is a scan, and the backward pass does not notice how its sums are cut."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close, loss, other_modes, random_problem, slow
from jax import lax

import lstm_jax
from lstm_jax.jax_extensions import weight_with_transpose
from lstm_jax.time_loop.chunked_scan import chunk_starts, scan_chunks
from lstm_jax.time_loop.scan import CPU, PLATFORMS


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("steps", [1, 4, slow(6), slow(12), 13, slow(20)])
def test_is_a_scan(x64, steps, reverse):
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((13, 2)))

    def step(carry, x):
        carry = jnp.sin(carry * 1.3 + x)
        return carry, carry**2

    def chunk(carry, start, xs):
        # The value before the chunk, found from the outputs, is the carry.
        assert xs.shape[0] in (steps, 13 % steps)
        after, ys = lax.scan(step, carry, xs, reverse=reverse)
        return after, (ys, (carry - start)[None])

    carry, ys = lax.scan(step, jnp.ones(2), xs, reverse=reverse)
    carries, _ = lax.scan(lambda c, x: (step(c, x)[0],) * 2, jnp.ones(2), xs, reverse=reverse)
    carries = lax.scan(lambda c, x: (step(c, x)[0],) * 2, jnp.ones(2), xs, reverse=reverse)[1]
    starts = chunk_starts(jnp.ones(2), carries, steps, reverse=reverse)
    after, (outputs, differences) = scan_chunks(
        chunk, jnp.ones(2), starts, xs, steps, reverse=reverse
    )
    np.testing.assert_allclose(after, carry, rtol=1e-14)
    np.testing.assert_allclose(outputs, ys, rtol=1e-14)
    assert differences.shape == (-(-13 // steps), 2)
    np.testing.assert_allclose(differences, 0, atol=1e-14)


@pytest.fixture
def many_chunks(monkeypatch):
    """Chunks of two steps of a batch of two, and every product of the loop from the left."""
    jax.clear_caches()
    monkeypatch.setitem(PLATFORMS, "cpu", CPU._replace(rows=4))
    monkeypatch.setattr(weight_with_transpose, "LARGE", 0)
    monkeypatch.setattr(weight_with_transpose, "FEWEST_STEPS", 1)
    monkeypatch.setattr(weight_with_transpose, "FEWEST_ROWS", 1)
    yield
    jax.clear_caches()


# Where a sequence is cut depends on its length, batch and direction; a cell brings its own sums.
@pytest.mark.parametrize(
    ("name", "reverse", "batch", "time"),
    [
        ("lstm", False, 2, 7),
        ("gru", True, None, 7),
        slow("rnn_tanh", True, 2, 2),
        slow("rnn_tanh", False, 2, 7),
        slow("lstm", True, None, 7),
        slow("lstm", False, None, 2),
        slow("gru", False, 2, 7),
    ],
)
def test_the_gradient_does_not_depend_on_the_chunks(x64, many_chunks, name, reverse, batch, time):
    problem = random_problem(name, time, batch)

    @jax.jit
    def gradients(inputs):
        return [
            jax.value_and_grad(partial(loss, problem, gradient=gradient, reverse=reverse))(inputs)
            for gradient in ("bptt", "autodiff")
        ]

    assert_close(*gradients(problem.inputs), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh"])
def test_other_modes_do_not_depend_on_the_chunks(x64, many_chunks, name):
    problem = random_problem(name, 3, 2, input_size=2, hidden_size=2)

    assert_close(other_modes(problem, "bptt"), other_modes(problem, "autodiff"), 1e-11)


def test_sums_over_many_chunks_keep_their_digits_in_bfloat16(many_chunks):
    cell = lstm_jax.rnn(1, 1, activation="identity")
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), jnp.bfloat16))
    xs = jnp.ones((1024, 1), jnp.bfloat16)
    gradient = jax.grad(lambda p: jnp.sum(lstm_jax.unroll(cell, p, xs)[1].astype(jnp.float32)))
    # In bfloat16, 256 + 1 is 256.
    assert gradient(params).b.tolist() == [1024.0]
