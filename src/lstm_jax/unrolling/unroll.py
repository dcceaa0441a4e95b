"""A cell over time: s_t, out_t = step(params, s_{t−1}, x_t) for t = 1 … T, by `jax.lax.scan`.

Axes: xs[T, D] or xs[T, B, D], time first; outputs hs[T, H] or hs[T, B, H].
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.backends.choice import auto_takes_kernel
from lstm_jax.backends.cudnn.conditions import mark_unknown, require_cudnn
from lstm_jax.backends.cudnn.kernel_call import Layers
from lstm_jax.backends.cudnn.kernel_derivatives import unroll_by_cudnn
from lstm_jax.cells.cell import Cell, Step, check_cell_arguments
from lstm_jax.dropout import (
    recurrent_factor,
    require_recurrent_dropout,
    zoneout_marks,
    zoneout_rates,
)
from lstm_jax.gradients.checkpointing import segment_length
from lstm_jax.gradients.custom_derivative import unroll_by_hand
from lstm_jax.jax_extensions.mesh_axes import vary_over, varying_axes
from lstm_jax.time_loop.scan import Loop, loop_here, scan
from lstm_jax.time_loop.step_masks import (
    Marks,
    checked_lengths,
    dimmed,
    entered,
    left,
    marks_of,
    shown,
    turned,
)
from lstm_jax.validation import ShapeError, require_bool, require_key, require_one_of

GRADIENTS = ("auto", "bptt", "autodiff", "cudnn")


def unroll(
    cell: Cell | Step,
    params: PyTree,
    xs: Float[Array, "time *batch d"] | PyTree,
    state0: PyTree | None = None,
    *,
    reverse: bool = False,
    unroll: int | str = "auto",
    gradient: str = "auto",
    segments: int | str | None = "auto",
    lengths: Any = None,
    resets: Any = None,
    truncate: int | None = None,
    zoneout: Any = 0.0,
    recurrent_dropout: float = 0.0,
    key: Array | None = None,
) -> tuple[PyTree, PyTree]:
    """Run a cell over a sequence: ``(final state, outputs)``, the order of `jax.lax.scan`.

    Works under `jit`, `vmap`, `grad`, `jvp` and their compositions, to any order, whichever gradient is
    chosen. More batch axes than one: `jax.vmap`.

    Args:
        cell: from `lstm`, `gru` or `rnn`; or any ``step(params, state, x) -> (state, out)``.
        params: of the cell; their dtype is the dtype of the computation.
        xs: [T, D] or [T, B, D]; for a plain step, any pytree with time as its leading axis.
        state0: the starting state, leaves [H] or [B, H]; zeros if None (a plain step needs one).
        reverse: run from the last step to the first; outputs stay aligned with ``xs``, and the final
            state is the one after the first step.
        unroll: steps per iteration of the loop; more are faster to run and slower to compile. ``"auto"``
            takes one on a CPU, and some eight on a GPU (`lstm_jax.time_loop.scan`).
        gradient: ``"bptt"`` differentiates by the hand-derived rule (`lstm_jax.bptt`), ``"autodiff"``
            differentiates the plain scan; ``"auto"`` takes the rule where the cell brings one.
            ``"cudnn"`` runs NVIDIA's kernel: on a CUDA device, the standard LSTM in float32, with
            ``lengths`` and ``reverse`` but no other option, its products in the precision of
            `jax.default_matmul_precision`; under `vmap` one after the other. ``"auto"`` takes it too where it
            fits, no ``unroll`` or ``segments`` is given, and a test on a small LSTM, once in a process,
            agreed with the rule (`lstm_jax.backends.choice`). Under `vmap` and in a program for export
            ``"auto"`` then runs the loop; a gradient that is mapped or exported runs forward twice, which
            with ``"bptt"`` it need not.
        segments: how the hand-derived rule spends memory. None keeps the gates of every step for the way
            back. A number keeps the state at the boundaries of so many segments and runs each segment
            forward again: some √T of them take the least memory, and a third more time. ``"auto"`` does
            that where the gates would take more than half a GiB. The gradient is the same. A cell
            without a rule has no use for it.
        lengths: how many steps of each sequence are its own, [B], or a number without a batch axis;
            all T if None. Past them the state holds, the output is zero, and what ``xs`` holds does not
            matter, NaN included; backwards, a sequence begins with its last own step.
        resets: before which steps the state is zero again, [T, B] or [T], because another sequence
            begins there; backwards, the state is zero again before the last step of the one before.
        truncate: cut the gradient every so many steps, counted as the loop goes (truncated
            back-propagation through time); the state itself passes. Never if None.
        zoneout: rate at which each unit keeps its state instead of taking a step (Krueger et al. 2017): a
            number, or a state of numbers, ``LSTMState(h=0.05, c=0.5)``. Without a key, the expectation.
        recurrent_dropout: rate at which units of h_{t−1} are dropped before W_h, the others scaled up, one
            mask for all steps (Gal & Ghahramani 2016). Without a key, nothing is dropped.
        key: a random key for the two, in training; None at evaluation.

    Returns:
        The final state and the outputs h_1 … h_T, [T, H] or [T, B, H].

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell or each other.
        ValueError: an unknown ``gradient`` or ``unroll``, ``"bptt"`` or ``"cudnn"`` for a plain step,
            ``"cudnn"`` for what its kernel does not know or where there is none, ``segments`` that is no
            positive integer, or a number of them where autodiff differentiates; ``lengths`` beyond T or
            ``truncate`` below 1; rates outside of [0, 1); recurrent dropout for a GRU, whose h_{t−1} acts
            past W_h as well; any of these options for a plain step.

    Example:
        >>> import jax, jax.numpy as jnp, lstm_jax
        >>> cell = lstm_jax.lstm(input_size=3, hidden_size=4)
        >>> params = cell.init(jax.random.key(0))
        >>> state, hs = lstm_jax.unroll(cell, params, jnp.ones((10, 2, 3)))
        >>> hs.shape, state.c.shape
        ((10, 2, 4), (2, 4))
    """
    require_one_of("gradient", gradient, GRADIENTS)
    require_bool("reverse", reverse)
    loop = loop_here(reverse, unroll)
    if not isinstance(cell, Cell) and not callable(cell):
        raise TypeError(
            "Cell mismatch: expected a cell or a step function, got a "
            f"{type(cell).__name__}; a stack runs by unroll_stack."
        )
    by_rule = isinstance(cell, Cell) and cell.rule is not None and gradient in ("auto", "bptt")
    if not by_rule:
        require_no_segments(segments)
    if not isinstance(cell, Cell):
        if gradient in ("bptt", "cudnn"):
            raise ValueError(
                'A plain step has neither a hand-derived rule nor a kernel: expected gradient="autodiff" or '
                f'"auto", got "{gradient}".'
            )
        if any(
            o is not None for o in (lengths, resets, truncate, zoneout or recurrent_dropout or key)
        ):
            raise ValueError(
                "Option mismatch: expected lengths, resets, truncate and noise with a cell, got a plain "
                "step, whose state nobody here knows how to hold."
            )
        return _scan(cell, loop, params, xs, state0)
    state0 = check_cell_arguments(cell, params, xs, state0)
    lengths = None if lengths is None else checked_lengths(lengths, xs)
    marks = marks_of(xs, lengths, resets, truncate, reverse=reverse)
    held, factor = _noise(cell, zoneout, recurrent_dropout, key, state0, len(xs))
    marks = marks._replace(held=held, factor=factor)
    state0 = vary_over(varying_axes(marks), state0)
    xs = shown(marks, xs)
    turn = reverse and lengths is not None
    if turn:
        # From its last own step to its first, each sequence runs forward in time.
        xs, loop = turned(lengths, xs), loop.turned
    layers = ((cell,),)
    loop_asked = (unroll, segments) != ("auto", "auto")
    if gradient == "cudnn":
        require_cudnn(layers, xs.dtype, marks)
        state, hs = _by_cudnn(layers, loop.reverse, params, xs, state0, lengths, or_loop=False)
    elif (
        gradient == "auto"
        and not (loop_asked or mark_unknown(marks))
        and auto_takes_kernel(layers, xs)
    ):
        state, hs = _by_cudnn(layers, loop.reverse, params, xs, state0, lengths, or_loop=True)
    elif gradient == "autodiff" or (gradient == "auto" and cell.rule is None):
        state, hs = _scan_cell(cell, loop, params, xs, state0, marks)
    else:
        steps = segment_length(segments, cell, params, xs, state0)
        state, hs = unroll_by_hand(cell, loop, steps, params, xs, state0, marks)
    return state, turned(lengths, hs) if turn else hs


def require_no_segments(segments: int | str | None) -> None:
    """Refuse a number of segments where no hand-derived rule spends memory by it.

    Raises:
        ValueError: with what was expected and what came.
    """
    if segments not in ("auto", None):
        raise ValueError(
            "Segments need the hand-derived rule: expected a cell that brings one and gradient "
            f'"auto" or "bptt", or segments=None, got segments={segments!r}.'
        )


def _by_cudnn(
    layers: Layers,
    reverse: bool,
    params: PyTree,
    xs: Array,
    state0: PyTree,
    lengths: Any,
    *,
    or_loop: bool,
) -> tuple[PyTree, Array]:
    xs = xs[::-1] if reverse else xs
    (((state,),), hs) = unroll_by_cudnn(
        layers, ((params,),), xs, ((state0,),), lengths, or_loop=or_loop
    )
    return state, hs[::-1] if reverse else hs


def _noise(
    cell: Cell, zoneout: Any, rate: float, key: Array | None, state0: PyTree, time: int
) -> tuple[PyTree | None, Array | None]:
    """The marks of zoneout and of recurrent dropout, None where there is none."""
    rates = zoneout_rates(zoneout, state0)
    require_recurrent_dropout(cell, rate)
    key_held = key_factor = None
    if key is not None:
        require_key(key)
        key_held, key_factor = jax.random.split(key)
    held = zoneout_marks(key_held, rates, state0, time) if any(rates) else None
    if key_factor is None or not rate:
        return held, None
    return held, recurrent_factor(key_factor, rate, state0.h, time)


@partial(jax.jit, static_argnums=(0, 1))
def _scan_cell(
    cell: Cell, loop: Loop, params: PyTree, xs: Array, state0: PyTree, marks: Marks
) -> tuple[PyTree, Array]:
    # Under jit, and with the cell static, so that a call outside of jit compiles once and not each time.
    def step(params: PyTree, state: PyTree, at: tuple[Array, Marks]) -> tuple[PyTree, Array]:
        x, marks = at
        before = entered(marks, state)
        after, out = cell.step(params, dimmed(marks, before), x)
        after = left(marks, after, before)
        return after, shown(marks, out if marks.held is None else after.h)

    return _scan(step, loop, params, (xs, marks), state0)


def _scan(
    step: Step, loop: Loop, params: PyTree, xs: PyTree, state0: PyTree | None
) -> tuple[PyTree, PyTree]:
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(xs)}
    if state0 is None:
        raise TypeError("State mismatch: expected a starting state for a plain step, got None.")
    if len(lengths) != 1 or lengths == {()} or lengths == {(0,)}:
        raise ShapeError(
            "Shape mismatch: expected xs with one leading time axis of at least one step, got "
            f"leading axes {sorted(lengths)}."
        )
    return scan(loop, lambda state, x: step(params, state, x), state0, xs)
