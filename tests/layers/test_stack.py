"""Stacks against the same layers one by one, step by step; every gradient by hand against autodiff."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close, grouped, grouped_for_stack, random_like, slow

import lstm_jax
from lstm_jax import Both, backward, bidirectional, gru, lstm, rnn, stack, unroll_stack
from lstm_jax.backends.cpu_kernel import conditions, library

T, B = 6, 4
LENGTHS = (6, 3, 0, 1)
KEY = jax.random.key(5)
STACKS = {
    "sizes": stack(lstm(3, 5), gru(5, 2), rnn(2, 4)),
    "bidirectional": stack(bidirectional(lstm(3, 4), gru(3, 2)), bidirectional(rnn(6, 3))),
    "backward": stack(backward(lstm(3, 4)), backward(rnn(4, 4)), gru(4, 4), residual=True),
    "residual": stack(lstm(3, 4), lstm(4, 4), rnn(4, 4), residual=True, output_size=2),
    "learned": stack(bidirectional(gru(3, 4)), lstm(8, 2), learned_state=True, output_size=3),
}


def problem_of(net, batch=B, time=T, dtype=float):
    rng = np.random.default_rng(2)
    params = random_like(rng, jax.eval_shape(net.init, jax.random.key(0)), dtype, 0.5)
    batch_shape = () if batch is None else (batch,)
    xs = random_like(rng, jax.ShapeDtypeStruct((time, *batch_shape, net.input_size), float), dtype)
    state0 = random_like(rng, jax.eval_shape(lambda: net.initial_state(batch)), dtype)
    return params, xs, state0


def weighed(run, *arguments):
    """Value, gradient and outputs of a loss that treats no number like another."""

    def loss(*arguments):
        outputs = run(*arguments)
        weights = random_like(np.random.default_rng(8), outputs)
        terms = jax.tree.map(lambda w, a: jnp.sum(w * jnp.sin(a)), weights, outputs)
        return sum(jax.tree.leaves(terms)), outputs

    numbers = tuple(range(len(arguments)))
    return jax.value_and_grad(loss, argnums=numbers, has_aux=True)(*arguments)


def one_by_one(net, params, xs, state0, *, lengths):
    """Every sequence by itself, every layer by itself, every step in Python."""
    states, columns = [], []
    for b, length in enumerate(lengths):
        start = jax.tree.map(lambda leaf, b=b: leaf[b], state0)
        start = params.state0 if state0 is None else start
        ys = [xs[t, b] for t in range(length)]
        ends = []
        for number, (layer, own) in enumerate(zip(net.layers, params.layers, strict=True)):
            if isinstance(layer, lstm_jax.Cell):
                end, out = over_time(layer, own, start[number], ys)
            elif isinstance(layer, lstm_jax.Backward):
                end, out = over_time(layer.cell, own, start[number], ys[::-1])
                out = out[::-1]
            else:
                end_f, out_f = over_time(layer.forward, own.forward, start[number].forward, ys)
                end_b, out_b = over_time(
                    layer.backward, own.backward, start[number].backward, ys[::-1]
                )
                end = Both(end_f, end_b)
                out = [jnp.concatenate(pair) for pair in zip(out_f, out_b[::-1], strict=True)]
            if net.residual and number:
                out = [y + below for y, below in zip(out, ys, strict=True)]
            ys = out
            ends.append(end)
        if net.projected_size:
            ys = [y @ params.w_y + params.b_y for y in ys]
        padding = [jnp.zeros(net.output_size, xs.dtype)] * (T - length)
        states.append(tuple(ends))
        columns.append(jnp.stack([*ys, *padding]))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), jnp.stack(columns, axis=1)


def over_time(cell, params, state, xs):
    outs = []
    for x in xs:
        state, out = cell.step(params, state, x)
        outs.append(out)
    return state, outs


@pytest.mark.parametrize(
    ("name", "given"), [("learned", False), *(slow(name, True) for name in STACKS)]
)
def test_a_stack_is_its_layers_one_by_one(x64, name, given):
    net = STACKS[name]
    params, xs, state0 = problem_of(net)
    arguments = (params, xs, state0) if given else (params, xs)

    @jax.jit
    def both():
        def reference(params, xs, state0=None):
            return one_by_one(net, params, xs, state0, lengths=LENGTHS)

        run = partial(unroll_stack, net, sequences=lstm_jax.Sequences(lengths=jnp.array(LENGTHS)))
        return weighed(reference, *arguments), [
            weighed(partial(run, **grouped(**options)), *arguments)
            for options in ({}, {"gradient": "autodiff"}, {"segments": 2})
        ]

    expected, ours = both()
    for found in ours:
        assert_close(found, expected, 1e-12)


NOISE = stack(
    bidirectional(lstm(3, 2)),
    lstm(4, 4),
    lstm(4, 4),
    dropout=0.4,
    variational=True,
    zoneout=lstm_jax.LSTMState(h=0.1, c=0.4),
    recurrent_dropout=0.2,
    residual=True,
    learned_state=True,
    output_size=3,
)


@pytest.mark.slow
@pytest.mark.parametrize("key", [KEY, None], ids=["training", "evaluation"])
def test_everything_at_once_by_hand_and_by_autodiff(x64, key):
    params, xs, _ = problem_of(NOISE)
    asked = {"lengths": jnp.array(LENGTHS), "truncate": 4, "key": key}

    @jax.jit
    def both():
        return [
            weighed(
                partial(unroll_stack, NOISE, **grouped_for_stack(gradient=gradient, **asked)),
                params,
                xs,
            )
            for gradient in ("bptt", "autodiff")
        ]

    ours, expected = both()
    assert_close(ours, expected, 1e-12)
    assert all(float(abs(leaf).max()) > 0 for leaf in jax.tree.leaves(expected[1]))


@pytest.mark.parametrize("dtype", [slow(jnp.float32), jnp.bfloat16])
def test_dtype_follows_the_parameters(dtype):
    params = NOISE.init(KEY, dtype)
    xs = jnp.ones((T, 3), dtype)
    states, ys = unroll_stack(NOISE, params, xs, key=KEY)
    assert ys.shape == (T, 3)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, states, ys))} == {jnp.dtype(dtype)}


def test_padding_counts_for_nothing_under_a_projection():
    net = STACKS["learned"]
    params, xs, state0 = problem_of(net)
    valid = (np.arange(T)[:, None] < np.array(LENGTHS))[..., None]
    run = jax.jit(
        lambda xs: weighed(
            partial(unroll_stack, net, sequences=lstm_jax.Sequences(lengths=jnp.array(LENGTHS))),
            params,
            xs,
        )
    )
    filled, clean = run(jnp.where(valid, xs, np.nan)), run(xs)
    for ours, expected in zip(jax.tree.leaves(filled), jax.tree.leaves(clean), strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert not np.any(np.where(valid, 0, clean[0][1][1]))


def test_steps_are_the_unrolled_stack(x64):
    for net in (STACKS["sizes"], STACKS["residual"], stack(lstm(3, 4), lstm(4, 4), zoneout=0.3)):
        params, xs, states = problem_of(net, batch=None)
        expected = unroll_stack(net, params, xs, states)
        ys = []
        for x in xs:
            states, y = net.step(params, states, x)
            ys.append(y)
        assert_close((states, jnp.stack(ys)), expected, 1e-12)


def test_resets_and_carried_states(x64):
    net = STACKS["sizes"]
    params, xs, state0 = problem_of(net)
    whole = unroll_stack(net, params, xs, state0)
    middle, first = unroll_stack(net, params, xs[:2], state0)
    end, rest = unroll_stack(net, params, xs[2:], middle)
    assert_close((end, jnp.concatenate([first, rest])), whole, 1e-12)
    resets = jnp.zeros((T, B), bool).at[3].set(True)
    _, ys = unroll_stack(net, params, xs, state0, sequences=lstm_jax.Sequences(resets=resets))
    _, tail = unroll_stack(net, params, xs[3:])
    assert_close(ys, jnp.concatenate([whole[1][:3], tail]), 1e-12)


def test_dropout_acts_between_layers_only():
    params, xs, _ = problem_of(STACKS["sizes"])
    one = stack(lstm(3, 5), dropout=0.5)
    of_one = (lstm_jax.StackParams(params.layers[:1]), xs)
    assert_close(unroll_stack(one, *of_one, key=KEY), unroll_stack(one, *of_one), 0.0)
    two = stack(lstm(3, 5), gru(5, 2), dropout=0.5)
    params = lstm_jax.StackParams(params.layers[:2])
    (first, last), ys = unroll_stack(two, params, xs, key=KEY)
    (clean_first, _), clean = unroll_stack(two, params, xs)
    assert_close(first, clean_first, 0.0)
    assert not np.allclose(ys, clean)
    assert not np.allclose(ys, unroll_stack(two, params, xs, key=jax.random.key(6))[1])


def test_equal_stacks_are_equal_and_hashable():
    assert stack(lstm(3, 4), dropout=0.1) == stack(lstm(3, 4), dropout=0.1)
    assert hash(STACKS["learned"]) != hash(STACKS["sizes"])
    assert STACKS["bidirectional"].output_size == 6 and STACKS["learned"].output_size == 3


REFUSED = [
    (lambda: stack(), ValueError, "expected at least one layer, got none"),
    (lambda: stack(3), TypeError, "expected cells, bidirectional or backward layers"),
    (lambda: stack(lstm(3, 4), gru(3, 4)), ValueError, "layer 2 of input size 4, .* got 3"),
    (lambda: stack(lstm(3, 4), gru(4, 5), residual=True), ValueError, "layer 2 of equal input and"),
    (lambda: stack(lstm(3, 4), dropout=1.0), ValueError, "expected dropout from 0 to below 1"),
    (lambda: stack(lstm(3, 4), zoneout=2), ValueError, "expected zoneout of h from 0 to below 1"),
    (lambda: stack(gru(3, 4), recurrent_dropout=0.1), ValueError, "through W_h alone"),
    (lambda: stack(lstm(3, 4), output_size=0), ValueError, "expected output_size"),
    (lambda: stack(lstm(3, 4), residual="no"), ValueError, "expected residual as True or False"),
    (lambda: stack(lstm(3, 4), variational=1), ValueError, "expected variational as True or"),
    (lambda: stack(lstm(3, 4), learned_state="zeros"), ValueError, "expected learned_state as"),
    (lambda: backward(gru), TypeError, "expected a cell from lstm, gru or rnn, got function"),
    (lambda: bidirectional(3), TypeError, "expected a cell from lstm, gru or rnn, got int"),
    (lambda: bidirectional(lstm(3, 4), lstm(2, 4)), ValueError, "one input size, got 3 and 2"),
]


@pytest.mark.parametrize(("build", "error", "message"), REFUSED)
def test_what_does_not_fit_is_refused(without_type_checker, build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_arguments_that_do_not_fit_are_refused(without_type_checker):
    net = STACKS["learned"]
    params, xs, state0 = problem_of(net)
    with pytest.raises(ValueError, match="expected resets with a starting state of zeros"):
        unroll_stack(net, params, xs, sequences=lstm_jax.Sequences(resets=jnp.zeros((T, B), bool)))
    with pytest.raises(TypeError, match="expected stack params as"):
        unroll_stack(net, params._replace(state0=None), xs)
    with pytest.raises(
        lstm_jax.ShapeError, match=r"expected state0.0.forward.h \[4, 4\].*got \[4\]"
    ):
        unroll_stack(net, params, xs, net.initial_state())
    with pytest.raises(lstm_jax.ShapeError, match=r"expected xs \[T, 3\] or \[T, B, 3\]"):
        unroll_stack(net, params, xs[None])
    with pytest.raises(lstm_jax.DtypeError, match="expected xs float32"):
        unroll_stack(net, params, xs.astype(jnp.bfloat16))
    with pytest.raises(TypeError, match="expected xs as an array of JAX or NumPy, got list"):
        unroll_stack(net, params, xs.tolist())
    with pytest.raises(TypeError, match="got a Stack. Run a stack by unroll_stack"):
        lstm_jax.unroll(net, params, xs)
    with pytest.raises(ValueError, match="expected reverse as True or False, got 'no'"):
        unroll_stack(net, params, xs, sequences=lstm_jax.Sequences(reverse="no"))
    with pytest.raises(ValueError, match="expected sequences without reverse, got reverse=True"):
        unroll_stack(net, params, xs, sequences=lstm_jax.Sequences(reverse=True))
    with pytest.raises(TypeError, match=r"expected sequences as Sequences\(...\), got list"):
        unroll_stack(net, params, xs, sequences=[3, 2, 1, 1])
    with pytest.raises(TypeError, match="expected a stack, got Cell"):
        unroll_stack(net.layers[1], params, xs)
    with pytest.raises(TypeError, match="step by step, got a bidirectional layer 1"):
        net.step(params, state0, xs[0])
    net = stack(lstm(3, 4), backward(lstm(4, 4)))
    with pytest.raises(TypeError, match="step by step, got a backward layer 2"):
        net.step(*problem_of(net)[::2], net.initial_state())


@pytest.mark.skipif(not library.status().available, reason="no kernel")
@pytest.mark.parametrize("batch", [None, 1])
def test_both_directions_of_one_sequence_are_one_call(x64, monkeypatch, batch):
    """On two cores each takes a direction; with as many rows as cores each direction takes all cores."""
    monkeypatch.setattr(conditions, "most_threads", lambda: 2)
    net = stack(bidirectional(lstm(3, 4)), bidirectional(lstm(8, 2)))
    arguments = problem_of(net, batch, time=16)
    run = jax.jit(
        lambda *a, b: weighed(partial(unroll_stack, net, backend=b), *a), static_argnames="b"
    )
    text = run.lower(*arguments, b="auto").as_text()
    assert text.count("custom_call @lstm_jax_backward") == 2  # One for each layer.
    assert_close(run(*arguments, b="auto"), run(*arguments, b="loop"), 1e-12)
    more = run.lower(*problem_of(net, 2, time=16), b="auto").as_text()
    assert more.count("custom_call @lstm_jax_backward") == 4
    # Where the loop runs it stays two loops, or of sizes that are not known one for each.
    few = jax.jit(partial(unroll_stack, net)).lower(*problem_of(net, batch, time=6)).as_text()
    assert few.count("stablehlo.while") == 4


def test_both_directions_of_unknown_sizes_are_exported(without_type_checker):
    net = stack(bidirectional(lstm(3, 4)))
    params, xs, _ = problem_of(net, 2, time=16, dtype=np.float32)
    shape = jax.export.symbolic_shape("time, batch")
    run = jax.jit(lambda params, xs: unroll_stack(net, params, xs)[1])
    exported = jax.export.export(run)(params, jax.ShapeDtypeStruct((*shape, 3), np.float32))
    assert_close(exported.call(params, xs), run(params, xs), 1e-5)
