"""Convert a layer of two matrices and two biases, as in most frameworks, to and from `lstm_jax`'s params.

    RNN, LSTM                b = b_x + b_h
    GRU                      b_r, b_u = the sums;   b_n = b_xn,   b_hn = b_hn
    GRU, reset before        b = b_x + b_h

In the other direction b_x is b, and b_h is zero except for the GRU's b_hn.

Axes: w_x[D, GH], w_h[H, GH], b_x[GH], b_h[GH], in the framework's order of gates (`gate_order`). The caller
checks the shapes.
"""

from typing import Any, NamedTuple

import numpy as np

from lstm_jax.cells import GRUParams, LSTMParams, RNNParams
from lstm_jax.cells.gru_reset_before import GRUResetBeforeParams
from lstm_jax.weights.gate_order import gates_of, reorder


class TwoBiases(NamedTuple):
    """``w_x[D, GH]``, ``w_h[H, GH]``, ``b_x[GH]``, ``b_h[GH]``, columns in a framework's order."""

    w_x: np.ndarray
    w_h: np.ndarray
    b_x: np.ndarray
    b_h: np.ndarray


def merge(kind: str, framework: str, weights: TwoBiases, *, reset_after: bool = True) -> Any:
    """A framework's weights as NumPy params: `LSTMParams`, `RNNParams` or those of either GRU."""
    order = gates_of(kind, framework)
    # For mypy: NumPy arrays in place of JAX arrays.
    ordered: Any = (reorder(w, order, gates_of(kind, "lstm_jax")) for w in weights)
    w_x, w_h, b_x, b_h = ordered
    if kind == "lstm":
        return LSTMParams(w_x, w_h, b_x + b_h)
    if kind == "rnn":
        return RNNParams(w_x, w_h, b_x + b_h)
    if not reset_after:
        return GRUResetBeforeParams(w_x, w_h, b_x + b_h)
    gates = 2 * len(b_x) // 3
    b: Any = np.concatenate([b_x[:gates] + b_h[:gates], b_x[gates:]])
    return GRUParams(w_x, w_h, b, b_h[gates:])


def split(kind: str, framework: str, params: Any) -> TwoBiases:
    """The inverse of `merge`, for NumPy parameters that have ``w_x``, ``w_h``, ``b`` and perhaps ``b_hn``."""
    b_h = np.zeros_like(params.b)
    if hasattr(params, "b_hn"):
        b_h[-len(params.b_hn) :] = params.b_hn
    here, there = gates_of(kind, "lstm_jax"), gates_of(kind, framework)
    return TwoBiases(*(reorder(w, here, there) for w in (params.w_x, params.w_h, params.b, b_h)))
