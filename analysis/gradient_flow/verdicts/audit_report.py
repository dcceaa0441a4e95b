"""What `audit` found: numbers leaf by leaf and lag by lag, a table, and one sentence.

Where a derivation returns only sums over the steps, c_k is the difference of two sums. A c_k below their
rounding cannot be told from a missing one: such a lag is *not resolved*, and its error is NaN.
"""

from typing import Any, NamedTuple

import numpy as np

from gradient_flow.verdicts.usual_faults import CommonFactor
from lstm_jax.array_types import Float, Int

NAMED = 6
"""Leaves that a verdict names at each lag, at most."""


class LeafAudit(NamedTuple):
    """One leaf of the parameters.

    Attributes:
        name: its path, ``w_h``.
        whole: relative error of its whole gradient. Of a vanishing gradient it says nothing about long lags,
            whose part in the sum is below rounding.
        by_lag: relative error of c_k at each lag; ∞ where c_k should be 0, or where it is NaN; NaN where it
            is not resolved.
        sizes: max|c_k| by autodiff at each lag.
        resolution: the relative error of c_k below which none is seen; 0 where the derivation returns c_k
            itself. From 1 on a missing c_k is not seen either: the lag is not resolved.
        by_gate: of a cell's ``w_x``, ``w_h`` and ``b`` the errors of each gate's columns at each lag,
            relative to the leaf; else empty.
    """

    name: str
    whole: float
    by_lag: Float[np.ndarray, "lags"]
    sizes: Float[np.ndarray, "lags"]
    resolution: Float[np.ndarray, "lags"]
    by_gate: dict[str, Any]


