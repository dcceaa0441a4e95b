r"""Masks between the steps of a loop: lengths, resets, truncation, zoneout and recurrent dropout.

Around the step of a cell, with m_t (valid), r_t (reset) and a cut for each sample and step, and for each unit
the factors d_t (recurrent dropout) and k_t (zoneout):

    s'_{t−1} = 0 where r_t, else s_{t−1}                    a new sequence begins
    s̃_t      = step(d_t s'_{t−1}, x_t)                      d_t on h alone
    s̄_t      = k_t s'_{t−1} + (1 − k_t) s̃_t                  a unit keeps its state
    s_t      = s̄_t where m_t, else s'_{t−1}                 past its end a sequence keeps its state
    out_t    = h_t where m_t, else 0

and in the backward pass

    δz_t, δ   = backward_step((1 − k_t) δs_t)
    δs'_{t−1} = d_t δ + k_t δs_t where m_t, else δs_t (and δz_t = 0)
    δs_{t−1}  = δs'_{t−1}, but 0 where r_t or cut_t         truncated back-propagation through time

Axes: masks [T, ..., 1] beside a sequence [T, ..., H], the last axis there to be broadcast; noise [T, ..., H].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.array_types import Array, Bool, Float, Int, PyTree
from lstm_jax.cells.cell import Cell
from lstm_jax.dropout import recurrent_factor, require_rate, zoneout_masks, zoneout_rates
from lstm_jax.jax_extensions.mesh_axes import vary_over, varying_axes
from lstm_jax.validation import (
    ShapeError,
    as_array,
    require_bool,
    require_key,
    require_one_of,
    require_positive_int,
    require_type,
    show_shape,
)


class Sequences(NamedTuple):
    """Where the sequences of a batch begin and end in ``xs``, and their direction.

    Attributes:
        lengths: the length of each sequence, [B], or a number without a batch axis; all T if None. Past it
            the state does not change, the output is zero, and the values of ``xs`` do not matter, NaN
            included.
        resets: the steps before which the state is set to zero, [T, B] or [T], because another sequence
            begins there. Read backwards, the state is zero before the last step of the sequence before.
        truncate: cut the gradient every so many steps, counted in the order of the loop (truncated
            back-propagation through time); the state passes. Never if None.
        reverse: read from the last step to the first. Outputs stay aligned with ``xs``; with lengths, a
            sequence begins with its last step.
        mask: the steps that belong to the sequences, [T, B] or [T], in place of lengths: any, so also for
            padding on the left and for gaps. At the others the state passes on, and the values of ``xs`` do
            not matter.
        outside: what the output shows outside of the lengths or the mask: ``"zeros"``, or ``"last"``, the
            output of the step before in the order of the loop.
    """

    lengths: Any = None
    resets: Any = None
    truncate: int | None = None
    reverse: bool = False
    mask: Any = None
    outside: str = "zeros"


class Noise(NamedTuple):
    """Noise on the state, between steps.

    Attributes:
        zoneout: rate at which each unit keeps its state instead of taking a step (Krueger et al. 2017): a
            number, or a state of numbers, ``LSTMState(h=0.05, c=0.5)``. Without a key, its expectation.
        recurrent_dropout: rate at which units of h_{t−1} are dropped before W_h, the others scaled up, one
            mask for all steps (Gal & Ghahramani 2016). Without a key, nothing is dropped.
        key: a random key, in training; None at evaluation.
    """

    zoneout: Any = 0.0
    recurrent_dropout: float = 0.0
    key: Array | None = None


OUTSIDE = ("zeros", "last")

NO_NOISE = Noise()
ALL_STEPS = Sequences()


class StepMasks(NamedTuple):
    """Masks with time as the leading axis, or of one step without it; None for a mask that is not used.

    Attributes:
        valid: whether the step belongs to the sequence, boolean [T, ..., 1]; its output is zero if not.
        reset: whether the state is zero before the step, boolean [T, ..., 1].
        cut: whether no gradient passes from the step to the state before it, boolean [T, ..., 1].
        zoneout: which units keep their state, booleans [T, ..., H] for each leaf of the state; or the
            fraction that they keep, a number from 0 to 1, broadcast.
        dropout: recurrent dropout: the factor of h_{t−1}, [T, ..., H].
        gaps: in place of ``valid`` where steps that belong may follow on others, boolean [T, ..., 1], true
            for those that belong. The loop's output is then h as it passes on: the next step needs it.
    """

    valid: Bool[Array, "time *batch 1"] | None = None
    reset: Bool[Array, "time *batch 1"] | None = None
    cut: Bool[Array, "time *batch 1"] | None = None
    zoneout: PyTree = None
    dropout: Float[Array, "time *batch h"] | None = None
    gaps: Bool[Array, "time *batch 1"] | None = None

    @property
    def taken(self) -> Bool[Array, "*axes"] | None:
        """Whether the state changes at the step; None if it does at every one."""
        return self.valid if self.gaps is None else self.gaps


NO_MASKS = StepMasks()


def state_before_step(masks: StepMasks, state: PyTree) -> PyTree:
    """The state that a step begins with: zeros after a reset, a constant after a cut."""
    state = _where(masks.reset, jnp.zeros_like, state)
    return _where(masks.cut, jax.lax.stop_gradient, state)


def tangent_before_step(masks: StepMasks, state_dot: PyTree) -> PyTree:
    """The tangent of `state_before_step`, which is its own transpose."""
    return _where(masks.cut, jnp.zeros_like, _where(masks.reset, jnp.zeros_like, state_dot))


def drop_recurrent(masks: StepMasks, state: PyTree) -> PyTree:
    """The state with recurrent dropout, the step's input; linear, and its own transpose."""
    return state if masks.dropout is None else state._replace(h=state.h * masks.dropout)


