r"""Networks trained side by side: one program for a group, in which a network that is done makes room.

    θ ← θ − rate · Adam(clip(∂L/∂θ))

A network is done when it is solved and was looked at, when its loss is no number, or after the group's
updates. Its sequences depend on its seed and its number of updates alone, so that it is the same network
wherever it stands.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.lag_tasks import TASKS, WINDOW, Model, Task, first_solved, task_loss
from experiments.which_lags.groups import Group
from experiments.which_lags.starts import Start, parameters, plain_cell, starts_of
from lstm_jax import unroll
from lstm_jax.initializers import uniform

Array = jax.Array

CHUNK = 20
"""Updates in one call of the program."""
DIRECTION = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())


class Run(NamedTuple):
    """A network with a start, a seed and a rate."""

    start: Start
    seed: int
    rate: float


class Lane(NamedTuple):
    """A network in training.

    Attributes:
        model: its parameters.
        adam: Adam's state.
        rate: of Adam.
        seed: of its sequences.
        updates: how many it has had.
    """

    model: Any
    adam: Any
    rate: Any
    seed: Any
    updates: Any


class Trained(NamedTuple):
    """How a network's training ended.

    Attributes:
        run: which one.
        solved: the update after which it was solved; None if it never was.
        diverged: whether its loss became no number.
        updates: how many it had.
        last: the mean of the last `WINDOW` updates: the loss of a number, the share of right answers of a
            class.
        models: its parameters before the updates of ``Group.looks``, where it came so far.
    """

    run: Run
    solved: int | None
    diverged: bool
    updates: int
    last: float
    models: dict[int, Model]


def runs_of(group: Group) -> list[Run]:
    """Every network of a group."""
    return [
        Run(start, seed, rate)
        for rate in group.rates
        for start in starts_of(group.network)
        for seed in range(group.seeds)
    ]


def first_model(start: Start, task: Task, hidden_size: int, seed: int) -> Model:
    """A network before training."""
    key_cell, key_y = jax.random.split(jax.random.fold_in(jax.random.key(17), seed))
    w_y = uniform(hidden_size**-0.5)(key_y, (hidden_size, task.outputs))
    return Model(
        parameters(start, task.inputs, hidden_size, key_cell), w_y, jnp.zeros(task.outputs)
    )


def trained(group: Group, runs: Sequence[Run] | None = None) -> Iterator[Trained]:
    """Train every network of a group, or some; each comes as soon as it is done."""
    task, width = TASKS[group.task], group.side_by_side
    waiting = iter(runs_of(group) if runs is None else runs)
    go_on = program(group)
    lanes: Any = None
    slots: list[Slot | None] = [None] * width
    while True:
        for n in range(width):
            if slots[n] is None and (run := next(waiting, None)) is not None:
                lane = begun(run, task, group)
                lanes = stacked([lane] * width) if lanes is None else _put(lanes, n, lane)
                slots[n] = Slot(run, {0: jax.device_get(lane.model)} if 0 in group.looks else {})
        if not any(slots):
            return
        lanes, numbers = go_on(lanes)
        losses, scores = jax.device_get(numbers)
        for n, slot in enumerate(slots):
            if slot is None:
                continue
            slot.losses += losses[:, n].tolist()
            slot.scores += scores[:, n].tolist()
            done = len(slot.losses)
            if done in group.looks:
                slot.models[done] = jax.device_get(jax.tree.map(lambda a, at=n: a[at], lanes.model))
            end = ended(slot, task, group)
            if end is not None:
                yield end
                slots[n] = None


class Slot:
    """A place in the program, with what is known of the network that has it."""

    def __init__(self, run: Run, models: dict[int, Model]) -> None:
        self.run, self.models = run, models
        self.losses: list[float] = []
        self.scores: list[float] = []


def ended(slot: Slot, task: Task, group: Group) -> Trained | None:
    """How a network ended, if it did: one that is solved goes on to the last look."""
    done, values = len(slot.losses), np.asarray(slot.scores)
    if not np.isfinite(slot.losses).all():
        return Trained(slot.run, None, True, done, float("nan"), slot.models)
    solved = first_solved(values, task)
    if done < (group.updates if solved is None else max(group.looks)):
        return None
    return Trained(slot.run, solved, False, done, float(values[-WINDOW:].mean()), slot.models)


def begun(run: Run, task: Task, group: Group) -> Lane:
    """A network before its first update."""
    model = first_model(run.start, task, group.hidden_size, run.seed)
    return Lane(
        model, DIRECTION.init(model), jnp.float32(run.rate), jnp.int32(run.seed), jnp.int32(0)
    )


def stacked(lanes: Sequence[Lane]) -> Lane:
    """Networks side by side."""
    return jax.tree.map(lambda *a: jnp.stack([jnp.asarray(one) for one in a]), *lanes)


@jax.jit
def _put(lanes: Lane, n: int, lane: Lane) -> Lane:
    return jax.tree.map(lambda all_, one: all_.at[n].set(one), lanes, lane)


@lru_cache(maxsize=2)
def program(group: Group) -> Callable[[Lane], tuple[Lane, tuple[Array, Array]]]:
    """`CHUNK` updates of the networks side by side: losses and scores, [CHUNK, networks]."""
    task = TASKS[group.task]
    cell = plain_cell(group.network, task.inputs, group.hidden_size)
    # Small vanilla networks side by side are faster in the loop: 2.8 µs a step for the compiled kernel's 4.8.
    backend = "auto" if group.network in ("lstm", "gru") else "loop"

    def run(params: Any, xs: Array) -> Array:
        return unroll(cell, params, xs, backend=backend)[1]

    loss = task_loss(task, run, group.batch_size, group.length)

    def update(lane: Lane) -> tuple[Lane, tuple[Array, Array]]:
        seed = jax.random.fold_in(jax.random.key(2**20), lane.seed)
        key = jax.random.fold_in(seed, lane.updates)
        (value, score), slopes = jax.value_and_grad(loss, has_aux=True)(lane.model, key)
        direction, adam = DIRECTION.update(slopes, lane.adam)
        model = jax.tree.map(lambda p, d: p - lane.rate * d, lane.model, direction)
        return Lane(model, adam, lane.rate, lane.seed, lane.updates + 1), (value, score)

    def chunk(lanes: Lane) -> tuple[Lane, tuple[Array, Array]]:
        return jax.lax.scan(lambda some, _: jax.vmap(update)(some), lanes, None, length=CHUNK)

    return jax.jit(chunk)
