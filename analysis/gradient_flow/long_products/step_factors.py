r"""Trajectories of all samples, and the factors of their long products: J_{k+1}, D_k and log f_{k+1} by k.

J_{k+1} is formed where it is used and never stored, so memory grows with T·n, not with T·n².

Axes: samples lead every leaf but those of the parameters.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradient_flow.step_jacobians.checked_arguments import with_samples
from gradient_flow.step_jacobians.scaled_jacobian import scaled_jacobian
from gradient_flow.step_jacobians.state_layout import Layout
from gradient_flow.step_jacobians.trajectory import Trajectory, run
from gradient_flow.step_jacobians.vector_products import with_transposed_weights
from lstm_jax.array_types import Array, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.layers.stack import Stack


def run_samples(
    cell: Cell | Stack | Step, batched: bool, params: PyTree, state0: PyTree, xs: PyTree
) -> Trajectory:
    """The trajectories of all samples, samples leading every leaf but those of the parameters."""
    state0, xs = with_samples(batched, state0, xs)
    return jax.vmap(lambda s, x: run(cell, params, s, x)._replace(params=None), in_axes=(0, 1))(
        state0, xs
    )._replace(params=params)


class StepFactors(NamedTuple):
    """Functions of k.

    Attributes:
        jacobian: J_{k+1} of all samples, blocks of arrays or of `ScaledEntries`.
        h_c: D_k of all samples, `ScaledEntries`, or None.
        log_f: log f_{k+1} of all samples, or None.
    """

    jacobian: Callable[[Array], PyTree]
    h_c: Callable[[Array], Any]
    log_f: Callable[[Array], Any]


def step_factors(cell: Cell | Stack | Step, layout: Layout, trajectory: Trajectory) -> StepFactors:
    """The factors along a trajectory of all samples."""
    params, states, xs, h_c, log_f = trajectory
    length = jax.tree.leaves(xs)[0].shape[1]
    params = with_transposed_weights(cell, params, length)
    jacobian_of = jax.vmap(scaled_jacobian(cell, layout, params))

    def at(tree: PyTree, n: Array) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[:, n], tree)

    # J_{k+1} does not exist at k = T, and no walk makes a step there.
    def below_length(k: Array) -> Array:
        return jnp.minimum(k, length - 1)

    return StepFactors(
        lambda k: jacobian_of(at(states, below_length(k)), at(xs, below_length(k))),
        lambda k: at(h_c, jnp.minimum(k, length)),
        lambda k: at(log_f, below_length(k)),
    )
