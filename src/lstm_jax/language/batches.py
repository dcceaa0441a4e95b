r"""Batches of a text for truncated back-propagation: each row continues the same row of the batch before.

With N tokens, B rows of R tokens each, and batches of T steps, batch n of an epoch is

    inputs[t, b] = codes[o + b·R + n·T + t],    targets[t, b] = codes[o + b·R + n·T + t + 1]

    contiguous               o = 0, R = N // B; (R − 1) // T steps an epoch (Zaremba et al. 2014)
    contiguous_from_offset   o drawn anew for each epoch from 0 … T, R = (N − o − 1) // B (Zhang et al., Dive
                             into Deep Learning, "Sequential Partitioning"); as many steps in each epoch as
                             the largest offset leaves, ((N − T − 1) // B) // T

Both depend only on the number of the step, counted from 0 over all epochs. So a resumed run gets the same
batches.

Axes: codes[N]; inputs[T, B] and targets[T, B], time first.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.array_types import Array, Bool, Int
from lstm_jax.language.token_codes import checked_codes
from lstm_jax.language.vocabulary import TextError
from lstm_jax.training.mapped_source import Rows
from lstm_jax.validation import (
    LARGEST,
    DtypeError,
    ShapeError,
    as_array,
    require_bool,
    require_int,
    require_key,
    require_positive_int,
    show_shape,
)


class Batch(NamedTuple):
    """One step's part of a text.

    Attributes:
        inputs: tokens [T, B].
        targets: the token after each, [T, B].
        first: whether the batch begins an epoch, so that the carried state must be reset; bool [].
    """

    inputs: Int[Array, "time batch"]
    targets: Int[Array, "time batch"]
    first: Bool[Array, ""]


def steps_per_epoch(tokens: int, batch_size: int, length: int, *, offset: bool = False) -> int:
    """The number of batches in a text.

    Args:
        tokens: N, tokens of the text.
        batch_size: B, rows of a batch.
        length: T, steps of a batch.
        offset: whether `contiguous_from_offset` cuts them, instead of `contiguous`.

    Raises:
        TextError: a text too short for a single batch.
        ValueError: a size that is not a positive integer.

    Example:
        >>> from lstm_jax.language import steps_per_epoch
        >>> steps_per_epoch(929_589, 20, 35), steps_per_epoch(929_589, 20, 35, offset=True)
        (1327, 1327)
    """
    for name, value in (("tokens", tokens), ("batch_size", batch_size), ("length", length)):
        require_positive_int(name, value)
    require_bool("offset", offset)
    if offset:
        needed, steps = (batch_size + 1) * length + 1, (tokens - length - 1) // batch_size // length
    else:
        needed, steps = batch_size * (length + 1), (tokens // batch_size - 1) // length
    if tokens < needed:
        raise TextError(
            f"Length mismatch: expected a text of at least {needed} tokens for {batch_size} rows of "
            f"{length} steps, got {tokens}."
        )
    return steps


def contiguous(
    codes: Int[Array, "tokens"] | Int[np.ndarray, "tokens"] | Rows,
    step: int | Int[Array, ""],
    batch_size: int,
    length: int,
) -> Batch:
    """The batch of a step, when each row reads one of B equal pieces of the text from beginning to end.

    The rest of the text after the last piece, and of a piece after its last whole batch, is not read.

    Args:
        codes: the text [N]; in `lstm_jax.training.fit` memory-mapped, too.
        step: the number of the step from 0, also traced; epochs follow one another.
        batch_size: B, static.
        length: T, static.

    Returns:
        `Batch` with inputs and targets [T, B].

    Raises:
        TextError: a text too short for a single batch, or codes that are negative or beyond int32.
        ShapeError, DtypeError: codes that are not whole numbers [N], or a step that is not a whole number.
        ValueError: a size that is not a positive integer, or a negative step.

    Example:
        >>> import jax.numpy as jnp
        >>> from lstm_jax.language import contiguous
        >>> batch = contiguous(jnp.arange(14), 1, batch_size=2, length=3)
        >>> batch.inputs.T.tolist(), batch.targets.T.tolist(), bool(batch.first)
        ([[3, 4, 5], [10, 11, 12]], [[4, 5, 6], [11, 12, 13]], False)
    """
    codes, step = _require_text(codes, step)
    steps = steps_per_epoch(codes.shape[0], batch_size, length)
    return _cut(codes, 0, codes.shape[0] // batch_size, step % steps, batch_size, length)


def contiguous_from_offset(
    codes: Int[Array, "tokens"] | Int[np.ndarray, "tokens"] | Rows,
    step: int | Int[Array, ""],
    batch_size: int,
    length: int,
    key: Array,
) -> Batch:
    """The batch of a step, as from `contiguous`, but each epoch starts at another of the first T + 1 tokens.

    Args:
        codes: the text [N]; in `lstm_jax.training.fit` memory-mapped, too.
        step: the number of the step from 0, also traced; epochs follow one another.
        batch_size: B, static.
        length: T, static.
        key: a random key, the same for all steps; with the epoch folded in, it draws the offset.

    Returns:
        `Batch` with inputs and targets [T, B].

    Raises:
        TextError: a text too short for a single batch, or codes that are negative or beyond int32.
        ShapeError, DtypeError: codes that are not whole numbers [N], or a step that is not a whole number.
        TypeError: ``key`` is not a random key.
        ValueError: a size that is not a positive integer, or a negative step.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from lstm_jax.language import contiguous_from_offset
        >>> batch = contiguous_from_offset(jnp.arange(14), 0, 2, 3, jax.random.key(0))
        >>> bool((batch.targets == batch.inputs + 1).all()), bool(batch.first)
        (True, True)
    """
    codes, step = _require_text(codes, step)
    require_key(key)
    tokens = codes.shape[0]
    steps = steps_per_epoch(tokens, batch_size, length, offset=True)
    offset = jax.random.randint(
        jax.random.fold_in(key, step // steps), (), 0, length + 1, jnp.int32
    )
    row = (tokens - offset - 1) // batch_size
    return _cut(codes, offset, row, step % steps, batch_size, length)


def _cut(
    codes: Any, offset: int | Array, row: int | Array, step: Array, batch_size: int, length: int
) -> Batch:
    """The batch of a step of an epoch, from rows of the same length after the offset."""
    starts = offset + jnp.arange(batch_size, dtype=jnp.int32) * row + step * length
    places = starts[None, :] + jnp.arange(length + 1, dtype=jnp.int32)[:, None]
    read = jnp.asarray(codes[places])
    return Batch(read[:-1], read[1:], step == 0)


def _require_text(codes: Any, step: Any) -> tuple[Any, Array]:
    if isinstance(codes, Rows):
        _require_file(codes)
    else:
        codes = jnp.asarray(checked_codes("codes", codes, axes="tokens"))
    step = as_array("step", step) if not isinstance(step, (bool, int, float)) else step
    if not jnp.issubdtype(jnp.result_type(step), jnp.integer):
        raise DtypeError(
            f"Dtype mismatch: expected step as integers, got {jnp.result_type(step).name}."
        )
    if jnp.ndim(step) != 0:
        raise ShapeError(f"Shape mismatch: expected step [], got {show_shape(jnp.shape(step))}.")
    require_int("step", step)
    return codes, jnp.asarray(step, jnp.int32)


def _require_file(codes: Rows) -> None:
    """Refuse a file of anything but tokens; its codes are not looked at, as those of a trace are not."""
    if codes.ndim != 1:
        raise ShapeError(f"Shape mismatch: expected codes [tokens], got {show_shape(codes.shape)}.")
    if not np.issubdtype(codes.dtype, np.integer):
        raise DtypeError(
            f"Dtype mismatch: expected codes as whole numbers, got {codes.dtype.name}."
        )
    if len(codes) > LARGEST:
        raise TextError(
            f"Length mismatch: expected a file of at most {LARGEST} tokens, got {len(codes)}. Read it in "
            "parts."
        )
