r"""Which of nine speakers said /ae/: a bidirectional LSTM over padded sequences of 7 to 29 steps.

    ys = [h→_t, h←_t]                      one bidirectional layer, by `lstm_jax.unroll_stack` with lengths
    logits = (Σ_t ys_t / length) W + b     the mean over the steps of each sequence

Trained by `lstm_jax.training.fit` on batches of `lstm_jax.datasets`, with Adam and decoupled weight decay,
noise on the inputs, dropout on the mean, smoothed labels.

Axes: xs[T, B, D], lengths[B], labels[B]; W[2H, 9], b[9].
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.japanese_vowels.data import NAMES, find, read
from experiments.running import Mismatch, Refusal, exit_code, keep, parts_kept, table
from gradient_flow.command_line.memory import lstm_bytes, require_memory
from gradient_flow.results_folder import claim_folder
from lstm_jax import Sequences, Stack, StackParams, bidirectional, lstm, stack, unroll_stack
from lstm_jax.command_line.tyro_options import parse
from lstm_jax.datasets import SequenceBatch, batches, standardization_of
from lstm_jax.dropout import dropout, require_rate
from lstm_jax.initializers import uniform
from lstm_jax.training import Problem, RunOptions, fit, predict
from lstm_jax.validation import require_number, require_positive_int

Array = jax.Array

SPEAKERS = 9
LOGGED = 20
"""Steps whose mean loss is kept."""


@dataclass(frozen=True)
class Config:
    """Recognise nine speakers by how they say /ae/, with a bidirectional LSTM."""

    data: Path | None = None
    """Folder of JapaneseVowels_TRAIN.ts and _TEST.ts; if left out, japanese_vowels in $LSTM_JAX_DATA."""
    out: Path = Path("experiments/japanese_vowels/results")
    """Folder for the results."""
    overwrite: bool = False
    """Replace the results of a finished run."""
    seeds: int = 5
    """How many networks to train, with the seeds 0, 1, ..."""
    hidden_size: int = 64
    """Units in each direction."""
    steps: int = 600
    """Gradient steps."""
    batch_size: int = 32
    """Sequences in a batch."""
    buckets: int = 1
    """Lengths to which batches are padded."""
    learning_rate: float = 3e-3
    """Adam's learning rate at the first step; it falls to zero along half a cosine."""
    weight_decay: float = 1e-2
    """Adam's decoupled weight decay."""
    noise: float = 0.3
    """Standard deviation of the noise added to the standardised inputs."""
    dropout: float = 0.5
    """Dropout rate on the mean over time."""
    smoothing: float = 0.1
    """Share of each label that is spread over all classes."""
    expected: float = 97.0
    """Smallest test accuracy in percent of the median network in a successful run."""


class Model(NamedTuple):
    """The recurrent layer's parameters, and the readout ``w[2H, classes]``, ``b[classes]``."""

    layer: StackParams
    w: Any
    b: Any


def check(config: Config) -> None:
    """Refuse options that are out of range.

    Raises:
        Refusal: with the option in the message.
        TooLargeError: a network that does not fit into memory.
    """
    try:
        for name in ("seeds", "hidden_size", "steps", "batch_size", "buckets"):
            require_positive_int(name, getattr(config, name))
        require_number("learning_rate", config.learning_rate, above=0)
        for name in ("dropout", "smoothing"):
            require_rate(name, getattr(config, name))
    except ValueError as error:
        raise Refusal(str(error)) from None
    require_memory(
        "--hidden-size and --batch-size",
        2 * lstm_bytes(12, config.hidden_size, 30 * config.batch_size),
    )
    for name in ("weight_decay", "noise", "expected"):
        if not 0 <= getattr(config, name) < float("inf"):
            raise Refusal(
                f"Range mismatch: expected {name} of at least 0, got {getattr(config, name)!r}."
            )


def init(net: Stack, classes: int, key: Array) -> Model:
    """Draw a model."""
    key_layer, key_w = jax.random.split(key)
    w = uniform(net.output_size**-0.5)(key_w, (net.output_size, classes))
    return Model(net.init(key_layer), w, jnp.zeros(classes, w.dtype))


def logits(
    net: Stack, config: Config, model: Model, batch: SequenceBatch, key: Array | None = None
) -> Array:
    """Unnormalised log-probabilities [B, classes]; with a key, under noise and dropout."""
    xs, lengths = batch.xs, batch.lengths
    if key is not None:
        key_noise, key_drop = jax.random.split(key)
        xs = xs + config.noise * jax.random.normal(key_noise, xs.shape, xs.dtype)
    _, ys = unroll_stack(net, model.layer, xs, sequences=Sequences(lengths=lengths))
    # Past a sequence's length its outputs are zero, and add nothing to the sum.
    mean = ys.sum(0) / lengths[:, None].astype(ys.dtype)
    if key is not None:
        mean = dropout(key_drop, config.dropout, mean)
    scores = mean @ model.w
    return scores + jnp.broadcast_to(model.b, scores.shape)


