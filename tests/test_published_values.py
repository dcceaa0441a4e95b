"""Numbers that others printed, reproduced to their last digit.

The CS231n entries put the LSTM's gates in the order i, f, o, g; the deeplearning.ai ones keep the batch
in columns and multiply [a_prev; x] from the left, one matrix for each gate.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import grouped

import lstm_jax

pytestmark = pytest.mark.usefixtures("x64")


def assert_printed(value, printed):
    """Hold a value to half a unit of the last digit printed; a list drops its trailing zeros."""
    decimals = np.vectorize(lambda number: -number.as_tuple().exponent)(printed)
    bound = 0.5 * 10.0 ** -np.max(decimals)
    expected = np.asarray(printed, np.float64)
    assert np.shape(value) == expected.shape
    np.testing.assert_allclose(value, expected, rtol=1e-14, atol=bound)


def linspaces(entry):
    """The inputs of a CS231n entry."""
    sizes = {**entry["dims"], "4H": 4 * entry["dims"]["H"]}
    arrays = {}
    for name, (kind, start, stop, shape) in entry["inputs"].items():
        assert kind == "linspace"
        shape = [sizes[size] for size in shape]
        values = np.linspace(float(start), float(stop), int(np.prod(shape)))
        arrays[name] = jnp.asarray(values.reshape(shape))
    return arrays


def ifgo(columns):
    """Columns in the order i, f, o, g to i, f, g, o."""
    i, f, o, g = jnp.split(columns, 4, axis=-1)
    return jnp.concatenate([i, f, g, o], axis=-1)


def cs231n_lstm(entry):
    a = linspaces(entry)
    cell = lstm_jax.lstm(entry["dims"]["D"], entry["dims"]["H"])
    return cell, lstm_jax.LSTMParams(ifgo(a["Wx"]), ifgo(a["Wh"]), ifgo(a["b"])), a


def cs231n_rnn(entry):
    a = linspaces(entry)
    cell = lstm_jax.rnn(entry["dims"]["D"], entry["dims"]["H"])
    return cell, lstm_jax.RNNParams(a["Wx"], a["Wh"], a["b"]), a


def test_cs231n_lstm_step_forward(published_values):
    entry = published_values["cs231n_lstm_step_forward"]
    cell, params, a = cs231n_lstm(entry)
    state, out = cell.step(params, lstm_jax.LSTMState(a["prev_h"], a["prev_c"]), a["x"])
    assert_printed(state.h, entry["expected_next_h"])
    assert_printed(out, entry["expected_next_h"])
    assert_printed(state.c, entry["expected_next_c"])


@pytest.mark.parametrize("gradient", ["bptt", "autodiff"])
def test_cs231n_lstm_forward(published_values, gradient):
    entry = published_values["cs231n_lstm_forward"]
    cell, params, a = cs231n_lstm(entry)
    state0 = lstm_jax.LSTMState(a["h0"], jnp.zeros_like(a["h0"]))
    xs = jnp.swapaxes(a["x"], 0, 1)
    _, hs = lstm_jax.unroll(cell, params, xs, state0, **grouped(gradient=gradient))
    assert_printed(jnp.swapaxes(hs, 0, 1), entry["expected_h"])


def test_cs231n_rnn_step_forward(published_values):
    entry = published_values["cs231n_rnn_step_forward"]
    cell, params, a = cs231n_rnn(entry)
    state, _ = cell.step(params, lstm_jax.RNNState(a["prev_h"]), a["x"])
    assert_printed(state.h, entry["expected_next_h"])


@pytest.mark.parametrize("gradient", ["bptt", "autodiff"])
def test_cs231n_rnn_forward(published_values, gradient):
    entry = published_values["cs231n_rnn_forward"]
    cell, params, a = cs231n_rnn(entry)
    xs, state0 = jnp.swapaxes(a["x"], 0, 1), lstm_jax.RNNState(a["h0"])
    _, hs = lstm_jax.unroll(cell, params, xs, state0, **grouped(gradient=gradient))
    assert_printed(jnp.swapaxes(hs, 0, 1), entry["expected_h"])


def draws(*shapes):
    """Normal numbers, one array after another, from the generator that the notebooks seed with 1."""
    generator = np.random.RandomState(1)
    return [jnp.asarray(generator.randn(*shape)) for shape in shapes]


class Dlai:
    """The deeplearning.ai LSTM cell: five units, three inputs, a batch of ten in columns."""

    def __init__(self):
        gate = [(5, 8), (5, 1)]
        shapes = [(3, 10), (5, 10), (5, 10), *4 * gate, (2, 5), (2, 1), (5, 10), (5, 10)]
        x, a_prev, c_prev, wf, bf, wi, bi, wo, bo, wc, bc, *rest = draws(*shapes)
        self.wy, self.by, self.da_next, self.dc_next = rest
        weights = jnp.concatenate([wi, wf, wc, wo]).T
        self.cell = lstm_jax.lstm(3, 5)
        self.params = lstm_jax.LSTMParams(
            w_x=weights[5:], w_h=weights[:5], b=jnp.concatenate([bi, bf, bc, bo])[:, 0]
        )
        self.xs, self.state0 = x.T[None], lstm_jax.LSTMState(a_prev.T, c_prev.T)


def test_dlai_lstm_cell_forward(published_values):
    expected = published_values["dlai_lstm_cell_forward"]["expected"]
    dlai = Dlai()
    state, _ = lstm_jax.unroll(dlai.cell, dlai.params, dlai.xs, dlai.state0)
    y = jax.nn.softmax(dlai.wy @ state.h.T + jnp.broadcast_to(dlai.by, (2, 10)), axis=0)
    found = {
        "a_next[4]": state.h.T[4],
        "c_next[2]": state.c.T[2],
        "yt[1]": y[1],
        "c_next[1][3] row (cache[1][3])": state.c.T[3],
    }
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert_printed(value, expected[name])


def test_dlai_lstm_cell_backward(published_values):
    expected = published_values["dlai_lstm_cell_backward"]["expected"]
    dlai = Dlai()
    d_state = lstm_jax.LSTMState(dlai.da_next.T, dlai.dc_next.T)
    direct = lstm_jax.bptt(dlai.cell, dlai.params, dlai.xs, dlai.state0, d_state=d_state)

    def pull_back(gradient):
        def final(inputs):
            return lstm_jax.unroll(dlai.cell, *inputs, **grouped(gradient=gradient))[0]

        inputs = lstm_jax.Gradients(dlai.params, dlai.xs, dlai.state0)
        return jax.vjp(final, inputs)[1](d_state)[0]

    for gradients in (direct, pull_back("bptt"), pull_back("autodiff")):
        weights = jnp.concatenate([gradients.params.w_h, gradients.params.w_x]).T
        wi, wf, wc, wo = jnp.split(weights, 4)
        bi, bf, bc, bo = jnp.split(gradients.params.b, 4)
        found = {
            "dxt[1][2]": gradients.xs[0].T[1, 2],
            "da_prev[2][3]": gradients.state0.h.T[2, 3],
            "dc_prev[2][3]": gradients.state0.c.T[2, 3],
            "dWf[3][1]": wf[3, 1],
            "dWi[1][2]": wi[1, 2],
            "dWc[3][1]": wc[3, 1],
            "dWo[1][2]": wo[1, 2],
            "dbf[4]": bf[4],
            "dbi[4]": bi[4],
            "dbc[4]": bc[4],
            "dbo[4]": bo[4],
        }
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert_printed(value, expected[name])


def dlai_rnn(wax, waa, ba):
    return lstm_jax.rnn(3, 5), lstm_jax.RNNParams(wax.T, waa.T, ba[:, 0])


def test_dlai_rnn_cell_backward(published_values):
    expected = published_values["dlai_rnn_cell_backward"]["expected"]
    x, a_prev, wax, waa, _, _, _, da_next = draws(
        (3, 10), (5, 10), (5, 3), (5, 5), (2, 5), (5, 1), (2, 1), (5, 10)
    )
    # The notebook's cell uses the bias left over from an earlier cell, not the one it draws.
    *_, ba = draws((3, 10, 4), (5, 10), (5, 5), (5, 3), (2, 5), (5, 1))
    cell, params = dlai_rnn(wax, waa, ba)
    gradients = lstm_jax.bptt(
        cell,
        params,
        x.T[None],
        lstm_jax.RNNState(a_prev.T),
        d_state=lstm_jax.RNNState(da_next.T),
    )
    assert_printed(gradients.xs[0].T[1, 2], expected["dxt[1][2]"])
    assert_printed(gradients.state0.h.T[2, 3], expected["da_prev[2][3]"])
    assert_printed(gradients.params.w_x.T[3, 1], expected["dWax[3][1]"])
    assert_printed(gradients.params.w_h.T[1, 2], expected["dWaa[1][2]"])
    assert_printed(gradients.params.b[4], expected["dba[4]"])


def test_dlai_rnn_backward(published_values):
    expected = published_values["dlai_rnn_backward"]["expected"]
    x, a0, wax, waa, _, ba, _, da = draws(
        (3, 10, 4), (5, 10), (5, 3), (5, 5), (2, 5), (5, 1), (2, 1), (5, 10, 4)
    )
    cell, params = dlai_rnn(wax, waa, ba)
    xs, d_hs = jnp.transpose(x, (2, 1, 0)), jnp.transpose(da, (2, 1, 0))
    gradients = lstm_jax.bptt(cell, params, xs, lstm_jax.RNNState(a0.T), d_hs=d_hs)
    assert_printed(gradients.xs[:, 2, 1], expected["dx[1][2]"])
    assert_printed(gradients.state0.h[3, 2], expected["da0[2][3]"])
    assert_printed(gradients.params.w_x.T[3, 1], expected["dWax[3][1]"])
    assert_printed(gradients.params.w_h.T[1, 2], expected["dWaa[1][2]"])
    assert_printed(gradients.params.b[4], expected["dba[4]"])


def test_every_entry_has_a_test(published_values):
    assert {f"test_{name}" for name in published_values} <= set(globals())
