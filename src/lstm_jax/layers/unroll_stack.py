r"""`unroll_stack`: run a stack over a sequence, layer by layer, or by one kernel for all layers.

    y⁰ = xs;   yˡ = layer_l(d(yˡ⁻¹)) [+ yˡ⁻¹];   ys = yᴸ W_y + b_y              (`lstm_jax.layers.stack`)

Each layer is one `lstm_jax.unroll` and has its hand-derived gradient.

Axes: xs[T, D] or xs[T, B, D]; ys[T, ..., O].
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.backends.choice import check_choice, choose
from lstm_jax.backends.cpu_kernel.conditions import leaves_cores_idle
from lstm_jax.backends.cudnn.kernel_call import Layers
from lstm_jax.backends.cudnn.kernel_derivatives import unroll_by_cudnn
from lstm_jax.backends.loop import Loop
from lstm_jax.cells.cell import Cell, parameter_shapes, state_shapes
from lstm_jax.dropout import dropout as drop
from lstm_jax.dropout import zoneout_rates
from lstm_jax.layers.stack import (
    Backward,
    Bidirectional,
    Both,
    Layer,
    Stack,
    StackParams,
    cells_of,
    projected,
    starting_states,
)
from lstm_jax.time_loop.step_masks import (
    ALL_STEPS,
    NO_NOISE,
    Noise,
    Sequences,
    checked_sequences,
    prepare,
    step_masks,
    zero_padding,
)
from lstm_jax.unrolling.unroll import unroll as unroll_cell
from lstm_jax.validation import (
    ShapeError,
    require_array,
    require_arrays,
    require_dtype,
    require_key,
    require_same_structure,
    show_shape,
)

MASKS = ("lengths", "resets", "truncate", "mask")


def unroll_stack(
    stack: Stack,
    params: StackParams,
    xs: Float[Array, "time *batch d"],
    state0: tuple[Any, ...] | None = None,
    *,
    sequences: Sequences = ALL_STEPS,
    key: Array | None = None,
    gradient: str = "auto",
    backend: str | Loop = "auto",
) -> tuple[tuple[Any, ...], Float[Array, "time *batch out"]]:
    """Run a stack over a sequence: ``(final states, outputs)``.

    Args:
        stack: from `stack`.
        params: of the stack.
        xs: [T, D] or [T, B, D].
        state0: of each layer, leaves [H] or [B, H]; the learned starting state, or zeros, if None.
        sequences: `Sequences`, as for `unroll`, in each layer; without ``reverse``, because each layer has
            its direction. Past a sequence's length the output is zero, the output projection's bias
            included.
        key: a random key for dropout and zoneout, in training; None at evaluation.
        gradient: as for `unroll`.
        backend: as for `unroll`. NVIDIA's kernel runs all layers at once where they are alike and have no
            dropout or sum between them; else it runs each alone.

    Returns:
        The final state of each layer, for a bidirectional one `Both`, whose backward state is the one after
        the first step; and ys, [T, O] or [T, B, O].

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the stack or each other.
        ValueError: as for `unroll`; resets with a learned starting state; ``reverse``.

    Example:
        >>> import jax, jax.numpy as jnp, lstm_jax
        >>> net = lstm_jax.stack(lstm_jax.lstm(3, 4), lstm_jax.lstm(4, 4), dropout=0.5)
        >>> params = net.init(jax.random.key(0))
        >>> padded = lstm_jax.Sequences(lengths=jnp.array([10, 7]))
        >>> states, ys = lstm_jax.unroll_stack(
        ...     net, params, jnp.ones((10, 2, 3)), sequences=padded, key=jax.random.key(1)
        ... )
        >>> ys.shape, float(abs(ys[7:, 1]).max())
        ((10, 2, 4), 0.0)
    """
    check_choice(gradient, backend)
    state0 = check_stack_arguments(stack, params, xs, state0)
    sequences = checked_sequences(sequences, xs)
    _check_options(stack, sequences, key)
    valid = step_masks(xs, sequences.lengths, mask=sequences.mask, outside=sequences.outside)
    ys = zero_padding(valid, xs)
    if _kernel_could_run(stack, sequences, key):
        layers = _directions(stack)
        if choose(backend, layers, ys.dtype, valid) is None:
            ends, ys = _run_kernel(layers, params, ys, state0, sequences.lengths)
            return ends, zero_padding(valid, projected(params, ys))
    keys = [None] * len(stack.layers) if key is None else jax.random.split(key, len(stack.layers))
    states = []
    for number, layer in enumerate(stack.layers):
        layer_params, start, key_layer = params.layers[number], state0[number], keys[number]
        below = ys
        if key_layer is not None:
            key_drop, key_layer = jax.random.split(key_layer)
            if number:
                ys = drop(key_drop, stack.dropout, ys, variational=stack.variational)
        noise = Noise(stack.zoneout, stack.recurrent_dropout, key_layer)
        run = partial(unroll_cell, gradient=gradient, backend=backend)
        by_kernel = backend in ("auto", "cpu_kernel") and gradient != "autodiff"
        after, ys = _unroll_layer(run, by_kernel, layer, layer_params, ys, start, sequences, noise)
        states.append(after)
        if stack.residual and number:
            ys = ys + below
    ys = projected(params, ys)
    return tuple(states), zero_padding(valid, ys) if sequences.outside == "zeros" else ys


def _check_options(stack: Stack, sequences: Sequences, key: Any) -> None:
    if key is not None:
        require_key(key)
    if sequences.reverse:
        raise ValueError(
            "Option mismatch: expected sequences without reverse, got reverse=True. Make a layer that runs "
            "backwards by backward(cell)."
        )
    if stack.learned_state and sequences.resets is not None:
        raise ValueError(
            "Option mismatch: expected resets with a starting state of zeros, got a stack with learned_state."
        )


def _kernel_could_run(stack: Stack, sequences: Sequences, key: Array | None) -> bool:
    """Whether one kernel call can run all layers: they are alike, with no noise or sum between."""
    between = key is not None and stack.dropout and len(stack.layers) > 1
    zoneout = any(
        any(zoneout_rates(stack.zoneout, state_shapes(cell))) for cell in cells_of(stack.layers)
    )
    within = (
        zoneout
        or stack.recurrent_dropout
        or sequences.resets is not None
        or sequences.truncate is not None
    )
    one_way = any(isinstance(layer, Backward) for layer in stack.layers)
    layers = _directions(stack)
    alike = len({(len(layer), *(cell.hidden_size for cell in layer)) for layer in layers}) == 1
    return alike and not (between or within or stack.residual or one_way)


def _directions(stack: Stack) -> Layers:
    return tuple((layer,) if isinstance(layer, Cell) else tuple(layer) for layer in stack.layers)


def _run_kernel(
    layers: Layers,
    params: StackParams,
    xs: Array,
    state0: Any,
    lengths: Any,
) -> tuple[tuple[Any, ...], Array]:
    if not xs.shape[0]:
        raise ShapeError("Shape mismatch: expected xs of at least one step, got none.")

    def by_direction(values: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(
            (value,) if len(layer) == 1 else tuple(value)
            for layer, value in zip(layers, values, strict=True)
        )

    ends, ys = unroll_by_cudnn(
        layers, by_direction(params.layers), xs, by_direction(state0), lengths
    )
    return tuple(end[0] if len(end) == 1 else Both(*end) for end in ends), ys


def _unroll_layer(
    run: Callable[..., tuple[PyTree, Array]],
    by_kernel: bool,
    layer: Layer,
    params: PyTree,
    xs: Array,
    state0: PyTree,
    sequences: Sequences,
    noise: Noise,
) -> tuple[PyTree, Array]:
    backwards = sequences._replace(reverse=True)
    if isinstance(layer, Cell):
        return run(layer, params, xs, state0, sequences=sequences, noise=noise)
    if isinstance(layer, Backward):
        return run(layer.cell, params, xs, state0, sequences=backwards, noise=noise)
    if by_kernel and _both_at_once(layer, xs, state0, sequences, noise):
        return _unroll_both(run, layer, params, xs, state0)
    keys = (None, None) if noise.key is None else jax.random.split(noise.key)
    (forward, ys), (backward, zs) = (
        run(cell, cell_params, xs, start, sequences=order, noise=noise._replace(key=key))
        for cell, cell_params, start, order, key in zip(
            layer, params, state0, (sequences, backwards), keys, strict=True
        )
    )
    return Both(forward, backward), jnp.concatenate([ys, zs], axis=-1)


def _both_at_once(
    layer: Bidirectional, xs: Array, state0: Both, sequences: Sequences, noise: Noise
) -> bool:
    """Whether the two directions are two networks of one call: of few rows, each leaves a core idle."""
    whole = all(getattr(sequences, name) is None for name in MASKS)
    if not whole or layer.forward != layer.backward or noise[:2] != NO_NOISE[:2]:
        return False
    return leaves_cores_idle(
        layer.forward, prepare(layer.forward, xs, state0.forward, ALL_STEPS, NO_NOISE)
    )


def _unroll_both(
    run: Callable[..., tuple[PyTree, Array]],
    layer: Bidirectional,
    params: Both,
    xs: Array,
    state0: Both,
) -> tuple[PyTree, Array]:
    """Both directions side by side, the second over the sequence turned round."""

    def stacked(both: Both) -> PyTree:
        return jax.tree.map(lambda *pair: jnp.stack(pair), *both)

    states, (ys, zs) = jax.vmap(partial(run, layer.forward))(
        stacked(params), jnp.stack([xs, xs[::-1]]), stacked(state0)
    )
    forward, backward = (jax.tree.map(lambda leaf, n=n: leaf[n], states) for n in (0, 1))
    return Both(forward, backward), jnp.concatenate([ys, zs[::-1]], axis=-1)


def check_stack_arguments(
    stack: Stack, params: StackParams, xs: Any, state0: Any
) -> tuple[Any, ...]:
    """Refuse params, a sequence or starting states that do not fit the stack or each other.

    Returns:
        The starting states: the learned ones, or zeros, in place of None.

    Raises:
        ShapeError, DtypeError, TypeError: naming the expected and the actual value.
    """
    if not isinstance(stack, Stack):
        raise TypeError(f"Stack mismatch: expected a stack, got {type(stack).__name__}.")
    expected = parameter_shapes(stack)
    require_same_structure("stack params", params, expected)
    dtype = jnp.result_type(jax.tree.leaves(params)[0])
    require_arrays("params", params, expected, dtype)
    require_array("xs", xs)
    if jnp.ndim(xs) not in (2, 3) or xs.shape[-1] != stack.input_size:
        raise ShapeError(
            f"Shape mismatch: expected xs [T, {stack.input_size}] or [T, B, {stack.input_size}], got "
            f"{show_shape(jnp.shape(xs))}."
        )
    require_dtype("xs", xs, dtype)
    batch_size = xs.shape[1] if xs.ndim == 3 else None
    if state0 is not None:
        require_arrays("state0", state0, stack.initial_state(batch_size, dtype), dtype)
        return state0
    return starting_states(stack, params, batch_size, dtype)
