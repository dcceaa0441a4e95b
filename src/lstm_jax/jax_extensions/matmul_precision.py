"""The precision of matrix products, where a function is traced later than it is called.

JAX traces a derivative when it differentiates and a mapped function when it maps, and by then
`jax.default_matmul_precision` may say something else than where the network was called. Whatever is traced
late goes through `at_precision`, and nothing else in the two packages sets a precision.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax


def default_precision() -> Any:
    """What `jax.default_matmul_precision` says."""
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]


def at_precision(function: Callable[..., Any], precision: Any = None) -> Callable[..., Any]:
    """The function, with its matrix products in a precision that is fixed now.

    Args:
        function: any.
        precision: a value of `jax.default_matmul_precision`, or ``read(*arguments)`` that finds it among the
            function's arguments; what JAX is set to now if None.
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
