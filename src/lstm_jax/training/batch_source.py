"""What `fit` takes its batches from: the interface, and its plainest form, arrays on the devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lstm_jax.array_types import PyTree
from lstm_jax.training.checkpoint_contents import checksums
from lstm_jax.training.devices import placed
from lstm_jax.training.sample_axes import spread
from lstm_jax.training.step import Problem


class BatchSource:
    """What `fit` takes its batches from.

    Attributes:
        resident: whether each step takes the same arrays.
        first: what the first step takes, on the devices, to compile for.
        problem: the problem of the step, whose ``batch`` gets what `take` gives.
    """

    resident = False
    first: PyTree
    problem: Problem

    def described(self) -> list[Any]:
        """What tells these data from others, as JSON holds it."""
        raise NotImplementedError

    def begin(self, done: int, position: Any) -> None:
        """Go on after so many steps, from the position in their checkpoint."""

    def take(self) -> PyTree:
        """What the next step takes, on the devices."""
        raise NotImplementedError

    def position(self) -> Any:
        """After the batch that was taken last, as JSON holds it; called in every process or in none."""
        return None

    def shapes(self) -> int:
        """The checksum of the shapes of all batches that were taken, which all processes have to agree on."""
        return 0

    def close(self) -> None:
        """End what was begun."""


class Resident(BatchSource):
    """All data, on every device; step and key pick."""

    resident = True

    def __init__(self, problem: Problem, data: PyTree, mesh: Mesh | None) -> None:
        self.problem = problem

        def place(leaf: Any) -> jax.Array:
            if mesh is None:
                # `jnp.asarray` has two copies for a while.
                is_array = isinstance(leaf, np.ndarray)
                return jax.device_put(leaf, may_alias=False) if is_array else jnp.asarray(leaf)
            return leaf if lies_on(mesh, leaf) else placed(leaf, spread(mesh, None))

        self.first = jax.tree.map(place, data)

    def described(self) -> list[Any]:
        """The checksum of each array."""
        return list(checksums(self.first).values())

    def take(self) -> PyTree:
        """The same arrays at each step."""
        return self.first


def lies_on(mesh: Mesh, leaf: Any) -> bool:
    """Whether an array is on the devices of a mesh already."""
    return isinstance(leaf, jax.Array) and leaf.sharding.device_set == set(mesh.devices.flat)
