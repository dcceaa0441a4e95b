"""Zoneout and recurrent dropout against a loop in Python over the same masks; dropout of a sequence."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close, grouped, random_like, random_problem, slow

import lstm_jax
from lstm_jax.dropout import dropout, zoneout_masks, zoneout_rates
from lstm_jax.time_loop.step_masks import Noise, noise_masks

T, B = 5, 4
KEY = jax.random.key(7)
LENGTHS = (5, 3, 0, 2)
NOISES = {
    "zoneout": {"zoneout": 0.4, "key": KEY},
    "expected zoneout": {"zoneout": 0.4},
    "recurrent dropout": {"recurrent_dropout": 0.3, "key": KEY},
    "both": {"zoneout": 0.2, "recurrent_dropout": 0.3, "key": KEY},
}


def noise_of(name, cell):
    noise = dict(NOISES[name])
    if cell.name == "gru":
        noise.pop("recurrent_dropout", None)
    return noise


def by_loop(noise, lengths, reverse, cell, params, xs, state):
    """The definitions, a step at a time, with the masks that `unroll` draws."""
    held, factor = noise_masks(cell, Noise(**noise), state, T)
    outs = [None] * T
    for t in reversed(range(T)) if reverse else range(T):
        seen = state if factor is None else state._replace(h=factor[t] * state.h)
        after, _ = cell.step(params, seen, xs[t])
        if held is not None:
            kept = [leaf[t].astype(xs.dtype) for leaf in held]
            after = type(state)(
                *(k * old + (1 - k) * new for k, old, new in zip(kept, state, after, strict=True))
            )
        if lengths is not None:
            valid = (t < jnp.array(lengths))[:, None]
            after = jax.tree.map(lambda a, b, m=valid: jnp.where(m, a, b), after, state)
            outs[t] = jnp.where(valid, after.h, jnp.zeros_like(after.h))
        else:
            outs[t] = after.h
        state = after
    return state, jnp.stack(outs)


def weighed(run, problem):
    weights = random_like(np.random.default_rng(3), (problem.state0, problem.hs_weights))

    def loss(params, xs, state0):
        outputs = run(problem.cell, params, xs, state0)
        terms = jax.tree.map(lambda w, a: jnp.sum(w * jnp.sin(a)), weights, outputs)
        return sum(jax.tree.leaves(terms)), outputs

    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(
        problem.params, problem.xs, problem.state0
    )


# The noise meets a cell in its step's state alone, so that not every cell has to meet all of it.
@pytest.mark.parametrize(
    ("name", "noise", "reverse", "lengths"),
    [
        ("lstm", "both", False, LENGTHS),
        slow("lstm", "zoneout", True, None),
        slow("lstm", "expected zoneout", False, LENGTHS),
        slow("lstm", "recurrent dropout", True, None),
        slow("gru", "zoneout", False, LENGTHS),
        slow("gru", "expected zoneout", True, None),
        slow("rnn_tanh", "both", True, None),
    ],
)
def test_noise_is_its_definition_step_by_step(x64, name, noise, reverse, lengths):
    problem = random_problem(name, T, B)
    noise = noise_of(noise, problem.cell)
    asked = {"reverse": reverse, "lengths": None if lengths is None else jnp.array(lengths)}

    @jax.jit
    def both():
        expected = weighed(partial(by_loop, noise, lengths, reverse), problem)
        return expected, [
            weighed(partial(lstm_jax.unroll, **grouped(**noise, **asked, **options)), problem)
            for options in ({}, {"gradient": "autodiff"}, {"segments": 3})
        ]

    expected, ours = both()
    for found in ours:
        assert_close(found, expected, 1e-12)


@pytest.mark.slow
def test_every_mode_under_everything_at_once(x64):
    problem = random_problem("lstm", T, B)
    asked = {
        "lengths": jnp.array(LENGTHS),
        "resets": jnp.asarray(np.random.default_rng(4).random((T, B)) < 0.3),
        "truncate": 3,
        "reverse": True,
        "zoneout": lstm_jax.LSTMState(h=0.1, c=0.5),
        "recurrent_dropout": 0.25,
        "key": KEY,
    }

    def modes(**options):
        def of_params(params):
            state, hs = lstm_jax.unroll(
                problem.cell, params, problem.xs, problem.state0, **grouped(**asked, **options)
            )
            return jnp.sum(jnp.sin(hs)) + jnp.sum(state.c**2)

        return jax.hessian(of_params)(problem.params), jax.jacfwd(of_params)(problem.params)

    assert_close(jax.jit(modes)(), jax.jit(partial(modes, gradient="autodiff"))(), 1e-11)


def test_without_rates_and_without_a_key_nothing_happens():
    problem = random_problem("lstm", T, B)
    plain = lstm_jax.unroll(problem.cell, *problem.inputs)
    run = partial(lstm_jax.unroll, problem.cell, *problem.inputs)
    for noise in ({"key": KEY}, {"recurrent_dropout": 0.5}, {"zoneout": 0.0, "key": KEY}):
        assert_close(run(noise=Noise(**noise)), plain, 0.0)
    noise = Noise(recurrent_dropout=0.5, key=KEY)
    assert not np.allclose(run(noise=noise)[1], plain[1])


def test_masks_have_their_rates_and_differ_between_samples_units_steps_and_leaves():
    state = lstm_jax.LSTMState(jnp.zeros((20, 30)), jnp.zeros((20, 30)))
    held = zoneout_masks(KEY, zoneout_rates(lstm_jax.LSTMState(0.1, 0.6), state), state, 50)
    assert held.h.shape == (50, 20, 30)
    assert abs(held.h.mean() - 0.1) < 0.01 and abs(held.c.mean() - 0.6) < 0.01
    for axis in range(3):
        assert 0 < float(jnp.std(held.c.astype(float), axis=axis).min())
    _, factor = noise_masks(lstm_jax.lstm(3, 30), Noise(0.0, 0.25, KEY), state, 50)
    np.testing.assert_array_equal(factor, np.broadcast_to(factor[0], factor.shape))
    assert abs(float((factor[0] == 0).mean()) - 0.25) < 0.06
    assert abs(float(factor.max()) - 4 / 3) < 1e-6


@pytest.mark.parametrize("variational", [False, True])
def test_dropout_keeps_the_mean(variational):
    xs = jnp.ones((400, 3, 50))
    ys = dropout(KEY, 0.2, xs, variational=variational)
    assert abs(float(ys.mean()) - 1) < 0.1
    assert set(np.unique(ys)) == {0.0, np.float32(1.25)}
    assert bool((ys[1:] == ys[:-1]).all()) == variational
    assert dropout(KEY, 0.0, xs) is xs


def test_refusals(without_type_checker):
    problem = random_problem("gru", T, B)

    def run(**noise):
        return lstm_jax.unroll(problem.cell, *problem.inputs, noise=Noise(**noise))

    with pytest.raises(ValueError, match="expected zoneout of h from 0 to below 1, got 1"):
        run(zoneout=1.0)
    with pytest.raises(ValueError, match="expected recurrent_dropout from 0 to below 1, got -0.1"):
        run(recurrent_dropout=-0.1)
    with pytest.raises(ValueError, match="through W_h alone .rnn, lstm., got gru"):
        run(recurrent_dropout=0.1)
    with pytest.raises(TypeError, match="expected zoneout as .*GRUState.*got .*LSTMState"):
        run(zoneout=lstm_jax.LSTMState(0.1, 0.2))
    with pytest.raises(TypeError, match="expected one key"):
        run(zoneout=0.1, key=3)
    with pytest.raises(TypeError, match="expected one key"):
        dropout(None, 0.1, problem.xs)
    with pytest.raises(TypeError, match=r"expected noise as Noise\(...\), got float"):
        lstm_jax.unroll(problem.cell, *problem.inputs, noise=0.1)
    with pytest.raises(ValueError, match="expected lengths, .*mask and noise with a cell"):
        lstm_jax.unroll(problem.cell.step, *problem.inputs, noise=lstm_jax.Noise(zoneout=0.1))


def test_zoneout_without_a_key_keeps_each_units_share(x64):
    """s_t = k s_{t−1} + (1 − k) s̃_t, a rate for each part of the state."""
    cell, params, xs, state, *_ = random_problem("lstm", 3, 2)
    noise = Noise(zoneout=lstm_jax.LSTMState(h=0.1, c=0.7))
    end, hs = lstm_jax.unroll(cell, params, xs, state, noise=noise)
    for t in range(3):
        after, _ = cell.step(params, state, xs[t])
        state = lstm_jax.LSTMState(
            0.1 * state.h + 0.9 * after.h, 0.7 * state.c + (1 - 0.7) * after.c
        )
        assert_close(hs[t], state.h, 1e-12)
    assert_close(end, state, 1e-12)
