"""What the microscope says of a network on a task, as plain numbers: what `predictors` makes its scores of.

Axes: networks side by side lead; each number is a mean over the samples.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from experiments.lag_tasks import TASKS, Model, answer_losses, read_out
from experiments.which_lags.starts import plain_cell
from gradient_flow import (
    credit,
    gate_time_constants,
    horizon,
    jacobian_norms,
    lyapunov_spectrum,
    singular_spectrum,
)

Array = jax.Array

SAMPLES = 2
"""Sequences that a network is measured on."""
LAGS = 24
"""Lags of a curve."""
WIDEST = 32
"""The largest H whose singular values are all taken."""
SIDE_BY_SIDE = 8
FARTHEST = 2.0
"""What a horizon beyond the sequence counts as, in lags."""


def measured(network: str, hidden_size: int, task: str, length: int, models: Any) -> list[Any]:
    """The numbers of each network, by name; None for one whose parameters or states are not finite.

    Args:
        network: of `starts.NETWORKS`.
        hidden_size: H.
        task: of `tasks.TASKS`.
        length: T.
        models: `Model`, leaves [networks, …].
    """
    finite, measure, lags = _programs(network, hidden_size, task, length)
    count = len(models.b_y)
    found: list[Any] = [None] * count
    healthy = [
        n for n in range(count) if all(np.isfinite(a[n]).all() for a in jax.tree.leaves(models))
    ]
    for block in _blocks(healthy):
        good = np.asarray(finite(jax.tree.map(lambda a, at=block: a[at], models)))
        which = [n for n, fine in dict(zip(block.tolist(), good, strict=True)).items() if fine]
        for part in _blocks(which):
            numbers = jax.device_get(measure(jax.tree.map(lambda a, at=part: a[at], models)))
            for place, n in enumerate(part.tolist()):
                own = {name: value[place] for name, value in numbers.items()}
                found[n] = _summary(own, lags, TASKS[task].lag(length))
    return found


def _blocks(which: list[int]) -> list[np.ndarray]:
    """The networks in blocks of one size, the last one filled up with its first."""
    blocks = [which[n : n + SIDE_BY_SIDE] for n in range(0, len(which), SIDE_BY_SIDE)]
    return [np.asarray(block + block[:1] * (SIDE_BY_SIDE - len(block))) for block in blocks]


def _summary(own: dict[str, Any], lags: np.ndarray, lag: float) -> dict[str, float]:
    curves = own.pop("curves")
    at = int(np.argmin(np.abs(lags - lag)))
    reach = np.minimum(horizon(lags, curves) / lag, FARTHEST)
    return {
        "norm": float(np.mean(curves[:, at])),
        "horizon": float(np.mean(reach)),
        **{name: float(value) for name, value in own.items()},
    }


@lru_cache(maxsize=4)
def _programs(
    network: str, hidden_size: int, task: str, length: int
) -> tuple[Callable[..., Array], Callable[..., dict[str, Array]], np.ndarray]:
    given, chosen = TASKS[task], plain_cell(network, TASKS[task].inputs, hidden_size)
    drawn = given.draw(jax.random.key(2**31 - 1), SAMPLES, length)
    steps = length if task == "adding_1997" else len(drawn.xs)
    xs, targets, place = drawn.xs[:steps], drawn.targets[-1], given.place(drawn.xs)
    lag = min(round(given.lag(length)), steps)
    spaced = np.unique(np.geomspace(1, steps, LAGS).round().astype(int))
    lags = np.union1d([0, lag], spaced)
    state0 = chosen.initial_state(SAMPLES)

    def finite(model: Model) -> Array:
        def step(state: Any, x: Array) -> tuple[Any, Array]:
            state, _ = chosen.step(model.cell, state, x)
            return state, jnp.all(jnp.stack([jnp.isfinite(a).all() for a in state]))

        return jax.lax.scan(step, state0, xs)[1].all()

    def measure(model: Model) -> dict[str, Array]:
        params = model.cell
        last = jax.lax.scan(lambda s, x: (chosen.step(params, s, x)[0], None), state0, xs)[0]

        def loss(state: Any) -> Array:
            return answer_losses(given, read_out(model, state.h[None]), targets[None]).sum()

        blocks = ["hh", "hc"] if network == "lstm" else ["hh"]
        norms = jacobian_norms(
            chosen, params, None, xs, lags=lags.tolist(), blocks=blocks, norms=["spectral"]
        )
        seen = jnp.stack([norms.spectral[block] for block in blocks]).max(0)
        credits = credit(chosen, params, None, xs, loss).inputs
        at_place = jnp.take_along_axis(credits, place[:, None], axis=1)[:, 0]
        exponents = lyapunov_spectrum(
            chosen, params, None, xs, k=1, every=4, key=jax.random.key(0)
        ).exponents
        size = params.w_h.shape[0]
        # The candidate's columns: g is the third gate of i, f, g, o, n of r, u, n.
        candidate = params.w_h[:, :size] if network not in ("lstm", "gru") else (
            params.w_h[:, 2 * size : 3 * size]
        )  # fmt: skip
        tau = jnp.asarray(1.0)
        if network in ("lstm", "gru"):
            tau = gate_time_constants(chosen, params, None, xs).effective.max(-1).mean()
        found = {
            "curves": seen,
            "credit": at_place.mean(),
            "credit_last": credits[:, -1].mean(),
            "lambda_1": exponents[0],
            "time_constant": tau,
            "rest_radius": jnp.log(_radius(_at_rest(chosen, params, length))),
            "radius": _radius(candidate),
        }
        if hidden_size <= WIDEST:
            spectrum = singular_spectrum(
                chosen, params, None, xs, lags=[lag], block="ss", cotangent=jax.grad(loss)(last)
            )
            share = spectrum.survivors(1e-3) / spectrum.log_values.shape[-1]
            found |= {"survivors": share.mean(), "angle": spectrum.angle(1e-3).mean()}
        return found

    return jax.jit(jax.vmap(finite)), jax.jit(jax.vmap(measure)), lags


def _radius(matrix: Array) -> Array:
    return jnp.abs(jnp.linalg.eigvals(matrix)).max()


def _at_rest(chosen: Any, params: Any, steps: int) -> Array:
    """∂s_t/∂s_{t−1} after ``steps`` steps without input, as a matrix."""
    silence = jnp.zeros(chosen.input_size)
    step = partial(_step, chosen, params, silence)
    state = jax.lax.fori_loop(0, steps, lambda _, s: step(s), chosen.initial_state())
    flat, tree = ravel_pytree(state)
    return jax.jacfwd(lambda s: ravel_pytree(step(tree(s)))[0])(flat)


def _step(chosen: Any, params: Any, x: Array, state: Any) -> Any:
    return chosen.step(params, state, x)[0]
