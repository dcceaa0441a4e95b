"""The sequences that drive a network: of a file, of an array, or noise; perhaps through an embedding.

Axes: xs[T, B, D]; codes[T, B], the rows of an embedding.
"""

import csv
import io
import json
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.array_types import Array, Float
from lstm_jax.validation import ShapeError
from lstm_jax.weights.all_arrays import named_arrays

LENGTH = 200
"""Time steps of noise, and at most of a long sequence, where no lag is given."""
EMBEDDINGS = ("embed", "emb", "lookup", "wte")
"""Parts of a name by which an array is taken for an embedding, if its columns fit."""


class Inputs(NamedTuple):
    """What drives a network.

    Attributes:
        xs: [T, B, D].
        says: in a sentence, what it is.
        origin: ``"noise"``, ``"an array"`` or the path of a file.
        text: the characters of the first sample, where it is text.
    """

    xs: Float[Array, "time batch d"]
    says: str
    origin: str
    text: str | None = None


class Embedding(NamedTuple):
    """Rows that stand for tokens.

    Attributes:
        name: in the source.
        rows: [tokens, D].
    """

    name: str
    rows: np.ndarray


def embedding_of(source: Any, name: str | None, size: int, layer: str = "") -> Embedding | None:
    """The embedding in front of a layer: the one that is named, or the only one that is plainly it.

    Args:
        source: as for `lstm_jax.weights.named_arrays`.
        name: of its array; None to look for one.
        size: the layer's input size D.
        layer: its name: of several embeddings that fit, the one that is named like it.

    Raises:
        ValueError: no array of that name.
        ShapeError: one of another shape.
    """
    try:
        arrays = named_arrays(source)
    except (TypeError, ValueError, ImportError, OSError):
        if name is None:
            return None
        raise
    if name is None:
        fitting = [
            key
            for key, value in arrays.items()
            if any(part in key.lower() for part in EMBEDDINGS)
            and len(value.shape) == 2
            and value.shape[1] == size
        ]
        alike = [key for key in fitting if key[:3] == layer[:3]]
        fitting = alike if len(alike) == 1 else fitting
        if len(fitting) != 1:
            return None
        name = fitting[0]
    if name not in arrays:
        tables = [key for key, value in arrays.items() if len(value.shape) == 2]
        raise ValueError(
            f"Name mismatch: expected embedding= as an array of the source, got {name!r}. Matrices are "
            f"{', '.join(tables[:12]) or 'none'}."
        )
    rows = np.asarray(arrays[name])
    if rows.ndim != 2 or rows.shape[1] != size:
        raise ShapeError(
            f"Shape mismatch: expected {name} [tokens, {size}], as the layer's inputs are, got "
            f"{list(rows.shape)}."
        )
    return Embedding(name, rows)


