r"""What is wrong with the inputs of a run: their scale, constant columns, inputs that change nothing.

    scale       the root mean square of a column, above `LARGE`, or of all columns below `SMALL`
    offset      |mean| of a column above `OFFSET` times its deviation
    no effect   noise of the inputs' own size added to them moves no output by more than 10⁻⁶

Only floating inputs are looked at; zeros and ones, as of one-hot letters, have no scale to be wrong.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.verdicts.finding import Finding, listed
from gradient_flow.verdicts.reach import Case
from lstm_jax.array_types import Array, PyTree
from lstm_jax.cells import Cell
from lstm_jax.layers.stack import Stack
from lstm_jax.layers.unroll_stack import unroll_stack
from lstm_jax.unrolling.unroll import unroll

LARGE, SMALL, OFFSET = 10.0, 0.01, 5.0
"""What is out of scale: cells are initialised for inputs of unit size."""

NO_EFFECT = 1e-6
"""Outputs that move by no more than this have not moved."""


def input_findings(case: Case, params: PyTree) -> list[Finding]:
    """Scale, constant columns, and inputs that change nothing; of a network of this library."""
    if not isinstance(case.cell, (Cell, Stack)):
        return []
    xs = np.asarray(case.xs, np.float64)
    return [*_of_scale(xs), *_constant_columns(xs), *_no_effect(case, params)]


def standardised(xs: Array) -> Array:
    """Each column less its mean, over its deviation; a column that never changes becomes 0."""
    along = tuple(range(xs.ndim - 1))
    mean = jnp.mean(xs, axis=along, keepdims=True)
    deviation = jnp.std(xs, axis=along, keepdims=True)
    return (xs - mean) / jnp.where(deviation > 0, deviation, 1)


def out_of_scale(xs: np.ndarray) -> bool:
    """Whether the inputs are far from unit size."""
    return bool(_of_scale(np.asarray(xs, np.float64)))


def _columns(xs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Root mean square, mean and deviation of each column."""
    flat = xs.reshape(-1, xs.shape[-1])
    return np.sqrt((flat**2).mean(0)), flat.mean(0), flat.std(0)


def _of_scale(xs: np.ndarray) -> list[Finding]:
    if np.isin(xs, (0, 1)).all():
        if xs.any():
            return []
        return [Finding("inputs", "Every input is 0.", {"rms": 0.0}, "every input is 0")]
    rms, mean, deviation = _columns(xs)
    large = np.flatnonzero(rms > LARGE)
    numbers: dict[str, Any] = {
        "rms": float(np.sqrt((xs**2).mean())),
        "largest": float(np.abs(xs).max()),
        "columns": large.tolist(),
    }
    if len(large):
        says = (
            f"The inputs are out of scale: {len(large)} of {len(rms)} columns ({listed(large)}) have a "
            f"root mean square above {LARGE:.0f}, up to {rms.max():.3g}"
        )
        offset = large[np.abs(mean[large]) > OFFSET * deviation[large]]
        if len(offset):
            first = offset[0]
            says += (
                f"; column {first} is {mean[first]:.4g} ± {deviation[first]:.2g}, "
                "so most of it is a constant"
            )
        return [Finding("inputs", says + ".", numbers, "inputs out of scale")]
    if rms.max() < SMALL:
        says = (
            f"The inputs are out of scale: their root mean square is {numbers['rms']:.2g}, so a gate "
            "hardly sees them."
        )
        return [Finding("inputs", says, numbers, "inputs out of scale")]
    return []


def _constant_columns(xs: np.ndarray) -> list[Finding]:
    flat = xs.reshape(-1, xs.shape[-1])
    if len(flat) < 2 or np.isin(xs, (0, 1)).all():
        return []
    columns = np.flatnonzero(np.ptp(flat, axis=0) == 0)
    if not len(columns):
        return []
    says = f"{len(columns)} of {flat.shape[1]} input columns never change ({listed(columns)})."
    return [Finding("constant_inputs", says, {"columns": columns.tolist()})]


def _no_effect(case: Case, params: PyTree) -> list[Finding]:
    xs = jnp.asarray(case.xs)
    rms = jnp.sqrt(jnp.mean(xs**2))
    noise = jax.random.normal(jax.random.key(0), xs.shape, xs.dtype)
    moved = float(
        jnp.max(
            jnp.abs(
                _outputs(case, params, xs)
                - _outputs(case, params, xs + noise * jnp.where(rms > 0, rms, 1))
            )
        )
    )
    if moved > NO_EFFECT:
        return []
    says = (
        "The inputs change nothing: noise of their own size moves no output by more than "
        f"{NO_EFFECT:.0e}."
    )
    return [Finding("no_effect", says, {"moved": moved}, "inputs change nothing")]


def _outputs(case: Case, params: PyTree, xs: Array) -> Array:
    if isinstance(case.cell, Stack):
        return jax.jit(unroll_stack, static_argnums=0)(case.cell, params, xs, case.state0)[1]
    return jax.jit(unroll, static_argnums=0)(case.cell, params, xs, case.state0)[1]
