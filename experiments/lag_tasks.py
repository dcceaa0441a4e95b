"""Tasks with a long lag, their loss for a recurrent layer with a linear readout, and when they are solved.

The answer at the end of a sequence depends on what was seen long before it.

recall           one of four symbols at the first step, then noise of four others; the answer is the symbol
copy             three of four symbols, T blanks, a sign, and three steps at which to say them
adding_uniform   `lstm_jax.tasks.adding`, form "uniform"
adding_1997      `lstm_jax.tasks.adding`, form "1997"
order            `lstm_jax.tasks.temporal_order`, form "fractions"

Axes: xs[T, B, D]; answers[A, B, outputs], of the last A steps of each sequence.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lstm_jax.tasks import Examples, adding, temporal_order

Array = jax.Array

COPIED = 3
"""Symbols to copy."""
WINDOW = 50
"""Updates over which a network has to be good to count as solved."""


class Task(NamedTuple):
    """A task of any length.

    Attributes:
        inputs: D.
        outputs: classes, or 1 for a number.
        answers: A, the steps at the end that are asked.
        draw: ``draw(key, batch_size, length) -> Examples``, targets [A, B].
        place: ``place(xs) -> [B]``: the step, from 0, of the first input that the last answer needs.
        lag: ``lag(length)``: from there to the answer, on average.
        solved: a mean loss below it counts as solved, of a number; a share of right answers from it on, of a
            class.
    """

    inputs: int
    outputs: int
    answers: int
    draw: Callable[[Array, int, int], Examples]
    place: Callable[[Array], Array]
    lag: Callable[[int], float]
    solved: float

    @property
    def is_number(self) -> bool:
        """Whether the answer is a number."""
        return self.outputs == 1


def recall(key: Array, batch_size: int, length: int) -> Examples:
    """One of the symbols 0 to 3, then noise of the symbols 4 to 7."""
    key_symbol, key_noise = jax.random.split(key)
    symbols = jax.random.randint(key_symbol, (1, batch_size), 0, 4)
    noise = jax.random.randint(key_noise, (length - 1, batch_size), 4, 8)
    xs = jax.nn.one_hot(jnp.concatenate([symbols, noise]), 8)
    return Examples(xs, symbols, jnp.full(batch_size, length, jnp.int32))


def copy(key: Array, batch_size: int, delay: int) -> Examples:
    """Three of the symbols 0 to 3, ``delay`` blanks (4), a sign (5), and the three again at three blanks."""
    symbols = jax.random.randint(key, (COPIED, batch_size), 0, 4)
    rest = jnp.full((delay + COPIED, batch_size), 4, symbols.dtype).at[delay].set(5)
    xs = jax.nn.one_hot(jnp.concatenate([symbols, rest]), 6)
    return Examples(xs, symbols, jnp.full(batch_size, len(xs), jnp.int32))


def _one_answer(examples: Examples) -> Examples:
    return examples._replace(targets=examples.targets[None])


def _first(marked: Array) -> Array:
    return jnp.argmax(marked, axis=0)


TASKS = {
    "recall": Task(
        8, 4, 1, recall, lambda xs: jnp.zeros(xs.shape[1], int), lambda t: t - 1, 0.98
    ),
    "adding_uniform": Task(
        2, 1, 1, lambda *given: _one_answer(adding(*given, form="uniform")),
        lambda xs: _first(xs[..., 1] == 1), lambda t: 0.75 * t, 0.01,
    ),
    "adding_1997": Task(
        2, 1, 1, lambda *given: _one_answer(adding(*given, form="1997")),
        lambda xs: _first(xs[..., 1] == 1), lambda t: t, 0.0025,
    ),
    "order": Task(
        8, 4, 1, lambda *given: _one_answer(temporal_order(*given, form="fractions")),
        lambda xs: _first(xs[..., 4] + xs[..., 5] > 0), lambda t: 0.85 * t, 0.98,
    ),
    "copy": Task(
        6, 4, COPIED, copy, lambda xs: jnp.full(xs.shape[1], COPIED - 1), lambda t: t + COPIED, 0.98
    ),
}  # fmt: skip


class Model(NamedTuple):
    """The recurrent layer and its readout."""

    cell: Any
    w_y: Any
    b_y: Any


def answer_losses(task: Task, answers: Array, targets: Array) -> Array:
    """The loss of each answer, [A, B], from the answers [A, B, outputs]."""
    if task.is_number:
        return (answers[..., 0] - targets) ** 2
    return optax.softmax_cross_entropy_with_integer_labels(answers, targets)


def asked(task: Task, hs: Array, examples: Examples) -> Array:
    """The states [A, B, H] in which each answer is asked, of hs[T, B, H]."""
    if task.answers > 1:
        return hs[-task.answers :]
    return hs[examples.lengths - 1, jnp.arange(hs.shape[1])][None]


def read_out(model: Model, hs: Array) -> Array:
    """The answers [..., outputs] from the states [..., H]."""
    answers = hs @ model.w_y
    return answers + jnp.broadcast_to(model.b_y, answers.shape)


def same(answers: Array) -> Array:
    """The answers as they are."""
    return answers


def task_loss(
    task: Task,
    run: Callable[[Any, Array], Array],
    batch_size: int,
    length: int,
    through: Callable[[Array], Array] = same,
) -> Callable[[Model, Array], tuple[Array, Array]]:
    """The loss of a model on sequences that a key draws, and its score.

    Args:
        task: what the sequences are.
        run: ``run(params, xs) -> hs``, the recurrent layer.
        batch_size: sequences.
        length: T.
        through: what the answers go through ahead of the loss.

    Returns:
        ``loss(model, key)``: the mean loss, and the score: the loss again of a number, the share of right
        answers of a class.
    """

    def loss(model: Model, key: Array) -> tuple[Array, Array]:
        given = task.draw(key, batch_size, length)
        answers = through(read_out(model, asked(task, run(model.cell, given.xs), given)))
        value = answer_losses(task, answers, given.targets).mean()
        if task.is_number:
            return value, value
        return value, (jnp.argmax(answers, -1) == given.targets).mean()

    return loss


def first_solved(scores: np.ndarray, task: Task) -> int | None:
    """The first update whose `WINDOW` last scores are good on average; None if there is none."""
    if len(scores) < WINDOW:
        return None
    # float64: the sums of many small numbers are exact enough to compare with a threshold.
    means = np.convolve(np.float64(scores), np.full(WINDOW, 1 / WINDOW), "valid")
    good = means < task.solved if task.is_number else means >= task.solved
    return int(np.argmax(good)) + WINDOW if good.any() else None
