"""Look at a trained network: out of a file, with the verdict, the curves and everything behind them."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.inspections.inputs import (
    Embedding,
    Inputs,
    embedding_of,
    inputs_of,
    inputs_of_step,
    noise,
    scaled,
    scaling_of,
)
from gradient_flow.inspections.layer_arrays import (
    LABELS,
    layer_arrays,
    summary,
    within_reach,
)
from gradient_flow.inspections.network_of import Network, listed_layers, network_of
from gradient_flow.measurements.by_layer import has_zoneout
from gradient_flow.step_jacobians.checked_arguments import checked_run
from gradient_flow.verdicts.diagnose import Diagnosis, diagnose
from gradient_flow.verdicts.finding import Finding
from gradient_flow.verdicts.reach import Case, layers_of
from lstm_jax.array_types import PyTree
from lstm_jax.cells import Cell
from lstm_jax.layers.stack import Stack, cells_of
from lstm_jax.validation import require_bool, require_int, require_positive_int
from lstm_jax.weights.recurrent_layer import RecurrentLayer

STAGE, STAGES = "loaded", ("before", "after")
COMPILING, FURTHER, PER_FLOP = 11.0, 10.0, 1 / 4e10
"""Seconds that the programs of cells of one size compile for the verdict, and for all further measurements;
and that a floating-point operation takes."""


class Inspection(NamedTuple):
    """A network that was looked at; ``print`` it.

    Attributes:
        network: the network, with the recurrent layers of its source.
        inputs: what drove it.
        diagnosis: the verdict.
        results: all that was found as plain data, for a file of JSON.
        arrays: curves, gates and maps, by ``loaded/<cell>/<name>``; norms as natural logs.
    """

    network: Network
    inputs: Inputs
    diagnosis: Diagnosis
    results: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def __str__(self) -> str:
        """What was found in the source, what drove it, and the verdict."""
        return "\n".join([*self.results["says"], str(self.diagnosis)])

    def __repr__(self) -> str:
        return f"Inspection({self.network.source!r}, {self.diagnosis.headline!r})"


def inspect(
    source: Any,
    xs: Any = None,
    *,
    layer: str | Sequence[str] | None = None,
    embedding: str | None = None,
    vocabulary: Any = None,
    scaling: Sequence[str] | None = None,
    time_axis: int | None = None,
    batch_axis: int | None = None,
    lag: int | None = None,
    samples: int = 4,
    seed: int = 0,
    config: Any = None,
    gate_order: str | None = None,
    reset_after: bool | None = None,
    activation: str | None = None,
    quick: bool = False,
    everything: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Inspection:
    """Look at a trained network: what its gradient does, what is wrong, and the curves behind it.

    Args:
        source: a file, a mapping or a model, as for `lstm_jax.weights.recurrent_layers`; a tuple of a cell,
            stack or step, its parameters and perhaps its starting state and inputs; or ``"module.py:name"``,
            where the name is such a tuple, or a function that returns one.
        xs: inputs [T, D] or [T, B, D]; numbers of tokens [T] or [T, B]; a path of ``.npy``, ``.npz``,
            ``.csv`` or a text; None for noise of unit size.
        layer: its name, or names to stack in that order; None for the only one, or for several that plainly
            are a stack.
        embedding: the name of an array of the source in which tokens are looked up; None looks for one.
        vocabulary: of a text: a list of tokens, a mapping to their numbers, or the path of either as JSON.
        scaling: the names of two arrays of the source, a mean and a scale, that inputs are normalised by.
        time_axis: where time is in ``xs``, if not first.
        batch_axis: where samples are in ``xs``, if not second.
        lag: how far back it has to learn, in steps; if None the length of the inputs, of noise and of a long
            sequence without samples 200.
        samples: sequences that are looked at, at most.
        seed: of the noise.
        config: of a Keras model whose weights are in a file of their own.
        gate_order: as for `lstm_jax.weights.load`, and so ``reset_after`` and ``activation``.
        reset_after: whether a GRU's reset gate acts after the product.
        activation: of a vanilla network.
        quick: the verdict, curves and gates alone.
        everything: also what takes long for wide cells: maps, paths, spectra.
        tell: called with a sentence on what is done next.

    Returns:
        `Inspection`. ``gradient_flow.report(inspection, path)`` makes a page of it.

    Raises:
        OSError, ImportError, TypeError: a source or inputs that do not exist or cannot be read.
        ValueError: no recurrent layer, several without ``layer``, or inputs that do not fit, with their names
            and shapes.
        NonFiniteError: a NaN or an infinity in weights or inputs, with its step and its samples.

    Example:
        >>> import jax, lstm_jax, gradient_flow
        >>> cell = lstm_jax.lstm(3, 8)
        >>> params = cell.init(jax.random.key(0))
        >>> state_dict = lstm_jax.weights.to_pytorch(cell, params)
        >>> found = gradient_flow.inspect(state_dict, lag=60, samples=2, quick=True)
        >>> found.diagnosis.verdict, found.arrays["loaded/layer_0/curve.hh"].shape[0]
        ('vanishing', 2)
    """
    require_positive_int("samples", samples)
    require_int("seed", seed)
    for name, value in (("quick", quick), ("everything", everything)):
        require_bool(name, value)
    if lag is not None:
        require_positive_int("lag", lag)
    say = tell or (lambda text: None)
    begun = time.perf_counter()
    network = network_of(
        source,
        layer,
        config=config,
        gate_order=gate_order,
        reset_after=reset_after,
        activation=activation,
    )
    inputs = _inputs(
        source, network, xs, embedding, vocabulary, (time_axis, batch_axis), lag, samples, seed
    )
    if scaling is not None:
        if inputs.origin == "noise" or not network.found:
            raise ValueError(
                "Option mismatch: expected scaling= with inputs and a file, got none: noise is of unit size."
            )
        both = scaling_of(source, scaling, network.net.input_size)
        inputs = scaled(inputs, both, scaling)
    lag = lag or len(jax.tree.leaves(inputs.xs)[0])
    reading = time.perf_counter() - begun
    say(f"This takes some {_seconds(network.net, inputs.xs, quick):.0f} s.")
    diagnosis = _diagnosed(network, inputs, lag)
    # What a state that overflows does is measured over the steps before, as the verdict is.
    inputs, lag = _before_overflow(diagnosis, inputs), diagnosis.lag
    arrays: dict[str, np.ndarray] = {}
    table: dict[str, Any] = {}
    names: dict[str, str] = {}
    kinds: dict[str, str] = {}
    left_out: dict[str, list[str]] = {}
    for name, case, params in _parts(network, inputs, lag) if diagnosis.readings else ():
        key = name.replace(", ", "_").replace(" ", "_")
        names[key], kinds[key] = _label(network, name), case.cell.kind
        curves = diagnosis.readings.get(name, diagnosis.readings.get(""))
        if curves is None:
            continue
        measured = within_reach(case.cell.hidden_size, quick=quick, everything=everything)
        say(f"Measuring {names[key]}.")
        found = layer_arrays(case, params, curves, measured)
        table[key] = summary(case, curves, found) | _exponent(diagnosis, name)
        arrays |= {f"{STAGE}/{key}/{what}": array for what, array in found.items()}
        missing = [LABELS[what] for what in LABELS if what not in measured]
        if missing and not quick:
            left_out[names[key]] = missing
    results = {
        "kind": "inspection",
        "command": None,
        "source": network.source,
        "layers": [_as_data(one) for one in network.found],
        "chosen": list(network.chosen),
        "says": _says(network, inputs, layer is None),
        "inputs": {
            "says": inputs.says,
            "from": inputs.origin,
            "shape": list(jnp.shape(jax.tree.leaves(inputs.xs)[0])),
            "text": inputs.text,
        },
        "lag": lag,
        "lags": diagnosis.readings[""].lags.tolist() if diagnosis.readings else [],
        "stages": [STAGE],
        "networks": names,
        "kinds": kinds,
        "left_out": left_out,
        "verdicts": {STAGE: _verdict(diagnosis)},
        "table": {STAGE: table},
        "seconds": {"reading": reading, "measuring": time.perf_counter() - begun - reading},
    }
    return Inspection(network, inputs, diagnosis, results, arrays)


def stages_of(looks: Sequence[Inspection]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The results and arrays of one inspection, or of two of the same network set beside each other.

    Two are the stages ``before`` and ``after``.

    Raises:
        ValueError: two networks with other layers, or lags.
    """
    if len(looks) == 1:
        return dict(looks[0].results), dict(looks[0].arrays)
    before, after = (look.results for look in looks)
    for name in ("kinds", "lag"):
        if before[name] != after[name]:
            raise ValueError(
                f"Network mismatch: expected two states of one network, got {name} {before[name]} in "
                f"{before['source']} and {after[name]} in {after['source']}."
            )
    results = before | {"stages": list(STAGES)}
    results["sources"] = {
        stage: look.results["source"] for stage, look in zip(STAGES, looks, strict=True)
    }
    arrays: dict[str, np.ndarray] = {}
    for name in ("verdicts", "table"):
        results[name] = {
            stage: look.results[name][STAGE] for stage, look in zip(STAGES, looks, strict=True)
        }
    for stage, look in zip(STAGES, looks, strict=True):
        arrays |= {stage + name.removeprefix(STAGE): array for name, array in look.arrays.items()}
    return results, arrays


