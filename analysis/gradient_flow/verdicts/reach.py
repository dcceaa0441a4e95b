r"""How far back the gradient of a network reaches: the horizon of each part of its state, over a lag."""

from typing import Any, NamedTuple

import numpy as np

from gradient_flow.measurements.curve_summary import horizon, lag_grid
from gradient_flow.measurements.jacobian_norms import jacobian_norms
from gradient_flow.step_jacobians.checked_arguments import checked_run
from lstm_jax.array_types import PyTree
from lstm_jax.cells import Cell
from lstm_jax.layers.stack import Stack

THOUSANDTH = 1e-3
"""A gradient that falls to this has vanished; one that grows to its inverse has exploded."""


class Case(NamedTuple):
    """A network, its checked arguments and the lag of a diagnosis."""

    cell: Any
    state0: Any
    xs: Any
    lag: int
    batched: bool


def part_curves(case: Case, params: PyTree) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Lags, and the log-norm of each part by itself: hh, cc, …; medians over the samples."""
    layout = checked_run(case.cell, params, case.state0, case.xs, case.batched).layout
    parts = [name for name, (row, column) in layout.places().items() if row == column]
    flow = jacobian_norms(
        case.cell,
        params,
        case.state0,
        case.xs,
        blocks=parts,
        norms=["spectral"],
        lags=lag_grid((case.lag,)),
        batched=None if isinstance(case.cell, (Cell, Stack)) else case.batched,
    )
    curves = {name: np.asarray(flow.spectral[name], np.float64) for name in parts}
    if case.batched:
        curves = {name: np.median(curve, axis=0) for name, curve in curves.items()}
    return np.asarray(flow.lags), curves


def furthest_horizon(lags: np.ndarray, curves: dict[str, np.ndarray]) -> tuple[float, str]:
    """The furthest horizon and its part; of several beyond the lag, the part with the largest norm there."""
    reach = {name: float(horizon(lags, curve, THOUSANDTH)) for name, curve in curves.items()}
    best = max(reach, key=lambda name: (reach[name], curves[name][-1]))
    return reach[best], best
