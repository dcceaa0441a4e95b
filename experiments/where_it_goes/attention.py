r"""One head of causal self-attention, to compare with a recurrent network.

    q_t, k_t, v_t = x_t W_q, x_t W_k, x_t W_v
    y_t = Σ_{s ≤ t} softmax_s(q_t · k_s / √H) v_s

Axes: xs[T, D], ys[T, H].
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array
from lstm_jax.initializers import uniform


class Attention(NamedTuple):
    """``w_q``, ``w_k``, ``w_v``, each [D, H]."""

    w_q: Any
    w_k: Any
    w_v: Any


def init(key: Array, inputs: int, size: int) -> Attention:
    """Weights from uniform(1/√D)."""
    keys = jax.random.split(key, 3)
    return Attention(*(uniform(inputs**-0.5)(k, (inputs, size)) for k in keys))


def attend(params: Attention, xs: Array) -> Array:
    """The outputs of one sequence."""
    q, k, v = (xs @ w for w in params)
    scores = q @ k.T / jnp.sqrt(jnp.asarray(q.shape[-1], q.dtype))
    past = jnp.tri(len(xs), dtype=bool)
    return jax.nn.softmax(jnp.where(past, scores, -jnp.inf)) @ v
