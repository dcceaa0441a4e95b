r"""What is wrong with a network's gradients, in plain words, each with its number; and what would change it.

    horizon     the lag at which ‖∂h_T/∂h_k‖, or ‖∂C_T/∂C_k‖ where that reaches further, is a thousandth
    λ_1         the largest Lyapunov exponent: above 0 two states that nearly agree part, whatever the input
    saturated   a gate of a unit that is below 0.05, or above 0.95, at nine of ten steps
    dead        a unit whose output never changes by more than 10⁻⁶
    τ           −1 / mean log f, the steps that a unit's own path keeps its state; a lag L needs L / log 1000

Advice is not taken from a book but tried: the change is made to the parameters given, and the horizon is
measured again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.measurements.curve_summary import decades_per_100, horizon, lag_grid
from gradient_flow.measurements.gates import gate_activations, gate_time_constants
from gradient_flow.measurements.jacobian_norms import jacobian_norms
from gradient_flow.measurements.lyapunov import lyapunov_spectrum
from gradient_flow.step_jacobians.checked_arguments import checked_run, whole_numbers, with_samples
from gradient_flow.step_jacobians.trajectory import step_of
from lstm_jax.array_types import Array, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.initializers import chrono, orthogonal
from lstm_jax.layers.stack import Stack
from lstm_jax.unrolling.unroll import unroll

THOUSANDTH = 1e-3
"""What counts as vanished, and its inverse as exploded."""

SATURATED, MOSTLY = 0.05, 0.9
"""How close to 0 or 1 a gate is saturated, and at what share of the steps."""

STILL = 1e-6
"""What the output of a dead unit never changes by."""


class Finding(NamedTuple):
    """One thing that was found.

    Attributes:
        name: of the kind, such as ``horizon`` or ``saturated``.
        says: a sentence.
        numbers: that the sentence rests on, by name.
    """

    name: str
    says: str
    numbers: dict[str, Any]


class Diagnosis(NamedTuple):
    """A verdict with its evidence; ``print`` it.

    Attributes:
        verdict: ``vanishing``, ``exploding``, ``steady`` or ``no recurrence``.
        lag: that was asked about, in steps.
        horizon: in steps, of the block that reaches furthest; ∞ beyond the lag.
        findings: what was measured.
        advice: what to change, each tried out; none where nothing is wrong.
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


class _Given(NamedTuple):
    cell: Any
    state0: Any
    xs: Any
    lag: int
    batched: bool


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
        cell_or_step: a cell of `lstm_jax`, of which gates and units are looked at as well; a stack in one
            direction; or any ``step(params, state, x) -> (state, out)``.
        params: of the cell; any pytree for a step.
        state0: the starting state of one sample, or of B; zeros if None (a step needs one).
        xs: [T, D] or [T, B, D], typical of what the network is for; for a step any pytree, time leading.
        lag: how far back it has to learn, in steps, from 1 to T; T if None.
        loss: ``loss(state) -> number`` of one sample's last state: the gradient whose norm a clipping is
            advised at; half the squared norm of the state if None.
        batched: whether a step's xs and state0 have a batch axis.

    Returns:
        `Diagnosis`. Numbers are medians over the samples where nothing else is said.

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
    given = _Given(cell_or_step, run.state0, xs, lag, run.batched)
    verdict, reach, findings = _over_the_lag(given, params)
    findings.append(_chaos(given, params))
    if isinstance(cell_or_step, Cell):
        findings += _gates(given, params)
        findings += _units(given, params)
    advice = _advice(given, params, verdict, reach, loss)
    return Diagnosis(verdict, lag, reach, tuple(findings), tuple(advice))


