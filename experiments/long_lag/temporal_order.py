r"""Temporal order for a vanilla network: trained on lengths 50 to 200, tested on much longer ones.

After Pascanu, Mikolov & Bengio 2013: their start (15 connections a unit, spectral radius 0.95), clipping
at 1, plain gradient descent, every batch of one length, and their penalty Ω on vanishing gradients. Five
things are added, and two are changed:

    lengths    uniform from 50 to L; L = 60, and 10 more, up to 200, whenever the mean loss of 1,000 batches
               comes below 0.2; of one batch in three at most 60, or a network forgets the short ones
    waiting    four of five sequences do not begin at h = 0 with E, but with the state that a sequence of the
               last batch had before its first symbol: a network that has only waited for 40 steps keeps both
               symbols for ever but forgets, after some 100 steps, that it is waiting
    noise      σ ξ_t on the pre-activations in training, ξ ~ N(0, 1): in 200 steps it destroys a memory that
               drifts, but not one that returns to a fixed point
    validated  every 1,000 updates the loss of 2,560 fresh sequences of 50 to 200 steps is taken, and the
               weights with the lowest one are tested: once learned, it is lost again and again
    α Ω        α = 4 until L grows for the first time, then 0.1, and from L = 120 on 0.02: Ω asks every step
               to preserve the gradient's norm, which a memory that returns to a fixed point cannot
    rate       0.01, 0.003 and 0.001 in the same three stages; in the last third of the updates it falls to 0
    back       the weights after the thousand batches with the lowest mean loss since L grew are kept; a
               thousand with a loss above 0.2 and above three times that one is undone: training goes on from
               those weights, at half the rate

Carried from batch to batch: L, what is kept, the waiting states and the record of the last 2,000 sequences.
No gradient passes from one batch to another.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.lag_tasks import Model, read_out
from experiments.long_lag.problems import (
    RECENT,
    SIZES,
    errors,
    examples,
    predict,
    recorded,
    right,
)
from experiments.long_lag.trials import Trial
from lstm_jax import RNNParams, RNNState, Sequences, rnn, unroll
from lstm_jax.tasks import Examples, temporal_order
from lstm_jax.training import Problem
from lstm_jax.training.gradient_penalty import state_cotangents, vanishing_penalty

Array = jax.Array

SHORTEST = 50
"""The shortest length in training."""

FIRST, MORE = 60, 10
"""The first longest length L, and its growth at a time."""

SHORT = 1 / 3
"""Share of batches that stay as short as the first ones."""

BATCHES, LEARNED = 1_000, 0.2
"""L grows when the mean loss of so many batches is below this."""

NOISE = 0.02
"""σ."""

LATE = 120
"""L at which the last of three stages begins; the second begins at its first growth."""

PENALTIES = (1.0, 0.025, 0.005)
"""α in each stage, relative to the first."""

RATES = (1.0, 0.3, 0.1)
"""The rate in each stage, likewise."""

JUMP = 3.0
"""A thousand batches that were not learned, with more than so many times the lowest loss, are undone."""

CALMER = 0.5
"""The factor on the rate after that."""

COOLING = 1 / 3
"""The share of the updates in which the rate falls to 0, linearly."""

CLIP = 1.0
"""Largest norm of the gradient."""

VALIDATED, VALID_LENGTHS, VALID_SEQUENCES = 1_000, (50, 100, 150, 200), 640
"""Updates between two validations; their lengths, and the sequences of each."""

WAITS_ON = 0.8
"""Share of sequences that begin in a waiting state."""

FIRST_SYMBOL = slice(4, 6)
"""The entries of an input for the symbols X and Y."""


class Record(NamedTuple):
    """The carry from batch to batch.

    Attributes:
        errors, seen, solved: as in `problems.Record`.
        longest: L.
        batches: the number since the mean loss was last compared.
        total: the sum of their losses.
        kept: the weights after the thousand batches with the lowest mean loss since L grew.
        lowest: that loss; infinite before the first thousand.
        calm: the share of the rate that jumps have left.
        back: whether the next step goes back to ``kept``.
        waited: h of each sequence of the last batch, before its first symbol, [B, H].
    """

    errors: Any
    seen: Any
    solved: Any
    longest: Any
    batches: Any
    total: Any
    kept: Model
    lowest: Any
    calm: Any
    back: Any
    waited: Any


def problem(trial: Trial) -> Problem:
    """The trial's problem; its ``penalty`` is the first α, its ``length`` the last L."""
    shortest, first = min(SHORTEST, trial.length), min(FIRST, trial.length)
    # Padded to one of four lengths, so that short batches take few steps.
    padded = sorted({shortest + round((trial.length - shortest) * n / 4) for n in (1, 2, 3, 4)})

    def init(key: Array) -> Model:
        key_cell, key_y = jax.random.split(key)
        return smart_start(key_cell, key_y, trial.hidden_size)

    def loss(
        model: Model, record: Record, given: tuple[()], key: Array
    ) -> tuple[Array, tuple[Record, dict[str, Array]]]:
        del given
        key_length, key_examples, key_noise = jax.random.split(key, 3)
        keys = jax.random.fold_in(key, 4), key_length
        length = drawn_length(*keys, shortest, first, record.longest)
        stage = jnp.where(record.longest >= LATE, 2, (record.longest > first).astype(jnp.int32))
        weight = trial.penalty * jnp.asarray(PENALTIES)[stage]
        weights = model
        undone = Undone(record.kept, record.back, jnp.float32(trial.learning_rate))
        left = 1 - record.seen / (trial.batch_size * trial.steps)
        share = record.calm * jnp.asarray(RATES)[stage] * jnp.minimum(1, left / COOLING)
        model = limited(model, share, undone)
        on = (record.seen > 0) & jax.random.bernoulli(
            jax.random.fold_in(key, 3), WAITS_ON, (trial.batch_size,)
        )
        h0 = jnp.where(on[:, None], record.waited, 0.0)

        def at(steps: int, model: Model) -> tuple[Array, tuple[Array, Array, Array]]:
            lengths = jnp.full(trial.batch_size, length)
            drawn = temporal_order(
                key_examples, trial.batch_size, steps, form="fractions", lengths=lengths
            )
            drawn = continued(key_examples, drawn, on)
            return penalised_loss(trial, model, drawn, weight, jnp.float32(NOISE), key_noise, h0)

        branch = jnp.searchsorted(jnp.asarray(padded, jnp.int32), length)
        branches = [lambda model, steps=steps: at(steps, model) for steps in padded]
        value, found = jax.lax.switch(branch, branches, model)
        omega, wrong, waited = jax.lax.stop_gradient(found)
        record = recorded(trial, record, wrong)._replace(waited=waited)
        record = longer(
            record, jax.lax.stop_gradient(value), jax.lax.stop_gradient(weights), trial.length
        )
        more = {
            "wrong": 1 - right(trial, wrong).mean(),
            "penalty": omega,
            "longest": record.longest.astype(jnp.float32),
            "calm": record.calm,
            "solved": record.solved.astype(jnp.float32),
        }
        return value, (record, more)

    return Problem(
        init=init,
        loss=loss,
        # The carry has the longest length, so the examples are drawn in the loss.
        batch=lambda data, step, key: (),
        carry=lambda: Record(
            jnp.full(RECENT, jnp.inf),
            jnp.int32(0),
            jnp.int32(0),
            jnp.int32(first),
            jnp.int32(0),
            jnp.float32(0),
            jax.tree.map(jnp.zeros_like, init(jax.random.key(0))),
            jnp.float32(jnp.inf),
            jnp.float32(1),
            jnp.bool_(False),
            jnp.zeros((trial.batch_size, trial.hidden_size)),
        ),
        batch_axes=None,
        carry_axes=None,
    )


