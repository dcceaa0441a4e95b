"""Vocabularies: the tokens of a text, characters or words, and their numbers.

Axes: codes[tokens], int32.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from lstm_jax.array_types import Int
from lstm_jax.validation import (
    as_array,
    in_one_line,
    require_int,
    require_one_of,
    require_positive_int,
    require_text,
    require_type,
)

UNKNOWN = "<unk>"
"""The token for every token that is not in the vocabulary."""

END_OF_LINE = "<eos>"
"""The word for the end of a line."""

Kind = Literal["characters", "words"]


class TextError(ValueError):
    """A text that cannot be loaded or used."""


class Vocabulary(NamedTuple):
    """Tokens and their numbers.

    Attributes:
        tokens: each token at its number, all of them different.
        unknown: the number of ``<unk>``, which stands for every other token; None to refuse those.
        kind: ``"characters"`` or ``"words"``.

    Example:
        >>> from lstm_jax.language import character_vocabulary
        >>> vocabulary = character_vocabulary("abba")
        >>> vocabulary.encode("bab").tolist(), vocabulary.decode([1, 0])
        ([1, 0, 1], 'ba')
    """

    tokens: tuple[str, ...]
    unknown: int | None = None
    kind: Kind = "characters"

    @property
    def size(self) -> int:
        """The number of tokens, ``<unk>`` included."""
        return len(self.tokens)

    def encode(self, text: str | Sequence[str]) -> Int[np.ndarray, "tokens"]:
        """Encode a text as numbers.

        Args:
            text: a text, which is cut into tokens, or the tokens themselves.

        Returns:
            int32[tokens].

        Raises:
            TextError: a token that the vocabulary does not have, if it has no ``<unk>`` either.
            TypeError: neither a text nor a list of texts, or a vocabulary of other tokens.
        """
        require_vocabulary(self)
        _require_tokens(text)
        if isinstance(text, str) and self.kind == "characters":
            return self._encode_characters(text)
        tokens = words(text) if isinstance(text, str) else text
        numbers = {token: number for number, token in enumerate(self.tokens)}
        missing = -1 if self.unknown is None else self.unknown
        # With the count NumPy needs no list of Python integers.
        codes = np.fromiter(
            (numbers.get(token, missing) for token in tokens), np.int32, count=len(tokens)
        )
        if self.unknown is None:
            self._require_known(codes >= 0, tokens)
        return codes

    def decode(self, codes: Any) -> str:
        """Decode numbers as a text: words with blanks between them, and ``<eos>`` as a new line.

        Args:
            codes: whole numbers [tokens].

        Raises:
            TextError: numbers without a token, or none that are whole.
            TypeError: no array.
        """
        require_vocabulary(self)
        codes = np.asarray(as_array("codes", codes))
        if codes.ndim != 1 or (codes.size and not np.issubdtype(codes.dtype, np.integer)):
            raise TextError(
                "Code mismatch: expected codes as whole numbers [tokens], got "
                f"{codes.dtype}{list(codes.shape)}."
            )
        wrong = codes[(codes < 0) | (codes >= self.size)]
        if wrong.size:
            raise TextError(
                f"Code mismatch: expected codes from 0 to {self.size - 1}, got {wrong[0]}."
            )
        tokens = [self.tokens[code] for code in codes]
        if self.kind == "characters":
            return "".join(tokens)
        return " ".join("\n" if token == END_OF_LINE else token for token in tokens)

    def _encode_characters(self, text: str) -> np.ndarray:
        # A token of several characters, such as <unk>, cannot occur in a text of single characters.
        single = [(ord(t), number) for number, t in enumerate(self.tokens) if len(t) == 1]
        points = _code_points(text)
        if not single:
            known, codes = np.zeros(len(points), bool), np.zeros(len(points), np.int32)
        else:
            ordered = np.array(sorted(single))
            places = np.searchsorted(ordered[:, 0], points).clip(max=len(ordered) - 1)
            known = ordered[places, 0] == points
            codes = ordered[places, 1].astype(np.int32)
        if self.unknown is None:
            self._require_known(known, text)
            return codes
        return np.where(known, codes, np.int32(self.unknown))

    def _require_known(self, known: np.ndarray, tokens: Sequence[str]) -> None:
        if not known.all():
            first = int(np.argmin(known))
            raise TextError(
                f"Token mismatch: expected {self.kind} of a vocabulary of {self.size} without "
                f"{UNKNOWN}, got {tokens[first]!r} at position {first}."
            )


def words(text: str) -> list[str]:
    r"""The words of a text, separated by blanks, and ``<eos>`` for each new line.

    Example:
        >>> from lstm_jax.language import words
        >>> words("no it was\nn't\n")
        ['no', 'it', 'was', '<eos>', "n't", '<eos>']
    """
    require_text("text", text)
    return text.replace("\n", f" {END_OF_LINE} ").split()


def character_vocabulary(text: str) -> Vocabulary:
    """The distinct characters of a text, in the order of their code points.

    Raises:
        TypeError: no text.
        TextError: an empty one.

    Example:
        >>> from lstm_jax.language import character_vocabulary
        >>> character_vocabulary("bab").tokens
        ('a', 'b')
    """
    require_text("text", text)
    _require_some(text)
    return Vocabulary(tuple(sorted(set(text))))


def frequency_vocabulary(
    text: str | Sequence[str], kind: Kind = "characters", *, min_count: int = 1
) -> Vocabulary:
    """``<unk>``, and then the tokens of a text by falling frequency.

    The form of Zhang et al., Dive into Deep Learning ("Text Preprocessing"); tokens of equal frequency are in
    the order of their code points.

    Args:
        text: a text, or its tokens.
        kind: ``"characters"`` or ``"words"``.
        min_count: rarer tokens become ``<unk>``.

    Raises:
        ValueError: an unknown kind, or a count that is not positive.
        TypeError: neither a text nor a list of texts.
        TextError: an empty text.

    Example:
        >>> from lstm_jax.language import frequency_vocabulary
        >>> vocabulary = frequency_vocabulary("the cat the dog a dog the", "words", min_count=2)
        >>> vocabulary.tokens, vocabulary.encode("a dog").tolist()
        (('<unk>', 'the', 'dog'), [0, 2])
    """
    require_one_of("kind", kind, ("characters", "words"))
    require_positive_int("min_count", min_count)
    _require_tokens(text)
    _require_some(text)
    counts = Counter(words(text) if isinstance(text, str) and kind == "words" else text)
    # The token may occur in the text, as in the Penn Treebank.
    counts.pop(UNKNOWN, None)
    frequent = [(-count, token) for token, count in counts.items() if count >= min_count]
    return Vocabulary((UNKNOWN, *(token for _, token in sorted(frequent))), 0, kind)


def require_vocabulary(vocabulary: Vocabulary, size: int | None = None) -> None:
    """Refuse a vocabulary that somebody made of anything but different texts, or of another size.

    Raises:
        TypeError: no vocabulary, or one of other tokens.
        TextError: a token that is there twice, or another number of tokens.
    """
    require_type("vocabulary", vocabulary, Vocabulary)
    require_one_of("kind", vocabulary.kind, ("characters", "words"))
    tokens = vocabulary.tokens
    if not isinstance(tokens, (tuple, list)) or not all(isinstance(token, str) for token in tokens):
        raise TypeError(
            f"Type mismatch: expected tokens as a tuple of texts, got {in_one_line(tokens)}."
        )
    if len(set(tokens)) < len(tokens):
        twice = next(token for token, count in Counter(tokens).items() if count > 1)
        raise TextError(f"Token mismatch: expected different tokens, got {twice!r} twice.")
    if vocabulary.unknown is not None:
        require_int("unknown", vocabulary.unknown, most=len(tokens) - 1)
    if size not in (None, len(tokens)):
        raise TextError(
            f"Size mismatch: expected a vocabulary of {size} tokens, as the model has, got {len(tokens)}."
        )


def _require_tokens(text: Any) -> None:
    """Refuse anything but a text or a list of texts."""
    if isinstance(text, str):
        return
    if not isinstance(text, Sequence) or isinstance(text, (bytes, bytearray)):
        raise TypeError(
            f"Type mismatch: expected text as a text or a list of texts, got {type(text).__name__}."
        )
    for place, token in enumerate(text):
        if not isinstance(token, str):
            raise TypeError(
                f"Type mismatch: expected text as a list of texts, got {token!r} at position {place}."
            )


def _require_some(text: str | Sequence[str]) -> None:
    """Refuse a text without tokens."""
    if not len(text):
        raise TextError("Empty text: expected text with at least one token, got none.")


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
