"""Language modelling: texts, vocabularies, and how a text is cut into batches."""

from lstm_jax.language.batches import Batch, contiguous, contiguous_from_offset, steps_per_epoch
from lstm_jax.language.corpora import load_corpus
from lstm_jax.language.generate import Generated, generate
from lstm_jax.language.model import (
    LanguageModel,
    LanguageParams,
    language_model,
    nats_per_token,
    token_loss,
)
from lstm_jax.language.text import Corpus, embedded_text, encode, one_hot, read_text, windows
from lstm_jax.language.training_problem import language_problem
from lstm_jax.language.vocabulary import (
    TextError,
    Vocabulary,
    character_vocabulary,
    frequency_vocabulary,
    words,
)

__all__ = [
    "Batch",
    "Corpus",
    "Generated",
    "LanguageModel",
    "LanguageParams",
    "TextError",
    "Vocabulary",
    "character_vocabulary",
    "contiguous",
    "contiguous_from_offset",
    "embedded_text",
    "encode",
    "frequency_vocabulary",
    "generate",
    "language_model",
    "language_problem",
    "load_corpus",
    "nats_per_token",
    "one_hot",
    "read_text",
    "steps_per_epoch",
    "token_loss",
    "windows",
    "words",
]
