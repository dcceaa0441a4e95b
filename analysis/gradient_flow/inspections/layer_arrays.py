"""The arrays of one cell of a network: curves, map, gates, paths, spectrum, and what plain autodiff says.

What takes long for a wide cell is left out unless everything is asked for; `LIMITS` says from which size on.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.inspections.cell_in_steps import cell_in_steps
from gradient_flow.measurements.autodiff_norms import autodiff_norms
from gradient_flow.measurements.credit import credit
from gradient_flow.measurements.curve_summary import decades_per_100, horizon
from gradient_flow.measurements.detours import detour_norms
from gradient_flow.measurements.gate_paths import gate_path_norms
from gradient_flow.measurements.gates import gate_activations, gate_time_constants
from gradient_flow.measurements.jacobian_norms import all_pairs_norms
from gradient_flow.measurements.singular_spectrum import singular_spectrum
from gradient_flow.verdicts.reach import Case, Reading
from lstm_jax.array_types import PyTree

LN10 = float(np.log(10))
LIMITS = {"map": 256, "autodiff": 256, "detours": 128, "gate_paths": 128, "spectrum": 64}
"""The largest hidden size for which a measurement is made, but where everything is asked for."""
LABELS = {
    "map": "the map of all pairs",
    "autodiff": "plain autodiff",
    "detours": "paths by detours",
    "gate_paths": "paths by gate",
    "spectrum": "the singular spectrum",
}
PLACES = 32
"""Rows and columns of a map, about."""
LAGS = 24
"""Lags of paths and spectra, about."""
OPEN, CLOSED = 0.975, 0.025
"""Beyond these a gate is saturated."""


def within_reach(hidden_size: int, *, quick: bool, everything: bool) -> tuple[str, ...]:
    """The measurements that are made of a cell of this size."""
    if quick:
        return ()
    return tuple(name for name, most in LIMITS.items() if everything or hidden_size <= most)


def layer_arrays(
    case: Case, params: PyTree, reading: Reading, measured: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """The arrays of a cell, by name; natural logs.

    Args:
        case: the cell with what drives it.
        params: of the cell.
        reading: its curves.
        measured: names out of `LIMITS`.
    """
    cell = case.cell
    found: dict[str, Any] = {
        f"curve.{block}": curve for block, curve in (reading.seen | reading.reserve).items()
    }
    state, xs = _first_sample(case)
    found |= {
        f"gate.{name}": values for name, values in gate_activations(cell, params, state, xs).items()
    }
    if cell.memory_gate is not None:
        constants = gate_time_constants(cell, params, case.state0, case.xs).effective
        found["time_constant"] = np.median(np.atleast_2d(np.asarray(constants)), axis=0)
    found |= {
        f"cell.{name}": values for name, values in cell_in_steps(cell, params, state, xs).items()
    }
    some = sorted({int(lag) for lag in np.geomspace(1, max(case.lag, 1), LAGS).round()})
    if "map" in measured:
        every = max(1, len(xs) // PLACES)
        pairs = all_pairs_norms(
            cell, params, state, xs, every=every, blocks=("hh",), norms=("spectral",)
        )
        found["map.hh"] = pairs.spectral["hh"]
        found |= {"map.times": pairs.times, "map.starts": pairs.starts}
    if "autodiff" in measured:
        plain = np.atleast_2d(np.asarray(autodiff_norms(cell, params, case.state0, case.xs)))
        found["autodiff"] = plain[:, : case.lag + 1]
    if measured:
        found["credit"] = credit(cell, params, state, xs, _half_square).inputs
    if "detours" in measured:
        walked = detour_norms(
            cell, params, state, xs, most=4, lags=some, blocks=("hh",), norms=("spectral",)
        )
        found |= {"detours.hh": np.asarray(walked.spectral["hh"]).T, "detours.lags": walked.lags}
    if "gate_paths" in measured and cell.memory_gate is not None:
        paths = gate_path_norms(cell, params, state, xs, lags=some, blocks=("hh",))
        norms = np.asarray(paths.spectral["hh"])
        for kept, curve in zip(paths.kept, norms, strict=True):
            found[f"gate_paths.{'+'.join(kept) or 'none'}"] = curve
        found["gate_paths.lags"] = paths.lags
    if "spectrum" in measured:
        values = singular_spectrum(cell, params, state, xs, lags=some)
        found |= {"spectrum": values.log_values, "spectrum.lags": values.lags}
    return {name: np.asarray(array) for name, array in found.items()}


def _half_square(state: PyTree) -> Any:
    """½ ‖h_T‖², a loss of h as that of `cell_in_steps`."""
    return jnp.sum(jax.tree.leaves(state)[0] ** 2) / 2


def _first_sample(case: Case) -> tuple[PyTree, Any]:
    if not case.batched:
        return case.state0, case.xs
    return jax.tree.map(lambda leaf: leaf[0], case.state0), case.xs[:, 0]


def summary(case: Case, reading: Reading, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The numbers of a cell for a table: medians over the samples."""
    curves = reading.seen | reading.reserve
    row: dict[str, Any] = {
        "log10_hh": float(np.median(curves["hh"][:, -1]) / LN10),
        "log10_cc": float(np.median(curves["cc"][:, -1]) / LN10) if "cc" in curves else None,
        "horizon": float(horizon(reading.lags, np.median(reading.by_sample, axis=0), 1e-3)),
        "decades_per_100": float(
            decades_per_100(reading.lags[1:], np.median(reading.by_sample, axis=0)[1:])
        ),
    }
    if "time_constant" in arrays:
        row["time_constant_median"] = float(np.median(arrays["time_constant"]))
        row["time_constant_longest"] = float(np.max(arrays["time_constant"]))
    gates = [arrays[f"gate.{name}"] for name in "iforu" if f"gate.{name}" in arrays]
    if gates:
        shut = [np.mean((gate > OPEN) | (gate < CLOSED)) for gate in gates]
        row["saturated_gates"] = float(np.mean(shut))
    if "autodiff" in arrays:
        zero = np.mean(arrays["autodiff"] == 0, axis=0) >= 0.5
        row["autodiff_zero_from"] = int(np.argmax(zero)) if zero.any() else None
    return row