def _optimizer(config: Config) -> optax.GradientTransformation:
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=config.weight_decay)
    )


def recognition(net: Stack, config: Config) -> Problem:
    """The training problem: the cross-entropy with smoothed labels."""

    def loss(
        model: Model, carry: None, batch: SequenceBatch, key: Array
    ) -> tuple[Array, tuple[None, dict[str, Array]]]:
        scores = logits(net, config, model, batch, key)
        targets = jax.nn.one_hot(batch.targets, SPEAKERS)
        smooth = optax.smooth_labels(targets, config.smoothing)
        return optax.softmax_cross_entropy(scores, smooth).mean(), (carry, {})

    return Problem(init=partial(init, net, SPEAKERS), loss=loss)


def network(config: Config, channels: int) -> Stack:
    """One bidirectional LSTM."""
    return stack(bidirectional(lstm(channels, config.hidden_size)))


def run(config: Config) -> None:
    """Train, test, print and keep.

    Raises:
        Refusal, OutputError: what cannot be run, before anything is.
        Mismatch: a median accuracy below the expected one, after the results are kept.
    """
    check(config)
    folder = find(config.data)
    training, test = (read(folder / name) for name in NAMES)
    for sequences in (training, test):
        if sequences.labels.min() < 0 or sequences.labels.max() >= SPEAKERS:
            raise Refusal(
                f"Data mismatch: expected labels from 1 to {SPEAKERS}, got "
                f"{sequences.labels.min() + 1} to {sequences.labels.max() + 1}."
            )
    if config.batch_size > len(training.labels):
        raise Refusal(
            f"Size mismatch: expected batch_size of at most {len(training.labels)}, the sequences to "
            f"train on, got {config.batch_size}."
        )
    scale = standardization_of(training.xs)
    made = batches(
        training.xs,
        training.labels,
        batch_size=config.batch_size,
        buckets=config.buckets,
        standardization=scale,
    )
    out = claim_folder(config.out, "japanese_vowels", overwrite=config.overwrite)
    net = network(config, training.xs[0].shape[-1])
    lengths = [len(x) for x in (*training.xs, *test.xs)]
    print(
        f"{len(training.labels)} sequences to train on, {len(test.labels)} to test on, "
        f"{training.xs[0].shape[-1]} channels, {min(lengths)} to {max(lengths)} steps; batches padded to "
        f"{' and '.join(map(str, made.bucket_lengths))}, {made.padding:.0%} of them padding"
    )
    started = time.perf_counter()
    accuracies: list[float] = []
    confusions = []
    # Every seed with the same batches, in one program.
    fitted = fit(
        recognition(net, config),
        _optimizer(config),
        config.steps,
        seed=tuple(range(config.seeds)),
        data=made,
        options=RunOptions(log_every=LOGGED),
    )
    losses = np.array([entry["loss"] for entry in fitted.log]).T
    scores = partial(logits, net, config)
    with parts_kept(out, {"accuracies": accuracies}):
        for seed in range(config.seeds):
            model = jax.tree.map(lambda leaf, seed=seed: leaf[seed], fitted.state.params)
            said = predict(
                scores, model, test.xs, batch_size=len(test.xs), standardization=scale
            ).argmax(-1)
            accuracies.append(100 * float(np.mean(said == test.labels)))
            confusion = np.zeros((SPEAKERS, SPEAKERS), np.int64)
            np.add.at(confusion, (test.labels, said), 1)
            confusions.append(confusion)
    seconds = time.perf_counter() - started
    median = float(np.median(accuracies))
    rows = [
        (str(seed), f"{accuracy:.2f}", f"{curve[-1]:.3f}")
        for seed, (accuracy, curve) in enumerate(zip(accuracies, losses, strict=True))
    ]
    tables = "\n\n".join(
        (
            table(
                "Test accuracy", ("seed", "accuracy %", f"loss of the last {LOGGED} steps"), rows
            ),
            table(
                "Who was taken for whom, all networks together (rows: who spoke)",
                ("speaker", *map(str, range(1, SPEAKERS + 1))),
                [
                    (str(n + 1), *map(str, row))
                    for n, row in enumerate(np.sum(confusions, axis=0).tolist())
                ],
            ),
            f"median {median:.2f} %, lowest {min(accuracies):.2f} %, highest {max(accuracies):.2f} % "
            f"of {config.seeds}; {seconds:.0f} s, {seconds / config.seeds:.0f} s a network",
        )
    )
    print(tables)
    keep(
        out,
        {"losses": losses, "confusion": np.stack(confusions)},
        {
            "accuracies": accuracies,
            "median": median,
            "seconds": seconds,
            "config": vars(config),
        },
        tables,
    )
    print(f"\nWritten to {out}")
    if median < config.expected:
        raise Mismatch(
            f"Accuracy mismatch: expected a median of at least {config.expected:g} %, got {median:.2f} %."
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run; the exit code."""
    config = parse(Config, "python -m experiments.japanese_vowels", arguments)
    return exit_code(lambda: run(config))
