"""Sequential MNIST: images read pixel by pixel, in order or under one fixed permutation, or row by row.

The files are the standard ones (LeCun, Cortes & Burges), as they are or compressed by gzip: a magic number
and sizes, big-endian, and then bytes. As sequences: Le, Jaitly & Hinton 2015.

Axes: images[B, 28, 28], labels[B]; xs[T, B, D], time first.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.array_types import Array, Float
from lstm_jax.validation import (
    DtypeError,
    ShapeError,
    require_key,
    require_one_of,
    show_shape,
)

SIDE = 28
"""Rows, and columns, of an image."""

CLASSES = 10
"""Digits."""

_IMAGES, _LABELS = 2051, 2049
_FILES = {"train": "train", "test": "t10k"}


class MNISTError(ValueError):
    """Files that are not MNIST's."""


class Digits(NamedTuple):
    """Images and what they show.

    Attributes:
        images: uint8 [N, 28, 28], 0 where there is no ink.
        labels: uint8 [N], from 0 to 9.
    """

    images: Any
    labels: Any


def read_mnist(folder: str | Path, part: Literal["train", "test"] = "train") -> Digits:
    """Read the images and labels of one part.

    Args:
        folder: where ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
            ``t10k-labels-idx1-ubyte`` are, or the same with ``.gz``.
        part: ``"train"``, 60,000 images, or ``"test"``, 10,000.

    Raises:
        MNISTError: a missing, unreadable, truncated or other file, or images and labels of different number.
        ValueError: an unknown part.
    """
    require_one_of("part", part, tuple(_FILES))
    images_path = _find(Path(folder), f"{_FILES[part]}-images-idx3-ubyte")
    labels_path = _find(Path(folder), f"{_FILES[part]}-labels-idx1-ubyte")
    images, labels = _read_idx(images_path, _IMAGES), _read_idx(labels_path, _LABELS)
    if images.shape[1:] != (SIDE, SIDE):
        raise MNISTError(
            f"Shape mismatch: expected images of [{SIDE}, {SIDE}] in {images_path}, got "
            f"{show_shape(images.shape[1:])}."
        )
    if len(images) != len(labels):
        raise MNISTError(
            f"Length mismatch: expected as many labels as images in {folder}, got {len(labels)} "
            f"labels and {len(images)} images."
        )
    if labels.size and labels.max() >= CLASSES:
        raise MNISTError(
            f"Range mismatch: expected labels from 0 to {CLASSES - 1} in {labels_path}, got "
            f"{labels.max()}."
        )
    return Digits(images, labels)


def sequences(images: Any, permutation_key: Array | None = None) -> Float[Array, "pixels batch 1"]:
    """Images as sequences of single pixels, row after row.

    Args:
        images: uint8 [B, 28, 28].
        permutation_key: a random key that draws the one order in which the pixels of all images are read, as
            in permuted MNIST; the same key for training and for testing. None for the images' own order.

    Returns:
        float32 [784, B, 1], from 0 to 1.

    Raises:
        ShapeError, DtypeError: what are no images.
        TypeError: what is no key.

    Example:
        >>> import numpy as np
        >>> from lstm_jax.mnist import sequences
        >>> images = np.full((3, 28, 28), 255, np.uint8)
        >>> xs = sequences(images)
        >>> xs.shape, xs.dtype.name, float(xs.max())
        ((784, 3, 1), 'float32', 1.0)
    """
    xs = _ink(images).reshape(-1, SIDE * SIDE).T[..., None]
    if permutation_key is None:
        return xs
    require_key(permutation_key)
    return xs[jax.random.permutation(permutation_key, SIDE * SIDE)]


def row_sequences(images: Any) -> Float[Array, "rows batch columns"]:
    """Images as sequences of their rows.

    Args:
        images: uint8 [B, 28, 28].

    Returns:
        float32 [28, B, 28], from 0 to 1.

    Raises:
        ShapeError, DtypeError: what are no images.

    Example:
        >>> import numpy as np
        >>> from lstm_jax.mnist import row_sequences
        >>> row_sequences(np.zeros((3, 28, 28), np.uint8)).shape
        (28, 3, 28)
    """
    return _ink(images).swapaxes(0, 1)


def _ink(images: Any) -> Array:
    shape, dtype = jnp.shape(images), jnp.result_type(images)
    if len(shape) != 3 or shape[1:] != (SIDE, SIDE):
        raise ShapeError(
            f"Shape mismatch: expected images [B, {SIDE}, {SIDE}], got {show_shape(shape)}."
        )
    # Of floats it cannot be told whether they have been divided already.
    if dtype != jnp.uint8:
        raise DtypeError(f"Dtype mismatch: expected images uint8, got {dtype.name}.")
    return jnp.asarray(images).astype(jnp.float32) / 255


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise MNISTError(f"Missing data: expected {name} or {name}.gz in {folder}, got neither.")


def _read_idx(path: Path, magic: int) -> np.ndarray:
    """The bytes of an idx file as an array; the magic number's last byte is the rank."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise MNISTError(
            f"Unreadable data: expected to read {path}, got: {str(error) or type(error).__name__}."
        ) from None
    rank = magic % 256
    head = 4 * (1 + rank)
    if len(content) < head:
        raise MNISTError(
            f"Truncated data: expected {head} bytes and more in {path}, got {len(content)}."
        )
    came, *sizes = (int(number) for number in np.frombuffer(content, ">u4", 1 + rank))
    if came != magic:
        raise MNISTError(
            f"Magic number mismatch: expected {magic} at the beginning of {path}, got {came}."
        )
    if len(content) != head + math.prod(sizes):
        raise MNISTError(
            f"Size mismatch: expected {head + math.prod(sizes)} bytes for {show_shape(sizes)} in "
            f"{path}, got {len(content)}."
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(sizes)
