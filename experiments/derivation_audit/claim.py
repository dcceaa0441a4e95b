r"""A claim about recurrent gradients, the cases in which it is tested, and its verdict.

true           where it holds in every case
false          where it holds in none
partly true    otherwise
"""

from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """One number, what it is of, and whether the saying holds there."""

    what: str
    value: float
    holds: bool


class Line(NamedTuple):
    """One curve of a saying's picture; what stands behind the comma of the label chooses its dash."""

    label: str
    x: np.ndarray
    y: np.ndarray


class Saying(NamedTuple):
    """One saying, its cases and its picture.

    Attributes:
        name: for files and tables.
        said: the saying.
        measure: what the numbers of the cases are, and when it holds.
        cases: the evidence.
        instead: what is so.
        lines: the picture.
        x, y: what its axes are called.
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
        held = [case.holds for case in self.cases]
        return "true" if all(held) else "partly true" if any(held) else "false"
