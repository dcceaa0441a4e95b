r"""Where a gradient goes: by detours, gate, step and input, before and after training.

The networks are those of the derivation audit: LSTMs of 32 units that begin with forget bias 1 or chrono,
trained on prose or on the adding problem. Beside them one head of causal attention is trained on adding too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import gradient_flow
from experiments.derivation_audit.networks import (
    LN10,
    QUICK,
    Sizes,
    adam,
    adding_batch,
    begin,
    cells,
    corpus,
    plain,
    stretch,
    train,
)
from experiments.running import Refusal, exit_code, keep, parts_kept, require_seed
from experiments.where_it_goes import attention
from experiments.where_it_goes.plot import draw
from experiments.where_it_goes.report import kept_numbers, report, spans
from gradient_flow.results_folder import claim_folder
from lstm_jax.array_types import Array
from lstm_jax.command_line.tyro_options import parse
from lstm_jax.initializers import uniform

MOST = 6
"""Detours that are counted one by one."""

GATES = ("i", "f", "g", "o")
KEPT = ((), *((gate,) for gate in GATES), GATES)
NETWORKS = (
    ("lstm_1", None),
    ("lstm_1", "text"),
    ("lstm_1", "adding"),
    ("lstm_chrono", None),
    ("lstm_chrono", "adding"),
)


@dataclass(frozen=True)
class Config:
    """Follow the gradient by detours, by gate, step by step and input by input."""

    out: Path = Path("experiments/where_it_goes/results")
    """Folder for the results."""
    overwrite: bool = False
    """Replace the results of a finished run."""
    quick: bool = False
    """Small networks, hardly trained: no result."""
    seed: int = 0
    """Of weights and batches; the first of --seeds."""
    seeds: int | None = None
    """Networks of each kind; 5, with --quick 1."""


def name_of(network: tuple[str, str | None]) -> str:
    """What a reader calls a network."""
    start = "chrono" if network[0] == "lstm_chrono" else "forget bias 1"
    return f"{start}, {'untrained' if network[1] is None else 'trained on ' + network[1]}"


def trained(network: tuple[str, str | None], sizes: Sizes, seed: int) -> tuple[Any, Any, Array]:
    """Cell, model and the stretch that is looked at, of one sample, [T, D]."""
    name, task = network
    inputs = corpus().vocabulary.size
    key_begin, key_train = jax.random.split(jax.random.key(seed))
    cell = plain(name, inputs, sizes.hidden)
    outputs = inputs if task == "text" else 1
    model = begin(cells(inputs, sizes.hidden)[name], outputs, key_begin)
    if task is not None:
        steps = sizes.text_steps if task == "text" else sizes.adding_steps
        model, _ = train(task, cell, adam(1e-2), sizes, steps, model, key_train)
    return cell, model, stretch(sizes, task or "adding")[:, 0]


def followed(cell: Any, model: Any, xs: Array) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Curves in decades, and numbers, of one network."""
    paths = gradient_flow.detour_norms(
        cell, model.cell, None, xs, most=MOST, blocks=["cc"], norms=["spectral"]
    )
    cut = gradient_flow.gate_path_norms(
        cell, model.cell, None, xs, kept=KEPT, blocks=["cc"], lags=paths.lags.tolist()
    )
    gain = gradient_flow.step_gain(cell, model.cell, None, xs)

    def loss(state: Any) -> Array:
        return jnp.sum(jnp.tanh(state.h @ model.w_y + model.b_y))

    got = gradient_flow.credit(cell, model.cell, None, xs, loss)
    above = np.asarray(gain.gain) > 1
    numbers = {
        "above_1": float(above.mean()),
        "largest_gain": float(gain.gain.max()),
        "largest_allowed": float(gain.largest.max()),
        "pushes": {name: float(np.mean(where)) for name, where in gain.pushes.items()},
        "parts": {name: float(np.mean(part)) for name, part in gain.parts.items()},
    }
    arrays = {
        "lags": paths.lags,
        "detours": np.asarray(paths.spectral["cc"]) / LN10,
        "whole": np.asarray(paths.whole_spectral["cc"]) / LN10,
        "kept": np.asarray(cut.spectral["cc"]) / LN10,
        "inputs": np.asarray(got.inputs) / LN10,
    }
    return arrays, numbers


