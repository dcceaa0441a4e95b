r"""A claim about recurrent gradients, the cases in which it is tested, and its verdict.

true           where it holds in every case, of every seed
false          where it holds in none
partly true    otherwise
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """One number of each seed, what it measures, and in how many seeds the claim holds.

    Attributes:
        what: what it measures, the same for every seed.
        values: the number of each seed.
        held: whether the claim holds, of each seed.
        beside: a number to compare with, in words, of the first seed.
    """

    what: str
    values: tuple[float, ...]
    held: tuple[bool, ...]
    beside: str = ""

    @property
    def value(self) -> float:
        """The median of the seeds."""
        return float(np.median(self.values))


def one_case(what: str, value: float, holds: bool, beside: str = "") -> Case:
    """A case of one seed."""
    return Case(what, (float(value),), (bool(holds),), beside)


class Line(NamedTuple):
    """One curve of a claim's figure; the part of the label after the comma selects its dash."""

    label: str
    x: np.ndarray
    y: np.ndarray


class Saying(NamedTuple):
    """One claim, its cases and its figure.

    Attributes:
        name: for files and tables.
        said: the claim.
        measure: the meaning of the cases' numbers, and when the claim holds.
        cases: the evidence.
        instead: the true statement.
        lines: the curves of the figure.
        x, y: the labels of its axes.
    """

    name: str
    said: str
    measure: str
    cases: tuple[Case, ...]
    instead: str
    lines: tuple[Line, ...]
    x: str
    y: str

    @property
    def verdict(self) -> str:
        """True, partly true or false."""
        holds = [held for case in self.cases for held in case.held]
        return "true" if all(holds) else "partly true" if any(holds) else "false"


def over_seeds(sayings: Sequence[Saying]) -> Saying:
    """One saying of several seeds' networks; its lines are those of the first."""
    first = sayings[0]
    cases = [
        Case(
            same[0].what,
            tuple(value for case in same for value in case.values),
            tuple(held for case in same for held in case.held),
            same[0].beside,
        )
        for same in zip(*(saying.cases for saying in sayings), strict=True)
    ]
    return first._replace(cases=tuple(cases))
