r"""What is wrong with the units of a cell: gates, candidates and memories that saturate, units that are dead.

    closed, open     a gate of a unit below 0.05, or above 0.95, at nine of ten steps
    flips            such a gate that is at each end for a tenth of the steps or more
    at ±1            a candidate g or n, or a tanh unit, beyond ±0.975 at nine of ten steps: slope below 0.05
    saturated C      |tanh C| beyond 0.975: what such a memory holds cannot reach h
    dead             a unit whose output never changes by more than 10⁻⁶
    alike            a unit whose output is that of another, to 10⁻⁶
    τ                −1 / mean log f, the steps for which a unit remembers; a lag L needs L / log 1000

Axes: values are [T, samples, H].
"""

from typing import Any

import jax
import numpy as np

from gradient_flow.measurements.gates import gate_activations, gate_time_constants
from gradient_flow.step_jacobians.checked_arguments import checked_run
from gradient_flow.step_jacobians.state_layout import moving_parts
from gradient_flow.verdicts.finding import Finding, listed, steps
from gradient_flow.verdicts.reach import THOUSANDTH, Case
from lstm_jax.array_types import PyTree
from lstm_jax.cells import Cell, LSTMState

SATURATED, SATURATED_SHARE = 0.05, 0.9
"""How close to 0 or 1 a gate is saturated, and at what share of the steps."""

FLIP_SHARE = 0.1
"""A gate that flips is at each end for this share of the steps."""

AT_ONE = (1 - SATURATED) ** 0.5
"""A tanh beyond this has a slope below `SATURATED`."""

MEMORY_SHARE, ILL_MEMORY_SHARE = 0.1, 1 / 3
"""The share of all units and steps from which saturated memories are told, and from which they are ill."""

GROWN = 4.0
"""A part of a state that becomes so much larger along the run, and than 1, grows."""

DEAD_RANGE = 1e-6
"""The output of a dead unit changes by no more than this."""

TOLD_SHARE, ILL_SHARE = 0.05, 0.2
"""The share of units from which a saturation is told, and from which it is an illness."""


def unit_findings(case: Case, params: PyTree) -> list[Finding]:
    """The findings on the units of a cell, or on the entries of a plain step's state."""
    states = case.states(params)
    later = jax.tree.map(lambda leaf: np.asarray(leaf[1:], np.float64), states)
    if not isinstance(case.cell, Cell):
        return _of_step(case, params, later)
    return [
        *_memories(later),
        *_gates(case, params),
        *_time_constants(case, params),
        *_outputs(later.h, case.cell),
    ]


def dead_units(case: Case, params: PyTree) -> np.ndarray:
    """The units of a cell whose output never changes."""
    states = case.states(params)
    return _dead(np.asarray(states.h[1:], np.float64))


def _activations(case: Case, params: PyTree) -> dict[str, np.ndarray]:
    found = gate_activations(case.cell, params, case.state0, case.xs)
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def _share(where: np.ndarray) -> np.ndarray:
    """The share of steps and samples, by unit."""
    return where.reshape(-1, where.shape[-1]).mean(axis=0)


