r"""The last claim: that clipping solves the exploding gradient.

    by norm     d ← d · min(1, c / ‖d‖)             the direction of one gradient is kept
    by value    d ← min(max(d, −c), c)              it is not

Clipping by norm scales one gradient as a whole. It bounds the step but does not change the shares of the lags
in the gradient. An average of clipped gradients is not the clipped average gradient, and a gradient that
vanishes is below the bound.
"""

from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from experiments.derivation_audit.claim import Line, Saying, one_case
from experiments.derivation_audit.networks import (
    LN10,
    Sizes,
    begin,
    cells,
    corpus,
    plain,
    text_batch,
    text_loss,
    train,
)
from lstm_jax import Cell, unroll
from lstm_jax.language import one_hot

CLIP = 1.0
RATE = 1.0
BATCHES = 32
OPTIMIZERS = {
    "clipped": optax.chain(optax.clip_by_global_norm(CLIP), optax.sgd(RATE)),
    "as it is": optax.sgd(RATE),
}
NETWORKS = {"relu_large": "ReLU, 2 × orthogonal", "rnn_large": "tanh, 2 × orthogonal"}


def gradients(cell: Cell, model: Any, sizes: Sizes, key: Any) -> np.ndarray:
    """The gradient of each of some batches of text, [batches, parameters]."""

    def one(key: Any) -> Any:
        return jax.grad(partial(text_loss, cell))(model, text_batch(sizes, key))

    found = jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(key, BATCHES))
    return np.concatenate(
        [np.asarray(leaf, np.float64).reshape(BATCHES, -1) for leaf in jax.tree.leaves(found)], 1
    )


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of the angle between two gradients."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def credit(cell: Cell, model: Any, sizes: Sizes, key: Any) -> np.ndarray:
    """Decades of ‖∂ℓ_T/∂h_k‖ against the lag, lag 0 at 0: of the last step's loss of one batch."""
    codes = text_batch(sizes, key)
    xs = one_hot(codes[:-1], corpus().vocabulary.size, model.w_y.dtype)

    def loss(nudges: Any) -> Any:
        def step(params: Any, state: Any, x: Any) -> Any:
            x, nudge = x
            state, _ = cell.step(params, state, x)
            state = state._replace(h=state.h + nudge)
            return state, state.h

        state0 = cell.initial_state(sizes.batch)
        _, hs = unroll(step, model.cell, (xs, nudges), state0, gradient="autodiff")
        logits = hs[-1] @ model.w_y + model.b_y[None]
        return optax.softmax_cross_entropy_with_integer_labels(logits, codes[-1]).mean()

    zero = jax.numpy.zeros((sizes.length, sizes.batch, sizes.hidden))
    norms = np.linalg.norm(np.asarray(jax.jit(jax.grad(loss))(zero), np.float64), axis=(1, 2))
    return np.log(norms[::-1] / norms[-1]) / LN10


def clipping(sizes: Sizes, seed: int) -> Saying:
    """What clipping does to steps, to directions, to lags and to a training."""
    inputs = corpus().vocabulary.size
    keys = jax.random.split(jax.random.key(seed), 3)
    made = cells(inputs, sizes.hidden)
    cases, lines = [], []
    for name, label in list(NETWORKS.items())[: sizes.clipped]:
        cell = plain(name, inputs, sizes.hidden)
        model = begin(made[name], inputs, keys[0])
        found = gradients(cell, model, sizes, keys[1])
        norms = np.linalg.norm(found, axis=1, keepdims=True)
        clipped = found * np.minimum(1, CLIP / norms)
        longest = float(np.linalg.norm(clipped, axis=1).max())
        cases.append(
            one_case(
                f"{label}: longest gradient clipped",
                longest,
                longest <= 1.0001 * CLIP,
                f"as it is {norms.max():.3g}",
            )
        )
        mean = cosine(clipped.mean(0), found.mean(0))
        cases.append(
            one_case(
                f"{label}: cosine of the mean clipped gradient and the mean", mean, mean > 0.99
            )
        )
        bound = CLIP / np.sqrt(found.shape[1])
        by_value = np.clip(found, -bound, bound)
        value = float(np.median([cosine(*pair) for pair in zip(by_value, found, strict=True)]))
        cases.append(one_case(f"{label}: cosine after clipping by value", value, value > 0.99))
        ends, short = {}, label.replace(", ", " ")
        for called, optimizer in OPTIMIZERS.items():
            _, losses = train("text", cell, optimizer, sizes, sizes.text_steps // 2, model, keys[2])
            curve = np.asarray(losses, np.float64)
            ends[called] = float(curve[-max(len(curve) // 10, 1) :].mean())
            lines.append(Line(f"{short}, {called}", np.arange(len(curve)), curve))
        end, start = ends["clipped"], float(curve[0])
        cases.append(
            one_case(
                f"{label}: loss after training clipped",
                end,
                bool(np.isfinite(end)) and end < start,
                f"from {start:.3g}, as it is {ends['as it is']:.3g}",
            )
        )
    small = credit(
        plain("rnn", inputs, sizes.hidden), begin(made["rnn"], inputs, keys[0]), sizes, keys[1]
    )
    cases.append(
        one_case(
            f"tanh, uniform: decades of ∂ℓ_T/∂h_k at lag {len(small) - 1}, clipped or not",
            float(small[-1]),
            bool(small[-1] > -3),
        )
    )
    return Saying(
        "clipping",
        "Gradient explosion is handled by clipping",
        f"gradients of {BATCHES} batches of text, clipped at {CLIP:g}, and SGD at rate {RATE:g}; holds where "
        "the bound, the direction (cosine above 0.99), the training or the far lags (above −3) are saved",
        tuple(cases),
        "it bounds the step, and so a training survives; the direction of one gradient is kept by norm, "
        "not by value, that of a mean is not, and what has vanished stays so",
        tuple(lines),
        "training step",
        "loss (nats a letter)",
    )
