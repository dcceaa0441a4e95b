"""The batches of a stream on the devices, and its position in each process."""

import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from lstm_jax.array_types import PyTree
from lstm_jax.training.batch_source import BatchSource, lies_on
from lstm_jax.training.checkpoint_contents import checksums
from lstm_jax.training.devices import parts_here
from lstm_jax.training.options import RunError
from lstm_jax.training.problem_checks import ProblemError, require_axes, require_leaves
from lstm_jax.training.read_ahead import ReadAhead
from lstm_jax.training.sample_axes import SamplesError, by_axis, spread
from lstm_jax.training.step import Problem
from lstm_jax.training.streams import Stream, in_words
from lstm_jax.validation import show_shape


class StreamSource(BatchSource):
    """The next batch of a stream."""

    def __init__(self, problem: Problem, data: Any, mesh: Mesh | None, sweep: bool) -> None:
        self.problem = problem
        self._name, self._mesh = in_words(data), mesh
        self._axes = None if sweep else problem.batch_axes
        self._stream = Stream(data)
        self._ahead: ReadAhead | None = None
        host = self._owned(next(self._stream))
        self._structure: Any = jax.tree.structure(host)
        self.first = self._on_devices(host)
        self._kinds = [_kind(leaf) for leaf in jax.tree.leaves(self.first)]
        self._peeked: Any = (host, self.first, self._stream.position())
        self._taken: Any = None
        self._shapes = 0

    def described(self) -> list[Any]:
        """Dtype and number of axes of each array; the rest may change from batch to batch."""
        return ["a stream", *map(str, self._kinds)]

    def begin(self, done: int, position: Any) -> None:
        """Go on after the position of this process.

        Raises:
            RunError: data that do not begin again, or not with the same batches; another number of processes
                that were not all at the same place.
        """
        if not done:
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
        last = None if last is None else self._owned(last)
        if last is not None and _checksum(last) != mine.get("checksum", _checksum(last)):
            raise RunError(
                f"Data mismatch: expected batch {mine['at']['batches']} of epoch {mine['at']['epoch']} as in "
                f"the run to resume, got another from {self._name}. Its order has to be the same when it "
                "begins again: give a function of the epoch that shuffles by it, or a grain dataset."
            )
        self._peeked, self._taken = None, (last, mine["at"])

    def take(self) -> PyTree:
        """The next batch."""
        if self._peeked is not None:
            found, self._peeked = self._peeked, None
        else:
            if self._ahead is None:
                self._ahead = ReadAhead(self._next)
            found = self._ahead.take()
        host, batch, at = found
        self._taken = (host, at)
        if jax.process_count() > 1:
            shapes = str([leaf.shape for leaf in jax.tree.leaves(batch)])
            self._shapes = zlib.crc32(shapes.encode(), self._shapes)
        return batch

    def shapes(self) -> int:
        """Of the whole batches: a process with fewer samples than the others has other ones."""
        return self._shapes

    def position(self) -> Any:
        """Those of all processes, with the checksum of a batch that is read again when the run goes on."""
        host, at = self._taken
        mine = (
            {"at": at} if "state" in at or host is None else {"at": at, "checksum": _checksum(host)}
        )
        return [json.loads(text) for text in _of_all_processes(json.dumps(mine))]

    def close(self) -> None:
        """End the thread and the stream."""
        if self._ahead is not None:
            self._ahead.close()
        self._stream.close()

    def _next(self) -> Any:
        host = self._owned(next(self._stream))
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

    def _owned(self, batch: PyTree) -> PyTree:
        """Copies, because a loader may use its memory again."""

        def own(leaf: Any) -> Any:
            tensor = hasattr(leaf, "__array__") and not hasattr(leaf, "__jax_array__")
            return np.array(leaf) if tensor and not isinstance(leaf, jax.Array) else leaf

        batch = jax.tree.map(own, batch)
        require_leaves("Batch", f"each batch of {self._name}", batch)
        return batch

    def _on_devices(self, host: PyTree) -> PyTree:
        """On the mesh; what lies there already stays where it is."""
        if self._mesh is None:
            return jax.tree.map(jnp.asarray, host)
        mesh = self._mesh
        parts = parts_here(mesh)

        def place(axis: int | None, leaf: Any) -> jax.Array:
            if lies_on(mesh, leaf):
                return leaf
            if axis is not None and leaf.shape[axis] % parts:
                raise SamplesError(
                    f"Size mismatch: expected samples that the {parts} devices of a process divide, got "
                    f"{leaf.shape[axis]}."
                )
            sharding = spread(mesh, axis)
            return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

        if self._axes is not None:
            require_axes("batch", self._axes, host)
        return by_axis(place, self._axes, host)


def _kind(leaf: Any) -> tuple[str, int]:
    return leaf.dtype.name, leaf.ndim


def _checksum(batch: PyTree) -> int:
    total = 0
    for value in checksums(batch).values():
        total = zlib.crc32(value.to_bytes(4, "little"), total)
    return total


def _of_all_processes(text: str) -> list[str]:
    if jax.process_count() == 1:
        return [text]
    mine = np.frombuffer(text.encode(), np.uint8)
    longest = int(np.max(multihost_utils.process_allgather(np.int32(mine.size))))
    padded = np.full(longest, ord(" "), np.uint8)
    padded[: mine.size] = mine
    return [row.tobytes().decode() for row in multihost_utils.process_allgather(padded)]
