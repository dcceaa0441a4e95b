"""Random numbers for the inputs of an ONNX graph, by which `wiring` sees where each of them goes."""

import math
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.weights.onnx.evaluate import MOST_ENTRIES, free_inputs

SIZES = ((5, 3), (4, 6))
"""The first two axes of a sequence whose sizes the graph leaves free, in each of two runs."""


class Marks(NamedTuple):
    """Values for the inputs of a graph.

    Attributes:
        fed: name -> values.
        lengths: name of an input of integers -> the lengths [B] that it gives, itself or as a mask.
        sizes: T and B of a sequence.
    """

    fed: dict[str, np.ndarray]
    lengths: dict[str, np.ndarray]
    sizes: tuple[int, int]


def marked_inputs(
    onnx: Any,
    graph: Any,
    input_size: int,
    run: int,
    batch_axis: int,
    rng: np.random.Generator,
) -> Marks:
    """Values for the inputs of a graph that have no default.

    Args:
        onnx: the package.
        graph: a ``GraphProto``.
        input_size: of the first recurrent node, where the graph leaves the third axis free.
        run: 0 or 1, for `SIZES`.
        batch_axis: the axis of the samples in a sequence, for the sizes of lengths and masks [B, T] that the
            graph leaves free.
        rng: of the numbers.
    """
    fed: dict[str, np.ndarray] = {}
    lengths: dict[str, np.ndarray] = {}
    named: dict[str, int] = {}
    first: tuple[int, ...] = (*SIZES[run], input_size)
    free = free_inputs(onnx, graph)
    inputs = [value for value in graph.input if value.name in free]
    for value in sorted(inputs, key=lambda v: -len(v.type.tensor_type.shape.dim)):
        dims, name = value.type.tensor_type.shape.dim, value.name
        samples, steps = first[batch_axis], first[1 - batch_axis]
        usual = {3: (*SIZES[run], input_size), 2: (samples, steps), 1: (samples,)}.get(len(dims))
        if usual is None or not value.type.tensor_type.elem_type:
            continue
        shape = tuple(
            dim.dim_value or named.setdefault(dim.dim_param or f"{name} {axis}", size)
            for axis, (dim, size) in enumerate(zip(dims, usual, strict=True))
        )
        # What a file declares costs it nothing: a long sequence is followed as a short one.
        if math.prod(shape) > MOST_ENTRIES:
            shape = usual
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if len(dims) == 3 and not fed:
            first = shape
        if dtype.kind in "ib" and len(dims) < 3:
            across = len(dims) == 2 and samples == shape[1] != shape[0]
            limit = shape[0] if across else shape[-1] if len(dims) == 2 else steps
            own = _lengths(
                rng, shape[1] if across else shape[0], min(limit, steps), [*lengths.values()]
            )
            mask = np.arange(limit) < own[:, None]
            lengths[name] = own
            made = own if len(dims) == 1 else mask.T if across else mask
            fed[name] = made.astype(dtype)
        elif dtype.kind not in "ibuO":
            fed[name] = marked(rng, shape, dtype)
    return Marks(fed, lengths, (first[1 - batch_axis], first[batch_axis]))


def marked(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Whole numbers but zero, whose sums are exact, also where a graph computes in half precision."""
    largest = 100 if "bfloat16" in str(dtype) else 1000
    return (rng.integers(1, largest + 1, shape) * rng.choice([-1, 1], shape)).astype(dtype)


def _lengths(
    rng: np.random.Generator, samples: int, steps: int, others: list[np.ndarray]
) -> np.ndarray:
    """Lengths of a batch; where it has several samples, one has all steps, and no other batch the same."""
    for _ in range(20):
        own = rng.integers(1, max(steps, 2), samples)
        if samples > 1:
            own[rng.integers(samples)] = steps
        if not any(np.array_equal(own, other) for other in others):
            break
    return own
