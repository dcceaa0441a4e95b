r"""A course's word model, trained with the right gradient and with the course's: what does the fault cost?

    one LSTM of 128 units over one-hot words; every weight N(0, 1) · √(2/Z), Z = words + 128, biases 0
    back-propagation truncated at 20 steps, the states carried on; 20 rows

    SGD    rate 1 on the loss summed over time, its gradient clipped at 5, as for the published word model
    Adam   rate 0.002 on the mean loss, its gradient clipped at 1

Run by ``python -m experiments.derivation_audit.words --data FOLDER``, with the Penn Treebank's ``ptb.zip``
in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.derivation_audit.wrong_training import through, wrong_step_from
from experiments.running import Refusal, exit_code, keep, table
from gradient_flow.results_folder import claim_folder
from lstm_jax import LSTMState, unroll
from lstm_jax.array_types import Array
from lstm_jax.command_line.exit_codes import leave
from lstm_jax.command_line.tyro_options import parse
from lstm_jax.language import TextError, embedded_text, frequency_vocabulary, load_corpus, words

ROWS, STEPS = 20, 20
TRIALS = (
    ("SGD", "none"),
    ("SGD", "tanh' of tanh"),
    ("SGD", "both of derivation 3"),
    ("Adam", "none"),
    ("Adam", "both of derivation 3"),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train a word model with the right gradient, and with a published wrong one."""

    data: Path | None = None
    """Folder of ptb.zip, or of the three files in it; downloaded if not named."""
    epochs: int = 2
    """Passes over the text."""
    seeds: int = 3
    """Networks of each trial, trained side by side."""
    quick: bool = False
    """Small, on the words of Python's reference: no result."""
    out: Path = Path("experiments/derivation_audit/results/words")
    """Folder for the results."""
    overwrite: bool = False
    """Replace the results of a finished run."""


class WordModel(NamedTuple):
    """Parameters; w_x[V, 4H] has a row for each word."""

    w_x: Any
    w_h: Any
    b: Any
    v: Any
    b_y: Any


def begin(key: Array, vocabulary: int, size: int) -> WordModel:
    """A model before training."""
    scale = (2 / (vocabulary + size)) ** 0.5
    key_x, key_h, key_v = jax.random.split(key, 3)
    return WordModel(
        scale * jax.random.normal(key_x, (vocabulary, 4 * size)),
        scale * jax.random.normal(key_h, (size, 4 * size)),
        jnp.zeros(4 * size),
        scale * jax.random.normal(key_v, (size, vocabulary)),
        jnp.zeros(vocabulary),
    )


def nats(model: WordModel, state: LSTMState, codes: Array, fault: str) -> tuple[Array, LSTMState]:
    """The mean loss of the next word, and the last state; codes[T + 1, B]."""
    step = partial(wrong_step_from, fault=fault)
    z_x = model.w_x[codes[:-1]] + model.b[None, None]
    last, hs = unroll(step, model.w_h, z_x, state)
    logits = through(fault)(hs @ model.v + model.b_y[None, None])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, codes[1:])
    return losses.mean(), last


def windows(codes: np.ndarray) -> np.ndarray:
    """The text in `ROWS` rows, cut into windows that overlap by a word, [windows, STEPS + 1, ROWS]."""
    length = (len(codes) - 1) // ROWS
    count = length // STEPS
    rows = np.stack([codes[n * length : n * length + count * STEPS + 1] for n in range(ROWS)])
    cut = [rows[:, n * STEPS : (n + 1) * STEPS + 1].T for n in range(count)]
    return np.stack(cut).astype(np.int32)


def zeros(size: int) -> LSTMState:
    """The state at the beginning of the text."""
    return LSTMState(jnp.zeros((ROWS, size)), jnp.zeros((ROWS, size)))


