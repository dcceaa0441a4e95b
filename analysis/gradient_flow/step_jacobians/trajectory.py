r"""Run a cell over a sequence and keep every state s_0 … s_T; of an LSTM also D_k and log f_k.

With o_k held, h_k of an LSTM follows C_k at the rate D_k; the forget gates make the carousel:

    D_k     = diag(o_k ⊙ (1 − tanh² C_k))       h_c[k], k = 0 … T
    log f_k                                     log_f[k − 1], k = 1 … T

D_0 = 0: the starting state is given, so nothing ties h_0 to C_0.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradient_flow.step_jacobians.scaled_jacobian import lstm_factors
from lstm_jax.array_types import Array, PyTree
from lstm_jax.cells import Cell, LSTMParams, LSTMState, Step
from lstm_jax.cells.affine import pre_activations
from lstm_jax.cells.lstm import step as lstm_step
from lstm_jax.layers.stack import Stack


def step_of(cell: Cell | Stack | Step) -> Step:
    """The step of a cell or a stack; a plain step itself."""
    return cell.step if isinstance(cell, (Cell, Stack)) else cell


class Trajectory(NamedTuple):
    """A run of one sample.

    Attributes:
        params: of the cell.
        states: pytree with a leading axis of T + 1.
        xs: the inputs, leading axis T.
        h_c: D_k, `ScaledEntries` of [T + 1, H], of an LSTM; else None.
        log_f: log f_k, [T, H], of an LSTM; else None.
    """

    params: Any
    states: Any
    xs: Any
    h_c: Any
    log_f: Any


def is_lstm(cell: Cell | Stack | Step) -> bool:
    """Whether the cell is the standard LSTM, whose carousel and D_k are known."""
    return isinstance(cell, Cell) and cell.step is lstm_step


def run(cell: Cell | Stack | Step, params: PyTree, state0: PyTree, xs: PyTree) -> Trajectory:
    """Run one sample and keep every state."""
    step = step_of(cell)

    def keep(state: PyTree, x: PyTree) -> tuple[PyTree, tuple[PyTree, Any]]:
        after, _ = step(params, state, x)
        return after, (after, _lstm_factors(params, state, x) if is_lstm(cell) else None)

    _, (later, factors) = lax.scan(keep, state0, xs)
    states = jax.tree.map(
        lambda first, rest: jnp.concatenate([jnp.asarray(first)[None], rest]), state0, later
    )
    if factors is None:
        return Trajectory(params, states, xs, None, None)
    h_c, log_f = factors
    h_c = jax.tree.map(lambda rows: jnp.concatenate([jnp.zeros_like(rows[:1]), rows]), h_c)
    return Trajectory(params, states, xs, h_c, log_f)


@partial(jax.jit, static_argnums=0)
def states_of_samples(
    cell: Cell | Stack | Step, params: PyTree, state0: PyTree, xs: PyTree
) -> PyTree:
    """s_0 … s_T of all samples, [T + 1, B, …], from state0 [B, …] and xs [T, B, …]."""
    of_sample = jax.vmap(lambda s, x: run(cell, params, s, x).states, in_axes=(0, 1), out_axes=1)
    return of_sample(state0, xs)


def _lstm_factors(params: LSTMParams, state: LSTMState, x: Array) -> tuple[Any, Array]:
    # log σ(z) keeps its digits where σ(z) itself rounds to 1 or underflows.
    _, z_f, _, _ = jnp.split(pre_activations(params, state.h, x), 4, axis=-1)
    return lstm_factors(params, state, x).h_c, jax.nn.log_sigmoid(z_f)
