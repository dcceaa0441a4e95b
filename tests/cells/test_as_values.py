"""Networks as values: made twice or unpickled they are equal, and compile once."""

import pickle

import jax
import jax.numpy as jnp
import pytest

import lstm_jax
from lstm_jax.cells.gru import _gru
from lstm_jax.cells.gru_reset_before import reset_before_cell
from lstm_jax.cells.lstm import _lstm
from lstm_jax.cells.lstm_variants import variant_cell
from lstm_jax.cells.rnn import _rnn
from lstm_jax.language import language_model

CELLS = {
    "lstm": lambda: lstm_jax.lstm(2, 3, forget_bias=0.5),
    "chrono": lambda: lstm_jax.lstm(2, 3, forget_bias=lstm_jax.chrono(9)),
    "variants": lambda: lstm_jax.lstm(2, 3, peepholes=True, layer_norm=True, projection_size=2),
    "gru": lambda: lstm_jax.gru(2, 3),
    "gru before": lambda: lstm_jax.gru(2, 3, reset_after=False),
    "tanh": lambda: lstm_jax.rnn(2, 3, w_h_init=lstm_jax.orthogonal(0.9)),
    "relu": lambda: lstm_jax.rnn(2, 3, activation="relu", w_h_init=lstm_jax.scaled_identity()),
    "identity": lambda: lstm_jax.rnn(2, 3, activation="identity", w_x_init=lstm_jax.uniform(0.1)),
}  # fmt: skip
MADE = (_lstm, _gru, _rnn, reset_before_cell, variant_cell)


def anew(make):
    """What a function makes when no cell made before is kept."""
    for made in MADE:
        made.cache_clear()
    return make()


@pytest.mark.parametrize("name", CELLS)
def test_made_twice_or_unpickled_it_is_equal(name):
    first, second = anew(CELLS[name]), anew(CELLS[name])
    assert first is not second
    for other in (second, pickle.loads(pickle.dumps(first))):
        assert other == first and hash(other) == hash(first)
        assert lstm_jax.stack(other) == lstm_jax.stack(first)
    assert first != anew(lambda: CELLS[name]()._replace(input_size=7))
    params = first.init(jax.random.key(0))
    for one, two in zip(
        jax.tree.leaves(params), jax.tree.leaves(second.init(jax.random.key(0))), strict=True
    ):
        assert (one == two).all()


def test_other_arguments_are_other_cells():
    made = [anew(make) for make in CELLS.values()]
    made += [lstm_jax.lstm(2, 3, forget_bias=b) for b in (1.0, 2.0)]
    made += [lstm_jax.rnn(2, 3, w_h_init=lstm_jax.orthogonal(0.8))]
    assert len(set(made)) == len(made)


def test_equal_networks_compile_once():
    traced = []

    def run(net, params, xs):
        traced.append(net)
        return lstm_jax.unroll_stack(net, params, xs)[1]

    jitted = jax.jit(run, static_argnums=0)
    net = lstm_jax.stack(lstm_jax.bidirectional(anew(CELLS["lstm"])), dropout=0.1)
    params = net.init(jax.random.key(0))
    for other in (net, pickle.loads(pickle.dumps(net))):
        jitted(other, params, jnp.ones((4, 2)))
    assert len(traced) == 1


def test_a_language_model_is_a_value():
    def made():
        return language_model(lstm_jax.stack(anew(CELLS["gru before"])), 5, dropout=0.1)

    net = made()
    assert net == made() == pickle.loads(pickle.dumps(net)) and hash(net) == hash(made())


def test_a_function_of_ones_own_is_named_as_what_cannot_be_pickled():
    cell = lstm_jax.lstm(2, 3, b_init=lambda key, shape, dtype: jnp.zeros(shape, dtype))
    assert cell == lstm_jax.lstm(2, 3, b_init=cell.init.held[-1])
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(cell)
