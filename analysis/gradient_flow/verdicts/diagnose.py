r"""Diagnose a network's gradients: sentences that say what happens to them, and why, each with its number.

The verdict follows what a loss sees (`gradient_flow.verdicts.reach`): the norm over the lag of ∂h_T/∂s_k, or
the gradient of the loss that is given.

    horizon     the lag at which that norm is a thousandth
    vanishing   the horizon is within the lag
    exploding   the norm grows past a thousand at some lag
    λ_1         the largest Lyapunov exponent: whether the starting state is forgotten

It is a verdict on the gradient at these parameters. A network whose gradient vanishes at the start may learn
the lag all the same: training changes the parameters, and may make the path that the start lacks.

Then what is wrong, by what is measured: `input_findings`, `unit_findings`, `layer_findings`. `advice` tries
out what would change it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.measurements.by_layer import has_zoneout
from gradient_flow.measurements.curve_summary import decades_per_100
from gradient_flow.result_display import html_table
from gradient_flow.step_jacobians.checked_arguments import (
    checked_run,
    whole_numbers,
)
from gradient_flow.verdicts.advice import advice_for
from gradient_flow.verdicts.finding import Finding, listed, power_of_ten, steps
from gradient_flow.verdicts.input_findings import input_findings
from gradient_flow.verdicts.layer_findings import layer_findings
from gradient_flow.verdicts.reach import (
    Case,
    Part,
    Reach,
    Reading,
    by_layer_only,
    median_curve,
    parts_of,
    reach_of,
    read,
    runs_backward,
)
from gradient_flow.verdicts.stability import stability
from gradient_flow.verdicts.unit_findings import unit_findings
from lstm_jax.array_types import Array, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.layers.stack import Stack
from lstm_jax.layers.unroll_stack import check_stack_arguments
from lstm_jax.validation import (
    named_samples,
    require_finite_arguments,
    require_parameters,
)

HEADLINE = 3
"""Illnesses that a headline names, at most."""

FURTHER = 1.5
"""How much further than what is read a reserve has to reach before it is told."""

LAST = ("time_constants",)
"""Findings that say how the network is built rather than what is wrong."""


class Diagnosis(NamedTuple):
    """A verdict with its evidence; ``print`` it.

    Attributes:
        verdict: ``vanishing``, ``exploding``, ``steady`` or ``no recurrence``.
        lag: the lag that the network has to learn, in steps.
        horizon: in steps, of what a loss sees; ∞ beyond the lag.
        findings: the measurements, what is wrong first.
        advice: what helped when it was tried, best first.
        without_help: what was tried and did not help.
        readings: the curves that the verdict follows, of the network under ``""`` and of each cell of a stack
            by itself under its name: natural logs [samples, lags] of the norms of blocks of ∂s_T/∂s_k.
    """

    verdict: str
    lag: int
    horizon: float
    findings: tuple[Finding, ...]
    advice: tuple[Finding, ...]
    without_help: tuple[Finding, ...] = ()
    readings: Mapping[str, Reading] = {}

    @property
    def illnesses(self) -> tuple[str, ...]:
        """What is wrong beside the verdict, a few words each; empty where nothing is."""
        return tuple(dict.fromkeys(one.illness for one in self.findings if one.illness))

    @property
    def headline(self) -> str:
        """The verdict and the illnesses in one line."""
        line = f"{self.verdict}, for a lag of {steps(self.lag)}"
        if not self.illnesses:
            return line + "."
        more = len(self.illnesses) - HEADLINE
        return f"{line}; {', '.join(self.illnesses[:HEADLINE])}" + (
            f" and {more} more." if more > 0 else "."
        )

    def _repr_html_(self) -> str:
        """The same as a table, for a notebook."""
        rows = [("", one.says) for one in self.findings]
        rows += [("would change it", one.says) for one in self.advice]
        rows += [("tried without help", one.says) for one in self.without_help]
        return html_table(f"Verdict: {self.headline}", ("", ""), rows)

    def __str__(self) -> str:
        """The headline, the findings and the advice, a line each."""
        lines = [f"Verdict: {self.headline}"]
        lines += [f"  {finding.says}" for finding in self.findings]
        if self.advice:
            lines += ["What would change it:"] + [f"  {one.says}" for one in self.advice]
        if self.without_help:
            lines += ["Tried without help:"] + [f"  {one.says}" for one in self.without_help]
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
        cell_or_step: a cell of `lstm_jax`, whose gates and units are examined too; a stack of them,
            layer by layer and direction by direction; or any ``step(params, state, x) -> (state, out)``.
        params: of the cell; any pytree for a step.
        state0: the starting state of one sample, or of B; zeros if None (a step needs one).
        xs: [T, D] or [T, B, D], typical of what the network is for; for a step any pytree, time leading.
        lag: how far back it has to learn, in steps, from 1 to T; T if None.
        loss: ``loss(state) -> number`` of one sample's last state. The verdict then follows its gradient, in
            place of the largest that any loss of h could have. Not for a stack with a backward layer.
        batched: whether a step's xs and state0 have a batch axis.

    Returns:
        `Diagnosis`. Numbers are medians over the samples unless stated otherwise.

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell, the step or each other.
        NonFiniteError: a NaN or an infinity in the arguments, with its step and its samples. States that
            overflow are a finding.
        ValueError: a lag out of range, or a loss that does not read the last state.

    Example:
        >>> import jax, lstm_jax, gradient_flow
        >>> cell = lstm_jax.lstm(3, 16, forget_bias=0.0)
        >>> params = cell.init(jax.random.key(0))
        >>> xs = jax.random.normal(jax.random.key(1), (100, 4, 3))
        >>> found = gradient_flow.diagnose(cell, params, None, xs)
        >>> found.verdict, found.horizon < 30
        ('vanishing', True)
        >>> [one.name for one in found.advice]  # best first
        ['forget_bias', 'chrono']
    """
    if loss is not None:
        require_parameters("loss", loss, "state")
    given = _checked(cell_or_step, params, state0, xs, batched, lag)._replace(loss=loss)
    if _is_one_cell(given.cell):
        (layer,), (weights,), (state,) = given.cell.layers, params.layers, given.state0
        of_layer = None if loss is None else lambda own: loss((own,))
        given, params = given._replace(cell=layer, state0=state, loss=of_layer), weights
    overflow, case = _before_overflow(given, params)
    if case is None:
        return Diagnosis("exploding", given.lag, np.inf, tuple(overflow), ())
    parts: tuple[Part, ...] = ()
    if isinstance(case.cell, Stack) and not has_zoneout(case.cell):
        parts = parts_of(case, params)
    reading = read(case, params, parts or None)
    reach, findings = _verdict(case, reading)
    if overflow:
        reach = reach._replace(verdict="exploding")
    findings = overflow + findings
    if not by_layer_only(case.cell):
        findings.append(stability(case, params))
    findings += input_findings(case, params)
    if isinstance(case.cell, Stack):
        findings += layer_findings(case, params, parts)
    else:
        findings += unit_findings(case, params)
    findings = _ill_first(findings)
    readings = {"": reading} | {part.name: part.reading for part in parts}
    found = Diagnosis(reach.verdict, case.lag, reach.horizon, tuple(findings), (), (), readings)
    if reach.verdict == "no recurrence":
        return found._replace(horizon=0.0)
    helped, useless = advice_for(case, params, reach, reading, findings)
    return found._replace(advice=tuple(helped), without_help=tuple(useless))


