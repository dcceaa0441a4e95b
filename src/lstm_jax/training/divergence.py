"""Losses, gradients and parameters that are not finite: what is said of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lstm_jax.training.step import Metrics
from lstm_jax.validation import NonFiniteError


class DivergedError(NonFiniteError):
    """A loss, a gradient or parameters that are not finite; the run is stopped."""


class DivergedWarning(UserWarning):
    """One run of a sweep whose loss, gradient or parameters are not finite; the others go on."""


class Divergence(NamedTuple):
    """The first step of a run that is not finite.

    Attributes:
        step: its number, from 1.
        told: a sentence without its end.
    """

    step: int
    told: str


def diverged(
    rows: Metrics, before: Metrics | None, begin: int, names: Sequence[str], whose: str = ""
) -> Divergence | None:
    """The first of a run's steps that is not finite.

    Args:
        rows: the metrics of its latest steps, ``[steps, …]``.
        before: of the step before them, if there was one.
        begin: the number of steps before them.
        names: of the parameters.
        whose: `` of seed 3`` in a sweep.
    """
    if rows.finite.all():
        return None
    n = int(np.argmin(rows.finite))
    row = at_step(rows, n)
    earlier = at_step(rows, n - 1) if n else before
    norms = f"norms of the gradient: {_named(names, row.gradient_norms)}"
    if np.isfinite(row.loss) and np.isfinite(row.gradient_norm):
        return Divergence(
            begin + n + 1,
            f"Diverged: expected finite parameters{whose}, got some that are not after step "
            f"{begin + n + 1}; {norms}",
        )
    then = "" if earlier is None else f" (before it: {_named(names, earlier.gradient_norms)})"
    return Divergence(
        begin + n + 1,
        f"Diverged: expected a finite loss and gradient{whose}, got a loss of {row.loss:g} at step "
        f"{begin + n + 1}; {norms}{then}",
    )


def diverged_params(
    finite: Any, row: Metrics, done: int, names: Sequence[str]
) -> Divergence | None:
    """Parameters that are not finite, before they are saved, watched or evaluated.

    Args:
        finite: for each parameter.
        row: the metrics of the last step.
        done: steps.
        names: of the parameters.
    """
    if finite.all():
        return None
    wrong = ", ".join(name for name, fine in zip(names, finite, strict=True) if not fine)
    return Divergence(
        done,
        f"Diverged: expected finite parameters, got some that are not in {wrong} after step {done}; "
        f"norms of the gradient: {_named(names, row.gradient_norms)}",
    )


def at_step(rows: Metrics, n: int) -> Metrics:
    """The metrics of one step."""
    found: Metrics = jax.tree.map(lambda leaf: leaf[n], rows)
    return found


def _named(names: Sequence[str], norms: Any) -> str:
    return ", ".join(f"{name} {norm:.3g}" for name, norm in zip(names, norms, strict=True))
