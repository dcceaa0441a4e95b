r"""Compensated (Kahan–Babuška) sums: rounding does not add up over thousands of float32 terms.

s' = s + x        lost' = lost + ((s − s') + x)        the sum is s + lost
"""

import jax.numpy as jnp

from lstm_jax.array_types import Array


def compensated_add(running: tuple[Array, Array], term: Array) -> tuple[Array, Array]:
    """(s, lost) with one term more; a sum that is not finite has lost nothing."""
    value, lost = running
    after = value + term
    error = (value - after) + term
    return after, lost + jnp.where(jnp.isfinite(after), error, jnp.zeros_like(error))
