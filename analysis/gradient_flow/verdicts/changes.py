r"""Changes to a network that may cure it: each makes a new network or new inputs, to be measured again.

    orthogonal        W_h of a vanilla cell drawn orthogonal
    smaller_w_h       W_h by half
    unit_radius       W_h of a vanilla cell over its spectral radius
    forget_bias       the bias at which the gate that keeps the memory leaves a thousandth after the lag
    chrono            biases spread over lags: Tallec & Ollivier, "Can recurrent networks warp time?", 2018
    gates_reset       biases of pinned gates, candidates and units set to 0
    smaller_weights   all weights and biases by a tenth
    standardised      inputs less their mean, over their deviation

In a stack each change is made in every layer that allows it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.verdicts.finding import Finding
from gradient_flow.verdicts.input_findings import out_of_scale, standardised
from gradient_flow.verdicts.reach import THOUSANDTH, Case
from lstm_jax.array_types import Array, PyTree
from lstm_jax.cells import Cell
from lstm_jax.initializers import chrono, orthogonal
from lstm_jax.layers.stack import Backward, Bidirectional, Layer, Stack

HALF, TENTH = 0.5, 0.1

SATURATION = frozenset({"saturated", "flips", "candidate", "saturated_units", "memory"})
"""Findings that smaller weights, or other biases, may cure."""


class Change(NamedTuple):
    """A change: its name, what it is in words, and the network and inputs after it."""

    name: str
    what: str
    case: Case
    params: Any


def changes(case: Case, params: PyTree, verdict: str, findings: list[Finding]) -> list[Change]:
    """The changes that a network allows and that its findings suggest."""
    found = [
        Change(name, what, case, changed)
        for name, what, changed in _of_network(case, params, verdict, findings)
    ]
    if isinstance(case.cell, (Cell, Stack)) and out_of_scale(np.asarray(case.xs)):
        scaled = case._replace(xs=standardised(jnp.asarray(case.xs)))
        found.append(Change("standardised", "Inputs of mean 0 and deviation 1", scaled, params))
    return found


def _of_network(
    case: Case, params: Any, verdict: str, findings: list[Finding]
) -> list[tuple[str, str, Any]]:
    if isinstance(case.cell, Cell):
        return _of_cell(case.cell, params, case.lag, verdict, findings)
    if not isinstance(case.cell, Stack):
        return []
    found: dict[str, str] = {}
    changed: dict[str, list[Any]] = {}
    for number, (layer, own) in enumerate(zip(case.cell.layers, params.layers, strict=True)):
        for direction, cell, weights in _cells(layer, own):
            of_cell = [
                finding
                for finding in findings
                if finding.numbers.get("layer") == number
                and finding.numbers.get("direction") == direction
            ]
            for name, what, new in _of_cell(cell, weights, case.lag, verdict, of_cell):
                found.setdefault(name, what)
                layers = changed.setdefault(name, list(params.layers))
                if isinstance(layer, Bidirectional) and direction:
                    new = layers[number]._replace(**{direction: new})
                layers[number] = new
    return [
        (name, f"{what}, in each layer", params._replace(layers=tuple(changed[name])))
        for name, what in found.items()
    ]


def _cells(layer: Layer, params: Any) -> list[tuple[str | None, Cell, Any]]:
    """The cells of a layer with their directions and parameters."""
    if isinstance(layer, Cell):
        return [(None, layer, params)]
    if isinstance(layer, Backward):
        return [("backward", layer.cell, params)]
    return [
        ("forward", layer.forward, params.forward),
        ("backward", layer.backward, params.backward),
    ]


def _of_cell(
    cell: Any, params: Any, lag: int, verdict: str, findings: list[Finding]
) -> list[tuple[str, str, Any]]:
    if not {"w_x", "w_h", "b"} <= set(getattr(params, "_fields", ())):
        return []
    found = []
    if verdict == "exploding":
        found.append(("smaller_w_h", f"W_h times {HALF}", params._replace(w_h=HALF * params.w_h)))
    if cell.kind == "rnn" and verdict in ("vanishing", "exploding"):
        key = jax.random.key(0)
        w_h = orthogonal()(key, params.w_h.shape, params.w_h.dtype)
        found.append(("orthogonal", "W_h orthogonal", params._replace(w_h=w_h)))
        radius = float(np.abs(np.linalg.eigvals(np.asarray(params.w_h, np.float64))).max())
        if radius > 0:
            w_h = (params.w_h / radius).astype(params.w_h.dtype)
            what = f"W_h over its spectral radius, {radius:.3g}"
            found.append(("unit_radius", what, params._replace(w_h=w_h)))
    reset = _with_gates_reset(cell, params, findings)
    if reset is not None:
        of = "units" if cell.kind == "rnn" else "gates"
        found.append(("gates_reset", f"The biases of the saturated {of} at 0", reset))
    if verdict == "vanishing" and lag >= 3:
        found += _of_memory_gate(cell, params, lag, reset)
    if verdict != "exploding" and any(finding.name in SATURATION for finding in findings):
        smaller = jax.tree.map(lambda leaf: TENTH * leaf, params)
        found.append(("smaller_weights", "All weights and biases by a tenth", smaller))
    return found


def _blocks(cell: Any, params: Any) -> list[Array] | None:
    """The bias of each gate; None where ``b`` has another form."""
    if params.b.shape != (len(cell.gate_names) * cell.hidden_size,):
        return None
    return list(jnp.split(params.b, len(cell.gate_names)))


def _with_gates_reset(cell: Any, params: Any, findings: list[Finding]) -> Any | None:
    """The biases of saturated units set to 0, but those of the gate that keeps the memory, open."""
    blocks = _blocks(cell, params)
    if blocks is None:
        return None
    changed = False
    for finding in findings:
        gate = finding.numbers.get("gate") or finding.numbers.get("of", "").split(" ")[-1]
        keeps = gate == cell.memory_gate and finding.numbers.get("end") == "open"
        if finding.name not in SATURATION or gate not in cell.gate_names or keeps:
            continue
        at = cell.gate_names.index(gate)
        blocks[at] = blocks[at].at[jnp.asarray(finding.numbers["units"])].set(0)
        changed = True
    return params._replace(b=jnp.concatenate(blocks)) if changed else None


def _of_memory_gate(
    cell: Any, params: Any, lag: int, reset: Any | None
) -> list[tuple[str, str, Any]]:
    gate, names, blocks = cell.memory_gate, cell.gate_names, _blocks(cell, params)
    if gate not in names or blocks is None:
        return []
    # The bias at which a gate without other inputs leaves a thousandth after the lag.
    f = THOUSANDTH ** (1 / lag)
    constant = float(np.log(f / (1 - f)))
    spread = chrono(float(lag))(jax.random.key(0), (cell.hidden_size,), params.b.dtype)

    def with_bias(start: Any, values: Array, opposite: bool) -> Any:
        own = list(jnp.split(start.b, len(names)))
        own[names.index(gate)] = jnp.broadcast_to(values, (cell.hidden_size,)).astype(start.b.dtype)
        if opposite and "i" in names:
            own[names.index("i")] = -own[names.index(gate)]
        return start._replace(b=jnp.concatenate(own))

    bias = f"A bias of {constant:.1f} on gate {gate} of every unit"
    wide = f"Chrono initialisation for {lag} steps"
    found = [
        ("forget_bias", bias, with_bias(params, jnp.asarray(constant), False)),
        ("chrono", wide, with_bias(params, spread, True)),
    ]
    if reset is not None:
        also = ", with the biases of the saturated gates at 0"
        found.append(("chrono_and_reset", wide + also, with_bias(reset, spread, True)))
    return found
