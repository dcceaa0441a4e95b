"""Small problems that the tests of training share."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lstm_jax
from lstm_jax.training import Computation, Problem, RunOptions, fit

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


def parts(process=0, processes=1, broken=False):
    """Batches for `recurrent` as a function of the epoch: those samples that are a process's own."""

    def batches(epoch):
        drawn = np.random.default_rng(epoch)
        for n in range(7):
            if broken and (epoch, n) == (1, 3):
                raise OSError("the disk of this process is gone")
            xs = drawn.standard_normal((T, B, D)).astype(np.float32)
            own = np.split(xs, processes, axis=1)[process]
            yield {"xs": own, "ys": own.sum(-1, keepdims=True).cumsum(0)}

    return batches


def numbers(log):
    """A log's entries without what depends on the clock."""
    timed = ("seconds", "per_second")
    return [{k: v for k, v in entry.items() if not k.endswith(timed)} for entry in log]


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


OPTIONS = RunOptions(log_every=4, checkpoint_every=6, progress=False)
line = Problem(
    init=lambda key: {"w": jax.random.normal(key, (3,))},
    loss=lambda params, carry, batch, key: (((params["w"] - batch) ** 2).sum(), (carry, {})),
    batch=lambda data, step, key: data[step % len(data)],
    batch_axes=0,
)
TARGETS = np.ones((4, 3), np.float32)


def fit_flat(*arguments, options=OPTIONS, **words):
    """`fit` with the fields of `RunOptions` and `Computation` as arguments of their own."""
    ours = {name: words.pop(name) for name in OF_OPTIONS if name in words}
    computation = {name: words.pop(name) for name in Computation._fields if name in words}
    return fit(
        *arguments,
        options=dataclasses.replace(options, **ours),
        computation=Computation(**computation),
        **words,
    )


OF_OPTIONS = [field.name for field in dataclasses.fields(RunOptions)]


def run(steps=20, problem=line, optimizer=None, data=TARGETS, **more):
    return fit_flat(problem, optimizer or optax.sgd(0.1), steps, data=data, **more)
