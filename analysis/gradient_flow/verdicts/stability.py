r"""Does the network forget where it began? The sign of the largest Lyapunov exponent, in words.

    λ_1 < 0 by more than twice its error     nearly equal states meet: the starting state is forgotten
    λ_1 > 0 by more than twice its error     they diverge: chaos, where the step is nonlinear and the state
                                             stays bounded; else growth
    otherwise, or if they have diverged by less than tenfold, neither can be told from this run

An exponent whose error is not known, as of one sample over a few steps, is given without a judgement.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.measurements.lyapunov import lyapunov_spectrum
from gradient_flow.step_jacobians.checked_arguments import checked_run, with_samples
from gradient_flow.step_jacobians.state_layout import (
    Layout,
    flat_parts,
    from_flat,
    moving_parts,
)
from gradient_flow.step_jacobians.trajectory import step_of
from gradient_flow.verdicts.finding import Finding
from gradient_flow.verdicts.reach import Case
from lstm_jax.array_types import Array, PyTree

ERRORS = 2
"""Standard errors by which an exponent has to differ from 0."""

TENFOLD = 10.0
"""How far nearly equal states have to move apart over the run before growth is told from a transient."""


def stability(case: Case, params: PyTree) -> Finding:
    """λ_1 with its error, as ``forgets``, ``chaotic``, ``grows``, ``neutral`` or ``unknown``."""
    length = jax.tree.leaves(case.xs)[0].shape[0]
    found = lyapunov_spectrum(
        case.cell,
        params,
        case.state0,
        case.xs,
        k=1,
        skip=length // 4,
        batched=case.batch_option,
    )
    value, error = float(found.exponents[0]), float(found.standard_error[0])
    numbers: dict[str, Any] = {"lambda_1": value, "standard_error": error}
    if np.isneginf(value):
        says = "It forgets its starting state entirely: the transition over the run is exactly 0."
        return Finding("forgets", says, numbers)
    if not np.isfinite(error):
        says = f"λ_1 = {value:+.2g} nats a step; this run is too short to know its error."
        return Finding("unknown", says, numbers)
    size = f"λ_1 = {value:+.2g} ± {error:.1g} nats a step"
    if value < -ERRORS * error:
        says = f"It forgets its starting state in some {-1 / value:.2g} steps: {size}."
        return Finding("forgets", says, numbers)
    if value <= ERRORS * error or value * length < np.log(TENFOLD):
        says = f"Whether it forgets its starting state cannot be told from this run: {size}."
        return Finding("neutral", says, numbers)
    growth = _growth(case, params)
    numbers["state_growth"] = growth
    # A state that grows half as fast as its tangents is the growth that they show.
    if growth < value / 2 and not _is_linear(case, params):
        says = f"It is chaotic: nearly equal states diverge, {size}."
        return Finding("chaotic", says, numbers, "chaotic")
    says = f"It amplifies its state without bound: {size}."
    return Finding("grows", says, numbers, "unbounded growth")


def _layout(case: Case, params: PyTree) -> Layout:
    return checked_run(case.cell, params, case.state0, case.xs, case.batched).layout


def _growth(case: Case, params: PyTree) -> float:
    """Nats a step by which the largest entry of the state grows over the second half of the run."""
    states = case.states(params)
    parts = moving_parts(_layout(case, params), states)
    sizes = [np.abs(np.asarray(part, np.float64)).reshape(len(part), -1).max(1) for part in parts]
    largest = np.max(np.stack(sizes), axis=0)
    half = len(largest) // 2
    early, late = largest[: half + 1].max(), largest[half:].max()
    if not early or not late:
        return 0.0
    return float(np.log(late / early) / max(len(largest) - 1 - half, 1))


def _is_linear(case: Case, params: PyTree) -> bool:
    """Whether the step moves a tangent in the same way at the last state and far from it."""
    layout = _layout(case, params)
    _, xs = with_samples(case.batched, case.state0, case.xs)
    states = case.states(params)
    state = jax.tree.map(lambda leaf: leaf[-1, 0], states)
    x = jax.tree.map(lambda leaf: leaf[-1, 0], xs)
    at = flat_parts(layout, state)
    keys = jax.random.split(jax.random.key(0))
    tangent = jax.random.normal(keys[0], at.shape, at.dtype)
    away = jax.random.normal(keys[1], at.shape, at.dtype) * (1 + jnp.max(jnp.abs(at)))

    def move(flat: Array) -> Array:
        after, _ = step_of(case.cell)(params, from_flat(layout, state, flat), x)
        return flat_parts(layout, after)

    here, there = (np.asarray(jax.jvp(move, (s,), (tangent,))[1]) for s in (at, at + away))
    return bool(np.allclose(here, there, rtol=1e-3, atol=1e-3 * np.abs(here).max()))
