"""Types for array annotations with axes: ``Float[Array, "time batch hidden"]``.

With `jaxtyping` installed (it is in the development extra) the tests check the annotations of functions. The
fields of a NamedTuple are not checked: there an annotation documents the normal use. Without `jaxtyping` an
annotation is plain `jax.Array`.
"""

from typing import TYPE_CHECKING, Any

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

__all__ = ["Array", "Bool", "Float", "Inexact", "Int", "PyTree"]
