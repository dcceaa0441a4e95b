"""Compare vanishing gradients in RNN, LSTM and GRU, before and after a short training run.

For each network and each length L, at random places of a text: the exact log-norms of ∂h_L/∂h_k and ∂C_L/∂C_k
at many lags; the same by plain autodiff in the default precision; and, in the last stage, the map over all
pairs (t, k) and the gates over time. `measure` computes, `summarise` makes the rows of the table, and
`gradient_flow.pictures.comparison_figures` draws from the files of `gradient_flow.command_line.cli`.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.command_line.memory import lstm_bytes
from gradient_flow.command_line.short_training import RATE, Trained, shortest_text
from gradient_flow.measurements.autodiff_norms import autodiff_norms
from gradient_flow.measurements.curve_summary import decades_per_100, horizon, lag_grid
from gradient_flow.measurements.gates import gate_activations
from gradient_flow.measurements.jacobian_norms import all_pairs_norms, jacobian_norms
from lstm_jax import chrono, gru, lstm, orthogonal, rnn
from lstm_jax.array_types import Array
from lstm_jax.cells import Cell
from lstm_jax.language.text import Corpus, embedded_text, encode, one_hot, read_text, windows

LN10 = float(np.log(10))
HORIZON_FACTOR = 1e-3
NOISE_SIZE = 32
LONGEST = 20_000  # plain autodiff stores H·T·H numbers for each sample
MAP_LENGTH = 300
GATE_STEPS = 80

MAP_NETWORKS = ("rnn", "lstm_1")
INSIDE_NETWORK = "lstm_1"
PATHS = ("cc", "total_c", "chain_c", "carousel")

Row = dict[str, float | int | None]
"""A line of the table: one network at one length."""


class ConfigError(ValueError):
    """A setting that cannot be run."""


@dataclass(frozen=True)
class Compare:
    """Compare vanishing gradients in RNN, LSTM and GRU, before and after training on text."""

    lengths: tuple[int, ...] = (50, 100, 300, 1000)
    """Sequence lengths T at which ∂h_T/∂h_0 is reported."""
    input: Literal["text", "noise"] = "text"
    """The input of the networks: characters of a text, or white noise (without training)."""
    text: Path | None = None
    """A UTF-8 text file; if left out, the language reference that CPython carries."""
    hidden_size: int = 64
    """Hidden size H of every network."""
    samples: int = 8
    """Sequences measured, taken at random places of the text."""
    train_steps: int | None = None
    """Gradient steps of training on the next character; 800 on text if left out, 0 on noise."""
    learning_rate: float = RATE
    """Adam's learning rate in that training."""
    seed: int = 0
    """Seed of everything random."""
    out: Path | None = None
    """Folder for the results; if left out, the next free one of runs/compare-001, -002, …"""
    overwrite: bool = False
    """Replace the results of a finished run in --out."""

    @property
    def steps(self) -> int:
        """Gradient steps, with the default filled in."""
        if self.train_steps is None:
            return 800 if self.input == "text" else 0
        return self.train_steps


class Network(NamedTuple):
    """A network of the comparison.

    Attributes:
        label: its name in tables and figures.
        cell: with its initialisation.
    """

    label: str
    cell: Cell


def networks(input_size: int, hidden_size: int, t_max: int) -> dict[str, Network]:
    """The six networks, by short name; those of a kind follow each other."""
    sizes, t_max = (input_size, hidden_size), max(t_max, 3)
    return {
        "rnn": Network("RNN, uniform", rnn(*sizes)),
        "rnn_orthogonal": Network("RNN, orthogonal", rnn(*sizes, w_h_init=orthogonal())),
        "lstm_0": Network("LSTM, forget bias 0", lstm(*sizes, forget_bias=0.0)),
        "lstm_1": Network("LSTM, forget bias 1", lstm(*sizes)),
        "lstm_chrono": Network(f"LSTM, chrono {t_max}", lstm(*sizes, forget_bias=chrono(t_max))),
        "gru": Network("GRU", gru(*sizes)),
    }


def shared_cell(cell: Cell) -> Cell:
    """One cell for measuring all networks of a kind, so that each kind compiles once."""
    make: dict[str, Callable[[int, int], Cell]] = {"rnn": rnn, "lstm": lstm, "gru": gru}
    return make[cell.kind](cell.input_size, cell.hidden_size)


