"""Networks with a known illness, and the words for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax
from gradient_flow import diagnose

XS = jax.random.normal(jax.random.key(1), (60, 3, 2))


def names(findings):
    return [finding.name for finding in findings]


def find(findings, name, **numbers):
    (one,) = [
        f
        for f in findings
        if f.name == name and all(f.numbers[key] == value for key, value in numbers.items())
    ]
    return one


@pytest.mark.slow
def test_an_lstm_without_a_bias_vanishes_and_the_advice_helps():
    cell = lstm_jax.lstm(2, 12, forget_bias=0.0)
    found = diagnose(cell, cell.init(jax.random.key(0)), None, XS)
    assert found.verdict == "vanishing" and found.lag == 60
    assert 5 < found.horizon < 30
    of_gates = find(found.findings, "time_constants").numbers
    assert of_gates["enough"] == 0 and of_gates["needed"] == pytest.approx(60 / np.log(1000))
    assert of_gates["longest"] < of_gates["needed"]
    assert names(found.advice) == ["forget_bias", "chrono"]
    for advice in found.advice:
        assert advice.numbers["horizon"] > 2 * found.horizon
        assert advice.numbers["horizon_before"] == found.horizon
    text = str(found)
    assert text.startswith("Verdict: vanishing, for a lag of 60 steps.")
    assert "What would change it:" in text and "a lag of 60 needs 8.69" in text
    # What is advised, done by hand, is no longer called vanishing.
    cured = lstm_jax.lstm(2, 12, forget_bias=lstm_jax.chrono(60))
    again = diagnose(cured, cured.init(jax.random.key(0)), None, XS)
    assert again.verdict == "steady" and np.isinf(again.horizon) and again.advice == ()


def test_a_network_that_explodes():
    cell = lstm_jax.rnn(2, 8, activation="identity", w_h_init=lstm_jax.scaled_identity(1.5))
    found = diagnose(cell, cell.init(jax.random.key(0)), None, XS)
    assert found.verdict == "exploding" and names(found.advice) == ["clipping", "orthogonal"]
    clipping, orthogonal = found.advice
    assert 0 < clipping.numbers["median"] <= clipping.numbers["largest"]
    assert orthogonal.numbers["log10_norm"] < 1
    reach = find(found.findings, "horizon").numbers
    assert reach["log10_norm"] == pytest.approx(60 * np.log10(1.5), rel=0.1)
    assert reach["decades_per_100"] < 0


@pytest.mark.slow
def test_the_norm_to_clip_at_is_the_median_of_the_samples():
    cell = lstm_jax.rnn(2, 4, activation="identity", w_h_init=lstm_jax.scaled_identity(1.2))
    params = cell.init(jax.random.key(0))

    def loss(state):
        return 3 * state.h.sum()

    found = diagnose(cell, params, None, XS, loss=loss)
    expected = []
    for n in range(3):
        gradient = jax.jit(jax.grad(lambda p, n=n: loss(lstm_jax.unroll(cell, p, XS[:, n])[0])))(
            params
        )
        leaves = [np.asarray(leaf, np.float64) for leaf in gradient]
        expected.append(np.sqrt(sum((leaf**2).sum() for leaf in leaves)))
    assert found.advice[0].numbers["median"] == pytest.approx(np.median(expected), rel=1e-4)
    assert found.advice[0].numbers["largest"] == pytest.approx(max(expected), rel=1e-4)


@pytest.mark.slow
def test_saturated_gates_and_dead_units_are_named():
    cell = lstm_jax.lstm(2, 6)
    params = cell.init(jax.random.key(0))
    b = params.b.at[jnp.asarray([1, 4])].set(-30.0)  # i of units 1 and 4: closed
    b = b.at[6 + 2].set(30.0).at[18 + 5].set(-30.0)  # f of unit 2: open; o of unit 5: closed
    found = diagnose(cell, params._replace(b=b), None, XS[:, 0])
    closed = find(found.findings, "saturated", gate="i", end="closed")
    assert closed.numbers["units"] == [1, 4] and "2 of 6 units (1, 4)" in closed.says
    assert find(found.findings, "saturated", gate="f", end="open").numbers["units"] == [2]
    assert find(found.findings, "saturated", gate="o", end="closed").numbers["units"] == [5]
    # With i closed nothing comes in, with o closed nothing goes out.
    assert find(found.findings, "dead").numbers["units"] == [1, 4, 5]


@pytest.mark.slow
def test_chaos_and_calm():
    for gain, name in ((3.0, "chaotic"), (0.3, "stable")):
        cell = lstm_jax.rnn(2, 32)
        params = cell.init(jax.random.key(0))
        w_h = gain * jax.random.normal(jax.random.key(2), (32, 32)) / 32**0.5
        params = params._replace(w_h=w_h, w_x=0.01 * params.w_x)
        found = find(diagnose(cell, params, None, XS).findings, name)
        assert (found.numbers["lambda_1"] > 0) == (name == "chaotic")


@pytest.mark.slow
def test_a_network_without_recurrence():
    cell = lstm_jax.rnn(2, 4)
    params = cell.init(jax.random.key(0))
    found = diagnose(cell, params._replace(w_h=jnp.zeros((4, 4))), None, XS)
    assert found.verdict == "no recurrence" and found.horizon == 0 and found.advice == ()


def test_a_plain_step_and_a_lag_of_its_own():
    def step(params, state, x):
        return params * state + x, state

    found = diagnose(step, jnp.float32(0.5), jnp.zeros(2), XS[:, 0], lag=40)
    assert found.verdict == "vanishing" and found.lag == 40 and found.advice == ()
    assert found.horizon == pytest.approx(np.log(1000) / np.log(2), rel=1e-3)
    assert names(found.findings) == ["horizon", "stable"]


def test_refusals(without_type_checker):
    cell = lstm_jax.gru(2, 4)
    params = cell.init(jax.random.key(0))
    with pytest.raises(ValueError, match="expected lag from 1 to 60, got 61"):
        diagnose(cell, params, None, XS, lag=61)
    with pytest.raises(ValueError, match="first at step 3 of 60"):
        diagnose(cell, params, None, XS.at[2].set(jnp.nan))