def _curves(given: _Given, params: PyTree) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Lags, and the log-norm of each part by itself: hh, cc, …; medians over the samples."""
    layout = checked_run(given.cell, params, given.state0, given.xs, given.batched).layout
    own = [name for name, (row, column) in layout.places().items() if row == column]
    flow = jacobian_norms(
        given.cell,
        params,
        given.state0,
        given.xs,
        blocks=own,
        norms=["spectral"],
        lags=lag_grid((given.lag,)),
        batched=None if isinstance(given.cell, (Cell, Stack)) else given.batched,
    )
    curves = {name: np.asarray(flow.spectral[name], np.float64) for name in own}
    if given.batched:
        curves = {name: np.median(curve, axis=0) for name, curve in curves.items()}
    return np.asarray(flow.lags), curves


def _reach(lags: np.ndarray, curves: dict[str, np.ndarray]) -> tuple[float, str]:
    """The furthest horizon and whose it is; of several beyond the lag the one with the largest norm there."""
    reach = {name: float(horizon(lags, curve, THOUSANDTH)) for name, curve in curves.items()}
    best = max(reach, key=lambda name: (reach[name], curves[name][-1]))
    return reach[best], best


def _over_the_lag(given: _Given, params: PyTree) -> tuple[str, float, list[Finding]]:
    lags, curves = _curves(given, params)
    reach, best = _reach(lags, curves)
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
        f"The gradient along {best} {how} over {given.lag} steps "
        f"({-numbers['decades_per_100']:+.1f} decades per 100 steps)."
    )
    return verdict, reach, [Finding("horizon", says, numbers)]


def _chaos(given: _Given, params: PyTree) -> Finding:
    found = lyapunov_spectrum(
        given.cell,
        params,
        given.state0,
        given.xs,
        k=1,
        skip=jax.tree.leaves(given.xs)[0].shape[0] // 4,
        batched=None if isinstance(given.cell, (Cell, Stack)) else given.batched,
    )
    value, error = float(found.exponents[0]), float(found.standard_error[0])
    numbers = {"lambda_1": value, "standard_error": error}
    size = (
        f"{value:+.3g} ± {error:.1g} nats a step"
        if np.isfinite(error)
        else f"{value:+.3g} nats a step"
    )
    if value > 0 and value > 2 * np.nan_to_num(error):
        says = f"It is chaotic: λ_1 = {size}, so states that nearly agree part."
        return Finding("chaotic", says, numbers)
    return Finding("stable", f"It forgets where it began: λ_1 = {size}.", numbers)


def _gates(given: _Given, params: PyTree) -> list[Finding]:
    findings = []
    gates = gate_activations(given.cell, params, given.state0, given.xs)
    for name, activation in gates.items():
        if name in ("g", "n", "slope"):
            continue
        values = np.asarray(activation, np.float64)
        along = tuple(range(values.ndim - 1))
        for end, where in (("closed", values < SATURATED), ("open", values > 1 - SATURATED)):
            units = np.flatnonzero(where.mean(axis=along) >= MOSTLY)
            if not len(units):
                continue
            numbers = {"gate": name, "end": end, "count": len(units), "units": units.tolist()}
            says = (
                f"Gate {name} is saturated {end} in {len(units)} of {values.shape[-1]} units "
                f"({_some(units)})."
            )
            findings.append(Finding("saturated", says, numbers))
    if _keeps(given.cell):
        found = gate_time_constants(given.cell, params, given.state0, given.xs).effective
        tau = np.atleast_2d(np.asarray(found))
        tau = np.median(tau, axis=0)
        needed = given.lag / -np.log(THOUSANDTH)
        numbers = {
            "longest": float(tau.max()),
            "median": float(np.median(tau)),
            "needed": needed,
            "enough": int((tau >= needed).sum()),
        }
        gate = given.cell.memory_gate
        says = (
            f"Gate {gate} keeps for {numbers['longest']:.3g} steps in the best unit, "
            f"{numbers['median']:.3g} in the median one; a lag of {given.lag} needs {needed:.3g}, which "
            f"{numbers['enough']} of {len(tau)} units have."
        )
        findings.append(Finding("time_constants", says, numbers))
    return findings


def _units(given: _Given, params: PyTree) -> list[Finding]:
    _, hs = unroll(given.cell, params, given.xs, given.state0)
    along = tuple(range(hs.ndim - 1))
    units = np.flatnonzero(np.asarray(jnp.ptp(hs, axis=along)) <= STILL)
    if not len(units):
        return []
    says = f"{len(units)} of {hs.shape[-1]} units are dead: their output never changes ({_some(units)})."
    return [Finding("dead", says, {"count": len(units), "units": units.tolist()})]


def _some(units: np.ndarray) -> str:
    return ", ".join(map(str, units[:8])) + (", …" if len(units) > 8 else "")


def _keeps(cell: Any) -> bool:
    return isinstance(cell, Cell) and cell.memory_gate is not None


def _advice(given: _Given, params: PyTree, verdict: str, reach: float, loss: Any) -> list[Finding]:
    if verdict == "vanishing":
        return [
            _tried(given, changed, name, what, reach)
            for name, what, changed in _changes(given, params)
        ]
    if verdict == "exploding":
        tried = [
            _tried(given, changed, name, what, reach)
            for name, what, changed in _changes(given, params)
            if name == "orthogonal"
        ]
        return [_clipping(given, params, loss), *tried]
    return []


def _changes(given: _Given, params: Any) -> list[tuple[str, str, Any]]:
    """Changes that this cell's parameters allow: a name, what to do, and the parameters with it done."""
    cell, lag = given.cell, given.lag
    if not isinstance(cell, Cell):
        return []
    size, key = cell.hidden_size, jax.random.key(0)
    if cell.kind == "rnn":
        w_h = orthogonal()(key, params.w_h.shape, params.w_h.dtype)
        return [("orthogonal", "W_h orthogonal", params._replace(w_h=w_h))]
    if not _keeps(cell) or lag < 3:
        return []
    # The bias at which a gate that sees nothing else keeps a thousandth over the lag.
    keep = THOUSANDTH ** (1 / lag)
    constant = float(np.log(keep / (1 - keep)))
    spread = chrono(float(lag))(key, (size,), params.b.dtype)
    names = cell.gate_names
    gate = cell.memory_gate
    if gate not in names:
        return []

    def with_bias(values: Array, opposite: bool) -> Any:
        blocks = list(jnp.split(params.b, len(names)))
        blocks[names.index(gate)] = jnp.broadcast_to(values, (size,)).astype(params.b.dtype)
        if opposite and "i" in names:
            blocks[names.index("i")] = -blocks[names.index(gate)]
        return params._replace(b=jnp.concatenate(blocks))

    return [
        (
            "forget_bias",
            f"A bias of {constant:.1f} on gate {gate} of every unit",
            with_bias(jnp.asarray(constant), False),
        ),
        ("chrono", f"Chrono initialisation for {lag} steps", with_bias(spread, True)),
    ]


