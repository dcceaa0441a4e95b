"""Norms of the transition against the lag, and over pairs of times, by walking back through a trajectory.

The walk goes `CHUNK` steps at a time (`gradient_flow.long_products.chunk_of_steps`).
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradient_flow.long_products import qr_transition, transition
from gradient_flow.long_products.chunk_of_steps import (
    CHUNK,
    LogNorms,
    Plan,
    all_nan,
    nan_unless,
    recorded_norms,
    walk_graded_and_carousel,
    walk_plain,
)
from gradient_flow.long_products.step_factors import run_samples, step_factors
from gradient_flow.step_jacobians.checked_arguments import without_samples
from gradient_flow.step_jacobians.trajectory import Trajectory
from lstm_jax.array_types import Array, Bool, Float, Int, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.layers.stack import Stack

PAIRS_AT_ONCE = 16
"""Neighbouring times of a map that walk back together."""


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
    """Norms from each time back to each lag: {norm: {block: [batch?, times, lags]}}."""
    wanted = jnp.asarray(lags, jnp.int32)
    trajectory = run_samples(cell, batched, params, state0, xs)
    length = jax.tree.leaves(trajectory.xs)[0].shape[1]

    def walk_back_from(t: Int[Array, ""]) -> dict[str, LogNorms]:
        steps = t - wanted
        record = (
            jnp.zeros(length + 1, bool)
            .at[jnp.where(steps >= 0, steps, length + 1)]
            .set(True, mode="drop")
        )
        found = _walk_back(cell, plan, trajectory, t[None], record, _most_per_chunk(lags))
        return jax.tree.map(
            lambda a: jnp.where(steps >= 0, a[:, jnp.maximum(steps, 0), 0], jnp.nan), found
        )

    found = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), lax.map(walk_back_from, times))
    return without_samples(batched, found)


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
    """Norms over pairs of times, ``every`` steps apart: {norm: {block: [batch?, times, starts]}}."""
    trajectory = run_samples(cell, batched, params, state0, xs)
    length = jax.tree.leaves(trajectory.xs)[0].shape[1]
    times = np.arange(every, length + 1, every)
    starts = np.arange(0, length + 1, every)
    record = jnp.asarray(np.arange(length + 1) % every == 0)
    # Neighbouring times walk back together and share each J; time −1 fills up the last group.
    fill = -len(times) % PAIRS_AT_ONCE
    groups = np.concatenate([times, np.full(fill, -1)]).reshape(-1, PAIRS_AT_ONCE)

    def group(ts: Int[Array, "group"]) -> dict[str, LogNorms]:
        found = _walk_back(cell, plan, trajectory, ts, record, _most_per_chunk(starts.tolist()))
        return jax.tree.map(lambda a: jnp.swapaxes(a[:, ::every], 1, 2), found)

    found = lax.map(group, jnp.asarray(groups, jnp.int32))

    def joined(a: Float[Array, "groups samples group starts"]) -> Float[Array, "..."]:
        a = jnp.swapaxes(a, 0, 1).reshape(a.shape[1], -1, a.shape[-1])[:, : len(times)]
        return a if batched else a[0]

    return jax.tree.map(joined, found)


def _most_per_chunk(recorded: Sequence[int]) -> int:
    """The most of these steps that lie among any `CHUNK` neighbouring ones."""
    steps = np.unique(recorded)
    return int(np.max(np.searchsorted(steps, steps + CHUNK) - np.arange(len(steps))))


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
        most: how many of these k may lie among `CHUNK` neighbouring ones.

    Returns:
        {norm: {block: [samples, T + 1, m]}}, NaN where not recorded.
    """
    factors = step_factors(cell, plan.layout, trajectory)
    samples, length = jax.tree.leaves(trajectory.xs)[0].shape[:2]
    walks = (samples, len(times))
    chunks = -(-(length + 1) // CHUNK)
    record = jnp.concatenate([record, jnp.zeros(chunks * CHUNK - length - 1, bool)])

    def walk_chunk(carry: PyTree, ks: Int[Array, "chunk"]) -> tuple[PyTree, dict[str, LogNorms]]:
        plain, others = carry
        plain, read = walk_plain(plan, factors, times, plain, ks)
        others, found = walk_graded_and_carousel(plan, factors, times, record, others, ks)
        if read:
            measured = nan_unless(
                jnp.any(record[ks]), partial(recorded_norms, plan, most), read, record[ks]
            )
            found = {norm: found[norm] | measured.get(norm, {}) for norm in found}
        named = {n: {name: found[n][name] for name in plan.blocks} for n in plan.norms}
        begun = (times[None, :] >= ks[:, None])[:, None]
        return (plain, others), jax.tree.map(lambda a: jnp.where(begun, a, jnp.nan), named)

    def skip_chunk(carry: PyTree, ks: Array) -> tuple[PyTree, dict[str, LogNorms]]:
        return carry, all_nan(lambda *operands: walk_chunk(*operands)[1], carry, ks)

    def walk_once_begun(carry: PyTree, ks: Array) -> tuple[PyTree, dict[str, LogNorms]]:
        return lax.cond(jnp.any(times >= ks[0]), walk_chunk, skip_chunk, carry, ks)

    identities = jax.tree.map(
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
    _, found = lax.scan(walk_once_begun, identities, ks, reverse=True)
    # [chunks, chunk, samples, m]
    return jax.tree.map(lambda a: jnp.moveaxis(a.reshape(-1, *walks)[: length + 1], 0, 1), found)
