"""Lengths, resets and truncation against the same sequences one by one, piece by piece."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close, grouped, random_like, random_problem, slow

import lstm_jax
from lstm_jax.time_loop import step_masks

T, B = 9, 5
LENGTHS = (9, 4, 1, 0, 6)


def resets_of(rng, time=T, batch=B):
    return jnp.asarray(rng.random((time, batch)) < 0.25)


def alone(cell, params, xs, state, resets, reverse):
    """One sequence, step after step in Python: the plainest there is. Returns its final state and outputs."""
    steps = range(len(xs))
    outs = [None] * len(xs)
    for t in reversed(steps) if reverse else steps:
        if reverse:
            begins = t + 1 < len(xs) and resets[t + 1]
        else:
            begins = resets[t]
        if begins:
            state = jax.tree.map(jnp.zeros_like, state)
        state, outs[t] = cell.step(params, state, xs[t])
    return state, outs


def one_by_one(cell, params, xs, state0, *, lengths=LENGTHS, resets=None, reverse=False):
    """Every sequence without its padding, laid out as `unroll` lays it out."""
    states, columns = [], []
    for b, length in enumerate(lengths):
        one = jax.tree.map(lambda leaf, b=b: leaf[b], state0)
        begins = np.zeros(len(xs), bool) if resets is None else np.asarray(resets)[:, b]
        state, outs = alone(cell, params, xs[:length, b], one, begins, reverse)
        rest = [jnp.zeros_like(state0.h[b])] * (len(xs) - length)
        states.append(state)
        columns.append(jnp.stack([*outs, *rest]))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), jnp.stack(columns, axis=1)


def weighed(run, problem, weights):
    """Value and gradient of a loss that treats no number like another."""

    def loss(params, xs, state0):
        state, hs = run(problem.cell, params, xs, state0)
        terms = jax.tree.map(lambda w, a: jnp.sum(w * jnp.sin(a)), weights, (state, hs))
        return sum(jax.tree.leaves(terms)), (state, hs)

    arguments = (problem.params, problem.xs, problem.state0)
    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*arguments)


def problem_of(name):
    problem = random_problem(name, T, B)
    weights = random_like(np.random.default_rng(3), (problem.state0, problem.hs_weights))
    return problem, weights


def each_way(problem, weights, *, segments, **asked):
    """`weighed` of `unroll` by autodiff, by hand, and by hand in segments, in one program."""

    @jax.jit
    def runs():
        return [
            weighed(partial(lstm_jax.unroll, **grouped(**asked, **options)), problem, weights)
            for options in ({"gradient": "autodiff"}, {}, {"segments": segments})
        ]

    return runs()


@pytest.mark.parametrize(
    ("name", "reverse", "with_resets"),
    [
        ("lstm", True, True),
        slow("gru", False, True),
        slow("lstm", False, False),
        slow("lstm", False, True),
        slow("gru", True, False),
        slow("gru", True, True),
        slow("rnn_tanh", False, False),
        slow("rnn_tanh", True, True),
    ],
)
def test_a_padded_batch_is_its_sequences_one_by_one(x64, name, reverse, with_resets):
    problem, weights = problem_of(name)
    asked = {"reverse": reverse}
    if with_resets:
        asked["resets"] = resets_of(np.random.default_rng(1))
    expected = weighed(partial(one_by_one, **asked), problem, weights)
    lengths = jnp.array(LENGTHS)
    for ours in each_way(problem, weights, segments=3, lengths=lengths, **asked):
        assert_close(ours, expected, 1e-12)


@pytest.mark.parametrize(
    ("name", "reverse"),
    [("rnn_tanh", True), slow("rnn_tanh", False), slow("lstm", False), slow("gru", True)],
)
def test_resets_alone(x64, name, reverse):
    problem, weights = problem_of(name)
    asked = {"reverse": reverse, "resets": resets_of(np.random.default_rng(2))}
    expected = weighed(partial(one_by_one, lengths=(T,) * B, **asked), problem, weights)
    for ours in each_way(problem, weights, segments=2, **asked):
        assert_close(ours, expected, 1e-12)


@pytest.mark.parametrize(
    ("name", "reverse"), [("lstm", True), ("gru", False), slow("rnn_tanh", False)]
)
def test_what_the_padding_holds_changes_nothing(name, reverse):
    problem, weights = problem_of(name)
    lengths = jnp.array(LENGTHS)
    valid = np.arange(T)[:, None] < np.array(LENGTHS)

    @jax.jit
    def run(xs, resets):
        sequences = lstm_jax.Sequences(lengths=lengths, resets=resets, reverse=reverse)
        unroll = partial(lstm_jax.unroll, sequences=sequences)
        return weighed(unroll, problem._replace(xs=xs), weights)

    expected = jax.tree.leaves(run(problem.xs, np.zeros_like(valid)))
    for filling in (np.nan, np.inf, 1e30):
        filled = jnp.where(valid[..., None], problem.xs, filling)
        for ours, clean in zip(jax.tree.leaves(run(filled, ~valid)), expected, strict=True):
            np.testing.assert_array_equal(ours, clean)


def in_pieces(cell, params, xs, state, *, truncate, reverse=False, resets=None):
    """The pieces run one after another, the state between them a constant."""
    begins = list(range(0, len(xs), truncate))
    if reverse:  # counted from the end
        begins = [max(len(xs) - begin - truncate, 0) for begin in begins]
        ends = [len(xs), *begins[:-1]]
    else:
        ends = [*begins[1:], len(xs)]
    pieces = []
    for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if number:
            state = jax.lax.stop_gradient(state)
        part = slice(begin, end)
        state, hs = lstm_jax.unroll(
            cell,
            params,
            xs[part],
            state,
            sequences=lstm_jax.Sequences(reverse=reverse),
            gradient="autodiff",
        )
        pieces.append(hs)
    return state, jnp.concatenate(pieces[::-1] if reverse else pieces)


@pytest.mark.parametrize(
    ("name", "reverse", "truncate"),
    [
        ("lstm", True, 2),
        ("gru", False, 4),
        slow("rnn_tanh", True, 4),
        *(slow("lstm", False, truncate) for truncate in (1, 2, 4, T, 50)),
        slow("gru", True, 2),
    ],
)
def test_truncation_is_stop_gradient_between_pieces(x64, name, reverse, truncate):
    problem, weights = problem_of(name)
    asked = {"reverse": reverse, "truncate": truncate}
    sequences = lstm_jax.Sequences(reverse=reverse)

    @jax.jit
    def references():
        return [
            weighed(run, problem, weights)
            for run in (partial(in_pieces, **asked), partial(lstm_jax.unroll, sequences=sequences))
        ]

    expected, whole = references()
    for ours in each_way(problem, weights, segments=4, **asked):
        assert_close(ours, expected, 1e-12)
    differs = not np.allclose(whole[1][2].h, expected[1][2].h)
    assert differs == (truncate < T)


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_all_three_at_once_and_every_mode(x64, reverse):
    problem, _ = problem_of("lstm")
    asked = {
        "lengths": jnp.array(LENGTHS),
        "resets": resets_of(np.random.default_rng(4)),
        "truncate": 3,
        "reverse": reverse,
    }

    def modes(**options):
        def of_params(params):
            state, hs = lstm_jax.unroll(
                problem.cell, params, problem.xs, problem.state0, **grouped(**asked, **options)
            )
            return jnp.sum(jnp.sin(hs)) + jnp.sum(state.c**2)

        return (
            jax.hessian(of_params)(problem.params),
            jax.jacfwd(of_params)(problem.params),
            jax.vmap(jax.grad(of_params))(
                jax.tree.map(lambda p: jnp.stack([p, -p]), problem.params)
            ),
        )

    assert_close(*jax.jit(lambda: (modes(), modes(gradient="autodiff")))(), 1e-11)


def test_lengths_and_resets_may_be_mapped_and_traced():
    problem, _ = problem_of("gru")
    lengths, resets = jnp.array(LENGTHS), resets_of(np.random.default_rng(1))

    def one(x, state, length, reset):
        return lstm_jax.unroll(
            problem.cell,
            problem.params,
            x,
            state,
            sequences=lstm_jax.Sequences(lengths=length, resets=reset),
        )

    mapped = jax.jit(jax.vmap(one, in_axes=(1, 0, 0, 1), out_axes=(0, 1)))
    whole = lstm_jax.unroll(
        problem.cell,
        problem.params,
        problem.xs,
        problem.state0,
        sequences=lstm_jax.Sequences(lengths=lengths, resets=resets),
    )
    assert_close(mapped(problem.xs, problem.state0, lengths, resets), whole, 1e-6)


@pytest.mark.parametrize(
    ("gradient", "reverse"),
    [("bptt", True), slow("bptt", False), slow("autodiff", False), slow("autodiff", True)],
)
def test_lengths_alone_may_differ_between_devices(gradient, reverse):
    """JAX types what differs, and a loop's state has to from its start on; one device is enough to see it."""
    cell = lstm_jax.lstm(3, 4)
    params, xs, lengths = cell.init(jax.random.key(0)), jnp.ones((5, 2, 3)), jnp.array([2, 5])
    mesh = jax.make_mesh((1,), ("b",), axis_types=(jax.sharding.AxisType.Auto,))

    def total(params, lengths):
        _, hs = lstm_jax.unroll(
            cell,
            params,
            xs,
            **grouped(lengths=lengths, reverse=reverse, gradient=gradient),
        )
        return jnp.sum(jnp.sin(hs))

    def summed(params, lengths):
        return jax.lax.psum(total(params, lengths), "b")

    specs = (jax.P(), jax.P("b"))
    mapped = jax.shard_map(summed, mesh=mesh, in_specs=specs, out_specs=jax.P())
    found = jax.jit(jax.value_and_grad(mapped))(params, lengths)
    assert_close(found, jax.jit(jax.value_and_grad(total))(params, lengths), 1e-6)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_traced_lengths_beyond_the_sequence_mean_its_end(reverse):
    problem, _ = problem_of("gru")
    run = jax.jit(
        lambda lengths: lstm_jax.unroll(
            *problem[:4], sequences=lstm_jax.Sequences(lengths=lengths, reverse=reverse)
        )
    )
    beyond = jnp.array(LENGTHS).at[0].set(T + 3).at[3].set(-2)
    for ours, expected in zip(
        jax.tree.leaves(run(beyond)), jax.tree.leaves(run(jnp.array(LENGTHS))), strict=True
    ):
        np.testing.assert_array_equal(ours, expected)


