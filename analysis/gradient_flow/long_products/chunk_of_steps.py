r"""The walk back, a few steps of all walks at a time, and the norms of the matrices on it.

The matrices of all steps of a chunk are collected, and the norms of all of them are computed together.

Axes: [chunk, samples, walks, ...].
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradient_flow.long_products import qr_transition, shared_scale, transition
from gradient_flow.long_products.compensated_sum import compensated_add
from gradient_flow.long_products.qr_product import log_smallest
from gradient_flow.long_products.scaled_matrix import (
    EvenlyScaled,
    ScaledMatrix,
    evenly_scaled,
    log_frobenius,
    log_spectral,
    scaled_sum,
)
from gradient_flow.long_products.step_factors import StepFactors
from gradient_flow.step_jacobians.state_layout import Layout
from lstm_jax.array_types import Array, Bool, Float, Int, PyTree, shapes_of

LogNorms = dict[str, Float[Array, "..."]]
"""Natural logs of norms, by block."""

CHUNK = 8
"""Steps in a chunk."""


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
        norms = set(self.norms)
        used = norms & {"smallest"} if kind == "graded" else norms - {"smallest"}
        return frozenset(self.blocks) - {"carousel"} if used else frozenset()


def walk_plain(
    plan: Plan, factors: StepFactors, times: Array, walk: transition.Walk, ks: Int[Array, "chunk"]
) -> tuple[transition.Walk, dict[str, EvenlyScaled]]:
    """A chunk of the plain products, {name: [chunk, samples, m, ...]}: on a shared scale if that is exact."""
    names = [name for name in plan.blocks if name in plan.matrices("plain")]
    if not names:
        return walk, {}
    layout = plan.layout

    def read(walk: transition.Walk, k: Array) -> dict[str, EvenlyScaled]:
        def one(walk: transition.Walk, h_c: Any) -> dict[str, EvenlyScaled]:
            return {name: evenly_scaled(transition.read(walk, name, layout, h_c)) for name in names}

        return jax.vmap(jax.vmap(one, in_axes=(0, None)))(walk, factors.h_c(k))

    def step_back(walk: transition.Walk, k: Array) -> tuple[transition.Walk, Any]:
        moved = jax.vmap(jax.vmap(transition.step_back, in_axes=(0, None, None)))(
            walk, factors.jacobian(k), factors.h_c(k)
        )
        walk = jax.tree.map(lambda new, old: _select_walks(times > k, new, old), moved, walk)
        return walk, read(walk, k)

    def with_scales_apart(walk: transition.Walk) -> tuple[transition.Walk, dict[str, EvenlyScaled]]:
        return lax.scan(step_back, walk, ks, reverse=True)

    def with_shared_scale(
        walk: transition.Walk,
    ) -> tuple[tuple[transition.Walk, dict[str, EvenlyScaled]], Bool[Array, ""]]:
        begun = times > ks[-1]
        state, scales = jax.vmap(shared_scale.to_shared_scale, in_axes=(0, None))(walk, begun)

        def as_walk(state: shared_scale.RowsAndChain) -> transition.Walk:
            parts = len(layout.sizes)
            return jax.vmap(partial(shared_scale.as_walk, parts=parts))(state, scales)

        # [chunk, samples, ...]
        rescaled = jax.vmap(
            lambda k: jax.vmap(shared_scale.rescaled_jacobian)(
                scales, factors.jacobian(k), factors.h_c(k)
            )
        )(ks)

        def move(
            state: shared_scale.RowsAndChain, at: tuple[Array, shared_scale.RowsAndChain]
        ) -> tuple[shared_scale.RowsAndChain, dict[str, EvenlyScaled]]:
            k, factor = at
            state = jax.vmap(shared_scale.step_back, in_axes=(0, 0, 0, None, None))(
                state, scales, factor, times > k, times == k
            )
            return state, read(as_walk(state), k)

        state, values = lax.scan(move, state, (ks, rescaled), reverse=True)
        moved = jax.tree.map(
            lambda block: scaled_sum([block]),
            as_walk(state),
            is_leaf=lambda node: isinstance(node, ScaledMatrix),
        )
        # A walk that has not begun stays the identity.
        moved = jax.tree.map(lambda new, old: _select_walks(times >= ks[0], new, old), moved, walk)
        return (moved, values), jnp.all(shared_scale.nothing_lost(state))

    result, exact = with_shared_scale(walk)
    return lax.cond(exact, lambda _: result, with_scales_apart, walk)


def walk_graded_and_carousel(
    plan: Plan,
    factors: StepFactors,
    times: Array,
    record: Array,
    carry: PyTree,
    ks: Int[Array, "chunk"],
) -> tuple[PyTree, dict[str, LogNorms]]:
    """A chunk of the graded products and of the carousel: {norm: {block: [chunk, samples, m]}}."""
    layout = plan.layout
    names = [name for name in plan.blocks if name in plan.matrices("graded")]
    carousel = "carousel" in plan.blocks

    def smallest(walk: qr_transition.QRWalk, k: Array) -> LogNorms:
        def one(walk: qr_transition.QRWalk, h_c: Any) -> LogNorms:
            return {
                name: log_smallest(qr_transition.read(walk, name, layout, h_c)) for name in names
            }

        return jax.vmap(jax.vmap(one, in_axes=(0, None)))(walk, factors.h_c(k))

    def move(carry: PyTree, k: Array) -> tuple[PyTree, dict[str, LogNorms]]:
        walk, logs = carry
        found: dict[str, LogNorms] = {norm: {} for norm in plan.norms}
        if names:
            moved = jax.vmap(jax.vmap(qr_transition.step_back, in_axes=(0, None, None)))(
                walk, factors.jacobian(k), factors.h_c(k)
            )
            walk = jax.tree.map(lambda new, old: _select_walks(times > k, new, old), moved, walk)
            found["smallest"] = nan_unless(record[k] & jnp.any(times >= k), smallest, walk, k)
        if carousel:
            log_f = jnp.broadcast_to(factors.log_f(k)[:, None], logs[0].shape)
            logs = jax.tree.map(
                lambda new, old: _select_walks(times > k, new, old),
                compensated_add(logs, log_f),
                logs,
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


def _select_walks(which: Bool[Array, "m"], new: Array, old: Array) -> Array:
    """``new`` for the walks that are selected, ``old`` for the others; [samples, m, ...]."""
    return jnp.where(which.reshape(1, -1, *[1] * (new.ndim - 2)), new, old)


def _norms_by_shape(
    function: Callable[[EvenlyScaled], Array], read: dict[str, EvenlyScaled]
) -> LogNorms:
    """Apply a norm to all matrices of one shape as one stack: large batches fill the machine."""
    shapes: dict[tuple[int, ...], list[str]] = {}
    for name, m in read.items():
        shapes.setdefault(m.matrix.shape, []).append(name)
    found: LogNorms = {}
    for names in shapes.values():
        stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(read[name] for name in names))
        found.update(zip(names, function(stack), strict=True))
    return found


def recorded_norms(
    plan: Plan, most: int, read: dict[str, EvenlyScaled], recorded: Bool[Array, "chunk"]
) -> dict[str, LogNorms]:
    """{norm: {block: [chunk, samples, m]}} of a chunk, NaN where nothing is recorded."""

    def measure(read: dict[str, EvenlyScaled]) -> dict[str, LogNorms]:
        functions = {"spectral": log_spectral, "frobenius": log_frobenius}
        return {
            norm: _norms_by_shape(functions[norm], read) for norm in functions if norm in plan.norms
        }

    if most >= CHUNK:
        return measure(read)
    (picked,) = jnp.nonzero(recorded, size=most, fill_value=CHUNK)
    values = measure(jax.tree.map(lambda a: a.at[picked].get(mode="clip"), read))
    return jax.tree.map(
        lambda a: jnp.full((CHUNK, *a.shape[1:]), jnp.nan, a.dtype).at[picked].set(a, mode="drop"),
        values,
    )


def all_nan(function: Callable[..., PyTree], *operands: PyTree) -> PyTree:
    """NaN for every number that a function returns."""
    shapes = shapes_of(function, *operands)
    return jax.tree.map(lambda a: jnp.full(a.shape, jnp.nan, a.dtype), shapes)


def nan_unless(
    wanted: Bool[Array, ""], function: Callable[..., PyTree], *operands: PyTree
) -> PyTree:
    """The result of a function, or NaN for each of its numbers where it is not wanted."""
    return lax.cond(wanted, function, partial(all_nan, function), *operands)
