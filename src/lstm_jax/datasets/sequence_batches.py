r"""Batches of a fixed set of sequences: epochs, shuffling, buckets of lengths.

    order of an epoch = a permutation drawn from (seed, epoch), the last N mod B left out
    bucket            = those of the order whose length is next below one of a few; what does not fill a batch
                        goes up to the next bucket, so that each sequence comes once
    the batches are then shuffled, too

A batch depends on the sequences, the seed, the epoch and its number alone, and is made when it is asked for.
"""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.datasets.length_buckets import bucket_lengths
from lstm_jax.datasets.padding import SequenceBatch, as_sequence, padded, require_list
from lstm_jax.datasets.standardization import Standardization
from lstm_jax.datasets.windows import Windows
from lstm_jax.validation import (
    ShapeError,
    in_one_line,
    require_bool,
    require_int,
    require_positive_int,
    require_type,
    show_shape,
)


class Plan(NamedTuple):
    """Which sequences are in the batches of an epoch.

    Attributes:
        rows: numbers of sequences, [batches, B].
        lengths: to which each batch is padded, [batches].
    """

    rows: np.ndarray
    lengths: np.ndarray


class Batches:
    """Batches of sequences; made by `batches`.

    ``batches(epoch)`` is an iterator over those of an epoch, which can say and set where it is
    (``get_state``, ``set_state``). `lstm_jax.training.fit` takes them as ``data``, epoch after epoch.

    Attributes:
        bucket_lengths: the lengths to which batches are padded.
        padding: the share of padding among the steps of an epoch.
        axes: where the samples are in a batch, for ``Problem.batch_axes``.
    """

    def __init__(
        self,
        xs: Sequence[Any],
        targets: Any,
        batch_size: int,
        seed: int,
        shuffle: bool,
        buckets: int,
        per_step: bool,
        standardization: Standardization | None,
        part: tuple[int, int],
    ) -> None:
        self._xs, self._targets = xs, targets
        self._batch_size, self._seed, self._shuffle = batch_size, seed, shuffle
        self._per_step, self._standardization, self._part = per_step, standardization, part
        self._lengths = lengths_of(xs)
        self.bucket_lengths = bucket_lengths(self._lengths, buckets)
        plan = self.plan(0)
        steps = float(plan.lengths.sum()) * batch_size
        self.padding = 1 - float(self._lengths[plan.rows].sum()) / steps
        one = 1 if per_step else 0
        one_or_none = None if targets is None else one
        self.axes = SequenceBatch(1, 0, 1, one_or_none, one_or_none)

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return len(self._lengths) // self._batch_size

    def __call__(self, epoch: int) -> "Epoch":
        """The batches of an epoch, from 0."""
        return Epoch(self, epoch)

    def plan(self, epoch: int) -> Plan:
        """Which sequences are in the batches of an epoch."""
        drawn = np.random.default_rng((self._seed, epoch))
        count = len(self) * self._batch_size
        every = len(self._lengths)
        order = drawn.permutation(every) if self._shuffle else np.arange(every)
        found = bucketed(order[:count], self._lengths, self.bucket_lengths, self._batch_size)
        if not self._shuffle:
            # In the order of the sequences, as far as buckets allow.
            return Plan(*(array[np.argsort(found.rows.min(1))] for array in found))
        mixed = drawn.permutation(len(found.rows))
        return Plan(found.rows[mixed], found.lengths[mixed])

    def batch(self, plan: Plan, number: int) -> SequenceBatch:
        """One of the batches of a plan."""
        here, parts = self._part
        rows = plan.rows[number][here::parts].tolist()
        return padded(
            [self._xs[row] for row in rows],
            None if self._targets is None else [self._targets[row] for row in rows],
            per_step=self._per_step,
            length=int(plan.lengths[number]),
            standardization=self._standardization,
        )


class Epoch(Iterator[SequenceBatch]):
    """An iterator over the batches of an epoch."""

    def __init__(self, batches: Batches, epoch: int) -> None:
        self._batches, self._plan, self._next = batches, batches.plan(epoch), 0

    def __next__(self) -> SequenceBatch:
        if self._next == len(self._plan.rows):
            raise StopIteration
        self._next += 1
        return self._batches.batch(self._plan, self._next - 1)

    def get_state(self) -> dict[str, int]:
        """How many batches came, and of which plan."""
        return {"batches": self._next, "plan": self._checksum()}

    def set_state(self, state: dict[str, int]) -> None:
        """Go on after so many.

        Raises:
            ValueError: batches of other sequences, another size, seed or number of buckets.
        """
        if state["plan"] != self._checksum():
            raise ValueError(
                "Data mismatch: expected sequences of the same lengths in the same order, the same "
                "batch_size, seed and buckets as before, got others"
            )
        self._next = state["batches"]

    def _checksum(self) -> int:
        return zlib.crc32(self._plan.rows.tobytes(), zlib.crc32(self._plan.lengths.tobytes()))


