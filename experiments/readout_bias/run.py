"""The LSTM of `make demo`, its readout's bias begun at zeros or at the log frequency of each character.

Compared over a few seeds: the share of memories with |tanh C| beyond 0.99, of input gates beyond 0.95 and of
candidates beyond ±0.95, on text, after 50 steps of training and at its end; and bits per character.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import zeros

from experiments.running import Refusal, exit_code, keep, parts_kept, require_seed, table
from gradient_flow import gate_activations
from gradient_flow.command_line.memory import lstm_bytes, require_memory
from gradient_flow.command_line.short_training import BATCH_SIZE, WINDOW, Trained, split, train
from gradient_flow.results_folder import claim_folder
from lstm_jax import lstm, unroll
from lstm_jax.array_types import Array
from lstm_jax.cells import Cell
from lstm_jax.command_line.tyro_options import parse
from lstm_jax.language import embedded_text, encode, log_frequency, one_hot, windows

EARLY = 50
"""Steps after which the networks are looked at for the first time."""


@dataclass(frozen=True)
class Config:
    """Begin a readout's bias at zeros or at log frequencies, and look at what becomes of the LSTM."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of parameters and windows."""
    rates: tuple[float, ...] = (0.02, 0.005)
    """Adam's learning rates."""
    steps: int = 800
    """Gradient steps."""
    hidden_size: int = 64
    """Hidden size H."""
    out: Path = Path("experiments/readout_bias/results")
    """Folder for the results."""
    overwrite: bool = False
    """Replace the results of a finished run."""


def saturation(cell: Cell, trained: Trained, xs: Array) -> dict[str, float]:
    """Shares of what is saturated, over all units, steps and samples."""

    def keep_memory(params: Any, state: Any, x: Array) -> tuple[Any, Array]:
        state, _ = cell.step(params, state, x)
        return state, state.c

    memories = unroll(keep_memory, trained.params, xs, cell.initial_state(xs.shape[1]))[1]
    gates = gate_activations(cell, trained.params, None, xs)
    return {
        "memories": float((jnp.abs(jnp.tanh(memories)) > 0.99).mean()),
        "input_gates": float((gates["i"] > 0.95).mean()),
        "candidates": float((jnp.abs(gates["g"]) > 0.95).mean()),
    }


def check(config: Config) -> None:
    """Refuse options that are out of range.

    Raises:
        Refusal: with the option in the message.
        TooLargeError: a network that does not fit into memory.
    """
    for seed in config.seeds:
        require_seed(seed, "--seeds")
    for option, values in {"--seeds": config.seeds, "--rates": config.rates}.items():
        if not values:
            raise Refusal(f"Range mismatch: expected {option} with at least one number, got none.")
    for rate in config.rates:
        if not 0 < rate < float("inf"):
            raise Refusal(f"Range mismatch: expected positive --rates, got {rate}.")
    for option, value in {"--steps": config.steps, "--hidden-size": config.hidden_size}.items():
        if value < 1:
            raise Refusal(f"Range mismatch: expected {option} of at least 1, got {value}.")
    require_memory("--hidden-size", lstm_bytes(100, config.hidden_size, WINDOW * BATCH_SIZE))


def run(config: Config) -> None:
    """Train, look, print and keep.

    Raises:
        Refusal, TooLargeError, OutputError: what cannot be run, before anything is.
    """
    check(config)
    claim_folder(config.out, "readout_bias", overwrite=config.overwrite)
    corpus = encode(embedded_text(), "pydoc_data.topics")
    size = corpus.vocabulary.size
    cell = lstm(size, config.hidden_size)
    codes = windows(jax.random.key(7), jnp.asarray(corpus.codes), 300, 8)
    xs = one_hot(codes, size, jnp.float32)
    starts = {"log frequency": log_frequency(split(corpus.codes)[0], size), "zeros": zeros}
    found: list[dict[str, Any]] = []
    with parts_kept(config.out, {"runs": found}):
        for start, init in starts.items():
            for rate in config.rates:
                for seed in config.seeds:
                    for steps in (EARLY, config.steps):
                        (end,) = train([cell], corpus.codes, steps, rate, seed, readout_bias=init)
                        found.append(
                            {"start": start, "rate": rate, "seed": seed, "steps": steps}
                            | saturation(cell, end, xs)
                            | {"bits": float(np.mean(end.bits[-10:])), "held_out": end.held_out}
                        )
    text = tables(found)
    keep(config.out, {}, {"config": asdict(config), "runs": found}, text)
    print(text)


def tables(found: list[dict[str, Any]]) -> str:
    """A row for each start, rate and number of steps: lowest and highest over the seeds."""
    columns = ("memories", "input_gates", "candidates", "bits", "held_out")
    rows = []
    for start, rate, steps in dict.fromkeys((f["start"], f["rate"], f["steps"]) for f in found):
        of = [f for f in found if (f["start"], f["rate"], f["steps"]) == (start, rate, steps)]
        ends = [(min(f[name] for f in of), max(f[name] for f in of)) for name in columns]
        cells = [f"{100 * low:.0f} … {100 * high:.0f} %" for low, high in ends[:3]]
        cells += [f"{low:.2f} … {high:.2f}" for low, high in ends[3:]]
        rows.append([start, f"{rate:g}", str(steps), *cells])
    header = [
        "bias begins at",
        "rate",
        "steps",
        "|tanh C| > 0.99",
        "i > 0.95",
        "|g| > 0.95",
        "bits",
        "held-out",
    ]
    return table(
        "Shares of saturated memories, input gates and candidates, over the seeds", header, rows
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment from the command line."""
    config = parse(Config, "python -m experiments.readout_bias", arguments)
    return exit_code(lambda: run(config))
