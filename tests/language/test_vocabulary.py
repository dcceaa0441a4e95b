"""Vocabularies: their order, their numbers, what they do not have."""

import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.language import (
    TextError,
    Vocabulary,
    character_vocabulary,
    frequency_vocabulary,
    words,
)

TEXT = "the naïve 𝄞 cat,\nthe dog\n"


def test_characters_are_in_the_order_of_their_code_points():
    vocabulary = character_vocabulary(TEXT)
    assert vocabulary.tokens == tuple(sorted(set(TEXT)))
    assert vocabulary.unknown is None
    assert vocabulary.size == len(set(TEXT))


def test_characters_by_falling_frequency_and_then_code_point():
    vocabulary = frequency_vocabulary("ccc" + "b" + "aa" + "é" + "dd")
    assert vocabulary.tokens == ("<unk>", "c", "a", "d", "b", "é")
    assert vocabulary.unknown == 0


def test_words_by_falling_frequency_with_the_text_s_own_unknown_first():
    vocabulary = frequency_vocabulary("b a <unk>\na <unk> <unk> c\n", "words")
    assert vocabulary.tokens == ("<unk>", "<eos>", "a", "b", "c")
    assert vocabulary.encode("c <unk> d\n").tolist() == [4, 0, 0, 1]


def test_rare_tokens_are_left_to_the_unknown():
    vocabulary = frequency_vocabulary("aaabbc", min_count=2)
    assert vocabulary.tokens == ("<unk>", "a", "b")
    assert vocabulary.encode("abcd").tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize("make", [character_vocabulary, frequency_vocabulary])
def test_characters_are_numbered_as_by_a_loop(make):
    vocabulary = make(TEXT)
    codes = vocabulary.encode(TEXT)
    assert codes.dtype == np.int32
    assert codes.tolist() == [vocabulary.tokens.index(character) for character in TEXT]
    assert vocabulary.decode(codes) == TEXT
    assert vocabulary.encode(list(TEXT)).tolist() == codes.tolist()
    assert vocabulary.encode("").shape == (0,)
    assert vocabulary.decode([]) == ""


def test_words_are_numbered_as_by_a_loop_and_come_back():
    vocabulary = frequency_vocabulary(TEXT, "words")
    codes = vocabulary.encode(TEXT)
    assert codes.dtype == np.int32
    assert codes.tolist() == [vocabulary.tokens.index(word) for word in words(TEXT)]
    assert vocabulary.decode(jnp.asarray(codes)) == "the naïve 𝄞 cat, \n the dog \n"
    assert vocabulary.encode(vocabulary.decode(codes)).tolist() == codes.tolist()


@pytest.mark.parametrize("unknown", [0, 2])
def test_a_character_outside_stands_as_the_unknown(unknown):
    tokens = ["b", "a"]
    tokens.insert(unknown, "<unk>")
    vocabulary = Vocabulary(tuple(tokens), unknown)
    expected = [unknown, tokens.index("a"), unknown, tokens.index("b"), unknown]
    assert vocabulary.encode("\0azb𝄞").tolist() == expected
    assert vocabulary.encode(["<unk>", "a"]).tolist() == [unknown, tokens.index("a")]


def test_a_vocabulary_of_the_unknown_alone():
    assert Vocabulary(("<unk>",), 0).encode("ab").tolist() == [0, 0]


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("characters", "abxay", r"expected characters of .* 'x' at position 2"),
        ("characters", ["a", "xx"], r"expected characters of .* 'xx' at position 1"),
        ("words", "a b\n", r"expected words of .* '<eos>' at position 2"),
    ],
)
def test_a_token_that_is_not_known_is_named(kind, text, message):
    with pytest.raises(TextError, match=f"Token mismatch: {message}"):
        Vocabulary(("a", "b"), None, kind).encode(text)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([0, 2], "expected codes from 0 to 1, got 2"),
        ([0, -1], "expected codes from 0 to 1, got -1"),
        ([[0]], "expected codes as whole numbers .*, got int64.1, 1."),
        ([0.5], "expected codes as whole numbers .*, got float64.1."),
    ],
)
def test_numbers_that_stand_for_nothing(codes, message):
    with pytest.raises(TextError, match=f"Code mismatch: {message}"):
        character_vocabulary("ab").decode(codes)


def test_settings_that_cannot_be(without_type_checker):
    with pytest.raises(ValueError, match="Unknown kind: expected one of 'characters', 'words'"):
        frequency_vocabulary("ab", "syllables")
    with pytest.raises(ValueError, match="expected min_count to be a positive integer, got 0"):
        frequency_vocabulary("ab", min_count=0)


def test_a_long_text_with_every_plane_of_unicode():
    text = "".join(map(chr, [0, 127, 128, 0xD800, 0xFFFF, 0x10000, 0x10FFFF])) * 50_000
    vocabulary = character_vocabulary(text)
    np.testing.assert_array_equal(vocabulary.encode(text), np.tile(np.arange(7), 50_000))
