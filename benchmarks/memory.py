"""Time and peak memory of the gradient of one very long unroll, with a loss on its final state alone.

loss = ⟨h_T, v⟩ + ⟨C_T, w⟩,   T = 100,000, B = 1, D = 8, H = 256;   gradient by parameters and starting state
"""

from typing import Any

from benchmarks.process import Entrant
from benchmarks.timed_program import Contestant, jitted

OURS = "lstm_jax"
AUTODIFF = "autodiff of the scan"
SEGMENTS = "lstm_jax, segments"
NAMES = (OURS, AUTODIFF, SEGMENTS)


def cases(*, quick: bool) -> list[dict[str, Any]]:
    """The case of the table: title, competitors, and the one whose time is the unit."""
    sizes = {"time": 500, "input_size": 8, "hidden_size": 16}
    if not quick:
        sizes = {"time": 100_000, "input_size": 8, "hidden_size": 256}
    title = (
        f"gradient of a loss on the final state, LSTM, T = {sizes['time']:,}, B = 1, "
        f"D = {sizes['input_size']}, H = {sizes['hidden_size']}"
    )
    entrants = [Entrant(name, __name__, sizes) for name in NAMES]
    return [{"title": title, "ours": OURS, "case": sizes, "entrants": entrants}]


def contestant(name: str, arguments: dict[str, Any]) -> Contestant:
    """The gradient by the competitor ``name``."""
    import jax
    import jax.numpy as jnp

    import lstm_jax

    options: dict[str, Any] = {}
    if name == AUTODIFF:
        options["gradient"] = "autodiff"
    else:
        options["backend"] = lstm_jax.Loop(segments="auto" if name == SEGMENTS else None)
    hidden = arguments["hidden_size"]
    cell = lstm_jax.lstm(arguments["input_size"], hidden)
    keys = jax.random.split(jax.random.key(0), 4)
    params = cell.init(keys[0])
    xs = jax.random.normal(keys[1], (arguments["time"], 1, arguments["input_size"]))
    v, w = (jax.random.normal(key, (1, hidden)) for key in keys[2:])

    def loss(params: Any, state0: Any, xs: Any, v: Any, w: Any) -> Any:
        state, _ = lstm_jax.unroll(cell, params, xs, state0, **options)
        return jnp.vdot(state.h, v) + jnp.vdot(state.c, w)

    return jitted(jax.grad(loss, argnums=(0, 1)), params, cell.initial_state(1), xs, v, w)