def test_states_carried_across_calls_are_one_long_sequence(x64):
    problem, _ = problem_of("lstm")
    cell, params, xs, state0, *_ = problem
    lengths = jnp.array(LENGTHS)
    whole_state, whole = lstm_jax.unroll(
        cell, params, xs, state0, sequences=lstm_jax.Sequences(lengths=lengths)
    )
    state, pieces = state0, []
    for begin in range(0, T, 4):
        piece = xs[begin : begin + 4]
        left = jnp.clip(lengths - begin, 0, len(piece))
        state, hs = lstm_jax.unroll(
            cell, params, piece, state, sequences=lstm_jax.Sequences(lengths=left)
        )
        pieces.append(hs)
    assert_close((state, jnp.concatenate(pieces)), (whole_state, whole), 1e-14)


def test_turning_is_its_own_inverse():
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.standard_normal((T, B, 2)))
    lengths = jnp.array(LENGTHS, jnp.int32)
    once = step_masks.reverse_sequences(lengths, xs)
    for b, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(once[:length, b], xs[:length, b][::-1])
        np.testing.assert_array_equal(once[length:, b], xs[length:, b])
    np.testing.assert_array_equal(step_masks.reverse_sequences(lengths, once), xs)


BAD = {
    "a length beyond T": (
        {"lengths": jnp.array([1, 2, 3, 4, 10])},
        ValueError,
        "0 to 9, got 1 to 10",
    ),
    "a negative length": ({"lengths": jnp.array([1, -2, 3, 4, 5])}, ValueError, "-2 to 5"),
    "lengths of another batch": (
        {"lengths": jnp.array([1, 2])},
        ValueError,
        r"expected lengths \[5\]",
    ),
    "lengths that are no integers": (
        {"lengths": jnp.ones(5)},
        TypeError,
        "whole numbers, got float",
    ),
    "a mask for lengths": ({"lengths": jnp.ones((9, 5), bool)}, TypeError, "got bool"),
    "resets without a batch": ({"resets": jnp.ones(9, bool)}, ValueError, r"resets \[9, 5\]"),
    "resets with the batch first": (
        {"resets": jnp.ones((5, 9), bool)},
        ValueError,
        r"got \[5, 9\]",
    ),
    "resets that are no booleans": ({"resets": jnp.ones((9, 5))}, TypeError, "booleans, got float"),
    "a truncation to nothing": ({"truncate": 0}, ValueError, "truncate"),
}


@pytest.mark.parametrize(("options", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input(options, error, message):
    problem, _ = problem_of("lstm")
    with pytest.raises(error, match=message):
        lstm_jax.unroll(
            problem.cell, problem.params, problem.xs, problem.state0, **grouped(**options)
        )


@pytest.mark.parametrize("option", [{"lengths": 3}, {"resets": True}, {"truncate": 3}], ids=str)
def test_a_plain_step_has_none_of_it(option):
    problem, _ = problem_of("lstm")
    with pytest.raises(ValueError, match="got them with a plain step"):
        lstm_jax.unroll(
            problem.cell.step, problem.params, problem.xs, problem.state0, **grouped(**option)
        )
