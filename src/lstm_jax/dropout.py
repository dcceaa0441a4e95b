r"""Dropout and zoneout: where the noise acts, and the masks that make it.

    dropout              x_t ⊙ m_t / (1−p)       m_t drawn anew at each step      (Srivastava et al. 2014)
    variational          x_t ⊙ m / (1−p)         one mask for all steps           (Gal & Ghahramani 2016)
    recurrent dropout    h_{t−1} ⊙ m / (1−p)     one mask for all steps, before W_h            (likewise)
    zoneout              m_t ⊙ s_{t−1} + (1−m_t) ⊙ s̃_t    s̃_t the step's result      (Krueger et al. 2017)

with m Bernoulli, 1 with probability 1−p, for zoneout with probability p. At evaluation, without a key,
dropout does nothing and zoneout takes the expectation, m_t = p.

Axes: x[T, ..., D]; each sample and unit is drawn independently.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.validation import require_key, require_same_structure


def require_rate(name: str, rate: Any) -> None:
    """Refuse anything but a number from 0 to below 1.

    Raises:
        ValueError: naming the value.
    """
    number = isinstance(rate, (int, float, np.number)) and not isinstance(rate, bool)
    if not number or not 0 <= rate < 1:
        raise ValueError(f"Range mismatch: expected {name} from 0 to below 1, got {rate!r}.")


def dropout(
    key: Array, rate: float, xs: Float[Array, "time ..."], *, variational: bool = False
) -> Float[Array, "time ..."]:
    """Drop entries of a sequence at a rate, and scale the others up by 1/(1 − rate).

    Args:
        key: a random key.
        rate: from 0 to below 1.
        xs: [T, ...].
        variational: whether one mask serves all steps.

    Returns:
        As ``xs``.

    Raises:
        TypeError: ``key`` is not a random key.
        ValueError: a rate outside of [0, 1).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from lstm_jax.dropout import dropout
        >>> ys = dropout(jax.random.key(0), 0.5, jnp.ones((100, 4)), variational=True)
        >>> bool((ys[1:] == ys[:-1]).all())
        True
    """
    require_key(key)
    require_rate("rate", rate)
    if rate == 0:
        return xs
    shape = (1, *xs.shape[1:]) if variational else xs.shape
    kept = jnp.broadcast_to(jax.random.bernoulli(key, 1 - rate, shape), xs.shape)
    return jnp.where(kept, xs / (1 - rate), jnp.zeros_like(xs))


def recurrent_factor(
    key: Array, rate: float, h: Float[Array, "*batch h"], time: int
) -> Float[Array, "time *batch h"]:
    """The factor of h_{t−1} before W_h: 0 or 1/(1 − rate), the same at all steps."""
    factor = jax.random.bernoulli(key, 1 - rate, h.shape).astype(h.dtype) / (1 - rate)
    return jnp.broadcast_to(factor, (time, *h.shape))


def zoneout_rates(zoneout: Any, state: PyTree) -> PyTree:
    """A rate for each leaf of a state, from one number or from a state of numbers.

    Raises:
        TypeError: a state of rates of another cell.
        ValueError: a rate outside of [0, 1).
    """
    if isinstance(zoneout, tuple):
        require_same_structure("zoneout", zoneout, state)
    else:
        zoneout = type(state)(*[zoneout] * len(state))
    for name, rate in zip(state._fields, zoneout, strict=True):
        require_rate(f"zoneout of {name}", rate)
    return zoneout


def zoneout_masks(key: Array | None, rates: PyTree, state: PyTree, time: int) -> PyTree:
    """Which units keep their state at which step: booleans [T, ..., H], or the rates without a key."""
    if key is None:
        return type(state)(
            *(
                jnp.full((time, *[1] * s.ndim), r, s.dtype)
                for r, s in zip(rates, state, strict=True)
            )
        )
    keys = jax.random.split(key, len(state))
    draws = zip(keys, rates, state, strict=True)
    return type(state)(*(jax.random.bernoulli(k, r, (time, *s.shape)) for k, r, s in draws))