def _inputs(
    source: Any,
    network: Network,
    xs: Any,
    embedding: str | None,
    vocabulary: Any,
    axes: tuple[int | None, int | None],
    lag: int | None,
    samples: int,
    seed: int,
) -> Inputs:
    """What drives a network: what was given, what came with it, or noise."""
    net = network.net
    if not isinstance(net, (Cell, Stack)):
        given = network.xs if xs is None else xs
        if given is None:
            raise ValueError("Inputs needed: expected inputs for a plain step, got none.")
        return inputs_of_step(given, *axes)
    # What is wrong with parameters that are none is said where they are checked.
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(network.params) if hasattr(leaf, "dtype")]
    size, dtype = net.input_size, dtypes[0] if dtypes else np.dtype(np.float32)
    table: Embedding | None = None
    if network.found:
        table = embedding_of(source, embedding, size, network.chosen[0])
    elif embedding is not None:
        raise ValueError(
            f"Option mismatch: expected no embedding beside a network in Python, got {embedding!r}."
        )
    if xs is None:
        xs = network.xs
    if xs is None:
        return noise(size, table, lag, samples, seed, dtype)
    return inputs_of(
        xs,
        size,
        embedding=table,
        vocabulary=vocabulary,
        time_axis=axes[0],
        batch_axis=axes[1],
        lag=lag,
        samples=samples,
        dtype=dtype,
    )


