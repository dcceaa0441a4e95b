"""Placeholders for the values that are not known while a graph is read: sequences, sizes, lengths."""

from typing import Any, NamedTuple

import numpy as np


class Labels(NamedTuple):
    """A placeholder for a sequence: different numbers in the graph's layout."""

    array: np.ndarray
    given: bool = False


class Sizes(NamedTuple):
    """A placeholder for sizes of a sequence: the sequence and the axes."""

    labels: np.ndarray
    axes: np.ndarray


class Lengths(NamedTuple):
    """A placeholder for lengths.

    Attributes:
        source: name of the graph's input; None if they are all steps.
        limits: upper bounds, which must be the number of steps.
        flat: whether their last axis is still the batch.
    """

    source: str | None
    limits: tuple[Sizes, ...] = ()
    flat: bool = True


class StepNumbers(NamedTuple):
    """A placeholder for steps 0, 1, ...; with ``lengths``, for the mask of the steps within them.

    Attributes:
        limit: the number of steps.
        array: any numbers; its shape has 2 for an axis of steps and 3 for one of samples.
        lengths: with which the steps are compared.
    """

    limit: Sizes
    array: np.ndarray
    lengths: Lengths | None = None


class Parts(NamedTuple):
    """The different outputs of one node."""

    each: list[Any]


GIVEN, STATES, UNKNOWN = "a part of an input", "a final state", "a computed value"
"""Placeholders for all other values. A constant is an array."""