def _checked(
    cell: Any, params: PyTree, state0: PyTree, xs: PyTree, batched: bool | None, lag: int | None
) -> Case:
    if runs_backward(cell):
        state0 = check_stack_arguments(cell, params, xs, state0)
        require_finite_arguments(params, state0, xs, batched=jnp.ndim(xs) == 3)
        length, batched = jnp.shape(xs)[0], jnp.ndim(xs) == 3
    else:
        run = checked_run(cell, params, state0, xs, batched)
        state0, length, batched = run.state0, run.length, run.batched
    (lag,) = whole_numbers("lag", [length if lag is None else lag], 1, length)
    return Case(cell, state0, xs, lag, batched)


def _is_one_cell(network: Any) -> bool:
    """Whether a stack is a cell and nothing else."""
    if not isinstance(network, Stack) or len(network.layers) > 1:
        return False
    plain = not has_zoneout(network) and network.projected_size is None
    return isinstance(network.layers[0], Cell) and plain


def _before_overflow(case: Case, params: PyTree) -> tuple[list[Finding], Any]:
    """Whether the states overflow, and the case of the steps before; None where there is no such step."""
    if by_layer_only(case.cell):
        return [], case
    states = case.states(params)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(states)]
    leaves = [leaf for leaf in leaves if np.issubdtype(leaf.dtype, np.floating)]
    bad = [~np.isfinite(leaf).reshape(*leaf.shape[:2], -1).all(-1) for leaf in leaves]
    steps_of = np.any(np.stack(bad), axis=0)
    if not steps_of.any():
        return [], case
    first = int(np.argmax(steps_of.any(axis=1)))
    worst = next(leaf for leaf, where in zip(leaves, bad, strict=True) if where.any())
    which = f" in {named_samples(worst)}" if case.batched else ""
    says = f"The state overflows {worst.dtype.name}{which}, first at step {first}."
    numbers = {"step": first, "samples": np.flatnonzero(steps_of.any(axis=0)).tolist()}
    finding = Finding("overflow", says, numbers, "the state overflows")
    if first < 2:
        return [finding], None
    xs = jax.tree.map(lambda leaf: leaf[: first - 1], case.xs)
    return [finding], case._replace(xs=xs, lag=min(case.lag, first - 1))


