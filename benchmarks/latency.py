"""The latency of a stream: one sequence, one step at a time, each awaited before the next.

    one step    state, h = step(params, state, x) in a jitted call, STEPS of them in a row; the time of one
    unroll      300 steps in one call, for comparison, by the competitors of `benchmarks.competitors`

An LSTM, B = 1, D = 32, H = 64 and 256. Each competitor's own cell, its state handed from call to call.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks.cases import PASSES, Case, Shape, case_from
from benchmarks.competitors import (
    NAMES,
    OURS,
    PYTORCH,
    arrays,
    equinox_network,
    lstm_jax_cell,
    lstm_jax_network,
    plain_scan_network,
    plain_step,
)
from benchmarks.machine import cores_allowed
from benchmarks.process import Entrant
from benchmarks.timed_program import Contestant, NotOffered

KERNEL = "lstm_jax, kernel"
INPUTS, UNITS, LENGTH = 32, (64, 256), 300
STEPS = 50
"""Steps of a timed call, which returns the time of one."""


class Cell(NamedTuple):
    """A competitor's cell: ``step(params, state, x) -> state, h``, and what to call it with."""

    step: Callable[[Any, Any, Any], Any]
    params: Any
    state: Any


def cases(*, quick: bool) -> list[dict[str, Any]]:
    """The cases, for the jobs of a run."""
    found = []
    for units in (4,) if quick else UNITS:
        one, many = (Shape(t, 1, INPUTS, units) for t in (1, 5 if quick else LENGTH))
        found.append(_job("one step", Case("lstm", one, "forward"), __name__, (*MAKERS, PYTORCH)))
        for kind in PASSES:
            title = f"{many.time} steps, {kind}"
            found.append(_job(title, Case("lstm", many, kind), "benchmarks.competitors", NAMES))
    return found


def _job(title: str, case: Case, module: str, names: tuple[str, ...]) -> dict[str, Any]:
    arguments = case.as_json()
    return {
        "part": "latency",
        "title": f"H = {case.shape.hidden_size}: {title}",
        "ours": OURS,
        "case": arguments,
        "entrants": [Entrant(name, module, arguments) for name in names],
    }


def contestant(name: str, arguments: dict[str, Any]) -> Contestant:
    """The competitor's step, ready to compile."""
    case = case_from(arguments)
    if name == PYTORCH:
        return _pytorch(case)
    import jax

    made = MAKERS[name](case)
    x = jax.random.normal(jax.random.key(1), (1, case.shape.input_size))
    step = jax.jit(made.step)

    def build() -> Callable[[], float]:
        def call() -> float:
            state = made.state
            start = perf_counter()
            for _ in range(STEPS):
                state, h = step(made.params, state, x)
                jax.block_until_ready(h)
            return (perf_counter() - start) / STEPS

        call()
        return call

    return Contestant(build, compile_runs=True)


def _lstm_jax(case: Case) -> Cell:
    made, cell = lstm_jax_network(case), lstm_jax_cell(case)
    return Cell(cell.step, made.params, made.state0)


def _kernel(case: Case) -> Cell:
    """`lstm_jax.unroll` of one step by the compiled kernel, which lays out the weights in every call."""
    import lstm_jax
    from lstm_jax.backends.cpu_kernel.library import status

    if not status().available:
        raise NotOffered(status().reason)
    made, cell = lstm_jax_network(case), lstm_jax_cell(case)

    def step(params: Any, state: Any, x: Any) -> Any:
        state, hs = lstm_jax.unroll(cell, params, x[None], state, backend="cpu_kernel")
        return state, hs[0]

    return Cell(step, made.params, made.state0)


def _plain(case: Case) -> Cell:
    made = plain_scan_network(case)
    return Cell(plain_step(case), made.params, made.state0)


def _flax_linen(case: Case) -> Cell:
    import jax
    from flax import linen

    cell, zeros = linen.OptimizedLSTMCell(case.shape.hidden_size), _zeros(case)
    params = jax.jit(cell.init)(jax.random.key(0), zeros, arrays(case)[0][0])
    return Cell(lambda params, state, x: cell.apply(params, state, x), params, zeros)


def _flax_nnx(case: Case) -> Cell:
    from flax import nnx

    cell = nnx.OptimizedLSTMCell(case.shape.input_size, case.shape.hidden_size, rngs=nnx.Rngs(0))
    graph, params = nnx.split(cell)

    def step(params: Any, state: Any, x: Any) -> Any:
        return nnx.merge(graph, params)(state, x)

    return Cell(step, params, _zeros(case))


def _equinox(case: Case) -> Cell:
    import jax

    def step(params: Any, state: Any, x: Any) -> Any:
        state = jax.vmap(params)(x, state)
        return state, state[0]

    return Cell(step, equinox_network(case).params, _zeros(case))


def _haiku(case: Case) -> Cell:
    import haiku
    import jax

    def step(state: Any, x: Any) -> Any:
        h, state = haiku.LSTM(case.shape.hidden_size)(x, state)
        return state, h

    transformed: Any = haiku.without_apply_rng(haiku.transform(step))
    state = haiku.LSTMState(*_zeros(case))
    params = jax.jit(transformed.init)(jax.random.key(0), state, arrays(case)[0][0])
    return Cell(transformed.apply, params, state)


MAKERS: dict[str, Callable[[Case], Cell]] = {
    OURS: _lstm_jax,
    KERNEL: _kernel,
    "plain scan": _plain,
    "flax linen": _flax_linen,
    "flax nnx": _flax_nnx,
    "equinox": _equinox,
    "haiku": _haiku,
}


def _zeros(case: Case) -> tuple[Any, Any]:
    zeros = arrays(case)[2]
    return zeros, zeros


def _pytorch(case: Case) -> Contestant:
    """``nn.LSTMCell`` under ``no_grad``."""
    import torch

    torch.set_num_threads(cores_allowed())
    torch.manual_seed(0)
    cell = torch.nn.LSTMCell(case.shape.input_size, case.shape.hidden_size)
    x, zeros = torch.randn(1, case.shape.input_size), torch.zeros(1, case.shape.hidden_size)

    def call() -> float:
        state = zeros, zeros
        with torch.no_grad():
            start = perf_counter()
            for _ in range(STEPS):
                state = cell(x, state)
            return (perf_counter() - start) / STEPS

    return Contestant(lambda: call)
