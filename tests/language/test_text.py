"""Text: where it comes from, how it is numbered, and the refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.language import text


def test_the_embedded_text_is_prose_and_the_same_each_time():
    first = text.embedded_text()
    assert len(first) > 100_000
    assert " the " in first
    assert first == text.embedded_text()


def test_encoding_can_be_undone():
    corpus = text.encode("naïve 𝄞 text\n", "example")
    assert corpus.vocabulary.decode(corpus.codes) == "naïve 𝄞 text\n"
    assert corpus.codes.dtype == np.int32
    assert corpus.vocabulary == (tuple(sorted(set("naïve 𝄞 text\n"))), None, "characters")
    assert corpus.valid is None and corpus.test is None


def test_windows_are_pieces_of_the_text_and_reach_both_ends():
    codes = jnp.arange(12, dtype=jnp.int32)
    cut = np.asarray(text.windows(jax.random.key(0), codes, 5, 400))
    assert cut.shape == (5, 400)
    assert (np.diff(cut, axis=0) == 1).all()
    assert cut.min() == 0
    assert cut.max() == 11


def test_one_hot_rows():
    rows = text.one_hot(jnp.array([2, 0]), 3, jnp.float32)
    assert rows.tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Empty text: expected characters"),
        (b" \n\t", "Empty text: expected characters"),
        (b"ab\xff\xfe", r"Undecodable text: expected UTF-8 in .* got byte 0xff at position 2"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, content, message):
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(text.TextError, match=message):
        text.read_text(path)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(text.TextError, match="Unreadable text: expected a text file"):
        text.read_text(tmp_path / "nothing")
    with pytest.raises(text.TextError, match="Unreadable text: expected a text file"):
        text.read_text(tmp_path)


def test_a_text_of_one_character():
    with pytest.raises(text.TextError, match="expected at least two distinct characters"):
        text.encode("aaaa", "example")


def test_a_python_without_the_embedded_text(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydoc_data.topics", None)
    with pytest.raises(text.TextError, match="name a text file instead"):
        text.embedded_text()
