r"""Advice on a network's gradient: make each change to the parameters, and measure the horizon again."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.step_jacobians.checked_arguments import with_samples
from gradient_flow.step_jacobians.trajectory import step_of
from gradient_flow.verdicts.reach import THOUSANDTH, Case, furthest_horizon, part_curves
from lstm_jax.array_types import Array, PyTree
from lstm_jax.cells import Cell
from lstm_jax.initializers import chrono, orthogonal


class Finding(NamedTuple):
    """A sentence about a network, with its numbers.

    Attributes:
        name: its kind, such as ``horizon`` or ``saturated``.
        says: the sentence.
        numbers: the numbers behind it, by name.
    """

    name: str
    says: str
    numbers: dict[str, Any]


def has_memory_gate(cell: Any) -> bool:
    """Whether a gate of the cell sets how long it remembers."""
    return isinstance(cell, Cell) and cell.memory_gate is not None


def advice_for(case: Case, params: PyTree, verdict: str, reach: float, loss: Any) -> list[Finding]:
    """The changes that help against a verdict, each with the horizon after it."""
    if verdict == "vanishing":
        return [
            _try_change(case, changed, name, what, reach)
            for name, what, changed in _changes(case, params)
        ]
    if verdict == "exploding":
        tried = [
            _try_change(case, changed, name, what, reach)
            for name, what, changed in _changes(case, params)
            if name == "orthogonal"
        ]
        return [_clipping_advice(case, params, loss), *tried]
    return []


def _changes(case: Case, params: Any) -> list[tuple[str, str, Any]]:
    """Changes that this cell's parameters allow: a name, the change in words, the changed parameters."""
    cell, lag = case.cell, case.lag
    if not isinstance(cell, Cell):
        return []
    size, key = cell.hidden_size, jax.random.key(0)
    if cell.kind == "rnn":
        w_h = orthogonal()(key, params.w_h.shape, params.w_h.dtype)
        return [("orthogonal", "W_h orthogonal", params._replace(w_h=w_h))]
    if not has_memory_gate(cell) or lag < 3:
        return []
    # The bias at which a gate without other inputs leaves a thousandth after the lag.
    f = THOUSANDTH ** (1 / lag)
    constant = float(np.log(f / (1 - f)))
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


def _try_change(case: Case, params: PyTree, name: str, what: str, before: float) -> Finding:
    lags, curves = part_curves(case, params)
    reach, _ = furthest_horizon(lags, curves)
    largest = float(max(curve[-1] for curve in curves.values()) / np.log(10))
    after = f"beyond {case.lag}" if np.isinf(reach) else f"{reach:.0f}"
    was = f"beyond {case.lag}" if np.isinf(before) else f"{before:.0f}"
    says = f"{what}: the horizon would be {after} steps in place of {was}, the norm there 10^{largest:.1f}."
    numbers = {"horizon": reach, "horizon_before": before, "log10_norm": largest}
    return Finding(name, says, numbers)


def _clipping_advice(case: Case, params: Any, loss: Any) -> Finding:
    """A norm to clip at: the median over the samples' gradients, so that half of them are not clipped."""

    def default(state: PyTree) -> Array:
        squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(state) if _is_floating(leaf)]
        return jnp.asarray(sum(squares)) / 2

    chosen = default if loss is None else loss
    step = step_of(case.cell)

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

    states, samples = with_samples(case.batched, case.state0, case.xs)
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
            "First make the recurrent weights smaller."
        )
    else:
        says = (
            f"Clip the gradient by its global norm at {numbers['median']:.2g}, the samples' median (the "
            f"largest is {numbers['largest']:.2g}; {numbers['overflowed']} of {len(norms)} overflow). This "
            "bounds the step but does not change the growth."
        )
    return Finding("clipping", says, numbers)


def _is_floating(leaf: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))