def state_after_step(masks: StepMasks, after: PyTree, before: PyTree) -> PyTree:
    """The state after a step, linear in both states: the step's result and the state before it."""
    if masks.zoneout is not None:
        after = jax.tree.map(_blended, masks.zoneout, before, after)
    taken = masks.taken
    if taken is None:
        return after
    return jax.tree.map(lambda a, b: jnp.where(taken, a, b), after, before)


def _blended(mask: Array, a: Array, b: Array) -> Array:
    return jnp.where(mask, a, b) if mask.dtype == bool else mask * a + (1 - mask) * b


def cotangent_through_step(masks: StepMasks, d_state: PyTree) -> PyTree:
    """The part of δs_t that passes through the step."""
    if masks.zoneout is None:
        return d_state
    return jax.tree.map(lambda k, d: _blended(k, jnp.zeros_like(d), d), masks.zoneout, d_state)


def cotangent_before_step(masks: StepMasks, d_before: PyTree, d_state: PyTree) -> PyTree:
    """δs'_{t−1} from the cotangent through the step and the part of δs_t that bypasses it."""
    if masks.zoneout is not None:
        passed = jax.tree.map(
            lambda k, d: _blended(k, d, jnp.zeros_like(d)), masks.zoneout, d_state
        )
        d_before = jax.tree.map(jnp.add, d_before, passed)
    taken = masks.taken
    if taken is None:
        return d_before
    return jax.tree.map(lambda a, b: jnp.where(taken, a, b), d_before, d_state)


def zero_padding(masks: StepMasks, values: PyTree) -> PyTree:
    """A step's values, with zeros where the step is not part of the sequence."""
    return _where(_not(masks.taken), jnp.zeros_like, values)


def output_of_step(masks: StepMasks, h: PyTree) -> PyTree:
    """What the loop gives out at a step, linear in h and its own transpose: zeros past a sequence's end."""
    return _where(_not(masks.valid), jnp.zeros_like, h)


def _not(mask: Array | None) -> Array | None:
    return None if mask is None else ~mask


def _where(mask: Array | None, function: Callable[[Array], Array], tree: PyTree) -> PyTree:
    if mask is None:
        return tree
    return jax.tree.map(lambda a: jnp.where(mask, function(a), a), tree)


