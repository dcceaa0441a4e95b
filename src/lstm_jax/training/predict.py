"""Outputs of a network for a whole data set, in the order of its sequences."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from lstm_jax.array_types import PyTree
from lstm_jax.datasets.length_buckets import bucket_lengths
from lstm_jax.datasets.padding import SequenceBatch, padded
from lstm_jax.datasets.sequence_batches import bucketed, lengths_of
from lstm_jax.datasets.standardization import Standardization
from lstm_jax.training.problem_checks import ProblemError, require_axes, require_leaves
from lstm_jax.training.sample_axes import by_axis
from lstm_jax.validation import require_parameters, require_positive_int


def predict(
    function: Callable[[PyTree, SequenceBatch], PyTree],
    params: PyTree,
    xs: Sequence[Any],
    *,
    batch_size: int = 64,
    buckets: int = 4,
    output_axes: Any = 0,
    standardization: Standardization | None = None,
) -> PyTree:
    """Apply a function to sequences of different lengths, in padded batches.

    Args:
        function: ``function(params, batch)`` of a `lstm_jax.datasets.SequenceBatch`, under `jax.jit`.
        params: the parameters.
        xs: N arrays [T_n, ...].
        batch_size: sequences at once.
        buckets: the number of lengths to which batches are padded; each is a program to compile.
        output_axes: the axis of the samples in the outputs, as ``in_axes`` of `jax.vmap`: 0 for one output a
            sequence, [B, ...]; 1 for one a step, [T, B, ...].
        standardization: applied to the inputs, as in training.

    Returns:
        What the function returns, as NumPy arrays in the order of ``xs``: [N, ...] for one output a sequence;
        for one a step a list of N arrays [T_n, ...], cut to the lengths.

    Raises:
        ProblemError: outputs of no arrays, or without the axis.
        ValueError: sizes that are not positive, or no sequences.
        ShapeError: sequences without steps, or of different columns.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from lstm_jax.training import predict
        >>> sequences = [np.ones((3, 1)), np.ones((1, 1)), np.ones((2, 1))]
        >>> predict(lambda w, batch: w * batch.xs.sum((0, 2)), jnp.float32(2), sequences).tolist()
        [6.0, 2.0, 4.0]
        >>> steps = predict(lambda w, batch: w * batch.xs, jnp.float32(2), sequences, output_axes=1)
        >>> [len(ys) for ys in steps]
        [3, 1, 2]
    """
    require_parameters("function", function, "params, batch")
    require_positive_int("batch_size", batch_size)
    require_positive_int("buckets", buckets)
    if any(axis is None for axis in jax.tree.leaves(output_axes, is_leaf=lambda x: x is None)):
        raise ProblemError(
            "Axis mismatch: expected output_axes as 0 or 1 for each output, got None."
        )
    lengths = lengths_of(xs)
    batch_size = min(batch_size, len(lengths))
    # Shortest first, so that the rows that fill up the last batch are copies of the longest.
    order = np.argsort(lengths, kind="stable")
    missing = -len(order) % batch_size
    order = np.concatenate([order, np.full(missing, order[-1])])
    plan = bucketed(order, lengths, bucket_lengths(lengths, buckets), batch_size)
    found: list[PyTree] = [None] * len(lengths)

    def one(axis: int, leaf: np.ndarray, column: int, row: int) -> Any:
        own = np.take(leaf, column, axis)
        return own[: lengths[row]] if axis else own

    for rows, length in zip(plan.rows.tolist(), plan.lengths.tolist(), strict=True):
        batch = padded([xs[row] for row in rows], length=length, standardization=standardization)
        outputs = _outputs(function, params, batch)
        require_axes("output", output_axes, outputs)
        host = jax.tree.map(np.asarray, outputs)
        for column, row in enumerate(rows):
            found[row] = by_axis(
                lambda axis, leaf, c=column, r=row: one(axis, leaf, c, r), output_axes, host
            )
    axes = by_axis(lambda axis, leaf: axis, output_axes, found[0])
    return jax.tree.map(lambda axis, *each: list(each) if axis else np.stack(each), axes, *found)


@partial(jax.jit, static_argnums=0)
def _outputs(function: Callable[..., PyTree], params: PyTree, batch: SequenceBatch) -> PyTree:
    # By the function, so that another call for it compiles nothing.
    outputs = function(params, batch)
    require_leaves("Output", "function(params, batch)", outputs)
    return outputs
