"""The settings of the experiment: the book's in three forms, and a whole book with a held-out part."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import optax

from experiments.char_lm import scratch
from lstm_jax import lstm, stack
from lstm_jax.language import (
    Corpus,
    LanguageModel,
    LanguageParams,
    contiguous_from_offset,
    language_model,
    language_problem,
    steps_per_epoch,
)
from lstm_jax.training import Problem


@dataclass(frozen=True)
class Setting:
    """One network and how it is trained.

    Attributes:
        label: its name in tables.
        layers: how many.
        by_hand: whether the cell is the one written from scratch, with autodiff.
        uniform: whether that one begins with the library's initialisation, and not the book's.
        hidden_size: H.
        batch_size: rows.
        length: steps of a batch.
        epochs: through the text.
        learning_rate: of plain gradient descent; of Adam at its peak where there is an embedding.
        clip: global norm of the gradient.
        embedding_size: of the tokens; one-hot if None.
        dropout: on embedding, between layers and on the outputs.
        tokens: how many of the text's first are read; all if None.
        held_out: share of the text, at its end, for testing; validation takes the same share before it.
        expected: largest training perplexity of a successful run.
        published: what Dive into Deep Learning prints, perplexity and tokens per second on one GPU.
    """

    label: str
    layers: int = 1
    by_hand: bool = False
    uniform: bool = False
    hidden_size: int = 256
    batch_size: int = 32
    length: int = 35
    epochs: int = 500
    learning_rate: float = 1.0
    clip: float = 1.0
    embedding_size: int | None = None
    dropout: float = 0.0
    tokens: int | None = 10_000
    held_out: float = 0.0
    expected: float | None = None
    published: tuple[float, int] | None = None


SETTINGS = {
    "scratch": Setting("cell from scratch", by_hand=True, published=(1.3, 17_736)),
    "scratch_uniform": Setting(
        "cell from scratch, begun as the library's", by_hand=True, uniform=True, expected=1.1
    ),
    "library": Setting("lstm_jax, one layer", expected=1.1, published=(1.1, 234_815)),
    "two_layers": Setting(
        "lstm_jax, two layers", layers=2, learning_rate=2.0, published=(1.0, 186_006)
    ),
    "book": Setting(
        "whole book, two layers",
        layers=2,
        length=100,
        epochs=30,
        learning_rate=2e-3,
        embedding_size=64,
        dropout=0.3,
        tokens=None,
        held_out=0.05,
    ),
}


class Parts(NamedTuple):
    """A text cut for a setting; the parts that are held out may be empty."""

    train: Any
    valid: Any
    test: Any


class Ready(NamedTuple):
    """A setting made ready for a vocabulary: the problem, and how its parameters become the library's."""

    net: LanguageModel
    problem: Problem
    optimizer: optax.GradientTransformation
    to_library: Callable[[Any], LanguageParams]
    steps_per_epoch: int


def cut(corpus: Corpus, setting: Setting) -> Parts:
    """The text's first tokens, or the whole in parts."""
    codes = corpus.codes if setting.tokens is None else corpus.codes[: setting.tokens]
    size = int(len(codes) * setting.held_out)
    end = len(codes) - 2 * size
    return Parts(codes[:end], codes[end : end + size], codes[end + size :])


def ready(setting: Setting, vocabulary_size: int, tokens: int) -> Ready:
    """The network, the problem and the optimizer of a setting.

    Raises:
        TextError: a text too short for a batch.
    """
    epoch = steps_per_epoch(tokens, setting.batch_size, setting.length, offset=True)

    def batch(codes: Any, step: jax.Array, key: jax.Array) -> Any:
        return contiguous_from_offset(codes, step, setting.batch_size, setting.length, key)

    size, embedded = setting.hidden_size, setting.embedding_size
    cells = [lstm(embedded or vocabulary_size, size, forget_bias=0.0 if embedded is None else 1.0)]
    cells += [lstm(size, size, forget_bias=0.0 if embedded is None else 1.0)] * (setting.layers - 1)
    net = language_model(
        stack(*cells, dropout=setting.dropout),
        vocabulary_size,
        embedding=embedded is not None,
        dropout=setting.dropout,
    )
    clip = optax.clip_by_global_norm(setting.clip)
    if embedded is None:
        optimizer = optax.chain(clip, optax.sgd(setting.learning_rate))
    else:
        schedule = optax.cosine_decay_schedule(setting.learning_rate, setting.epochs * epoch)
        optimizer = optax.chain(clip, optax.adam(schedule))
    if setting.by_hand:
        problem = scratch.problem(
            vocabulary_size, size, setting.batch_size, batch, uniform=setting.uniform
        )
        return Ready(net, problem, optimizer, scratch.to_library, epoch)
    problem = language_problem(net, batch, setting.batch_size)
    return Ready(net, problem, optimizer, lambda params: params, epoch)