def checked_sequences(sequences: Sequences, xs: Array) -> Sequences:
    """Check `Sequences`; return them with lengths as int32 and ``reverse`` as a bool.

    Raises:
        TypeError: anything but `Sequences`, or lengths that are not whole numbers.
        ShapeError, ValueError: lengths or a mask that do not fit ``xs``, or both; a ``reverse`` that is not
            True or False; an unknown ``outside``.
    """
    require_type("sequences", sequences, Sequences)
    require_bool("reverse", sequences.reverse)
    require_one_of("outside", sequences.outside, OUTSIDE)
    lengths, mask = sequences.lengths, sequences.mask
    if lengths is not None and mask is not None:
        raise ValueError("Option mismatch: expected lengths or a mask, got both.")
    return sequences._replace(
        lengths=None if lengths is None else checked_lengths(lengths, xs),
        reverse=bool(sequences.reverse),
        mask=None if mask is None else _checked_steps("mask", mask, xs),
    )


def checked_lengths(lengths: Any, xs: Array) -> Int[Array, "*batch"]:
    """Lengths as an int32 array.

    Raises:
        ShapeError: a shape other than that of the batch.
        TypeError: lengths that are not whole numbers.
        ValueError: concrete lengths that are not from 0 to T.
    """
    batch = jnp.shape(xs)[1:-1]
    # As it came: a cast to int32 would wrap large numbers.
    array = as_array("lengths", lengths)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"Type mismatch: expected lengths as whole numbers, got {array.dtype.name}."
        )
    if array.shape != batch:
        raise ShapeError(
            f"Shape mismatch: expected lengths {show_shape(batch)} beside xs "
            f"{show_shape(jnp.shape(xs))}, got {show_shape(array.shape)}."
        )
    if not isinstance(array, jax.core.Tracer) and array.size:
        # In NumPy: JAX would trace this where the caller is traced.
        known = np.asarray(array)
        lowest, highest = int(known.min()), int(known.max())
        if lowest < 0 or highest > xs.shape[0]:
            raise ValueError(
                f"Range mismatch: expected lengths from 0 to {xs.shape[0]}, got {lowest} to {highest}."
            )
    # Traced lengths cannot be refused; those beyond T count as T.
    return jnp.clip(jnp.asarray(array).astype(jnp.int32), 0, xs.shape[0])


def _checked_steps(name: str, steps: Any, xs: Array) -> Bool[Array, "time *batch"]:
    """Resets or a mask as a boolean array.

    Raises:
        ShapeError: a shape other than that of time and batch.
        TypeError: values that are not boolean.
    """
    shape = jnp.shape(xs)[:-1]
    array = as_array(name, steps)
    if array.dtype != bool:
        raise TypeError(f"Type mismatch: expected {name} as booleans, got {array.dtype.name}.")
    if array.shape != shape:
        raise ShapeError(
            f"Shape mismatch: expected {name} {show_shape(shape)} beside xs "
            f"{show_shape(jnp.shape(xs))}, got {show_shape(array.shape)}."
        )
    return jnp.asarray(array)


def step_masks(
    xs: Array,
    lengths: Int[Array, "*batch"] | None,
    resets: Any = None,
    truncate: int | None = None,
    *,
    reverse: bool = False,
    mask: Bool[Array, "time *batch"] | None = None,
    outside: str = "zeros",
) -> StepMasks:
    """The masks of a loop over ``xs``.

    With ``reverse`` and lengths, they belong to the loop over the result of `reverse_sequences`.

    Raises:
        ShapeError, TypeError, ValueError: resets or truncate that do not fit.
    """
    time = xs.shape[0]
    steps = jnp.arange(time, dtype=jnp.int32).reshape(time, *[1] * (xs.ndim - 1))
    valid = None if lengths is None else steps < lengths[None, ..., None]
    valid = valid if mask is None else mask[..., None]
    reset = cut = None
    if resets is not None:
        reset = _checked_steps("resets", resets, xs)[..., None]
        # A reset in the padding begins no sequence.
        reset = reset if valid is None else reset & valid
        if reverse:  # before the last step of the sequence before
            reset = jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])])
        if reverse and lengths is not None:
            reset = reverse_sequences(lengths, reset)
    if truncate is not None:
        require_positive_int("truncate", truncate)
        done = time - 1 - steps if reverse and lengths is None else steps
        cut = (done % truncate == 0) & (done > 0)
        cut = cut if valid is None else cut & valid
    # Zeros past the end are made in the loop, where h has no further use.
    if mask is None and outside == "zeros":
        return StepMasks(valid, reset, cut)
    return StepMasks(None, reset, cut, gaps=valid)


