"""Sequential MNIST from small files made here: what is read, what is refused, the order of pixels."""

import gzip
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import DtypeError, ShapeError
from lstm_jax.mnist import MNISTError, read_mnist, row_sequences, sequences

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 28, 28)).astype(np.uint8)
LABELS = np.array([3, 0, 9, 1, 3], np.uint8)


def idx(array, magic):
    numbers = [magic, *array.shape]
    return b"".join(number.to_bytes(4, "big") for number in numbers) + array.tobytes()


IMAGE_FILE, LABEL_FILE = idx(IMAGES, 2051), idx(LABELS, 2049)


def write(folder, images=IMAGE_FILE, labels=LABEL_FILE, *, prefix="train", end=""):
    (folder / f"{prefix}-images-idx3-ubyte{end}").write_bytes(images)
    (folder / f"{prefix}-labels-idx1-ubyte{end}").write_bytes(labels)
    return folder


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("part", "prefix"), [("train", "train"), ("test", "t10k")])
def test_files_are_read(tmp_path, part, prefix, compressed):
    if compressed:
        contents = map(gzip.compress, (IMAGE_FILE, LABEL_FILE))
        write(tmp_path, *contents, prefix=prefix, end=".gz")
    else:
        write(tmp_path, prefix=prefix)
    digits = read_mnist(tmp_path, part)
    assert digits.images.dtype == digits.labels.dtype == np.uint8
    np.testing.assert_array_equal(digits.images, IMAGES)
    np.testing.assert_array_equal(digits.labels, LABELS)


REFUSALS = {
    "images cut short": ({"images": IMAGE_FILE[:-1]}, "expected 3936 bytes for [5, 28, 28]"),
    "images too long": ({"images": IMAGE_FILE + b"x"}, "expected 3936 bytes for [5, 28, 28]"),
    "a head cut short": ({"images": IMAGE_FILE[:15]}, "expected 16 bytes and more"),
    "an empty file": ({"labels": b""}, "expected 8 bytes and more"),
    "labels for images": ({"images": LABEL_FILE + b"12345678"}, "expected 2051 at the beginning"),
    "images for labels": ({"labels": IMAGE_FILE}, "expected 2049 at the beginning"),
    "little-endian": (
        {"labels": (2049).to_bytes(4, "little") + LABEL_FILE[4:]},
        "expected 2049 at the beginning",
    ),
    "a label less": (
        {"labels": idx(LABELS[:4], 2049)},
        "expected as many labels as images",
    ),
    "other images": (
        {"images": idx(IMAGES[:, :14], 2051)},
        "expected images of [28, 28]",
    ),
    "a label of 10": ({"labels": idx(LABELS + 1, 2049)}, "expected labels from 0 to 9"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_other_files_are_refused(tmp_path, case):
    contents, message = REFUSALS[case]
    with pytest.raises(MNISTError, match=re.escape(message)):
        read_mnist(write(tmp_path, **contents))


@pytest.mark.parametrize(
    "content",
    [IMAGE_FILE, gzip.compress(IMAGE_FILE)[:-9], gzip.compress(IMAGE_FILE)[:12] + b"x" * 40],
    ids=["not packed", "cut off", "other content"],
)
def test_a_broken_archive_is_refused(tmp_path, content):
    write(tmp_path, content, gzip.compress(LABEL_FILE), end=".gz")
    with pytest.raises(
        MNISTError, match="Unreadable data: expected to read .*images-idx3-ubyte.gz"
    ):
        read_mnist(tmp_path)


def test_missing_files_and_an_unknown_part(tmp_path, without_type_checker):
    with pytest.raises(MNISTError, match="expected t10k-images-idx3-ubyte or .*, got neither"):
        read_mnist(write(tmp_path), "test")
    with pytest.raises(
        ValueError, match="Unknown part: expected one of 'train', 'test', got 'all'"
    ):
        read_mnist(tmp_path, "all")


def test_pixels_and_rows_are_those_of_a_loop():
    xs, rows = sequences(IMAGES), row_sequences(jnp.asarray(IMAGES))
    assert xs.shape == (784, 5, 1)
    assert rows.shape == (28, 5, 28)
    assert xs.dtype == rows.dtype == jnp.float32
    for b, y, x in [(0, 0, 0), (4, 27, 27), (2, 3, 17), (3, 20, 0)]:
        value = np.float32(IMAGES[b, y, x]) / np.float32(255)
        assert float(xs[28 * y + x, b, 0]) == pytest.approx(value, rel=1e-6)
        assert float(rows[y, b, x]) == pytest.approx(value, rel=1e-6)
    ends = sequences(np.array([[[0] * 28] * 28, [[255] * 28] * 28], np.uint8))
    assert (ends[:, 0] == 0).all() and (ends[:, 1] == 1).all()


def test_one_permutation_for_all_images():
    key = jax.random.key(3)
    plain, permuted = np.asarray(sequences(IMAGES)), np.asarray(sequences(IMAGES, key))
    order = np.asarray(jax.random.permutation(key, 784))
    assert sorted(order) == list(range(784)) and (order != np.arange(784)).any()
    for t in range(784):
        np.testing.assert_array_equal(permuted[t], plain[order[t]])
    # Another batch, and a compiled call, in the same order.
    np.testing.assert_array_equal(sequences(IMAGES[2:3], key), permuted[:, 2:3])
    np.testing.assert_allclose(jax.jit(sequences)(IMAGES, key), permuted, rtol=1e-6)
    assert (np.asarray(sequences(IMAGES, jax.random.key(4))) != permuted).any()


def test_what_are_no_images(without_type_checker):
    with pytest.raises(ShapeError, match=r"expected images \[B, 28, 28\], got \[5, 784\]"):
        sequences(IMAGES.reshape(5, 784))
    with pytest.raises(ShapeError, match=r"expected images \[B, 28, 28\], got \[28, 28\]"):
        row_sequences(IMAGES[0])
    with pytest.raises(DtypeError, match="expected images uint8, got float32"):
        sequences(IMAGES.astype(np.float32))
    with pytest.raises(TypeError, match="Key mismatch"):
        sequences(IMAGES, np.arange(3))
