"""The same network as its framework begins it.

    PyTorch    every array uniform in ±1/√H; both biases of a layer are drawn, and b is their sum
    Keras      W_x Glorot uniform, W_h orthogonal, both over all gates at once; b = 0, and 1 for the gate f

Axes: w_x[D, m·H], w_h[H, m·H], b[m·H].
"""

from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, PyTree
from lstm_jax.cells.gru import GRUParams
from lstm_jax.cells.lstm import LSTMParams


def initial(params: PyTree, framework: str, key: Array) -> PyTree:
    """Parameters of the same structure and sizes, drawn.

    Args:
        params: of a stack of LSTM and GRU cells.
        framework: ``"pytorch"`` or ``"keras"``.
        key: of the draw.
    """
    draw = {"pytorch": _pytorch, "keras": _keras}[framework]
    leaves, structure = jax.tree.flatten(params, is_leaf=_is_cell)
    keys = jax.random.split(key, len(leaves))
    drawn = [draw(k, leaf) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def _is_cell(node: Any) -> bool:
    return isinstance(node, (LSTMParams, GRUParams))


def _pytorch(key: Array, params: Any) -> Any:
    size = params.w_h.shape[0]
    keys = iter(jax.random.split(key, 4))

    def uniform(like: Array) -> Array:
        return jax.random.uniform(next(keys), like.shape, like.dtype, -(size**-0.5), size**-0.5)

    w_x, w_h, b, second = (uniform(a) for a in (params.w_x, params.w_h, params.b, params.b))
    if isinstance(params, LSTMParams):
        return LSTMParams(w_x, w_h, b + second)
    # The second bias of the candidate is inside the reset gate's product.
    return GRUParams(w_x, w_h, b + second.at[-size:].set(0), second[-size:])


def _keras(key: Array, params: Any) -> Any:
    if not isinstance(params, LSTMParams):
        raise TypeError(f"Kind mismatch: expected an LSTM for Keras, got {type(params).__name__}.")
    first, second = jax.random.split(key)
    w_x = jax.nn.initializers.glorot_uniform()(first, params.w_x.shape, params.w_x.dtype)
    w_h = jax.nn.initializers.orthogonal()(second, params.w_h.shape, params.w_h.dtype)
    size = params.w_h.shape[0]
    return LSTMParams(w_x, w_h, jnp.zeros_like(params.b).at[size : 2 * size].set(1))
