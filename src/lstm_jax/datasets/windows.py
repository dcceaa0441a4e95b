r"""Windows of a long array, as many as there are, read where they are used.

windows[n] = array[n · stride : n · stride + length]
"""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from lstm_jax.validation import require_array, require_positive_int, show_shape


class Windows(Sequence[np.ndarray]):
    """The windows of an array; made by `windows`.

    Attributes:
        array: where they lie.
        length: steps of each.
        stride: steps from one to the next.
    """

    def __init__(self, array: Any, length: int, stride: int) -> None:
        self.array, self.length, self.stride = array, length, stride

    def __repr__(self) -> str:
        # Grain's DataLoader knows its source again by this text, in another process too.
        kind = f"{self.array.dtype.name}{show_shape(self.array.shape)}"
        return f"windows({kind}, length={self.length}, stride={self.stride})"

    def __len__(self) -> int:
        return (self.array.shape[0] - self.length) // self.stride + 1

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: Any) -> Any:
        """The window of a number, a view of the array; of a slice, a list of them."""
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        start = range(len(self))[index] * self.stride
        return self.array[start : start + self.length]


def windows(array: Any, length: int, stride: int | None = None) -> Windows:
    """Cut a long array into windows; nothing is read or copied.

    Args:
        array: [N, ...], time first; memory-mapped too.
        length: steps of a window. For the next value as a target take one more, and cut it in the loss.
        stride: steps from one window to the next; ``length``, without overlap, if None.

    Returns:
        A sequence of arrays [length, ...], for `batches`, or for ``grain.MapDataset.source``.

    Raises:
        ValueError: sizes that are not positive, or an array shorter than a window.
        TypeError: no array.

    Example:
        >>> import numpy as np
        >>> from lstm_jax.datasets import windows
        >>> cut = windows(np.arange(7), 3, 2)
        >>> len(cut), cut[-1].tolist()
        (3, [4, 5, 6])
    """
    require_array("array", array)
    require_positive_int("length", length)
    stride = length if stride is None else stride
    require_positive_int("stride", stride)
    if not array.ndim or array.shape[0] < length:
        raise ValueError(
            f"Length mismatch: expected an array of at least {length} steps, got "
            f"{show_shape(array.shape)}."
        )
    return Windows(array, length, stride)