def _memories(states: Any) -> list[Finding]:
    if not isinstance(states, LSTMState):
        return []
    size = np.abs(states.c)
    share = float((np.tanh(size) > AT_ONE).mean())
    if share < MEMORY_SHARE:
        return []
    tenth = -(-len(size) // 10)
    numbers = {
        "share": share,
        "median": float(np.median(size)),
        "largest": float(size.max()),
        "at_start": float(np.median(size[:tenth])),
        "at_end": float(np.median(size[-tenth:])),
    }
    ill = share >= ILL_MEMORY_SHARE
    says = (
        f"{'The' if ill else 'Some'} memories are saturated: {share:.0%} of tanh C are beyond "
        f"±{AT_ONE:.3f} (|C| is {numbers['median']:.3g} at the median, {numbers['largest']:.3g} at "
        "most), where h hardly follows C"
    )
    if numbers["at_end"] > 2 * numbers["at_start"]:
        says += (
            f"; |C| grows along the run, from {numbers['at_start']:.2g} to {numbers['at_end']:.2g}"
        )
    return [Finding("memory", says + ".", numbers, "saturated memories" * ill)]


def _gates(case: Case, params: PyTree) -> list[Finding]:
    findings = []
    for name, values in _activations(case, params).items():
        if name in ("g", "n"):
            findings += _at_one(values, f"candidate {name}", "candidate")
        elif name != "slope":
            findings += _ends_of_gate(name, values, name == case.cell.memory_gate)
    return findings


def _ends_of_gate(name: str, values: np.ndarray, keeps: bool) -> list[Finding]:
    """Findings on one gate; one that keeps the memory is not ill where it is open."""
    size = values.shape[-1]
    closed, opened = _share(values < SATURATED), _share(values > 1 - SATURATED)
    flips = (np.minimum(closed, opened) >= FLIP_SHARE) & (closed + opened >= SATURATED_SHARE)
    findings = []
    for end, where in (
        ("closed", closed >= SATURATED_SHARE),
        ("open", opened >= SATURATED_SHARE),
    ):
        units = np.flatnonzero(where)
        if len(units) >= max(1, TOLD_SHARE * size):
            says = (
                f"Gate {name} is saturated {end} in {len(units)} of {size} units ({listed(units)})."
            )
            numbers = {"gate": name, "end": end, "count": len(units), "units": units.tolist()}
            ill = len(units) >= ILL_SHARE * size and not (keeps and end == "open")
            findings.append(Finding("saturated", says, numbers, f"gate {name} {end}" * ill))
    units = np.flatnonzero(flips)
    if len(units) >= max(1, TOLD_SHARE * size):
        says = (
            f"Gate {name} flips between 0 and 1 in {len(units)} of {size} units ({listed(units)}): "
            "it is hardly ever in between, where it could learn."
        )
        numbers = {"gate": name, "count": len(units), "units": units.tolist()}
        ill = len(units) >= ILL_SHARE * size
        findings.append(Finding("flips", says, numbers, f"gate {name} flips" * ill))
    return findings


def _at_one(values: np.ndarray, what: str, name: str) -> list[Finding]:
    units = np.flatnonzero(_share(np.abs(values) > AT_ONE) >= SATURATED_SHARE)
    size = values.shape[-1]
    if len(units) < max(1, TOLD_SHARE * size):
        return []
    says = (
        f"{what.capitalize()} is at ±1 in {len(units)} of {size} units ({listed(units)}), where its "
        "slope is almost 0."
    )
    numbers = {"of": what, "count": len(units), "units": units.tolist()}
    ill = len(units) >= ILL_SHARE * size
    return [Finding(name, says, numbers, f"{what} at ±1" * ill)]


def _time_constants(case: Case, params: PyTree) -> list[Finding]:
    gate = case.cell.memory_gate
    if gate is None:
        return []
    found = gate_time_constants(case.cell, params, case.state0, case.xs).effective
    tau = np.median(np.atleast_2d(np.asarray(found, np.float64)), axis=0)
    needed = case.lag / -np.log(THOUSANDTH)
    numbers = {
        "longest": float(tau.max()),
        "median": float(np.median(tau)),
        "needed": needed,
        "enough": int((tau >= needed).sum()),
    }
    says = (
        f"Gate {gate} remembers for {numbers['longest']:.3g} steps in the best unit, "
        f"{numbers['median']:.3g} in the median one; keeping a thousandth over "
        f"{steps(case.lag)} by itself takes {needed:.3g}, which {numbers['enough']} of {len(tau)} units have."
    )
    return [Finding("time_constants", says, numbers)]


def _dead(hs: np.ndarray) -> np.ndarray:
    flat = hs.reshape(-1, hs.shape[-1])
    if len(flat) < 2:
        return np.asarray([], int)
    return np.flatnonzero(np.ptp(flat, axis=0) <= DEAD_RANGE * np.maximum(1, np.abs(flat).max(0)))


def _outputs(hs: np.ndarray, cell: Cell) -> list[Finding]:
    findings: list[Finding] = []
    if cell.kind == "rnn" and cell.activation == "tanh":
        findings += _at_one(hs, "tanh h", "saturated_units")
    return findings + _dead_and_alike(hs, "units")


def _of_step(case: Case, params: PyTree, states: PyTree) -> list[Finding]:
    layout = checked_run(case.cell, params, case.state0, case.xs, case.batched).layout
    findings = _memories(states)
    for name, part in zip(layout.names, moving_parts(layout, states), strict=True):
        values = part.reshape(*part.shape[:2], -1)
        if np.abs(values).max() <= 1:
            findings += _at_one(values, f"the state's {name}", "saturated_units")
        findings += _dead_and_alike(values, f"entries of {name}")
        findings += _growth(values, f"the state's {name}")
    return findings


def _growth(values: np.ndarray, what: str) -> list[Finding]:
    """A part of a state that grows along the run, as a memory does that only counts up."""
    tenth = -(-len(values) // 10)
    start, end = (float(np.median(np.abs(part))) for part in (values[:tenth], values[-tenth:]))
    if end < GROWN * max(start, 1):
        return []
    says = (
        f"{what.capitalize()} grows along the run: {start:.2g} at its start, {end:.2g} at its end."
    )
    return [Finding("growth", says, {"at_start": start, "at_end": end}, f"{what} grows")]


def _dead_and_alike(hs: np.ndarray, what: str) -> list[Finding]:
    size = hs.shape[-1]
    findings = []
    units = _dead(hs)
    if len(units):
        verb = (
            "is dead: its output never changes"
            if size == 1
            else "are dead: their output never changes"
        )
        says = f"{len(units)} of {size} {what} {verb} ({listed(units)})."
        numbers = {"count": len(units), "units": units.tolist()}
        short = f"{len(units)} of {size} {what} dead" * (len(units) >= ILL_SHARE * size)
        findings.append(Finding("dead", says, numbers, short))
    copies = _alike(hs, units)
    if len(copies):
        says = (
            f"{len(copies)} of {size} {what} do the same as another one ({listed(copies)}): equal "
            "weights stay equal under training."
        )
        numbers = {"count": len(copies), "units": copies.tolist()}
        short = f"{len(copies)} of {size} {what} alike" * (len(copies) >= ILL_SHARE * size)
        findings.append(Finding("alike", says, numbers, short))
    return findings


def _alike(hs: np.ndarray, dead: np.ndarray) -> np.ndarray:
    """Units whose output equals that of a unit before them; dead ones apart."""
    flat = hs.reshape(-1, hs.shape[-1])
    alive = np.setdiff1d(np.arange(flat.shape[1]), dead)
    if len(flat) < 2:
        return np.asarray([], int)
    # Equal columns have equal sums: sorted by them, only neighbours have to be compared.
    order = alive[np.argsort(flat[:, alive].sum(0), kind="stable")]
    scale = np.maximum(1, np.abs(flat).max())
    same = [
        max(one, other)
        for one, other in zip(order[:-1], order[1:], strict=True)
        if np.abs(flat[:, one] - flat[:, other]).max() <= DEAD_RANGE * scale
    ]
    return np.unique(np.asarray(same, int))
