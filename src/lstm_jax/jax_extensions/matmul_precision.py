"""The precision of matrix products, where a function is traced later than it is called."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax


def default_precision() -> Any:
    """What `jax.default_matmul_precision` says."""
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]


def at_this_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with its matrix products in the precision that JAX is set to now.

    A transposed or mapped function is traced when that happens, and by then JAX may be set to another.
    """
    precision = default_precision()

    @wraps(function)
    def at_precision(*arguments: Any) -> Any:
        with jax.default_matmul_precision(precision):
            return function(*arguments)

    return at_precision
