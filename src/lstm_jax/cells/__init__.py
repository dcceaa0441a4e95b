"""Recurrent cells: one file each, with its equations, its derivative by hand and its Jacobian."""

from lstm_jax.cells.cell import Cell, HandDerived, Step
from lstm_jax.cells.gru import GRUParams, GRUState, gru
from lstm_jax.cells.lstm import LSTMParams, LSTMState, lstm
from lstm_jax.cells.rnn import RNNParams, RNNState, rnn

__all__ = [
    "Cell",
    "GRUParams",
    "GRUState",
    "HandDerived",
    "LSTMParams",
    "LSTMState",
    "RNNParams",
    "RNNState",
    "Step",
    "gru",
    "lstm",
    "rnn",
]
