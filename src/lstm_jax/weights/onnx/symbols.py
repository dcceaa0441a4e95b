"""What stands for a value that is not known while a graph is read: sequences, sizes, lengths."""

from typing import Any, NamedTuple

import numpy as np


class Labels(NamedTuple):
    """What stands for a sequence: different numbers, laid out as the graph lays it out."""

    array: np.ndarray
    given: bool = False


class Sizes(NamedTuple):
    """What stands for sizes of a sequence: the sequence, and which axes of it are meant."""

    labels: np.ndarray
    axes: np.ndarray


class Lengths(NamedTuple):
    """What stands for lengths: the input that they come from, or None for every step.

    Attributes:
        source: name of the input.
        limits: the sizes that they do not exceed, which have to be the number of steps.
        flat: whether their last axis is still the batch.
    """

    source: str | None
    limits: tuple[Sizes, ...] = ()
    flat: bool = True


class Own(NamedTuple):
    """What stands for steps 0, 1, ..., and for which of them are a sample's own once ``lengths`` is there.

    Attributes:
        limit: how many steps.
        array: any numbers; its shape has 2 for an axis of steps and 3 for one of samples.
        lengths: what the steps have been compared with.
    """

    limit: Sizes
    array: np.ndarray
    lengths: Lengths | None = None


class Parts(NamedTuple):
    """What stands for the outputs of a node where they are not the same."""

    each: list[Any]


GIVEN, STATES, UNKNOWN = "a part of an input", "a final state", "a computed value"
"""What stands for any other value. A constant is an array."""
