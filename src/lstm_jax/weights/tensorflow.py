"""Weights to and from the LSTM of TensorFlow 1, ``BasicLSTMCell`` and ``LSTMCell``.

    i, j, f, o = [x_t, h_{t−1}] W + b                   one kernel W[D + H, 4H], b[4H]; j is our g
    C_t = σ(f + forget_bias) ⊙ C_{t−1} + σ(i) ⊙ tanh(j)
    h_t = σ(o) ⊙ tanh C_t

``forget_bias`` is an argument of TensorFlow's cell, 1 by default, and not among its weights; in `lstm_jax` it
is part of b_f. An ``LSTMCell`` with peepholes, a projection or a clip does not fit. TensorFlow is not
imported.
"""

from typing import Any

import numpy as np

from lstm_jax.cells import Cell, LSTMParams, lstm
from lstm_jax.cells.cell import require_cell
from lstm_jax.validation import ShapeError, require_number, show_shape
from lstm_jax.weights.arrays import require_one_dtype, require_shape, to_jax, to_numpy
from lstm_jax.weights.cell_specification import checked_params, require_options
from lstm_jax.weights.gate_order import LSTM, reorder


def from_tensorflow_cell(
    kernel: Any, bias: Any, *, forget_bias: float = 1.0
) -> tuple[Cell, LSTMParams]:
    """The kernel and bias of a TensorFlow 1 cell as an LSTM with its parameters.

    Args:
        kernel: [D + H, 4H], gates in the order i, j, f, o.
        bias: [4H].
        forget_bias: that of TensorFlow's cell; it is added to b_f.

    Returns:
        The `Cell` and its `LSTMParams`, of the dtype of the arrays.

    Raises:
        ShapeError: arrays that do not fit each other.
        DtypeError: arrays that are not of one floating dtype, or float64 without ``jax_enable_x64``.
        ValueError: a forget_bias that is not a finite number.

    Example:
        >>> import numpy as np
        >>> from lstm_jax import weights
        >>> cell, params = weights.from_tensorflow_cell(np.ones((7, 16), "f"), np.zeros(16, "f"))
        >>> cell, float(params.b[4])
        (lstm(input_size=3, hidden_size=4), 1.0)
    """
    cell, params = merge_kernel("kernel", kernel, "bias", bias, "tensorflow", forget_bias)
    return cell, to_jax(params)


def to_tensorflow_cell(
    cell: Cell, params: Any, *, forget_bias: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """An LSTM as the kernel and the bias of the TensorFlow 1 cell that computes the same.

    Args:
        cell: from `lstm`, without optional parts.
        params: of the cell.
        forget_bias: that of TensorFlow's cell; it is subtracted from b_f.

    Returns:
        ``kernel`` [D + H, 4H] and ``bias`` [4H], NumPy arrays of the parameters' dtype.

    Raises:
        ValueError: a cell of another kind or with optional parts, or a forget_bias that is not finite.
        ShapeError, DtypeError, TypeError: params that are not the cell's.
    """
    return split_kernel("TensorFlow's LSTM cell", cell, params, "tensorflow", forget_bias)


def merge_kernel(
    kernel_name: str, kernel: Any, bias_name: str, bias: Any, framework: str, forget_bias: float
) -> tuple[Cell, LSTMParams]:
    """A kernel for [x, h] and a bias without its forget bias, in a framework's order, as `lstm` in NumPy."""
    require_number("forget_bias", forget_bias, above=-np.inf)
    arrays = {kernel_name: to_numpy(kernel_name, kernel), bias_name: to_numpy(bias_name, bias)}
    require_one_dtype(arrays)
    kernel, bias = arrays.values()
    hidden_size = kernel.shape[-1] // 4 if kernel.ndim == 2 else 0
    if kernel.ndim != 2 or kernel.shape[1] % 4 or not 0 < hidden_size < kernel.shape[0]:
        raise ShapeError(
            f"Shape mismatch: expected {kernel_name} [D + H, 4H], got {show_shape(kernel.shape)}."
        )
    require_shape(bias_name, bias, (4 * hidden_size,), f"H={hidden_size}")
    order, our_order = LSTM[framework], LSTM["lstm_jax"]
    input_size = kernel.shape[0] - hidden_size
    kernels: Any = np.split(reorder(kernel, order, our_order), [input_size])
    w_x, w_h = kernels
    b: Any = reorder(bias, order, our_order)
    b[hidden_size : 2 * hidden_size] += np.asarray(forget_bias, b.dtype)
    return lstm(input_size, hidden_size), LSTMParams(w_x, w_h, b)


def split_kernel(
    words: str, cell: Cell, params: Any, framework: str, forget_bias: float
) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `merge_kernel`."""
    require_number("forget_bias", forget_bias, above=-np.inf)
    require_cell(cell)
    params = checked_params(cell, params)
    if require_options(words, cell).kind != "lstm":
        raise ValueError(f"Cell mismatch: expected an lstm for {words}, got {cell}.")
    order, our_order = LSTM[framework], LSTM["lstm_jax"]
    kernel = reorder(np.concatenate([params.w_x, params.w_h]), our_order, order)
    b = params.b.copy()
    b[cell.hidden_size : 2 * cell.hidden_size] -= np.asarray(forget_bias, b.dtype)
    return kernel, reorder(b, our_order, order)
