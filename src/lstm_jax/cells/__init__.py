"""Recurrent cells: one file each, with its equations, its derivative by hand and its Jacobian."""

from lstm_jax.cells.cell import Cell, HandDerived, Step
from lstm_jax.cells.gru import GRUParams, GRUState, gru
from lstm_jax.cells.gru_reset_before import GRUResetBeforeParams
from lstm_jax.cells.lstm import LSTMParams, LSTMState, lstm
from lstm_jax.cells.lstm_variants import LSTMVariantParams
from lstm_jax.cells.rnn import RNNParams, RNNState, rnn

__all__ = [
    "Cell",
    "GRUParams",
    "GRUResetBeforeParams",
    "GRUState",
    "HandDerived",
    "LSTMParams",
    "LSTMState",
    "LSTMVariantParams",
    "RNNParams",
    "RNNState",
    "Step",
    "gru",
    "lstm",
    "rnn",
]