def _verdict(case: Case, reading: Reading) -> tuple[Reach, list[Finding]]:
    lags, curve = reading.lags, median_curve(reading)
    reach = reach_of(lags, curve)
    block = max(reading.seen, key=lambda name: np.median(reading.seen[name][:, -1]))
    per_100 = float(decades_per_100(lags[1:], curve[1:]))
    numbers: dict[str, Any] = {
        "horizon": reach.horizon,
        "reads": reading.reads,
        "block": block,
        "log10_norm": reach.log10_norm,
        "log10_largest": reach.log10_largest,
        "decades_per_100": per_100,
        "healthy": reach.healthy,
    }
    everything = [*reading.seen.values(), *reading.reserve.values()]
    if all(np.isneginf(one[:, 1:]).all() for one in everything):
        says = "No state depends on the one before: the transition is exactly 0 at every lag."
        reach = reach._replace(verdict="no recurrence", horizon=0.0)
        return reach, [Finding("horizon", says, numbers)]
    what = f"The gradient from {reading.reads} back"
    at_end = power_of_ten(reach.log10_norm)
    if reach.verdict == "exploding":
        how = f"grows to {power_of_ten(reach.log10_largest)} within {steps(reading.lags[-1])}"
        if np.isfinite(reach.healthy) and reach.healthy >= 1:
            how += f"; up to a lag of {reach.healthy:.0f} it stays below 10^3"
        if reach.log10_norm < reach.log10_largest - 1:
            how += f", and is {at_end} at the lag"
    elif reach.verdict == "steady":
        how = f"is {at_end} over {steps(reading.lags[-1])}"
    else:
        how = (
            f"falls to a thousandth within {steps(reach.horizon)}, and is {at_end} over "
            f"{steps(reading.lags[-1])}"
        )
    rate = f" ({-per_100:+.1f} decades per 100 steps)" if np.isfinite(per_100) else ""
    findings = [Finding("horizon", f"{what} {how}{rate}.", numbers)]
    return reach, [*findings, *_reserve(reading, reach), *_samples(reading, reach)]


def _reserve(reading: Reading, reach: Reach) -> list[Finding]:
    """What a part that no loss reads carries further than what is read."""
    found = {
        name: reach_of(reading.lags, np.median(curve, axis=0))
        for name, curve in reading.reserve.items()
    }
    further = {
        name: one for name, one in found.items() if one.horizon > FURTHER * max(reach.horizon, 1)
    }
    if not further:
        return []
    name = max(further, key=lambda one: (further[one].horizon, further[one].log10_norm))
    one = further[name]
    far = f"beyond {steps(reading.lags[-1])}" if np.isinf(one.horizon) else steps(one.horizon)
    says = (
        f"In reserve, read by no loss: along {name} the gradient is {power_of_ten(one.log10_norm)} "
        f"over {steps(reading.lags[-1])}, its horizon {far}."
    )
    numbers = {"block": name, "horizon": one.horizon, "log10_norm": one.log10_norm}
    return [Finding("reserve", says, numbers)]


def _samples(reading: Reading, reach: Reach) -> list[Finding]:
    """Samples whose verdict is another than that of the median."""
    verdicts = [reach_of(reading.lags, curve).verdict for curve in reading.by_sample]
    others = {n: verdict for n, verdict in enumerate(verdicts) if verdict != reach.verdict}
    if not others:
        return []
    groups = [
        f"{verdict} in {len(which)} of {len(verdicts)} ({listed(which)})"
        for verdict in sorted(set(others.values()))
        for which in [[n for n, own in others.items() if own == verdict]]
    ]
    says = f"The samples differ: it is {'; '.join(groups)}."
    return [Finding("samples", says, {"verdicts": verdicts})]


def _ill_first(findings: list[Finding]) -> list[Finding]:
    """The gradient leads, unless the state itself is ill; then what is wrong; then the rest."""

    def place(finding: Finding) -> int:
        if finding.name in ("overflow", "chaotic", "grows"):
            return 0
        if finding.name == "horizon":
            return 1
        if finding.name in LAST:
            return 4
        return 2 if finding.illness else 3

    return sorted(findings, key=place)
