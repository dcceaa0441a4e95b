r"""The contribution of each step to a gradient, from a derivation by hand and by autodiff.

With θ_k the copy of the parameters used at step k, the contributions to the gradient of the last step's loss

    c_k = ∂ℓ_T/∂θ_k              ∂ℓ_T/∂θ = Σ_k c_k

may be returned by the derivation, as leaves [T, *shape]. Where it returns only sums, c_k is found from parts
of the sequence: S_{k→t} is its result for the steps after k up to t, from the state s_k of the whole run, and

    loss of the last step    c_k = S_{k−1→T} − S_{k→T}
    losses of every step     c_k = (S_{k−1→T} − S_{k→T}) − (S_{k−1→T−1} − S_{k→T−1})

The error of such a difference is the rounding of the sums, not of the difference.

Axes: xs[T, ...]; step k counted from 0 in the code.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lstm_jax.array_types import PyTree, shapes_of
from lstm_jax.cells import Step
from lstm_jax.validation import ShapeError, leaf_name, require_same_structure, show_shape

UNRESOLVED = 1e-13
"""A difference of sums that is smaller than this, relative to the sum, may be rounding."""


class Reference(NamedTuple):
    """By autodiff of the plain scan, leaf by leaf.

    Attributes:
        single: c_k for every k, [T, *shape].
        whole: the gradient of the derivation's loss, [*shape].
        states: the states before each step, leading axis T.
    """

    single: list[np.ndarray]
    whole: list[np.ndarray]
    states: Any


class ByHand(NamedTuple):
    """Of the derivation, leaf by leaf.

    Attributes:
        whole: the gradient, [*shape].
        single: c_k at each of the lags, with the size below which a difference may be rounding.
        by_step: c_k for every k, [T, *shape], of the last step's loss; None if some leaf is only a sum, or
            if the loss is that of every step.
    """

    whole: list[np.ndarray]
    single: list[list[tuple[np.ndarray, float]]]
    by_step: list[np.ndarray] | None


def by_autodiff(
    step: Step, loss: Any, loss_at: str, params: PyTree, state0: PyTree, xs: PyTree
) -> Reference:
    """The contributions and the whole gradient by autodiff.

    Raises:
        ValueError: a loss that is not a scalar.
    """
    first = jax.tree.map(lambda leaf: leaf[0], xs)
    shape = shapes_of(lambda p, s, x: loss(p, step(p, s, x)[0], x), params, state0, first)
    if getattr(shape, "shape", None) != ():
        raise ValueError(f"Loss mismatch: expected a scalar loss, got {shape}.")
    single, whole, states = _differentiated(step, loss, loss_at, params, state0, xs)
    return Reference(
        [np.asarray(leaf) for leaf in jax.tree.leaves(single)],
        [np.asarray(leaf) for leaf in jax.tree.leaves(whole)],
        states,
    )


# Under jit: see CONTRIBUTING.md on references by autodiff.
@partial(jax.jit, static_argnums=(0, 1, 2))
def _differentiated(
    step: Step, loss: Any, loss_at: str, params: PyTree, state0: PyTree, xs: PyTree
) -> tuple[PyTree, PyTree, PyTree]:
    length = len(jax.tree.leaves(xs)[0])
    copies = jax.tree.map(lambda leaf: jnp.stack([leaf] * length), params)

    def last(copies: PyTree) -> tuple[Any, PyTree]:
        def advance(state: PyTree, at: Any) -> tuple[PyTree, PyTree]:
            copy, x = at
            return step(copy, state, x)[0], state

        state, states = lax.scan(advance, state0, (copies, xs))
        copy, x = jax.tree.map(lambda leaf: leaf[-1], (copies, xs))
        return loss(copy, state, x), states

    def every(params: PyTree) -> Any:
        def advance(state: PyTree, x: PyTree) -> tuple[PyTree, Any]:
            state, _ = step(params, state, x)
            return state, loss(params, state, x)

        return jnp.sum(lax.scan(advance, state0, xs)[1], axis=0)

    single, states = jax.grad(last, has_aux=True)(copies)
    if loss_at == "every":
        return single, jax.grad(every)(params), states
    return single, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), single), states


def require_gradient(found: PyTree, params: PyTree, length: int) -> None:
    """Refuse a result that cannot be a gradient of the parameters.

    Raises:
        TypeError: another structure than that of ``params``.
        ShapeError: a leaf that is neither a sum nor one contribution per step.
    """
    require_same_structure("the gradient by hand", found, params)
    paths = jax.tree_util.tree_flatten_with_path(found)[0]
    for (path, leaf), like in zip(paths, jax.tree.leaves(params), strict=True):
        shape, got = jnp.shape(like), np.shape(leaf)
        if got not in (shape, (length, *shape)):
            raise ShapeError(
                f"Shape mismatch: expected the gradient by hand of {leaf_name(path) or 'params'} as "
                f"{show_shape(shape)} or {show_shape((length, *shape))}, got {show_shape(got)}."
            )


def by_hand(
    gradient: Any,
    loss_at: str,
    params: PyTree,
    states: PyTree,
    xs: PyTree,
    lags: Sequence[int],
) -> ByHand:
    """The whole gradient, and c_k at each lag.

    Args:
        gradient: the derivation, ``gradient(params, state0, xs)``.
        loss_at: of which loss, ``"last"`` or ``"every"``.
        params: the parameters.
        states: the states before each step, leading axis T.
        xs: the inputs, leading axis T.
        lags: which c_k.
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(params)]
    length = len(jax.tree.leaves(xs)[0])

    @cache
    def part(first: int, last: int) -> list[np.ndarray]:
        """The derivation's result for the steps after ``first`` up to ``last``."""
        # Sliced in NumPy: a slice of a JAX array compiles again for each length.
        state = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[first]), states)
        inputs = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[first:last]), xs)
        found = gradient(params, state, inputs)
        require_gradient(found, params, last - first)
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

    whole = [
        leaf.sum(0) if leaf.shape != shape else leaf
        for leaf, shape in zip(part(0, length), shapes, strict=True)
    ]
    single = [[one(n, length - 1 - lag) for lag in lags] for n in range(len(shapes))]
    steps = part(0, length)
    summed = any(leaf.shape == shape for leaf, shape in zip(steps, shapes, strict=True))
    return ByHand(whole, single, None if summed or loss_at == "every" else steps)
