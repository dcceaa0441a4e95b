"""Batches that come one after the other, epoch after epoch, and the position among them.

    what a user has                              each epoch                 its position
    an iterable of batches                       iter(data)                 epoch, number of batches
    a function that gives one                    iter(data(epoch))          epoch, number of batches
    a grain dataset or loader, and whatever has  iter(data)                 epoch, the iterator's state
    an iterator with get_state and set_state
    an iterator                                  the one                    none: it cannot go on

A position is JSON, and it is that of the batches that were given out.
"""

import base64
import contextlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from lstm_jax.array_types import PyTree
from lstm_jax.training.options import RunError
from lstm_jax.training.read_ahead import AHEAD
from lstm_jax.training.system_errors import reason


def is_stream(data: Any) -> bool:
    """Whether data are batches that come one after the other, and no arrays."""
    if hasattr(data, "__next__"):
        return True
    if not jax.tree_util.all_leaves([data]) or hasattr(data, "shape"):
        return False
    if isinstance(data, (str, bytes, bytearray, memoryview)):
        return False
    return hasattr(data, "__iter__") or callable(data)


class Stream:
    """The batches of ``data`` without an end.

    Args:
        data: see the table above.

    Raises:
        RunError: a function of other arguments; from `next`, no batches at all, or an end of those that
            cannot begin again.
    """

    def __init__(self, data: Any) -> None:
        self._begin, self._once = _beginning(data)
        self._name = in_words(data)
        self._iterator: Iterator[Any] | None = None
        self._epoch = self._taken = 0

    def __next__(self) -> PyTree:
        while True:
            if self._iterator is None:
                self._iterator = self._begun(self._epoch)
            try:
                batch = next(self._iterator)
            except StopIteration:
                self._require_more()
                self._close()
                self._epoch, self._taken = self._epoch + 1, 0
                continue
            self._taken += 1
            return batch

    def position(self) -> dict[str, Any]:
        """After the batch that came last, as JSON holds it."""
        found = {"epoch": self._epoch, "batches": self._taken}
        state = getattr(self._iterator, "get_state", None)
        return found if state is None else {**found, "state": _packed(state())}

    def restore(self, position: dict[str, Any]) -> PyTree:
        """Go on after a position; the batch before it, or None where it is not read again.

        Raises:
            RunError: an iterator, or fewer batches than there were.
        """
        self._close()
        self._epoch, self._taken = position["epoch"], position["batches"]
        batch = None
        if self._once and "state" not in position:
            raise RunError(
                f"Data mismatch: expected data that can begin again, to go on after batch {self._taken} of "
                f"the run, got {self._name}. Give a function that makes it, or a grain dataset."
            )
        self._iterator = self._begun(self._epoch)
        if "state" in position:
            if not hasattr(self._iterator, "set_state"):
                raise RunError(
                    "Data mismatch: expected an iterator with set_state, as in the run to resume, got "
                    f"{type(self._iterator).__name__}."
                )
            try:
                self._iterator.set_state(_unpacked(position["state"]))
            except Exception as error:  # of the user's own data
                raise RunError(
                    f"Data mismatch: expected {self._name} to go on from its own state in the checkpoint, "
                    f"got: {reason(error)}."
                ) from error
            return None
        for n in range(self._taken):
            try:
                batch = next(self._iterator)
            except StopIteration:
                raise RunError(
                    f"Data mismatch: expected at least {self._taken} batches in epoch {self._epoch}, those "
                    f"of the run to resume, got {n}."
                ) from None
        return batch

    def close(self) -> None:
        """End the iterator, if it is the stream's own."""
        if not self._once:
            self._close()

    def _close(self) -> None:
        end = getattr(self._iterator, "close", None)
        self._iterator = None
        if callable(end) and not self._once:
            # A generator that still waits for its next batch, on the thread, cannot be ended.
            with contextlib.suppress(ValueError):
                end()

    def _begun(self, epoch: int) -> Iterator[Any]:
        found = self._begin(epoch)
        try:
            return iter(found)
        except TypeError:
            raise RunError(
                f"Data mismatch: expected {self._name} to give an iterable of batches, got "
                f"{type(found).__name__}."
            ) from None

    def _require_more(self) -> None:
        if not self._taken:
            raise RunError(
                f"Data mismatch: expected at least one batch in {self._name}, got none."
                if not self._epoch
                else f"Data mismatch: expected {self._name} to begin again in epoch {self._epoch}, got no "
                "batch. A function that returns the same iterator gives it once; make a new one."
            )
        if self._once:
            raise RunError(
                f"Data mismatch: expected a batch for each step, got {self._taken} from {self._name}, which "
                "cannot begin again. Give a function that makes it, or fewer steps."
            )


def in_words(data: Any) -> str:
    """What a user would call it: ``a generator``, ``the function batches``."""
    name = getattr(data, "__name__", None)
    return (
        f"the function {name}" if inspect.isroutine(data) and name else f"a {type(data).__name__}"
    )


def _beginning(data: Any) -> tuple[Callable[[int], Any], bool]:
    """How an epoch begins, and whether there is one only."""
    if hasattr(data, "to_iter_dataset") and "grain" in sys.modules:
        # A MapDataset of grain: it numbers its epochs itself, and shuffles each one anew.
        endless = len(data) >= sys.maxsize
        # Grain reads 500 elements ahead by itself, and here they are batches.
        few = sys.modules["grain"].ReadOptions(num_threads=AHEAD, prefetch_buffer_size=AHEAD)
        whole = (data if endless else data.repeat()).to_iter_dataset(few)
        return lambda epoch: whole, False
    if hasattr(data, "__next__"):
        return lambda epoch: data, True
    if hasattr(data, "__iter__"):
        return lambda epoch: data, False
    try:
        parameters = inspect.signature(data).parameters.values()
    except (TypeError, ValueError):  # a built-in function need not tell
        parameters = ()  # type: ignore[assignment]
    needed = [one for one in parameters if one.default is one.empty and one.kind < 2]
    if len(needed) > 1:
        raise RunError(
            f"Data mismatch: expected {in_words(data)} without arguments, or of the epoch, got "
            f"{', '.join(one.name for one in needed)}."
        )
    return (data if needed else lambda epoch: data()), False


def _packed(state: Any) -> Any:
    """A state as JSON holds it; bytes (of grain's DataLoader) as text."""
    if isinstance(state, bytes):
        return {"bytes": base64.b64encode(state).decode()}

    def plain(value: Any) -> Any:
        if isinstance(value, (np.generic, np.ndarray)):
            return value.tolist()
        raise TypeError(f"{type(value).__name__} is nothing that JSON holds")

    # By text, because an iterator may go on to change what it gave.
    return {"json": json.dumps(state, default=plain)}


def _unpacked(packed: dict[str, str]) -> Any:
    if "bytes" in packed:
        return base64.b64decode(packed["bytes"])
    return json.loads(packed["json"])