def drawn_length(
    key_short: Array, key_length: Array, shortest: int, first: int, longest: Array
) -> Array:
    """The length of a batch: up to L, or in one of three no longer than in the first ones."""
    short = jax.random.bernoulli(key_short, SHORT)
    most = jnp.where(short, jnp.minimum(first, longest), longest)
    return jax.random.randint(key_length, (), shortest, most + 1)


def validation(trial: Trial, key: Array, params: Any) -> dict[str, float]:
    """The mean loss of sequences that a key draws, a quarter of each length, and the wrong answers."""
    found = [
        _validation_of(replace(trial, length=length), VALID_SEQUENCES)(Model(*params), key)
        for length in VALID_LENGTHS
    ]
    losses, wrong = np.asarray(jax.device_get(found)).T
    return {"valid_loss": float(losses.mean()), "valid_wrong": float(wrong.sum())}


@lru_cache
def _validation_of(trial: Trial, count: int) -> Callable[[Model, Array], tuple[Array, Array]]:
    @jax.jit
    def one(model: Model, key: Array) -> tuple[Array, Array]:
        given = examples(trial, key, count)
        scores = predict(trial, model, given)
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, given.targets)
        return losses.mean(), errors(trial, scores, given).sum()

    return one


def longer(record: Record, loss: Array, weights: Model, most: int) -> Record:
    """The record with one batch more.

    After a thousand: with a longer L if they were learned; with these weights kept if L grew or none were
    better since then; on the way back to the kept ones if the loss has jumped.
    """
    batches, total = record.batches + 1, record.total + loss
    mean = total / BATCHES
    full = batches == BATCHES
    longest = jnp.where(
        full & (mean < LEARNED), jnp.minimum(record.longest + MORE, most), record.longest
    )
    better = (longest > record.longest) | (full & (mean < record.lowest))
    # Not a number is a jump.
    jumped = full & ~(mean <= jnp.maximum(LEARNED, JUMP * record.lowest))
    return record._replace(
        longest=longest,
        batches=jnp.where(full, 0, batches),
        total=jnp.where(full, 0, total),
        kept=jax.tree.map(lambda old, new: jnp.where(better, new, old), record.kept, weights),
        lowest=jnp.where(better, mean, record.lowest),
        calm=jnp.where(jumped, CALMER * record.calm, record.calm),
        back=jumped,
    )


