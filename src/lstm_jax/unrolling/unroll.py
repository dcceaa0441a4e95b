"""`unroll`: run a cell over a sequence, s_t, out_t = step(params, s_{t−1}, x_t) for t = 1 … T.

Axes: xs[T, D] or xs[T, B, D], time first; outputs hs[T, H] or hs[T, B, H].
"""

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.backends.choice import check_choice, choose
from lstm_jax.backends.cpu_kernel.conditions import covers
from lstm_jax.backends.cpu_kernel.kernel_derivatives import unroll_by_cpu_kernel
from lstm_jax.backends.cudnn.kernel_derivatives import unroll_by_cudnn
from lstm_jax.backends.loop import Loop, require_no_segments, run_loop
from lstm_jax.cells.cell import Cell, Step, check_cell_arguments, require_stable_state
from lstm_jax.time_loop.scan import scan, scan_settings
from lstm_jax.time_loop.step_masks import (
    ALL_STEPS,
    NO_NOISE,
    Noise,
    Prepared,
    Sequences,
    in_order,
    prepare,
)
from lstm_jax.validation import ShapeError, require_bool, require_type


def unroll(
    cell: Cell | Step,
    params: PyTree,
    xs: Float[Array, "time *batch d"] | PyTree,
    state0: PyTree | None = None,
    *,
    sequences: Sequences = ALL_STEPS,
    noise: Noise = NO_NOISE,
    gradient: str = "auto",
    backend: str | Loop = "auto",
) -> tuple[PyTree, PyTree]:
    """Run a cell over a sequence: ``(final state, outputs)``, the order of `jax.lax.scan`.

    Works under `jit`, `vmap`, `grad`, `jvp` and their compositions, to any order, whichever gradient is
    chosen. More batch axes than one: `jax.vmap`.

    Args:
        cell: from `lstm`, `gru` or `rnn`; or any ``step(params, state, x) -> (state, out)``.
        params: of the cell; their dtype is the dtype of the computation.
        xs: [T, D] or [T, B, D]; for a plain step, any pytree with time as its leading axis.
        state0: the starting state, leaves [H] or [B, H]; zeros if None (a plain step needs one).
        sequences: `Sequences`: lengths, resets, truncation, and whether the loop runs backwards. A plain step
            takes ``reverse`` alone.
        noise: `Noise`: zoneout and recurrent dropout, with a key in training.
        gradient: which derivative. ``"bptt"`` is the hand-derived rule (`lstm_jax.bptt`), ``"autodiff"``
            differentiates the plain scan; ``"auto"`` takes the rule where the cell has one.
        backend: ``"auto"`` is the compiled kernel on a CPU, and the loop in XLA elsewhere. ``"loop"`` is the
            loop, a `Loop` the same with other settings. ``"cpu_kernel"`` is the kernel: a standard LSTM, a
            GRU of either form or a vanilla cell in one call; what it does not cover
            (`lstm_jax.backends.cpu_kernel.conditions`) is run by the loop.
            ``"cudnn"`` is NVIDIA's kernel: on a CUDA device, the standard LSTM in float32, with no masks but
            lengths and ``reverse``, its products in the precision of `jax.default_matmul_precision`; under
            `vmap` one by one.

    Returns:
        The final state and the outputs h_1 … h_T, [T, H] or [T, B, H].

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the cell or each other.
        ValueError: an unknown ``gradient`` or ``backend``; ``"bptt"`` for a cell or step without a rule;
            ``"cudnn"`` for a network that the kernel cannot run, or without a kernel; settings of the loop
            that are not positive integers, or segments with autodiff; lengths beyond T or ``truncate`` below
            1; rates outside of [0, 1); recurrent dropout for a GRU, whose h_{t−1} does not act through W_h
            alone; masks or noise for a plain step.

    Example:
        >>> import jax, jax.numpy as jnp, lstm_jax
        >>> cell = lstm_jax.lstm(input_size=3, hidden_size=4)
        >>> params = cell.init(jax.random.key(0))
        >>> state, hs = lstm_jax.unroll(cell, params, jnp.ones((10, 2, 3)))
        >>> hs.shape, state.c.shape
        ((10, 2, 4), (2, 4))
        >>> padded = lstm_jax.Sequences(lengths=jnp.array([10, 7]))
        >>> _, hs = lstm_jax.unroll(cell, params, jnp.ones((10, 2, 3)), sequences=padded)
        >>> float(abs(hs[7:, 1]).max())
        0.0
    """
    check_choice(gradient, backend)
    if not isinstance(cell, Cell):
        return _unroll_step(cell, params, xs, state0, sequences, noise, gradient, backend)
    state0 = check_cell_arguments(cell, params, xs, state0)
    prepared = prepare(cell, xs, state0, sequences, noise)
    loop = choose(backend, ((cell,),), prepared.xs.dtype, prepared.masks)
    by_hand = gradient == "bptt" or (gradient == "auto" and cell.rule is not None)
    if loop is None:
        state, hs = _run_kernel(cell, params, prepared)
    elif (
        by_hand
        and backend in ("auto", "cpu_kernel")
        and covers(cell, prepared, whenever=backend == "cpu_kernel")
    ):
        state, hs = unroll_by_cpu_kernel(cell, params, prepared)
    else:
        state, hs = run_loop(cell, loop, by_hand, params, prepared)
    return state, in_order(prepared, hs)


