"""Names for array annotations, with axes, that cost nothing at run time.

With `jaxtyping` installed (the development extra brings it) ``Float[Array, "time batch hidden"]``
is checked by the test run. Without it, the same annotation is plain `jax.Array`.
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
"""Any nest of tuples, named tuples, dicts and lists whose leaves are arrays."""

__all__ = ["Array", "Bool", "Float", "Inexact", "Int", "PyTree"]
