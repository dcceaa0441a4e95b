"""The layers of a stack, each direction by itself: which are dead, and which alone carry a lag."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.verdicts.finding import Finding, in_layer, power_of_ten, steps
from gradient_flow.verdicts.reach import (
    Case,
    Part,
    Reach,
    by_layer_only,
    median_curve,
    reach_of,
)
from gradient_flow.verdicts.stability import stability
from gradient_flow.verdicts.unit_findings import dead_units, unit_findings
from lstm_jax.array_types import PyTree
from lstm_jax.layers.stack import Bidirectional

FAINT = 1e-3
"""An output this much smaller than that of the other direction carries nothing."""


class _Layer(NamedTuple):
    """A cell of a stack: its name, its place, its reach, its share of dead units, the size of its output."""

    name: str
    place: dict[str, Any]
    reach: Reach
    dead: float
    size: float


def layer_findings(case: Case, params: PyTree, parts: Iterable[Part]) -> list[Finding]:
    """A sentence for each cell of a stack, its units, and which of them alone carries the lag."""
    found, layers = [], []
    for name, place, layer, own, one in parts:
        reach = reach_of(one.lags, median_curve(one))
        states = layer.states(own)
        size = layer.cell.output_size
        dead = len(dead_units(layer, own)) / size
        rms = float(jnp.sqrt(jnp.mean(states.h[1:] ** 2)))
        layers.append(
            _Layer(name, place, reach, dead, rms * _read_weight(case, params, place, size))
        )
        found.append(in_layer(_of_layer(reach, case.lag, dead), name, place))
        if by_layer_only(case.cell):
            found.append(in_layer(stability(layer, own), name, place))
        for finding in unit_findings(layer, own):
            # That the layer is dead says it all.
            found.append(
                in_layer(finding._replace(illness="") if dead == 1 else finding, name, place)
            )
    return [*_alone(layers, case.lag), *_directions(layers), *found]


def _of_layer(reach: Reach, lag: int, dead: float) -> Finding:
    numbers = {"verdict": reach.verdict, "horizon": reach.horizon, "log10_norm": reach.log10_norm}
    if dead == 1:
        return Finding(
            "layer",
            "dead, so nothing passes: no output of it ever changes.",
            numbers | {"dead": dead},
            "dead",
        )
    if reach.verdict == "vanishing":
        says = f"vanishing: the gradient falls to a thousandth within {steps(reach.horizon)}."
    elif reach.verdict == "exploding":
        says = f"exploding: the gradient grows to {power_of_ten(reach.log10_largest)}."
    else:
        says = f"steady: the gradient is {power_of_ten(reach.log10_norm)} over {steps(lag)}."
    return Finding("layer", says, numbers | {"dead": dead})


def _alone(layers: list[_Layer], lag: int) -> list[Finding]:
    """The only layer of several whose gradient goes back over the lag."""
    carrying = [layer for layer in layers if np.isinf(layer.reach.horizon) and layer.dead < 1]
    if len(layers) < 2 or len(carrying) != 1:
        return []
    alive = [layer for layer in layers if layer is not carrying[0] and layer.dead < 1]
    others = max((layer.reach.horizon for layer in alive), default=0.0)
    says = (
        f"{carrying[0].name.capitalize()} alone carries the gradient over {steps(lag)}; the others "
        + (f"reach at most {steps(others)} back." if others else "are dead.")
    )
    return [Finding("alone", says, carrying[0].place | {"others": others})]


def _directions(layers: list[_Layer]) -> list[Finding]:
    """Bidirectional layers of which one direction gives next to nothing to what reads them."""
    findings = []
    for forward, backward in zip(layers[:-1], layers[1:], strict=True):
        if forward.place.get("layer") != backward.place.get("layer"):
            continue
        weak, strong = sorted((forward, backward), key=lambda one: one.size)
        if weak.size > FAINT * strong.size:
            continue
        numbers = {
            "layer": weak.place["layer"],
            "direction": strong.place["direction"],
            "share": weak.size / strong.size if strong.size else 0.0,
        }
        says = (
            f"Layer {numbers['layer']}: the {numbers['direction']} direction alone carries everything; "
            f"the other gives {numbers['share']:.1g} of its size."
        )
        short = f"layer {numbers['layer']}: {weak.place['direction']} direction carries nothing"
        findings.append(Finding("one_direction", says, numbers, short))
    return findings


def _read_weight(case: Case, params: PyTree, place: dict[str, Any], size: int) -> float:
    """The root mean square of the weights that read a cell's output; 1 where they are not known."""
    number, layers = place["layer"], params.layers
    if number + 1 < len(layers):
        readers = [
            leaf
            for path, leaf in jax.tree_util.tree_flatten_with_path(layers[number + 1])[0]
            if jax.tree_util.keystr(path).endswith("w_x")
        ]
    else:
        readers = [] if params.w_y is None else [params.w_y]
    # The outputs of a bidirectional layer stand side by side, forward first.
    beside = place.get("direction") == "backward" and isinstance(
        case.cell.layers[number], Bidirectional
    )
    first = case.cell.layers[number].forward.output_size if beside else 0
    rows = [reader[first : first + size] for reader in readers]
    rows = [row for row in rows if len(row) == size]
    if not rows:
        return 1.0
    return float(jnp.sqrt(jnp.mean(jnp.concatenate([jnp.ravel(row) for row in rows]) ** 2)))
