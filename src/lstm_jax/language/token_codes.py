"""Token codes: whole numbers from 0 to below the size of the vocabulary, checked where they enter.

XLA takes an index beyond an array as its last one and a negative one from its end, so a wrong code would read
another token without a word. In a trace the values are not known: there shapes and dtypes alone are checked.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.language.vocabulary import TextError
from lstm_jax.validation import LARGEST, DtypeError, ShapeError, as_array, show_shape


def checked_codes(
    name: str, value: Any, size: int | None = None, *, axes: str = "", least: int = 0
) -> Any:
    """Token codes as an array that keeps its values.

    Args:
        name: of the argument in the message.
        value: an array of JAX or NumPy, lists of whole numbers, or one of them.
        size: V of the vocabulary; if None, any code that an int32 holds.
        axes: the one axis that they must have, ``"tokens"``; any if empty.
        least: tokens that there must be.

    Raises:
        ShapeError: other axes.
        DtypeError, TypeError: anything but whole numbers.
        TextError: too few, or a code without a token.

    Example:
        >>> from lstm_jax.language.token_codes import checked_codes
        >>> checked_codes("codes", [0, 2, 1], 3).tolist()
        [0, 2, 1]
    """
    one = isinstance(value, int) and not isinstance(value, bool) and not axes
    array = as_array(name, np.asarray(value) if one else value)
    if isinstance(value, (list, tuple)) and array.size == 0:
        array = array.astype(np.int32)  # NumPy takes an empty list as floats
    shape = jnp.shape(array)
    if axes and len(shape) != 1:
        raise ShapeError(f"Shape mismatch: expected {name} [{axes}], got {show_shape(shape)}.")
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise DtypeError(
            f"Dtype mismatch: expected {name} as whole numbers, got {array.dtype.name}."
        )
    if array.size < least:
        raise TextError(
            f"Length mismatch: expected {name} of at least {least} {'token' if least == 1 else 'tokens'}, "
            f"got {array.size}."
        )
    if isinstance(array, (jax.core.Tracer, jax.ShapeDtypeStruct)) or not array.size:
        return array
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return array
    # In NumPy: JAX would trace this where the caller is traced.
    known = np.asarray(array)
    largest = LARGEST if size is None else size - 1
    for wrong in (known.min(), known.max()):
        if not 0 <= wrong <= largest:
            raise TextError(f"Code mismatch: expected {name} from 0 to {largest}, got {wrong}.")
    return array
