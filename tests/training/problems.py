"""Small problems that the tests of training share."""

import jax
import jax.numpy as jnp
import numpy as np

import lstm_jax
from lstm_jax.training import Problem

T, B, D, H = 5, 8, 3, 4


def recurrent(dropout=0.0, state_dtype=float):
    """A network that adds up its inputs, its state carried on; samples in the second axis."""
    net = lstm_jax.stack(lstm_jax.rnn(D, H), lstm_jax.rnn(H, H), dropout=dropout, output_size=1)

    def batch(data, step, key):
        xs = jax.random.normal(jax.random.fold_in(key, step), (T, B, D), data.dtype) * data
        return {"xs": xs, "ys": jnp.cumsum(xs.sum(-1, keepdims=True), 0)}

    def loss(params, carry, batch, key):
        xs = batch["xs"].astype(params.w_y.dtype)
        state, ys = lstm_jax.unroll_stack(
            net, params, xs, carry["state"], key=key if dropout else None
        )
        error = (ys.astype(batch["ys"].dtype) - batch["ys"]) ** 2
        carry = {"state": state, "seen": carry["seen"] + len(xs)}
        return error.mean(), (carry, {"worst": error.max()})

    return Problem(
        init=lambda key: net.init(key),
        loss=loss,
        batch=batch,
        carry=lambda: {
            "state": net.initial_state(B, state_dtype),
            "seen": jnp.zeros((), jnp.int32),
        },
        carry_axes={"state": 0, "seen": None},
    )


DATA = np.float32(1)


def numbers(log):
    """A log's entries without what depends on the clock."""
    timed = ("seconds", "per_second")
    return [{k: v for k, v in entry.items() if not k.endswith(timed)} for entry in log]


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
