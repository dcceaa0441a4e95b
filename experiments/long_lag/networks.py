"""The networks that are compared, each with its initialisation."""

from typing import NamedTuple

from lstm_jax import Cell, chrono, gru, lstm, orthogonal, rnn, scaled_identity
from lstm_jax.initializers import uniform


class Network(NamedTuple):
    """A network of the comparison.

    Attributes:
        label: its name in tables and figures.
        cell: with its initialisation.
        plain: an equal cell common to its kind, so that measurements compile once for each kind.
    """

    label: str
    cell: Cell
    plain: Cell


NAMES = (
    "rnn",
    "rnn_orthogonal",
    "irnn",
    "lstm_0",
    "lstm_1",
    "lstm_chrono",
    "gru",
)


def network(name: str, input_size: int, hidden_size: int, t_max: int) -> Network:
    """One of `NAMES`; ``t_max`` is the longest lag, for chrono initialisation."""
    sizes = (input_size, hidden_size)
    plain_rnn, plain_irnn = rnn(*sizes), rnn(*sizes, activation="relu")
    plain_lstm, plain_gru = lstm(*sizes), gru(*sizes)
    return {
        "rnn": Network("RNN, uniform", plain_rnn, plain_rnn),
        "rnn_orthogonal": Network("RNN, orthogonal", rnn(*sizes, w_h_init=orthogonal()), plain_rnn),
        # Le et al. 2015: ReLU, the identity for a recurrent matrix, small inputs.
        "irnn": Network(
            "IRNN",
            rnn(*sizes, activation="relu", w_h_init=scaled_identity(), w_x_init=uniform(0.05)),
            plain_irnn,
        ),
        "lstm_0": Network("LSTM, forget bias 0", lstm(*sizes, forget_bias=0.0), plain_lstm),
        "lstm_1": Network("LSTM, forget bias 1", plain_lstm, plain_lstm),
        "lstm_chrono": Network(
            "LSTM, chrono", lstm(*sizes, forget_bias=chrono(max(t_max, 3))), plain_lstm
        ),
        "gru": Network("GRU", plain_gru, plain_gru),
    }[name]
