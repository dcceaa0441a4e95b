"""``lstm-jax train``: a language model of a text, as a run that can be killed, resumed and used."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import optax
import tyro

from lstm_jax.cells import Cell, gru, lstm, rnn
from lstm_jax.command_line.evaluate_command import shown
from lstm_jax.language import (
    Corpus,
    LanguageModel,
    contiguous_from_offset,
    embedded_text,
    language_model,
    language_problem,
    load_corpus,
    log_frequency,
    nats_per_token,
    read_text,
    split_text,
    steps_per_epoch,
)
from lstm_jax.layers.stack import stack
from lstm_jax.models_on_disk import load, save
from lstm_jax.training import RunOptions, fit
from lstm_jax.training import load as load_run

FILE = "model.safetensors"
NAMES = ("embedded", "timemachine", "ptb")
"""Texts that have a name; ``embedded`` is part of Python, the others are downloaded once."""
ROWS = 16
"""Pieces of a held-out text that are read side by side."""


@dataclass(frozen=True)
class Train:
    """Train a language model on a text file."""

    text: Annotated[str, tyro.conf.Positional]
    """A text file in UTF-8, or a text that has a name: embedded, timemachine, ptb."""
    out: Path = Path("run")
    """Folder of the run: log, checkpoints, and the best model as one file."""
    tokens: Literal["characters", "words"] = "characters"
    """What the model predicts."""
    min_count: int = 1
    """Rarer tokens become <unk>."""
    valid: float = 0.05
    """Share of the text for validation, before that for the test; 0 for none."""
    test: float = 0.05
    """Share of the text for the test, its end; 0 for none."""
    kind: Literal["lstm", "gru", "rnn"] = "lstm"
    """The kind of the cells."""
    layers: int = 1
    """Recurrent layers."""
    hidden_size: int = 256
    """Units of each layer."""
    embedding_size: int = 64
    """Size of a token's vector."""
    dropout: float = 0.0
    """Rate on the vectors, between layers and on the outputs."""
    epochs: int = 20
    """Passes through the text, those of an earlier part of the run included."""
    patience: int | None = None
    """End after so many epochs without a better validation."""
    batch_size: int = 32
    """Rows of a batch."""
    length: int = 64
    """Tokens of a row in a batch, through which gradients go back."""
    learning_rate: float = 3e-3
    """Adam's."""
    clip: float = 1.0
    """Bound on the norm of the gradient."""
    backend: Literal["auto", "loop", "cpu_kernel"] = "auto"
    """Who runs the recurrent layers; auto is the fastest."""
    seed: int = 0
    """Seed of everything random."""
    resume: bool = False
    """Go on from the last checkpoint in --out."""
    overwrite: bool = False
    """Replace the run in --out."""


