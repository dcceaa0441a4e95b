r"""How far back a loss sees: the norm of what reaches its reading of the network from the state before.

A loss reads h, not C. Its gradient at the state L steps before is at most the norm of these blocks:

    a cell                      the rows of h, ∂h_T/∂h_k and ∂h_T/∂C_k         for an LSTM hh and hc
    a stack in one direction    the rows of the last layer's h, by every part of the state
    a stack in both directions, or of more than `WHOLE_STACK` numbers: the rows of h of each layer by itself
    a plain step                the rows of its output; where it has none, the whole transition
    a loss that is given        ‖∂ℓ_T/∂s_k‖ itself, over ‖∂ℓ_T/∂s_T‖

What C alone carries, ∂C_T/∂C_k, is the reserve: no loss reads it.

Axes: curves are natural logs, [samples, lags].
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.measurements.by_layer import each_layer
from gradient_flow.measurements.credit import credit
from gradient_flow.measurements.curve_summary import horizon, lag_grid
from gradient_flow.measurements.jacobian_norms import jacobian_norms
from gradient_flow.step_jacobians.checked_arguments import checked_run, with_samples
from gradient_flow.step_jacobians.state_layout import JOINT, Layout, moving_parts
from gradient_flow.step_jacobians.trajectory import states_of_samples
from lstm_jax.array_types import Array, Float, PyTree, shapes_of
from lstm_jax.cells import Cell, Step
from lstm_jax.layers.stack import Backward, Stack

THOUSANDTH = 1e-3
"""A gradient that falls to this has vanished; one that grows to its inverse has exploded."""

WHOLE_STACK = 512
"""The largest state of a stack whose layers are looked at together; larger ones layer by layer."""


class Case(NamedTuple):
    """A network, its checked arguments, the lag and the loss of a diagnosis."""

    cell: Any
    state0: Any
    xs: Any
    lag: int
    batched: bool
    loss: Any = None

    @property
    def batch_option(self) -> bool | None:
        """``batched`` as a measurement wants it: None where the network tells by itself."""
        return None if isinstance(self.cell, (Cell, Stack)) else self.batched

    def states(self, params: PyTree) -> PyTree:
        """s_0 … s_T, [T + 1, samples, ...]; one sample without a batch."""
        samples = with_samples(self.batched, self.state0, self.xs)
        return states_of_samples(self.cell, params, *samples)


class Reading(NamedTuple):
    """What a loss sees of the states before.

    Attributes:
        reads: what is read, in words: ``h``, ``the loss``.
        lags: in steps, rising from 0.
        seen: log-norms of each block that is read, by its name.
        reserve: log-norms of what is not read, by its name.
    """

    reads: str
    lags: np.ndarray
    seen: dict[str, Float[np.ndarray, "samples lags"]]
    reserve: dict[str, Float[np.ndarray, "samples lags"]]

    def __repr__(self) -> str:
        blocks = ", ".join([*self.seen, *self.reserve])
        return f"Reading({self.reads!r}, lags up to {self.lags[-1]}, {blocks})"

    @property
    def by_sample(self) -> Float[np.ndarray, "samples lags"]:
        """The largest of the blocks that are read."""
        return np.max(np.stack(list(self.seen.values())), axis=0)


class Part(NamedTuple):
    """A cell of a stack, with the sequence that drives it and what a loss of its h would see.

    Attributes:
        name: ``layer 1, backward``.
        place: the same as numbers: ``layer``, and ``direction`` where there are two.
        case: the cell with what drives it.
        params: of the cell.
        reading: of the cell by itself.
    """

    name: str
    place: dict[str, Any]
    case: Case
    params: PyTree
    reading: Reading


class Reach(NamedTuple):
    """A verdict on one curve.

    Attributes:
        verdict: ``vanishing``, ``exploding`` or ``steady``.
        horizon: the lag at which the norm has fallen to a thousandth; ∞ beyond the lag.
        healthy: the last lag up to which the norm is below a thousand; ∞ if it is at every lag.
        log10_norm: at the lag.
        log10_largest: at any lag.
    """

    verdict: str
    horizon: float
    healthy: float
    log10_norm: float
    log10_largest: float


def reach_of(lags: np.ndarray, curve: np.ndarray) -> Reach:
    """The verdict on a curve [lags] of natural logs."""
    far = float(horizon(lags, curve, THOUSANDTH))
    grown = np.flatnonzero(curve > -np.log(THOUSANDTH))
    healthy = float(lags[grown[0] - 1]) if len(grown) else np.inf
    verdict = "exploding" if len(grown) else "steady" if np.isinf(far) else "vanishing"
    norm, largest = float(curve[-1] / np.log(10)), float(curve[1:].max() / np.log(10))
    return Reach(verdict, far, healthy, norm, largest)


def median_curve(reading: Reading) -> Float[np.ndarray, "lags"]:
    """The curve that the verdict follows: the median over the samples."""
    return np.median(reading.by_sample, axis=0)


def runs_backward(cell: Any) -> bool:
    """Whether some layer of a stack runs backward, alone or beside a forward one."""
    return isinstance(cell, Stack) and not all(isinstance(layer, Cell) for layer in cell.layers)


def by_layer_only(cell: Any) -> bool:
    """Whether a network is looked at layer by layer only."""
    if not isinstance(cell, Stack):
        return False
    if runs_backward(cell):
        return True
    state = shapes_of(lambda: cell.initial_state())
    return sum(leaf.size for leaf in jax.tree.leaves(state)) > WHOLE_STACK


def layers_of(case: Case, params: PyTree) -> Iterator[tuple[str, dict[str, Any], Case, PyTree]]:
    """Each cell of a stack: its name, its place, the sequence that drives it as a case, its parameters."""
    for number, (layer, weights, state, ys) in enumerate(
        each_layer(case.cell, params, case.state0, case.xs)
    ):
        name, place = f"layer {number}", {"layer": number}
        if isinstance(layer, Cell):
            yield name, place, Case(layer, state, ys, case.lag, case.batched), weights
            continue
        directed: list[tuple[str, Cell, PyTree, PyTree]] = []
        if isinstance(layer, Backward):
            directed = [("backward", layer.cell, state, weights)]
        else:
            directed = [
                ("forward", layer.forward, state.forward, weights.forward),
                ("backward", layer.backward, state.backward, weights.backward),
            ]
        for direction, cell, start, own in directed:
            driven = jnp.flip(ys, 0) if direction == "backward" else ys
            found = Case(cell, start, driven, case.lag, case.batched)
            yield f"{name}, {direction}", place | {"direction": direction}, found, own


def parts_of(case: Case, params: PyTree) -> tuple[Part, ...]:
    """Each cell of a stack, forward before backward.

    Raises:
        ValueError: a stack with zoneout.
    """
    return tuple(Part(*which, read(*which[2:])) for which in layers_of(case, params))


def read(case: Case, params: PyTree, parts: tuple[Part, ...] | None = None) -> Reading:
    """What the loss sees at the lags of `lag_grid`, and what it does not read.

    Args:
        case: the network.
        params: its parameters.
        parts: its cells from `parts_of`, where they are known already.

    Raises:
        ValueError: a loss with a stack that has a backward layer, or that does not read the last state.
    """
    if case.loss is not None:
        if runs_backward(case.cell):
            raise ValueError(
                "Loss mismatch: expected no loss for a stack with a backward layer, got one. Its layers are "
                "looked at one by one."
            )
        return _read_loss(case, params)
    if by_layer_only(case.cell):
        return _of_parts(case, parts_of(case, params) if parts is None else parts)
    layout = checked_run(case.cell, params, case.state0, case.xs, case.batched).layout
    if isinstance(case.cell, Stack):
        rows = [name for name in layout.names if name.endswith(".h")][-1:]
        return _read_rows(case, params, layout, rows, "the last layer's h")
    if isinstance(case.cell, Cell):
        return _read_rows(case, params, layout, ["h"], "h")
    rows = _rows_that_are_output(case, params, layout)
    if rows:
        return _read_rows(case, params, layout, rows, rows[0])
    if _has_output(case, params) and case.lag > 1:
        return _read_output(case, params, layout)
    curves = _norms(case, params, [JOINT], lag_grid((case.lag,)))
    return Reading("the state", np.asarray(lag_grid((case.lag,))), curves, {})


def _norms(case: Case, params: PyTree, blocks: list[str], lags: list[int]) -> dict[str, np.ndarray]:
    found = jacobian_norms(
        case.cell,
        params,
        case.state0,
        case.xs,
        blocks=blocks,
        norms=["spectral"],
        lags=lags,
        batched=case.batch_option,
    )
    return {name: np.atleast_2d(np.asarray(found.spectral[name], np.float64)) for name in blocks}


def _read_rows(case: Case, params: PyTree, layout: Layout, rows: list[str], reads: str) -> Reading:
    names = layout.names
    places = layout.places()
    seen = [name for name, (row, _) in places.items() if names[row] in rows]
    reserve = [
        name for name, (row, column) in places.items() if row == column and names[row] not in rows
    ]
    # A layer's own h is read by the layer above; only its memory is a reserve.
    if isinstance(case.cell, Stack):
        reserve = [name for name in reserve if name.endswith(".c")]
    lags = lag_grid((case.lag,))
    curves = _norms(case, params, [*seen, *reserve], lags)
    return Reading(
        reads,
        np.asarray(lags),
        {name: curves[name] for name in seen},
        {name: curves[name] for name in reserve},
    )


def _of_parts(case: Case, parts: tuple[Part, ...]) -> Reading:
    reserve = {
        f"{block} of {part.name}": curve
        for part in parts
        for block, curve in part.reading.reserve.items()
    }
    seen = {part.name: part.reading.by_sample for part in parts}
    return Reading("h of a layer", np.asarray(lag_grid((case.lag,))), seen, reserve)


def _read_loss(case: Case, params: PyTree) -> Reading:
    def of_all(states: PyTree) -> Array:
        return jnp.sum(jax.vmap(case.loss)(states))

    found = credit(
        case.cell,
        params,
        case.state0,
        case.xs,
        of_all if case.batched else case.loss,
        batched=case.batch_option,
    )
    parts = np.stack([np.atleast_2d(np.asarray(a, np.float64)) for a in found.states.values()])
    squares = np.logaddexp.reduce(2 * parts, axis=0) / 2
    lags = np.asarray(lag_grid((case.lag,)))
    curve = squares[:, squares.shape[1] - 1 - lags]
    if np.isneginf(curve[:, 0]).any():
        raise ValueError(
            "Loss mismatch: expected a loss that reads the last state, got gradient 0."
        )
    return Reading("the loss", lags, {"loss": curve - curve[:, :1]}, {})


def _outputs(case: Case, params: PyTree) -> tuple[PyTree, PyTree]:
    """States [T + 1, B, …] and outputs [T, B, …] of a plain step."""
    _, xs = with_samples(case.batched, case.state0, case.xs)
    states = case.states(params)
    before = jax.tree.map(lambda leaf: leaf[:-1], states)
    out = jax.vmap(jax.vmap(lambda s, x: case.cell(params, s, x)[1]))(before, xs)
    return states, out


def _rows_that_are_output(case: Case, params: PyTree, layout: Layout) -> list[str]:
    """The part of the state that a plain step returns, before or after the step, as its output."""
    states, out = _outputs(case, params)
    leaves = jax.tree.leaves(out)
    for name, part in zip(layout.names, moving_parts(layout, states), strict=True):
        for moment in (part[1:], part[:-1]):
            if any(_same(leaf, moment) for leaf in leaves):
                return [name]
    return []


def _same(one: Array, other: Array) -> bool:
    """Equal but for the rounding of two programs."""
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-4, atol=1e-6)


def _has_output(case: Case, params: PyTree) -> bool:
    first = jax.tree.map(lambda leaf: leaf[0], case.xs)
    arguments = (case.state0, first)
    if case.batched:
        arguments = jax.tree.map(lambda leaf: leaf[0], arguments)
    out = shapes_of(lambda s, x: case.cell(params, s, x)[1], *arguments)
    leaves = jax.tree.leaves(out)
    state = jax.tree.leaves(case.state0)[0]
    return bool(leaves) and all(leaf.dtype == jnp.result_type(state) for leaf in leaves)


class _WithOutput(NamedTuple):
    """A state and the output of the step that led to it."""

    state: Any
    out: Any


@lru_cache(maxsize=16)
def _step_with_output(step: Step) -> Step:
    """The same step with its output as a part of the state, so that its rows can be measured."""

    def both(params: PyTree, state: _WithOutput, x: PyTree) -> tuple[_WithOutput, None]:
        after, out = step(params, state.state, x)
        return _WithOutput(after, out), None

    return both


def _read_output(case: Case, params: PyTree, layout: Layout) -> Reading:
    """∂out_T/∂s_k by the lag to s_{T−1}, from which the output is computed, over its norm at lag 0."""
    _, out = _outputs(case, params)
    nothing = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), out)
    if not case.batched:
        nothing = jax.tree.map(lambda leaf: leaf[0], nothing)
    both = case._replace(
        cell=_step_with_output(case.cell), state0=_WithOutput(case.state0, nothing)
    )
    length = jax.tree.leaves(case.xs)[0].shape[0]
    lags = lag_grid((min(case.lag, length - 1),))
    full = checked_run(both.cell, params, both.state0, case.xs, case.batched).layout
    outs = [name for name in full.names if name == "out" or name.startswith("out.")]
    blocks = [
        name
        for name, (row, column) in full.places().items()
        if full.names[row] in outs and full.names[column] not in outs
    ]
    curves = _norms(both, params, blocks, [lag + 1 for lag in lags])
    first = np.max(np.stack([curve[:, :1] for curve in curves.values()]), axis=0)
    if np.isneginf(first).any():
        curves = _norms(case, params, [JOINT], lags)
        return Reading("the state", np.asarray(lags), curves, {})
    seen = {name: curve - first for name, curve in curves.items()}
    return Reading("the output", np.asarray(lags), seen, {})
