r"""Word-level language models of the Penn Treebank as in Zaremba, Sutskever & Vinyals 2014, section 4.1.

    two LSTM layers, all parameters from U(−s, s), no forget bias
    back-propagation truncated at T steps, the states carried on; 20 rows
    loss summed over time, averaged over the rows; its gradient clipped at a global norm
    plain gradient descent, η = 1 for some epochs, then divided at each

Test perplexity is taken over the whole test text read as one sequence.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.running import Mismatch, Refusal, keep, table
from experiments.training import TrainingConfig, begin_run, claim_run, say, training_exit_code
from lstm_jax import lstm, stack
from lstm_jax.command_line.tyro_options import parse
from lstm_jax.initializers import uniform
from lstm_jax.language import (
    LanguageModel,
    contiguous,
    embedded_text,
    frequency_vocabulary,
    language_model,
    language_problem,
    load_corpus,
    nats_per_token,
    steps_per_epoch,
    words,
)
from lstm_jax.training import Computation, Fitted, fit, step_decay


class Size(NamedTuple):
    """One of the paper's settings: widths, schedule, and the perplexity that it reports."""

    hidden_size: int
    scale: float
    length: int
    dropout: float
    epochs: int
    hold: int
    factor: float
    clip: float
    published: float


SIZES = {
    "small": Size(200, 0.1, 20, 0.0, 13, 4, 2.0, 5.0, 114.5),
    "medium": Size(650, 0.05, 35, 0.5, 39, 6, 1.2, 5.0, 82.7),
    "large": Size(1500, 0.04, 35, 0.65, 55, 14, 1.15, 10.0, 78.4),
}
QUICK = Size(32, 0.1, 20, 0.0, 2, 1, 2.0, 5.0, math.inf)


@dataclass(frozen=True, kw_only=True)
class Config(TrainingConfig):
    """Train the word model of the Penn Treebank and report its perplexity."""

    size: Literal["small", "medium", "large"] = "small"
    """Which of the paper's settings."""
    data: Path | None = None
    """Folder of ptb.zip or of the three files in it; downloaded if not named."""
    out: Path = Path("experiments/ptb/results")
    """Folder for the run."""
    batch_size: int = 20
    """Rows of a batch."""
    epochs: int | None = None
    """Epochs; those of the paper if not given."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the loss and its gradient; parameters stay in float32."""
    accumulate: int = 1
    """Parts into which a batch is split, to save memory."""
    expected: float | None = None
    """Largest test perplexity of a successful run; if not given, 115 for the small model, none for others."""


def network(size: Size, vocabulary_size: int) -> LanguageModel:
    """Two layers, an embedding and a readout, all drawn from one distribution."""
    draw = uniform(size.scale)
    cell = lstm(
        size.hidden_size,
        size.hidden_size,
        forget_bias=0.0,
        w_x_init=draw,
        w_h_init=draw,
        b_init=draw,
    )
    return language_model(
        stack(cell, cell, dropout=size.dropout),
        vocabulary_size,
        dropout=size.dropout,
        embedding_init=draw,
        w_y_init=draw,
        b_y_init=draw,
    )


class Parts(NamedTuple):
    """A text in codes, cut in three."""

    name: str
    vocabulary_size: int
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def parts_of(config: Config) -> Parts:
    """The Penn Treebank; of a quick run, the words of Python's reference."""
    if not config.quick:
        found = load_corpus("ptb", config.data)
        codes: Any = (found.codes, found.valid, found.test)
        return Parts(found.name, found.vocabulary.size, *codes)
    tokens = words(embedded_text())[:30_000]
    vocabulary = frequency_vocabulary(tokens, "words", min_count=5)
    codes = vocabulary.encode(tokens)
    cut = np.split(codes, (24_000, 27_000))
    return Parts("pydoc_data.topics", vocabulary.size, *cut)