def batches(
    xs: Sequence[Any],
    targets: Sequence[Any] | np.ndarray | None = None,
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    buckets: int = 4,
    per_step: bool = False,
    standardization: Standardization | None = None,
    part: tuple[int, int] = (0, 1),
) -> Batches:
    """Batches of sequences of different lengths, for `lstm_jax.training.fit` as ``data``.

    All batches have ``batch_size`` sequences. What is left over in an epoch, fewer than a batch, is other
    sequences in each epoch, or without shuffling always the last ones.

    Args:
        xs: N arrays [T_n, ...]; views of a memory-mapped file, or `windows` of one, are read when they are
            used. NaN is a missing value.
        targets: one for each sequence, [N, ...], or N arrays [T_n, ...] with one for each step.
        batch_size: B.
        seed: of the shuffling; with the number of the epoch it decides the order.
        shuffle: whether the sequences are shuffled, differently in each epoch.
        buckets: the number of lengths to which batches are padded; each is a program to compile. With 1,
            all are padded to the longest.
        per_step: whether the targets are for each step.
        standardization: applied to the inputs, from `standardization_of` the training set.
        part: ``(process, processes)``: give this process its part of each batch. The run is then the same
            with any number of processes.

    Returns:
        `Batches`, of `SequenceBatch`.

    Raises:
        ValueError: sizes that are not positive, fewer sequences than a batch, a part that does not divide it.
        ShapeError: sequences without steps, or another number of targets.
        TypeError: no arrays.

    Example:
        >>> import numpy as np
        >>> from lstm_jax.datasets import batches
        >>> sequences = [np.ones((length, 2), np.float32) for length in (3, 3, 9, 10)]
        >>> made = batches(sequences, targets=[0, 1, 0, 1], batch_size=2, buckets=2)
        >>> sorted(batch.xs.shape for batch in made(0)), round(made.padding, 3)
        ([(3, 2, 2), (10, 2, 2)], 0.038)
    """
    require_list("xs", "sequences", xs)
    if targets is not None:
        require_list("targets", "numbers or arrays", targets)
    if standardization is not None:
        require_type("standardization", standardization, Standardization)
    require_positive_int("batch_size", batch_size)
    require_positive_int("buckets", buckets)
    require_int("seed", seed, most=2**63 - 1)
    require_bool("shuffle", shuffle)
    require_bool("per_step", per_step)
    if len(xs) < batch_size:
        raise ValueError(
            f"Size mismatch: expected at least {batch_size} sequences, those of a batch, got {len(xs)}."
        )
    if targets is not None and len(targets) != len(xs):
        raise ShapeError(
            f"Size mismatch: expected targets for {len(xs)} sequences, got {len(targets)}."
        )
    if not isinstance(part, tuple) or len(part) != 2:
        raise TypeError(
            f"Type mismatch: expected part as (process, processes), got {in_one_line(part)}."
        )
    here, parts = part
    require_positive_int("processes", parts)
    require_int("process", here, most=parts - 1)
    if batch_size % parts:
        raise ValueError(
            f"Size mismatch: expected a batch_size that {parts} processes divide, got {batch_size}."
        )
    return Batches(xs, targets, batch_size, seed, shuffle, buckets, per_step, standardization, part)


def lengths_of(xs: Sequence[Any]) -> np.ndarray:
    """The number of steps of each sequence, which is at least 1."""
    if isinstance(xs, Windows):
        return np.full(len(xs), xs.length)
    require_list("xs", "sequences", xs)
    arrays = [as_sequence(x) for x in xs]
    kinds = {(array.dtype.name, array.shape[1:]) for array in arrays}
    if len(kinds) > 1:
        one, other = (f"{name}{show_shape(('T', *columns))}" for name, columns in sorted(kinds)[:2])
        raise ShapeError(
            f"Shape mismatch: expected sequences of one dtype and of the same columns, got {one} and {other}."
        )
    found = np.array([len(array) for array in arrays])
    if not found.all():
        raise ShapeError(
            f"Length mismatch: expected at least one step in each sequence, got none in sequence "
            f"{int(np.argmin(found))}."
        )
    return found


def bucketed(order: np.ndarray, lengths: np.ndarray, ends: np.ndarray, batch_size: int) -> Plan:
    """Batches of neighbours in length, in this order; the number of sequences is a multiple of the size."""
    bucket = np.searchsorted(ends, lengths[order])
    rows, padded_to = [], []
    rest = order[:0]
    for number, end in enumerate(ends):
        own = np.concatenate([rest, order[bucket == number]])
        whole = len(own) // batch_size
        rows.append(own[: whole * batch_size].reshape(whole, batch_size))
        padded_to.append(np.full(whole, end))
        rest = own[whole * batch_size :]
    return Plan(np.concatenate(rows), np.concatenate(padded_to))
