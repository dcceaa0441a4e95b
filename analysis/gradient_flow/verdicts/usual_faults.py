"""Faults that a gradient by hand has as a whole: one common factor, and gates in another order.

A gradient g' with g' = α g in every entry was clipped or scaled as a whole, or is a mean where the loss is a
sum: α = 1/B or 1/T. One whose packed columns [i | f | g | o] are right in another order mixes up its gates.
"""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np

from lstm_jax.gradients.gradient_check import relative_error


class CommonFactor(NamedTuple):
    """A factor common to every entry of a gradient.

    Attributes:
        value: α.
        meaning: what it is, in words.
    """

    value: float
    meaning: str

    def __str__(self) -> str:
        """The factor and its meaning."""
        return f"{self.value:.3g}: {self.meaning}"


def common_factor(
    found: Sequence[np.ndarray],
    right: Sequence[np.ndarray],
    tolerance: float,
    counts: Mapping[str, int],
) -> CommonFactor | None:
    """The factor between two gradients, leaf by leaf, of steps or of sums; None if there is none.

    Args:
        found: the gradient by hand.
        right: the reference.
        tolerance: bound on the relative error of each leaf, once the factor is taken out.
        counts: what a mean may have been taken over, ``{"batch": B, "steps": T}``.
    """
    right_flat, found_flat = (np.concatenate([np.ravel(a) for a in x]) for x in (right, found))
    # One number is always a multiple of another.
    if np.count_nonzero(right_flat) < 2 or not np.isfinite(found_flat).all():
        return None
    value = float(found_flat @ right_flat / (right_flat @ right_flat))
    if not value or abs(value - 1) <= tolerance:
        return None
    errors = [relative_error(a, value * b) for a, b in zip(found, right, strict=True)]
    if not max(errors) <= tolerance:
        return None
    whole = {**counts, "batch and the steps": int(np.prod(list(counts.values())))}
    for name, count in whole.items():
        if count > 1 and abs(value * count - 1) <= tolerance:
            return CommonFactor(value, f"1/{count}, a mean over the {name} in place of a sum")
        if count > 1 and abs(value / count - 1) <= tolerance:
            return CommonFactor(value, f"a sum over the {name} in place of a mean")
    return CommonFactor(value, "clipped or scaled as a whole")


def gate_order(
    found: Sequence[np.ndarray],
    right: Sequence[np.ndarray],
    packed: Sequence[bool],
    gates: tuple[str, ...],
    tolerance: float,
) -> tuple[str, ...] | None:
    """The order in which a gradient's gates are right, ``("i", "g", "f", "o")``; None if there is none.

    Args:
        found: the gradient by hand.
        right: the reference, in the order of ``gates``.
        packed: which leaves have the columns of all gates side by side.
        gates: the cell's.
        tolerance: bound on the relative error of each leaf.
    """
    leaves = list(zip(found, right, packed, strict=True))
    if not any(packed) or any(not relative_error(a, b) <= tolerance for a, b, p in leaves if not p):
        return None
    split = [
        [np.split(side, len(gates), axis=-1) for side in (a, b)] for a, b, has in leaves if has
    ]
    for order in permutations(range(len(gates))):
        if order == tuple(range(len(gates))):
            continue
        if all(
            relative_error(ours[place], theirs[gate]) <= tolerance
            for ours, theirs in split
            for place, gate in enumerate(order)
        ):
            return tuple(gates[gate] for gate in order)
    return None
