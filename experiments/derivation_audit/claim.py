r"""A claim about recurrent gradients, the cases in which it is tested, and its verdict.

true           where it holds in every case
false          where it holds in none
partly true    otherwise
"""

from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """One number, what it measures, and whether the claim holds there."""

    what: str
    value: float
    holds: bool


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
        holds = [case.holds for case in self.cases]
        return "true" if all(holds) else "partly true" if any(holds) else "false"
