"""``lstm-jax evaluate``: how well a language model predicts a text."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from lstm_jax.command_line.saved_language_model import checkpoint_named, language_model_at
from lstm_jax.language import nats_per_token, read_text

LARGEST = math.log(np.finfo(float).max)
"""Nats whose perplexity is still a number."""


@dataclass(frozen=True)
class Evaluate:
    """Measure how well a trained language model predicts a text."""

    model: Annotated[Path, tyro.conf.Positional]
    """The folder of a run of lstm-jax train, or a file of lstm_jax.save."""
    text: Annotated[Path, tyro.conf.Positional]
    """A text file in UTF-8."""
    rows: int = 1
    """Pieces of the text that are read side by side: faster, but each begins without a past."""
    which: str | None = None
    """last, best, or the step of a checkpoint; the best one if the run has one."""


def run_evaluate(config: Evaluate) -> None:
    """Print nats and bits a token, and the perplexity."""
    found = language_model_at(config.model, checkpoint_named(config.which))
    text = read_text(config.text)
    codes = found.vocabulary.encode(text)
    nats = nats_per_token(found.net, found.params, codes, batch_size=config.rows)
    print(f"{config.text}: {len(codes):,} {found.vocabulary.kind}")
    if found.vocabulary.unknown is not None:
        share = float(np.mean(codes == found.vocabulary.unknown))
        print(f"not in the vocabulary: {100 * share:.2f} %")
    print(shown(nats, found.vocabulary.kind))


def shown(nats: float, kind: str) -> str:
    """Nats a token in the three ways that papers give them."""
    one = kind.removesuffix("s")
    # Of a model that learned nothing it may be beyond all numbers.
    perplexity = math.exp(nats) if nats < LARGEST else math.inf
    return f"{nats:.4f} nats, {nats / math.log(2):.4f} bits per {one}; perplexity {perplexity:.3f}"
