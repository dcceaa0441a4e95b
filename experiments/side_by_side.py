"""Networks that differ by their seed alone, trained side by side by `jax.vmap` on a task of long lags.

    θ ← θ − rate · (Adam(clip(∂L/∂θ)) + decay θ)

Each seed has its own start and its own sequences, which are the same for every network.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.lag_tasks import (
    TASKS,
    Model,
    Task,
    answer_losses,
    first_solved,
    read_out,
    same,
    task_loss,
)
from lstm_jax import Cell, chrono, lstm
from lstm_jax.array_types import Array, PyTree
from lstm_jax.initializers import uniform

CHUNK = 100
"""Updates in one call of the program; training ends between two calls, once every seed is done."""


class Setting(NamedTuple):
    """How networks are trained.

    Attributes:
        task: of `experiments.lag_tasks.TASKS`.
        length: T.
        updates: at most, in whole chunks of `CHUNK`.
        rate: of Adam.
        decay: of the weights, decoupled.
        clip: the global norm at which the gradient is clipped; None does not clip.
        seeds: networks.
        batch_size: sequences of an update.
        seed: of the first; the others' are those that follow.
    """

    task: str
    length: int
    updates: int = 3_000
    rate: float = 0.005
    decay: float = 0.0
    clip: float | None = 1.0
    seeds: int = 5
    batch_size: int = 20
    seed: int = 0


class Learned(NamedTuple):
    """How the networks of one kind did; each seed ends when it is solved, and is looked at then.

    Attributes:
        solved: the update at which each seed was solved, or None, [seeds].
        diverged: whether each seed's loss became no number before that, [seeds].
        updates: of each seed, in whole chunks, [seeds].
        losses: of each seed's updates.
        scores: the loss of a number, the share of right answers of a class, likewise.
        cosines: between the cell's gradient that was descended and the right one, likewise; or None.
        first: the networks before training, every array with an axis [seeds] in front.
        last: the networks at the end of their training.
    """

    solved: list[int | None]
    diverged: list[bool]
    updates: list[int]
    losses: list[np.ndarray]
    scores: list[np.ndarray]
    cosines: list[np.ndarray] | None
    first: Model
    last: Model


Run = Callable[[PyTree, Array], Array]


def able_lstm(setting: Setting, size: int) -> Cell:
    """An LSTM that learns the task: recall takes the biases of chrono, adding forget bias 1."""
    bias = chrono(setting.length) if setting.task == "recall" else 1.0
    return lstm(TASKS[setting.task].inputs, size, forget_bias=bias)


def seeds_of(setting: Setting) -> Array:
    """The seed of each network."""
    return jnp.uint32(setting.seed) + jnp.arange(setting.seeds, dtype=jnp.uint32)


def begin(init: Callable[[Array], PyTree], size: int, setting: Setting) -> Model:
    """Networks before training, one for each seed of the setting, with ``size`` units."""
    task = TASKS[setting.task]

    def one(key: Array) -> Model:
        key_cell, key_y = jax.random.split(key)
        w_y = uniform(size**-0.5)(key_y, (size, task.outputs))
        return Model(init(key_cell), w_y, jnp.zeros(task.outputs, w_y.dtype))

    return jax.vmap(lambda seed: one(jax.random.fold_in(jax.random.key(11), seed)))(
        seeds_of(setting)
    )


def _cosine(one: PyTree, other: PyTree) -> Array:
    """Between two gradients of the cell: the readout's own is right under most faults, and long."""
    dot = optax.tree.vdot(one, other)
    return dot / (optax.tree.norm(one) * optax.tree.norm(other))