def check_config(config: Compare) -> Corpus | None:
    """Refuse settings that cannot be run, before any long work, and read the text.

    Returns:
        The text, or None for noise.

    Raises:
        ConfigError: a setting out of range, with the expected and the given value.
        TextError: a text file that is missing, empty or undecodable.
    """
    if not config.lengths or min(config.lengths) < 1:
        raise ConfigError(
            f"Length mismatch: expected --lengths of at least 1 step, got {list(config.lengths)}."
        )
    if max(config.lengths) > LONGEST:
        raise ConfigError(
            f"Length mismatch: expected --lengths of at most {LONGEST} steps, got "
            f"{max(config.lengths)}; gradient_flow.jacobian_norms takes longer ones."
        )
    check_seed(config.seed)
    for name, value in (("hidden-size", config.hidden_size), ("samples", config.samples)):
        if value < 1:
            raise ConfigError(f"Size mismatch: expected --{name} of at least 1, got {value}.")
    if config.steps < 0:
        raise ConfigError(f"Range mismatch: expected --train-steps from 0 on, got {config.steps}.")
    if not 0 < config.learning_rate < float("inf"):
        raise ConfigError(
            f"Range mismatch: expected a positive --learning-rate, got {config.learning_rate}."
        )
    if config.input == "noise":
        if config.text is not None or config.steps:
            raise ConfigError(
                "Input mismatch: expected neither --text nor --train-steps with --input noise, "
                f"got {'--text' if config.text is not None else '--train-steps'}."
            )
        return None
    text, name = (
        (embedded_text(), "pydoc_data.topics")
        if config.text is None
        else (read_text(config.text), config.text.name)
    )
    corpus = encode(text, name)
    needed = max(*config.lengths, shortest_text(config.steps)) + 1
    if len(corpus.codes) < needed:
        raise ConfigError(
            f"Length mismatch: expected a text of at least {needed} characters for --lengths "
            f"{' '.join(map(str, config.lengths))} and {config.steps} training steps, got "
            f"{len(corpus.codes)} in {name}."
        )
    return corpus


def check_seed(seed: int) -> None:
    """Refuse a seed that is not a 32-bit number.

    Raises:
        ConfigError: with the seed in the message.
    """
    if not 0 <= seed < 2**32:
        raise ConfigError(f"Range mismatch: expected --seed from 0 to 2^32 − 1, got {seed}.")


def inputs(config: Compare, corpus: Corpus | None, key: Array) -> Array:
    """The sequences that drive every network: [max length, samples, D]."""
    length = max(config.lengths)
    if corpus is None:
        return jax.random.normal(key, (length, config.samples, NOISE_SIZE))
    codes = windows(key, jnp.asarray(corpus.codes), length, config.samples)
    return one_hot(codes, corpus.vocabulary.size, jnp.float32)


def bytes_needed(config: Compare, input_size: int) -> int:
    """An estimate of the memory that a comparison fills at its peak.

    Measured for the LSTM on a CPU, beyond 0.3 GiB for the compiler: at (H, samples, T) of (64, 8, 1,000) 0.1,
    (64, 256, 300) 0.5, (256, 8, 300) 0.3 and (384, 2, 100) 0.2 GiB. This gives 0.1, 0.5, 0.4 and 0.3.
    """
    hidden, length, samples = config.hidden_size, max(config.lengths), config.samples
    # The parameters of the six networks, of which up to three are trained at once.
    copies = 15 if config.steps else 6
    sequences = lstm_bytes(input_size, hidden, length * samples, copies=copies)
    # Products of [2H, 2H], one for each sample and length and some beside; plain autodiff of one sample.
    products = samples * (len(set(config.lengths)) + 6) * 4 * hidden**2
    autodiff = 3 * length * hidden**2
    return (sequences + 4 * max(products, autodiff)) * 3 // 2