def trained(
    optimizer_name: str,
    fault: str,
    parts: Sequence[np.ndarray],
    vocabulary: int,
    size: int,
    config: Config,
) -> list[list[float]]:
    """Validation perplexity after each epoch of each seed, [seeds, epochs]."""  # fmt: skip
    train, valid = (jnp.asarray(windows(part)) for part in parts)
    if optimizer_name == "SGD":
        optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.sgd(1.0))
    else:
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-3))
    # Rate and clip of SGD are those of the loss summed over time.
    weight = float(STEPS) if optimizer_name == "SGD" else 1.0

    def update(carry: Any, codes: Array) -> tuple[Any, Array]:
        model, state, opt = carry

        def loss(model: WordModel) -> tuple[Array, LSTMState]:
            value, last = nats(model, state, codes, fault)
            return weight * value, last

        (value, state), slopes = jax.value_and_grad(loss, has_aux=True)(model)
        moves, opt = optimizer.update(slopes, opt, model)
        return (optax.apply_updates(model, moves), state, opt), value

    @jax.jit
    def epoch(models: WordModel, opts: Any) -> tuple[Any, Any, Array]:
        def one(model: WordModel, opt: Any) -> tuple[Any, Any, Array]:
            (model, _, opt), _ = jax.lax.scan(update, (model, zeros(size), opt), train)

            def look(state: LSTMState, codes: Array) -> tuple[LSTMState, Array]:
                value, state = nats(model, state, codes, "none")
                return state, value

            return model, opt, jnp.exp(jax.lax.scan(look, zeros(size), valid)[1].mean())

        return jax.vmap(one)(models, opts)

    keys = jax.random.split(jax.random.key(5), config.seeds)
    models = jax.vmap(lambda key: begin(key, vocabulary, size))(keys)
    opts = jax.vmap(optimizer.init)(models)
    found = []
    for n in range(config.epochs):
        models, opts, perplexity = epoch(models, opts)
        found.append(np.asarray(perplexity))
        print(f"{optimizer_name}, {fault}, epoch {n + 1}: {found[-1]}", flush=True)
    return np.stack(found, 1).tolist()


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each optimizer and fault."""
    lines = []
    for row in rows:
        by_epoch = np.array(row["perplexity"]).T
        cells = [f"{np.median(p):.1f} ({p.min():.1f} … {p.max():.1f})" for p in by_epoch]
        lines.append([row["optimizer"], row["fault"], *cells])
    count = len(lines[0]) - 2
    header = ("optimizer", "fault", *(f"epoch {n + 1}" for n in range(count)))
    return table("Validation perplexity, median (extremes) of the seeds", header, lines)


def run(config: Config) -> None:
    """Train with and without the fault, print and keep.

    Raises:
        Refusal, TextError, OutputError: what cannot be run, before anything is.
    """
    for name in ("epochs", "seeds"):
        if getattr(config, name) < 1:
            raise Refusal(
                f"Range mismatch: expected --{name} of at least 1, got {getattr(config, name)}."
            )
    if config.quick:
        tokens = words(embedded_text())[:9_000]
        vocabulary = frequency_vocabulary(tokens, "words", min_count=5)
        codes = vocabulary.encode(tokens)
        parts, count, size = (codes[:8_000], codes[8_000:]), vocabulary.size, 16
    else:
        corpus = load_corpus("ptb", config.data)
        valid = np.asarray(corpus.valid)
        parts, count, size = (corpus.codes, valid), corpus.vocabulary.size, 128
    claim_folder(config.out, "derivation_audit_words", overwrite=config.overwrite)
    rows = [
        {
            "optimizer": name,
            "fault": fault,
            "perplexity": trained(name, fault, parts, count, size, config),
        }
        for name, fault in TRIALS
    ]
    text = tables(rows)
    keep(config.out, {}, {"quick": config.quick, "rows": rows}, text)
    print(text)
    print(f"\nWritten to {config.out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run; the exit code."""
    config = parse(Config, "python -m experiments.derivation_audit.words", arguments)
    return exit_code(lambda: run(config), refused=(TextError,))


if __name__ == "__main__":
    leave(main())
