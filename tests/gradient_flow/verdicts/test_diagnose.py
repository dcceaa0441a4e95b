"""Networks with a known illness, and the words for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ill_networks import (
    BOTH,
    ILL,
    LINEAR,
    LSTM,
    ROTATION,
    TANH,
    TWO,
    WIDE,
    XS,
    exploding_lstm,
    lstm,
    rnn,
    two,
    upper,
)

import lstm_jax
from gradient_flow import diagnose, jacobian_norms
from lstm_jax.validation import NonFiniteError

# Of one cell and one length, so that they share their programs.
QUICK = {
    "no forget bias",
    "a memory that counts up",
    "a closed output gate",
    "a closed input gate, memory open",
    "inputs near 1000",
}


def names(findings):
    return [finding.name for finding in findings]


def find(findings, name, **numbers):
    (one,) = [
        f
        for f in findings
        if f.name == name and all(f.numbers[key] == value for key, value in numbers.items())
    ]
    return one


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in ILL]
)
def test_what_is_said_of_an_illness(name):
    ill = ILL[name]
    found = diagnose(ill.network, ill.params, None, ill.xs, **ill.options)
    text = str(found)
    assert found.verdict == ill.verdict and text.startswith(f"Verdict: {ill.verdict}, for a lag of")
    assert [phrase for phrase in ill.says if phrase not in text] == []
    assert [phrase for phrase in ill.never if phrase in text] == []
    # What stands under advice has helped: as the parameters are, no advice is as good as before.
    for one in found.advice:
        if "horizon_before" not in one.numbers:
            continue
        new, old = one.numbers["horizon"], one.numbers["horizon_before"]
        less = abs(one.numbers["log10_norm"]) < abs(one.numbers["log10_norm_before"])
        shut = one.numbers["shut"] < one.numbers["shut_before"]
        assert new >= 1.2 * old or less or shut
        assert one.numbers["verdict"] != "exploding" or found.verdict == "exploding"


@pytest.mark.slow
def test_the_verdict_follows_h_and_not_what_only_the_memory_carries():
    params = ILL["a memory that counts up"].params
    found = diagnose(LSTM, params, None, XS)
    flow = jacobian_norms(LSTM, params, None, XS, lags=[10, 40], norms=["spectral"])
    of_h = np.median(np.maximum(flow.spectral["hh"], flow.spectral["hc"]), axis=0)
    reach = find(found.findings, "horizon").numbers
    assert reach["log10_norm"] == pytest.approx(of_h[1] / np.log(10), rel=1e-5)
    assert of_h[0] < -7 * np.log(10)
    reserve = find(found.findings, "reserve").numbers
    assert reserve["block"] == "cc" and np.isinf(reserve["horizon"])
    assert reserve["log10_norm"] == pytest.approx(
        np.median(flow.spectral["cc"], axis=0)[1] / np.log(10), rel=1e-4
    )
    memory = find(found.findings, "memory").numbers
    cs = np.asarray(jax.jit(lambda: states(params))())
    assert memory["share"] == pytest.approx((np.tanh(abs(cs)) > 0.95**0.5).mean())
    assert memory["largest"] == pytest.approx(abs(cs).max())


def states(params):
    def keep(state, x):
        after, _ = LSTM.step(params, state, x)
        return after, after.c

    return jax.lax.scan(keep, LSTM.initial_state(XS.shape[1]), XS)[1]


def test_an_lstm_without_a_bias_vanishes_and_the_advice_helps():
    found = diagnose(LSTM, lstm(f=0.0), None, XS)
    assert found.verdict == "vanishing" and found.lag == 40
    assert 5 < found.horizon < 30
    of_gates = find(found.findings, "time_constants").numbers
    assert of_gates["enough"] == 0 and of_gates["needed"] == pytest.approx(40 / np.log(1000))
    assert of_gates["longest"] < of_gates["needed"]
    assert sorted(names(found.advice)) == ["chrono", "forget_bias"]
    for advice in found.advice:
        assert advice.numbers["horizon"] > 2 * found.horizon
        assert advice.numbers["horizon_before"] == found.horizon
    text = str(found)
    assert text.startswith("Verdict: vanishing, for a lag of 40 steps.\n")
    assert (
        "What would change it:" in text
        and "a thousandth over 40 steps by itself takes 5.79" in text
    )
    # What is advised, done by hand, is no longer called vanishing.
    constant = float(np.log(1 / (1000 ** (1 / 40) - 1)))
    again = diagnose(LSTM, lstm(f=constant), None, XS)
    assert again.verdict == "steady" and np.isinf(again.horizon) and again.advice == ()
    assert again.headline == "steady, for a lag of 40 steps."


@pytest.mark.slow
def test_the_gradient_of_the_loss_that_is_given_decides():
    params = lstm(f=0.0)
    # A loss that reads the memory sees more of an LSTM whose output gate is closed.
    closed = lstm(f=6.0, o=-12.0)
    of_h = diagnose(LSTM, closed, None, XS, loss=lambda state: state.h.sum())
    of_c = diagnose(LSTM, closed, None, XS, loss=lambda state: state.c.sum())
    assert (of_h.verdict, of_c.verdict) == ("vanishing", "steady")
    assert find(of_c.findings, "horizon").numbers["reads"] == "the loss"

    def loss(state):
        return 3 * state.h[0]

    found = find(diagnose(LSTM, params, None, XS[:, 0], loss=loss).findings, "horizon").numbers

    def last(state):
        return loss(lstm_jax.unroll(LSTM, params, XS[:, 0], state, gradient="autodiff")[0])

    gradient = jax.jit(jax.grad(last))(LSTM.initial_state())
    size = np.sqrt(sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in gradient))
    assert found["log10_norm"] == pytest.approx(np.log10(size / 3), abs=1e-4)
    with pytest.raises(
        ValueError, match="expected a loss that reads the last state, got gradient 0"
    ):
        diagnose(LSTM, params, None, XS[:, 0], loss=lambda state: 0.0 * state.h.sum())


@pytest.mark.slow
def test_the_norm_to_clip_at_is_that_of_a_healthy_window():
    params = rnn(WIDE, gain=4.0, w_x=0.1)

    def loss(state):
        return 3 * state.h.sum()

    found = diagnose(WIDE, params, None, XS, loss=loss)
    clip = find(found.advice, "clipping")
    window = clip.numbers["window"]
    curve = jacobian_norms(WIDE, params, None, XS, norms=["spectral"]).spectral["hh"]
    assert 1 <= window < np.flatnonzero(np.median(curve, axis=0) > np.log(1000))[0]
    expected = []
    for n in range(XS.shape[1]):
        state, _ = lstm_jax.unroll(WIDE, params, XS[:-window, n])
        gradient = jax.grad(
            lambda p, n=n, s=state: loss(lstm_jax.unroll(WIDE, p, XS[-window:, n], s)[0])
        )(params)
        leaves = [np.asarray(leaf, np.float64) for leaf in gradient]
        expected.append(np.sqrt(sum((leaf**2).sum() for leaf in leaves)))
    # Two float32 runs of a chaotic network part.
    assert clip.numbers["norm"] == pytest.approx(np.median(expected), rel=2e-3)
    assert "the cause is the weights" in clip.says
    # A chaotic network works within its window.
    assert names(found.advice)[0] == "window" and names(found.advice)[-1] == "clipping"


@pytest.mark.slow
def test_saturated_gates_and_dead_units_are_named():
    params = lstm()
    b = params.b.at[jnp.asarray([1, 4])].set(-30.0)  # i of units 1 and 4: closed
    b = b.at[8 + 2].set(30.0).at[24 + 5].set(-30.0)  # f of unit 2: open; o of unit 5: closed
    found = diagnose(LSTM, params._replace(b=b), None, XS)
    closed = find(found.findings, "saturated", gate="i", end="closed")
    assert closed.numbers["units"] == [1, 4] and "2 of 8 units (1, 4)" in closed.says
    assert find(found.findings, "saturated", gate="f", end="open").numbers["units"] == [2]
    assert find(found.findings, "saturated", gate="o", end="closed").numbers["units"] == [5]
    # With i closed nothing comes in, with o closed nothing goes out.
    assert find(found.findings, "dead").numbers["units"] == [1, 4, 5]
    assert "3 of 8 units dead" in found.headline


@pytest.mark.parametrize(
    ("value", "error", "growth", "linear", "name"),
    [
        (-0.2, 0.05, 0.0, False, "forgets"),
        (0.0121, 0.02, 0.0, False, "neutral"),
        (-0.0121, 0.02, 0.0, False, "neutral"),
        (0.2, 0.05, 0.0, False, "chaotic"),
        (0.2, 0.05, 0.19, False, "grows"),
        (0.2, 0.05, 0.0, True, "grows"),
        (0.01, 0.001, 0.0, False, "neutral"),  # over 40 steps not even twofold
        (-0.2, np.nan, 0.0, False, "unknown"),
        (-np.inf, np.nan, 0.0, False, "forgets"),
    ],
)
def test_what_an_exponent_says(monkeypatch, value, error, growth, linear, name):
    from gradient_flow.verdicts import stability as room
    from gradient_flow.verdicts.reach import Case

    class Found:
        exponents, standard_error = np.asarray([value]), np.asarray([error])

    monkeypatch.setattr(room, "lyapunov_spectrum", lambda *a, **k: Found)
    monkeypatch.setattr(room, "_growth", lambda *a: growth)
    monkeypatch.setattr(room, "_is_linear", lambda *a: linear)
    found = room.stability(Case(LSTM, None, XS, 40, True), lstm())
    assert found.name == name
    assert ("It forgets" in found.says) == (name == "forgets")
    assert ("chaotic" in found.says) == (name == "chaotic")


@pytest.mark.slow
def test_a_step_is_linear_or_not():
    from gradient_flow.verdicts.reach import Case
    from gradient_flow.verdicts.stability import _growth, _is_linear

    state = TANH.initial_state(3)
    grown = rnn(LINEAR, w_h=1.5 * ROTATION)
    assert _is_linear(Case(LINEAR, state, XS, 40, True), grown)
    assert not _is_linear(Case(TANH, state, XS, 40, True), rnn())
    assert _growth(Case(LINEAR, state, XS, 40, True), grown) == pytest.approx(np.log(1.5), rel=0.05)
    assert _growth(Case(TANH, state, XS, 40, True), rnn()) < 0.05


def test_a_sample_with_nan_is_named(without_type_checker):
    bad = XS.at[2, 1].set(jnp.nan)
    with pytest.raises(NonFiniteError, match="first at step 3 of 40, in sample 1 of 3"):
        diagnose(LSTM, lstm(), None, bad)
    with pytest.raises(NonFiniteError, match="in samples 0, 2 of 3"):
        diagnose(
            BOTH, BOTH.init(jax.random.key(0)), None, XS.at[5, 0].set(jnp.inf).at[9, 2].set(jnp.nan)
        )


@pytest.mark.slow
def test_samples_that_differ_are_named():
    # The second sample drives its relu units below zero, where nothing passes.
    cell = lstm_jax.rnn(2, 8, activation="relu", w_h_init=lstm_jax.scaled_identity(1.0))
    params = cell.init(jax.random.key(0))
    params = params._replace(w_x=jnp.ones_like(params.w_x))
    xs = jnp.ones_like(XS).at[:, 1].set(-1.0)
    found = diagnose(cell, params, None, xs)
    assert found.verdict == "steady"
    assert (
        find(found.findings, "samples").says == "The samples differ: it is vanishing in 1 of 3 (1)."
    )


@pytest.mark.slow
def test_each_layer_is_as_by_itself():
    params = two(second=upper(f=-3.0))
    found = diagnose(TWO, params, None, XS)
    for number, cell in enumerate(TWO.layers):
        xs = XS if number == 0 else lstm_jax.unroll(TWO.layers[0], params.layers[0], XS)[1]
        alone = diagnose(cell, params.layers[number], None, xs)
        of_layer = find(found.findings, "layer", layer=number).numbers
        assert of_layer["horizon"] == pytest.approx(alone.horizon, rel=1e-4)
        assert of_layer["verdict"] == alone.verdict
    # The whole follows the rows of the last layer's h.
    flow = jacobian_norms(TWO, params, None, XS, lags=[40], norms=["spectral"])
    rows = [np.asarray(flow.spectral[f"1.h,{part}"]) for part in ("0.h", "0.c", "1.h", "1.c")]
    whole = np.median(np.max(rows, axis=0)[:, 0])
    assert find(found.findings, "horizon").numbers["log10_norm"] == pytest.approx(
        whole / np.log(10), rel=1e-4
    )


@pytest.mark.slow
def test_a_direction_is_that_of_the_flipped_sequence():
    params = BOTH.init(jax.random.key(0))
    params = params._replace(layers=(params.layers[0]._replace(backward=exploding_lstm()),))
    found = diagnose(BOTH, params, None, XS)
    alone = diagnose(LSTM, exploding_lstm(), None, XS[::-1])
    reach = find(alone.findings, "horizon").numbers
    direction = find(found.findings, "layer", direction="backward").numbers
    assert direction["verdict"] == alone.verdict == found.verdict == "exploding"
    assert direction["log10_norm"] == pytest.approx(reach["log10_norm"], rel=1e-4)
    with pytest.raises(ValueError, match="expected no loss for a stack with a backward layer"):
        diagnose(BOTH, params, None, XS, loss=lambda state: 0.0)


@pytest.mark.slow
def test_a_stack_that_is_too_large_is_diagnosed_layer_by_layer(monkeypatch):
    from gradient_flow.verdicts import reach

    monkeypatch.setattr(reach, "WHOLE_STACK", 31)
    found = diagnose(TWO, two(second=upper(f=-3.0)), None, XS)
    layers = [find(found.findings, "layer", layer=n).numbers for n in range(2)]
    assert found.horizon == max(layer["horizon"] for layer in layers)


@pytest.mark.slow
def test_a_plain_step_and_a_lag_of_its_own():
    def step(params, state, x):
        return params * state + x, state

    found = diagnose(step, jnp.float32(0.5), jnp.zeros(2), XS[:, 0], lag=30)
    assert found.verdict == "vanishing" and found.lag == 30 and found.advice == ()
    assert found.horizon == pytest.approx(np.log(1000) / np.log(2), rel=1e-3)
    assert names(found.findings) == ["horizon", "forgets"]


@pytest.mark.slow
def test_a_plain_step_is_read_by_its_output():
    """A state of two parts of which the output reads one, which forgets; the other remembers."""

    def step(params, state, x):
        fast, slow = state["fast"], state["slow"]
        after = {"fast": params * fast + x, "slow": slow + x}
        return after, 2.0 * fast

    state = {"fast": jnp.zeros(2), "slow": jnp.zeros(2)}
    found = diagnose(step, jnp.float32(0.5), state, XS[:, 0], lag=30)
    assert found.verdict == "vanishing"
    assert found.horizon == pytest.approx(np.log(1000) / np.log(2), rel=1e-3)

    def without_output(params, state, x):
        return step(params, state, x)[0], None

    assert diagnose(without_output, jnp.float32(0.5), state, XS[:, 0]).verdict == "steady"


def test_refusals(without_type_checker):
    cell = lstm_jax.gru(2, 4)
    params = cell.init(jax.random.key(0))
    with pytest.raises(ValueError, match="expected lag from 1 to 40, got 41"):
        diagnose(cell, params, None, XS, lag=41)
    with pytest.raises(ValueError, match="first at step 3 of 40"):
        diagnose(cell, params, None, XS.at[2].set(jnp.nan))


@pytest.mark.slow
def test_a_step_of_ones_own_is_read_by_the_part_that_it_returns():
    """The memory that counts up, as a plain function whose output is h, the first of two parts."""
    params = ILL["a memory that counts up"].params

    def step(params, state, x):
        after, out = LSTM.step(params, lstm_jax.LSTMState(*state), x)
        return tuple(after), out

    zeros = jnp.zeros(8)
    found = diagnose(step, params, (zeros, zeros), XS[:, 0])
    cell = diagnose(LSTM, params, None, XS[:, 0])
    reach, of_cell = (find(one.findings, "horizon").numbers for one in (found, cell))
    assert reach["reads"] == "0" and reach["horizon"] == pytest.approx(of_cell["horizon"], rel=1e-3)
    growth = find(found.findings, "growth").numbers
    assert growth["at_end"] > 30 and growth["at_start"] < 5


@pytest.mark.slow
def test_a_few_dead_units_do_not_stand_in_the_way_of_advice():
    cell = lstm_jax.rnn(2, 8, activation="relu")
    params = cell.init(jax.random.key(0))
    found = diagnose(cell, params._replace(b=params.b.at[:3].set(-50.0)), None, XS)
    assert find(found.findings, "dead").numbers["units"] == [0, 1, 2]
    assert "orthogonal" in names(found.advice)
