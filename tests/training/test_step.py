"""One step of training: the update itself, accumulation, precision, many seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from comparison import slow
from training.problems import DATA, B, D, T, leaves, recurrent

from lstm_jax.training import (
    Mean,
    Problem,
    ProblemError,
    init_state,
    parameter_names,
    train_step,
)


def steps(problem, optimizer, count=3, data=DATA, seed=0, **options):
    step = jax.jit(train_step(problem, optimizer, **options))
    state, found = init_state(problem, optimizer, seed), []
    for _ in range(count):
        state, metrics = step(state, data)
        found.append(metrics)
    return state, found


def test_a_step_is_the_update_written_out(x64):
    problem, data = recurrent(), np.float64(1)
    state, metrics = steps(problem, optax.sgd(0.1), 2, data)

    start = init_state(problem, optax.sgd(0.1), 0)
    key_batch, key_loss = jax.random.split(jax.random.wrap_key_data(start.key))
    params, carry = start.params, start.carry
    slope = jax.jit(jax.value_and_grad(problem.loss, has_aux=True))
    for n in range(2):
        batch = problem.batch(data, n, key_batch)
        key = jax.random.fold_in(key_loss, n)
        (loss, (carry, _)), d_params = slope(params, carry, batch, key)
        np.testing.assert_allclose(metrics[n].loss, loss, rtol=1e-12)
        norms = [np.linalg.norm(leaf) for leaf in leaves(d_params)]
        np.testing.assert_allclose(metrics[n].gradient_norms, norms, rtol=1e-12)
        np.testing.assert_allclose(metrics[n].gradient_norm, np.linalg.norm(norms), rtol=1e-12)
        params = jax.tree.map(lambda p, d: p - 0.1 * d, params, d_params)
    for came, expected in zip(leaves(state.params), leaves(params), strict=True):
        np.testing.assert_allclose(came, expected, rtol=1e-12)
    for came, expected in zip(leaves(state.carry), leaves(carry), strict=True):
        np.testing.assert_allclose(came, expected, rtol=1e-12)
    assert int(state.step) == 2
    assert len(parameter_names(params)) == len(norms)


@pytest.mark.parametrize("parts", [slow(2), 4, slow(8)])
def test_parts_of_a_batch_add_up_to_the_whole(x64, parts):
    optimizer, data = optax.adam(0.01), np.float64(1)
    whole, first = steps(recurrent(), optimizer, data=data)
    state, second = steps(recurrent(), optimizer, data=data, accumulate=parts)
    for came, expected in zip(leaves(state.params), leaves(whole.params), strict=True):
        np.testing.assert_allclose(came, expected, rtol=1e-10, atol=1e-14)
    for came, expected in zip(
        leaves(state.carry["state"]), leaves(whole.carry["state"]), strict=True
    ):
        np.testing.assert_allclose(came, expected, rtol=1e-10, atol=1e-14)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a.loss, b.loss, rtol=1e-12)
        # The mean of the parts' largest errors is below the largest of the batch.
        assert b.more["worst"] < a.more["worst"]
    # What has no samples goes through the parts, one after the other.
    assert int(state.carry["seen"]) == parts * int(whole.carry["seen"]) == parts * 3 * T


def test_means_of_whole_numbers():
    """Without double precision they divide in single, with no warning of what JAX cannot hold."""
    counts = Mean(jnp.int32(3), jnp.int32(2))
    problem = Problem(
        init=lambda key: jnp.ones(2),
        loss=lambda params, carry, batch, key: (
            jnp.sum(params**2),
            (carry, {"share": counts, "count": jnp.int32(4)}),
        ),
        batch=lambda data, step, key: jnp.ones((2, 2)),
        batch_axes=0,
    )
    for parts in (1, 2):
        _, came = steps(problem, optax.sgd(0.1), accumulate=parts)
        assert float(came[0].more["share"]) == 1.5 and float(came[0].more["count"]) == 4


@pytest.mark.parametrize("parts", [1, 2])
def test_a_batch_in_which_nothing_counts_changes_nothing(parts):
    def loss(params, carry, batch, key):
        mean = Mean(jnp.sum(batch @ params) * 0, jnp.sum(batch > 1))
        return mean, (carry, {"error": mean})

    problem = Problem(
        lambda key: jnp.ones(2), loss, lambda data, step, key: jnp.ones((2, 2)), batch_axes=0
    )
    state, came = steps(problem, optax.sgd(0.1), accumulate=parts)
    assert bool(came[0].finite) and float(came[0].loss) == float(came[0].more["error"]) == 0
    assert state.params.tolist() == [1, 1]


def masked(as_mean):
    """A mean over the steps that count, few of them in some samples."""
    counts = jnp.arange(T)[:, None] < jnp.array([5, 1, 1, 4, 5, 1, 2, 1])[None]
    counts = counts.astype(float)

    def loss(params, carry, batch, key):
        errors = jnp.sum((batch["xs"] @ params - 1) ** 2, -1) * batch["counts"]
        mean = Mean(jnp.sum(errors), jnp.sum(batch["counts"]))
        value = mean if as_mean else mean.total / mean.weight
        return value, (carry, {"error": value, "steps": jnp.sum(batch["counts"])})

    xs = jax.random.normal(jax.random.key(5), (T, B, D), float)
    return Problem(
        init=lambda key: jnp.ones((D, 2), float) / 3,
        loss=loss,
        batch=lambda data, step, key: {"xs": xs, "counts": counts},
    )


@pytest.mark.parametrize("parts", [1, slow(2), 8])
def test_a_mean_over_masked_steps_is_that_of_the_whole_batch(x64, parts):
    expected, first = steps(masked(False), optax.sgd(0.1))
    found, came = steps(masked(True), optax.sgd(0.1), accumulate=parts)
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-12)
    for a, b in zip(came, first, strict=True):
        np.testing.assert_allclose([a.loss, a.more["error"]], [b.loss] * 2, rtol=1e-12)
        np.testing.assert_allclose(a.more["steps"], b.more["steps"] / parts)
    if parts > 1:  # a plain number cannot know how many steps of a part count
        other, _ = steps(masked(False), optax.sgd(0.1), accumulate=parts)
        assert abs(other.params - expected.params).max() > 0.01


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Mean("a", 1.0), "expected the total and the weight of loss as numbers, got"),
        (Mean(jnp.ones(3), 1.0), "expected one number, the mean over the samples"),
        (Mean(jnp.ones(()), jnp.ones(3)), r"the weight of loss as one number, got an array \[3\]"),
    ],
)
def test_a_mean_that_is_none_is_refused(without_type_checker, value, message):
    problem = masked(True)._replace(loss=lambda params, carry, batch, key: (value, (carry, {})))
    with pytest.raises(ProblemError, match=message):
        steps(problem, optax.sgd(0.1))


def test_samples_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="divide into accumulate=3 parts, got 8"):
        steps(recurrent(), optax.sgd(0.1), accumulate=3)
    with pytest.raises(ValueError, match="accumulate"):
        train_step(recurrent(), optax.sgd(0.1), accumulate=0)


@pytest.mark.parametrize("accumulate", [1, slow(2)])
def test_optimizers_that_ask_for_the_value(x64, accumulate):
    """A line search finds the minimum of a square at once; a rate falls when the loss does not."""
    target = jnp.arange(8.0).reshape(1, 8)
    problem = Problem(
        init=lambda key: jnp.zeros(()),
        loss=lambda params, carry, batch, key: (jnp.mean((params - batch) ** 2), (carry, {})),
        batch=lambda data, step, key: target,
    )
    state, _ = steps(problem, optax.lbfgs(), 3, accumulate=accumulate)
    np.testing.assert_allclose(state.params, 3.5, rtol=1e-9)
    plateau = optax.chain(optax.sgd(0.0), optax.contrib.reduce_on_plateau(factor=0.5, patience=1))
    state, _ = steps(problem, plateau, 6, accumulate=accumulate)
    assert float(state.optimizer[1].scale) < 1


def test_dropout_draws_anew_in_every_step_and_part():
    problem = Problem(
        init=lambda key: jnp.zeros(2),
        loss=lambda params, carry, batch, key: (
            params.sum() * 0 + jax.random.uniform(key),
            (carry, {"first": jax.random.uniform(key)}),
        ),
        batch=lambda data, step, key: jnp.zeros((1, 4)),
    )
    _, found = steps(problem, optax.sgd(0.1), 6)
    assert len({float(m.loss) for m in found}) == 6
    _, halved = steps(problem, optax.sgd(0.1), 6, accumulate=2)
    assert not {float(m.loss) for m in found} & {float(m.loss) for m in halved}


def test_bfloat16_computes_the_loss_and_leaves_the_parameters_in_float32():
    seen = []
    # Said once: the problem knows nothing of it, and its states and counts stay what they are.
    problem = recurrent()
    inner = problem.loss

    def loss(params, carry, batch, key):
        seen.extend(leaf.dtype for leaf in jax.tree.leaves((params, carry["state"], batch)))
        kept.append(carry["seen"].dtype)
        return inner(params, carry, batch, key)

    kept = []

    optimizer = optax.adam(0.01)
    state, found = steps(problem._replace(loss=loss), optimizer, 20, compute_dtype=jnp.bfloat16)
    exact, expected = steps(recurrent(), optimizer, 20)
    assert set(seen) == {jnp.dtype(jnp.bfloat16)} and set(kept) == {jnp.dtype(jnp.int32)}
    assert {leaf.dtype for leaf in leaves(state.carry["state"])} == {np.dtype(np.float32)}
    assert {m.loss.dtype for m in found} == {np.dtype(np.float32)}
    # A problem whose states are of this dtype is the same.
    again, _ = steps(recurrent(state_dtype=jnp.bfloat16), optimizer, 20, compute_dtype="bfloat16")
    for came, wanted in zip(leaves(again.params), leaves(state.params), strict=True):
        np.testing.assert_array_equal(came, wanted)
    assert {leaf.dtype for leaf in leaves(state.params)} == {np.dtype(np.float32)}
    assert {leaf.dtype for leaf in leaves(state.optimizer)} <= {
        np.dtype(np.float32),
        np.dtype(np.int32),
    }
    np.testing.assert_allclose([m.loss for m in found], [m.loss for m in expected], rtol=0.05)
    assert any(
        (a != b).any() for a, b in zip(leaves(state.params), leaves(exact.params), strict=True)
    )


@pytest.mark.slow
def test_a_sweep_is_its_seeds_one_by_one():
    problem, optimizer = recurrent(dropout=0.3), optax.adam(0.01)
    alone = jax.jit(train_step(problem, optimizer))
    step = jax.jit(jax.vmap(train_step(problem, optimizer), in_axes=(0, None)))
    state = jax.vmap(lambda seed: init_state(problem, optimizer, seed))(
        jnp.arange(3, dtype=jnp.uint32)
    )
    for _ in range(3):
        state, metrics = step(state, DATA)
    for n in range(3):
        one = init_state(problem, optimizer, n)
        for _ in range(3):
            one, found = alone(one, DATA)
        np.testing.assert_allclose(metrics.loss[n], found.loss, rtol=1e-5)
        for came, expected in zip(leaves(state.params), leaves(one.params), strict=True):
            np.testing.assert_allclose(came[n], expected, rtol=1e-4, atol=1e-6)


def test_a_step_is_traced_once():
    traces = []
    problem = recurrent()

    def batch(data, step, key):
        traces.append(step)
        return problem.batch(data, step, key)

    steps(problem._replace(batch=batch), optax.adam(0.01), 10)
    assert len(traces) == 1
