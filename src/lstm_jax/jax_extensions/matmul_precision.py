"""Fix the precision of matrix products for a function that is traced after it is called.

JAX traces a derivative when it differentiates, and a mapped function when it maps. By then
`jax.default_matmul_precision` may differ from its value at the call of the network. Such functions go through
`at_precision`; nothing else in the two packages sets a precision.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax


def default_precision() -> Any:
    """The value of `jax.default_matmul_precision`."""
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]


def at_precision(function: Callable[..., Any], precision: Any = None) -> Callable[..., Any]:
    """The function, with its matrix products in a precision that is fixed now.

    Args:
        function: any.
        precision: a value of `jax.default_matmul_precision`, or ``read(*arguments)`` that returns it from the
            function's arguments; JAX's present value if None.
    """
    if not callable(precision):
        fixed = default_precision() if precision is None else precision

        def read(*arguments: Any) -> Any:
            return fixed
    else:
        read = precision

    @wraps(function)
    def at_fixed_precision(*arguments: Any) -> Any:
        with jax.default_matmul_precision(read(*arguments)):
            return function(*arguments)

    return at_fixed_precision
