"""The walk back through a trajectory, jitted: norms against the lag, and over pairs of times.

The states are computed once; J_{k+1} is formed where it is used and never stored, so memory grows with T·n,
not with T·n².
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradient_flow import graded_transition, transition
from gradient_flow.graded import log_smallest
from gradient_flow.scaled import Scaled, log_frobenius, log_spectral
from gradient_flow.step_jacobian import Layout, block_jacobian
from gradient_flow.trajectory import Trajectory, run
from lstm_jax.array_types import Array, Bool, Float, Int, PyTree
from lstm_jax.cells import Cell, Step

LogNorms = dict[str, Float[Array, "..."]]
"""Natural logs of norms, by block."""

PAIRS_AT_ONCE = 16
"""How many neighbouring times of a map walk back together."""


class Plan(NamedTuple):
    """What to measure: the static part of a measurement.

    Attributes:
        blocks: names of blocks of the transition, or of paths.
        norms: some of ``spectral``, ``frobenius``, ``smallest``.
        layout: the parts of the state.
    """

    blocks: tuple[str, ...]
    norms: tuple[str, ...]
    layout: Layout


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def lag_curves(
    cell: Cell | Step,
    plan: Plan,
    lags: tuple[int, ...],
    batched: bool,
    params: PyTree,
    state0: PyTree,
    xs: PyTree,
    times: Int[Array, "times"],
) -> dict[str, LogNorms]:
    """{norm: {block: [batch?, times, lags]}}."""
    wanted = jnp.asarray(lags, jnp.int32)

    def curves(state0: PyTree, xs: PyTree) -> dict[str, LogNorms]:
        trajectory = run(cell, params, state0, xs)
        length = jax.tree.leaves(xs)[0].shape[0]

        def back_from(t: Int[Array, ""]) -> dict[str, LogNorms]:
            steps = t - wanted
            record = (
                jnp.zeros(length + 1, bool)
                .at[jnp.where(steps >= 0, steps, length + 1)]
                .set(True, mode="drop")
            )
            found = _walk_back(cell, plan, trajectory, t[None], record)
            return jax.tree.map(
                lambda a: jnp.where(steps >= 0, a[jnp.maximum(steps, 0), 0], jnp.nan), found
            )

        return lax.map(back_from, times)

    return jax.vmap(curves, in_axes=(0, 1))(state0, xs) if batched else curves(state0, xs)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def pair_map(
    cell: Cell | Step,
    plan: Plan,
    every: int,
    batched: bool,
    params: PyTree,
    state0: PyTree,
    xs: PyTree,
) -> dict[str, LogNorms]:
    """{norm: {block: [batch?, times, starts]}}."""
    length = jax.tree.leaves(xs)[0].shape[0]
    times = np.arange(every, length + 1, every)
    record = jnp.asarray(np.arange(length + 1) % every == 0)
    # Neighbouring times go back together and share each J; time −1 fills up the last group.
    fill = -len(times) % PAIRS_AT_ONCE
    groups = np.concatenate([times, np.full(fill, -1)]).reshape(-1, PAIRS_AT_ONCE)

    def pairs(state0: PyTree, xs: PyTree) -> dict[str, LogNorms]:
        trajectory = run(cell, params, state0, xs)

        def group(ts: Int[Array, "group"]) -> dict[str, LogNorms]:
            found = _walk_back(cell, plan, trajectory, ts, record)
            return jax.tree.map(lambda a: a[::every].T, found)

        found = lax.map(group, jnp.asarray(groups, jnp.int32))
        return jax.tree.map(lambda a: a.reshape(-1, a.shape[-1])[: len(times)], found)

    return jax.vmap(pairs, in_axes=(0, 1))(state0, xs) if batched else pairs(state0, xs)


def _walk_back(
    cell: Cell | Step,
    plan: Plan,
    trajectory: Trajectory,
    times: Int[Array, "m"],
    record: Bool[Array, "starts"],
) -> dict[str, LogNorms]:
    """Walk back from several times at once: {norm: {block: [T + 1, m]}}, NaN where not recorded."""
    params, states, xs, h_c, log_f = trajectory
    jacobian_of = block_jacobian(cell, plan.layout)
    length = jax.tree.leaves(xs)[0].shape[0]
    walks = _Walks(plan)

    def at(tree: PyTree, n: Any) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[n], tree)

    def back_to(carry: PyTree, k: Int[Array, ""]) -> tuple[PyTree, dict[str, LogNorms]]:
        d_k = None if h_c is None else h_c[k]
        # Walks that start at or before k have not begun; J_{k+1} does not exist at k = T.
        begun = times > k

        def move(carry: PyTree) -> PyTree:
            n = jnp.minimum(k, length - 1)
            jacobian = jacobian_of(params, at(states, n), at(xs, n))
            moved = jax.vmap(
                lambda one: walks.step_back(one, jacobian, d_k, None if log_f is None else log_f[n])
            )(carry)
            return jax.tree.map(
                lambda new, old: jnp.where(begun.reshape(-1, *[1] * (new.ndim - 1)), new, old),
                moved,
                carry,
            )

        carry = lax.cond(jnp.any(begun), move, lambda same: same, carry)

        def look(carry: PyTree) -> dict[str, LogNorms]:
            values = walks.measure(carry, d_k)
            return jax.tree.map(lambda value: jnp.where(times >= k, value, jnp.nan), values)

        nothing = jax.tree.map(
            lambda value: jnp.full(value.shape, jnp.nan, value.dtype), jax.eval_shape(look, carry)
        )
        measured = lax.cond(record[k] & jnp.any(times >= k), look, lambda _: nothing, carry)
        return carry, measured

    begin = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (len(times), *leaf.shape)), walks.start()
    )
    _, found = lax.scan(back_to, begin, jnp.arange(length + 1, dtype=jnp.int32), reverse=True)
    return found


class _Walks(NamedTuple):
    """The walks that a plan needs, side by side: plain products, graded products, the carousel."""

    plan: Plan

    def _names(self, kind: str) -> frozenset[str]:
        asked = set(self.plan.norms)
        used = asked & {"smallest"} if kind == "graded" else asked - {"smallest"}
        return frozenset(self.plan.blocks) - {"carousel"} if used else frozenset()

    def start(self) -> PyTree:
        layout = self.plan.layout
        return (
            transition.start(layout, self._names("plain")),
            graded_transition.start(layout, self._names("graded")),
            (jnp.zeros(layout.sizes[-1], layout.dtype),) * 2,
        )

    def step_back(self, carry: PyTree, jacobian: PyTree, h_c: Any, log_f: Any) -> PyTree:
        plain, graded, carousel = carry
        return (
            transition.step_back(plain, jacobian, h_c),
            graded_transition.step_back(graded, jacobian, h_c),
            carousel if log_f is None else _add(carousel, log_f),
        )

    def measure(self, carry: PyTree, h_c: Any) -> dict[str, LogNorms]:
        """{norm: {block: [m]}} of m walks, whose axis leads every leaf of ``carry``."""
        layout = self.plan.layout
        found: dict[str, LogNorms] = {norm: {} for norm in self.plan.norms}
        matrices = [name for name in self.plan.blocks if name != "carousel"]
        plain = jax.vmap(lambda walk: {n: transition.read(walk, n, layout, h_c) for n in matrices})
        graded = jax.vmap(
            lambda walk: {
                n: log_smallest(graded_transition.read(walk, n, layout, h_c)) for n in matrices
            }
        )
        if matrices and "smallest" in found:
            found["smallest"] = graded(carry[1])
        if matrices and set(found) - {"smallest"}:
            read = plain(carry[0])
            for norm, function in (("spectral", log_spectral), ("frobenius", log_frobenius)):
                if norm in found:
                    found[norm] = _together(function, read)
        if "carousel" in self.plan.blocks:
            logs, lost = carry[2]
            logs = logs + lost
            of_carousel = {
                "spectral": jnp.max(logs, axis=-1),
                "frobenius": jax.nn.logsumexp(2 * logs, axis=-1) / 2,
                "smallest": jnp.min(logs, axis=-1),
            }
            for norm in found:
                found[norm]["carousel"] = of_carousel[norm]
        return {n: {name: found[n][name] for name in self.plan.blocks} for n in self.plan.norms}


def _together(function: Callable[[Scaled], Array], read: dict[str, Scaled]) -> LogNorms:
    """Apply a norm to all matrices of one shape as one stack: large batches fill the machine."""
    shapes: dict[tuple[int, ...], list[str]] = {}
    for name, m in read.items():
        shapes.setdefault(m.matrix.shape, []).append(name)
    found: LogNorms = {}
    for names in shapes.values():
        stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(read[name] for name in names))
        found.update(zip(names, function(stack), strict=True))
    return found


def _add(total: tuple[Array, Array], term: Array) -> tuple[Array, Array]:
    """A running sum with what its roundings lost: of thousands of logs in float32, 1e-4 otherwise."""
    value, lost = total
    after = value + term
    return after, lost + ((value - after) + term)