class Audit(NamedTuple):
    """The outcome of `audit`: a table under `str`, a sentence as ``verdict``.

    Attributes:
        lags: the lags that were compared.
        leaves: one `LeafAudit` for each leaf of the parameters.
        tolerance: bound on every relative error.
        factor: the common factor up to which a wrong gradient is right; None if there is none.
        gate_order: the order in which the gates of a wrong gradient are right; None if there is none.
    """

    lags: Int[np.ndarray, "lags"]
    leaves: tuple[LeafAudit, ...]
    tolerance: float
    factor: CommonFactor | None = None
    gate_order: tuple[str, ...] | None = None

    @property
    def wrong(self) -> dict[str, int]:
        """The first wrong lag of each leaf that has one."""
        return {
            leaf.name: int(self.lags[np.argmax(leaf.by_lag > self.tolerance)])
            for leaf in self.leaves
            if (leaf.by_lag > self.tolerance).any()
        }

    @property
    def wrong_gates(self) -> dict[str, dict[str, int]]:
        """The first wrong lag of each gate of each leaf that has gates and is wrong."""
        return {
            leaf.name: {
                gate: int(self.lags[np.argmax(errors > self.tolerance)])
                for gate, errors in leaf.by_gate.items()
                if (errors > self.tolerance).any()
            }
            for leaf in self.leaves
            if leaf.by_gate and (leaf.by_lag > self.tolerance).any()
        }

    @property
    def ok(self) -> bool:
        """Whether every leaf is right, as a whole and at every lag that is resolved."""
        return not self.wrong and all(leaf.whole <= self.tolerance for leaf in self.leaves)

    @property
    def resolved_lags(self) -> Int[np.ndarray, "resolved"]:
        """The lags up to the first that is not resolved in some leaf."""
        lost = np.any([np.isnan(leaf.by_lag) for leaf in self.leaves], axis=0)
        return self.lags[: int(np.argmax(lost))] if lost.any() else self.lags

    @property
    def worst(self) -> tuple[str, int, float]:
        """Leaf, lag and size of the largest error among the lags that are resolved."""
        errors = [np.where(np.isnan(leaf.by_lag), -1.0, leaf.by_lag) for leaf in self.leaves]
        n = int(np.argmax([error.max() for error in errors]))
        place = errors[n].argmax()
        return self.leaves[n].name, int(self.lags[place]), max(float(errors[n][place]), 0.0)

    @property
    def verdict(self) -> str:
        """Right, or wrong from which lag on and in which leaves, in one sentence."""
        name, lag, error = self.worst
        most = f"the largest error is {error:.2g}, in {name} at lag {lag}"
        if self.factor is not None:
            return f"right up to one common factor {self.factor}"
        if self.gate_order is not None:
            found, expected = (
                ", ".join(order) for order in (self.gate_order, self._gates_of_the_cell())
            )
            return f"right up to the order of the gates, {found} in place of {expected}"
        if self.wrong:
            return f"wrong {self._where_it_is_wrong()}: {most}{self._not_resolved()}"
        missed = ", ".join(leaf.name for leaf in self.leaves if not leaf.whole <= self.tolerance)
        if missed:
            return (
                f"right at the lags that were compared, wrong as a whole in {missed}: {most}"
                f"{self._not_resolved()}"
            )
        resolved = self.resolved_lags
        if not len(resolved):
            return f"right as a whole{self._not_resolved()}"
        return f"right at every lag up to {resolved[-1]}: {most}{self._not_resolved()}"

    def __str__(self) -> str:
        """The table, one line for each leaf and up to eight lags, and the verdict."""
        shown = np.unique(np.linspace(0, len(self.lags) - 1, min(8, len(self.lags))).astype(int))
        width = max(len("parameter"), *(len(leaf.name) for leaf in self.leaves))
        heads = "".join(f"  {f'lag {self.lags[n]}':>8}" for n in shown)
        lines = [f"{'parameter':{width}}  {'whole':>8}{heads}"]
        for leaf in self.leaves:
            cells = "".join(f"  {_cell(leaf.by_lag[n])}" for n in shown)
            start = self.wrong.get(leaf.name)
            end = "" if start is None else f"  <- wrong from lag {start}"
            lines.append(f"{leaf.name:{width}}  {leaf.whole:8.1e}{cells}{end}")
        if len(self.resolved_lags) < len(self.lags):
            lines.append("-: not resolved, by the whole neither: below the rounding of the sums")
        return "\n".join((*lines, f"{self.verdict} (relative, float64)"))

    def _not_resolved(self) -> str:
        resolved = self.resolved_lags
        if len(resolved) == len(self.lags):
            return ""
        return (
            f"; not resolved from lag {self.lags[len(resolved)]} on, where a part is below the rounding of "
            "the sums. Return [T, *shape], the part of each step, to tell further"
        )

    def _gates_of_the_cell(self) -> tuple[str, ...]:
        return next(tuple(leaf.by_gate) for leaf in self.leaves if leaf.by_gate)

    def _where_it_is_wrong(self) -> str:
        # {lag: {gates: leaves}}; no gates stand for a leaf as a whole.
        found: dict[int, dict[tuple[str, ...], list[str]]] = {}
        by_gate = self.wrong_gates
        for leaf in self.leaves:
            if leaf.name not in self.wrong:
                continue
            starts = by_gate.get(leaf.name, {})
            if len(set(starts.values())) <= 1 and len(starts) in (0, len(leaf.by_gate)):
                found.setdefault(self.wrong[leaf.name], {}).setdefault((), []).append(leaf.name)
                continue
            for start in sorted(set(starts.values())):
                gates = tuple(gate for gate, lag in starts.items() if lag == start)
                found.setdefault(start, {}).setdefault(gates, []).append(leaf.name)
        return "; ".join(
            f"from lag {start} on in "
            + ", and in ".join(self._named(gates, names) for gates, names in found[start].items())
            for start in sorted(found)
        )

    def _named(self, gates: tuple[str, ...], names: list[str]) -> str:
        named = ", ".join(names[:NAMED])
        named += f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        if len(names) == len(self.leaves) > 1:
            named = "every leaf"
        if not gates:
            return named
        return f"gate{'s' if len(gates) > 1 else ''} {', '.join(gates)} of {named}"


def _cell(error: float) -> str:
    return f"{'-':>8}" if np.isnan(error) else f"{error:8.1e}"
