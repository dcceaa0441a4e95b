"""The tasks: an answer at the end of a sequence that depends on what was seen long before it.

recall           one of four symbols at the first step, then noise of four others; the answer is the symbol
copy             three of four symbols, T blanks, a sign, and three steps at which to say them
adding_uniform   `lstm_jax.tasks.adding`, form "uniform"
adding_1997      `lstm_jax.tasks.adding`, form "1997"
order            `lstm_jax.tasks.temporal_order`, form "fractions"

Axes: xs[T, B, D]; answers[A, B, outputs], of the last A steps of each sequence.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.tasks import Examples, adding, temporal_order

Array = jax.Array

COPIED = 3
"""Symbols to copy."""


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