def _run_kernel(cell: Cell, params: PyTree, prepared: Prepared) -> tuple[PyTree, Array]:
    """One cell by the kernel, which knows no direction: the sequence is turned round for it."""
    step = -1 if prepared.reverse else 1
    (((state,),), hs) = unroll_by_cudnn(
        ((cell,),),
        ((params,),),
        prepared.xs[::step],
        ((prepared.state0,),),
        prepared.lengths,
    )
    return state, hs[::step]


def _unroll_step(
    step: Step,
    params: PyTree,
    xs: PyTree,
    state0: PyTree | None,
    sequences: Sequences,
    noise: Noise,
    gradient: str,
    backend: str | Loop,
) -> tuple[PyTree, PyTree]:
    """A plain step over time, differentiated by autodiff."""
    if not callable(step):
        raise TypeError(
            f"Cell mismatch: expected a cell or a step function, got a {type(step).__name__}. Run a stack by "
            "unroll_stack."
        )
    if gradient == "bptt" or backend == "cudnn":
        got = 'gradient="bptt"' if gradient == "bptt" else 'backend="cudnn"'
        raise ValueError(
            "A plain step has no hand-derived rule and no kernel: expected gradient and backend as "
            f'"auto", got {got}.'
        )
    require_type("sequences", sequences, Sequences)
    require_type("noise", noise, Noise)
    require_bool("reverse", sequences.reverse)
    masks = (sequences.lengths, sequences.resets, sequences.truncate, sequences.mask, noise.key)
    if any(one is not None for one in masks) or noise[:2] != NO_NOISE[:2]:
        raise ValueError(
            "Option mismatch: expected lengths, resets, truncate, mask and noise with a cell, got them with "
            "a plain step. Write them into the step."
        )
    if state0 is None:
        raise TypeError("State mismatch: expected a starting state for a plain step, got None.")
    times = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(xs)}
    if len(times) != 1 or times == {()} or times == {(0,)}:
        raise ShapeError(
            "Shape mismatch: expected xs with one leading time axis of at least one step, got "
            f"leading axes {sorted(times)}."
        )
    require_stable_state(step, params, state0, jax.tree.map(lambda leaf: leaf[0], xs))
    loop = backend if isinstance(backend, Loop) else Loop()
    require_no_segments(loop)
    settings = scan_settings(bool(sequences.reverse), loop.unroll)
    return scan(settings, lambda state, x: step(params, state, x), state0, xs)
