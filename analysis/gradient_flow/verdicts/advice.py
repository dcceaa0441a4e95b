r"""Advice on a network's gradient: make each change, measure again, and keep what helped, best first.

A change helps a vanishing gradient if its horizon is a fifth longer, an exploding one if it loses half of its
decades and no horizon. Of a network that lets nothing in or out (dead units, closed gates, inputs that change
nothing) a change has to lift that too. What was tried and did not help is told apart.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.measurements.by_layer import has_zoneout
from gradient_flow.step_jacobians.checked_arguments import with_samples
from gradient_flow.step_jacobians.trajectory import step_of
from gradient_flow.verdicts.changes import Change, changes
from gradient_flow.verdicts.finding import Finding, power_of_ten, steps
from gradient_flow.verdicts.input_findings import input_findings
from gradient_flow.verdicts.layer_findings import layer_findings
from gradient_flow.verdicts.reach import (
    Case,
    Reach,
    Reading,
    by_layer_only,
    median_curve,
    parts_of,
    reach_of,
    read,
)
from gradient_flow.verdicts.unit_findings import unit_findings
from lstm_jax.array_types import Array, PyTree
from lstm_jax.cells import Cell
from lstm_jax.layers.stack import Stack, cells_of
from lstm_jax.validation import NonFiniteError

LONGER, FEWER_DECADES, STILL_SHUT = 1.2, 0.5, 0.5
"""What counts as help: the horizon's factor, the decades of growth and the shut units that are left."""

MOSTLY_SHUT = 0.5
"""From this share of units that let nothing through, a change has to open them, whatever the horizon."""

GROWN = 10.0
"""A healthy gradient has grown by no more than this."""


def advice_for(
    case: Case, params: PyTree, reach: Reach, reading: Reading, findings: list[Finding]
) -> tuple[list[Finding], list[Finding]]:
    """What helped against a verdict, best first, and what was tried without help."""
    shut = _shut(case, findings)
    # What explodes is mended first; a few units that are shut do not stand in the way.
    if reach.verdict == "exploding" or len(shut) < MOSTLY_SHUT * _size(case):
        shut = frozenset()
    if reach.verdict == "steady" and not shut:
        return [], []
    tried = []
    for change in changes(case, params, reach.verdict, findings):
        try:
            tried.append(_try_change(change, reach, len(shut)))
        except NonFiniteError:
            continue
    tried.sort(key=lambda one: one[0], reverse=True)
    helped = [finding for (helps, *_), finding in tried if helps]
    useless = [finding for (helps, *_), finding in tried if not helps]
    if reach.verdict == "exploding":
        # A chaotic network works within its window; its weights need not be wrong.
        chaotic = any(finding.name == "chaotic" for finding in findings)
        helped = _window(reach) + helped if chaotic else helped + _window(reach)
        if not by_layer_only(case.cell):
            helped += _clipping(case, params, reading, findings)
    return helped, useless


def _shut(case: Case, findings: list[Finding]) -> frozenset[Any]:
    """The units that let nothing through: dead, or with i or o closed; all if the inputs change nothing."""
    units: set[Any] = set()
    for finding in findings:
        numbers = finding.numbers
        place = numbers.get("layer"), numbers.get("direction")
        closed = finding.name == "saturated" and numbers["end"] == "closed"
        if finding.name == "dead" or (closed and numbers["gate"] in ("i", "o")):
            units |= {(*place, unit) for unit in numbers["units"] if finding.illness}
        if finding.name == "no_effect":
            units |= {(None, None, unit) for unit in range(_size(case))}
    return frozenset(units)


def _size(case: Case) -> int:
    """Units of the network."""
    if isinstance(case.cell, (Cell, Stack)):
        cells = [case.cell] if isinstance(case.cell, Cell) else cells_of(case.cell.layers)
        return sum(cell.output_size for cell in cells)
    return sum(jnp.size(leaf) for leaf in jax.tree.leaves(case.state0))


