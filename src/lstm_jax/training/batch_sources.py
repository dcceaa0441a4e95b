"""Where the batches of a run come from: arrays on the devices, files mapped into memory, or a stream.

    data                               the step takes                       what goes into a checkpoint
    arrays                             all of them, on the devices          nothing: step and key pick
    arrays, some of them np.memmap     batch(data, step, key) of the host   nothing: step and key pick
    a stream (`streams`)               its next batch                       its position, of each process

Batches of files and streams are read ahead on a thread. On a mesh a stream gives each process its own part of
the samples; a file is the same for all processes.
"""

import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from lstm_jax.array_types import PyTree
from lstm_jax.training.checkpoint_contents import checksums
from lstm_jax.training.devices import parts_here, placed
from lstm_jax.training.options import RunError
from lstm_jax.training.problem_checks import ProblemError, require_axes, require_leaves
from lstm_jax.training.read_ahead import ReadAhead
from lstm_jax.training.step import (
    Problem,
    SamplesError,
    TrainState,
    as_given,
    batch_key,
    by_axis,
    spread,
)
from lstm_jax.training.streams import Stream, in_words, is_stream
from lstm_jax.validation import show_shape

PROBES = 64
"""Pieces of a file whose checksum stands for it."""


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

    def begin(self, state: TrainState, position: Any) -> None:
        """Go on after the steps of a state, from the position in its checkpoint."""

    def take(self) -> PyTree:
        """What the next step takes, on the devices."""
        raise NotImplementedError

    def position(self) -> Any:
        """After the batch that was taken last, as JSON holds it; called in every process or in none."""
        return None

    def close(self) -> None:
        """End what was begun."""


def batch_source(
    problem: Problem, data: Any, state: TrainState, mesh: Mesh | None, sweep: bool
) -> BatchSource:
    """The source of what a user gave.

    Args:
        problem: whose ``batch`` is called.
        data: arrays, or a stream.
        state: the first `TrainState`; its key is the run's.
        mesh: over which the samples are spread, or None.
        sweep: whether the seeds are spread instead, and all of them see the same batches.

    Raises:
        RunError, ProblemError, SamplesError: data that give no batch.
    """
    if is_stream(data):
        return _Streamed(problem, data, mesh, sweep)
    require_leaves("Data", "data", data)
    if any(isinstance(leaf, np.memmap) for leaf in jax.tree.leaves(data)):
        if sweep:
            raise RunError(
                "Data mismatch: expected one seed for memory-mapped arrays, whose rows the key picks, got "
                "several. Give a stream, as lstm_jax.datasets has, or arrays."
            )
        return _Mapped(problem, data, state, mesh)
    return _Resident(problem, data, mesh)


class _Resident(BatchSource):
    resident = True

    def __init__(self, problem: Problem, data: PyTree, mesh: Mesh | None) -> None:
        self.problem = problem

        def place(leaf: Any) -> jax.Array:
            if mesh is None:
                return jnp.asarray(leaf)
            return leaf if _lies_on(mesh, leaf) else placed(leaf, spread(mesh, None))

        self.first = jax.tree.map(place, data)

    def described(self) -> list[Any]:
        return list(checksums(self.first).values())

    def take(self) -> PyTree:
        return self.first


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


class _Mapped(BatchSource):
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
        found: list[Any] = []
        for leaf in jax.tree.leaves(self._data):
            if isinstance(leaf, np.memmap):
                found.append(f"{leaf.dtype.name}{show_shape(leaf.shape)}, {_probed(leaf):08x}")
            else:
                found += checksums(leaf).values()
        return found

    def begin(self, state: TrainState, position: Any) -> None:
        self._step = int(state.step)

    def take(self) -> PyTree:
        if self._ahead is None:
            self._ahead = ReadAhead(self._next)
        return self._ahead.take()

    def close(self) -> None:
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


