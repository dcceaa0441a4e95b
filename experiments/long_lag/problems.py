r"""The tasks as problems for `lstm_jax.training`: a recurrent layer, a linear readout, and what is counted.

    ŷ = h_T W_y + b_y          at each sequence's own last step; of `copy` at every step

What is carried from batch to batch is the record of the last 2,000 sequences: a run that goes on knows
what it had solved.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.long_lag.networks import Network, network
from experiments.long_lag.trials import Trial
from lstm_jax import RNNParams, RNNState, unroll
from lstm_jax.initializers import uniform
from lstm_jax.tasks import Examples, adding, copy_memory, temporal_order
from lstm_jax.training import Problem
from lstm_jax.vanishing_penalty import state_cotangents, vanishing_penalty

Array = jax.Array

RECENT = 2_000
"""Sequences that have to be right, one after the other."""

RIGHT = 0.04
"""Largest error of a right answer to the adding problem."""

SHORTEST = 50
"""Of the lengths that temporal order is trained on."""

SIZES = {"adding": (2, 1), "chrono": (2, 1), "copy": (10, 10), "order": (8, 4)}
"""Inputs and outputs of a task."""


class Model(NamedTuple):
    """Parameters of the recurrent layer and the readout."""

    cell: Any
    w_y: Any
    b_y: Any


class Record(NamedTuple):
    """What is known of the latest sequences.

    Attributes:
        errors: of the last `RECENT` ones, the newest last; infinite where there were none yet.
        seen: sequences trained on.
        solved: how many it had been when the criterion was first met; 0 before.
    """

    errors: Any
    seen: Any
    solved: Any


def network_of(trial: Trial) -> Network:
    """The trial's network, for its task's inputs."""
    return network(trial.network, SIZES[trial.task][0], trial.hidden_size, trial.t_max)


def examples(trial: Trial, key: Array, batch_size: int, *, one_length: bool = False) -> Examples:
    """Sequences of the task; of temporal order with all lengths that it is trained on, or with one."""
    if trial.task == "copy":
        return copy_memory(key, batch_size, trial.length)
    if trial.task == "order":
        shortest = None if one_length else min(SHORTEST, trial.length)
        return temporal_order(key, batch_size, trial.length, form="fractions", shortest=shortest)
    form = "uniform" if trial.task == "chrono" else "1997"
    return adding(key, batch_size, trial.length, form=form)


def predict(trial: Trial, model: Model, given: Examples) -> Array:
    """The answers, [B, outputs]; of `copy` [T, B, outputs]."""
    cell = network_of(trial).cell
    if trial.task == "copy":
        return _read(model, unroll(cell, model.cell, given.xs)[1])
    state, _ = unroll(cell, model.cell, given.xs, lengths=given.lengths)
    return _read(model, state.h)


def errors(trial: Trial, answers: Array, given: Examples) -> Array:
    """How wrong each sequence's answer is, [B]: its distance; of classes 0 for right and 1 for wrong."""
    if trial.task in ("adding", "chrono"):
        return jnp.abs(answers[..., 0] - given.targets)
    wrong = jnp.argmax(answers, axis=-1) != given.targets
    return (wrong.any(0) if trial.task == "copy" else wrong).astype(jnp.float32)


def right(trial: Trial, wrong: Array) -> Array:
    """Which of those errors are none."""
    return wrong < (RIGHT if trial.task in ("adding", "chrono") else 0.5)


