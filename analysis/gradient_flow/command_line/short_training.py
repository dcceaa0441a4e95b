r"""The short training run of a comparison: several networks learn the next character, in one program.

Networks of one kind differ only in their initialisation. So one compiled program trains all of them, on the
same windows of the text.

The readout's bias starts as the log frequency of each character. With a bias of zeros Adam needs hundreds of
steps to learn these numbers, and memory units of an LSTM become constants in their place: they saturate and
carry nothing (`docs/training.md`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lstm_jax.array_types import Array, Int
from lstm_jax.cells import Cell
from lstm_jax.initializers import Initializer
from lstm_jax.language import (
    Batch,
    LanguageModel,
    LanguageParams,
    language_model,
    language_problem,
    log_frequency,
    nats_per_token,
    windows,
)
from lstm_jax.layers.stack import stack
from lstm_jax.training import Problem, TrainState, init_state, train_step
from lstm_jax.validation import NonFiniteError

WINDOW = 100
"""Characters in a window, T."""
BATCH_SIZE = 24
"""Windows in a batch, B."""
CLIP_NORM = 1.0
"""Bound on the gradient's global norm."""
RATE = 2e-2
"""Adam's learning rate. Of 0.005, 0.01, 0.02 and 0.04 it leaves the fewest bits on held-out text after 800
steps, for the LSTM, the GRU and the vanilla network alike."""
STEPS_AT_ONCE = 25
"""Steps in one call of the compiled program; the progress is shown after each."""
HELD_OUT = 0.1
"""Share of the text, at its end, that is held out for the test."""
TEST_ROWS = 64
"""Rows of the held-out text."""


class Trained(NamedTuple):
    """A trained network.

    Attributes:
        params: of the cell.
        bits: the loss of every step, in bits per character.
        held_out: bits per character on the held-out text.
    """

    params: Any
    bits: list[float]
    held_out: float


def split(codes: Int[np.ndarray, "characters"]) -> tuple[Any, Any]:
    """The text to train on, and the text held out: its end."""
    cut = len(codes) - int(len(codes) * HELD_OUT)
    return codes[:cut], codes[cut:]


def shortest_text(steps: int) -> int:
    """Characters that a text needs for training and for the test."""
    return int((WINDOW + 1) / (1 - HELD_OUT)) + int(2 * TEST_ROWS / HELD_OUT) if steps else 1


def model_of(cell: Cell, readout_bias: Initializer) -> LanguageModel:
    """A language model over one-hot characters, as many as the cell has inputs."""
    return language_model(stack(cell), cell.input_size, embedding=False, b_y_init=readout_bias)


def train(
    cells: Sequence[Cell],
    codes: Int[np.ndarray, "characters"],
    steps: int,
    rate: float,
    seed: int,
    report: Callable[[int, float], None] = lambda step, bits: None,
    *,
    readout_bias: Initializer | None = None,
) -> list[Trained]:
    """Train networks that differ only in their initialisation, all in one program.

    Args:
        cells: equal except for their initialisers.
        codes: the text; its end is held out.
        steps: gradient steps.
        rate: Adam's learning rate.
        seed: of the windows, and of the parameters with the network's number.
        report: called after every few steps with the number of steps so far and their mean loss in bits.
        readout_bias: initialiser of the readout's bias; the log frequency of each character if None.

    Returns:
        Each network after training.

    Raises:
        NonFiniteError: a loss that is not finite, with its step.
    """
    seen, held_out = split(codes)
    readout_bias = readout_bias or log_frequency(seen, cells[0].input_size)
    model = model_of(cells[0], readout_bias)
    problem, optimizer = problem_of(model), optimizer_of(rate)
    states = [
        start(problem, optimizer, model_of(cell, readout_bias), seed, n)
        for n, cell in enumerate(cells)
    ]
    text = jnp.asarray(seen)
    bits = np.zeros((0, len(cells)))
    for done in range(0, steps, STEPS_AT_ONCE):
        count = min(STEPS_AT_ONCE, steps - done)
        states, nats = _some_steps(model, rate, count, states, text)
        found = np.asarray(nats) / np.log(2)
        bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
        if len(bad):
            wrong = found[bad[0]][~np.isfinite(found[bad[0]])][0]
            raise NonFiniteError(
                f"Non-finite value: expected a finite training loss, got {wrong} at step "
                f"{done + bad[0] + 1}."
            )
        bits = np.concatenate([bits, found])
        report(len(bits), float(found.mean()))
    return [
        Trained(
            params.stack.layers[0],
            bits[:, n].tolist(),
            nats_per_token(model, params, held_out, batch_size=TEST_ROWS) / float(np.log(2)),
        )
        for n, params in enumerate(state.params for state in states)
    ]


def optimizer_of(rate: float) -> optax.GradientTransformation:
    """Adam behind a bound on the gradient's norm."""
    return optax.chain(optax.clip_by_global_norm(CLIP_NORM), optax.adam(rate))


def problem_of(model: LanguageModel) -> Problem:
    """The next character, in windows at random places, each from a state of zeros."""

    def batch(codes: Array, step: Array, key: Array) -> Batch:
        cut = windows(jax.random.fold_in(key, step), codes, WINDOW + 1, BATCH_SIZE)
        return Batch(cut[:-1], cut[1:], jnp.asarray(True))

    return language_problem(model, batch, BATCH_SIZE)


def start(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    model: LanguageModel,
    seed: int,
    number: int,
) -> TrainState:
    """The state before the first step: the network's parameters, and the seed of the common windows."""

    def init(key: Array) -> LanguageParams:
        return model.init(jax.random.fold_in(key, number))

    with jax.numpy_dtype_promotion("standard"):
        return init_state(problem._replace(init=init), optimizer, seed)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _some_steps(
    model: LanguageModel, rate: float, count: int, states: list[TrainState], codes: Array
) -> tuple[list[TrainState], Array]:
    """Some steps of all networks, and their losses in nats, [steps, networks]."""
    step = train_step(problem_of(model), optimizer_of(rate))

    def all_of_them(states: list[TrainState], _: None) -> tuple[list[TrainState], Array]:
        # One after the other: products with a network axis in front are slower on a CPU.
        after = [step(state, codes) for state in states]
        nats = jnp.stack([metrics.more["nats"] for _, metrics in after])
        return [state for state, _ in after], nats

    with jax.numpy_dtype_promotion("standard"):
        return jax.lax.scan(all_of_them, states, None, length=count)
