"""A language model and its vocabulary as values for JSON, and the model built from them.

    {"kind": "language_model", "stack": …, "vocabulary_size": 28, "embedding": true, "tied": false,
     "dropout": 0.0}

Initialisers are not in it: what is built has the defaults, which do not affect trained parameters.
"""

from typing import Any

from lstm_jax.language.model import LanguageModel, language_model
from lstm_jax.language.vocabulary import Vocabulary, require_vocabulary
from lstm_jax.layers.description import described, network_of

KIND = "language_model"
OPTIONS = ("vocabulary_size", "embedding", "tied", "dropout")


def described_model(model: LanguageModel) -> dict[str, Any]:
    """A language model as values for JSON.

    Raises:
        TypeError: a cell with a function of one's own in its stack.
    """
    options = {name: getattr(model, name) for name in OPTIONS}
    options["dropout"] = float(model.dropout)
    return {"kind": KIND, "stack": described(model.stack)} | options


def model_of(description: dict[str, Any]) -> LanguageModel:
    """The inverse of `described_model`, with the default initialisers.

    Raises:
        KeyError, TypeError, ValueError: no such description.
    """
    options = {name: value for name, value in description.items() if name not in ("kind", "stack")}
    stack = network_of(description["stack"])
    return language_model(stack, options.pop("vocabulary_size"), **options)


def described_vocabulary(vocabulary: Vocabulary) -> dict[str, Any]:
    """A vocabulary as values for JSON.

    Raises:
        TypeError, TextError: tokens that are not different texts.
    """
    require_vocabulary(vocabulary)
    return vocabulary._asdict() | {"tokens": list(vocabulary.tokens)}


def vocabulary_of(description: dict[str, Any]) -> Vocabulary:
    """The inverse of `described_vocabulary`.

    Raises:
        KeyError, TypeError, ValueError: no such description.
    """
    vocabulary = Vocabulary(**{**description, "tokens": tuple(description["tokens"])})
    require_vocabulary(vocabulary)
    return vocabulary
