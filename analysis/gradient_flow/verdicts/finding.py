"""A finding: one sentence about a network, with the numbers behind it; and how its numbers are written."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

NAMED = 8
"""Units or samples that a sentence names, at most."""

ILLNESSES = (
    *("alike", "chaotic", "constant_inputs", "dead", "flips", "growth", "grows", "inputs", "layer"),
    *("memory", "no_effect", "one_direction", "overflow", "saturated"),
)
"""The names of the findings that may say that something is wrong."""


class Finding(NamedTuple):
    """A sentence about a network, with its numbers.

    Attributes:
        name: its kind, such as ``horizon`` or ``saturated``.
        says: the sentence.
        numbers: the numbers behind it, by name.
        illness: what is wrong, in a few words; empty where nothing is.
    """

    name: str
    says: str
    numbers: dict[str, Any]
    illness: str = ""


def in_layer(finding: Finding, name: str, place: dict[str, Any]) -> Finding:
    """The finding as one of a layer of a stack: the layer leads its sentence and stands in its numbers."""
    illness = f"{name}: {finding.illness}" if finding.illness else ""
    return Finding(
        finding.name, f"{name.capitalize()}: {finding.says}", finding.numbers | place, illness
    )


def power_of_ten(log10: float | np.floating) -> str:
    """A norm by its decimal logarithm: ``10^-5.5``; one below every number of the dtype is ``exactly 0``."""
    return "exactly 0" if np.isneginf(log10) else f"10^{log10:.1f}"


def steps(count: float | np.integer) -> str:
    """``1 step``, ``12 steps``."""
    shown = f"{count:.3g}" if count < 10 else f"{count:.0f}"
    return f"{shown} step" if shown == "1" else f"{shown} steps"


def listed(numbers: Iterable[Any]) -> str:
    """The first of some numbers: ``0, 3, 4, …``."""
    found = [str(n) for n in numbers]
    return ", ".join(found[:NAMED]) + (", …" if len(found) > NAMED else "")
