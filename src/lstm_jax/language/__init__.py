"""Language modelling: texts, vocabularies, batches, models, generation.

Start with `model`: embedding, stack and readout, and their loss. `corpora` loads a text, `vocabulary` and
`text` turn it into codes, `token_codes` checks those, `batches` cuts them. `training_problem` makes the
problem for `lstm_jax.training.fit`, and `generate` continues a prompt. `download` fetches a text and checks
it.

May import: `cells`, `time_loop`, `backends`, `layers`, `training` and the files at the root.
"""

from lstm_jax.language.batches import Batch, contiguous, contiguous_from_offset, steps_per_epoch
from lstm_jax.language.corpora import load_corpus
from lstm_jax.language.generate import Generated, generate, stream
from lstm_jax.language.model import (
    LanguageModel,
    LanguageParams,
    language_model,
    log_frequency,
    nats_per_token,
    token_loss,
)
from lstm_jax.language.text import (
    Corpus,
    embedded_text,
    encode,
    one_hot,
    read_text,
    split_text,
    windows,
)
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
    "log_frequency",
    "nats_per_token",
    "one_hot",
    "read_text",
    "split_text",
    "steps_per_epoch",
    "stream",
    "token_loss",
    "windows",
    "words",
]