def train(
    run: Run,
    models: Model,
    setting: Setting,
    through: Callable[[Array], Array] = same,
    right: Run | None = None,
) -> Learned:
    """Train one network for each seed until all are solved or the updates are over.

    Args:
        run: ``run(params, xs) -> hs``; its derivative is what is descended, right or wrong.
        models: from `begin`.
        setting: task and optimizer.
        through: what the answers go through: the identity, with a derivative that may be wrong.
        right: the same network with the right derivative; then the cosines of both are kept.
    """
    task = TASKS[setting.task]
    clip = optax.identity() if setting.clip is None else optax.clip_by_global_norm(setting.clip)
    direction = optax.chain(clip, optax.scale_by_adam(), optax.add_decayed_weights(setting.decay))

    sizes = (setting.batch_size, setting.length)
    loss = task_loss(task, run, *sizes, through)
    loss_right = None if right is None else task_loss(task, right, *sizes)

    def update(carry: Any, key: Array) -> tuple[Any, tuple[Array, Array, Array]]:
        model, state = carry
        (value, score), slopes = jax.value_and_grad(loss, has_aux=True)(model, key)
        cosine = jnp.ones_like(value)
        if loss_right is not None:
            slopes_right, _ = jax.grad(loss_right, has_aux=True)(model, key)
            cosine = _cosine(slopes.cell, slopes_right.cell)
        step, state = direction.update(slopes, state, model)
        model = jax.tree.map(lambda p, d: p - setting.rate * d, model, step)
        return (model, state), (value, score, cosine)

    @jax.jit
    def chunk(carry: Any, start: Array) -> tuple[Any, tuple[Array, Array, Array]]:
        def one(carry: Any, seed: Array) -> tuple[Any, tuple[Array, Array, Array]]:
            own = jax.random.fold_in(jax.random.key(2**21), seed)
            keys = jax.vmap(lambda n: jax.random.fold_in(own, start + n))(jnp.arange(CHUNK))
            return jax.lax.scan(update, carry, keys)

        return jax.vmap(one)(carry, seeds_of(setting))

    carry = (models, jax.vmap(direction.init)(models))
    ends: list[_End | None] = [None] * setting.seeds
    found: list[np.ndarray] = []  # loss, score and cosine, [3, seeds, CHUNK] each
    for start in range(0, setting.updates, CHUNK):
        carry, numbers = chunk(carry, jnp.int32(start))
        found.append(np.stack(jax.device_get(numbers)))
        so_far = np.concatenate(found, axis=2)
        last = start + CHUNK >= setting.updates
        for seed, end in enumerate(ends):
            if end is None:
                model = jax.tree.map(lambda a, n=seed: a[n], carry[0])
                ends[seed] = _ended(so_far[:, seed], task, model, last)
        if all(ends):
            break
    whole = [end for end in ends if end is not None]
    return Learned(
        solved=[end.solved for end in whole],
        diverged=[end.diverged for end in whole],
        updates=[end.numbers.shape[1] for end in whole],
        losses=[end.numbers[0] for end in whole],
        scores=[end.numbers[1] for end in whole],
        cosines=None if right is None else [end.numbers[2] for end in whole],
        first=jax.device_get(models),
        last=jax.tree.map(lambda *a: np.stack(a), *[end.model for end in whole]),
    )


class _End(NamedTuple):
    """Where one seed ended; its loss, score and cosine by update, [3, updates]."""

    solved: int | None
    diverged: bool
    numbers: np.ndarray
    model: Model


def _ended(numbers: np.ndarray, task: Task, model: Model, last: bool) -> _End | None:
    """The end of a seed, if this is it: solved, no number any more, or the last update."""
    finite = np.isfinite(numbers[0])
    until = len(finite) if finite.all() else int(np.argmin(finite))
    solved = first_solved(numbers[1, :until], task)
    diverged = solved is None and until < len(finite)
    if solved is None and not diverged and not last:
        return None
    return _End(solved, diverged, numbers, jax.device_get(model))


def log_norms(vectors: Array) -> Array:
    """log₁₀ ‖v‖ over the last axis; squares of numbers below 10⁻¹⁵⁴ would be 0."""
    largest = jnp.abs(vectors).max(-1)
    scaled = vectors / jnp.where(largest > 0, largest, 1)[..., None]
    return jnp.log10(largest) + jnp.log10(jnp.linalg.norm(scaled, axis=-1))


def decades(
    run: Run, models: Model, task_name: str, length: int, batch_size: int = 4
) -> np.ndarray:
    """log₁₀ of ‖∂ℓ/∂x_1‖ over ‖∂ℓ/∂x_T‖ for each seed, the median of the samples, in float64, [seeds].

    ℓ is the loss of the last answer; the slopes of the first and of the last step are part of it. −∞ where
    nothing comes back to the first input. A sample that is right with certainty has no gradient and is left
    out; NaN where there is no other.
    """
    task = TASKS[task_name]
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), models)
        examples = task.draw(jax.random.key(99), batch_size, length)
        xs = examples.xs.astype(float)

        def one(model: Model) -> Array:
            def loss(xs: Array) -> Array:
                last = run(model.cell, xs)[-1:]
                targets = examples.targets[-1:]
                if task.is_number:
                    targets = targets.astype(float)
                return answer_losses(task, read_out(model, last), targets).sum()

            slopes = log_norms(jax.grad(loss)(xs))
            return jnp.nanmedian(slopes[0] - slopes[-1])

        return np.asarray(jax.jit(jax.vmap(one))(wide))