class _Streamed(BatchSource):
    """The next batch of a stream."""

    def __init__(self, problem: Problem, data: Any, mesh: Mesh | None, sweep: bool) -> None:
        self.problem = problem
        self._name, self._mesh = in_words(data), mesh
        self._axes = None if sweep else problem.batch_axes
        self._stream = Stream(data)
        self._ahead: ReadAhead | None = None
        host = next(self._stream)
        self._structure: Any = jax.tree.structure(host)
        self.first = self._on_devices(host)
        self._kinds = [_kind(leaf) for leaf in jax.tree.leaves(self.first)]
        self._peeked: Any = (host, self.first, self._stream.position())
        self._taken: Any = None

    def described(self) -> list[Any]:
        return ["a stream", *map(str, self._kinds)]

    def begin(self, state: TrainState, position: Any) -> None:
        if not int(state.step):
            return
        if not position:
            raise RunError(
                "Data mismatch: expected data as in the run to resume, which was no stream, got "
                f"{self._name}."
            )
        count, here = jax.process_count(), jax.process_index()
        if len(position) == count:
            mine = position[here]
        elif all(one["at"] == position[0]["at"] for one in position):
            mine = {"at": position[0]["at"]}
        else:
            raise RunError(
                f"Data mismatch: expected {len(position)} processes, each at its own place in the data of "
                f"the checkpoint, got {count}."
            )
        last = self._stream.restore(mine["at"])
        if last is not None and _checksum(last) != mine.get("checksum", _checksum(last)):
            raise RunError(
                f"Data mismatch: expected batch {mine['at']['batches']} of epoch {mine['at']['epoch']} as in "
                f"the run to resume, got another from {self._name}. Its order has to be the same when it "
                "begins again: give a function of the epoch that shuffles by it, or a grain dataset."
            )
        self._peeked, self._taken = None, (last, mine["at"])

    def take(self) -> PyTree:
        if self._peeked is not None:
            found, self._peeked = self._peeked, None
        else:
            if self._ahead is None:
                self._ahead = ReadAhead(self._next)
            found = self._ahead.take()
        host, batch, at = found
        self._taken = (host, at)
        return batch

    def position(self) -> Any:
        host, at = self._taken
        mine = (
            {"at": at} if "state" in at or host is None else {"at": at, "checksum": _checksum(host)}
        )
        return [json.loads(text) for text in _of_all_processes(json.dumps(mine))]

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
        self._stream.close()

    def _next(self) -> Any:
        host = next(self._stream)
        at = self._stream.position()
        structure: Any = jax.tree.structure(host)
        if structure != self._structure:
            raise ProblemError(
                f"Batch mismatch: expected batches like the first, {self._structure}, got {structure}."
            )
        batch = self._on_devices(host)
        for kind, leaf in zip(self._kinds, jax.tree.leaves(batch), strict=True):
            if kind != _kind(leaf):
                raise ProblemError(
                    f"Batch mismatch: expected an array of {kind[0]} with {kind[1]} axes, as in the first "
                    f"batch, got {leaf.dtype.name}{show_shape(leaf.shape)}."
                )
        return host, batch, at

    def _on_devices(self, host: PyTree) -> PyTree:
        """Copies, because a loader may use its memory again; what lies on the mesh stays where it is."""
        host = jax.tree.map(_as_array, host)
        require_leaves("Batch", f"each batch of {self._name}", host)
        if self._mesh is None:
            return jax.tree.map(lambda x: x if isinstance(x, jax.Array) else _copied(x), host)
        mesh = self._mesh
        parts = parts_here(mesh)

        def place(axis: int | None, leaf: Any) -> jax.Array:
            if _lies_on(mesh, leaf):
                return leaf
            if axis is not None and leaf.shape[axis] % parts:
                raise SamplesError(
                    f"Size mismatch: expected samples that the {parts} devices of a process divide, got "
                    f"{leaf.shape[axis]}."
                )
            sharding = spread(mesh, axis)
            return jax.make_array_from_process_local_data(sharding, np.array(leaf))

        if self._axes is not None:
            require_axes("batch", self._axes, host)
        return by_axis(place, self._axes, host)


def _shardings(batch: PyTree, axes: Any, mesh: Mesh) -> PyTree:
    require_axes("batch", axes, batch)
    return by_axis(lambda axis, leaf: spread(mesh, axis, leaf), axes, batch)


def _lies_on(mesh: Mesh, leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and leaf.sharding.device_set == set(mesh.devices.flat)


def _as_array(leaf: Any) -> Any:
    """A tensor of others as an array; other leaves as they are."""
    known = isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex))
    return leaf if known or not hasattr(leaf, "__array__") else np.asarray(leaf)


def _copied(leaf: Any) -> jax.Array:
    return jnp.asarray(np.array(leaf))


def _kind(leaf: Any) -> tuple[str, int]:
    return leaf.dtype.name, leaf.ndim


def _checksum(batch: PyTree) -> int:
    total = 0
    for value in checksums(jax.tree.map(_as_array, batch)).values():
        total = zlib.crc32(value.to_bytes(4, "little"), total)
    return total


def _probed(array: np.ndarray) -> int:
    """The checksum of rows spread over an array that is too large to read."""
    if not array.size or not array.ndim:
        return zlib.crc32(array.tobytes())
    total = 0
    for n in np.unique(np.linspace(0, len(array) - 1, PROBES).astype(int)):
        total = zlib.crc32(np.ascontiguousarray(array[n]).tobytes(), total)
    return total


def _of_all_processes(text: str) -> list[str]:
    if jax.process_count() == 1:
        return [text]
    mine = np.frombuffer(text.encode(), np.uint8)
    longest = int(np.max(multihost_utils.process_allgather(np.int32(mine.size))))
    padded = np.full(longest, ord(" "), np.uint8)
    padded[: mine.size] = mine
    return [row.tobytes().decode() for row in multihost_utils.process_allgather(padded)]