def _tried(given: _Given, params: PyTree, name: str, what: str, before: float) -> Finding:
    lags, curves = _curves(given, params)
    reach, _ = _reach(lags, curves)
    largest = float(max(curve[-1] for curve in curves.values()) / np.log(10))
    after = f"beyond {given.lag}" if np.isinf(reach) else f"{reach:.0f}"
    was = f"beyond {given.lag}" if np.isinf(before) else f"{before:.0f}"
    says = f"{what}: the horizon would be {after} steps in place of {was}, the norm there 10^{largest:.1f}."
    numbers = {"horizon": reach, "horizon_before": before, "log10_norm": largest}
    return Finding(name, says, numbers)


def _clipping(given: _Given, params: Any, loss: Any) -> Finding:
    """A norm to clip at: the median of the samples' own gradients, half of which it leaves alone."""

    def default(state: PyTree) -> Array:
        squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(state) if _is_floating(leaf)]
        return jnp.asarray(sum(squares)) / 2

    chosen = default if loss is None else loss
    step = step_of(given.cell)

    def norm(state: PyTree, xs: PyTree) -> Array:
        def of(params: PyTree) -> Array:
            last, _ = jax.lax.scan(lambda s, x: (step(params, s, x)[0], None), state, xs)
            return chosen(last)

        gradient = jax.grad(of, allow_int=True)(params)
        leaves = [leaf for leaf in jax.tree.leaves(gradient) if _is_floating(leaf)]
        # Squares overflow long before the norm does.
        top = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves]))
        by = jnp.where(top > 0, top, 1)
        return by * jnp.sqrt(sum(jnp.sum((leaf / by) ** 2) for leaf in leaves))

    states, samples = with_samples(given.batched, given.state0, given.xs)
    norms = np.asarray(jax.jit(jax.vmap(norm, in_axes=(0, 1)))(states, samples), np.float64)
    finite = norms[np.isfinite(norms)]
    numbers = {
        "median": float(np.median(finite)) if len(finite) else np.inf,
        "largest": float(norms.max()) if len(finite) == len(norms) else np.inf,
        "overflowed": int(len(norms) - len(finite)),
        "samples": len(norms),
    }
    if not len(finite):
        says = (
            f"Clipping does not help here: the gradient itself overflows in all {len(norms)} samples. "
            "Smaller recurrent weights first."
        )
    else:
        says = (
            f"Clip the gradient by its global norm at {numbers['median']:.2g}, the samples' median (the "
            f"largest is {numbers['largest']:.2g}; {numbers['overflowed']} of {len(norms)} overflow). It "
            "bounds the step, and changes nothing about the growth."
        )
    return Finding("clipping", says, numbers)


def _is_floating(leaf: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))
