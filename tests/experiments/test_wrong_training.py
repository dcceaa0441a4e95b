"""Wrong gradients that are trained with: each is the published derivation's, term by term, and no other."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments.derivation_audit import exercises, plain_lstm, recursion, word_level, words
from experiments.derivation_audit.wrong_training import (
    FAULTS,
    QUICK_SETTINGS,
    through,
    wrong_step,
    wrong_table,
    wrong_trainings,
)

from lstm_jax import LSTMParams, LSTMState, bptt, lstm

PUBLISHED = {
    "none": recursion.corrected,
    "not along the memory": recursion.published,
    "both of derivation 3": word_level.published,
    "tanh' of tanh": word_level.without_the_sigmoid,
    "sigmoid on softmax": word_level.without_the_second_tanh,
}


def stacked(weights):
    """The gates' leaves as one `LSTMParams`; per-step contributions are summed up."""
    gates = (weights.i, weights.f, weights.g, weights.o)
    return LSTMParams(*(jnp.concatenate([np.asarray(g[n]) for g in gates], -1) for n in range(3)))


def summed(contributions):
    return jax.tree.map(lambda a: np.asarray(a).sum(0), contributions)


def gradients(fault, params, state0, xs, loss):
    """By autodiff of the step with the fault."""

    def total(net, v, b_y):
        def step(state, x):
            return wrong_step(net, state, x, fault=fault)

        _, hs = jax.lax.scan(step, state0, xs["x"])
        return loss(hs, v, b_y)

    return jax.grad(total, (0, 1, 2))(stacked(params), params.v, params.b_y)


@pytest.mark.parametrize("fault", PUBLISHED)
def test_the_gradient_is_that_of_the_published_derivation(x64, fault):
    params, state0, xs = plain_lstm.problem(3, 7, 5, classes=4, every=True)

    def loss(hs, v, b_y):
        logits = through(fault)(hs @ v + b_y[None, None])
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), xs["y"][..., None], -1).sum()

    d_net, d_v, d_b = gradients(fault, params, state0, xs, loss)
    expected = summed(PUBLISHED[fault](params, state0, xs))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
        (d_net, d_v, d_b),
        (stacked(expected), expected.v, expected.b_y),
    )
    if fault != "none":
        right = summed(recursion.corrected(params, state0, xs))
        assert np.abs(np.asarray(d_net.w_h) - np.asarray(stacked(right).w_h)).max() > 1e-4


@pytest.mark.parametrize(
    ("fault", "published"),
    [
        ("carries nothing", exercises.sequence_published),
        ("carries C alone", exercises.memory_alone),
        ("carries h alone", exercises.output_alone),
    ],
)
def test_what_is_not_carried(x64, fault, published):
    params, state0, xs = plain_lstm.problem(4, 6, 5, every=True)
    d_net, _, _ = gradients(fault, params, state0, xs, lambda hs, v, b: jnp.sum(hs * xs["r"]))
    expected = stacked(summed(published(params, state0, xs)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), d_net, expected
    )


def test_no_way_through_the_output_gate(x64):
    # Derivation 1's loss is on C_T, which no output is; the reverse recursion without that term, by hand.
    cell = lstm(3, 4)
    params = jax.tree.map(lambda a: a.astype(float), cell.init(jax.random.key(0)))
    xs = jax.random.normal(jax.random.key(1), (6, 2, 3), float)
    r = jax.random.normal(jax.random.key(2), (6, 2, 4), float)
    state0 = LSTMState(jnp.zeros((2, 4), float), jnp.zeros((2, 4), float))

    def total(net):
        def step(state, x):
            return wrong_step(net, state, x, fault="no way through o")

        return jnp.sum(jax.lax.scan(step, state0, xs)[1] * r)

    states, z, state = [], [], state0
    for x in xs:
        states.append(state)
        z.append(jnp.split(x @ params.w_x + state.h @ params.w_h + params.b[None], 4, -1))
        state = cell.step(params, state, x)[0]
    d_h = d_c = jnp.zeros((2, 4), float)
    d_w_h = jnp.zeros_like(params.w_h)
    for t in reversed(range(6)):
        i, f, o = (jax.nn.sigmoid(z[t][n]) for n in (0, 1, 3))
        g = jnp.tanh(z[t][2])
        c = f * states[t].c + i * g
        d_h = d_h + r[t]
        d_c = d_c + d_h * o * (1 - jnp.tanh(c) ** 2)
        d_z = (d_c * g * i * (1 - i), d_c * states[t].c * f * (1 - f), d_c * i * (1 - g**2))
        d_o = d_h * jnp.tanh(c) * o * (1 - o)
        d_w_h += states[t].h.T @ jnp.concatenate([*d_z, d_o], -1)
        d_h, d_c = jnp.concatenate(d_z, -1) @ params.w_h[:, :12].T, d_c * f
    found = jax.grad(total)(params).w_h
    np.testing.assert_allclose(found, d_w_h, rtol=1e-10, atol=1e-12)
    right = bptt(cell, params, xs, state0, d_hs=r).params.w_h
    assert np.abs(np.asarray(found) - np.asarray(right)).max() > 1e-4


def test_every_fault_leaves_the_forward_pass_alone(x64):
    cell = lstm(3, 4)
    params = jax.tree.map(lambda a: a.astype(float), cell.init(jax.random.key(0)))
    state = LSTMState(*jax.random.normal(jax.random.key(1), (2, 5, 4), float))
    x = jax.random.normal(jax.random.key(2), (5, 3), float)
    expected = cell.step(params, state, x)[0]
    for fault in FAULTS:
        found = wrong_step(params, state, x, fault=fault)[0]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_a_quick_training_with_every_fault():
    rows = wrong_trainings(QUICK_SETTINGS, 4)
    assert len(rows) == 2 * len(FAULTS) - 2
    for row in rows:
        assert ("cosine" in row) == (row["fault"] != "none")
    assert wrong_table(rows).count("\n") == len(rows) + 2


def test_windows_cover_the_text_once():
    codes = np.arange(20 * 41 + 1)
    found = words.windows(codes)
    assert found.shape == (2, 21, 20)
    # Each row goes on where its last window ended, and predicts what comes next.
    np.testing.assert_array_equal(found[1, 0], found[0, -1])
    np.testing.assert_array_equal(found[0, :, 3], codes[3 * 41 : 3 * 41 + 21])


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_a_quick_run_of_words(tmp_path, capsys):
    out = tmp_path / "out"
    assert words.main(["--quick", "--epochs", "1", "--seeds", "2", "--out", str(out)]) == 0
    rows = json.loads((out / "results.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["optimizer"], row["fault"]) for row in rows] == list(words.TRIALS)
    assert all(np.shape(row["perplexity"]) == (2, 1) for row in rows)
    assert words.tables(rows) in capsys.readouterr().out


def test_words_refuse_before_any_work(tmp_path, capsys):
    out = str(tmp_path / "out")
    assert words.main(["--quick", "--seeds", "0", "--out", out]) == 2
    assert words.main(["--data", str(tmp_path / "none"), "--out", out]) == 2
    errors = capsys.readouterr().err
    assert errors.count("error: ") == 2 and not (tmp_path / "out").exists()
