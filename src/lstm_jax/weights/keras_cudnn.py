"""Weights of Keras's CuDNNLSTM and CuDNNGRU in the layout of LSTM and GRU.

    kernel, each gate's block [D, H]             the memory of a matrix [H, D] in row order, as cuDNN reads it
    recurrent_kernel, each gate's block [H, H]   transposed
    bias [2GH]                                   cuDNN's two biases, one after the other

The order of the gates is Keras's. An LSTM's biases become their sum [4H], a GRU's [2, 3H]: it resets after
the product.

Source: ``_convert_rnn_weights`` of Keras 2.
"""

import numpy as np


def is_cudnn_bias(bias: np.ndarray, columns: int, gates: int) -> bool:
    """Whether a bias is cuDNN's, for kernels of GH columns."""
    return gates in (3, 4) and bias.shape == (2 * columns,)


def from_cudnn_layout(
    kernel: np.ndarray, recurrent_kernel: np.ndarray, bias: np.ndarray, gates: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kernel [D, GH], recurrent kernel [H, GH] and bias [2GH] of cuDNN's layers in the layout of the others.

    Example:
        >>> import numpy as np
        >>> from lstm_jax.weights.keras_cudnn import from_cudnn_layout
        >>> kernel = np.hstack([np.array([[1, 2], [3, 4], [5, 6]])] * 4)
        >>> from_cudnn_layout(kernel, np.ones((2, 8)), np.ones(16), 4)[0][:, :2]
        array([[1, 4],
               [2, 5],
               [3, 6]])
    """
    kernel = np.hstack([w.reshape(w.shape[::-1]).T for w in np.hsplit(kernel, gates)])
    recurrent_kernel = np.hstack([w.T for w in np.hsplit(recurrent_kernel, gates)])
    both = bias.reshape(2, -1)
    return kernel, recurrent_kernel, both[0] + both[1] if gates == 4 else both
