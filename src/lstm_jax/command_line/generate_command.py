"""``lstm-jax generate``: what a language model writes after a prompt, as it comes."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from lstm_jax.command_line.saved_language_model import checkpoint_named, language_model_at
from lstm_jax.language import stream
from lstm_jax.language.vocabulary import UNKNOWN, TextError, Vocabulary


@dataclass(frozen=True)
class Generate:
    """Continue prompts with a trained language model."""

    model: Annotated[Path, tyro.conf.Positional]
    """The folder of a run of lstm-jax train, or a file of lstm_jax.save."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A text to continue; may be given several times."""
    length: int = 300
    """Tokens to write after each prompt."""
    temperature: float = 0.8
    """0 takes the most probable token each time, 1 draws as the model says."""
    top_k: int | None = None
    """Draw from so many of the most probable tokens."""
    top_p: float | None = None
    """Draw from the fewest most probable tokens that have this probability together."""
    seed: int = 0
    """Seed of what is drawn."""
    which: str | None = None
    """last, best, or the step of a checkpoint; the best one if the run has one."""


def run_generate(config: Generate) -> None:
    """Print each prompt and what follows it."""
    found = language_model_at(config.model, checkpoint_named(config.which))
    vocabulary: Vocabulary = found.vocabulary
    if not config.prompt:
        raise ValueError("Missing prompt: expected --prompt TEXT, got none.")
    options: dict[str, Any] = {"temperature": config.temperature}
    options |= {"top_k": config.top_k, "top_p": config.top_p}
    texts = []
    for number, prompt in enumerate(config.prompt):
        codes = vocabulary.encode(prompt)
        if not len(codes):
            raise TextError(f"Empty prompt: expected at least one token, got {prompt!r}.")
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        # Arguments of all prompts are checked before the first token.
        texts.append(
            (
                prompt,
                codes,
                stream(found.net, found.params, codes, config.length, key=key, **options),
            )
        )
    for number, (prompt, codes, pieces) in enumerate(texts):
        _say_unknown(vocabulary, prompt, codes)
        print("\n" * bool(number) + prompt, end="", flush=True)
        for piece in pieces:
            print(_continued(vocabulary, piece), end="", flush=True)
        print()


def _continued(vocabulary: Vocabulary, codes: np.ndarray) -> str:
    text = vocabulary.decode(codes)
    return text if vocabulary.kind == "characters" else f" {text}"


def _say_unknown(vocabulary: Vocabulary, prompt: str, codes: np.ndarray) -> None:
    """Say which tokens of a prompt are read as <unk>."""
    if vocabulary.unknown is None:
        return
    tokens = prompt if vocabulary.kind == "characters" else prompt.split()
    tokens = [token for token in tokens if token not in vocabulary.tokens and token != "\n"]
    if tokens:
        named = ", ".join(map(repr, dict.fromkeys(tokens)))
        print(f"note: not in the vocabulary, read as {UNKNOWN}: {named}", file=sys.stderr)
