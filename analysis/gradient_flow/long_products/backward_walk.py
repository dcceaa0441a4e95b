"""The walk back through a trajectory, jitted: norms against the lag, and over pairs of times.

The states are computed once; J_{k+1} is formed where it is used and never stored, so memory grows with T·n,
not with T·n². The walk goes a few steps at a time (`CHUNK`): what is to be measured is collected from all of
them, and the norms of all are computed together.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradient_flow.long_products import qr_transition, shared_scale, transition
from gradient_flow.long_products.qr_product import log_smallest
from gradient_flow.long_products.scaled_matrix import (
    EvenlyScaled,
    ScaledMatrix,
    evenly_scaled,
    log_frobenius,
    log_spectral,
    scaled_sum,
)
from gradient_flow.step_jacobians.checked_arguments import with_samples
from gradient_flow.step_jacobians.state_layout import Layout
from gradient_flow.step_jacobians.step_jacobian import block_jacobian
from gradient_flow.step_jacobians.trajectory import Trajectory, run
from lstm_jax.array_types import Array, Bool, Float, Int, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.jax_extensions.weight_with_transpose import with_transposes
from lstm_jax.layers.stack import Stack

LogNorms = dict[str, Float[Array, "..."]]
"""Natural logs of norms, by block."""

CHUNK = 8
"""Steps that a walk goes at a time."""

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

    def matrices(self, kind: str) -> frozenset[str]:
        """The matrices that ``graded`` products are needed for, or ``plain`` ones."""
        asked = set(self.norms)
        used = asked & {"smallest"} if kind == "graded" else asked - {"smallest"}
        return frozenset(self.blocks) - {"carousel"} if used else frozenset()


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def lag_curves(
    cell: Cell | Stack | Step,
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
    trajectory = run_samples(cell, batched, params, state0, xs)
    length = jax.tree.leaves(trajectory.xs)[0].shape[1]

    def back_from(t: Int[Array, ""]) -> dict[str, LogNorms]:
        steps = t - wanted
        record = (
            jnp.zeros(length + 1, bool)
            .at[jnp.where(steps >= 0, steps, length + 1)]
            .set(True, mode="drop")
        )
        found = _walk_back(cell, plan, trajectory, t[None], record, _most(lags))
        return jax.tree.map(
            lambda a: jnp.where(steps >= 0, a[:, jnp.maximum(steps, 0), 0], jnp.nan), found
        )

    found = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), lax.map(back_from, times))
    return found if batched else jax.tree.map(lambda a: a[0], found)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def pair_map(
    cell: Cell | Stack | Step,
    plan: Plan,
    every: int,
    batched: bool,
    params: PyTree,
    state0: PyTree,
    xs: PyTree,
) -> dict[str, LogNorms]:
    """{norm: {block: [batch?, times, starts]}}."""
    trajectory = run_samples(cell, batched, params, state0, xs)
    length = jax.tree.leaves(trajectory.xs)[0].shape[1]
    times = np.arange(every, length + 1, every)
    starts = np.arange(0, length + 1, every)
    record = jnp.asarray(np.arange(length + 1) % every == 0)
    # Neighbouring times go back together and share each J; time −1 fills up the last group.
    fill = -len(times) % PAIRS_AT_ONCE
    groups = np.concatenate([times, np.full(fill, -1)]).reshape(-1, PAIRS_AT_ONCE)

    def group(ts: Int[Array, "group"]) -> dict[str, LogNorms]:
        found = _walk_back(cell, plan, trajectory, ts, record, _most(starts.tolist()))
        return jax.tree.map(lambda a: jnp.swapaxes(a[:, ::every], 1, 2), found)

    found = lax.map(group, jnp.asarray(groups, jnp.int32))

    def joined(a: Float[Array, "groups samples group starts"]) -> Float[Array, "..."]:
        a = jnp.swapaxes(a, 0, 1).reshape(a.shape[1], -1, a.shape[-1])[:, : len(times)]
        return a if batched else a[0]

    return jax.tree.map(joined, found)


def run_samples(
    cell: Cell | Stack | Step, batched: bool, params: PyTree, state0: PyTree, xs: PyTree
) -> Trajectory:
    """The trajectories of all samples, samples leading every leaf but those of the parameters."""
    state0, xs = with_samples(batched, state0, xs)
    return jax.vmap(lambda s, x: run(cell, params, s, x)._replace(params=None), in_axes=(0, 1))(
        state0, xs
    )._replace(params=params)


def _most(recorded: Sequence[int]) -> int:
    """How many of these steps any `CHUNK` neighbouring ones can hold."""
    steps = np.unique(recorded)
    return int(np.max(np.searchsorted(steps, steps + CHUNK) - np.arange(len(steps))))


class Way(NamedTuple):
    """What the walks go along, of all samples: J_{k+1}, D_k and log f_{k+1} by k.

    Attributes:
        jacobian: J_{k+1} of all samples.
        h_c: D_k of all samples, or None.
        log_f: log f_{k+1} of all samples, or None.
    """

    jacobian: Callable[[Array], PyTree]
    h_c: Callable[[Array], Any]
    log_f: Callable[[Array], Any]


def way_back(cell: Cell | Stack | Step, layout: Layout, trajectory: Trajectory) -> Way:
    """What a walk back goes along, made from a trajectory of all samples."""
    params, states, xs, h_c, log_f = trajectory
    jacobian_of = jax.vmap(block_jacobian(cell, layout), in_axes=(None, 0, 0))
    length = jax.tree.leaves(xs)[0].shape[1]
    if isinstance(cell, (Cell, Stack)):
        # The closed forms read transposes of the weights, made once here.
        params = with_transposes(params, length)

    def at(tree: PyTree, n: Array) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[:, n], tree)

    # J_{k+1} does not exist at k = T, where no walk makes a step.
    def before(k: Array) -> Array:
        return jnp.minimum(k, length - 1)

    return Way(
        lambda k: jacobian_of(params, at(states, before(k)), at(xs, before(k))),
        lambda k: at(h_c, jnp.minimum(k, length)),
        lambda k: at(log_f, before(k)),
    )


def _walk_back(
    cell: Cell | Stack | Step,
    plan: Plan,
    trajectory: Trajectory,
    times: Int[Array, "m"],
    record: Bool[Array, "starts"],
    most: int,
) -> dict[str, LogNorms]:
    """Walk back from several times at once, in all samples.

    Args:
        cell: of the trajectory.
        plan: what to measure.
        trajectory: samples leading.
        times: where the walks begin.
        record: at which k to measure.
        most: how many of them `CHUNK` neighbouring k may hold.

    Returns:
        {norm: {block: [samples, T + 1, m]}}, NaN where not recorded.
    """
    way = way_back(cell, plan.layout, trajectory)
    samples, length = jax.tree.leaves(trajectory.xs)[0].shape[:2]
    walks = (samples, len(times))
    chunks = -(-(length + 1) // CHUNK)
    record = jnp.concatenate([record, jnp.zeros(chunks * CHUNK - length - 1, bool)])

    def step(carry: PyTree, ks: Int[Array, "chunk"]) -> tuple[PyTree, dict[str, LogNorms]]:
        plain, others = carry
        plain, read = _plain_steps(plan, way, times, plain, ks)
        others, found = _other_steps(plan, way, times, record, others, ks)
        if read:
            measured = _if(
                jnp.any(record[ks]), partial(_recorded_norms, plan, most), read, record[ks]
            )
            found = {norm: found[norm] | measured.get(norm, {}) for norm in found}
        named = {n: {name: found[n][name] for name in plan.blocks} for n in plan.norms}
        there = (times[None, :] >= ks[:, None])[:, None]
        return (plain, others), jax.tree.map(lambda a: jnp.where(there, a, jnp.nan), named)

    def stay(carry: PyTree, ks: Array) -> tuple[PyTree, dict[str, LogNorms]]:
        return carry, _nothing(lambda *operands: step(*operands)[1], carry, ks)

    def once_begun(carry: PyTree, ks: Array) -> tuple[PyTree, dict[str, LogNorms]]:
        return lax.cond(jnp.any(times >= ks[0]), step, stay, carry, ks)

    begin = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (*walks, *leaf.shape)),
        (
            transition.start(plan.layout, plan.matrices("plain")),
            (
                qr_transition.start(plan.layout, plan.matrices("graded")),
                (jnp.zeros(plan.layout.sizes[-1], plan.layout.dtype),) * 2,
            ),
        ),
    )
    ks = jnp.arange(chunks * CHUNK, dtype=jnp.int32).reshape(-1, CHUNK)
    _, found = lax.scan(once_begun, begin, ks, reverse=True)
    # [chunks, chunk, samples, m]
    return jax.tree.map(lambda a: jnp.moveaxis(a.reshape(-1, *walks)[: length + 1], 0, 1), found)


def _plain_steps(
    plan: Plan, way: Way, times: Array, walk: transition.Walk, ks: Int[Array, "chunk"]
) -> tuple[transition.Walk, dict[str, EvenlyScaled]]:
    """Some steps of the plain products, {name: [chunk, samples, m, ...]}: together if that is exact."""
    names = [name for name in plan.blocks if name in plan.matrices("plain")]
    if not names:
        return walk, {}
    layout = plan.layout

    def read(walk: transition.Walk, k: Array) -> dict[str, EvenlyScaled]:
        def one(walk: transition.Walk, h_c: Any) -> dict[str, EvenlyScaled]:
            return {name: evenly_scaled(transition.read(walk, name, layout, h_c)) for name in names}

        return jax.vmap(jax.vmap(one, in_axes=(0, None)))(walk, way.h_c(k))

    def each_for_itself(walk: transition.Walk, k: Array) -> tuple[transition.Walk, Any]:
        moved = jax.vmap(jax.vmap(transition.step_back, in_axes=(0, None, None)))(
            walk, way.jacobian(k), way.h_c(k)
        )
        walk = jax.tree.map(lambda new, old: _chosen(times > k, new, old), moved, walk)
        return walk, read(walk, k)

    def one_by_one(walk: transition.Walk) -> tuple[transition.Walk, dict[str, EvenlyScaled]]:
        return lax.scan(each_for_itself, walk, ks, reverse=True)

    def with_one_scale(
        walk: transition.Walk,
    ) -> tuple[tuple[transition.Walk, dict[str, EvenlyScaled]], Bool[Array, ""]]:
        begun = times > ks[-1]
        state, scales = jax.vmap(shared_scale.to_shared_scale, in_axes=(0, None))(walk, begun)

        def as_walk(state: shared_scale.SharedWalks) -> transition.Walk:
            parts = len(layout.sizes)
            return jax.vmap(partial(shared_scale.as_walk, parts=parts))(state, scales)

        # [chunk, samples, ...]
        factors = jax.vmap(
            lambda k: jax.vmap(shared_scale.similar_jacobian)(scales, way.jacobian(k), way.h_c(k))
        )(ks)

        def move(
            state: shared_scale.SharedWalks, at: tuple[Array, shared_scale.SharedWalks]
        ) -> tuple[shared_scale.SharedWalks, dict[str, EvenlyScaled]]:
            k, factor = at
            state = jax.vmap(shared_scale.step_back, in_axes=(0, 0, 0, None, None))(
                state, scales, factor, times > k, times == k
            )
            return state, read(as_walk(state), k)

        state, values = lax.scan(move, state, (ks, factors), reverse=True)
        moved = jax.tree.map(
            lambda block: scaled_sum([block]),
            as_walk(state),
            is_leaf=lambda node: isinstance(node, ScaledMatrix),
        )
        # A walk that has not begun holds the identity, as it did before.
        moved = jax.tree.map(lambda new, old: _chosen(times >= ks[0], new, old), moved, walk)
        return (moved, values), jnp.all(shared_scale.nothing_lost(state))

    result, exact = with_one_scale(walk)
    return lax.cond(exact, lambda _: result, one_by_one, walk)


def _other_steps(
    plan: Plan,
    way: Way,
    times: Array,
    record: Array,
    carry: PyTree,
    ks: Int[Array, "chunk"],
) -> tuple[PyTree, dict[str, LogNorms]]:
    """Some steps of the graded products and of the carousel: {norm: {block: [chunk, samples, m]}}."""
    layout = plan.layout
    names = [name for name in plan.blocks if name in plan.matrices("graded")]
    carousel = "carousel" in plan.blocks

    def smallest(walk: qr_transition.QRWalk, k: Array) -> LogNorms:
        def one(walk: qr_transition.QRWalk, h_c: Any) -> LogNorms:
            return {
                name: log_smallest(qr_transition.read(walk, name, layout, h_c)) for name in names
            }

        return jax.vmap(jax.vmap(one, in_axes=(0, None)))(walk, way.h_c(k))

    def move(carry: PyTree, k: Array) -> tuple[PyTree, dict[str, LogNorms]]:
        walk, logs = carry
        found: dict[str, LogNorms] = {norm: {} for norm in plan.norms}
        if names:
            moved = jax.vmap(jax.vmap(qr_transition.step_back, in_axes=(0, None, None)))(
                walk, way.jacobian(k), way.h_c(k)
            )
            walk = jax.tree.map(lambda new, old: _chosen(times > k, new, old), moved, walk)
            found["smallest"] = _if(record[k] & jnp.any(times >= k), smallest, walk, k)
        if carousel:
            log_f = jnp.broadcast_to(way.log_f(k)[:, None], logs[0].shape)
            logs = jax.tree.map(
                lambda new, old: _chosen(times > k, new, old), _add(logs, log_f), logs
            )
            sums = logs[0] + logs[1]
            of_carousel = {
                "spectral": jnp.max(sums, axis=-1),
                "frobenius": jax.nn.logsumexp(2 * sums, axis=-1) / 2,
                "smallest": jnp.min(sums, axis=-1),
            }
            for norm in plan.norms:
                found[norm]["carousel"] = of_carousel[norm]
        return (walk, logs), found

    return lax.scan(move, carry, ks, reverse=True)


def _chosen(which: Bool[Array, "m"], new: Array, old: Array) -> Array:
    """One or the other, by walk; [samples, m, ...]."""
    return jnp.where(which.reshape(1, -1, *[1] * (new.ndim - 2)), new, old)


def _norms(function: Callable[[EvenlyScaled], Array], read: dict[str, EvenlyScaled]) -> LogNorms:
    """Apply a norm to all matrices of one shape as one stack: large batches fill the machine."""
    shapes: dict[tuple[int, ...], list[str]] = {}
    for name, m in read.items():
        shapes.setdefault(m.matrix.shape, []).append(name)
    found: LogNorms = {}
    for names in shapes.values():
        stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(read[name] for name in names))
        found.update(zip(names, function(stack), strict=True))
    return found


def _recorded_norms(
    plan: Plan, most: int, read: dict[str, EvenlyScaled], recorded: Bool[Array, "chunk"]
) -> dict[str, LogNorms]:
    """{norm: {block: [chunk, samples, m]}} of a chunk, NaN where nothing is recorded."""

    def measure(read: dict[str, EvenlyScaled]) -> dict[str, LogNorms]:
        functions = {"spectral": log_spectral, "frobenius": log_frobenius}
        return {norm: _norms(functions[norm], read) for norm in functions if norm in plan.norms}

    if most >= CHUNK:
        return measure(read)
    (picked,) = jnp.nonzero(recorded, size=most, fill_value=CHUNK)
    values = measure(jax.tree.map(lambda a: a.at[picked].get(mode="clip"), read))
    return jax.tree.map(
        lambda a: jnp.full((CHUNK, *a.shape[1:]), jnp.nan, a.dtype).at[picked].set(a, mode="drop"),
        values,
    )


def _nothing(function: Callable[..., PyTree], *operands: PyTree) -> PyTree:
    """NaN for every number that a function returns."""
    shapes = jax.eval_shape(function, *operands)
    return jax.tree.map(lambda a: jnp.full(a.shape, jnp.nan, a.dtype), shapes)


def _if(wanted: Bool[Array, ""], function: Callable[..., PyTree], *operands: PyTree) -> PyTree:
    """What a function returns, or NaN where it is not wanted."""
    return lax.cond(wanted, function, partial(_nothing, function), *operands)


def _add(scaled_sum: tuple[Array, Array], term: Array) -> tuple[Array, Array]:
    """A running sum with what its roundings lost: of thousands of logs in float32, 1e-4 otherwise."""
    value, lost = scaled_sum
    after = value + term
    return after, lost + ((value - after) + term)
