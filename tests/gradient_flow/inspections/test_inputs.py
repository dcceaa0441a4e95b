"""What drives an inspected network: arrays and files in any order of axes, texts, embeddings, noise."""

import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from gradient_flow.inspections.inputs import (
    Embedding,
    embedding_of,
    inputs_of,
    noise,
    scaled,
    scaling_of,
)

D = 3
XS = np.arange(5 * 2 * D, dtype="f").reshape(5, 2, D)
ROWS = Embedding("embed", np.arange(6 * D, dtype="f").reshape(6, D))


def test_axes_in_any_order():
    assert_array_equal(inputs_of(XS, D).xs, XS)
    given = np.transpose(XS, (1, 2, 0))
    assert_array_equal(inputs_of(given, D, time_axis=2, batch_axis=0).xs, XS)
    assert_array_equal(inputs_of(given, D, time_axis=-1).xs, XS)
    assert_array_equal(inputs_of(XS[:, 0].T, D, time_axis=1).xs, XS[:, :1])


def test_a_long_sequence_is_cut_and_a_batch_is_thinned():
    long = np.arange(100.0).reshape(100, 1)
    found = inputs_of(long, 1, lag=10, samples=4)
    assert found.xs.shape == (10, 4, 1) and found.xs[0, :, 0].tolist() == [0, 30, 60, 90]
    assert inputs_of(long, 1).xs.shape == (100, 1, 1)
    assert inputs_of(np.zeros((500, 1)), 1).xs.shape == (200, 2, 1)
    many = np.arange(8.0).reshape(1, 8, 1)
    assert inputs_of(many, 1, samples=3).xs[0, :, 0].tolist() == [0, 3, 7]


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.npz:b", "x.csv"])
def test_files(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    xs = XS[:, 0]
    if name == "x.npy":
        np.save(name, xs)
    elif name == "x.npz":
        np.savez(name, a=xs)
    elif name == "x.npz:b":
        np.savez("x.npz", a=XS, b=xs)
    else:
        np.savetxt(name, xs, delimiter=",", header="p,q,r", comments="")
    found = inputs_of(name, D)
    assert_array_equal(found.xs[:, 0], xs)
    assert found.origin == name and name in found.says


def test_text_through_a_vocabulary(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abba!c")
    for vocabulary in (["_", "a", "b", "c"], {"a": 1, "b": 2, "c": 3}):
        found = inputs_of(path, D, embedding=ROWS, vocabulary=vocabulary)
        assert_array_equal(found.xs[:, 0], ROWS.rows[[1, 2, 2, 1, 3]])
        assert found.text == "abbac"
        assert "1 of 6 tokens of the text are not in the vocabulary" in found.says
    (tmp_path / "v.json").write_text(json.dumps({"ab": 0, "c": 1}))
    path.write_text("ab c\nc")
    words = inputs_of(path, D, embedding=ROWS, vocabulary=tmp_path / "v.json")
    assert_array_equal(words.xs[:, 0], ROWS.rows[[0, 1, 1]])
    assert "left out" not in words.says
    # Without an embedding the characters in their order are one-hot.
    path.write_text("cab")
    assert_array_equal(inputs_of(path, D).xs[:, 0], np.eye(3)[[2, 0, 1]])


def test_the_embedding_of_a_source():
    arrays = {"enc_emb": np.ones((9, D)), "dec_emb": np.zeros((9, D)), "other": np.ones((7, D))}
    assert embedding_of(arrays, None, D, "enc").name == "enc_emb"
    assert embedding_of(arrays, None, D, "x") is None
    assert embedding_of(arrays, None, 4) is None
    assert embedding_of(arrays, "other", D).rows.shape == (7, D)
    drawn = noise(D, ROWS, 4, 2, 0, np.float32)
    assert drawn.xs.shape == (4, 2, D) and "Random rows of embed" in drawn.says
    assert {tuple(x) for x in drawn.xs.reshape(-1, D).tolist()} <= set(
        map(tuple, ROWS.rows.tolist())
    )
    plain = noise(D, None, None, 2, 0, np.float32)
    assert plain.xs.shape == (200, 2, D) and plain.says.startswith("Noise of unit size")


@pytest.mark.parametrize(
    ("xs", "options", "message"),
    [
        (np.ones((4, 5)), {}, r"expected inputs \[T, 3\] or \[T, B, 3\], got \[4, 5\]"),
        (np.ones((4, 2, 3)), {"time_axis": 3}, "expected time_axis of one of 3 axes, got 3"),
        (np.ones((4, 2, 3)), {"time_axis": 1, "batch_axis": 1}, "on different axes"),
        (np.ones((0, 3)), {}, "at least one step"),
        (np.ones((4, 3)), {"lag": 5}, "a lag of at most 4 steps"),
        (np.array([0, 6]), {"embedding": ROWS}, "tokens from 0 to 5, rows of embed, got 0 to 6"),
        (np.ones((4, 3), complex), {}, "expected real numbers as inputs, got complex128"),
        (np.array([0, 3]), {}, "tokens from 0 to 2, one-hot inputs, got 0 to 3"),
    ],
)
def test_what_does_not_fit(xs, options, message):
    with pytest.raises(ValueError, match=message):
        inputs_of(xs, D, **options)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("x.csv", b"1,2,3\n4,5", {}, "expected numbers in .*x.csv, got: rows of 2 to 3 columns"),
        ("x.csv", b"a,b\n", {}, "no row of numbers"),
        ("x.npy", b"not one", {}, "expected numbers in .*x.npy"),
        ("x.txt", b"\xff\xfe", {}, "Undecodable text"),
        ("x.txt", b"abc", {"embedding": ROWS}, "Vocabulary needed: .* which row of embed"),
        ("x.txt", b"xyz", {"vocabulary": ["a"]}, "tokens in the vocabulary, got none"),
        ("x.txt", b"abcd", {}, "one-hot inputs, got 0 to 3"),
        (
            "x.txt",
            b"a",
            {"vocabulary": 5},
            "expected a list of tokens, or tokens with their numbers",
        ),
        ("x.txt", b"a", {"vocabulary": {"a": "b"}}, "expected a list of tokens, .* got {'a': 'b'}"),
    ],
)
def test_files_that_cannot_be_read(name, content, options, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        inputs_of(tmp_path / name, D, **options)
    np.savez(tmp_path / "two.npz", a=XS, b=XS)
    with pytest.raises(ValueError, match="They are a, b"):
        inputs_of(f"{tmp_path / 'two.npz'}", D)
    np.save(tmp_path / "objects.npy", np.array([print], object), allow_pickle=True)
    with pytest.raises(ValueError, match="expected numbers"):
        inputs_of(tmp_path / "objects.npy", D)


def test_inputs_are_scaled_by_arrays_of_the_source():
    arrays = {"norm": {"mean": np.array([1.0, 2, 3]), "std": np.float32(2), "other": np.ones(4)}}
    names = ("norm.mean", "norm.std")
    found = scaled(inputs_of(XS, D), scaling_of(arrays, names, D), names)
    np.testing.assert_allclose(found.xs, (XS - [1, 2, 3]) / 2)
    assert found.says.endswith("minus norm.mean and over norm.std.")
    for wrong, message in (
        (("norm.mean",), "as the names of a mean and a scale"),
        (("norm.mean", "x"), "got 'x'. Those of one number or .* are norm.mean, norm.std"),
        (("norm.other", "norm.std"), r"norm.other as one number or \[3\], got \[4\]"),
    ):
        with pytest.raises(ValueError, match=message):
            scaling_of(arrays, wrong, D)
    with pytest.raises(ValueError, match="without a 0"):
        scaling_of({"m": np.zeros(D), "s": np.array([1.0, 0, 1])}, ("m", "s"), D)