def run_train(config: Train) -> None:
    """Train, evaluate the best parameters on the test part, and keep them as one file."""
    _check(config)
    corpus = _corpus(config)
    epoch = steps_per_epoch(len(corpus.codes), config.batch_size, config.length, offset=True)
    model = _model(config, corpus)
    held: dict[str, Any] = {"valid": corpus.valid, "test": corpus.test}
    rows = {name: _rows(codes) for name, codes in held.items()}

    def batch(codes: Any, step: Any, key: Any) -> Any:
        return contiguous_from_offset(codes, step, config.batch_size, config.length, key)

    def evaluate(params: Any) -> dict[str, float]:
        return {
            "valid_nats": nats_per_token(model, params, held["valid"], batch_size=rows["valid"])
        }

    measured = evaluate if rows["valid"] else None
    problem = language_problem(
        model, batch, config.batch_size, vocabulary=corpus.vocabulary, backend=config.backend
    )
    # The text and the seed are told by the run itself: the text by its checksum, wherever it lies.
    other = {"text", "out", "epochs", "patience", "resume", "overwrite", "seed"}
    settings = {name: one for name, one in asdict(config).items() if name not in other}
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.clip), optax.adam(config.learning_rate)
    )
    sizes = sum(
        leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0)))
    )
    print(
        f"{corpus.name}: {len(corpus.codes):,} {config.tokens} to train on, vocabulary "
        f"{corpus.vocabulary.size:,}; {config.kind} {config.layers} × {config.hidden_size}, {sizes:,} "
        f"parameters; {config.epochs} epochs of {epoch:,} steps",
        flush=True,
    )
    fitted = fit(
        problem,
        optimizer,
        config.epochs * epoch,
        seed=config.seed,
        data=corpus.codes,
        folder=config.out,
        options=RunOptions(
            settings=settings,
            resume=config.resume,
            overwrite=config.overwrite,
            log_every=epoch,
            checkpoint_every=epoch,
            evaluate_every=None if measured is None else epoch,
            evaluate=measured,
            best=None if measured is None else "valid_nats",
            patience=config.patience,
            unit=("tokens", config.batch_size * config.length),
        ),
    )
    if fitted.log:  # It may be lost, and nothing left to do.
        print(f"train       {shown(fitted.log[-1]['nats'], config.tokens)}")
    best = load(config.out)
    if fitted.best is not None:
        measured_there = load_run(config.out, "best").measured["valid_nats"]
        print(
            f"validation  {shown(measured_there, config.tokens)}; the best, after epoch "
            f"{fitted.best / epoch:g}"
        )
    if rows["test"]:
        nats = nats_per_token(model, best.params, held["test"], batch_size=rows["test"])
        print(f"test        {shown(nats, config.tokens)}")
    save(config.out / FILE, best.net, best.params, vocabulary=best.vocabulary)
    print(f"Written to {config.out}; the model alone is {config.out / FILE}")
    print(f"Let it write: lstm-jax generate {config.out} --prompt TEXT")


def _check(config: Train) -> None:
    """Refuse what would fail only after the text is read."""
    for name in (
        "min_count",
        "layers",
        "hidden_size",
        "embedding_size",
        "epochs",
        "batch_size",
        "length",
    ):
        if getattr(config, name) < 1:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"Range mismatch: expected {option} of at least 1, got {getattr(config, name)}."
            )
    if config.patience is not None and (config.patience < 1 or not config.valid):
        raise ValueError(
            "Option mismatch: expected --patience of at least 1, with --valid above 0, got "
            f"{config.patience} and {config.valid:g}."
        )
    for name in ("learning_rate", "clip"):
        if not 0 < getattr(config, name) < math.inf:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"Range mismatch: expected {option} above 0, got {getattr(config, name):g}."
            )


def _corpus(config: Train) -> Corpus:
    options: dict[str, Any] = {"kind": config.tokens, "min_count": config.min_count}
    options |= {"valid": config.valid, "test": config.test}
    if config.text not in NAMES:
        path = Path(config.text)
        return split_text(read_text(path), path.name, **options)
    if config.text == "embedded":
        return split_text(embedded_text(), "embedded", **options)
    found = load_corpus(config.text)
    if found.valid is None:
        return split_text(found.vocabulary.decode(found.codes), found.name, **options)
    if found.vocabulary.kind != config.tokens:
        raise ValueError(
            f"Text mismatch: expected --tokens {found.vocabulary.kind}, those of {found.name}, got "
            f"{config.tokens}."
        )
    return found


def _model(config: Train, corpus: Corpus) -> LanguageModel:
    make: Any = {"lstm": lstm, "gru": gru, "rnn": rnn}[config.kind]
    sizes = [config.embedding_size, *[config.hidden_size] * config.layers]
    cells: list[Cell] = [make(*pair) for pair in zip(sizes, sizes[1:], strict=False)]
    return language_model(
        stack(*cells, dropout=config.dropout),
        corpus.vocabulary.size,
        dropout=config.dropout,
        b_y_init=log_frequency(corpus.codes, corpus.vocabulary.size),
    )


def _rows(codes: Any) -> int:
    """Rows in which a held-out text is read: fewer for a short one, none without."""
    return 0 if codes is None or len(codes) < 2 else min(ROWS, len(codes) // 2)
