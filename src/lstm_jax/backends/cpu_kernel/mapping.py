"""`jax.vmap` of the CPU kernel's calls, which keeps each of them one call.

Mapped inputs and states with one set of weights are more rows of the batch, with their own sums for the
weights in the backward pass (groups). Mapped weights are more networks, which the threads share among them.
Where cotangents alone are mapped, every batch of them has the same inputs and residuals, not copies of them.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive

from lstm_jax.backends.cpu_kernel.arrays import (
    ROWS_AXIS,
    WEIGHTS,
    Cotangents,
    Found,
    Inputs,
    Kernel,
)


def _first(operands: Sequence[Any], axes: Sequence[Any]) -> tuple[int, list[Any]]:
    """The mapped axis's size, and the operands with it as their first axis where they are mapped."""
    size = next(o.shape[a] for o, a in zip(operands, axes, strict=True) if a is not None)
    moved = [o if a is None else jnp.moveaxis(o, a, 0) for o, a in zip(operands, axes, strict=True)]
    return size, moved


def _nothing(primitive: Primitive, operands: Any, axes: Any, **static: Any) -> Any:
    """The results of a mapped axis of size 0."""
    ones = [
        jax.ShapeDtypeStruct(o.shape if a is None else np.delete(o.shape, a), o.dtype)
        for o, a in zip(operands, axes, strict=True)
    ]
    shapes = jax.eval_shape(partial(primitive.bind, **static), *ones)
    return [jnp.zeros((0, *one.shape), one.dtype) for one in shapes], [0] * len(shapes)


def _is_mapped(operand: Any, axis: Any) -> bool:
    return axis is not None and operand.size > 0


def _more_networks(size: int, networks: int, leaf: Any, mapped: bool) -> Any:
    """[size, n, ...] -> [size · networks, ...]."""
    if not mapped and leaf.shape[0] == 1:
        return leaf
    leaf = leaf if mapped else jnp.broadcast_to(leaf, (size, *leaf.shape))
    if leaf.shape[1] != networks:
        leaf = jnp.broadcast_to(leaf, (size, networks, *leaf.shape[2:]))
    return leaf.reshape(size * networks, *leaf.shape[2:])


def _more_rows(size: int, name: str, leaf: Any, mapped: bool) -> Any:
    """[size, n, ..., B, ...] -> [n, ..., size · B, ...]."""
    leaf = leaf if mapped else jnp.broadcast_to(leaf, (size, *leaf.shape))
    if name == "made":  # The rows have one network, which has its residuals where all have.
        return leaf.min(0)
    axis = ROWS_AXIS.get(name, 2)
    leaf = jnp.moveaxis(leaf, 0, axis)
    return leaf.reshape(*leaf.shape[:axis], -1, *leaf.shape[axis + 2 :])


def _rows_apart(size: int, name: str, leaf: Any) -> Any:
    """The results of `_more_rows` with the mapped axis first."""
    if name == "made" or not leaf.size:
        return jnp.broadcast_to(leaf, (size, *leaf.shape))
    axis = ROWS_AXIS.get(name, 2)
    parts = leaf.reshape(*leaf.shape[:axis], size, -1, *leaf.shape[axis + 1 :])
    return jnp.moveaxis(parts, axis, 0)


def _networks_apart(size: int, leaf: Any) -> Any:
    if not leaf.size:
        return jnp.broadcast_to(leaf, (size, *leaf.shape))
    return leaf.reshape(size, -1, *leaf.shape[1:])


def _without_unused(moved: Sequence[Any], axes: Sequence[Any]) -> tuple[list[Any], list[bool]]:
    """The operands, and which are mapped; an array that is not used stays [1, 0] and is not."""
    mapped = [_is_mapped(o, a) for o, a in zip(moved, axes, strict=True)]
    kept = [o if m or a is None else o[0] for o, a, m in zip(moved, axes, mapped, strict=True)]
    return kept, mapped


def _as_networks(
    primitive: Primitive, size: int, kernel: Kernel, moved: Any, mapped: Any, **static: Any
) -> Any:
    """One call for mapped weights."""
    operands = [
        _more_networks(size, kernel.networks, o, m) for o, m in zip(moved, mapped, strict=True)
    ]
    several = replace(kernel, networks=size * kernel.networks)
    found = primitive.bind(*operands, kernel=several, **static)
    return [_networks_apart(size, leaf) for leaf in found], [0] * len(found)


def batch_forward(
    primitive: Primitive, operands: Any, axes: Any, *, kernel: Kernel, keeps: bool
) -> Any:
    """The batching rule of the forward pass."""
    size, moved = _first(operands, axes)
    if size == 0:
        return _nothing(primitive, operands, axes, kernel=kernel, keeps=keeps)
    moved, mapped = _without_unused(moved, axes)
    names = Inputs._fields
    if any(m for name, m in zip(names, mapped, strict=True) if name in WEIGHTS):
        return _as_networks(primitive, size, kernel, moved, mapped, keeps=keeps)
    rows = [
        o if name in WEIGHTS or not o.size else _more_rows(size, name, o, m)
        for name, o, m in zip(names, moved, mapped, strict=True)
    ]
    found = primitive.bind(*rows, kernel=kernel, keeps=keeps)
    apart = [_rows_apart(size, name, leaf) for name, leaf in zip(Found._fields, found, strict=True)]
    return apart, [0] * len(apart)


def batch_backward(
    primitive: Primitive, operands: Any, axes: Any, *, kernel: Kernel, groups: int
) -> Any:
    """The batching rule of the backward pass."""
    size, moved = _first(operands, axes)
    if size == 0:
        return _nothing(primitive, operands, axes, kernel=kernel, groups=groups)
    moved, mapped = _without_unused(moved, axes)
    names = (*Inputs._fields, "hs", "kept", "made", "d_hs", "d_h_end", "d_c_end")
    if any(m for name, m in zip(names, mapped, strict=True) if name in WEIGHTS):
        return _as_networks(primitive, size, kernel, moved, mapped, groups=groups)
    # Inputs and residuals that are not mapped serve every batch of cotangents.
    given = any(m for name, m in zip(names, mapped, strict=True) if not name.startswith("d_"))
    repeats = moved[names.index("d_hs")].shape[-2] // moved[0].shape[-2]
    if given and repeats > 1:  # Each of those batches gets inputs of its own.
        moved = [
            o if name in WEIGHTS or name.startswith("d_") or name == "made" or not o.size
            else jnp.concatenate([o] * repeats, ROWS_AXIS.get(name, 2) + m)
            for name, o, m in zip(names, moved, mapped, strict=True)
        ]  # fmt: skip
    rows = [
        o
        if name in WEIGHTS or not o.size or not (given or name.startswith("d_"))
        else _more_rows(size, name, o, m)
        for name, o, m in zip(names, moved, mapped, strict=True)
    ]
    found = primitive.bind(*rows, kernel=kernel, groups=size * groups)
    apart = []
    for name, leaf in zip(Cotangents._fields, found, strict=True):
        if name in WEIGHTS and leaf.size:
            parts = leaf.reshape(leaf.shape[0], size, groups, *leaf.shape[2:])
            apart.append(jnp.moveaxis(parts, 1, 0))
        else:
            apart.append(_rows_apart(size, name, leaf))
    return apart, [0] * len(apart)