def problem(trial: Trial) -> Problem:
    """The trial's problem."""
    inner = network_of(trial).cell
    outputs = SIZES[trial.task][1]

    def init(key: Array) -> Model:
        key_cell, key_y = jax.random.split(key)
        if trial.task == "order":
            return _smart(key_cell, key_y, trial.hidden_size)
        size = inner.output_size
        w_y = uniform(size**-0.5)(key_y, (size, outputs))
        return Model(inner.init(key_cell), w_y, jnp.zeros(outputs))

    def loss(
        model: Model, record: Record, given: Examples, key: Array
    ) -> tuple[Array, tuple[Record, dict[str, Array]]]:
        del key
        answers = predict(trial, model, given)
        if trial.task in ("adding", "chrono"):
            value = jnp.mean((answers[..., 0] - given.targets) ** 2)
        else:
            value = optax.softmax_cross_entropy_with_integer_labels(answers, given.targets).mean()
        wrong = jax.lax.stop_gradient(errors(trial, answers, given))
        more = {"wrong": 1 - right(trial, wrong).mean()}
        if trial.penalty:
            extra, more["penalty"] = _penalty(trial, model, given)
            value = value + trial.penalty * extra
        record = _recorded(trial, record, wrong)
        return value, (record, {**more, "solved": record.solved.astype(jnp.float32)})

    return Problem(
        init=init,
        loss=loss,
        batch=lambda data, step, key: examples(
            trial, jax.random.fold_in(key, step), trial.batch_size
        ),
        carry=lambda: Record(jnp.full(RECENT, jnp.inf), jnp.int32(0), jnp.int32(0)),
        batch_axes=Examples(xs=1, targets=1 if trial.task == "copy" else 0, lengths=0),
        carry_axes=None,
    )


def _read(model: Model, hs: Array) -> Array:
    answers = hs @ model.w_y
    return answers + jnp.broadcast_to(model.b_y, answers.shape)


def _recorded(trial: Trial, record: Record, wrong: Array) -> Record:
    seen = record.seen + len(wrong)
    latest = jnp.concatenate([record.errors, wrong])[-RECENT:]
    met = right(trial, latest).all() & (latest.mean() < 0.01)
    solved = jnp.where((record.solved == 0) & met, seen, record.solved)
    return Record(latest, seen, solved)


def _penalty(trial: Trial, model: Model, given: Examples) -> tuple[Array, Array]:
    """A number whose gradient by W_h is the penalty's immediate one and whose value is 0; and the penalty."""
    cell = network_of(trial).cell
    held = jax.lax.stop_gradient(model)
    state, hs = unroll(cell, held.cell, given.xs, lengths=given.lengths)

    def readout(h: Array) -> Array:
        scores = _read(held, h)
        return optax.softmax_cross_entropy_with_integer_labels(scores, given.targets).mean()

    d_state = RNNState(jax.grad(readout)(state.h))
    d_totals = state_cotangents(cell, held.cell, hs, d_state=d_state, lengths=given.lengths)
    # Squared norms, as in the program behind the paper's results.
    found = jax.lax.stop_gradient(vanishing_penalty(cell, held.cell, hs, d_totals, squared=True))
    return jnp.vdot(model.cell.w_h - held.cell.w_h, found.d_w_h), found.omega


def _smart(key: Array, key_y: Array, size: int) -> Model:
    """Pascanu et al.'s start: 15 connections a unit, spectral radius 0.95, the rest from N(0, 0.01²)."""
    keys = jax.random.split(key, 3)
    connections = min(15, size)
    w_h = jax.random.normal(keys[0], (size, size))
    order = jnp.argsort(jax.random.uniform(keys[1], (size, size)), axis=1)
    w_h = jnp.where(order < connections, w_h, 0.0)
    # The largest modulus of an eigenvalue by the growth of powers: `eigvals` is not for every device.
    radius = _spectral_radius(w_h)
    inputs, outputs = SIZES["order"]
    w_x = 0.01 * jax.random.normal(keys[2], (inputs, size))
    w_y = 0.01 * jax.random.normal(key_y, (size, outputs))
    return Model(RNNParams(w_x, w_h * (0.95 / radius), jnp.zeros(size)), w_y, jnp.zeros(outputs))


def _spectral_radius(w: Array) -> Array:
    """‖Wⁿ‖^(1/n) at n = 2¹², by repeated squaring, rescaled at every step."""

    def square(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        power, log_scale = carry
        power = power @ power
        norm = jnp.linalg.norm(power)
        return (power / norm, 2 * log_scale + jnp.log(norm)), None

    norm = jnp.linalg.norm(w)
    (_, log_scale), _ = jax.lax.scan(square, (w / norm, jnp.log(norm)), None, length=12)
    return jnp.exp(log_scale / 2**12)
