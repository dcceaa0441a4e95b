"""Apply ONNX's nodes that move, cut or repeat entries, in NumPy.

None stands for an unknown result, because a shape or an index is not a constant.
"""

import math
from typing import Any

import numpy as np

LAYOUT = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze")
CUT = ("Gather", "Slice", "Split")
REPEAT = ("Expand", "Tile")


MOST_ENTRIES = 2**22
"""The largest array that is made of a few numbers in a file; the entries of a weight are in the file."""


def of_bounded_size(shape: Any) -> bool:
    """Whether an array of this shape, given as numbers, has at most `MOST_ENTRIES` entries."""
    return math.prod(int(n) for n in np.ravel(shape)) <= MOST_ENTRIES


def is_zero(value: Any) -> bool:
    """Whether a value is zero however it is cut."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and not value.any()


def laid_out(
    operator: str, said: dict[str, Any], array: np.ndarray, others: list[Any]
) -> np.ndarray | None:
    """The array after a node that only moves its entries; None if the shape or axes are not constants."""
    if operator == "Identity":
        return array
    if operator == "Transpose":
        return np.transpose(array, said.get("perm"))
    how = others[0] if others else said.get("shape" if operator == "Reshape" else "axes")
    if others and not isinstance(how, np.ndarray):
        return None
    numbers = None if how is None else [int(n) for n in np.ravel(how)]
    if operator == "Unsqueeze":
        return None if numbers is None else np.expand_dims(array, tuple(numbers))
    try:
        if operator == "Squeeze":
            return np.squeeze(array, None if numbers is None else tuple(numbers))
        if numbers is None:
            return None
        zero_keeps = said.get("allowzero", 0) == 0  # 0 stands for the present size
        shape = [array.shape[k] if n == 0 and zero_keeps else n for k, n in enumerate(numbers)]
        return np.reshape(array, shape)
    except ValueError:  # a shape for other sizes of time and batch than the placeholders have
        return None


def of_constant(
    operator: str, said: dict[str, Any], array: np.ndarray, others: list[Any], count: int
) -> list[np.ndarray] | None:
    """The outputs of a node that moves, cuts or repeats a constant; None if an argument is not a constant."""
    known = all(value is None or isinstance(value, np.ndarray) for value in others)
    try:
        if operator in LAYOUT:
            moved = laid_out(operator, said, array, others)
            parts = [] if moved is None else [moved]
        elif operator in REPEAT and not known:
            # A starting state must be the same for every sample; the number of repeats does not matter.
            parts = [array] if array.dtype.kind == "f" else []
        elif not known:
            parts = []
        elif operator == "Expand":
            shape = np.broadcast_shapes(array.shape, tuple(int(n) for n in others[0]))
            parts = [np.broadcast_to(array, shape)] if of_bounded_size(shape) else []
        elif operator == "Tile":
            bounded = of_bounded_size([array.size, *others[0]])
            parts = [np.tile(array, others[0])] if bounded else []
        elif operator == "Gather":
            taken, rows = np.size(others[0]), array.shape[said.get("axis", 0)]
            if taken > rows and not of_bounded_size([array.size // max(rows, 1), taken]):
                return None
            parts = [np.asarray(np.take(array, others[0], said.get("axis", 0)))]
        elif operator == "Split":
            parts = _split(said, array, others, count)
        else:
            parts = [array[_slices(said, array, others)]]
    except (ValueError, IndexError):  # an array whose shape is only partly known
        return None
    # An empty part is one along an axis whose repeats are not known.
    return parts if parts and all(part.size for part in parts) else None


def _split(
    said: dict[str, Any], array: np.ndarray, others: list[Any], count: int
) -> list[np.ndarray]:
    axis = said.get("axis", 0)
    sizes = others[0] if others and others[0] is not None else said.get("split")
    if sizes is None:
        sizes = [-(-array.shape[axis] // count)] * (count - 1)
    elif sum(sizes) != array.shape[axis]:
        return []
    else:
        sizes = sizes[:-1]
    return np.split(array, np.cumsum(sizes, dtype=int), axis)


def _slices(said: dict[str, Any], array: np.ndarray, others: list[Any]) -> tuple[slice, ...]:
    given = dict(zip(("starts", "ends", "axes", "steps"), others, strict=False))
    how = said | {field: value for field, value in given.items() if value is not None}
    axes = how.get("axes", range(len(how["starts"])))
    steps = how.get("steps", [1] * len(how["starts"]))
    cut = [slice(None)] * array.ndim
    for axis, start, end, step in zip(axes, how["starts"], how["ends"], steps, strict=True):
        cut[int(axis)] = slice(int(start), int(end), int(step))
    return tuple(cut)