def _seconds(net: Any, xs: PyTree, quick: bool) -> float:
    """About how long it will take on two cores: compiling, and the products."""
    if not isinstance(net, (Cell, Stack)):
        return COMPILING
    cells = [net] if isinstance(net, Cell) else cells_of(net.layers)
    programs = {(cell.kind, cell.input_size, cell.hidden_size) for cell in cells}
    parts = {"lstm": 4, "gru": 3, "rnn": 1}
    # A step multiplies the transition, [state, state], by the step's Jacobian, through the gates.
    work = sum(
        2 * parts[cell.kind] * (1 + (cell.kind == "lstm")) * cell.hidden_size**3 for cell in cells
    )
    times = jnp.shape(xs)[0] * (jnp.shape(xs)[1] if jnp.ndim(xs) == 3 else 1)
    compiling = COMPILING + (0 if quick else FURTHER)
    return compiling * len(programs) + work * times * PER_FLOP


def _diagnosed(network: Network, inputs: Inputs, lag: int) -> Diagnosis:
    batched = None
    if not isinstance(network.net, (Cell, Stack)):
        # A step's own starting state says whether there is a batch: its inputs cannot.
        batched = False
    return diagnose(
        network.net, network.params, network.state0, inputs.xs, lag=lag, batched=batched
    )


