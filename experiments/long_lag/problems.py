r"""The tasks as problems for `lstm_jax.training`: a recurrent layer, a linear readout, and their errors.

    ŷ = h_T W_y + b_y          at the last step of each sequence; for `copy` at every step

The record of the last 2,000 sequences is carried from batch to batch, so that a resumed run knows whether the
task is solved.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.lag_tasks import Model, read_out
from experiments.long_lag.networks import Network, network
from experiments.long_lag.trials import Trial
from lstm_jax import Sequences, unroll
from lstm_jax.initializers import uniform
from lstm_jax.tasks import Examples, adding, copy_memory, temporal_order
from lstm_jax.training import Problem

Array = jax.Array

RECENT = 2_000
"""Consecutive sequences that must be right."""

ADDING = ("adding", "chrono")
ORDER_1997 = {"order_two": 2, "order_three": 3}
"""Symbols of temporal order in the form of 1997."""

RIGHT = dict.fromkeys(ADDING, (0.04, 0.01)) | dict.fromkeys(ORDER_1997, (0.3, 0.1))
"""The error of a right answer is below the first, and the mean of many below the second."""

SIZES = {
    "adding": (2, 1), "chrono": (2, 1), "copy": (10, 10), "order": (8, 4), "order_two": (8, 4),
    "order_three": (8, 8),
}  # fmt: skip
"""Inputs and outputs of a task."""


class Record(NamedTuple):
    """The errors of the latest sequences.

    Attributes:
        errors: of the last `RECENT` ones, the newest last; infinite where there are none yet.
        seen: the number of sequences so far.
        solved: ``seen`` when the criterion was first met; 0 before.
    """

    errors: Any
    seen: Any
    solved: Any


def network_of(trial: Trial) -> Network:
    """The trial's network, for its task's inputs."""
    return network(trial.network, SIZES[trial.task][0], trial.hidden_size, trial.t_max)


def examples(trial: Trial, key: Array, batch_size: int) -> Examples:
    """Sequences of the task, of the trial's length."""
    if trial.task == "copy":
        return copy_memory(key, batch_size, trial.length)
    if trial.task == "order":
        return temporal_order(key, batch_size, trial.length, form="fractions")
    if trial.task in ORDER_1997:
        return temporal_order(key, batch_size, trial.length, symbols=ORDER_1997[trial.task])
    form = "uniform" if trial.task == "chrono" else "1997"
    return adding(key, batch_size, trial.length, form=form)


def predict(trial: Trial, model: Model, given: Examples) -> Array:
    """The answers, [B, outputs]; of `copy` [T, B, outputs]."""
    cell = network_of(trial).cell
    if trial.task == "copy":
        return read_out(model, unroll(cell, model.cell, given.xs)[1])
    state, _ = unroll(cell, model.cell, given.xs, sequences=Sequences(lengths=given.lengths))
    return read_out(model, state.h)


def errors(trial: Trial, answers: Array, given: Examples) -> Array:
    """The error of each sequence's answer, [B]: its distance; for classes 0 for right and 1 for wrong.

    In the form of 1997 an answer has an output for each class, here its probability: the error is the largest
    of them, which is that of the right class.
    """
    if trial.task in ADDING:
        return jnp.abs(answers[..., 0] - given.targets)
    if trial.task in ORDER_1997:
        own = jnp.take_along_axis(jax.nn.softmax(answers), given.targets[:, None], axis=1)
        return 1 - own[:, 0]
    wrong = jnp.argmax(answers, axis=-1) != given.targets
    return (wrong.any(0) if trial.task == "copy" else wrong).astype(jnp.float32)


def right(trial: Trial, wrong: Array) -> Array:
    """Which errors count as right answers."""
    return wrong < _limits(trial)[0]


def _limits(trial: Trial) -> tuple[float, float]:
    return RIGHT.get(trial.task, (0.5, 0.01))


def problem(trial: Trial) -> Problem:
    """The trial's problem; for temporal order see `experiments.long_lag.temporal_order`."""
    inner = network_of(trial).cell
    outputs = SIZES[trial.task][1]

    def init(key: Array) -> Model:
        key_cell, key_y = jax.random.split(key)
        size = inner.output_size
        w_y = uniform(size**-0.5)(key_y, (size, outputs))
        return Model(inner.init(key_cell), w_y, jnp.zeros(outputs))

    def loss(
        model: Model, record: Record, given: Examples, key: Array
    ) -> tuple[Array, tuple[Record, dict[str, Array]]]:
        del key
        answers = predict(trial, model, given)
        if trial.task in ADDING:
            value = jnp.mean((answers[..., 0] - given.targets) ** 2)
        else:
            value = optax.softmax_cross_entropy_with_integer_labels(answers, given.targets).mean()
        wrong = jax.lax.stop_gradient(errors(trial, answers, given))
        more = {"wrong": 1 - right(trial, wrong).mean()}
        record = recorded(trial, record, wrong)
        return value, (record, {**more, "solved": record.solved.astype(jnp.float32)})

    return Problem(
        init=init,
        loss=loss,
        batch=lambda data, step, key: examples(
            trial, jax.random.fold_in(key, step), trial.batch_size
        ),
        carry=lambda: Record(jnp.full(RECENT, jnp.inf), jnp.int32(0), jnp.int32(0)),
        batch_axes=Examples._make((1, 1 if trial.task == "copy" else 0, 0)),
        carry_axes=None,
    )


def recorded(trial: Trial, record: Any, wrong: Array) -> Any:
    """A `Record`, or another one with these three, with the errors of a batch added."""
    seen = record.seen + len(wrong)
    latest = jnp.concatenate([record.errors, wrong])[-RECENT:]
    met = right(trial, latest).all() & (latest.mean() < _limits(trial)[1])
    solved = jnp.where((record.solved == 0) & met, seen, record.solved)
    return record._replace(errors=latest, seen=seen, solved=solved)
