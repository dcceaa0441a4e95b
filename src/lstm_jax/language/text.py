"""Read texts, encode them as numbers, and cut windows from them.

Axes: codes[tokens]; windows[T, B], time first, of int32 codes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.array_types import Array, Float, Int
from lstm_jax.language.token_codes import checked_codes
from lstm_jax.language.vocabulary import (
    Kind,
    TextError,
    Vocabulary,
    character_vocabulary,
    frequency_vocabulary,
    words,
)
from lstm_jax.validation import (
    AnyPath,
    require_floating_dtype,
    require_key,
    require_number,
    require_one_of,
    require_path,
    require_positive_int,
    require_text,
)


class Corpus(NamedTuple):
    """A text as codes.

    Attributes:
        name: of the text.
        vocabulary: its tokens, from the part to train on.
        codes: the part to train on, each token as its number in the vocabulary.
        valid: the validation part, if the text has one.
        test: the test part, if the text has one.
    """

    name: str
    vocabulary: Vocabulary
    codes: Int[np.ndarray, "tokens"]
    valid: Int[np.ndarray, "validation_tokens"] | None = None
    test: Int[np.ndarray, "test_tokens"] | None = None


def embedded_text() -> str:
    """The Python language reference, English prose that is part of every CPython (`pydoc_data.topics`).

    Raises:
        TextError: a Python that was packaged without it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise TextError(
            "Missing text: expected this Python to carry pydoc_data.topics, got none; name a text "
            "file instead."
        ) from None
    return "\n".join(topics[name] for name in sorted(topics))


def read_text(path: AnyPath) -> str:
    """Read a text file as UTF-8.

    Raises:
        TextError: a file that is missing, unreadable, empty, or not UTF-8.
    """
    path = require_path("path", path)
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise TextError(
            f"Unreadable text: expected a text file, got {path} ({error.strerror})."
        ) from None
    except UnicodeDecodeError as error:
        raise TextError(
            f"Undecodable text: expected UTF-8 in {path}, got byte "
            f"0x{error.object[error.start]:02x} at position {error.start}."
        ) from None
    if not text.strip():
        raise TextError(f"Empty text: expected characters in {path}, got none.")
    return text


def encode(text: str, name: str) -> Corpus:
    """Number the distinct characters of a text, in order, and encode the text.

    Raises:
        TextError: a text with fewer than two distinct characters.
        TypeError: a text or a name that is no text.

    Example:
        >>> from lstm_jax.language import encode
        >>> corpus = encode("abba", "example")
        >>> corpus.vocabulary.tokens, corpus.codes.tolist()
        (('a', 'b'), [0, 1, 1, 0])
    """
    require_text("name", name)
    vocabulary = character_vocabulary(text)
    if vocabulary.size < 2:
        raise TextError(
            f"Uniform text: expected at least two distinct characters in {name}, "
            f"got {vocabulary.size}."
        )
    return Corpus(name, vocabulary, vocabulary.encode(text))


def split_text(
    text: str,
    name: str,
    *,
    kind: Kind = "characters",
    min_count: int = 1,
    valid: float = 0.05,
    test: float = 0.05,
) -> Corpus:
    """A text in numbers, its end held out: a part to train on, one for validation, one for the test.

    The vocabulary is that of the part to train on, by falling frequency after ``<unk>``, which stands for
    every other token.

    Args:
        text: of characters, or of words with blanks between them.
        name: of the text.
        kind: ``"characters"`` or ``"words"``.
        min_count: rarer tokens become ``<unk>``.
        valid: share of the tokens for validation, from 0 to below 1.
        test: share of the tokens for the test, the last ones.

    Returns:
        `Corpus`; a part of share 0 is None.

    Raises:
        ValueError: an unknown kind, a count that is not positive, or shares that leave nothing to train on.
        TextError: a text with fewer than two different tokens to train on.

    Example:
        >>> from lstm_jax.language import split_text
        >>> corpus = split_text("the cat the dog the cat " * 10, "cats", kind="words", valid=0.1, test=0.1)
        >>> corpus.vocabulary.tokens, corpus.codes.shape, corpus.valid.tolist()
        (('<unk>', 'the', 'cat', 'dog'), (48,), [1, 2, 1, 3, 1, 2])
    """
    require_text("text", text)
    require_text("name", name)
    require_one_of("kind", kind, ("characters", "words"))
    for option, share in (("valid", valid), ("test", test)):
        require_number(option, share, least=0)
    if not valid + test < 1:
        raise ValueError(
            f"Range mismatch: expected valid and test of less than 1 together, got {valid:g} and {test:g}."
        )
    tokens: Any = words(text) if kind == "words" else text
    ends = len(tokens) - np.cumsum([int(len(tokens) * test), int(len(tokens) * valid)])[::-1]
    train = tokens[: ends[0]]
    vocabulary = frequency_vocabulary(train, kind, min_count=min_count)
    if vocabulary.size < 3:
        raise TextError(
            f"Uniform text: expected at least two different {kind} in {name}, got {vocabulary.size - 1}."
        )
    parts = (tokens[ends[0] : ends[1]], tokens[ends[1] :])
    held = [vocabulary.encode(part) if len(part) else None for part in parts]
    return Corpus(name, vocabulary, vocabulary.encode(train), *held)


def windows(
    key: Array, codes: Int[Array, "tokens"], length: int, batch_size: int
) -> Int[Array, "time batch"]:
    """Cut ``batch_size`` windows of ``length`` tokens at random places.

    Args:
        key: a random key.
        codes: the text, at least ``length`` tokens.
        length: T, static.
        batch_size: B, static.

    Raises:
        TextError: a text shorter than ``length``, or codes that are negative or beyond int32.
        ShapeError, DtypeError, TypeError: codes that are not whole numbers [N], or no key.
        ValueError: a size that is not a positive integer.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from lstm_jax.language import windows
        >>> cut = windows(jax.random.key(0), jnp.arange(100), length=3, batch_size=2)
        >>> (cut[1:] - cut[:-1]).tolist()
        [[1, 1], [1, 1]]
    """
    require_key(key)
    require_positive_int("length", length)
    require_positive_int("batch_size", batch_size)
    codes = jnp.asarray(checked_codes("codes", codes, axes="tokens", least=length))
    starts = jax.random.randint(key, (batch_size,), 0, codes.shape[0] - length + 1, jnp.int32)
    steps = jnp.arange(length, dtype=jnp.int32)
    return codes[starts[None, :] + steps[:, None]]


def one_hot(codes: Int[Array, "*axes"], size: int, dtype: Any) -> Float[Array, "*axes d"]:
    """Codes as unit vectors.

    Args:
        codes: whole numbers from 0 to below ``size``, of any shape.
        size: V, the size of the vectors.
        dtype: a floating one.

    Raises:
        TextError: codes out of range.
        DtypeError, TypeError: codes that are not whole numbers, or a dtype that is not a floating one.
        ValueError: a size that is not a positive integer.

    Example:
        >>> import jax.numpy as jnp
        >>> from lstm_jax.language import one_hot
        >>> one_hot(jnp.array([2, 0]), 3, jnp.float32).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    require_positive_int("size", size)
    codes = checked_codes("codes", codes, size)
    return jax.nn.one_hot(codes, size, dtype=require_floating_dtype(dtype))
