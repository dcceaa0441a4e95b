"""Initialisers draw what they promise, in the dtype that they are asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import CELLS

import lstm_jax
from lstm_jax.initializers import Chrono

KEY = jax.random.key(7)
H = 64


def test_uniform_fills_its_interval():
    draw = np.asarray(lstm_jax.uniform(0.3)(KEY, (100, 100)))
    assert np.abs(draw).max() <= 0.3 < np.abs(draw).max() + 1e-3
    np.testing.assert_allclose(draw.mean(), 0, atol=0.3 * 4 / (100 * np.sqrt(3)))
    np.testing.assert_allclose(draw.std(), 0.3 / np.sqrt(3), rtol=0.02)


@pytest.mark.parametrize("gates", [1, 3, 4])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_orthogonal_is_orthogonal_gate_by_gate(x64, gates, scale):
    w = lstm_jax.orthogonal(scale)(KEY, (8, 8 * gates))
    blocks = jnp.split(w, gates, axis=1)
    for block in blocks:
        np.testing.assert_allclose(block @ block.T, scale**2 * np.eye(8), atol=1e-14)
    for n, block in enumerate(blocks[1:]):
        assert float(jnp.abs(block - blocks[n]).max()) > 0.1


@pytest.mark.parametrize("shape", [(8, 5), (5, 8)])
def test_orthogonal_of_another_shape_is_orthonormal_as_a_whole(x64, shape):
    w = lstm_jax.orthogonal(2.0)(KEY, shape)
    small = w.T @ w if shape[0] > shape[1] else w @ w.T
    np.testing.assert_allclose(small, 4 * np.eye(5), atol=1e-14)


@pytest.mark.parametrize("gates", [1, 3, 4])
def test_scaled_identity_gate_by_gate(gates):
    w = lstm_jax.scaled_identity(0.7)(KEY, (5, 5 * gates))
    np.testing.assert_array_equal(w, np.float32(0.7) * np.tile(np.eye(5), (1, gates)))


def test_irnn_starts_as_the_identity():
    cell = lstm_jax.rnn(3, 5, activation="relu", w_h_init=lstm_jax.scaled_identity())
    params = cell.init(KEY)
    np.testing.assert_array_equal(params.w_h, np.eye(5))
    h = jnp.arange(1.0, 6.0)
    state, _ = cell.step(params, lstm_jax.RNNState(h), jnp.zeros(3))
    np.testing.assert_array_equal(state.h, h)


class TestChrono:
    def test_lstm_biases(self):
        t_max = 200
        params = lstm_jax.lstm(3, H, forget_bias=lstm_jax.chrono(t_max)).init(KEY)
        b_i, b_f, b_g, b_o = np.split(np.asarray(params.b), 4)
        np.testing.assert_array_equal(b_i, -b_f)
        assert b_f.min() >= 0 and b_f.max() <= np.log(t_max - 1)
        assert not b_g.any() and not b_o.any()

    def test_times_are_uniform_up_to_t_max(self):
        times = np.exp(np.asarray(lstm_jax.chrono(101)(KEY, (4000,)), np.float64))
        assert times.min() >= 1 - 1e-6 and times.max() <= 100 + 1e-4
        np.testing.assert_allclose(times.mean(), 50.5, rtol=0.03)
        np.testing.assert_allclose(np.quantile(times, [0.25, 0.75]), [25.75, 75.25], rtol=0.06)

    def test_gru_biases(self):
        params = lstm_jax.gru(3, H, update_bias=lstm_jax.chrono(50)).init(KEY)
        b_r, b_u, b_n = np.split(np.asarray(params.b), 3)
        assert b_u.min() >= 0 and b_u.max() <= np.log(49) and b_u.std() > 0.3
        assert not b_r.any() and not b_n.any() and not np.asarray(params.b_hn).any()

    def test_is_data(self):
        assert lstm_jax.chrono(50) == Chrono(50)

    @pytest.mark.parametrize("t_max", [2, 1.5, -3, float("nan")])
    def test_needs_more_than_two_steps(self, t_max):
        with pytest.raises(ValueError, match=r"expected t_max of more than 2 steps, got"):
            lstm_jax.chrono(t_max)


@pytest.mark.parametrize("bias", [1.0, 0.0, -2.5, 3])
def test_forget_bias_is_a_number(bias):
    b_i, b_f, b_g, b_o = np.split(np.asarray(lstm_jax.lstm(3, 5, forget_bias=bias).init(KEY).b), 4)
    np.testing.assert_array_equal(b_f, np.full(5, bias, np.float32))
    assert not b_i.any() and not b_g.any() and not b_o.any()


def test_forget_bias_is_one_by_default_and_adds_to_b_init():
    assert lstm_jax.lstm(3, 5) is lstm_jax.lstm(3, 5, forget_bias=1.0)
    ones = jax.nn.initializers.ones
    b = lstm_jax.lstm(3, 5, forget_bias=0.5, b_init=ones).init(KEY).b
    np.testing.assert_array_equal(b, np.repeat([1.0, 1.5, 1.0, 1.0], 5))


def test_update_bias_adds_to_b_u():
    ones = jax.nn.initializers.ones
    params = lstm_jax.gru(3, 5, update_bias=0.5, b_init=ones).init(KEY)
    np.testing.assert_array_equal(params.b, np.repeat([1.0, 1.5, 1.0], 5))
    np.testing.assert_array_equal(params.b_hn, np.ones(5))


@pytest.mark.parametrize("name", CELLS)
def test_weights_are_uniform_in_one_over_root_h(name):
    params = CELLS[name](H, H).init(KEY)
    bound = H**-0.5
    for w in (params.w_x, params.w_h):
        assert float(jnp.abs(w).max()) <= bound
        np.testing.assert_allclose(float(w.std()), bound / np.sqrt(3), rtol=0.05)
    assert float(jnp.abs(params.w_x - params.w_h).max()) > bound


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_parameters_take_the_dtype_asked_for(x64, name, dtype):
    params = jax.eval_shape(lambda: CELLS[name](3, 5).init(KEY, dtype))
    assert {leaf.dtype for leaf in params} == {jnp.dtype(dtype)}


@pytest.mark.parametrize(
    "initializer",
    [lstm_jax.uniform(0.1), lstm_jax.orthogonal(), lstm_jax.scaled_identity(), lstm_jax.zeros],
    ids=["uniform", "orthogonal", "scaled_identity", "zeros"],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_initializers_take_the_dtype_asked_for(initializer, dtype):
    assert initializer(KEY, (4, 8), dtype).dtype == dtype
    assert initializer(KEY, (4, 8)).dtype == jnp.float32


@pytest.mark.parametrize("name", CELLS)
def test_same_key_same_parameters(name):
    cell = CELLS[name](3, 5)
    first, again, other = cell.init(KEY), cell.init(KEY), cell.init(jax.random.key(8))
    np.testing.assert_array_equal(first.w_h, again.w_h)
    assert bool(jnp.any(first.w_h != other.w_h))
    np.testing.assert_array_equal(jax.jit(cell.init)(KEY).w_h, first.w_h)


def test_initializers_of_jax_work():
    glorot, normal = jax.nn.initializers.glorot_uniform(), jax.nn.initializers.normal(0.1)
    cell = lstm_jax.gru(3, 5, w_x_init=glorot, w_h_init=normal, b_init=normal)
    assert cell.init(KEY).w_x.shape == (3, 15)


@pytest.mark.parametrize("scale", [0, -0.1, float("nan")])
def test_uniform_needs_a_positive_scale(scale):
    with pytest.raises(ValueError, match=r"expected a positive scale, got"):
        lstm_jax.uniform(scale)


def test_scaled_identity_needs_blocks():
    with pytest.raises(
        ValueError, match=r"expected \[n, m·n\] for a scaled identity, got \[5, 8\]"
    ):
        lstm_jax.scaled_identity()(KEY, (5, 8))
