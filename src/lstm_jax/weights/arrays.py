"""Convert weights of other frameworks to NumPy and to JAX, in the same dtype, and check them.

A tensor of another framework is recognised by its methods, so that no framework is imported.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.array_types import PyTree
from lstm_jax.validation import DtypeError, ShapeError, show_shape


def to_numpy(name: str, value: Any) -> np.ndarray:
    """A floating array of any framework as a NumPy array.

    Args:
        name: for messages.
        value: a NumPy or JAX array, or a tensor with ``detach`` and ``cpu``.

    Raises:
        DtypeError: numbers that are not floating.
        TypeError: what NumPy cannot make an array of.
    """
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            # PyTorch does not convert bfloat16, which NumPy lacks; float32 represents it exactly.
            if str(value.dtype) == "torch.bfloat16":
                value = np.asarray(value.float()).astype(jnp.bfloat16)
        array = np.asarray(value)
    except (TypeError, ValueError, AttributeError, NotImplementedError, RuntimeError) as error:
        # A sparse tensor, one without data, rows of several lengths.
        raise TypeError(
            f"Type mismatch: expected {name} as an array of numbers, got {type(value).__name__}: "
            f"{str(error).splitlines()[0].rstrip('.')}."
        ) from None
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise DtypeError(f"Dtype mismatch: expected {name} in floating point, got {array.dtype}.")
    return array


def require_names(name: str, value: Any) -> None:
    """Refuse anything but a dict by texts.

    Raises:
        TypeError: with what came.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"Type mismatch: expected {name} as a dict, got {type(value).__name__}.")
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"Type mismatch: expected {name} with texts as names, got {key!r}.")


def require_shape(name: str, array: np.ndarray, expected: tuple[int, ...], legend: str) -> None:
    """Refuse an array of another shape.

    Raises:
        ShapeError: with both shapes and the named sizes.
    """
    if array.shape != expected:
        raise ShapeError(
            f"Shape mismatch: expected {name} {show_shape(expected)} ({legend}), got "
            f"{show_shape(array.shape)}."
        )


def require_one_dtype(arrays: dict[str, Any]) -> None:
    """Refuse arrays of different dtypes.

    Raises:
        DtypeError: naming the first that differs.
    """
    names = list(arrays)
    for name in names[1:]:
        if arrays[name].dtype != arrays[names[0]].dtype:
            raise DtypeError(
                f"Dtype mismatch: expected {name} {arrays[names[0]].dtype} as {names[0]} is, got "
                f"{arrays[name].dtype}."
            )


def to_jax(params: PyTree) -> PyTree:
    """NumPy parameters as JAX arrays of the same dtype.

    Raises:
        DtypeError: float64 where JAX would make float32 of it.
    """

    def convert(leaf: np.ndarray | jax.Array) -> jax.Array:
        if jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
            raise DtypeError(
                f"Dtype mismatch: expected weights that JAX can hold, got {leaf.dtype} while "
                "jax_enable_x64 is off. Switch it on, or cast them first."
            )
        # A copy: the owner of the array may change it in place.
        return jnp.array(leaf)

    return jax.tree.map(convert, params)
