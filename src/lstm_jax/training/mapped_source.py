"""Batches out of memory-mapped arrays: rows are picked on the host, and no file is copied whole."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lstm_jax.array_types import PyTree
from lstm_jax.training.batch_source import BatchSource
from lstm_jax.training.checkpoint_contents import checksums
from lstm_jax.training.devices import placed
from lstm_jax.training.problem_checks import ProblemError, require_axes, require_leaves
from lstm_jax.training.read_ahead import ReadAhead
from lstm_jax.training.sample_axes import by_axis, spread
from lstm_jax.training.step import (
    Problem,
    TrainState,
    as_given,
    batch_key,
)
from lstm_jax.validation import show_shape

PROBES = 64
"""Pieces of a file whose checksum stands for it."""

PICK = (
    "Batch mismatch: expected batch(data, step, key) to pick rows of a memory-mapped array, data[rows], got "
    "a use of the whole of it, which would copy the file."
)


class Rows:
    """A memory-mapped array of which parts are read: ``data[rows]``."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.shape, self.dtype, self.ndim, self.size = (
            array.shape,
            array.dtype,
            array.ndim,
            array.size,
        )

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: Any) -> np.ndarray:
        """A copy of a part, its indices arrays of NumPy or JAX, or slices."""
        host = jax.tree.map(lambda i: np.asarray(i) if isinstance(i, jax.Array) else i, index)
        return np.array(self._array[host])

    def __array__(self, *arguments: Any, **words: Any) -> np.ndarray:
        raise ProblemError(PICK)


class MappedSource(BatchSource):
    """``problem.batch`` on the host, of the same step and key as on the devices."""

    def __init__(
        self, problem: Problem, data: PyTree, state: TrainState, mesh: Mesh | None
    ) -> None:
        self._pick, self._mesh, self._axes = problem.batch, mesh, problem.batch_axes
        self.problem = problem._replace(batch=as_given)
        self._data = data
        self._rows = jax.tree.map(lambda x: Rows(x) if isinstance(x, np.memmap) else x, data)
        self._key, self._step = batch_key(state.key), 0
        self._ahead: ReadAhead | None = None
        self.first = self._picked(0)

    def described(self) -> list[Any]:
        """Dtype, shape and some rows of each file, checksums of the other arrays."""
        found: list[Any] = []
        for leaf in jax.tree.leaves(self._data):
            if isinstance(leaf, np.memmap):
                found.append(f"{leaf.dtype.name}{show_shape(leaf.shape)}, {_probed(leaf):08x}")
            else:
                found += checksums(leaf).values()
        return found

    def begin(self, done: int, position: Any) -> None:
        """Go on after so many steps, which say all."""
        self._step = done

    def take(self) -> PyTree:
        """The rows of the next step."""
        if self._ahead is None:
            self._ahead = ReadAhead(self._next)
        return self._ahead.take()

    def close(self) -> None:
        """End the thread."""
        if self._ahead is not None:
            self._ahead.close()

    def _next(self) -> PyTree:
        self._step += 1
        return self._picked(self._step - 1)

    def _picked(self, step: int) -> PyTree:
        try:
            batch = self._pick(self._rows, jnp.int32(step), self._key)
        except TypeError as error:
            if Rows.__name__ not in str(error):
                raise
            raise ProblemError(PICK) from error
        if any(isinstance(leaf, Rows) for leaf in jax.tree.leaves(batch)):
            raise ProblemError(PICK)
        require_leaves("Batch", "batch(data, step, key)", batch)
        if self._mesh is None:
            return jax.tree.map(jnp.asarray, batch)
        return placed(batch, _shardings(batch, self._axes, self._mesh))


def _shardings(batch: PyTree, axes: Any, mesh: Mesh) -> PyTree:
    require_axes("batch", axes, batch)
    return by_axis(lambda axis, leaf: spread(mesh, axis, leaf), axes, batch)


def _probed(array: np.ndarray) -> int:
    """The checksum of rows spread over an array that is too large to read."""
    if not array.size or not array.ndim:
        return zlib.crc32(array.tobytes())
    total = 0
    for n in np.unique(np.linspace(0, len(array) - 1, PROBES).astype(int)):
        total = zlib.crc32(np.ascontiguousarray(array[n]).tobytes(), total)
    return total
