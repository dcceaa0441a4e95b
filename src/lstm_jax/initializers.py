"""Initialisers of recurrent weights and gate biases.

An initialiser is a pure function ``(key, shape, dtype) -> array``, as in `jax.nn.initializers`, whose
initialisers work as well. This file has those from the literature on recurrent networks:

    uniform(s)          U(−s, s); the cells use s = 1/√H                        (PyTorch's default)
    orthogonal(γ)       γ Q with Q orthogonal, one Q per gate                  (Saxe et al. 2014)
    scaled_identity(γ)  γ I, one per gate: an IRNN with relu and γ = 1            (Le et al. 2015)
    zeros

and, for the gate biases of an LSTM or a GRU, `chrono` (Tallec & Ollivier 2018): the gates' time constants
are spread up to T_max:

    b_f ~ log U[1, T_max − 1],   b_i = −b_f       (GRU: b_u ~ log U[1, T_max − 1])
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import zeros

from lstm_jax.array_types import Array, Float
from lstm_jax.held_arguments import hold
from lstm_jax.validation import (
    require_arrays,
    require_finite,
    require_floating_dtype,
    require_parameters,
)

Initializer = Callable[..., Array]
"""``(key, shape, dtype) -> array``."""


def uniform(scale: float) -> Initializer:
    """Draw every entry from U(−scale, scale).

    Args:
        scale: half the width of the interval, positive.

    Raises:
        ValueError: if ``scale`` is not positive.

    Example:
        >>> import jax
        >>> from lstm_jax.initializers import uniform
        >>> uniform(0.1)(jax.random.key(0), (3, 2)).shape
        (3, 2)
    """
    number = isinstance(scale, (int, float, np.number)) and not isinstance(scale, bool)
    if not number or not 0 < scale < float("inf"):
        raise ValueError(f"Scale mismatch: expected a positive scale, got {scale!r}.")
    return hold(_uniform, float(scale))


def _uniform(scale: float, key: Array, shape: tuple[int, ...], dtype: Any = float) -> Array:
    return jax.random.uniform(key, shape, require_floating_dtype(dtype), -scale, scale)


def orthogonal(scale: float = 1.0) -> Initializer:
    """``scale`` times a random orthogonal matrix (Saxe et al. 2014), one for each gate.

    A shape [n, m·n] is filled with m independent n × n orthogonal blocks, so that the recurrent
    matrix of each gate is orthogonal; any other shape gets orthonormal rows or columns as a whole.

    Raises:
        ValueError: if ``scale`` is not a finite number.

    Example:
        >>> import jax
        >>> from lstm_jax.initializers import orthogonal
        >>> w = orthogonal(2.0)(jax.random.key(0), (3, 6))[:, :3]
        >>> bool(abs(w @ w.T - 4 * jax.numpy.eye(3)).max() < 1e-5)
        True
    """
    return hold(_orthogonal, _finite(scale))


def _orthogonal(scale: float, key: Array, shape: tuple[int, ...], dtype: Any = float) -> Array:
    whole = jax.nn.initializers.orthogonal(scale)
    dtype = require_floating_dtype(dtype)
    # The QR decomposition needs at least single precision.
    work = dtype if dtype in (jnp.float32, jnp.float64) else jnp.float32
    rows, columns = shape
    if columns % rows:
        return whole(key, shape, work).astype(dtype)
    keys = jax.random.split(key, columns // rows)
    blocks = [whole(k, (rows, rows), work) for k in keys]
    return jnp.concatenate(blocks, axis=1).astype(dtype)


def scaled_identity(scale: float = 1.0) -> Initializer:
    """``scale`` times the identity, one for each gate; ``scale=1`` with relu is the IRNN (Le et al. 2015).

    Raises:
        ValueError: if ``scale`` is not a finite number.

    Example:
        >>> import jax
        >>> from lstm_jax.initializers import scaled_identity
        >>> print(scaled_identity(0.5)(jax.random.key(0), (2, 2)))
        [[0.5 0. ]
         [0.  0.5]]
    """
    return hold(_scaled_identity, _finite(scale))


def _scaled_identity(scale: float, key: Array, shape: tuple[int, ...], dtype: Any = float) -> Array:
    rows, columns = shape
    if columns % rows:
        raise ValueError(
            f"Shape mismatch: expected [n, m·n] for a scaled identity, got [{rows}, {columns}]."
        )
    eye = scale * jnp.eye(rows, dtype=require_floating_dtype(dtype))
    return jnp.tile(eye, (1, columns // rows))


def _finite(scale: Any) -> float:
    number = isinstance(scale, (int, float, np.number)) and not isinstance(scale, bool)
    if not number or not np.isfinite(scale):
        raise ValueError(f"Scale mismatch: expected a finite scale, got {scale!r}.")
    return float(scale)


class Chrono(NamedTuple):
    """Gate biases spread over time scales up to ``t_max`` steps; make it with `chrono`."""

    t_max: float

    def __call__(self, key: Array, shape: tuple[int, ...], dtype: Any = float) -> Float[Array, "h"]:
        """Draw log U[1, t_max − 1], the bias of the gate that keeps the state."""
        dtype = require_floating_dtype(dtype)
        return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, self.t_max - 1.0))


def chrono(t_max: float) -> Chrono:
    """Chrono initialisation of the gate biases (Tallec & Ollivier 2018, section 2).

        b_f ~ log U[1, t_max − 1],   b_i = −b_f

    A forget gate σ(b_f) keeps the state for about 1/(1 − f) = 1 + exp(b_f) steps, so the units' time
    constants are uniform between 2 and ``t_max``.

    Args:
        t_max: the longest dependency expected, in steps; more than 2.

    Raises:
        ValueError: if ``t_max`` is not more than 2.

    Example:
        >>> import lstm_jax
        >>> cell = lstm_jax.lstm(8, 16, forget_bias=lstm_jax.chrono(300))
    """
    if not isinstance(t_max, (int, float)) or not 2 < t_max < float("inf"):
        raise ValueError(f"Chrono mismatch: expected t_max of more than 2 steps, got {t_max!r}.")
    return Chrono(t_max)


def with_gate_bias(b: Array, gate_bias: float | Chrono, key: Array) -> Array:
    """A gate's bias [H] plus a number, or `chrono`'s bias in its place."""
    return gate_bias(key, b.shape, b.dtype) if isinstance(gate_bias, Chrono) else b + gate_bias


def drawn(
    name: str, initializer: Initializer, key: Array, shape: tuple[int, ...], dtype: Any
) -> Array:
    """What an initialiser draws, if it fits.

    Raises:
        TypeError: no array.
        ShapeError, DtypeError: an array of another shape or dtype.
        NonFiniteError: a NaN or an infinity.
    """
    found = initializer(key, shape, dtype)
    require_arrays(f"the result of {name}", found, jax.ShapeDtypeStruct(shape, dtype), dtype)
    require_finite(f"the result of {name}", found)
    return found


def require_gate_bias(name: str, value: Any) -> None:
    """Refuse a gate bias that is neither a finite number nor `chrono`.

    Raises:
        TypeError: naming the value.
    """
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not isinstance(value, Chrono) and not (number and np.isfinite(value)):
        raise TypeError(
            f"Bias mismatch: expected {name} as a finite number or chrono(t_max), got {value!r}."
        )


def require_initializers(**initializers: Any) -> None:
    """Refuse an initialiser that cannot be called.

    Raises:
        TypeError: naming the argument and its value.
    """
    for name, value in initializers.items():
        if value is not None:
            require_parameters(name, value, "key, shape, dtype")


__all__ = [
    "Chrono",
    "Initializer",
    "chrono",
    "orthogonal",
    "require_gate_bias",
    "require_initializers",
    "scaled_identity",
    "uniform",
    "with_gate_bias",
    "zeros",
]
