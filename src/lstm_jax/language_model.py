r"""Next-character prediction with one recurrent layer and a linear readout.

    logits_t = h_t W_y + b_y,   loss = mean over time and batch of −log softmax(logits_t)[x_{t+1}]

Axes: windows[T + 1, B] of codes; xs[T, B, V] one-hot; w_y[H, V], b_y[V].
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lstm_jax.array_types import Array, Float, Int, PyTree
from lstm_jax.cells import Cell
from lstm_jax.initializers import uniform
from lstm_jax.language.text import one_hot, windows
from lstm_jax.unrolling.unroll import unroll
from lstm_jax.validation import NonFiniteError


class LanguageModel(NamedTuple):
    """Parameters: of the cell, and the readout ``w_y[H, V]``, ``b_y[V]``."""

    cell: Any
    w_y: Any
    b_y: Any


class TrainConfig(NamedTuple):
    """A short training run.

    Attributes:
        steps: gradient steps.
        length: characters in a window, T.
        batch_size: windows in a batch, B.
        learning_rate: of Adam.
        clip_norm: bound on the gradient's global norm.
    """

    steps: int
    length: int = 100
    batch_size: int = 32
    learning_rate: float = 5e-3
    clip_norm: float = 1.0


def init(cell: Cell, key: Array) -> LanguageModel:
    """Draw the parameters of a model over the cell's own input size as its vocabulary."""
    key_cell, key_readout = jax.random.split(key)
    shape = (cell.output_size, cell.input_size)
    w_y = uniform(cell.output_size**-0.5)(key_readout, shape)
    return LanguageModel(cell.init(key_cell), w_y, jnp.zeros(cell.input_size, w_y.dtype))


def loss(cell: Cell, model: LanguageModel, codes: Int[Array, "time batch"]) -> Float[Array, ""]:
    """Mean negative log-likelihood of the next character, in nats."""
    xs = one_hot(codes[:-1], cell.input_size, model.w_y.dtype)
    _, hs = unroll(cell, model.cell, xs)
    logits = hs @ model.w_y
    logits = logits + jnp.broadcast_to(model.b_y, logits.shape)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, codes[1:])
    return jnp.mean(losses)


def train(
    cell: Cell,
    model: LanguageModel,
    codes: Int[Array, "characters"],
    key: Array,
    config: TrainConfig,
    report: Callable[[int, float], None] = lambda step, value: None,
) -> tuple[LanguageModel, list[float]]:
    """Train for a number of steps with Adam on random windows.

    Args:
        cell: whose input size is the vocabulary's.
        model: starting parameters.
        codes: the text.
        key: a random key, for the windows.
        config: how long and how fast.
        report: called after each few steps with the steps done so far and their mean loss in nats.

    Returns:
        The trained model and the loss of every step, in nats for each character.

    Raises:
        NonFiniteError: a loss that is not finite, with its step.
    """
    state = _optimizer(config).init(model)
    losses: list[float] = []
    while len(losses) < config.steps:
        count = min(10, config.steps - len(losses))
        keys = jax.random.split(jax.random.fold_in(key, len(losses)), count)
        model, state, values = _some_steps(cell, config, model, state, codes, keys)
        values = np.asarray(values)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise NonFiniteError(
                f"Non-finite value: expected a finite training loss, got {values[bad[0]]} at step "
                f"{len(losses) + bad[0] + 1}."
            )
        losses += values.tolist()
        report(len(losses), sum(losses[-count:]) / count)
    return model, losses


def _optimizer(config: TrainConfig) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm), optax.adam(config.learning_rate)
    )


@partial(jax.jit, static_argnums=(0, 1))
def _some_steps(
    cell: Cell,
    config: TrainConfig,
    model: LanguageModel,
    state: PyTree,
    codes: Int[Array, "characters"],
    keys: Array,
) -> tuple[LanguageModel, PyTree, Array]:
    optimizer = _optimizer(config)

    def step(carry: tuple[LanguageModel, PyTree], key: Array) -> tuple[Any, Array]:
        model, state = carry
        batch = windows(key, codes, config.length + 1, config.batch_size)
        value, gradient = jax.value_and_grad(partial(loss, cell))(model, batch)
        # Adam's bias correction raises a Python float to an integer array, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state, model)
        return (optax.apply_updates(model, updates), state), value

    (model, state), values = jax.lax.scan(step, (model, state), keys)
    return model, state, values
