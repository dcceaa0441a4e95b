"""Types for array annotations with axes, ``Float[Array, "time batch hidden"]``, and the shapes of a result.

With `jaxtyping` installed (it is in the development extra) the tests check the annotations of functions. The
fields of a NamedTuple are not checked: there an annotation documents the normal use. Without `jaxtyping` an
annotation is plain `jax.Array`.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
from jax import Array

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Inexact, Int
else:
    try:
        from jaxtyping import Bool, Float, Inexact, Int
    except ModuleNotFoundError:

        class _Plain:
            def __class_getitem__(cls, item: tuple[type, str]) -> type:
                return item[0]

        Bool = Float = Inexact = Int = _Plain

PyTree = Any
"""Nested tuples, named tuples, dicts and lists whose leaves are arrays."""


def shapes_of(function: Callable[..., Any], *arguments: Any) -> PyTree:
    """The shapes and dtypes of ``function(*arguments)``, which is not run: as `jax.eval_shape`.

    `jax.eval_shape` of a function that lives on keeps some 20 objects a call. A function made for the call
    takes them with it.
    """
    return jax.eval_shape(partial(function), *arguments)


__all__ = ["Array", "Bool", "Float", "Inexact", "Int", "PyTree", "shapes_of"]