def continued(key: Array, given: Examples, on: Array) -> Examples:
    """The examples, those of ``on`` [B] with another a, b, c or d in the place of E."""
    drawn = jax.nn.one_hot(jax.random.randint(jax.random.fold_in(key, 1), on.shape, 0, 4), 8)
    return given._replace(xs=given.xs.at[0].set(jnp.where(on[:, None], drawn, given.xs[0])))


def penalised_loss(
    trial: Trial,
    model: Model,
    given: Examples,
    weight: Array,
    noise: Array,
    key: Array,
    h0: Array,
) -> tuple[Array, tuple[Array, Array, Array]]:
    """The loss, whose gradient by W_h includes the penalty's; Ω, the errors, and the waiting states.

    Args:
        trial: of temporal order.
        model: its parameters.
        given: the sequences.
        weight: α.
        noise: σ.
        key: of the noise.
        h0: where each sequence begins, [B, H].

    Returns:
        The loss; and Ω, which answers are wrong [B], and h ahead of each first symbol [B, H].
    """
    size = trial.hidden_size
    # The noise enters as H more inputs, one for each unit.
    cell = rnn(SIZES["order"][0] + size, size)
    shape = (*given.xs.shape[:2], size)
    noisy = jnp.concatenate([given.xs, jax.random.normal(key, shape)], axis=-1)

    def run(cell_params: RNNParams) -> tuple[RNNState, Array, RNNParams]:
        wide = cell_params._replace(w_x=jnp.concatenate([cell_params.w_x, noise * jnp.eye(size)]))
        state, hs = unroll(
            cell, wide, noisy, RNNState(h0), sequences=Sequences(lengths=given.lengths)
        )
        return state, hs, wide

    def readout(w_y: Array, b_y: Array, h: Array) -> tuple[Array, Array]:
        scores = read_out(Model(None, w_y, b_y), h)
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, given.targets)
        return losses.mean(), scores

    state, hs, wide = run(model.cell)
    value, scores = readout(model.w_y, model.b_y, state.h)
    fixed, fixed_hs, fixed_wide = jax.lax.stop_gradient((model, hs, wide))
    d_h = jax.grad(lambda h: readout(fixed.w_y, fixed.b_y, h)[0])(jax.lax.stop_gradient(state.h))
    d_totals = state_cotangents(
        cell, fixed_wide, fixed_hs, d_state=RNNState(d_h), lengths=given.lengths
    )
    # Squared norms, as in the program behind the paper's results.
    found = vanishing_penalty(cell, fixed_wide, fixed_hs, d_totals, squared=True)
    # Its value is 0, and its gradient by W_h is the immediate gradient of the penalty.
    extra = jnp.vdot(model.cell.w_h - fixed.cell.w_h, found.d_w_h)
    first = jnp.argmax(given.xs[..., FIRST_SYMBOL].any(-1), axis=0)
    waited = hs[first - 1, jnp.arange(len(first))]
    return value + weight * extra, (found.omega, errors(trial, scores, given), waited)


class Undone(NamedTuple):
    """Where a step goes instead of down, if it does.

    Attributes:
        kept: the weights to go back to.
        back: whether to.
        rate: of the descent, by which the optimizer multiplies.
    """

    kept: Model
    back: Any
    rate: Any


@jax.custom_vjp
def limited(model: Model, share: Array, undone: Undone) -> Model:
    """The model; its gradient clipped by its norm and then multiplied by ``share``, or the way back.

    Not in the optimizer, because all of it depends on what is carried.
    """
    return model


def _limited_forward(model: Model, share: Array, undone: Undone) -> tuple[Model, Any]:
    return model, (model, share, undone)


def _limited_backward(kept: Any, d_model: Model) -> tuple[Model, Array, Any]:
    model, share, undone = kept
    norm = optax.tree.norm(d_model)
    factor = share * jnp.minimum(1.0, CLIP / norm)

    def one(d: Array, now: Array, before: Array) -> Array:
        # A gradient that overflowed has no direction.
        down = jnp.where(jnp.isfinite(norm), factor * d, 0.0)
        return jnp.where(undone.back, (now - before) / undone.rate, down)

    return jax.tree.map(one, d_model, model, undone.kept), jnp.zeros_like(share), None


limited.defvjp(_limited_forward, _limited_backward)


def smart_start(key: Array, key_y: Array, size: int) -> Model:
    """Pascanu et al.'s start: 15 connections a unit, spectral radius 0.95, the rest from N(0, 0.01²)."""
    keys = jax.random.split(key, 3)
    connections = min(15, size)
    w_h = jax.random.normal(keys[0], (size, size))
    places = jnp.argsort(jax.random.uniform(keys[1], (size, size)), axis=1)
    w_h = jnp.where(places < connections, w_h, 0.0)
    inputs, outputs = SIZES["order"]
    w_x = 0.01 * jax.random.normal(keys[2], (inputs, size))
    w_y = 0.01 * jax.random.normal(key_y, (size, outputs))
    # From the growth of powers, as `eigvals` does not run on every device.
    w_h = w_h * (0.95 / _spectral_radius(w_h))
    return Model(RNNParams(w_x, w_h, jnp.zeros(size)), w_y, jnp.zeros(outputs))


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