def _before_overflow(diagnosis: Diagnosis, inputs: Inputs) -> Inputs:
    """The inputs of the steps before a state overflows."""
    found = [one.numbers["step"] for one in diagnosis.findings if one.name == "overflow"]
    if not found:
        return inputs
    steps = max(found[0] - 1, 1)
    return inputs._replace(xs=jax.tree.map(lambda leaf: leaf[:steps], inputs.xs))


def _parts(network: Network, inputs: Inputs, lag: int) -> Iterator[tuple[str, Case, PyTree]]:
    """Each cell by itself: its name, the cell with what drives it, its parameters."""
    net, batched = network.net, jnp.ndim(inputs.xs) == 3
    if isinstance(net, Cell):
        run = checked_run(net, network.params, network.state0, inputs.xs, None)
        yield "layer 0", Case(net, run.state0, inputs.xs, lag, batched), network.params
    elif isinstance(net, Stack) and not has_zoneout(net):
        whole = Case(net, network.state0, inputs.xs, lag, batched)
        for name, _, case, params in layers_of(whole, network.params):
            yield name, case, params


def _label(network: Network, name: str) -> str:
    """The name of a cell for people: that of its layer in the source."""
    number, _, direction = name.removeprefix("layer ").partition(", ")
    layers = 1 if isinstance(network.net, Cell) else len(network.net.layers)
    if len(network.chosen) == layers and all(network.chosen):
        label = network.chosen[int(number)]
    else:
        label = ", ".join([*filter(None, network.chosen), f"layer {number}"])
    return f"{label}, {direction}" if direction else label


def _exponent(diagnosis: Diagnosis, name: str) -> dict[str, float | None]:
    """λ_1 of a cell, where the verdict has it by layer or the network is that cell."""
    number, _, direction = name.removeprefix("layer ").partition(", ")
    for finding in diagnosis.findings:
        numbers = finding.numbers
        own = str(numbers.get("layer", number)), numbers.get("direction", direction)
        alone = len(diagnosis.readings) == 1 or "layer" in numbers
        if "lambda_1" in numbers and alone and own == (number, direction):
            return {
                "lambda_1": numbers["lambda_1"],
                "lambda_1_error": numbers["standard_error"],
            }
    return {"lambda_1": None, "lambda_1_error": None}


def _says(network: Network, inputs: Inputs, stacked: bool) -> list[str]:
    """What drove the network, what is in the source, and what was assumed, as that layers are stacked."""
    lines = [inputs.says]
    if network.found:
        names = {one.name for one in network.found} - set(network.chosen)
        lines.append(f"In {network.source}: {listed_layers(network.found)}.")
        if names:
            lines.append(f"Looked at: {', '.join(map(repr, network.chosen))}.")
        chosen = [one for one in network.found if one.name in network.chosen]
        assumed = dict.fromkeys(sentence for one in chosen for sentence in one.assumed)
        if stacked and len(network.chosen) > 1:
            order = ", ".join(network.chosen)
            assumed[
                f"One layer takes what the one before gives: {order}. layer= chooses others."
            ] = None
        lines += [f"Assumed: {sentence}" for sentence in assumed]
    else:
        lines.append(f"Looked at: {network.source}.")
    if isinstance(network.net, Stack) and has_zoneout(network.net):
        lines.append(
            "A stack with zoneout has a verdict alone: its layers are not measured one by one."
        )
    return [*lines, network.cast] if network.cast else lines


def _as_data(layer: RecurrentLayer) -> dict[str, Any]:
    return {name: getattr(layer, name) for name in layer._fields if name != "read"}


def _verdict(diagnosis: Diagnosis) -> dict[str, Any]:
    def plain(findings: tuple[Finding, ...]) -> list[dict[str, Any]]:
        return [finding._asdict() for finding in findings]

    return {
        "verdict": diagnosis.verdict,
        "headline": diagnosis.headline,
        "lag": diagnosis.lag,
        "horizon": diagnosis.horizon,
        "findings": plain(diagnosis.findings),
        "advice": plain(diagnosis.advice),
        "without_help": plain(diagnosis.without_help),
        "text": str(diagnosis),
    }
