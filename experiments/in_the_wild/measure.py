r"""What is measured of each cell of a network, with the layers below it driving it.

    ‖∂h_T/∂h_k‖, ‖∂C_T/∂C_k‖    spectral, with the inputs of the layer held, at lags T − k up to `LAG`
    horizon                       the lag at which ‖∂h_T/∂h_k‖ has fallen to a thousandth
    λ_1                           of the layer's state, with its standard error over the samples
    τ = −1 / mean log f           of each unit, the median over the samples
    saturated                     gates beyond 0.025 and 0.975, memories with |tanh C| above 0.975: shares of
                                  all units, steps and samples; dead units: an output that never changes

Axes: xs[T, samples, D]; curves are natural logs, [samples, lags].
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradient_flow
from gradient_flow.inspections.layer_arrays import CLOSED, OPEN
from gradient_flow.measurements.curve_summary import lag_grid
from gradient_flow.measurements.gates import gate_activations
from gradient_flow.verdicts.reach import THOUSANDTH, Case, layers_of
from gradient_flow.verdicts.unit_findings import AT_ONE, dead_units
from lstm_jax.array_types import Array, PyTree
from lstm_jax.cells import LSTMState

LAG = 160
"""The longest lag."""
LAGS = (1, 10, 50, 160)
"""Lags of the table."""
GRID = tuple(sorted({*lag_grid((LAG,)), *LAGS}))
LN10 = float(np.log(10))


def measured(net: Any, params: PyTree, xs: Array) -> list[dict[str, Any]]:
    """The numbers of each cell of a stack, the lowest first, forward before backward.

    Args:
        net: a `Stack`.
        params: of the stack.
        xs: [T, samples, D], of more than `LAG` steps.

    Returns:
        For each cell its ``layer`` and ``direction``, sizes, ``hh`` and ``cc`` (curves [samples][lags],
        natural logs; ``cc`` is None for a GRU), and what `_numbers` says.
    """
    return [
        {"layer": place["layer"], "direction": place.get("direction", "forward")}
        | _curves(case, own)
        | _numbers(case, own)
        for _, place, case, own in layers_of(Case(net, None, xs, LAG, True), params)
    ]


def _curves(case: Case, params: PyTree) -> dict[str, Any]:
    blocks = ["hh", "cc"] if isinstance(case.state0, LSTMState) else ["hh"]
    found = gradient_flow.jacobian_norms(
        case.cell, params, case.state0, case.xs, blocks=blocks, norms=["spectral"], lags=GRID
    )
    curves = {name: np.asarray(found.spectral[name], float).tolist() for name in blocks}
    return {"hh": curves["hh"], "cc": curves.get("cc")}


def _numbers(case: Case, params: PyTree) -> dict[str, Any]:
    """Horizon, λ_1 ± error, time constants, and shares."""
    cell = case.cell
    arguments = (cell, params, case.state0, case.xs)
    tau = np.median(np.asarray(gradient_flow.gate_time_constants(*arguments).effective), axis=0)
    gates = gate_activations(*arguments)
    ends = [np.asarray(gates[name]) for name in gates if name in "iforu"]
    states = jax.tree.map(lambda leaf: np.asarray(leaf[1:], float), case.states(params))
    memories = None
    if isinstance(states, LSTMState):
        memories = float(np.mean(np.abs(np.tanh(states.c)) > AT_ONE))
    return {
        "kind": cell.kind,
        "input_size": cell.input_size,
        "hidden_size": cell.hidden_size,
        **_exponent(case, params),
        "tau_median": float(np.median(tau)),
        "tau_best": float(np.max(tau)),
        "saturated_gates": float(np.mean([(g > OPEN) | (g < CLOSED) for g in ends])),
        "saturated_memories": memories,
        "dead_units": float(len(dead_units(case, params)) / cell.hidden_size),
    }


def exponents(net: Any, params: PyTree, xs: Any) -> list[dict[str, float]]:
    """λ_1 of each cell of a stack and its standard error, in the order of `measured`."""
    whole = Case(net, None, jnp.asarray(xs), LAG, True)
    return [_exponent(case, own) for _, _, case, own in layers_of(whole, params)]


def _exponent(case: Case, params: PyTree) -> dict[str, float]:
    arguments = (case.cell, params, case.state0, case.xs)
    found = gradient_flow.lyapunov_spectrum(*arguments, k=1, skip=len(case.xs) // 4)
    return {
        "lambda_1": float(found.exponents[0]),
        "lambda_1_error": float(found.standard_error[0]),
    }


def noise_like(xs: Any, rng: np.random.Generator) -> np.ndarray:
    """Normal noise with the mean and the deviation of each channel."""
    flat = np.asarray(xs).reshape(-1, np.shape(xs)[-1])
    drawn = rng.standard_normal(np.shape(xs)) * flat.std(axis=0) + flat.mean(axis=0)
    return drawn.astype(flat.dtype)


def horizon_of(cell: Mapping[str, Any]) -> float:
    """The lag at which the median ‖∂h_T/∂h_k‖ has fallen to a thousandth; ∞ beyond `LAG`."""
    curve = np.median(np.asarray(cell["hh"]), axis=0)
    return float(gradient_flow.horizon(np.asarray(GRID), curve, THOUSANDTH))


def decades(cell: Mapping[str, Any], block: str, lag: int) -> float | None:
    """The median log₁₀ norm of a block at a lag; None where the cell has no such block."""
    if cell[block] is None:
        return None
    return float(np.median(np.asarray(cell[block])[:, GRID.index(lag)]) / LN10)