def measure(
    name: str, cell: Cell, params: Any, xs: Array, lengths: tuple[int, ...], *, last: bool
) -> dict[str, np.ndarray]:
    """The arrays of one network for the table and the figures.

    Args:
        name: of the network.
        cell: of its kind.
        params: of the cell.
        xs: the inputs, [T, samples, D].
        lengths: at which ∂h_T/∂h_k is reported.
        last: whether this is the last stage of the run, of which maps and gates are drawn.

    Returns:
        ``curve.<block>`` [samples, lengths, lags], natural-log spectral norms; ``autodiff`` [samples, T + 1],
        plain norms; for some networks, in the last stage, ``map.hh`` [times, starts] with ``map.times`` and
        ``map.starts``, and ``gate.<name>`` [steps, H] of the first sample.
    """
    more = PATHS if name == INSIDE_NETWORK else PATHS[:1] if cell.kind == "lstm" else ()
    blocks = ("hh", *more)
    flow = jacobian_norms(
        cell,
        params,
        None,
        xs,
        times=sorted(set(lengths)),
        lags=lag_grid(lengths),
        blocks=blocks,
        norms=("spectral",),
    )
    found = {f"curve.{block}": np.asarray(flow.spectral[block]) for block in blocks}
    found["autodiff"] = np.asarray(autodiff_norms(cell, params, None, xs))
    if last and name in MAP_NETWORKS:
        part = xs[:MAP_LENGTH, 0]
        every = max(1, part.shape[0] // 100)
        pairs = all_pairs_norms(
            cell, params, None, part, every=every, blocks=("hh",), norms=("spectral",)
        )
        found["map.hh"] = np.asarray(pairs.spectral["hh"])
        found["map.times"], found["map.starts"] = pairs.times, pairs.starts
    if last and name == INSIDE_NETWORK:
        gates = gate_activations(cell, params, None, xs[:GATE_STEPS, 0])
        found |= {f"gate.{gate}": np.asarray(values) for gate, values in gates.items()}
    return found


def summarise(lengths: tuple[int, ...], arrays: dict[str, np.ndarray]) -> list[Row]:
    """One row for each length: medians over the samples, from the arrays of `measure` for one network."""
    lags = np.asarray(lag_grid(lengths))
    rows: list[Row] = []
    for n, length in enumerate(sorted(set(lengths))):
        upto = lags <= length
        curves = arrays["curve.hh"][:, n, upto]
        row: Row = {"length": length}
        for block in ("hh", "cc"):
            curve = arrays.get(f"curve.{block}")
            row[f"log10_{block}"] = (
                None if curve is None else float(np.median(curve[:, n, lags == length]) / LN10)
            )
        row["decades_per_100"] = float(np.median(decades_per_100(lags[upto], curves)))
        row["horizon"] = float(np.median(horizon(lags[upto], curves, HORIZON_FACTOR)))
        plain = arrays["autodiff"][:, : length + 1]
        row["autodiff_zero_from"] = _zero_from(plain) if length == max(lengths) else None
        rows.append(row)
    return rows


def _zero_from(norms: np.ndarray) -> int | None:
    """The smallest lag at which plain autodiff returns exactly 0 in at least half of the samples."""
    zero = np.mean(norms == 0, axis=0) >= 0.5
    return int(np.argmax(zero)) if zero.any() else None


def bits(trained: Trained) -> dict[str, float]:
    """Bits per character: of the first and last ten steps, and on held-out text."""
    return {
        "first": float(np.mean(trained.bits[:10])),
        "last": float(np.mean(trained.bits[-10:])),
        "held_out": trained.held_out,
    }


def describe(corpus: Corpus) -> dict[str, Any]:
    """The text: name, size, vocabulary, checksum of its codes."""
    return {
        "name": corpus.name,
        "characters": len(corpus.codes),
        "distinct": corpus.vocabulary.size,
        "sha256_of_codes": hashlib.sha256(corpus.codes.tobytes()).hexdigest(),
    }


def gate_text(corpus: Corpus | None, xs: Array) -> str | None:
    """The characters whose gates are drawn."""
    if corpus is None:
        return None
    return corpus.vocabulary.decode(np.argmax(np.asarray(xs[:GATE_STEPS, 0]), axis=-1))


def heading(stage: str, config: Compare, labels: Iterable[str]) -> str:
    """The head of a stage's table."""
    width = max(map(len, labels))
    after = f"after {config.steps} training steps" if stage == "trained" else "before training"
    bits = f"  {'bits/char':>9}  {'held-out':>8}" if stage == "trained" else ""
    return (
        f"{after}\n{'network':{width}}  {'T':>6}  {'log10 dh_T/dh_0':>15}  {'dC_T/dC_0':>9}  "
        f"{'per 100':>7}  {'horizon':>7}{bits}"
    )


def lines(
    label: str, rows: Sequence[Row], labels: Iterable[str], found: dict[str, float] | None = None
) -> list[str]:
    """The lines of a network in the table, one for each length; the bits are in the last one."""
    width = max(map(len, labels))
    text = []
    for n, row in enumerate(rows):
        c = "-" if row["log10_cc"] is None else f"{row['log10_cc']:.2f}"
        far: Any = row["horizon"]
        reach = f"{far:.0f}" if np.isfinite(far) else f"> {row['length']}"
        line = (
            f"{label if n == 0 else '':{width}}  {row['length']:>6}  {row['log10_hh']:>15.2f}  {c:>9}  "
            f"{row['decades_per_100']:>7.2f}  {reach:>7}"
        )
        if found is not None and n == len(rows) - 1:
            line += f"  {found['last']:>9.2f}  {found['held_out']:>8.2f}"
        text.append(line)
    return text


LEGEND = f"""\
Medians over the samples. log10 dh_T/dh_0, dC_T/dC_0: of the norm, over all T steps. per 100: decades that
|dh_T/dh_k| loses in 100 steps. horizon: lag at which it has fallen to {HORIZON_FACTOR:g}."""


def autodiff_line(rows: dict[str, list[Row]], labels: dict[str, str]) -> str:
    """A sentence: from which lag on plain autodiff returns 0."""
    plain = {name: rows[name][-1]["autodiff_zero_from"] for name in labels}
    gone = [f"{labels[name]} from lag {lag}" for name, lag in plain.items() if lag is not None]
    return (
        f"Plain float32 autodiff of the untrained networks returns exactly 0: "
        f"{'; '.join(gone) if gone else 'nowhere'}."
    )