class Prepared(NamedTuple):
    """A sequence as the loop reads it, and what happens to the state between its steps.

    Attributes:
        xs: the inputs, zeros in the padding; each sequence turned round where they run backwards by lengths.
        state0: the starting state.
        masks: of the loop over ``xs``.
        lengths: int32 [B]; None where every sequence has T steps.
        reverse: whether the loop runs from the last step to the first.
        turned: whether ``xs`` was turned round, and the outputs have to be.
        zeros_outside: whether the outputs are zero outside of the mask.
    """

    xs: Any
    state0: Any
    masks: StepMasks
    lengths: Any
    reverse: bool
    turned: bool
    zeros_outside: bool


def prepare(cell: Cell, xs: Array, state0: PyTree, sequences: Sequences, noise: Noise) -> Prepared:
    """What the loop of a cell runs over; `in_order` brings its outputs back.

    Raises:
        ShapeError, TypeError, ValueError: lengths, resets, truncation or rates that do not fit.
    """
    lengths, resets, truncate, reverse, mask, outside = checked_sequences(sequences, xs)
    zoneout, dropout = noise_masks(cell, noise, state0, xs.shape[0])
    masks = step_masks(xs, lengths, resets, truncate, reverse=reverse, mask=mask, outside=outside)
    masks = masks._replace(zoneout=zoneout, dropout=dropout)
    state0 = vary_over(varying_axes(masks), state0)
    xs = zero_padding(masks, xs)
    zeros = outside == "zeros"
    if reverse and lengths is not None:
        # Backwards means: each sequence from its own last step to its first, forward in the loop.
        return Prepared(reverse_sequences(lengths, xs), state0, masks, lengths, False, True, zeros)
    return Prepared(xs, state0, masks, lengths, reverse, False, zeros)


def in_order(prepared: Prepared, hs: Array) -> Array:
    """The outputs of the loop, aligned with the inputs."""
    if prepared.zeros_outside and prepared.masks.gaps is not None:
        hs = zero_padding(prepared.masks, hs)
    return reverse_sequences(prepared.lengths, hs) if prepared.turned else hs


def noise_masks(cell: Cell, noise: Noise, state0: PyTree, time: int) -> tuple[Any, Array | None]:
    """The masks of zoneout and recurrent dropout: ``StepMasks.zoneout`` and ``StepMasks.dropout``.

    Raises:
        TypeError: anything but `Noise`, not a key, or rates for a state of another cell.
        ValueError: rates outside of [0, 1), or recurrent dropout for a GRU.
    """
    require_type("noise", noise, Noise)
    rates = zoneout_rates(noise.zoneout, state0)
    require_recurrent_dropout(cell, noise.recurrent_dropout)
    key_zoneout = key_dropout = None
    if noise.key is not None:
        require_key(noise.key)
        key_zoneout, key_dropout = jax.random.split(noise.key)
    zoneout = zoneout_masks(key_zoneout, rates, state0, time) if any(rates) else None
    if key_dropout is None or not noise.recurrent_dropout:
        return zoneout, None
    return zoneout, recurrent_factor(key_dropout, noise.recurrent_dropout, state0.h, time)


def require_recurrent_dropout(cell: Cell, rate: Any) -> None:
    """Refuse a wrong rate, and recurrent dropout for a cell whose h_{t−1} does not act through W_h alone.

    Raises:
        ValueError: naming the rate or the cell.
    """
    require_rate("recurrent_dropout", rate)
    if rate and cell.kind == "gru":
        raise ValueError(
            "Option mismatch: expected recurrent_dropout with a cell in which h_{t-1} acts through W_h "
            f"alone (rnn, lstm), got {cell}. Use zoneout, which works with any."
        )


def reverse_sequences(lengths: Int[Array, "*batch"], sequence: Array) -> Array:
    """Each sequence from its last valid step to its first, the padding unchanged; its own inverse."""
    time = sequence.shape[0]
    steps = jnp.arange(time, dtype=lengths.dtype).reshape(time, *[1] * lengths.ndim)
    steps = jnp.where(steps < lengths[None], lengths[None] - 1 - steps, steps)
    steps = steps.reshape(*steps.shape, *[1] * (sequence.ndim - steps.ndim))
    return jnp.take_along_axis(sequence, steps, axis=0)
