r"""Several steps in one compiled call, as many as are asked for each time.

    n = begin
    while n < begin + count and state.step = n:   state, row_n = step(state, data);   n = n + 1

The number is an argument of the program, not a part of it: one program does any number of steps, so a run's
numbers do not depend on how its steps are grouped. A step that is not finite does not count, so it ends the
call, and a call behind it does nothing.

Axes: the metrics are ``[most, …]``, a row for each step, in a sweep ``[seeds, most, …]``; the seeds are the
first axis of every leaf of the state. The rows of steps that were not done are not ``finite``.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Bool, PyTree, shapes_of
from lstm_jax.training.step import Metrics, Step, TrainState, finite_leaves, where

MOST_STEPS = 128
"""Steps of one call at most: their metrics are held on the device."""

LARGE_ON_A_CPU = 10_000
"""Parameters from which on the runs of a sweep on a CPU go one after the other: four to eight LSTMs of H = 64
took 0.6 to 0.9 of the time of `jax.vmap` in that way, and four of H = 8 1.6 times as long."""

Nonfinite = Literal["stop", "skip", "freeze"]
"""What becomes of a step that is not finite: it ends the call; it counts, without its update, which the step
has left out; or it is undone, and its seed takes no other."""

SeveralSteps = Callable[[TrainState, PyTree, Any, Any], tuple[TrainState, "Rows"]]


class Rows(NamedTuple):
    """The metrics of the steps of a call.

    Attributes:
        metrics: a row for each step; in a sweep, for each seed.
        params: whether each parameter is finite after the last step, in the order of `parameter_names`.
    """

    metrics: Metrics
    params: Bool[Array, "*seeds parameters"]


def several_steps(step: Step, nonfinite: Nonfinite, most: int = MOST_STEPS) -> SeveralSteps:
    """``call(state, data, begin, count) -> (state, rows)``: the ``count`` steps after step ``begin``.

    Args:
        step: from `train_step`.
        nonfinite: what becomes of a step that is not finite.
        most: steps of one call.
    """
    once = _once(step, nonfinite)

    def call(state: TrainState, data: PyTree, begin: Any, count: Any) -> tuple[TrainState, Rows]:
        state, metrics = _loop(
            lambda state, n: once(state, data, n),
            lambda state, n: state.step == n,
            (state, begin, count, most),
        )
        return state, Rows(metrics, finite_leaves(state.params))

    return call


def sweep_steps(
    step: Step, nonfinite: Nonfinite, most: int = MOST_STEPS, *, one_by_one: bool
) -> SeveralSteps:
    """`several_steps` of every seed of a sweep.

    Args:
        step: from `train_step`, of one seed.
        nonfinite: as for `several_steps`; ``"freeze"`` rather than ``"stop"``.
        most: steps of one call.
        one_by_one: one seed after the other; if False, side by side by `jax.vmap`.
    """
    if one_by_one:
        alone = several_steps(step, nonfinite, most)
        return lambda state, data, begin, count: jax.lax.map(
            lambda one: alone(one, data, begin, count), state
        )
    once = jax.jit(jax.vmap(_once(step, nonfinite), in_axes=(0, None, None)))

    def call(state: TrainState, data: PyTree, begin: Any, count: Any) -> tuple[TrainState, Rows]:
        state, metrics = _loop(
            lambda state, n: once(state, data, n),
            lambda state, n: jnp.any(state.step == n),
            (state, begin, count, most),
        )
        metrics = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), metrics)
        return state, Rows(metrics, jax.vmap(finite_leaves)(state.params))

    return call


def faster_one_by_one(params: PyTree) -> bool:
    """Whether the runs of a sweep are to go one after the other, from the shapes of all their parameters."""
    leaves = jax.tree.leaves(params)
    size = sum(leaf.size // leaf.shape[0] for leaf in leaves)
    return jax.default_backend() == "cpu" and size >= LARGE_ON_A_CPU


def _once(
    step: Step, nonfinite: Nonfinite
) -> Callable[[TrainState, PyTree, Array], tuple[TrainState, Metrics]]:
    def once(state: TrainState, data: PyTree, n: Array) -> tuple[TrainState, Metrics]:
        after, metrics = step(state, data)
        if nonfinite == "stop":
            counted = jnp.where(metrics.finite, after.step, state.step)
            return after._replace(step=counted), metrics
        if nonfinite == "freeze":
            going = metrics.finite & (state.step == n)
            return where(going, after, state), metrics._replace(finite=going)
        return after, metrics

    # Traced once, for its shapes and for the loop.
    return jax.jit(once)


def _loop(
    once: Callable[[TrainState, Array], tuple[TrainState, Metrics]],
    goes_on: Callable[[TrainState, Array], Array],
    given: tuple[TrainState, Any, Any, int],
) -> tuple[TrainState, Metrics]:
    state, begin, count, most = given
    begin, count = jnp.asarray(begin, jnp.int32), jnp.asarray(count, jnp.int32)
    _, like = shapes_of(once, state, begin)
    rows = jax.tree.map(lambda leaf: jnp.zeros((most, *leaf.shape), leaf.dtype), like)

    def condition(loop: tuple[Array, TrainState, Metrics]) -> Array:
        done, state, _ = loop
        return (done < count) & goes_on(state, begin + done)

    def body(loop: tuple[Array, TrainState, Metrics]) -> tuple[Array, TrainState, Metrics]:
        done, state, rows = loop
        state, row = once(state, begin + done)
        rows = jax.tree.map(lambda leaf, one: leaf.at[done].set(one), rows, row)
        return done + 1, state, rows

    _, state, rows = jax.lax.while_loop(condition, body, (jnp.int32(0), state, rows))
    return state, rows
