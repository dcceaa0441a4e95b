"""The order of the gates and the number of biases in each framework.

| framework      | LSTM       | GRU     | matrices                           | biases                     |
| -------------- | ---------- | ------- | ---------------------------------- | -------------------------- |
| lstm_jax       | i, f, g, o | r, u, n | w_x[D, GH], w_h[H, GH]             | one; GRU: b_hn beside it   |
| PyTorch, cuDNN | i, f, g, o | r, u, n | transposed: [GH, D], [GH, H]       | two, added up              |
| Keras          | i, f, g, o | u, r, n | [D, GH], [H, GH]                   | one; GRU, reset_after: two |
| Flax           | i, f, g, o | r, u, n | one for each gate: [D, H], [H, H]  | one; GRU: b_hn beside it   |
| Equinox        | i, f, g, o | r, u, n | transposed: [GH, D], [GH, H]       | one; GRU: b_hn beside it   |
| ONNX           | i, o, f, g | u, r, n | transposed: [1, GH, D], [1, GH, H] | two, in one array [1, 2GH] |
| Haiku          | i, g, f, o | u, r, n | LSTM: one [D + H, 4H] for x and h  | one                        |
| TensorFlow 1   | i, g, f, o |         | one [D + H, 4H] for x and h        | one                        |

G gates of H units each. The gates have other names too: g is ``c`` in ONNX and Keras and ``j`` in TensorFlow;
u is ``z`` everywhere else; n is ``h`` in ONNX and Keras and ``a`` in Haiku. u keeps the state, h_t = (1−u) ⊙
n + u ⊙ h_{t−1}, except in Haiku, whose z takes the new state: z = 1 − u = σ(−z_u).

Biases that are not among the weights: Haiku adds 1 to the forget gate, and TensorFlow 1 adds its
``forget_bias``, by default 1. Keras's ``unit_forget_bias`` only initialises its bias.

Only the sum of two biases matters, except inside the GRU's n with the reset gate after the product,
n = tanh(x W_xn + b_n + r ⊙ (h W_hn + b_hn)): there they differ. That is the form of PyTorch, cuDNN, Flax,
Equinox, Keras with ``reset_after`` and ONNX with ``linear_before_reset``. Haiku, Keras without
``reset_after`` and ONNX by default reset before the product, n = tanh(x W_xn + b_n + (r ⊙ h) W_hn).

Peepholes are in the order i, f, o in `lstm_jax` and i, o, f in ONNX.
"""

import numpy as np

from lstm_jax.validation import (
    ShapeError,
    as_array,
    require_int,
    require_one_of,
    require_text,
    show_shape,
)

LSTM = {
    "lstm_jax": "ifgo",
    "pytorch": "ifgo",
    "cudnn": "ifgo",
    "keras": "ifgo",
    "flax": "ifgo",
    "equinox": "ifgo",
    "onnx": "iofg",
    "haiku": "igfo",
    "tensorflow": "igfo",
}
"""The LSTM's gates, one letter each."""

GRU = {
    "lstm_jax": "run",
    "pytorch": "run",
    "cudnn": "run",
    "keras": "urn",
    "flax": "run",
    "equinox": "run",
    "onnx": "urn",
    "haiku": "urn",
}
"""The GRU's gates, one letter each."""

PEEPHOLES = {"lstm_jax": "ifo", "onnx": "iof"}
"""The LSTM's peepholes, one letter each."""


def gates_of(kind: str, framework: str) -> str:
    """The order of a kind's gates in a framework, one letter each; a vanilla network has one, ``h``.

    Example:
        >>> from lstm_jax.weights.gate_order import gates_of
        >>> gates_of("lstm", "onnx")
        'iofg'
    """
    require_one_of("kind", kind, ("lstm", "gru", "rnn"))
    require_one_of("framework", framework, tuple(LSTM if kind != "gru" else GRU))
    return {"lstm": LSTM, "gru": GRU}[kind][framework] if kind != "rnn" else "h"


def reorder(array: np.ndarray, source: str, target: str, axis: int = -1) -> np.ndarray:
    """Reorder the gates of an array.

    Args:
        array: with G blocks of equal size along the axis.
        source: its present order, one letter for each gate.
        target: the new order.
        axis: of the gates.

    Raises:
        ValueError: orders of different gates, or an axis that the array does not have.
        ShapeError: an axis that G does not divide.

    Example:
        >>> import numpy as np
        >>> from lstm_jax.weights.gate_order import GRU, reorder
        >>> reorder(np.array([1, 1, 2, 2, 3, 3]), GRU["onnx"], GRU["lstm_jax"])
        array([2, 2, 1, 1, 3, 3])
    """
    require_text("source", source)
    require_text("target", target)
    if sorted(source) != sorted(target) or len(set(source)) != len(source):
        raise ValueError(
            f"Gate mismatch: expected two orders of the same gates, got {source!r} and {target!r}."
        )
    array = np.asarray(as_array("array", array))
    require_int("axis", axis, least=-array.ndim, most=array.ndim - 1)
    if array.shape[axis] % len(source):
        raise ShapeError(
            f"Shape mismatch: expected {len(source)} gates along axis {axis}, got "
            f"{show_shape(array.shape)}."
        )
    blocks = dict(zip(source, np.split(array, len(source), axis), strict=True))
    return np.concatenate([blocks[gate] for gate in target], axis)
