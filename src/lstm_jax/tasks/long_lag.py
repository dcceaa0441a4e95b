r"""Tasks with a long lag between cause and effect, drawn on the device from a key, of any length.

    adding            two numbers of a long sequence are marked; the target is their sum, at its end
                      (Hochreiter & Schmidhuber 1997, experiment 4; uniform form: Le et al. 2015)
    temporal_order    two or three of its symbols matter; the target is their order, at its end
                      (Hochreiter & Schmidhuber 1997, experiments 6a, 6b; by fractions: Pascanu et al. 2013)
    copy_memory       ten symbols, a long silence, and then the ten symbols again
                      (Hochreiter & Schmidhuber 1997; this form: Arjovsky et al. 2016)

Compare a result with the best loss of a network without a memory (`adding_floor`, `copy_floor`).

Axes: xs[T, B, D], time first, zeros past ``lengths[B]``.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Float, Int
from lstm_jax.validation import require_key, require_one_of, require_positive_int, show_shape

SYMBOLS = 8
"""The number of different symbols."""

COPIED = 10
"""The number of symbols to copy."""


class Examples(NamedTuple):
    """A batch of a task.

    Attributes:
        xs: inputs [T, B, D], zeros past a sequence's length.
        targets: [B], a number or a class at the end of each sequence; of `copy_memory` [T, B], a class at
            each step.
        lengths: steps of each sequence, [B].
    """

    xs: Float[Array, "time batch d"]
    targets: Array
    lengths: Int[Array, "batch"]


def adding(key: Array, batch_size: int, length: int, *, form: str = "1997") -> Examples:
    """The adding problem: the sum of the two marked numbers, at the end of the sequence.

    In the form of 1997 a step is a pair (value, marker), values from U[−1, 1]. One of the first ten pairs is
    marked by 1, and one of the first T/2 − 1 that are left; the first and the last pair have the marker −1,
    and a first pair that is marked counts as 0. Lengths are from T to T + T/10. The target is
    0.5 + (X_1 + X_2)/4, and an answer is right within 0.04.

    In the uniform form all sequences have length T, values are from U[0, 1], one is marked in each half, and
    the target is their sum.

    Args:
        key: a random key.
        batch_size: B.
        length: T, the shortest length; at least 22 in the form of 1997, 2 in the uniform one.
        form: ``"1997"`` or ``"uniform"``.

    Returns:
        `Examples` with xs [T + ⌊T/10⌋, B, 2], or [T, B, 2] in the uniform form, and targets [B].

    Raises:
        TypeError: ``key`` is not a random key.
        ValueError: a size that does not fit, or an unknown form.

    Example:
        >>> import jax
        >>> from lstm_jax.tasks import adding
        >>> examples = adding(jax.random.key(0), 4, 100)
        >>> examples.xs.shape, examples.targets.shape
        ((110, 4, 2), (4,))
    """
    _require_sizes(key, batch_size, length)
    require_one_of("form", form, ("1997", "uniform"))
    _require_at_least("length", length, 22 if form == "1997" else 2)
    key_values, key_first, key_second, key_length = jax.random.split(key, 4)
    samples = jnp.arange(batch_size)
    if form == "uniform":
        values = jax.random.uniform(key_values, (length, batch_size))
        half = length // 2
        first = jax.random.randint(key_first, (batch_size,), 0, half)
        second = jax.random.randint(key_second, (batch_size,), half, length)
        markers = jnp.zeros_like(values).at[first, samples].set(1.0).at[second, samples].set(1.0)
        targets = values[first, samples] + values[second, samples]
        lengths = jnp.full(batch_size, length, jnp.int32)
        return Examples(jnp.stack([values, markers], axis=-1), targets, lengths)
    longest = length + length // 10
    values = jax.random.uniform(key_values, (longest, batch_size), minval=-1.0, maxval=1.0)
    lengths = jax.random.randint(key_length, (batch_size,), length, longest + 1)
    first = jax.random.randint(key_first, (batch_size,), 0, 10)
    # One of the first T/2 − 1 pairs without the marked one: the numbers behind that one move up by one.
    second = jax.random.randint(key_second, (batch_size,), 0, length // 2 - 2)
    second = second + (second >= first).astype(second.dtype)
    markers = jnp.zeros_like(values)
    markers = markers.at[first, samples].set(1.0).at[second, samples].set(1.0)
    # The first pair keeps its −1 when it is marked, and counts as zero.
    markers = markers.at[0].set(-1.0).at[lengths - 1, samples].set(-1.0)
    x_1, x_2 = (jnp.where(place == 0, 0.0, values[place, samples]) for place in (first, second))
    valid = (jnp.arange(longest)[:, None] < lengths[None])[..., None]
    xs = jnp.where(valid, jnp.stack([values, markers], axis=-1), 0.0)
    return Examples(xs, 0.5 + (x_1 + x_2) / 4, lengths)


def adding_floor() -> float:
    """The mean squared error of always answering the mean in the uniform form: the variance 1/6."""
    return 1 / 6


def temporal_order(
    key: Array,
    batch_size: int,
    length: int = 100,
    *,
    symbols: int = 2,
    form: str = "1997",
    lengths: Int[Array, "batch"] | None = None,
) -> Examples:
    """Temporal order: which of X and Y stood at two or three places, to be told at the end.

    A sequence is E, then symbols drawn from a, b, c, d, and at last B; at the places t_1, t_2 (and t_3) it
    has X or Y instead. The class is their order read as a binary number, X as 0 and Y as 1. Inputs are
    one-hot in the order a, b, c, d, X, Y, E, B.

    In the form of 1997 lengths are from T to T + 10 and places within 10…20, 50…60 with two symbols, 10…20,
    33…43, 66…76 with three, in hundredths of T. By fractions all sequences have length T, or
    ``lengths``, and the places are within 1/10…2/10 and 4/10…5/10 of it.

    Args:
        key: a random key.
        batch_size: B.
        length: T, at least 20.
        symbols: 2 or 3; by fractions 2.
        form: ``"1997"`` or ``"fractions"``.
        lengths: by fractions, the length of each sequence [B], from 20 to T; all T if None.

    Returns:
        `Examples` with xs [T + 10, B, 8], or [T, B, 8] by fractions, and targets [B], from 0 to 3 or 7.

    Raises:
        TypeError: ``key`` is not a random key.
        ValueError: a size or lengths that do not fit, or an unknown form.

    Example:
        >>> import jax
        >>> from lstm_jax.tasks import temporal_order
        >>> examples = temporal_order(jax.random.key(0), 4)
        >>> examples.xs.shape, bool(examples.targets.max() < 4)
        ((110, 4, 8), True)
    """
    _require_sizes(key, batch_size, length)
    require_one_of("form", form, ("1997", "fractions"))
    _require_at_least("length", length, 20)
    if symbols not in (2, 3) or (form == "fractions" and symbols == 3):
        raise ValueError(
            f"Size mismatch: expected symbols 2, or 3 in the form of 1997, got {symbols!r} in {form!r}."
        )
    if lengths is not None:
        lengths = _checked_lengths(lengths, batch_size, length, form)
    key_noise, key_places, key_symbols, key_length = jax.random.split(key, 4)
    bounds: list[tuple[Any, Any]]
    if form == "fractions":
        longest = length
        if lengths is None:
            lengths = jnp.full(batch_size, length, jnp.int32)
        bounds = [(lengths // 10, 2 * lengths // 10), (4 * lengths // 10, 5 * lengths // 10)]
    else:
        longest = length + 10
        lengths = jax.random.randint(key_length, (batch_size,), length, longest + 1)
        starts = (10, 50) if symbols == 2 else (10, 33, 66)
        bounds = [(start * length // 100, (start + 10) * length // 100) for start in starts]
    samples = jnp.arange(batch_size)
    codes = jax.random.randint(key_noise, (longest, batch_size), 0, 4)
    targets = jnp.zeros(batch_size, jnp.int32)
    which = jax.random.bernoulli(key_symbols, 0.5, (symbols, batch_size)).astype(jnp.int32)
    keys = jax.random.split(key_places, symbols)
    for number, (low, high) in enumerate(bounds):
        place = jax.random.randint(keys[number], (batch_size,), low, high + 1)
        codes = codes.at[place, samples].set(4 + which[number])
        targets = 2 * targets + which[number]
    codes = codes.at[0].set(6).at[lengths - 1, samples].set(7)
    valid = jnp.arange(longest)[:, None] < lengths[None]
    # one_hot makes a row of zeros of the code −1.
    return Examples(jax.nn.one_hot(jnp.where(valid, codes, -1), 8), targets, lengths)


def copy_memory(key: Array, batch_size: int, delay: int) -> Examples:
    """Copy memory: ten symbols, ``delay`` steps of nothing, and then the ten symbols.

    Of ten classes 0 to 7 are the symbols, 8 is the blank and 9 is the sign to begin the copy. A sequence has
    ten symbols, delay − 1 blanks, the sign and ten blanks; the target is delay + 10 blanks and then the
    symbols.

    Args:
        key: a random key.
        batch_size: B.
        delay: steps between the symbols and their copy.

    Returns:
        `Examples` with xs [delay + 20, B, 10], one-hot, and targets [delay + 20, B].

    Raises:
        TypeError: ``key`` is not a random key.
        ValueError: a size that is not a positive integer.

    Example:
        >>> import jax
        >>> from lstm_jax.tasks import copy_memory
        >>> examples = copy_memory(jax.random.key(0), 4, 500)
        >>> examples.xs.shape, examples.targets.shape
        ((520, 4, 10), (520, 4))
    """
    _require_sizes(key, batch_size, delay)
    blank, sign = SYMBOLS, SYMBOLS + 1
    symbols = jax.random.randint(key, (COPIED, batch_size), 0, SYMBOLS)

    def filled(steps: int, code: int) -> Array:
        return jnp.full((steps, batch_size), code, symbols.dtype)

    codes = jnp.concatenate(
        [symbols, filled(delay - 1, blank), filled(1, sign), filled(COPIED, blank)]
    )
    targets = jnp.concatenate([filled(delay + COPIED, blank), symbols])
    lengths = jnp.full(batch_size, len(codes), jnp.int32)
    return Examples(jax.nn.one_hot(codes, SYMBOLS + 2), targets, lengths)


def copy_floor(delay: int) -> float:
    """The mean cross-entropy, in nats, of blanks and then guessing: 10 log 8 / (delay + 20)."""
    require_positive_int("delay", delay)
    return COPIED * math.log(SYMBOLS) / (delay + 2 * COPIED)


def _require_sizes(key: Array, batch_size: int, length: int) -> None:
    require_key(key)
    require_positive_int("batch_size", batch_size)
    require_positive_int("length", length)


def _checked_lengths(lengths: Any, batch_size: int, longest: int, form: str) -> Array:
    """Refuse lengths that do not fit; the values of traced ones are not checked."""
    if form != "fractions":
        raise ValueError(
            f"Option mismatch: expected lengths in the form by fractions alone, got them in {form!r}."
        )
    array = jnp.asarray(lengths)
    if array.shape != (batch_size,) or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(
            f"Shape mismatch: expected lengths as whole numbers [{batch_size}], got {array.dtype.name}"
            f"{show_shape(array.shape)}."
        )
    if not isinstance(array, jax.core.Tracer):
        lowest, highest = int(array.min()), int(array.max())
        if lowest < 20 or highest > longest:
            raise ValueError(
                f"Range mismatch: expected lengths from 20 to {longest}, got {lowest} to {highest}."
            )
    return array.astype(jnp.int32)


def _require_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"Size mismatch: expected {name} of at least {least}, got {value}.")
