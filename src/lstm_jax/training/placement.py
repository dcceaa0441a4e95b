"""Where the state of a run lies: samples over a mesh's data axis, parameters where ``init`` puts them."""

from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding

from lstm_jax.array_types import shapes_of
from lstm_jax.jax_extensions.mesh_axes import DATA
from lstm_jax.training.problem_checks import require_axes
from lstm_jax.training.sample_axes import by_axis, spread
from lstm_jax.training.step import (
    Problem,
)


def state_shardings(
    start: Any,
    arguments: tuple[Any, ...],
    problem: Problem,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | None,
    sweep: bool,
) -> Any:
    """The sharding of each leaf of the first state.

    Args:
        start: gives the first state.
        arguments: of ``start``.
        problem: whose carry it is.
        optimizer: whose state it is.
        mesh: None for no shardings.
        sweep: whether the runs of a sweep are the first axis of every leaf.

    Returns:
        A state of shardings. The carry is spread by its samples. Parameters are where ``init`` puts them,
        the optimizer's state of each with it. All else is the same on every device. In a sweep all is spread
        by its runs.

    Raises:
        SamplesError: a carry whose samples do not divide.
        ProblemError: axes that the carry does not have.
    """
    if mesh is None:
        return None
    like = shapes_of(start, *arguments)
    if sweep:
        return jax.tree.map(lambda _: spread(mesh, 0), like)
    require_axes("carry", problem.carry_axes, like.carry)
    everywhere = jax.tree.map(lambda _: spread(mesh, None), like)
    carry = by_axis(lambda axis, leaf: spread(mesh, axis, leaf), problem.carry_axes, like.carry)
    if mesh.axis_names == (DATA,):
        return everywhere._replace(carry=carry)
    drawn = jax.jit(lambda *given: start(*given).params).lower(*arguments).compile()

    def own(found: Any, replicated: NamedSharding) -> NamedSharding:
        return found if isinstance(found, NamedSharding) else replicated

    params = jax.tree.map(own, drawn.output_shardings, everywhere.params)
    state = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        like.optimizer,
        params,
        transform_non_params=lambda _: spread(mesh, None),
    )
    return everywhere._replace(params=params, optimizer=state, carry=carry)