def train(
    config: Config, size: Size, net: LanguageModel, corpus: Parts, out: Path, mesh: Mesh | None
) -> Fitted:
    """The run itself; the state at its end and the log."""
    epoch = steps_per_epoch(len(corpus.train), config.batch_size, size.length)
    rate = step_decay(1.0, steps_per_epoch=epoch, hold=size.hold, factor=size.factor)
    # Learning rate and clipping norm are for the loss summed over time.
    optimizer = optax.chain(optax.clip_by_global_norm(size.clip), optax.sgd(rate))
    problem = language_problem(
        net,
        lambda codes, step, key: contiguous(codes, step, config.batch_size, size.length),
        config.batch_size,
        loss="time_sum",
        compute_dtype=config.compute_dtype,
    )

    def evaluate(params: Any) -> dict[str, float]:
        nats = nats_per_token(
            net, params, corpus.valid, batch_size=config.batch_size, length=size.length
        )
        return {"valid_perplexity": float(np.exp(nats))}

    begin_run(out)
    return fit(
        problem,
        optimizer,
        (config.epochs or size.epochs) * epoch,
        seed=config.seed,
        data=corpus.train,
        folder=out,
        options=dataclasses.replace(
            config.run_options(evaluate_every=epoch),
            settings={
                "size": size._asdict(),
                "batch_size": config.batch_size,
                "corpus": corpus.name,
                "quick": config.quick,
            },
            unit=("tokens", config.batch_size * size.length),
            evaluate=evaluate,
            best="valid_perplexity",
        ),
        computation=Computation(
            config.accumulate,
            None if config.compute_dtype == "float32" else config.compute_dtype,
            mesh,
        ),
    )


def run(config: Config) -> None:
    """Train, test, print and keep.

    Raises:
        Refusal, RunError, TextError, OutputError: what cannot be run, before anything is.
        Mismatch: a test perplexity above the expected one, after the results are kept.
    """
    size = QUICK if config.quick else SIZES[config.size]
    if config.watch_flow is not None:
        raise Refusal(
            "Option mismatch: expected --watch-flow with the experiments char_lm and long_lag, got it with "
            "ptb."
        )
    for name in ("epochs", "batch_size", "accumulate"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise Refusal(f"Range mismatch: expected {name} of at least 1, got {value}.")
    if config.batch_size % config.accumulate:
        raise Refusal(
            f"Size mismatch: expected a batch_size that accumulate={config.accumulate} divides, got "
            f"{config.batch_size}."
        )
    mesh = config.start()
    corpus = parts_of(config)
    out = claim_run(config.out, "ptb", config)
    net = network(size, corpus.vocabulary_size)
    say(
        f"{corpus.name}: {len(corpus.train):,} tokens to train on, {len(corpus.valid):,} to validate, "
        f"{len(corpus.test):,} to test; vocabulary {corpus.vocabulary_size:,}"
    )
    fitted = train(config, size, net, corpus, out, mesh)
    started = time.perf_counter()
    nats = nats_per_token(net, fitted.state.params, corpus.test, length=500)
    test = float(np.exp(nats))
    if jax.process_index():
        return
    # Before the first step there is an evaluation alone.
    log = [entry for entry in fitted.log if "nats" in entry]
    epochs = [entry for entry in log if "valid_perplexity" in entry]
    per_epoch = steps_per_epoch(len(corpus.train), config.batch_size, size.length)
    rows = [
        (
            str(entry["step"] // per_epoch),
            f"{math.exp(_mean(log, entry['step'] - per_epoch, entry['step'])):.2f}",
            f"{entry['valid_perplexity']:.2f}",
        )
        for entry in epochs
    ]
    tokens = fitted.log[-1]["step"] * config.batch_size * size.length
    tables = "\n\n".join(
        (
            table("Perplexity", ("epoch", "training", "validation"), rows),
            f"test perplexity {test:.2f} ({nats / math.log(2):.3f} bits a word), read as one sequence in "
            f"{time.perf_counter() - started:.0f} s; published {size.published:g}\n"
            f"{fitted.seconds / 60:.1f} minutes of training, {tokens / fitted.seconds:,.0f} tokens/s",
        )
    )
    print(tables)
    arrays = {"step": np.array([entry["step"] for entry in log])}
    arrays["nats"] = np.array([entry["nats"] for entry in log])
    keep(
        out,
        arrays,
        {
            "test_perplexity": test,
            "valid_perplexity": [entry["valid_perplexity"] for entry in epochs],
            "seconds": fitted.seconds,
            "config": vars(config),
        },
        tables,
    )
    print(f"\nWritten to {out}")
    expected = config.expected
    if expected is None and config.size == "small" and not config.quick:
        expected = 115.0
    if expected is not None and not test <= expected:
        raise Mismatch(
            f"Perplexity mismatch: expected at most {expected:g} on the test text, got {test:.2f}."
        )


def _mean(log: list[dict[str, Any]], begin: int, end: int) -> float:
    """The mean loss of the steps begin … end, entry by entry with the steps that each stands for."""
    total, count, before = 0.0, 0, 0
    for entry in log:
        if begin < entry["step"] <= end:
            total += entry["nats"] * (entry["step"] - before)
            count += entry["step"] - before
        before = entry["step"]
    return total / count


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run; the exit code."""
    config = parse(Config, "python -m experiments.ptb", arguments)
    return training_exit_code(lambda: run(config))