def scaling_of(source: Any, names: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale of the inputs, from arrays of the source: x becomes (x − mean) / scale.

    Args:
        source: as for `lstm_jax.weights.named_arrays`.
        names: of the two arrays, each one number or [D].
        size: the layer's input size D.

    Raises:
        ValueError: not two names, no array of a name, or a scale of 0.
        ShapeError: an array of another shape.
    """
    if isinstance(names, str) or len(names) != 2:
        raise ValueError(
            f"Name mismatch: expected scaling= as the names of a mean and a scale, got {names!r}."
        )
    arrays, found = named_arrays(source), []
    for name in names:
        if name not in arrays:
            fitting = [
                key for key, value in arrays.items() if tuple(value.shape) in ((), (1,), (size,))
            ]
            raise ValueError(
                f"Name mismatch: expected scaling= as arrays of the source, got {name!r}. Those of one "
                f"number or [{size}] are {', '.join(fitting[:12]) or 'none'}."
            )
        array = np.asarray(arrays[name], np.float64)
        if array.shape not in ((), (1,), (size,)):
            raise ShapeError(
                f"Shape mismatch: expected {name} as one number or [{size}], got {list(array.shape)}."
            )
        found.append(array)
    if not found[1].all():
        raise ValueError(f"Scale mismatch: expected {names[1]} without a 0, got one.")
    return found[0], found[1]


def scaled(inputs: Inputs, scaling: tuple[np.ndarray, np.ndarray], names: Sequence[str]) -> Inputs:
    """Inputs minus the mean, over the scale, in their dtype."""
    mean, scale = scaling
    xs = jnp.asarray((np.asarray(inputs.xs, np.float64) - mean) / scale, inputs.xs.dtype)
    says = f"{inputs.says.rstrip('.')}, minus {names[0]} and over {names[1]}."
    return inputs._replace(xs=xs, says=says)


def noise(
    size: int, embedding: Embedding | None, lag: int | None, samples: int, seed: int, dtype: Any
) -> Inputs:
    """Normal noise of unit size; random rows of an embedding where there is one."""
    shape = (lag or LENGTH, samples)
    key = jax.random.key(seed)
    if embedding is None:
        says = "Noise of unit size stood for data: with data of yours the verdict may be another."
        return Inputs(jax.random.normal(key, (*shape, size), dtype), says, "noise")
    codes = np.asarray(jax.random.randint(key, shape, 0, len(embedding.rows)))
    says = f"Random rows of {embedding.name} stood for data: with text of yours the verdict may be another."
    return Inputs(jnp.asarray(embedding.rows[codes], dtype), says, "noise")


def inputs_of(
    xs: Any,
    size: int,
    *,
    embedding: Embedding | None = None,
    vocabulary: Any = None,
    time_axis: int | None = None,
    batch_axis: int | None = None,
    lag: int | None = None,
    samples: int = 4,
    dtype: Any = np.float32,
) -> Inputs:
    """The inputs in a file or an array.

    Args:
        xs: an array, [T, D], [T, B, D] or, as numbers of tokens, [T] or [T, B]; or a path: ``.npy``,
            ``.npz`` (``file.npz:name`` for one of several arrays), ``.csv`` with a row for each step, or a
            text.
        size: the layer's input size D.
        embedding: what tokens are looked up in.
        vocabulary: of a text: a path of JSON or lines, a list of the tokens in their order, or a mapping from
            token to number. None takes the characters of the text in their order, for one-hot inputs alone.
        time_axis: where time is, if not first.
        batch_axis: where samples are; of three axes the second if None.
        lag: the length of a sample; a longer sequence without a batch is cut into samples.
        samples: how many, at most.
        dtype: of the network.

    Raises:
        ValueError, ShapeError: what cannot be read, does not fit, or needs an embedding or a vocabulary.
        OSError: a file that does not exist.
    """
    origin, text, unknown = "an array", None, ""
    if isinstance(xs, (str, os.PathLike)):
        origin = os.fspath(xs)
        array, text, unknown = _read(origin, vocabulary)
        if text is not None and vocabulary is None and embedding is not None:
            raise ValueError(
                f"Vocabulary needed: expected vocabulary= to say which row of {embedding.name} each token "
                "has, got none."
            )
    else:
        array = np.asarray(xs)
    if array.dtype.kind not in "biuf" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"Dtype mismatch: expected real numbers as inputs, got {array.dtype} from {origin}."
        )
    array = _time_first(array, time_axis, batch_axis)
    whole = np.issubdtype(array.dtype, np.integer)
    tokens = text is not None or (whole and (array.ndim < 2 or array.shape[-1] != size))
    if tokens and array.ndim > 2:
        raise ShapeError(
            f"Shape mismatch: expected tokens [T] or [T, B], got {list(array.shape)} of {array.dtype}."
        )
    batched = array.ndim == (2 if tokens else 3)
    if not tokens and (array.ndim not in (2, 3) or array.shape[-1] != size):
        raise ShapeError(
            f"Shape mismatch: expected inputs [T, {size}] or [T, B, {size}], got {list(array.shape)} from "
            f"{origin}. time_axis= and batch_axis= say where time and samples are."
        )
    if 0 in array.shape:
        raise ShapeError(
            f"Shape mismatch: expected inputs of at least one step, got {origin} empty."
        )
    array, starts = _samples(array, batched, lag, samples)
    shown = None
    if tokens:
        if text is not None:
            shown = "".join(text[starts[0] : starts[0] + len(array)])
        array = _looked_up(array, size, embedding)
    what = (
        f"{array.shape[1]} sample{'s' * (array.shape[1] > 1)} of {array.shape[0]} "
        f"step{'s' * (len(array) > 1)}"
    )
    through = f", looked up in {embedding.name}" if tokens and embedding is not None else ""
    says = f"Inputs: {what} from {origin}{through}.{unknown}"
    return Inputs(jnp.asarray(array, dtype), says, origin, shown)


def inputs_of_step(xs: Any, time_axis: int | None, batch_axis: int | None) -> Inputs:
    """The inputs of a plain step: any pytree with time first, or an array of any axes, perhaps in a file.

    Raises:
        ValueError: a file of something else than numbers, or an axis that is not there.
        OSError: a file that does not exist.
    """
    origin = "an array"
    if isinstance(xs, (str, os.PathLike)):
        origin = os.fspath(xs)
        xs, text, _ = _read(origin, None)
        if text is not None:
            raise ValueError(
                f"File mismatch: expected inputs of a plain step in .npy, .npz or .csv, got {origin}."
            )
        xs = np.asarray(xs, jax.dtypes.canonicalize_dtype(xs.dtype))
    if time_axis is not None or batch_axis is not None:
        xs = jnp.asarray(_time_first(np.asarray(xs), time_axis, batch_axis))
    return Inputs(xs, f"Inputs: as they were given, from {origin}.", origin)


def _time_first(array: np.ndarray, time_axis: int | None, batch_axis: int | None) -> np.ndarray:
    order = [time_axis or 0]
    if batch_axis is not None:
        order.append(batch_axis)
    for name, axis in zip(("time_axis", "batch_axis"), order, strict=False):
        if not -array.ndim <= axis < array.ndim:
            raise ValueError(
                f"Axis mismatch: expected {name} of one of {array.ndim} axes, got {axis}."
            )
    order = [axis % array.ndim for axis in order] if array.ndim else []
    if len(set(order)) < len(order):
        raise ValueError(
            f"Axis mismatch: expected time and samples on different axes, got {order[0]} for both."
        )
    return np.moveaxis(array, order, range(len(order)))


def _samples(
    array: np.ndarray, batched: bool, lag: int | None, samples: int
) -> tuple[np.ndarray, list[int]]:
    """Samples [T, B, …] and where each begins: those of the batch, or pieces of a long sequence."""
    if lag is not None and lag > len(array):
        raise ValueError(
            f"Lag mismatch: expected a lag of at most {len(array)} steps, as long as the inputs, got {lag}."
        )
    if batched:
        chosen = np.unique(np.linspace(0, array.shape[1] - 1, samples).astype(int))
        return array[:, chosen], [0] * len(chosen)
    length = min(len(array), lag or LENGTH)
    count = max(1, min(samples, len(array) // length))
    starts = np.linspace(0, len(array) - length, count).astype(int).tolist()
    return np.stack([array[start : start + length] for start in starts], axis=1), starts


def _looked_up(codes: np.ndarray, size: int, embedding: Embedding | None) -> np.ndarray:
    known = size if embedding is None else len(embedding.rows)
    if codes.min() < 0 or codes.max() >= known:
        what = "one-hot inputs" if embedding is None else f"rows of {embedding.name}"
        raise ValueError(
            f"Token mismatch: expected tokens from 0 to {known - 1}, {what}, got {int(codes.min())} to "
            f"{int(codes.max())}. Name the array of the embedding by embedding=, the tokens by vocabulary=."
        )
    table = np.eye(size, dtype=np.float32) if embedding is None else embedding.rows
    return table[codes]


def _read(origin: str, vocabulary: Any) -> tuple[np.ndarray, list[str] | None, str]:
    """An array from a file, its tokens where it is a text, and a sentence on those that are left out."""
    name, _, part = origin.rpartition(":")
    path, part = (Path(name), part) if name.endswith(".npz") else (Path(origin), "")
    ending = path.suffix.lower()
    if ending not in (".npy", ".npz", ".csv"):
        return _tokens(_text(path), vocabulary)
    content = path.read_bytes()
    try:
        if ending == ".csv":
            return _csv(content.decode("utf-8-sig")), None, ""
        loaded = np.load(io.BytesIO(content), allow_pickle=False)
        if ending == ".npy":
            return loaded, None, ""
        if not part and len(loaded.files) == 1:
            part = loaded.files[0]
        if part in loaded.files:
            return loaded[part], None, ""
    except (ValueError, OSError, EOFError, UnicodeDecodeError) as error:
        words = " ".join(str(error).split())[:160].rstrip(".")
        raise ValueError(f"File mismatch: expected numbers in {path}, got: {words}.") from None
    got = f"no {part!r}" if part else f"{len(loaded.files)} of them"
    raise ValueError(
        f"Name mismatch: expected one array in {path}, or {path}:NAME, got {got}. They are "
        f"{', '.join(loaded.files[:12])}."
    )


def _text(path: Any) -> str:
    # Its package imports optax, which only training needs.
    from lstm_jax.language.text import read_text

    return read_text(path)


def _csv(text: str) -> np.ndarray:
    """Rows of numbers; a first row of names is left out."""
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    if rows and not all(map(_is_number, rows[0])):
        rows = rows[1:]
    if not rows:
        raise ValueError("no row of numbers")
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise ValueError(f"rows of {min(widths)} to {max(widths)} columns")
    return np.asarray([[float(value or "nan") for value in row] for row in rows])


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True


def _tokens(text: str, vocabulary: Any) -> tuple[np.ndarray, list[str], str]:
    """Each character, or each word where the vocabulary has words, as its number."""
    numbers = _numbers_of(text, vocabulary)
    characters = all(len(token) <= 1 for token in numbers) or not set(text.split()) & set(numbers)
    tokens = list(text) if characters else text.split()
    known = [token for token in tokens if token in numbers]
    if not known:
        raise ValueError(
            "Vocabulary mismatch: expected a text of tokens in the vocabulary, got none of them."
        )
    shown = known if characters else [f"{token} " for token in known]
    missing = len(tokens) - len(known)
    says = f" {missing} of {len(tokens)} tokens of the text are not in the vocabulary, and were left out."
    return (
        np.asarray([numbers[token] for token in known], np.int32),
        shown,
        says if missing else "",
    )


def _numbers_of(text: str, vocabulary: Any) -> dict[str, int]:
    if vocabulary is None:
        return {character: n for n, character in enumerate(sorted(set(text)))}
    if isinstance(vocabulary, (str, os.PathLike)):
        content = _text(vocabulary)
        try:
            vocabulary = json.loads(content)
        except ValueError:
            vocabulary = content.splitlines()
    if isinstance(vocabulary, (list, tuple, str)):
        vocabulary = {token: number for number, token in enumerate(vocabulary)}
    try:
        return {str(token): operator.index(number) for token, number in vocabulary.items()}
    except (AttributeError, TypeError):
        raise ValueError(
            "Vocabulary mismatch: expected a list of tokens, or tokens with their numbers, got "
            f"{' '.join(repr(vocabulary).split())[:60]}."
        ) from None
