"""A scan over chunks of time: `jax.lax.scan` whose body gets several steps at once.

    carry, outputs = body(carry, inputs[t … t + K − 1])

Work that does not depend on the step before is then one large operation per chunk, on data that is still in
the cache. So the weight gradients of back-propagation are one matrix product over K·B rows per chunk, and no
cotangent of the whole sequence is stored.

Axes: every leaf of inputs and outputs has time as its leading axis.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from lstm_jax.array_types import Array, PyTree


def scan_chunks(
    body: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]],
    carry: PyTree,
    starts: PyTree,
    inputs: PyTree,
    steps: int,
    *,
    reverse: bool = False,
) -> tuple[PyTree, PyTree]:
    """Scan over chunks of ``steps`` time steps; the last chunk in time may be shorter.

    Args:
        body: ``(carry, start, inputs of a chunk) -> (carry, outputs)``, for a chunk of any length. An
            output has time as its leading axis, or a leading axis of 1 for a value per chunk.
        carry: as in `jax.lax.scan`.
        starts: pytree of arrays with one entry for each chunk, ⌈T / steps⌉ leading.
        inputs: pytree of arrays, time leading.
        steps: the length of a chunk.
        reverse: from the last chunk to the first. Inside a chunk ``body`` sets the order.

    Returns:
        The final carry and the outputs of all chunks, joined in the order of the inputs.
    """
    length = jax.tree.leaves(inputs)[0].shape[0]
    if length <= steps:
        return body(carry, jax.tree.map(lambda a: a[-1], starts), inputs)
    whole, rest = divmod(length, steps)

    def of_chunk(carry: PyTree, chunk: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        return body(carry, *chunk)

    def at_end(carry: PyTree) -> tuple[PyTree, PyTree]:
        last = jax.tree.map(lambda a: a[-1], starts)
        return body(carry, last, jax.tree.map(lambda a: a[whole * steps :], inputs))

    chunks = (
        jax.tree.map(lambda a: a[:whole], starts),
        jax.tree.map(lambda a: a[: whole * steps].reshape(whole, steps, *a.shape[1:]), inputs),
    )
    if not rest:
        carry, outputs = lax.scan(of_chunk, carry, chunks, reverse=reverse)
        return carry, jax.tree.map(_join, outputs)
    if reverse:
        carry, last = at_end(carry)
        carry, outputs = lax.scan(of_chunk, carry, chunks, reverse=True)
    else:
        carry, outputs = lax.scan(of_chunk, carry, chunks)
        carry, last = at_end(carry)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([_join(a), b]), outputs, last)


def _join(array: Array) -> Array:
    return array.reshape(-1, *array.shape[2:])


def chunk_starts(first: Array, values: Array, steps: int, *, reverse: bool) -> Array:
    """The starting value of each chunk: the value after the step before it.

    Args:
        first: the starting value of the first chunk in the order of the loop.
        values: after every step, [T, ...], aligned with the inputs.
        steps: the length of a chunk.
        reverse: whether the loop runs from the last step to the first.

    Returns:
        [⌈T / steps⌉, ...], in the order of time.
    """
    if values.shape[0] <= steps:
        return first[None]
    if reverse:
        return jnp.concatenate([values[steps::steps], first[None]])
    return jnp.concatenate([first[None], values[steps - 1 : -1 : steps]])


def zero_sums(tree: PyTree) -> PyTree:
    """Zeros for sums of arrays like those of ``tree``; float32 for bfloat16, which has too few digits."""

    def zero(leaf: Array) -> Array:
        return jnp.zeros_like(leaf, jnp.float32 if leaf.dtype.itemsize < 4 else leaf.dtype)

    return jax.tree.map(zero, tree)


def add_to(sums: PyTree, parts: PyTree) -> PyTree:
    """Add each part to its sum, in the sum's dtype."""
    return jax.tree.map(lambda total, part: total + part.astype(total.dtype), sums, parts)