def attended(sizes: Sizes, seed: int) -> dict[str, np.ndarray]:
    """Decades of ∂ℓ_T/∂x_k of one head of attention, untrained and trained on adding."""
    inputs, size = corpus().vocabulary.size, sizes.hidden
    key_begin, key_y, key_train = jax.random.split(jax.random.key(seed), 3)
    model = (attention.init(key_begin, inputs, size), uniform(size**-0.5)(key_y, (size, 1)))
    optimizer = adam(1e-2)

    def answer(model: Any, xs: Array) -> Array:
        return (attention.attend(model[0], xs)[-1] @ model[1])[0]

    def loss(model: Any, examples: tuple[Array, Array]) -> Array:
        answers = jax.vmap(partial(answer, model), in_axes=1)(examples[0])
        # Attention averages where adding sums: the mean is what one head can say.
        return jnp.mean((answers - examples[1] / 2) ** 2)

    @jax.jit
    def run(model: Any) -> Any:
        def step(carry: Any, key: Array) -> Any:
            model, state = carry
            gradient = jax.grad(loss)(model, adding_batch(sizes, key))
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(model, updates), state), None

        keys = jax.random.split(key_train, sizes.adding_steps)
        return lax.scan(step, (model, optimizer.init(model)), keys)[0][0]

    xs = stretch(sizes, "adding")[:, 0]
    found = {}
    for name, (head, w_y) in (("untrained", model), ("trained", run(model))):

        def last(ys: Array, w_y: Array = w_y) -> Array:
            return (ys[-1] @ w_y)[0]

        credit = gradient_flow.input_credit(partial(attention.attend, head), xs, last)
        found[name] = np.asarray(credit) / LN10
    return found


def run(config: Config) -> None:
    """Train, follow, print, keep and draw."""
    require_seed(config.seed)
    count = config.seeds if config.seeds is not None else 1 if config.quick else 5
    if count < 1:
        raise Refusal(f"Range mismatch: expected --seeds of at least 1, got {config.seeds}.")
    claim_folder(config.out, "where_it_goes", overwrite=config.overwrite)
    sizes = QUICK if config.quick else Sizes()
    numbers: dict[str, list[Any]] = {name_of(network): [] for network in NETWORKS}
    attention_spans: dict[str, list[Any]] = {}
    with parts_kept(config.out, numbers):
        for seed in range(config.seed, config.seed + count):
            arrays, gains = {}, {}
            for network in NETWORKS:
                name = name_of(network)
                arrays[name], gains[name] = followed(*trained(network, sizes, seed))
                numbers[name].append(kept_numbers(arrays[name], gains[name]))
            beside = attended(sizes, seed)
            for stage, curve in beside.items():
                attention_spans.setdefault(stage, []).append(spans(curve))
            if seed == config.seed:  # the figure is of the first
                drawn = (arrays, gains, beside)
    tables = report(numbers, attention_spans)
    print(tables)
    arrays, gains, beside = drawn
    flat = {f"{name}/{key}": a for name, own in arrays.items() for key, a in own.items()}
    flat |= {f"attention/{name}": a for name, a in beside.items()}
    results = {"numbers": numbers, "attention": attention_spans, "config": vars(config)}
    keep(config.out, flat, results, tables)
    draw(config.out, arrays, gains, beside)
    print(f"\nWritten to {config.out}: where_it_goes.png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run; the exit code."""
    config = parse(Config, "python -m experiments.where_it_goes", arguments)
    return exit_code(lambda: run(config))
