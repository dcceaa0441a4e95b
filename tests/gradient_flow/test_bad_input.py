"""Refusals: the right exception, one sentence, the step by its number, before any long work."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import random_problem

import lstm_jax
from gradient_flow import all_pairs_norms, jacobian_norms
from lstm_jax import DtypeError, NonFiniteError, ShapeError

pytestmark = pytest.mark.usefixtures("without_type_checker", "no_long_work")


@pytest.fixture
def no_long_work(monkeypatch):
    """Fail if a refusal comes only after the walk back has begun."""

    def never(*_):
        raise AssertionError("the walk back was begun")

    # The function of the same name hides the module in the package.
    module = importlib.import_module("gradient_flow.measurements.jacobian_norms")
    monkeypatch.setattr(module, "lag_curves", never)
    monkeypatch.setattr(module, "pair_map", never)


@pytest.fixture
def problem():
    return random_problem("lstm", 6)


@pytest.fixture
def batch():
    return random_problem("lstm", 6, 2)


def refused(error, match, call):
    with pytest.raises(error, match=match) as caught:
        call()
    assert type(caught.value) is error
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


def measure(problem, **options):
    return jacobian_norms(problem.cell, problem.params, problem.state0, problem.xs, **options)


def measure_step(step, state0, xs=None, params=None, **options):
    return jacobian_norms(step, params, state0, jnp.zeros((6, 1)) if xs is None else xs, **options)


def halve(params, state, x):
    return jax.tree.map(lambda s: 0.5 * s, state), None


# Names.


@pytest.mark.parametrize("block", ["hx", "", "h,h", "cch", None])
def test_an_unknown_block(problem, block):
    message = refused(ValueError, "Unknown block", lambda: measure(problem, blocks=["hh", block]))
    assert all(name in message for name in ("'hh'", "'total_c'", "'carousel'", "'chain_c'", "'ss'"))
    assert message.endswith(f"got {block!r}.")


@pytest.mark.parametrize("block", ["cc", "total_c", "carousel", "chain_c"])
def test_a_block_that_only_an_lstm_has(block):
    problem = random_problem("gru", 6)
    refused(ValueError, "Unknown block.*'hh'.*got", lambda: measure(problem, blocks=[block]))


def test_an_unknown_norm(problem):
    for norms in (["nuclear"], ["spectral", "Spectral"], [2]):
        refused(
            ValueError,
            "Unknown norm.*'spectral'",
            lambda norms=norms: measure(problem, norms=norms),
        )


# Times, lags, stride.


@pytest.mark.parametrize("times", [[0], [7], [-1], [2.0], [1.5], [True], ["3"], [6, 0]])
def test_times_that_do_not_exist(problem, times):
    refused(
        ValueError,
        f"expected times from 1 to 6, got {times[-1]!r}",
        lambda: measure(problem, times=times),
    )


@pytest.mark.parametrize("lags", [[-1], [4], [0, 2.0], [False]])
def test_lags_that_do_not_exist(problem, lags):
    refused(
        ValueError,
        f"expected lags from 0 to 3, got {lags[-1]!r}",
        lambda: measure(problem, times=[2, 3], lags=lags),
    )


def test_no_times_and_no_lags(problem):
    refused(ValueError, "at least one of times", lambda: measure(problem, times=[]))
    refused(ValueError, "at least one of lags", lambda: measure(problem, lags=[]))


@pytest.mark.parametrize("every", [0, -1, 1.0, True])
def test_a_stride_that_is_not_a_positive_whole_number(problem, every):
    cell, params, xs, state0, *_ = problem
    refused(
        ValueError,
        "expected every to be a positive integer",
        lambda: all_pairs_norms(cell, params, state0, xs, every=every),
    )


def test_a_stride_beyond_the_sequence(problem):
    cell, params, xs, state0, *_ = problem
    refused(
        ValueError,
        r"expected every of at most 6 steps \(the length\), got 7",
        lambda: all_pairs_norms(cell, params, state0, xs, every=7),
    )


# Shapes and dtypes.


@pytest.mark.parametrize("shape", [(6,), (6, 4), (2, 6, 4), (6, 2, 2, 3), ()])
def test_xs_of_another_shape(problem, shape):
    wrong = problem._replace(xs=jnp.zeros(shape), state0=None)
    message = refused(
        ShapeError, r"expected xs \[T, 3\] or \[T, B, 3\], got", lambda: measure(wrong)
    )
    assert str(list(shape)) in message


def test_xs_without_steps(problem):
    wrong = problem._replace(xs=problem.xs[:0])
    refused(ShapeError, r"at least one time step, got \[0, 3\]", lambda: measure(wrong))
    for xs in (jnp.zeros((0, 1)), jnp.zeros(()), None):
        refused(
            ShapeError,
            "leading time axis of at least one step",
            lambda xs=xs: jacobian_norms(halve, None, jnp.ones(2), xs),
        )


def test_sequences_of_different_lengths():
    xs = {"a": jnp.zeros((6, 1)), "b": jnp.zeros((5, 1))}
    refused(ShapeError, "one leading time axis", lambda: measure_step(halve, jnp.ones(2), xs))


def test_xs_of_another_dtype(problem):
    wrong = problem._replace(xs=problem.xs.astype(jnp.bfloat16))
    refused(DtypeError, "expected xs float32.*got bfloat16", lambda: measure(wrong))
    wrong = problem._replace(xs=problem.xs.astype(jnp.int32))
    refused(DtypeError, "expected xs float32.*got int32", lambda: measure(wrong))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision(dtype):
    expected = f"all float32 or all float64, got {jnp.dtype(dtype).name}"
    wrong = random_problem("gru", 6, dtype=dtype)
    refused(DtypeError, expected, lambda: measure(wrong))
    refused(DtypeError, expected, lambda: measure_step(halve, jnp.ones(2, dtype)))


def test_a_state_without_one_floating_dtype(x64):
    mixed = {"a": jnp.ones(2, jnp.float32), "b": jnp.ones(2, jnp.float64)}
    refused(DtypeError, "got float32, float64", lambda: measure_step(halve, mixed))

    def count(params, state, x):
        return state + 1, None

    refused(DtypeError, "got none", lambda: measure_step(count, jnp.zeros(2, jnp.int32)))
    refused(DtypeError, "got complex128", lambda: measure_step(halve, jnp.ones(2, jnp.complex128)))


def test_params_and_states_of_another_cell(problem):
    other = random_problem("gru", 6)
    refused(
        TypeError, "expected lstm params", lambda: measure(problem._replace(params=other.params))
    )
    refused(TypeError, "expected state0", lambda: measure(problem._replace(state0=other.state0)))


# Batches.


def test_a_batch_that_is_none(problem, batch):
    refused(
        ShapeError,
        "expected xs of rank 3 with batched=True, got rank 2",
        lambda: measure(problem, batched=True),
    )
    refused(
        ShapeError,
        "expected xs of rank 2 with batched=False, got rank 3",
        lambda: measure(batch, batched=False),
    )
    refused(
        ShapeError,
        "and then one batch axis",
        lambda: measure_step(halve, jnp.ones((3, 2)), jnp.zeros(6), batched=True),
    )


@pytest.mark.parametrize("shape", [(), (2,), (4, 2)])
def test_states_that_do_not_match_the_batch(shape):
    refused(
        ShapeError,
        "expected state0 with one leading batch axis of 3",
        lambda: measure_step(halve, jnp.ones(shape), jnp.zeros((6, 3, 1)), batched=True),
    )


def test_a_cells_states_that_do_not_match_the_batch(problem, batch):
    wrong = batch._replace(state0=problem.state0)
    refused(ShapeError, r"expected state0.h \[2, 5\]", lambda: measure(wrong))


# Steps.


def test_a_step_without_a_starting_state():
    refused(TypeError, "expected a starting state.*got None", lambda: measure_step(halve, None))


def test_a_step_that_changes_its_state():
    state0 = {"a": jnp.ones(2), "n": jnp.asarray(0)}

    def longer(params, state, x):
        return {"a": jnp.ones(3), "n": state["n"]}, None

    def other_dtype(params, state, x):
        return {"a": state["a"], "n": state["a"][0]}, None

    def other_structure(params, state, x):
        return (state["a"], state["n"]), None

    match = r"expected the step to keep state.a as float32\[2\], got float32\[3\]"
    refused(ShapeError, match, lambda: measure_step(longer, state0))
    match = r"expected the step to keep state.n as int32\[\], got float32\[\]"
    refused(ShapeError, match, lambda: measure_step(other_dtype, state0))
    refused(TypeError, "the state after a step", lambda: measure_step(other_structure, state0))


@pytest.mark.parametrize(
    "step",
    [lambda p, s, x: s, lambda p, s, x: (s, s, s), lambda p, s, x: [s, s]],
    ids=["state", "triple", "list"],
)
def test_a_step_that_does_not_return_a_pair(step):
    refused(
        TypeError,
        r"expected step to return \(state, out\)",
        lambda: measure_step(step, jnp.ones(2)),
    )


# Values that are not finite.


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_xs_that_are_not_finite(problem, batch, bad):
    what = "NaN" if np.isnan(bad) else "an infinity"
    match = f"expected finite xs, got {what} first at step 4 of 6"
    wrong = problem._replace(xs=problem.xs.at[3, 1].set(bad).at[5, 0].set(bad))
    refused(NonFiniteError, match, lambda: measure(wrong))
    wrong = batch._replace(xs=batch.xs.at[3, 1, 1].set(bad).at[4, 0, 0].set(bad))
    refused(NonFiniteError, match, lambda: measure(wrong))
    xs = jnp.zeros((6, 1)).at[3].set(bad)
    refused(NonFiniteError, match, lambda: measure_step(halve, jnp.ones(2), xs))


def test_params_and_states_that_are_not_finite(problem):
    params = problem.params._replace(w_h=problem.params.w_h.at[2, 3].set(jnp.nan))
    match = r"expected finite params.w_h, got NaN at index \[2, 3\]"
    refused(NonFiniteError, match, lambda: measure(problem._replace(params=params)))
    state0 = problem.state0._replace(c=problem.state0.c.at[1].set(jnp.inf))
    match = r"expected finite state0.c, got an infinity at index \[1\]"
    refused(NonFiniteError, match, lambda: measure(problem._replace(state0=state0)))


def test_states_that_overflow_name_their_step():
    """From 1, times 1e10 a step: 1e30 after three steps, beyond float32 after four."""
    cell = lstm_jax.rnn(1, 2, activation="identity")
    params = cell.init(jax.random.key(0))
    params = params._replace(w_h=1e10 * jnp.eye(2))
    state0 = type(cell.initial_state())(jnp.ones(2))
    match = r"expected finite states.h, got an infinity first at step 4 of 9"
    xs = jnp.zeros((9, 1))
    refused(NonFiniteError, match, lambda: jacobian_norms(cell, params, state0, xs))
    refused(NonFiniteError, match, lambda: all_pairs_norms(cell, params, state0, xs))
    several = type(state0)(jnp.stack([1e-30 * jnp.ones(2), jnp.ones(2)]))
    xs = jnp.zeros((9, 2, 1))
    refused(NonFiniteError, match, lambda: jacobian_norms(cell, params, several, xs))


def test_a_steps_states_that_become_nan_name_their_step():
    def step(params, state, x):
        return {"a": jnp.log(state["a"] - 1.0)[:], "b": state["b"]}, None

    # 5 → log 4 → log 0.386 < 0 → NaN at step 3.
    state0 = {"a": jnp.full(2, 5.0), "b": jnp.zeros(1)}
    refused(
        NonFiniteError,
        "expected finite states.a, got NaN first at step 3 of 6",
        lambda: measure_step(step, state0),
    )
