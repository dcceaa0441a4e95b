"""Norms of ∂s_T/∂s_k at every lag: `gradient_flow` against automatic differentiation of the tail, lag by lag.

    the curve: log ‖∂h_T/∂h_k‖ and the three other blocks, k = 0 … T−1, spectral, one LSTM, no batch

Without `gradient_flow` one would compute a Jacobian by autodiff for each lag, then its singular values. Three
programs for this, each given the states s_0 … s_T without counting their time:

    jacrev, steps skipped     one program for all lags: a scan of T steps in which `lax.cond` skips t ≤ k
    jacfwd, exact length      one program for all lags: `fori_loop` from k to T, in forward mode
    jacrev, a program a lag   a scan of T−k steps, compiled for each lag apart

Each is timed at some lags, and its time for all of them is the sum of the line through these points.
"""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.process import Entrant
from benchmarks.timed_program import Contestant

OURS = "gradient_flow"
SKIPPING = "jacrev, steps skipped"
FORWARD = "jacfwd, exact length"
PER_LAG = "jacrev, a program a lag"
BLOCKS = ("hh", "hc", "ch", "cc")
SAMPLES = 10
"""Lags at which the autodiff programs are timed, besides lag 1."""


def sampled_lags(time: int, samples: int) -> list[int]:
    """Lag 1, T, and lags spread evenly between."""
    return sorted({max(1, round(time * n / samples)) for n in range(samples + 1)})


def weights(time: int, lags: Sequence[int]) -> np.ndarray:
    """How often each sampled lag counts, so that ⟨weights, seconds⟩ is the sum over lags 1 … T.

    The seconds between two sampled lags are those of the straight line that joins them.
    """
    units = np.eye(len(lags))
    return np.array([np.interp(np.arange(1, time + 1), lags, unit).sum() for unit in units])


def cases(*, quick: bool) -> list[dict[str, Any]]:
    """The case of each table: title, competitors, and the one whose time is the unit."""
    curve = {"time": 40, "hidden": 16} if quick else {"time": 300, "hidden": 128}
    long = {"time": 200, "hidden": 8} if quick else {"time": 10_000, "hidden": 64}
    wide = {"time": 5, "hidden": 64} if quick else {"time": 300, "hidden": 1024}
    return [
        _case("norms of all lags", curve, (OURS, SKIPPING, FORWARD, PER_LAG), BLOCKS),
        _case("map of all pairs (t, k)", curve, (OURS,), ("hh",), map=True),
        _case("norms of all lags", long, (OURS,), ("hh", "cc")),
        _case("norms of all lags", wide, (OURS,), ("hh", "cc")),
    ]


def _case(
    what: str,
    sizes: dict[str, int],
    names: Sequence[str],
    blocks: Sequence[str],
    *,
    map: bool = False,
) -> dict[str, Any]:
    arguments = {**sizes, "blocks": list(blocks), "map": map}
    return {
        "title": f"{what}, T = {sizes['time']:,}, H = {sizes['hidden']:,}, {', '.join(blocks)}",
        "ours": OURS,
        "case": arguments,
        "entrants": [Entrant(name, __name__, arguments) for name in names],
    }


def contestant(name: str, arguments: dict[str, Any]) -> Contestant:
    """The competitor ``name`` on a case."""
    import jax

    import lstm_jax

    time = arguments["time"]
    cell = lstm_jax.lstm(32, arguments["hidden"])
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (time, 32))
    if name == OURS:
        return _microscope(cell, params, xs, arguments)
    return _autodiff(name, cell, params, xs)


def _microscope(cell: Any, params: Any, xs: Any, arguments: dict[str, Any]) -> Contestant:
    import jax

    import gradient_flow

    norms = gradient_flow.all_pairs_norms if arguments["map"] else gradient_flow.jacobian_norms

    def call() -> None:
        jax.block_until_ready(
            norms(cell, params, None, xs, blocks=arguments["blocks"], norms=("spectral",))
        )

    def build() -> Callable[[], None]:
        call()
        return call

    return Contestant(build, compile_runs=True)


def _autodiff(name: str, cell: Any, params: Any, xs: Any) -> Contestant:
    import jax

    lags = sampled_lags(len(xs), SAMPLES)
    counts = weights(len(xs), lags)
    states = trajectory(cell, params, xs)
    function = norms_by_autodiff(name, cell)
    inputs = [jax.block_until_ready(at_lag(name, params, states, xs, lag)) for lag in lags]

    def build() -> Callable[[], float]:
        # One program serves all lags, as the shapes are the same; except in the program per lag.
        compiled_for = inputs if name == PER_LAG else inputs[:1]
        programs = [jax.jit(function).lower(*arguments).compile() for arguments in compiled_for]
        if len(programs) == 1:
            programs *= len(inputs)

        def call() -> float:
            seconds = []
            for program, arguments in zip(programs, inputs, strict=True):
                start = perf_counter()
                jax.block_until_ready(program(*arguments))
                seconds.append(perf_counter() - start)
            return float(counts @ np.array(seconds))

        return call

    return Contestant(build, compile_scale=len(xs) / len(lags) if name == PER_LAG else 1.0)


def trajectory(cell: Any, params: Any, xs: Any) -> Any:
    """s_0 … s_T, leaves [T+1, H]."""
    import jax
    import jax.numpy as jnp

    def keep(state: Any, x: Any) -> tuple[Any, Any]:
        state, _ = cell.step(params, state, x)
        return state, state

    state0 = cell.initial_state(None)
    later = jax.lax.scan(keep, state0, xs)[1]
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), state0, later)


def at_lag(name: str, params: Any, states: Any, xs: Any, lag: int) -> tuple[Any, ...]:
    """The arguments of `norms_by_autodiff` for one lag."""
    import jax
    import jax.numpy as jnp

    start = len(xs) - lag
    state = jax.tree.map(lambda leaf: leaf[start], states)
    return (params, state, xs[start:] if name == PER_LAG else xs, jnp.asarray(start))


def norms_by_autodiff(name: str, cell: Any) -> Callable[[Any, Any, Any, Any], Any]:
    """``(params, s_k, xs, k) -> spectral norms[4]`` of ∂s_T/∂s_k, blocks hh, hc, ch, cc."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    def skip(params: Any, state: Any, xs: Any, start: Any) -> Any:
        def step(state: Any, at: Any) -> tuple[Any, None]:
            t, x = at
            moved = lax.cond(t >= start, lambda s: cell.step(params, s, x)[0], lambda s: s, state)
            return moved, None

        return lax.scan(step, state, (jnp.arange(len(xs)), xs))[0]

    def loop(params: Any, state: Any, xs: Any, start: Any) -> Any:
        def step(t: Any, state: Any) -> Any:
            return cell.step(params, state, xs[t])[0]

        return lax.fori_loop(start, len(xs), step, state)

    def scan(params: Any, state: Any, xs: Any, start: Any) -> Any:
        return lax.scan(lambda s, x: (cell.step(params, s, x)[0], None), state, xs)[0]

    tail, transform = {
        SKIPPING: (skip, jax.jacrev),
        FORWARD: (loop, jax.jacfwd),
        PER_LAG: (scan, jax.jacrev),
    }[name]

    def norms(params: Any, state: Any, xs: Any, start: Any) -> Any:
        jacobian = transform(tail, argnums=1)(params, state, xs, start)
        blocks = (jacobian.h.h, jacobian.h.c, jacobian.c.h, jacobian.c.c)
        return jnp.stack([jnp.linalg.norm(block, 2) for block in blocks])

    return norms