def _try_change(change: Change, before: Reach, shut: int) -> tuple[tuple[Any, ...], Finding]:
    """A rank, whose first entry is whether the change helped, and the finding."""
    found = read(change.case, change.params)
    after = reach_of(found.lags, median_curve(found))
    left = len(_shut(change.case, _findings(change))) if shut else 0
    lag = change.case.lag
    if before.verdict == "exploding":
        helps = (
            after.log10_largest <= FEWER_DECADES * before.log10_largest
            and abs(after.log10_norm) < before.log10_largest
            and after.horizon >= min(before.horizon, before.healthy)
        )
    elif before.verdict == "vanishing":
        helps = after.verdict != "exploding" and after.horizon >= LONGER * before.horizon
    else:
        helps = after.verdict == "steady" and left < shut
    helps = bool(helps and left <= STILL_SHUT * shut)
    rank = (
        helps,
        after.verdict == "steady",
        -left,
        min(after.horizon, lag),
        -abs(after.log10_norm),
    )
    was, now = (
        f"beyond {lag}" if np.isinf(r.horizon) else steps(r.horizon) for r in (before, after)
    )
    horizon = f"be {now} in place of {was}" if now != was else f"stay {now}"
    says = (
        f"{change.what}: the horizon would {horizon}, the norm at the lag "
        f"{power_of_ten(after.log10_norm)} in place of {power_of_ten(before.log10_norm)}"
    )
    if shut:
        says += f"; {left} units would let nothing through in place of {shut}"
    numbers = {
        "verdict": after.verdict,
        "horizon": after.horizon,
        "horizon_before": before.horizon,
        "log10_norm": after.log10_norm,
        "log10_norm_before": before.log10_norm,
        "shut": left,
        "shut_before": shut,
    }
    return rank, Finding(change.name, says + ".", numbers)


def _findings(change: Change) -> list[Finding]:
    own = input_findings(change.case, change.params)
    if isinstance(change.case.cell, Stack):
        if has_zoneout(change.case.cell):
            return own
        return own + layer_findings(
            change.case, change.params, parts_of(change.case, change.params)
        )
    return own + unit_findings(change.case, change.params)


def _window(reach: Reach) -> list[Finding]:
    """The longest window of truncated back-propagation in which the gradient is bounded."""
    if not 2 <= reach.healthy < np.inf:
        return []
    says = (
        f"Back-propagation through at most {steps(reach.healthy)}: up to that lag the norm stays below "
        f"10^3; it is {power_of_ten(reach.log10_largest)} at most beyond."
    )
    return [Finding("window", says, {"steps": reach.healthy})]


def _clipping(
    case: Case, params: PyTree, reading: Reading, findings: list[Finding]
) -> list[Finding]:
    """A norm to clip at: of the gradient through the steps before the growth, the median of the samples."""
    curve = median_curve(reading)
    grown = np.flatnonzero(curve > np.log(GROWN))
    window = max(int(reading.lags[grown[0] - 1]) if len(grown) else case.lag, 1)
    # A state that has grown makes every gradient large; before that it is healthy.
    at_start = any(finding.name in ("overflow", "grows") for finding in findings)
    norms = _gradient_norms(case, params, window, at_start)
    numbers = {"norm": float(np.median(norms)), "window": window, "samples": len(norms)}
    if not 0 < numbers["norm"] < np.inf:
        return []
    of_loss = (
        "" if case.loss is not None else ", for a loss whose gradient at the state is of size 1"
    )
    says = (
        f"Until the weights are mended, clip the gradient by its global norm at {numbers['norm']:.2g}: "
        f"that of {'the first' if at_start else 'the last'} {steps(window)}, before the growth"
        f"{of_loss}. Clipping bounds a step; the cause is the weights, and they stay."
    )
    return [Finding("clipping", says, numbers)]


def _gradient_norms(case: Case, params: PyTree, window: int, at_start: bool) -> np.ndarray:
    """‖∂ℓ/∂θ‖ by sample, of the first or the last steps only."""

    def of_size_one(state: PyTree) -> Array:
        leaves = [leaf for leaf in jax.tree.leaves(state) if _is_floating(leaf)]
        count = sum(leaf.size for leaf in leaves)
        return jnp.asarray(sum(jnp.sum(leaf) for leaf in leaves)) / count**0.5

    chosen = of_size_one if case.loss is None else case.loss
    step = step_of(case.cell)

    def norm(state: PyTree, xs: PyTree) -> Array:
        def of(params: PyTree) -> Array:
            last, _ = jax.lax.scan(lambda s, x: (step(params, s, x)[0], None), state, xs)
            return chosen(last)

        leaves = jax.tree.leaves(jax.grad(of, allow_int=True)(params))
        return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in leaves if _is_floating(leaf)))

    state0, samples = with_samples(case.batched, case.state0, case.xs)
    if at_start:
        start, part = state0, jax.tree.map(lambda leaf: leaf[:window], samples)
    else:
        states = case.states(params)
        start = jax.tree.map(lambda leaf: leaf[-1 - window], states)
        part = jax.tree.map(lambda leaf: leaf[-window:], samples)
    return np.asarray(jax.jit(jax.vmap(norm, in_axes=(0, 1)))(start, part), np.float64)


def _is_floating(leaf: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))
