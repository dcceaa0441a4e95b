"""The one table of gate orders, and what lays gates out anew."""

import numpy as np
import pytest

from lstm_jax import ShapeError
from lstm_jax.weights.gate_order import GRU, LSTM, PEEPHOLES, gates_of, reorder


@pytest.mark.parametrize("table", [LSTM, GRU, PEEPHOLES])
def test_every_order_has_our_gates(table):
    for order in table.values():
        assert sorted(order) == sorted(table["lstm_jax"])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_reorder_moves_blocks_and_back(axis):
    array = np.arange(24 * 24).reshape(24, 24)
    moved = reorder(array, LSTM["onnx"], LSTM["lstm_jax"], axis)
    i, o, f, g = np.split(array, 4, axis)
    assert np.array_equal(moved, np.concatenate([i, f, g, o], axis))
    assert np.array_equal(reorder(moved, LSTM["lstm_jax"], LSTM["onnx"], axis), array)


def test_refused():
    with pytest.raises(ValueError, match="same gates, got 'ifgo' and 'run'"):
        reorder(np.ones(12), "ifgo", "run")
    with pytest.raises(ShapeError, match=r"4 gates along axis -1, got \[10\]"):
        reorder(np.ones(10), "ifgo", "iofg")
    assert gates_of("rnn", "onnx") == "h"
