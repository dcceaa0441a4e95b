r"""What each step contributes to a gradient: asked of a derivation by hand, and found by autodiff.

With θ_k the copy of the parameters used at step k, what the last step's loss sends to it is

    c_k = ∂ℓ_T/∂θ_k              ∂ℓ_T/∂θ = Σ_k c_k

A derivation may keep the c_k, leaves [T, *shape]. Of one that returns only sums, c_k is found by asking for
parts of the sequence: S_{k→t} is its answer for the steps after k up to t, from the state s_k that the whole
run passes through, and

    loss of the last step    c_k = S_{k−1→T} − S_{k→T}
    losses of every step     c_k = (S_{k−1→T} − S_{k→T}) − (S_{k−1→T−1} − S_{k→T−1})

Such a difference is known to rounding of the sums, not of itself.

Axes: xs[T, ...]; step k counted from 0 in the code.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lstm_jax.array_types import PyTree
from lstm_jax.cells import Step
from lstm_jax.validation import ShapeError, leaf_name, require_same_structure, show_shape

UNRESOLVED = 1e-13
"""A difference of sums cannot tell what is smaller than this, relative to the sum, from rounding."""


def plain_loss(
    step: Step, loss: Any, loss_at: str, params: PyTree, state0: PyTree, xs: PyTree
) -> Any:
    """ℓ_T (``loss_at`` last) or Σ ℓ_t (every) by the plain scan."""
    copies = jax.tree.map(lambda leaf: leaf[None], params)
    return _loss(step, loss, loss_at, copies, False, state0, xs)


def by_autodiff(
    step: Step, loss: Any, params: PyTree, state0: PyTree, xs: PyTree
) -> list[np.ndarray]:
    """c_k for every k, leaf by leaf, [T, *shape]: autodiff of the plain scan with T copies of θ."""
    length = len(jax.tree.leaves(xs)[0])
    copies = jax.tree.map(lambda leaf: jnp.stack([leaf] * length), params)
    # Under jit: see CONTRIBUTING.md on references by autodiff.
    found = jax.jit(jax.grad(lambda own: _loss(step, loss, "last", own, True, state0, xs)))(copies)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(found)]


def _loss(
    step: Step, loss: Any, loss_at: str, copies: PyTree, own: bool, state0: PyTree, xs: PyTree
) -> Any:
    """The loss with one copy of the parameters for each step (``own``), or with one for all."""
    shared = jax.tree.map(lambda leaf: leaf[-1], copies)

    def advance(state: PyTree, at: Any) -> tuple[PyTree, Any]:
        params, x = at if own else (shared, at)
        state, _ = step(params, state, x)
        return state, loss(params, state, x) if loss_at == "every" else None

    state, losses = lax.scan(advance, state0, (copies, xs) if own else xs)
    if loss_at == "every":
        return jnp.sum(losses, axis=0)
    return loss(shared, state, jax.tree.map(lambda leaf: leaf[-1], xs))


def summed(found: PyTree, params: PyTree, length: int) -> PyTree:
    """A gradient by hand as one sum, whichever way it came.

    Raises:
        TypeError: another structure than that of ``params``.
        ShapeError: a leaf that is neither a sum nor a contribution a step.
    """
    require_same_structure("the gradient by hand", found, params)
    paths = jax.tree_util.tree_flatten_with_path(found)[0]
    sums = []
    for (path, leaf), like in zip(paths, jax.tree.leaves(params), strict=True):
        shape, array = jnp.shape(like), np.asarray(leaf)
        if array.shape not in (shape, (length, *shape)):
            raise ShapeError(
                f"Shape mismatch: expected the gradient by hand of {leaf_name(path) or 'params'} as "
                f"{show_shape(shape)} or {show_shape((length, *shape))}, got {show_shape(array.shape)}."
            )
        sums.append(array.sum(0) if array.shape != shape else array)
    return jax.tree.unflatten(jax.tree.structure(params), sums)


def by_hand(
    gradient: Any,
    step: Step,
    loss_at: str,
    params: PyTree,
    state0: PyTree,
    xs: PyTree,
    lags: Sequence[int],
) -> list[list[tuple[np.ndarray, float]]]:
    """c_k at each lag, ``[leaf][lag]``, with the size below which it is not told from rounding."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(params)]
    length = len(jax.tree.leaves(xs)[0])

    def keep(state: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
        return step(params, state, x)[0], state

    states = jax.jit(lambda s, x: lax.scan(keep, s, x)[1])(state0, xs)

    @cache
    def part(first: int, last: int) -> list[np.ndarray]:
        """The derivation's answer for the steps after ``first`` up to ``last``."""
        state = jax.tree.map(lambda leaf: leaf[first], states)
        found = gradient(params, state, jax.tree.map(lambda leaf: leaf[first:last], xs))
        summed(found, params, last - first)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(found)]

    def total(n: int, first: int, last: int) -> np.ndarray:
        return part(first, last)[n] if first < last else np.zeros(shapes[n])

    def one(n: int, k: int) -> tuple[np.ndarray, float]:
        whole = part(0, length)[n]
        every = loss_at == "every" and k < length - 1
        if whole.shape != shapes[n]:
            if not every:
                return whole[k], 0.0
            value, scale = whole[k] - part(0, length - 1)[n][k], whole[k]
        else:
            value, scale = total(n, k, length) - total(n, k + 1, length), whole
            if loss_at == "every":
                value = value - (total(n, k, length - 1) - total(n, k + 1, length - 1))
        return value, UNRESOLVED * float(np.max(np.abs(scale), initial=0.0))

    return [[one(n, length - 1 - lag) for lag in lags] for n in range(len(shapes))]
