r"""Diagnose a network's gradients: sentences that say what happens to them, and why, each with its number.

    horizon     the lag at which ‖∂h_T/∂h_k‖, or ‖∂C_T/∂C_k‖ where that reaches further, is a thousandth
    λ_1         the largest Lyapunov exponent: above 0, nearly equal states diverge, whatever the input
    saturated   a gate of a unit that is below 0.05, or above 0.95, at nine of ten steps
    dead        a unit whose output never changes by more than 10⁻⁶
    τ           −1 / mean log f, the steps for which a unit remembers by itself; a lag L needs L / log 1000

`gradient_flow.verdicts.advice` tries out what would change it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.measurements.curve_summary import decades_per_100
from gradient_flow.measurements.gates import gate_activations, gate_time_constants
from gradient_flow.measurements.lyapunov import lyapunov_spectrum
from gradient_flow.step_jacobians.checked_arguments import checked_run, whole_numbers
from gradient_flow.verdicts.advice import Finding, advice_for, has_memory_gate
from gradient_flow.verdicts.reach import THOUSANDTH, Case, furthest_horizon, part_curves
from lstm_jax.array_types import Array, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.layers.stack import Stack
from lstm_jax.unrolling.unroll import unroll

SATURATED, SATURATED_SHARE = 0.05, 0.9
"""How close to 0 or 1 a gate is saturated, and at what share of the steps."""

DEAD_RANGE = 1e-6
"""The output of a dead unit changes by no more than this."""


class Diagnosis(NamedTuple):
    """A verdict with its evidence; ``print`` it.

    Attributes:
        verdict: ``vanishing``, ``exploding``, ``steady`` or ``no recurrence``.
        lag: the lag that the network has to learn, in steps.
        horizon: in steps, of the block that reaches furthest; ∞ beyond the lag.
        findings: the measurements.
        advice: what to change, each tried out; empty where nothing is wrong.
    """

    verdict: str
    lag: int
    horizon: float
    findings: tuple[Finding, ...]
    advice: tuple[Finding, ...]

    def __str__(self) -> str:
        """The verdict, the findings and the advice, a line each."""
        lines = [f"Verdict: {self.verdict}, for a lag of {self.lag} steps."]
        lines += [f"  {finding.says}" for finding in self.findings]
        if self.advice:
            lines += ["What would change it:"] + [f"  {one.says}" for one in self.advice]
        return "\n".join(lines)


def diagnose(
    cell_or_step: Cell | Stack | Step,
    params: PyTree,
    state0: PyTree | None,
    xs: PyTree,
    *,
    lag: int | None = None,
    loss: Callable[[PyTree], Array] | None = None,
    batched: bool | None = None,
) -> Diagnosis:
    """Say what happens to the gradient over a lag, why, and what to change.

    Args:
        cell_or_step: a cell of `lstm_jax`, whose gates and units are examined too; a stack in one direction;
            or any ``step(params, state, x) -> (state, out)``.
        params: of the cell; any pytree for a step.
        state0: the starting state of one sample, or of B; zeros if None (a step needs one).
        xs: [T, D] or [T, B, D], typical of what the network is for; for a step any pytree, time leading.
        lag: how far back it has to learn, in steps, from 1 to T; T if None.
        loss: ``loss(state) -> number`` of one sample's last state, whose gradient sets the norm to clip at;
            half the squared norm of the state if None.
        batched: whether a step's xs and state0 have a batch axis.

    Returns:
        `Diagnosis`. Numbers are medians over the samples unless stated otherwise.

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell, the step or each other.
        NonFiniteError: a NaN or an infinity in the arguments, or in the states, with its step.
        ValueError: a lag out of range.

    Example:
        >>> import jax, lstm_jax, gradient_flow
        >>> cell = lstm_jax.lstm(3, 16, forget_bias=0.0)
        >>> params = cell.init(jax.random.key(0))
        >>> xs = jax.random.normal(jax.random.key(1), (100, 4, 3))
        >>> found = gradient_flow.diagnose(cell, params, None, xs)
        >>> found.verdict, found.horizon < 30
        ('vanishing', True)
        >>> [one.name for one in found.advice]
        ['forget_bias', 'chrono']
    """
    run = checked_run(cell_or_step, params, state0, xs, batched)
    (lag,) = whole_numbers("lag", [run.length if lag is None else lag], 1, run.length)
    case = Case(cell_or_step, run.state0, xs, lag, run.batched)
    verdict, reach, findings = _verdict(case, params)
    findings.append(_stability(case, params))
    if isinstance(cell_or_step, Cell):
        findings += _gate_findings(case, params)
        findings += _dead_units(case, params)
    advice = advice_for(case, params, verdict, reach, loss)
    return Diagnosis(verdict, lag, reach, tuple(findings), tuple(advice))


def _verdict(case: Case, params: PyTree) -> tuple[str, float, list[Finding]]:
    lags, curves = part_curves(case, params)
    reach, best = furthest_horizon(lags, curves)
    curve = curves[best]
    numbers: dict[str, Any] = {
        "horizon": reach,
        "block": best,
        "log10_norm": float(curve[-1] / np.log(10)),
        "log10_largest": float(max(c.max() for c in curves.values()) / np.log(10)),
        "decades_per_100": float(decades_per_100(lags[1:], curve[1:])),
    }
    if all(np.isneginf(curve[1:]).all() for curve in curves.values()):
        says = "No state depends on the one before: the transition is exactly 0 at every lag."
        return "no recurrence", 0.0, [Finding("horizon", says, numbers)]
    if max(curve[-1] for curve in curves.values()) > -np.log(THOUSANDTH):
        verdict = "exploding"
        how = f"grows to 10^{numbers['log10_norm']:.1f}"
    elif np.isinf(reach):
        verdict = "steady"
        how = f"is 10^{numbers['log10_norm']:.1f}"
    else:
        verdict = "vanishing"
        how = (
            f"falls to a thousandth within {reach:.0f} steps, and to 10^{numbers['log10_norm']:.1f}"
        )
    says = (
        f"The gradient along {best} {how} over {case.lag} steps "
        f"({-numbers['decades_per_100']:+.1f} decades per 100 steps)."
    )
    return verdict, reach, [Finding("horizon", says, numbers)]


def _stability(case: Case, params: PyTree) -> Finding:
    found = lyapunov_spectrum(
        case.cell,
        params,
        case.state0,
        case.xs,
        k=1,
        skip=jax.tree.leaves(case.xs)[0].shape[0] // 4,
        batched=None if isinstance(case.cell, (Cell, Stack)) else case.batched,
    )
    value, error = float(found.exponents[0]), float(found.standard_error[0])
    numbers = {"lambda_1": value, "standard_error": error}
    size = (
        f"{value:+.3g} ± {error:.1g} nats a step"
        if np.isfinite(error)
        else f"{value:+.3g} nats a step"
    )
    if value > 0 and value > 2 * np.nan_to_num(error):
        says = f"It is chaotic: λ_1 = {size}, so nearly equal states diverge."
        return Finding("chaotic", says, numbers)
    return Finding("stable", f"It forgets its starting state: λ_1 = {size}.", numbers)


def _gate_findings(case: Case, params: PyTree) -> list[Finding]:
    findings = []
    gates = gate_activations(case.cell, params, case.state0, case.xs)
    for name, activation in gates.items():
        if name in ("g", "n", "slope"):
            continue
        values = np.asarray(activation, np.float64)
        along = tuple(range(values.ndim - 1))
        for end, where in (("closed", values < SATURATED), ("open", values > 1 - SATURATED)):
            units = np.flatnonzero(where.mean(axis=along) >= SATURATED_SHARE)
            if not len(units):
                continue
            numbers = {"gate": name, "end": end, "count": len(units), "units": units.tolist()}
            says = (
                f"Gate {name} is saturated {end} in {len(units)} of {values.shape[-1]} units "
                f"({_listed(units)})."
            )
            findings.append(Finding("saturated", says, numbers))
    if has_memory_gate(case.cell):
        found = gate_time_constants(case.cell, params, case.state0, case.xs).effective
        tau = np.atleast_2d(np.asarray(found))
        tau = np.median(tau, axis=0)
        needed = case.lag / -np.log(THOUSANDTH)
        numbers = {
            "longest": float(tau.max()),
            "median": float(np.median(tau)),
            "needed": needed,
            "enough": int((tau >= needed).sum()),
        }
        gate = case.cell.memory_gate
        says = (
            f"Gate {gate} remembers for {numbers['longest']:.3g} steps in the best unit, "
            f"{numbers['median']:.3g} in the median one; a lag of {case.lag} needs {needed:.3g}, which "
            f"{numbers['enough']} of {len(tau)} units have."
        )
        findings.append(Finding("time_constants", says, numbers))
    return findings


def _dead_units(case: Case, params: PyTree) -> list[Finding]:
    _, hs = unroll(case.cell, params, case.xs, case.state0)
    along = tuple(range(hs.ndim - 1))
    units = np.flatnonzero(np.asarray(jnp.ptp(hs, axis=along)) <= DEAD_RANGE)
    if not len(units):
        return []
    says = f"{len(units)} of {hs.shape[-1]} units are dead: their output never changes ({_listed(units)})."
    return [Finding("dead", says, {"count": len(units), "units": units.tolist()})]


def _listed(units: np.ndarray) -> str:
    return ", ".join(map(str, units[:8])) + (", …" if len(units) > 8 else "")
